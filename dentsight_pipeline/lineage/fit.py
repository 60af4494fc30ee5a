"""Do the products of a chain fit together: each check reads stored bytes and gives sentences, none when all is well.

Every digest of a chain can be right and the chain still be a lie: a manifest made by hand may name a report that was
judged by nobody. So what can be derived again cheaply is derived again here, above all the verdict. Deriving the
dearer things again (training, predictions, metrics) is `reproduce.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dentsight_pipeline.documents.codec import plain
from dentsight_pipeline.documents.facts import (
    CheckpointFacts,
    DatasetFacts,
    EvaluationFacts,
    Facts,
    ReleaseFacts,
    ReportFacts,
)
from dentsight_pipeline.documents.names import KIND_OF_ASSET, Asset, Kind
from dentsight_pipeline.errors import ConfigurationError, DataError, DocumentError
from dentsight_pipeline.store import canonical
from dentsight_pipeline.store.content import read_json

if TYPE_CHECKING:
    from dentsight_pipeline.lineage.walk import Walk
    from dentsight_pipeline.release.gates import Policy
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

_SUBSETS = (Asset.CONDITION_SUBSET, Asset.TOOTH_SUBSET)
NEEDS: Mapping[str, tuple[tuple[Asset, ...], ...]] = {
    Kind.NORMALIZED_SPLITS: ((Asset.RAW_EXPORT,),),
    Kind.CONDITION_SUBSET: ((Asset.NORMALIZED_SPLITS,),),
    Kind.TOOTH_SUBSET: ((Asset.NORMALIZED_SPLITS,),),
    Kind.CHECKPOINT: (_SUBSETS,),
    Kind.PREDICTIONS: ((Asset.TRAINED_CHECKPOINT, Asset.TOOTH_CHECKPOINT), _SUBSETS),
    Kind.EVALUATION: ((Asset.TEST_PREDICTIONS,), _SUBSETS),
    Kind.RELEASE_REPORT: (
        (Asset.CLASS_METRICS,),
        (Asset.TEST_PREDICTIONS,),
        (Asset.TRAINED_CHECKPOINT,),
        (Asset.CONDITION_SUBSET,),
    ),
    Kind.RELEASE: ((Asset.RELEASE_REPORT,),),
    Kind.TOOTH_FINDINGS: (
        (Asset.CLASS_METRICS,),
        (Asset.TOOTH_CHECKPOINT,),
        (Asset.TOOTH_PREDICTIONS,),
        (Asset.CONDITION_SUBSET,),
    ),
}
"""Inputs without which a product of a kind leads nowhere; each group names alternatives."""

REPORT_FILES = ("report.html", "report.json", "model_card.md", "verdict.json")
_WORDS_OF_THE_CODE = frozenset({"because", "sentence"})
"""Parts of a gate's row that are wording, not decision: another version of the package may word them otherwise."""


def name_of(manifest: Manifest) -> str:
    """A product in a sentence: its kind and the start of its digest."""
    return f"{manifest.kind} {manifest.digest[:12]}"


def misfits(store: Store, walked: Walk, manifest: Manifest) -> list[str]:
    """What of a product does not fit what it was made from, one sentence each.

    Args:
        store: Where the bytes are.
        walked: The chain that the product is part of.
        manifest: The product. Files of it that are damaged are skipped: they are a finding of their own.
    """
    found = list(_inputs(walked, manifest))
    try:
        manifest.facts_as(Facts)
    except DocumentError as error:
        return [*found, f"The {name_of(manifest)} does not have the form of its kind: {error.problem}."]
    for check in _CHECKS.get(manifest.kind, ()):
        try:
            found.extend(check(store, walked, manifest))
        except (DataError, KeyError, TypeError, ValueError) as error:
            if not isinstance(error, DataError):
                found.append(f"The {name_of(manifest)} does not have the form of its kind: {error!r}.")
    return found


# What every product must name --------------------------------------------------------------------------------------


