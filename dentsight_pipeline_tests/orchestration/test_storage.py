"""Databases that stay open: what Dagster's own storage wrote is read, and the other way round, by several at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.instance.ref import InstanceRef
from dagster._core.test_utils import create_run_for_test

from dentsight_pipeline.orchestration import storage

OURS = {"custom": {"module": storage.__name__, "class": "SqliteStorage", "config": {"base_dir": "dagster"}}}
DAGSTERS = {"sqlite": {"base_dir": "dagster"}}
KEY = dg.AssetKey("thing")


@contextmanager
def opened(folder: Path, kind: Mapping[str, object]) -> Iterator[dg.DagsterInstance]:
    """An instance in a folder, with one of the two storages."""
    reference = InstanceRef.from_dir(str(folder), overrides={"storage": kind, "telemetry": {"enabled": False}})
    with dg.DagsterInstance.from_ref(reference) as instance:
        yield instance


def note(instance: dg.DagsterInstance, number: int) -> None:
    """Store an event outside of a run."""
    instance.report_runless_asset_event(dg.AssetMaterialization(KEY, metadata={"number": number}))


def noted(instance: dg.DagsterInstance) -> list[object]:
    """The numbers stored, the newest first."""
    events = instance.fetch_materializations(KEY, limit=500).records
    return [event.asset_materialization.metadata["number"].value for event in events if event.asset_materialization]


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative folders are seen from the home."""
    monkeypatch.chdir(tmp_path)


def test_what_one_storage_wrote_the_other_reads(tmp_path: Path) -> None:
    """Homes that exist keep their history, and a home can go back to Dagster's own storage."""
    for number, kind in enumerate([DAGSTERS, OURS, DAGSTERS, OURS]):
        with opened(tmp_path, kind) as instance:
            note(instance, number)
    with opened(tmp_path, OURS) as instance:
        assert noted(instance) == [3, 2, 1, 0]


def test_two_open_instances_see_each_other_at_once(tmp_path: Path) -> None:
    """The daemon and a run's worker; a connection that waits may hold neither a lock nor an old snapshot."""
    with opened(tmp_path, OURS) as one, opened(tmp_path, OURS) as other:
        for number in range(6):
            note((one, other)[number % 2], number)
            assert noted((other, one)[number % 2])[0] == number


def test_threads_of_one_instance_may_write_at_once(tmp_path: Path) -> None:
    """Sensors are evaluated by several threads of the daemon."""
    with opened(tmp_path, OURS) as instance:
        threads = [threading.Thread(target=note, args=(instance, number)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert sorted(map(str, noted(instance))) == sorted(map(str, range(12)))


def test_events_after_a_wipe_are_kept(tmp_path: Path) -> None:
    """`dagster run wipe` removes the files under a run that goes on: into an open one, its events would vanish."""
    with opened(tmp_path, OURS) as instance:
        run = create_run_for_test(instance)
        instance.report_engine_event("before", run)
        instance.wipe()
        instance.report_engine_event("after", run)
    with opened(tmp_path, DAGSTERS) as instance:
        assert [entry.message for entry in instance.all_logs(run.run_id)] == ["after"]


def test_only_the_databases_used_last_stay_open(tmp_path: Path) -> None:
    """Each run has a database: a server that kept all of them open would run out of file handles."""
    opener = storage.OpenDatabases()
    addresses = [f"sqlite:///{tmp_path}/{number}.db" for number in range(storage.MOST_OPEN + 3)]
    engines = [opener.engine(address) for address in addresses]
    for engine in engines:
        with engine.connect():
            pass
    kept = [opener.engine(address) is engine for address, engine in zip(addresses[3:], engines[3:], strict=True)]

    assert all(kept)
    assert opener.engine(addresses[0]) is not engines[0]
