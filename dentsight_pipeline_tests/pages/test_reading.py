"""The reader study: orders, marks, what is kept and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace

from dentsight_pipeline.documents.codec import pretty, read
from dentsight_pipeline.documents.study import READINGS_FILE, STUDY_FILE, Study
from dentsight_pipeline.errors import ConfigurationError, DataError, IntegrityError
from dentsight_pipeline.evaluation.agreement import agreement_of_readings
from dentsight_pipeline.pages.reading import DAY_SECONDS, Reading, meant
from dentsight_pipeline.pages.readings import write_readings
from dentsight_pipeline.pages.server import Refused
from dentsight_pipeline_tests.pages.studies import write_study

A, C = "A. Bell", "C. Dorn"


def reopened(reading: Reading) -> Reading:
    """The same study after the server was killed."""
    reading.journal.close()
    return Reading(reading.folder)


def test_marks_outlive_a_crash_and_half_a_line(tmp_path: Path) -> None:
    """Every mark is on disk before the page shows it; what a crash cut short is no mark and stops nothing."""
    write_study(tmp_path / "s")
    reading = Reading(tmp_path / "s")
    reading.mark(A, 0, "36", "caries", True)
    reading.mark(A, 0, "11", "crown", True)
    reading.mark(A, 0, "11", "crown", False)
    reading.journal.close()
    with (tmp_path / "s" / READINGS_FILE).open("ab") as file:
        file.write(b'{"entry":{"type":"mar')

    again = Reading(tmp_path / "s")

    assert again.view(A).marks == (("36", "caries", None),)
    again.finish(A, 0, True)
    assert reopened(again).view(A).position == 1


def test_a_box_is_optional_outlives_a_crash_and_is_written_out(tmp_path: Path) -> None:
    """Agreement counts teeth, so a finding needs no box; one that was drawn belongs to its mark and goes with it."""
    write_study(tmp_path / "s")
    reading = Reading(tmp_path / "s")
    reading.mark(A, 0, "36", "caries", True)
    reading.mark(A, 0, "36", "caries", True, (10.0, 20.0, 5.5, 4.0))
    reading.mark(A, 0, "11", "crown", True, (1.0, 1.0, 2.0, 2.0))
    reading.mark(A, 0, "11", "crown", False)
    with pytest.raises(Refused, match="has no area"):
        reading.mark(A, 0, "36", "caries", True, (10.0, 20.0, 0.0, 4.0))
    again = reopened(reading)
    assert again.view(A).marks == (("36", "caries", (10.0, 20.0, 5.5, 4.0)),)
    again.finish(A, 0, True)
    last: Any = again.journal.entries[-1]
    image = last.image
    again.journal.close()

    files = write_readings(tmp_path / "s")

    assert [path.name for path in files] == ["readings.csv", "readings.parquet", "boxes.csv"]
    rows = list(csv.DictReader((tmp_path / "s/boxes.csv").open()))
    said = {"reader": A, "session": "0", "image": image, "tooth": "36", "condition": "caries"}
    assert rows == [{**said, "x": "10", "y": "20", "width": "5.5", "height": "4"}]


def test_a_finished_image_does_not_change(tmp_path: Path) -> None:
    """A second window still shows it; what it sends must not overwrite a reading, nor fall on the next image."""
    write_study(tmp_path / "s")
    reading = Reading(tmp_path / "s")
    reading.finish(A, 0, True)

    with pytest.raises(Refused, match="finished, perhaps in another window"):
        reading.mark(A, 0, "36", "caries", True)
    with pytest.raises(Refused, match="finished"):
        reading.image(A, 2)
    assert reading.view(A).marks == ()


def test_a_study_cannot_be_changed_after_it_was_registered(tmp_path: Path) -> None:
    """Images or conditions chosen after the first look at the readings would prove nothing."""
    study = write_study(tmp_path / "s")
    Reading(tmp_path / "s").journal.close()
    fewer = read(pretty(study), Study, "study")
    (tmp_path / "s" / STUDY_FILE).write_bytes(
        pretty(Study(title=study.title, readers=study.readers, conditions=("caries",), images=fewer.images))
    )

    with pytest.raises(ConfigurationError, match="was registered as"):
        Reading(tmp_path / "s")


def test_a_changed_line_or_image_is_found(tmp_path: Path) -> None:
    """Readings are evidence: one that was edited later must not pass as said."""
    study = write_study(tmp_path / "s")
    reading = Reading(tmp_path / "s")
    reading.mark(A, 0, "36", "caries", True)
    reading.finish(A, 0, True)
    reading.journal.close()
    path = tmp_path / "s" / READINGS_FILE
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"36"', b'"37"'))

    with pytest.raises(DataError, match="line 2 was changed"):
        Reading(tmp_path / "s")
    path.write_bytes(whole)
    (tmp_path / "s" / study.images[0].file).write_bytes(b"another picture")
    with pytest.raises(IntegrityError):
        Reading(tmp_path / "s")


def test_two_servers_do_not_write_one_study(tmp_path: Path) -> None:
    """Their lines would be interleaved, and one of them would count places wrongly."""
    write_study(tmp_path / "s")
    first = Reading(tmp_path / "s")

    with pytest.raises(ConfigurationError, match="in use by another server"):
        Reading(tmp_path / "s")
    first.journal.close()


def test_every_reader_has_an_order_of_his_own_and_reads_every_image(tmp_path: Path) -> None:
    """What one says at the coffee machine of 'the third one' helps nobody."""
    write_study(tmp_path / "s", pictures=[bytes([n]) * 9 for n in range(12)])
    reading = Reading(tmp_path / "s")

    orders = [[task.image.sha256 for task in reading.schedule(name)] for name in (A, C)]

    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])
    assert len(set(orders[0])) == 12


def test_a_crossover_shows_each_image_once_in_either_arm_with_a_washout_between(tmp_path: Path) -> None:
    """Half of the images are aided in each session, and the other half for the next reader; then a pause."""
    write_study(tmp_path / "s", model={0: [("36", "caries")]}, design="crossover", washout_days=2.0)
    reading = Reading(tmp_path / "s")

    tasks = {name: reading.schedule(name) for name in (A, C)}

    arms = {(name, task.image.sha256, task.session): task.arm for name, own in tasks.items() for task in own}
    for task in tasks[A]:
        other = 1 - task.session
        assert {arms[A, task.image.sha256, task.session], arms[A, task.image.sha256, other]} == {"aided", "unaided"}
        assert arms[A, task.image.sha256, task.session] != arms[C, task.image.sha256, task.session]
    for position in range(3):
        shown = reading.view(A)
        assert bool(shown.model) == (shown.arm == "aided" and tasks[A][position].image == reading.study.images[0])
        reading.finish(A, position, True)
    waiting = reading.view(A)
    assert (waiting.state, waiting.wait_hours) == ("washout", 48.0)
    with pytest.raises(Refused):
        reading.finish(A, 3, True)
    import time

    assert reading.view(A, time.time() + 2.1 * DAY_SECONDS).state == "reading"


def test_readings_are_written_as_files_that_agreement_reads(tmp_path: Path) -> None:
    """CSV and Parquet say the same; unreadable images are not rated; the model is one more reader."""
    write_study(
        tmp_path / "s", pictures=[bytes([n]) * 9 for n in range(6)], model={n: [("36", "caries")] for n in range(6)}
    )
    reading = Reading(tmp_path / "s")
    for name in (A, C):
        for position in range(6):
            if position != 2:
                reading.mark(name, position, "36", "caries", True)
            reading.finish(name, position, position != 5)
    reading.journal.close()

    files = write_readings(tmp_path / "s")

    table = pq.read_table(files[1])
    assert table.num_rows == len(list(csv.reader(files[0].open()))) - 1 == 3 * 6 * 32 * 3
    assert table["present"].null_count == 2 * 32 * 3
    found = {row.condition: row for row in agreement_of_readings(files[0], resamples=50)}
    assert found["caries"].model_kappa is not None
    assert found["caries"].model_kappa > 0.8


@pytest.mark.parametrize(
    ("change", "told"),
    [({"readers": ("A", "A")}, "a reader is named twice"), ({"readers": ("model",)}, "the model's own name"),
     ({"design": "crossover"}, "a crossover shows the model's findings")],
)  # fmt: skip
def test_a_study_that_cannot_be_meant_is_refused(tmp_path: Path, change: dict, told: str) -> None:
    """Two readers of one name would write into each other's readings."""
    write_study(tmp_path / "s", **change)

    with pytest.raises(ConfigurationError, match=told):
        Reading(tmp_path / "s")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"readers": ()}, r"nobody is named to read it \(--reader NAME"),
        ({"readers": ("A", " ")}, "a reader's name is empty"),
        ({"readers": ("A" * 81,)}, "or longer than 80 letters"),
        ({"title": ""}, "its title is empty"),
    ],
)
def test_a_study_that_could_not_be_read_back_is_refused_before_it_is_written(
    tmp_path: Path, change: dict, told: str
) -> None:
    """`--plan` without `--reader` wrote a folder that neither the page nor a second `--plan` would take."""
    study = write_study(tmp_path / "s")

    with pytest.raises(ConfigurationError, match=told):
        meant(replace(study, **change))


def test_without_a_study_the_remedy_is_told(tmp_path: Path) -> None:
    """Whoever mistypes a folder must not find an empty study made."""
    with pytest.raises(ConfigurationError, match="--plan REF"):
        Reading(tmp_path)
    assert list(tmp_path.iterdir()) == []
