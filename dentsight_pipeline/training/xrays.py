"""Findings on a person's own X-rays: as a document, and drawn on the picture. Research only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from dentsight_pipeline.data.agreement import pairwise_iou
from dentsight_pipeline.data.dicom import is_dicom
from dentsight_pipeline.data.image_bytes import ImageBytesError, clean, decode_gray
from dentsight_pipeline.data.ontology import TEETH
from dentsight_pipeline.documents.detections import Finding, XrayFindings
from dentsight_pipeline.documents.teeth import Box
from dentsight_pipeline.errors import ConfigurationError, DataError
from dentsight_pipeline.evaluation.teeth.findings import Marked, findings_by_tooth, one_mouth
from dentsight_pipeline.store.files import written_whole
from dentsight_pipeline.training.detector import Detections, Detector, load_detector

Threshold = float | Mapping[str, float]
"""Least score that is shown, for all classes or by class."""

TOOTH_SCORE = 0.5
"""From which on a tooth counts as found, where nobody chose a score."""
_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
"""Okabe and Ito's palette, which people with any colour vision can tell apart; names are written beside the boxes."""
_NOTICE = "Research only. Not for clinical use."


def predict_images(
    paths: Sequence[Path],
    checkpoint_folder: Path,
    threshold: Threshold,
    *,
    pictures: Path | None = None,
    teeth_folder: Path | None = None,
    tooth_score: float = TOOTH_SCORE,
    device: str | None = None,
) -> list[XrayFindings]:
    """Findings on one's own X-rays.

    Args:
        paths: Image files of any kind that ingestion takes, DICOM too.
        checkpoint_folder: A model or checkpoint folder.
        threshold: An evaluation's operating points, or one score; a class without one is not shown, because nothing
            says which of its scores to believe.
        pictures: Folder for one annotated PNG an image; None draws nothing.
        teeth_folder: A model folder of stage 1, which tells the tooth of each finding; None leaves that out.
        tooth_score: From which on a tooth counts as found; findings by tooth have the one that was chosen on valid.
        device: `cpu` or `cuda`; None = a GPU when there is one.

    Raises:
        DataError: A file that cannot be read as an image.
        ConfigurationError: A DICOM file without the packages that read it; the folder holds no model, or a threshold is
            for a class that it does not know.
    """
    detector = load_detector(checkpoint_folder, device)
    if isinstance(threshold, Mapping) and (unknown := sorted(set(threshold) - set(detector.classes))):
        raise ConfigurationError(
            f"Thresholds are given for {', '.join(unknown)}, which the model does not know. "
            f"It finds {', '.join(detector.classes)}."
        )
    stage_one = None if teeth_folder is None else _load_stage_one(teeth_folder, device)
    for path in paths[1:]:  # one that cannot be read is refused before the first picture is drawn
        read_xray(path)
    answers = []
    for path in paths:
        name, image = read_xray(path)
        findings = _shown(detector.detect([image])[0], detector.classes, threshold, image.shape)
        if stage_one is not None:
            findings = _with_teeth(findings, stage_one, tooth_score, image)
        drawn = None if pictures is None else draw_findings(image, findings, pictures / f"{name.stem}.findings.png")
        shown = None if drawn is None else str(drawn)
        height, width = image.shape
        answers.append(XrayFindings(image=str(name), width=width, height=height, picture=shown, findings=findings))
    return answers


def _load_stage_one(folder: Path, device: str | None) -> Detector:
    detector = load_detector(folder, device)
    if other := [name for name in detector.classes if name not in TEETH]:
        raise ConfigurationError(
            f"The model given for teeth finds {', '.join(other[:4])}. Give a checkpoint of stage 1 (`--with-teeth`)."
        )
    return detector


def _with_teeth(
    findings: tuple[Finding, ...], stage_one: Detector, least: float, image: NDArray[np.uint8]
) -> tuple[Finding, ...]:
    """The same findings, best first, with the teeth that they belong to."""
    found = _shown(stage_one.detect([image])[0], stage_one.classes, least, image.shape)
    teeth = one_mouth(Marked(tooth.name, tooth.bbox_xywh_px, tooth.score) for tooth in found)
    joined = findings_by_tooth(teeth, [Marked(f.name, f.bbox_xywh_px, f.score) for f in findings]).findings
    return tuple(
        replace(one, teeth=own.teeth or None, inferred_tooth=own.inferred_tooth)
        for one, own in zip(findings, joined, strict=True)
    )