def _inputs(walked: Walk, manifest: Manifest) -> Iterator[str]:
    for group in NEEDS.get(manifest.kind, ()):
        if not any(name in manifest.inputs for name in group):
            yield f"The {name_of(manifest)} does not name the {' or '.join(group)} that it was made from."
    for asset, digest in manifest.inputs.items():
        below = walked.products.get(digest)
        expected = KIND_OF_ASSET.get(asset)
        if below is not None and expected is not None and below.kind != expected:
            yield (
                f"The {name_of(manifest)} names {digest[:12]} as its {asset}, but that is a {below.kind}, "
                f"not a {expected}."
            )


def _images(store: Store, walked: Walk, manifest: Manifest) -> Iterator[str]:
    """Every image keeps its bytes from the export to the subset, under the name that its bytes give it."""
    above = _input(walked, manifest, Asset.RAW_EXPORT, Asset.NORMALIZED_SPLITS)
    for path, entry in manifest.entries.items():
        if not path.startswith("images/"):
            continue
        if path.removeprefix("images/").split(".")[0] != entry.sha256:
            yield f"Image {path} of the {name_of(manifest)} holds other bytes than its name says: {entry.sha256}."
        elif above is not None and above.entries.get(path) != entry:
            yield f"Image {path} of the {name_of(manifest)} is not in the {name_of(above)} that it was made from."


def _checkpoint(store: Store, walked: Walk, manifest: Manifest) -> Iterator[str]:
    facts = manifest.facts_as(CheckpointFacts)
    recipe = read_json(store, manifest, "recipe.json")
    found = canonical.digest(recipe, "A recipe")
    if found != facts.recipe_digest:
        yield (
            f"The recipe in the {name_of(manifest)} has digest {found[:12]}, but its facts say "
            f"{facts.recipe_digest[:12]}."
        )
    health = read_json(store, manifest, "health.json")
    if health.get("healthy") != facts.healthy:
        yield (
            f"The {name_of(manifest)} calls its head {_health(facts.healthy)}, but its health.json "
            f"says {_health(health.get('healthy'))}."
        )
    subset = _input(walked, manifest, *_SUBSETS)
    if subset is not None and facts.classes != subset.facts_as(DatasetFacts).classes:
        yield f"The {name_of(manifest)} knows other classes than the {name_of(subset)} that it was trained on."


def _health(healthy: Any) -> str:
    return {True: "healthy", False: "collapsed"}.get(healthy, "unknown")


def _evaluation(store: Store, walked: Walk, manifest: Manifest) -> Iterator[str]:
    from dentsight_pipeline.data.splits import read_split
    from dentsight_pipeline.evaluation.validation import digest_of

    predictions = _input(walked, manifest, Asset.TEST_PREDICTIONS)
    subset = _input(walked, manifest, *_SUBSETS)
    if predictions is None or subset is None:
        return
    facts = manifest.facts_as(EvaluationFacts)
    if facts.checkpoint != predictions.inputs.get(Asset.TRAINED_CHECKPOINT):
        yield f"The {name_of(manifest)} names another checkpoint than the {name_of(predictions)} that it scores."
    evaluation = read_json(store, manifest, "evaluation.json")
    split = facts.split
    if evaluation["ground_truth_sha256"] != digest_of(read_split(store, subset, split).to_coco()):
        yield f"The {name_of(manifest)} was made from other ground truth than {split} of the {name_of(subset)}."
    if evaluation["detections_sha256"] != digest_of(read_json(store, predictions, f"{split}.json")):
        yield f"The {name_of(manifest)} was made from other detections than {split}.json of the {name_of(predictions)}."


# The report and its verdict ----------------------------------------------------------------------------------------


