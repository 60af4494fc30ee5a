"""An audit finds every kind of change, says the first broken link in one sentence, and calls the intact one intact."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dentsight_pipeline.data.splits import annotations_file, read_split, split_files
from dentsight_pipeline.documents.lineage import AuditResult
from dentsight_pipeline.lineage.verify import Evidence, audit
from dentsight_pipeline.release import product, statement
from dentsight_pipeline.release.keys import generate_key
from dentsight_pipeline.release.policy import load_policy, parse_policy
from dentsight_pipeline.store import log
from dentsight_pipeline.store.content import build, read_json
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline_tests.data.coco import from_coco
from dentsight_pipeline_tests.lineage.chain_builder import (
    Chain,
    checkpoint_of,
    continue_chain,
    evaluation_of,
    flip,
    overwrite,
    predictions_of,
    recorded,
)

KINDS = {
    "release",
    "release-report",
    "evaluation",
    "predictions",
    "checkpoint",
    "condition-subset",
    "normalized-splits",
    "raw-export",
}


def audited(chain: Chain, asset: str = "released_model", **more: Any) -> AuditResult:
    """The audit of one asset of the chain, with the chain's own key."""
    bytes_of = more.pop("bytes_of", "all")
    evidence = Evidence(**{"public_key": chain.public_key, **more})
    return audit(chain.store, chain.digests[asset], evidence, bytes_of=bytes_of)


def test_an_intact_release_is_intact_down_to_the_original_files(intact_chain: Chain) -> None:
    """A false alarm would teach everybody to look away."""
    result = audited(intact_chain, exports=[intact_chain.export])

    assert result.findings == ()
    assert result.intact
    assert result.kind == "release"
    assert {item.kind for item in result.chain} == {*KINDS, "object", "record"}


def test_every_file_of_the_chain_is_named_where_it_lies(intact_chain: Chain) -> None:
    """An auditor who trusts nobody's program can hash the same files with sha256sum."""
    result = audited(intact_chain)

    for item in result.chain:
        assert hashlib.sha256(Path(item.path).read_bytes()).hexdigest() == item.digest, item.name
    assets = [asset for asset in intact_chain.digests if asset != "earlier_release"]
    named = {entry.sha256 for asset in assets for entry in intact_chain.manifest(asset).entries.values()}
    assert {item.digest for item in result.chain if item.kind == "object"} == named
    assert result.hashed_bytes == sum(Path(i.path).stat().st_size for i in result.chain if i.kind == "object")


def test_the_provenance_answers_what_an_auditor_asks(intact_chain: Chain) -> None:
    """Code commit and dirty flag, packages, hardware, recipe, seeds, runs, and what the export says about itself."""
    found = audited(intact_chain).provenance

    checkpoint = next(step for step in found.steps if step.asset == "trained_checkpoint")
    assert found.code.commits == ("c0ffee",)
    assert found.code.dirty is False
    assert found.recipe is not None
    assert found.recipe.name == "smoke"
    assert found.recipe.overrides == {"seed": 7, "weights": None}
    assert found.seeds == {"training": 7, "bootstrap": 0}
    assert found.mlflow_runs == (f"{7:032x}",)
    assert "run-of-trained_checkpoint" in found.dagster_runs
    assert found.source is not None
    assert found.source.licence == "CC BY 4.0"
    assert (checkpoint.packages, checkpoint.hardware) == ({"torch": "2"}, {"device": "CPU"})


def _image(chain: Chain) -> str:
    return next(path for path in chain.manifest("condition_subset").entries if path.startswith("images/"))


def _flip_a_pixel(chain: Chain) -> None:
    flip(chain.object_file("raw_export", _image(chain)))


def _edit_a_label(chain: Chain) -> None:
    path = chain.object_file("condition_subset", annotations_file("test"))
    coco = read_split(chain.store, chain.manifest("condition_subset"), "test").to_coco()
    coco["annotations"][0]["category_id"] += 1
    overwrite(path, split_files([from_coco("test", coco)])[annotations_file("test")])


def _swap_the_weights(chain: Chain) -> None:
    overwrite(chain.object_file("trained_checkpoint", "model/model.safetensors"), b"other weights" * 315)


def _edit_the_report(chain: Chain) -> None:
    path = chain.object_file("release_report", "report.html")
    overwrite(path, path.read_bytes().replace(b"caries", b"fairies", 1))


