"""Corrections of labels, put onto normalised splits: found again by image, name and place, never by number.

The same export in its next version has other numbers, and may contain a correction already: that is recognised, and
so is one whose label has become a third thing. Raw bytes are never touched; decisions are the business of
`pages/reviewing.py`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from msgspec.structs import replace

from dentsight_pipeline.data.agreement import pairwise_iou
from dentsight_pipeline.data.normalise import split_counts
from dentsight_pipeline.data.splits import read_splits, split_tables, store_tables
from dentsight_pipeline.documents.annotations import ANNOTATIONS, Split, table_of
from dentsight_pipeline.documents.codec import pretty, write
from dentsight_pipeline.documents.facts import LabelCorrectionsFacts, SplitsFacts
from dentsight_pipeline.documents.names import Asset, Kind
from dentsight_pipeline.documents.review import (
    CORRECTIONS_FILE,
    OUTCOMES_FILE,
    Correction,
    Corrections,
    corrections_ref,
)
from dentsight_pipeline.documents.teeth import Box

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

SAME_BOX_IOU = 0.9
"""From this overlap on a box is the one that was reviewed: Roboflow floors x and y anew in every version."""
CORRECTED = "(corrected)"
"""The raw name of a label that a person made or renamed: it is none of the export's."""
Outcome = Literal["applied", "contained", "conflict", "not looked for", "no such image"]


@dataclass(frozen=True)
class Corrected:
    """Splits with corrections, and what became of each correction.

    Attributes:
        splits: By name.
        outcomes: In the order of the corrections. `contained`: the labels say so already; `conflict`: the label
            that was reviewed is not there (any more), and neither is what it was to become; `not looked for`: it would
            add a class that does not count as looked for in the image.
    """

    splits: dict[str, Split]
    outcomes: tuple[Outcome, ...]


def corrected(splits: Mapping[str, Split], corrections: Sequence[Correction]) -> Corrected:
    """Put corrections onto splits.

    Args:
        splits: By name; one image is in one of them.
        corrections: In the order in which they apply.

    Returns:
        The splits; labels that change have no polygon any more, as nobody drew one, and new ids from the largest on.
    """
    by_image: dict[str, list[int]] = defaultdict(list)
    for number, correction in enumerate(corrections):
        by_image[correction.image].append(number)
    outcomes: list[Outcome] = ["no such image"] * len(corrections)
    free = 1 + max((int(max(split.annotations["id"].to_numpy(), default=0)) for split in splits.values()), default=0)
    made = {}
    for name, split in splits.items():
        rows = split.annotations.to_pylist()
        of_image = [rows[a:b] for a, b in pairwise(split.offsets)]
        for place, image in enumerate(split.images["sha256"].to_pylist()):
            for number in by_image.get(image, ()):
                outcomes[number] = _apply(of_image[place], split, place, corrections[number], free)
                free += outcomes[number] == "applied"
        labels = table_of([*chain.from_iterable(of_image)], ANNOTATIONS)
        made[name] = Split(name, split.classes, split.images, labels)
    return Corrected(made, tuple(outcomes))


def _apply(rows: list[dict[str, Any]], split: Split, place: int, correction: Correction, free: int) -> Outcome:
    """Change the rows of one image by one correction; what it adds has the largest id and stands last."""
    name, bbox = correction.after_class, correction.after_bbox and _inside(split, place, correction.after_bbox)
    before, after = (
        _find(rows, split, *told) for told in ((correction.before_class, correction.before_bbox), (name, bbox))
    )
    if after is not None and before is not None and before is not after:  # two labels were one finding
        rows.remove(before)
        return "applied"
    if after is not None or (name is None and before is None):
        return "contained"
    if (before is None and correction.before_class is not None) or (name is not None and bbox is None):
        return "conflict"
    if name is not None and not split.covered[place, split.classes.index(name)]:
        return "not looked for"
    if before is not None:
        rows.remove(before)
    if name is not None and bbox is not None:
        rows.append(_row(split, place, name, bbox, before, free))
    return "applied"


def _inside(split: Split, place: int, bbox: Box) -> Box | None:
    """The part of a box that lies in its image; None where nothing does."""
    size = [split.images[side][place].as_py() for side in ("width", "height")]
    low, high = np.clip(bbox[:2], 0, size), np.clip(np.add(bbox[:2], bbox[2:]), 0, size)
    x, y, w, h = (*low.tolist(), *(high - low).tolist())
    return (x, y, w, h) if min(w, h) > 0 else None


