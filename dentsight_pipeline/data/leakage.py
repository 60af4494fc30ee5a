"""Which images come from the same source: by name, and by pixels under the four flips of a rectangle.

A corpus that was flipped, re-encoded and then split at random shows its model the test patients during training. This
module belongs to ingestion: it makes a small fingerprint of every image, groups the images by source, says which ones
are *clean* (share no source with any other split), and counts what the published splits share. It reads no annotation
and moves no image.

How pixels are compared. An image is resized to 64×64 by area (by halves first) and normalised locally (the mean is
subtracted and the standard deviation divided out under a Gaussian of 2 cells), so that brightness, contrast and the
hard edge of a mask or a letterbox do not decide; then transformed by the DCT-II. Its lowest 24×24 coefficients, without
the mean and weighted by the square root of their radial frequency, are scaled to unit variance. A mirrored image has
the same coefficients with the signs of the odd columns changed, an upside-down one with those of the odd rows; so one
fingerprint serves all four transforms, and two images are compared by their best cosine over them.

The threshold `SAME_SOURCE_SIMILARITY` lies between two measured distributions (1,269 real panoramic X-rays of 655
sources, masked to an ellipse; each figure is the smallest or greatest over all pairs and the four transforms):

| pairs | similarity |
|---|---|
| same source as published (792 pairs, flipped and re-encoded) | ≥ 0.9999 |
| copy of JPEG quality 30 · 10 · with noise of 10 grey levels · blurred by 2 px | ≥ 0.999 · 0.998 · 0.997 · 0.999 |
| copy 25 grey levels brighter · darker · contrast × 0.75 · × 1.2, all clipped | ≥ 0.989 · 0.996 · 0.999 · 0.960 |
| copy with gamma 0.8 · 1.25 · local equalisation (CLAHE 2) | ≥ 0.997 · 0.996 · 0.974 |
| copy turned by 180°, squeezed to 0.5 × 0.37, quality 60 | ≥ 0.999 |
| different patients (803,754 pairs): median · 99.99 % · the most alike of all | 0.11 · 0.71 · 0.805 |
| different patients, content dimmed to 35 % · 20 % inside the mask: the most alike | ≤ 0.892 · 0.917 |
| different patients, only the inner part without the mask: the most alike | ≤ 0.569 |

The 50 most alike pairs of different patients and 50 random same-source pairs across splits were looked at: all are what
the threshold says. Known limit: the same mask *and* the same wide letterbox around all images brought two patients to
0.951 in a simulation; without a mask, the letterbox alone to 0.777. A translation by 1 % of the width or a rotation by
two degrees gives another picture: a copy augmented like that is found by its name, not by its pixels.
"""

from __future__ import annotations

import base64
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Literal, overload

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from threadpoolctl import ThreadpoolController

from dentsight_pipeline.errors import DataError

Transform = Literal["identity", "hflip", "vflip", "rot180"]
StemKind = Literal["uid", "dated", "numeric", "other", "versioned"]

TRANSFORMS: tuple[Transform, ...] = ("identity", "hflip", "vflip", "rot180")
SAME_SOURCE_SIMILARITY = 0.93
"""Two images at or above this similarity have one source; the module's docstring has the measured distributions."""
STEM_KINDS_THAT_PROVE: frozenset[StemKind] = frozenset({"uid", "dated", "other", "versioned"})
"""Kinds of file-name stem that prove a common source alone. Numeric ones (`18_png`) collide between patients, unless
the export says that it holds several versions of each image (`versioned`)."""

_GRID = 64  # side of the square that every image is resized to, pixels
_FREQUENCIES = 24  # lowest frequencies kept along each axis
_NEIGHBOURHOOD = 2.0  # standard deviation of the Gaussian of the local normalisation, cells of the grid
_QUANTUM = 24  # int8 units for one standard deviation; ±127 is 5.3 of them
_BLANK_CONTRAST = 1.0  # grey levels of standard deviation below which an image has no picture to compare

