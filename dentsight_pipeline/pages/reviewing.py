"""The review's state: which suspect is next, what was decided, and the corrections that follow.

As in a reader study everything follows from the queue and its journal; undo is one more line, nothing is taken out.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from dentsight_pipeline.data.corrections import corrected, publish_corrections
from dentsight_pipeline.data.splits import read_splits
from dentsight_pipeline.documents.codec import Document, pretty, read, write
from dentsight_pipeline.documents.names import Asset
from dentsight_pipeline.documents.review import (
    CORRECTIONS_FILE,
    DECISIONS_FILE,
    QUEUE_FILE,
    Answered,
    Correction,
    Corrections,
    Decision,
    Opened,
    ReviewEntry,
    ReviewQueue,
    Suspect,
    Verb,
)
from dentsight_pipeline.documents.teeth import Box
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.evaluation.suspects import as_box, labelled_images
from dentsight_pipeline.intake.datasets import dataset_keys, recall_dataset
from dentsight_pipeline.lineage.environment import environment
from dentsight_pipeline.pages.journal import Journal, read_journal
from dentsight_pipeline.pages.server import Refused
from dentsight_pipeline.store import log
from dentsight_pipeline.store.objects import Store

_JUDGED = ("accept", "edit", "reject")
_RECENT = 20
"""So many decisions tell whether it is worth going on."""


class Neighbour(Document, frozen=True, kw_only=True):
    """A label beside the suspect, drawn faintly."""

    name: str
    """Its class."""
    bbox: Box
    """Where."""


class ReviewView(Document, frozen=True, kw_only=True):
    """What the page shows."""

    position: int
    """Place of the suspect shown, from 0; `total` when all are decided."""
    total: int
    """Suspects in the queue."""
    decided: int
    """How many have a decision."""
    counts: dict[str, int]
    """Decisions by verb."""
    recent: tuple[int, int]
    """Of the last decisions, at most 20: how many found a label wrong, and how many there are."""
    suspect: Suspect | None
    """The one shown."""
    neighbours: tuple[Neighbour, ...]
    """The labels of its image."""
    classes: tuple[str, ...]
    """What a label may be called."""


class Review:
    """A queue that is open for review."""

    def __init__(self, folder: Path, neighbours: dict[str, tuple[Neighbour, ...]]) -> None:
        """Opens the queue in a folder and finds out what is decided.

        Args:
            folder: With `review.json`.
            neighbours: The labels of each image, by its digest.

        Raises:
            ConfigurationError: The decisions in the folder are about another queue.
        """
        self.folder, self.neighbours = folder, neighbours
        self.queue = read((folder / QUEUE_FILE).read_bytes(), ReviewQueue, folder / QUEUE_FILE)
        self.journal: Journal[ReviewEntry] = Journal(folder / DECISIONS_FILE, ReviewEntry)
        if not self.journal.entries:
            self.journal.append(Opened(queue=self.queue.digest, at=time.time()))
        first = self.journal.entries[0]
        if not isinstance(first, Opened) or first.queue != self.queue.digest:
            self.journal.close()
            raise ConfigurationError(
                f"The decisions in {folder} are about another queue than its {QUEUE_FILE}. Review into a new folder."
            )

    @property
    def decisions(self) -> dict[int, Decision]:
        """The last word on each suspect, in the order in which they were decided."""
        return decided(self.journal.entries, self.queue)

    def view(self) -> ReviewView:
        """The first suspect that nobody has decided."""
        decisions = self.decisions
        total = len(self.queue.suspects)
        position = next((place for place in range(total) if place not in decisions), total)
        suspect = self.queue.suspects[position] if position < total else None
        return ReviewView(
            position=position,
            total=total,
            decided=len(decisions),
            counts=Counter(decision.verb for decision in decisions.values()),
            recent=_wrong_among(list(decisions.values())[-_RECENT:]),
            suspect=suspect,
            neighbours=self.neighbours.get(suspect.image, ()) if suspect else (),
            classes=self.queue.classes,
        )

    def decide(
        self, who: str, position: int, verb: Verb, class_name: str | None = None, bbox: Box | None = None
    ) -> None:
        """Note a decision.

        Raises:
            Refused: Another suspect is in turn, or the edit is none.
        """
        if verb == "undo":
            self._undo(who)
            return
        if position != self.view().position or position >= len(self.queue.suspects):
            raise Refused(409, "This suspect is decided, perhaps in another window; the page shows the one in turn.")
        if verb == "edit" and (class_name not in self.queue.classes or bbox is None or min(bbox[2:]) <= 0):
            raise Refused(400, "An edit needs a class of this dataset and a box with width and height.")
        self.journal.append(
            Decision(who=who, suspect=position, verb=verb, class_name=class_name, bbox=bbox, at=time.time())
        )

    def _undo(self, who: str) -> None:
        last = next((place for place, own in reversed(self.decisions.items()) if own.verb != "answer"), None)
        if last is None:
            raise Refused(409, "There is nothing to take back.")
        self.journal.append(Decision(who=who, suspect=last, verb="undo", at=time.time()))


def _wrong_among(decisions: Sequence[Decision]) -> tuple[int, int]:
    judged = [decision.verb in ("accept", "edit") for decision in decisions if decision.verb in _JUDGED]
    return sum(judged), len(judged)


def is_open(decision: Decision | None) -> bool:
    """Whether a suspect is still to be decided; a skipped one is."""
    return decision is None or decision.verb == "skip"


def decided(entries: Sequence[ReviewEntry], queue: ReviewQueue) -> dict[int, Decision]:
    """The last word on each suspect, the newest last."""
    standing: dict[int, Decision] = {}
    for entry in entries:
        if isinstance(entry, Answered):
            on_image = [place for place, suspect in enumerate(queue.suspects) if suspect.image == entry.image]
            standing = {place: own for place, own in standing.items() if place not in on_image}
            closed = (place for place in on_image if place not in entry.open)
            standing |= {place: Decision(who=entry.who, suspect=place, verb="answer", at=entry.at) for place in closed}
        elif isinstance(entry, Decision):
            standing.pop(entry.suspect, None)
            if entry.verb != "undo":
                standing[entry.suspect] = entry
    return standing


def corrections_of(queue: ReviewQueue, entries: Sequence[ReviewEntry]) -> Corrections:
    """What answers of other tools change, and then what accepted and edited suspects do, in the order of the queue."""
    decisions = decided(entries, queue)
    answers = {entry.image: entry.corrections for entry in entries if isinstance(entry, Answered)}
    made = [correction for own in answers.values() for correction in own]
    made += [
        correction
        for place, suspect in enumerate(queue.suspects)
        if place in decisions
        for correction in _correction(suspect, decisions[place])
    ]
    return Corrections(splits=queue.splits, queue=queue.digest, corrections=tuple(made))


def _correction(suspect: Suspect, decision: Decision) -> Iterator[Correction]:
    after = after_decision(suspect, decision)
    if after is not None:
        missed = suspect.annotation is None
        yield Correction(
            image=suspect.image,
            annotation=suspect.annotation,
            before_class=None if missed else suspect.class_name,
            before_bbox=None if missed else suspect.bbox,
            after_class=after[0],
            after_bbox=after[1],
            who=decision.who,
            at=decision.at,
            why=suspect.why,
        )


def after_decision(suspect: Suspect, decision: Decision) -> tuple[str | None, Box | None] | None:
    """Name and place that are right; two None: the label goes; None: nothing changes, or nothing better is known."""
    if decision.verb not in ("accept", "edit"):
        return None
    if decision.verb == "edit":
        return decision.class_name, decision.bbox
    if suspect.kind == "spurious":
        return None, None
    if suspect.kind == "missed":
        return (suspect.class_name, suspect.bbox) if suspect.class_name else None
    if suspect.proposed_class is None and suspect.proposed_bbox is None:
        return None
    return suspect.proposed_class or suspect.class_name, suspect.proposed_bbox or suspect.bbox


def write_corrections(store: Store, folder: Path, dataset: str = "") -> list[Path]:
    """`corrections.json` from what was decided in a folder, and a COCO file of each split with them.

    Args:
        store: Where the reviewed splits are.
        folder: Of the review.
        dataset: A dataset key whose normalisation reads the corrections from now on; empty: none.

    Returns:
        The files.

    Raises:
        ConfigurationError: There is no review in the folder, no such dataset key, or one whose data has none of the
            images that the review is about.
    """
    if not (folder / DECISIONS_FILE).is_file():
        raise ConfigurationError(f"Nothing was decided in {folder}. Review first, or give the review's folder (--out).")
    queue = read((folder / QUEUE_FILE).read_bytes(), ReviewQueue, folder / QUEUE_FILE)
    made = corrections_of(queue, read_journal(folder / DECISIONS_FILE, ReviewEntry))
    if dataset:
        _refuse_other_data(store, queue, made, dataset)
    splits = corrected(read_splits(store, store.get_manifest(queue.splits)), made.corrections).splits
    paths = {folder / CORRECTIONS_FILE: pretty(made)}
    paths |= {folder / f"{name}.coco.json": write(split.to_coco()) for name, split in splits.items()}
    for path, data in paths.items():
        path.write_bytes(data)
    if dataset:
        _publish(store, made, dataset)
    return list(paths)


def _refuse_other_data(store: Store, queue: ReviewQueue, made: Corrections, dataset: str) -> None:
    """Refuse a key whose data no correction can reach; a later version has some of the images, and may be meant."""
    known = recall_dataset(store, dataset)
    if known is None:
        raise ConfigurationError(f"There is no dataset {dataset!r}. Give a key that `dentsight run` made (--apply).")
    about = {one.image for one in made.corrections} or {suspect.image for suspect in queue.suspects}
    exports = [store.get_manifest(export.raw_export) for export in known.exports]
    if about.isdisjoint(entry.sha256 for raw in exports for entry in raw.entries.values()):
        raise ConfigurationError(
            f"{dataset!r} means other data (read from {known.location}): none of the {len(about)} X-rays that this "
            f"review is about is in it. {_reviewed(store, queue)} was reviewed. Give its key, or one of a later "
            "version of it (--apply)."
        )


def _reviewed(store: Store, queue: ReviewQueue) -> str:
    """What a queue is of, in words: the keys that mean its data, else the digest of its splits."""
    raw = store.get_manifest(queue.splits).inputs[Asset.RAW_EXPORT]
    meanings = {key: recall_dataset(store, key) for key in dataset_keys(store)}
    keys = [repr(key) for key, meant in meanings.items() if meant and meant.raw_export == raw]
    return " or ".join(keys) or f"Splits {queue.splits[:12]}"


def _publish(store: Store, made: Corrections, dataset: str) -> None:
    """Store the corrections, and note how they came about, as an asset's step does."""
    manifest = publish_corrections(store, made, dataset)
    record = {"asset": Asset.LABEL_CORRECTIONS.value, "inputs": dict(manifest.inputs), "started": round(time.time(), 3)}
    log.append(store, manifest.digest, {**record, **environment()})


def neighbours_of(store: Store, queue: ReviewQueue) -> dict[str, tuple[Neighbour, ...]]:
    """The labels of every image of a queue."""
    wanted = {suspect.image for suspect in queue.suspects}
    images = labelled_images(read_splits(store, store.get_manifest(queue.splits)).values())
    return {
        image.image: tuple(
            Neighbour(name=name, bbox=as_box(box)) for name, box in zip(image.names, image.boxes, strict=True)
        )
        for image in images
        if image.image in wanted
    }


def keep_queue(folder: Path, queue: ReviewQueue) -> None:
    """Puts the queue into a folder; one that is there stays, since decisions name its places.

    Raises:
        ConfigurationError: Another queue is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / QUEUE_FILE
    if not path.is_file():
        path.write_bytes(write(queue))
    elif read(path.read_bytes(), ReviewQueue, path).digest != queue.digest:
        raise ConfigurationError(f"{folder} holds the review of another queue. Give a new folder (--out).")
