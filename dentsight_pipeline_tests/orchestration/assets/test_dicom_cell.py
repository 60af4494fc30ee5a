"""A clinic's export of DICOM files through the whole graph to a release, and back: no tag is left anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import pydicom
import pytest
from huggingface_hub import ModelCard

from dentsight_pipeline.phantom.export import write_phantom_export
from dentsight_pipeline_tests.data.dicom_builder import PLANTED, as_bytes, panoramic
from dentsight_pipeline_tests.orchestration.assets.conftest import Home, new_home
from dentsight_pipeline_tests.orchestration.assets.test_champion import STEPS


def dicom_export(root: Path) -> Path:
    """A phantom export of DICOM files named by their UIDs."""
    write_phantom_export(root, 24, 3, width=320)
    number = 0
    for listed in sorted(root.glob("*/_annotations.coco.json")):
        document = json.loads(listed.read_text())
        for image in document["images"]:
            old, number = listed.parent / image["file_name"], number + 1
            image["file_name"] = f"{PLANTED[2]}.{number}.dcm"
            gray = cv2.imread(str(old), cv2.IMREAD_GRAYSCALE)
            assert gray is not None
            (listed.parent / image["file_name"]).write_bytes(as_bytes(panoramic(gray, 8)))
            old.unlink()
        listed.write_text(json.dumps(document))
    return root


def done(home: Home, *command: str | Path) -> dict[str, Any]:
    """What a command says."""
    ended = home.dentsight(*map(str, command), "--json", timeout=900)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout)


@pytest.mark.slow
def test_no_tag_is_in_store_log_mlflow_dagster_or_reports_after_a_whole_cell(tmp_path: Path) -> None:
    """And the release that comes of it reads DICOM, answers with an SR that names it, and leaves with its card."""
    home, export = new_home(tmp_path / "home"), dicom_export(tmp_path / "export")
    cell = ["run", "--dataset", "clinic-v1", "--export", export, *STEPS]
    verdict = json.loads((Path(done(home, *cell)["report"]).parent / "verdict.json").read_text())
    missed = [f"--override={row['id']}=A. Tester: only a test" for row in verdict["rows"] if row["blocks"]]
    release = done(home, *cell, *missed)["released"]
    (tmp_path / "xray.dcm").write_bytes(next((export / "test").glob("*.dcm")).read_bytes())

    out, card = tmp_path / "out", tmp_path / "hf"
    said = done(
        home, "predict", tmp_path / "xray.dcm", "--checkpoint", release, "--threshold", "0", "--sr", "--out", out
    )
    exported = done(home, "export", release, "--hf", card)

    kept = [path for path in home.folder.rglob("*") if path.is_file()]
    telling = [text.encode() for text in PLANTED[:3]]
    assert [str(path) for path in kept if any(text in str(path).encode() + path.read_bytes() for text in telling)] == []
    assert f"release {release}".encode() in Path(said["reports"][0]).read_bytes()
    assert pydicom.dcmread(said["reports"][0]).PatientID == f"{PLANTED[0]}-7654321"
    assert card / "README.md" in map(Path, exported["files"])
    assert ModelCard.load(card / "README.md").data.to_dict()["model-index"][0]["results"]
