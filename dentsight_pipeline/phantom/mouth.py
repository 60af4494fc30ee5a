"""What a phantom patient has in the mouth: the state of every tooth and the conditions, by v8's frequencies.

Pure sampling: no pixel is drawn here (drawing.py) and nothing is written (export.py).
Counts are those of "OPG REPORTING" v8 as published, train and valid together; the phantom's mean number of each
condition for an image follows them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

V8_IMAGES = 1549 + 443
"""Images of v8's train and valid splits, on which the condition counts were made."""

V8_CONDITION_COUNTS: dict[str, int] = {
    "RC-treated": 2408,
    "RC-treated-and-root-stump": 40,
    "RPD clasp": 8,
    "bridge": 533,
    "calculus": 3008,
    "cantilever": 18,
    "caries": 4940,
    "cast partial denture": 2,
    "condensing osteitis": 15,
    "crown": 1618,
    "cyst": 4,
    "distomolar": 5,
    "grossly-decayed": 2,
    "hemimandibulectomy": 3,
    "impacted": 1881,
    "implant": 301,
    "inter radicularradiolucency": 5,
    "mini plates": 21,
    "missing": 4858,
    "peri implant bone loss": 17,
    "periapical radiolucency": 1522,
    "radiolucency": 3,
    "restoration": 1683,
    "retained decidious": 34,
    "root-stump": 1115,
    "supernumerary": 16,
    "tooth-bud": 215,
    "vascular clips": 9,
    "wire splint": 2,
}
"""Annotations of each raw condition name over those images (names as v8 spells them)."""

FDI_TEETH: tuple[int, ...] = tuple(q * 10 + p for q in (1, 2, 3, 4) for p in range(1, 9))
"""The 32 permanent teeth, quadrant by quadrant: 11…18, 21…28, 31…38, 41…48."""

UNANNOTATED_SHARE = 258 / 11_091
"""Share of images without any annotation over the 11 real exports that were measured; these mouths are healthy."""

Status = Literal["erupted", "absent", "missing", "impacted", "bud", "stump", "implant", "pontic", "deciduous"]


@dataclass
class Tooth:
    """One position of the arch.

    `absent` is a third molar that never formed (no finding); `missing` is a gap that dentists mark;
    `deciduous` is a retained milk tooth in the place of the permanent one.
    """

    status: Status = "erupted"
    root_filled: bool = False
    crowned: bool = False
    restored: bool = False
    caries: int = 0
    calculus: int = 0
    periapical: bool = False
    grossly_decayed: bool = False
    milk_tooth_above: bool = False


@dataclass
class Mouth:
    """All teeth of one patient, with the findings that are not a tooth's own."""

    teeth: dict[int, Tooth]
    bridges: list[list[int]] = field(default_factory=list)
    """Each a run of neighbouring teeth, mesial order along the arch; a run of 2 is a cantilever."""
    others: list[tuple[str, int]] = field(default_factory=list)
    """Raw name and the tooth that it lies at."""
    healthy: bool = False

    def change(self, teeth: Iterable[int], **state: str | int) -> None:
        """Give some teeth other properties."""
        for fdi in teeth:
            self.teeth[fdi] = replace(self.teeth[fdi], **state)


def rate(raw_name: str) -> float:
    """Mean number of annotations of a raw condition name in one image of v8."""
    return V8_CONDITION_COUNTS[raw_name] / V8_IMAGES


def arch(upper: bool) -> list[int]:
    """The 16 teeth of one jaw from the image's left (patient's right) to its right."""
    right, left = (1, 2) if upper else (4, 3)
    return [right * 10 + p for p in range(8, 0, -1)] + [left * 10 + p for p in range(1, 9)]


# Findings get lost after they were drawn by lot: the tooth is taken, the picture ends above them, or the second
# dentist overlooks them. Measured on 4,426 phantoms; the drawn number is multiplied by it, so that means meet v8's.
_COMPENSATION: dict[str, float] = {
    "bridge": 1.09,
    "calculus": 1.03,
    "caries": 1.05,
    "crown": 0.94,
    "impacted": 1.04,
    "implant": 1.04,
    "missing": 1.03,
    "periapical radiolucency": 1.11,
    "restoration": 1.03,
}

_CARIES_WEIGHT = {1: 0.6, 2: 0.7, 3: 0.6, 4: 1.0, 5: 1.3, 6: 2.0, 7: 2.0, 8: 1.2}
_LOSS_WEIGHT = {1: 0.3, 2: 0.3, 3: 0.2, 4: 0.8, 5: 1.0, 6: 2.4, 7: 1.5, 8: 0.3}
_RESTORED_WEIGHT = {1: 0.6, 2: 0.6, 3: 0.3, 4: 0.8, 5: 1.0, 6: 2.0, 7: 1.5, 8: 0.3}


