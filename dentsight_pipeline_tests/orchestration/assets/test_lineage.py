"""A cell that the whole graph made is intact, checked in the UI, and can be made again byte for byte."""

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from dentsight_pipeline_tests.orchestration.assets.conftest import FinishedCell, Home

PRODUCTS = (
    "release-report",
    "evaluation",
    "predictions",
    "checkpoint",
    "condition-subset",
    "normalized-splits",
    "raw-export",
)


def audited(home: Home, ref: str) -> tuple[int, dict[str, Any]]:
    """Exit status and JSON of an audit."""
    done = home.dentsight("audit", ref, "--json")
    assert done.returncode in (0, 5), done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture
def copied(finished_cell: FinishedCell, tmp_path: Path) -> Home:
    """The cell's home with a Dagster storage and a store of its own, to be damaged."""
    shutil.copytree(finished_cell.home.folder, tmp_path / "home", ignore=shutil.ignore_patterns("cache", "scratch"))
    return Home(tmp_path / "home")


def test_a_finished_cell_is_intact_from_its_report_to_its_export(finished_cell: FinishedCell) -> None:
    """By digest, and by the path that `dentsight run` printed, where a newer report with teeth may lie by now.

    Dagster's and MLflow's tags are held against the store.
    """
    status, facts = audited(finished_cell.home, finished_cell.said["report_digest"])
    by_path, newest = audited(finished_cell.home, finished_cell.said["report"])

    kinds = [item["kind"] for item in facts["chain"] if item["kind"] not in ("object", "record")]
    made = {step["kind"]: step for step in facts["provenance"]["steps"]}
    assert (status, facts["findings"]) == (by_path, newest["findings"]) == (0, [])
    assert set(kinds) == set(PRODUCTS)
    assert all(step["dagster_run"] for step in made.values())
    assert made["checkpoint"]["mlflow_run"]
    assert made["checkpoint"]["hardware"]["device"]
    assert made["checkpoint"]["packages"]["torch"]
    assert facts["provenance"]["recipe"]["overrides"]["max_steps"] == 4


def test_a_materialised_checkpoint_leads_a_person_everywhere(finished_cell: FinishedCell) -> None:
    """Data digests, MLflow run, report, audit result and recipe, from the one page in the UI."""
    rows = _rows(
        finished_cell.home,
        "select event from event_logs where asset_key = '[\"trained_checkpoint\"]' and "
        "dagster_event_type = 'ASSET_MATERIALIZATION'",
    )
    entries = json.loads(rows[0][0])["dagster_event"]["event_specific_data"]["materialization"]["metadata_entries"]

    labels = {entry["label"] for entry in entries}
    assert {"data", "mlflow", "report", "audit", "recipe", "recipe_fields", "dentsight/log"} <= labels


def test_the_check_of_the_lineage_is_green(finished_cell: FinishedCell) -> None:
    """In every run, without anybody asking."""
    rows = _rows(
        finished_cell.home,
        "select event from event_logs where dagster_event_type = 'ASSET_CHECK_EVALUATION' and event like "
        "'%lineage_is_intact%'",
    )

    found = json.loads(rows[-1][0])["dagster_event"]["event_specific_data"]
    assert found["success"] is True
    assert "**INTACT**" in json.dumps(found)
    assert found["asset_key"]["path"] == ["trained_checkpoint"]


def test_a_flipped_pixel_is_found_by_the_command(copied: Home, finished_cell: FinishedCell) -> None:
    """With the status that scripts look at and the sentence that people read."""
    subset = copied.store.get_manifest(finished_cell.said["dataset_digest"])
    entry = next(entry for path, entry in subset.entries.items() if path.startswith("images/"))
    path = copied.folder / "workspace" / "store" / "objects" / entry.sha256[:2] / entry.sha256
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)

    status, facts = audited(copied, finished_cell.said["checkpoint_digest"])

    assert status == 5
    assert "was changed: its bytes hash to" in facts["findings"][0]


def test_a_tag_forged_in_dagsters_database_is_found(copied: Home, finished_cell: FinishedCell) -> None:
    """Whoever can write to the event log can claim that a model was trained on other data."""
    digest = finished_cell.said["dataset_digest"]
    changed = 0
    for database in (copied.folder / "workspace" / "dagster").rglob("*.db"):
        with sqlite3.connect(database) as connection:
            if connection.execute("select 1 from sqlite_master where name = 'event_logs'").fetchone():
                changed += connection.execute(
                    "update event_logs set event = replace(event, ?, ?) where dagster_event_type = "
                    "'ASSET_MATERIALIZATION' and asset_key = '[\"trained_checkpoint\"]'",
                    (f'"{digest[:63]}"', f'"{"f" * 63}"'),
                ).rowcount
    assert changed > 0

    status, facts = audited(copied, finished_cell.said["checkpoint_digest"])

    assert status == 5
    assert facts["findings"][0].startswith("A tag was forged: Dagster's event")


@pytest.mark.slow
def test_a_real_training_is_reproduced_byte_for_byte(finished_cell: FinishedCell) -> None:
    """Drawn, normalised, trained, predicted and evaluated again in an empty store: the same digests throughout."""
    done = finished_cell.home.dentsight("reproduce", finished_cell.said["checkpoint_digest"], "--json", timeout=600)
    facts = json.loads(done.stdout)

    assert done.returncode == 0, facts["differences"]
    assert [item["same"] for item in facts["products"]] == [True] * 6


def _rows(home: Home, query: str) -> list[Any]:
    """Rows of Dagster's event log, from whichever of its databases holds them."""
    found: list[Any] = []
    for database in sorted((home.folder / "workspace" / "dagster").rglob("*.db")):
        with sqlite3.connect(database) as connection:
            if connection.execute("select 1 from sqlite_master where name = 'event_logs'").fetchone():
                found = connection.execute(query).fetchall() or found
    return found
