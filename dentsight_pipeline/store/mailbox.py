"""Where an orchestrator and a worker elsewhere meet: one folder of the store for each piece of work, and nothing else.

    jobs/<key>/order.json    what is to be done            written by the orchestrator
    jobs/<key>/note.json     who was asked                 written by the orchestrator, by compare-and-swap
    jobs/<key>/beat.json     the worker lives              written by the worker, by compare-and-swap
    jobs/<key>/events/…      events, a few seconds a piece written by the worker; `output/…` likewise
    jobs/<key>/state.json    the resumable state           written by the worker; its bytes are `state/<sha256>`
    jobs/<key>/end.json      result or refusal             written by the worker

A worker that starts takes the beat over. The one before finds that out at its next beat and ends: a node that was given
up for lost can come back without harm. `gc` leaves all of it alone.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace

from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.remote import Beat, End, Heard, Note, Order, OrderHead, State
from dentsight_pipeline.errors import IntegrityError, RefConflictError
from dentsight_pipeline.store.files import write_whole
from dentsight_pipeline.store.names import check_ref
from dentsight_pipeline.store.objects import Store

T = TypeVar("T")
PIECE_BYTES = 4 << 20
"""Longest piece of events or output."""
FILES = {"events": "events.jsonl", "output": "output.log"}
"""File by kind of piece, in the worker's folder and in the copy of who hears it."""


class Mailbox:
    """One piece of work in the store.

    Args:
        store: The store.
        key: The work's name, e.g. `fit-<subset>-<recipe>-<code version>`.
    """

    def __init__(self, store: Store, key: str) -> None:
        self.store, self.key = store, check_ref(key)
        self._folder = f"jobs/{key}"

    def order_head(self) -> OrderHead | None:
        """What can be read of an order of another release too."""
        return self._read("order.json", OrderHead)

    def order(self) -> Order | None:
        """What is to be done."""
        return self._read("order.json", Order)

    def give(self, order: Order) -> None:
        """Set the order, and take away how an earlier one ended, unless that is this very one's result."""
        end = self.end(order.digest)
        if end is None or end.result is None:
            self.store.blobs.remove([self._at("end.json")])
        self.store.blobs.write(self._at("order.json"), codec.write(order))

    def note(self) -> Note | None:
        """Who was asked."""
        return self._read("note.json", Note)

    def set_note(self, note: Note, before: Note | None) -> bool:
        """Set the note if it is still what it was; False when another orchestrator was quicker."""
        return self.store.blobs.swap(self._at("note.json"), codec.write(note), _bytes(before))

    def beat(self) -> Beat | None:
        """The worker's last beat."""
        return self._read("beat.json", Beat)

    def state(self) -> State | None:
        """The newest resumable checkpoint."""
        return self._read("state.json", State)

    def end(self, order: str) -> End | None:
        """How this very work ended, or None."""
        end = self._read("end.json", End)
        return end if end is not None and end.order == order else None

    def set_end(self, end: End) -> None:
        """Say how it ended."""
        self.store.blobs.write(self._at("end.json"), codec.write(end))

    def clean(self) -> None:
        """Remove what nobody needs once the product is in the store."""
        doomed = ("events/", "output/", "state/")
        self.store.blobs.remove([key for name in doomed for key, _ in self.store.blobs.scan(self._at(name))])
        self.store.blobs.remove([self._at("state.json")])

    def remove(self) -> None:
        """Remove everything."""
        self.store.blobs.remove([key for key, _ in self.store.blobs.scan(f"{self._folder}/")])

    # The state -------------------------------------------------------------------------------------------------------

    def save_newest(self, folder: Path, beyond: int) -> int:
        """Keep the newest checkpoint of a training's folder if it is of a step beyond; gives the step that is kept."""
        newest = max((folder / "checkpoints").glob("step-*"), default=None)
        step = int(newest.name.removeprefix("step-")) if newest else 0
        return step if newest is not None and step > beyond and self.save_state(step, newest) else beyond

    def save_state(self, step: int, folder: Path) -> bool:
        """Keep a checkpoint's folder; bytes that are kept already do not travel. False when it went away meanwhile."""
        before = self.state()
        try:
            whole = folder.stat().st_ino
            files = {path.name: self._put(path) for path in sorted(folder.iterdir())}
            if folder.stat().st_ino != whole:  # saved once more meanwhile: a mixture of both would fit neither's sums
                return False
        except FileNotFoundError:  # the training removes all but its last two
            return False
        self.store.blobs.write(self._at("state.json"), codec.write(State(step=step, files=files)))
        doomed = set(before.files.values()) - set(files.values()) if before else set()
        self.store.blobs.remove([self._at(f"state/{digest}") for digest in doomed])
        return True

    def fetch_state(self, folder: Path) -> int:
        """Lay the newest checkpoint into a training's folder, unless one as new is there; gives its step or 0."""
        state = self.state()
        place = folder / "checkpoints" / f"step-{state.step if state else 0:08d}"
        if state is None or any(path.name >= place.name for path in place.parent.glob("step-*")):
            return state.step if state else 0
        writing = place.with_name(f".writing-{place.name}")
        shutil.rmtree(writing, ignore_errors=True)
        writing.mkdir(parents=True)
        for name, digest in state.files.items():
            (writing / name).write_bytes(self._bytes_of(digest))
        writing.rename(place)
        return state.step

    def _put(self, path: Path) -> str:
        """Written from memory: the local copies that a bucket's store keeps would fill a small disk."""
        data = path.read_bytes()
        digest = sha256(data).hexdigest()
        key, blobs = self._at(f"state/{digest}"), self.store.blobs
        found = blobs.stat(key)
        if found is None or found.size != len(data):
            blobs.write(key, data)
        return digest

    def _bytes_of(self, digest: str) -> bytes:
        data = self.store.blobs.read(self._at(f"state/{digest}"))
        found = None if data is None else sha256(data).hexdigest()
        if data is None or found != digest:
            what = f"The saved state of {self.key} in {self.store.uri}"
            raise IntegrityError(what, digest, found, f"Remove {self._folder}/state.json to train from the start.")
        return data

    def _at(self, name: str) -> str:
        return f"{self._folder}/{name}"

    def _read(self, name: str, kind: type[T]) -> T | None:
        data = self.store.blobs.read(self._at(name))
        return None if data is None else codec.read(data, kind, f"{self._folder}/{name} of {self.store.uri}")

    # Pieces ----------------------------------------------------------------------------------------------------------

    def write_piece(self, kind: str, number: int, data: bytes) -> None:
        """Send one piece of events or output."""
        self.store.blobs.write(self._at(f"{kind}/{number:08d}"), data)

    def read_piece(self, kind: str, number: int) -> bytes:
        """One piece; empty when it was cleaned away."""
        return self.store.blobs.read(self._at(f"{kind}/{number:08d}")) or b""


