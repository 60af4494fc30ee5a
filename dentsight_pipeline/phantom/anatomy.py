"""Everything of a phantom but teeth and metal: jaws, sinuses, air, soft tissue, the spine's ghost, texture, vignette.

Structures far from the focal trough are blurred more, as on a real panoramic image. They are drawn at a half or a
quarter of the resolution, which their blur allows, and added up as attenuation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from dentsight_pipeline.phantom.canvas import Gray, Points, blob, fill, smooth, smooth_line, stroke
from dentsight_pipeline.phantom.teeth import Face

_Outline = Sequence[tuple[float, float]]

# Outlines in fractions of the image's width, relative to (midline, biting plane at the midline); x grows outwards
# (one side is given and mirrored), y points down.
_MANDIBLE: _Outline = [
    (0.284, 0.0), (0.283, -0.06), (0.284, -0.12), (0.289, -0.16), (0.298, -0.163), (0.309, -0.143), (0.325, -0.12),
    (0.343, -0.143), (0.350, -0.18), (0.362, -0.196), (0.377, -0.192), (0.384, -0.175), (0.380, -0.14), (0.384, -0.08),
    (0.388, 0.0), (0.381, 0.05), (0.358, 0.092), (0.30, 0.128), (0.22, 0.158), (0.12, 0.180), (0.05, 0.187),
]  # fmt: skip
_MAXILLA: _Outline = [(0.272, -0.05), (0.285, -0.10), (0.282, -0.18), (0.25, -0.30), (0.05, -0.36)]
_SINUS: _Outline = [(0.072, -0.15), (0.10, -0.125), (0.15, -0.112), (0.20, -0.105), (0.24, -0.115), (0.25, -0.15),
                    (0.235, -0.20), (0.19, -0.235), (0.12, -0.235), (0.085, -0.20)]  # fmt: skip
_NASAL: _Outline = [(0.007, -0.15), (0.03, -0.143), (0.06, -0.155), (0.068, -0.20), (0.05, -0.25), (0.02, -0.28),
                    (0.006, -0.27)]  # fmt: skip
_ZYGOMA: _Outline = [(0.185, -0.235), (0.215, -0.15), (0.245, -0.145), (0.30, -0.195), (0.39, -0.225),
                     (0.39, -0.245), (0.30, -0.225), (0.25, -0.21)]  # fmt: skip
_ORBIT: _Outline = [(0.065, -0.31), (0.085, -0.28), (0.13, -0.262), (0.19, -0.262), (0.24, -0.28), (0.265, -0.33)]
_AIRWAY: _Outline = [(0.20, -0.10), (0.26, -0.075), (0.315, 0.0), (0.335, 0.08), (0.34, 0.20), (0.375, 0.20),
                     (0.365, 0.08), (0.345, -0.02), (0.29, -0.105), (0.22, -0.12)]  # fmt: skip
_TONGUE_AIR: _Outline = [(-0.22, -0.088), (-0.12, -0.112), (0.0, -0.118), (0.12, -0.112), (0.22, -0.088)]
_CANAL: _Outline = [(0.335, -0.06), (0.325, 0.0), (0.305, 0.055), (0.27, 0.09), (0.22, 0.115), (0.17, 0.13),
                    (0.14, 0.125)]  # fmt: skip
_OBLIQUE_RIDGE: _Outline = [(0.285, -0.10), (0.275, -0.04), (0.255, 0.02), (0.21, 0.055)]
_PALATE: _Outline = [(-0.27, -0.118), (-0.2, -0.13), (-0.1, -0.138), (0.0, -0.141), (0.1, -0.138), (0.2, -0.13),
                     (0.27, -0.118)]  # fmt: skip
_HALF_JAW: _Outline = [(0.12, -0.05), (0.105, 0.08), (0.085, 0.30), (0.45, 0.30), (0.45, -0.30), (0.27, -0.30)]
_HYOID: _Outline = [(0.09, 0.232), (0.15, 0.222), (0.20, 0.225), (0.26, 0.24)]
_SKIN: _Outline = [(0.49, -0.45), (0.475, -0.1), (0.455, 0.05), (0.42, 0.14), (0.36, 0.185), (0.31, 0.23), (0.29, 0.45)]


@cache
def textures(width: int) -> tuple[NDArray[np.float32], Gray]:
    """Fixed fields from which every image takes a random window: bone trabeculae and film grain.

    Returns:
        float32 with standard deviation 1, at half resolution; uint8 grain around 128, at full resolution.
    """
    rng = np.random.Generator(np.random.PCG64(2213))
    scale = width / 1280

    def noise(shape: tuple[int, int], sigma_x: float, sigma_y: float) -> NDArray[np.float32]:
        field = cv2.GaussianBlur(
            rng.standard_normal(shape, np.float32), (0, 0), sigma_x * scale + 0.2, sigmaY=sigma_y * scale + 0.2
        )
        return np.asarray(field / field.std(), dtype=np.float32)

    half = (width * 5 // 16 + 192, width // 2 + 128)
    bone = (
        noise(half, 0.8, 0.8) * 0.8 + noise(half, 1.6, 1.6) * 0.7 + noise(half, 4, 5) * 0.5 + noise(half, 1.2, 7) * 0.6
    )
    full = (width * 5 // 8 + 256, width + 256)
    grain = 0.5 * rng.standard_normal(full, np.float32) + 0.8 * noise(full, 1.0, 1.0)
    return (bone / bone.std()).astype(np.float32), np.clip(128 + 22 * grain, 0, 255).astype(np.uint8)


def window(texture: NDArray, height: int, width: int, rng: np.random.Generator) -> NDArray:
    """A random part of a texture, as a view."""
    y = int(rng.integers(texture.shape[0] - height + 1))
    x = int(rng.integers(texture.shape[1] - width + 1))
    return texture[y : y + height, x : x + width]


@cache
def _vignette(height: int, width: int) -> NDArray[np.float32]:
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    return np.asarray(1.06 - 0.14 * y * y - 0.34 * x**6, dtype=np.float32)


def _both_sides(half: _Outline) -> Points:
    """A closed outline from its half: from the image's right to the midline and on to the left."""
    p = np.asarray(half, dtype=np.float64)
    return np.concatenate([p, (p * [-1.0, 1.0])[::-1]])


