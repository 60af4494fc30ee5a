"""Exports that other software reads: bit-identical through plain transformers, and ONNX through onnxruntime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForObjectDetection

from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.training import export, letterbox
from dentsight_pipeline.training import model as models
from dentsight_pipeline.training.detector import Preprocessing
from dentsight_pipeline.training.recipe import Recipe
from dentsight_pipeline_tests.training.conftest import CLASSES
from dentsight_pipeline_tests.training.planted_collapse import TOY_PROCESSOR, healthy_run, toy_batch


def build(recipe: Recipe) -> Any:
    torch.manual_seed(0)
    return models.build(recipe, CLASSES)


def test_plain_transformers_loads_the_folder_with_bit_identical_logits(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """Whoever downloads a release has transformers, not this package."""
    model = build(tiny_recipe)
    model.config.id2label = {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    model.config.label2id = {}
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))

    export.save_pretrained_folder(model, tiny_recipe, CLASSES, tmp_path / "model")
    loaded: Any = AutoModelForObjectDetection.from_pretrained(tmp_path / "model").eval()

    with torch.no_grad():
        before, after = model.eval()(pixel_values=pixels), loaded(pixel_values=pixels)
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.pred_boxes, after.pred_boxes)
    assert loaded.config.id2label == dict(enumerate(CLASSES))
    assert loaded.config.label2id == {name: i for i, name in enumerate(CLASSES)}


def test_the_folder_has_these_files_and_nothing_of_this_machine(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """Its bytes are part of a digest: a path or a time in them would make every machine's checkpoint another."""
    one, other = (
        export.save_pretrained_folder(build(tiny_recipe), tiny_recipe, CLASSES, tmp_path / name) for name in ("a", "b")
    )

    names = {path.name for path in one.iterdir()}
    assert names == {"config.json", "model.safetensors", "preprocessor_config.json"}
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert str(tmp_path) not in (one / "config.json").read_text()


def test_training_goes_on_in_the_same_mode_after_an_export(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """The loop exports in the middle of training too."""
    model = build(tiny_recipe)

    export.save_pretrained_folder(model, tiny_recipe, CLASSES, tmp_path / "model")

    assert model.training


def test_an_older_folder_is_replaced_as_a_whole(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """A file of an earlier attempt must not end up in the manifest."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "leftover.bin").write_text("old")

    export.save_pretrained_folder(build(tiny_recipe), tiny_recipe, CLASSES, tmp_path / "model")

    assert not (tmp_path / "model" / "leftover.bin").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_other_class_names_than_the_model_was_trained_on_are_refused(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """Names are all that tells a user what label 0 means."""
    with pytest.raises(ConfigurationError, match="scores 3 classes, 2 names were given"):
        export.save_pretrained_folder(build(tiny_recipe), tiny_recipe, CLASSES[:2], tmp_path / "model")


@pytest.mark.parametrize("size", [(1662, 1077), (640, 640), (97, 31), (2901, 1300), (80, 300)])
def test_transformers_own_image_processor_has_our_geometry(
    size: tuple[int, int], tiny_recipe: Recipe, tmp_path: Path
) -> None:
    """Same canvas, same place, same padding; gray levels may differ by the resampling, and do by little."""
    recipe = tiny_recipe.override({"image_width": 320, "image_height": 192})
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(Preprocessing.of_recipe(recipe).to_config()))
    ramp = np.linspace(40, 220, size[0])[None] * np.linspace(0.6, 1.0, size[1])[:, None]
    image = ramp.round().astype(np.uint8)

    theirs = AutoImageProcessor.from_pretrained(tmp_path)(
        images=np.repeat(image[..., None], 3, axis=2), return_tensors="pt"
    )

    geometry = letterbox.fit(size, (320, 192))
    ours = Preprocessing.of_recipe(recipe).pixels(torch.from_numpy(geometry.apply(image))[None])
    mask = torch.zeros(192, 320, dtype=torch.long)
    mask[: geometry.new_height, : geometry.new_width] = 1
    assert theirs["pixel_values"].shape == ours.shape
    assert torch.equal(theirs["pixel_mask"][0], mask)
    difference_in_gray_levels = (theirs["pixel_values"] - ours).abs() * recipe.pixel_std * 255
    assert difference_in_gray_levels.max() < 6
    assert difference_in_gray_levels.mean() < 1
    assert (theirs["pixel_values"][0, :, mask == 0] == 0).all()
    assert (ours[0, :, mask == 0] == 0).all()


def test_onnx_agrees_with_torch_for_any_batch(tmp_path: Path) -> None:
    """Boxes to 1e-3 of the canvas at most, in one file, with the batch left free; on a trained model.

    An untrained model's encoder scores tie exactly, and which of the tied queries is taken is nobody's promise.
    """
    model: Any = healthy_run().model
    export.write_model_folder(tmp_path / "model", model, TOY_PROCESSOR)

    path = export.export_onnx(tmp_path / "model", tmp_path / "onnx" / "model.onnx")

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch_size in (1, 2, 5):
        pixels = toy_batch(np.random.default_rng(3), batch_size)["pixel_values"]
        logits, boxes = (np.asarray(out) for out in session.run(None, {"pixel_values": pixels.numpy()}))
        with torch.no_grad():
            expected = model.eval()(pixel_values=pixels)
        assert np.abs(boxes - expected.pred_boxes.numpy()).max() < 1e-3
        assert np.abs(logits - expected.logits.numpy()).max() < 1e-3
    assert [p.name for p in path.parent.iterdir()] == ["model.onnx"]


def test_onnx_of_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    """Before an hour of tracing, with the reason."""
    with pytest.raises(ConfigurationError, match="holds no model"):
        export.export_onnx(tmp_path, tmp_path / "model.onnx")
