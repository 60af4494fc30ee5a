"""The contract between whoever starts a training process and the process: job files in, result or error files out.

A job says *where* (store, folders, this machine's means); *what* is trained is the recipe's to say. Fields here change
no weight.
"""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dentsight_pipeline.errors import ConfigurationError, DentsightError, HeadCollapseError
from dentsight_pipeline.store.files import write_whole

EXIT_REFUSED = 2
"""Exit status after a deliberate error; `error.json` says which."""
EXIT_COLLAPSED = 6
"""Exit status after `HeadCollapseError`."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Job(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    store_uri: str
    """The content-addressed store that is read and published to."""
    workdir: Path
    """Folder of this process: resumable state, events, result. The same folder again resumes."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads of torch; None = all."""
    device: str | None = None
    """`cpu` or `cuda`; None = a GPU when there is one."""


class FitJob(_Job):
    """Train a recipe on a subset and publish a checkpoint manifest."""

    subset: Digest
    """Digest of the condition-subset (stage 2) or tooth-subset (stage 1) manifest."""
    recipe: dict[str, Any]
    """All fields of a `Recipe`."""
    allow_head_collapse: str | None = None
    """The reason why training may go on although a head-health rule tripped; goes into `health.json`. None = abort."""
    price_per_hour: Annotated[float, Field(ge=0.0)] | None = None
    """What an hour of this machine costs, for the cost card; None = unknown."""
    currency: str = "USD"
    """Currency of price_per_hour."""
    workers: Annotated[int, Field(ge=0)] | None = None
    """Loader processes; None = 0 on the CPU, 4 on a GPU."""
    checkpoint_interval_s: Annotated[float, Field(ge=0.0)] = 60.0
    """Longest time between resumable checkpoints; there is one after each evaluation anyway."""
    cache_dir: Path | None = None
    """Where letterboxed images are cached; None = `workdir/cache`. Several trainings may share one."""


class PredictJob(_Job):
    """Predict splits of a subset with a checkpoint and publish a predictions manifest."""

    checkpoint: Digest
    """Digest of the checkpoint manifest."""
    subset: Digest
    """Digest of the subset manifest."""
    splits: list[str]
    """Splits to predict, e.g. ["valid", "test"]."""
    mirrored: list[str] = []
    """Splits to predict mirrored as well; boxes are mapped back to the unmirrored frame."""
    images_only: bool = False
    """Only the subset's images are wanted, so its classes need not be the checkpoint's: teeth are looked for on every
    image of the condition subset."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Images of one forward pass."""


Job = TypeVar("Job", bound=_Job)


def load(kind: type[Job], path: Path) -> Job:
    """Reads a job file.

    Raises:
        ConfigurationError: The file is missing, no JSON, or does not have the fields of `kind`.
    """
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"Job file {path} cannot be read: {error.strerror}. Give the path of a job."
        ) from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise ConfigurationError(
            f"Job file {path} is no {kind.__name__}: {problems}. Its fields are {', '.join(kind.model_fields)}."
        ) from error


def write_result(workdir: Path, digest: str, record: dict[str, Any]) -> None:
    """Writes `result.json`: the published manifest's digest and the record of how it came about."""
    (workdir / "error.json").unlink(missing_ok=True)
    write_json(workdir / "result.json", {"digest": digest, "record": record})


def write_error(workdir: Path, error: BaseException) -> int:
    """Writes `error.json` and returns the exit status that goes with the error."""
    workdir.mkdir(parents=True, exist_ok=True)
    deliberate = isinstance(error, DentsightError)
    content = {"type": type(error).__name__, "message": str(error)}
    if not deliberate:
        content["traceback"] = "".join(traceback.format_exception(error))
    write_json(workdir / "error.json", content)
    if isinstance(error, HeadCollapseError):
        return EXIT_COLLAPSED
    return EXIT_REFUSED if deliberate else 1


def write_json(path: Path, content: Any) -> None:
    """Writes a small JSON file in one piece: it is there whole or not at all."""
    write_whole(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())
