"""Each sentence of a dossier says what the bytes that it cites say, word by word."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec import structs

from dentsight_pipeline.documents.codec import convert
from dentsight_pipeline.documents.facts import Corpus, Coverage
from dentsight_pipeline.documents.lineage import Record
from dentsight_pipeline.documents.names import CorpusKind
from dentsight_pipeline.documents.release import Digest
from dentsight_pipeline.documents.subgroups import WorstGroup
from dentsight_pipeline.lineage.dossier import annex
from dentsight_pipeline.lineage.dossier.annex import Answer
from dentsight_pipeline.lineage.dossier.case import Case
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline_tests.lineage.chain_builder import Chain
from dentsight_pipeline_tests.lineage.dossier.conftest import with_facts


def _text(said: Answer) -> str:
    assert said is not None
    assert said.evidence
    return said.text


def _cited(said: Answer) -> list[str]:
    assert said is not None
    return [cited.name for cited in said.evidence]


def test_every_sentence_of_an_ordinary_release_reads_as_it_should(case: Case, intact_chain: Chain) -> None:
    """The made-up chain: eight X-rays, eight of each finding, and gates that all pass."""
    short = {asset: digest[:12] for asset, digest in intact_chain.digests.items()}
    classes = dict.fromkeys(case.trained.classes, 0) | {"caries": 8, "crown": 8}
    outcomes = {row.condition: row.outcome or "strong" for row in case.told.verdict.classes}

    said = {point.asks: point.says for section in annex.sections_of(case) for point in section.points if point.says}

    assert said == {
        "the version of the system": f"Release 2 of its store, tiny-v1 × smoke, digest {case.digest}.",
        "its relation to previous versions": (
            f"It follows release {intact_chain.digests['earlier_release']}, which its signed statement names."
        ),
        "all the forms in which it is placed on the market or put into service": (
            "A signed folder of 9 files; the model is model/config.json, model/model.safetensors, "
            "model/preprocessor_config.json."
        ),
        "the methods and steps performed for its development": (
            "Each product names what it was made from, and a record how. The newest first: "
            f"release {short['released_model']}, release-report {short['release_report']}, "
            f"evaluation {short['class_metrics']}, predictions {short['test_predictions']}, "
            f"checkpoint {short['trained_checkpoint']}, condition-subset {short['condition_subset']}, "
            f"normalized-splits {short['normalized_splits']}, raw-export {short['raw_export']}."
        ),
        "recourse to pre-trained systems or tools of third parties, and how they were used": (
            "Training started from random weights, no pre-trained ones; all weights before the first step hash to "
            f"{case.trained.initial_weights_sha256}."
        ),
        "the general logic of the system and of the algorithms": (
            "A detector of 1,024 parameters looks at the whole image at 448 × 256 px and gives boxes of 13 classes, "
            "each with a score; config.json says which architecture."
        ),
        "the main classification choices": (
            f"Classes: {', '.join(classes)}. Label mapping by export: unnamed export opg-reporting."
        ),
        "what it is designed to optimise for, and the relevance of the parameters": (
            "Recipe smoke with class_loss matchability, criterion published, focal_alpha 1.0, focal_gamma 1.5, "
            "learning_rate 0.0005, weight_decay 0.0001, ema_decay 0.99, sampler uniform; step 4 was kept as the best."
        ),
        "the expected output and its quality": (
            f"AP[.50:.95] by class on clean test images: {', '.join(f'{name} 0.90 [0.90, 0.90]' for name in classes)}."
        ),
        "the training methodologies and techniques": (
            "8 of 8 optimiser steps with max_steps 200, batch_size 4, precision fp32, schedule flat-cosine, "
            "augment_flip 0.5, augment_crop 0.0, seed 7."
        ),
        "a general description of the training data sets": (
            "unnamed export: images of an export. test 3 images, 6 boxes; train 3 images, 6 boxes; "
            "valid 2 images, 4 boxes."
        ),
        "their provenance": (
            f"export {short['raw_export']} with 8 images (CC BY 4.0). "
            "The sha256 of every original file is kept with it."
        ),
        "their scope and main characteristics": (
            f"Boxes by class over all splits: {', '.join(f'{name} {n}' for name, n in classes.items())}."
        ),
        "how the data was selected": (
            "0 images of the splits were left out; with another split, 0 of 3 test images share a source."
        ),
        "data cleaning methodologies": (
            "Mended by rule: none. 8 file names were replaced, metadata was taken from 0 images."
        ),
        "the validation and testing procedures used": (
            "22 gates (14 hard) of policy card v2, by intervals from 8 resamples of sources. Verdict: PASS."
        ),
        "the validation and testing data used and their main characteristics": (
            "3 test images, 3 share no source with another split, 0 without any box; the ground truth that was scored "
            f"has sha256 {case.measured.ground_truth_sha256}."
        ),
        "the metrics used to measure accuracy": (
            "Metrics that gates ask: head_health, engines_agree, licence_allows_release, ap50, ap, recall_at_p95, ece, "
            "left_right_agreement, left_minus_right_recall, empty_mouth_fp_rate, reader_delta_kappa, paired_delta_ap, "
            "paired_delta_ap50. Two engines agree to 0.0."
        ),
        "the metrics used to measure robustness": (
            "On mirrored images the findings agree with those on the originals: 0.90 [0.90, 0.90]."
        ),
        "test logs": "Prediction, evaluation and verdict are in the log, 3 records, with code, packages and times.",
        "the cybersecurity measures put in place": (
            "One measure: 8 files are covered by one signature. The log's entry 8 is part of what was signed."
        ),
        "its capabilities and limitations in performance": (
            "By class, as the policy reads AP: "
            f"{', '.join(f'{name} {word}' for name, word in outcomes.items())}. Gates that did not pass: none."
        ),
        "the overall expected level of accuracy": (
            "Macro AP50 on clean test images: 0.90 [0.90, 0.90], interval of 90 %."
        ),
        "specifications on input data": "One image, brought to 448 × 256 px as preprocessor_config.json says.",
        "why the performance metrics are appropriate for this system": (
            "Each of the 22 gates has its reason and the source of its bound in the policy that was applied."
        ),
        "changes made by the provider to the system through its lifecycle": (
            f"Against release 1 ({short['earlier_release']}): recipe unchanged, data unchanged, model unchanged, "
            "policy unchanged."
        ),
    }


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        (annex.version, ["release", "release/statement.json"]),
        (annex.third_party, ["trained_checkpoint/recipe.json", "trained_checkpoint"]),
        (annex.logic, ["trained_checkpoint/model/config.json", "trained_checkpoint"]),
        (annex.optimised_for, ["trained_checkpoint/recipe.json", "trained_checkpoint/history.json"]),
        (annex.output_quality, ["release_report/verdict.json", "class_metrics/evaluation.json"]),
        (annex.data_provenance, ["raw_export"]),
        (annex.cleaning, ["normalized_splits", "raw_export"]),
        (annex.testing, ["release_report/report.json", "release_report/verdict.json", "class_metrics/evaluation.json"]),
        (annex.test_data, ["condition_subset", "class_metrics/evaluation.json"]),
        (
            annex.test_logs,
            ["record of test_predictions", "record of class_metrics", "record of release_report"],
        ),
        (annex.cybersecurity, ["release/release.sig", "release/statement.json"]),
        (annex.input_data, ["trained_checkpoint/model/preprocessor_config.json", "trained_checkpoint"]),
    ],
)
def test_a_sentence_cites_the_files_that_it_was_read_from(
    case: Case, answer: Callable[[Case], Answer], names: list[str]
) -> None:
    """Who doubts it opens those, and no other."""
    assert _cited(answer(case)) == names


def test_the_first_release_follows_none(intact_chain: Chain) -> None:
    """There is nothing that it could have changed."""
    first = Case(intact_chain.store, intact_chain.digests["earlier_release"])

    assert _text(annex.earlier_versions(first)) == "It is the first release."
    assert _text(annex.changes(first)) == "It is the first release: there is nothing that changed."


def test_what_changed_since_the_release_before_is_named(case: Case) -> None:
    """Recipe, data, model and policy, each by its digest."""
    said = case.said
    other = structs.replace(said.model, recipe_digest="f" * 64)
    policy = structs.replace(said.policy, digest="f" * 64)
    inputs = tuple(structs.replace(named, digest=Digest(sha256="f" * 64)) for named in said.inputs)

    told = [
        _text(annex.changes(with_facts(case, "said", **{"model": said.model, "policy": said.policy} | change)))
        for change in ({"model": other}, {"policy": policy}, {"inputs": inputs})
    ]

    assert [text.partition(": ")[2] for text in told] == [
        "recipe changed, data unchanged, model unchanged, policy unchanged.",
        "recipe unchanged, data unchanged, model unchanged, policy changed.",
        "recipe unchanged, data changed, model changed, policy unchanged.",
    ]


@pytest.mark.parametrize(
    ("weights", "packaged", "licence", "told"),
    [
        (None, None, "", "random weights, no pre-trained ones;"),
        ("dfine-large", None, "Apache-2.0", "the weights dfine-large, under Apache-2.0;"),
        ("dfine-large", "phantom-v1", "", "weights of this package (phantom-v1);"),
    ],
)
def test_whose_weights_a_training_started_from_is_said(
    case: Case, weights: str | None, packaged: str | None, licence: str, told: str
) -> None:
    """A licence binds what is trained from them."""
    vars(case)["recipe"] = {**case.recipe, "weights": weights}

    text = _text(annex.third_party(with_facts(case, "trained", packaged_weights=packaged, weights_licence=licence)))

    assert text.startswith(f"Training started from {told} all weights before the first step hash to c0ffee")


def test_versions_and_cost_are_told_where_they_were_recorded(case: Case, intact_chain: Chain) -> None:
    """Nothing is said of a training that nobody measured."""
    assert annex.software_versions(with_facts(case, "trained", versions={})) is None
    assert annex.resources(case) is None

    with_facts(case, "trained", versions={"torch": "2.1", "python": "3.12"})
    record = Record(hardware={"device": "CPU", "gpus": None}, cost={"seconds": 12.3456, "images": 8})
    case.kept.records[intact_chain.digests["trained_checkpoint"]] = [record]

    assert _text(annex.software_versions(case)) == "It was trained with torch 2.1, python 3.12."
    assert _text(annex.resources(case)) == "The training took: device CPU, seconds 12.35, images 8."
    assert _cited(annex.resources(case)) == ["record of trained_checkpoint"]


def test_data_that_is_drawn_or_was_looked_at_in_part_is_called_that(case: Case) -> None:
    """A reader must not take phantoms for X-rays, nor a missing box for a healthy tooth."""
    mapping = structs.replace(
        case.data.mapping, coverage=Coverage(declared=True, classes=("caries",), images=0, digest="f" * 64)
    )
    leakage = structs.replace(case.data.leakage, test=None)
    with_facts(
        case,
        "data",
        corpus=Corpus(kind=CorpusKind.PHANTOM, name="drawn", licence="CC0-1.0"),
        mapping=mapping,
        leakage=leakage,
        dropped={"braces": 3, "nothing": 0},
        images_left_out=4,
    )

    assert _text(annex.data_described(case)).startswith("drawn: drawn images, not X-rays. test 3 images")
    assert _text(annex.data_characteristics(case)).endswith(" Of 1 exports only some classes were looked for.")
    assert _text(annex.classification(case)).endswith(" Left out by name: braces 3.")
    assert _text(annex.data_selected(case)) == (
        "4 images of the splits were left out; with another split, sources: not known."
    )
    assert annex.test_data(with_facts(case, "data", splits={})) is None


def test_where_an_export_is_from_is_said_as_far_as_it_says(case: Case) -> None:
    """Name, address, version, licence; its files are counted without what lies beside the images."""
    (raw,) = case.raws
    source = {"name": "OPGs", "url": "https://example.org/opgs", "version": "8", "licence": "CC BY 4.0"}
    facts = {**raw.facts, "source": source}
    vars(case)["raws"] = (Manifest(raw.kind, raw.entries, raw.inputs, facts),)

    text = annex.data_provenance(case)

    assert text is not None
    assert " with 8 images (OPGs, https://example.org/opgs, version 8, CC BY 4.0). The" in text.text


def test_limits_name_missed_gates_loose_classes_and_what_is_never_for_x_rays(case: Case) -> None:
    """Whoever deploys it reads this one sentence."""
    verdict = case.told.verdict
    rows = tuple(
        structs.replace(row, outcome="FAIL") if row.id in ("tier1_caries_ap", "tier2_ece") else row
        for row in verdict.rows
    )
    told = structs.replace(case.told, verdict=structs.replace(verdict, rows=rows), loose_classes=("crown", "bridge"))
    vars(case)["told"] = told

    text = _text(annex.limitations(with_facts(case, "facts", never_for_xrays=True)))

    assert text.endswith(
        " Gates that did not pass: tier1_caries_ap, tier2_ece. Loosely labelled: crown, bridge. "
        "It must never be used on X-rays."
    )


def test_accuracy_is_told_of_groups_of_x_rays_that_were_decided(case: Case) -> None:
    """A group with too few sources shows nothing, and is not named as if it did."""
    figures = {"gate": "g", "condition": "caries", "metric": "ap", "floor": 0.3, "axis": "width", "group": "wide"}
    figures |= {"value": 0.5, "low": 0.4, "high": 0.6, "sources": 40, "p_holm": None, "groups": 1, "too_small": 0}
    groups = [
        convert(figures | {"outcome": outcome, "sentence": sentence}, WorstGroup, "a group")
        for outcome, sentence in (("PASS", "Wide ones do."), ("INCONCLUSIVE", "Nobody knows."), ("FAIL", "Dark fail."))
    ]
    assert annex.accuracy_of_groups(case) is None

    with_facts(case, "told", worst_groups=tuple(groups))

    assert _text(annex.accuracy_of_groups(case)) == "By kinds of X-rays, not of persons: Wide ones do. Dark fail."


def test_people_who_signed_are_named(case: Case) -> None:
    """With their signatures as evidence; without any the point is open."""
    assert annex.signed_reports(case) is None

    text = _text(annex.signed_reports(with_facts(case, "said", approved_by=("A. Bell", "C. Dyer"))))

    assert text == "The report was signed by A. Bell, C. Dyer, and dated."


def test_a_figure_that_was_not_measured_leaves_its_point_open(case: Case) -> None:
    """Nothing is said of the mirror, of accuracy or of intervals that nobody looked at."""
    measured = structs.replace(case.told.evaluation, measurements=(), bootstrap=None, engines=None)
    classes = tuple(structs.replace(row, ap=None) for row in case.told.verdict.classes)
    verdict = structs.replace(case.told.verdict, classes=classes)

    with_facts(case, "told", evaluation=measured, verdict=verdict)

    assert (annex.robustness(case), annex.expected_accuracy(case), annex.output_quality(case)) == (None, None, None)
    assert ", by no intervals. Verdict: PASS." in _text(annex.testing(case))
    assert _text(annex.accuracy_metrics(case)).endswith("paired_delta_ap50.")


def test_without_validation_the_last_step_was_kept(case: Case) -> None:
    """No step was found to be the best."""
    assert _text(annex.optimised_for(with_facts(case, "trained", best_step=None))).endswith("; the last step was kept.")
