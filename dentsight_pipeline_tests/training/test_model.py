"""D-FINE from a recipe: sizes, starting weights, new heads, and the criterion in fp32."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from dentsight_pipeline.errors import ConfigurationError, IntegrityError
from dentsight_pipeline.training import model as models
from dentsight_pipeline.training import recipe as recipes
from dentsight_pipeline.training.criterion import Criterion
from dentsight_pipeline.training.detector import Preprocessing
from dentsight_pipeline.training.layers import supervised_layers
from dentsight_pipeline.training.recipe import Recipe

CONDITIONS = [f"condition {i}" for i in range(13)]
NEW_HEADS = ("class_embed", "enc_score_head", "denoising_class_embed")


@pytest.fixture
def saved(tmp_path: Path, smoke: Recipe) -> Path:
    """A saved model of five other classes."""
    torch.manual_seed(1)
    models.build(smoke, [f"object {i}" for i in range(5)]).save_pretrained(tmp_path / "weights")
    return tmp_path / "weights"


def targets() -> list[dict[str, torch.Tensor]]:
    """One box in the first image, none in the second."""
    return [
        {"class_labels": torch.tensor([3]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.3]])},
        {"class_labels": torch.empty(0, dtype=torch.int64), "boxes": torch.empty(0, 4)},
    ]


def test_the_smoke_model_has_the_size_it_is_documented_with(smoke: Recipe):
    """1.19 M parameters: the demo's minutes depend on it."""
    model = models.build(recipes.named("smoke"), CONDITIONS)

    assert models.count_parameters(model) == 1_185_983


@pytest.mark.parametrize(("size", "millions"), [("nano", 3.74), ("small", 10.24), ("medium", 19.49)])
def test_the_published_sizes_have_their_published_parameters(size: str, millions: float, smoke: Recipe):
    """A wrong width would refuse the published weights only on a machine that has them."""
    model = models.build(smoke.override({"architecture": size, "num_denoising": 100}), CONDITIONS)

    assert models.count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "millions"), [("large", 31.15), ("xlarge", 62.58)])
def test_the_large_sizes_have_their_published_parameters(size: str, millions: float, smoke: Recipe):
    """As above; the card's model is the large one (31.2 M)."""
    model = models.build(smoke.override({"architecture": size, "num_denoising": 100}), CONDITIONS)

    assert models.count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.01)


def test_an_old_transformers_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch, smoke: Recipe):
    """Before 5.18 the main loss matches denoising queries and the class head collapses: v1's very failure."""
    monkeypatch.setattr(metadata, "version", lambda _: "4.57.6")

    with pytest.raises(ConfigurationError, match=r"4\.57\.6 is installed.*denoising queries.*transformers>=5\.18"):
        models.build(smoke, CONDITIONS)


def test_another_class_count_makes_new_heads_and_keeps_everything_else_bit_for_bit(saved: Path, smoke: Recipe):
    """Fine-tuning from 80 COCO classes to 13 must lose the class heads only."""
    before = models.load(saved).state_dict()

    after = models.build(smoke, CONDITIONS, weights=saved).state_dict()

    changed = {name for name in after if before[name].shape != after[name].shape or (before[name] != after[name]).any()}
    assert changed
    assert all(any(part in NEW_HEADS for part in name.split(".")) for name in changed)


def test_new_heads_on_loaded_weights_start_at_the_prior(saved: Path, smoke: Recipe):
    """transformers initialises mismatched heads by its own rule; a head that starts elsewhere is not the recipe's."""
    model = models.build(smoke.override({"class_prior": "0.01"}), CONDITIONS, weights=saved)

    heads = [*(model.model.decoder.class_embed or []), model.model.enc_score_head]
    assert len(heads) == 4
    for head in heads:
        torch.testing.assert_close(head.bias.sigmoid(), torch.full((13,), 0.01), rtol=1e-4, atol=0)
        assert head.weight.std() > 0.01


def test_the_same_classes_keep_their_heads(saved: Path, smoke: Recipe):
    """Going on from one's own checkpoint is no new start."""
    before = models.load(saved).state_dict()

    after = models.build(smoke, [f"object {i}" for i in range(5)], weights=saved).state_dict()

    assert all(torch.equal(before[name], after[name]) for name in before)


