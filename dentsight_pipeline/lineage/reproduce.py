"""Making a checkpoint again from what was recorded, and comparing: the same digests, or the same metrics.

Each product is made again in an empty store from the *recorded* product below it. Where the bytes below came out the
same, that is one unbroken chain; where they did not, the recorded ones are copied in, so that one difference does not
hide all that follows.

On the CPU everything is deterministic, and the digests must be equal. A training on a GPU is not: there each class's AP
and AP50 must lie within the interval that was recorded.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dentsight_pipeline.data.reading import readings_in
from dentsight_pipeline.data.stems import carry_stems
from dentsight_pipeline.documents.evaluation import (
    EVALUATION_FILE,
    MACRO,
    EvaluationDocument,
    Figure,
    PopulationName,
    RankedFigures,
)
from dentsight_pipeline.documents.facts import EvaluationFacts, SubsetFacts
from dentsight_pipeline.documents.job import FitJob, Job, PredictJob
from dentsight_pipeline.documents.lineage import Code, MetricCompared, Record, Remade, Reproduction
from dentsight_pipeline.documents.names import Asset, Kind, raw_exports
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.lineage.reference import checkpoint_of, readable
from dentsight_pipeline.lineage.walk import name_of
from dentsight_pipeline.progress import Progress
from dentsight_pipeline.store.content import read_document, read_json
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store
from dentsight_pipeline.store.records import first_record

RunJob = Callable[[str, Job], str]
"""Runs the job of `fit` or `predict` in a process of its own; returns the digest that it published."""

PHANTOM = "phantom:"
BY_DIGEST, BY_METRICS = "digest", "metrics within recorded intervals"
METRICS = ("ap", "ap50")
"""What is compared of two evaluations."""


def reproduce(
    store: Store,
    digest: str,
    fresh: Store,
    folder: Path,
    run_job: RunJob,
    *,
    code: Code | None = None,
    progress: Progress | None = None,
) -> Reproduction:
    """Make a checkpoint again, from the export to its evaluation.

    Args:
        store: Where it was recorded; only read.
        digest: Digest of the checkpoint, or of something made with it.
        fresh: An empty store.
        folder: Scratch space.
        run_job: Runs trainings and predictions.
        code: The code that runs now, to be held against the recorded one.
        progress: Called with a stage, what is done, and how much there is.

    Raises:
        ConfigurationError: The digest leads to no checkpoint.
        IntegrityError: Something recorded is missing or was changed; nothing can be made from it.
        TrainingError: The training failed.
    """
    checkpoint = checkpoint_of(store, digest)
    record = first_record(store, checkpoint.digest)
    work = _Work(store, fresh, folder, run_job, progress or (lambda stage, done, total: None))
    metrics = tuple(_make_again(work, checkpoint, record))
    differences = tuple(_differences(work.remade, metrics, exact=not record.on_gpu))
    return Reproduction(
        checkpoint=checkpoint.digest,
        reproduced=not differences,
        differences=differences,
        compared_by=BY_METRICS if record.on_gpu else BY_DIGEST,
        recorded_on=str((record.hardware or {}).get("device", "an unknown device")),
        products=tuple(work.remade),
        metrics=metrics,
        notes=tuple(_notes(record, code)),
    )


@dataclass(frozen=True)
class _Work:
    """Where everything is, and what came out so far."""

    store: Store
    """Where it was recorded."""
    fresh: Store
    """Where it is made again."""
    folder: Path
    """Scratch space."""
    run_job: RunJob
    say: Progress
    remade: list[Remade] = field(default_factory=list)

    def note(self, recorded: Manifest, made: str, how: str) -> None:
        """Note what came out."""
        kind, same = Kind(recorded.kind), recorded.digest == made
        asset = _ASSETS.get(kind, kind.asset)
        self.remade.append(Remade(asset=asset, recorded=recorded.digest, made=made, how=how, same=same))

    def keep(self, recorded: Manifest, made: str, how: str) -> None:
        """Note what came out, and go on from what was recorded."""
        self.note(recorded, made, how)
        if made != recorded.digest:
            self.copy(recorded)

    def copy(self, manifest: Manifest) -> None:
        """A product's bytes, each verified, into the fresh store."""
        for done, entry in enumerate(manifest.entries.values(), start=1):
            if not self.fresh.has(entry.sha256):
                self.fresh.put_file(self.store.local_path(entry.sha256))
            self.say(f"copying {manifest.kind}", done, len(manifest.entries))
        self.fresh.put_manifest(manifest)


_ASSETS = {
    Kind.CHECKPOINT: Asset.TRAINED_CHECKPOINT,
    Kind.PREDICTIONS: Asset.TEST_PREDICTIONS,
    Kind.EVALUATION: Asset.CLASS_METRICS,
}
"""What the products of a cell are called where their kind alone does not say it."""


