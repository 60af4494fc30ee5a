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

import numpy as np
import torch
from torch import Tensor, nn

from dentsight_pipeline.documents.commands import OnnxExport
from dentsight_pipeline.errors import ConfigurationError, TrainingError
from dentsight_pipeline.progress import Progress
from dentsight_pipeline.store.files import written_whole
from dentsight_pipeline.training import model as models
from dentsight_pipeline.training.detector import (
    PROCESSOR,
    Detector,
    Preprocessing,
    load_detector,
    model_folder,
    no_progress_bars,
)
from dentsight_pipeline.training.job import write_document
from dentsight_pipeline.training.layers import unwrap
from dentsight_pipeline.training.recipe import Recipe

PARITY_IMAGES, PARITY = 20, 1e-3
"""X-rays on which onnxruntime must answer as torch does, and by how much a logit or a box may differ."""
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


def describe_onnx(checkpoint: Path, onnx: Path, progress: Progress | None = None) -> OnnxExport:
    """What a user of an ONNX file has to know, after onnxruntime and torch answered alike on drawn X-rays.

    Args:
        checkpoint: The folder that it was made from.
        onnx: The file.
        progress: Called with stage, done, total.

    Raises:
        TrainingError: They differ by more than `PARITY`.
    """
    import onnxruntime

    detector = load_detector(checkpoint, "cpu")
    logits, boxes = _differences(detector, onnxruntime.InferenceSession(onnx), progress)
    if not max(logits, boxes) < PARITY:
        raise TrainingError(
            f"ONNX and torch differ by {logits:.2g} in logits and {boxes:.2g} in boxes on {PARITY_IMAGES} X-rays, "
            f"more than {PARITY}: the file is not handed on. A barely trained model's queries tie; train it for longer."
        )
    asked = detector.preprocessing
    return OnnxExport(
        classes=detector.classes,
        canvas=asked.canvas,
        keeps_aspect=asked.keeps_aspect,
        pixel_mean=asked.pixel_mean,
        pixel_std=asked.pixel_std,
        nms_iou=detector.nms_iou,
        opset=ONNX_OPSET,
        onnxruntime=onnxruntime.__version__,
        torch=str(torch.__version__),
        parity_images=PARITY_IMAGES,
        parity_logits=logits,
        parity_boxes=boxes,
    )


@torch.no_grad()
def _differences(detector: Detector, session: Any, progress: Progress | None) -> tuple[float, float]:
    """The largest difference of a logit, and of a box."""
    from dentsight_pipeline.phantom.drawing import draw  # no worker's business
    from dentsight_pipeline.phantom.mouth import sample_mouth

    worst, asked = np.zeros(2), detector.preprocessing
    for number in range(PARITY_IMAGES):
        random = np.random.default_rng(number)
        image = draw(sample_mouth(random), max(320, asked.canvas[0]), random).gray
        canvas = asked.letterbox((image.shape[1], image.shape[0])).apply(image)
        pixels = asked.pixels(torch.from_numpy(canvas)[None])
        ours = detector.model(pixel_values=pixels)
        theirs = session.run(["logits", "pred_boxes"], {"pixel_values": pixels.numpy()})
        pairs = zip((ours.logits, ours.pred_boxes), theirs, strict=True)
        worst = np.maximum(worst, [np.abs(one.numpy() - other).max() for one, other in pairs])
        if progress:
            progress("parity", number + 1, PARITY_IMAGES)
    return float(worst[0]), float(worst[1])


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401 # only asked whether it is there
        import onnxruntime  # noqa: F401 # the same
    except ImportError as error:
        raise ConfigurationError(
            "ONNX export needs the packages onnx and onnxruntime, which are not installed. "
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
