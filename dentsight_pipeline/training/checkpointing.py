"""Resumable checkpoints: folders that are there whole or not at all, verified before they are believed.

A checkpoint holds everything that the next step depends on: weights, moving average, optimiser, step (which fixes rates
and draws), every process's random states, head health, history, and the best weights so far. The last two are kept.

Tensors are safetensors; the only pickles are the random states, which are read with `weights_only=True`, so that a
checkpoint folder from elsewhere cannot run code.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.codec import Document
from dentsight_pipeline.errors import IntegrityError, StorageError

KEPT = 2
"""Checkpoints kept: the last, and the one before for when the last is damaged."""
SUMS = "SHA256SUMS.json"
STATE = "state.json"

T = TypeVar("T")


class RandomState(TypedDict):
    """The random states of one process."""

    torch: Tensor
    cuda: list[Tensor]
    """One a GPU."""
    python: tuple[int, Sequence[int], float | None]
    """Version, numbers and the next normal draw of `random.getstate`."""
    numpy: tuple[str, Sequence[int], int, int, float]
    """Algorithm, keys, position and the next normal draw of `numpy.random.get_state`."""


class CheckpointFolder:
    """The resumable checkpoints of one training.

    Args:
        folder: Holds one folder a checkpoint, `step-00000125`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, torch.Tensor]],
        state: Document,
        random_states: Sequence[RandomState],
        unchanged: Mapping[str, Path] | None = None,
    ) -> Path:
        """Writes a checkpoint and removes the ones before the last two.

        Args:
            step: Optimiser steps taken.
            tensors: Tensors by name, by file, e.g. {"model": {...}, "optimizer": {...}}.
            state: Everything that is no tensor.
            random_states: From `random_state`, one a process, in order.
            unchanged: Files by name whose bytes an earlier checkpoint already has; linked instead of written.

        Raises:
            StorageError: The disk refused; nothing half-written has a checkpoint's name, the last checkpoint stays.
        """
        place, writing = self._place(step), self.folder / f".writing-{step:08d}"
        try:
            self._clear(writing)
            for name, content in tensors.items():
                whole = {key: value.detach().contiguous() for key, value in content.items()}
                save_file(whole, writing / _file(name))
            for name, source in (unchanged or {}).items():
                _link(source, writing / _file(name))
            for process, states in enumerate(random_states):
                torch.save(dict(states), writing / f"random-{process}.pt")
            (writing / STATE).write_bytes(codec.write(state))
            _seal(writing, place)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(writing, ignore_errors=True)
            raise self._refused(step, error) from error
        for old in self.steps()[KEPT:]:
            shutil.rmtree(self._place(old), ignore_errors=True)
        return place

    def _clear(self, writing: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob(".writing-*"):
            shutil.rmtree(left)
        writing.mkdir()

    def _refused(self, step: int, error: Exception) -> StorageError:
        full = getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT} or "No space left" in str(error)
        why = "the disk is full" if full else str(error)
        return StorageError(
            f"The checkpoint of step {step} cannot be written to {self.folder}: {why}. The one before is intact; "
            "free space and start the same training again, it resumes."
        )

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, the newest first."""
        return sorted((int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*")), reverse=True)

    @property
    def last(self) -> int:
        """The newest step that has a checkpoint; 0 when there is none."""
        return next(iter(self.steps()), 0)

    def newest_intact(self, say: Callable[[str], None]) -> Checkpoint | None:
        """The newest checkpoint whose every byte is what it was; None when there is none.

        Args:
            say: Told about each damaged checkpoint that is passed over.
        """
        for step in self.steps():
            try:
                return self.read(step)
            except IntegrityError as error:
                others = [other for other in self.steps() if other < step]
                instead = f"the one of step {others[0]} is used" if others else "training starts again from step 0"
                say(f"The checkpoint of step {step} is damaged ({error.what} does not fit its digest): {instead}.")
        return None

    def read(self, step: int) -> Checkpoint:
        """One checkpoint, verified.

        Raises:
            IntegrityError: A file is missing or was changed.
        """
        place = self._place(step)
        try:
            sums: dict[str, str] = json.loads((place / SUMS).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise IntegrityError(f"{place.name}/{SUMS}", "?", None, "The checkpoint before it is used.") from error
        for name, expected in sums.items():
            found = _sha256(place / name) if (place / name).exists() else None
            if found != expected:
                raise IntegrityError(f"{place.name}/{name}", expected, found, "The checkpoint before it is used.")
        return Checkpoint(step, place)

    def remove(self) -> None:
        """Removes all checkpoints: the training is done and its product published."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _place(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"


