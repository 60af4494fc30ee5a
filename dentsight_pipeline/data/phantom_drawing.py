"""Draws one phantom patient as a panoramic X-ray, with the outline of every tooth and finding.

Synthetic pictures: simple shapes with radiographic brightness, meant for tests, benchmarks and the demo, never as
clinical data. The picture is composed of a few layers that add up as attenuation does: blurred anatomy (bone, sinus,
air, spine ghost), texture, lucencies that are subtracted, teeth, metal. The patient's right is on the image's left.

Lengths in the tooth templates are fractions of the tooth; everywhere else px of the drawn image, or millimetres
where a name says `mm` (one mm is about 0.45 % of the width, as on a real panoramic image).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from dentsight_pipeline.data.phantom_mouth import Mouth, Tooth, arch

Points = NDArray[np.float64]
"""`[n, 2]` x, y."""

_SHIFT = 4  # fractional bits of OpenCV's drawing coordinates
_MIN_DRAWN_WIDTH = 640  # narrower images are drawn at this width and reduced: thin structures survive

# Mesiodistal crown width, crown height, root length in mm by position 1…8 (Wheeler's Dental Anatomy, rounded).
_UPPER_MM = [(8.5, 10.5, 13), (6.6, 9.5, 13), (7.6, 10, 17), (7.1, 8.5, 14), (6.8, 8.5, 14), (10.3, 7.5, 13),
             (9.6, 7.2, 12), (8.8, 6.8, 10.5)]  # fmt: skip
_LOWER_MM = [(5.4, 9, 12.5), (5.9, 9.3, 14), (6.9, 11, 16), (7.0, 8.8, 14), (7.1, 8.3, 14.5), (11.2, 7.6, 14),
             (10.6, 7.2, 13), (10.0, 7.0, 11)]  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """One annotated structure.

    Attributes:
        raw_name: FDI tooth or condition as v8 spells it.
        outline_xy_px: `[n, 2]` polygon in image pixels; may reach outside a cropped image.
        fdi: The tooth that it belongs to (0 = none).
    """

    raw_name: str
    outline_xy_px: Points
    fdi: int


@dataclass(frozen=True)
class Drawing:
    """A finished picture: `[height, width]` uint8 gray, and its true shapes."""

    gray: NDArray[np.uint8]
    shapes: list[Shape]


def _smooth(points: Sequence[tuple[float, float]], rounds: int = 2) -> Points:
    """A closed polygon with its corners cut (Chaikin 1974)."""
    p = np.asarray(points, dtype=np.float64)
    for _ in range(rounds):
        q = np.roll(p, -1, axis=0)
        p = np.stack([0.75 * p + 0.25 * q, 0.25 * p + 0.75 * q], axis=1).reshape(-1, 2)
    return p


@dataclass(frozen=True)
class _Template:
    """A tooth in its own frame: s in [-1, 1] mesial to distal, t 0 = biting edge, 1 = neck, 2 = root tip."""

    outline: Points
    root_outline: Points
    core: Points
    crown: Points
    pulp: Points
    extra_root: Points | None
    canals: tuple[Points, ...]
    apices: Points


@cache
def _template(kind: str) -> _Template:
    """The shapes of one kind of tooth: incisor, canine, premolar, upper-molar, lower-molar."""
    extra = None
    single = [(0.95, 0.62), (0.76, 1.0), (0.64, 1.25), (0.5, 1.55), (0.3, 1.86), (0.1, 2.0)]
    if kind == "incisor":
        edge = [(-0.9, 0.03), (-0.3, 0.0), (0.3, 0.0), (0.88, 0.05), (1.0, 0.28)]
        core = [(-0.6, 0.18), (0.6, 0.18), (0.78, 0.5), (0.7, 1.02)]
    elif kind == "canine":
        edge = [(-0.85, 0.22), (-0.35, 0.03), (0.0, -0.05), (0.4, 0.05), (0.9, 0.25), (1.0, 0.4)]
        core = [(-0.5, 0.3), (0.0, 0.14), (0.5, 0.3), (0.78, 0.6), (0.7, 1.02)]
    else:
        edge = [(-0.9, 0.12), (-0.55, 0.0), (-0.15, 0.1), (0.15, 0.1), (0.6, 0.02), (0.95, 0.14), (1.0, 0.4)]
        core = [(-0.58, 0.28), (-0.15, 0.36), (0.15, 0.36), (0.6, 0.3), (0.8, 0.6), (0.74, 1.02)]
    mirrored = lambda half: [(-s, t) for s, t in reversed(half)]  # noqa: E731 - used three times below
    if kind in ("incisor", "canine", "premolar"):
        outline = edge + single + mirrored(single) + [(-1.0, 0.32)]
        root = [p for p in single if p[1] >= 1] + mirrored([p for p in single if p[1] >= 1])
        core += [(0.5, 1.4), (0.2, 1.85), (0.0, 1.95), (-0.2, 1.85), (-0.5, 1.4), (-0.7, 1.02), (-0.78, 0.5)]
        pulp = [(-0.2, 0.5), (0.0, 0.4), (0.2, 0.5), (0.2, 1.0), (0.12, 1.5), (0.04, 1.95), (-0.04, 1.95),
                (-0.12, 1.5), (-0.2, 1.0)]  # fmt: skip
        canals = (np.array([(0.0, 0.55), (0.0, 1.0), (0.0, 1.5), (0.0, 1.95)]),)
        apices = np.array([(0.0, 2.0)])
    else:
        spread = 0.08 if kind == "lower-molar" else 0.0
        half = [(0.95, 0.72), (0.84, 1.0), (0.88, 1.3), (0.82 + spread, 1.7), (0.64 + spread, 1.98), (0.48, 1.94),
                (0.36, 1.62), (0.24, 1.34)]  # fmt: skip
        outline = edge + half + [(0.0, 1.24)] + mirrored(half) + [(-1.0, 0.36)]
        root = [p for p in half if p[1] >= 1] + [(0.0, 1.24)] + mirrored([p for p in half if p[1] >= 1])
        core += [(0.6, 1.35), (0.2, 1.1), (-0.2, 1.1), (-0.6, 1.35), (-0.74, 1.02), (-0.8, 0.6)]
        pulp = [(-0.42, 0.55), (0.0, 0.68), (0.42, 0.55), (0.44, 0.85), (0.6, 1.3), (0.34, 1.02), (0.0, 0.95),
                (-0.34, 1.02), (-0.6, 1.3), (-0.44, 0.85)]  # fmt: skip
        tip = 0.6 + spread * 0.8
        canals = (
            np.array([(0.38, 0.78), (0.56, 1.25), (0.62, 1.6), (tip, 1.93)]),
            np.array([(-0.38, 0.78), (-0.56, 1.25), (-0.62, 1.6), (-tip, 1.93)]),
        )
        apices = np.array([(tip, 1.97), (-tip, 1.97)])
        if kind == "upper-molar":
            extra = _smooth([(-0.36, 1.05), (0.36, 1.05), (0.26, 1.6), (0.1, 2.1), (-0.1, 2.1), (-0.26, 1.6)])
            canals += (np.array([(0.0, 0.8), (0.02, 1.3), (0.0, 1.7), (0.0, 2.04)]),)
    crown = edge + [(0.97, 0.7), (0.82, 1.0), (0.4, 1.07), (0.0, 1.1), (-0.4, 1.07), (-0.82, 1.0), (-0.97, 0.7)]
    if kind in ("upper-molar", "lower-molar"):
        crown[-4:-3] = [(0.0, 1.04)]
    return _Template(
        _smooth(outline), _smooth(root), _smooth(core), _smooth(crown), _smooth(pulp), extra, canals, apices
    )


def _kind(fdi: int) -> str:
    position = fdi % 10
    if position <= 2:
        return "incisor"
    if position == 3:
        return "canine"
    if position <= 5:
        return "premolar"
    return "upper-molar" if fdi < 30 else "lower-molar"


@dataclass
class _Place:
    """Where one tooth stands in the image: maps tooth coordinates (s, t) to px."""

    fdi: int
    origin: Points
    across: Points
    """px for one half crown width, towards distal."""
    along: Points
    """Unit vector from the biting edge to the root tip."""
    crown_px: float
    root_px: float
    bend: float
    kind: str
    column: int
    """0…15 from the image's left."""

    def xy(self, st: Points) -> Points:
        """`[n, 2]` (s, t) to `[n, 2]` image px."""
        s, t = st[:, 0], st[:, 1]
        root = np.maximum(t - 1.0, 0.0)
        depth = np.minimum(t, 1.0) * self.crown_px + root * self.root_px
        s = s + self.bend * root * root
        return self.origin + s[:, None] * self.across + depth[:, None] * self.along

    def point(self, s: float, t: float) -> Points:
        """One point, `[2]` px."""
        return self.xy(np.array([[s, t]]))[0]


