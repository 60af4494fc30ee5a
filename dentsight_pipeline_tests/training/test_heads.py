"""Auditing and rescuing the class heads of finished checkpoints, healthy, collapsed and foreign ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import AutoModelForObjectDetection, DFineForObjectDetection

from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.health import AuditedImages
from dentsight_pipeline.errors import ConfigurationError, DataError
from dentsight_pipeline.training.export import write_model_folder
from dentsight_pipeline.training.heads import (
    audit_heads,
    average_precision,
    phantom_xrays,
    read_images,
    rescue,
    rescue_heads,
)
from dentsight_pipeline_tests.training.planted_collapse import (
    KIN_LOSSES,
    TOY_CLASSES,
    TOY_PROCESSOR,
    collapsed_run,
    healthy_run,
    plant_main,
    tiny_detector,
    tiny_kin,
    toy_images,
    train_toy,
)


def save(model: DFineForObjectDetection, folder: Path) -> Path:
    model.config.id2label = dict(enumerate(TOY_CLASSES))
    return write_model_folder(folder, model, TOY_PROCESSOR)


@pytest.fixture(scope="module")
def collapsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy model that was trained on the planted pre-5.18 loss."""
    return save(collapsed_run().model, tmp_path_factory.mktemp("checkpoints") / "collapsed")


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy model that was trained on transformers' own loss."""
    return save(healthy_run().model, tmp_path_factory.mktemp("checkpoints") / "healthy")


@pytest.fixture(scope="module")
def held_out() -> list[NDArray[np.uint8]]:
    """32 toy images that no training saw."""
    return list(toy_images(np.random.default_rng(5), 32)[0])