def test_other_classes_of_the_same_number_do_not_inherit_heads(saved: Path, smoke: Recipe):
    """Five other findings with the head of five old ones would start from wrong certainties."""
    before = models.load(saved).state_dict()

    after = models.build(smoke, ["a", "b", "c", "d", "e"], weights=saved).state_dict()

    changed = {name for name in after if (before[name] != after[name]).any()}
    assert {part for name in changed for part in name.split(".") if part in NEW_HEADS} == set(NEW_HEADS)
    assert all(any(part in NEW_HEADS for part in name.split(".")) for name in changed)


def test_weights_of_another_size_are_refused_with_the_size_they_have(saved: Path, smoke: Recipe):
    """Loading them would leave most of the network random, with a warning that nobody reads."""
    with pytest.raises(ConfigurationError, match="are a D-FINE of size tiny, the recipe says 'nano'"):
        models.build(smoke.override({"architecture": "nano"}), CONDITIONS, weights=saved)


def test_missing_weights_are_refused_before_training(tmp_path: Path, smoke: Recipe):
    """Random weights instead would cost a training to notice."""
    with pytest.raises(ConfigurationError, match=r"cannot be loaded.*weights=none with freeze_batch_norm=none"):
        models.build(smoke, CONDITIONS, weights=tmp_path / "nowhere")


def test_weights_that_are_cut_off_or_were_left_out_are_refused(saved: Path, smoke: Recipe):
    """What a broken download leaves; `heads` and a training ended with the traceback of whoever reads the file."""
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ConfigurationError, match=r"cannot be loaded: .*header"):
        models.load(saved)
    with pytest.raises(ConfigurationError, match=r"cannot be loaded: .*header"):
        models.build(smoke, CONDITIONS, weights=saved)

    weights.unlink()

    with pytest.raises(ConfigurationError, match=r"cannot be loaded: .*no file named model.safetensors"):
        models.load(saved)


def test_weights_of_another_kind_of_model_are_refused(tmp_path: Path, smoke: Recipe):
    """An RT-DETR folder is no D-FINE."""
    transformers.RTDetrConfig().save_pretrained(tmp_path)

    with pytest.raises(ConfigurationError, match="of type 'rt_detr', this trainer needs 'd_fine'"):
        models.build(smoke, CONDITIONS, weights=tmp_path)


def test_weights_of_the_package_are_what_this_version_names(
    saved: Path, smoke: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """One name, one file: a recipe that says where it starts must mean the same weights on every machine."""
    (tmp_path / "training" / "weights").mkdir(parents=True)
    saved.rename(tmp_path / "training" / "weights" / "drawn")
    file = tmp_path / "training" / "weights" / "drawn" / "model.safetensors"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr(models.resources, "files", lambda _: tmp_path / "training")
    monkeypatch.setattr(models, "PACKAGED", {"drawn": digest})

    recipe = smoke.override({"weights": "drawn"})
    loaded = models.build(recipe, CONDITIONS)

    expected = load_file(file)["model.decoder.layers.0.final_layer_norm.weight"]
    assert torch.equal(loaded.state_dict()["model.decoder.layers.0.final_layer_norm.weight"], expected)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match=f"weights 'drawn'.*{digest}.*Install dentsight_pipeline again"):
        models.build(recipe, CONDITIONS)


def test_which_heads_were_taught_is_this_trainings_to_say(smoke: Recipe, tmp_path: Path):
    """The configuration names the published criterion, which teaches every head; a later training may use another."""
    models.build(smoke.override({"criterion": "published"}), CONDITIONS).save_pretrained(tmp_path)

    again = models.build(
        smoke.override({"weights": str(tmp_path), "criterion": "transformers", "class_loss": "varifocal"}), CONDITIONS
    )

    assert supervised_layers(models.load(tmp_path).config) == (0, 1, 2)
    assert supervised_layers(again.config) == (0, 2)


def test_published_weights_start_what_transformers_does_not_know(smoke: Recipe, tmp_path: Path):
    """A folder of the hub says nothing of our criterion and of suppression: transformers refuses such arguments."""
    stock = smoke.override({"criterion": "transformers", "class_loss": "varifocal", "nms_iou": None})
    models.build(stock, CONDITIONS).save_pretrained(tmp_path)
    assert not {"criterion", "nms_iou"} & json.loads((tmp_path / "config.json").read_text()).keys()

    ours = models.build(
        smoke.override({"weights": str(tmp_path), "criterion": "published", "nms_iou": 0.5}), CONDITIONS
    )

    assert (supervised_layers(ours.config), ours.config.nms_iou) == ((0, 1, 2), 0.5)
    assert isinstance(ours.loss_function.inner, Criterion)


