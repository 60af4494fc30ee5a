"""The phantom corpus: synthetic panoramic X-rays written as a Roboflow export with the traits of "OPG REPORTING" v8.

Here belong the plan of the corpus (splits, sources that occur twice, file names) and the files of the export. What a
patient has is sampled in mouth.py, pictures are drawn in drawing.py, the annotators' habits are in annotator.py.

The corpus is never presented as clinical data: its README.dataset.txt carries `PHANTOM_MARKER`, by which ingestion
recognises it, and `phantom_truth.json` beside it holds the true answers.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import cv2
import numpy as np

from dentsight_pipeline.documents.names import PHANTOM_MARKER
from dentsight_pipeline.errors import ConfigurationError, StorageError
from dentsight_pipeline.phantom.annotator import FIRST_ANNOTATOR, SECOND_ANNOTATOR, shifted
from dentsight_pipeline.phantom.canvas import Points, Shape
from dentsight_pipeline.phantom.drawing import Drawing, draw
from dentsight_pipeline.phantom.mouth import FDI_TEETH, V8_CONDITION_COUNTS, Mouth, neighbours, sample_mouth

if TYPE_CHECKING:
    from dentsight_pipeline.store.canonical import JSON

_Record = Mapping[str, "JSON"]
"""A record as it is written."""

TRUTH_FILE = "phantom_truth.json"
"""Name of the file with the true answers, at the root of the export."""

V8_SPLITS: dict[str, int] = {"train": 1549, "valid": 443, "test": 221}
"""Images in v8's splits; every phantom has these proportions."""

V8_DOUBLED: dict[tuple[str, str], int] = {
    ("train", "train"): 140,
    ("train", "valid"): 63,
    ("train", "test"): 37,
    ("valid", "valid"): 15,
    ("valid", "test"): 9,
    ("test", "test"): 3,
}
"""v8's sources that occur twice, by the splits of their two images (267 of 1946 sources)."""

CATEGORY_NAMES: tuple[str, ...] = ("OPG-data", *map(str, FDI_TEETH), *sorted(V8_CONDITION_COUNTS))
"""v8's 62 category names by id, with v8's spellings; id 0 is Roboflow's placeholder and owns no annotation."""

# Defects per annotation, measured over 45,249 annotations of 11 real exports.
_EXACT_DUPLICATE_RATE = 28 / 45_249
_NEAR_DUPLICATE_RATE = 13 / 45_249
_TINY_BOX_RATE = 3 / 45_249
_PARTIAL_ANNOTATION_SHARE = 0.05  # images with conditions and no tooth boxes: seen in v8, the share is our choice
_POLYGON_SHARE = 0.8  # the rest was drawn with the box tool: `segmentation` is []
_LEAST_VISIBLE = 0.4  # of a structure's box inside the picture, below which nobody would annotate it

_MIN_IMAGES, _MIN_WIDTH, _MAX_WIDTH = 3, 160, 4096


@dataclass(frozen=True)
class PhantomSummary:
    """What was written.

    Attributes:
        images: Images over all splits.
        annotations: Annotations over all splits.
        splits: Images and annotations of each split.
        sources: Different patients.
        doubled_sources: Patients with two images.
        images_without_annotations: True negatives.
        class_counts: Annotations by raw category name.
        width: Width of every image in px.
        seed: The seed that gives the same bytes again.
    """

    images: int
    annotations: int
    splits: Mapping[str, Mapping[str, int]]
    sources: int
    doubled_sources: int
    images_without_annotations: int
    class_counts: Mapping[str, int]
    width: int
    seed: int


@dataclass(frozen=True)
class PlannedImage:
    """One image of the corpus: which patient it shows, and whether it is the first (0) or the second upload (1)."""

    split: str
    source: int
    copy: int