def _edit_a_manifest(chain: Chain) -> None:
    path = chain.manifest_file("trained_checkpoint")
    overwrite(path, path.read_bytes().replace(b'"healthy":true', b'"healthy":null'))


def _remove_an_object(chain: Chain) -> None:
    chain.object_file("normalized_splits", annotations_file("train")).unlink()


def _remove_a_manifest(chain: Chain) -> None:
    chain.manifest_file("normalized_splits").unlink()


def _cut_an_object(chain: Chain) -> None:
    path = chain.object_file("test_predictions", "test.arrow")
    overwrite(path, path.read_bytes()[:-5])


def _edit_a_record(chain: Chain) -> None:
    folder = chain.root / "workspace/store/records" / chain.digests["trained_checkpoint"]
    path = next(folder.iterdir())
    overwrite(path, path.read_bytes().replace(b'"dirty":false', b'"dirty":true!'))


def _remove_a_record(chain: Chain) -> None:
    next((chain.root / "workspace/store/records" / chain.digests["trained_checkpoint"]).iterdir()).unlink()


def _slip_a_record_in(chain: Chain) -> None:
    chain.store.append_record(chain.digests["trained_checkpoint"], {"code": {"commit": "clean", "dirty": False}})


def _remove_a_log_entry(chain: Chain) -> None:
    chain.log_file(4).unlink()


def _remove_the_last_log_entry(chain: Chain) -> None:
    chain.log_file(9).unlink()


def _edit_a_log_entry(chain: Chain) -> None:
    path = chain.log_file(4)
    overwrite(path, path.read_bytes().replace(b'"dirty":false', b'"dirty":true'))


def _write_the_log_anew(chain: Chain) -> None:
    """The checkpoint's entry left out, everything after it moved up, all digests right again."""
    store, folder = chain.store, chain.root / "workspace" / "store"
    kept = [entry for entry in log.read(store).entries if entry.product != chain.digests["trained_checkpoint"]]
    for place in (folder / "log", folder / "refs" / "lineage", folder / "records"):
        shutil.rmtree(place)
    for entry in kept:
        log.append(store, entry.product, entry.record)


def _edit_the_signature(chain: Chain) -> None:
    path = chain.object_file("released_model", statement.SIGNATURE)
    document = json.loads(path.read_bytes())
    signature = document["dsseEnvelope"]["signatures"][0]
    signature["sig"] = signature["sig"][:-8] + "AAAAAAA="
    overwrite(path, json.dumps(document).encode())


def _cut_the_release_chain(chain: Chain) -> None:
    """The newest release taken back, as if it had never been made."""
    first = chain.manifest("earlier_release")
    value = {"digest": first.digest, "sequence": 1, "previous": None}
    chain.store.write_ref(statement.HEAD_REF, value)
    chain.manifest_file("released_model").unlink()


def _remove_a_release_from_the_middle(chain: Chain) -> None:
    chain.manifest_file("earlier_release").unlink()


@pytest.mark.parametrize(
    ("damage", "asset", "first"),
    [
        (_flip_a_pixel, "released_model", r"^images/\S+ of the condition-subset .* was changed: its bytes hash to"),
        (_edit_a_label, "released_model", r"^test/annotations\.arrow of the condition-subset \w+ was changed"),
        (
            _swap_the_weights,
            "released_model",
            r"^model/model\.safetensors of the release .*also part of the checkpoint",
        ),
        (_swap_the_weights, "trained_checkpoint", r"^model/model\.safetensors of the checkpoint .* was changed"),
        (_edit_the_report, "released_model", r"^report\.html of the release .* was changed"),
        (_edit_the_report, "release_report", r"^report\.html of the release-report .* was changed"),
        (_edit_a_manifest, "released_model", r"^The manifest of the trained_checkpoint .* was changed"),
        (_remove_an_object, "released_model", r"^train/annotations\.arrow of the normalized-splits .* is missing"),
        (_remove_a_manifest, "trained_checkpoint", r"^The manifest of the normalized_splits .* is missing"),
        (_cut_an_object, "released_model", r"^test\.arrow of the predictions .* was changed"),
        (_edit_a_record, "trained_checkpoint", r"^A record of how the checkpoint .* was changed"),
        (_remove_a_record, "trained_checkpoint", r"^A record of how the checkpoint .* was removed"),
        (_slip_a_record_in, "trained_checkpoint", r"^A record of the checkpoint .* is not in the log"),
        (_remove_a_log_entry, "raw_export", r"^Entry 4 of the log was removed: there are entries up to 9"),
        (_remove_the_last_log_entry, "raw_export", r"^The log was cut off: its noted head is entry 9"),
        (_edit_a_log_entry, "raw_export", r"^Entry 4 of the log was changed"),
        (_write_the_log_anew, "trained_checkpoint", r"^Nothing records how the checkpoint .* came about"),
        (_cut_the_release_chain, "trained_checkpoint", r"^Release \w+ was removed from the chain of releases"),
        (_remove_a_release_from_the_middle, "released_model", r"^The chain of releases is broken: .* is missing"),
    ],
)
def test_each_planted_change_is_found(chain: Chain, damage: Callable[[Chain], None], asset: str, first: str) -> None:
    """Each of these was done to a whole chain; the first finding names the broken link in one sentence."""
    damage(chain)

    result = audited(chain, asset)

    assert not result.intact
    assert_matches(result.findings[0], first)
    assert "\n" not in result.findings[0]


