"""How each condition looks on a phantom, and the outline that an annotator would draw around it.

Every function draws on the layers of a canvas and marks what it drew under v8's raw name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dentsight_pipeline.phantom.canvas import (
    Canvas,
    Gray,
    Points,
    blob,
    disc,
    fill,
    hull,
    inflate,
    polygon,
    smooth,
    smooth_line,
    thick,
)
from dentsight_pipeline.phantom.mouth import arch
from dentsight_pipeline.phantom.teeth import (
    DENTIN_ROOT,
    ENAMEL,
    PULP_ROOT,
    Face,
    Place,
    draw_ligament,
    draw_tooth,
    milk_place,
    template,
)

_CARIES, _CALCULUS, _FILLING, _CANAL_FILLING, _CROWN, _IMPLANT, _METAL = 0, 205, 224, 238, 244, 234, 246


def draw_root_filling(c: Canvas, p: Place, name: str | None) -> None:
    """Thin bright fillings in all canals, down to the tips; marked under `name` unless the tooth is a stump."""
    t = template(p.kind)
    lines = [p.xy(canal if name else canal[canal[:, 1] >= 1.0]) for canal in t.canals]
    for line in lines:
        c.line(c.metal, line, _CANAL_FILLING, 0.95 if p.fdi % 10 <= 5 else 0.8)
    if name is not None:
        c.mark(name, inflate(hull(*[thick(line, 1.2 * c.mm) for line in lines]), 0.3 * c.mm), p.fdi)


def draw_crown(c: Canvas, p: Place) -> Points:
    """A bright cap over the crown; returns its outline."""
    cap = p.xy(template(p.kind).crown * [1.02, 0.98] + np.array([0.0, -0.03]))
    fill(c.metal, cap, _CROWN)
    return cap


def draw_restoration(c: Canvas, p: Place, rng: np.random.Generator) -> None:
    """A bright blob within the crown: on the biting surface of back teeth, at a contact elsewhere."""
    back = p.fdi % 10 >= 4
    where = float(rng.random())
    if back and where < 0.6:
        s, t, half_s, half_t = 0.15 * float(rng.standard_normal()), 0.3, 0.5 + 0.2 * where, 0.26
    else:
        side = 1.0 if rng.random() < 0.5 else -1.0
        s, t, half_s, half_t = side * 0.6, (0.3 if back else 0.45), 0.38, 0.3
    outline = blob(np.array([s, t]), half_s, half_t, rng, 0.09)
    outline = p.xy(np.clip(outline, [-0.98, 0.02], [0.98, 1.0]))
    fill(c.metal, outline, _FILLING)
    c.mark("restoration", inflate(outline, 0.25 * c.mm), p.fdi)


def draw_caries(c: Canvas, p: Place, layer: Gray, site: int, rng: np.random.Generator) -> None:
    """A small dark notch at the edge of the crown: at a contact, or in the fissure of a back tooth."""
    side = 1.0 if site == 0 else -1.0
    if p.fdi % 10 >= 6 and rng.random() < 0.25:
        s, t = 0.35 * side, 0.08
    else:
        s, t = 0.86 * side, 0.42 + 0.4 * float(rng.random())
    radius = c.mm * (1.35 + 0.45 * float(rng.random()))
    notch = blob(p.point(s, t), radius * 0.85, radius * 1.2, rng, 0.14)
    fill(layer, notch, _CARIES)
    fill(c.dark, inflate(notch, -0.2 * c.mm), 22)
    c.mark("caries", inflate(notch, 0.35 * c.mm), p.fdi)


def draw_gross_decay(c: Canvas, p: Place, layer: Gray, rng: np.random.Generator) -> None:
    """Most of the crown is gone."""
    hole = blob(p.point(0.15, 0.25), 0.75 * p.half_px, p.crown_px * 0.5, rng, 0.12)
    fill(layer, hole, _CARIES)
    c.mark("grossly-decayed", hole, p.fdi)


def draw_calculus(c: Canvas, p: Place, layer: Gray, site: int, rng: np.random.Generator) -> None:
    """A small bright spur that sticks out at the neck."""
    side = 1.0 if site == 0 else -1.0
    neck = p.point(0.72 * side, 1.02)
    out, along = p.outwards * side, p.along
    size = c.mm * (0.85 + 0.35 * float(rng.random()))
    spur = smooth(
        polygon(
            neck - along * size * 1.7 - out * size * 0.3,
            neck - along * size * 0.7 + out * size * 0.9,
            neck + along * size * 0.2 + out * size * 1.6,
            neck + along * size * 0.9 + out * size * 0.7,
            neck + along * size * 1.7 - out * size * 0.4,
        ),
        1,
    )
    fill(layer, spur, _CALCULUS)
    c.mark("calculus", inflate(spur, 0.35 * c.mm), p.fdi)


def draw_periapical(c: Canvas, p: Place, layer: Gray, rng: np.random.Generator) -> None:
    """A dark round at one root tip, with a faint dense rim."""
    tips = template(p.kind).apices
    tip = p.xy(tips[int(rng.integers(len(tips)))][None])[0] + p.along * c.mm * 0.6
    radius = c.mm * (1.9 + 1.3 * float(rng.random()))
    rim = blob(tip, radius, radius * 1.1, rng, 0.07)
    c.line(layer, rim, 14, 1.2, closed=True)
    fill(c.dark, rim, 34)
    fill(c.dark, tip + (rim - tip) * 0.8, 66)
    c.mark("periapical radiolucency", inflate(rim, 0.3 * c.mm), p.fdi)


def draw_stump(c: Canvas, p: Place, layer: Gray, filled: bool, rng: np.random.Generator) -> Points:
    """A root without its crown: what is left ends in a jagged edge at the gum. Returns its outline."""
    t = template(p.kind)
    draw_ligament(c, p, layer)
    top = 0.80 + 0.15 * float(rng.random())
    edge = np.array([(s, top + 0.10 * float(rng.standard_normal())) for s in np.linspace(-0.72, 0.72, 6)])
    outline = p.xy(np.concatenate([edge, t.root_outline[_from_neck(t.root_outline)]]))
    fill(layer, outline, DENTIN_ROOT + 14)
    for canal in t.canals:
        c.line(layer, p.xy(canal[canal[:, 1] >= 1.0]), PULP_ROOT, 0.6)
    if filled:
        draw_root_filling(c, p, None)
    c.mark("RC-treated-and-root-stump" if filled else "root-stump", outline, p.fdi)
    return outline


def _from_neck(root: Points) -> NDArray[np.int64]:
    """Indices that walk a root outline from its distal neck round the tip to its mesial neck."""
    start = int(np.argmax(root[:, 0] - 3.0 * root[:, 1]))
    walk = (np.arange(len(root)) + start) % len(root)
    return walk[root[walk, 1] > 1.03]  # without the outline's closing line across the neck


def draw_implant(c: Canvas, p: Place, crowned: bool, rng: np.random.Generator) -> None:
    """A bright screw in the bone, with threads and an abutment."""
    length = (9.5 + 2.5 * float(rng.random())) * c.mm
    radius = (1.75 + 0.25 * float(rng.random())) * c.mm
    out, neck = p.outwards, p.origin + p.along * p.crown_px * 1.12
    steps = np.linspace(0.0, 1.0, 17)
    profile = radius * np.where(steps > 0.75, 1.0 - 1.6 * (steps - 0.75), 1.0)
    profile = profile + np.where(np.arange(17) % 2 == 0, 0.28 * c.mm, -0.28 * c.mm)
    axis = neck + steps[:, None] * length * p.along
    screw = np.concatenate([axis + profile[:, None] * out, (axis - profile[:, None] * out)[::-1]])
    fill(c.metal, screw, _IMPLANT)
    top = neck - p.along * 3 * c.mm
    post = polygon(
        neck - 0.9 * radius * out, neck + 0.9 * radius * out, top + 0.6 * radius * out, top - 0.6 * radius * out
    )
    fill(c.metal, post, _IMPLANT)
    if crowned:
        c.mark("crown", draw_crown(c, p), p.fdi)
    c.mark("implant", inflate(hull(screw, post), 0.3 * c.mm), p.fdi)


def draw_bud(c: Canvas, p: Place, layer: Gray, below_milk_tooth: bool, rng: np.random.Generator) -> None:
    """A developing crown in its dark follicle with a dense rim; a milk tooth may stand above it."""
    center = p.origin + p.along * (p.crown_px * 1.05 + (8.0 if below_milk_tooth else 2.2) * c.mm)
    half = p.half_px * (1.0 if p.fdi % 10 >= 6 else 1.12)
    follicle = blob(center, half * 1.18, half * 1.12, rng, 0.03)
    c.line(layer, follicle, 34, 1.0, closed=True)
    fill(c.dark, follicle, 48)
    crown = blob(center, half * 0.86, half * 0.78, rng, 0.05)
    fill(layer, crown, ENAMEL + 20)
    fill(layer, center + (crown - center) * 0.6 + p.along * half * 0.34, 46)
    c.mark("tooth-bud", inflate(follicle, 0.3 * c.mm), p.fdi)
    if below_milk_tooth:
        draw_tooth(c, milk_place(p, c.mm), layer)


def draw_impacted(c: Canvas, p: Place, layer: Gray) -> Points:
    """A whole tooth that lies tilted in the bone; returns its outline."""
    outline = p.xy(template(p.kind).outline)
    c.line(c.dark, p.xy(template(p.kind).crown), 40, 2.2, closed=True)
    draw_tooth(c, p, layer)
    c.mark("impacted", inflate(outline, 0.4 * c.mm), p.fdi)
    return outline


def mark_gap(c: Canvas, p: Place, rng: np.random.Generator) -> None:
    """Nothing stands here: the outline of the space that the tooth would fill."""
    top = 0.12 + 0.1 * float(rng.random())
    c.mark("missing", p.xy(np.array([(-0.92, top), (0.92, top), (0.92, 1.45), (-0.92, 1.45)])), p.fdi)


def draw_bridge(c: Canvas, run: list[int], places: Mapping[int, Place]) -> None:
    """Joined bright caps across a gap; a run of two is a cantilever."""
    for fdi in run:
        draw_crown(c, places[fdi])
    for a, b in pairwise(places[fdi] for fdi in run):
        fill(c.metal, polygon(a.point(0.0, 0.3), b.point(0.0, 0.3), b.point(0.0, 0.78), a.point(0.0, 0.78)), _CROWN)
    edge, neck = [], []
    for p in (places[fdi] for fdi in run):
        left = 1.0 if p.column < 8 else -1.0
        edge += [p.point(0.95 * left, 0.0), p.point(-0.95 * left, 0.0)]
        neck += [p.point(0.8 * left, 1.02), p.point(-0.8 * left, 1.02)]
    c.mark("cantilever" if len(run) == 2 else "bridge", np.array(edge + neck[::-1]), run[0])


@dataclass(frozen=True)
class _Site:
    """Where one of the rare findings lies."""

    name: str
    canvas: Canvas
    place: Place
    places: Mapping[int, Place]
    face: Face
    rng: np.random.Generator

    @property
    def layer(self) -> Gray:
        """The layer of the tooth itself."""
        return self.canvas.teeth[self.place.column % 2]

    @property
    def other_layer(self) -> Gray:
        """The layer of the tooth's neighbours: what is drawn here adds to the tooth."""
        return self.canvas.teeth[1 - self.place.column % 2]

    @property
    def side(self) -> float:
        """-1 on the image's left, 1 on its right."""
        return float(np.sign(self.place.across[0]))

    def mark(self, outline: Points) -> None:
        """Record the finding."""
        self.canvas.mark(self.name, outline, self.place.fdi)


