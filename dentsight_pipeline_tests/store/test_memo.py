"""Work is reused when everything that went into it is the same, and never when its result is damaged."""

from __future__ import annotations

from typing import Any

import pytest

from dentsight_pipeline.errors import DataError, IntegrityError
from dentsight_pipeline.store import content, manifest, memo, objects
from dentsight_pipeline.store.names import manifest_key, memo_key, object_key

from .conftest import Place

KEY = memo.key("trained_checkpoint", "1", {"condition_subset": "0" * 64}, {"recipe": "v1"})


def finished(store: objects.Store) -> manifest.Manifest:
    """A published product, remembered under `KEY`."""
    made = content.build(store, "checkpoint", {"model": b"weights"}, {}, {})
    memo.remember(store, KEY, store.put_manifest(made))
    return made


def test_finished_work_is_recalled(store: objects.Store) -> None:
    """A second run of an unchanged graph trains nothing."""
    assert memo.recall(store, KEY) is None

    made = finished(store)

    assert memo.recall(store, KEY) == made.digest


@pytest.mark.parametrize(
    "changed",
    [
        ("class_metrics", "1", {"condition_subset": "0" * 64}, {"recipe": "v1"}),
        ("trained_checkpoint", "2", {"condition_subset": "0" * 64}, {"recipe": "v1"}),
        ("trained_checkpoint", "1", {"condition_subset": "1" * 64}, {"recipe": "v1"}),
        ("trained_checkpoint", "1", {"tooth_subset": "0" * 64}, {"recipe": "v1"}),
        ("trained_checkpoint", "1", {"condition_subset": "0" * 64}, {"recipe": "v2"}),
    ],
)
def test_any_change_of_the_work_changes_its_key(changed: tuple[str, str, dict[str, str], Any]) -> None:
    """A stale result taken for a fresh one is the worst thing a memo can do."""
    assert memo.key(*changed) != KEY


def test_the_order_of_settings_does_not_change_the_key() -> None:
    """Two spellings of the same work are the same work."""
    assert memo.key("a", "1", {}, {"x": 1, "y": [2.0]}) == memo.key("a", "1", {}, {"y": (2,), "x": 1.0})


def test_a_setting_that_is_not_json_is_refused() -> None:
    """The repr of an object may hold an address: such a key would never be found again."""
    with pytest.raises(DataError, match="memo key of a cannot be written"):
        memo.key("a", "1", {}, {"x": object()})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("loss", ["memo", "manifest", "object"])
@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_work_whose_result_is_lost_is_done_again(place: Place, loss: str, how: str) -> None:
    """A memo only saves time. Whatever is wrong with it, the answer is to do the work."""
    made = finished(place.store)
    key = {
        "memo": memo_key(KEY),
        "manifest": manifest_key(made.digest),
        "object": object_key(made.entry("model").sha256),
    }
    if how == "gone":
        place.delete(key[loss])
    else:
        place.overwrite(key[loss], lambda data: data[:-1])

    assert memo.recall(place.store, KEY) is None


def test_only_published_work_is_remembered(store: objects.Store) -> None:
    """A memo of something that is not there would be a promise broken in advance."""
    with pytest.raises(IntegrityError, match="Publish it with `put_manifest` first"):
        memo.remember(store, KEY, "0" * 64)