def _one_chain(store: Store, walked: Walk, manifest: Manifest) -> Iterator[str]:
    """A product and what it was made from agree about what both name: they are one chain, not parts of several."""
    for below in manifest.inputs.values():
        other = walked.products.get(below)
        for asset, digest in (other.inputs if other else {}).items():
            if other is not None and asset in manifest.inputs and manifest.inputs[asset] != digest:
                yield (
                    f"The {name_of(manifest)} is about {asset} {manifest.inputs[asset][:12]}, but the {name_of(other)} "
                    f"that it names was made from {digest[:12]}."
                )


def _verdict(store: Store, walked: Walk, manifest: Manifest) -> Iterator[str]:
    """The verdict is what the gates say about the stored evaluation, and the report tells that verdict."""
    from dentsight_pipeline.release.gates import judge
    from dentsight_pipeline.release.verdict import Override

    facts = manifest.facts_as(ReportFacts)
    evaluation, checkpoint = (
        _input(walked, manifest, name) for name in (Asset.CLASS_METRICS, Asset.TRAINED_CHECKPOINT)
    )
    stored = read_json(store, manifest, "verdict.json")
    report = read_json(store, manifest, "report.json")
    if report["verdict"] != stored:
        yield f"report.json of the {name_of(manifest)} tells another verdict than its verdict.json."
    if (facts.verdict, facts.releasable) != (stored["outcome"], stored["releasable"]):
        yield f"The {name_of(manifest)} is marked {facts.verdict}, but its verdict.json says {stored['outcome']}."
    policy = policy_of(report)
    if policy is None or policy.digest != stored["policy_digest"]:
        yield f"The policy in report.json of the {name_of(manifest)} is not the one that its verdict was given under."
        return
    if problem := _altered_policy(policy):
        yield f"The {name_of(manifest)} was judged under {problem}."
    if evaluation is None or checkpoint is None:
        return
    measured = read_json(store, evaluation, "evaluation.json")
    health = read_json(store, checkpoint, "health.json")
    for key, value in (("evaluation", measured), ("health", health)):
        if report[key] != value:
            yield f"The {key} that report.json of the {name_of(manifest)} shows is not the stored one."
    if (report["champion"] or {}).get("digest") != facts.champion:
        yield f"report.json of the {name_of(manifest)} compares with another champion than its facts name."
    overrides = [Override(**plain(override)) for override in facts.overrides]
    again = judge(measured, policy, health, report["champion"], overrides).to_json()
    if difference := _difference(stored, again):
        yield f"The verdict of the {name_of(manifest)} was edited: {difference}."


def policy_of(report: Mapping[str, Any]) -> Policy | None:
    """The policy that a report.json holds, or None when it is none."""
    from dentsight_pipeline.release.gates import parse_policy

    try:
        return parse_policy(json.dumps(report["policy"]), "the report's policy")
    except ConfigurationError:
        return None


def _altered_policy(policy: Policy) -> str | None:
    """A policy under the name and version of a packaged one that is not that one."""
    from dentsight_pipeline.release.gates import load_policy, policy_names

    if policy.name in policy_names():
        packaged = load_policy(policy.name)
        if packaged.version == policy.version and packaged.digest != policy.digest:
            return f"a policy that calls itself {policy.name} v{policy.version} but differs from the packaged one"
    return None


def _difference(stored: Mapping[str, Any], again: Mapping[str, Any]) -> str | None:
    """Where a stored verdict differs in substance from the one given now, in words."""
    for key in ("outcome", "releasable"):
        if stored[key] != again[key]:
            return f"it says {key} {stored[key]!r}, but the gates give {again[key]!r} on the stored evaluation"
    rows = {row["id"]: row for row in stored["rows"]}
    for row in again["rows"]:
        kept = rows.pop(row["id"], None)
        if kept is None:
            return f"gate {row['id']} is missing"
        for key, value in row.items():
            if key not in _WORDS_OF_THE_CODE and kept.get(key) != value:
                return f"gate {row['id']} says {key} {kept.get(key)!r}, but the stored evaluation gives {value!r}"
    if rows:
        return f"gate {next(iter(rows))} is not in its policy"
    if not str(next(iter(stored["sentences"]), "")).startswith(stored["outcome"]):
        return f"its first sentence does not say {stored['outcome']}"
    for key in ("classes", "head", "champion", "ground_truth_sha256", "detections_sha256", "overrides"):
        if stored[key] != again[key]:
            return f"its {key} is not what the gates give on the stored evaluation"
    return None


