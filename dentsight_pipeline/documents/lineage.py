"""What is recorded of how a product came about, and what an audit, a comparison and a reproduction say.

The answers are printed as they are with `--json`: their fields are a contract. How they are found is lineage/'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from dentsight_pipeline.documents.codec import Document, convert, plain
from dentsight_pipeline.documents.facts import Cell, Corpus, Source

# Records -------------------------------------------------------------------------------------------------------------


class Noted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of what is noted in records: a record of another release may say more, or less."""


class Code(Noted, frozen=True, kw_only=True):
    """The commit that code belongs to."""

    commit: str | None = None
    """Absent outside of a checkout."""
    dirty: bool | None = None
    """Whether it had been edited since."""
    version: str | None = None
    """Of the package."""

    def same_as(self, other: Code) -> bool:
        """Whether both are known to be the same code."""
        return self != Code() and self == other and not self.dirty


class Installed(Noted, frozen=True, kw_only=True):
    """A package as it was installed."""

    version: str | None = None
    """Its version."""
    record_sha256: str | None = None
    """Of its RECORD, the list of its files with their digests; absent where it has none."""
    licence: str | None = None
    """As it says itself; absent where it says nothing short."""


class Circumstances(Noted, frozen=True, kw_only=True):
    """Of one step: everything that is true of a day and a machine, and no part of a product."""

    partition: str | None = None
    """Dataset, or dataset|recipe."""
    code: Code | None = None
    """What ran."""
    code_version: str | None = None
    """Of the asset."""
    config: Mapping[str, Any] | None = None
    """What the step was asked for beyond its inputs."""
    packages: Mapping[str, str | None] | None = None
    """Versions of those that decide the numbers; null for one that is not installed."""
    installed: Mapping[str, Installed] | None = None
    """Packages of the machine that recorded it; absent in older records."""
    python: str | None = None
    """Version."""
    hardware: Mapping[str, Cell] | None = None
    """Device, GPUs, threads of a training or prediction."""
    machine: Mapping[str, Cell] | None = None
    """System, processor, cores."""
    dagster_run: str | None = None
    """Id of the run."""
    mlflow_run: str | None = None
    """Id of the run."""
    mlflow_url: str | None = None
    """Its page."""
    location: str | None = None
    """Where an export was fetched from."""
    started: float | None = None
    """Seconds since 1970."""
    finished: float | None = None
    """Seconds since 1970."""

    @property
    def on_gpu(self) -> bool:
        """Whether it ran on a GPU, where the same work does not give the same bytes."""
        return bool((self.hardware or {}).get("gpus"))


class Began(Noted, frozen=True, kw_only=True):
    """When a training began, its first attempt where there were several."""

    log: str | None = None
    """The log's head then, `sequence:sha256`; `0:` where nothing was logged."""
    time: float | None = None
    """Seconds since 1970."""


class Record(Circumstances, frozen=True, kw_only=True):
    """How a product came about, or who made it champion."""

    asset: str | None = None
    """Whose step it was; absent in the record of a decision."""
    inputs: Mapping[str, str] = {}
    """What the step read, by asset."""
    cost: Mapping[str, Cell] | None = None
    """What it took."""
    job: str | None = None
    """Digest of the order that a worker elsewhere fulfilled; there is one record of it."""
    began: Began | None = None
    """Of a training: what was in the log before it; absent in older records."""
    action: str | None = None
    """`plan`, `approve`, `promote` or `rollback`, in the record of a decision."""


def record_of(content: Mapping[str, Any], product: str) -> Record:
    """A record as it was logged.

    Raises:
        DocumentError: A field of another type than it should be; the message names the product.
    """
    return convert(content, Record, f"A record of {product[:12]}")


# The audit -----------------------------------------------------------------------------------------------------------


class ChainItem(Document, frozen=True, kw_only=True):
    """One manifest, object or record of a chain."""

    kind: str
    """The manifest's kind; `object` for bytes; `record` for how a product came about."""
    digest: str
    """Its sha256."""
    path: str
    """Where its bytes are: a file, or an `s3://` address. `sha256sum` of it gives the digest."""
    name: str
    """What it is called there: an asset for a manifest, a file's path for an object."""
    of: str | None
    """Digest of the manifest that names it; None for the one that was asked for."""