@dataclass
class _Canvas:
    """The full-resolution layers of one image, all `[height, width]` uint8."""

    teeth: list[NDArray[np.uint8]]
    dark: NDArray[np.uint8]
    metal: NDArray[np.uint8]
    mm: float
    shapes: list[Shape] = field(default_factory=list)

    def fill(self, layer: NDArray[np.uint8], points: Points, value: float) -> None:
        """Fill one polygon (px) with anti-aliased edges."""
        cv2.fillPoly(layer, [np.rint(points * (1 << _SHIFT)).astype(np.int32)], value, cv2.LINE_AA, _SHIFT)

    def line(self, layer: NDArray[np.uint8], points: Points, value: float, mm: float, closed: bool = False) -> None:
        """Draw a polyline (px) that is `mm` thick."""
        fixed = np.rint(points * (1 << _SHIFT)).astype(np.int32)
        cv2.polylines(layer, [fixed], closed, value, max(1, round(mm * self.mm)), cv2.LINE_AA, _SHIFT)

    def mark(self, raw_name: str, outline: Points, fdi: int) -> None:
        """Record what was drawn."""
        self.shapes.append(Shape(raw_name, outline, fdi))


def _ring(
    center: Points, radius_x: float, radius_y: float, rng: np.random.Generator, rough: float, n: int = 14
) -> Points:
    """An irregular closed curve around a point, `[n, 2]` px."""
    angle = np.arange(n) * (2 * np.pi / n)
    r = 1.0 + rough * rng.standard_normal(n)
    return center + np.stack([np.cos(angle) * radius_x * r, np.sin(angle) * radius_y * r], axis=1)


def _hull(*parts: Points) -> Points:
    """The convex outline of several parts."""
    return cv2.convexHull(np.concatenate(parts).astype(np.float32))[:, 0].astype(np.float64)


def _inflate(points: Points, px: float) -> Points:
    """Push an outline away from its centre by about `px`."""
    d = points - points.mean(axis=0)
    norm = np.linalg.norm(d, axis=1, keepdims=True)
    return points + d / np.maximum(norm, 1e-6) * px


@dataclass(frozen=True)
class _Face:
    """One patient's proportions, in px of the drawn image."""

    width: int
    height: int
    mm: float
    center_x: float
    occlusal_y: float
    smile: float
    bite_px: float

    def occlusal(self, x: NDArray[np.float64] | float) -> NDArray[np.float64] | float:
        """Height of the biting plane at x: a smile, lowest in the middle."""
        u = (x - self.center_x) / (0.28 * self.width)
        return self.occlusal_y - self.smile * u * u


def _layout(face: _Face, rng: np.random.Generator) -> dict[int, _Place]:
    """Put all 32 positions on the two arches, side by side from the midline outwards."""
    places: dict[int, _Place] = {}
    jitter = rng.standard_normal((32, 6))
    row = 0
    for upper, table in ((True, _UPPER_MM), (False, _LOWER_MM)):
        sign = -1.0 if upper else 1.0
        stretch = 1.0 + 0.03 * float(rng.standard_normal())
        for quadrant, side in ((1, -1.0), (2, 1.0)) if upper else ((4, -1.0), (3, 1.0)):
            x = face.center_x + side * 0.1 * face.mm
            for i, (width_mm, crown_mm, root_mm) in enumerate(table):
                z = jitter[row]
                row += 1
                half = width_mm * face.mm * stretch * (1 + 0.03 * z[0]) / 2
                slope = -2 * face.smile * (x - face.center_x) / (0.28 * face.width) ** 2
                cosine = 1.0 / np.hypot(1.0, slope)
                cx = x + side * half * cosine
                x = cx + side * (half * cosine + 0.12 * face.mm)
                tilt = np.arctan(slope) * (0.55 if upper else 1.0) + np.deg2rad(2.2) * z[1]
                if not upper and i >= 6:
                    tilt -= side * np.deg2rad(6)
                if i < 3:
                    tilt += side * np.deg2rad(-2.5 if upper else 2.0)
                across = np.array([np.cos(tilt), np.sin(tilt)]) * side * half
                along = np.array([-np.sin(tilt), np.cos(tilt)]) * sign
                closing = 1.0 if i < 3 else 0.75
                y = float(face.occlusal(cx)) + sign * face.bite_px * closing + z[2] * 0.35 * face.mm
                fdi = quadrant * 10 + i + 1
                column = 7 - i if side < 0 else 8 + i
                places[fdi] = _Place(
                    fdi, np.array([cx, y]), across, along, crown_mm * face.mm * (1 + 0.04 * z[3]) * 1.02,
                    root_mm * face.mm * (1 + 0.07 * z[4]) * 1.05, 0.16 * z[5] + (0.12 if i >= 5 else 0.04), _kind(fdi),
                    column,
                )  # fmt: skip
    return places


