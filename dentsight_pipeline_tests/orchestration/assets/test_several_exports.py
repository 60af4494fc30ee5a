"""`dentsight run --export A --export B`: two exports, one dataset; teeth in one, conditions in the other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dentsight_pipeline.data.ontology import TEETH
from dentsight_pipeline.data.splits import read_splits
from dentsight_pipeline.documents.facts import SplitsFacts
from dentsight_pipeline.phantom.export import write_phantom_export
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store
from dentsight_pipeline_tests.orchestration.assets.conftest import FEW_STEPS, Home, new_home

pytestmark = pytest.mark.slow


UNDECLARED = ("--source", "canonical")
"""The mapping that declares nothing: a class counts as looked for where an export has a box of it."""


def filtered(export: Path, into: Path, keep: Callable[[str], bool], images: Callable[[int], bool]) -> Path:
    """A copy of an export with some labels and some images of each split; what is left out is as if never labelled."""
    shutil.copytree(export, into)
    for file in into.glob("*/_annotations.coco.json"):
        document = json.loads(file.read_text(encoding="utf-8"))
        names = {category["id"]: category["name"] for category in document["categories"]}
        kept = {image["id"]: image["file_name"] for k, image in enumerate(document["images"]) if images(k)}
        for image in document["images"]:
            if image["id"] not in kept:
                (file.parent / image["file_name"]).unlink()
        document["images"] = [image for image in document["images"] if image["id"] in kept]
        document["annotations"] = [
            a for a in document["annotations"] if a["image_id"] in kept and keep(names[a["category_id"]])
        ]
        file.write_text(json.dumps(document), encoding="utf-8")
    return into


@dataclass(frozen=True)
class Combined:
    """A home with a dataset of two exports, and what `dentsight run --json` said."""

    home: Home
    teeth: Path
    conditions: Path
    said: dict[str, Any]

    @property
    def store(self) -> Store:
        """Its store."""
        return self.home.store

    @property
    def splits(self) -> Manifest:
        """The combined dataset."""
        return self.store.get_manifest(self.store.get_manifest(self.said["dataset_digest"]).inputs["normalized_splits"])

    def run(self, *arguments: str) -> dict[str, Any]:
        """`dentsight run` with few steps."""
        done = self.home.dentsight("run", *arguments, *FEW_STEPS, "--json", timeout=600)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def combined(tmp_path_factory: pytest.TempPathFactory) -> Combined:
    """Two of three images of each split have their teeth marked, two of three their conditions: one of three both."""
    folder = tmp_path_factory.mktemp("exports")
    write_phantom_export(folder / "whole", 24, 3, width=640)
    teeth = filtered(folder / "whole", folder / "teeth", TEETH.__contains__, lambda k: k % 3 != 0)
    conditions = filtered(folder / "whole", folder / "conditions", lambda n: n not in TEETH, lambda k: k % 3 != 1)
    made = Combined(new_home(tmp_path_factory.mktemp("home")), teeth, conditions, {})
    exports = ("--export", str(teeth), "--export", str(conditions), *UNDECLARED)
    said = made.run(*exports, "--dataset", "both-v1", "--with-teeth")
    return Combined(made.home, teeth, conditions, said)


def test_the_dataset_is_of_both_and_every_stage_learns_from_its_own(combined: Combined) -> None:
    """X-rays with teeth alone are no healthy mouths, and those with conditions alone no toothless ones."""
    store, facts = combined.store, combined.splits.facts_as(SplitsFacts)
    findings = store.get_manifest(combined.said["tooth_findings_digest"])
    subsets = [store.get_manifest(findings.inputs[name]) for name in ("condition_subset", "tooth_subset")]
    exports = [
        {e for s in read_splits(store, subset).values() for e in s.images["export"].to_pylist()} for subset in subsets
    ]

    assert len(facts.exports) == len(combined.splits.inputs) == 2
    assert all(part.same_bytes > 0 for part in facts.exports)
    assert [len(names) for names in exports] == [1, 1]
    assert exports[0] | exports[1] == {part.name for part in facts.exports}


def _exports_in(store: Store, subset: Manifest) -> set[str]:
    return {name for split in read_splits(store, subset).values() for name in split.images["export"].to_pylist()}


def test_the_audit_is_intact_and_proves_both_exports(combined: Combined) -> None:
    """Every byte down to both exports; one place alone does not prove the other's."""
    report = combined.said["report_digest"]

    def audit(*places: Path) -> tuple[int, dict[str, Any]]:
        options = [option for place in places for option in ("--export", str(place))]
        done = combined.home.dentsight("audit", report, *options, "--json")
        return done.returncode, json.loads(done.stdout)

    code, whole = audit(combined.conditions, combined.teeth)
    assert (code, whole["findings"]) == (0, [])
    assert sum(item["kind"] == "raw-export" for item in whole["chain"]) == 2
    code, half = audit(combined.teeth)
    assert code == 5
    assert all("is missing or was changed" in finding or "more findings" in finding for finding in half["findings"])


def test_the_same_exports_in_another_order_are_the_same_dataset(combined: Combined) -> None:
    """And the key alone is enough: nothing is done twice."""
    exports = ("--export", str(combined.conditions), "--export", str(combined.teeth))

    again = combined.run(*exports, "--dataset", "both-v1")

    assert again["report_digest"] == combined.said["report_digest"]
    assert {"raw_export", "normalized_splits", "condition_subset", "trained_checkpoint"} <= set(again["cached"])
    assert combined.run("--dataset", "both-v1")["report_digest"] == again["report_digest"]


def test_an_export_of_teeth_alone_has_its_own_stage(combined: Combined) -> None:
    """It has nothing for stage 2 to learn; who asks for that is told, and stage 1 is trained and reported alone."""
    export = ("--export", str(combined.teeth), *UNDECLARED, "--dataset", "teeth-v1")

    refused = combined.home.dentsight("run", *export, *FEW_STEPS)
    said = combined.run(*export, "--stage", "teeth")

    assert refused.returncode == 2 and "--stage teeth" in refused.stderr
    assert said["report"].endswith("teeth/report.html")
    assert combined.store.get_manifest(said["dataset_digest"]).kind == "tooth-subset"


def test_one_of_them_under_the_same_key_is_refused(combined: Combined) -> None:
    """The last `--export` used to win in silence."""
    done = combined.home.dentsight("run", "--export", str(combined.teeth), "--dataset", "both-v1", *FEW_STEPS)

    assert done.returncode == 2
    assert "'both-v1' already means the export" in done.stderr
    assert str(combined.conditions) in done.stderr


def test_inspect_tells_of_both_as_one(combined: Combined) -> None:
    """Before anything is done: what each brings, and what test and train share across them."""
    done = combined.home.dentsight(
        "inspect", str(combined.teeth), "--export", str(combined.conditions), *UNDECLARED, "--json"
    )
    assert done.returncode == 0, done.stderr
    said, facts = json.loads(done.stdout), combined.splits.facts_as(SplitsFacts)

    assert said["refusals"] == []
    assert {frozenset(part["images"].items()) for part in said["exports"]} == {
        frozenset(part.images.items()) for part in facts.exports
    }
    assert said["leakage"] == json.loads(json.dumps(combined.splits.facts["leakage"]))
    assert len(said["coverage"]) == 2