class Step(Circumstances, frozen=True, kw_only=True):
    """What the first record of a product says of it; what it does not say is absent."""

    asset: str
    """As the record says, or as the chain names it."""
    kind: str
    """Of the product."""
    digest: str
    """Of the product."""


class CodeBehind(Document, frozen=True, kw_only=True):
    """The code behind a chain."""

    commits: tuple[str, ...]
    """In alphabetical order."""
    dirty: bool | None
    """Whether any of it had been edited; None where nothing says."""
    now: Code | None
    """The code that audits; None where nobody asked."""


class RecipeBehind(Document, frozen=True, kw_only=True):
    """The recipe of the checkpoint."""

    name: str
    """Its name."""
    digest: str
    """sha256 of it in full."""
    variant: bool
    """Whether a field was overridden."""
    overrides: Mapping[str, Cell | tuple[Cell, ...]]
    """Those fields."""
    fields: Mapping[str, Cell | tuple[Cell, ...]] | None
    """All of them; None where the file is damaged."""


class Provenance(Document, frozen=True, kw_only=True):
    """How the products of a chain came about."""

    source: Source | None
    """What the export says of where it comes from; None where no raw export was reached."""
    corpus: Corpus | None
    """As reports name it."""
    code: CodeBehind
    """Commits."""
    recipe: RecipeBehind | None
    """None for data."""
    seeds: Mapping[str, int]
    """`training` and `bootstrap`, where there are such."""
    dagster_runs: tuple[str, ...]
    """Ids, in the order of the chain."""
    mlflow_runs: tuple[str, ...]
    """Ids, in the order of the chain."""
    steps: tuple[Step, ...]
    """One for each product, from the top."""


class AuditResult(Document, frozen=True, kw_only=True):
    """What an audit saw and found."""

    digest: str
    """Of the product that was audited."""
    kind: str
    """Its kind; `unknown` when its manifest could not be read."""
    intact: bool
    """Whether nothing was changed, is missing or does not fit: there are no findings."""
    findings: tuple[str, ...]
    """What is wrong, one sentence each, the first broken link first."""
    notes: tuple[str, ...]
    """What a reader should know but is not wrong."""
    log_head: str | None
    """Newest entry of the store's log, `sequence:sha256`; worth noting elsewhere."""
    release_head: str | None
    """Digest of the newest release; worth noting elsewhere."""
    hashed_bytes: int
    """How many bytes of objects were hashed."""
    provenance: Provenance
    """How it came about."""
    chain: tuple[ChainItem, ...]
    """Every manifest, object and record that was hashed."""


# The comparison ------------------------------------------------------------------------------------------------------


class Sides(Document, frozen=True, kw_only=True):
    """A value in A and in B; None for one that is not there."""

    a: Any
    """In A."""
    b: Any
    """In B."""


class ImageChanges(Document, frozen=True, kw_only=True):
    """Images, by their bytes."""

    added: int = 0
    """In B alone."""
    removed: int = 0
    """In A alone."""
    moved: Mapping[str, int] = {}
    """To another split, e.g. `valid → test`."""


class LabelChanges(Document, frozen=True, kw_only=True):
    """Labels of one class, on the images that both have and on those that one has."""

    added: int = 0
    """On images of both."""
    removed: int = 0
    """On images of both."""
    moved: int = 0
    """The same finding with another box."""
    renamed: int = 0
    """The same finding under another class."""
    with_added_images: int = 0
    """That came with images."""
    with_removed_images: int = 0
    """That went with images."""
    renamed_to: Mapping[str, int]
    """New class → how many."""


class ExportChanges(Document, frozen=True, kw_only=True):
    """What one export brought to A and to B."""

    a: int
    """Images of it in A."""
    b: int
    """Images of it in B."""
    added: int
    """Of those in B, images that A lacks."""
    removed: int
    """Of those in A, images that B lacks."""
    labels_a: int
    """Labels on its images in A."""
    labels_b: int
    """Labels on its images in B."""