@cache
def _textures(width: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Fixed fields from which every image takes a random window: bone trabeculae (half size) and film grain.

    Returns:
        float32 with standard deviation 1, at half resolution; uint8 grain around 128, at full resolution.
    """
    rng = np.random.Generator(np.random.PCG64(7_2213))
    half = (width * 5 // 8 + 128, width // 2 + 128)
    scale = width / 1280
    fine = cv2.GaussianBlur(rng.standard_normal(half, np.float32), (0, 0), 0.9 * scale + 0.2)
    fine -= cv2.GaussianBlur(fine, (0, 0), 2.6 * scale + 0.3)
    coarse = cv2.GaussianBlur(rng.standard_normal(half, np.float32), (0, 0), 5 * scale + 0.3)
    streaks = cv2.GaussianBlur(rng.standard_normal(half, np.float32), (0, 0), 1.5 * scale + 0.2, sigmaY=9 * scale)
    bone = fine / fine.std() + 0.5 * coarse / coarse.std() + 0.5 * streaks / streaks.std()
    full = (width * 5 // 4 + 256, width + 256)
    grain = rng.standard_normal(full, np.float32)
    soft = cv2.GaussianBlur(grain, (0, 0), 1.1 * scale + 0.2)
    noise = 0.5 * grain + 0.8 * soft / soft.std()
    return (bone / bone.std()).astype(np.float32), np.clip(128 + 20 * noise, 0, 255).astype(np.uint8)


def _window(texture: NDArray, height: int, width: int, rng: np.random.Generator) -> NDArray:
    y = int(rng.integers(texture.shape[0] - height + 1))
    x = int(rng.integers(texture.shape[1] - width + 1))
    return texture[y : y + height, x : x + width]


def _mirror(points: Sequence[tuple[float, float]]) -> Points:
    """Both sides of a half outline given from the patient's left posterior to the midline, closed."""
    p = np.asarray(points, dtype=np.float64)
    return np.concatenate([p, (p * [-1.0, 1.0])[::-1]])


# Outlines in fractions of the image's width, relative to (centre, occlusal plane at the midline); y points down.
_MANDIBLE_HALF = [
    (0.262, 0.005), (0.272, -0.06), (0.281, -0.12), (0.289, -0.16), (0.298, -0.163), (0.309, -0.143), (0.325, -0.12),
    (0.343, -0.143), (0.350, -0.18), (0.362, -0.196), (0.377, -0.192), (0.384, -0.175), (0.380, -0.14), (0.384, -0.08),
    (0.388, 0.0), (0.381, 0.05), (0.358, 0.092), (0.30, 0.128), (0.22, 0.158), (0.12, 0.180), (0.05, 0.187),
]  # fmt: skip
_MAXILLA_HALF = [(0.272, -0.04), (0.285, -0.10), (0.29, -0.20), (0.26, -0.30), (0.05, -0.32)]
_SINUS = [(0.075, -0.15), (0.10, -0.125), (0.15, -0.112), (0.20, -0.105), (0.24, -0.115), (0.25, -0.15), (0.235, -0.20),
          (0.19, -0.235), (0.12, -0.235), (0.085, -0.20)]  # fmt: skip
_NASAL = [(0.007, -0.15), (0.03, -0.143), (0.06, -0.155), (0.068, -0.20), (0.05, -0.25), (0.02, -0.28), (0.006, -0.27)]
_ZYGOMA = [(0.185, -0.235), (0.215, -0.15), (0.245, -0.145), (0.30, -0.195), (0.39, -0.225), (0.39, -0.245),
           (0.30, -0.225), (0.25, -0.21)]  # fmt: skip
_AIRWAY = [(0.20, -0.10), (0.26, -0.075), (0.315, 0.0), (0.335, 0.08), (0.34, 0.20), (0.375, 0.20), (0.365, 0.08),
           (0.345, -0.02), (0.29, -0.105), (0.22, -0.12)]  # fmt: skip
_CANAL = [(0.335, -0.06), (0.325, 0.0), (0.305, 0.055), (0.27, 0.09), (0.22, 0.115), (0.17, 0.13), (0.14, 0.125)]
_SKIN_HALF = [(0.47, -0.4), (0.45, -0.1), (0.44, 0.05), (0.42, 0.14), (0.35, 0.19), (0.30, 0.22), (0.28, 0.4)]


def _anatomy(
    face: _Face, crests: dict[bool, Points], gone_side: float | None, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Everything but teeth and metal: bone, sinuses, air, soft tissue, spine ghost, texture, vignette.

    Args:
        face: Proportions.
        crests: Upper (True) and lower bone margin, `[n, 2]` px from left to right.
        gone_side: -1 or 1 when half of the mandible was removed.
        rng: The patient's stream.

    Returns:
        `[height, width]` uint8.
    """
    quarter = (-(-face.height // 4), -(-face.width // 4))
    half = (-(-face.height // 2), -(-face.width // 2))
    origin = np.array([face.center_x, face.occlusal_y])

    def place(points: Sequence[tuple[float, float]] | Points, rough: float = 0.003) -> Points:
        p = np.asarray(points, dtype=np.float64)
        return origin + face.width * (p + rough * rng.standard_normal(p.shape))

    def paint(layer: NDArray, points: Points, value: float, scale: float) -> None:
        fixed = np.rint((points * scale - 0.5 + 0.5 * scale) * (1 << _SHIFT)).astype(np.int32)
        cv2.fillPoly(layer, [fixed], value, cv2.LINE_AA, _SHIFT)

    def stroke(layer: NDArray, points: Points, value: float, scale: float, mm: float, closed: bool = False) -> None:
        fixed = np.rint((points * scale - 0.5 + 0.5 * scale) * (1 << _SHIFT)).astype(np.int32)
        thickness = max(1, round(mm * face.mm * scale))
        cv2.polylines(layer, [fixed], closed, value, thickness, cv2.LINE_AA, _SHIFT)

    sides = (-1.0, 1.0)
    # Soft, far-out-of-focus structures at a quarter of the resolution.
    soft = np.zeros(quarter, np.uint8)
    paint(soft, place(_mirror(_SKIN_HALF), 0.01), 58, 0.25)
    paint(soft, place([(-0.10, -0.5), (0.10, -0.5), (0.13, 0.5), (-0.13, 0.5)], 0.01), 66, 0.25)
    paint(soft, place([(-0.045, -0.5), (0.045, -0.5), (0.055, 0.5), (-0.055, 0.5)], 0.008), 80, 0.25)
    for side in sides:
        x = face.center_x + side * face.width * (0.475 + 0.01 * rng.standard_normal())
        step = 0.075 * face.width
        y = face.occlusal_y - 0.28 * face.width + float(rng.random()) * step
        while y < face.height:  # cervical vertebrae at both edges
            box = np.array([(-0.035, 0.08), (0.035, 0.08), (0.03, 0.9), (-0.03, 0.9)]) * [face.width, step]
            paint(soft, box + [x, y], 74, 0.25)
            y += step
        paint(soft, place(np.array(_AIRWAY) * [side, 1.0], 0.006), 30, 0.25)
    band_x = np.linspace(-0.25, 0.25, 12)
    bite = np.stack(
        [band_x, np.asarray(face.occlusal(origin[0] + band_x * face.width) - origin[1]) / face.width], axis=1
    )
    stroke(soft, place(bite, 0.0), 22, 0.25, 9)
    base = cv2.GaussianBlur(soft, (0, 0), 2.4 * face.mm * 0.25).astype(np.float32)

    # Bone at half the resolution.
    hard = np.zeros(half, np.uint8)
    lines = np.zeros(half, np.uint8)
    upper = np.concatenate([crests[True], place(_mirror(_MAXILLA_HALF))[: len(_MAXILLA_HALF)],
                            place(_mirror(_MAXILLA_HALF))[len(_MAXILLA_HALF) :]])  # fmt: skip
    paint(hard, upper, 62, 0.5)
    mandible_half = place(_mirror(_MANDIBLE_HALF), 0.0018)
    n = len(_MANDIBLE_HALF)
    if gone_side is not None:
        cut = origin + face.width * np.array([(gone_side * 0.10, 0.0), (gone_side * 0.09, 0.30)])
    lower = np.concatenate([crests[False], mandible_half[:n], mandible_half[n:]])
    border = mandible_half[9 : 2 * n - 9]
    for side in sides:
        paint(hard, place(np.array(_SINUS) * [side, 1.0], 0.005), 26, 0.5)
        paint(hard, place(np.array(_NASAL) * [side, 1.0], 0.004), 22, 0.5)
        concha = _ring(
            origin + face.width * np.array([side * 0.042, -0.185]), 0.016 * face.width, 0.02 * face.width, rng, 0.06
        )
        paint(hard, concha, 48, 0.5)
        paint(hard, place(np.array(_ZYGOMA) * [side, 1.0], 0.004), 66, 0.5)
        stroke(lines, place(np.array(_SINUS) * [side, 1.0], 0.003), 34, 0.5, 0.7, closed=True)
        orbit = np.array([(0.07, -0.29), (0.12, -0.268), (0.18, -0.268), (0.24, -0.285), (0.27, -0.32)])
        stroke(lines, place(orbit * [side, 1.0], 0.003), 60, 0.5, 1.2)
        hyoid = np.array([(0.10, 0.235), (0.17, 0.225), (0.25, 0.245)])
        stroke(lines, place(hyoid * [side, 1.0], 0.006), 42, 0.5, 3.0)
    paint(hard, lower, 72, 0.5)
    palate = place([(-0.26, -0.125), (-0.13, -0.136), (0.0, -0.14), (0.13, -0.136), (0.26, -0.125)], 0.002)
    stroke(lines, palate, 62, 0.5, 1.4)
    stroke(lines, palate + [0.0, 0.02 * face.width], 34, 0.5, 2.2)
    stroke(lines, place([(0.0, -0.30), (0.002, -0.145)], 0.002), 58, 0.5, 1.2)
    stroke(lines, border, 56, 0.5, 2.2)
    for side in sides:
        canal = place(np.array(_CANAL) * [side, 1.0], 0.003)
        stroke(lines, canal, 24, 0.5, 3.6)
        stroke(lines, canal, 0, 0.5, 2.6)
        stroke(hard, canal, 54, 0.5, 2.8)
    if gone_side is not None:
        x0 = int(cut[0, 0] * 0.5)
        region = (slice(int(origin[1] * 0.5), None), slice(x0, None) if gone_side > 0 else slice(0, x0))
        hard[region] = 0
        lines[region] = 0
    size = (half[1], half[0])
    hard_f = cv2.GaussianBlur(hard, (0, 0), 0.55 * face.mm * 0.5).astype(np.float32)
    lines_f = cv2.GaussianBlur(lines, (0, 0), 0.4 * face.mm * 0.5).astype(np.float32)
    total = cv2.resize(base, size, interpolation=cv2.INTER_LINEAR) * np.float32(0.62)
    texture = _window(_textures(face.width)[0], half[0], half[1], rng)
    total += hard_f * (np.float32(1.0) + np.float32(0.085) * texture) + lines_f
    total *= _vignette(half[0], half[1])
    gray = cv2.convertScaleAbs(total)
    return cv2.resize(gray, (face.width, face.height), interpolation=cv2.INTER_LINEAR)


@cache
def _vignette(height: int, width: int) -> NDArray[np.float32]:
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    return np.clip(1.08 - 0.16 * y * y - 0.30 * x * x * x * x, 0.3, 1.1).astype(np.float32)


# Attenuation values of the teeth layer (added to the anatomy below).
_DENTIN_ROOT, _DENTIN_CORE, _ENAMEL, _PULP_ROOT, _PULP_CROWN = 44, 78, 118, 26, 52
_CARIES, _CALCULUS, _FILLING, _CANAL_FILLING, _CROWN, _IMPLANT = 4, 190, 226, 236, 244, 238


def _draw_tooth(c: _Canvas, p: _Place, layer: NDArray[np.uint8], *, open_roots: bool = False) -> None:
    """Enamel, dentin, pulp and the ligament's dark line of one whole tooth."""
    t = _template(p.kind)
    root = p.xy(t.root_outline)
    c.line(c.dark, root, 30, 0.9, closed=True)
    c.line(layer, root, 16, 1.5, closed=True)
    if t.extra_root is not None:
        c.fill(layer, p.xy(t.extra_root), _DENTIN_ROOT - 6)
    c.fill(layer, p.xy(t.outline), _DENTIN_ROOT)
    if t.extra_root is not None:
        c.line(layer, p.xy(t.extra_root), _DENTIN_ROOT + 12, 0.5, closed=True)
    c.fill(layer, p.xy(t.crown), _ENAMEL)
    c.fill(layer, p.xy(t.core), _DENTIN_CORE - 18)
    c.fill(layer, p.xy(t.core * [0.84, 1.0] + [0.0, 0.02]), _DENTIN_CORE - 6)
    c.fill(layer, p.xy(t.pulp), _PULP_CROWN)
    for canal in t.canals:
        c.line(layer, p.xy(canal), _PULP_ROOT, 0.6)


def _draw_root_filling(c: _Canvas, p: _Place, rng: np.random.Generator, name: str | None, from_t: float = 0.6) -> None:
    """Thin bright fillings in all canals."""
    t = _template(p.kind)
    drawn = []
    for canal in t.canals:
        line = p.xy(canal[canal[:, 1] >= from_t] if from_t > 1 else canal)
        if len(line) < 2:
            continue
        c.line(c.metal, line, _CANAL_FILLING, 0.95 if p.fdi % 10 <= 5 else 0.8)
        drawn.append(line)
    if name is not None and drawn:
        c.mark(name, _inflate(_hull(*[_thick(line, 0.9 * c.mm) for line in drawn]), 0.3 * c.mm), p.fdi)


def _thick(line: Points, px: float) -> Points:
    """Both sides of a line, as loose points."""
    return np.concatenate([line + [px, px], line - [px, px], line + [px, -px], line - [px, -px]])


def _draw_crown(c: _Canvas, p: _Place) -> Points:
    """A bright cap over the crown; returns its outline."""
    cap = p.xy(_template(p.kind).crown * [1.02, 0.98] + [0.0, -0.03])
    c.fill(c.metal, cap, _CROWN)
    return cap


def _draw_restoration(c: _Canvas, p: _Place, rng: np.random.Generator) -> None:
    """A bright blob within the crown: occlusal in back teeth, at a side in front teeth."""
    back = p.fdi % 10 >= 4
    where = float(rng.random())
    if back and where < 0.6:
        s, t, rs, rt = 0.15 * float(rng.standard_normal()), 0.3, 0.48 + 0.2 * where, 0.24
    else:
        side = 1.0 if rng.random() < 0.5 else -1.0
        s, t, rs, rt = side * 0.6, (0.3 if back else 0.45), 0.36, 0.3
    angle = np.arange(14) * (2 * np.pi / 14)
    r = 1.0 + 0.12 * rng.standard_normal(14)
    blob = np.stack([s + rs * r * np.cos(angle), np.maximum(t + rt * r * np.sin(angle), 0.02)], axis=1)
    blob[:, 0] = np.clip(blob[:, 0], -0.98, 0.98)
    outline = p.xy(_smooth([(float(a), float(b)) for a, b in blob], 1))
    c.fill(c.metal, outline, _FILLING)
    c.mark("restoration", _inflate(outline, 0.25 * c.mm), p.fdi)


def _draw_caries(c: _Canvas, p: _Place, layer: NDArray[np.uint8], site: int, rng: np.random.Generator) -> None:
    """A small dark notch at the edge of the crown: at a contact, or in the fissure of a back tooth."""
    side = 1.0 if site == 0 else -1.0
    if p.fdi % 10 >= 6 and rng.random() < 0.25:
        s, t = 0.35 * side, 0.08
    else:
        s, t = 0.88 * side, 0.42 + 0.4 * float(rng.random())
    radius = c.mm * (1.35 + 0.45 * float(rng.random()))
    notch = _ring(p.point(s, t), radius * 0.85, radius * 1.2, rng, 0.12)
    c.fill(layer, notch, _CARIES)
    c.fill(c.dark, _inflate(notch, -0.2 * c.mm), 26)
    c.mark("caries", _inflate(notch, 0.35 * c.mm), p.fdi)


def _draw_calculus(c: _Canvas, p: _Place, layer: NDArray[np.uint8], site: int, rng: np.random.Generator) -> None:
    """A small bright spur that sticks out at the neck."""
    side = 1.0 if site == 0 else -1.0
    neck = p.point(0.74 * side, 1.02)
    out = p.across / np.linalg.norm(p.across) * side
    size = c.mm * (0.85 + 0.35 * float(rng.random()))
    spur = np.array([
        neck - p.along * size * 1.5 - out * size * 0.2, neck - p.along * size * 0.5 + out * size * 0.95,
        neck + p.along * size * 0.2 + out * size * 1.3, neck + p.along * size * 0.9 + out * size * 0.6,
        neck + p.along * size * 1.5 - out * size * 0.3,
    ])  # fmt: skip
    c.fill(layer, spur, _CALCULUS)
    c.mark("calculus", _inflate(spur, 0.35 * c.mm), p.fdi)


def _draw_periapical(c: _Canvas, p: _Place, layer: NDArray[np.uint8], rng: np.random.Generator) -> None:
    """A dark round around one root tip, with a faint dense rim."""
    tips = _template(p.kind).apices
    tip = p.xy(tips[int(rng.integers(len(tips)))][None])[0] + p.along * c.mm * 0.6
    radius = c.mm * (1.9 + 1.3 * float(rng.random()))
    ring = _smooth([(float(x), float(y)) for x, y in _ring(tip, radius, radius * 1.1, rng, 0.06)], 1)
    c.line(layer, ring, 14, 1.2, closed=True)
    c.fill(c.dark, ring, 62)
    c.mark("periapical radiolucency", _inflate(ring, 0.3 * c.mm), p.fdi)


def _draw_stump(c: _Canvas, p: _Place, layer: NDArray[np.uint8], rng: np.random.Generator, filled: bool) -> Points:
    """A root without its crown: what is left ends in a jagged edge at the gum."""
    t = _template(p.kind)
    root = p.xy(t.root_outline)
    c.line(c.dark, root, 30, 0.9, closed=True)
    c.line(layer, root, 16, 1.5, closed=True)
    top = 0.80 + 0.15 * float(rng.random())
    jag = np.array([(s, top + 0.10 * float(rng.standard_normal())) for s in np.linspace(-0.72, 0.72, 6)])
    body = np.concatenate([jag, t.root_outline])
    order = np.concatenate([jag, t.root_outline[_from_neck(t.root_outline)]])
    del body
    outline = p.xy(order)
    c.fill(layer, outline, _DENTIN_ROOT + 14)
    for canal in t.canals:
        c.line(layer, p.xy(canal[canal[:, 1] >= 1.0]), _PULP_ROOT, 0.6)
    if filled:
        _draw_root_filling(c, p, rng, None, from_t=1.01)
    return outline


def _from_neck(root: Points) -> NDArray[np.int64]:
    """Indices that walk a root outline from its distal neck round the tip to its mesial neck."""
    start = int(np.argmax(root[:, 0] - 3.0 * root[:, 1]))
    return (np.arange(len(root)) + start) % len(root)


def _draw_implant(c: _Canvas, p: _Place, crowned: bool, rng: np.random.Generator) -> Points:
    """A bright screw in the bone, with threads and an abutment."""
    length = (9.5 + 2.5 * float(rng.random())) * c.mm
    radius = (1.75 + 0.25 * float(rng.random())) * c.mm
    out = p.across / np.linalg.norm(p.across)
    neck = p.origin + p.along * p.crown_px * 1.12
    steps = np.linspace(0.0, 1.0, 15)
    profile = radius * np.where(steps > 0.75, 1.0 - 1.6 * (steps - 0.75), 1.0)
    profile = profile + np.where(np.arange(15) % 2 == 0, 0.22 * c.mm, -0.22 * c.mm)
    axis = neck + steps[:, None] * length * p.along
    outline = np.concatenate([axis + profile[:, None] * out, (axis - profile[:, None] * out)[::-1]])
    c.fill(c.metal, outline, _IMPLANT)
    post = np.array([neck - 0.9 * radius * out, neck + 0.9 * radius * out, neck + 0.6 * radius * out - p.along * 3 * c.mm,
                     neck - 0.6 * radius * out - p.along * 3 * c.mm])  # fmt: skip
    c.fill(c.metal, post, _IMPLANT)
    if crowned:
        c.mark("crown", _draw_crown(c, p), p.fdi)
    whole = _hull(outline, post)
    c.mark("implant", _inflate(whole, 0.3 * c.mm), p.fdi)
    return whole


def _draw_bud(c: _Canvas, p: _Place, layer: NDArray[np.uint8], above: bool, rng: np.random.Generator) -> None:
    """A developing crown in its dark follicle with a dense rim; a milk tooth may stand above it."""
    center = p.origin + p.along * (p.crown_px * 1.05 + (8.0 if above else 2.2) * c.mm)
    half = float(np.linalg.norm(p.across)) * (1.0 if p.fdi % 10 >= 6 else 1.12)
    follicle = _smooth([(float(x), float(y)) for x, y in _ring(center, half * 1.18, half * 1.12, rng, 0.03)], 1)
    c.line(layer, follicle, 34, 1.0, closed=True)
    c.fill(c.dark, follicle, 46)
    crown = _ring(center, half * 0.86, half * 0.78, rng, 0.05)
    hollow = center + (crown - center) * 0.6 + p.along * half * 0.34
    c.fill(layer, _smooth([(float(x), float(y)) for x, y in crown], 1), _ENAMEL + 20)
    c.fill(layer, _smooth([(float(x), float(y)) for x, y in hollow], 1), 46)
    c.mark("tooth-bud", _inflate(follicle, 0.3 * c.mm), p.fdi)
    if above:
        _draw_tooth(c, _milk_place(p, c.mm), layer)


def _milk_place(p: _Place, mm: float) -> _Place:
    """A small molar-shaped tooth at the same place."""
    kind = "lower-molar" if p.fdi > 30 else "upper-molar"
    return _Place(p.fdi, p.origin + p.along * 1.2 * mm, p.across * 0.95, p.along, p.crown_px * 0.68, p.root_px * 0.4,
                  p.bend, kind, p.column)  # fmt: skip


def _impacted_place(p: _Place, c: _Canvas, rng: np.random.Generator) -> _Place:
    """The same tooth, sunk into the bone and tilted."""
    if p.fdi % 10 == 8:
        angle = np.deg2rad(rng.choice([-1.0, -1.0, -1.0, 0.0, 1.0]) * (38 + 45 * float(rng.random())))
        sunk = (4.5 + 4 * float(rng.random())) * c.mm
        shift = -1.0 * c.mm if angle < 0 else 1.5 * c.mm
    else:
        angle = np.deg2rad(rng.choice([-1.0, 1.0]) * (25 + 40 * float(rng.random())))
        sunk, shift = 13 * c.mm, 0.0
    out = p.across / np.linalg.norm(p.across)
    # a negative angle turns the crown towards the neighbour (mesial)
    along = p.along * np.cos(angle) - out * np.sin(angle)
    across = (out * np.cos(angle) + p.along * np.sin(angle)) * np.linalg.norm(p.across)
    origin = p.origin + p.along * (sunk + p.crown_px * 0.35) + out * shift
    origin = origin + (p.along - along) * p.crown_px * 0.3
    return _Place(p.fdi, origin, across, along, p.crown_px, p.root_px * 0.85, p.bend, p.kind, p.column)


def _draw_other(
    c: _Canvas, name: str, fdi: int, places: dict[int, _Place], face: _Face, rng: np.random.Generator
) -> None:
    """One of the rare findings, by its raw name."""
    p = places[fdi]
    layer = c.teeth[p.column % 2]
    mm = c.mm
    side = float(np.sign(p.across[0]))
    out = p.across / np.linalg.norm(p.across)
    origin = np.array([face.center_x, face.occlusal_y])
    tip = p.point(0.0, 2.0)
    if name in ("cyst", "radiolucency"):
        radius = mm * ((7.5 if name == "cyst" else 4.5) + 2 * float(rng.random()))
        center = tip + p.along * mm * 1.0
        ring = _smooth(
            [
                (float(x), float(y))
                for x, y in _ring(center, radius * 1.25, radius, rng, 0.03 if name == "cyst" else 0.12)
            ],
            1,
        )
        if name == "cyst":
            c.line(layer, ring, 50, 1.0, closed=True)
        c.fill(c.dark, ring, 66 if name == "cyst" else 54)
        c.mark(name, _inflate(ring, 0.5 * mm), fdi)
    elif name == "inter radicularradiolucency":
        ring = _ring(p.point(0.0, 1.42), 1.7 * mm, 2.3 * mm, rng, 0.08)
        c.fill(layer, ring, 4)
        c.fill(c.dark, ring, 54)
        c.mark(name, _inflate(ring, 0.4 * mm), fdi)
    elif name == "condensing osteitis":
        ring = _ring(tip + p.along * 1.5 * mm, 4.0 * mm, 3.0 * mm, rng, 0.12)
        c.fill(c.teeth[1 - p.column % 2], ring, 62)
        c.mark(name, _inflate(ring, 0.4 * mm), fdi)
    elif name == "peri implant bone loss":
        neck = p.origin + p.along * p.crown_px * 1.1
        crater = np.array([neck - 4.2 * mm * out, neck + 4.2 * mm * out, neck + 2.6 * mm * out + p.along * 5.5 * mm,
                           neck - 2.6 * mm * out + p.along * 5.5 * mm])  # fmt: skip
        c.fill(c.dark, _smooth([(float(x), float(y)) for x, y in crater], 2), 60)
        c.mark(name, crater, fdi)
    elif name in ("supernumerary", "distomolar"):
        small = p.fdi % 10 in (1, 4)
        where = p.point(-1.15 if small else 1.7, 0.0) + p.along * (p.crown_px * (0.9 if small else 0.5))
        lean = np.deg2rad(25 * float(rng.standard_normal()))
        along = p.along * np.cos(lean) + out * np.sin(lean)
        across = (out * np.cos(lean) - p.along * np.sin(lean)) * (2.6 if small else 3.6) * mm
        extra = _Place(fdi, where, across, along, 5.0 * mm, (7.0 if small else 5.0) * mm, 0.0, "canine" if small else "premolar",
                       p.column)  # fmt: skip
        _draw_tooth(c, extra, c.teeth[1 - p.column % 2])
        c.mark(name, extra.xy(_template(extra.kind).outline), fdi)
    elif name == "RPD clasp":
        arc = p.xy(np.array([(-1.25, 0.30), (-0.9, 0.62), (-0.2, 0.80), (0.5, 0.74), (1.15, 0.45), (1.3, 0.1)]))
        c.line(c.metal, arc, 246, 1.0)
        rest = p.xy(np.array([(1.3, 0.1), (0.9, -0.05), (0.5, 0.0)]))
        c.line(c.metal, rest, 246, 1.3)
        c.mark(name, _hull(_thick(arc, 0.7 * mm), _thick(rest, 0.7 * mm)), fdi)
    elif name == "cast partial denture":
        row = [places[t] for t in arch(fdi < 30) if 1 < places[t].column < 14]
        bar = np.array([q.point(0.0, 1.75) for q in row])
        c.line(c.metal, bar, 240, 3.0)
        parts = [_thick(bar, 1.6 * mm)]
        for q in (row[0], row[3], row[-4], row[-1]):
            clasp = q.xy(np.array([(0.0, 1.75), (-0.9, 1.1), (-0.8, 0.5), (0.3, 0.3), (0.9, 0.6)]))
            c.line(c.metal, clasp, 244, 1.2)
            parts.append(clasp)
        c.mark(name, _hull(*parts), fdi)
    elif name == "mini plates":
        start = tip + p.along * 5.0 * mm + np.array([side * 2 * mm, 0.0])
        step = np.array([side * 4.6 * mm, -1.2 * mm])
        holes = np.array([start + k * step for k in range(4)])
        c.line(c.metal, holes, 238, 1.2)
        for hole in holes:
            c.fill(c.metal, _ring(hole, 1.9 * mm, 1.9 * mm, rng, 0.0, 12), 240)
            c.fill(c.metal, _ring(hole, 0.7 * mm, 0.7 * mm, rng, 0.0, 8), 120)
        c.mark(name, _hull(_thick(holes, 2.0 * mm)), fdi)
    elif name == "vascular clips":
        spots = []
        for _ in range(3 + int(rng.integers(0, 4))):
            at = origin + np.array([side * (36 + 22 * float(rng.random())), 40 + 12 * float(rng.random())]) * mm
            turn = float(rng.random()) * np.pi
            d = np.array([np.cos(turn), np.sin(turn)]) * 1.5 * mm
            c.line(c.metal, np.array([at - d, at + d]), 240, 0.9)
            spots += [at - d, at + d]
        c.mark(name, _inflate(_hull(_thick(np.array(spots), 0.6 * mm)), 0.2 * mm), fdi)
    elif name == "wire splint":
        row = [places[t] for t in arch(fdi < 30) if 4 <= places[t].column <= 11]
        wire = np.array([q.point(s, 0.55) for q in row for s in ((1, -1) if q.column < 8 else (-1, 1))])
        c.line(c.metal, wire, 244, 0.9)
        for q in row:
            c.fill(c.metal, _ring(q.point(0.0, 0.55), 1.2 * mm, 1.2 * mm, rng, 0.05, 10), 236)
        c.mark(name, _hull(_thick(wire, 1.3 * mm)), fdi)
    elif name == "hemimandibulectomy":
        box = origin + face.width * np.array(
            [(side * 0.10, -0.02), (side * 0.39, -0.02), (side * 0.39, 0.15), (side * 0.10, 0.20)]
        )
        c.mark(name, box, fdi)


def _crest(places: dict[int, _Place], mouth: Mouth, upper: bool, loss: float) -> Points:
    """The bone margin of one jaw from left to right: between the teeth near the neck, lower in gaps."""
    points = []
    for fdi in arch(upper):
        p, status = places[fdi], mouth.teeth[fdi].status
        ends = (1.0, -1.0) if p.column < 8 else (-1.0, 1.0)
        if status in ("missing", "implant", "pontic"):
            points += [p.point(0.7 * ends[0], 1.2 + loss), p.point(0.7 * ends[1], 1.2 + loss)]
        elif status in ("absent", "impacted", "bud"):
            points.append(p.point(0.0, 0.95))
        else:
            points += [p.point(ends[0], 1.12 + loss), p.point(0.0, 1.2 + loss), p.point(ends[1], 1.12 + loss)]
    return np.array(points)


def _draw_position(c: _Canvas, p: _Place, tooth: Tooth, rng: np.random.Generator) -> None:
    """One position of the arch with all its findings, teeth as FDI shapes."""
    layer = c.teeth[p.column % 2]
    if tooth.status in ("absent", "pontic"):
        return
    if tooth.status == "missing":
        top = 0.12 + 0.1 * float(rng.random())
        c.mark("missing", p.xy(np.array([(-0.92, top), (0.92, top), (0.92, 1.45), (-0.92, 1.45)])), p.fdi)
        return
    if tooth.status == "implant":
        _draw_implant(c, p, tooth.crowned, rng)
        return
    if tooth.status == "bud":
        _draw_bud(c, p, layer, tooth.milk_tooth_above, rng)
        return
    if tooth.status == "stump":
        outline = _draw_stump(c, p, layer, rng, tooth.root_filled)
        c.mark("RC-treated-and-root-stump" if tooth.root_filled else "root-stump", outline, p.fdi)
        c.mark(str(p.fdi), outline, p.fdi)
        if tooth.periapical:
            _draw_periapical(c, p, layer, rng)
        return
    if tooth.status == "deciduous":
        milk = _milk_place(p, 0.0)
        _draw_tooth(c, milk, layer)
        c.mark("retained decidious", milk.xy(_template(milk.kind).outline), p.fdi)
        return
    if tooth.status == "impacted":
        p = _impacted_place(p, c, rng)
        outline = p.xy(_template(p.kind).outline)
        c.line(c.dark, p.xy(_template(p.kind).crown), 40, 2.2, closed=True)
        _draw_tooth(c, p, layer)
        c.mark("impacted", _inflate(outline, 0.4 * c.mm), p.fdi)
        c.mark(str(p.fdi), outline, p.fdi)
        return
    _draw_tooth(c, p, layer)
    c.mark(str(p.fdi), p.xy(_template(p.kind).outline), p.fdi)
    if tooth.periapical:
        _draw_periapical(c, p, layer, rng)
    if tooth.root_filled:
        _draw_root_filling(c, p, rng, "RC-treated")
    if tooth.restored:
        _draw_restoration(c, p, rng)
    if tooth.crowned:
        c.mark("crown", _draw_crown(c, p), p.fdi)
    first = int(rng.integers(2))
    for i in range(tooth.caries):
        _draw_caries(c, p, layer, (first + i) % 2, rng)
    for i in range(tooth.calculus):
        _draw_calculus(c, p, layer, (first + i) % 2, rng)
    if tooth.grossly_decayed:
        hole = _ring(p.point(0.15, 0.25), 0.75 * float(np.linalg.norm(p.across)), p.crown_px * 0.5, rng, 0.12)
        c.fill(layer, hole, _CARIES)
        c.mark("grossly-decayed", hole, p.fdi)


def _draw_bridge(c: _Canvas, run: list[int], places: dict[int, _Place]) -> None:
    """Joined bright caps across a gap."""
    outlines = []
    for fdi in run:
        p = places[fdi]
        outlines.append(_draw_crown(c, p))
    for a, b in zip(run, run[1:], strict=False):
        pa, pb = places[a], places[b]
        joint = np.array([pa.point(0.0, 0.35), pb.point(0.0, 0.35), pb.point(0.0, 0.72), pa.point(0.0, 0.72)])
        c.fill(c.metal, joint, _CROWN)
    upper_edge = [
        places[f].point(s, 0.0) for f in run for s in ((0.95, -0.95) if places[f].column < 8 else (-0.95, 0.95))
    ]
    lower_edge = [places[f].point(s, 1.02) for f in run for s in ((0.8, -0.8) if places[f].column < 8 else (-0.8, 0.8))]
    del outlines
    c.mark("cantilever" if len(run) == 2 else "bridge", np.array(upper_edge + lower_edge[::-1]), run[0])


def draw(mouth: Mouth, width: int, rng: np.random.Generator) -> Drawing:
    """Draw one patient.

    Args:
        mouth: What to draw.
        width: Width of the picture in px, at least 160. The height is 0.50 to 0.60 of it, less in the pictures
            that cut off the chin.
        rng: The patient's own stream.

    Returns:
        The picture and its true shapes, teeth and conditions, in px of the picture.
    """
    drawn_width = max(width, _MIN_DRAWN_WIDTH)
    height = round(drawn_width * (0.50 + 0.10 * float(rng.random())))
    mm = 0.00445 * drawn_width * (1 + 0.03 * float(rng.standard_normal()))
    face = _Face(
        drawn_width, height, mm, drawn_width * (0.5 + 0.008 * float(rng.standard_normal())),
        height * 0.5 + drawn_width * (0.04 + 0.012 * float(rng.standard_normal())),
        drawn_width * (0.042 + 0.014 * float(rng.standard_normal())), mm * (1.0 + 0.8 * float(rng.random())),
    )  # fmt: skip
    places = _layout(face, rng)
    loss = 0.02 + 0.10 * float(rng.random()) ** 2
    crests = {upper: _crest(places, mouth, upper, loss) for upper in (True, False)}
    gone = [fdi for name, fdi in mouth.others if name == "hemimandibulectomy"]
    gone_side = float(np.sign(places[gone[0]].across[0])) if gone else None
    base = _anatomy(face, crests, gone_side, rng)

    layers = np.zeros((4, height, drawn_width), np.uint8)
    canvas = _Canvas([layers[0], layers[1]], layers[2], layers[3], mm)
    for fdi, tooth in mouth.teeth.items():
        _draw_position(canvas, places[fdi], tooth, rng)
    for run in mouth.bridges:
        _draw_bridge(canvas, run, places)
    for name, fdi in mouth.others:
        _draw_other(canvas, name, fdi, places, face, rng)

    gray = _expose(base, canvas, face, rng)
    shapes = canvas.shapes
    if width != drawn_width:
        scale = width / drawn_width
        gray = cv2.resize(gray, (width, round(height * scale)), interpolation=cv2.INTER_AREA)
        shapes = [Shape(s.raw_name, s.outline_xy_px * scale, s.fdi) for s in shapes]
    return Drawing(gray, shapes)


def _expose(base: NDArray[np.uint8], c: _Canvas, face: _Face, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Add up the layers as attenuation, then blur, film curve and grain."""
    mm = face.mm
    dark = cv2.GaussianBlur(c.dark, (0, 0), 0.28 * mm)
    teeth = cv2.GaussianBlur(cv2.add(c.teeth[0], c.teeth[1]), (0, 0), 0.17 * mm)
    metal = cv2.GaussianBlur(c.metal, (0, 0), 0.14 * mm)
    image = cv2.add(cv2.subtract(base, dark), teeth)
    image = cv2.max(image, metal)
    level = np.arange(256, dtype=np.float64) / 255
    gamma = 1.0 + 0.12 * float(rng.standard_normal())
    contrast = 1.0 + 0.08 * float(rng.standard_normal())
    curve = np.clip(level, 0, 1) ** np.clip(gamma, 0.75, 1.3)
    curve = 0.5 + (curve - 0.5) * np.clip(contrast, 0.85, 1.15)
    curve = np.clip(curve, 0, 1) * 250 + 2
    image = cv2.LUT(image, np.rint(curve).clip(0, 255).astype(np.uint8))
    grain = _window(_textures(face.width)[1], image.shape[0], image.shape[1], rng)
    alpha = 0.16 + 0.14 * float(rng.random())
    return cv2.addWeighted(image, 1.0, grain, alpha, -128.0 * alpha)
