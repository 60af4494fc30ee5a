"""Model folders that other software reads: transformers' own format, and ONNX.

A folder is `model.safetensors`, `config.json` with the class names, and `preprocessor_config.json`, which describes the
letterbox of `letterbox.py` in the words of transformers' image processor. What publishes a folder as a checkpoint is
`publish.py`; what reads one back for inference is `detector.py`.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from torch import Tensor, nn

from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.store.files import written_whole
from dentsight_pipeline.training import model as models
from dentsight_pipeline.training.detector import PROCESSOR, Preprocessing, model_folder, no_progress_bars
from dentsight_pipeline.training.job import write_document
from dentsight_pipeline.training.layers import unwrap
from dentsight_pipeline.training.recipe import Recipe

ONNX_OPSET = 17
"""Has `GridSample` (16) and `LayerNormalization` (17), which D-FINE is made of."""


def save_pretrained_folder(model: nn.Module, recipe: Recipe, classes: Sequence[str], out: Path) -> Path:
    """Write a model folder that plain `AutoModelForObjectDetection.from_pretrained` loads with bit-identical logits.

    The folder appears whole or not at all, and replaces one that is there. transformers' own image processor gives the
    same geometry from `preprocessor_config.json`; its resampling differs from ours by a few gray levels, and its
    `pipeline("object-detection")` scales boxes by the unpadded image, which is wrong for every padded one. Map boxes
    back with `letterbox.Letterbox.denormalise`, as `detector.py` does.

    Args:
        model: A D-FINE, possibly wrapped; its mode and device are left alone.
        recipe: Its canvas and pixel normalisation are written.
        classes: Names in label order.
        out: The folder.

    Returns:
        `out`.

    Raises:
        ConfigurationError: The model scores another number of classes.
    """
    detector = unwrap(model)
    if detector.config.num_labels != len(classes):
        raise ConfigurationError(
            f"The model scores {detector.config.num_labels} classes, {len(classes)} names were given "
            f"({', '.join(classes)}). Export a model with the classes that it was trained on."
        )
    detector.config.id2label = dict(enumerate(classes))
    detector.config.label2id = {name: index for index, name in enumerate(classes)}
    return write_model_folder(out, detector, Preprocessing.of_recipe(recipe))


def write_model_folder(out: Path, detector: Any, processor: Preprocessing | Path) -> Path:
    """Write a detector and its image processor's configuration in one piece; a folder that is there is replaced.

    Args:
        out: The folder.
        detector: A transformers model.
        processor: What its configuration says, or a file to copy; a file that does not exist is left out.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        with no_progress_bars():
            detector.save_pretrained(temporary)
        target = temporary / PROCESSOR
        if not isinstance(processor, Path):
            write_document(target, processor.to_config())
        elif processor.is_file():
            shutil.copyfile(processor, target)
        temporary.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        temporary.replace(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return out


class _LogitsAndBoxes(nn.Module):
    """The two outputs that detection needs, as a tuple, which is all that an ONNX graph can return."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.detector(pixel_values=pixel_values)
        return outputs.logits, outputs.pred_boxes


def export_onnx(checkpoint: Path, out: Path) -> Path:
    """Write a model folder as one ONNX file: `pixel_values` in, `logits` and `pred_boxes` (cxcywh, relative) out.

    The batch is free, the canvas fixed: D-FINE's anchors are constants of it. Logits and boxes agree with torch to
    about 1e-6. Only where queries tie exactly may another one be chosen: an untrained model does nothing but tie.

    torch's tracing exporter is used, not the newer one, because transformers reads the batch size with `len`, which the
    newer one freezes into the graph.

    Args:
        checkpoint: A model folder, or a checkpoint folder that holds one as `model/`.
        out: The `.onnx` file.

    Returns:
        `out`.

    Raises:
        ConfigurationError: The folder holds no D-FINE, or the package onnx is not installed.
    """
    folder = model_folder(checkpoint)
    _require_onnx()
    with no_progress_bars():
        detector = models.load(folder)
    canvas_width, canvas_height = Preprocessing.of_folder(folder).canvas
    out.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(out) as temporary:
        _trace(_LogitsAndBoxes(detector).eval(), torch.zeros(2, 3, canvas_height, canvas_width), temporary)
    return out


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401 # only asked whether it is there
    except ImportError as error:
        raise ConfigurationError(
            "ONNX export needs the package onnx, which is not installed. "
            "Install it: pip install 'dentsight_pipeline[export]'."
        ) from error


def _trace(model: nn.Module, pixel_values: Tensor, out: Path) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns of every size that it takes for a constant; they are
        torch.onnx.export(
            model,
            (pixel_values,),
            str(out),
            input_names=["pixel_values"],
            output_names=["logits", "pred_boxes"],
            dynamic_axes={name: {0: "batch"} for name in ("pixel_values", "logits", "pred_boxes")},
            opset_version=ONNX_OPSET,
            dynamo=False,
        )