def _count(rng: np.random.Generator, raw_name: str, severity: float) -> int:
    healthy_share = 1.0 - UNANNOTATED_SHARE
    return int(rng.poisson(rate(raw_name) * severity * _COMPENSATION.get(raw_name, 1.0) / healthy_share))


def _choose(
    rng: np.random.Generator, candidates: list[int], count: int, weights: dict[int, float] | None = None
) -> list[int]:
    """Up to `count` different teeth out of `candidates`, weighted by their position in the quadrant."""
    count = min(count, len(candidates))
    if count == 0:
        return []
    p = np.array([1.0 if weights is None else weights[t % 10] for t in candidates])
    keys = rng.random(len(candidates)) ** (1.0 / p)  # weighted sampling without replacement (Efraimidis, Spirakis 2006)
    return [candidates[i] for i in np.argsort(-keys)[:count]]


def sample_mouth(rng: np.random.Generator) -> Mouth:
    """Draw one patient.

    Args:
        rng: The patient's own stream; the same stream gives the same mouth.

    Returns:
        A mouth in which every position 11…48 has exactly one state.
    """
    mouth = Mouth({fdi: Tooth() for fdi in FDI_TEETH})
    if rng.random() < UNANNOTATED_SHARE:
        mouth.healthy = True
        return mouth
    severity = float(rng.gamma(1.6, 1 / 1.6))
    if rng.random() < 0.030:
        _place_buds(mouth, rng)
    _place_third_molars(mouth, rng)
    _place_gaps(mouth, rng, severity)
    _place_bridges(mouth, rng, severity)
    _place_tooth_findings(mouth, rng, severity)
    _place_others(mouth, rng)
    _place_bone_loss(mouth, rng)
    return mouth


def _with_status(mouth: Mouth, *statuses: Status) -> list[int]:
    return [fdi for fdi, tooth in mouth.teeth.items() if tooth.status in statuses]


def _place_buds(mouth: Mouth, rng: np.random.Generator) -> None:
    """A child or a teenager: developing teeth under milk teeth, or only third molars developing."""
    thirds = [18, 28, 38, 48]
    if rng.random() < 0.5:  # teenager
        buds = _choose(rng, thirds, 2 + int(rng.integers(0, 3)))
        milk: list[int] = []
    else:
        milk = _choose(rng, [q * 10 + p for q in (1, 2, 3, 4) for p in (4, 5)], 2 + int(rng.integers(0, 3)))
        buds = milk + _choose(rng, thirds, int(rng.integers(0, 4)))
        mouth.change(thirds, status="absent")
    for fdi in buds:
        mouth.teeth[fdi].status = "bud"
        mouth.teeth[fdi].milk_tooth_above = fdi in milk


def _place_third_molars(mouth: Mouth, rng: np.random.Generator) -> None:
    tendency = float(rng.beta(0.6, 1.6))  # impaction comes in pairs and fours
    scale = _COMPENSATION.get("impacted", 1.0) * rate("impacted") * 0.92 / 4 / (0.6 / 2.2)
    for fdi in (18, 28, 38, 48):
        tooth = mouth.teeth[fdi]
        if tooth.status != "erupted":
            continue
        if rng.random() < tendency * scale:
            tooth.status = "impacted"
        elif rng.random() < 0.3:
            tooth.status = "absent"
    for fdi, share in ((13, 1.0), (23, 1.0), (33, 0.4), (43, 0.4)):
        if rng.random() < rate("impacted") * 0.08 / 2.8 * share:
            mouth.change([fdi], status="impacted")


