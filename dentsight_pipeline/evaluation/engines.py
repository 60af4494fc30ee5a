"""The two COCO engines behind one function: pycocotools, the engine of record, and hotcoco, the fast one.

Both get the same validated columns, with ids renumbered from 1 in the order of the file's ids (which keeps every tie
as it was), and neither prints. Nothing here resamples or chooses thresholds.

Both run in pieces of whole classes, since no array depends on another class: memory is then bounded by the largest
piece. With `areas=("all",)` pycocotools leaves out the size ranges, which more than halves its work.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any, Literal, NotRequired, TypedDict, TypeVar

import numpy as np

from dentsight_pipeline.errors import ConfigurationError, EvaluationError
from dentsight_pipeline.evaluation.columns import Detections, GroundTruth
from dentsight_pipeline.evaluation.validation import read_detections, read_ground_truth

Engine = Literal["pycocotools", "hotcoco"]
Name = TypeVar("Name", bound=str)

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""[T = 10] 0.50, 0.55, …, 0.95, with the very floats of pycocotools."""
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
"""[R = 101]"""
AREA_RANGES_PX = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""[A = 4] square pixels, both ends included."""
SIZES = tuple(AREA_RANGES_PX)[1:]
MAX_DETECTIONS = (1, 10, 100)
"""[M = 3] per image and class."""
_BOXES_AT_ONCE = 150_000
_IMAGES_AT_ONCE = 5_000


class _Box(TypedDict):
    """A box as pycocotools wants it, of ground truth or of a detection."""

    id: int
    image_id: int
    category_id: int
    bbox: list[float]
    area: float
    iscrowd: int
    score: NotRequired[float]


@dataclass(frozen=True)
class EngineResult:
    """What an engine returns; −1 marks classes without ground truth in the raw arrays, None in everything derived.

    Attributes:
        engine: Its name.
        version: Its version.
        classes: [K] names in the order of category ids.
        precision: [T, R, K, A, M] monotone envelope at 101 recalls.
        recall: [T, K, A, M].
    """

    engine: str
    version: str
    classes: tuple[str, ...]
    precision: np.ndarray
    recall: np.ndarray

    @cached_property
    def per_class(self) -> dict[str, dict[str, float | None]]:
        """Per class: ap, ap50, ap75, ar100 and, by size, ap_small, …, if scored. None = no ground truth, not zero."""
        return {name: self._figures(k) for k, name in enumerate(self.classes)}

    def _figures(self, k: int) -> dict[str, float | None]:
        precision, recall = self.precision[:, :, k, :, -1], self.recall[:, k, 0, -1]
        sizes = SIZES[: precision.shape[2] - 1]
        return {
            "ap": _present(precision[:, :, 0]),
            "ap50": _present(precision[0, :, 0]),
            "ap75": _present(precision[5, :, 0]),
            "ar100": _present(recall),
            **{f"ap_{size}": _present(precision[:, :, a]) for a, size in enumerate(sizes, start=1)},
        }

    @property
    def present(self) -> tuple[str, ...]:
        """The classes that have ground truth: the ones that a macro mean is over."""
        return tuple(name for name, row in self.per_class.items() if row["ap"] is not None)

    def macro(self, metric: str) -> float | None:
        """Mean of one metric over the classes that have it; None when no class has."""
        values = [row[metric] for row in self.per_class.values() if row[metric] is not None]
        return float(np.mean(values)) if values else None  # type: ignore[arg-type]

    @property
    def ap(self) -> float | None:
        """Macro AP[.50:.95] over the present classes."""
        return self.macro("ap")

    @property
    def ap50(self) -> float | None:
        """Macro AP at IoU .50 over the present classes."""
        return self.macro("ap50")

    def summary(self) -> np.ndarray:
        """[12] the published COCO numbers: AP, AP50, AP75, AP s/m/l, AR1, AR10, AR100, AR s/m/l; −1 = undefined."""
        area_precision = [self.precision[:, :, :, a, 2] for a in range(4)]
        area_recall = [self.recall[:, :, a, 2] for a in range(4)]
        cells = [
            area_precision[0], area_precision[0][0], area_precision[0][5], *area_precision[1:],
            self.recall[:, :, 0, 0], self.recall[:, :, 0, 1], area_recall[0], *area_recall[1:],
        ]  # fmt: skip
        return np.array([cell[cell > -1].mean() if (cell > -1).any() else -1.0 for cell in cells])


def coco_statistics(gt: object, detections: object, engine: Engine = "hotcoco") -> EngineResult:
    """Score detections against a COCO ground truth, in silence.

    Args:
        gt: Parsed COCO JSON; see `validation.read_ground_truth`. Images without annotations stay: they are negatives.
        detections: COCO results list; empty is fine, every class with ground truth then scores 0.
        engine: `hotcoco` (fast, bit-identical on every set tried) or `pycocotools` (of record).

    Raises:
        ScoringRecordError: A record that would be mis-scored.
        ConfigurationError: An unknown engine.
    """
    truth = read_ground_truth(gt)
    return score(truth, read_detections(detections, truth), engine)


def score(truth: GroundTruth, detections: Detections, engine: Engine = "hotcoco") -> EngineResult:
    """`coco_statistics` on columns that are validated already."""
    return score_populations(truth, detections, engine, {"all": np.ones(len(truth.image_ids), bool)})["all"]


def score_populations(
    truth: GroundTruth,
    detections: Detections,
    engine: Engine,
    populations: Mapping[Name, np.ndarray],
    areas: Sequence[str] = tuple(AREA_RANGES_PX),
) -> dict[Name, EngineResult]:
    """One result for each image mask [I] in `populations`; one without images is −1 throughout.

    pycocotools matches each image once and accumulates once for each population, since a match never depends on other
    images; hotcoco scores each population from scratch, in all of `AREA_RANGES_PX`. Each class is scored on the images
    in which it was looked for: AP does not depend on how many images there are, so it is enough that its detections on
    the others take no part.
    """
    detections = detections.looked_for(truth)
    if engine == "hotcoco":
        return {name: _run_hotcoco(truth, detections, mask) for name, mask in populations.items()}
    if engine == "pycocotools":
        return _run_pycocotools(truth, detections, populations, areas)
    raise ConfigurationError(f"Engine {engine!r} is not known. Choose pycocotools or hotcoco.")


def max_abs_difference(a: EngineResult, b: EngineResult) -> float:
    """The largest absolute difference over all precision and recall cells; infinite when shapes differ."""
    if a.precision.shape != b.precision.shape or a.recall.shape != b.recall.shape:
        return float("inf")
    worst = max(np.abs(a.precision - b.precision).max(initial=0.0), np.abs(a.recall - b.recall).max(initial=0.0))
    return float(worst) if np.isfinite(worst) else float("inf")


def common_cells(a: EngineResult, b: EngineResult) -> EngineResult:
    """`a` without the area ranges that `b` was not scored in."""
    n = b.precision.shape[3]
    return replace(a, precision=a.precision[..., :n, :], recall=a.recall[..., :n, :])


def with_cells_of(a: EngineResult, b: EngineResult) -> EngineResult:
    """`a` with the cells that `b` has as well taken from `b`."""
    n = b.precision.shape[3]
    joined = {
        field: np.concatenate([getattr(b, field), getattr(a, field)[..., n:, :]], axis=-2)
        for field in ("precision", "recall")
    }
    return replace(a, engine=b.engine, version=b.version, **joined)


def _present(cells: np.ndarray) -> float | None:
    cells = cells[cells > -1]
    return float(cells.mean()) if cells.size else None


def _image_records(n: int) -> list[dict[str, int | str]]:
    return [{"id": i, "width": 1, "height": 1, "file_name": ""} for i in range(1, n + 1)]


def _blank(engine: Engine, truth: GroundTruth, n_areas: int = len(AREA_RANGES_PX)) -> EngineResult:
    """−1 everywhere, as an engine leaves what has no ground truth."""
    n_recalls, k = len(RECALL_THRESHOLDS), len(truth.class_names)
    cells = -np.ones((len(IOU_THRESHOLDS), n_recalls, k, n_areas, len(MAX_DETECTIONS)))
    return EngineResult(engine, version(engine), truth.class_names, cells, cells[:, 0].copy())


def _pieces(truth: GroundTruth, detections: Detections) -> Iterator[slice]:
    """Neighbouring classes that together have at most some 150,000 boxes, or a single one that has more."""
    n_classes = len(truth.class_names)
    boxes = np.bincount(np.concatenate([truth.class_index, detections.class_index]), minlength=n_classes)
    start = 0
    for stop in range(1, n_classes + 1):
        if stop == n_classes or boxes[start : stop + 1].sum() > _BOXES_AT_ONCE:
            yield slice(start, stop)
            start = stop


def _run_hotcoco(truth: GroundTruth, detections: Detections, images: np.ndarray) -> EngineResult:
    result = _blank("hotcoco", truth)
    if not images.any():
        return result
    for piece in _pieces(truth, detections):
        own, found = truth.of_classes(piece).subset(images), detections.of_classes(piece).subset(images)
        arrays = _hotcoco_arrays(own, found)
        for field in ("precision", "recall"):
            getattr(result, field)[..., piece, :, :] = arrays[field]
    return result


def _hotcoco_arrays(truth: GroundTruth, detections: Detections) -> Mapping[str, np.ndarray]:
    import hotcoco

    reference = hotcoco.COCO.from_arrays(
        _image_records(len(truth.image_ids)),
        [{"id": k, "name": name} for k, name in enumerate(truth.class_names, start=1)],
        truth.image_index + 1,
        truth.class_index + 1,
        truth.boxes_xywh_px,
        ids=np.arange(1, len(truth.annotation_ids) + 1),
        area=truth.areas_px,
        iscrowd=truth.crowd.astype(np.int64),
    )
    columns = [detections.image_index + 1, detections.boxes_xywh_px, detections.scores, detections.class_index + 1]
    results = reference.load_res(np.column_stack(columns).astype(np.float64))
    evaluator = hotcoco.COCOeval(reference, results, "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    if evaluator.eval is None:
        raise EvaluationError("hotcoco returned nothing. Install the version of constraints.txt.")
    return evaluator.eval


def _run_pycocotools(
    truth: GroundTruth, detections: Detections, populations: Mapping[Name, np.ndarray], areas: Sequence[str]
) -> dict[Name, EngineResult]:
    results = {name: _blank("pycocotools", truth, len(areas)) for name in populations}
    for k in np.unique(truth.class_index).tolist():  # −1 stays for the others, as pycocotools has it
        with contextlib.redirect_stdout(io.StringIO()):
            evaluator, by_area = _matched(truth, detections, k, areas)
            for name, mask in populations.items():
                _accumulate(evaluator, by_area, mask)
                for field in ("precision", "recall"):
                    getattr(results[name], field)[..., k, :, :] = evaluator.eval[field][..., 0, :, :]
    return results


def _matched(truth: GroundTruth, detections: Detections, k: int, areas: Sequence[str]) -> tuple[Any, list[list[Any]]]:
    """A `COCOeval` of one class, and for each range of areas what it made of each image."""
    from pycocotools.cocoeval import COCOeval

    own, found = (np.flatnonzero(columns.class_index == k) for columns in (truth, detections))
    by_area: list[list[Any]] = [[] for _ in areas]
    evaluator: Any = None
    for start in range(0, len(truth.image_ids), _IMAGES_AT_ONCE):
        images = range(start, min(start + _IMAGES_AT_ONCE, len(truth.image_ids)))
        gt, dt = (
            rows[(columns.image_index[rows] >= images.start) & (columns.image_index[rows] < images.stop)]
            for columns, rows in ((truth, own), (detections, found))
        )
        reference, results = (
            _indexed(images, records) for records in (_truth_records(truth, gt), _result_records(detections, dt))
        )
        evaluator = COCOeval(reference, results, "bbox")
        evaluator.params.areaRng = [list(AREA_RANGES_PX[area]) for area in areas]
        evaluator.params.areaRngLbl = list(areas)
        evaluator.evaluate()
        for a, entries in enumerate(by_area):
            entries += map(_counted, evaluator.evalImgs[a * len(images) : (a + 1) * len(images)])
    return evaluator, by_area


def _indexed(images: range, annotations: Sequence[_Box]) -> Any:
    from pycocotools.coco import COCO

    side: Any = COCO()
    side.dataset = {
        "images": [{"id": i + 1} for i in images],
        "categories": [{"id": 1, "name": ""}],
        "annotations": list(annotations),
    }
    side.createIndex()
    return side


def _counted(image: dict[str, np.ndarray] | None) -> dict[str, np.ndarray] | None:
    """What accumulating needs of one image; the rest would fill the memory."""
    return image and {key: image[key] for key in ("dtScores", "dtMatches", "dtIgnore", "gtIgnore")}


def _truth_records(truth: GroundTruth, rows: np.ndarray) -> list[_Box]:
    columns = (
        rows + 1,
        truth.image_index[rows] + 1,
        truth.boxes_xywh_px[rows],
        truth.areas_px[rows],
        truth.crowd[rows],
    )
    return [
        {"id": i, "image_id": image, "category_id": 1, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for i, image, box, area, crowd in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _result_records(detections: Detections, rows: np.ndarray) -> list[_Box]:
    boxes = detections.boxes_xywh_px[rows]
    columns = (detections.image_index[rows] + 1, boxes, boxes[:, 2] * boxes[:, 3], detections.scores[rows])
    return [
        {"id": i, "image_id": image, "category_id": 1, "bbox": box, "area": area, "iscrowd": 0, "score": score}
        for i, (image, box, area, score) in enumerate(zip(*(column.tolist() for column in columns), strict=True), 1)
    ]


def _accumulate(evaluator: Any, by_area: list[list[Any]], mask: np.ndarray) -> None:
    """Make a matched evaluator accumulate over the images of `mask` [I] alone, for its one class."""
    kept = np.flatnonzero(mask).tolist()
    evaluator.evalImgs = [images[i] for images in by_area for i in kept]
    evaluator.params.imgIds = [i + 1 for i in kept]
    evaluator._paramsEval.imgIds = evaluator.params.imgIds
    evaluator.accumulate()
