"""Does a model do as well on every kind of X-ray? AP and AP50 of each class by width, light, sharpness and dentition.

Which group is the worst, and whether that means anything, is decided in `release/subgroups.py`. AP of a rare finding is
lower at the same skill, and groups differ in how often it is there: a low group is a question, not an answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from dentsight_pipeline.data.ontology import TEETH
from dentsight_pipeline.documents.evaluation import NOT_KNOWN, Subgroup
from dentsight_pipeline.evaluation.figures import Counted
from dentsight_pipeline.evaluation.parts import figures_of

if TYPE_CHECKING:
    from dentsight_pipeline.documents.annotations import Split
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

FAMILY_SOURCES = 30
"""Sources whose pictures have one width that make it a family of its own."""
FULL = 28
"""Teeth from which on a mouth is fully dentate: third molars may be absent."""
_QUARTERS = {"brightness": ("darkest", "brightest"), "sharpness": ("least sharp", "sharpest")}
_NOT_LOOKED_AT = "not measured: COCO files alone hold no pictures and no other labels"
_NOT_MEASURED = "not measured: of no image is it known"


@dataclass(frozen=True)
class Traits:
    """What is known of images beside the labels that are scored; I images.

    Attributes:
        brightness: [I] 0 to 1; NaN = unknown.
        sharpness: [I]; NaN = unknown.
        teeth: [I] annotated teeth, −1 where they were not looked for.
        mixed: [I] 1 where a tooth bud or a deciduous tooth was annotated, 0 where not, −1 where nobody looked.
    """

    brightness: np.ndarray
    sharpness: np.ndarray
    teeth: np.ndarray
    mixed: np.ndarray

    def subset(self, images: np.ndarray) -> Traits:
        """Those of the images where the mask `images` [I] is true."""
        return Traits(*(getattr(self, column.name)[images] for column in fields(self)))


def stored_traits(store: Store, subset: Manifest, name: str) -> Traits | None:
    """The traits of the images of one split of a subset, from the pictures and from the labels of all classes; None
    where the splits that it was taken from lack it."""
    from dentsight_pipeline.data.image_properties import properties_by_row
    from dentsight_pipeline.data.splits import read_split, split_names
    from dentsight_pipeline.documents.names import Asset

    splits = store.get_manifest(subset.inputs[Asset.NORMALIZED_SPLITS])
    if name not in split_names(splits):
        return None
    whole, wanted = read_split(store, splits, name), read_split(store, subset, name)
    rows = np.searchsorted(whole.image_ids, wanted.image_ids)
    found = properties_by_row(store, splits, wanted.images)
    light = np.array([(own.brightness, own.sharpness) for own in found], float).reshape(-1, 2)
    return Traits(light[:, 0], light[:, 1], _teeth(whole)[rows], _mixed(whole)[rows])


def _teeth(split: Split) -> np.ndarray:
    """[I] distinct numbers of teeth annotated; −1 where not every tooth was looked for."""
    known = np.asarray(split.covered[:, : len(TEETH)].all(axis=1))
    is_tooth = split.category_ids <= len(TEETH)
    rows = np.searchsorted(split.image_ids, split.annotation_image_ids[is_tooth])
    pairs = np.unique(np.stack([rows, split.category_ids[is_tooth]]), axis=1)
    return np.where(known, np.bincount(pairs[0], minlength=len(known)), -1)


def _mixed(split: Split) -> np.ndarray:
    """[I] whether a mixed dentition is suspected; −1 where nobody looked for tooth buds and nothing shows one."""
    bud = split.classes.index("tooth-bud") if "tooth-bud" in split.classes else None
    if bud is None:
        return np.full(len(split.images), -1)
    named = pc.match_substring(split.annotations["raw_name"].cast("string"), "decid", ignore_case=True)  # pyright: ignore[reportAttributeAccessIssue]
    shown = (split.category_ids == bud + 1) | named.to_numpy(zero_copy_only=False).astype(bool)
    rows = np.searchsorted(split.image_ids, split.annotation_image_ids[shown])
    return np.where(np.bincount(rows, minlength=len(split.images)) > 0, 1, np.where(split.covered[:, bud], 0, -1))


def by_subgroup(
    of: Counted, traits: Traits | None, widths_px: np.ndarray, groups: np.ndarray, resamples: int, seed: int
) -> tuple[tuple[Subgroup, ...], dict[str, str]]:
    """The figures of each group of the population, and of axes without groups why there are none.

    Args:
        of: The population.
        traits: Of all images [I]; None where nobody looked at them.
        widths_px: [I] of the pictures; NaN = unknown.
        groups: [I] source groups.
        resamples: Bootstrap resamples.
        seed: Bootstrap seed.
    """
    labels = {"width": _families(widths_px[of.images], groups[of.images]), **_labels(traits, of.images)}
    found, missing = [], {}
    for axis, names in labels.items():
        if len({*names.tolist()}) < 2:
            missing[axis] = _why_alone(*names[:1])
            continue
        for group, mask in _masks(names, of.images):
            found.append(Subgroup(axis=axis, group=group, **figures_of(of, mask, groups, resamples, seed)))
    return tuple(found), missing


def _why_alone(group: str = "") -> str:
    """Why an axis whose images are all in one group, or in none, has no groups."""
    if group in ("", NOT_KNOWN):
        return _NOT_MEASURED if group else _NOT_LOOKED_AT
    return f"all images are alike: {group}"


def _masks(names: np.ndarray, images: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Each group with the mask of its images among all; the unknown ones last."""
    for group in sorted({*names.tolist()}, key=lambda name: (name == NOT_KNOWN, name)):
        mask = images.copy()
        mask[images] = names == group
        yield group, mask


