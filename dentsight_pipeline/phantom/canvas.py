"""The layers on which a phantom is drawn, and the small geometry that all its parts share. Lengths are px."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""`[n, 2]` x, y."""

Gray = NDArray[np.uint8]
"""`[height, width]`."""

_SHIFT = 4  # fractional bits of OpenCV's drawing coordinates


@dataclass(frozen=True)
class Shape:
    """One annotated structure.

    Attributes:
        raw_name: FDI tooth or condition as v8 spells it.
        outline_xy_px: `[n, 2]` polygon in image pixels; may reach outside a cropped image.
        fdi: The tooth that it belongs to.
    """

    raw_name: str
    outline_xy_px: Points
    fdi: int


def fill(layer: Gray, outline: Points, value: float, scale: float = 1.0) -> None:
    """Fill one polygon with anti-aliased edges on a layer that is `scale` times the image's size."""
    cv2.fillPoly(layer, [_fixed_point(outline, scale)], value, cv2.LINE_AA, _SHIFT)


def stroke(
    layer: Gray, line: Points, value: float, thickness_px: float, *, closed: bool = False, scale: float = 1.0
) -> None:
    """Draw one polyline, at least one pixel thick, on a layer that is `scale` times the image's size."""
    thickness = max(1, round(thickness_px * scale))
    cv2.polylines(layer, [_fixed_point(line, scale)], closed, value, thickness, cv2.LINE_AA, _SHIFT)


def _fixed_point(points: Points, scale: float) -> NDArray[np.int32]:
    """OpenCV's fixed-point coordinates; pixel centres stay centres when the layer is smaller than the image."""
    return np.rint(((points + 0.5) * scale - 0.5) * (1 << _SHIFT)).astype(np.int32)


@dataclass
class Canvas:
    """The full-resolution layers of one image; values add up as attenuation does.

    Attributes:
        teeth: Two layers for every other tooth, so that touching neighbours add up where they overlap.
        dark: What is subtracted from the anatomy: loss of bone.
        metal: What hides everything else.
        mm: One millimetre in px.
        shapes: What was drawn so far.
    """

    teeth: tuple[Gray, Gray]
    dark: Gray
    metal: Gray
    mm: float
    shapes: list[Shape] = field(default_factory=list)

    def line(self, layer: Gray, points: Points, value: float, mm: float, *, closed: bool = False) -> None:
        """Draw a polyline that is `mm` thick."""
        stroke(layer, points, value, mm * self.mm, closed=closed)

    def mark(self, raw_name: str, outline: Points, fdi: int) -> None:
        """Record what was drawn."""
        self.shapes.append(Shape(raw_name, outline, fdi))


def polygon(*points: Sequence[float] | Points) -> Points:
    """`[n, 2]` from single points."""
    return np.array(points, dtype=np.float64)


def smooth(points: Sequence[tuple[float, float]] | Points, rounds: int = 2) -> Points:
    """A closed polygon with its corners cut (Chaikin 1974); each round doubles the number of points."""
    p = np.asarray(points, dtype=np.float64)
    for _ in range(rounds):
        q = np.roll(p, -1, axis=0)
        p = np.stack([0.75 * p + 0.25 * q, 0.25 * p + 0.75 * q], axis=1).reshape(-1, 2)
    return p


def smooth_line(points: Sequence[tuple[float, float]] | Points, rounds: int = 2) -> Points:
    """An open line with its corners cut; its ends stay."""
    p = np.asarray(points, dtype=np.float64)
    for _ in range(rounds):
        cut = np.stack([0.75 * p[:-1] + 0.25 * p[1:], 0.25 * p[:-1] + 0.75 * p[1:]], axis=1).reshape(-1, 2)
        p = np.concatenate([p[:1], cut, p[-1:]])
    return p


def blob(center: Points, radius_x: float, radius_y: float, rng: np.random.Generator, rough: float) -> Points:
    """An irregular closed curve around a point, `[28, 2]`."""
    angle = np.arange(14) * (2 * np.pi / 14)
    r = 1.0 + rough * rng.standard_normal(14)
    return smooth(center + np.stack([np.cos(angle) * radius_x * r, np.sin(angle) * radius_y * r], axis=1), 1)


def disc(center: Points, radius: float) -> Points:
    """A circle, `[16, 2]`."""
    angle = np.arange(16) * (2 * np.pi / 16)
    return center + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def hull(*parts: Points) -> Points:
    """The convex outline of several parts."""
    return cv2.convexHull(np.concatenate(parts).astype(np.float32))[:, 0].astype(np.float64)


def inflate(points: Points, px: float) -> Points:
    """Push an outline away from its centre by about `px`."""
    d = points - points.mean(axis=0)
    norm = np.linalg.norm(d, axis=1, keepdims=True)
    return points + d / np.maximum(norm, 1e-6) * px


def thick(line: Points, px: float) -> Points:
    """The corners of squares of half size `px` around a line's points: its hull holds the line with its thickness."""
    corners = np.array([(px, px), (-px, px), (px, -px), (-px, -px)])
    return (line[:, None, :] + corners).reshape(-1, 2)
