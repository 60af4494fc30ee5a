"""What every asset does around its one call, said once: resources, settings, memo, record, log, tags and metadata.

An asset is `@product(…)` over a function of a `Step` that reads its inputs, and returns `step.once(…)` around one call
into a pure room. Logic of an asset never lives here; what all assets share never lives there.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import dagster as dg

from dentsight_pipeline.documents.facts import CheckpointFacts
from dentsight_pipeline.documents.names import (
    INPUT_METADATA,
    INPUT_TAG,
    LOG_METADATA,
    REUSED_TAG,
    TAG_DIGITS,
    VARIANT_TAG,
    Kind,
    raw_export_name,
    raw_exports,
)
from dentsight_pipeline.errors import ConfigurationError, DentsightError
from dentsight_pipeline.lineage.environment import environment
from dentsight_pipeline.orchestration.metadata import Metadata
from dentsight_pipeline.orchestration.partitions import datasets
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.progress import Progress, throttled

if TYPE_CHECKING:
    from dentsight_pipeline.orchestration.backends.choice import ChosenBackend
    from dentsight_pipeline.orchestration.tracking.mlflow import Tracking
    from dentsight_pipeline.store.canonical import JSON
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

OWNERS = ["team:dentsight"]
POOL = "gpu"
GPU = {"dagster-k8s/config": {"container_config": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}}}
"""On Kubernetes the step asks for one NVIDIA GPU; elsewhere the pool `gpu` and the guard's lock decide."""

DRY_RUN_TAG = "dentsight/dry_run"
"""Run tag: only look what is known already."""
NOTHING: Mapping[str, "JSON"] = MappingProxyType({})
Settings = TypeVar("Settings")


class NotMadeError(DentsightError):
    """In a dry run: this is where work would begin."""

    WORDS = "would be made"


@dataclass(frozen=True)
class Made:
    """What a piece of work gave."""

    digest: str
    """Of the manifest that it stored."""
    record: Mapping[str, "JSON"] = field(default_factory=dict)
    """How it came about: cost, hardware, MLflow run."""
    reused: bool = False
    """Whether it was recalled, or the work found by itself that nothing had changed."""
    head: str = ""
    """The log's head after it was noted how it came about; empty for what is reused."""