def _labels(traits: Traits | None, images: np.ndarray) -> Mapping[str, np.ndarray]:
    """The group of each image of the population, by axis; empty where no image was looked at."""
    if traits is None:
        return dict.fromkeys((*_QUARTERS, "dentition", "mixed dentition"), np.zeros(0, str))
    own = traits.subset(images)
    kinds = np.select(
        [own.teeth < 0, own.teeth == 0, own.teeth < FULL],
        [NOT_KNOWN, "edentulous: no tooth", f"partly dentate: 1 to {FULL - 1} teeth"],
        f"fully dentate: {FULL} teeth or more",
    )
    mixed = np.select([own.mixed < 0, own.mixed > 0], [NOT_KNOWN, "suspected: a bud or a deciduous tooth"], "no sign")
    quarters = {axis: _quarters(getattr(own, axis), *ends) for axis, ends in _QUARTERS.items()}
    return {**quarters, "dentition": kinds, "mixed dentition": mixed}


def _quarters(values: np.ndarray, least: str, most: str) -> np.ndarray:
    """Quarters of the population by a number, named by where they end."""
    known = np.isfinite(values)
    if not known.any():
        return np.full(len(values), NOT_KNOWN)
    cuts = np.quantile(values[known], (0.25, 0.5, 0.75))
    a, b, c = (f"{cut:.3g}" for cut in cuts)
    names = np.array(
        [f"1 of 4, {least}: to {a}", f"2 of 4: {a} to {b}", f"3 of 4: {b} to {c}", f"4 of 4, {most}: over {c}"]
    )
    return np.where(known, names[np.searchsorted(cuts, np.where(known, values, 0.0))], NOT_KNOWN)


def _families(widths_px: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Pictures of one width that enough sources have are a family; the others are one group."""
    names = np.where(np.isfinite(widths_px), "other widths", NOT_KNOWN).astype(object)
    for width in np.unique(widths_px[np.isfinite(widths_px)]):
        own = widths_px == width
        if len(np.unique(groups[own])) >= FAMILY_SOURCES:
            names[own] = f"{width:.0f} px wide"
    return names.astype(str)
