"""Half a character in an export, at the places that keep what is told of it: Dagster's events and MLflow's tags."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
from mlflow import MlflowClient

from dentsight_pipeline.documents.facts import RawExportFacts
from dentsight_pipeline.intake.ingest import ingest_export
from dentsight_pipeline.orchestration.metadata import of_raw_exports
from dentsight_pipeline.store.objects import open_store
from dentsight_pipeline_tests.data.export_builder import whole_export


def test_what_an_export_says_can_be_kept_by_dagster_and_mlflow(tmp_path: Path) -> None:
    """Both write UTF-8 into SQLite, and would end the run there, after all the work."""
    builder = whole_export(tmp_path / "export")
    builder.splits["train"]["licenses"] = [{"id": 1, "name": "CC \ud83d"}]
    store = open_store(tmp_path / "store")
    raw = ingest_export(builder.write(), store)

    @dg.asset
    def told() -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata=dict(of_raw_exports(store, raw, {raw.digest: "/exports/v8"})))

    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        assert dg.materialize([told], instance=instance).success
        event = instance.get_latest_materialization_event(dg.AssetKey("told"))
        assert event is not None
        assert event.asset_materialization is not None
        assert event.asset_materialization.metadata["licence"].value == "CC ?, CC BY 4.0"

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    tags = {"licence": raw.facts_as(RawExportFacts).corpus.licence}
    run = client.create_run(client.create_experiment("half"), tags=tags)
    assert client.get_run(run.info.run_id).data.tags["licence"] == "CC ?, CC BY 4.0"