def assert_matches(text: str, pattern: str) -> None:
    """With the text in the message, since the pattern alone says little."""
    assert re.search(pattern, text), text


def test_a_log_written_anew_does_not_fit_what_a_release_signed(chain: Chain) -> None:
    """Whoever rewrites the log and everything in the store still cannot sign the statement again."""
    _write_the_log_anew(chain)

    findings = audited(chain).findings

    assert any("The log was cut off or written anew: the release" in finding for finding in findings)


def test_a_head_that_was_noted_elsewhere_proves_what_came_later(chain: Chain) -> None:
    """A store taken back as a whole looks intact by itself; only a note outside of it can tell."""
    noted = [str(log.head(chain.store)), chain.digests["released_model"]]
    _remove_the_last_log_entry(chain)
    before = log.read(chain.store).entries[-1]
    chain.store.write_ref(log.HEAD_REF, {"sequence": before.sequence, "digest": before.digest})
    _cut_the_release_chain(chain)
    shutil.rmtree(chain.root / "workspace/store/records" / chain.digests["released_model"])

    alone = audited(chain, "earlier_release")
    with_notes = audited(chain, "earlier_release", noted_heads=noted)

    assert alone.intact
    assert len(with_notes.findings) == 2
    assert with_notes.findings[0].startswith("The log was cut off or written anew: the noted entry 9:")
    assert with_notes.findings[1].startswith("The chain of releases was cut off")


def test_a_signature_that_was_changed_is_found_even_when_its_digest_is_right(chain: Chain) -> None:
    """A forger can make a manifest of its own for a changed signature; the key is what they do not have."""
    document = json.loads(chain.object_file("released_model", statement.SIGNATURE).read_bytes())
    document["dsseEnvelope"]["payload"] = document["dsseEnvelope"]["payload"][:-8] + "AAAAAAA="
    forged = chain.forged("released_model", {statement.SIGNATURE: json.dumps(document).encode()})

    findings = audited(forged).findings

    assert any("is not what was signed" in finding for finding in findings)


def test_a_file_added_to_a_release_is_found(chain: Chain) -> None:
    """A manifest of its own gives it a right digest; the signed list of files does not have it."""
    findings = audited(chain.forged("released_model", {"approval.pdf": b"approved"})).findings

    assert any("lists other files than the release holds" in finding for finding in findings)


def test_a_release_signed_by_somebody_else_is_found(chain: Chain, tmp_path: Path) -> None:
    """The key comes from the reader, never from the release."""
    other = generate_key(tmp_path / "other")

    result = audited(chain, public_key=other.public)

    assert_matches(result.findings[0], r"is not what was signed: its signature does not hold")


def test_a_release_without_a_key_to_verify_it_is_not_intact(intact_chain: Chain) -> None:
    """What could not be verified fails closed."""
    result = audited(intact_chain, public_key=None)

    assert result.findings == (
        f"The signature of the release {intact_chain.digests['released_model'][:12]} cannot be verified: "
        "no public key was found (--key FILE).",
    )


# Manifests made by hand: every digest is right, the content is a lie ------------------------------------------------


