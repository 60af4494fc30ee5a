"""Findings on one DICOM X-ray as a DICOM structured report (SR), which an archive keeps beside the picture.

TID 1500 with a box in the picture for each finding (TID 1410, SCOORD), preliminary and unverified. A finding has a
SNOMED CT code where one is known that means the same; else one of this project's own scheme, which the report says is
local.

Sources: teeth from DICOM PS3.16, CID 4018 (SNOMED CT's names for ISO 3950); findings from SNOMED International's own
dental examples (IHTSDO/sct-implementation-demonstrator, `dental-finding-options.ts`); templates from PS3.16, annex A.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from dentsight_pipeline.data.dicom import INSTALL, pydicom, read_header
from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.detections import Finding, XrayFindings
from dentsight_pipeline.errors import ConfigurationError, DataError
from dentsight_pipeline.store.files import written_whole

NOTICE = "Research only. Not a medical device. Not for clinical use."
LOCAL = "99DENTSIGHT"
"""The scheme of codes that nobody else knows."""
SNOMED = {
    "caries": ("80967001", "Dental caries"),
    "impacted": ("235104008", "Impacted tooth"),
    "missing": ("234948008", "Tooth absent"),
    "root-stump": ("66569006", "Retained dental root"),
}
"""Classes that a SNOMED CT finding means."""
_JAWS = ("PermanentMaxillaryRight", "PermanentMaxillaryLeft", "MandibularLeft", "MandibularRight")
_TEETH = ("CentralIncisor", "LateralIncisor", "Canine", "FirstPremolar", "SecondPremolar", "FirstMolar", "SecondMolar")
_REFERRED_TO = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_ROOT_OF_UIDS = "1.2.826.0.1.3680043.8.498."
"""pydicom's, under which anybody may make UIDs out of a hash."""


def write_report(data: bytes, found: XrayFindings, model: str, threshold: float, out: Path) -> Path:
    """Write the SR of one X-ray; the same findings of the same file by the same model give the same UIDs.

    Args:
        data: The DICOM file that the findings are of; patient and study are taken over from it.
        found: Its findings.
        model: What made them: which release or weights, by digest.
        threshold: The least score that is shown.
        out: The file.

    Raises:
        DataError: The file lacks what a report refers to, or holds values that no report may hold.
    """
    if find_spec("highdicom") is None:
        raise ConfigurationError(f"SRs are written by highdicom, which is not installed. Install it: {INSTALL}.")
    header = read_header(data)
    if missing := [name for name in _REFERRED_TO if not header.get(name)]:
        raise DataError(f"{found.image} lacks {', '.join(missing)}, by which an SR refers to it. Leave --sr out.")
    try:
        made = _report(header, found, model, threshold)
        with written_whole(out) as temporary:
            made.save_as(temporary, enforce_file_format=True)
    except (AttributeError, KeyError, TypeError, ValueError):  # of a value of the file's, which is not to be quoted
        raise DataError(f"Patient or study in {found.image} are not as DICOM has them, so no SR can be made.") from None
    return out


def _report(header: Any, found: XrayFindings, model: str, threshold: float) -> Any:
    import highdicom

    content = _content(header, found, model, threshold)
    report = highdicom.sr.ComprehensiveSR(
        evidence=[header],
        content=content[0],
        series_instance_uid=_uid(header.SeriesInstanceUID, model),
        series_number=999,
        sop_instance_uid=_uid(header.SOPInstanceUID, model, str(threshold), codec.write(found.findings).decode()),
        instance_number=1,
        manufacturer="dentsight_pipeline",
        is_complete=True,
        series_description=NOTICE,
    )
    scheme = pydicom().Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeName = LOCAL, "dentsight_pipeline, local codes"
    report.CodingSchemeIdentificationSequence = [scheme]
    return report


def _content(header: Any, found: XrayFindings, model: str, threshold: float) -> Any:
    """TID 1500: who observed, what it is not for, and a group for the picture and for each finding."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    device = sr.DeviceObserverIdentifyingAttributes(_uid(model), "dentsight_pipeline", "dentsight_pipeline", model)
    algorithm = sr.AlgorithmIdentification("dentsight_pipeline", model, [f"threshold {threshold:g}", NOTICE])
    report = sr.MeasurementReport(
        sr.ObservationContext(observer_device_context=sr.ObserverContext(codes.DCM.Device, device)),
        codes.SCT.ImagingProcedure,
        [
            _whole(header, found, algorithm),
            *(_group(header, n, one, algorithm) for n, one in enumerate(found.findings, 1)),
        ],
    )
    local = f"Codes of scheme {LOCAL} are local to dentsight_pipeline."
    for text in (NOTICE, local):
        report[0].ContentSequence.append(
            sr.TextContentItem(codes.DCM.Comment, text, relationship_type=sr.RelationshipTypeValues.CONTAINS)
        )
    return report


def _whole(header: Any, found: XrayFindings, algorithm: Any) -> Any:
    """The picture as a whole and how many findings are shown on it, which may be none."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    count = sr.Measurement(_local("findings", "Number of findings shown"), len(found.findings), codes.UCUM.NoUnits)
    return sr.MeasurementsAndQualitativeEvaluations(
        sr.TrackingIdentifier(_uid(header.SOPInstanceUID, "whole"), "Whole image"),
        finding_type=_local("x-ray", "X-ray as a whole"),
        algorithm_id=algorithm,
        measurements=[count],
        source_images=[sr.SourceImageForMeasurementGroup.from_source_image(header)],
    )


def _group(header: Any, number: int, finding: Finding, algorithm: Any) -> Any:
    """TID 1410: one finding, its box, its tooth or teeth where stage 1 ran, its score."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    left, top, width, height = finding.bbox_xywh_px
    right, bottom = left + width, top + height
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom], [left, top]])
    teeth = finding.teeth or ()
    on = f", tooth {' '.join(teeth)} (ISO 3950)" if teeth else ""
    if finding.inferred_tooth is not None:
        on = f", tooth {finding.inferred_tooth} (ISO 3950) by its neighbours"
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        sr.TrackingIdentifier(_uid(header.SOPInstanceUID, str(number)), f"{number}: {finding.name}{on}"),
        sr.ImageRegion("POLYLINE", corners, sr.SourceImageForRegion.from_source_image(header)),
        finding_type=_code(finding.name),
        algorithm_id=algorithm,
        finding_sites=[sr.FindingSite(_tooth(fdi)) for fdi in teeth] or None,
        measurements=[sr.Measurement(_local("score", "Score of the detector"), finding.score, codes.UCUM.NoUnits)],
    )


def _code(name: str) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(SNOMED[name][0], "SCT", SNOMED[name][1]) if name in SNOMED else _local(name, name)


def _local(value: str, meaning: str) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(value[:16], LOCAL, meaning)


@cache
def _tooth(fdi: str) -> Any:
    """SNOMED CT's code of a permanent tooth, `11` to `48` of ISO 3950."""
    from pydicom.sr.codedict import codes

    jaw, tooth = _JAWS[int(fdi[0]) - 1], (*_TEETH, "ThirdMolar")[int(fdi[1]) - 1]
    name = f"{jaw}{tooth}Tooth"
    return getattr(codes.cid4018, {"MandibularLeftLateralIncisorTooth": "MandibularLeftLateralTooth"}.get(name, name))


def _uid(*parts: str) -> str:
    return str(pydicom().uid.generate_uid(_ROOT_OF_UIDS, entropy_srcs=list(parts)))
