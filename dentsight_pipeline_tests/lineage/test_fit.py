"""Products made by hand with right digests: each that does not fit what it was made from is told in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from dentsight_pipeline.documents.codec import plain
from dentsight_pipeline.lineage.fit import misfits
from dentsight_pipeline.lineage.rejudge import can_block, is_altered
from dentsight_pipeline.lineage.walk import walk
from dentsight_pipeline.release.policy import load_policy, parse_policy
from dentsight_pipeline.store.content import read_json
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline_tests.lineage.chain_builder import Chain, recorded

STRANGER = "f" * 64
Document = dict[str, Any]


def _found(chain: Chain, asset: str) -> list[str]:
    """What is wrong with a product, its own digest and those of the intact chain as `<asset>`."""
    found = misfits(chain.store, walk(chain.store, chain.digests[asset]), chain.manifest(asset))
    for name, digest in chain.digests.items():
        found = [line.replace(digest[:12], f"<{name}>") for line in found]
    return found


def _with_inputs(chain: Chain, asset: str, inputs: Mapping[str, str]) -> list[str]:
    before = chain.manifest(asset)
    made = Manifest(before.kind, before.entries, inputs, before.facts)
    digest = recorded(chain.store, asset, made)
    found = misfits(chain.store, walk(chain.store, digest), made)
    for name, own in {**chain.digests, asset: digest}.items():
        found = [line.replace(own[:12], f"<{name}>") for line in found]
    return found


@pytest.mark.parametrize(
    "asset",
    ["raw_export", "normalized_splits", "condition_subset", "trained_checkpoint", "class_metrics", "released_model"],
)
def test_nothing_is_found_of_a_chain_that_fits(intact_chain: Chain, asset: str) -> None:
    """A false alarm would teach everybody to look away."""
    assert _found(intact_chain, asset) == []


@pytest.mark.parametrize(
    ("asset", "facts", "finding"),
    [
        (
            "trained_checkpoint",
            {"healthy": None},
            "The checkpoint <trained_checkpoint> calls its head unknown, but its health.json says healthy.",
        ),
        (
            "trained_checkpoint",
            {"healthy": False},
            "The checkpoint <trained_checkpoint> calls its head collapsed, but its health.json says healthy.",
        ),
        (
            "trained_checkpoint",
            {"classes": ["caries"]},
            "The checkpoint <trained_checkpoint> knows other classes than the condition-subset <condition_subset> "
            "that it was trained on.",
        ),
        (
            "class_metrics",
            {"checkpoint": STRANGER},
            "The evaluation <class_metrics> names another checkpoint than the predictions <test_predictions> that it "
            "scores.",
        ),
        (
            "released_model",
            {"sequence": 3},
            "The statement of the release <released_model> says sequence 2, but its facts say 3.",
        ),
        (
            "released_model",
            {"previous": None},
            "The statement of the release <released_model> says previous '<earlier_release>",
        ),
        (
            "released_model",
            {"never_for_xrays": True},
            "The statement of the release <released_model> says never_for_xrays False, but its facts say True.",
        ),
        (
            "released_model",
            {"verdict": "FAIL"},
            "The statement of the release <released_model> says verdict 'PASS', but its facts say 'FAIL'.",
        ),
    ],
)
def test_facts_that_files_do_not_bear_out_are_found(chain: Chain, asset: str, facts: Document, finding: str) -> None:
    """Facts are what everything downstream reads, and the one thing that a hand-made manifest can say freely."""
    found = _found(chain.forged(asset, {}, facts), asset)

    assert len(found) == 1
    assert found[0].startswith(finding)


def test_a_release_names_the_chain_of_its_report_and_no_other(chain: Chain) -> None:
    """The model that is handed out would else be another than the one that was judged."""
    told = dict(chain.manifest("released_model").facts["chain"])

    other = _found(
        chain.forged("released_model", {}, {"chain": told | {"trained_checkpoint": STRANGER}}), "released_model"
    )
    more = _found(chain.forged("released_model", {}, {"chain": told | {"plan": STRANGER}}), "released_model")

    tail = "than the release-report <release_report> that allowed it."
    assert other == [f"The release <released_model> names another trained_checkpoint {tail}"]
    assert more == [f"The release <released_model> names another plan {tail}"]


def test_a_release_of_a_report_that_does_not_allow_it_is_found(chain: Chain) -> None:
    """Signed in order, and made against the verdict."""
    refused = chain.forged("release_report", {}, {"releasable": False, "verdict": "FAIL"})
    found = _with_inputs(refused, "released_model", {"release_report": refused.digests["release_report"]})

    assert "The release <released_model> was made although the verdict of its report is FAIL." in found


def test_every_model_file_of_a_release_is_that_of_its_checkpoint(chain: Chain) -> None:
    """One more, or another one; the statement does not list them either."""
    more = _found(chain.forged("released_model", {"model/extra.bin": b"x"}), "released_model")
    other = _found(chain.forged("released_model", {"model/config.json": b"{}"}), "released_model")

    listed = "The statement of the release <released_model> lists other files than the release holds."
    assert more == ["The release <released_model> holds model/extra.bin, which is not in its checkpoint.", listed]
    assert other == [
        "model/config.json of the release <released_model> is not the one in the checkpoint <trained_checkpoint>.",
        listed,
    ]


def _statement(chain: Chain, change: Callable[[Document], Any]) -> list[str]:
    statement = read_json(chain.store, chain.manifest("released_model"), "statement.json")
    change(statement["predicate"])
    return _found(chain.forged("released_model", {"statement.json": json.dumps(statement).encode()}), "released_model")


def test_a_statement_that_tells_of_other_products_people_or_plans_is_found(chain: Chain) -> None:
    """A key alone does not make a statement true."""
    of = "The statement of the release <released_model> names"

    assert _statement(chain, lambda said: said["inputs"].pop()) == [f"{of} other products than its report."]
    assert _statement(chain, lambda said: said.update(approvedBy=["A. Bell"])) == [
        f"{of} other people than those whose approvals it holds."
    ]
    assert _statement(chain, lambda said: said.update(plan=STRANGER)) == [f"{of} another plan than its report."]


def test_an_image_whose_bytes_are_not_those_of_its_name_is_found(chain: Chain) -> None:
    """Names are digests: whoever looks a picture up by its name must get it."""
    name = f"images/{STRANGER}.jpg"

    (finding,) = _found(chain.forged("raw_export", {name: b"other"}), "raw_export")

    assert finding.startswith(f"Image {name} of the raw-export <raw_export> holds other bytes than its name says: ")


def test_an_image_that_the_splits_do_not_have_is_found_in_a_subset(chain: Chain) -> None:
    """Also one of the same bytes under the name of another kind."""
    path, entry = next((p, e) for p, e in chain.manifest("raw_export").entries.items() if p.startswith("images/"))
    name = path.replace(".jpg", ".png")
    store, before = chain.store, chain.manifest("condition_subset")
    made = Manifest(before.kind, {**before.entries, name: entry}, before.inputs, before.facts)
    digest = recorded(store, "condition_subset", made)

    found = misfits(store, walk(store, digest), made)

    splits = chain.digests["normalized_splits"][:12]
    assert found == [
        f"Image {name} of the condition-subset {digest[:12]} is not in the normalized-splits {splits} that it was made "
        "from."
    ]


@pytest.mark.parametrize("what", ["ground_truth_sha256", "detections_sha256"])
def test_an_evaluation_of_something_else_is_found(chain: Chain, what: str) -> None:
    """Whose figures it holds is known by two digests, which can be made again from what is stored."""
    document = read_json(chain.store, chain.manifest("class_metrics"), "evaluation.json")
    changed = json.dumps(document | {what: STRANGER}).encode()

    found = _found(chain.forged("class_metrics", {"evaluation.json": changed}), "class_metrics")

    of = {"ground_truth_sha256": "ground truth than test of the condition-subset <condition_subset>"}
    told = of.get(what, "detections than test of the predictions <test_predictions>")
    assert found == [f"The evaluation <class_metrics> was made from other {told}."]


def test_inputs_that_are_missing_or_of_another_kind_are_found(chain: Chain) -> None:
    """Each group of alternatives once; the walk would else end, or go astray, without a word."""
    inputs = chain.manifest("class_metrics").inputs
    splits = chain.digests["normalized_splits"]

    missing = _with_inputs(chain, "class_metrics", {})
    wrong = _with_inputs(chain, "trained_checkpoint", {"condition_subset": splits})

    assert missing == [
        "The evaluation <class_metrics> does not name the test_predictions that it was made from.",
        "The evaluation <class_metrics> does not name the condition_subset or tooth_subset that it was made from.",
    ]
    assert inputs
    assert (
        "The checkpoint <trained_checkpoint> names <normalized_splits> as its condition_subset, but that is a "
        "normalized-splits, not a condition-subset."
    ) in wrong


def test_exports_that_a_dataset_tells_of_are_those_that_it_was_made_from(chain: Chain) -> None:
    """Of one export it tells none apart; of several each by its digest."""
    part = {
        "name": "A",
        "raw_export": chain.digests["raw_export"],
        "corpus": chain.manifest("normalized_splits").facts["corpus"],
        "source": {},
        "mapping": chain.manifest("normalized_splits").facts["mapping"],
        "images": {},
        "annotations": 0,
        "same_bytes": 0,
        "same_source": 0,
    }

    found = _found(chain.forged("normalized_splits", {}, {"exports": [part]}), "normalized_splits")

    assert found == ["The normalized-splits <normalized_splits> tells of other exports than it was made from."]


# The verdict of a report ---------------------------------------------------------------------------------------------


def _report(chain: Chain, change: Callable[[Document, Document], Any], **facts: Any) -> list[str]:
    """What is found of a report after a change of report.json and verdict.json, which are given parsed."""
    before = chain.manifest("release_report")
    report, verdict = (read_json(chain.store, before, name) for name in ("report.json", "verdict.json"))
    change(report, verdict)
    files = {"report.json": json.dumps(report).encode(), "verdict.json": json.dumps(verdict).encode()}
    return _found(chain.forged("release_report", files, facts), "release_report")


def _both(change: Callable[[Document], Any]) -> Callable[[Document, Document], Any]:
    """The same change of the verdict wherever it stands."""
    return lambda report, verdict: (change(verdict), report.update(verdict=verdict))


_REPORT = "The release-report <release_report>"
_SHOWN = "that report.json of the release-report <release_report> shows"
_EDITED = "The verdict of the release-report <release_report> was edited: "


@pytest.mark.parametrize(
    ("change", "facts", "found"),
    [
        (lambda report, verdict: None, {}, []),
        (
            lambda report, verdict: report["verdict"]["sentences"].append("More."),
            {},
            ["report.json of the release-report <release_report> tells another verdict than its verdict.json."],
        ),
        (
            lambda report, verdict: None,
            {"verdict": "FAIL"},
            [f"{_REPORT} is marked FAIL, releasable, but its verdict.json says PASS, releasable."],
        ),
        (
            lambda report, verdict: None,
            {"releasable": False},
            [f"{_REPORT} is marked PASS, not releasable, but its verdict.json says PASS, releasable."],
        ),
        (
            lambda report, verdict: None,
            {"champion": STRANGER},
            ["report.json of the release-report <release_report> compares with another champion than its facts name."],
        ),
        (
            lambda report, verdict: report["policy"].update(version=9),
            {},
            [
                "The policy in report.json of the release-report <release_report> is not the one that its verdict was "
                "given under."
            ],
        ),
        (
            lambda report, verdict: report["evaluation"].update(notes=["nicer"]),
            {},
            [f"The evaluation {_SHOWN} is not the stored one."],
        ),
        (
            lambda report, verdict: report["health"].update(ratio_last_to_first=2.0),
            {},
            [f"The health {_SHOWN} is not the stored one."],
        ),
        (_both(lambda verdict: verdict["rows"].pop(3)), {}, [f"{_EDITED}gate tier1_macro_ap50 is missing."]),
        (
            _both(lambda verdict: verdict["rows"].append(verdict["rows"][3] | {"id": "mine"})),
            {},
            [f"{_EDITED}gate mine is not in its policy."],
        ),
        (
            _both(lambda verdict: verdict["rows"][4].update(blocks=True)),
            {},
            [f"{_EDITED}gate tier1_caries_ap says blocks True, but the stored evaluation gives False."],
        ),
        (_both(lambda verdict: verdict["rows"][4].update(because="Words.", sentence="Words.")), {}, []),
        (
            _both(lambda verdict: verdict["sentences"].insert(0, "All is well.")),
            {},
            [f"{_EDITED}its first sentence does not say PASS."],
        ),
        (
            _both(lambda verdict: verdict.update(sentences=[])),
            {},
            [f"{_EDITED}its first sentence does not say PASS."],
        ),
        (
            _both(lambda verdict: verdict["classes"].pop()),
            {},
            [f"{_EDITED}its classes is not what the gates give on the stored evaluation."],
        ),
        (
            _both(lambda verdict: verdict.update(head="unknown")),
            {},
            [f"{_EDITED}its head is not what the gates give on the stored evaluation."],
        ),
    ],
)
def test_a_report_that_shows_or_says_otherwise_than_the_gates_is_found(
    chain: Chain, change: Callable[[Document, Document], Any], facts: Document, found: list[str]
) -> None:
    """One sentence for each lie; wording alone may differ, since another version may word a row otherwise."""
    assert _report(chain, change, **facts) == found


def test_a_policy_may_lend_a_packaged_name_only_with_its_floors() -> None:
    """Under a name of its own, or as another version, it may ask what it likes."""
    card = load_policy("card")
    text = plain(card)
    text["gates"][4]["floor"] = 0.01

    lowered = parse_policy(json.dumps(text))

    assert is_altered(lowered)
    assert not is_altered(card)
    assert not is_altered(parse_policy(json.dumps(text | {"name": "mine"})))
    assert not is_altered(parse_policy(json.dumps(text | {"version": 99})))
    assert can_block(lowered)