_BANDS = 128  # independent hash tables
_BAND_BITS = 20  # bits that must agree in one of them
_DIFFERING_BITS = 14  # of the other 44 that may differ: 5 do at the threshold, 22 by chance
_BANDS_AT_ONCE = 16  # tables whose keys are made in one pass over the fingerprints
_COEFFICIENTS = _FREQUENCIES**2 - 1  # of a fingerprint, one byte each
_DIGEST_BYTES, _KEY_BYTES = 32, 16  # of what an image is known by, and of what is only compared
_IMAGES_AT_ONCE = 512  # fingerprints that are floats at a time: 575 bytes become 2,300
_WINDOW = 24  # neighbours that an image is compared with inside one bucket of one table


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What an image looks like, in 768 characters of text.

    Attributes:
        code: Base64 of 575 int8 DCT coefficients (see the module's docstring); empty for an image without contrast,
            which resembles nothing.
    """

    code: str

    def to_json(self) -> str:
        """The text that `from_json` reads."""
        return self.code

    @classmethod
    def from_json(cls, code: str) -> Fingerprint:
        """Read a fingerprint back.

        Raises:
            DataError: The text is not a fingerprint of this version.
        """
        try:
            length = len(base64.b64decode(code, validate=True))
        except ValueError as error:
            raise DataError(
                f"A stored fingerprint is no base64 ({error}). Delete the cached fingerprints and ingest again."
            ) from error
        if length not in (0, _COEFFICIENTS):
            raise DataError(
                f"A stored fingerprint has {length} coefficients; this version makes {_COEFFICIENTS}. "
                "Delete the cached fingerprints and ingest again."
            )
        return cls(code)

    @property
    def is_blank(self) -> bool:
        """Whether the image has no contrast, so that its pixels prove nothing."""
        return not self.code

    def coefficients(self) -> NDArray[np.int8]:
        """The coefficients, shape [575], row-major over (vertical, horizontal) frequency without the mean."""
        return np.frombuffer(base64.b64decode(self.code), dtype=np.int8)


@dataclass(frozen=True, slots=True)
class Match:
    """The best of the four comparisons of two fingerprints.

    Attributes:
        transform: What turns either image into the other (all four are their own inverse).
        similarity: Cosine of the coefficients under that transform, -1 to 1.
    """

    transform: Transform
    similarity: float

    @property
    def is_same_source(self) -> bool:
        """Whether the two images show the same pixels."""
        return self.similarity >= SAME_SOURCE_SIMILARITY


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One image as the grouping sees it.

    Attributes:
        digest: sha256 of the image's bytes.
        split: `train`, `valid`, `test`, …
        stem_group: Anything equal for equal file-name stems (a keyed hash of the stem, never the stem itself), or
            None when the name says nothing.
        stem_kind: What kind of stem it is; see `STEM_KINDS_THAT_PROVE`.
        fingerprint: The image's fingerprint, or None when pixels are not to be compared.
    """

    digest: str
    split: str
    stem_group: str | None
    stem_kind: StemKind
    fingerprint: Fingerprint | None


def fingerprint(gray: NDArray[np.uint8]) -> Fingerprint:
    """Make the fingerprint of a grayscale image.

    Args:
        gray: Pixels, uint8, shape [height, width].

    Raises:
        DataError: The array is not a grayscale image.
    """
    if gray.ndim != 2 or 0 in gray.shape:
        raise DataError(f"A fingerprint needs grayscale pixels [height, width]; got an array of shape {gray.shape}.")
    small = _halved(gray).astype(np.float32)
    grid = cv2.resize(small, (_GRID, _GRID), interpolation=cv2.INTER_AREA).astype(np.float64)
    if grid.std() < _BLANK_CONTRAST:
        return Fingerprint("")
    basis, weight = _dct_basis()
    spectrum = ((basis @ _locally_normalised(grid) @ basis.T) * weight).ravel()[1:]  # [575]
    scaled = np.rint(spectrum * (_QUANTUM / spectrum.std()))
    return Fingerprint(base64.b64encode(np.clip(scaled, -127, 127).astype(np.int8).tobytes()).decode())


def _halved(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image by half and half again while both sides keep two pixels for each cell, as a JPEG decoder reduces."""
    while min(gray.shape) >= 4 * _GRID:
        height, width = (side + side % 2 for side in gray.shape)
        even = cv2.copyMakeBorder(gray, 0, height - gray.shape[0], 0, width - gray.shape[1], cv2.BORDER_REPLICATE)
        gray = np.asarray(cv2.resize(even, (width // 2, height // 2), interpolation=cv2.INTER_AREA), np.uint8)
    return gray


def compare(first: Fingerprint, second: Fingerprint) -> Match:
    """Compare two images under the four transforms; a blank one resembles nothing (similarity 0)."""
    if first.is_blank or second.is_blank:
        return Match("identity", 0.0)
    vectors = _unit_vectors(np.stack([first.coefficients(), second.coefficients()]))
    by_transform = _similarities(vectors[:1], vectors[1:])[:, 0]
    best = int(by_transform.argmax())
    return Match(TRANSFORMS[best], float(by_transform[best]))


class Sources(Sequence[str]):
    """The source of each of many images: the smallest digest among the images that share it.

    Attributes:
        numbers: Equal for images of one source, int64, shape [images].
    """

    def __init__(self, digests: NDArray[np.bytes_], numbers: NDArray[np.int64]) -> None:
        self._digests, self.numbers = digests, numbers

    @property
    def sizes(self) -> NDArray[np.int64]:
        """For each image, how many images share its source, itself included, shape [images]."""
        return np.bincount(self.numbers)[self.numbers]

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[str]:
        return map(self._name, self.numbers)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return list(map(self._name, self.numbers[index]))
        return self._name(self.numbers[index])

    def _name(self, number: int) -> str:
        return bytes(self._digests[number]).ljust(_DIGEST_BYTES, b"\0").hex()  # numpy drops zeros at the end


def group_by_source(items: Iterable[SourceItem]) -> Sources:
    """Give every image the name of its source: the smallest digest among the images that share it.

    Two images share a source when they have the same bytes, the same stem of a kind that proves it, or the same pixels
    under one of the four transforms; and so does whatever is connected by such pairs. A numeric stem adds nothing to
    what the pixels say.

    Pixels are compared through `pixel_pairs`, in time that grows with the number of images, not of pairs.

    Args:
        items: Read once.

    Returns:
        One digest for each item, in the items' order.
    """
    digests, stems = bytearray(), bytearray()

    def noted(item: SourceItem) -> Fingerprint:
        proves = item.stem_group is not None and item.stem_kind in STEM_KINDS_THAT_PROVE
        stem = f"stem {item.stem_group}" if proves else f"image {len(digests)}"
        digests.extend(bytes.fromhex(item.digest))
        stems.extend(_key(stem.encode()))
        return item.fingerprint or Fingerprint("")

    by_pixels = pixel_pairs(map(noted, items))
    names, rank, by_digest = _equal(digests, _DIGEST_BYTES)
    _, _, by_stem = _equal(stems, _KEY_BYTES)
    source = _components(len(rank), np.concatenate([by_digest, by_stem, by_pixels]))
    smallest = np.full(len(rank), len(rank))
    np.minimum.at(smallest, source, rank)
    return Sources(names, smallest[source])


def _key(data: bytes) -> bytes:
    return blake2b(data, digest_size=_KEY_BYTES).digest()


def _equal(keys: bytearray, size: int) -> tuple[NDArray[np.bytes_], NDArray[np.int64], NDArray[np.int64]]:
    """Finds equal keys of `size` bytes.

    Returns:
        The distinct keys in order, the position of each item's key among them, and the index pairs, shape [pairs, 2],
        that connect each item to the first with its key, where that is another.
    """
    found = np.frombuffer(keys, dtype=f"S{size}")
    distinct, first, position = np.unique(found, return_index=True, return_inverse=True)
    pairs = np.stack([first[position], np.arange(len(position))], axis=1)
    return distinct, position, pairs[pairs[:, 0] != pairs[:, 1]]


def pixel_pairs(fingerprints: Iterable[Fingerprint]) -> NDArray[np.int64]:
    """Find pairs that connect the images with the same pixels under one of the four transforms.

    Candidates come from 128 hash tables. The key of a table is 20 signs of random projections (Charikar, "Similarity
    estimation techniques from rounding algorithms", STOC 2002), each over coefficients that change their sign together,
    so that a flip changes the key by a known mask; the smallest of an image's four keys is the same for all its flips.
    Inside a bucket, images are ordered by 44 further signs and compared by them with their 24 nearest in that order;
    so the work is at most 128 × 24 comparisons of 64 bits an image, whatever the corpus. The candidates are verified
    exactly: a pair that is returned has a similarity of at least `SAME_SOURCE_SIMILARITY`. Measured share of pairs that
    become candidates: all at 0.97 and above, 99.8 % at 0.95, 98.5 % at the threshold itself.

    Returns:
        Index pairs, int64, shape [pairs, 2], first < second: enough to connect all images of a source, not all pairs
        of them (a thousand copies of one image are half a million pairs, and a few thousand tell the same).
    """
    looks = bytearray()
    with_picture = array("q")
    with tempfile.TemporaryFile(prefix="dentsight-fingerprints-") as file:
        for index, item in enumerate(fingerprints):
            if not item.is_blank:
                coefficients = item.coefficients().tobytes()
                file.write(coefficients)
                looks.extend(_key(coefficients))
                with_picture.append(index)
        file.flush()
        where = np.asarray(with_picture, dtype=np.int64)
        _, _, alike = _equal(looks, _KEY_BYTES)
        different = np.setdiff1d(np.arange(len(where)), alike[:, 1])
        pairs = [where[alike]]
        if len(different) > 1:
            pairs.append(where[different[_connecting(_Codes(file.fileno(), different))]])
    return np.sort(np.concatenate(pairs), axis=1)


class _Codes:
    """The coefficients of many fingerprints in a file, int8, shape [n, 575]; read as unit vectors, a few at a time.

    Args:
        descriptor: The file's.
        chosen: Which of its rows, shape [n].
    """

    def __init__(self, descriptor: int, chosen: NDArray[np.int64]) -> None:
        self._file, self._chosen = descriptor, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        chosen = self._chosen[rows]
        if isinstance(rows, slice) and chosen[-1] - chosen[0] < 2 * len(chosen):  # neighbours: one read for all
            return _unit_vectors(self._read(int(chosen[0]), int(chosen[-1] - chosen[0] + 1))[chosen - chosen[0]])
        return _unit_vectors(np.concatenate([self._read(int(row), 1) for row in chosen] or [self._read(0, 0)]))

    def _read(self, first: int, rows: int) -> NDArray[np.int8]:
        """Not mapped into memory, where the system counts the pages around each row to this process."""
        data = os.pread(self._file, rows * _COEFFICIENTS, first * _COEFFICIENTS)
        return np.frombuffer(data, dtype=np.int8).reshape(rows, _COEFFICIENTS)


def clean_flags(splits: Sequence[str], groups: ArrayLike) -> NDArray[np.bool_]:
    """Say for every image whether it shares no source with any *other* split.

    Args:
        splits: The split of each image.
        groups: Its source, equal for images of one: `Sources.numbers`, or any names.

    Returns:
        Shape [images].
    """
    _, split, _, counts = _counted(splits, groups)
    return _alone(split, counts)


def _alone(split: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which images' sources are in their own split alone, shape [images]; `counts` has the shape [images, splits]."""
    return counts.sum(axis=1) == counts[np.arange(len(split)), split]


def leakage_table(splits: Sequence[str], groups: ArrayLike) -> dict[str, dict[str, int]]:
    """Count what the splits share.

    Args:
        splits: The split of each image.
        groups: Its source, equal for images of one: `Sources.numbers`, or any names.

    Returns:
        A row for every split other than train: `images`, `shared_with_train`, `shared_with_any` (any other split),
        `clean`, all in images; and the row `pairs`: the pairs of images with one source by pair of splits, e.g.
        `{"test-train": 27, "train-train": 140}` (names in alphabetical order).
    """
    names, split, sources, counts = _counted(splits, groups)
    clean = _alone(split, counts)
    in_train = counts[:, names.index("train")] > 0 if "train" in names else np.zeros(len(split), dtype=bool)
    table: dict[str, dict[str, int]] = {}
    for number, name in enumerate(names):
        if name != "train":
            own = split == number
            table[name] = {
                "images": int(own.sum()),
                "shared_with_train": int((own & in_train).sum()),
                "shared_with_any": int((own & ~clean).sum()),
                "clean": int((own & clean).sum()),
            }
    table["pairs"] = _count_pairs(names, sources)
    return table


def _counted(
    splits: Sequence[str], groups: ArrayLike
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """What the splits share, counted.

    Returns:
        The splits' names in order; the position of each image's among them, shape [images]; how many images each source
        has in each split, shape [sources, splits]; and the same for the source of each image, shape [images, splits].
    """
    names = sorted(set(splits))
    split = np.fromiter(map(names.index, splits), dtype=np.int64, count=len(splits))
    distinct, source = np.unique(np.asarray(groups), return_inverse=True)
    sources = np.zeros((len(distinct), len(names)), dtype=np.int64)
    np.add.at(sources, (source, split), 1)
    return names, split, sources, sources[source]


def _count_pairs(names: Sequence[str], sources: NDArray[np.int64]) -> dict[str, int]:
    """Pairs of images with one source, by their two splits; `sources` has the shape [sources, splits]."""
    pairs = {
        f"{first}-{second}": int((sources[:, i] * (sources[:, j] - (i == j))).sum()) // (1 + (i == j))
        for i, first in enumerate(names)
        for j, second in enumerate(names)
        if i <= j
    }
    return {name: count for name, count in sorted(pairs.items()) if count}


def _locally_normalised(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Subtract the local mean and divide by the local standard deviation; flat neighbourhoods stay near 0."""

    def blurred(values: NDArray[np.float64]) -> NDArray[np.float64]:
        smooth = cv2.GaussianBlur(values, (0, 0), _NEIGHBOURHOOD, borderType=cv2.BORDER_REFLECT)
        return np.asarray(smooth, np.float64)

    centred = grid - blurred(grid)
    deviation = np.sqrt(blurred(centred**2))
    return centred / (deviation + 0.25 * deviation.mean() + 0.5)


@lru_cache(maxsize=1)
def _dct_basis() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The orthonormal DCT-II basis [24, 64] and the weight of each coefficient [24, 24]."""
    frequency = np.arange(_FREQUENCIES)
    basis = np.sqrt(2 / _GRID) * np.cos(np.pi * (np.arange(_GRID) + 0.5) * frequency[:, None] / _GRID)
    weight = np.sqrt(np.hypot(frequency[:, None], frequency))
    return basis, weight


@lru_cache(maxsize=1)
def _parities() -> NDArray[np.int64]:
    """For each coefficient its class, shape [575]: 2 × (odd vertical frequency) + (odd horizontal frequency)."""
    odd = np.arange(_FREQUENCIES) % 2
    return (2 * odd[:, None] + odd).ravel()[1:]


# How each class of coefficients changes its sign under each of TRANSFORMS; rows: transforms, columns: classes.
_SIGNS = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], dtype=np.float32)


def _unit_vectors(codes: NDArray[np.int8]) -> NDArray[np.float32]:
    """Coefficients of non-blank fingerprints, shape [n, 575], as unit vectors sorted by parity class."""
    vectors = codes.astype(np.float32)[:, np.argsort(_parities(), kind="stable")]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _class_slices() -> list[slice]:
    """Where each parity class lies in the vectors of `_unit_vectors`."""
    ends = np.cumsum(np.bincount(_parities(), minlength=4))
    return [slice(int(end - size), int(end)) for end, size in zip(ends, np.bincount(_parities()), strict=True)]


def _similarities(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosines of paired unit vectors under each transform, shape [4, pairs]."""
    products = first * second
    partial = np.stack([products[:, part].sum(axis=1) for part in _class_slices()])  # [4 classes, pairs]
    return _SIGNS @ partial


@lru_cache(maxsize=1)
def _threads() -> ThreadpoolController:
    """Finding the libraries costs more than all products of a small corpus."""
    return ThreadpoolController()


def _keys(codes: _Codes) -> Iterator[NDArray[np.uint64]]:
    """For each table the images' 64 sign bits, smallest over the four transforms; the leading bits are the bucket.

    An array holds until the next is asked for.
    """
    generator = np.random.default_rng(20240601)  # fixed: the same corpus always gives the same candidates
    classes = _class_slices()
    bit_values = np.uint64(1) << np.arange(63, -1, -1, dtype=np.uint64)
    class_of_bit = np.arange(64) % 4
    masks = [
        np.bitwise_or.reduce(np.where(signs[class_of_bit] < 0, bit_values, np.uint64(0))) for signs in _SIGNS
    ]  # the bits that each transform changes
    keys = np.empty((_BANDS_AT_ONCE, len(codes)), dtype=np.uint64)
    for _ in range(0, _BANDS, _BANDS_AT_ONCE):
        projections = [
            [generator.standard_normal((part.stop - part.start, 16), dtype=np.float32) for part in classes]
            for _ in range(_BANDS_AT_ONCE)
        ]
        with _threads().limit(limits=1, user_api="blas"):  # products this small only spin on several threads
            for start in range(0, len(codes), _IMAGES_AT_ONCE):
                vectors = codes[start : start + _IMAGES_AT_ONCE]
                bits = np.empty((len(vectors), 64), dtype=bool)
                for table, by_class in zip(keys, projections, strict=True):
                    for number, (part, projection) in enumerate(zip(classes, by_class, strict=True)):
                        bits[:, number::4] = (vectors[:, part] @ projection) > 0
                    signs = np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)
                    table[start : start + len(vectors)] = np.min([signs ^ mask for mask in masks], axis=0)
        yield from keys


def _candidates(codes: _Codes) -> Iterator[NDArray[np.int64]]:
    """For each table, the pairs worth verifying, in blocks of shape [pairs, 2]."""
    for keys in _keys(codes):
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        buckets = ordered >> np.uint64(64 - _BAND_BITS)
        for distance in range(1, min(_WINDOW, len(codes) - 1) + 1):
            together = np.flatnonzero(buckets[distance:] == buckets[:-distance])
            if not len(together):
                break  # no bucket holds more than `distance` images
            differing = np.bitwise_count(ordered[together] ^ ordered[together + distance])
            together = together[differing <= _DIFFERING_BITS]
            yield np.stack([order[together], order[together + distance]], axis=1)


def _connecting(codes: _Codes) -> NDArray[np.int64]:
    """The candidates that really are alike, without those that join what is joined already; shape [pairs, 2]."""
    source = np.arange(len(codes))
    pairs = np.empty((0, 2), dtype=np.int64)
    for block in _candidates(codes):
        block = block[source[block[:, 0]] != source[block[:, 1]]]
        alike = [part[_are_alike(codes, part)] for part in np.array_split(block, len(block) // _IMAGES_AT_ONCE + 1)]
        new = np.concatenate(alike)
        if len(new):
            pairs = np.concatenate([pairs, new])
            source = _components(len(codes), pairs)
    return pairs


def _are_alike(codes: _Codes, pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which pairs of images have the same pixels under one of the transforms."""
    return _similarities(codes[pairs[:, 0]], codes[pairs[:, 1]]).max(axis=0) >= SAME_SOURCE_SIMILARITY


def _components(count: int, edges: NDArray[np.int64]) -> NDArray[np.int32]:
    """The connected component of each of `count` nodes, shape [count]."""
    graph = coo_array((np.ones(len(edges), dtype=np.int8), (edges[:, 0], edges[:, 1])), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    return labels
