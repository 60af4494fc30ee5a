"""Are new X-rays like those that a model was trained on? Picture, labels and scores, with a known rate of false alarms.

A source counts once, whatever images it has: copies would make chance look certain. Pictures and scores are compared by
the Kolmogorov-Smirnov test, the share of sources that show a class by Fisher's exact one; Holm's correction holds the
chance of any false alarm at 5 % for all properties together (simulated: docs/log.md). With tens of thousands of sources
everything differs a little, so an alarm also needs a difference that is worth looking at.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa

from dentsight_pipeline.data.splits import images_file, read_split, read_splits, read_stored
from dentsight_pipeline.documents.detections import DETECTIONS
from dentsight_pipeline.documents.drift import Drift, Shift
from dentsight_pipeline.documents.names import Asset

if TYPE_CHECKING:
    from dentsight_pipeline.data.image_properties import ImageProperties
    from dentsight_pipeline.documents.annotations import Split
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

ALARM = 0.05
"""Chance of any false alarm, all properties together."""
LEAST_DISTANCE = 0.1
"""Kolmogorov-Smirnov distance under which nothing alarms."""
LEAST_RATIO = 1.25
"""How many times as often a class must be there, or be absent, to alarm."""
FEWEST = 20
"""Sources with a known value below which a property is not compared."""

Key = tuple[str, str]
"""Kind and name of a property."""


@dataclass(frozen=True)
class Sample:
    """Some X-rays; I images.

    Attributes:
        name: What it is called.
        images: [I] their sha256.
        sources: [I] their sources.
        columns: [I] of each property; NaN where nothing is known. Of a class 1 where it is, 0 where it is not.
    """

    name: str
    images: np.ndarray
    sources: np.ndarray
    columns: Mapping[Key, np.ndarray]

    def without(self, images: Collection[str]) -> Sample:
        """Those whose bytes are not among these."""
        kept = ~np.isin(self.images, list(images)) if images else np.ones(len(self.images), bool)
        columns = {key: values[kept] for key, values in self.columns.items()}
        return replace(self, images=self.images[kept], sources=self.sources[kept], columns=columns)

    def by_source(self, key: Key) -> np.ndarray:
        """One number for each source with a known one: the mean, of a class whether any image shows it."""
        values = self.columns.get(key, np.full(len(self.images), np.nan))
        known = np.isfinite(values)
        _, rows = np.unique(self.sources[known], return_inverse=True)
        means = np.bincount(rows, values[known]) / np.maximum(np.bincount(rows), 1)
        return (means > 0).astype(float) if key[0] == "class" else means

    @property
    def n_sources(self) -> int:
        """Sources with a picture."""
        return len(self.by_source(("image", "width")))


def drift_between(new: Sample, known: Sample, all_known: Collection[str] = ()) -> Drift:
    """What differs between new X-rays and known ones.

    Args:
        new: The new ones.
        known: Those that a model was trained on.
        all_known: Sha256 of images that are not new: those of `known`, and of its other splits.
    """
    fresh = new.without({*known.images.tolist(), *all_known})
    shifts, missing = [], {}
    for key in dict.fromkeys((*known.columns, *fresh.columns)):
        before, after = known.by_source(key), fresh.by_source(key)
        if min(len(before), len(after)) < FEWEST:
            missing[key[1]] = f"known of {len(before)} known and {len(after)} new sources; {FEWEST} of each are needed"
        else:
            shifts.append(_shift(key, before, after))
    shifts = _corrected(shifts)
    return Drift(
        given=new.name,
        against=known.name,
        sources=fresh.n_sources,
        known_sources=known.n_sources,
        images_known=len(new.images) - len(fresh.images),
        drifted=any(shift.alarm for shift in shifts),
        shifts=tuple(shifts),
        not_measured=missing,
    )


def _shift(key: Key, before: np.ndarray, after: np.ndarray) -> Shift:
    """One property; whether it alarms is decided for all of them together."""
    from scipy import stats

    if key[0] == "class":
        counts = [[int(own.sum()), int((1 - own).sum())] for own in (before, after)]
        exact: Any = stats.fisher_exact(counts)
        p, middle = float(exact.pvalue), (float(before.mean()), float(after.mean()))
        distance = middle[1] - middle[0]
    else:
        found: Any = stats.ks_2samp(before, after, method="asymp")
        p, middle = float(found.pvalue), (float(np.median(before)), float(np.median(after)))
        distance = float(found.statistic)
    told = {"before": middle[0], "after": middle[1], "distance": distance, "p": p, "p_holm": p, "alarm": False}
    return Shift(kind=key[0], name=key[1], **told)  # pyright: ignore[reportArgumentType]


def _corrected(shifts: list[Shift]) -> list[Shift]:
    """The least likely first, with Holm's correction and the alarms."""
    ordered = sorted(shifts, key=lambda own: own.p)
    corrected = [p or 0.0 for p in holm([shift.p for shift in ordered])]  # each has a chance
    return [
        msgspec.structs.replace(shift, p_holm=p, alarm=p <= ALARM and _is_worth_a_look(shift))
        for shift, p in zip(ordered, corrected, strict=True)
    ]


