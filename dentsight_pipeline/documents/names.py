"""Names that several rooms share: kinds of products, assets, splits, tags. Each is said once; no heavy import.

Add a name here as soon as a second module needs it; a name that one module alone uses stays there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum


class Kind(StrEnum):
    """What a manifest is a product of."""

    RAW_EXPORT = "raw-export"
    EXPORT_SET = "export-set"
    NORMALIZED_SPLITS = "normalized-splits"
    CONDITION_SUBSET = "condition-subset"
    TOOTH_SUBSET = "tooth-subset"
    CHECKPOINT = "checkpoint"
    PREDICTIONS = "predictions"
    EVALUATION = "evaluation"
    TOOTH_FINDINGS = "tooth-findings"
    READER_AGREEMENT = "reader-agreement"
    LABEL_CORRECTIONS = "label-corrections"
    LABEL_REVIEW = "label-review"
    TOOTH_REPORT = "tooth-report"
    RELEASE_REPORT = "release-report"
    RELEASE = "release"
    PLAN = "plan"
    CHECK_OUTCOME = "check-outcome"
    PREVIEW = "preview"

    @property
    def asset(self) -> str:
        """The kind as an asset's name; of those kinds that one asset alone makes, it is that asset's name."""
        return self.value.replace("-", "_")


def with_article(kind: str) -> str:
    """A kind as a sentence has it: an evaluation, a checkpoint."""
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


SUBSETS: Mapping[int, Kind] = {1: Kind.TOOTH_SUBSET, 2: Kind.CONDITION_SUBSET}
"""What each stage of the detector learns from."""


class Asset(StrEnum):
    """The name of an asset, and of an input in the manifest of whatever read it."""

    RAW_EXPORT = "raw_export"
    NORMALIZED_SPLITS = "normalized_splits"
    CONDITION_SUBSET = "condition_subset"
    TOOTH_SUBSET = "tooth_subset"
    TRAINED_CHECKPOINT = "trained_checkpoint"
    TOOTH_CHECKPOINT = "tooth_checkpoint"
    INITIAL_CHECKPOINT = "initial_checkpoint"
    """An input alone: the checkpoint that a training starts from."""
    TEST_PREDICTIONS = "test_predictions"
    TOOTH_PREDICTIONS = "tooth_predictions"
    """An input alone: the tooth detector's predictions, which `tooth_findings` makes and reads."""
    CLASS_METRICS = "class_metrics"
    TOOTH_FINDINGS = "tooth_findings"
    READER_AGREEMENT = "reader_agreement"
    LABEL_REVIEW = "label_review"
    LABEL_CORRECTIONS = "label_corrections"
    """An input alone: what people decided about labels, which `dentsight review` makes."""
    TOOTH_REPORT = "tooth_report"
    RELEASE_REPORT = "release_report"
    RELEASED_MODEL = "released_model"
    CHAMPION_METRICS = "champion_metrics"
    PLAN = "plan"
    """An input alone: what was signed before the training, which `dentsight plan` makes."""


KIND_OF_ASSET: Mapping[str, Kind] = {
    Asset.RAW_EXPORT: Kind.RAW_EXPORT,
    Asset.NORMALIZED_SPLITS: Kind.NORMALIZED_SPLITS,
    Asset.CONDITION_SUBSET: Kind.CONDITION_SUBSET,
    Asset.TOOTH_SUBSET: Kind.TOOTH_SUBSET,
    Asset.TRAINED_CHECKPOINT: Kind.CHECKPOINT,
    Asset.INITIAL_CHECKPOINT: Kind.CHECKPOINT,
    Asset.TOOTH_CHECKPOINT: Kind.CHECKPOINT,
    Asset.TEST_PREDICTIONS: Kind.PREDICTIONS,
    Asset.TOOTH_PREDICTIONS: Kind.PREDICTIONS,
    Asset.CLASS_METRICS: Kind.EVALUATION,
    Asset.TOOTH_FINDINGS: Kind.TOOTH_FINDINGS,
    Asset.READER_AGREEMENT: Kind.READER_AGREEMENT,
    Asset.LABEL_CORRECTIONS: Kind.LABEL_CORRECTIONS,
    Asset.LABEL_REVIEW: Kind.LABEL_REVIEW,
    Asset.TOOTH_REPORT: Kind.TOOTH_REPORT,
    Asset.RELEASE_REPORT: Kind.RELEASE_REPORT,
    Asset.RELEASED_MODEL: Kind.RELEASE,
    Asset.CHAMPION_METRICS: Kind.EVALUATION,
    Asset.PLAN: Kind.PLAN,
}
"""What the product of an asset, or an input of that name, is."""

