"""Findings on a person's own X-rays where these are DICOM: the same as of the PNG, and nothing of the tags."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pydicom import uid

from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.detections import Finding, XrayFindings
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.phantom.drawing import draw
from dentsight_pipeline.phantom.mouth import sample_mouth
from dentsight_pipeline.training.detector import Detections, Detector
from dentsight_pipeline.training.xrays import _with_teeth, draw_findings, predict_images
from dentsight_pipeline_tests.data.dicom_builder import PLANTED, as_bytes, encoded, panoramic
from dentsight_pipeline_tests.data.export_builder import picture, png

TRAINED = Path(__file__).parents[2] / "dentsight_pipeline" / "training" / "weights" / "phantom-tiny"
"""A trained model: an untrained one's queries tie, and answer otherwise for a gray value of noise."""


@cache
def phantom() -> np.ndarray:
    """A drawn X-ray of 12 bits, with six findings."""
    gray = draw(sample_mouth(np.random.default_rng(2)), 640, np.random.default_rng(6)).gray
    return np.rint(gray.astype(float) / 255 * 4095).astype(np.uint16)


def found(path: Path, data: bytes, pictures: Path | None = None) -> XrayFindings:
    path.write_bytes(data)
    (answer,) = predict_images([path], TRAINED, 0.2, pictures=pictures, device="cpu")
    return answer


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.JPEG2000Lossless])
def test_a_12_bit_inverted_dicom_file_has_the_findings_of_its_png(syntax: str, tmp_path: Path) -> None:
    """Boxes within 0.5 px and scores within 0.02: of 8 bits, the two differ by at most one gray value."""
    out, made = io.BytesIO(), panoramic(4095 - phantom(), photometric="MONOCHROME1")
    Image.fromarray(phantom()).save(out, "PNG")
    dicom = made if syntax == uid.ExplicitVRLittleEndian else encoded(made, syntax)

    of_png, of_dicom = found(tmp_path / "a.png", out.getvalue()), found(tmp_path / "a.dcm", as_bytes(dicom))

    assert len(of_png.findings) >= 5
    assert [one.name for one in of_dicom.findings] == [one.name for one in of_png.findings]
    for one, other in zip(of_dicom.findings, of_png.findings, strict=True):
        assert np.abs(np.subtract(one.bbox_xywh_px, other.bbox_xywh_px)).max() < 0.5
        assert abs(one.score - other.score) < 0.02


def test_one_file_that_is_no_image_is_refused_before_the_first_picture(tmp_path: Path) -> None:
    """Pictures without the findings that they show were left behind, of whatever came before it."""
    (tmp_path / "a.png").write_bytes(png(picture(1)))
    (tmp_path / "notes.txt").write_text("no X-ray")

    with pytest.raises(
        DataError, match=r"notes\.txt: it is neither .* or DICOM\. Convert it to PNG, or export again\.$"
    ):
        predict_images([tmp_path / "a.png", tmp_path / "notes.txt"], TRAINED, 0.2, pictures=tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_neither_names_nor_contents_of_what_is_written_hold_a_tag_or_the_files_own_name(tmp_path: Path) -> None:
    """Archives name files by UIDs and folders by patients: what is written speaks of the file by its sha256."""
    folder = tmp_path / f"{PLANTED[0]}^Anna"
    folder.mkdir()

    answer = found(folder / f"{PLANTED[2]}.3.dcm", as_bytes(panoramic(phantom())), tmp_path / "out")

    written = list((tmp_path / "out").iterdir())
    held = b"\n".join(path.name.encode() + path.read_bytes() for path in written) + codec.write(answer)
    assert [text for text in PLANTED if text.encode() in held] == []
    assert [path.name for path in written] == [f"{answer.image}.findings.png"]
    assert len(answer.image) == 64


def test_findings_get_the_teeth_that_they_lie_on() -> None:
    """By the same rules as findings by tooth; each tooth once, and none where none is found."""

    class StageOne:
        classes = ("36", "37")

        def detect(self, images: list[np.ndarray]) -> list[Detections]:
            boxes = np.array([[10.0, 10, 20, 30], [10, 10, 20, 30], [40, 10, 20, 30]])
            return [Detections(boxes, np.array([0.9, 0.8, 0.3]), np.array([0, 1, 1]))]

    findings = tuple(Finding(name="caries", score=0.9, bbox_xywh_px=box) for box in [(12, 12, 5, 5), (42, 12, 5, 5)])

    made = _with_teeth(findings, cast(Detector, StageOne()), 0.5, np.zeros((60, 90), np.uint8))

    assert [finding.teeth for finding in made] == [("36",), None]
    assert [finding.inferred_tooth for finding in made] == [None, None]
    assert _with_teeth((), cast(Detector, StageOne()), 0.5, np.zeros((60, 90), np.uint8)) == ()


def test_a_missing_tooth_has_the_number_that_its_neighbours_leave_and_the_picture_says_that_it_is_inferred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between 35 and 37 stands 36. Where two numbers fit, none is given."""
    written: list[str] = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, place, text, **_: written.append(text))

    class StageOne:
        classes = ("35", "37", "43", "46")

        def detect(self, images: list[np.ndarray]) -> list[Detections]:
            boxes = np.array([[60.0, 10, 20, 30], [100, 10, 20, 30], [40, 10, 20, 30], [0, 10, 20, 30]])
            return [Detections(boxes, np.full(4, 0.9), np.arange(4))]

    findings = tuple(
        Finding(name="missing", score=0.9, bbox_xywh_px=box) for box in [(82, 15, 15, 20), (22, 15, 15, 20)]
    )

    made = _with_teeth(findings, cast(Detector, StageOne()), 0.5, np.zeros((60, 130), np.uint8))

    assert [(finding.teeth, finding.inferred_tooth) for finding in made] == [(None, "36"), (None, None)]
    draw_findings(np.zeros((60, 130), np.uint8), made, tmp_path / "drawn.png")
    assert written[:2] == ["missing 0.90", "missing (36) 0.90"]