def _stream(seed: int, *path: int) -> np.random.Generator:
    """An own random stream for each use, so that no picture depends on how many were drawn before it."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *path])))


def _apportion(total: int, weights: Sequence[int]) -> list[int]:
    """Split a whole number in proportion (largest remainder)."""
    exact = [total * w / sum(weights) for w in weights]
    shares = [math.floor(x) for x in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: (shares[i] - exact[i], i))
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return shares


def plan_splits(images: int) -> dict[str, int]:
    """Images of each split, in v8's proportions and at least one each.

    Args:
        images: Images in total, at least 3.
    """
    shares = dict(zip(V8_SPLITS, _apportion(images, list(V8_SPLITS.values())), strict=True))
    for split in (name for name, share in shares.items() if share == 0):
        shares |= {split: 1, "train": shares["train"] - 1}
    return shares


def plan_images(images: int, seed: int) -> list[PlannedImage]:
    """Say which patient is shown where, with v8's share of patients who occur twice.

    Args:
        images: Images over all splits, at least 3.
        seed: The corpus's seed.

    Returns:
        All images in the order of the export: train, valid, test.
    """
    rng = _stream(seed, 0)
    room = plan_splits(images)
    doubled = round(images * sum(V8_DOUBLED.values()) / sum(V8_SPLITS.values()))
    pairs: list[tuple[str, str]] = []
    for pair, count in zip(V8_DOUBLED, _apportion(doubled, list(V8_DOUBLED.values())), strict=True):
        for _ in range(count):
            needed = Counter(pair)
            if all(room[split] >= n for split, n in needed.items()):
                room = {split: n - needed[split] for split, n in room.items()}
                pairs.append(pair)
    placements: list[tuple[str, ...]] = [*pairs, *((split,) for split, n in room.items() for _ in range(n))]
    copies = [
        PlannedImage(split, source, copy)
        for source, place in enumerate(rng.permutation(len(placements)))
        for copy, split in enumerate(placements[int(place)])
    ]
    shuffled = [copies[i] for i in rng.permutation(len(copies))]
    return [copy for split in V8_SPLITS for copy in shuffled if copy.split == split]


def _original_name(seed: int, source: int) -> str:
    """The name under which a patient's picture was uploaded, e.g. a DICOM-like UID, some with date and time.

    The arc 2.999 is reserved for examples, so that no real institution or patient can be meant. Numeric names
    are short, and therefore the same for different patients.
    """
    rng = _stream(seed, 1, source)
    extension = ("png", "jpg", "jpeg")[int(rng.choice(3, p=[0.6, 0.3, 0.1]))]
    kind = float(rng.random())
    if kind < 0.12:
        return f"{int(rng.integers(1, 40))}.{extension}"
    digits = [str(int(n)) for n in rng.integers(1, 10**6, size=4)]
    uid = f"2.999.{digits[0]}.{digits[1]}.4.0.{int(rng.integers(10**9, 10**12))}"
    if kind < 0.42:
        date = f"{2014 + int(rng.integers(0, 10))}{1 + int(rng.integers(12)):02d}{1 + int(rng.integers(28)):02d}"
        time = f"{8 + int(rng.integers(10)):02d}{int(rng.integers(60)):02d}{int(rng.integers(60)):02d}"
        return f"{uid}.{date}{time}.{digits[2]}.{extension}"
    return f"{uid}.{digits[2]}.{digits[3]}.{extension}"


def _file_name(seed: int, item: PlannedImage, original: str) -> str:
    """Roboflow's name of an exported image: `<stem>_<ext>.rf.<32 hex>.jpg`, dots of the stem as hyphens."""
    stem, extension = original.rsplit(".", 1)
    token = hashlib.sha256(f"dentsight phantom {seed} {item.source} {item.copy}".encode()).hexdigest()[:32]
    return f"{stem.replace('.', '-')}_{extension}.rf.{token}.jpg"


@dataclass
class _Label:
    """What an annotator wrote down."""

    raw_name: str
    outline: Points
    fdi: int
    true_name: str | None
    """The name in truth; None for a finding that is not there."""