def read_xray(path: Path) -> tuple[Path, NDArray[np.uint8]]:
    """The picture as ingestion would store it, and by which name it is spoken of.

    Returns:
        The path, but of a DICOM file the sha256 of its bytes: archives name files and folders after patients and UIDs;
        and [height, width] gray values.

    Raises:
        ConfigurationError: A DICOM file without the packages that read it.
        DataError: There is no such file, or it cannot be read as an image.
    """
    if not path.is_file():
        raise DataError(f"There is no image {path}. Give the path of an image file, a folder or a DICOMDIR.")
    data = path.read_bytes()
    try:
        image = decode_gray(clean(data).data, (1, 1))
    except ImageBytesError as error:
        raise DataError(f"{path}: {error}.") from None
    if image is None:
        raise DataError(f"Image {path} cannot be decoded. Export it again; the file may be cut off.")
    return Path(sha256(data).hexdigest()) if is_dicom(data) else path, image


def _shown(
    found: Detections, classes: tuple[str, ...], threshold: Threshold, shape: tuple[int, ...]
) -> tuple[Finding, ...]:
    """The detections that are at or above their threshold and reach into the image of `shape` (height, width)."""
    names = [classes[label] for label in found.labels]
    least = [threshold.get(n, float("inf")) if isinstance(threshold, Mapping) else threshold for n in names]
    left_top = found.boxes_xywh_px[:, :2].clip(0, (shape[1], shape[0]))
    sizes = (found.boxes_xywh_px[:, :2] + found.boxes_xywh_px[:, 2:]).clip(0, (shape[1], shape[0])) - left_top
    shown = np.flatnonzero((found.scores >= least) & (sizes > 0).all(axis=1))
    boxes = np.concatenate([left_top, sizes], axis=1).tolist()
    return tuple(Finding(name=names[i], score=float(found.scores[i]), bbox_xywh_px=tuple(boxes[i])) for i in shown)


def draw_findings(image: NDArray[np.uint8], findings: Sequence[Finding], out: Path) -> Path:
    """Write an X-ray with its findings drawn on it, and a line that it is no medical device, as PNG.

    Args:
        image: [height, width] grayscale.
        findings: Best first.
        out: The file; its folder is made.
    """
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(image).convert("RGB")
    draw = ImageDraw.Draw(picture)
    size, line = max(11, round(image.shape[1] / 90)), max(2, round(image.shape[1] / 600))
    font = ImageFont.load_default(size)
    names = sorted({finding.name for finding in findings})
    texts = [" ".join((finding.name, *finding.tooth_names, f"{finding.score:.2f}")) for finding in findings]
    sizes = [(draw.textlength(text, font=font), size * 1.25) for text in texts]
    places = label_places([finding.bbox_xywh_px for finding in findings], sizes, image.shape)
    colours = [_COLOURS[names.index(finding.name) % len(_COLOURS)] for finding in findings]
    for finding, colour in reversed(list(zip(findings, colours, strict=True))):  # the best ones on top
        left, top, width, height = finding.bbox_xywh_px
        draw.rectangle((left, top, left + width, top + height), outline=colour, width=line)
    for colour, text, (wide, tall), (x, y) in reversed(list(zip(colours, texts, sizes, places, strict=True))):
        draw.rectangle((x, y, x + wide, y + tall), fill=colour)
        draw.text((x, y), text, fill="black", font=font)
    notice = size / 2, image.shape[0] - size * 1.5
    draw.text(notice, _NOTICE, fill="white", font=font, stroke_width=1, stroke_fill="black")
    out.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(out) as temporary:
        picture.save(temporary, format="PNG")
    return out


def label_places(
    boxes: Sequence[Box], sizes: Sequence[tuple[float, float]], shape: tuple[int, ...]
) -> list[tuple[float, float]]:
    """Left and top of each finding's label: above its box or below it, the first place where no earlier label lies.

    Args:
        boxes: (left, top, width, height), the most important first.
        sizes: (width, height) of each label.
        shape: (height, width) of the image, which no label leaves.
    """
    taken: list[Box] = []
    for (left, top, _, height), (wide, tall) in zip(boxes, sizes, strict=True):
        x = min(left, max(0.0, shape[1] - wide))
        rows = (y for step in range(3) for y in (top - (step + 1) * tall, top + height + step * tall))
        inside = [(x, y, wide, tall) for y in rows if 0 <= y <= shape[0] - tall]
        others = np.array(taken).reshape(-1, 4)
        free = [one for one in inside if not pairwise_iou(np.array([one]), others).any()]
        taken.append(next(iter(free or inside), (x, max(0.0, min(top, shape[0] - tall)), wide, tall)))
    return [place[:2] for place in taken]
