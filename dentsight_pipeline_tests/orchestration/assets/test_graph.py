"""The whole graph on a tiny phantom corpus, as `dentsight run` makes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.instance.ref import InstanceRef
from mlflow import MlflowClient

from dentsight_pipeline.data.splits import read_split, read_stored
from dentsight_pipeline.documents.detections import DETECTIONS
from dentsight_pipeline_tests.orchestration.assets.conftest import FEW_STEPS, TINY, FinishedCell

ASSETS = (
    "raw_export",
    "normalized_splits",
    "condition_subset",
    "trained_checkpoint",
    "test_predictions",
    "class_metrics",
    "release_report",
)
CELL = "tiny-v1|smoke"


@pytest.fixture
def instance(finished_cell: FinishedCell, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance that the cell was made in."""
    folder = finished_cell.home.folder
    monkeypatch.chdir(folder)
    state = folder / "workspace" / "dagster"
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(state), config_dir=str(folder))) as opened:
        yield opened


def materialization(instance: dg.DagsterInstance, asset: str) -> dg.AssetMaterialization:
    """The latest materialisation of an asset."""
    event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    assert event is not None
    assert event.asset_materialization is not None
    return event.asset_materialization


def mlflow_runs(cell: FinishedCell) -> list[Any]:
    """All MLflow runs of the cell's home, the first one first."""
    client = MlflowClient(f"sqlite:///{cell.home.folder / 'workspace' / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("dentsight")
    assert experiment is not None
    return sorted(client.search_runs([experiment.experiment_id]), key=lambda run: run.info.start_time)


def test_run_prints_json_alone_with_the_keys_of_the_contract(finished_cell: FinishedCell) -> None:
    """Scripts parse stdout; one line of progress there would break all of them."""
    said = finished_cell.said

    assert {"dataset_digest", "checkpoint_digest", "verdict", "report", "cached"} <= set(said)
    assert said["verdict"] in {"PASS", "FAIL", "INCONCLUSIVE"}
    assert Path(said["report"]).is_file()
    assert "report.html" in (finished_cell.home.folder / "workspace" / "reports" / "index.html").read_text(
        encoding="utf-8"
    )
    assert said["cached"] == []


def test_a_person_can_follow_the_progress(finished_cell: FinishedCell) -> None:
    """Stage, step and time left, in order and without repetitions."""
    lines = finished_cell.stderr.splitlines()
    stages = [line for line in lines if line.startswith("[")]

    assert [line.split()[1] for line in stages] == [*ASSETS, "released_model"]
    assert stages[3].startswith("[4/8]")
    assert sum("train 4/4" in line for line in lines) == 1


CODE_VERSIONS = {
    "class_metrics": "5",
    "normalized_splits": "3",
    "raw_export": "2",
    "release_report": "4",
    "trained_checkpoint": "3",
}
"""Assets whose code no longer makes the same bytes from the same inputs as it did at first."""


@pytest.mark.parametrize("asset", ASSETS)
def test_every_asset_carries_its_digest_and_what_it_read(
    finished_cell: FinishedCell, instance: dg.DagsterInstance, asset: str
) -> None:
    """Dagster records the newest upstream event; only what the asset recorded itself is what it really read."""
    made = materialization(instance, asset)
    digest = made.metadata["digest"].value
    manifest = finished_cell.home.store.get_manifest(str(digest))
    recorded = {
        name.removeprefix("dentsight/input/"): value.value
        for name, value in made.metadata.items()
        if name.startswith("dentsight/input/")
    }

    assert (made.tags or {})["dagster/data_version"] == digest
    assert (made.tags or {})["dagster/code_version"] == CODE_VERSIONS.get(asset, "1")
    assert recorded == dict(manifest.inputs)
    for name, value in manifest.inputs.items():
        assert (made.tags or {})[f"dentsight/input.{name}"] == value[:63]


def test_the_chain_of_digests_leads_from_the_report_to_the_raw_export(finished_cell: FinishedCell) -> None:
    """An auditor starts at the report and must arrive at the export without asking Dagster."""
    store = finished_cell.home.store
    report = store.get_manifest(finished_cell.said["report_digest"])
    checkpoint = store.get_manifest(report.inputs["trained_checkpoint"])
    subset = store.get_manifest(checkpoint.inputs["condition_subset"])
    splits = store.get_manifest(subset.inputs["normalized_splits"])
    raw = store.get_manifest(splits.inputs["raw_export"])

    assert checkpoint.digest == finished_cell.said["checkpoint_digest"]
    assert subset.digest == finished_cell.said["dataset_digest"]
    assert raw.kind == "raw-export"
    assert raw.facts["corpus"]["kind"] == "phantom"


def test_predictions_cover_every_image_of_valid_and_test(finished_cell: FinishedCell) -> None:
    """An image without predictions would count as one without false positives."""
    store = finished_cell.home.store
    report = store.get_manifest(finished_cell.said["report_digest"])
    predictions = store.get_manifest(report.inputs["test_predictions"])
    subset = store.get_manifest(report.inputs["condition_subset"])
    for split in ("valid", "test"):
        listed = {image["id"] for image in read_split(store, subset, split).to_coco()["images"]}
        predicted = set(read_stored(store, predictions, f"{split}.arrow", DETECTIONS)["image_id"].to_pylist())

        assert predicted == listed
    assert "test.mirrored.arrow" in predictions.entries


def test_each_gate_is_an_asset_check_and_a_missed_one_does_not_fail_the_run(
    finished_cell: FinishedCell, instance: dg.DagsterInstance
) -> None:
    """A missed gate is a result: red in the UI, while the run succeeds and the report exists."""
    runs = instance.get_runs(filters=dg.RunsFilter(job_name="experiment"))
    records = instance.event_log_storage.get_asset_check_summary_records(
        [dg.AssetCheckKey(dg.AssetKey("release_report"), "tier1_macro_ap50")]
    )
    record = next(iter(records.values())).last_check_execution_record
    assert record is not None
    assert record.event is not None
    assert record.event.dagster_event is not None
    evaluation = record.event.dagster_event.asset_check_evaluation_data

    assert all(run.status == dg.DagsterRunStatus.SUCCESS for run in runs)
    assert evaluation.passed is False
    assert evaluation.severity == dg.AssetCheckSeverity.ERROR


def test_nothing_is_released_on_a_verdict_other_than_pass(
    finished_cell: FinishedCell, instance: dg.DagsterInstance
) -> None:
    """Four steps of training must not get past the gates by any way."""
    assert finished_cell.said["verdict"] != "PASS"
    assert finished_cell.said["released"] is None
    assert instance.get_latest_materialization_event(dg.AssetKey("released_model")) is None


def test_released_model_launched_alone_is_refused(finished_cell: FinishedCell, instance: dg.DagsterInstance) -> None:
    """Blocking holds only within one run; a person who clicks on released_model alone must be stopped as well."""
    from dentsight_pipeline.definitions import defs

    job = defs.resolve_implicit_global_asset_job_def()
    monkey = pytest.MonkeyPatch()
    monkey.setenv("DENTSIGHT_HOME", str(finished_cell.home.folder))
    try:
        with pytest.raises(Exception, match="Train a better model, or record an override"):
            job.execute_in_process(
                instance=instance,
                partition_key=dg.MultiPartitionKey({"dataset": "tiny-v1", "recipe": "smoke"}),
                asset_selection=[dg.AssetKey("released_model")],
            )
    finally:
        monkey.undo()


def test_training_and_evaluation_are_finished_mlflow_runs_with_links_both_ways(
    finished_cell: FinishedCell, instance: dg.DagsterInstance
) -> None:
    """A curve without its data digest, or a checkpoint without its curve, cannot be audited."""
    runs = {run.data.tags["dentsight.stage"]: run for run in mlflow_runs(finished_cell)}
    train = runs["train"]
    checkpoint = materialization(instance, "trained_checkpoint")

    assert set(runs) == {"train", "predict", "evaluate"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert train.data.params["max_steps"] == "4"
    assert train.data.tags["dentsight.dataset_digest"] == finished_cell.said["dataset_digest"]
    assert train.data.tags["dentsight.checkpoint_digest"] == finished_cell.said["checkpoint_digest"]
    assert instance.get_run_by_id(train.data.tags["dentsight.dagster_run"]) is not None
    assert checkpoint.metadata["mlflow_run"].value == train.info.run_id
    assert any(name.startswith("loss") or "loss" in name for name in train.data.metrics)
    assert any(name.startswith("all/caries/") for name in runs["evaluate"].data.metrics)


def test_a_second_run_reuses_everything_and_says_so(finished_cell: FinishedCell) -> None:
    """Unchanged work is never done twice: no training, no prediction, no new report."""
    before = len(mlflow_runs(finished_cell))
    done = finished_cell.home.dentsight("run", "--dataset", "tiny-v1", *FEW_STEPS, "--json")
    said = json.loads(done.stdout)

    assert done.returncode == 0, done.stderr
    assert set(said["cached"]) == set(ASSETS)
    assert said["report_digest"] == finished_cell.said["report_digest"]
    assert len(mlflow_runs(finished_cell)) == before


@pytest.mark.slow
def test_the_same_export_under_another_key_has_a_report_of_its_own_name(finished_cell: FinishedCell) -> None:
    """Everything is reused but the report, which would otherwise be headed by the other key."""
    done = finished_cell.home.dentsight("run", "--dataset", "other-v1", "--export", TINY, *FEW_STEPS, "--json")
    said = json.loads(done.stdout)

    assert done.returncode == 0, done.stderr
    assert set(said["cached"]) == {*ASSETS} - {"release_report"}
    assert json.loads(Path(said["report"]).with_name("report.json").read_text())["title"] == "other-v1 × smoke"


def test_a_run_that_reuses_everything_loads_nothing_that_draws_or_computes(finished_cell: FinishedCell) -> None:
    """Recalled work needs no library that draws or computes; loading one is paid for in every such run."""
    heavy = ("pandas", "matplotlib", "scipy", "cv2", "numpy", "pyarrow", "torch", "mlflow")
    program = (
        "import sys\n"
        "from dentsight_pipeline.commands.run import CellRequest, run_cell\n"
        'told = run_cell(CellRequest(dataset="tiny-v1", overrides={"max_steps": "4", "evaluate_every_steps": "4"}))\n'
        f"print(len(told.cached), [name for name in {heavy} if name in sys.modules])"
    )
    home = finished_cell.home
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, cwd=home.folder, env=home.environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{len(ASSETS)} []"


def test_other_bytes_under_the_same_dataset_key_are_refused(finished_cell: FinishedCell) -> None:
    """A key that silently changed its meaning would make every older figure unreadable."""
    done = finished_cell.home.dentsight("run", "--dataset", "tiny-v1", "--export", "phantom:40:4", *FEW_STEPS)

    assert done.returncode == 2
    assert done.stdout == ""
    assert "already means the export" in done.stderr
    assert "--replace" in done.stderr


def test_a_training_that_cannot_start_is_refused_and_reads_failed_in_mlflow(finished_cell: FinishedCell) -> None:
    """An MLflow run that stays RUNNING, or ends FINISHED, after a failure would be read as a result."""
    done = finished_cell.home.dentsight(
        "run", "--dataset", "tiny-v1", "--set", "max_steps=4", "--set", "weights=no-such-folder/model"
    )
    failed = mlflow_runs(finished_cell)[-1]

    assert done.returncode == 2, done.stderr
    assert "no-such-folder/model" in done.stderr
    assert "Traceback" not in done.stderr
    assert failed.info.status == "FAILED"


def test_an_unknown_recipe_field_is_refused_before_anything_starts(finished_cell: FinishedCell) -> None:
    """A misspelt override must not train the unchanged recipe for hours."""
    done = finished_cell.home.dentsight("run", "--dataset", "tiny-v1", "--set", "learning_rat=1e-4")

    assert done.returncode == 2
    assert "learning_rate" in done.stderr
    assert "[1/8]" not in done.stderr


def test_a_refused_export_leaves_no_partition_and_no_manifest(finished_cell: FinishedCell, tmp_path: Path) -> None:
    """Half-known datasets in the grid would look like results that are still to come."""
    (tmp_path / "empty").mkdir()
    before = sorted(finished_cell.home.store.manifest_digests())
    done = finished_cell.home.dentsight("run", "--dataset", "empty-v1", "--export", str(tmp_path / "empty"))
    state = finished_cell.home.folder / "workspace" / "dagster"
    here = Path.cwd()
    try:
        os.chdir(finished_cell.home.folder)
        with dg.DagsterInstance.from_ref(
            InstanceRef.from_dir(str(state), config_dir=str(finished_cell.home.folder))
        ) as opened:
            keys = opened.get_dynamic_partitions("dataset")
    finally:
        os.chdir(here)

    assert done.returncode == 2
    assert done.stderr.count("Error:") == 1
    assert keys == ["tiny-v1"]
    assert sorted(finished_cell.home.store.manifest_digests()) == before


def test_no_original_stem_is_anywhere_in_what_a_cell_leaves_behind(finished_cell: FinishedCell, tmp_path: Path) -> None:
    """Stems embed DICOM identifiers and dates: none may reach store, manifests, Dagster's storage or MLflow."""
    from dentsight_pipeline.phantom.export import write_phantom_export

    images, seed = (int(number) for number in TINY.split(":")[1:])
    write_phantom_export(tmp_path / "export", images, seed)
    names = [path.name for path in (tmp_path / "export").rglob("*.jpg")]
    stems = {name.split(".rf.")[0].encode() for name in names}
    telling = {stem for stem in stems if len(stem) > 12}  # `18_png` proves nothing wherever it occurs
    found = {
        str(path.relative_to(finished_cell.home.folder))
        for path in finished_cell.home.folder.rglob("*")
        if path.is_file()
        for content in [path.read_bytes()]
        if any(stem in content for stem in telling)
    }

    assert len(telling) > images // 2
    assert found == set()


def test_a_refused_file_is_named_by_its_hash_and_not_by_its_stem(finished_cell: FinishedCell, tmp_path: Path) -> None:
    """The refusal itself is stored by Dagster, for ever: it may not carry the identifier into the run log."""
    from dentsight_pipeline.phantom.export import write_phantom_export

    write_phantom_export(tmp_path / "export", 12, 5, width=320)
    victim = max((tmp_path / "export" / "train").glob("*.jpg"), key=lambda path: len(path.name))
    victim.write_bytes(victim.read_bytes()[:2000])
    done = finished_cell.home.dentsight("run", "--dataset", "cut-v1", "--export", str(tmp_path / "export"))
    stem, _, rest = victim.name.partition(".rf.")
    storage = finished_cell.home.folder / "workspace" / "dagster"
    leaks = [path for path in storage.rglob("*") if path.is_file() and stem.encode() in path.read_bytes()]

    assert done.returncode == 2
    assert rest.removesuffix(".jpg") in done.stderr
    assert leaks == []


def test_a_running_cell_is_not_taken_for_dead_by_run_monitoring(
    finished_cell: FinishedCell, instance: dg.DagsterInstance
) -> None:
    """`dentsight run` works in its own process: without saying so, a daemon beside it failed its run after 10 s."""
    from dentsight_pipeline.orchestration.workers import WORKER_TAG

    for run in instance.get_runs():
        if run.job_name == "experiment":
            worker = json.loads(run.tags[WORKER_TAG])

            assert worker["run"] == run.run_id
            assert worker["pid"] != os.getpid()
            assert run.tags["dagster/max_retries"] == "0"


def test_the_phantom_spec_of_the_tests_is_small() -> None:
    """The suite's time limit rests on it."""
    assert int(TINY.split(":")[1]) <= 60


def test_a_dry_run_tells_what_would_be_reused_and_made_and_writes_nothing(finished_cell: FinishedCell) -> None:
    """Where a training would run, about how long and at what price is read before anything is spent."""
    home = finished_cell.home
    before = sorted(path for path in (home.folder / "workspace" / "store").rglob("*") if path.is_file())
    same = home.dentsight("run", "--dataset", "tiny-v1", *FEW_STEPS, "--dry-run", "--json")
    other = home.dentsight("run", "--dataset", "tiny-v1", "--set", "max_steps=5", "--dry-run", "--json")
    unknown = home.dentsight("run", "--dataset", "never", "--dry-run")

    told, longer = json.loads(same.stdout), {step["asset"]: step for step in json.loads(other.stdout)["steps"]}
    assert told["reused"] == list(ASSETS)
    assert json.loads(other.stdout)["reused"] == ["raw_export", "normalized_splits", "condition_subset"]
    assert longer["trained_checkpoint"]["seconds"] > 0
    assert (longer["trained_checkpoint"]["where"], longer["trained_checkpoint"]["price"]) == ("local", None)
    assert "price unknown" in home.dentsight("run", "--dataset", "new-v1", "--export", TINY, "--dry-run").stdout
    assert (unknown.returncode, "Nothing is known about dataset" in unknown.stderr) == (2, True)
    assert sorted(p for p in (home.folder / "workspace" / "store").rglob("*") if p.is_file()) == before
