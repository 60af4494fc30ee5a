"""Teeth of a phantom: the shape of each kind, its place on the two arches, and how a sound tooth is drawn.

Lengths in the templates are fractions of the tooth; everywhere else px of the drawn image, or millimetres where a
name says `mm` (one mm is about 0.45 % of the width, as on a real panoramic image).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from dentsight_pipeline.phantom.canvas import Canvas, Gray, Points, fill, smooth
from dentsight_pipeline.phantom.mouth import Mouth, arch

# Mesiodistal crown width, crown height, root length in mm by position 1…8 (Wheeler's Dental Anatomy, rounded).
_UPPER_MM = [(8.5, 10.5, 13), (6.6, 9.5, 13), (7.6, 10, 17), (7.1, 8.5, 14), (6.8, 8.5, 14), (10.3, 7.5, 13),
             (9.6, 7.2, 12), (8.8, 6.8, 10.5)]  # fmt: skip
_LOWER_MM = [(5.4, 9, 12.5), (5.9, 9.3, 14), (6.9, 11, 16), (7.0, 8.8, 14), (7.1, 8.3, 14.5), (11.2, 7.6, 14),
             (10.6, 7.2, 13), (10.0, 7.0, 11)]  # fmt: skip


@dataclass(frozen=True)
class Template:
    """A tooth in its own frame: s in [-1, 1] mesial to distal, t 0 = biting edge, 1 = neck, 2 = root tip.

    Attributes:
        outline: The whole tooth, closed.
        root_outline: From the neck round the root tips and back.
        core: Dentin, inside the enamel and down the roots.
        crown_core: Dentin inside the enamel.
        crown: Enamel down to the neck.
        pulp: Chamber and canal.
        extra_root: The palatal root of upper molars.
        canals: Lines from the chamber to each tip.
        apices: `[n, 2]` root tips.
    """

    outline: Points
    root_outline: Points
    core: Points
    crown_core: Points
    crown: Points
    pulp: Points
    extra_root: Points | None
    canals: tuple[Points, ...]
    apices: Points


def _mirrored(half: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(-s, t) for s, t in reversed(half)]


@cache
def template(kind: str) -> Template:
    """The shapes of one kind of tooth: incisor, canine, premolar, upper-molar, lower-molar."""
    extra = None
    single = [(0.95, 0.62), (0.76, 1.0), (0.64, 1.25), (0.5, 1.55), (0.3, 1.86), (0.1, 2.0)]
    if kind == "incisor":
        edge = [(-0.9, 0.03), (-0.3, 0.0), (0.3, 0.0), (0.88, 0.05), (1.0, 0.28)]
        core_top = [(-0.6, 0.18), (0.6, 0.18), (0.78, 0.5), (0.7, 1.02)]
    elif kind == "canine":
        edge = [(-0.85, 0.22), (-0.35, 0.03), (0.0, -0.05), (0.4, 0.05), (0.9, 0.25), (1.0, 0.4)]
        core_top = [(-0.5, 0.3), (0.0, 0.14), (0.5, 0.3), (0.78, 0.6), (0.7, 1.02)]
    else:
        edge = [(-0.9, 0.12), (-0.55, 0.0), (-0.15, 0.1), (0.15, 0.1), (0.6, 0.02), (0.95, 0.14), (1.0, 0.4)]
        core_top = [(-0.58, 0.28), (-0.15, 0.36), (0.15, 0.36), (0.6, 0.3), (0.8, 0.6), (0.74, 1.02)]
    if kind in ("incisor", "canine", "premolar"):
        outline = edge + single + _mirrored(single) + [(-1.0, 0.32)]
        root = [p for p in single if p[1] >= 1] + _mirrored([p for p in single if p[1] >= 1])
        core = [*core_top, (0.5, 1.4), (0.2, 1.85), (0.0, 1.95), (-0.2, 1.85), (-0.5, 1.4), (-0.7, 1.02), (-0.78, 0.5)]
        pulp = [(-0.2, 0.5), (0.0, 0.4), (0.2, 0.5), (0.2, 1.0), (0.12, 1.5), (0.04, 1.95), (-0.04, 1.95),
                (-0.12, 1.5), (-0.2, 1.0)]  # fmt: skip
        canals = (np.array([(0.0, 0.55), (0.0, 1.0), (0.0, 1.5), (0.0, 1.95)]),)
        apices = np.array([(0.0, 2.0)])
    else:
        spread = 0.08 if kind == "lower-molar" else 0.0
        half = [(0.95, 0.72), (0.84, 1.0), (0.88, 1.3), (0.82 + spread, 1.7), (0.64 + spread, 1.98), (0.48, 1.94),
                (0.36, 1.62), (0.24, 1.34)]  # fmt: skip
        outline = edge + half + [(0.0, 1.24)] + _mirrored(half) + [(-1.0, 0.36)]
        root = [p for p in half if p[1] >= 1] + [(0.0, 1.24)] + _mirrored([p for p in half if p[1] >= 1])
        core = [*core_top, (0.6, 1.35), (0.2, 1.1), (-0.2, 1.1), (-0.6, 1.35), (-0.74, 1.02), (-0.8, 0.6)]
        pulp = [(-0.42, 0.55), (0.0, 0.68), (0.42, 0.55), (0.44, 0.85), (0.6, 1.3), (0.34, 1.02), (0.0, 0.95),
                (-0.34, 1.02), (-0.6, 1.3), (-0.44, 0.85)]  # fmt: skip
        tip = 0.6 + spread * 0.8
        canals = (
            np.array([(0.38, 0.78), (0.56, 1.25), (0.62, 1.6), (tip, 1.93)]),
            np.array([(-0.38, 0.78), (-0.56, 1.25), (-0.62, 1.6), (-tip, 1.93)]),
        )
        apices = np.array([(tip, 1.97), (-tip, 1.97)])
        if kind == "upper-molar":
            extra = smooth([(-0.36, 1.05), (0.36, 1.05), (0.26, 1.6), (0.1, 2.1), (-0.1, 2.1), (-0.26, 1.6)])
            canals += (np.array([(0.0, 0.8), (0.02, 1.3), (0.0, 1.7), (0.0, 2.04)]),)
    crown_core = [*core_top, (0.3, 1.12), (-0.3, 1.12), (-0.7, 1.02), (-0.8, 0.56)]
    crown = [*edge, (0.97, 0.7), (0.82, 1.0), (0.4, 1.07), (0.0, 1.1), (-0.4, 1.07), (-0.82, 1.0), (-0.97, 0.7)]
    if kind in ("upper-molar", "lower-molar"):
        crown[-4:-3] = [(0.0, 1.04)]
    return Template(
        smooth(outline),
        smooth(root),
        smooth(core),
        smooth(crown_core),
        smooth(crown),
        smooth(pulp),
        extra,
        canals,
        apices,
    )


def _kind(fdi: int) -> str:
    molar = "upper-molar" if fdi < 30 else "lower-molar"
    return ("incisor", "incisor", "canine", "premolar", "premolar", molar, molar, molar)[fdi % 10 - 1]


@dataclass(frozen=True)
class Place:
    """Where one tooth stands in the image: maps tooth coordinates (s, t) to px.

    Attributes:
        fdi: The tooth.
        origin: `[2]` px, middle of the biting edge.
        across: `[2]` px, half a crown's width towards distal.
        along: `[2]` unit vector from the biting edge to the root tip.
        crown_px: Height of the crown.
        root_px: Length of the root.
        bend: Sideways drift of the root tip, in half crown widths.
        kind: Name of its template.
        column: 0…15 from the image's left.
    """

    fdi: int
    origin: Points
    across: Points
    along: Points
    crown_px: float
    root_px: float
    bend: float
    kind: str
    column: int

    def xy(self, st: Points) -> Points:
        """`[n, 2]` (s, t) to `[n, 2]` image px."""
        s, t = st[:, 0], st[:, 1]
        root = np.maximum(t - 1.0, 0.0)
        depth = np.minimum(t, 1.0) * self.crown_px + root * self.root_px
        s = s + self.bend * root * root
        return self.origin + s[:, None] * self.across + depth[:, None] * self.along

    @property
    def half_px(self) -> float:
        """Half the crown's width in px."""
        return float(np.hypot(self.across[0], self.across[1]))

    @property
    def outwards(self) -> Points:
        """Unit vector towards distal."""
        return self.across / self.half_px

    def point(self, s: float, t: float) -> Points:
        """One point, `[2]` px."""
        return self.xy(np.array([[s, t]]))[0]


