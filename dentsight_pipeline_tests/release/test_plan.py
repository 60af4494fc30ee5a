"""A plan before the training: what was changed afterwards cannot pass under it, and two named people sign."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dentsight_pipeline.documents.codec import plain, pretty
from dentsight_pipeline.documents.facts import PolicyVersion
from dentsight_pipeline.documents.lineage import Began
from dentsight_pipeline.documents.plan import PLAN, Plan
from dentsight_pipeline.documents.policy import ApprovalRule, Policy
from dentsight_pipeline.documents.verdict import PLAN_ROW, GateRow
from dentsight_pipeline.errors import ConfigurationError, ReleaseError
from dentsight_pipeline.lineage.verify import Evidence, audit
from dentsight_pipeline.orchestration.metadata import gate_results
from dentsight_pipeline.release import approval, product, statement
from dentsight_pipeline.release import plan as plans
from dentsight_pipeline.release.keys import KeyPair, generate_key
from dentsight_pipeline.release.policy import load_policy
from dentsight_pipeline.store import log
from dentsight_pipeline.store.content import build
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline_tests.lineage.chain_builder import (
    Chain,
    build_chain,
    checkpoint_of,
    evaluation_of,
    overwrite,
    predictions_of,
    recorded,
)
from dentsight_pipeline_tests.lineage.test_commands import at_home, called, said

SEED = 8


@pytest.fixture(scope="module")
def piloted(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """A store with data and an earlier model in it. Only for reading."""
    return build_chain(tmp_path_factory.mktemp("piloted"))


@pytest.fixture
def chain(piloted: Chain, tmp_path: Path) -> Chain:
    """A copy, in which a plan can be made."""
    return piloted.copied(tmp_path / "chain")


def planned(chain: Chain, policy: Policy | None = None, **changes: Any) -> Plan:
    """What the chain's next model will be."""
    policy = policy or load_policy("card")
    checkpoint = checkpoint_of(chain.store, chain.manifest("condition_subset"), SEED)
    told: dict[str, Any] = {
        "title": "next",
        "by": "Ann",
        "policy": PolicyVersion(name=policy.name, version=policy.version, digest=policy.digest),
        "recipes": {"smoke": checkpoint.facts["recipe_digest"]},
        "sources": plans.sources_of(chain.store, chain.manifest("condition_subset")),
        "margin": 0.05,
        "key": chain.public_key.read_text(),
    }
    return Plan(**{**told, **changes})


def signed(chain: Chain, plan: Plan, policy: Policy | None = None) -> Manifest:
    """A plan as `dentsight plan` signs it."""
    private = KeyPair.in_folder(chain.keys).private
    return plans.sign_plan(chain.store, plan, policy or load_policy("card"), private, time.time())[0]


def began(chain: Chain) -> Began:
    """The beginning of a training, now."""
    return Began(log=str(log.head(chain.store)), time=time.time())


def judged(
    chain: Chain, plan: Manifest | None, start: Began | None, policy: Policy | None = None, **changes: str
) -> Manifest:
    """The report on the next model, trained since `start`, under a plan."""
    store, subset = chain.store, chain.manifest("condition_subset")
    checkpoint = checkpoint_of(store, subset, SEED, **changes)
    more = {"began": plain(start)} if start else {}
    recorded(store, "trained_checkpoint", checkpoint, **more)
    predictions = predictions_of(store, subset, checkpoint, 0.1)
    recorded(store, "test_predictions", predictions)
    evaluation = evaluation_of(store, subset, predictions)
    recorded(store, "class_metrics", evaluation)
    products = {**product.chain_of(store, evaluation), **({"plan": plan} if plan else {})}
    report = product.publish_report(store, products, policy or load_policy("card"), (), None, title="next")
    recorded(store, "release_report", report)
    return report


def row_in(chain: Chain, report: Manifest) -> GateRow:
    """What the verdict says of the plan."""
    return next(row for row in product.verdict_of(chain.store, report).rows if row.id == PLAN_ROW)


