"""What a machine that only trains needs of this package."""

from __future__ import annotations

import subprocess
import sys

ROOMS = {"training", "evaluation", "data", "store", "documents"}
"""And of `evaluation` what validation reads; docs/operations.md names the same."""

LOADING = """
import sys
from dentsight_pipeline.training import __main__, loop, predict, validation
from dentsight_pipeline.evaluation import columns, engines
from dentsight_pipeline.evaluation import validation as records
print(*sorted(name for name in sys.modules if name.startswith("dentsight_pipeline.") or name in {"dagster", "mlflow"}))
"""


def test_a_worker_loads_training_and_what_it_reads_and_no_other_room() -> None:
    """A GPU machine gets a job, the store and these rooms: an import of the orchestration would bring Dagster along."""
    child = subprocess.run([sys.executable, "-c", LOADING], check=True, capture_output=True, text=True)

    loaded = child.stdout.split()
    rooms = {name.split(".")[1] for name in loaded if "." in name}
    assert rooms - {"errors", "progress"} == ROOMS
    assert not {"dagster", "mlflow"} & set(loaded)
    figures = {name.split(".")[2] for name in loaded if name.startswith("dentsight_pipeline.evaluation.")}
    assert figures <= {"columns", "engines", "validation"}
