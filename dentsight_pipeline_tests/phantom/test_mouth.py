"""Phantom patients have what v8's patients have, as often, and nothing that contradicts itself."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from dentsight_pipeline.phantom.mouth import FDI_TEETH, Mouth, arch, neighbours, rate, sample_mouth


def _mouth(patient: int) -> Mouth:
    return sample_mouth(np.random.Generator(np.random.PCG64([7, patient])))


def _conditions(mouth: Mouth) -> Counter[str]:
    counts: Counter[str] = Counter(name for name, _ in mouth.others)
    for tooth in mouth.teeth.values():
        counts[{"bud": "tooth-bud"}.get(tooth.status, tooth.status)] += 1
        if tooth.status == "erupted":
            counts["RC-treated"] += tooth.root_filled
            counts["restoration"] += tooth.restored
            counts["caries"] += tooth.caries
            counts["calculus"] += tooth.calculus
        if tooth.status == "stump" and not tooth.root_filled:
            counts["root-stump"] += 1
        if tooth.status in ("erupted", "implant"):
            counts["crown"] += tooth.crowned
        if tooth.status in ("erupted", "stump"):
            counts["periapical radiolucency"] += tooth.periapical
    counts["bridge"] = sum(len(run) > 2 for run in mouth.bridges)
    return counts


def test_frequencies_of_the_frequent_conditions_follow_v8() -> None:
    """A class that is ten times too frequent would make the demo's learning curve meaningless."""
    patients = 2500
    total: Counter[str] = Counter()
    for patient in range(patients):
        total.update(_conditions(_mouth(patient)))

    for name in (
        "caries", "missing", "calculus", "RC-treated", "impacted", "restoration", "crown", "periapical radiolucency",
        "root-stump", "bridge", "implant", "tooth-bud",
    ):  # fmt: skip
        assert total[name] / patients == pytest.approx(rate(name), rel=0.25), name


def test_a_healthy_mouth_has_no_finding() -> None:
    """Its image carries no annotation and counts as a true negative."""
    healthy = [m for m in map(_mouth, range(400)) if m.healthy]

    assert healthy
    for mouth in healthy:
        assert set(_conditions(mouth)) - {"erupted"} == {
            k for k, v in _conditions(mouth).items() if not v and k != "erupted"
        }


def test_findings_of_a_tooth_do_not_contradict_each_other() -> None:
    """No caries under a crown, no pontic outside a bridge, no tooth in two bridges: a picture could not show them."""
    for mouth in map(_mouth, range(400)):
        bridged = [fdi for run in mouth.bridges for fdi in run]
        assert len(bridged) == len(set(bridged))
        assert set(mouth.teeth) == set(FDI_TEETH)
        for fdi, tooth in mouth.teeth.items():
            assert (tooth.status == "pontic") == (fdi in bridged and tooth.status != "erupted")
            if tooth.crowned or fdi in bridged:
                assert not tooth.caries and not tooth.restored


def test_the_arch_runs_from_the_patients_right_to_the_left() -> None:
    """The patient's right is on the image's left; a mirrored arch would teach every label the wrong side."""
    assert arch(upper=True)[:2] == [18, 17] and arch(upper=True)[-1] == 28
    assert arch(upper=False)[0] == 48 and arch(upper=False)[-1] == 38
    assert neighbours(11) == [12, 21]
    assert neighbours(38) == [37]
