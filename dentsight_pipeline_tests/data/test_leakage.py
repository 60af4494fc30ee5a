"""Grouping by source: what must be found, what must never be merged, and that it scales."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import fft, ndimage

from dentsight_pipeline.data import leakage, stored_images
from dentsight_pipeline.data.leakage import Fingerprint, SourceItem
from dentsight_pipeline.errors import DataError

Gray = NDArray[np.uint8]

FLIPS: dict[str, Callable[[Gray], Gray]] = {
    "identity": lambda gray: gray,
    "hflip": lambda gray: np.ascontiguousarray(gray[:, ::-1]),
    "vflip": lambda gray: np.ascontiguousarray(gray[::-1]),
    "rot180": lambda gray: np.ascontiguousarray(gray[::-1, ::-1]),
}


def picture(seed: int, height: int = 240, width: int = 480) -> Gray:
    """A smooth random picture, uint8 [height, width], 40 to 215."""
    noise = np.random.default_rng(seed).standard_normal((24, 48)).astype(np.float32)
    smooth = cv2.GaussianBlur(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC), (0, 0), 3)
    return (40 + 175 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)


def reencoded(gray: Gray, quality: int) -> Gray:
    """The picture after a JPEG round trip."""
    _, encoded = cv2.imencode(".jpg", gray, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)
    assert decoded is not None
    return decoded.astype(np.uint8)


def clipped(values: NDArray[np.floating] | NDArray[np.integer]) -> Gray:
    """The values as uint8 pixels."""
    return np.clip(values, 0, 255).astype(np.uint8)


def item(
    name: str,
    split: str,
    print_of: Gray | None = None,
    stem: str | None = None,
    kind: leakage.StemKind = "numeric",
) -> SourceItem:
    """A source item whose digest is the sha256 of a name."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return SourceItem(digest, split, stem, kind, None if print_of is None else leakage.fingerprint(print_of))


def fingerprint_of(data: bytes) -> Fingerprint:
    """As ingestion makes it, from an encoded image."""
    with Image.open(io.BytesIO(data)) as image:
        return Fingerprint(stored_images.fingerprint(data, image.size))


@pytest.fixture(scope="module")
def real_items(real_export: Path) -> list[SourceItem]:
    """All 1,269 images of the real export; their stems are numeric, so that pixels alone decide."""
    items = []
    for split in ("train", "valid", "test"):
        for path in sorted((real_export / split).glob("*.jpg")):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            stem = path.name.partition(".rf.")[0]
            items.append(SourceItem(digest, split, stem, "numeric", fingerprint_of(path.read_bytes())))
    return items


@pytest.mark.parametrize("flip", FLIPS)
def test_each_of_the_four_flips_is_the_same_source_and_is_named(flip: str) -> None:
    """A corpus that was flipped and then split at random shows its model the test patients during training."""
    original = picture(1)

    match = leakage.compare(leakage.fingerprint(original), leakage.fingerprint(FLIPS[flip](original)))

    assert match.is_same_source
    assert match.transform == flip
    assert match.similarity == pytest.approx(1, abs=0.01), "a cosine: more than 1 would make strangers alike"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda gray: reencoded(gray, 25), id="jpeg"),
        pytest.param(lambda gray: clipped(gray.astype(int) + 25), id="brighter"),
        pytest.param(lambda gray: clipped(gray * 0.7), id="less contrast"),
        pytest.param(lambda gray: clipped(255 * (gray / 255) ** 0.8), id="gamma"),
        pytest.param(lambda gray: cv2.resize(gray, None, fx=0.5, fy=0.7, interpolation=cv2.INTER_AREA), id="resized"),
        pytest.param(
            lambda gray: clipped(gray + np.random.default_rng(0).normal(0, 8, gray.shape)), id="noise of the sensor"
        ),
    ],
)
def test_a_reencoded_or_brightened_copy_is_still_the_same_source(change: Callable[[Gray], Gray]) -> None:
    """Every upload to an annotation service re-encodes, and some equalise: bytes never prove that two images differ."""
    original = picture(2)

    match = leakage.compare(leakage.fingerprint(original), leakage.fingerprint(change(FLIPS["rot180"](original))))

    assert match.is_same_source


