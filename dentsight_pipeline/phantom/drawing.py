"""Draws one phantom patient as a panoramic X-ray, with the outline of every tooth and finding.

Synthetic pictures: simple shapes with radiographic brightness, meant for tests, benchmarks and the demo, never as
clinical data. The picture is composed of a few layers that add up as attenuation does: anatomy (bone, sinus, air,
spine ghost), lucencies that are subtracted, teeth, metal; then blur, film curve and grain. The patient's right is on
the image's left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from dentsight_pipeline.phantom import findings
from dentsight_pipeline.phantom.anatomy import draw_anatomy, textures, window
from dentsight_pipeline.phantom.canvas import Canvas, Gray, Points, Shape
from dentsight_pipeline.phantom.mouth import Mouth, Tooth
from dentsight_pipeline.phantom.teeth import (
    Face,
    Place,
    bone_margin,
    draw_tooth,
    impacted_place,
    layout,
    milk_place,
    template,
)

_MIN_DRAWN_WIDTH = 640  # narrower images are drawn at this width and reduced: thin structures survive
_CHIN_CUT_OFF_SHARE = 0.135  # pictures that end in the lower roots; gives 4.5 % of boxes at the edge, as measured


@dataclass(frozen=True)
class Drawing:
    """A finished picture and its true shapes, teeth and conditions, in px of the picture."""

    gray: Gray
    shapes: list[Shape]


def draw(mouth: Mouth, width: int, rng: np.random.Generator) -> Drawing:
    """Draw one patient.

    Args:
        mouth: What to draw.
        width: Width of the picture in px, at least 160. The height is 0.50 to 0.60 of it, less in the pictures
            that cut off the chin.
        rng: The patient's own stream.

    Returns:
        The picture and its true shapes. Shapes may reach below a picture that cuts off the chin.
    """
    face_rng, anatomy_rng, findings_rng, film_rng = rng.spawn(4)  # so that a finding changes nothing but itself
    face = _face(max(width, _MIN_DRAWN_WIDTH), face_rng)
    places = layout(face, face_rng)
    bone_loss = 0.02 + 0.10 * float(face_rng.random()) ** 2
    margins = {upper: bone_margin(places, mouth, upper, bone_loss) for upper in (True, False)}
    anatomy = draw_anatomy(face, margins, _removed_side(mouth, places), anatomy_rng)
    canvas = _canvas(face)
    for fdi, tooth in mouth.teeth.items():
        _draw_position(canvas, places[fdi], tooth, findings_rng)
    for run in mouth.bridges:
        findings.draw_bridge(canvas, run, places)
    for name, fdi in mouth.others:
        findings.draw_rare(canvas, name, fdi, places, face, findings_rng)
    _draw_side_marker(canvas, face, film_rng)

    gray, shapes = _expose(anatomy, canvas, face, film_rng), canvas.shapes
    if face_rng.random() < _CHIN_CUT_OFF_SHARE:
        front = [places[fdi].point(0.0, 1.0)[1] for fdi in (31, 41)]
        gray = gray[: round(max(front) + (2.0 + 5.0 * float(face_rng.random())) * face.mm)]
    drawing = Drawing(np.ascontiguousarray(gray, np.uint8), shapes)
    return drawing if width == face.width else _scaled(drawing, width)


def _removed_side(mouth: Mouth, places: Mapping[int, Place]) -> float | None:
    """-1 or 1 when that half of the lower jaw is gone."""
    gone = [fdi for name, fdi in mouth.others if name == "hemimandibulectomy"]
    return float(np.sign(places[gone[0]].across[0])) if gone else None


def _canvas(face: Face) -> Canvas:
    layers = np.zeros((4, face.height, face.width), np.uint8)
    return Canvas((layers[0], layers[1]), layers[2], layers[3], face.mm)


def _scaled(drawing: Drawing, width: int) -> Drawing:
    """The drawing at another width."""
    height, scale = drawing.gray.shape[0], width / drawing.gray.shape[1]
    gray = cv2.resize(drawing.gray, (width, round(height * scale)), interpolation=cv2.INTER_AREA)
    shapes = [Shape(s.raw_name, s.outline_xy_px * scale, s.fdi) for s in drawing.shapes]
    return Drawing(np.ascontiguousarray(gray, np.uint8), shapes)


def _face(width: int, rng: np.random.Generator) -> Face:
    """One patient's proportions."""
    height = round(width * (0.50 + 0.10 * float(rng.random())))
    mm = 0.00445 * width * (1 + 0.035 * float(rng.standard_normal()))
    return Face(
        width=width,
        height=height,
        mm=mm,
        center_x=width * (0.5 + 0.012 * float(rng.standard_normal())),
        occlusal_y=height * 0.5 + width * (0.04 + 0.015 * float(rng.standard_normal())),
        smile=width * (0.042 + 0.014 * float(rng.standard_normal())),
        bite_px=mm * (1.0 + 0.8 * float(rng.random())),
    )


