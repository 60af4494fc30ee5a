"""`dentsight run --with-teeth`: stage 1 and the findings by tooth, on top of a finished cell."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dentsight_pipeline.data.ontology import TEETH
from dentsight_pipeline.data.splits import read_split, read_stored
from dentsight_pipeline.documents.codec import write
from dentsight_pipeline.documents.detections import DETECTIONS
from dentsight_pipeline.documents.facts import ReaderAgreementFacts
from dentsight_pipeline.documents.names import Asset
from dentsight_pipeline.documents.teeth import FINDINGS_FILE, METRICS_FILE, ToothFindings, ToothMetrics, ToothReport
from dentsight_pipeline.pages.reading import Reading
from dentsight_pipeline.release.product import report_of
from dentsight_pipeline.store.content import build, read_document, read_json
from dentsight_pipeline.store.manifest import Entry, Manifest
from dentsight_pipeline.store.objects import Store
from dentsight_pipeline_tests.orchestration.assets.conftest import FEW_STEPS, FinishedCell, Home
from dentsight_pipeline_tests.orchestration.assets.test_graph import ASSETS


@dataclass(frozen=True)
class Teeth:
    """The finished cell's home after the second run, and what that run said."""

    home: Home
    said: dict[str, Any]
    stderr: str

    @property
    def findings(self) -> Manifest:
        """The findings by tooth."""
        return self.home.store.get_manifest(self.said["tooth_findings_digest"])


def run_with_teeth(home: Home) -> Teeth:
    """The cell once more, with teeth."""
    done = home.dentsight("run", "--dataset", "tiny-v1", *FEW_STEPS, "--with-teeth", "--json")
    assert done.returncode == 0, done.stderr
    return Teeth(home, json.loads(done.stdout), done.stderr)


@pytest.fixture(scope="module")
def teeth(finished_cell: FinishedCell) -> Teeth:
    """The second run: only stage 1 is new."""
    return run_with_teeth(finished_cell.home)


def test_teeth_come_on_top_of_a_cell_that_stays_as_it_was(finished_cell: FinishedCell, teeth: Teeth) -> None:
    """Asking for teeth must not train or measure anything of stage 2 again; the verdict stays."""
    assert teeth.said["checkpoint_digest"] == finished_cell.said["checkpoint_digest"]
    assert teeth.said["verdict"] == finished_cell.said["verdict"]
    assert teeth.said["cached"] == [*ASSETS[:-1]]
    assert not [name for name in teeth.said["cached"] if name.startswith("tooth")]


def test_without_the_option_nothing_of_stage_one_is_made(finished_cell: FinishedCell) -> None:
    """Teeth are opt-in: they double the training time of a cell."""
    assert "tooth_findings_digest" not in finished_cell.said
    assert not [name for name in ("tooth_subset", "tooth_checkpoint", "tooth_findings") if name in finished_cell.stderr]


def test_the_progress_counts_the_assets_of_stage_one_too(teeth: Teeth) -> None:
    """The tooth subset comes before any training, since it may refuse the export."""
    stages = [line for line in teeth.stderr.splitlines() if line.startswith("[")]

    assert [line.split()[0] for line in stages] == [f"[{n}/11]" for n in range(1, 12)]
    assert [line.split()[1] for line in stages if "tooth" in line] == [
        "tooth_subset",
        "tooth_checkpoint",
        "tooth_findings",
    ]
    assert stages[3] == "[4/11] tooth_subset"
    assert stages[9] == "[10/11] release_report"  # what is released shows findings by tooth


def test_both_stages_come_from_the_same_splits(teeth: Teeth) -> None:
    """A test image of one stage must be no training image of the other."""
    store, findings = teeth.home.store, teeth.findings
    checkpoint = store.get_manifest(findings.inputs["tooth_checkpoint"])
    subsets = [store.get_manifest(findings.inputs[name]) for name in ("condition_subset", "tooth_subset")]

    assert checkpoint.inputs == {"tooth_subset": subsets[1].digest}
    assert len({subset.inputs["normalized_splits"] for subset in subsets}) == 1