def holm(chances: Sequence[float | None]) -> list[float | None]:
    """Chances corrected so that the smallest is below α by chance in no more than α of all reports (Holm 1979)."""
    asked = [place for place, chance in enumerate(chances) if chance is not None]
    corrected: list[float | None] = [None] * len(chances)
    least = 0.0
    for rank, place in enumerate(sorted(asked, key=lambda at: chances[at] or 0.0)):
        least = max(least, min(1.0, (chances[place] or 0.0) * (len(asked) - rank)))
        corrected[place] = least
    return corrected


def _is_worth_a_look(shift: Shift) -> bool:
    if shift.kind != "class":
        return shift.distance >= LEAST_DISTANCE
    low, high = sorted((shift.before, shift.after))
    return high >= LEAST_RATIO * low or (1 - low) >= LEAST_RATIO * (1 - high)


# Where samples come from ---------------------------------------------------------------------------------------------


def stored_sample(store: Store, subset: Manifest, predictions: Manifest | None = None) -> Sample:
    """The images of a subset, with the scores of a model where it predicted them."""
    from dentsight_pipeline.data.image_properties import properties_by_row

    splits = store.get_manifest(subset.inputs[Asset.NORMALIZED_SPLITS])
    parts = list(read_splits(store, subset).values())
    images = pa.concat_tables([split.images for split in parts])
    widths = images["width"].to_numpy().astype(float)
    columns = picture_columns(widths, properties_by_row(store, splits, images))
    each = [{**_classes(split), **_scores(store, split, predictions)} for split in parts]
    for key in dict.fromkeys(key for own in each for key in own):
        unknown = (np.full(len(split.images), np.nan) for split in parts)
        columns[key] = np.concatenate([own.get(key, nothing) for own, nothing in zip(each, unknown, strict=True)])
    digests, sources = (np.array(images[name].to_pylist(), dtype=np.str_) for name in ("sha256", "source_group"))
    return Sample(f"{subset.kind} {subset.digest[:12]}", digests, sources, columns)


def picture_columns(widths_px: np.ndarray, found: list[ImageProperties]) -> dict[Key, np.ndarray]:
    """What is known of pictures."""
    light = np.array(found, float).reshape(-1, 3).T
    named = zip(("width", "brightness", "contrast", "sharpness"), (widths_px, *light), strict=True)
    return {("image", name): values for name, values in named}


def _classes(split: Split) -> dict[Key, np.ndarray]:
    """Whether each image shows each class; NaN where nobody looked for it."""
    rows = np.searchsorted(split.image_ids, split.annotation_image_ids)
    shown = np.zeros(split.covered.shape)
    shown[rows, split.category_ids - 1] = 1
    shown[~split.covered] = np.nan
    return {("class", name): shown[:, k] for k, name in enumerate(split.classes)}


def _scores(store: Store, split: Split, predictions: Manifest | None) -> dict[Key, np.ndarray]:
    """The highest score of each image, and the sum of its scores."""
    path = f"{split.name}.arrow"
    if predictions is None or path not in predictions.entries:
        return {}
    table = read_stored(store, predictions, path, DETECTIONS)
    rows = np.searchsorted(split.image_ids, table["image_id"].to_numpy())
    scores, highest = table["score"].to_numpy(), np.zeros(len(split.images))
    np.maximum.at(highest, rows, scores)
    total = np.bincount(rows, scores, minlength=len(highest))
    return {("score", "highest score"): highest, ("score", "sum of scores"): total}


def training_data_of(store: Store, subset: Manifest, predictions: Manifest | None = None) -> tuple[Sample, set[str]]:
    """What a model learns from, and the sha256 of all images.

    Pictures and labels are those of the train split. Scores are those of all images that were predicted: none of them
    was learnt from.
    """
    every = stored_sample(store, subset, predictions)
    images = set(every.images.tolist())
    if images_file("train") not in subset.entries:
        return every, images
    learnt = np.isin(every.images, read_split(store, subset, "train").images["sha256"].to_pylist())
    columns = {key: np.where(learnt | (key[0] == "score"), own, np.nan) for key, own in every.columns.items()}
    return replace(every, name=f"the train split of {every.name}", columns=columns), images


def summary_of(found: Drift) -> str:
    """What shifted, in a sentence."""
    alarms = [f"{own.name} {own.before:.3g} → {own.after:.3g}" for own in found.shifts if own.alarm]
    if not found.shifts:
        return f"nothing can be said of {found.sources} new sources."
    chance = f"none of {len(found.shifts)} properties by more than chance"
    return f"{found.sources} new sources differ in {', '.join(alarms) or chance}."
