"""The two COCO engines behind one function: pycocotools, the engine of record, and hotcoco, the fast one.

Both get the same validated columns, with ids renumbered from 1 in the order of the file's ids (which keeps every tie
as it was), and neither prints. Nothing here resamples or chooses thresholds.

pycocotools runs class by class: its arrays are independent across classes, and its memory is then bounded by the
largest class instead of the whole set.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any, Literal

import numpy as np

from dentsight_pipeline.errors import ConfigurationError, EvaluationError
from dentsight_pipeline.evaluation.validation import Detections, GroundTruth, read_detections, read_ground_truth

Engine = Literal["pycocotools", "hotcoco"]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""[T = 10] 0.50, 0.55, …, 0.95, with the very floats of pycocotools."""
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
"""[R = 101]"""
AREA_RANGES_PX = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""[A = 4] square pixels, both ends included."""
MAX_DETECTIONS = (1, 10, 100)
"""[M = 3] per image and class."""
AGREEMENT_TOLERANCE = 1e-12


@dataclass(frozen=True)
class EngineResult:
    """What an engine returns; −1 marks classes without ground truth in the raw arrays, None in everything derived.

    Attributes:
        engine: Its name.
        version: Its version.
        classes: [K] names in the order of category ids.
        precision: [T, R, K, A, M] monotone envelope at 101 recalls.
        recall: [T, K, A, M].
        scores: [T, R, K, A, M] score at which each recall is first reached; 0 where it never is.
    """

    engine: str
    version: str
    classes: tuple[str, ...]
    precision: np.ndarray
    recall: np.ndarray
    scores: np.ndarray

    @cached_property
    def per_class(self) -> dict[str, dict[str, float | None]]:
        """Per class: ap, ap50, ap75, ar100, ap_small, ap_medium, ap_large. None = no ground truth, not zero."""
        rows = {}
        for k, name in enumerate(self.classes):
            precision, recall = self.precision[:, :, k, :, -1], self.recall[:, k, :, -1]
            rows[name] = {
                "ap": _present(precision[:, :, 0]),
                "ap50": _present(precision[0, :, 0]),
                "ap75": _present(precision[5, :, 0]),
                "ar100": _present(recall[:, 0]),
                "ap_small": _present(precision[:, :, 1]),
                "ap_medium": _present(precision[:, :, 2]),
                "ap_large": _present(precision[:, :, 3]),
            }
        return rows

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

    @property
    def ap75(self) -> float | None:
        """Macro AP at IoU .75 over the present classes."""
        return self.macro("ap75")

    @property
    def ar100(self) -> float | None:
        """Macro average recall with 100 detections per image and class."""
        return self.macro("ar100")

    def summary(self) -> np.ndarray:
        """[12] the published COCO numbers: AP, AP50, AP75, AP s/m/l, AR1, AR10, AR100, AR s/m/l; −1 = undefined."""
        area_precision = [self.precision[:, :, :, a, 2] for a in range(4)]
        area_recall = [self.recall[:, :, a, 2] for a in range(4)]
        cells = [
            area_precision[0], area_precision[0][0], area_precision[0][5], *area_precision[1:],
            self.recall[:, :, 0, 0], self.recall[:, :, 0, 1], area_recall[0], *area_recall[1:],
        ]  # fmt: skip
        return np.array([cell[cell > -1].mean() if (cell > -1).any() else -1.0 for cell in cells])


def coco_statistics(
    gt: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], engine: Engine = "hotcoco"
) -> EngineResult:
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
    truth: GroundTruth, detections: Detections, engine: Engine, populations: Mapping[str, np.ndarray]
) -> dict[str, EngineResult]:
    """One result for each image mask [I] in `populations`.

    pycocotools matches each image once and accumulates once for each population, since a match never depends on other
    images; hotcoco scores each population from scratch.
    """
    if engine == "hotcoco":
        return {name: _run_hotcoco(truth.subset(mask), detections.subset(mask)) for name, mask in populations.items()}
    if engine == "pycocotools":
        return _run_pycocotools(truth, detections, populations)
    raise ConfigurationError(f"Engine {engine!r} is not known. Choose pycocotools or hotcoco.")


def max_abs_difference(a: EngineResult, b: EngineResult) -> float:
    """The largest absolute difference over all precision and recall cells; infinite when shapes differ."""
    if a.precision.shape != b.precision.shape or a.recall.shape != b.recall.shape:
        return float("inf")
    worst = max(np.abs(a.precision - b.precision).max(initial=0.0), np.abs(a.recall - b.recall).max(initial=0.0))
    return float(worst) if np.isfinite(worst) else float("inf")


def _present(cells: np.ndarray) -> float | None:
    cells = cells[cells > -1]
    return float(cells.mean()) if cells.size else None


def _image_records(truth: GroundTruth) -> list[dict[str, Any]]:
    return [{"id": i + 1, "width": 1, "height": 1, "file_name": ""} for i in range(len(truth.image_ids))]


def _run_hotcoco(truth: GroundTruth, detections: Detections) -> EngineResult:
    import hotcoco

    categories = [{"id": k + 1, "name": name} for k, name in enumerate(truth.class_names)]
    reference = hotcoco.COCO.from_arrays(
        _image_records(truth),
        categories,
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
    arrays = evaluator.eval
    if arrays is None:
        raise EvaluationError("hotcoco returned nothing. Install the version of constraints.txt.")
    return EngineResult(
        "hotcoco",
        version("hotcoco"),
        truth.class_names,
        np.asarray(arrays["precision"], np.float64),
        np.asarray(arrays["recall"], np.float64),
        np.asarray(arrays["scores"], np.float64),
    )


def _run_pycocotools(
    truth: GroundTruth, detections: Detections, populations: Mapping[str, np.ndarray]
) -> dict[str, EngineResult]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    shape = (len(IOU_THRESHOLDS), len(RECALL_THRESHOLDS), len(truth.class_names), len(AREA_RANGES_PX), 3)
    tables = {
        name: {"precision": -np.ones(shape), "recall": -np.ones(shape[:1] + shape[2:]), "scores": -np.ones(shape)}
        for name in populations
    }
    images = _image_records(truth)
    for k, name in enumerate(truth.class_names):
        category = {"id": k + 1, "name": name}
        mine = np.flatnonzero(truth.class_index == k)
        if not len(mine):
            continue  # −1 everywhere, as pycocotools has it
        found = np.flatnonzero(detections.class_index == k)
        reference: Any = COCO()
        reference.dataset = {
            "images": images,
            "categories": [category],
            "annotations": [
                {"id": i, "image_id": image, "category_id": k + 1, "bbox": box, "area": area, "iscrowd": crowd}
                for i, image, box, area, crowd in zip(
                    (mine + 1).tolist(),
                    (truth.image_index[mine] + 1).tolist(),
                    truth.boxes_xywh_px[mine].tolist(),
                    truth.areas_px[mine].tolist(),
                    truth.crowd[mine].astype(int).tolist(),
                    strict=True,
                )
            ],
        }
        results: Any = COCO()
        results.dataset = {
            "images": images,
            "categories": [category],
            "annotations": [
                {"id": i, "image_id": image, "category_id": k + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0,
                 "score": value}
                for i, image, box, value in zip(
                    range(1, len(found) + 1),
                    (detections.image_index[found] + 1).tolist(),
                    detections.boxes_xywh_px[found].tolist(),
                    detections.scores[found].tolist(),
                    strict=True,
                )
            ],
        }  # fmt: skip
        with contextlib.redirect_stdout(io.StringIO()):
            reference.createIndex()
            results.createIndex()
            evaluator = COCOeval(reference, results, "bbox")
            evaluator.evaluate()
            every_image = evaluator.evalImgs  # one entry for each (area range, image)
            for population, mask in populations.items():
                _narrow(evaluator, every_image, mask)
                evaluator.accumulate()
                for field, table in tables[population].items():
                    table[..., k, :, :] = evaluator.eval[field][..., 0, :, :]
    return {
        name: EngineResult(
            "pycocotools",
            version("pycocotools"),
            truth.class_names,
            table["precision"],
            table["recall"],
            table["scores"],
        )
        for name, table in tables.items()
    }


def _narrow(evaluator: Any, every_image: list[Any], mask: np.ndarray) -> None:
    """Make a matched evaluator accumulate over the images of `mask` [I] alone, for its one class."""
    kept = np.flatnonzero(mask)
    evaluator.evalImgs = [every_image[a * len(mask) + i] for a in range(len(AREA_RANGES_PX)) for i in kept]
    evaluator.params.imgIds = [int(i) + 1 for i in kept]
    evaluator._paramsEval.imgIds = evaluator.params.imgIds