def test_stage_one_is_the_cells_recipe_on_teeth(finished_cell: FinishedCell, teeth: Teeth) -> None:
    """Same overrides, other stage; the stage itself is nobody's override."""
    store = teeth.home.store
    stage_one = store.get_manifest(teeth.findings.inputs["tooth_checkpoint"])
    stage_two = store.get_manifest(finished_cell.said["checkpoint_digest"])
    recipes = [read_json(store, checkpoint, "recipe.json") for checkpoint in (stage_one, stage_two)]

    assert stage_one.facts["classes"] == list(TEETH)
    assert recipes[0] == {**recipes[1], "stage": 1}
    assert recipes[0]["max_steps"] == 4


def test_every_test_image_is_looked_at(teeth: Teeth) -> None:
    """Also those whose teeth nobody marked: they are left out of the tooth subset, but have conditions."""
    store, findings = teeth.home.store, teeth.findings
    subset = store.get_manifest(findings.inputs["condition_subset"])
    predictions = store.get_manifest(findings.inputs["tooth_predictions"])
    listed = {image["id"] for image in read_split(store, subset, "test").to_coco()["images"]}
    found = read_stored(store, predictions, "test.arrow", DETECTIONS)

    assert set(found["image_id"].to_pylist()) == listed
    assert {image["image_id"] for image in read_json(store, findings, "findings.json")["images"]} == listed
    assert set(found["category_id"].to_pylist()) <= set(range(1, 33))


def test_figures_are_told_where_teeth_are_annotated(teeth: Teeth) -> None:
    """Four steps find nothing worth telling, and the figures must say so instead of being absent."""
    measured = read_json(teeth.home.store, teeth.findings, "metrics.json")["populations"]["all"]

    assert measured["images"] == teeth.findings.facts["images_with_annotated_teeth"] > 0
    assert measured["teeth"]["n_gt"] > 0
    assert measured["teeth"]["recall"] is not None


def test_the_report_shows_what_was_measured_tooth_by_tooth_and_the_audit_follows_it(teeth: Teeth) -> None:
    """Judged after stage 1, so that the report that a release signs has the figures."""
    store, report = teeth.home.store, teeth.home.store.get_manifest(teeth.said["report_digest"])
    told = report_of(store, report)
    audited = teeth.home.dentsight("audit", report.digest, "--json")

    assert report.inputs[Asset.TOOTH_FINDINGS] == teeth.findings.digest
    assert told.teeth is not None and told.teeth.populations is not None
    assert told.teeth.populations == read_document(store, teeth.findings, METRICS_FILE, ToothMetrics).populations
    assert "Both stages together, on" in Path(teeth.said["report"]).read_text("utf-8")
    assert (audited.returncode, json.loads(audited.stdout)["findings"]) == (0, [])


def of_score(store: Store, findings: Manifest, score: float | None) -> str:
    """Digest of the same findings by tooth whose stage 1 chose this score, or none: what four steps choose, if
    anything, is the machine's rounding."""
    told = read_document(store, findings, FINDINGS_FILE, ToothFindings)
    told = replace(told, thresholds=replace(told.thresholds, teeth=score))
    files: dict[str, bytes | Entry] = {**findings.entries, FINDINGS_FILE: write(told)}
    return store.put_manifest(build(store, findings.kind, files, findings.inputs, findings.facts))


