"""Findings as DICOM SR: what is coded and how, and that other software takes it: validators, dcmtk, an archive."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pydicom
import pytest
import requests
from highdicom.sr import ComprehensiveSR
from pydicom.sr.codedict import codes

from dentsight_pipeline.data.ontology import CONDITIONS, TEETH
from dentsight_pipeline.documents.detections import Finding, XrayFindings
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.training import structured_report
from dentsight_pipeline.training.structured_report import LOCAL, NOTICE, SNOMED, write_report
from dentsight_pipeline_tests.data.dicom_builder import as_bytes, panoramic
from dentsight_pipeline_tests.data.export_builder import picture
from dentsight_pipeline_tests.local_server import free_port

MODEL = f"release {'a' * 64}"
FINDINGS = (("caries", ("36",)), ("bridge", ("32", "31", "41")), ("periapical-radiolucency", None))


def xray() -> bytes:
    return as_bytes(panoramic(picture(1), 8))


def report(out: Path, *findings: tuple[str, tuple[str, ...] | None]) -> Path:
    made = [Finding(name=name, score=0.75, bbox_xywh_px=(1, 2, 10, 8), teeth=teeth) for name, teeth in findings]
    name = sha256(xray()).hexdigest()
    found = XrayFindings(image=name, width=64, height=48, picture=None, findings=tuple(made))
    return write_report(xray(), found, MODEL, 0.5, out / f"{name}.sr.dcm")


def items(dataset: pydicom.Dataset) -> Iterator[pydicom.Dataset]:
    """Every content item of a report."""
    for item in dataset.get("ContentSequence", ()):
        yield item
        yield from items(item)


def said(path: Path, kind: str) -> list[str | float]:
    """All values of one kind of item, in order."""
    of: dict[str, Callable[[pydicom.Dataset], str | float]] = {
        "CODE": lambda item: _short(item.ConceptCodeSequence[0]),
        "TEXT": lambda item: item.TextValue,
        "NUM": lambda item: float(item.MeasuredValueSequence[0].NumericValue),
    }
    return [of[kind](item) for item in items(pydicom.dcmread(path)) if item.ValueType == kind]


def _short(code: pydicom.Dataset) -> str:
    return f"{code.CodingSchemeDesignator}:{code.CodeValue}"


def test_a_report_says_what_was_found_where_on_which_tooth_and_by_what(tmp_path: Path) -> None:
    """Coded where a code means the same, local and said so where none does; never without the notice."""
    path = report(tmp_path, *FINDINGS)
    made = pydicom.dcmread(path)

    coded, texts = said(path, "CODE"), said(path, "TEXT")
    boxes = [list(item.GraphicData) for item in items(made) if item.ValueType == "SCOORD"]
    assert [code for code in coded if code in ("SCT:80967001", f"{LOCAL}:bridge", f"{LOCAL}:periapical-radio")] == [
        "SCT:80967001",
        f"{LOCAL}:bridge",
        f"{LOCAL}:periapical-radio",
    ]
    assert "SCT:866006002" in coded  # mandibular left first molar
    assert "1: caries, tooth 36 (ISO 3950)" in texts
    assert boxes == [[1, 2, 11, 2, 11, 10, 1, 10, 1, 2]] * 3
    assert said(path, "NUM") == [3, 0.75, 0.75, 0.75]
    assert MODEL in texts and NOTICE in texts
    assert f"Codes of scheme {LOCAL} are local to dentsight_pipeline." in texts
    assert (made.PreliminaryFlag, made.VerificationFlag) == ("PRELIMINARY", "UNVERIFIED")
    assert made.SeriesDescription == NOTICE
    assert made.CurrentRequestedProcedureEvidenceSequence[0].StudyInstanceUID == made.StudyInstanceUID
    content: Any = ComprehensiveSR.from_dataset(made).content
    groups = content.get_planar_roi_measurement_groups()
    assert [group.finding_type.value for group in groups][:2] == ["80967001", "bridge"]


def test_findings_without_teeth_and_no_findings_at_all_make_a_report(tmp_path: Path) -> None:
    """Stage 1 is asked for by few; and that nothing was shown is worth saying."""
    (tmp_path / "one").mkdir()

    without, empty = report(tmp_path / "one", ("crown", None)), report(tmp_path)

    assert not any("ISO 3950" in str(text) for text in said(without, "TEXT"))
    assert NOTICE in said(empty, "TEXT")
    assert said(empty, "NUM") == [0]


def test_the_same_findings_have_the_same_uids_and_others_have_others(tmp_path: Path) -> None:
    """An archive takes a report that it has for the same one, and does not overwrite one with another."""
    for name in "abc":
        (tmp_path / name).mkdir()
    made = [report(tmp_path / "a", *FINDINGS), report(tmp_path / "b", *FINDINGS), report(tmp_path / "c")]

    first, again, other = (pydicom.dcmread(path) for path in made)

    assert first.SOPInstanceUID == again.SOPInstanceUID != other.SOPInstanceUID
    assert first.SeriesInstanceUID == other.SeriesInstanceUID
    assert first.SOPInstanceUID.rpartition(".")[2] == "26198589176691074949515932849266277136", "also in later versions"


def test_every_tooth_has_the_code_of_its_designation_and_every_class_one_that_fits() -> None:
    """The names carry quadrant and kind; SH values hold 16 characters, and must still tell classes apart."""
    names = {fdi: structured_report._tooth(fdi).meaning for fdi in TEETH}

    assert len({structured_report._tooth(fdi).value for fdi in TEETH}) == 32
    assert names["18"] == "Permanent maxillary right third molar tooth"
    assert names["32"] == "Mandibular left lateral tooth"
    assert names["41"] == "Mandibular right central incisor tooth"
    assert {structured_report._tooth(fdi).value for fdi in TEETH} == {
        getattr(codes.cid4018, name).value for name in codes.cid4018.dir()
    }
    assert set(SNOMED) < set(CONDITIONS)
    assert len({structured_report._code(name).value for name in CONDITIONS}) == len(CONDITIONS)


def test_a_picture_without_its_identity_gets_no_report(tmp_path: Path) -> None:
    """An SR refers to its image; a value that is not as DICOM has it is not quoted."""
    bare = panoramic(picture(1), 8)
    del bare.StudyInstanceUID
    found = XrayFindings(image="a" * 64, width=64, height=48, picture=None, findings=())

    with pytest.raises(DataError, match="lacks StudyInstanceUID, by which an SR refers to it"):
        write_report(as_bytes(bare), found, MODEL, 0.5, tmp_path / "a.sr.dcm")


@pytest.mark.skipif(shutil.which("dsrdump") is None, reason="dcmtk is not installed")
def test_dcmtk_reads_the_report(tmp_path: Path) -> None:
    """Another implementation, which refuses content that breaks the rules of its SOP class."""
    done = subprocess.run(["dsrdump", "+Pl", report(tmp_path, *FINDINGS)], capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")
    assert '(80967001,SCT,"Dental caries")' in done.stdout
    assert NOTICE in done.stdout


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools is not installed")
def test_dicom3tools_finds_no_error_in_the_report(tmp_path: Path) -> None:
    """Every attribute of the object against the standard; that a private scheme is unknown to it is a warning."""
    for path in (report(tmp_path), report(tmp_path, *FINDINGS)):
        done = subprocess.run(["dciodvfy", path], capture_output=True, text=True)

        assert [line for line in done.stderr.splitlines() if not line.startswith("Warning")] == ["ComprehensiveSR"]
        assert all(LOCAL in line for line in done.stderr.splitlines() if line.startswith("Warning"))


def _errors(path: Path) -> int:
    """What dicom-validator finds in a report; the standard's tables come from PyPI, not from dicom.nema.org."""
    from dicom_validator.validator.dicom_file_validator import DicomFileValidator

    from dentsight_pipeline_tests.training.dicom_standard import tables

    return sum(result.errors for result in DicomFileValidator(tables(), logging.CRITICAL).validate(path).values())


