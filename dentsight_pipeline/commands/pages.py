"""`dentsight read`: the reader study's page on localhost, its plan and its readings."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dentsight_pipeline.commands.console import show
from dentsight_pipeline.documents.study import STUDY_FILE

if TYPE_CHECKING:
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

        facts = {"files": [str(path) for path in write_readings(asked.study)]}
        return show(facts, as_json, lambda: "\n".join(facts["files"]))
    return _plan(asked, as_json) if asked.plan else _serve(asked, as_json)


def _plan(asked: ReadRequest, as_json: bool) -> None:
    from dentsight_pipeline.orchestration.resources import Workspace
    from dentsight_pipeline.pages.planning import Plan, plan_study

    store = Workspace().store
    plan = Plan(asked.readers, asked.images, asked.title, asked.crossover, asked.washout_days, asked.seed)
    study = plan_study(store, _planned_from(store, asked.plan), asked.study, plan)
    facts = {"study": study.digest, "images": len(study.images), "readers": study.readers, "design": study.design}
    show(facts, as_json, lambda: f"{asked.study / STUDY_FILE}: {len(study.images)} images, study {study.digest[:12]}")


def _planned_from(store: "Store", ref: str) -> "Manifest":
    from dentsight_pipeline.commands.export import subset_of
    from dentsight_pipeline.documents.names import Kind
    from dentsight_pipeline.intake.datasets import recall_dataset
    from dentsight_pipeline.lineage.reference import resolve

    named = store.get_manifest(resolve(store, ref).digest) if recall_dataset(store, ref) is None else None
    return named if named and named.kind == Kind.TOOTH_FINDINGS else subset_of(store, ref)


def _serve(asked: ReadRequest, as_json: bool) -> None:
    from dentsight_pipeline.pages.reading import Reading
    from dentsight_pipeline.pages.reading_page import reading_page
    from dentsight_pipeline.pages.server import Door, listening, serve

    reading = Reading(asked.study)
    opened = listening(asked.port)
    door = Door(reading.study.readers, opened.getsockname()[1])
    facts = {"study": reading.study.digest, "links": {name: door.link(name) for name in door.people}}
    links = [f"{name}: {link}" for name, link in facts["links"].items()]
    show(facts, as_json, lambda: "\n".join(["One link for each reader, until Ctrl-C:", *links]))
    sys.stdout.flush()
    serve(reading_page(reading, door), opened)
