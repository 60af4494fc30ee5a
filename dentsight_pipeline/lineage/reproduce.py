"""Making a checkpoint again from what was recorded, and comparing: the same digests, or the same metrics.

Each product is made again in an empty store from the *recorded* product below it. Where the bytes below came out the
same, that is one unbroken chain; where they did not, the recorded ones are copied in, so that one difference does not
hide all that follows.

On the CPU everything is deterministic, and the digests must be equal. A training on a GPU is not: there each class's AP
and AP50 must lie within the interval that was recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dentsight_pipeline.documents.facts import EvaluationFacts
from dentsight_pipeline.documents.names import Asset, Kind
from dentsight_pipeline.errors import ConfigurationError, DataError
from dentsight_pipeline.lineage.fit import name_of
from dentsight_pipeline.lineage.reference import checkpoint_of
from dentsight_pipeline.progress import Progress
from dentsight_pipeline.store import log as logs
from dentsight_pipeline.store.content import read_json

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

RunJob = Callable[[str, Mapping[str, Any]], str]
"""Runs `fit` or `predict` with a job file's content in a process of its own; returns the digest that it published."""

PHANTOM = "phantom:"
_METRICS = ("ap", "ap50")


@dataclass(frozen=True)
class Remade:
    """One product, made again."""

    asset: str
    recorded: str
    """Digest that was recorded."""
    made: str
    """Digest that came out now."""
    how: str
    """`drawn`, `copied`, `made`, `trained` or `predicted`."""

    @property
    def same(self) -> bool:
        """Whether every byte is as it was."""
        return self.recorded == self.made


@dataclass(frozen=True)
class MetricCompared:
    """One metric of the new evaluation against the recorded interval."""

    name: str
    """E.g. `caries ap50`."""
    recorded: float | None
    low: float | None
    high: float | None
    made: float | None

    @property
    def within(self) -> bool | None:
        """Whether the new value lies within the recorded interval; None when there is none to lie in."""
        if self.recorded is None or self.made is None:
            return True if self.recorded == self.made else None
        if self.low is None or self.high is None:
            return True if self.recorded == self.made else None
        return self.low <= self.made <= self.high


@dataclass(frozen=True)
class Reproduction:
    """What came out when a checkpoint was made again.

    Attributes:
        checkpoint: Digest that was recorded.
        recorded_on: Device that it was trained on.
        products: Every product that was made again, the export first.
        metrics: The new evaluation against the recorded one; empty when nothing was evaluated.
        exact: Whether the digests had to be equal (recorded on a CPU).
        notes: What a reader should know.
    """

    checkpoint: str
    recorded_on: str
    products: tuple[Remade, ...]
    metrics: tuple[MetricCompared, ...]
    exact: bool
    notes: tuple[str, ...]

    @property
    def differences(self) -> list[str]:
        """What did not come out as recorded, one sentence each."""
        trained = {"trained", "predicted", "evaluated"}
        found = [
            f"{item.asset} came out as {item.made[:12]}, not as {item.recorded[:12]}."
            for item in self.products
            if not item.same and (self.exact or item.how not in trained)
        ]
        if not self.exact:
            found += [
                f"{row.name} came out as {row.made}, outside of the recorded {row.recorded} [{row.low}, {row.high}]."
                for row in self.metrics
                if row.within is False
            ]
            if not self.metrics and any(not item.same for item in self.products):
                found.append("There is no recorded evaluation to hold the new weights against.")
        return found

    @property
    def reproduced(self) -> bool:
        """Whether everything came out as recorded."""
        return not self.differences

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "checkpoint": self.checkpoint,
            "reproduced": self.reproduced,
            "differences": self.differences,
            "compared_by": "digest" if self.exact else "metrics within recorded intervals",
            "recorded_on": self.recorded_on,
            "products": [{**asdict(item), "same": item.same} for item in self.products],
            "metrics": [{**asdict(row), "within": row.within} for row in self.metrics],
            "notes": list(self.notes),
        }


