"""Do the products of a chain fit together: each check reads stored bytes and gives sentences, none when all is well.

Every digest of a chain can be right and the chain still be a lie: a manifest made by hand may name a report that was
judged by nobody. So what can be derived again cheaply is derived again here, above all the verdict. Deriving the
dearer things again (training, predictions, metrics) is `reproduce.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dentsight_pipeline.errors import ConfigurationError, DataError
from dentsight_pipeline.store import canonical
from dentsight_pipeline.store.content import read_json

if TYPE_CHECKING:
    from dentsight_pipeline.lineage.walk import Walk
    from dentsight_pipeline.release.gates import Policy
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

KIND_OF_ASSET: Mapping[str, str] = {
    "raw_export": "raw-export",
    "normalized_splits": "normalized-splits",
    "condition_subset": "condition-subset",
    "tooth_subset": "tooth-subset",
    "trained_checkpoint": "checkpoint",
    "initial_checkpoint": "checkpoint",
    "tooth_checkpoint": "checkpoint",
    "test_predictions": "predictions",
    "tooth_predictions": "predictions",
    "class_metrics": "evaluation",
    "release_report": "release-report",
}
"""What an input of each name must be."""

NEEDS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "normalized-splits": (("raw_export",),),
    "condition-subset": (("normalized_splits",),),
    "tooth-subset": (("normalized_splits",),),
    "checkpoint": (("condition_subset", "tooth_subset"),),
    "predictions": (("trained_checkpoint", "tooth_checkpoint"), ("condition_subset", "tooth_subset")),
    "evaluation": (("test_predictions",), ("condition_subset", "tooth_subset")),
    "release-report": (("class_metrics",), ("test_predictions",), ("trained_checkpoint",), ("condition_subset",)),
    "release": (("release_report",),),
    "tooth-findings": (("class_metrics",), ("tooth_checkpoint",), ("tooth_predictions",), ("condition_subset",)),
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
    above = _input(walked, manifest, "raw_export", "normalized_splits")
    for path, entry in manifest.entries.items():
        if not path.startswith("images/"):
            continue
        if path.removeprefix("images/").split(".")[0] != entry.sha256:
            yield f"Image {path} of the {name_of(manifest)} holds other bytes than its name says: {entry.sha256}."
        elif above is not None and above.entries.get(path) != entry:
            yield f"Image {path} of the {name_of(manifest)} is not in the {name_of(above)} that it was made from."


def _checkpoint(store: Store, walked: Walk, manifest: Manifest) -> Iterator[str]:
    recipe = read_json(store, manifest, "recipe.json")
    found = canonical.digest(recipe, "A recipe")
    if found != manifest.facts["recipe_digest"]:
        yield (
            f"The recipe in the {name_of(manifest)} has digest {found[:12]}, but its facts say "
            f"{manifest.facts['recipe_digest'][:12]}."
        )
    health = read_json(store, manifest, "health.json")
    if health.get("healthy") != manifest.facts["healthy"]:
        yield (
            f"The {name_of(manifest)} calls its head {_health(manifest.facts['healthy'])}, but its health.json "
            f"says {_health(health.get('healthy'))}."
        )
    subset = _input(walked, manifest, "condition_subset", "tooth_subset")
    if subset is not None and list(manifest.facts["classes"]) != list(subset.facts["classes"]):
        yield f"The {name_of(manifest)} knows other classes than the {name_of(subset)} that it was trained on."


def _health(healthy: Any) -> str:
    return {True: "healthy", False: "collapsed"}.get(healthy, "unknown")


def _evaluation(store: Store, walked: Walk, manifest: Manifest) -> Iterator[str]:
    from dentsight_pipeline.evaluation.validation import digest_of

    predictions = _input(walked, manifest, "test_predictions")
    subset = _input(walked, manifest, "condition_subset", "tooth_subset")
    if predictions is None or subset is None:
        return
    if manifest.facts.get("checkpoint") not in (None, predictions.inputs.get("trained_checkpoint")):
        yield f"The {name_of(manifest)} names another checkpoint than the {name_of(predictions)} that it scores."
    evaluation = read_json(store, manifest, "evaluation.json")
    split = manifest.facts.get("split", "test")
    scored = {"ground_truth_sha256": (subset, "ground truth"), "detections_sha256": (predictions, "detections")}
    for key, (source, what) in scored.items():
        if evaluation[key] != digest_of(read_json(store, source, f"{split}.json")):
            yield f"The {name_of(manifest)} was made from other {what} than {split}.json of the {name_of(source)}."


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

    evaluation, checkpoint = _input(walked, manifest, "class_metrics"), _input(walked, manifest, "trained_checkpoint")
    stored = read_json(store, manifest, "verdict.json")
    report = read_json(store, manifest, "report.json")
    if report["verdict"] != stored:
        yield f"report.json of the {name_of(manifest)} tells another verdict than its verdict.json."
    if (manifest.facts["verdict"], manifest.facts["releasable"]) != (stored["outcome"], stored["releasable"]):
        yield (
            f"The {name_of(manifest)} is marked {manifest.facts['verdict']}, but its verdict.json says "
            f"{stored['outcome']}."
        )
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
    if (report["champion"] or {}).get("digest") != manifest.facts["champion"]:
        yield f"report.json of the {name_of(manifest)} compares with another champion than its facts name."
    overrides = [Override(**override) for override in manifest.facts["overrides"]]
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

    report = _input(walked, manifest, "release_report")
    if report is None:
        return
    chain = {"release_report": report.digest, **report.inputs}
    if dict(manifest.facts["chain"]) != chain:
        named = manifest.facts["chain"]
        wrong = next(asset for asset in {**chain, **named} if named.get(asset) != chain.get(asset))
        yield f"The {name_of(manifest)} names another {wrong} than the {name_of(report)} that allowed it."
    if not report.facts["releasable"]:
        yield f"The {name_of(manifest)} was made although the verdict of its report is {report.facts['verdict']}."
    checkpoint = walked.products.get(report.inputs.get("trained_checkpoint", ""))
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
    facts = {"verdict": "verdict", "sequence": "sequence", "previous": "previous", "neverForXrays": "never_for_xrays"}
    for key, fact in facts.items():
        if predicate[key] != manifest.facts[fact]:
            yield (
                f"The statement of the {name_of(manifest)} says {key} {predicate[key]!r}, but its facts say "
                f"{manifest.facts[fact]!r}."
            )


def _input(walked: Walk, manifest: Manifest, *names: str) -> Manifest | None:
    """The first of a product's inputs with one of these names, when it could be read."""
    return next((walked.products.get(manifest.inputs[name]) for name in names if name in manifest.inputs), None)


_Check = Callable[["Store", "Walk", "Manifest"], Iterator[str]]
_CHECKS: Mapping[str, tuple[_Check, ...]] = {
    "raw-export": (_images,),
    "normalized-splits": (_images,),
    "condition-subset": (_images,),
    "tooth-subset": (_images,),
    "checkpoint": (_checkpoint,),
    "evaluation": (_one_chain, _evaluation),
    "tooth-findings": (_one_chain,),
    "release-report": (_one_chain, _verdict),
    "release": (_release,),
}
