"""The readings of a study as one table, and as the files that others read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv, parquet

from dentsight_pipeline.documents.readers import MODEL_READER
from dentsight_pipeline.documents.study import READINGS_FILE, Finished, ModelFindings, Study, StudyEntry
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.evaluation.readers import StudyReadings
from dentsight_pipeline.pages.journal import read_journal
from dentsight_pipeline.pages.reading import FDI, marks_of, read_model, read_study, require_registered

CSV_FILE, PARQUET_FILE, BOXES_FILE = "readings.csv", "readings.parquet", "boxes.csv"
READINGS = pa.schema(
    [
        pa.field("reader", pa.string(), nullable=False),
        pa.field("image", pa.string(), nullable=False),  # digest of the image
        pa.field("tooth", pa.string(), nullable=False),  # FDI
        pa.field("condition", pa.string(), nullable=False),
        pa.field("present", pa.int8()),  # 1, 0, or null where the image could not be read
        pa.field("arm", pa.string(), nullable=False),  # `unaided` or `aided`; the model's own rows are `unaided`
        pa.field("session", pa.int16(), nullable=False),  # from 0
        pa.field("source", pa.string(), nullable=False),  # source group: the unit of resampling
    ]
)
"""One row for each reader, image, tooth and condition of a finished image."""


def study_readings(folder: Path) -> StudyReadings:
    """A study with all its finished readings, the model's among them.

    Raises:
        ConfigurationError: No study, not the registered one, or nobody has finished an image.
        DataError: A line of the journal was changed.
    """
    study, path = read_study(folder), folder / READINGS_FILE
    entries: list[StudyEntry] = read_journal(path, StudyEntry) if path.is_file() else []
    finished = [entry for entry in entries if isinstance(entry, Finished)]
    if not finished:
        raise ConfigurationError(
            f"Nobody has finished an image of {folder} yet. Read it with `dentsight read {folder}`."
        )
    require_registered(entries, study, folder)
    rows = [*_dentists(study, entries, finished), *_model(study, read_model(folder, study))]
    lacking = len(study.readers) * len(study.images) * study.sessions - len(finished)
    return StudyReadings(study, pa.Table.from_pylist(rows, schema=READINGS), lacking)


def write_readings(folder: Path) -> list[Path]:
    """The readings as CSV and Parquet in the study's folder, and the boxes that readers drew; as `study_readings`."""
    table, boxes = study_readings(folder).table, _boxes(folder)
    csv.write_csv(table, folder / CSV_FILE)
    parquet.write_table(table, folder / PARQUET_FILE)
    if boxes:
        csv.write_csv(pa.Table.from_pylist(boxes), folder / BOXES_FILE)
    return [folder / name for name in (CSV_FILE, PARQUET_FILE, *([BOXES_FILE] if boxes else []))]


def _boxes(folder: Path) -> list[dict[str, Any]]:
    """A row for each box on a finished image; px of the image."""
    entries: list[StudyEntry] = read_journal(folder / READINGS_FILE, StudyEntry)
    done = {(own.reader, own.session, own.image) for own in entries if isinstance(own, Finished)}
    return [
        {**dict(zip(_KEY, (*key, tooth, condition), strict=True)), **dict(zip(_SIDES, bbox, strict=True))}
        for key, marks in marks_of(entries).items()
        for (tooth, condition), bbox in marks.items()
        if key in done and bbox is not None
    ]


_KEY, _SIDES = ("reader", "session", "image", "tooth", "condition"), ("x", "y", "width", "height")


def _dentists(study: Study, entries: list[StudyEntry], finished: Iterable[Finished]) -> Iterable[dict[str, Any]]:
    marks = marks_of(entries)
    for reading in finished:
        key = {"reader": reading.reader, "arm": reading.arm, "session": reading.session}
        said = set(marks.get((reading.reader, reading.session, reading.image), ()))
        yield from _items(study, reading.image, key, said if reading.readable else None)


def _model(study: Study, model: ModelFindings) -> Iterable[dict[str, Any]]:
    key = {"reader": MODEL_READER, "arm": "unaided", "session": 0}
    for image, findings in model.items():
        yield from _items(study, image, key, {(tooth, own.condition) for own in findings for tooth in own.teeth})


def _items(
    study: Study, image: str, key: Mapping[str, Any], present: set[tuple[str, str]] | None
) -> Iterable[dict[str, Any]]:
    """A row for each tooth × condition of one image; None = it could not be read."""
    source = next(own.source for own in study.images if own.sha256 == image)
    for tooth in FDI:
        for condition in study.conditions:
            said = None if present is None else int((tooth, condition) in present)
            yield {**key, "image": image, "tooth": tooth, "condition": condition, "present": said, "source": source}