def _lucency(f: _Site) -> None:
    """A cyst (round, dense rim) or a radiolucency without a rim, below the roots."""
    c, p, is_cyst = f.canvas, f.place, f.name == "cyst"
    radius = c.mm * ((7.5 if is_cyst else 4.5) + 2 * float(f.rng.random()))
    rim = blob(p.point(0.0, 2.0) + p.along * c.mm, radius * 1.25, radius, f.rng, 0.03 if is_cyst else 0.12)
    if is_cyst:
        c.line(f.layer, rim, 50, 1.0, closed=True)
    fill(c.dark, rim, 66 if is_cyst else 54)
    f.mark(inflate(rim, 0.5 * c.mm))


def _between_roots(f: _Site) -> None:
    """Bone lost in the fork of a molar's roots."""
    rim = blob(f.place.point(0.0, 1.42), 1.7 * f.canvas.mm, 2.3 * f.canvas.mm, f.rng, 0.08)
    fill(f.layer, rim, 4)
    fill(f.canvas.dark, rim, 54)
    f.mark(inflate(rim, 0.4 * f.canvas.mm))


def _dense_bone(f: _Site) -> None:
    """A dense patch at the root tip."""
    c, p = f.canvas, f.place
    patch = blob(p.point(0.0, 2.0) + p.along * 1.5 * c.mm, 4.0 * c.mm, 3.0 * c.mm, f.rng, 0.12)
    fill(f.other_layer, patch, 46)
    f.mark(inflate(patch, 0.4 * c.mm))