class Checkpoint:
    """A verified checkpoint.

    Args:
        step: Optimiser steps taken when it was written.
        place: Its folder.
    """

    def __init__(self, step: int, place: Path) -> None:
        self.step, self.place = step, place

    def state_as(self, kind: type[T]) -> T:
        """The document that was saved with it.

        Raises:
            DocumentError: It is of another release.
        """
        path = self.place / STATE
        return codec.read(path.read_bytes(), kind, path)

    def has(self, name: str) -> bool:
        """Whether a tensor file of this name was saved."""
        return (self.place / _file(name)).exists()

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors of one file, on the CPU."""
        return load_file(self.place / _file(name))

    def random_state(self, process: int) -> RandomState | None:
        """The random states of one process; None when fewer processes trained then."""
        path = self.place / f"random-{process}.pt"
        return torch.load(path, weights_only=True) if path.exists() else None


def model_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """All weights and buffers of a model by name, tied ones once."""
    seen: set[int] = set()
    found: dict[str, torch.Tensor] = {}
    for name, value in model.state_dict().items():
        if value.data_ptr() not in seen or value.numel() == 0:
            found[name] = value
            seen.add(value.data_ptr())
    return found


def load_model_tensors(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Restores what `model_tensors` gave, in place.

    Raises:
        IntegrityError: Names do not fit: the checkpoint belongs to another model.
    """
    missing = [name for name in model_tensors(model) if name not in tensors]
    result = model.load_state_dict(dict(tensors), strict=False)
    if missing or result.unexpected_keys:
        wrong = (missing or result.unexpected_keys)[0]
        raise IntegrityError(f"weights with {wrong!r}", "?", None, "Remove the working folder to start again.")


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's state as flat tensors, `<parameter number>.<name>`."""
    return {
        f"{number}.{name}": torch.as_tensor(value)
        for number, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Restores what `optimizer_tensors` gave; the groups stay those of the recipe.

    Each lies in memory as its parameter does: the fused AdamW goes through both from first to last byte, and would take
    other elements' moments for a parameter in channels-last, without a word.
    """
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = value
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, values in state.items():
        like = parameters[number]
        values.update({name: torch.empty_like(like).copy_(value) for name, value in values.items() if value.ndim})
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def random_state() -> RandomState:
    """This process's random states: torch on CPU and GPUs, numpy's and Python's global ones."""
    version, numbers, gauss = random.getstate()
    algorithm, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": (version, list(numbers), gauss),
        "numpy": (algorithm, [int(k) for k in keys], int(position), int(has_gauss), float(cached)),
    }


def set_random_state(state: RandomState) -> None:
    """Restores what `random_state` gave; GPU states only where as many GPUs are seen."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    algorithm, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((algorithm, np.array(keys, dtype=np.uint32), position, has_gauss, cached))


def _file(name: str) -> str:
    return f"{name}.safetensors"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(writing: Path, place: Path) -> None:
    """Sums over all files, everything on the disk, and then the checkpoint's name."""
    sums = {path.name: _sha256(path) for path in sorted(writing.iterdir())}
    (writing / SUMS).write_text(json.dumps(sums, indent=1), encoding="utf-8")
    for path in writing.iterdir():
        _flush(path)
    shutil.rmtree(place, ignore_errors=True)
    writing.rename(place)
    _flush(place.parent)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