def test_predict_takes_from_findings_by_tooth_which_teeth_count(teeth: Teeth) -> None:
    """A score that is right for one stage 1 finds no tooth at all with another; which one was taken is said."""
    home, store = teeth.home, teeth.home.store
    subset = store.get_manifest(teeth.findings.inputs["condition_subset"])
    image = next(str(store.local_path(e.sha256)) for name, e in subset.entries.items() if name.startswith("images/"))
    given = ("predict", image, "--checkpoint", teeth.said["checkpoint_digest"], "--json", "--teeth")

    by_findings = home.dentsight(*given, of_score(store, teeth.findings, 0.25))
    by_checkpoint = home.dentsight(*given, teeth.findings.inputs["tooth_checkpoint"])
    refused = home.dentsight(*given, of_score(store, teeth.findings, None))

    said, other = json.loads(by_findings.stdout), json.loads(by_checkpoint.stdout)
    assert (said["tooth_score"], said["tooth_score_from"]) == (0.25, "valid")
    assert (other["tooth_score"], other["tooth_score_from"]) == (0.5, "default")
    assert refused.returncode == 2
    assert "hit no tooth on valid" in refused.stderr


def test_stage_one_alone_has_a_report_of_its_own(teeth: Teeth) -> None:
    """Without conditions, gates or release; the tooth detector that is there is taken."""
    done = teeth.home.dentsight("run", "--dataset", "tiny-v1", *FEW_STEPS, "--stage", "teeth", "--json")
    assert done.returncode == 0, done.stderr
    said, store = json.loads(done.stdout), teeth.home.store
    report = store.get_manifest(said["report_digest"])
    facts = read_document(store, report, "report.json", ToothReport)
    page = Path(said["report"]).read_text(encoding="utf-8")

    assert said["checkpoint_digest"] == teeth.findings.inputs["tooth_checkpoint"]
    assert said["cached"] == ["raw_export", "normalized_splits", "tooth_subset", "tooth_checkpoint"]
    assert (said["verdict"], said["released"]) == ("INCONCLUSIVE", None)
    assert said["report"].endswith("reports/tiny-v1/smoke/teeth/report.html")
    assert [row.class_name for row in facts.evaluation.populations["all"].per_class] == list(TEETH)
    assert "By jaw and side" in page and "Misnumbered: wrong side" in page and "Drawn images." in page
    audited = teeth.home.dentsight("audit", said["report_digest"], "--json")
    assert (audited.returncode, json.loads(audited.stdout)["findings"]) == (0, [])


def test_a_second_run_with_teeth_trains_nothing_and_its_audit_is_intact(teeth: Teeth) -> None:
    """Unchanged work is never done twice, in stage 1 neither."""
    again = run_with_teeth(teeth.home)
    audited = json.loads(teeth.home.dentsight("audit", again.said["report_digest"], "--json").stdout)

    assert again.said["tooth_findings_digest"] == teeth.said["tooth_findings_digest"]
    assert {"tooth_subset", "tooth_checkpoint", "tooth_findings"} <= set(again.said["cached"])
    assert audited["findings"] == []


@pytest.mark.slow
def test_a_reader_study_of_the_cell_reaches_its_report_by_the_same_command(teeth: Teeth) -> None:
    """Planned from the findings by tooth, read, and judged through Dagster, agreement as a product."""
    home, store = teeth.home, teeth.home.store
    plan = ("read", "study", "--plan", teeth.findings.digest, "--reader", "A", "--reader", "B", "--images", "2")
    assert home.dentsight(*plan).returncode == 0
    reading = Reading(home.folder / "study")
    for reader in reading.study.readers:
        for position in range(2):
            reading.mark(reader, position, "36", reading.study.conditions[0], True)
            reading.finish(reader, position, True)
    reading.journal.close()

    done = home.dentsight("run", "--dataset", "tiny-v1", *FEW_STEPS, "--study", "study", "--json")

    said = json.loads(done.stdout)
    agreement, report = (store.get_manifest(said[f"{name}_digest"]) for name in ("reader_agreement", "report"))
    assert agreement.facts_as(ReaderAgreementFacts).readers == 2
    assert said["checkpoint_digest"] == teeth.said["checkpoint_digest"]
    assert report.inputs[Asset.READER_AGREEMENT] == agreement.digest