CHECKPOINT = "checkpoint:"
"""Prefix of a recipe's `weights` that names a checkpoint manifest of the store."""


def numbered(asset: str, number: int) -> str:
    """What the k-th of several inputs of one sort is called; a single one goes by the asset's name."""
    return f"{asset}_{number}"


def each(inputs: Mapping[str, str], asset: str) -> tuple[str, ...]:
    """Digests of all inputs of one sort, in their order."""
    several = {int(name.rpartition("_")[2]): name for name in inputs if _NUMBER.sub("", name) == asset != name}
    names = [name for name in (asset,) if name in inputs] + [several[k] for k in sorted(several)]
    return tuple(inputs[name] for name in names)


def raw_export_name(number: int) -> str:
    """What the k-th export of a dataset with several is called among its inputs."""
    return numbered(Asset.RAW_EXPORT, number)


def raw_exports(inputs: Mapping[str, str]) -> tuple[str, ...]:
    """Digests of the raw exports among a product's inputs, in their order."""
    return each(inputs, Asset.RAW_EXPORT)


def kind_of_input(name: str) -> Kind | None:
    """What an input of this name must be; None for a name that nothing is said about."""
    return KIND_OF_ASSET.get(_NUMBER.sub("", name))


_NUMBER = re.compile(r"_[1-9]\d*$")

SPLITS: tuple[str, ...] = ("train", "valid", "test")
"""The published splits, in the order in which ids are given."""


class CorpusKind(StrEnum):
    """Where the pictures of a corpus come from."""

    PHANTOM = "phantom"
    """Drawn by this package; figures on it say nothing about X-rays."""
    ROBOFLOW = "roboflow"
    """A person's export that Roboflow made."""
    EXPORT = "export"
    """A person's export of another origin."""


PHANTOM_MARKER = "dentsight phantom corpus (synthetic, not clinical data)"
"""The line of README.dataset.txt that makes an export the phantom corpus, and nothing else does; also its name."""

# Dagster's events ----------------------------------------------------------------------------------------------------

INPUT_METADATA = "dentsight/input/"
"""The digest that was read, in full, is the metadata entry `dentsight/input/<asset>`; the manifest names it as well."""
INPUT_TAG = "dentsight/input."
"""The same as an event tag, for queries. A Dagster tag key takes one slash, and a value at most 63 characters (measured
on 1.13.27), one fewer than a sha256 has: the tag `dentsight/input.<asset>` holds the first 63."""
TAG_DIGITS = 63
LOG_METADATA = "dentsight/log"
"""Metadata entry with the log's head after this materialisation (`sequence:sha256`); absent on reused work."""
REUSED_TAG = "dentsight/reused"
"""`true` on a materialisation of work that was done before."""
VARIANT_TAG = "dentsight/variant"
"""`true` where a field of the recipe was overridden; absent elsewhere."""

# MLflow's runs and model versions ------------------------------------------------------------------------------------

MLFLOW_INPUT_TAG = "dentsight.input."
"""Followed by the name of the input: the digest of what a run read."""
MLFLOW_DAGSTER_RUN_TAG = "dentsight.dagster_run"
MLFLOW_DATASET_TAG = "dentsight.dataset_digest"
MLFLOW_RELEASE_TAG = "dentsight.release_digest"
"""Digest of the release that a registered model's version is."""


def mlflow_digest_tag(kind: str) -> str:
    """The tag with the digest of the product of a kind that a run made."""
    return f"dentsight.{kind}_digest"


def mlflow_chain_tag(asset: str) -> str:
    """The tag of a registered model's version with the digest of one product behind it."""
    return f"dentsight.{asset}"
