"""Do the products of a chain fit together: each check reads stored bytes and gives sentences, none when all is well.

Every digest of a chain can be right and the chain still be a lie: a manifest made by hand may name a report that was
judged by nobody. So what can be derived again cheaply is derived again here, the verdict in `rejudge.py`. Deriving the
dearer things again (training, predictions, metrics) is `reproduce.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from dentsight_pipeline.documents.evaluation import EVALUATION_FILE
from dentsight_pipeline.documents.facts import (
    CheckpointFacts,
    DatasetFacts,
    EvaluationFacts,
    Facts,
    ReleaseFacts,
    ReportFacts,
    SplitsFacts,
)
from dentsight_pipeline.documents.names import Asset, Kind, kind_of_input, numbered, raw_export_name, raw_exports
from dentsight_pipeline.documents.release import chain_behind
from dentsight_pipeline.documents.report import REPORT_FILES
from dentsight_pipeline.errors import DataError, DocumentError, EvaluationError, IntegrityError
from dentsight_pipeline.lineage.rejudge import misjudged
from dentsight_pipeline.lineage.walk import Walk, name_of
from dentsight_pipeline.release import approval, product, statement
from dentsight_pipeline.store import canonical
from dentsight_pipeline.store.content import read_bytes, read_json
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store

_SUBSETS = (Asset.CONDITION_SUBSET, Asset.TOOTH_SUBSET)
_BELOW_REPORT = (Asset.CLASS_METRICS, Asset.TEST_PREDICTIONS, Asset.TRAINED_CHECKPOINT, Asset.CONDITION_SUBSET)
_BELOW_FINDINGS = (Asset.CLASS_METRICS, Asset.TOOTH_CHECKPOINT, Asset.TOOTH_PREDICTIONS, Asset.CONDITION_SUBSET)
NEEDS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    Kind.NORMALIZED_SPLITS: ((Asset.RAW_EXPORT, raw_export_name(1)),),
    Kind.EXPORT_SET: ((raw_export_name(1),),),
    Kind.CONDITION_SUBSET: ((Asset.NORMALIZED_SPLITS,),),
    Kind.TOOTH_SUBSET: ((Asset.NORMALIZED_SPLITS,),),
    Kind.CHECKPOINT: (_SUBSETS,),
    Kind.PREDICTIONS: ((Asset.TRAINED_CHECKPOINT, Asset.TOOTH_CHECKPOINT), _SUBSETS),
    Kind.EVALUATION: ((Asset.TEST_PREDICTIONS,), _SUBSETS),
    Kind.RELEASE_REPORT: (*((asset,) for asset in _BELOW_REPORT),),
    Kind.RELEASE: ((Asset.RELEASE_REPORT,),),
    Kind.READER_AGREEMENT: ((Asset.CLASS_METRICS,),),
    Kind.LABEL_CORRECTIONS: ((Asset.NORMALIZED_SPLITS,),),
    Kind.LABEL_REVIEW: ((numbered(Asset.TEST_PREDICTIONS, 1),), (Asset.NORMALIZED_SPLITS,)),
    Kind.TOOTH_FINDINGS: (*((asset,) for asset in _BELOW_FINDINGS),),
    Kind.TOOTH_REPORT: ((Asset.TOOTH_SUBSET,), (Asset.TOOTH_CHECKPOINT,), (Asset.TOOTH_PREDICTIONS,)),
}
"""Inputs without which a product of a kind leads nowhere; each group names alternatives."""

_MODEL = "model/"


def misfits(store: Store, walked: Walk, manifest: Manifest) -> list[str]:
    """What of a product does not fit what it was made from, one sentence each.

    Args:
        store: Where the bytes are.
        walked: The chain that the product is part of.
        manifest: The product. Files of it that are damaged are skipped: they are a finding of their own.
    """
    checks = (_inputs, _facts, *_CHECKS.get(manifest.kind, ()))
    found = [sentence for check in checks for sentence in _found(check(store, walked, manifest), manifest)]
    return list(dict.fromkeys(found))


def _found(check: Iterator[str], manifest: Manifest) -> Iterator[str]:
    """The sentences of one check, as far as what it reads is whole and of its form."""
    try:
        yield from check
    except IntegrityError:
        return
    except DocumentError as error:
        yield _malformed(manifest, error.problem)
    except (DataError, EvaluationError, KeyError, TypeError, ValueError) as error:
        yield _malformed(manifest, repr(error))


def _malformed(manifest: Manifest, problem: str) -> str:
    return f"The {name_of(manifest)} does not have the form of its kind: {problem}."


# What every product must name ----------------------------------------------------------------------------------------


def _facts(store: Store, walked: Walk, manifest: Manifest) -> Iterator[str]:
    """Facts that are not those of the product's kind."""
    try:
        manifest.facts_as(Facts)
    except DocumentError as error:
        yield _malformed(manifest, error.problem)


