"""`dentsight read` and `review`: pages on localhost, and what people said on them."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dentsight_pipeline.commands.console import show
from dentsight_pipeline.documents.study import STUDY_FILE
from dentsight_pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from dentsight_pipeline.documents.review import ReviewQueue
    from dentsight_pipeline.pages.reviewing import Neighbour, Review
    from dentsight_pipeline.pages.server import Door
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
    from dentsight_pipeline.commands.export import named
    from dentsight_pipeline.orchestration.resources import Workspace
    from dentsight_pipeline.pages.planning import Plan, plan_study

    store = Workspace().store
    plan = Plan(asked.readers, asked.images, asked.title, asked.crossover, asked.washout_days, asked.seed)
    study = plan_study(store, named(store, asked.plan), asked.study, plan)
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
    hand_over: Path | None = None
    to: str = ""
    answers: Path | None = None
    by: str = ""
    out: Path | None = None
    port: int = 0


def review(asked: ReviewRequest, as_json: bool) -> None:
    """List the suspects of a dataset, exchange them with other tools, or let somebody decide until Ctrl-C."""
    from dentsight_pipeline.commands.export import named
    from dentsight_pipeline.evaluation.label_review import review_queue
    from dentsight_pipeline.orchestration.resources import Workspace

    if asked.apply and not asked.corrections:
        raise ConfigurationError(f"--apply {asked.apply} goes with --corrections, which it applies. Give both.")
    workspace = Workspace()
    queue = review_queue(workspace.store, named(workspace.store, asked.ref))
    folder = asked.out or Path("reviews") / queue.digest[:12]
    if asked.list_only:
        return show(queue, as_json, lambda: "\n".join(_lines(queue)))
    if asked.corrections:
        from dentsight_pipeline.pages.reviewing import write_corrections

        return _written(write_corrections(workspace.store, folder, asked.apply), as_json)
    if asked.hand_over or asked.to:
        return _hand_over(workspace.store, queue, folder, asked, as_json)
    if asked.answers:
        return _take_back(workspace.store, queue, folder, asked.answers, asked, as_json)
    return _review_until_stopped(workspace.store, queue, folder, asked, as_json)


def _lines(queue: "ReviewQueue") -> list[str]:
    told = [
        f"{s.score:.2f} {s.kind:8} {s.class_name or '(image)'}: {s.why} ({s.image[:12]})" for s in queue.suspects[:50]
    ]
    return [f"{len(queue.suspects)} suspects", *told]


def _review_until_stopped(
    store: "Store", queue: "ReviewQueue", folder: Path, asked: ReviewRequest, as_json: bool
) -> None:
    from dentsight_pipeline.pages.review_page import review_page
    from dentsight_pipeline.pages.reviewing import neighbours_of

    who = _named_reviewer(asked)
    _refuse_nothing(queue, asked)
    page = partial(review_page, _opened(folder, queue, neighbours_of(store, queue)), image_bytes=store.get_bytes)
    facts = {"queue": queue.digest, "folder": str(folder)}
    _until_stopped(page, (who,), asked.port, facts, [], as_json)


def _refuse_nothing(queue: "ReviewQueue", asked: ReviewRequest) -> None:
    if not queue.suspects:
        raise ConfigurationError(
            f"No label of {asked.ref} is suspect, so there is nothing to review. What a model sees counts where REF is "
            "predictions, an evaluation, or what `dentsight run --with-review` told."
        )


def _named_reviewer(asked: ReviewRequest) -> str:
    if not asked.by.strip():
        raise ConfigurationError("A correction needs a name: give yours with --by NAME. It is no account.")
    return asked.by.strip()


def _opened(folder: Path, queue: "ReviewQueue", neighbours: "dict[str, tuple[Neighbour, ...]]") -> "Review":
    from dentsight_pipeline.pages.reviewing import Review, keep_queue

    keep_queue(folder, queue)
    return Review(folder, neighbours)


def _hand_over(store: "Store", queue: "ReviewQueue", folder: Path, asked: ReviewRequest, as_json: bool) -> None:
    """Write the open suspects for other tools, and upload them to Roboflow where that was asked for."""
    from dentsight_pipeline.intake.roboflow import RoboflowClient, parse_project
    from dentsight_pipeline.pages.handover import NEW_FOLDER, upload, write_handover
    from dentsight_pipeline.store.files import refuse_full

    project, client = (parse_project(asked.to), RoboflowClient.from_environment()) if asked.to else ("", None)
    _refuse_nothing(queue, asked)
    if asked.hand_over:
        refuse_full(asked.hand_over, NEW_FOLDER)
    review = _opened(folder, queue, {})
    files = write_handover(store, review, asked.hand_over) if asked.hand_over else []
    uploaded = upload(store, review, client, project) if client else 0
    facts = {"files": list(map(str, files)), "uploaded": uploaded}
    lines = [*facts["files"], *([f"{uploaded} images uploaded to {asked.to} as pre-annotations"] if client else [])]
    show(facts, as_json, lambda: "\n".join(lines))


def _take_back(
    store: "Store", queue: "ReviewQueue", folder: Path, path: Path, asked: ReviewRequest, as_json: bool
) -> None:
    from dentsight_pipeline.pages.answers import read_answers, take_answers

    who = _named_reviewer(asked)
    _refuse_nothing(queue, asked)
    read_answers(path)  # what cannot be read leaves no folder behind
    told = take_answers(store, _opened(folder, queue, {}), path, who)
    line = "{images} images decided, {corrections} corrections, {open} suspects on them still open".format(**told)
    show(told, as_json, lambda: line)


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