def _verdict_with(chain: Chain, change: Callable[[dict[str, Any]], None]) -> Chain:
    """A report whose verdict was edited everywhere, with a manifest and a record of its own."""
    store, before = chain.store, chain.manifest("release_report")
    verdict, report = read_json(store, before, "verdict.json"), read_json(store, before, "report.json")
    change(verdict)
    report["verdict"] = verdict
    facts = {"verdict": verdict["outcome"], "releasable": verdict["releasable"]}
    files = {"verdict.json": json.dumps(verdict).encode(), "report.json": json.dumps(report).encode()}
    return chain.forged("release_report", files, facts)


def _failing(chain: Chain) -> Chain:
    """An evaluation that fails one hard gate, and the report on it, both honest."""
    store, evaluation = chain.store, chain.manifest("class_metrics")
    document = read_json(store, evaluation, "evaluation.json")
    for row in document["measurements"]:
        if (row["class"], row["metric"]) == ("caries", "ap"):
            row |= {"value": 0.01, "low": 0.005, "high": 0.02}
    made = build(
        store,
        "evaluation",
        {**evaluation.entries, "evaluation.json": json.dumps(document).encode()},
        evaluation.inputs,
        evaluation.facts,
    )
    digests = {**chain.digests, "class_metrics": recorded(store, "class_metrics", made)}
    policy = load_policy("card")
    report = product.publish_report(store, product.chain_of(store, made), policy, (), None, title="failing")
    return replace(chain, digests={**digests, "release_report": recorded(store, "release_report", report)})


def test_an_honest_failure_is_intact(chain: Chain) -> None:
    """A missed gate is a result; the audit asks whether it is told truly."""
    failing = _failing(chain)

    result = audited(failing, "release_report")

    assert failing.manifest("release_report").facts["verdict"] == "FAIL"
    assert result.findings == ()


def test_a_verdict_that_the_stored_evaluation_does_not_give_is_found(chain: Chain) -> None:
    """The edit that pays: FAIL made PASS, with every digest and record in order."""

    def pass_it(verdict: dict[str, Any]) -> None:
        verdict |= {"outcome": "PASS", "releasable": True}
        verdict["sentences"] = ["PASS: all hard gates passed."]

    forged = _verdict_with(_failing(chain), pass_it)

    assert_matches(
        audited(forged, "release_report").findings[0],
        r"^The verdict of the release-report \w+ was edited: it says outcome 'PASS', but the gates give 'FAIL'",
    )


def test_one_edited_row_of_a_verdict_is_found(chain: Chain) -> None:
    """A nicer number in the table that nobody's decision hangs on."""

    def polish(verdict: dict[str, Any]) -> None:
        row = next(row for row in verdict["rows"] if row["metric"] == "ap")
        row["value"] = 0.99

    forged = _verdict_with(chain, polish)

    assert_matches(audited(forged, "release_report").findings[0], r"says value 0\.99, but the stored evaluation gives")


def test_findings_by_tooth_that_nothing_measured_are_found_in_a_report(chain: Chain) -> None:
    """They decide no gate, but a reviewer reads them."""
    told = read_json(chain.store, chain.manifest("release_report"), "report.json")
    told["teeth"] = {"heads_healthy": {}, "populations": None}

    forged = chain.forged("release_report", {"report.json": json.dumps(told).encode()})

    assert_matches(audited(forged, "release_report").findings[0], "findings by tooth that report.json .* shows are not")


def test_a_licence_taken_out_of_a_verdict_is_found(chain: Chain) -> None:
    """The card and the signed statement repeat it: whoever hands the model on goes by what stands there."""
    forged = _verdict_with(chain, lambda verdict: verdict["licences"].clear())

    assert_matches(audited(forged, "release_report").findings[0], "its licences are not those of what it was made")


def test_a_lowered_floor_under_the_name_of_the_packaged_policy_is_found(chain: Chain) -> None:
    """The policy is part of the report; its name alone says nothing about its floors."""
    store, before = chain.store, chain.manifest("release_report")
    report = read_json(store, before, "report.json")
    gate = next(gate for gate in report["policy"]["gates"] if gate["metric"] == "ap")
    gate["floor"] = 0.01
    policy = parse_policy(json.dumps(report["policy"]))
    report["verdict"]["policy_digest"] = policy.digest
    files = {
        "report.json": json.dumps(report).encode(),
        "verdict.json": json.dumps(report["verdict"]).encode(),
    }
    forged = chain.forged("release_report", files)

    assert_matches(
        audited(forged, "release_report").findings[0], r"calls itself card v\d+ but differs from the packaged"
    )