def _inputs(store: Store, walked: Walk, manifest: Manifest) -> Iterator[str]:
    for group in NEEDS.get(manifest.kind, ()):
        if not any(name in manifest.inputs for name in group):
            yield f"The {name_of(manifest)} does not name the {' or '.join(group)} that it was made from."
    for asset, digest in manifest.inputs.items():
        below, expected = walked.products.get(digest), kind_of_input(asset)
        if below is not None and expected not in (None, below.kind):
            what = f"a {below.kind}, not a {expected}"
            yield f"The {name_of(manifest)} names {digest[:12]} as its {asset}, but that is {what}."


def _one_chain(store: Store, walked: Walk, manifest: Manifest) -> Iterator[str]:
    """A product and what it was made from agree about what both name: they are one chain, not parts of several."""
    for below in manifest.inputs.values():
        other = walked.products.get(below)
        for asset, digest in (other.inputs if other else {}).items():
            if other is not None and manifest.inputs.get(asset, digest) != digest:
                yield (
                    f"The {name_of(manifest)} is about {asset} {manifest.inputs[asset][:12]}, but the {name_of(other)} "
                    f"that it names was made from {digest[:12]}."
                )


# Data, models and figures --------------------------------------------------------------------------------------------


def _images(store: Store, walked: Walk, manifest: Manifest) -> Iterator[str]:
    """Every image keeps its bytes from its export to the subset, under the name that its bytes give it."""
    digests = raw_exports(manifest.inputs) or [manifest.inputs.get(Asset.NORMALIZED_SPLITS, "")]
    above = [walked.products[digest] for digest in digests if digest in walked.products]
    there = {(path, entry) for product in above for path, entry in product.entries.items()}
    images = {path: entry for path, entry in manifest.entries.items() if path.startswith("images/")}
    for path, entry in images.items():
        if path.removeprefix("images/").split(".")[0] != entry.sha256:
            yield f"Image {path} of the {name_of(manifest)} holds other bytes than its name says: {entry.sha256}."
        elif above and (path, entry) not in there:
            names = " or the ".join(map(name_of, above))
            yield f"Image {path} of the {name_of(manifest)} is not in the {names} that it was made from."


def _exports(store: Store, walked: Walk, manifest: Manifest) -> Iterator[str]:
    """A dataset of several exports was made from those that its facts tell of, and from no other."""
    told, named = manifest.facts_as(SplitsFacts).exports, raw_exports(manifest.inputs)
    if tuple(part.raw_export for part in told) != (named if len(named) > 1 else ()):
        yield f"The {name_of(manifest)} tells of other exports than it was made from."


def _recipe(store: Store, walked: Walk, manifest: Manifest) -> Iterator[str]:
    said = manifest.facts_as(CheckpointFacts).recipe_digest
    found = canonical.digest(read_json(store, manifest, "recipe.json"), "A recipe")
    if found != said:
        yield f"The recipe in the {name_of(manifest)} has digest {found[:12]}, but its facts say {said[:12]}."


def _head(store: Store, walked: Walk, manifest: Manifest) -> Iterator[str]:
    said, found = manifest.facts_as(CheckpointFacts).healthy, product.health_of(store, manifest).healthy
    if found is not said:
        words = {True: "healthy", False: "collapsed", None: "unknown"}
        yield f"The {name_of(manifest)} calls its head {words[said]}, but its health.json says {words[found]}."


def _classes(store: Store, walked: Walk, manifest: Manifest) -> Iterator[str]:
    subset = walked.input_of(manifest, *_SUBSETS)
    if subset is not None and manifest.facts_as(CheckpointFacts).classes != subset.facts_as(DatasetFacts).classes:
        yield f"The {name_of(manifest)} knows other classes than the {name_of(subset)} that it was trained on."


def _evaluation(store: Store, walked: Walk, manifest: Manifest) -> Iterator[str]:
    from dentsight_pipeline.evaluation.product import stored_detections, stored_truth

    predictions, subset = walked.input_of(manifest, Asset.TEST_PREDICTIONS), walked.input_of(manifest, *_SUBSETS)
    if predictions is None or subset is None:
        return
    facts = manifest.facts_as(EvaluationFacts)
    if facts.checkpoint != predictions.inputs.get(Asset.TRAINED_CHECKPOINT):
        yield f"The {name_of(manifest)} names another checkpoint than the {name_of(predictions)} that it scores."
    evaluation, split = read_json(store, manifest, EVALUATION_FILE), facts.split
    truth = stored_truth(store, subset, split)
    if evaluation["ground_truth_sha256"] != truth.sha256:
        yield f"The {name_of(manifest)} was made from other ground truth than {split} of the {name_of(subset)}."
    if evaluation["detections_sha256"] != stored_detections(store, predictions, split, truth).sha256:
        yield f"The {name_of(manifest)} was made from other detections than {split} of the {name_of(predictions)}."