def _make_again(work: _Work, checkpoint: Manifest, record: Record) -> Iterator[MetricCompared]:
    """Every product from the export on; the metrics of the last, where there is one to compare with."""
    store = work.store
    subset = _below(store, checkpoint, Asset.CONDITION_SUBSET, Asset.TOOTH_SUBSET)
    splits = _below(store, subset, Asset.NORMALIZED_SPLITS)
    raws = _exports(store, splits)
    for raw in raws:
        work.keep(raw, *_remake_raw(work, raw))
        carry_stems(store, work.fresh, raw.digest)
    work.keep(splits, _remake_splits(work, raws, splits), "made")
    work.keep(subset, _remake_subset(work, splits, subset), "made")
    trained = _train(work, checkpoint, subset, record)
    predictions, evaluation = made_with(store, checkpoint)
    if predictions is None:
        return
    predicted = _predict(work, predictions, subset, trained)
    if evaluation is not None:
        evaluated = _evaluate(work, subset, work.fresh.get_manifest(predicted), evaluation)
        yield from _compared(work, evaluation, evaluated)


# The single products -------------------------------------------------------------------------------------------------


def _remake_raw(work: _Work, raw: Manifest) -> tuple[str, str]:
    """A drawn corpus is drawn again; any other export is what the store kept of it."""
    location = first_record(work.store, raw.digest).location or ""
    if location.startswith(PHANTOM):
        return _draw(work, location), "drawn"
    work.copy(raw)
    return raw.digest, "copied"


def _draw(work: _Work, location: str) -> str:
    from dentsight_pipeline.intake.acquire import Acquisition, ingest

    return ingest(work.fresh, Acquisition(location), work.folder / "export", work.say)


def _remake_splits(work: _Work, raws: Sequence[Manifest], splits: Manifest) -> str:
    from dentsight_pipeline.data.combine import normalise_exports
    from dentsight_pipeline.data.corrections import apply_stored

    readings = readings_in(first_record(work.store, splits.digest).config or {}, len(raws))
    made = normalise_exports(work.fresh, raws, readings, work.say)
    if Asset.LABEL_CORRECTIONS in splits.inputs:
        decided = work.store.get_manifest(splits.inputs[Asset.LABEL_CORRECTIONS])
        work.copy(decided)
        made = apply_stored(work.fresh, made, decided)
    return made.digest


def _remake_subset(work: _Work, splits: Manifest, subset: Manifest) -> str:
    from dentsight_pipeline.data.folds import publish_fold
    from dentsight_pipeline.data.subset import select_conditions, select_teeth

    select = select_conditions if subset.kind == Kind.CONDITION_SUBSET else select_teeth
    made, fold = select(work.fresh, splits), subset.facts_as(SubsetFacts).fold
    return (publish_fold(work.fresh, made, *fold) if fold else made).digest


def _train(work: _Work, checkpoint: Manifest, subset: Manifest, record: Record) -> str:
    if Asset.INITIAL_CHECKPOINT in checkpoint.inputs:
        work.copy(work.store.get_manifest(checkpoint.inputs[Asset.INITIAL_CHECKPOINT]))
    job = FitJob(
        store_uri=work.fresh.uri,
        workdir=str(work.folder / "fit"),
        subset=subset.digest,
        recipe=read_json(work.store, checkpoint, "recipe.json"),
        allow_head_collapse=(record.config or {}).get("allow_head_collapse") or None,
        **_means(record),
    )
    trained = work.run_job("fit", job)
    work.note(checkpoint, trained, "trained")
    return trained


def _predict(work: _Work, predictions: Manifest, subset: Manifest, checkpoint: str) -> str:
    files = [path.rpartition(".")[0] for path in predictions.entries]
    job = PredictJob(
        store_uri=work.fresh.uri,
        workdir=str(work.folder / "predict"),
        subset=subset.digest,
        checkpoint=checkpoint,
        splits=tuple(name for name in files if not name.endswith(".mirrored")),
        mirrored=tuple(name.removesuffix(".mirrored") for name in files if name.endswith(".mirrored")),
        **_means(first_record(work.store, predictions.digest)),
    )
    predicted = work.run_job("predict", job)
    work.note(predictions, predicted, "predicted")
    return predicted


def _means(record: Record) -> dict[str, Any]:
    """Device and threads as recorded: another number of threads adds floats in another order, on the CPU too."""
    return {} if record.on_gpu else {"device": "cpu", "threads": (record.hardware or {}).get("threads")}


def _evaluate(work: _Work, subset: Manifest, predictions: Manifest, recorded: Manifest) -> Manifest:
    from dentsight_pipeline.evaluation.product import evaluate_predictions

    how = recorded.facts_as(EvaluationFacts)
    made = evaluate_predictions(
        work.fresh, subset, predictions, resamples=how.resamples, seed=how.seed, progress=work.say
    )
    work.note(recorded, made.digest, "evaluated")
    return made


# Comparing -----------------------------------------------------------------------------------------------------------