def _place_gaps(mouth: Mouth, rng: np.random.Generator, severity: float) -> None:
    wear = severity * float(rng.gamma(1.2, 1 / 1.2))
    count = min(_count(rng, "missing", wear), 18)
    mouth.change(_choose(rng, _losable(mouth), (count + 1) // 2, _LOSS_WEIGHT), status="missing")
    for _ in range(count // 2):  # the rest beside an existing gap: losses come in runs
        edge = [t for t in _losable(mouth) if any(mouth.teeth[n].status == "missing" for n in neighbours(t))]
        mouth.change(_choose(rng, edge, 1, _LOSS_WEIGHT), status="missing")
    _place_implants(mouth, rng)
    _leave_stumps(mouth, rng, wear)


def _losable(mouth: Mouth) -> list[int]:
    """Erupted teeth but the third molars."""
    return [t for t in _with_status(mouth, "erupted") if t % 10 != 8]


def _place_implants(mouth: Mouth, rng: np.random.Generator) -> None:
    if rng.random() >= 0.09:
        return
    for fdi in _choose(rng, _losable(mouth), _count(rng, "implant", 1 / 0.09), _LOSS_WEIGHT):
        mouth.change([fdi], status="implant", crowned=bool(rng.random() < 0.7))


def _leave_stumps(mouth: Mouth, rng: np.random.Generator, wear: float) -> None:
    stumps = _count(rng, "root-stump", wear) + _count(rng, "RC-treated-and-root-stump", 1.0)
    filled = V8_CONDITION_COUNTS["RC-treated-and-root-stump"]
    share = filled / (filled + V8_CONDITION_COUNTS["root-stump"])
    for fdi in _choose(rng, _with_status(mouth, "erupted"), stumps, _CARIES_WEIGHT):
        mouth.change([fdi], status="stump", root_filled=bool(rng.random() < share))


def neighbours(fdi: int) -> list[int]:
    """The teeth beside one in its jaw (one or two)."""
    row = arch(fdi < 30)
    i = row.index(fdi)
    return row[max(i - 1, 0) : i] + row[i + 1 : i + 2]


def _place_bridges(mouth: Mouth, rng: np.random.Generator, severity: float) -> None:
    for raw_name, length in (("bridge", 3), ("cantilever", 2)):
        for _ in range(_count(rng, raw_name, severity)):
            units = length + (int(rng.random() < 0.2) if length == 3 else 0)
            rows = (arch(upper) for upper in (True, False))
            runs = [row[i : i + units] for row in rows for i in range(1, 16 - units)]
            if free := [run for run in runs if _may_be_bridged(mouth, run)]:
                run = free[int(rng.integers(len(free)))]
                mouth.bridges.append(run)
                mouth.change(run[1:-1] if length == 3 else run[1:], status="pontic")


def _may_be_bridged(mouth: Mouth, run: list[int]) -> bool:
    """Whether all stand without a crown, and no other bridge reaches them or the teeth beside them."""
    bridged = {fdi for bridge in mouth.bridges for fdi in bridge}
    near = {*run, *(other for fdi in run for other in neighbours(fdi))}
    return not bridged & near and all(_is_bare(mouth.teeth[fdi]) for fdi in run)


def _is_bare(tooth: Tooth) -> bool:
    return tooth.status == "erupted" and not tooth.crowned


def _place_tooth_findings(mouth: Mouth, rng: np.random.Generator, severity: float) -> None:
    bridged = {t for run in mouth.bridges for t in run}
    erupted = _with_status(mouth, "erupted")
    free = [t for t in erupted if t not in bridged]
    mouth.change(_choose(rng, erupted, _count(rng, "RC-treated", severity), _RESTORED_WEIGHT), root_filled=True)
    _place_crowns(mouth, rng, severity, free)
    _place_decay(mouth, rng, severity, [t for t in free if not mouth.teeth[t].crowned])
    _place_calculus(mouth, rng, severity, free)
    _place_periapical(mouth, rng, severity, erupted)


def _place_crowns(mouth: Mouth, rng: np.random.Generator, severity: float, free: list[int]) -> None:
    already = sum(t.crowned for t in mouth.teeth.values())  # crowns on implants count as crowns
    wanted = max(_count(rng, "crown", severity) - already, 0)
    filled = [t for t in free if mouth.teeth[t].root_filled]
    crowned = _choose(rng, filled, min(wanted, round(len(filled) * 0.7)))
    crowned += _choose(rng, [t for t in free if t not in crowned], wanted - len(crowned), _RESTORED_WEIGHT)
    mouth.change(crowned, crowned=True)


def _place_decay(mouth: Mouth, rng: np.random.Generator, severity: float, bare: list[int]) -> None:
    """Restorations and caries, on teeth without a crown."""
    teeth = mouth.teeth
    mouth.change(_choose(rng, bare, _count(rng, "restoration", severity), _RESTORED_WEIGHT), restored=True)
    for _ in range(_count(rng, "caries", severity)):
        open_sites = [t for t in bare if teeth[t].caries < (1 if teeth[t].restored else 2)]
        for fdi in _choose(rng, open_sites, 1, _CARIES_WEIGHT):
            teeth[fdi].caries += 1
    decayed = [t for t in bare if teeth[t].caries and t % 10 >= 4]
    lost = _choose(rng, decayed, _count(rng, "grossly-decayed", 1.0))
    mouth.change(lost, grossly_decayed=True, caries=0, restored=False)


_CALCULUS_WEIGHT = {1: 1.6, 2: 1.4, 3: 1.0, 4: 0.6, 5: 0.7, 6: 1.2, 7: 1.2, 8: 0.4}


def _place_calculus(mouth: Mouth, rng: np.random.Generator, severity: float, free: list[int]) -> None:
    able = {t for t in free if not (mouth.teeth[t].crowned or mouth.teeth[t].grossly_decayed)}
    tartar = severity * float(rng.gamma(0.7, 1 / 0.7))
    for _ in range(_count(rng, "calculus", tartar)):
        open_sites = [t for t in free if t in able and mouth.teeth[t].calculus < 2]
        for fdi in _choose(rng, open_sites, 1, _CALCULUS_WEIGHT):
            mouth.teeth[fdi].calculus += 1


def _place_periapical(mouth: Mouth, rng: np.random.Generator, severity: float, erupted: list[int]) -> None:
    """Most at teeth that are filled or decayed, the rest anywhere."""
    sick = [t for t in erupted if mouth.teeth[t].root_filled or mouth.teeth[t].caries]
    likely = sick + _with_status(mouth, "stump")
    count = _count(rng, "periapical radiolucency", severity)
    sites = _choose(rng, likely, round(count * 0.8))
    sites += _choose(rng, [t for t in erupted if t not in sites], count - len(sites))
    mouth.change(sites, periapical=True)


_AT_PREMOLARS_AND_MOLARS = [q * 10 + p for q in (3, 4) for p in (4, 5, 6, 7)]


def _place_others(mouth: Mouth, rng: np.random.Generator) -> None:
    """The rare findings, each at a tooth where it can be seen; those that need a partner look for one."""
    used: set[int] = set()
    for raw_name, eligible in _sites_of_others(mouth).items():
        for _ in range(_count(rng, raw_name, 1.0)):
            open_sites = [t for t in eligible if t not in used]
            if not open_sites:
                break
            fdi = open_sites[int(rng.integers(len(open_sites)))]
            used.add(fdi)
            mouth.others.append((raw_name, fdi))
            _change_teeth(mouth, raw_name, fdi)


def _place_bone_loss(mouth: Mouth, rng: np.random.Generator) -> None:
    """Around some implants."""
    for fdi in _with_status(mouth, "implant"):
        if rng.random() < V8_CONDITION_COUNTS["peri implant bone loss"] / V8_CONDITION_COUNTS["implant"]:
            mouth.others.append(("peri implant bone loss", fdi))


def _sites_of_others(mouth: Mouth) -> dict[str, list[int]]:
    """Rare finding → the teeth at which it can be seen, as the mouth is before the first of them."""
    erupted = _with_status(mouth, "erupted")
    sound = [t for t in erupted if not (mouth.teeth[t].periapical or mouth.teeth[t].crowned)]
    bridged = {t // 10 for run in mouth.bridges for t in run}
    return {
        "RPD clasp": [t for t in sound if t % 10 in (3, 4, 5, 6)],
        "cast partial denture": [t for t in sound if t in (36, 46)],
        "condensing osteitis": [t for t in sound if t in (35, 36, 45, 46, 37, 47)],
        "cyst": _AT_PREMOLARS_AND_MOLARS,
        "distomolar": [t for t in (18, 28, 38, 48) if t in erupted],
        "hemimandibulectomy": [t for t in (37, 47) if t // 10 not in bridged],
        "inter radicularradiolucency": [t for t in sound if t in (36, 37, 46, 47)],
        "mini plates": [33, 43, 35, 45, 37, 47],
        "radiolucency": _AT_PREMOLARS_AND_MOLARS,
        "retained decidious": [t for t in sound if t % 10 in (5, 3)],
        "supernumerary": [t for t in sound if t % 10 in (1, 4)],
        "vascular clips": [37, 47],
        "wire splint": [t for t in sound if t in (31, 41)],
    }


def _change_teeth(mouth: Mouth, raw_name: str, fdi: int) -> None:
    """What a rare finding does to the teeth themselves."""
    if raw_name == "retained decidious":
        mouth.teeth[fdi] = Tooth("deciduous")
    if raw_name == "hemimandibulectomy":  # the jaw is gone from the premolars backwards, teeth and all
        for position in range(4, 9):
            mouth.teeth[fdi // 10 * 10 + position] = Tooth("absent")