# The release ---------------------------------------------------------------------------------------------------------


def _allowed(store: Store, walked: Walk, manifest: Manifest) -> Iterator[str]:
    """The report that a release names allows it, and the release names the chain of that report."""
    report = walked.input_of(manifest, Asset.RELEASE_REPORT)
    if report is None:
        return
    chain, allowed = chain_behind(report.digest, report.inputs), report.facts_as(ReportFacts)
    named = manifest.facts_as(ReleaseFacts).chain
    if named != chain:
        wrong = next(asset for asset in {**chain, **named} if named.get(asset) != chain.get(asset))
        yield f"The {name_of(manifest)} names another {wrong} than the {name_of(report)} that allowed it."
    if not allowed.releasable:
        yield f"The {name_of(manifest)} was made although the verdict of its report is {allowed.verdict}."


def _files(store: Store, walked: Walk, manifest: Manifest) -> Iterator[str]:
    """A release holds the report's files and the checkpoint's model, and no other model."""
    report = walked.input_of(manifest, Asset.RELEASE_REPORT)
    if report is None:
        return
    sources = dict.fromkeys(REPORT_FILES, report)
    if checkpoint := walked.input_of(report, Asset.TRAINED_CHECKPOINT):
        sources |= {path: checkpoint for path in (*checkpoint.entries, *manifest.entries) if path.startswith(_MODEL)}
    for path, source in sources.items():
        if manifest.entries.get(path) == source.entries.get(path):
            continue
        if path not in source.entries:
            yield f"The {name_of(manifest)} holds {path}, which is not in its {source.kind}."
        else:
            yield f"{path} of the {name_of(manifest)} is not the one in the {name_of(source)}."


def _statement(store: Store, walked: Walk, manifest: Manifest) -> Iterator[str]:
    """The statement of a release says what its manifest and its report say."""
    said, facts = statement.statement_of(store, manifest), manifest.facts_as(ReleaseFacts)
    signed = {path: entry for path, entry in manifest.entries.items() if path not in statement.UNLISTED}
    if statement.digests_of(said.subject) != {path: entry.sha256 for path, entry in signed.items()}:
        yield f"The statement of the {name_of(manifest)} lists other files than the release holds."
    report = walked.input_of(manifest, Asset.RELEASE_REPORT)
    if report is not None and statement.digests_of(said.predicate.inputs) != chain_behind(report.digest, report.inputs):
        yield f"The statement of the {name_of(manifest)} names other products than its report."
    for key in ("verdict", "sequence", "previous", "never_for_xrays"):
        told, fact = getattr(said.predicate, key), getattr(facts, key)
        if told != fact:
            yield f"The statement of the {name_of(manifest)} says {key} {told!r}, but its facts say {fact!r}."


def _approvals(store: Store, walked: Walk, manifest: Manifest) -> Iterator[str]:
    """Whose approval policy and plan ask for has signed the report, and the statement says who, and which plan."""
    report = walked.input_of(manifest, Asset.RELEASE_REPORT)
    if report is None:
        return
    said, rules = statement.statement_of(store, manifest).predicate, approval.rules_of(store, report)
    paths = {by: f"{approval.FOLDER}{approval.file_name(by)}" for rule in rules for by in rule.people}
    envelopes = {by: read_bytes(store, manifest, path) for by, path in paths.items() if path in manifest.entries}
    for problem in approval.unmet(rules, report.digest, envelopes):
        yield f"The {name_of(manifest)} was made without the approvals that it needs: {problem.split(': `')[0]}."
    if {*(said.approved_by or ())} != {*envelopes}:
        yield f"The statement of the {name_of(manifest)} names other people than those whose approvals it holds."
    if (said.plan or None) != report.inputs.get(Asset.PLAN):
        yield f"The statement of the {name_of(manifest)} names another plan than its report."


_Check = Callable[["Store", "Walk", "Manifest"], Iterator[str]]
_CHECKS: Mapping[str, tuple[_Check, ...]] = {
    Kind.RAW_EXPORT: (_images,),
    Kind.NORMALIZED_SPLITS: (_images, _exports),
    Kind.CONDITION_SUBSET: (_images,),
    Kind.TOOTH_SUBSET: (_images,),
    Kind.CHECKPOINT: (_recipe, _head, _classes),
    Kind.EVALUATION: (_one_chain, _evaluation),
    Kind.TOOTH_FINDINGS: (_one_chain,),
    Kind.TOOTH_REPORT: (_one_chain,),
    Kind.RELEASE_REPORT: (_one_chain, misjudged),
    Kind.RELEASE: (_allowed, _files, _statement, _approvals),
}
