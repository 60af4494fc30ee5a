"""The reader study's state: who reads which image next, with or without the model, and what was said so far.

Everything follows from the study and its journal; the page holds nothing. A reader sees the image in turn, his own
marks on it and, in the aided arm, the model's findings: no file name, no label, nobody else's reading.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from dentsight_pipeline.documents.codec import Document, read
from dentsight_pipeline.documents.readers import MODEL_READER
from dentsight_pipeline.documents.study import (
    MODEL_FILE,
    READINGS_FILE,
    STUDY_FILE,
    Arm,
    Finished,
    Marked,
    ModelFinding,
    ModelFindings,
    Registered,
    Study,
    StudyEntry,
    StudyImage,
)
from dentsight_pipeline.documents.teeth import Box
from dentsight_pipeline.errors import ConfigurationError, IntegrityError
from dentsight_pipeline.pages.journal import Journal
from dentsight_pipeline.pages.server import Refused

DAY_SECONDS = 86400.0
FDI = tuple(f"{quadrant}{position}" for quadrant in "1234" for position in range(1, 9))
_RESERVED = "vx"
Mark = tuple[str, str, Box | None]
"""Tooth, condition, and the box where one was drawn."""


class Task(Document, frozen=True, kw_only=True):
    """One image in the turn of one reader."""

    session: int
    """From 0."""
    image: StudyImage
    """Which."""
    arm: Arm
    """With the model's findings or without."""


class Choice(Document, frozen=True, kw_only=True):
    """A condition as the page offers it."""

    name: str
    """The condition."""
    key: str
    """Its key; empty where no letter is left."""


class View(Document, frozen=True, kw_only=True):
    """What a reader's page shows."""

    title: str
    """Of the study."""
    reader: str
    """Who reads."""
    position: int
    """Images done, which is the number of the image in turn."""
    total: int
    """Images to read, all sessions together."""
    session: int
    """From 1."""
    sessions: int
    """How many."""
    state: str
    """`reading`, `washout` or `done`."""
    wait_hours: float
    """Until the second session; 0 outside a washout."""
    arm: Arm | None
    """Of the image in turn; None without one."""
    conditions: tuple[Choice, ...]
    """To mark."""
    marks: tuple[Mark, ...]
    """As marked so far."""
    model: tuple[ModelFinding, ...]
    """The model's findings, in the aided arm."""


@dataclass
class _Progress:
    """What the journal says of one reader."""

    finished: list[Finished] = field(default_factory=list)
    marks: dict[tuple[int, str], dict[tuple[str, str], Box | None]] = field(default_factory=dict)

    def tell(self, entry: Marked | Finished) -> None:
        """Take one entry in."""
        if isinstance(entry, Finished):
            self.finished.append(entry)
            return
        on_image = self.marks.setdefault((entry.session, entry.image), {})
        on_image.pop((entry.tooth, entry.condition), None)
        if entry.present:
            on_image[entry.tooth, entry.condition] = entry.bbox_xywh_px


