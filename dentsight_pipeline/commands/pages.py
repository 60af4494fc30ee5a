"""`dentsight read` and `review`: pages on localhost, and what people said on them."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dentsight_pipeline.commands.console import show
from dentsight_pipeline.documents.study import STUDY_FILE

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from dentsight_pipeline.documents.review import ReviewQueue
    from dentsight_pipeline.pages.server import Door
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store


@dataclass(frozen=True)
class ReadRequest:
    """What `dentsight read` was asked for."""

    study: Path
    plan: str = ""
    readers: list[str] = field(default_factory=list)
    images: int = 30
    title: str = "Reader study"
    crossover: bool = False
    washout_days: float = 14.0
    seed: int = 0
    export: bool = False
    port: int = 0


def read(asked: ReadRequest, as_json: bool) -> None:
    """Plan a study, write out its readings, or let its readers read until Ctrl-C."""
    if asked.export:
        from dentsight_pipeline.pages.readings import write_readings

        return _written(write_readings(asked.study), as_json)
    return _plan(asked, as_json) if asked.plan else _serve(asked, as_json)


def _plan(asked: ReadRequest, as_json: bool) -> None:
    from dentsight_pipeline.orchestration.resources import Workspace
    from dentsight_pipeline.pages.planning import Plan, plan_study

    store = Workspace().store
    plan = Plan(asked.readers, asked.images, asked.title, asked.crossover, asked.washout_days, asked.seed)
    study = plan_study(store, _named(store, asked.plan), asked.study, plan)
    facts = {"study": study.digest, "images": len(study.images), "readers": study.readers, "design": study.design}
    show(facts, as_json, lambda: f"{asked.study / STUDY_FILE}: {len(study.images)} images, study {study.digest[:12]}")


def _serve(asked: ReadRequest, as_json: bool) -> None:
    from dentsight_pipeline.pages.reading import Reading
    from dentsight_pipeline.pages.reading_page import reading_page

    reading = Reading(asked.study)
    facts, heading = {"study": reading.study.digest}, ["One link for each reader, until Ctrl-C:"]
    _until_stopped(partial(reading_page, reading), reading.study.readers, asked.port, facts, heading, as_json)


@dataclass(frozen=True)
class ReviewRequest:
    """What `dentsight review` was asked for."""

    ref: str
    list_only: bool = False
    corrections: bool = False
    apply: str = ""
    by: str = ""
    out: Path | None = None
    port: int = 0


def review(asked: ReviewRequest, as_json: bool) -> None:
    """List the suspects of a dataset, write out the corrections, or let somebody decide until Ctrl-C."""
    from dentsight_pipeline.evaluation.label_review import review_queue
    from dentsight_pipeline.orchestration.resources import Workspace

    workspace = Workspace()
    queue = review_queue(workspace.store, _named(workspace.store, asked.ref))
    folder = asked.out or Path("reviews") / queue.digest[:12]
    if asked.list_only:
        return show(queue, as_json, lambda: "\n".join(_lines(queue)))
    if asked.corrections:
        from dentsight_pipeline.pages.reviewing import write_corrections

        return _written(write_corrections(workspace.store, folder, asked.apply), as_json)
    return _review_until_stopped(workspace.store, queue, folder, asked, as_json)


def _lines(queue: "ReviewQueue") -> list[str]:
    told = [
        f"{s.score:.2f} {s.kind:8} {s.class_name or '(image)'}: {s.why} ({s.image[:12]})" for s in queue.suspects[:50]
    ]
    return [f"{len(queue.suspects)} suspects", *told]


def _review_until_stopped(
    store: "Store", queue: "ReviewQueue", folder: Path, asked: ReviewRequest, as_json: bool
) -> None:
    from dentsight_pipeline.errors import ConfigurationError
    from dentsight_pipeline.pages.review_page import review_page
    from dentsight_pipeline.pages.reviewing import Review, keep_queue, neighbours_of

    if not asked.by.strip():
        raise ConfigurationError("A correction needs a name: give yours with --by NAME. It is no account.")
    keep_queue(folder, queue)
    page = partial(review_page, Review(folder, neighbours_of(store, queue)), image_bytes=store.get_bytes)
    facts = {"queue": queue.digest, "folder": str(folder)}
    _until_stopped(page, (asked.by.strip(),), asked.port, facts, [], as_json)


def _until_stopped(
    page: "Callable[[Door], Starlette]",
    people: Sequence[str],
    port: int,
    facts: Mapping[str, str],
    heading: Sequence[str],
    as_json: bool,
) -> None:
    """Serve a page to people, each by a link of his own that is told first."""
    from dentsight_pipeline.pages.server import Door, listening, serve

    opened = listening(port)
    door = Door(people, opened.getsockname()[1])
    links = {name: door.link(name) for name in people}
    told = [*heading, *(f"{name}: {link}" for name, link in links.items())]
    show({**facts, "links": links}, as_json, lambda: "\n".join(told))
    sys.stdout.flush()
    serve(page(door), opened)


def _written(files: Iterable[Path], as_json: bool) -> None:
    facts = {"files": [str(path) for path in files]}
    show(facts, as_json, lambda: "\n".join(facts["files"]))


def _named(store: "Store", ref: str) -> "Manifest":
    """What a reference means; a dataset key means its newest condition subset."""
    from dentsight_pipeline.commands.export import subset_of
    from dentsight_pipeline.intake.datasets import recall_dataset
    from dentsight_pipeline.lineage.reference import resolve

    return subset_of(store, ref) if recall_dataset(store, ref) else store.get_manifest(resolve(store, ref).digest)