class _Painter:
    """Places outlines given in fractions of the width, each a little different in every patient."""

    def __init__(self, face: Face, rng: np.random.Generator) -> None:
        self.face, self.rng = face, rng
        self.origin = np.array([face.center_x, face.occlusal_y])

    def layer(self, scale: float) -> Gray:
        """An empty layer at a part of the image's size."""
        shape = (round(self.face.height * scale + 0.49), round(self.face.width * scale + 0.49))
        return np.zeros(shape, np.uint8)

    def place(self, outline: _Outline | Points, rough: float, side: float = 1.0) -> Points:
        """An outline in px, its points moved by a normal share `rough` of the width."""
        p = np.asarray(outline, dtype=np.float64) * [side, 1.0]
        return self.origin + self.face.width * (p + rough * self.rng.standard_normal(p.shape))

    def blurred(self, layer: Gray, mm: float, scale: float) -> NDArray[np.float32]:
        """The layer out of focus."""
        return cv2.GaussianBlur(layer, (0, 0), mm * self.face.mm * scale).astype(np.float32)


_SIDES = (-1.0, 1.0)


def draw_anatomy(
    face: Face, margins: Mapping[bool, Points], removed_side: float | None, rng: np.random.Generator
) -> Gray:
    """Draw the background of one patient's picture.

    Args:
        face: Proportions.
        margins: Edge of the upper (True) and lower bone, `[n, 2]` px from left to right.
        removed_side: -1 or 1 when that half of the mandible was removed.
        rng: The patient's stream.
    """
    painter = _Painter(face, rng)
    soft = _soft_tissue(painter)
    bone = painter.layer(0.5)
    upper = painter.layer(0.5)
    veil = painter.layer(0.5)
    lines = painter.layer(0.5)
    _draw_mandible(painter, bone, lines, margins[False])
    if removed_side is not None:
        for layer in (bone, lines):
            fill(layer, painter.place(_HALF_JAW, 0.004, removed_side), 0, 0.5)
    _draw_upper_face(painter, upper, veil, lines, margins[True])
    height, width = bone.shape
    total = cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR)
    texture = window(textures(face.width)[0], height, width, rng)
    mottle = cv2.resize(rng.standard_normal((6, 11), np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    density = painter.blurred(bone, 0.75, 0.5) + painter.blurred(upper, 1.1, 0.5)
    total += density * (1.0 + np.float32(0.10) * texture + np.float32(0.09) * mottle)
    total += painter.blurred(veil, 1.6, 0.5)
    total += painter.blurred(lines, 0.42, 0.5)
    total *= _vignette(height, width)

    return np.asarray(
        cv2.resize(cv2.convertScaleAbs(total), (face.width, face.height), interpolation=cv2.INTER_LINEAR), np.uint8
    )


def _soft_tissue(painter: _Painter) -> NDArray[np.float32]:
    """Cheeks, neck, the spine in the middle (its ghost) and at both edges, air in the throat and between the jaws."""
    face, rng, quarter = painter.face, painter.rng, 0.25
    soft = painter.layer(quarter)
    fill(soft, smooth(painter.place(_both_sides(_SKIN), 0.01)), 46, quarter)
    ghost = np.array([(-0.13, -0.5), (0.13, -0.5), (0.10, 0.0), (0.15, 0.5), (-0.15, 0.5), (-0.10, 0.0)])
    fill(soft, painter.place(ghost, 0.008), 52, quarter)
    fill(soft, painter.place(ghost * [0.5, 1.0], 0.006), 64, quarter)
    for side in _SIDES:
        x = face.center_x + side * face.width * (0.462 + 0.01 * float(rng.standard_normal()))
        step = (0.07 + 0.01 * float(rng.random())) * face.width
        y = face.occlusal_y - 0.24 * face.width + float(rng.random()) * step
        while y < face.height:  # cervical vertebrae
            body = np.array([(-0.036, 0.06), (0.036, 0.12), (0.032, 0.86), (-0.034, 0.92)]) * [face.width, step]
            fill(soft, np.add(body, [x, y]), 84, quarter)
            y += step
        fill(soft, painter.place(_AIRWAY, 0.006, side), 12, quarter)
    if rng.random() < 0.6:  # the tongue does not touch the palate
        stroke(soft, painter.place(_TONGUE_AIR, 0.004), 20, 4 * face.mm, scale=quarter)
    x = np.linspace(-0.27, 0.27, 12)
    bite = np.stack([face.center_x + x * face.width, face.occlusal(face.center_x + x * face.width)], axis=1)
    stroke(soft, bite, 16, 8 * face.mm, scale=quarter)
    return painter.blurred(soft, 2.6, quarter) * np.float32(0.75)


def _draw_upper_face(painter: _Painter, bone: Gray, veil: Gray, lines: Gray, margin: Points) -> None:
    """Maxilla, sinuses, nose, palate, orbits and cheekbones."""
    face, rng, half = painter.face, painter.rng, 0.5
    mm = face.mm
    outline = painter.place(_both_sides(_MAXILLA), 0.004)
    for share, value in ((1.0, 30), (0.94, 46), (0.88, 58)):  # thinner towards the cheeks
        sides = painter.origin + (outline - painter.origin) * [share, 1.0]
        fill(bone, np.concatenate([margin, sides]), value, half)
    for side in _SIDES:
        _draw_sinus(painter, bone, lines, side)
        _draw_nose(painter, bone, lines, side)
        concha = painter.origin + face.width * np.array([side * 0.042, -0.19 + 0.008 * float(rng.standard_normal())])
        fill(bone, blob(concha, 0.016 * face.width, 0.026 * face.width, rng, 0.08), 46, half)
        fill(veil, smooth(painter.place(_ZYGOMA, 0.005, side)), 40, half)
        cheekbone = painter.place([(0.185, -0.24), (0.205, -0.17), (0.225, -0.15), (0.25, -0.16)], 0.003, side)
        stroke(lines, smooth_line(cheekbone), 34, 1.2 * mm, scale=half)
        stroke(veil, smooth_line(painter.place(_ORBIT, 0.005, side)), 58, 2.0 * mm, scale=half)
        stroke(veil, smooth_line(painter.place(_HYOID, 0.006, side)), 40, 4.0 * mm, scale=half)
    _draw_palate(painter, veil, lines)
    stroke(veil, painter.place([(0.0, -0.31), (0.003, -0.22), (0.0, -0.145)], 0.003), 46, 1.8 * mm, scale=half)


def _draw_sinus(painter: _Painter, bone: Gray, lines: Gray, side: float) -> None:
    sinus = smooth(painter.place(_SINUS, 0.006, side))
    fill(bone, sinus, 30, 0.5)
    stroke(lines, sinus, 22 + 10 * float(painter.rng.random()), 0.7 * painter.face.mm, closed=True, scale=0.5)


def _draw_nose(painter: _Painter, bone: Gray, lines: Gray, side: float) -> None:
    nose = smooth(painter.place(_NASAL, 0.004, side))
    fill(bone, nose, 24, 0.5)
    stroke(lines, nose, 20, 0.7 * painter.face.mm, closed=True, scale=0.5)


def _draw_palate(painter: _Painter, veil: Gray, lines: Gray) -> None:
    face, palate = painter.face, smooth_line(painter.place(_PALATE, 0.0025))
    stroke(veil, palate, 52, 2.2 * face.mm, scale=0.5)
    stroke(lines, palate, 24, 1.0 * face.mm, scale=0.5)
    stroke(veil, np.add(palate, [0.0, 0.022 * face.width]), 26, 3.0 * face.mm, scale=0.5)


def _draw_mandible(painter: _Painter, bone: Gray, lines: Gray, margin: Points) -> None:
    """Body, rami and condyles of the lower jaw, its dense border and the nerve canal."""
    face, half = painter.face, 0.5
    mm = face.mm
    outline = painter.place(_both_sides(_MANDIBLE), 0.0022)
    n = len(_MANDIBLE)
    fill(bone, np.concatenate([margin, smooth(outline, 1)]), 66, half)
    border = smooth_line(outline[n - 9 : n + 9])
    for thickness, value in ((4.2, 16), (2.8, 34), (1.6, 50)):
        stroke(lines, border, value, thickness * mm, scale=half)
    for side, ramus in ((1.0, outline[: n - 8]), (-1.0, outline[n + 8 :])):
        stroke(lines, smooth_line(ramus), 26, 1.1 * mm, scale=half)
        canal = smooth_line(painter.place(_CANAL, 0.003, side))
        stroke(lines, canal, 20, 3.6 * mm, scale=half)
        stroke(lines, canal, 2, 2.4 * mm, scale=half)
        stroke(bone, canal, 52, 2.6 * mm, scale=half)
        stroke(bone, smooth_line(painter.place(_OBLIQUE_RIDGE, 0.003, side)), 82, 2.6 * mm, scale=half)
        fossa = painter.origin + face.width * np.array([side * 0.23, 0.105])
        fill(bone, blob(fossa, 0.055 * face.width, 0.018 * face.width, painter.rng, 0.1), 56, half)
    chin = painter.origin + face.width * np.array([0.0, 0.155])
    fill(bone, blob(chin, 0.05 * face.width, 0.018 * face.width, painter.rng, 0.1), 78, half)