def test_a_report_that_mixes_two_chains_is_found(chain: Chain) -> None:
    """The good model's evaluation under the other model's name."""
    other = continue_chain(chain.store, chain.manifest("condition_subset"), 8, 3.0)
    before = chain.manifest("release_report")
    inputs = {**before.inputs, "trained_checkpoint": other["trained_checkpoint"]}
    mixed = build(chain.store, "release-report", dict(before.entries), inputs, before.facts)
    digest = recorded(chain.store, "release_report", mixed)

    result = audit(chain.store, digest)

    assert any("is about trained_checkpoint" in finding for finding in result.findings)


def test_predictions_of_another_model_under_an_evaluation_are_found(chain: Chain) -> None:
    """The evaluation carries the digest of what it scored."""
    subset, checkpoint = chain.manifest("condition_subset"), chain.manifest("trained_checkpoint")
    better = predictions_of(chain.store, subset, checkpoint, 0.0)
    digest = recorded(chain.store, "test_predictions", better)
    before = chain.manifest("class_metrics")
    inputs = {**before.inputs, "test_predictions": digest}
    swapped = build(chain.store, "evaluation", dict(before.entries), inputs, before.facts)

    result = audit(chain.store, recorded(chain.store, "class_metrics", swapped))

    assert_matches(result.findings[0], r"^The evaluation \w+ was made from other detections than test of")


def test_a_release_that_holds_another_model_is_found(chain: Chain) -> None:
    """Signed weights are not enough: they must be the ones that were judged."""
    forged = chain.forged("released_model", {"model/model.safetensors": b"better weights"})

    findings = audited(forged).findings

    assert_matches(findings[0], r"^model/model\.safetensors of the release \w+ is not the one in the checkpoint")


def test_an_edited_recipe_is_found(chain: Chain) -> None:
    """The checkpoint's identity names the recipe's digest."""
    recipe = read_json(chain.store, chain.manifest("trained_checkpoint"), "recipe.json")
    forged = chain.forged("trained_checkpoint", {"recipe.json": json.dumps({**recipe, "seed": 1}).encode()})

    assert_matches(audited(forged, "trained_checkpoint").findings[0], r"^The recipe in the checkpoint \w+ has digest")


@pytest.mark.parametrize("content", [b"[]", b'{"healthy": "yes"}', b"not JSON"])
def test_a_file_of_another_form_than_its_kinds_is_found(chain: Chain, content: bytes) -> None:
    """Its digest is right, so nothing else would say that nobody can read it."""
    forged = chain.forged("trained_checkpoint", {"health.json": content})

    assert_matches(audited(forged, "trained_checkpoint").findings[0], r"^The checkpoint \w+ does not have the form of")


def test_a_product_that_lacks_a_file_of_its_kind_is_found(chain: Chain) -> None:
    """A checkpoint without its recipe cannot be made again by anybody."""
    before = chain.manifest("trained_checkpoint")
    entries = {path: entry for path, entry in before.entries.items() if path != "recipe.json"}
    made = Manifest("checkpoint", entries, before.inputs, before.facts)

    result = audit(chain.store, recorded(chain.store, "trained_checkpoint", made))

    assert_matches(result.findings[0], r"does not have the form of its kind: .*has no file 'recipe\.json'")


def test_a_product_whose_own_manifest_is_gone_is_of_unknown_kind(chain: Chain) -> None:
    """A digest from a paper still gets an answer: records tell that there was such a product."""
    chain.manifest_file("trained_checkpoint").unlink()

    result = audited(chain, "trained_checkpoint")

    assert (result.kind, result.intact) == ("unknown", False)
    assert result.findings[0].startswith(f"The manifest of {chain.digests['trained_checkpoint'][:12]} is missing")


def test_facts_of_another_form_than_their_kinds_are_found(chain: Chain) -> None:
    """Facts are read by everything downstream."""
    before = chain.manifest("test_predictions")
    made = Manifest("predictions", before.entries, before.inputs, {**before.facts, "detections_per_image": "many"})

    result = audit(chain.store, recorded(chain.store, "test_predictions", made))

    assert_matches(result.findings[0], r"does not have the form of its kind: .*\$\.detections_per_image")


def test_a_record_of_another_form_is_found_and_stops_nothing(chain: Chain) -> None:
    """Whoever can write to the store can log anything; the audit goes on."""
    log.append(chain.store, chain.digests["trained_checkpoint"], {"asset": "trained_checkpoint", "started": "noon"})

    findings = audited(chain, "trained_checkpoint").findings

    assert_matches(findings[0], r"^A record of how the checkpoint \w+ came about does not have the form of a record")