def _draw_position(c: Canvas, p: Place, tooth: Tooth, rng: np.random.Generator) -> None:
    """One position of the arch with all its findings; teeth are marked as FDI shapes."""
    layer = c.teeth[p.column % 2]
    outline: Points | None = None
    if tooth.status == "missing":
        findings.mark_gap(c, p, rng)
    elif tooth.status == "implant":
        findings.draw_implant(c, p, tooth.crowned, rng)
    elif tooth.status == "bud":
        findings.draw_bud(c, p, layer, tooth.milk_tooth_above, rng)
    elif tooth.status == "deciduous":
        milk = milk_place(p, 0.0)
        draw_tooth(c, milk, layer)
        c.mark("retained decidious", milk.xy(template(milk.kind).outline), p.fdi)
    elif tooth.status == "stump":
        outline = findings.draw_stump(c, p, layer, tooth.root_filled, rng)
    elif tooth.status == "impacted":
        outline = findings.draw_impacted(c, impacted_place(p, c.mm, rng), layer)
    elif tooth.status == "erupted":
        draw_tooth(c, p, layer)
        outline = p.xy(template(p.kind).outline)
        _draw_tooth_findings(c, p, tooth, layer, rng)
    if outline is not None:
        c.mark(str(p.fdi), outline, p.fdi)
        if tooth.periapical:
            findings.draw_periapical(c, p, layer, rng)


def _draw_tooth_findings(c: Canvas, p: Place, tooth: Tooth, layer: Gray, rng: np.random.Generator) -> None:
    """The conditions of a tooth that stands in the mouth."""
    if tooth.root_filled:
        findings.draw_root_filling(c, p, "RC-treated")
    if tooth.restored:
        findings.draw_restoration(c, p, rng)
    if tooth.crowned:
        c.mark("crown", findings.draw_crown(c, p), p.fdi)
    first_side = int(rng.integers(2))
    for i in range(tooth.caries):
        findings.draw_caries(c, p, layer, (first_side + i) % 2, rng)
    for i in range(tooth.calculus):
        findings.draw_calculus(c, p, layer, (first_side + i) % 2, rng)
    if tooth.grossly_decayed:
        findings.draw_gross_decay(c, p, layer, rng)


def _draw_side_marker(c: Canvas, face: Face, rng: np.random.Generator) -> None:
    """A lead letter, R on the image's left or L on its right, in some pictures."""
    kind = float(rng.random())
    if kind > 0.5:
        return
    scale = face.width / 1280
    x, letter = (0.035, "R") if kind < 0.25 else (0.945, "L")
    at = (round(face.width * x), round(face.height * (0.12 + 0.1 * float(rng.random()))))
    cv2.putText(c.metal, letter, at, cv2.FONT_HERSHEY_SIMPLEX, 1.1 * scale, 210, max(1, round(3 * scale)), cv2.LINE_AA)


def _expose(anatomy: Gray, c: Canvas, face: Face, rng: np.random.Generator) -> Gray:
    """Add up the layers as attenuation, then blur, film curve and grain."""
    mm = face.mm
    dark = cv2.GaussianBlur(c.dark, (0, 0), 0.28 * mm)
    teeth = cv2.GaussianBlur(cv2.add(c.teeth[0], c.teeth[1]), (0, 0), 0.2 * mm)
    metal = cv2.GaussianBlur(c.metal, (0, 0), 0.14 * mm)
    image = cv2.max(cv2.add(cv2.subtract(anatomy, dark), teeth), metal)
    level = np.arange(256) / 255
    gamma = np.clip(1.0 + 0.12 * float(rng.standard_normal()), 0.75, 1.3)
    contrast = np.clip(1.0 + 0.08 * float(rng.standard_normal()), 0.85, 1.15)
    curve = np.clip(0.5 + (1.25 * level**gamma - 0.5) * contrast, 0, None)
    curve = (curve - np.maximum(curve - 0.78, 0) * 0.45).clip(0, 1) * 247 + 4  # the film's shoulder
    image = cv2.LUT(image, np.rint(curve).astype(np.uint8))
    grain = window(textures(face.width)[1], image.shape[0], image.shape[1], rng)
    amount = 0.12 + 0.13 * float(rng.random())
    return np.asarray(cv2.addWeighted(image, 1.0, grain, amount, -128.0 * amount), np.uint8)
