"""An evaluation in memory and on disk: one document and three tables. Nothing is measured here."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from dentsight_pipeline.documents.codec import plain
from dentsight_pipeline.documents.evaluation import (
    CURVES_FILE,
    EVALUATION_FILE,
    Curves,
    EvaluationDocument,
    Measurement,
    Population,
    for_people,
)
from dentsight_pipeline.documents.facts import Cell
from dentsight_pipeline.errors import EvaluationError
from dentsight_pipeline.evaluation.errors_by_type import Shown
from dentsight_pipeline.evaluation.figures import FIGURES
from dentsight_pipeline.store.files import write_whole, written_whole

_TEXTS, _COUNTS = ("population", "class"), ("n_gt", "n_images", "n_detections")
_THRESHOLDS = ("threshold_p95", "threshold_best_f1")
_COLUMNS = {
    **dict.fromkeys(_TEXTS, pa.string()),
    **dict.fromkeys(_COUNTS, pa.int64()),
    **dict.fromkeys((f"{metric}{end}" for metric in FIGURES for end in ("", "_low", "_high")), pa.float64()),
    **dict.fromkeys(_THRESHOLDS, pa.float64()),
}
"""Of the per-class tables."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation in memory.

    Attributes:
        document: The content of `evaluation.json`.
        curves: The content of `curves.json`.
        shown: What `matches.parquet` is written from, in blocks.
    """

    document: EvaluationDocument
    curves: Curves
    shown: Shown

    @property
    def per_class(self) -> list[dict[str, Cell]]:
        """Rows of the per-class tables, of every population; an unreachable threshold is null."""
        return [
            {"population": name, **plain(row)}
            for name, population in self.document.populations.items()
            for row in population.per_class
        ]

    @property
    def macro_ap(self) -> float | None:
        """Macro AP[.50:.95] over all images and the present classes."""
        return self.document.populations["all"].macro.ap

    @property
    def macro_ap50(self) -> float | None:
        """Macro AP50 over all images and the present classes."""
        return self.document.populations["all"].macro.ap50

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """All that gates see."""
        return self.document.measurements


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write the evaluation folder: `evaluation.json`, `per_class.{csv,json,parquet}`, `curves.json`, `matches.parquet`.

    Each file appears whole or not at all, and the same evaluation gives the same bytes. In JSON an unreachable
    threshold is null beside a figure of 0; in CSV and Parquet it is `inf`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{name: row[name] for name in _COLUMNS} for row in evaluation.per_class]
    reached = [{**row, **{name: _or_infinity(row[name]) for name in _THRESHOLDS}} for row in rows]
    write_whole(folder / CURVES_FILE, for_people(evaluation.curves, indent=None))
    _write_parquet(folder / "matches.parquet", evaluation.shown.blocks())
    write_whole(folder / "per_class.json", for_people(rows))
    _write_parquet(folder / "per_class.parquet", [pa.Table.from_pylist(reached, pa.schema(_COLUMNS))])
    write_whole(folder / "per_class.csv", _csv(reached))
    # The last one: its presence says that the rest is there.
    write_whole(folder / EVALUATION_FILE, for_people(evaluation.document))


def _or_infinity(threshold: Cell) -> Cell:
    return math.inf if threshold is None else threshold


def _write_parquet(path: Path, blocks: Iterable[pa.Table]) -> None:
    """The tables, of which there is one at least, as one file: a row group each."""
    tables = iter(blocks)
    first = next(tables)
    with written_whole(path) as new, parquet.ParquetWriter(new, first.schema, compression="zstd") as writer:
        for table in chain([first], tables):
            writer.write_table(table)


def _csv(rows: list[dict[str, Cell]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(_COLUMNS))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def read_json_file(path: Path) -> Any:
    """Parsed JSON.

    Raises:
        EvaluationError: Missing or not JSON, with the place.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {error.strerror}. Give an existing JSON file.") from error
    except ValueError as error:
        raise EvaluationError(f"{path} is not JSON: {error}. Write it anew; it may be cut off.") from error


def summary(document: EvaluationDocument) -> dict[str, Any]:
    """The short form of an `evaluation.json`: the keys that scripts read.

    Args:
        document: Its content, e.g. from `read_evaluation`.

    Returns:
        `per_class` rows, `macro_ap`, `macro_ap50`, … over all images; `clean` holds the same for the clean ones.
    """
    populations = document.populations
    whole = plain(document)
    named = ("gated_population", "thresholds_from", "engines", "ground_truth_sha256", "detections_sha256", "notes")
    return {
        **_short(populations["all"]),
        "clean": _short(populations["clean"]) if "clean" in populations else None,
        **{name: whole[name] for name in named},
    }


def _short(population: Population) -> dict[str, Any]:
    macro = plain(population.macro)
    keys = (*("ap", "ap50", "ap75", "ar100"), *(f"{name}_{end}" for name in ("ap", "ap50") for end in ("low", "high")))
    return {
        **{f"macro_{key}": macro[key] for key in keys},
        "images": population.images,
        "present": population.macro.present,
        "of": population.macro.of,
        "per_class": plain(population.per_class),
    }