# The release -------------------------------------------------------------------------------------------------------


def _release(store: Store, walked: Walk, manifest: Manifest) -> Iterator[str]:
    """The release holds the model and the report that it names, and its statement says the same."""
    from dentsight_pipeline.release.statement import SIGNATURE, STATEMENT

    report = _input(walked, manifest, Asset.RELEASE_REPORT)
    if report is None:
        return
    facts, allowed = manifest.facts_as(ReleaseFacts), report.facts_as(ReportFacts)
    chain = {Asset.RELEASE_REPORT: report.digest, **report.inputs}
    if facts.chain != chain:
        wrong = next(asset for asset in {**chain, **facts.chain} if facts.chain.get(asset) != chain.get(asset))
        yield f"The {name_of(manifest)} names another {wrong} than the {name_of(report)} that allowed it."
    if not allowed.releasable:
        yield f"The {name_of(manifest)} was made although the verdict of its report is {allowed.verdict}."
    checkpoint = walked.products.get(report.inputs.get(Asset.TRAINED_CHECKPOINT, ""))
    wanted = {path: report.entries.get(path) for path in REPORT_FILES}
    if checkpoint is not None:
        wanted |= {path: entry for path, entry in checkpoint.entries.items() if path.startswith("model/")}
        extra = [path for path in manifest.entries if path.startswith("model/") and path not in checkpoint.entries]
        yield from (f"The {name_of(manifest)} holds {path}, which is not in its checkpoint." for path in extra)
    for path, entry in wanted.items():
        if manifest.entries.get(path) != entry:
            source = checkpoint if checkpoint is not None and path.startswith("model/") else report
            yield f"{path} of the {name_of(manifest)} is not the one in the {name_of(source)}."
    statement = read_json(store, manifest, STATEMENT)
    predicate = statement["predicate"]
    listed = {item["name"]: item["digest"]["sha256"] for item in statement["subject"]}
    if listed != {p: e.sha256 for p, e in manifest.entries.items() if p not in (STATEMENT, SIGNATURE)}:
        yield f"The statement of the {name_of(manifest)} lists other files than the release holds."
    said = {item["name"]: item["digest"]["sha256"] for item in predicate["inputs"]}
    if said != chain:
        yield f"The statement of the {name_of(manifest)} names other products than its report."
    told = {
        "verdict": facts.verdict,
        "sequence": facts.sequence,
        "previous": facts.previous,
        "neverForXrays": facts.never_for_xrays,
    }
    for key, value in told.items():
        if predicate[key] != value:
            said_so = f"says {key} {predicate[key]!r}, but its facts say {value!r}"
            yield f"The statement of the {name_of(manifest)} {said_so}."


def _input(walked: Walk, manifest: Manifest, *names: str) -> Manifest | None:
    """The first of a product's inputs with one of these names, when it could be read."""
    return next((walked.products.get(manifest.inputs[name]) for name in names if name in manifest.inputs), None)


_Check = Callable[["Store", "Walk", "Manifest"], Iterator[str]]
_CHECKS: Mapping[str, tuple[_Check, ...]] = {
    Kind.RAW_EXPORT: (_images,),
    Kind.NORMALIZED_SPLITS: (_images,),
    Kind.CONDITION_SUBSET: (_images,),
    Kind.TOOTH_SUBSET: (_images,),
    Kind.CHECKPOINT: (_checkpoint,),
    Kind.EVALUATION: (_one_chain, _evaluation),
    Kind.TOOTH_FINDINGS: (_one_chain,),
    Kind.RELEASE_REPORT: (_one_chain, _verdict),
    Kind.RELEASE: (_release,),
}