def reproduce(
    store: Store,
    digest: str,
    fresh: Store,
    folder: Path,
    run_job: RunJob,
    *,
    code: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Reproduction:
    """Make a checkpoint again, from the export to its evaluation.

    Args:
        store: Where it was recorded; only read.
        digest: Digest of the checkpoint, or of something made with it.
        fresh: An empty store.
        folder: Scratch space.
        run_job: Runs trainings and predictions.
        code: The code that runs now, `{"commit", "dirty"}`, to be held against the recorded one.
        progress: Called with a stage, what is done, and how much there is.

    Raises:
        ConfigurationError: The digest leads to no checkpoint.
        IntegrityError: Something recorded is missing or was changed; nothing can be made from it.
        TrainingError: The training failed.
    """
    say = progress or (lambda stage, done, total: None)
    checkpoint = checkpoint_of(store, digest)
    subset = _below(store, checkpoint, "condition_subset", "tooth_subset")
    splits = _below(store, subset, "normalized_splits")
    raw = _below(store, splits, "raw_export")
    record = first_record(store, checkpoint.digest)
    hardware = record.get("hardware", {})
    exact = not hardware.get("gpus")
    remade: list[Remade] = []

    def keep(recorded: Manifest, made: str, how: str) -> Manifest:
        """Note what came out, and go on from what was recorded."""
        remade.append(Remade(_asset(recorded), recorded.digest, made, how))
        if made != recorded.digest:
            _copy(store, fresh, recorded, say)
        return recorded

    keep(raw, *_remake_raw(store, fresh, raw, folder, say))
    keep(splits, _remake_splits(store, fresh, raw, splits, say), "made")
    keep(subset, _remake_subset(fresh, splits, subset.kind, say), "made")
    if "initial_checkpoint" in checkpoint.inputs:
        _copy(store, fresh, store.get_manifest(checkpoint.inputs["initial_checkpoint"]), say)

    def job(verb: str, **fields: Any) -> dict[str, Any]:
        """What both kinds of job have in common."""
        return {"store_uri": fresh.uri, "workdir": str(folder / verb), "subset": subset.digest, **fields}

    config = record.get("config") or {}
    trained = run_job(
        "fit",
        job(
            "fit",
            recipe=read_json(store, checkpoint, "recipe.json"),
            allow_head_collapse=config.get("allow_head_collapse") or None,
            **_means(record),
        ),
    )
    remade.append(Remade(_asset(checkpoint), checkpoint.digest, trained, "trained"))
    metrics: tuple[MetricCompared, ...] = ()
    predictions, evaluation = made_with(store, checkpoint)
    if predictions is not None:
        files = [name.removesuffix(".json") for name in predictions.entries]
        predicted = run_job(
            "predict",
            job(
                "predict",
                checkpoint=trained,
                splits=[name for name in files if not name.endswith(".mirrored")],
                mirrored=[name.removesuffix(".mirrored") for name in files if name.endswith(".mirrored")],
                **_means(first_record(store, predictions.digest)),
            ),
        )
        remade.append(Remade("test_predictions", predictions.digest, predicted, "predicted"))
        if evaluation is not None:
            evaluated = _evaluate(fresh, subset, fresh.get_manifest(predicted), evaluation, say)
            remade.append(Remade("class_metrics", evaluation.digest, evaluated.digest, "evaluated"))
            metrics = tuple(_compared(store, evaluation, fresh, evaluated))
    device_name = str(hardware.get("device", "an unknown device"))
    return Reproduction(checkpoint.digest, device_name, tuple(remade), metrics, exact, tuple(_notes(record, code)))


# The single products -------------------------------------------------------------------------------------------------


def _remake_raw(store: Store, fresh: Store, raw: Manifest, folder: Path, say: Progress) -> tuple[str, str]:
    """A drawn corpus is drawn again; any other export is what the store kept of it."""
    location = str(first_record(store, raw.digest).get("location", ""))
    if not location.startswith(PHANTOM):
        _copy(store, fresh, raw, say)
        return raw.digest, "copied"
    from dentsight_pipeline.intake.acquire import Acquisition, ingest

    drawn = Acquisition(location=location, source=None, drop=(), registered=None, asked=True)
    return ingest(fresh, drawn, folder / "export", say), "drawn"


def _remake_splits(store: Store, fresh: Store, raw: Manifest, splits: Manifest, say: Progress) -> str:
    from dentsight_pipeline.data.normalise import normalise_export

    config = first_record(store, splits.digest).get("config") or {}
    made = normalise_export(fresh, raw, source=config.get("source"), drop=config.get("drop") or (), progress=say)
    return made.digest


def _remake_subset(fresh: Store, splits: Manifest, kind: str, say: Progress) -> str:
    from dentsight_pipeline.data.subset import select_conditions, select_teeth

    select = select_conditions if kind == Kind.CONDITION_SUBSET else select_teeth
    return select(fresh, splits, progress=say).digest


def _evaluate(fresh: Store, subset: Manifest, predictions: Manifest, recorded: Manifest, say: Progress) -> Manifest:
    from dentsight_pipeline.evaluation.product import evaluate_predictions

    facts = recorded.facts_as(EvaluationFacts)
    return evaluate_predictions(fresh, subset, predictions, resamples=facts.resamples, seed=facts.seed, progress=say)


def made_with(store: Store, checkpoint: Manifest) -> tuple[Manifest | None, Manifest | None]:
    """The predictions and the evaluation of a checkpoint on its own data, as far as the store has them."""
    subset = next(iter(_subset_of(checkpoint)))
    predictions = evaluation = None
    below: dict[str, Manifest] = {}
    evaluations: list[Manifest] = []
    for digest in store.manifest_digests():
        try:
            manifest = store.get_manifest(digest)
        except DataError:  # damaged, and no part of what is made again
            continue
        if manifest.kind == Kind.PREDICTIONS and manifest.inputs.get(Asset.TRAINED_CHECKPOINT) == checkpoint.digest:
            if subset in manifest.inputs.values():
                below[digest] = manifest
        elif manifest.kind == Kind.EVALUATION:
            evaluations.append(manifest)
    for manifest in evaluations:
        if manifest.inputs.get(Asset.TEST_PREDICTIONS) in below:
            evaluation = manifest
    if evaluation is not None:
        predictions = below[evaluation.inputs[Asset.TEST_PREDICTIONS]]
    elif below:
        predictions = next(iter(below.values()))
    return predictions, evaluation


def _compared(store: Store, recorded: Manifest, fresh: Store, made: Manifest) -> Iterator[MetricCompared]:
    """AP and AP50 of every class and of the macro mean, on the gated population."""
    before, now = read_json(store, recorded, "evaluation.json"), read_json(fresh, made, "evaluation.json")
    population = before["gated_population"]
    rows = {row["class"]: row for row in now["populations"][population]["per_class"]}
    pairs = [(row["class"], row, rows.get(row["class"], {})) for row in before["populations"][population]["per_class"]]
    pairs.append(("macro", before["populations"][population]["macro"], now["populations"][population]["macro"]))
    for name, old, new in pairs:
        for metric in _METRICS:
            interval = (old.get(f"{metric}_low"), old.get(f"{metric}_high"))
            yield MetricCompared(f"{name} {metric}", old.get(metric), *interval, new.get(metric))


# Reading what was recorded -------------------------------------------------------------------------------------------


def _copy(store: Store, fresh: Store, manifest: Manifest, say: Progress) -> None:
    """A product's bytes, each verified, into the fresh store."""
    entries = list(manifest.entries.values())
    for done, entry in enumerate(entries, start=1):
        if not fresh.has(entry.sha256):
            fresh.put_file(store.local_path(entry.sha256))
        if done % 50 == 0 or done == len(entries):
            say(f"copying {_asset(manifest)}", done, len(entries))
    fresh.put_manifest(manifest)


def _below(store: Store, manifest: Manifest, *assets: str) -> Manifest:
    digest = next((manifest.inputs[asset] for asset in assets if asset in manifest.inputs), None)
    if digest is None:
        raise ConfigurationError(
            f"The {name_of(manifest)} does not say which {' or '.join(assets)} it was made from, so it cannot be made "
            "again. Audit it: `dentsight audit`."
        )
    return store.get_manifest(digest)


def _subset_of(checkpoint: Manifest) -> Iterator[str]:
    return (digest for asset, digest in checkpoint.inputs.items() if asset.endswith("_subset"))


def _asset(manifest: Manifest) -> str:
    return Asset.TRAINED_CHECKPOINT if manifest.kind == Kind.CHECKPOINT else Kind(manifest.kind).asset


def first_record(store: Store, digest: str) -> dict[str, Any]:
    """The record of the work that made a product, or an empty one."""
    return next(iter(store.records(digest)), None) or next((dict(e.record) for e in logs.read(store).of(digest)), {})


def _means(record: Mapping[str, Any]) -> dict[str, Any]:
    """Device and threads as recorded: another number of threads adds floats in another order, on the CPU too."""
    hardware = record.get("hardware", {})
    if hardware.get("gpus"):
        return {}
    return {"device": "cpu", "threads": hardware.get("threads")}


def _notes(record: Mapping[str, Any], code: Mapping[str, Any] | None) -> Iterator[str]:
    """Where this installation differs from the one that was recorded."""
    import importlib.metadata

    then = record.get("code") or {}
    if then.get("dirty"):
        yield "The code had been edited since its commit when the checkpoint was trained; those edits are not recorded."
    if code and then.get("commit") != code.get("commit"):
        yield f"The code was commit {then.get('commit')} then and is {code.get('commit')} now."
    if code and code.get("dirty"):
        yield "The code has been edited since its commit."

    for package, version in sorted((record.get("packages") or {}).items()):
        try:
            here = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        if version is not None and version != here:
            yield f"{package} was {version} then and is {here} now."
