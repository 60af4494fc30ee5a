"""The champion measured again on newer data, on a graph: predicted anew, remembered, reused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from dentsight_pipeline.documents.facts import EvaluationFacts
from dentsight_pipeline.documents.names import Asset, Kind
from dentsight_pipeline_tests.orchestration.assets.conftest import Home, new_home
from dentsight_pipeline_tests.orchestration.servers import TINY_TRAINING

STEPS = [f"--set={name}={value}" for name, value in {**TINY_TRAINING, "max_steps": "2"}.items()]
MEASURE = """
import json, sys, uuid
from dentsight_pipeline.definitions import defs
from dentsight_pipeline.orchestration.executor import execute_here
from dentsight_pipeline.orchestration.instance import open_instance
with open_instance() as instance:
    instance.add_dynamic_partitions("dataset", ["newer-v1"])
    told = []
    for job, config in (("data", {"ops": {"raw_export": {"config": {"export": ["phantom:24:5"]}}}}), ("champion", {})):
        result = execute_here(defs.resolve_job_def(job), instance, "newer-v1", config, str(uuid.uuid4()), {})
        assert result.success
        told = [event.step_materialization_data.materialization.metadata
                for event in result.get_asset_materialization_events()]
    print(json.dumps([{name: told[name].value for name in ("digest", "reused")} for told in told]))
"""


def measure(home: Home) -> list[dict[str, Any]]:
    """Run `data` and `champion` for a newer dataset; what the champion's run materialised."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURE],
        cwd=home.folder,
        env=home.environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def released(home: Home) -> dict[str, Any]:
    """A cell whose missed gates somebody overrides; what `dentsight run` says of it."""
    command = ["run", "--dataset", "first-v1", "--export", "phantom:24:3", *STEPS, "--json"]
    judged = home.dentsight(*command)
    assert judged.returncode == 0, judged.stderr[-3000:]
    verdict = json.loads((Path(json.loads(judged.stdout)["report"]).parent / "verdict.json").read_text())
    missed = [row["id"] for row in verdict["rows"] if row["blocks"]]
    overridden = home.dentsight(*command, *(f"--override={gate}=A. Tester: only a test" for gate in missed))
    assert overridden.returncode == 0, overridden.stderr[-3000:]
    return json.loads(overridden.stdout)


def test_the_champion_is_measured_on_newer_data_once(tmp_path: Path) -> None:
    """The nightly schedule and every comparison with a challenger rest on it; without a champion there is nothing."""
    home = new_home(tmp_path / "home")
    before = measure(home)
    cell = released(home)
    promoted = home.dentsight("promote", cell["released"], "--by", "A. Tester", "--reason", "only a test")
    (first,), (second,) = measure(home), measure(home)
    evaluation = home.store.get_manifest(first["digest"])
    predictions = home.store.get_manifest(evaluation.inputs[Asset.TEST_PREDICTIONS])

    assert before == []
    assert promoted.returncode == 0, promoted.stderr
    assert (first["reused"], second["reused"]) == (False, True)
    assert second["digest"] == first["digest"]
    assert evaluation.kind == Kind.EVALUATION
    assert evaluation.facts_as(EvaluationFacts).checkpoint == cell["checkpoint_digest"]
    assert predictions.inputs[Asset.TRAINED_CHECKPOINT] == cell["checkpoint_digest"]
    assert evaluation.inputs[Asset.CONDITION_SUBSET] != cell["dataset_digest"]
