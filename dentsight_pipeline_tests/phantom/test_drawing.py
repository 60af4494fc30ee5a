"""What is drawn can be seen where its outline says, on the right side of the picture."""

from __future__ import annotations

import numpy as np
import pytest

from dentsight_pipeline.phantom.drawing import Drawing, draw
from dentsight_pipeline.phantom.mouth import FDI_TEETH, V8_CONDITION_COUNTS, Mouth, Tooth

_WIDTH = 800


def _draw(
    teeth: dict[int, Tooth] | None = None,
    seed: int = 1,
    *,
    bridges: list[list[int]] | None = None,
    others: list[tuple[str, int]] | None = None,
) -> Drawing:
    """A sound mouth but for what is given; seed 1 shows the whole chin."""
    mouth = Mouth({fdi: Tooth() for fdi in FDI_TEETH} | (teeth or {}), bridges or [], others or [])
    return draw(mouth, _WIDTH, np.random.Generator(np.random.PCG64(seed)))


def _inside(drawing: Drawing, name: str, fdi: int) -> np.ndarray:
    """Gray levels within the box of one shape."""
    outline = next(s.outline_xy_px for s in drawing.shapes if s.raw_name == name and s.fdi == fdi)
    (x0, y0), (x1, y1) = np.floor(outline.min(axis=0)).astype(int), np.ceil(outline.max(axis=0)).astype(int)
    return drawing.gray[max(y0, 0) : y1, max(x0, 0) : x1]


def test_the_patients_right_is_on_the_images_left() -> None:
    """The predecessor's most frequent complaint was the wrong side; the phantom must not teach it."""
    centers = {int(s.raw_name): s.outline_xy_px.mean(axis=0) for s in _draw().shapes}

    assert set(centers) == set(FDI_TEETH)
    for right, left in ((1, 2), (4, 3)):
        for position in range(1, 9):
            assert centers[right * 10 + position][0] < _WIDTH / 2 < centers[left * 10 + position][0]
    for upper, lower in ((1, 4), (2, 3)):
        for position in range(1, 9):
            assert centers[upper * 10 + position][1] < centers[lower * 10 + position][1]
    assert centers[18][0] < centers[16][0] < centers[11][0] < centers[21][0] < centers[26][0] < centers[28][0]


def test_a_picture_is_wide_gray_and_neither_flat_nor_clipped() -> None:
    """A panoramic image is about twice as wide as high and uses the whole range."""
    for seed in range(4):
        gray = _draw(seed=seed).gray

        assert gray.dtype == np.uint8 and gray.ndim == 2 and gray.shape[1] == _WIDTH
        assert 0.25 < gray.shape[0] / gray.shape[1] < 0.65
        assert gray.std() > 25
        assert np.mean(gray >= 254) < 0.02 and np.mean(gray <= 1) < 0.02


@pytest.mark.parametrize(
    ("tooth", "name", "brighter"),
    [
        (Tooth(crowned=True), "crown", True),
        (Tooth(restored=True), "restoration", True),
        (Tooth(root_filled=True), "RC-treated", True),
        (Tooth("implant"), "implant", True),
        (Tooth(calculus=1), "calculus", True),
        (Tooth(caries=1), "caries", False),
        (Tooth(periapical=True), "periapical radiolucency", False),
        (Tooth("missing"), "missing", False),
    ],
)
def test_a_condition_changes_the_picture_where_its_box_is(tooth: Tooth, name: str, brighter: bool) -> None:
    """A box without a visible finding is label noise: no model could learn it."""
    for fdi in (36, 15):
        outline_of = _draw({fdi: tooth})
        with_it = _inside(outline_of, name, fdi).astype(float)
        shape = next(s for s in outline_of.shapes if s.raw_name == name and s.fdi == fdi)
        without = _inside(Drawing(_draw().gray, [shape]), name, fdi).astype(float)
        change = np.sort((with_it - without).ravel())
        strongest = change[-(len(change) // 5) :] if brighter else -change[: len(change) // 5]

        assert np.mean(strongest) > 25


def test_every_status_draws_without_its_tooth_where_there_is_none() -> None:
    """Gaps, implants and buds carry no FDI label; stumps and impacted teeth do."""
    states = {14: "missing", 15: "implant", 18: "bud", 24: "absent", 36: "stump", 48: "impacted", 45: "deciduous"}
    drawing = _draw({fdi: Tooth(status) for fdi, status in states.items()})  # type: ignore[arg-type]
    named = {(s.raw_name, s.fdi) for s in drawing.shapes}

    assert {("missing", 14), ("implant", 15), ("tooth-bud", 18), ("root-stump", 36), ("impacted", 48)} <= named
    assert ("retained decidious", 45) in named
    assert {int(s.raw_name) for s in drawing.shapes if s.raw_name.isdigit()} == set(FDI_TEETH) - {14, 15, 18, 24, 45}


def test_a_bridge_spans_its_teeth() -> None:
    """Dentists complained that bridges are read as restorations: its box must cover the whole run."""
    run = [35, 36, 37]
    drawing = _draw({36: Tooth("pontic")}, bridges=[run])
    bridge = next(s.outline_xy_px for s in drawing.shapes if s.raw_name == "bridge")
    abutments = [next(s.outline_xy_px for s in drawing.shapes if s.raw_name == str(f)) for f in (35, 37)]

    assert bridge[:, 0].min() <= abutments[0][:, 0].mean() and bridge[:, 0].max() >= abutments[1][:, 0].mean()
    assert np.percentile(_inside(drawing, "bridge", 35), 60) > 200


@pytest.mark.parametrize(
    "name",
    sorted(
        set(V8_CONDITION_COUNTS)
        - {"RC-treated", "RC-treated-and-root-stump", "bridge", "calculus", "cantilever", "caries", "crown", "impacted"}
        - {"grossly-decayed", "implant", "missing", "periapical radiolucency", "restoration", "root-stump", "tooth-bud"}
        - {"retained decidious"}
    ),
)
def test_every_rare_finding_is_drawn_and_marked(name: str) -> None:
    """Each raw name that maps to other-finding has a picture of its own, inside the image."""
    fdi = 37 if name in ("hemimandibulectomy", "vascular clips") else 36
    teeth = {36: Tooth("implant")} if name == "peri implant bone loss" else {}
    if name == "hemimandibulectomy":
        teeth = {30 + p: Tooth("absent") for p in range(4, 9)}
    before, after = _draw(teeth), _draw(teeth, others=[(name, fdi)])
    shapes = [s for s in after.shapes if s.raw_name == name]

    assert len(shapes) == 1
    low, high = shapes[0].outline_xy_px.min(axis=0), shapes[0].outline_xy_px.max(axis=0)
    assert (low > 0).all() and (high < [_WIDTH, _WIDTH]).all()
    assert before.gray.shape == after.gray.shape
    assert not np.array_equal(_inside(after, name, fdi), _inside(Drawing(before.gray, shapes), name, fdi))


def test_narrow_pictures_show_the_same_patient_smaller() -> None:
    """Tests draw at 320 px: outlines must scale with the pixels."""
    wide = _draw(seed=3)
    mouth = Mouth({fdi: Tooth() for fdi in FDI_TEETH})
    narrow = draw(mouth, 320, np.random.Generator(np.random.PCG64(3)))
    big = {s.raw_name: s.outline_xy_px / _WIDTH for s in wide.shapes}

    assert narrow.gray.shape[1] == 320
    for shape in narrow.shapes:
        assert np.abs(shape.outline_xy_px / 320 - big[shape.raw_name]).max() < 0.01