def _find(rows: Iterable[dict[str, Any]], split: Split, name: str | None, bbox: Box | None) -> dict[str, Any] | None:
    """The label of a name in a place."""
    if name is None or bbox is None:
        return None
    same = [row for row in rows if split.classes[row["category_id"] - 1] == name]
    iou = pairwise_iou(np.array([bbox]), np.array([row["bbox"] for row in same]).reshape(-1, 4))[0]
    return same[int(iou.argmax())] if len(same) and iou.max() >= SAME_BOX_IOU else None


def _row(split: Split, place: int, name: str, bbox: Box, before: Mapping[str, Any] | None, free: int) -> dict[str, Any]:
    """A label in a new place keeps what its source called it; one of another name, or a new one, is a person's."""
    number = split.classes.index(name) + 1
    person = {"raw_name": CORRECTED, "loose": False}
    told = before if before is not None and before["category_id"] == number else person
    box = {"bbox": list(bbox), "area": bbox[2] * bbox[3], "segmentation": [], **{key: told[key] for key in person}}
    return {**box, "id": free, "image_id": int(split.image_ids[place]), "category_id": number}


def publish_corrections(store: Store, made: Corrections, dataset: str) -> Manifest:
    """Store corrections, and note them for the dataset whose labels they are to change.

    Those of earlier reviews of the dataset stay and come first: normalisation begins with the raw export every time.

    Args:
        store: Where the reviewed splits are.
        made: What people decided.
        dataset: A dataset key; its next materialisation reads them.
    """
    from dentsight_pipeline.store.content import build, read_document

    noted = store.read_ref(corrections_ref(dataset))
    if noted:
        before = store.get_manifest(noted["corrections"])
        earlier = read_document(store, before, CORRECTIONS_FILE, Corrections).corrections
        made = replace(made, corrections=(*earlier, *(one for one in made.corrections if one not in earlier)))
    people = tuple(sorted({correction.who for correction in made.corrections}))
    facts = LabelCorrectionsFacts(queue=made.queue, corrections=len(made.corrections), people=people)
    files = {CORRECTIONS_FILE: pretty(made)}
    manifest = build(store, Kind.LABEL_CORRECTIONS, files, {Asset.NORMALIZED_SPLITS: made.splits}, facts)
    store.put_manifest(manifest)
    store.write_ref(corrections_ref(dataset), {"corrections": manifest.digest})
    return manifest


def apply_stored(store: Store, splits: Manifest, corrections: Manifest) -> Manifest:
    """Normalised splits with corrections, published; the images and all else stay, and each outcome is listed."""
    from dentsight_pipeline.store.content import build, read_document

    said = read_document(store, corrections, CORRECTIONS_FILE, Corrections).corrections
    made = corrected(read_splits(store, splits), said)
    facts = replace(
        splits.facts_as(SplitsFacts),
        splits={name: split_counts(split) for name, split in made.splits.items()},
        corrections=dict(sorted(Counter(made.outcomes).items())),
    )
    outcomes = [{"outcome": outcome, "correction": one} for outcome, one in zip(made.outcomes, said, strict=True)]
    files = {**splits.entries, **store_tables(store, split_tables(made.splits.values()))}
    files[OUTCOMES_FILE] = write(outcomes)  # pyright: ignore[reportArgumentType]
    inputs = {**splits.inputs, Asset.LABEL_CORRECTIONS: corrections.digest}
    manifest = build(store, Kind.NORMALIZED_SPLITS, files, inputs, facts)
    if not store.has_manifest(manifest.digest):
        store.put_manifest(manifest)
    return manifest


def unfit(store: Store, splits: Manifest) -> list[dict[str, str]]:
    """The corrections that corrected splits neither took nor held already, as rows for a person."""
    from dentsight_pipeline.store.content import read_json

    return [
        {
            "outcome": row["outcome"],
            "image": row["correction"]["image"][:12],
            "was": row["correction"]["before_class"] or "nothing",
            "becomes": row["correction"]["after_class"] or "nothing",
            "who": row["correction"]["who"],
            "why": row["correction"]["why"],
        }
        for row in read_json(store, splits, OUTCOMES_FILE)
        if row["outcome"] not in ("applied", "contained")
    ]
