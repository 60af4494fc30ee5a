"""From an evaluation to a report and a release: who overrides says why, and a refusal says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dentsight_pipeline.documents.names import Asset
from dentsight_pipeline.documents.readers import AGREEMENT_FILE, reader_agreement_ref
from dentsight_pipeline.documents.teeth import tooth_findings_ref
from dentsight_pipeline.documents.verdict import PLAN_ROW, Override
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.release import product
from dentsight_pipeline.store.content import build
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline_tests.release.conftest import judged

CHECKPOINT = "c0ffee" + 58 * "0"


def _stored(store: Store, kind: str, name: str, data: bytes = b"{}", facts: Any = None, **inputs: str) -> Manifest:
    manifest = build(store, kind, {name: data}, inputs, facts or {})
    store.put_manifest(manifest)
    return manifest


def test_an_override_is_a_name_and_a_reason_with_the_first_colon_between_them() -> None:
    """In the order of the gates, without the spaces around them; a reason may hold further colons."""
    assert product.overrides_of({"b": "A. Bell : study: ranking only ", "a": "C. Dyer:why"}) == (
        Override(gate="a", name="C. Dyer", reason="why"),
        Override(gate="b", name="A. Bell", reason="study: ranking only"),
    )


@pytest.mark.parametrize("text", ["A. Bell", "A. Bell:", " : why", ""])
def test_an_override_that_lacks_a_name_or_a_reason_is_refused(text: str) -> None:
    """Both are printed on the report."""
    with pytest.raises(ConfigurationError, match=r'^Override of .a. is .*Write who decides and why, as "Name: reason"'):
        product.overrides_of({"a": text})


@pytest.fixture
def report() -> Manifest:
    """A report on a checkpoint."""
    return Manifest("release-report", {}, {Asset.TRAINED_CHECKPOINT: CHECKPOINT}, {})


@pytest.mark.parametrize(("spoilt", "more"), [(1, ""), (3, ""), (4, " (and 1 more)"), (6, " (and 3 more)")])
def test_a_refusal_names_three_gates_and_counts_the_others(
    policy, evaluation, healthy, report, spoilt: int, more: str
) -> None:
    """Whoever reads it in a terminal learns why, and what to do."""
    hard = {("ap50", "macro"), *((m, c) for m in ("ap", "recall_at_p95") for c in ("caries", "calculus"))}
    hard.add(("ap", "periapical-radiolucency"))
    rows = [row for row in evaluation["measurements"] if (row["metric"], row["class"]) in hard]
    for row in rows[:spoilt]:
        row.update(value=0.01, low=0.0, high=0.02)
    verdict = judged(evaluation, policy, healthy)

    told = product.refusal(report, verdict)

    named = "; ".join(row.sentence.rstrip(".") for row in verdict.blocking[:3])
    assert told == (
        f"The verdict on checkpoint c0ffee000000 is FAIL under policy card v2: {named}{more}. "
        "Train a better model, or record an override with a name and a reason."
    )


def test_a_broken_plan_is_refused_without_an_offer_to_override_it(policy, evaluation, healthy, report) -> None:
    """It was signed before the training; nobody can take that back."""
    evaluation["engines"] = None
    verdict = judged(evaluation, policy, healthy)
    rows = tuple(replace(row, id=PLAN_ROW) if row.id == "tier0_engines_agree" else row for row in verdict.rows)

    told = product.refusal(report, replace(verdict, rows=rows))

    assert told.endswith(". A broken plan cannot be overridden.")


def test_a_report_reads_the_newest_study_and_findings_and_the_plan_it_is_given(tmp_path: Path) -> None:
    """Each where there is one, by its asset's name; those of another evaluation are none of its own."""
    store = open_store(tmp_path / "store")
    evaluation, other = (_stored(store, "evaluation", name) for name in ("a.json", "b.json"))
    study, teeth, plan = (_stored(store, kind, "x") for kind in ("reader-agreement", "tooth-findings", "plan"))

    assert product.beside(store, evaluation, None) == {}
    assert product.beside(store, evaluation, plan.digest) == {Asset.PLAN: plan}

    store.write_ref(reader_agreement_ref(evaluation.digest), {Asset.READER_AGREEMENT: study.digest})
    store.write_ref(tooth_findings_ref(evaluation.digest), {Asset.TOOTH_FINDINGS: teeth.digest})

    found = {Asset.READER_AGREEMENT: study, Asset.TOOTH_FINDINGS: teeth}
    assert product.beside(store, evaluation, None) == found
    assert product.beside(store, evaluation, plan.digest) == found | {Asset.PLAN: plan}
    assert product.beside(store, other, None) == {}


def test_studies_and_findings_are_read_as_they_were_stored(tmp_path: Path) -> None:
    """The report shows them; health and figures of findings lie in two places."""
    store = open_store(tmp_path / "store")
    told = b'{"title":"T","readers":["x"],"images":3,"unfinished":0,"conditions":[],"arms":[],"measurements":[]}'
    study = _stored(store, "reader-agreement", AGREEMENT_FILE, told)

    assert (product.stored_agreement(store, study).title, product.stored_agreement(store, study).images) == ("T", 3)


def test_a_report_is_laid_out_where_people_find_it(tmp_path: Path) -> None:
    """What is given back is the page that a browser opens."""
    store = open_store(tmp_path / "store")
    report = _stored(store, "release-report", "report.html", b"<html>")

    path = product.show(store, report, tmp_path / "reports" / "new")

    assert (path, path.read_bytes()) == (tmp_path / "reports" / "new" / "report.html", b"<html>")


def test_the_links_of_a_chain_lead_from_the_newest_to_the_exports(tmp_path: Path) -> None:
    """By way of the splits below the subset, whatever stands above it."""
    store = open_store(tmp_path / "store")
    raw = _stored(store, "raw-export", "a")
    splits = _stored(store, "normalized-splits", "b", raw_export=raw.digest)
    subset = _stored(store, "condition-subset", "c", normalized_splits=splits.digest)
    checkpoint = _stored(store, "checkpoint", "d")

    links = product.chain_links(store, (checkpoint, subset))

    assert [(link.kind, link.digest) for link in links] == [
        (made.kind, made.digest) for made in (checkpoint, subset, splits, raw)
    ]