def _annotate(shapes: list[Shape], second: bool, rng: np.random.Generator) -> list[_Label]:
    """The labels of one upload. The second one was made by another dentist, who sees and names things differently."""
    noise = SECOND_ANNOTATOR if second else FIRST_ANNOTATOR
    labels: list[_Label] = []
    by_fdi = {shape.fdi: shape for shape in shapes if shape.raw_name.isdigit()}
    for shape in shapes:
        name = shape.raw_name
        if second:
            if name.isdigit():
                if rng.random() < noise.misnumbered:
                    name = str(neighbours(shape.fdi)[0])  # one tooth further: the most frequent slip in counting
            elif rng.random() < noise.share_missed(name):
                continue
            elif name in noise.renamed and rng.random() < noise.renamed[name][1]:
                name = noise.renamed[name][0]
        labels.append(_Label(name, shifted(shape.outline_xy_px, noise.spread, rng), shape.fdi, shape.raw_name))
    if second and by_fdi:
        teeth = list(by_fdi.values())
        for name, mean in noise.added.items():
            for _ in range(int(rng.poisson(mean))):
                tooth = teeth[int(rng.integers(len(teeth)))]
                low, high = tooth.outline_xy_px.min(axis=0), tooth.outline_xy_px.max(axis=0)
                size = (high - low) * [0.35, 0.2]
                corner = low + (high - low - size) * rng.random(2)
                box = corner + size * np.array([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)])
                labels.append(_Label(name, box, tooth.fdi, None))
    if rng.random() < _PARTIAL_ANNOTATION_SHARE:
        labels = [label for label in labels if not label.raw_name.isdigit()]
    return labels


class _Box(TypedDict):
    """One annotation as the file says it."""

    id: int
    image_id: int
    category_id: int
    bbox: list[float]
    area: float
    segmentation: list[list[float]]
    iscrowd: int


@dataclass
class _Split:
    """One split's annotation file in the making; ids start at 0, as Roboflow's do."""

    images: list[_Record] = field(default_factory=list)
    annotations: list[_Box] = field(default_factory=list)

    def add(self, label: _Label, size: tuple[int, int], rng: np.random.Generator) -> _Box | None:
        """Write one label as Roboflow does; returns its record, or None when too little of it is in the picture."""
        record = _record(label, size, rng)
        if record is None:
            return None
        self._append(record)
        draw_of_defects = rng.random(2)
        if draw_of_defects[0] < _EXACT_DUPLICATE_RATE:
            self._append(record.copy())
        if draw_of_defects[1] < _NEAR_DUPLICATE_RATE:
            self._append(_nearly(record))
        return record

    def _append(self, record: _Box) -> None:
        record["id"], record["image_id"] = len(self.annotations), len(self.images)
        self.annotations.append(record)


def _nearly(record: _Box) -> _Box:
    """A box a little smaller, as it is drawn a second time."""
    width, height = (round(0.98 * side, 3) for side in record["bbox"][2:])
    return {**record, "bbox": [*record["bbox"][:2], width, height], "area": round(width * height, 3)}


def _record(label: _Label, size: tuple[int, int], rng: np.random.Generator) -> _Box | None:
    """One COCO annotation in Roboflow's dialect: x, y floored, w, h decimals, area = w·h, polygon or []."""
    limit = np.array(size, dtype=np.float64)
    low, high = label.outline.min(axis=0), label.outline.max(axis=0)
    inside_low, inside_high = np.clip(low, 0.0, limit), np.clip(high, 0.0, limit)
    whole = float(np.prod(np.maximum(high - low, 1e-6)))
    if float(np.prod(inside_high - inside_low)) < _LEAST_VISIBLE * whole:
        return None
    corner = np.floor(inside_low)
    extent = inside_high - inside_low
    beyond = 0.02 + 0.46 * rng.random(2)
    extent = np.where(high > limit, limit + beyond - corner, extent)  # Roboflow reaches < 0.5 px past the edge
    if rng.random() < _TINY_BOX_RATE:
        extent[0] = 1.0 + 0.9 * rng.random()
    width, height = (round(float(v), 3) for v in np.maximum(extent, 0.5))
    return {
        "id": 0,
        "image_id": 0,
        "category_id": CATEGORY_NAMES.index(label.raw_name),
        "bbox": [int(corner[0]), int(corner[1]), width, height],
        "area": round(width * height, 3),
        "segmentation": _polygon(label.outline, limit) if rng.random() < _POLYGON_SHARE else [],
        "iscrowd": 0,
    }