def _crater(f: _Site) -> None:
    """Bone lost around the neck of an implant."""
    mm, p = f.canvas.mm, f.place
    neck, out = p.origin + p.along * p.crown_px * 1.1, p.outwards
    deep = neck + p.along * 5.5 * mm
    crater = polygon(neck - 4.2 * mm * out, neck + 4.2 * mm * out, deep + 2.6 * mm * out, deep - 2.6 * mm * out)
    fill(f.canvas.dark, smooth(crater), 60)
    f.mark(crater)


def _extra_tooth(f: _Site) -> None:
    """A small cone between the front teeth or premolars, or a small molar behind the last one."""
    c, p, behind = f.canvas, f.place, f.name == "distomolar"
    lean = np.deg2rad(25 * float(f.rng.standard_normal()))
    along = p.along * np.cos(lean) + p.outwards * np.sin(lean)
    across = (p.outwards * np.cos(lean) - p.along * np.sin(lean)) * (3.6 if behind else 2.6) * c.mm
    where = p.point(1.7 if behind else -1.15, 0.0) + p.along * (p.crown_px * (0.5 if behind else 0.9))
    kind, root_mm = ("premolar", 5.0) if behind else ("canine", 7.0)
    extra = Place(p.fdi, where, across, along, 5.0 * c.mm, root_mm * c.mm, 0.0, kind, p.column)
    draw_tooth(c, extra, f.other_layer)
    f.mark(extra.xy(template(kind).outline))