@dataclass(frozen=True)
class Face:
    """One patient's proportions, in px of the drawn image.

    Attributes:
        width: Of the image.
        height: Of the image.
        mm: One millimetre.
        center_x: The midline.
        occlusal_y: The biting plane at the midline.
        smile: How far the biting plane rises to the last molars.
        bite_px: Half the distance between the jaws in front.
    """

    width: int
    height: int
    mm: float
    center_x: float
    occlusal_y: float
    smile: float
    bite_px: float

    def occlusal(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Height of the biting plane at x: a smile, lowest in the middle."""
        u = (x - self.center_x) / (0.28 * self.width)
        return self.occlusal_y - self.smile * u * u


def layout(face: Face, rng: np.random.Generator) -> dict[int, Place]:
    """Put all 32 positions on the two arches, side by side from the midline outwards."""
    places: dict[int, Place] = {}
    jitter = iter(rng.standard_normal((32, 6)))
    for upper, table in ((True, _UPPER_MM), (False, _LOWER_MM)):
        stretch = 1.0 + 0.03 * float(rng.standard_normal())
        for quadrant, side in ((1, -1.0), (2, 1.0)) if upper else ((4, -1.0), (3, 1.0)):
            x = face.center_x + side * 0.1 * face.mm
            for i, size_mm in enumerate(table):
                z = next(jitter)
                half = size_mm[0] * face.mm * stretch * (1 + 0.03 * z[0]) / 2
                place, x = _next_place(face, quadrant * 10 + i + 1, side, x, half, size_mm, z)
                places[place.fdi] = place
    return places


def _next_place(
    face: Face, fdi: int, side: float, x: float, half: float, size_mm: tuple[float, float, float], z: Points
) -> tuple[Place, float]:
    """One tooth beside the last one, and where the next one starts.

    Args:
        face: The patient's proportions.
        fdi: Which tooth.
        side: -1 on the image's left, +1 on its right.
        x: Where the last one ends, px.
        half: Half the tooth's width, px.
        size_mm: Width, crown length, root length.
        z: `[6]` how it differs from the mean: width, tilt, height, crown, root, bend.
    """
    upper, i = fdi < 30, fdi % 10 - 1
    sign = -1.0 if upper else 1.0
    slope = -2 * face.smile * (x - face.center_x) / (0.28 * face.width) ** 2
    cosine = 1.0 / np.hypot(1.0, slope)
    cx = x + side * half * cosine
    tilt = _tilt(slope, upper, side, i, z[1])
    closing = 1.0 if i < 3 else 0.75
    y = float(face.occlusal(np.asarray(cx))) + sign * face.bite_px * closing + z[2] * 0.35 * face.mm
    place = Place(
        fdi=fdi,
        origin=np.array([cx, y]),
        across=np.array([np.cos(tilt), np.sin(tilt)]) * side * half,
        along=np.array([-np.sin(tilt), np.cos(tilt)]) * sign,
        crown_px=size_mm[1] * face.mm * (1 + 0.04 * z[3]) * 1.02,
        root_px=size_mm[2] * face.mm * (1 + 0.07 * z[4]) * 1.05,
        bend=0.16 * z[5] + (0.12 if i >= 5 else 0.04),
        kind=_kind(fdi),
        column=7 - i if side < 0 else 8 + i,
    )
    return place, cx + side * (half * cosine + 0.12 * face.mm)


def _tilt(slope: float, upper: bool, side: float, i: int, z: float) -> float:
    """How far a tooth leans, in radians: with the biting plane, lower molars inwards, front teeth apart."""
    tilt = np.arctan(slope) * (0.55 if upper else 1.0) + np.deg2rad(2.2) * z
    if not upper and i >= 6:
        tilt -= side * np.deg2rad(6)
    if i < 3:
        tilt += side * np.deg2rad(-2.5 if upper else 2.0)
    return tilt


# Attenuation of the teeth layers, added to the anatomy below.
DENTIN_ROOT, PULP_ROOT, ENAMEL = 46, 34, 124
_DENTIN_INNER, _DENTIN_CROWN, _PULP_CROWN = 60, 92, 64


def draw_ligament(c: Canvas, p: Place, layer: Gray) -> None:
    """The dark line around the roots and the thin dense bone that lines the socket."""
    root = p.xy(template(p.kind).root_outline)
    c.line(c.dark, root, 26, 0.9, closed=True)
    c.line(layer, root, 18, 1.6, closed=True)


def draw_tooth(c: Canvas, p: Place, layer: Gray) -> None:
    """Enamel, dentin, pulp and ligament of one whole tooth."""
    t = template(p.kind)
    draw_ligament(c, p, layer)
    if t.extra_root is not None:
        fill(layer, p.xy(t.extra_root), DENTIN_ROOT - 6)
    fill(layer, p.xy(t.outline), DENTIN_ROOT)
    if t.extra_root is not None:
        c.line(layer, p.xy(t.extra_root), DENTIN_ROOT + 12, 0.5, closed=True)
    core = p.xy(t.core)
    fill(layer, core, _DENTIN_INNER)
    fill(layer, p.xy(t.crown), ENAMEL)
    fill(layer, p.xy(t.crown_core), _DENTIN_CROWN)
    fill(layer, p.xy(t.pulp), _PULP_CROWN)
    for canal in t.canals:
        c.line(layer, p.xy(canal[canal[:, 1] >= 0.9]), PULP_ROOT, 0.6)


def milk_place(p: Place, mm: float) -> Place:
    """A small molar-shaped tooth at the same place."""
    return replace(
        p,
        origin=p.origin + p.along * 1.2 * mm,
        across=p.across * 0.95,
        crown_px=p.crown_px * 0.68,
        root_px=p.root_px * 0.4,
        kind="lower-molar" if p.fdi > 30 else "upper-molar",
    )


def impacted_place(p: Place, mm: float, rng: np.random.Generator) -> Place:
    """The same tooth, sunk into the bone and tilted: third molars mostly towards their neighbour."""
    if p.fdi % 10 == 8:
        direction = (-1.0, -1.0, -1.0, 0.0, 1.0)[int(rng.integers(5))]  # -1 turns the crown mesially
        angle = direction * np.deg2rad(38 + 45 * float(rng.random()))
        sunk = (4.5 + 4 * float(rng.random())) * mm
        shift = -1.0 * mm if angle < 0 else 1.5 * mm
    else:
        angle = (-1.0, 1.0)[int(rng.integers(2))] * np.deg2rad(25 + 40 * float(rng.random()))
        sunk, shift = 13 * mm, 0.0
    out = p.outwards
    along = p.along * np.cos(angle) - out * np.sin(angle)
    across = (out * np.cos(angle) + p.along * np.sin(angle)) * p.half_px
    origin = p.origin + p.along * (sunk + p.crown_px * 0.35) + out * shift + (p.along - along) * p.crown_px * 0.3
    return replace(p, origin=origin, across=across, along=along, root_px=p.root_px * 0.85)


def bone_margin(places: Mapping[int, Place], mouth: Mouth, upper: bool, loss: float) -> Points:
    """The edge of one jaw's bone from left to right: near the necks between the teeth, further back in gaps.

    Args:
        places: All positions.
        mouth: Where the gaps are.
        upper: Which jaw.
        loss: General loss of bone, in root lengths.
    """
    points = []
    for fdi in arch(upper):
        p, status = places[fdi], mouth.teeth[fdi].status
        left = 1.0 if p.column < 8 else -1.0
        if status in ("missing", "implant", "pontic"):
            points += [p.point(0.7 * left, 1.2 + loss), p.point(-0.7 * left, 1.2 + loss)]
        elif status in ("absent", "impacted", "bud"):
            points.append(p.point(0.0, 0.95))
        else:
            points += [p.point(left, 1.1 + loss), p.point(0.0, 1.2 + loss), p.point(-left, 1.1 + loss)]
    return np.array(points)