def _polygon(outline: Points, limit: Points) -> list[list[float]]:
    """About eighteen points of an outline, inside the picture."""
    points = outline[:: max(1, len(outline) // 18)]
    return [np.clip(points, 0.0, limit).round(2).ravel().tolist()]


@dataclass(frozen=True)
class _Transform:
    """How a file differs from the drawn picture."""

    kind: str
    gain: float = 1.0
    offset: float = 0.0
    jpeg_quality: int = 90


def _transform(item: PlannedImage, rng: np.random.Generator) -> _Transform:
    """How the file differs from the drawn picture; a second upload was re-encoded, some are brighter or darker."""
    if item.copy == 0:
        return _Transform("original")
    if rng.random() < 0.6:
        return _Transform("re-encoded", jpeg_quality=int(rng.integers(70, 88)))
    gain, offset = 1.0 + 0.06 * float(rng.standard_normal()), 5.0 * float(rng.standard_normal())
    gain, offset = round(min(max(gain, 0.85), 1.15), 4), round(min(max(offset, -12.0), 12.0), 2)
    return _Transform("brightness", gain, offset, int(rng.integers(75, 92)))


def _encode(gray: np.ndarray, transform: _Transform) -> bytes:
    """The JPEG bytes of one upload."""
    if transform.kind == "brightness":
        gray = cv2.convertScaleAbs(gray, alpha=transform.gain, beta=transform.offset)
    ok, encoded = cv2.imencode(".jpg", gray, [cv2.IMWRITE_JPEG_QUALITY, transform.jpeg_quality])
    if not ok:
        raise ConfigurationError(
            f"OpenCV could not encode a JPEG of shape {gray.shape}. Reinstall opencv-python-headless."
        )
    return encoded.tobytes()


def _patient(seed: int, source: int, width: int) -> tuple[Mouth, Drawing]:
    """One patient and the picture of it; the same for every corpus with this seed and width."""
    rng = _stream(seed, 2, source)
    mouth = sample_mouth(rng)
    return mouth, draw(mouth, width, rng)


def _finding(shape: Shape) -> _Record:
    low, high = shape.outline_xy_px.min(axis=0), shape.outline_xy_px.max(axis=0)
    return {"name": shape.raw_name, "fdi": shape.fdi, "box_xyxy_px": [round(float(v), 2) for v in (*low, *high)]}


def _check_request(out: Path, images: int, width: int) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigurationError(f"{out} is a file. Name a new folder for the phantom corpus.")
    if out.is_dir() and any(out.iterdir()):
        raise ConfigurationError(f"{out} is not empty; nothing was written. Name a new folder, or empty this one.")
    if images < _MIN_IMAGES:
        raise ConfigurationError(
            f"{images} images were asked for; a corpus needs at least {_MIN_IMAGES}, one for each split."
        )
    if not _MIN_WIDTH <= width <= _MAX_WIDTH:
        raise ConfigurationError(
            f"A width of {width} px was asked for; it must lie between {_MIN_WIDTH} and {_MAX_WIDTH}."
        )


def write_phantom_export(
    out: Path,
    images: int,
    seed: int,
    width: int = 1280,
    progress: Callable[[int, int], None] | None = None,
) -> PhantomSummary:
    """Write a synthetic Roboflow COCO-segmentation export with v8's traits.

    The folder appears whole or not at all. The same arguments give the same bytes; a patient's picture depends on
    the seed and the patient's number alone, not on how many are drawn.

    Args:
        out: New or empty folder.
        images: Images over all splits, at least 3; v8 has 2213.
        seed: Any non-negative whole number.
        width: Width of every image in px, 160 to 4096; heights vary.
        progress: Called after each image with (images written, images in total).

    Returns:
        Counts of what was written.

    Raises:
        ConfigurationError: `out` is a file or not empty, or a number cannot be meant.
        StorageError: The disk refused; nothing is left behind.
    """
    out = Path(out)
    if seed < 0:
        raise ConfigurationError(f"Seed {seed} is negative. Give a whole number from 0 upwards.")
    _check_request(out, images, width)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    except OSError as error:
        raise StorageError(f"Cannot create a folder beside {out}: {error.strerror}. Choose another place.") from error
    try:
        summary = _write(partial, images, seed, width, progress)
        partial.chmod(0o755)
        partial.replace(out)
    except OSError as error:
        raise StorageError(
            f"Writing the phantom corpus to {out} failed: {error.strerror}. Nothing was left behind; "
            "free some space or choose another place, and run it again."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return summary


def _write(
    folder: Path, images: int, seed: int, width: int, progress: Callable[[int, int], None] | None
) -> PhantomSummary:
    """Write all files of the export into an existing, empty folder."""
    writing = _Writing(folder, seed, width)
    plan = plan_images(images, seed)
    for done, item in enumerate(plan, start=1):
        writing.add(item)
        if progress is not None:
            progress(done, images)
    _write_annotations(folder, writing.splits)
    _write_readmes(folder, images)
    _write_json(folder / TRUTH_FILE, writing.truth())
    return writing.summary(Counter(item.source for item in plan))


class _Writing:
    """An export in the making: its splits' records, and the true answers beside them."""

    def __init__(self, folder: Path, seed: int, width: int) -> None:
        self.folder, self.seed, self.width = folder, seed, width
        self.splits = {split: _Split() for split in V8_SPLITS}
        self._sources: dict[int, _Record] = {}
        self._files: list[_Record] = []
        for split in self.splits:
            (folder / split).mkdir()

    def add(self, item: PlannedImage) -> None:
        """Draw, annotate and write one image."""
        mouth, drawing = _patient(self.seed, item.source, self.width)
        original = _original_name(self.seed, item.source)
        name = _file_name(self.seed, item, original)
        rng = _stream(self.seed, 3, item.source, item.copy)
        transform = _transform(item, rng)
        (self.folder / item.split / name).write_bytes(_encode(drawing.gray, transform))
        height = drawing.gray.shape[0]
        split = self.splits[item.split]
        first = len(split.annotations)
        drawn = [] if mouth.healthy else _annotate(drawing.shapes, item.copy == 1, rng)
        labels = [split.add(label, (self.width, height), rng) for label in drawn]
        written = split.annotations[first:]
        split.images.append(_image(len(split.images), name, (self.width, height), original))
        self._sources[item.source] = _source_truth(mouth, drawing)
        self._files.append(_file_truth(item, name, transform, written, zip(drawn, labels, strict=True)))

    def truth(self) -> _Record:
        """The true answers: what each patient has, and what each file shows of it."""
        return {
            "corpus": PHANTOM_MARKER,
            "seed": self.seed,
            "width": self.width,
            "sources": {str(source): self._sources[source] for source in sorted(self._sources)},
            "files": self._files,
        }

    def summary(self, sources: Counter[int]) -> PhantomSummary:
        """Counts of what was written; `sources` says how many images each patient has."""
        splits = self.splits
        counts = Counter(CATEGORY_NAMES[a["category_id"]] for s in splits.values() for a in s.annotations)
        annotated = sum(len({a["image_id"] for a in s.annotations}) for s in splits.values())
        return PhantomSummary(
            images=sources.total(),
            annotations=counts.total(),
            splits={k: {"images": len(s.images), "annotations": len(s.annotations)} for k, s in splits.items()},
            sources=len(sources),
            doubled_sources=sum(n == 2 for n in sources.values()),
            images_without_annotations=sources.total() - annotated,
            class_counts={name: counts[name] for name in CATEGORY_NAMES if counts[name]},
            width=self.width,
            seed=self.seed,
        )


def _image(number: int, name: str, size: tuple[int, int], original: str) -> _Record:
    """An image's record in its split's annotation file."""
    return {
        "id": number,
        "license": 1,
        "file_name": name,
        "height": size[1],
        "width": size[0],
        "date_captured": _DATE,
        "extra": {"name": original},
    }


def _source_truth(mouth: Mouth, drawing: Drawing) -> _Record:
    return {
        "healthy": mouth.healthy,
        "teeth": {str(fdi): tooth.status for fdi, tooth in mouth.teeth.items()},
        "findings": [_finding(s) for s in drawing.shapes if not s.raw_name.isdigit()],
    }


def _file_truth(
    item: PlannedImage,
    name: str,
    transform: _Transform,
    written: Sequence[_Box],
    labels: Iterable[tuple[_Label, _Box | None]],
) -> _Record:
    return {
        "split": item.split,
        "file_name": name,
        "source": item.source,
        "copy": item.copy,
        "annotator": "second" if item.copy else "first",
        "transform": asdict(transform),
        "teeth_annotated": any(CATEGORY_NAMES[a["category_id"]].isdigit() for a in written),
        "labels": [
            {"annotation_id": record["id"], "fdi": label.fdi, "true_name": label.true_name}
            for label, record in labels
            if record is not None and not label.raw_name.isdigit()
        ],
    }


_DATE = "2025-01-01T00:00:00+00:00"  # fixed: the same arguments give the same bytes


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, separators=(",", ":")), encoding="utf-8")


_HEAD = {
    "info": {
        "year": "2025",
        "version": "8",
        "description": "Drawn by dentsight phantom in the form of an export from roboflow.com",
        "contributor": "",
        "url": "",
        "date_created": _DATE,
    },
    "licenses": [{"id": 1, "url": "https://creativecommons.org/publicdomain/zero/1.0/", "name": "Public Domain"}],
    "categories": [
        {"id": i, "name": name, "supercategory": "OPG-data" if i else "none"} for i, name in enumerate(CATEGORY_NAMES)
    ],
}


def _write_annotations(folder: Path, splits: Mapping[str, _Split]) -> None:
    """The annotation file of each split."""
    for name, split in splits.items():
        document = {**_HEAD, "images": split.images, "annotations": split.annotations}
        _write_json(folder / name / "_annotations.coco.json", document)


_DATASET_README = f"""# OPG REPORTING > v8-opg-reduced-classes (phantom)

Provided by the command `dentsight phantom`
License: Public Domain

{PHANTOM_MARKER}
"""
_ROBOFLOW_README = """
OPG REPORTING - v8 opg-reduced-classes (phantom)
==============================

This dataset was drawn by `dentsight phantom` in the form of an export from roboflow.com.
It was not exported by Roboflow, and it shows no patient.

The dataset includes {images} images.
OPG-data are annotated in COCO Segmentation format.

The following pre-processing was applied to each image:
* Auto-orientation of pixel data (with EXIF-orientation stripping)

No image augmentation techniques were applied.
"""


def _write_readmes(folder: Path, images: int) -> None:
    """The two README files of a Roboflow export."""
    (folder / "README.dataset.txt").write_text(_DATASET_README, encoding="utf-8")
    (folder / "README.roboflow.txt").write_text(_ROBOFLOW_README.format(images=images), encoding="utf-8")