@dataclass
class Step(Generic[Settings]):
    """One asset at work on one partition."""

    context: dg.AssetExecutionContext
    """Dagster's."""
    config: Settings
    """The launch's settings."""
    inputs: dict[str, "Manifest"] = field(default_factory=dict)
    """What it has read, by asset name; goes into memo key, record, tags and metadata."""

    @property
    def asset(self) -> str:
        """The asset's name."""
        return self.context.asset_key.to_user_string()

    @property
    def partition(self) -> str:
        """The partition's key."""
        return str(self.context.partition_key)

    @property
    def dataset(self) -> str:
        """The dataset's key."""
        key = self.context.partition_key
        return key.keys_by_dimension["dataset"] if isinstance(key, dg.MultiPartitionKey) else str(key)

    @property
    def recipe(self) -> str:
        """The name of the cell's recipe."""
        key = self.context.partition_key
        if not isinstance(key, dg.MultiPartitionKey):
            raise ConfigurationError(f"{key!r} is no cell of dataset × recipe. Pick one partition on both axes.")
        return key.keys_by_dimension["recipe"]

    @property
    def workspace(self) -> Workspace:
        """Where local state lives."""
        return self.context.resources.workspace

    @property
    def store(self) -> "Store":
        """Where bytes live."""
        return self.workspace.store

    @property
    def tracking(self) -> "Tracking":
        """MLflow; of tracked products alone."""
        return self.context.resources.tracking

    @property
    def backend(self) -> "ChosenBackend":
        """Starts processes; of products that need a GPU alone."""
        return self.context.resources.backend

    @property
    def reports(self) -> Path:
        """Where people find the reports of this cell."""
        return self.workspace.report_folder(self.dataset, self.recipe)

    @cached_property
    def progress(self) -> Progress:
        """Tells stage, done and total in the run's log."""
        return throttled(self.context.log.info)

    @property
    def chained(self) -> frozenset[str]:
        """The assets that this run materialises, this one included."""
        return frozenset(key.to_user_string() for key in self.context.job_def.asset_layer.selected_asset_keys)

    @property
    def dry(self) -> bool:
        """Whether the run only looks at what is known already."""
        return DRY_RUN_TAG in self.context.run.tags

    def read(self, upstream: dg.AssetsDefinition) -> "Manifest":
        """What the upstream asset made for this partition: of this very run where it did, else the newest."""
        by_dataset = upstream.partitions_def is datasets
        name, partition = upstream.key.to_user_string(), self.dataset if by_dataset else self.partition
        return self.reads({name: self.workspace.latest(self.context, name, partition)})[name]

    def read_exports(self, upstream: dg.AssetsDefinition) -> tuple["Manifest", ...]:
        """The raw export that the upstream asset made for this dataset, or each of several."""
        name = upstream.key.to_user_string()
        made = self.workspace.latest(self.context, name, self.dataset)
        if made.kind != Kind.EXPORT_SET:
            return tuple(self.reads({name: made}).values())
        members = [self.store.get_manifest(digest) for digest in raw_exports(made.inputs)]
        return tuple(self.reads({raw_export_name(k): raw for k, raw in enumerate(members, start=1)}).values())

    def follow(self, product: "Manifest", asset: str) -> "Manifest":
        """What another input was made from, by the digest that it names; newer work would be another experiment."""
        return self.reads({asset: self.store.get_manifest(product.inputs[asset])})[asset]

    def reads(self, inputs: Mapping[str, "Manifest"]) -> Mapping[str, "Manifest"]:
        """Note what is read, by asset name."""
        self.inputs.update(inputs)
        return inputs

    def once(
        self,
        make: Callable[[], "Made | Manifest"],
        show: Callable[["Store", "Manifest"], Metadata],
        config: Mapping[str, "JSON"] | None = NOTHING,
    ) -> dg.MaterializeResult:
        """Do the asset's work, or recall it, and tell Dagster; as `work`, with metadata for the UI from `show`."""
        return self.told(self.work(make, config), show)

    def work(
        self,
        make: Callable[[], "Made | Manifest"],
        config: Mapping[str, "JSON"] | None = NOTHING,
        registered: str | None = None,
        **record: "JSON",
    ) -> Made:
        """Do a piece of work and note how it came about, or recall it when nothing that it depends on has changed.

        Args:
            make: Does the work and stores its manifest.
            config: What the result depends on besides code version and inputs. None when only the work itself can tell
                what it depends on: it is then always done.
            registered: What it gave the last time, for a dry run, which does nothing to find out.
            record: What the record says otherwise than of the asset's own product.
        """
        from dentsight_pipeline.store import memo as memory

        config = None if config is None else dict(config)
        key = None if config is None else memory.key(self.asset, self.version, self._digests, config)
        known = memory.recall(self.store, key) if key else None
        known = known or (registered if self.dry else None)
        if known is not None:
            return Made(known, reused=True)
        if self.dry:
            raise NotMadeError(f"{self.asset} {NotMadeError.WORDS}.")
        started = time.time()
        done = make()
        made = done if isinstance(done, Made) else Made(done.digest)
        if made.reused:
            return made
        head = self._record(replace(made, record={**made.record, **record}), config, started)
        if key:
            memory.remember(self.store, key, made.digest)
        return replace(made, head=head)

    @property
    def version(self) -> str:
        """The asset's code version."""
        return (self.context.assets_def.code_versions_by_key or {})[self.context.asset_key] or ""

    @property
    def _digests(self) -> dict[str, str]:
        return {name: manifest.digest for name, manifest in self.inputs.items()}

    def _record(self, made: Made, config: Mapping[str, "JSON"] | None, started: float) -> str:
        """Note in the log how the product came about; gives the log's head."""
        from dentsight_pipeline.store import log

        record = {
            "asset": self.asset,
            "code_version": self.version,
            "partition": self.partition,
            "inputs": self._digests,
            "config": config,
            "dagster_run": self.context.run_id,
            "started": round(started, 3),
            "finished": round(time.time(), 3),
            **environment(),
            **made.record,
        }
        return str(log.append(self.store, made.digest, record).head)

    def told(self, made: Made, show: Callable[["Store", "Manifest"], Metadata]) -> dg.MaterializeResult:
        """The materialisation: data version = the manifest's digest, what was read in tags and metadata."""
        if self.dry:  # nothing is shown, drawn or registered
            checked = [
                dg.AssetCheckResult(passed=True, check_name=key.name) for key in self.context.assets_def.check_keys
            ]
            version = dg.DataVersion(made.digest)
            return dg.MaterializeResult(data_version=version, metadata={"digest": made.digest}, check_results=checked)
        if made.reused:
            self.context.log.info(f"{self.asset}: unchanged, reused {made.digest[:12]}")
        manifest = self.store.get_manifest(made.digest)
        variant = manifest.kind == Kind.CHECKPOINT and manifest.facts_as(CheckpointFacts).variant
        read = {f"{INPUT_METADATA}{name}": digest for name, digest in self._digests.items()}
        noted = {LOG_METADATA: made.head} if made.head else {}
        told = {"digest": made.digest, "reused": dg.MetadataValue.bool(made.reused), **read, **noted}
        return dg.MaterializeResult(
            data_version=dg.DataVersion(made.digest),
            metadata={**told, **show(self.store, manifest)},
            tags={
                **{f"{INPUT_TAG}{name}": digest[:TAG_DIGITS] for name, digest in self._digests.items()},
                **({VARIANT_TAG: "true"} if variant else {}),
                REUSED_TAG: str(made.reused).lower(),
            },
        )