def test_the_class_prior_sets_the_first_scores(smoke: Recipe):
    """0.01 as in the original code, 1/(classes + 1) as in transformers: the starting point of head health."""
    own = models.build(smoke.override({"class_prior": "0.01"}), CONDITIONS)
    default = models.build(smoke, CONDITIONS)

    assert own.model.enc_score_head.bias.sigmoid()[0].item() == pytest.approx(0.01, rel=1e-4)
    assert default.model.enc_score_head.bias.sigmoid()[0].item() == pytest.approx(1 / 14, rel=1e-4)


def test_the_criterion_sees_fp32_although_the_forward_pass_is_bf16(smoke: Recipe):
    """In bf16, box losses of a lesion of a few pixels lose their differences."""
    seen: list[torch.dtype] = []
    model = models.build(smoke, CONDITIONS)
    inner = model.loss_function.inner

    def spy(logits: torch.Tensor, *args: object, **kwargs: object) -> object:
        tensors = [logits, *(a for a in [*args, *kwargs.values()] if isinstance(a, torch.Tensor))]
        seen.extend(t.dtype for t in tensors if t.is_floating_point())
        assert not torch.is_autocast_enabled("cpu")
        return inner(logits, *args, **kwargs)

    model.loss_function.inner = spy
    images = torch.zeros(2, 64, 96, dtype=torch.uint8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(pixel_values=Preprocessing.of_recipe(smoke).pixels(images), labels=targets())
    outputs.loss.backward()

    assert len(seen) >= 6
    assert set(seen) == {torch.float32}
    assert torch.isfinite(outputs.loss)
    assert outputs.logits.dtype == torch.bfloat16


def test_frozen_batch_norms_keep_their_statistics(saved: Path, smoke: Recipe):
    """At micro-batches of four images, fresh statistics are noise."""
    frozen = smoke.override({"weights": str(saved), "freeze_batch_norm": "all"})
    model = models.build(frozen, CONDITIONS)
    models.train_mode(model, frozen)
    before = {name: value.clone() for name, value in model.named_buffers()}

    model(pixel_values=torch.rand(2, 3, 64, 96), labels=targets()).loss.backward()

    assert all(torch.equal(before[name], value) for name, value in model.named_buffers())
    backbone_norms = [name for name, _ in model.named_parameters() if "normalization" in name]
    assert backbone_norms == []


def test_pixels_are_scaled_on_the_device_and_black_stays_zero(smoke: Recipe):
    """Padding is black; transformers' processor pads with 0 after normalising, so black must be 0 there too."""
    pixels = Preprocessing.of_recipe(smoke).pixels(torch.tensor([[[0, 255]]], dtype=torch.uint8))

    assert pixels.shape == (1, 3, 1, 2)
    assert pixels[0, :, 0, 0].tolist() == [0.0, 0.0, 0.0]
    assert pixels[0, :, 0, 1].tolist() == pytest.approx([5.0] * 3)


def test_a_class_that_was_silent_and_is_taught_now_begins_anew(smoke: Recipe, tmp_path: Path):
    """At a logit of -20 no gradient is left that a training of usual length could climb."""
    torch.manual_seed(2)
    model = models.build(smoke, CONDITIONS)
    models.silence(model, [4])
    model.save_pretrained(tmp_path)
    later = models.build(smoke, CONDITIONS, weights=tmp_path)
    models.silence(later, [5])

    taught = torch.arange(13) != 5
    for head, before in zip(models._class_heads(later), models._class_heads(model), strict=True):
        assert models.silent_labels(head) == [5]
        assert head.bias[4] > -4
        assert head.weight[4].abs().max() > 0
        kept = taught & (torch.arange(13) != 4)
        torch.testing.assert_close(head.weight[kept], before.weight[kept], rtol=0, atol=0)


def test_where_every_class_is_taught_not_a_bit_changes(smoke: Recipe):
    """Weights and random numbers of every training on complete labels stay what they were."""
    torch.manual_seed(3)
    model = models.build(smoke, CONDITIONS)
    before, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    models.silence(model, [])

    assert torch.equal(torch.get_rng_state(), random)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