def test_an_image_that_no_export_brought_is_found(chain: Chain) -> None:
    """A picture slipped into the training data between export and subset."""
    extra = b"not from the export"
    name = f"images/{hashlib.sha256(extra).hexdigest()}.jpg"
    forged = chain.forged("normalized_splits", {name: extra})

    assert_matches(audited(forged, "normalized_splits").findings[0], r"is not in the raw-export")


def test_a_product_without_inputs_leads_nowhere(chain: Chain) -> None:
    """A checkpoint that names no data cannot be audited, and that is a finding."""
    before = chain.manifest("trained_checkpoint")
    orphan = Manifest("checkpoint", before.entries, {}, before.facts)

    result = audit(chain.store, recorded(chain.store, "trained_checkpoint", orphan))

    assert_matches(result.findings[0], r"does not name the condition_subset or tooth_subset that it was made from")


def test_a_record_that_names_other_inputs_is_found(chain: Chain) -> None:
    """What the step recorded and what the manifest says must be one story."""
    subset = chain.manifest("condition_subset")
    made = checkpoint_of(chain.store, subset, 9)
    digest = recorded(chain.store, "trained_checkpoint", made, inputs={"condition_subset": "e" * 64})

    result = audit(chain.store, digest)

    assert_matches(
        result.findings[0], r"says that it was made from condition_subset eeeeeeeeeeee, but the manifest names"
    )


def test_a_changed_original_is_found(chain: Chain) -> None:
    """With the original files at hand the proof goes one step further than the store."""
    flip(next((chain.export / "train").glob("*.jpg")))

    result = audited(chain, exports=[chain.export])

    assert_matches(result.findings[0], r"original image with sha256 \w+ is missing or was changed")


def test_many_findings_of_one_product_are_summed_up(chain: Chain) -> None:
    """A lost disk must not bury the first sentence under thousands."""
    shutil.rmtree(chain.root / "workspace/store/objects")

    result = audited(chain)

    assert_matches(result.findings[0], r"^\S+ of the release \w+.* is missing")
    assert len(result.findings) < 150


def test_only_the_tops_bytes_are_hashed_when_asked(chain: Chain) -> None:
    """The asset check after every training must be cheap, and must say what it left out."""
    _flip_a_pixel(chain)

    result = audited(chain, "trained_checkpoint", bytes_of="top")

    assert result.intact
    own = {entry.sha256: entry.size for entry in chain.manifest("trained_checkpoint").entries.values()}
    assert result.hashed_bytes == sum(own.values())
    assert "The bytes of the 3 products below were not hashed again" in result.notes[0]


def test_a_product_that_was_made_twice_is_noted_and_no_finding(chain: Chain) -> None:
    """The same bytes from two runs are the best evidence that a step can be made again."""
    recorded(chain.store, "trained_checkpoint", chain.manifest("trained_checkpoint"))

    result = audited(chain, "trained_checkpoint")

    assert result.intact
    (note,) = (note for note in result.notes if "was made" in note)
    assert_matches(note, r"^The checkpoint \w+ was made 2 times, always the same\.$")


def test_what_a_step_made_on_its_way_is_covered_by_its_record(chain: Chain) -> None:
    """The champion's predictions on newer data are made inside the step that evaluates them."""
    store, subset = chain.store, chain.manifest("condition_subset")
    predictions = predictions_of(store, subset, chain.manifest("trained_checkpoint"), 1.0)
    store.put_manifest(predictions)
    evaluation = evaluation_of(store, subset, predictions)
    digest = recorded(store, "champion_metrics", evaluation, inputs={"condition_subset": subset.digest})

    assert audit(store, digest).findings == ()


def test_a_product_that_a_step_read_needs_a_record_of_its_own(chain: Chain) -> None:
    """The same predictions, but read by the step: then somebody made them, and nothing says who."""
    store, subset = chain.store, chain.manifest("condition_subset")
    predictions = predictions_of(store, subset, chain.manifest("trained_checkpoint"), 1.0)
    store.put_manifest(predictions)
    digest = recorded(store, "class_metrics", evaluation_of(store, subset, predictions))

    assert_matches(audit(store, digest).findings[0], r"^Nothing records how the predictions \w+ came about")