def _compared(work: _Work, recorded: Manifest, made: Manifest) -> Iterator[MetricCompared]:
    """AP and AP50 of every class and of the macro mean, on the gated population."""
    before = read_document(work.store, recorded, EVALUATION_FILE, EvaluationDocument)
    now = figures_of(read_document(work.fresh, made, EVALUATION_FILE, EvaluationDocument), before.gated_population)
    for name, figures in figures_of(before, before.gated_population).items():
        for metric in METRICS:
            yield compared(f"{name} {metric}", figures.figure(metric), value_in(now, name, metric))


def figures_of(document: EvaluationDocument, population: PopulationName | None) -> dict[str, RankedFigures]:
    """The figures on a population, by class and for the macro mean."""
    found = document.populations.get(population or "")
    return {**{row.class_name: row for row in found.per_class}, MACRO: found.macro} if found else {}


def value_in(figures: Mapping[str, RankedFigures], name: str, metric: str) -> float | None:
    """A metric of a class; None where it was not measured, or there is no such class."""
    return figures[name].figure(metric).value if name in figures else None


def compared(name: str, recorded: Figure, made: float | None) -> MetricCompared:
    """One metric against its recorded interval; without one it can only be equal."""
    value, low, high = recorded
    return MetricCompared(name=name, recorded=value, low=low, high=high, made=made, within=_within(recorded, made))


def _within(recorded: Figure, made: float | None) -> bool | None:
    value, low, high = recorded
    if value is None or made is None or low is None or high is None:
        return True if value == made else None
    return low <= made <= high


def _differences(products: Sequence[Remade], metrics: Sequence[MetricCompared], *, exact: bool) -> Iterator[str]:
    """What did not come out as recorded, one sentence each."""
    for item in products:
        if not item.same and (exact or item.how not in ("trained", "predicted", "evaluated")):
            yield f"{item.asset} came out as {item.made[:12]}, not as {item.recorded[:12]}."
    if exact:
        return
    for row in metrics:
        if row.within is False:
            yield f"{row.name} came out as {row.made}, outside of the recorded {row.recorded} [{row.low}, {row.high}]."
    if not metrics and any(not item.same for item in products):
        yield "There is no recorded evaluation to hold the new weights against."


def _notes(record: Record, now: Code | None) -> Iterator[str]:
    """Where this installation differs from the one that was recorded."""
    then = record.code or Code()
    if then.dirty:
        yield "The code had been edited since its commit when the checkpoint was trained; those edits are not recorded."
    if now and then.commit != now.commit:
        yield f"The code was commit {then.commit} then and is {now.commit} now."
    if now and now.dirty:
        yield "The code has been edited since its commit."
    for package, version in sorted((record.packages or {}).items()):
        with suppress(importlib.metadata.PackageNotFoundError):
            here = importlib.metadata.version(package)
            if version not in (None, here):
                yield f"{package} was {version} then and is {here} now."


# What was made with a checkpoint, and from what ----------------------------------------------------------------------


def made_with(store: Store, checkpoint: Manifest) -> tuple[Manifest | None, Manifest | None]:
    """The predictions and the evaluation of a checkpoint on its own data, as far as the store has them."""
    subset = subset_digest(checkpoint)
    made = [manifest for manifest in readable(store) if manifest.kind in (Kind.PREDICTIONS, Kind.EVALUATION)]
    predictions = {
        manifest.digest: manifest
        for manifest in made
        if manifest.inputs.get(Asset.TRAINED_CHECKPOINT) == checkpoint.digest and subset in manifest.inputs.values()
    }
    evaluations = [manifest for manifest in made if manifest.inputs.get(Asset.TEST_PREDICTIONS) in predictions]
    if evaluations:
        return predictions[evaluations[-1].inputs[Asset.TEST_PREDICTIONS]], evaluations[-1]
    return next(iter(predictions.values()), None), None


def subset_digest(checkpoint: Manifest) -> str:
    """Digest of the data that a checkpoint was trained on.

    Raises:
        ConfigurationError: It does not say.
    """
    for asset in (Asset.CONDITION_SUBSET, Asset.TOOTH_SUBSET):
        if asset in checkpoint.inputs:
            return checkpoint.inputs[asset]
    raise ConfigurationError(f"The {name_of(checkpoint)} does not say which data it was trained on.")


def _exports(store: Store, splits: Manifest) -> list[Manifest]:
    return [store.get_manifest(digest) for digest in raw_exports(splits.inputs)] or [
        _below(store, splits, Asset.RAW_EXPORT)
    ]


def _below(store: Store, manifest: Manifest, *assets: str) -> Manifest:
    digest = next((manifest.inputs[asset] for asset in assets if asset in manifest.inputs), None)
    if digest is None:
        raise ConfigurationError(
            f"The {name_of(manifest)} does not say which {' or '.join(assets)} it was made from, so it cannot be made "
            "again. Audit it: `dentsight audit`."
        )
    return store.get_manifest(digest)
