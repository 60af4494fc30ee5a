"""Job files in, result or error files out, as this side of the contract (`documents/job.py`) reads and writes them."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.job import Failure, Job, Result, RunRecord
from dentsight_pipeline.errors import ConfigurationError, DentsightError, DocumentError, HeadCollapseError
from dentsight_pipeline.store.files import write_whole

EXIT_REFUSED = 2
"""Exit status after a deliberate error; `error.json` says which."""
EXIT_COLLAPSED = 6
"""Exit status after `HeadCollapseError`."""

ALONE = ("--standalone",)
"""How the processes of one machine meet."""

AnyJob = TypeVar("AnyJob", bound=Job)


def load(kind: type[AnyJob], path: Path) -> AnyJob:
    """Reads a job file.

    Raises:
        ConfigurationError: The file is missing, no JSON, or does not have the fields of `kind`.
    """
    try:
        return codec.read(path.read_bytes(), kind, path)
    except OSError as error:
        raise ConfigurationError(
            f"Job file {path} cannot be read: {error.strerror}. Give the path of a job."
        ) from error
    except DocumentError as error:
        raise ConfigurationError(
            f"Job file {path} is no {kind.__name__}: {error.problem}. "
            f"Its fields are {', '.join(kind.__struct_fields__)}."
        ) from error


def trainer_of(verb: str, path: Path, processes: int = 1, meet: Sequence[str] = ALONE) -> list[str]:
    """Module and arguments that do a job; through torchrun where a training is more than one process.

    Args:
        verb: `fit` or `predict`; only the former takes several.
        path: The job file.
        processes: On this machine.
        meet: torchrun's options that say how all of them find each other.
    """
    module = ["dentsight_pipeline.training", verb, str(path)]
    if verb != "fit" or (processes == 1 and meet == ALONE):
        return module
    return ["torch.distributed.run", *meet, "--max-restarts=0", f"--nproc-per-node={processes}", "-m", *module]


def write_result(folder: Path, digest: str, record: RunRecord) -> None:
    """Writes `result.json`: the published manifest's digest and the record of how it came about."""
    (folder / "error.json").unlink(missing_ok=True)
    write_document(folder / "result.json", Result(digest=digest, record=record))


def write_error(folder: Path, error: BaseException) -> int:
    """Writes `error.json` and returns the exit status that goes with the error."""
    folder.mkdir(parents=True, exist_ok=True)
    deliberate = isinstance(error, DentsightError)
    trace = None if deliberate else "".join(traceback.format_exception(error))
    failure = Failure(type=type(error).__name__, message=str(error), traceback=trace)
    write_document(folder / "error.json", failure)
    return exit_status(error)


def exit_status(error: BaseException) -> int:
    """2 for a deliberate error, 6 for a collapsed head, 1 for a crash."""
    if isinstance(error, HeadCollapseError):
        return EXIT_COLLAPSED
    return EXIT_REFUSED if isinstance(error, DentsightError) else 1


def write_document(path: Path, content: object) -> None:
    """Writes a small JSON file in one piece: it is there whole or not at all."""
    write_whole(path, codec.pretty(content))
