"""The evaluation: everything that is measured on one set of detections.

It calls the other modules of this room in order and knows no formula itself. Both engines score every run; AP and
recall are those of pycocotools, AP by size of box those of hotcoco, the intervals those of the room's own matching, and
the three must agree.

What the words mean:

- *populations*: `all` images, and `clean` ones (no source shared with another split) where the ground truth says so.
  Gates read the clean ones.
- *operating threshold* of a class: the one with the best F1, chosen on `valid` (the validation split). Everything that
  needs a decision (calibration, consistency, empty mouths, errors, confusion) is measured at it.
- `recall_at_p95`, `best_f1`: what the curve of the evaluated population allows. `…_at_threshold` (best F1) and
  `…_at_threshold_p95`: what the thresholds chosen on valid give on it, which is what a user would see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dentsight_pipeline.documents.evaluation import (
    ENGINE_TOLERANCE,
    SCHEMA,
    BootstrapFacts,
    Curve,
    Engines,
    EvaluationDocument,
    LabelCeiling,
    PopulationName,
)
from dentsight_pipeline.errors import EvaluationError
from dentsight_pipeline.evaluation import bootstrap, consistency, engines, errors_by_type, matching, operating_points
from dentsight_pipeline.evaluation.columns import Detections, GroundTruth
from dentsight_pipeline.evaluation.engines import EngineResult
from dentsight_pipeline.evaluation.figures import Counted, MeasuredPopulation, measure_populations
from dentsight_pipeline.evaluation.folder import Evaluation, read_json_file, summary, write_evaluation
from dentsight_pipeline.evaluation.matching import ClassMatches
from dentsight_pipeline.evaluation.operating import choose_operating
from dentsight_pipeline.evaluation.parts import by_export
from dentsight_pipeline.evaluation.subgroups import Traits, by_subgroup
from dentsight_pipeline.evaluation.tier2 import Gated, measure_tier2, sample_sizes
from dentsight_pipeline.evaluation.validation import digest_of, read_detections, read_ground_truth
from dentsight_pipeline.progress import Progress

STATED_FLOOR = 0.05
"""Least score of a row in `matches.parquet`; lower when an operating threshold is lower."""
_CURVE_POINTS = 200


@dataclass(frozen=True)
class Inputs:
    """What is evaluated, and how.

    Attributes:
        truth: The ground truth; its categories are the classes.
        found: The detections.
        mirrored: Detections on the mirrored images in the unmirrored frame: boxes mapped back and teeth renamed, as
            `training/predict` stores them.
        valid: Ground truth and detections of the validation split. Without them thresholds are chosen on the evaluated
            images themselves, which flatters, and is recorded as `test`.
        resamples: Bootstrap resamples; 0 = no intervals.
        seed: Bootstrap seed. The same inputs and seed give the same evaluation, byte for byte.
        notes: What was left out before, in words.
        label_ceilings: What the labels allow, from `ceiling.label_ceilings`.
        exports: The export of each image; empty where nothing says.
        traits: What is known of each image beside these labels; None where nobody looked at it.
    """

    truth: GroundTruth
    found: Detections
    mirrored: Detections | None = None
    valid: tuple[GroundTruth, Detections] | None = None
    resamples: int = 1000
    seed: int = 0
    notes: tuple[str, ...] = ()
    label_ceilings: tuple[LabelCeiling, ...] = ()
    exports: tuple[str, ...] = ()
    traits: Traits | None = None

    @property
    def populations(self) -> dict[PopulationName, np.ndarray]:
        """[I] masks of the images."""
        masks: dict[PopulationName, np.ndarray] = {"all": np.ones(len(self.truth.image_ids), bool)}
        return masks if self.truth.clean is None else {**masks, "clean": self.truth.clean}

    @property
    def gated(self) -> PopulationName:
        """The population that gates read."""
        return "all" if self.truth.clean is None else "clean"


def coco_inputs(
    ground_truth: object,
    detections: object,
    *,
    thresholds_from: tuple[object, object] | None = None,
    mirrored: object = None,
    swap_mirrored_teeth: bool = False,
    fill_missing: bool = False,
    names: tuple[str, str] = ("ground truth", "detections"),
    resamples: int = 1000,
    seed: int = 0,
) -> Inputs:
    """COCO JSON as the inputs of an evaluation.

    Args:
        ground_truth: Parsed COCO JSON. `clean` and `source_group` of an image are used where they are there.
        detections: COCO results list, boxes [x, y, w, h] in original pixels, unrounded.
        thresholds_from: The same two of the validation split.
        mirrored: See `Inputs.mirrored`.
        swap_mirrored_teeth: The teeth of `mirrored` still carry the names seen in the mirror; swap quadrants 1 with 2
            and 3 with 4 here.
        fill_missing: Fill a missing `area` with w·h and a missing `iscrowd` with 0, and say so in the notes. Off by
            default, because an engine would crash or guess.
        names: How errors call the two inputs.
        resamples: See `Inputs`.
        seed: See `Inputs`.

    Raises:
        ScoringRecordError: A record that would be mis-scored, with its place, the reason and the remedy.
        EvaluationError: Not such files.
    """
    truth = read_ground_truth(ground_truth, source=names[0], fill_missing=fill_missing)
    found = read_detections(detections, truth, source=names[1])
    reflected = None
    if mirrored is not None:
        reflected = read_detections(mirrored, truth, source="mirrored detections")
        reflected = replace(reflected, sha256=digest_of(mirrored))
        if swap_mirrored_teeth:
            reflected = consistency.with_teeth_renamed(reflected, truth.class_names)
    valid = None
    if thresholds_from is not None:
        known = read_ground_truth(thresholds_from[0], source="validation ground truth", fill_missing=fill_missing)
        valid = known, read_detections(thresholds_from[1], known, source="validation detections")
    return Inputs(
        truth=replace(truth, sha256=digest_of(ground_truth)),
        found=replace(found, sha256=digest_of(detections)),
        mirrored=reflected,
        valid=valid,
        resamples=resamples,
        seed=seed,
    )


def evaluate(given: Inputs, progress: Progress | None = None) -> Evaluation:
    """Measure everything on one set of detections.

    Args:
        given: What is evaluated, and how.
        progress: Called with stage, done, total.

    Raises:
        EvaluationError: A validation split of other classes, or figures that the engines and the room's own matching
            do not agree on.
    """
    say = progress or (lambda stage, done, total: None)
    say("validate", 0, 1)
    given = _on_images_looked_at(given)
    say("engines", 0, 1)
    scored, engine_facts = _scored_by_both(given)
    say("match", 0, 1)
    matches = matching.match_all_sizes(given.truth, given.found)
    populations = _populations(given, scored, matches)
    measured = measure_populations(
        populations,
        lambda k: {"all": matches[k], **matching.match_class(given.truth, given.found, k, engines.SIZES)},
        lambda done, total: say("bootstrap", done, total),
    )
    engine_facts = _with_own_distance(engine_facts, max(own.distance for own in measured.values()))
    say("tier 2", 0, 1)
    evaluation = _assembled(given, engine_facts, populations, measured)
    say("done", 1, 1)
    return evaluation


def evaluate_files(
    ground_truth: Path,
    detections: Path,
    out: Path,
    *,
    thresholds_from: tuple[Path, Path] | None = None,
    mirrored: Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """`evaluate` on COCO files, written to the folder `out`.

    Args:
        ground_truth: See `coco_inputs`.
        detections: See `coco_inputs`.
        out: The folder.
        thresholds_from: See `coco_inputs`.
        mirrored: See `coco_inputs`.
        progress: Called with stage, done, total.
        settings: `resamples`, `seed` and `fill_missing` of `coco_inputs`.

    Returns:
        The summary that the command line prints; see `summary`.

    Raises:
        EvaluationError: A file that cannot be read, or as `evaluate`.
    """
    given = coco_inputs(
        read_json_file(ground_truth),
        read_json_file(detections),
        thresholds_from=(read_json_file(thresholds_from[0]), read_json_file(thresholds_from[1]))
        if thresholds_from
        else None,
        mirrored=None if mirrored is None else read_json_file(mirrored),
        names=(str(ground_truth), str(detections)),
        **settings,
    )
    evaluation = evaluate(given, progress)
    write_evaluation(evaluation, out)
    return summary(evaluation.document)


def _on_images_looked_at(given: Inputs) -> Inputs:
    """Images in which nobody looked for any of the classes are no negatives: leave them out.

    Raises:
        EvaluationError: None is left.
    """
    truth = given.truth
    partial = truth.partial & consistency.are_teeth(truth.class_names)
    unseen = ~truth.covered.any(axis=1) & ~partial
    left_out = (
        (partial, "{} partially annotated images left out: their teeth are not marked."),
        (unseen, "{} images left out: nobody looked for any of the classes there."),
    )
    notes = tuple(note.format(int(mask.sum())) for mask, note in left_out if mask.any())
    kept = ~(partial | unseen)
    if not kept.any():
        raise EvaluationError(
            f"In none of the {len(kept)} images did anybody look for {', '.join(truth.class_names)}, so nothing can be "
            "measured. Evaluate on images that were annotated for these classes, or declare that they were."
        )
    return given if kept.all() else _on(given, kept, notes)


def _on(given: Inputs, images: np.ndarray, notes: tuple[str, ...]) -> Inputs:
    return replace(
        given,
        truth=given.truth.subset(images),
        found=given.found.subset(images),
        mirrored=None if given.mirrored is None else given.mirrored.subset(images),
        exports=tuple(name for name, kept in zip(given.exports, images, strict=False) if kept),
        traits=None if given.traits is None else given.traits.subset(images),
        notes=(*given.notes, *notes),
    )


def _scored_by_both(given: Inputs) -> tuple[dict[PopulationName, EngineResult], Engines]:
    """Each population by both engines, and how far they are apart: gates fail closed on engines that disagree."""
    record = engines.score_populations(given.truth, given.found, "pycocotools", given.populations, areas=("all",))
    second = engines.score_populations(given.truth, given.found, "hotcoco", given.populations)
    apart = max(
        engines.max_abs_difference(own, engines.common_cells(second[name], own)) for name, own in record.items()
    )
    facts = Engines(
        pycocotools=record["all"].version,
        hotcoco=second["all"].version,
        max_abs_difference=apart if np.isfinite(apart) else None,
        agree=bool(apart <= ENGINE_TOLERANCE),
    )
    return {name: engines.with_cells_of(second[name], own) for name, own in record.items()}, facts


def _with_own_distance(facts: Engines, distance: float) -> Engines:
    """The facts with how far the room's own matching, which the intervals come from, is from the engines.

    Raises:
        EvaluationError: Too far.
    """
    if not distance <= ENGINE_TOLERANCE:
        raise EvaluationError(
            f"The matching that intervals come from differs from pycocotools {facts.pycocotools} by {distance:.3g} "
            f"(allowed: {ENGINE_TOLERANCE:g}), so no interval of this run can be trusted. Install the "
            "versions of constraints.txt and report the pair of files."
        )
    return msgspec.structs.replace(facts, own_matching_max_abs_difference=distance)


def _populations(
    given: Inputs, scored: Mapping[PopulationName, EngineResult], matches: Sequence[ClassMatches]
) -> list[Counted]:
    """The populations, with the matches for all areas."""
    operating = choose_operating(given.truth, matches, given.valid)
    return [
        Counted(
            name=name,
            images=mask,
            covered=given.truth.covered[mask],
            matches=matches,
            engine=scored[name],
            operating=operating,
            weights=bootstrap.draw(given.truth.groups[mask], given.resamples, given.seed),
        )
        for name, mask in given.populations.items()
    ]


def _assembled(
    given: Inputs,
    engine_facts: Engines,
    populations: Sequence[Counted],
    measured: Mapping[PopulationName, MeasuredPopulation],
) -> Evaluation:
    """The document and the tables, with Tier 2 measured on the gated population."""
    classes = given.truth.class_names
    counted = next(own for own in populations if own.name == given.gated)
    gated = _gated(given, counted)
    tier2, tier2_rows = measure_tier2(gated)
    drawn_by = (given.truth.groups, given.resamples, given.seed)
    subgroups, unknown = by_subgroup(counted, given.traits, given.truth.image_sizes_px[:, 0], *drawn_by)
    typed = errors_by_type.classify(given.truth, given.found, gated.matches, _floor(gated.operating.best_f1))
    shown = errors_by_type.Shown(given.truth, given.found, typed, gated.operating.best_f1)
    rows = (*(row for own in measured.values() for row in own.measurements), *tier2_rows)
    document = EvaluationDocument(
        schema=SCHEMA,
        classes=classes,
        ground_truth_sha256=given.truth.sha256,
        detections_sha256=given.found.sha256,
        mirrored_sha256=None if given.mirrored is None else given.mirrored.sha256,
        gated_population=gated.name,
        populations={name: own.part for name, own in measured.items()},
        measurements=rows,
        engines=engine_facts,
        thresholds_from=gated.operating.chosen_on,
        operating_points={name: gated.operating.point(k) for k, name in enumerate(classes)},
        bootstrap=_bootstrap_facts(given),
        **tier2,
        errors=shown.count_by_type(gated.images),
        found_by_size=errors_by_type.found_by_size(given.truth, gated.hit, gated.images),
        confusion=shown.confusion_matrix(gated.images),
        score_floor=typed.floor,
        sample_sizes=sample_sizes(rows, measured[gated.name].part),
        label_ceilings=given.label_ceilings,
        by_export=by_export(counted, given.exports, *drawn_by),
        subgroups=subgroups,
        subgroups_unknown=unknown,
        notes=(*given.truth.notes, *given.notes),
    )
    curves = {own.name: {name: _curve(own, k) for k, name in enumerate(classes)} for own in populations}
    return Evaluation(document, curves, shown)


def _bootstrap_facts(given: Inputs) -> BootstrapFacts:
    return BootstrapFacts(
        resamples=given.resamples,
        seed=given.seed,
        unit="source_group",
        method="BCa",
        level=1 - bootstrap.ALPHA,
        minimum_groups=bootstrap.MINIMUM_GROUPS,
    )


def _gated(given: Inputs, own: Counted) -> Gated:
    return Gated(
        name=own.name,
        images=own.images,
        weights=own.weights,
        truth=given.truth,
        found=given.found,
        mirrored=given.mirrored,
        matches=own.matches,
        operating=own.operating,
    )


def _floor(thresholds: np.ndarray) -> float:
    return float(min([STATED_FLOOR, *thresholds[np.isfinite(thresholds)]]))


def _curve(own: Counted, k: int) -> Curve:
    """Precision over recall (engine of record, IoU .50), and precision, recall, F1 over the score."""
    curve = operating_points.score_curve(own.matches[k].subset(own.images))
    precision = own.engine.precision[0, :, k, 0, -1]
    columns = [np.zeros(0)] * 4
    if curve is not None:
        at = curve.points(_CURVE_POINTS)
        columns = [column[at] for column in (curve.scores, curve.f1, curve.precision, curve.recall)]
    score, f1, precision_by_score, recall_by_score = (tuple(column.tolist()) for column in columns)
    return Curve(
        recall=tuple(engines.RECALL_THRESHOLDS.tolist()),
        precision=tuple(precision.tolist()) if (precision > -1).all() else None,
        score=score,
        f1=f1,
        precision_by_score=precision_by_score,
        recall_by_score=recall_by_score,
    )