def test_two_pictures_are_two_sources_even_behind_the_same_mask() -> None:
    """A common elliptical mask is the strongest structure of a masked corpus; it must not make all patients one."""
    rows, columns = np.mgrid[-1:1:240j, -1:1:480j]
    outside = rows**2 + columns**2 > 0.8
    first, second = (np.where(outside, 255, picture(seed) // 3).astype(np.uint8) for seed in (3, 4))

    match = leakage.compare(leakage.fingerprint(first), leakage.fingerprint(second))

    assert match.similarity < 0.9


def test_the_reduced_decoding_of_an_image_gives_the_fingerprint_of_its_pixels() -> None:
    """Ingestion decodes at a fraction of the size for speed; that must not change what is found."""
    gray = cv2.resize(picture(5), (1662, 1077), interpolation=cv2.INTER_CUBIC)

    match = leakage.compare(
        fingerprint_of(cv2.imencode(".jpg", gray)[1].tobytes()), leakage.fingerprint(gray.astype(np.uint8))
    )

    assert match.similarity > 0.99


@pytest.mark.parametrize("flip", FLIPS)
def test_a_large_picture_of_odd_sides_is_the_same_source_as_its_flipped_png(flip: str) -> None:
    """It is halved on the way, with a row and a column too few: no side's edge may weigh more than the other's."""
    gray = cv2.resize(picture(7), (2311, 1541), interpolation=cv2.INTER_CUBIC).astype(np.uint8)

    first, second = (
        fingerprint_of(cv2.imencode(suffix, pixels)[1].tobytes())
        for suffix, pixels in ((".jpg", gray), (".png", FLIPS[flip](gray)))
    )

    match = leakage.compare(first, second)
    assert (match.transform, match.similarity > 0.99) == (flip, True)


def test_fingerprints_of_pixels_that_were_decoded_otherwise_are_of_another_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are kept for years: what another size or another rounding gave must not be compared as if it were alike."""
    as_it_is = stored_images._fingerprint_version.__wrapped__()
    decode = stored_images.decode_gray

    monkeypatch.setattr(stored_images, "decode_gray", lambda data, size: decode(data, size, 128))

    assert stored_images._fingerprint_version.__wrapped__() != as_it_is


def witness(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the module's docstring says of 64×64 cells, by scipy: coefficients in int8 units before rounding."""

    def blurred(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return ndimage.gaussian_filter(values, 2, mode="reflect", truncate=4)

    centred = grid - blurred(grid)
    deviation = np.sqrt(blurred(centred**2))
    spectrum = np.asarray(fft.dctn(centred / (deviation + deviation.mean() / 4 + 0.5), norm="ortho"))[:24, :24]
    spectrum[0] *= np.sqrt(2)  # the basis is of one length but for its first row, whose weight is small anyway
    spectrum[:, 0] *= np.sqrt(2)
    vertical, horizontal = np.mgrid[0:24, 0:24]
    weighted = (spectrum * (vertical**2 + horizontal**2) ** 0.25).ravel()[1:]
    return np.clip(24 * weighted / weighted.std(), -127, 127)


@pytest.mark.parametrize("times", [1, 2, 4])
def test_a_fingerprint_is_the_spectrum_that_is_documented(times: int) -> None:
    """Fingerprints are stored and compared for years: other coefficients would not find what is known already."""
    gray = picture(3, 64 * times, 64 * times)
    grid = gray.astype(float)
    for _ in range(times // 2):  # the mean of four, by halves
        grid = grid.reshape(len(grid) // 2, 2, -1, 2).mean(axis=(1, 3))
        grid = np.rint(grid) if len(grid) > 64 else grid  # half a picture is one of whole grays

    made = leakage.fingerprint(gray).coefficients()

    assert np.abs(made - witness(grid)).max() <= (0.51 if times < 4 else 1.5)


@pytest.mark.parametrize(("step", "blank"), [(1, True), (2, False)])
def test_a_picture_has_contrast_from_a_deviation_of_one_gray_on(step: int, blank: bool) -> None:
    """Half of the pixels one gray apart is noise of a black frame; two grays are half a gray level each way."""
    gray = np.full((64, 64), 100, np.uint8)
    gray[:32] += step

    assert leakage.fingerprint(gray).is_blank is blank
    assert leakage.compare(leakage.fingerprint(gray), leakage.fingerprint(gray)).is_same_source is not blank


@pytest.mark.parametrize("shape", [(64,), (0, 64), (64, 64, 3)])
def test_what_is_no_gray_picture_has_no_fingerprint(shape: tuple[int, ...]) -> None:
    """Colour must be said to be colour, not become an assertion of a library."""
    with pytest.raises(DataError, match="needs grayscale pixels"):
        leakage.fingerprint(np.zeros(shape, np.uint8))


def test_bytes_that_are_no_image_are_refused() -> None:
    """A truncated download must be said to be one, not end as an OpenCV assertion."""
    with pytest.raises(DataError, match="cannot be decoded"):
        stored_images.fingerprint(b"not an image", (64, 48))


def test_a_fingerprint_survives_json_and_refuses_another_versions_text() -> None:
    """Fingerprints are cached between ingestions; an old cache must not compare as if it were new."""
    original = leakage.fingerprint(picture(6))

    assert Fingerprint.from_json(json.loads(json.dumps(original.to_json()))) == original
    assert Fingerprint(**asdict(original)) == original
    for damaged in ("AAAA", "A", f"!{original.to_json()}", "ä"):
        with pytest.raises(DataError, match="Delete the cached fingerprints"):
            Fingerprint.from_json(damaged)


def test_images_without_contrast_prove_nothing() -> None:
    """Two black frames are not the same patient."""
    black = np.zeros((64, 128), dtype=np.uint8)
    items = [item("a", "train", black), item("b", "test", black)]

    groups = leakage.group_by_source(items)

    assert list(groups) == [items[0].digest, items[1].digest]


@pytest.mark.parametrize("kind", ["uid", "dated", "other"])
def test_an_equal_stem_of_a_kind_that_proves_joins_images_with_different_pixels(kind: leakage.StemKind) -> None:
    """The same exposure exported in another window has other pixels and the same identifier."""
    items = [item("a", "train", picture(7), "1.2.840", kind), item("b", "test", picture(8), "1.2.840", kind)]

    groups = leakage.group_by_source(items)

    assert list(groups) == [min(items[0].digest, items[1].digest)] * 2


def test_an_equal_numeric_stem_alone_joins_nothing() -> None:
    """`18_png` names different patients in different uploads: joining them would waste clean test images."""
    items = [item("a", "train", picture(7), "18", "numeric"), item("b", "test", picture(8), "18", "numeric")]

    groups = leakage.group_by_source(items)

    assert len(set(groups)) == 2


def test_a_chain_of_evidence_is_one_source_named_by_its_smallest_digest() -> None:
    """A and B share a name, B and C share pixels: a leak from A to C is a leak."""
    shown = picture(9)
    items = [
        item("a", "train", picture(10), "1.2.3", "uid"),
        item("b", "valid", shown, "1.2.3", "uid"),
        item("c", "test", FLIPS["vflip"](shown)),
        item("d", "test", picture(11)),
    ]

    groups = leakage.group_by_source(items)

    assert groups[:3] == [min(entry.digest for entry in items[:3])] * 3
    assert groups[3] == items[3].digest


def test_the_groups_do_not_depend_on_the_order_of_the_images() -> None:
    """The source's name goes into the dataset's digest."""
    pictures = [picture(seed) for seed in range(20, 30)]
    items = [item(f"{n}", "train", gray) for n, gray in enumerate(pictures)]
    items += [item(f"{n}-copy", "test", FLIPS["hflip"](gray)) for n, gray in enumerate(pictures)]

    forward = dict(zip((entry.digest for entry in items), leakage.group_by_source(items), strict=True))
    backward = dict(zip((entry.digest for entry in items[::-1]), leakage.group_by_source(items[::-1]), strict=True))

    assert forward == backward
    assert len(set(forward.values())) == 10


def test_sources_read_like_a_list_of_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also digests that end in zeros, which numpy takes for padding."""
    digests = ["ab" * 30 + "0000", "00" * 32, "ab" * 32, "ab" * 30 + "0000"]

    groups = leakage.group_by_source(SourceItem(digest, "train", None, "numeric", None) for digest in digests)

    assert list(groups) == groups[:] == [groups[i] for i in range(4)] == digests
    assert groups.sizes.tolist() == [2, 1, 1, 2]
    assert groups.numbers[0] == groups.numbers[3]


def test_many_copies_of_one_image_between_others_are_one_source() -> None:
    """A corpus that is mostly augmented copies: they are compared once, and do not hide what lies between them."""
    shown, other = picture(3), picture(4)
    items = [item("first", "train", other), *(item(f"{n}", "train", shown) for n in range(600))]
    items += [item("second", "test", FLIPS["hflip"](other)), item("last", "test", FLIPS["vflip"](shown))]

    groups = leakage.group_by_source(items)

    assert len(set(groups)) == 2
    assert groups[0] == groups[601]
    assert groups[1] == groups[602]
    assert sorted(set(groups.sizes.tolist())) == [2, 601]


def test_no_images_have_no_sources() -> None:
    """An export whose only split was dropped still goes through."""
    assert list(leakage.group_by_source([])) == []
    assert leakage.leakage_table([], []) == {"pairs": {}}


def test_clean_means_no_source_in_any_other_split() -> None:
    """Twins inside one split are no leak; twins across two splits make both unclean, in training too."""
    splits = ["train", "train", "test", "valid"]
    groups = ["x", "y", "x", "z"]

    assert leakage.clean_flags(splits, groups).tolist() == [False, True, False, True]


def test_the_leakage_table_counts_images_and_pairs() -> None:
    """One source with two train, one valid and two test images, computed by hand."""
    splits = ["train", "train", "valid", "test", "test", "test"]

    table = leakage.leakage_table(splits, ["s", "s", "s", "s", "s", "alone"])

    assert table["test"] == {"images": 3, "shared_with_train": 2, "shared_with_any": 2, "clean": 1}
    assert table["valid"] == {"images": 1, "shared_with_train": 1, "shared_with_any": 1, "clean": 0}
    assert table["pairs"] == {
        "test-test": 1,
        "test-train": 4,
        "test-valid": 2,
        "train-train": 1,
        "train-valid": 2,
    }


def test_the_real_export_has_the_sources_that_are_known(real_items: list[SourceItem]) -> None:
    """Its README says "no augmentation"; in truth 24 of 30 test images are flipped training images.

    The published numeric stems are the witness: pixels alone must reproduce exactly their 655 groups.
    """
    groups = leakage.group_by_source(real_items)
    table = leakage.leakage_table([entry.split for entry in real_items], groups)

    assert len(set(groups)) == 655
    assert len(set(zip(groups, (entry.stem_group for entry in real_items), strict=True))) == 655
    assert table["test"] == {"images": 30, "shared_with_train": 24, "shared_with_any": 28, "clean": 2}
    assert table["valid"] == {"images": 154, "shared_with_train": 131, "shared_with_any": 135, "clean": 19}
    assert sum(table["pairs"].values()) == 792


def test_the_most_alike_pairs_of_different_patients_stay_apart(real_items: list[SourceItem]) -> None:
    """Fifty pairs looked at by eye; they are the nearest of 803,754 and must keep a margin to the threshold."""
    listed = json.loads((Path(__file__).parent / "different_patients.json").read_text())["pairs"]
    by_digest = {entry.digest[:16]: entry.fingerprint or Fingerprint("") for entry in real_items}

    similarities = [leakage.compare(by_digest[a], by_digest[b]).similarity for a, b in listed]

    assert len(similarities) == 50
    assert max(similarities) < leakage.SAME_SOURCE_SIMILARITY - 0.1


def test_the_tables_find_what_comparing_every_pair_finds(real_items: list[SourceItem]) -> None:
    """The candidate search may only save time: on real images it must lose none of the 792 pairs' connections."""
    prints = [entry.fingerprint or Fingerprint("") for entry in real_items[:400]]
    vectors = leakage._unit_vectors(np.stack([entry.coefficients() for entry in prints]))
    exhaustive = {
        (i, j)
        for i in range(len(prints) - 1)
        for j in i
        + 1
        + np.flatnonzero(
            leakage._similarities(np.broadcast_to(vectors[i], vectors[i + 1 :].shape), vectors[i + 1 :]).max(axis=0)
            >= leakage.SAME_SOURCE_SIMILARITY
        )
    }

    found = leakage.pixel_pairs(prints)

    assert len(exhaustive) > 50
    assert {(int(i), int(j)) for i, j in found} <= exhaustive
    joined = leakage._components(len(prints), found)
    assert all(joined[i] == joined[j] for i, j in exhaustive)


def test_a_corpus_of_ten_thousand_copies_of_one_image_stays_linear() -> None:
    """The worst case of any pairwise search: 50 million true pairs must be connected, not listed."""
    code = leakage.fingerprint(picture(12)).coefficients()
    generator = np.random.default_rng(0)
    prints = [
        Fingerprint(_code(np.clip(code + generator.integers(-1, 2, code.shape), -127, 127))) for _ in range(10_000)
    ]
    items = [SourceItem(f"{n:064x}", "train", None, "numeric", value) for n, value in enumerate(prints)]

    started = time.perf_counter()
    groups = leakage.group_by_source(items)

    assert set(groups) == {items[0].digest}
    assert time.perf_counter() - started < 60


def _code(coefficients: NDArray[np.integer]) -> str:
    return base64.b64encode(coefficients.astype(np.int8).tobytes()).decode()