def released(chain: Chain, report: Manifest) -> Manifest:
    """The release that a report allows, recorded."""
    release = product.publish_release(chain.store, report, chain.keys)
    recorded(chain.store, "released_model", release)
    return release


def findings(chain: Chain, product_digest: str) -> tuple[str, ...]:
    """What an audit finds."""
    return audit(chain.store, product_digest, Evidence(public_key=chain.public_key)).findings


def test_a_release_says_which_plan_it_fulfils_and_the_audit_follows_it(chain: Chain) -> None:
    """The plan is part of the chain, its entry of the log older than the training."""
    plan = signed(chain, planned(chain))

    release = released(chain, judged(chain, plan, began(chain)))

    assert statement.statement_of(chain.store, release).predicate.plan == plan.digest
    result = audit(chain.store, release.digest, Evidence(public_key=chain.public_key))
    assert result.findings == ()
    assert plan.digest in {item.digest for item in result.chain}


def test_what_is_otherwise_than_planned_cannot_pass_and_each_clause_is_named(chain: Chain) -> None:
    """Recipe, gates, reading of the data, and subgroups of which nothing was measured."""
    (source,) = planned(chain).sources
    other = msgspec.structs.replace(source, coverage="0" * 64, mapping="0" * 64)
    policy: Any = PolicyVersion(name="card", version=1, digest="0" * 64)
    subgroups = ("deciduous",)
    plan = planned(chain, recipes={"v3": "0" * 64}, policy=policy, sources=(other,), subgroups=subgroups)

    report = judged(chain, signed(chain, plan), began(chain))

    row = row_in(chain, report)
    assert (row.outcome, row.blocks) == ("FAIL", True)
    clauses = re.findall(r"[:;] (\w+): ", row.because)
    assert clauses == ["policy", "recipe", "mapping", "coverage", "subgroups"]
    with pytest.raises(ReleaseError, match=r"policy: card v2 .* is not the planned card v1"):
        product.publish_release(chain.store, report, chain.keys)


def test_another_data_source_breaks_the_plan(chain: Chain) -> None:
    """One that was not planned, and one that was and is not there."""
    (source,) = planned(chain).sources
    other = msgspec.structs.replace(source, raw_export="0" * 64, name="another")

    row = row_in(chain, judged(chain, signed(chain, planned(chain, sources=(other,))), began(chain)))

    assert "was not planned; source: another (000000000000) is missing" in row.because


def test_a_plan_that_was_signed_after_the_training_began_is_refused(chain: Chain) -> None:
    """By the log, whatever a clock says; and where nothing says when it began."""
    early = began(chain)
    plan = signed(chain, planned(chain))
    backdated = msgspec.structs.replace(early, time=time.time() + 60)

    for start, because in ((early, "after the training had begun"), (backdated, "after the training had begun")):
        assert f"order: it was signed {because}" in row_in(chain, judged(chain, plan, start)).because


def test_a_training_of_which_nothing_says_when_it_began_fulfils_no_plan(chain: Chain) -> None:
    """A record of an older version, or one that was cut: unknown is not before."""
    plan = signed(chain, planned(chain))

    assert "order: nothing says when the training began" in row_in(chain, judged(chain, plan, None)).because


def test_a_plan_that_nobody_logged_or_signed_counts_for_nothing(chain: Chain) -> None:
    """A file that looks like one may be written at any time."""
    text = planned(chain)
    files: dict[str, Path | bytes] = {PLAN: pretty(text), "plan.dsse.json": b"{}"}
    facts = {"title": text.title, "by": "Ann", "policy": plain(text.policy)}
    forged = build(chain.store, "plan", files, {}, facts)  # type: ignore[arg-type]
    chain.store.put_manifest(forged)

    row = row_in(chain, judged(chain, forged, began(chain)))

    assert "signature: it is not signed with the key that it names" in row.because
    assert "order: the plan is not in the log" in row.because


