"""What a dossier rests on: the audited chain of one release, and how a thing in it is cited."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.dossier import Cited
from dentsight_pipeline.documents.evaluation import EvaluationDocument
from dentsight_pipeline.documents.facts import Cell, CheckpointFacts, ReleaseFacts, SplitsFacts, SubsetFacts
from dentsight_pipeline.documents.lineage import Record
from dentsight_pipeline.documents.names import Asset, raw_exports
from dentsight_pipeline.documents.release import Predicate
from dentsight_pipeline.documents.report import Report
from dentsight_pipeline.lineage.records import Records, read_records
from dentsight_pipeline.lineage.walk import Walk, walk
from dentsight_pipeline.release import product, statement
from dentsight_pipeline.release.licences import RECIPE
from dentsight_pipeline.store.content import read_json
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.names import manifest_key, object_key, record_key
from dentsight_pipeline.store.objects import Store


@dataclass(frozen=True)
class Case:
    """One release and everything behind it."""

    store: Store
    digest: str
    """Of the release."""

    @cached_property
    def walked(self) -> Walk:
        """The chain."""
        return walk(self.store, self.digest)

    @cached_property
    def kept(self) -> Records:
        """How its products came about."""
        return read_records(self.store, self.walked)

    def product(self, asset: str) -> Manifest:
        """A product of the chain, by asset."""
        return self.store.get_manifest(self.facts.chain[asset])

    @cached_property
    def release(self) -> Manifest:
        """The release itself."""
        return self.store.get_manifest(self.digest)

    @cached_property
    def facts(self) -> ReleaseFacts:
        """What it says of itself."""
        return self.release.facts_as(ReleaseFacts)

    @cached_property
    def said(self) -> Predicate:
        """What was signed."""
        return statement.statement_of(self.store, self.release).predicate

    @cached_property
    def told(self) -> Report:
        """The report that allowed it."""
        return product.report_of(self.store, self.product(Asset.RELEASE_REPORT))

    @property
    def measured(self) -> EvaluationDocument:
        """What was measured."""
        return self.told.evaluation

    @cached_property
    def checkpoint(self) -> Manifest:
        """The model."""
        return self.product(Asset.TRAINED_CHECKPOINT)

    @cached_property
    def trained(self) -> CheckpointFacts:
        """Facts of the model."""
        return self.checkpoint.facts_as(CheckpointFacts)

    @cached_property
    def recipe(self) -> Mapping[str, Cell | tuple[Cell, ...]]:
        """All its fields."""
        return codec.convert(read_json(self.store, self.checkpoint, RECIPE), dict[str, Cell | tuple[Cell, ...]], RECIPE)

    @cached_property
    def subset(self) -> Manifest:
        """The data that it was trained and measured on."""
        return self.product(Asset.CONDITION_SUBSET)

    @cached_property
    def data(self) -> SubsetFacts:
        """Facts of that."""
        return self.subset.facts_as(SubsetFacts)

    @cached_property
    def splits(self) -> Manifest:
        """The normalised splits below it."""
        return self.store.get_manifest(self.subset.inputs[Asset.NORMALIZED_SPLITS])

    @cached_property
    def split_facts(self) -> SplitsFacts:
        """Facts of those."""
        return self.splits.facts_as(SplitsFacts)

    @cached_property
    def raws(self) -> tuple[Manifest, ...]:
        """The exports."""
        return tuple(map(self.store.get_manifest, raw_exports(self.splits.inputs)))

    def how(self, manifest: Manifest) -> Record:
        """How a product came about; empty where nothing says."""
        return next(iter(self.kept.records.get(manifest.digest, ())), Record())

    def cite(self, manifest: Manifest, *paths: str) -> tuple[Cited, ...]:
        """A product, or files of it."""
        asset = self.walked.asset(manifest.digest)
        if not paths:
            key = manifest_key(manifest.digest)
            return (Cited(kind=manifest.kind, name=asset, digest=manifest.digest, key=key),)
        entries = {path: manifest.entry(path).sha256 for path in paths}
        return tuple(
            Cited(kind="object", name=f"{asset}/{path}", digest=digest, key=object_key(digest))
            for path, digest in entries.items()
        )

    def cite_record(self, manifest: Manifest) -> tuple[Cited, ...]:
        """The record of how a product came about; empty where there is none."""
        names = list(self.kept.told[manifest.digest].logged)[:1]
        asset, product_digest = self.walked.asset(manifest.digest), manifest.digest
        return tuple(
            Cited(kind="record", name=f"record of {asset}", digest=name, key=record_key(product_digest, name))
            for name in names
        )


def stands(store: Store, cited: Cited) -> str | None:
    """What is wrong with the bytes behind a citation; None when they are what they were."""
    found = store.blobs.sha256(cited.key)
    if found is None:
        return "is missing"
    return None if found[0] == cited.digest else f"was changed: its bytes hash to {found[0]}"