class DataDifference(Document, frozen=True, kw_only=True):
    """What differs between the data of A and B."""

    same: bool
    """Whether nothing does."""
    subsets: Sides
    """Digests."""
    splits: Sides
    """Split → images."""
    images: ImageChanges
    """By bytes."""
    labels: Mapping[str, LabelChanges]
    """By class, of those with any change."""
    exports: Mapping[str, ExportChanges] = {}
    """By export, where A or B has several."""
    corrections: Sides | None = None
    """What became of people's corrections of labels, outcome → how many; absent where there are none."""


class CodeDifference(Document, frozen=True, kw_only=True):
    """The code of A and of B."""

    a: Code
    """Of A's training."""
    b: Code
    """Of B's training."""
    same: bool
    """Whether both are known to be the same, and unedited."""


class MetricRow(Document, frozen=True, kw_only=True):
    """One metric of one class in A and in B."""

    class_name: str = msgspec.field(name="class")
    """A class or `macro`."""
    metric: str
    """`ap` or `ap50`."""
    a: float | None
    """Of A."""
    b: float | None
    """Of B."""
    delta: float | None = None
    """B − A on the same images; None where they were not the same."""
    low: float | None = None
    """Lower end of its paired interval."""
    high: float | None = None
    """Upper end."""


class MetricsDifference(Document, frozen=True, kw_only=True, omit_defaults=True):
    """The metrics of A and B."""

    paired: bool
    """Whether both were evaluated on the same ground truth, and could be subtracted image by image."""
    reason: str | None
    """Why they were not."""
    population: str | None = None
    """The images that were compared; absent where they were not."""
    rows: tuple[MetricRow, ...]
    """By class, the macro mean last."""


class Difference(Document, frozen=True, kw_only=True):
    """What differs between checkpoint A and checkpoint B."""

    a: str
    """Digest."""
    b: str
    """Digest."""
    same: bool
    """Whether they are one."""
    data: DataDifference
    """Images and labels."""
    recipe: Mapping[str, Sides]
    """Fields that differ."""
    code: CodeDifference
    """Commits."""
    packages: Mapping[str, Sides]
    """Versions that differ."""
    metrics: MetricsDifference
    """AP and AP50."""


# The reproduction ----------------------------------------------------------------------------------------------------


class Remade(Document, frozen=True, kw_only=True):
    """One product, made again."""

    asset: str
    """Its name."""
    recorded: str
    """Digest that was recorded."""
    made: str
    """Digest that came out now."""
    how: str
    """`drawn`, `copied`, `made`, `trained`, `predicted` or `evaluated`."""
    same: bool
    """Whether every byte is as it was."""


class MetricCompared(Document, frozen=True, kw_only=True):
    """One metric of the new evaluation against the recorded interval."""

    name: str
    """E.g. `caries ap50`."""
    recorded: float | None
    """The recorded value."""
    low: float | None
    """Lower end of its interval."""
    high: float | None
    """Upper end."""
    made: float | None
    """The new value."""
    within: bool | None
    """Whether the new value lies within the interval; None when there is none to lie in."""


class Reproduction(Document, frozen=True, kw_only=True):
    """What came out when a checkpoint was made again."""

    checkpoint: str
    """Digest that was recorded."""
    reproduced: bool
    """Whether everything came out as recorded: there are no differences."""
    differences: tuple[str, ...]
    """What did not, one sentence each."""
    compared_by: str
    """`digest` where it was recorded on a CPU and must be equal, else `metrics within recorded intervals`."""
    recorded_on: str
    """Device that it was trained on."""
    products: tuple[Remade, ...]
    """Every product that was made again, the export first."""
    metrics: tuple[MetricCompared, ...]
    """The new evaluation against the recorded one; empty when nothing was evaluated."""
    notes: tuple[str, ...]
    """What a reader should know."""


def step_of(record: Record, asset: str, kind: str, digest: str) -> Step:
    """A product's first record as a step of its chain."""
    known = {name: value for name, value in plain(record).items() if value is not None}
    return convert({"asset": asset, **known, "kind": kind, "digest": digest}, Step, f"A record of {digest[:12]}")
