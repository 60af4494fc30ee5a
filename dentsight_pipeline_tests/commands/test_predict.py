"""`dentsight predict` on what a clinic has: a folder of DICOM files, findings by tooth, SRs beside the pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pydicom
import pytest

from dentsight_pipeline.commands import text
from dentsight_pipeline.commands.model import PredictRequest, predict
from dentsight_pipeline.errors import ConfigurationError, DataError
from dentsight_pipeline.store.local import hash_file
from dentsight_pipeline_tests.data.dicom_builder import PLANTED, as_bytes, panoramic
from dentsight_pipeline_tests.data.export_builder import picture, png
from dentsight_pipeline_tests.training.test_xrays import TRAINED, phantom


@pytest.fixture
def clinic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder named after a patient with a panoramic X-ray and a CT slice; commands run beside it."""
    folder = tmp_path / f"{PLANTED[0]}^Anna"
    folder.mkdir()
    (folder / PLANTED[2]).write_bytes(as_bytes(panoramic(phantom())))
    (folder / "CT1").write_bytes(as_bytes(panoramic(picture(1), 8, Modality="CT")))
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_folder_becomes_findings_pictures_and_reports_that_name_nobody(
    clinic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All but the SRs, which belong beside their images in the archive, is free of tags, file and folder names."""
    out = clinic.parent / "out"

    predict(PredictRequest([clinic], str(TRAINED), out, 0.2, sr=True), as_json=True)

    said = json.loads(capsys.readouterr().out)
    name = hash_file(clinic / PLANTED[2])[0]
    names = sorted(path.name for path in out.iterdir())
    assert names == [f"{name}.findings.png", f"{name}.sr.dcm", "findings.json"]
    assert said["left_out"] == {"CT": 1}
    assert said["reports"] == [str(out / f"{name}.sr.dcm")]
    assert len(said["findings"][0]["findings"]) >= 5
    held = b"\n".join(path.read_bytes() for path in out.iterdir() if path.suffix != ".dcm") + json.dumps(said).encode()
    assert [text for text in PLANTED if text.encode() in held] == []
    made = pydicom.dcmread(out / f"{name}.sr.dcm")
    assert str(made.PatientName) == f"{PLANTED[0]}^Anna"
    assert f"weights {hash_file(TRAINED / 'model.safetensors')[0]}".encode() in (out / f"{name}.sr.dcm").read_bytes()


def test_a_terminal_shows_each_finding_on_one_line_with_its_tooth_where_teeth_were_asked_for() -> None:
    """A DICOM file's name is 64 digits and a box four long numbers: too much. No tooth is said, not left out."""
    found = {"class": "caries", "score": 0.7512, "bbox_xywh_px": [10.4, 20.6, 30.0, 40.0]}
    of_teeth = [{**found, "teeth": ["35", "36"]}, {**found, "class": "missing", "inferred_tooth": "46"}, found]
    facts = {"findings": [{"image": "ab" * 32, "findings": of_teeth}], "left_out": {}}
    facts |= {"tooth_score": 0.25, "tooth_score_from": "valid"}

    with_teeth, without = (text.findings({**facts, "teeth": ref}, Path("out")).splitlines() for ref in ("ab12", None))

    assert [line.split() for line in with_teeth[1:4]] == [
        ["abababababab", "caries", "35", "36", "0.7512", "10,", "21,", "30,", "40"],
        ["abababababab", "missing", "(46)", "0.7512", "10,", "21,", "30,", "40"],
        ["abababababab", "caries", "–", "0.7512", "10,", "21,", "30,", "40"],
    ]
    assert "tooth" in with_teeth[0] and "tooth" not in without[0]
    assert "Teeth count from score 0.25 on (chosen on valid)." in with_teeth
    assert not [line for line in without if "Teeth count" in line]


def test_an_sr_of_what_is_no_dicom_file_is_refused_before_anything_is_written(clinic: Path) -> None:
    """It refers to its image by UIDs, and a PNG has none."""
    (clinic.parent / "a.png").write_bytes(png(picture(1)))

    with pytest.raises(ConfigurationError, match=r"a\.png is no DICOM file, and an SR refers to one"):
        predict(PredictRequest([Path("a.png")], str(TRAINED), Path("out"), 0.2, sr=True), as_json=True)

    assert not (clinic.parent / "out").exists()


def test_a_prediction_that_is_refused_before_its_first_picture_leaves_no_folder_behind(clinic: Path) -> None:
    """An empty `findings` reads like a prediction that found nothing."""
    (clinic.parent / "notes.txt").write_text("no X-ray")

    with pytest.raises(DataError, match=r"notes\.txt: it is neither JPEG nor PNG"):
        predict(PredictRequest([Path("notes.txt")], str(TRAINED), Path("out"), 0.2), as_json=True)

    assert not (clinic.parent / "out").exists()


def test_teeth_by_a_model_that_finds_none_are_refused(clinic: Path) -> None:
    """Two digests look alike."""
    with pytest.raises(
        ConfigurationError, match=r"The model given for teeth finds caries, .*Give a checkpoint of stage 1"
    ):
        predict(PredictRequest([clinic], str(TRAINED), Path("out"), 0.2, teeth=str(TRAINED)), as_json=True)
