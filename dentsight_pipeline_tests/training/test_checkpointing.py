"""Resumable checkpoints: complete, atomic, verified, and never code."""

from __future__ import annotations

import errno
import os
import pickle
import random
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from dentsight_pipeline.documents.codec import Document
from dentsight_pipeline.errors import IntegrityError, StorageError
from dentsight_pipeline.training import checkpointing, optim
from dentsight_pipeline.training import model as models
from dentsight_pipeline.training import recipe as recipes
from dentsight_pipeline.training.checkpointing import CheckpointFolder


class State(Document, frozen=True):
    """What these checkpoints hold beside tensors."""

    n: int
    """A number."""


class Nothing(Document, frozen=True):
    """What checkpoints hold beside tensors where a test looks at tensors alone."""


EMPTY = Nothing()


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    """An empty checkpoint folder."""
    return CheckpointFolder(tmp_path / "checkpoints")


def save(folder: CheckpointFolder, step: int, value: float = 0.0) -> Path:
    """A checkpoint with one tensor."""
    return folder.save(step, {"model": {"w": torch.full((3,), value)}}, State(n=step), [checkpointing.random_state()])


def test_a_checkpoint_gives_back_what_was_saved(folder: CheckpointFolder):
    """Tensors, state and random states, bit for bit."""
    save(folder, 7, 0.1)

    found = folder.newest_intact(lambda _: None)

    assert found is not None
    assert (found.step, found.state_as(State)) == (7, State(n=7))
    assert torch.equal(found.tensors("model")["w"], torch.full((3,), 0.1))


def test_the_last_two_are_kept(folder: CheckpointFolder):
    """One for going on, one for when that one is damaged; more would fill the disk."""
    for step in (5, 10, 15, 20):
        save(folder, step)

    assert folder.steps() == [20, 15]


@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "no sums"])
def test_a_damaged_last_checkpoint_gives_way_to_the_one_before_and_says_so(folder: CheckpointFolder, damage: str):
    """A power cut can leave a file of zeros under a good name."""
    save(folder, 5, 0.5)
    place = save(folder, 10, 1.0)
    file = place / ("SHA256SUMS.json" if damage == "no sums" else "model.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    if damage == "flip":
        file.write_bytes(content)
    elif damage == "cut":
        file.write_bytes(content[:-4])
    else:
        file.unlink()
    said: list[str] = []

    found = folder.newest_intact(said.append)

    assert found is not None
    assert found.step == 5
    assert len(said) == 1
    assert "step 10 is damaged" in said[0]
    assert "the one of step 5 is used" in said[0]


def test_with_every_checkpoint_damaged_training_starts_again_and_says_so(folder: CheckpointFolder):
    """Better a new start than wrong weights."""
    (save(folder, 5) / "state.json").write_text("{}")
    said: list[str] = []

    assert folder.newest_intact(said.append) is None
    assert "starts again from step 0" in said[0]


def test_a_full_disk_keeps_the_checkpoint_before_and_leaves_no_half_one(folder: CheckpointFolder, monkeypatch):
    """The run fails with a clear line, and resumes once there is space."""
    save(folder, 5)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpointing, "save_file", full)

    with pytest.raises(StorageError, match=r"step 10 cannot be written .*: the disk is full. The one before"):
        save(folder, 10)
    assert folder.steps() == [5]
    assert [path.name for path in folder.folder.iterdir()] == ["step-00000005"]
    assert folder.newest_intact(lambda _: None) is not None


def test_a_write_that_the_system_refuses_is_recognised_from_the_writers_own_error(folder: CheckpointFolder):
    """safetensors wraps the system's error in one of its own; a real limit on file sizes is the witness."""
    save(folder, 5)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        with pytest.raises(StorageError, match=r"step 10 cannot be written.*The one before is intact"):
            save(folder, 10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert folder.steps() == [5]


def test_a_kill_while_writing_leaves_no_checkpoint_of_that_step(folder: CheckpointFolder, monkeypatch):
    """Only the final rename gives a checkpoint its name; the next save clears the remains away."""
    save(folder, 5)
    with monkeypatch.context() as patched:
        patched.setattr(checkpointing, "_flush", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            save(folder, 10)

    assert folder.steps() == [5]
    save(folder, 15)
    assert sorted(path.name for path in folder.folder.iterdir()) == ["step-00000005", "step-00000015"]


def test_a_checkpoint_from_elsewhere_cannot_run_code(folder: CheckpointFolder, tmp_path: Path):
    """A working folder may come from a colleague; loading it must not execute what is in it."""

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    place = save(folder, 5)
    (place / "random-0.pt").write_bytes(pickle.dumps(Bomb(), protocol=2))

    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        checkpointing.Checkpoint(5, place).random_state(0)
    assert not (tmp_path / "exploded").exists()


def test_unchanged_files_are_linked_and_survive_their_first_checkpoint(folder: CheckpointFolder):
    """The best weights of long ago must outlive the checkpoint that first held them."""
    first = folder.save(5, {"best": {"w": torch.ones(2)}}, EMPTY, [])
    source = first / "best.safetensors"
    for step in (10, 15, 20):
        source = folder.save(step, {}, EMPTY, [], {"best": source}) / "best.safetensors"

    assert not first.exists()
    assert torch.equal(folder.read(20).tensors("best")["w"], torch.ones(2))


def test_random_states_of_torch_numpy_and_python_go_on_where_they_were():
    """The denoising noise is torch's; others may draw from the global ones."""
    state = checkpointing.random_state()
    expected = (torch.rand(3), np.random.rand(3), random.random())

    checkpointing.set_random_state(state)

    again = (torch.rand(3), np.random.rand(3), random.random())
    assert torch.equal(expected[0], again[0])
    assert (expected[1] == again[1]).all()
    assert expected[2] == again[2]


def test_model_and_optimiser_go_on_exactly(folder: CheckpointFolder):
    """One step after restoring equals one step without: AdamW's moments and step count are all there."""
    recipe = recipes.named("smoke").override({"num_queries": 20, "num_denoising": 0})
    pixels = torch.rand(1, 3, 64, 96)

    def build(seed: int):
        torch.manual_seed(seed)
        model = models.build(recipe, ["a", "b"])
        return model, optim.build_optimizer(model, recipe)

    def advance(model, optimizer) -> None:
        targets = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}]
        model(pixel_values=pixels, labels=targets).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    model, optimizer = build(1)
    advance(model, optimizer)
    tensors = {"m": checkpointing.model_tensors(model), "o": checkpointing.optimizer_tensors(optimizer)}
    folder.save(1, tensors, EMPTY, [])
    advance(model, optimizer)
    restored, other = build(2)
    checkpointing.load_model_tensors(restored, folder.read(1).tensors("m"))
    checkpointing.load_optimizer_tensors(other, folder.read(1).tensors("o"))
    advance(restored, other)

    expected = model.state_dict()
    assert all(torch.equal(expected[name], value) for name, value in restored.state_dict().items())


def test_weights_of_another_model_are_refused(folder: CheckpointFolder):
    """Loading with holes would leave some layers random."""
    with pytest.raises(IntegrityError, match="weights with 'weight'"):
        checkpointing.load_model_tensors(torch.nn.Linear(2, 2), {"bias": torch.zeros(2)})