def _without_tooth(made: pydicom.Dataset) -> None:
    item = next(i for i in items(made) if i.ValueType == "CODE" and i.ConceptCodeSequence[0].CodeValue == "866006002")
    del item.ConceptCodeSequence


@pytest.mark.slow
def test_dicom_validator_finds_no_error_in_the_report_and_those_that_are_put_in(tmp_path: Path) -> None:
    """A third reading of the standard: every module and attribute, at every depth of the content tree."""
    path, broken = report(tmp_path, *FINDINGS), tmp_path / "broken.dcm"
    faults: dict[str, Callable[[pydicom.Dataset], None]] = {
        "a module's attribute is missing": lambda made: delattr(made, "CompletionFlag"),
        "an attribute of no module": lambda made: setattr(made, "WindowCenter", 1),
        "a code item without its code, deep in the tree": _without_tooth,
    }

    assert _errors(path) == 0
    for fault, put in faults.items():
        made = pydicom.dcmread(path)
        put(made)
        made.save_as(broken)
        assert _errors(broken) == 1, fault


@contextmanager
def orthanc(folder: Path) -> Iterator[tuple[str, int]]:
    """An archive of its own; its address for HTTP, and its port for DICOM."""
    web, dicom = free_port(), free_port()
    settings = {"Name": "test", "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db")}
    settings |= {"HttpPort": web, "DicomPort": dicom, "DicomAet": "ORTHANC", "AuthenticationEnabled": False}
    settings |= {"RemoteAccessAllowed": False, "Plugins": []}
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(["Orthanc", folder / "orthanc.json"], stdout=log, stderr=log)
    try:
        _wait_for(f"http://127.0.0.1:{web}", server)
        yield f"http://127.0.0.1:{web}", dicom
    finally:
        server.terminate()
        server.wait(30)