class Reading:
    """A study that is open for reading."""

    def __init__(self, folder: Path) -> None:
        """Opens a study, registers it on the first time, and finds out where everybody is.

        Raises:
            ConfigurationError: No study, or it is not the one that was registered before the first reading.
            IntegrityError: An image or the model's findings are not those that the study names.
        """
        self.folder = folder
        self.study = read_study(folder)
        self.model = read_model(folder, self.study)
        _require_images(folder, self.study)
        self.journal: Journal[StudyEntry] = Journal(folder / READINGS_FILE, StudyEntry)
        try:
            self._register()
        except ConfigurationError:
            self.journal.close()
            raise
        told = _progress_of(self.journal.entries)
        self._progress = {name: told.get(name, _Progress()) for name in self.study.readers}

    def _register(self) -> None:
        if not self.journal.entries:
            self.journal.append(Registered(study=self.study.digest, at=time.time()))
        require_registered(self.journal.entries, self.study, self.folder)

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """The conditions with their keys: the first letter of each name that no other has taken."""
        taken = set(_RESERVED)
        made = []
        for name in self.study.conditions:
            key = next((letter for letter in name.lower() if letter.isalpha() and letter not in taken), "")
            taken.add(key)
            made.append(Choice(name=name, key=key))
        return tuple(made)

    def schedule(self, reader: str) -> tuple[Task, ...]:
        """The images of a reader in his order, all sessions one after the other."""
        return tuple(schedule_of(self.study, reader))

    def view(self, reader: str, now: float | None = None) -> View:
        """What a reader's page shows now."""
        done, task = self._turn(reader)
        wait = self._wait(reader, task, time.time() if now is None else now)
        shown = task if wait == 0 else None
        return View(
            title=self.study.title,
            reader=reader,
            position=done,
            total=len(self.study.images) * self.study.sessions,
            session=1 + (task.session if task else self.study.sessions - 1),
            sessions=self.study.sessions,
            state="done" if task is None else "washout" if wait else "reading",
            wait_hours=math.ceil(10 * wait / 3600) / 10,
            arm=shown.arm if shown else None,
            conditions=self.choices,
            marks=self._marks(reader, shown),
            model=self.model.get(shown.image.sha256, ()) if shown and shown.arm == "aided" else (),
        )

    def image(self, reader: str, position: int) -> Path:
        """The file of the image in turn.

        Raises:
            Refused: Another one was asked for.
        """
        return self.folder / self._task(reader, position).image.file

    def mark(
        self, reader: str, position: int, tooth: str, condition: str, present: bool, bbox: Box | None = None
    ) -> None:
        """Note one tooth × condition, with its box where one was drawn.

        Raises:
            Refused: The image is not in turn (any more), tooth or condition is none of the study's, or the box is none.
        """
        task = self._task(reader, position)
        if tooth not in FDI or condition not in self.study.conditions or (bbox and min(bbox[2:]) <= 0):
            raise Refused(400, f"{condition} on tooth {tooth} is no item of this study, or its box has no area.")
        self._say(
            Marked(
                reader=reader,
                session=task.session,
                image=task.image.sha256,
                tooth=tooth,
                condition=condition,
                present=present,
                bbox_xywh_px=bbox if present else None,
                at=time.time(),
            )
        )

    def finish(self, reader: str, position: int, readable: bool) -> None:
        """Close the image in turn; raises as `mark`."""
        task = self._task(reader, position)
        self._say(
            Finished(
                reader=reader,
                session=task.session,
                image=task.image.sha256,
                arm=task.arm,
                readable=readable,
                at=time.time(),
            )
        )

    def _say(self, entry: Marked | Finished) -> None:
        self.journal.append(entry)
        self._progress[entry.reader].tell(entry)

    def _turn(self, reader: str) -> tuple[int, Task | None]:
        """How many images are done, and which is next; None when all are."""
        done = len(self._progress[reader].finished)
        return done, next(iter(self.schedule(reader)[done:]), None)

    def _task(self, reader: str, position: int) -> Task:
        done, task = self._turn(reader)
        if task is None or position != done or self._wait(reader, task, time.time()):
            raise Refused(409, "This image is finished, perhaps in another window; the page shows the one in turn.")
        return task

    def _marks(self, reader: str, task: Task | None) -> tuple[Mark, ...]:
        marks = self._progress[reader].marks.get((task.session, task.image.sha256), {}) if task else {}
        return tuple((tooth, condition, bbox) for (tooth, condition), bbox in marks.items())

    def _wait(self, reader: str, task: Task | None, now: float) -> float:
        """Seconds until a later session may begin; 0 when it may."""
        before = [entry for entry in self._progress[reader].finished if task and entry.session < task.session]
        begun = task is not None and len(before) < len(self._progress[reader].finished)
        return max(0.0, before[-1].at + self.study.washout_days * DAY_SECONDS - now) if before and not begun else 0.0


def schedule_of(study: Study, reader: str) -> Iterator[Task]:
    """A reader's images in order; with a crossover each comes once in either arm, half of them aided in a session."""
    half = {image.sha256: number % 2 for number, image in enumerate(_shuffled(study, "halves"))}
    parity = study.readers.index(reader)
    for session in range(study.sessions):
        for image in _shuffled(study, f"{reader}\n{session}"):
            aided = study.design == "crossover" and (half[image.sha256] + session + parity) % 2 == 1
            yield Task(session=session, image=image, arm="aided" if aided else "unaided")