def product(
    axis: dg.PartitionsDefinition,
    *,
    reads: Sequence[dg.AssetsDefinition],
    settings: type[dg.Config] | None = None,
    version: str = "1",
    gpu: bool = False,
    tracked: bool = False,
    **more: Any,
) -> Callable[[Callable[[Step[Any]], dg.MaterializeResult | None]], dg.AssetsDefinition]:
    """An asset of this project, from a function that makes one partition's product, or None when there is none to make.

    Args:
        axis: Its partitions.
        reads: The assets upstream.
        settings: What a launch may say; the function finds it in `step.config`.
        version: Counts up when the code no longer makes the same bytes from the same inputs.
        gpu: Needs a slot of the pool `gpu` and a backend; is tracked then.
        tracked: Tells MLflow of it.
        more: Name, group, kinds, checks and so on, as `dagster.asset` takes them.
    """
    resources = {"workspace", *(["tracking"] if gpu or tracked else []), *(["backend"] if gpu else [])}

    def decorate(body: Callable[[Step[Any]], dg.MaterializeResult | None]) -> dg.AssetsDefinition:
        return dg.asset(
            **{"name": body.__name__, "description": body.__doc__, **more},
            partitions_def=axis,
            deps=reads,
            code_version=version,
            owners=OWNERS,
            required_resource_keys=resources,
            **({"pool": POOL, "op_tags": GPU} if gpu else {}),
        )(_compute(body, settings))

    return decorate


def _compute(
    body: Callable[[Step[Any]], dg.MaterializeResult | None], settings: type[dg.Config] | None
) -> Callable[..., Iterator[dg.MaterializeResult]]:
    """The function that Dagster calls; it reads the settings' type off the annotation of `config`."""

    def without(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
        with refusing_without_identifiers():
            made = body(Step(context, None))
        if made is not None:
            yield made

    def configured(context: dg.AssetExecutionContext, config: dg.Config) -> Iterator[dg.MaterializeResult]:
        with refusing_without_identifiers():
            made = body(Step(context, config))
        if made is not None:
            yield made

    if settings is None:
        return without
    configured.__annotations__["config"] = settings
    return configured


@contextlib.contextmanager
def refusing_without_identifiers() -> Iterator[None]:
    """Refusals name files and records; what Dagster stores of them may not name a patient.

    The message is redacted (`data/privacy.py`) and keeps Roboflow's own hash of each file, by which its owner finds it.
    """
    try:
        yield
    except DentsightError as error:
        from dentsight_pipeline.data.privacy import redact

        redacted = type(error).__new__(type(error))
        Exception.__init__(redacted, redact(str(error)))
        raise redacted from None