def _wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and server.poll() is None:
        try:
            requests.get(f"{address}/system", timeout=5).raise_for_status()
            return
        except requests.RequestException:
            time.sleep(0.2)
    pytest.fail("Orthanc did not start")


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("Orthanc") is None or shutil.which("storescu") is None, reason="Orthanc or dcmtk is not installed"
)
def test_an_archive_takes_the_report_beside_its_picture_and_gives_it_back(tmp_path: Path) -> None:
    """Sent by DICOM's own protocol; the archive files both under one patient and one study."""
    path = report(tmp_path, *FINDINGS)
    (tmp_path / "xray.dcm").write_bytes(xray())

    with orthanc(tmp_path) as (address, port):
        command = ["storescu", "-R", "-aec", "ORTHANC", "127.0.0.1", str(port), tmp_path / "xray.dcm", path]
        subprocess.run(command, check=True, capture_output=True)
        studies = requests.get(f"{address}/studies", timeout=30).json()
        instances = requests.get(f"{address}/instances?expand", timeout=30).json()
        wanted = pydicom.dcmread(path).SOPInstanceUID
        (number,) = (i["ID"] for i in instances if i["MainDicomTags"]["SOPInstanceUID"] == wanted)
        given = requests.get(f"{address}/instances/{number}/file", timeout=30).content

    (tmp_path / "back.dcm").write_bytes(given)
    assert (len(studies), len(instances)) == (1, 2)
    assert pydicom.dcmread(tmp_path / "back.dcm") == pydicom.dcmread(path)


def test_a_number_that_only_the_neighbours_tell_is_said_in_words_and_coded_nowhere(tmp_path: Path) -> None:
    """A coded finding site would read as a tooth that was seen."""
    name = sha256(xray()).hexdigest()
    gap = Finding(name="missing", score=0.75, bbox_xywh_px=(1, 2, 10, 8), inferred_tooth="36")
    found = XrayFindings(image=name, width=64, height=48, picture=None, findings=(gap,))

    written = write_report(xray(), found, MODEL, 0.5, tmp_path / f"{name}.sr.dcm")

    assert "1: missing, tooth 36 (ISO 3950) by its neighbours" in said(written, "TEXT")
    assert f"SCT:{structured_report._tooth('36').value}" not in said(written, "CODE")