def _shuffled(study: Study, purpose: str) -> list[StudyImage]:
    """The images in an order that nobody can foresee, and everybody can compute again."""
    seed = hashlib.sha256(f"{study.digest}\n{study.seed}\n{purpose}".encode()).digest()
    order = np.random.default_rng(int.from_bytes(seed[:16])).permutation(len(study.images))
    return [study.images[place] for place in order]


def read_study(folder: Path) -> Study:
    """The study in a folder.

    Raises:
        ConfigurationError: There is none.
        DocumentError: It is of another form.
    """
    path = folder / STUDY_FILE
    if not path.is_file():
        raise ConfigurationError(
            f"There is no study in {folder} (no {STUDY_FILE}). Make one with `dentsight read {folder} --plan REF "
            "--reader NAME --reader NAME`, REF being a condition subset, a dataset key or findings by tooth."
        )
    return meant(read(path.read_bytes(), Study, path))


def meant(study: Study) -> Study:
    """The study, when it is one that can be read.

    Raises:
        ConfigurationError: Nobody reads it, something is named twice, or the design asks for a model that is not there.
    """
    named = {
        "reader": study.readers,
        "condition": study.conditions,
        "image": [image.sha256 for image in study.images],
    }
    problems = [] if study.readers else ["nobody is named to read it (--reader NAME, once for each)"]
    problems += ["a reader's name is empty or longer than 80 letters"] * (not all(map(_fits, study.readers)))
    problems += ["its title is empty or longer than 200 letters"] * (not _fits(study.title, 200))
    problems += [f"a {what} is named twice" for what, names in named.items() if len({*names}) < len(names)]
    if MODEL_READER in study.readers:
        problems.append(f"a reader is named {MODEL_READER!r}, which is the model's own name")
    if study.design == "crossover" and not study.model_sha256:
        problems.append("a crossover shows the model's findings, and there are none (plan it from findings by tooth)")
    if problems:
        raise ConfigurationError(f"The study {study.title!r} cannot be read: {'; '.join(problems)}.")
    return study


def _fits(name: str, most: int = 80) -> bool:
    """Whether a name has the length that `study.json` allows, and says something."""
    return bool(name.strip()) and len(name) <= most


def read_model(folder: Path, study: Study) -> ModelFindings:
    """The model's findings in a study's folder, none where it has none.

    Raises:
        IntegrityError: They are not those that the study names.
    """
    if not study.model_sha256:
        return {}
    path = folder / MODEL_FILE
    data = path.read_bytes() if path.is_file() else b""
    _require_bytes(str(path), data, study.model_sha256)
    return read(data, ModelFindings, path)


def require_registered(entries: list[StudyEntry], study: Study, folder: Path) -> None:
    """Refuses a study that is not the one whose digest stands in the journal's first line.

    Raises:
        ConfigurationError: It is another.
    """
    first = entries[0] if entries else None
    if not isinstance(first, Registered) or first.study != study.digest:
        was = first.study[:12] if isinstance(first, Registered) else "nothing"
        raise ConfigurationError(
            f"The study in {folder} was registered as {was} before the first reading, and is {study.digest[:12]} now. "
            f"Bring back its {STUDY_FILE}, or put the changed study into a new folder."
        )


def _require_images(folder: Path, study: Study) -> None:
    for image in study.images:
        path = folder / image.file
        _require_bytes(str(path), path.read_bytes() if path.is_file() else b"", image.sha256)


def _require_bytes(what: str, data: bytes, sha256: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise IntegrityError(what, sha256, found if data else None, "Bring back the file that the study names.")


def marks_of(entries: list[StudyEntry]) -> Mapping[tuple[str, int, str], Mapping[tuple[str, str], Box | None]]:
    """Tooth × condition, with the box where one was drawn, by reader, session and image: the last word on each."""
    return {
        (reader, session, image): marks
        for reader, own in _progress_of(entries).items()
        for (session, image), marks in own.marks.items()
    }


def _progress_of(entries: list[StudyEntry]) -> dict[str, _Progress]:
    progress: dict[str, _Progress] = {}
    for entry in entries:
        if not isinstance(entry, Registered):
            progress.setdefault(entry.reader, _Progress()).tell(entry)
    return progress
