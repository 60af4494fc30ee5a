"""Annex IV of Regulation (EU) 2024/1689, point by point, and what a release's bytes show of each.

What no function here says is not evidenced, and the dossier says so. A sentence may say only what the bytes that it
cites say; intended purpose, risk management, oversight and the like are a person's to state, and are left open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from dentsight_pipeline.documents.dossier import Cited, Point, Section
from dentsight_pipeline.documents.evaluation import EVALUATION_FILE, MACRO, Measurement
from dentsight_pipeline.documents.facts import RawExportFacts
from dentsight_pipeline.documents.names import Asset
from dentsight_pipeline.documents.plan import PLAN, PLAN_ENVELOPE
from dentsight_pipeline.documents.report import REPORT, VERDICT
from dentsight_pipeline.documents.verdict import PLAN_ROW
from dentsight_pipeline.lineage.dossier.case import RECIPE, Case
from dentsight_pipeline.release.approval import FOLDER
from dentsight_pipeline.release.plan import plan_in
from dentsight_pipeline.release.statement import SIGNATURE, STATEMENT, digests_of, statement_of
from dentsight_pipeline.release.wording import interval_text
from dentsight_pipeline.store.canonical import JSON


class Said(NamedTuple):
    """A sentence, and what shows it."""

    text: str
    evidence: tuple[Cited, ...]


Answer = Said | None


def _listed(things: Iterable[object]) -> str:
    return ", ".join(map(str, things)) or "none"


def _counts(things: Mapping[str, JSON]) -> str:
    return _listed(f"{name} {value}" for name, value in things.items())


def _with_interval(row: Measurement | None) -> str:
    return "not measured" if row is None else interval_text(row.value, row.low, row.high)


def _measured(case: Case, metric: str, name: str = MACRO) -> Measurement | None:
    rows = (row for row in case.measured.measurements if (row.metric, row.class_name) == (metric, name))
    return next((row for row in rows if row.population == case.measured.gated_population), None)


def _report(case: Case, *paths: str) -> tuple[Cited, ...]:
    return case.cite(case.product(Asset.RELEASE_REPORT), *paths)


def _evaluation(case: Case) -> tuple[Cited, ...]:
    return case.cite(case.product(Asset.CLASS_METRICS), EVALUATION_FILE)


# 1. A general description --------------------------------------------------------------------------------------------


def version(case: Case) -> Answer:
    text = f"Release {case.facts.sequence} of its store, {case.facts.title}, digest {case.digest}."
    return Said(text, (*case.cite(case.release), *case.cite(case.release, STATEMENT)))


def earlier_versions(case: Case) -> Answer:
    before = case.said.previous
    text = f"It follows release {before}, which its signed statement names." if before else "It is the first release."
    return Said(text, case.cite(case.release, STATEMENT))


def software_versions(case: Case) -> Answer:
    versions = case.trained.versions
    return Said(f"It was trained with {_counts(versions)}.", case.cite(case.checkpoint)) if versions else None


def forms(case: Case) -> Answer:
    files = [path for path in case.release.entries if path.startswith("model/")]
    text = f"A signed folder of {len(case.release.entries)} files; the model is {_listed(files)}."
    return Said(text, case.cite(case.release))


# 2. Elements and development -----------------------------------------------------------------------------------------


def steps(case: Case) -> Answer:
    order = (Asset.RELEASE_REPORT, Asset.CLASS_METRICS, Asset.TEST_PREDICTIONS, Asset.TRAINED_CHECKPOINT)
    chain = [case.release, *map(case.product, order), case.subset, case.splits, *case.raws]
    told = ", ".join(f"{manifest.kind} {manifest.digest[:12]}" for manifest in chain)
    records = [cited for manifest in chain for cited in case.cite_record(manifest)]
    text = f"Each product names what it was made from, and a record how. The newest first: {told}."
    return Said(text, (*records, *case.cite(case.release)))


def third_party(case: Case) -> Answer:
    weights, packaged = case.recipe.get("weights"), case.trained.packaged_weights
    start = f"weights of this package ({packaged})" if packaged else f"the weights {weights}"
    told = start if packaged or weights else "random weights, no pre-trained ones"
    licence = f", under {case.trained.weights_licence}" if case.trained.weights_licence else ""
    sha256 = f"all weights before the first step hash to {case.trained.initial_weights_sha256}"
    return Said(
        f"Training started from {told}{licence}; {sha256}.",
        (*case.cite(case.checkpoint, RECIPE), *case.cite(case.checkpoint)),
    )


def logic(case: Case) -> Answer:
    width, height = case.trained.image_size
    text = (
        f"A detector of {case.trained.parameters:,} parameters looks at the whole image at {width} × {height} px and "
        f"gives boxes of {len(case.trained.classes)} classes, each with a score; config.json says which architecture."
    )
    return Said(text, (*case.cite(case.checkpoint, "model/config.json"), *case.cite(case.checkpoint)))


def classification(case: Case) -> Answer:
    mappings = {name: mapping.source for name, (_, mapping) in case.data.by_export.items()}
    dropped = {name: count for name, count in case.data.dropped.items() if count}
    left_out = f" Left out by name: {_counts(dropped)}." if dropped else ""
    text = f"Classes: {_listed(case.data.classes)}. Label mapping by export: {_counts(mappings)}.{left_out}"
    return Said(text, (*case.cite(case.subset), *case.cite(case.splits)))


def optimised_for(case: Case) -> Answer:
    names = ("class_loss", "criterion", "focal_alpha", "focal_gamma", "learning_rate", "weight_decay", "ema_decay")
    fields = {name: case.recipe[name] for name in (*names, "sampler") if name in case.recipe}
    kept = f"step {case.trained.best_step} was kept as the best" if case.trained.best_step else "the last step was kept"
    text = f"Recipe {case.trained.recipe} with {_counts(fields)}; {kept}."
    return Said(text, (*case.cite(case.checkpoint, RECIPE), *case.cite(case.checkpoint, "history.json")))


def output_quality(case: Case) -> Answer:
    rows = [row for row in case.told.verdict.classes if row.ap is not None]
    told = _counts({row.condition: interval_text(row.ap, row.low, row.high) for row in rows})
    text = f"AP[.50:.95] by class on {case.measured.gated_population} test images: {told}."
    return Said(text, (*_report(case, VERDICT), *_evaluation(case))) if rows else None


def resources(case: Case) -> Answer:
    how = case.how(case.checkpoint)
    told = {**(how.hardware or {}), **(how.cost or {})}
    known = {name: value for name, value in told.items() if value is not None}
    shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in known.items()}
    return Said(f"The training took: {_counts(shown)}.", case.cite_record(case.checkpoint)) if how.cost else None


def training_technique(case: Case) -> Answer:
    names = ("epochs", "max_steps", "batch_size", "precision", "schedule", "augment_flip", "augment_crop", "seed")
    fields = {name: case.recipe[name] for name in names if case.recipe.get(name) is not None}
    text = f"{case.trained.steps} of {case.trained.total_steps} optimiser steps with {_counts(fields)}."
    return Said(text, (*case.cite(case.checkpoint, RECIPE), *case.cite(case.checkpoint)))


def data_described(case: Case) -> Answer:
    splits = {name: f"{counts.images} images, {counts.annotations} boxes;" for name, counts in case.data.splits.items()}
    kind = "drawn images, not X-rays" if case.data.corpus.kind == "phantom" else "images of an export"
    text = f"{case.data.corpus.name}: {kind}. {_counts(splits).replace(';,', ';').rstrip(';')}."
    return Said(text, case.cite(case.subset))


def data_provenance(case: Case) -> Answer:
    told = []
    for raw in case.raws:
        source = raw.facts_as(RawExportFacts).source
        words = (source.name, source.url, f"version {source.version}" if source.version else "", source.licence)
        files = sum(path.startswith("images/") for path in raw.entries)
        told.append(f"export {raw.digest[:12]} with {files} images ({_listed(filter(None, words))})")
    text = f"{'; '.join(told)}. The sha256 of every original file is kept with it."
    return Said(text, tuple(cited for raw in case.raws for cited in case.cite(raw)))


def data_characteristics(case: Case) -> Answer:
    boxes = {
        name: sum(split.class_counts.get(name, 0) for split in case.data.splits.values()) for name in case.data.classes
    }
    coverage = [mapping.coverage for _, mapping in case.data.by_export.values() if mapping.coverage]
    looked = f" Of {len(coverage)} exports only some classes were looked for." if coverage else ""
    return Said(f"Boxes by class over all splits: {_counts(boxes)}.{looked}", case.cite(case.subset))


def data_selected(case: Case) -> Answer:
    leaked = case.data.leakage.test
    told = f"{leaked.shared_with_any} of {leaked.images} test images share a source" if leaked else "sources: not known"
    text = f"{case.data.images_left_out} images of the splits were left out; with another split, {told}."
    return Said(text, (*case.cite(case.subset), *case.cite(case.splits)))


def cleaning(case: Case) -> Answer:
    repairs, privacy = case.split_facts.repairs, case.split_facts.privacy
    text = (
        f"Mended by rule: {_counts(repairs)}. {privacy.names_replaced} file names were replaced, metadata was taken "
        f"from {privacy.images_with_metadata} images."
    )
    return Said(text, (*case.cite(case.splits), *(cited for raw in case.raws for cited in case.cite(raw))))


def predetermined(case: Case) -> Answer:
    if Asset.PLAN not in case.facts.chain:
        return None
    manifest = case.product(Asset.PLAN)
    plan, row = plan_in(case.store, manifest), next(row for row in case.told.verdict.rows if row.id == PLAN_ROW)
    text = (
        f"Before the training, {plan.by} signed that recipes {_listed(plan.recipes)} would be trained on "
        f"{_listed(source.name for source in plan.sources)} and judged by policy {plan.policy.name} "
        f"v{plan.policy.version}. {row.because}"
    )
    evidence = (*case.cite(manifest, PLAN, PLAN_ENVELOPE), *case.cite_record(manifest), *_report(case, VERDICT))
    return Said(text, evidence)


def testing(case: Case) -> Answer:
    policy, boot = case.told.policy, case.measured.bootstrap
    hard = sum(gate.severity == "hard" for gate in policy.gates)
    intervals = f"intervals from {boot.resamples} resamples of sources" if boot else "no intervals"
    text = f"{len(policy.gates)} gates ({hard} hard) of policy {policy.name} v{policy.version}, by {intervals}."
    return Said(f"{text} Verdict: {case.facts.verdict}.", (*_report(case, REPORT, VERDICT), *_evaluation(case)))


def test_data(case: Case) -> Answer:
    test = case.data.splits.get("test")
    if test is None:
        return None
    empty = f"{test.images_without_annotations} without any box"
    clean = f"{test.images} test images, {test.clean_images} share no source with another split, {empty}"
    truth = f"the ground truth that was scored has sha256 {case.measured.ground_truth_sha256}"
    return Said(f"{clean}; {truth}.", (*case.cite(case.subset), *_evaluation(case)))


def accuracy_metrics(case: Case) -> Answer:
    metrics = dict.fromkeys(gate.metric for gate in case.told.policy.gates)
    engines = case.measured.engines
    agree = f" Two engines agree to {engines.max_abs_difference}." if engines and engines.agree else ""
    return Said(f"Metrics that gates ask: {_listed(metrics)}.{agree}", (*_report(case, REPORT), *_evaluation(case)))


def robustness(case: Case) -> Answer:
    row = _measured(case, "left_right_agreement", "all")
    if row is None or row.value is None:
        return None
    text = f"On mirrored images the findings agree with those on the originals: {_with_interval(row)}."
    return Said(text, _evaluation(case))


def test_logs(case: Case) -> Answer:
    assets = (Asset.TEST_PREDICTIONS, Asset.CLASS_METRICS, Asset.RELEASE_REPORT)
    records = [cited for asset in assets for cited in case.cite_record(case.product(asset))]
    text = f"Prediction, evaluation and verdict are in the log, {len(records)} records, with code, packages and times."
    return Said(text, tuple(records)) if len(records) == len(assets) else None


def signed_reports(case: Case) -> Answer:
    people = case.said.approved_by or ()
    paths = [path for path in case.release.entries if path.startswith(FOLDER)]
    if not people:
        return None
    dated = case.cite_record(case.product(Asset.RELEASE_REPORT))
    return Said(f"The report was signed by {_listed(people)}, and dated.", (*case.cite(case.release, *paths), *dated))


def cybersecurity(case: Case) -> Answer:
    head = f" The log's entry {case.said.log.sequence} is part of what was signed." if case.said.log else ""
    text = f"One measure: {len(case.release.entries) - 1} files are covered by one signature.{head}"
    return Said(text, case.cite(case.release, SIGNATURE, STATEMENT))


# 3 to 9 --------------------------------------------------------------------------------------------------------------


def limitations(case: Case) -> Answer:
    rows = [row for row in case.told.verdict.rows if not row.passed]
    words = {reading.condition: reading.outcome or reading.point for reading in case.told.verdict.classes}
    missed = (
        f"By class, as the policy reads AP: {_counts(words)}. Gates that did not pass: {_listed(r.id for r in rows)}."
    )
    loose = f" Loosely labelled: {_listed(case.told.loose_classes)}." if case.told.loose_classes else ""
    never = " It must never be used on X-rays." if case.facts.never_for_xrays else ""
    return Said(f"{missed}{loose}{never}", (*_report(case, VERDICT, REPORT), *case.cite(case.release)))


def expected_accuracy(case: Case) -> Answer:
    row = _measured(case, "ap50")
    if row is None or row.value is None:
        return None
    text = f"Macro AP50 on {case.measured.gated_population} test images: {_with_interval(row)}, interval of 90 %."
    return Said(text, _evaluation(case))


def accuracy_of_groups(case: Case) -> Answer:
    """Groups of X-rays, not of persons; what too few of them show is shown by none."""
    told = [row.sentence for row in case.told.worst_groups if row.outcome != "INCONCLUSIVE"]
    return Said(f"By kinds of X-rays, not of persons: {' '.join(told)}", _report(case, REPORT)) if told else None


def input_data(case: Case) -> Answer:
    width, height = case.trained.image_size
    text = f"One image, brought to {width} × {height} px as preprocessor_config.json says."
    return Said(text, (*case.cite(case.checkpoint, "model/preprocessor_config.json"), *case.cite(case.checkpoint)))


def metrics_appropriate(case: Case) -> Answer:
    gates = case.told.policy.gates
    text = f"Each of the {len(gates)} gates has its reason and the source of its bound in the policy that was applied."
    return Said(text, _report(case, REPORT))


def changes(case: Case) -> Answer:
    if case.said.previous is None:
        return Said("It is the first release: there is nothing that changed.", case.cite(case.release, STATEMENT))
    release = case.store.get_manifest(case.said.previous)
    before, now = statement_of(case.store, release).predicate, case.said
    inputs, same = [dict(digests_of(said.inputs)) for said in (before, now)], Asset.CONDITION_SUBSET
    compared = {
        "recipe": before.model.recipe_digest == now.model.recipe_digest,
        "data": inputs[0].get(same) == inputs[1].get(same),
        "model": inputs[0].get(Asset.TRAINED_CHECKPOINT) == inputs[1].get(Asset.TRAINED_CHECKPOINT),
        "policy": before.policy.digest == now.policy.digest,
    }
    told = _counts({name: "unchanged" if unchanged else "changed" for name, unchanged in compared.items()})
    text = f"Against release {before.sequence} ({release.digest[:12]}): {told}."
    return Said(text, case.cite(case.release, STATEMENT))


def open_point(case: Case) -> Answer:
    """A person's to state: no byte of a release shows it."""
    return None