class Sender:
    """The worker's end: beats, and sends what its files have got more of.

    Args:
        box: The mailbox; its beat is taken over at once.
        files: File by kind of piece; they are read from their start.
        host: Of this worker, for people.
    """

    def __init__(self, box: Mailbox, files: Mapping[str, Path], host: str) -> None:
        self.box, self.files = box, files
        self._sent = dict.fromkeys(files, 0)
        before = box.beat() or Beat(token="")
        self._beat = replace(before, token=uuid.uuid4().hex, host=host, count=before.count + 1)
        box.store.blobs.overwrite(box._at("beat.json"), codec.write(self._beat))

    def send(self) -> None:
        """One beat, with whatever is new.

        Raises:
            RefConflictError: Another worker has taken over.
            StorageError: The store does not answer; the same will be sent next time.
        """
        new = {kind: self._new(kind, path) for kind, path in self.files.items()}
        for kind, data in new.items():
            if data:
                self.box.write_piece(kind, getattr(self._beat, kind), data)
        counts: dict[str, Any] = {kind: getattr(self._beat, kind) + bool(data) for kind, data in new.items()}
        self._swap(replace(self._beat, count=self._beat.count + 1, **counts))
        for kind, data in new.items():
            self._sent[kind] += len(data)

    def _new(self, kind: str, path: Path) -> bytes:
        """Whole lines of a file that were not sent yet."""
        if not path.exists():
            return b""
        with path.open("rb") as file:
            file.seek(self._sent[kind])
            data = file.read(PIECE_BYTES)
        return data[: data.rfind(b"\n") + 1] if len(data) < PIECE_BYTES else data

    def _swap(self, beat: Beat) -> None:
        if not self.box.store.blobs.swap(self.box._at("beat.json"), codec.write(beat), codec.write(self._beat)):
            raise RefConflictError(self.box._at("beat.json"), self._beat.token, "of a worker that has taken over")
        self._beat = beat


class Receiver:
    """The orchestrator's end: copies pieces to files of its own, each exactly once, also over its own death.

    Args:
        box: The mailbox.
        folder: Where `events.jsonl` and `output.log` are kept.
    """

    def __init__(self, box: Mailbox, folder: Path) -> None:
        self.box, self.folder, self._note = box, folder, folder / "heard.json"
        folder.mkdir(parents=True, exist_ok=True)
        known = self._note.read_bytes() if self._note.exists() else b""
        heard = codec.read(known, Heard, self._note) if known else Heard()
        self._pieces, self._sizes = dict(heard.pieces), dict(heard.sizes)

    def receive(self) -> Beat | None:
        """Copy what is new; gives the worker's last beat."""
        beat = self.box.beat()
        if beat is not None and any(getattr(beat, kind) > self._pieces.get(kind, 0) for kind in FILES):
            for kind in FILES:
                self._copy(kind, getattr(beat, kind))
            write_whole(self._note, codec.write(Heard(pieces=self._pieces, sizes=self._sizes)))
        return beat

    def _copy(self, kind: str, until: int) -> None:
        """Append pieces; bytes that were copied and not noted before a kill are written again, alike."""
        path = self.folder / FILES[kind]
        path.touch()
        with path.open("r+b") as file:
            file.seek(self._sizes.get(kind, 0))
            for number in range(self._pieces.get(kind, 0), until):
                file.write(self.box.read_piece(kind, number))
            self._sizes[kind] = file.tell()
        self._pieces[kind] = until


def _bytes(document: object | None) -> bytes | None:
    return None if document is None else codec.write(document)
