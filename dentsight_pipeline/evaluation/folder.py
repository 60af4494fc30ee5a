"""An evaluation in memory and on disk: one document and three tables. Nothing is measured here."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dentsight_pipeline.errors import EvaluationError
from dentsight_pipeline.store.files import write_whole

SCHEMA = "dentsight-evaluation/1"


@dataclass(frozen=True)
class Evaluation:
    """One evaluation in memory.

    Attributes:
        document: The content of `evaluation.json`.
        per_class: Rows of both populations, with a `population` column.
        curves: The content of `curves.json`.
        matches: Columns of `matches.parquet`.
    """

    document: dict[str, Any]
    per_class: list[dict[str, Any]]
    curves: dict[str, Any]
    matches: dict[str, np.ndarray]

    @property
    def macro_ap(self) -> float | None:
        """Macro AP[.50:.95] over all images and the present classes."""
        return self.document["populations"]["all"]["macro"]["ap"]

    @property
    def macro_ap50(self) -> float | None:
        """Macro AP50 over all images and the present classes."""
        return self.document["populations"]["all"]["macro"]["ap50"]

    @property
    def measurements(self) -> list[dict[str, Any]]:
        """All that gates see."""
        return self.document["measurements"]


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write the evaluation folder: `evaluation.json`, `per_class.{csv,json,parquet}`, `curves.json`, `matches.parquet`.

    Each file appears whole or not at all, and the same evaluation gives the same bytes. In JSON an unreachable
    threshold is null beside a figure of 0; in CSV and Parquet it is `inf`.
    """
    import pyarrow as pa
    from pyarrow import parquet

    folder.mkdir(parents=True, exist_ok=True)

    def parquet_bytes(table: pa.Table) -> bytes:
        sink = pa.BufferOutputStream()
        parquet.write_table(table, sink, compression="zstd")
        return sink.getvalue().to_pybytes()

    columns = list(evaluation.per_class[0])
    by_column = {name: [row[name] for row in evaluation.per_class] for name in columns}
    texts, wholes = {"population", "class"}, {"n_gt", "n_images", "n_detections"}
    types = {n: pa.string() if n in texts else pa.int64() if n in wholes else pa.float64() for n in columns}
    per_class = pa.table({name: pa.array(by_column[name], types[name]) for name in columns})
    matches = evaluation.matches
    gap = np.isnan(matches["score"])
    none = matches["matched_at_50"] < 0
    match_table = pa.table(
        {
            "image_id": pa.array(matches["image_id"], pa.int64()),
            "class": pa.array(matches["class"], pa.string()),
            "score": pa.array(matches["score"], pa.float64(), mask=gap),
            **{side: pa.array(matches[side], pa.float64()) for side in "xywh"},
            "matched_at_50": pa.array(matches["matched_at_50"], pa.int64(), mask=none),
            "iou": pa.array(matches["iou"], pa.float64(), mask=gap),
            "kind": pa.array(matches["kind"], pa.string()),
            "above_threshold": pa.array(matches["above_threshold"], pa.bool_(), mask=gap),
        }
    )
    write_whole(folder / "curves.json", _json(evaluation.curves, indent=None))
    write_whole(folder / "matches.parquet", parquet_bytes(match_table))
    write_whole(folder / "per_class.json", _json(plain(evaluation.per_class)))
    write_whole(folder / "per_class.parquet", parquet_bytes(per_class))
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, columns)
    writer.writeheader()
    writer.writerows(evaluation.per_class)
    write_whole(folder / "per_class.csv", table.getvalue().encode())
    # The last one: its presence says that the rest is there.
    write_whole(folder / "evaluation.json", _json(evaluation.document))


def read_evaluation(folder: Path) -> dict[str, Any]:
    """The `evaluation.json` of a folder.

    Raises:
        EvaluationError: None there, or of another schema.
    """
    document = read_json_file(folder / "evaluation.json")
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise EvaluationError(
            f"{folder / 'evaluation.json'} is not a {SCHEMA} document. Make one with `dentsight evaluate --out`."
        )
    return document


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


def plain(value: Any) -> Any:
    """JSON without NaN, infinity or numpy: what cannot be measured or reached is null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json(document: Any, indent: int | None = 1) -> bytes:
    return (json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False) + "\n").encode()


def summary(document: Mapping[str, Any]) -> dict[str, Any]:
    """The short form of an `evaluation.json`: the keys that scripts read.

    Args:
        document: Its content, e.g. from `read_evaluation`.

    Returns:
        `per_class` rows, `macro_ap`, `macro_ap50`, … over all images; `clean` holds the same for the clean ones.
    """

    def short(population: Mapping[str, Any]) -> dict[str, Any]:
        macro = population["macro"]
        figures = {f"macro_{name}": macro[name] for name in ("ap", "ap50", "ap75", "ar100")}
        bounds = {f"macro_{name}_{end}": macro[f"{name}_{end}"] for name in ("ap", "ap50") for end in ("low", "high")}
        counts = {"images": population["images"], "present": macro["present"], "of": macro["of"]}
        return {**figures, **bounds, **counts, "per_class": population["per_class"]}

    populations = document["populations"]
    return {
        **short(populations["all"]),
        "clean": short(populations["clean"]) if "clean" in populations else None,
        "gated_population": document["gated_population"],
        "thresholds_from": document["thresholds_from"],
        "engines": document["engines"],
        "ground_truth_sha256": document["ground_truth_sha256"],
        "detections_sha256": document["detections_sha256"],
        "notes": document["notes"],
    }
