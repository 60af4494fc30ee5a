"""`dentsight reproduce`: an empty workspace, and processes behind the guard that locks the GPU."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from dentsight_pipeline.commands import text
from dentsight_pipeline.commands.audit import INTACT, NOT_INTACT
from dentsight_pipeline.commands.console import show, staged
from dentsight_pipeline.commands.workspace import initialise
from dentsight_pipeline.documents.codec import plain
from dentsight_pipeline.documents.lineage import Reproduction
from dentsight_pipeline.lineage.environment import code_state
from dentsight_pipeline.lineage.reference import resolve
from dentsight_pipeline.lineage.reproduce import reproduce as make_again
from dentsight_pipeline.orchestration.backends.local import run_alone
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.orchestration.tracking.registry import registry_of
from dentsight_pipeline.progress import Progress
from dentsight_pipeline.store.files import refuse_full
from dentsight_pipeline.store.objects import open_store


def reproduce(ref: str, into: Path | None, as_json: bool) -> int:
    """Make a checkpoint again and compare; gives the exit status."""
    into = into.absolute() if into else None
    result = reproduce_reference(Workspace(), ref, into=into, progress=staged())
    show({"ref": ref, **plain(result)}, as_json, lambda: text.reproduction(result))
    return INTACT if result.reproduced else NOT_INTACT


def reproduce_reference(
    workspace: Workspace, ref: str, *, into: Path | None = None, progress: Progress | None = None
) -> Reproduction:
    """Make again what a reference means, in a workspace of its own.

    Args:
        workspace: Where it was recorded; only read, but for the locks of the GPUs.
        ref: See `lineage/reference.py`.
        into: A new or empty folder that becomes a workspace and is kept; by default a temporary one.
        progress: Called with stage, done, total.

    Raises:
        ConfigurationError: The reference leads to no checkpoint, or `into` is not empty.
        DentsightError: Something recorded is damaged, or the training failed.
    """
    if into is not None:
        refuse_full(into, "Give a new folder, so that nothing old is reused.")
    digest = resolve(workspace.store, ref, registry_of(workspace)).digest
    guarded = partial(run_alone, locks=workspace.gpu_locks)
    with _home(into) as home:
        fresh, scratch = open_store(initialise(into).store if into else home / "store"), home / "scratch"
        scratch.mkdir(exist_ok=True)
        return make_again(workspace.store, digest, fresh, scratch, guarded, code=code_state(), progress=progress)


@contextmanager
def _home(into: Path | None) -> Iterator[Path]:
    if into is not None:
        yield into
        return
    with tempfile.TemporaryDirectory(prefix="dentsight-reproduce-") as folder:
        yield Path(folder)