ANNEX: tuple[tuple[int, str, tuple[tuple[str, str, Callable[[Case], Answer]], ...]], ...] = (
    (
        1,
        "A general description of the AI system",
        (
            ("1(a)", "its intended purpose", open_point),
            ("1(a)", "the name of the provider", open_point),
            ("1(a)", "the version of the system", version),
            ("1(a)", "its relation to previous versions", earlier_versions),
            ("1(b)", "how it interacts with hardware or software, other AI systems included", open_point),
            ("1(c)", "the versions of relevant software or firmware", software_versions),
            ("1(c)", "any requirements related to version updates", open_point),
            ("1(d)", "all the forms in which it is placed on the market or put into service", forms),
            ("1(e)", "the hardware on which it is intended to run", open_point),
            ("1(f)", "photographs or illustrations of products that it is a component of", open_point),
            ("1(g)", "a basic description of the user-interface provided to the deployer", open_point),
            ("1(h)", "instructions for use for the deployer", open_point),
        ),
    ),
    (
        2,
        "A detailed description of the elements of the AI system and of the process for its development",
        (
            ("2(a)", "the methods and steps performed for its development", steps),
            ("2(a)", "recourse to pre-trained systems or tools of third parties, and how they were used", third_party),
            ("2(b)", "the general logic of the system and of the algorithms", logic),
            ("2(b)", "the key design choices, with rationale and assumptions", open_point),
            ("2(b)", "the persons or groups of persons on whom it is intended to be used", open_point),
            ("2(b)", "the main classification choices", classification),
            ("2(b)", "what it is designed to optimise for, and the relevance of the parameters", optimised_for),
            ("2(b)", "the expected output and its quality", output_quality),
            ("2(b)", "the decisions about any possible trade-off", open_point),
            ("2(c)", "the system architecture: how software components build on each other", open_point),
            ("2(c)", "the computational resources used to develop, train, test and validate", resources),
            ("2(d)", "the training methodologies and techniques", training_technique),
            ("2(d)", "a general description of the training data sets", data_described),
            ("2(d)", "their provenance", data_provenance),
            ("2(d)", "their scope and main characteristics", data_characteristics),
            ("2(d)", "how the data was obtained", open_point),
            ("2(d)", "how the data was selected", data_selected),
            ("2(d)", "labelling procedures", open_point),
            ("2(d)", "data cleaning methodologies", cleaning),
            ("2(e)", "an assessment of the human oversight measures needed (Article 14)", open_point),
            ("2(e)", "technical measures that help deployers to interpret outputs (Article 13(3)(d))", open_point),
            ("2(f)", "pre-determined changes to the system and its performance", predetermined),
            ("2(g)", "the validation and testing procedures used", testing),
            ("2(g)", "the validation and testing data used and their main characteristics", test_data),
            ("2(g)", "the metrics used to measure accuracy", accuracy_metrics),
            ("2(g)", "the metrics used to measure robustness", robustness),
            ("2(g)", "the metrics used to measure compliance with other requirements", open_point),
            ("2(g)", "potentially discriminatory impacts", open_point),
            ("2(g)", "test logs", test_logs),
            ("2(g)", "test reports dated and signed by the responsible persons", signed_reports),
            ("2(h)", "the cybersecurity measures put in place", cybersecurity),
        ),
    ),
    (
        3,
        "Detailed information about the monitoring, functioning and control of the AI system",
        (
            ("3", "its capabilities and limitations in performance", limitations),
            ("3", "the degrees of accuracy for specific persons or groups of persons", accuracy_of_groups),
            ("3", "the overall expected level of accuracy", expected_accuracy),
            ("3", "foreseeable unintended outcomes and sources of risks", open_point),
            ("3", "the human oversight measures needed (Article 14)", open_point),
            ("3", "technical measures that facilitate the interpretation of outputs", open_point),
            ("3", "specifications on input data", input_data),
        ),
    ),
    (
        4,
        "A description of the appropriateness of the performance metrics",
        (("4", "why the performance metrics are appropriate for this system", metrics_appropriate),),
    ),
    (5, "The risk management system", (("5", "its detailed description (Article 9)", open_point),)),
    (
        6,
        "Relevant changes made through the lifecycle",
        (("6", "changes made by the provider to the system through its lifecycle", changes),),
    ),
    (
        7,
        "Harmonised standards",
        (
            ("7", "the harmonised standards applied in full or in part", open_point),
            ("7", "where none, the solutions adopted and other standards applied", open_point),
        ),
    ),
    (8, "The EU declaration of conformity", (("8", "a copy of it (Article 47)", open_point),)),
    (
        9,
        "Evaluation in the post-market phase",
        (
            ("9", "the system that evaluates performance in the post-market phase (Article 72)", open_point),
            ("9", "the post-market monitoring plan (Article 72(3))", open_point),
        ),
    ),
)
"""Number, title, and what is asked for with what answers it."""


def sections_of(case: Case) -> tuple[Section, ...]:
    """Annex IV, answered as far as bytes answer it."""
    return tuple(
        Section(number=number, title=title, points=tuple(_point(case, *asked) for asked in points))
        for number, title, points in ANNEX
    )


def _point(case: Case, name: str, asks: str, answer: Callable[[Case], Answer]) -> Point:
    said = answer(case)
    if said is None or not said.evidence:
        return Point(id=name, asks=asks, says=None)
    return Point(id=name, asks=asks, says=said.text, evidence=tuple(dict.fromkeys(said.evidence)))