def _clasp(f: _Site) -> None:
    """A wire around a crown."""
    c, p = f.canvas, f.place
    arm = smooth_line(p.xy(np.array([(-1.25, 0.3), (-0.9, 0.62), (-0.2, 0.8), (0.5, 0.74), (1.15, 0.45), (1.3, 0.1)])))
    rest = p.xy(np.array([(1.3, 0.1), (0.9, -0.05), (0.5, 0.0)]))
    c.line(c.metal, arm, _METAL, 1.0)
    c.line(c.metal, rest, _METAL, 1.3)
    f.mark(hull(thick(arm, 0.7 * c.mm), thick(rest, 0.7 * c.mm)))


def _cast_denture(f: _Site) -> None:
    """A metal framework along the whole lower jaw, with clasps."""
    c = f.canvas
    row = [p for p in (f.places[fdi] for fdi in arch(f.place.fdi < 30)) if 1 < p.column < 14]
    bar = smooth_line(np.array([p.point(0.0, 1.75) for p in row]))
    c.line(c.metal, bar, 240, 3.0)
    parts = [thick(bar, 1.6 * c.mm)]
    for p in (row[0], row[3], row[-4], row[-1]):
        clasp = smooth_line(p.xy(np.array([(0.0, 1.75), (-0.9, 1.1), (-0.8, 0.5), (0.3, 0.3), (0.9, 0.6)])))
        c.line(c.metal, clasp, _METAL, 1.2)
        parts.append(clasp)
    f.mark(hull(*parts))


