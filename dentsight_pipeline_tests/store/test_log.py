"""The log loses no entry, with any number of writers, on disk and on S3; and nothing leaves it without a trace."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dentsight_pipeline.errors import IntegrityError
from dentsight_pipeline.store import log
from dentsight_pipeline.store.names import record_key
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline_tests.store.conftest import (  # noqa: F401 - fixtures: a folder, and a bucket on a real server
    Place,
    aws_environment,
    bucket,
    disk,
    place,
    s3_server,
)

A, B = "a" * 64, "b" * 64


def test_each_entry_names_the_one_before_it(place: Place) -> None:  # noqa: F811
    """And the record lies beside its product as before."""
    entries = [log.append(place.store, product, {"number": n}) for n, product in enumerate((A, B, A))]

    found = log.read(place.store)
    assert found.faults == ()
    assert [entry.previous for entry in found.entries] == [None, entries[0].digest, entries[1].digest]
    assert found.head == log.head(place.store) == entries[2].head
    assert [entry.record["number"] for entry in found.of(A)] == [0, 2]
    assert [record["number"] for record in place.store.records(A)] == [0, 2]


def test_several_writers_lose_nothing(place: Place) -> None:  # noqa: F811
    """Two trainings that end in the same second must not share a number or overwrite one another."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: log.append(place.store, A, {"number": number}), range(16)))

    found = log.read(place.store)
    assert found.faults == ()
    assert sorted(str(entry.record["number"]) for entry in found.entries) == sorted(map(str, range(16)))
    assert [entry.sequence for entry in found.entries] == list(range(1, 17))
    assert len(place.store.records(A)) == 16


def test_several_processes_lose_nothing(tmp_path: Path) -> None:
    """Steps are processes; a lock inside one of them would not be enough."""
    program = (
        "import sys\nfrom dentsight_pipeline.store import log\n"
        "from dentsight_pipeline.store.objects import open_store\n"
        "for number in range(8): log.append(open_store(sys.argv[1]), 'a' * 64, {'writer': sys.argv[2], 'n': number})"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(number)]) for number in range(3)]

    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    found = log.read(open_store(tmp_path))
    assert found.faults == ()
    assert len({(entry.record["writer"], entry.record["n"]) for entry in found.entries}) == 24


def test_a_writer_killed_before_its_record_is_finished_by_the_next(
    place: Place,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The power goes between entry and record: nothing is lost, and no audit cries wolf."""
    log.append(place.store, A, {"number": 0})
    with monkeypatch.context() as dying, pytest.raises(KeyboardInterrupt):
        dying.setattr(Store, "append_record", _killed)
        log.append(place.store, A, {"number": 1})
    assert log.settled(place.store) == 1
    assert log.read(place.store).faults == ()

    log.append(place.store, B, {"number": 2})

    assert [record["number"] for record in place.store.records(A)] == [0, 1]
    assert log.settled(place.store) == 3


def _killed(*_: object) -> str:
    raise KeyboardInterrupt


@pytest.fixture
def written(disk: Place) -> Place:  # noqa: F811
    """A log of five entries."""
    for number in range(5):
        log.append(disk.store, A, {"number": number})
    return disk


def _key(sequence: int) -> str:
    return f"log/{sequence:012d}.json"


def test_a_removed_entry_is_found(written: Place) -> None:
    """The gap itself tells."""
    written.delete(_key(3))

    assert log.read(written.store).faults == ("Entry 3 of the log was removed: there are entries up to 5.",)


def test_an_entry_cut_off_at_the_end_is_found(written: Place) -> None:
    """No gap tells, but the noted head does."""
    written.delete(_key(5))

    assert log.read(written.store).faults == ("The log was cut off: its noted head is entry 5, but it ends at 4.",)


def test_a_changed_entry_is_found(written: Place) -> None:
    """The entry after it names its bytes."""
    written.overwrite(_key(3), lambda data: data.replace(b'"number":2', b'"number":9'))

    assert log.read(written.store).faults == ("Entry 3 of the log was changed: entry 4 names another one before it.",)


def test_a_changed_last_entry_is_found(written: Place) -> None:
    """No entry after it names its bytes, but the noted head does."""
    written.overwrite(_key(5), lambda data: data.replace(b'"number":4', b'"number":9'))

    faults = log.read(written.store).faults

    assert faults == ("The log was written anew: entry 5 is not the one that was noted as head.",)


def test_a_head_set_back_is_found(written: Place) -> None:
    """Whoever appends notes the newest entry first, so no honest note lags behind by two."""
    third = log.read(written.store).entries[2]
    written.store.write_ref(log.HEAD_REF, {"sequence": 3, "digest": third.digest})

    assert "removed or set back" in log.read(written.store).faults[0]


def test_nothing_is_appended_to_a_log_that_was_changed(written: Place) -> None:
    """An entry that follows a changed one would bless it."""
    written.overwrite(_key(5), lambda data: data.replace(b'"number":4', b'"number":9'))

    with pytest.raises(IntegrityError, match="Entry 5 of the log"):
        log.append(written.store, A, {"number": 5})


def test_a_noted_head_is_part_of_the_log_that_grew_from_it(written: Place) -> None:
    """And of no other."""
    noted = log.read(written.store).entries[1].head

    found = log.read(written.store)

    assert found.holds(noted)
    assert not found.holds(log.Head(noted.sequence, "f" * 64))
    assert not found.holds(log.Head(17, noted.digest))


def test_an_entry_is_readable_without_this_package(written: Place) -> None:
    """An auditor with a text editor sees product, record and the digest of the entry before."""
    data = written.store.blobs.read(_key(2)) or b""

    document = json.loads(data)

    assert set(document) == {"schema", "sequence", "previous", "product", "record"}
    entry = log.read(written.store).entries[1]
    assert written.store.blobs.stat(record_key(A, entry.record_digest)) is not None