def test_a_verdict_whose_plan_was_swapped_is_found_by_the_audit(chain: Chain) -> None:
    """The row is judged anew, from the plan that the report names."""
    plan = signed(chain, planned(chain))
    release = released(chain, judged(chain, plan, began(chain)))
    path = chain.root / "workspace" / "store" / "objects" / (entry := plan.entries[PLAN].sha256)[:2] / entry
    overwrite(path, path.read_bytes().replace(b'"margin": 0.05', b'"margin": 0.50'))

    assert any(line.startswith(f"plan.json of the plan {plan.digest[:12]}") for line in findings(chain, release.digest))


def test_a_margin_that_the_policy_exceeds_is_refused(chain: Chain) -> None:
    """A plan that promises less than its gates allow."""
    with pytest.raises(ConfigurationError, match=r"The margin is 0\.001, but .* by more. Give --margin 0"):
        signed(chain, planned(chain, margin=0.001))


def test_releases_without_a_plan_are_as_they_were(chain: Chain) -> None:
    """Nothing new in their verdict, statement or manifest."""
    release = chain.manifest("released_model")

    said = json.loads(chain.store.get_bytes(release.entries["statement.json"].sha256))["predicate"]

    assert not {"plan", "approvedBy"} & said.keys()
    assert findings(chain, release.digest) == ()


# Two people ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class People:
    """Ann and Ben, each with a key."""

    ann: KeyPair
    ben: KeyPair

    @property
    def rule(self) -> ApprovalRule:
        """Both have to sign."""
        return ApprovalRule(needed=2, people={"Ann": self.ann.public.read_text(), "Ben": self.ben.public.read_text()})


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> People:
    """Two people."""
    folder = tmp_path_factory.mktemp("people")
    return People(generate_key(folder / "ann"), generate_key(folder / "ben"))


def test_a_release_waits_for_two_different_people_and_then_names_them(chain: Chain, people: People) -> None:
    """Under a plan; one signature is none, and the audit holds the release to it."""
    plan = signed(chain, planned(chain, approvals=people.rule))
    report = judged(chain, plan, began(chain))

    with pytest.raises(ReleaseError, match=r"needs 2 approvals and has 0\. Waiting for Ann, Ben"):
        product.publish_release(chain.store, report, chain.keys)
    approval.approve(chain.store, report, "Ann", people.ann.private, time.time())
    with pytest.raises(ReleaseError, match=r"needs 2 approvals and has 1\. Waiting for Ben"):
        product.publish_release(chain.store, report, chain.keys)
    approval.approve(chain.store, report, "Ben", people.ben.private, time.time())
    release = released(chain, report)

    assert statement.statement_of(chain.store, release).predicate.approved_by == ("Ann", "Ben")
    assert findings(chain, release.digest) == ()


def test_a_policy_may_ask_for_approvals_without_a_plan(chain: Chain, people: People) -> None:
    """Its digest says so; a policy that asks for none keeps its digest."""
    policy = msgspec.structs.replace(load_policy("card"), name="strict", approvals=people.rule)
    report = judged(chain, None, None, policy)

    with pytest.raises(ReleaseError, match="needs 2 approvals"):
        product.publish_release(chain.store, report, chain.keys)
    assert policy.digest != msgspec.structs.replace(policy, approvals=msgspec.UNSET).digest
    assert load_policy("card").approvals is msgspec.UNSET


def test_nobody_signs_twice_or_for_another(chain: Chain, people: People) -> None:
    """Two signatures of one key are one person."""
    report = judged(chain, signed(chain, planned(chain, approvals=people.rule)), began(chain))
    approval.approve(chain.store, report, "Ann", people.ann.private, time.time())

    for by, key, problem in (
        ("Ann", people.ann, "approved report .* already"),
        ("Ben", people.ann, "is not the key of Ben"),
        ("Cem", people.ann, "'Cem' is none of those"),
    ):
        with pytest.raises(ReleaseError, match=problem):
            approval.approve(chain.store, report, by, key.private, time.time())
    with pytest.raises(ReleaseError, match="asks for approvals"):
        other = chain.manifest("release_report")
        approval.approve(chain.store, other, "Ann", people.ann.private, time.time())