@pytest.fixture(scope="module")
def ground_truth(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """COCO JSON of 96 toy images, its categories numbered from 7 on, and the folder of their files."""
    folder = tmp_path_factory.mktemp("images")
    images, truths = toy_images(np.random.default_rng(6), 96)
    coco: dict[str, Any] = {"images": [], "annotations": []}
    coco["categories"] = [{"id": i + 7, "name": name} for i, name in enumerate(TOY_CLASSES)]
    for index, (image, (boxes, labels)) in enumerate(zip(images, truths, strict=True)):
        cv2.imwrite(str(folder / f"{index}.png"), image)
        coco["images"].append({"id": index + 1, "file_name": f"{index}.png", "width": 96, "height": 64})
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            record = {"id": len(coco["annotations"]) + 1, "image_id": index + 1, "category_id": label + 7}
            coco["annotations"].append({**record, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
    return coco, folder


def test_a_collapsed_checkpoint_is_named_as_such(collapsed: Path, held_out: list[NDArray[np.uint8]]) -> None:
    """This is the question that the audit exists for: are these scores meaningless?"""
    report = audit_heads(collapsed, held_out)

    assert report.healthy is False
    assert report.ratio_last_to_first is not None
    assert report.ratio_last_to_first < 0.5
    assert report.verdict.startswith("Collapsed: the head of layer 3")
    assert report.rules[0].tripped is True
    assert report.notes == ()
    codec.write(report)


def test_a_healthy_checkpoint_passes(healthy: Path, held_out: list[NDArray[np.uint8]]) -> None:
    """The audit must not cry wolf on a model that a gate would release."""
    report = audit_heads(healthy, held_out)

    assert report.healthy is True
    assert report.ratio_last_to_first is not None
    assert 0.7 < report.ratio_last_to_first < 1.5
    assert [row.layer for row in report.layers] == [0, 1, 2, 3]
    assert report.images == AuditedImages(count=32, kind="given")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rt_detr", "rt_detr_v2", "deimv2"])
def test_other_detectors_with_a_head_in_every_layer_are_audited_too(
    kind: str, held_out: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    """The same fault hit RT-DETR's loss before transformers 5.18; whoever fine-tuned one then wants to know.

    DEIMv2 came later and pulls its last head up again by its union of matchings: there a bias stands for the collapse.
    """
    found = {}
    for name in ("healthy", "collapsed"):
        model = tiny_kin(kind)
        if name == "collapsed" and kind in KIN_LOSSES:
            plant_main(model, KIN_LOSSES[kind])
        trained: Any = train_toy(
            model, steps=172, evaluations=(160, 172), allow="shows what the planted fault does", learning_rate=2e-3
        ).model
        if name == "collapsed" and kind not in KIN_LOSSES:
            trained.model.decoder.class_embed[3].bias.data -= 4.0
        found[name] = audit_heads(save(trained, tmp_path / name), held_out)

    assert (found["healthy"].healthy, found["collapsed"].healthy) == (True, False), found
    assert len(found["healthy"].layers) == 4
    rescue(tmp_path / "collapsed", max(found["collapsed"].rescue_heads), tmp_path / "rescued")
    assert audit_heads(tmp_path / "rescued", held_out).healthy is True


@pytest.mark.parametrize("kind", ["rt_detr", "rt_detr_v2", "deimv2"])
def test_other_detectors_layers_are_read_by_their_own_heads(kind: str, tmp_path: Path) -> None:
    """RT-DETR's hidden states have the batch first, D-FINE's the layers: mixed up, heads would read other queries."""
    model = tiny_kin(kind).eval()
    with torch.no_grad():
        for number, head in enumerate(model.model.decoder.class_embed):
            head.weight.zero_()
            head.bias.copy_(torch.logit(torch.linspace(0.1, 0.2, len(TOY_CLASSES)) * (4 - number)))

    report = audit_heads(save(model, tmp_path / "model"), [np.full((64, 96), 127, dtype=np.uint8)] * 3)

    assert [layer.mean_max_score for layer in report.layers] == pytest.approx([0.8, 0.6, 0.4, 0.2], abs=1e-4)
    assert report.ratio_last_to_first == pytest.approx(0.25, abs=1e-4)
    assert [layer.supervised_by_normal_queries for layer in report.layers][:2] == [True, True]


def test_without_images_phantom_xrays_are_used_and_said_so(healthy: Path) -> None:
    """A verdict on drawn images is a hint; a reader must know that it is no more."""
    first, second = audit_heads(healthy), audit_heads(healthy)

    assert first.images == AuditedImages(count=8, kind="phantom")
    assert "synthetic phantom X-rays" in first.notes[0]
    assert first == second


def test_phantom_xrays_are_drawn_from_their_seed() -> None:
    """Two people who audit one checkpoint must see the same numbers."""
    (one,), (again,), (other,) = phantom_xrays(1, 0, 320), phantom_xrays(1, 0, 320), phantom_xrays(1, 1, 320)

    assert np.array_equal(one, again)
    assert one.shape != other.shape or not np.array_equal(one, other)
    assert (one.dtype, one.ndim) == (np.uint8, 2)


def test_images_that_show_the_model_nothing_give_no_verdict(tmp_path: Path) -> None:
    """A ratio of two scores that both mean "nothing here" says nothing about the head."""
    model: Any = tiny_detector()
    prior = 1 / (len(TOY_CLASSES) + 1)
    with torch.no_grad():
        for head in model.model.decoder.class_embed:
            head.weight.zero_()
            head.bias.copy_(torch.logit(torch.linspace(0.5, 1.2, len(TOY_CLASSES)) * prior))

    report = audit_heads(save(model, tmp_path / "model"), [np.full((64, 96), 127, dtype=np.uint8)])

    assert report.ratio_last_to_first == pytest.approx(1.0)
    assert report.healthy is None
    assert "finds nothing in these images" in report.verdict


def test_an_untrained_head_gives_no_verdict(tmp_path: Path) -> None:
    """Random heads have any ratio at all; calling one collapsed would send somebody after a fault that is not there."""
    report = audit_heads(save(tiny_detector(), tmp_path / "model"), [np.full((64, 96), 127, dtype=np.uint8)])

    assert report.healthy is None
    assert "never trained" in report.verdict


def test_no_image_at_all_is_refused(healthy: Path) -> None:
    """An empty folder is a mistake, not a wish for phantoms."""
    with pytest.raises(ConfigurationError, match="Give at least one X-ray"):
        audit_heads(healthy, [])


def test_a_folder_of_images_is_read_by_name(tmp_path: Path) -> None:
    """`--images` takes a folder as it comes, with a README in it; the order must not depend on the file system."""
    for name, level in (("b.PNG", 20), ("a.jpg", 10), ("c.jpeg", 30)):
        encoded = cv2.imencode(name[1:].lower(), np.full((8, 12), level, dtype=np.uint8))[1]
        (tmp_path / name).write_bytes(encoded.tobytes())
    (tmp_path / "README.txt").write_text("not an image")

    images = read_images(tmp_path)

    assert [round(float(image.mean()), -1) for image in images] == [10, 20, 30]
    assert {image.shape for image in images} == {(8, 12)}
    with pytest.raises(DataError, match="There is no image"):
        read_images(tmp_path / "absent")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    """The message must say what a checkpoint looks like."""
    with pytest.raises(ConfigurationError, match="holds no model"):
        audit_heads(tmp_path)


def test_a_checkpoint_folder_of_this_pipeline_is_taken_by_its_model(collapsed: Path, tmp_path: Path) -> None:
    """`dentsight heads` gets materialised checkpoints, whose model lies one folder down."""
    (tmp_path / "model").symlink_to(collapsed)

    assert audit_heads(tmp_path, [np.zeros((64, 96), dtype=np.uint8)]).classes == TOY_CLASSES


def test_colour_images_of_any_size_are_taken(healthy: Path, held_out: list[NDArray[np.uint8]]) -> None:
    """People have JPEGs with three channels; the model was trained on one."""
    gray = held_out[:4]

    colour = audit_heads(healthy, [np.repeat(image[..., None], 3, axis=2) for image in gray])

    assert colour.ratio_last_to_first == pytest.approx(audit_heads(healthy, gray).ratio_last_to_first, rel=1e-6)


@pytest.mark.parametrize("num_labels", [80, 13])
def test_a_foreign_checkpoint_without_image_processor_is_audited_with_a_note(num_labels: int, tmp_path: Path) -> None:
    """v1's folder has 13 classes, published weights have 80, and many folders lack their preprocessing."""
    tiny_detector(num_labels=num_labels).save_pretrained(tmp_path)

    report = audit_heads(tmp_path, [np.zeros((480, 640), dtype=np.uint8)])

    assert len(report.classes) == num_labels
    assert "stretched the images to 640×640" in report.notes[0]
    assert report.prior == pytest.approx(1 / (num_labels + 1))


def test_heads_saved_under_their_other_name_are_read(
    collapsed: Path, held_out: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    """The heads are shared between two modules; a save keeps one name of each pair, and which one has varied."""
    for source in collapsed.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    assert any(name.startswith("model.decoder.class_embed.") for name in weights)
    renamed = {name.replace("model.decoder.class_embed.", "class_embed."): w for name, w in weights.items()}
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})

    assert audit_heads(tmp_path, held_out).layers == audit_heads(collapsed, held_out).layers


@pytest.mark.parametrize(("decoder_layers", "allowed"), [(2, (0,)), (3, (0,)), (4, (0, 1)), (6, (0, 1, 2, 3))])
def test_only_heads_that_normal_queries_supervised_may_rescue(decoder_layers: int, allowed: tuple[int, ...]) -> None:
    """The last but one often scores highest, and means least: only denoising queries taught it."""
    assert rescue_heads(tiny_detector(decoder_layers=decoder_layers).config) == allowed


@pytest.mark.parametrize(
    ("head", "reason"),
    [(2, "only denoising queries did"), (3, "scores now"), (4, "layers 0 to 3"), (-1, "layers 0 to 3")],
)
def test_other_heads_are_refused_with_the_reason(collapsed: Path, tmp_path: Path, head: int, reason: str) -> None:
    """A rescue with a head that nobody taught would look healthy to the audit and be worthless."""
    with pytest.raises(ConfigurationError, match=rf"{reason}.*Choose one of 0, 1\."):
        rescue(collapsed, head, tmp_path / "rescued")

    assert not (tmp_path / "rescued").exists()


def test_a_rescued_checkpoint_scores_better_and_says_by_how_much(
    collapsed: Path, ground_truth: tuple[dict[str, Any], Path], held_out: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    """The rescue is only worth its name where AP does not fall and scores rise above the prior."""
    coco, images = ground_truth

    report = rescue(collapsed, 1, tmp_path / "rescued", ground_truth=coco, images=images)

    assert report.method == "decoder ends after layer 1"
    before, after = report.before, report.after
    assert before is not None and before.ap50 is not None and before.max_score is not None
    assert after is not None and after.ap50 is not None and after.max_score is not None
    assert after.ap50 > before.ap50 > 0
    assert after.max_score > 2 * before.max_score
    assert audit_heads(tmp_path / "rescued", held_out).healthy is True


def test_a_shortened_checkpoint_answers_what_its_layer_said_before(collapsed: Path, tmp_path: Path) -> None:
    """Bit for bit: nothing is retrained, the decoder only ends earlier, and plain transformers loads it."""
    rescue(collapsed, 1, tmp_path / "rescued")
    pixels = TOY_PROCESSOR.pixels(torch.from_numpy(toy_images(np.random.default_rng(8), 2)[0]))
    full: Any = collapsed_run().model
    said: list[torch.Tensor] = []
    hook = full.model.decoder.layers[1].register_forward_hook(lambda _m, _i, output: said.append(output))

    shorter: Any = AutoModelForObjectDetection.from_pretrained(tmp_path / "rescued").eval()
    with torch.no_grad():
        full(pixel_values=pixels)
        outputs = shorter(pixel_values=pixels)
    hook.remove()

    assert shorter.config.decoder_layers == 2
    assert torch.equal(outputs.last_hidden_state, said[0])
    assert torch.equal(shorter.class_embed[1].weight, full.class_embed[1].weight)
    assert shorter.config.id2label == dict(enumerate(TOY_CLASSES))


def test_the_first_head_is_copied_because_one_layer_cannot_be_built(collapsed: Path, tmp_path: Path) -> None:
    """Small models have three layers, of which only head 0 may rescue; everything but the head stays bit for bit."""
    report = rescue(collapsed, 0, tmp_path / "rescued")

    before, after = load_file(collapsed / "model.safetensors"), load_file(tmp_path / "rescued" / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert report.method == "class head of layer 0 copied over layer 3"
    assert "AP fell" in (report.note or "")
    assert changed <= {name for name in before if ".class_embed.3." in name or ".lqe_layers.3." in name}
    assert torch.equal(after["model.decoder.class_embed.3.weight"], before["model.decoder.class_embed.0.weight"])


def test_nothing_is_overwritten_and_half_a_ground_truth_is_refused(
    collapsed: Path, ground_truth: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    """A rescue that replaced the original would destroy the evidence."""
    with pytest.raises(ConfigurationError, match="exists already"):
        rescue(collapsed, 1, collapsed)
    with pytest.raises(ConfigurationError, match="both a ground truth and the folder"):
        rescue(collapsed, 1, tmp_path / "rescued", ground_truth=ground_truth[0])


@pytest.mark.parametrize("wrong", [[], {}, {"images": [], "annotations": []}, "a class too many"])
def test_a_ground_truth_that_cannot_be_meant_leaves_no_rescued_folder_behind(
    collapsed: Path, ground_truth: tuple[dict[str, Any], Path], tmp_path: Path, wrong: Any
) -> None:
    """The same command with the right file would be refused, since the folder exists."""
    coco, images = ground_truth
    given = {**coco, "categories": [*coco["categories"], {"id": 99, "name": "x"}]} if isinstance(wrong, str) else wrong

    with pytest.raises(ConfigurationError, match="The ground truth has"):
        rescue(collapsed, 1, tmp_path / "rescued", ground_truth=given, images=images)

    assert not (tmp_path / "rescued").exists()


def test_average_precision_refuses_classes_that_the_model_does_not_know(
    healthy: Path, ground_truth: tuple[dict[str, Any], Path]
) -> None:
    """A misspelt class would otherwise score 0 and look like a bad model."""
    coco, images = ground_truth
    renamed = {**coco, "categories": [*coco["categories"][:-1], {"id": 18, "name": "carries"}]}

    with pytest.raises(ConfigurationError, match="carries, which the model does not know"):
        average_precision(healthy, renamed, images)
