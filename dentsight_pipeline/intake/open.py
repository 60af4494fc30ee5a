"""Opens an export wherever it lies: a folder, a zip, or either of them on S3. Add a new kind of place here."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dentsight_pipeline.intake.files import ExportFiles, open_files


@contextmanager
def open_export(source: str | Path) -> Iterator[ExportFiles]:
    """Opens an export: a folder, a zip, `s3://bucket/prefix` or `s3://bucket/export.zip`.

    Raises:
        DataError: It does not exist, is empty, or is no archive that may be read.
    """
    if not str(source).startswith("s3://"):
        with open_files(Path(source), str(source)) as files:
            yield files
        return
    from dentsight_pipeline.intake.s3 import fetch_s3_export

    with (
        tempfile.TemporaryDirectory(prefix="dentsight-export-") as folder,
        open_files(fetch_s3_export(str(source), Path(folder)), str(source)) as files,
    ):
        yield files