def test_one_key_under_two_names_is_refused(chain: Chain, people: People) -> None:
    """However it is written: wrapped otherwise, or with words before it."""
    ann = people.ann.public.read_text()
    for again in (ann, f"the key of Ben\n{ann}"):
        rule = ApprovalRule(needed=2, people={"Ann": ann, "Ben": again})
        with pytest.raises(ConfigurationError, match="two people have the same key"):
            signed(chain, planned(chain, approvals=rule))
    with pytest.raises(ConfigurationError, match="asks for 2 signatures, but names 1 people"):
        signed(chain, planned(chain, approvals=ApprovalRule(needed=2, people={"Ann": ann})))


def test_an_approval_of_another_report_does_not_count(chain: Chain, people: People) -> None:
    """An envelope that was copied over, with the name of the reference."""
    plan = signed(chain, planned(chain, approvals=people.rule))
    first = judged(chain, plan, began(chain))
    for by, key in (("Ann", people.ann), ("Ben", people.ben)):
        approval.approve(chain.store, first, by, key.private, time.time())
    envelopes = {by: chain.store.get_bytes(digest) for by, digest in approval._kept(chain.store, first).items()}

    assert list(approval.unmet((people.rule,), first.digest, envelopes)) == []
    assert len(list(approval.unmet((people.rule,), "0" * 64, envelopes))) == 1
    assert len(list(approval.unmet((people.rule,), first.digest, dict.fromkeys(("Ann", "Ben"), envelopes["Ann"])))) == 1


def test_a_person_plans_trains_and_two_approve_by_commands(
    chain: Chain, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys are a contract; what cannot be meant is refused before anything is signed."""
    at_home(chain, monkeypatch)
    subset = chain.digests["condition_subset"]
    both = [f"--approver={name}={pair.public}" for name, pair in (("Ann", people.ann), ("Ben", people.ben))]

    told = said("plan", "--data", subset, "--recipe", "smoke", "--by", "Ann", *both)
    report = judged(chain, chain.store.get_manifest(told["plan"]), began(chain))
    approved = said("approve", report.digest, "--by", "Ben", "--key", str(people.ben.private))

    assert log.read(chain.store).holds(log.Head(*_head(told["entry"])))
    assert told["content"]["sources"][0]["raw_export"] == chain.digests["raw_export"]
    assert (approved["by"], approved["needed"]) == (["Ben"], 2)
    assert "recipe: smoke" in row_in(chain, report).because  # other fields than the named recipe's
    for wrong in (["--recipe", "v99"], ["--recipe", "smoke", "--approver", f"Ann={people.ann.private}"]):
        refused = called("plan", "--data", subset, "--by", "Ann", *wrong)
        assert isinstance(refused.exception, ConfigurationError), refused.output


def _head(text: str) -> tuple[int, str]:
    sequence, _, digest = text.partition(":")
    return int(sequence), digest


def test_the_asset_check_tells_the_plan_and_what_broke_it_and_no_plan_is_no_pass(chain: Chain) -> None:
    """In the UI an absent plan must not look like a fulfilled one; it warns, since nobody asked for one."""
    plan = signed(chain, planned(chain))
    reports = [
        judged(chain, plan, began(chain)),
        judged(chain, plan, began(chain), policy=load_policy("phantom")),
        judged(chain, None, None),
    ]

    checks = [gate_results(product.verdict_of(chain.store, report), [PLAN_ROW])[0] for report in reports]

    assert [(check.passed, check.severity.value) for check in checks] == [
        (True, "ERROR"), (False, "ERROR"), (False, "WARN"),
    ]  # fmt: skip
    said = [check.description or "" for check in checks]
    assert f"Plan {plan.digest[:12]} by Ann is fulfilled" in said[0]
    assert f"Plan {plan.digest[:12]} by Ann is broken: policy: phantom" in said[1]
    assert said[2].startswith("no plan was named")