def _plate(f: _Site) -> None:
    """A row of four screw holes along the lower border of the jaw."""
    c, p = f.canvas, f.place
    start = p.point(0.0, 2.0) + p.along * 4.0 * c.mm
    holes = start + np.arange(4)[:, None] * np.array([f.side * 4.6 * c.mm, -1.2 * c.mm])
    c.line(c.metal, holes, 238, 1.2)
    for hole in holes:
        fill(c.metal, disc(hole, 1.9 * c.mm), 240)
        fill(c.metal, disc(hole, 0.7 * c.mm), 120)
    f.mark(hull(thick(holes, 2.0 * c.mm)))


def _clips(f: _Site) -> None:
    """A few tiny staples in the neck below the jaw's angle."""
    c = f.canvas
    midline = np.array([f.face.center_x, f.face.occlusal_y])
    ends = []
    for _ in range(3 + int(f.rng.integers(0, 4))):
        at = midline + np.array([f.side * (48 + 20 * f.rng.random()), 24 + 12 * f.rng.random()]) * c.mm
        turn = float(f.rng.random()) * np.pi
        half = np.array([np.cos(turn), np.sin(turn)]) * 1.5 * c.mm
        c.line(c.metal, polygon(at - half, at + half), 240, 0.9)
        ends += [at - half, at + half]
    f.mark(inflate(hull(thick(np.array(ends), 0.6 * c.mm)), 0.2 * c.mm))


def _splint(f: _Site) -> None:
    """A wire bonded along the front teeth."""
    c = f.canvas
    row = [p for p in (f.places[fdi] for fdi in arch(f.place.fdi < 30)) if 4 <= p.column <= 11]
    wire = smooth_line(np.array([p.point(0.0, 0.55) for p in row]))
    c.line(c.metal, wire, _METAL, 0.9)
    for p in row:
        fill(c.metal, disc(p.point(0.0, 0.55), 1.2 * c.mm), 236)
    f.mark(hull(thick(wire, 1.3 * c.mm)))


def _half_jaw(f: _Site) -> None:
    """Half of the lower jaw was removed; anatomy.py leaves it out."""
    midline = np.array([f.face.center_x, f.face.occlusal_y])
    corners = np.array([(0.10, -0.02), (0.39, -0.02), (0.39, 0.15), (0.10, 0.20)]) * [f.side, 1.0]
    f.mark(midline + f.face.width * corners)


_RARE: Mapping[str, Callable[[_Site], None]] = {
    "RPD clasp": _clasp,
    "cast partial denture": _cast_denture,
    "condensing osteitis": _dense_bone,
    "cyst": _lucency,
    "distomolar": _extra_tooth,
    "hemimandibulectomy": _half_jaw,
    "inter radicularradiolucency": _between_roots,
    "mini plates": _plate,
    "peri implant bone loss": _crater,
    "radiolucency": _lucency,
    "supernumerary": _extra_tooth,
    "vascular clips": _clips,
    "wire splint": _splint,
}


def draw_rare(
    c: Canvas, name: str, fdi: int, places: Mapping[int, Place], face: Face, rng: np.random.Generator
) -> None:
    """One of the rare findings by its raw name; a retained milk tooth is drawn with its position instead."""
    draw = _RARE.get(name)
    if draw is not None:
        draw(_Site(name, c, places[fdi], places, face, rng))
