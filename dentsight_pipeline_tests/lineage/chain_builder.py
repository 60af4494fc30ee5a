"""A whole chain, from a small export to a signed release, made by the rooms themselves wherever that is quick.

Only the training is not done: the weights are made-up bytes, and the measurements say that every gate passed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.data.splits import read_split
from dentsight_pipeline.data.subset import select_conditions
from dentsight_pipeline.documents.annotations import table_of, write_table
from dentsight_pipeline.documents.detections import DETECTIONS
from dentsight_pipeline.evaluation.product import evaluate_predictions
from dentsight_pipeline.intake.ingest import ingest_export
from dentsight_pipeline.release import product
from dentsight_pipeline.release.keys import PUBLIC_KEY
from dentsight_pipeline.release.policy import load_policy
from dentsight_pipeline.store import log
from dentsight_pipeline.store.content import build, materialise, read_json
from dentsight_pipeline.store.manifest import Entry, Manifest
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline.training import recipe as recipes
from dentsight_pipeline_tests.data.export_builder import ExportBuilder
from dentsight_pipeline_tests.documents.facts_for_tests import checkpoint_facts, predictions_facts

CRITICAL = ("caries", "calculus", "periapical-radiolucency")
HEALTH = {
    "healthy": True,
    "layers": [
        {"layer": i, "mean_max_score": 0.6, "supervised_by_normal_queries": True, "scores_at_inference": i == 1}
        for i in range(2)
    ],
    "ratio_last_to_first": 1.0,
    "rules": [{"rule": "last over first layer", "tripped": False, "evidence": "1.0"}],
}


@dataclass(frozen=True)
class Chain:
    """A chain in a store of its own, and the export and keys that belong to it."""

    root: Path
    digests: Mapping[str, str]
    """Asset name → digest."""

    @property
    def store(self) -> Store:
        """Its store."""
        return open_store(self.root / "workspace" / "store")

    @property
    def export(self) -> Path:
        """The original files."""
        return self.root / "export"

    @property
    def keys(self) -> Path:
        """The folder of the signing key."""
        return self.root / "workspace" / "keys"

    @property
    def public_key(self) -> Path:
        """The key that releases are verified with."""
        return self.keys / PUBLIC_KEY

    def manifest(self, asset: str) -> Manifest:
        """The manifest of an asset."""
        return self.store.get_manifest(self.digests[asset])

    def object_file(self, asset: str, path: str) -> Path:
        """Where the bytes of one file of an asset lie."""
        digest = self.manifest(asset).entries[path].sha256
        return self.root / "workspace" / "store" / "objects" / digest[:2] / digest

    def manifest_file(self, asset: str) -> Path:
        """Where the manifest of an asset lies."""
        digest = self.digests[asset]
        return self.root / "workspace" / "store" / "manifests" / digest[:2] / f"{digest}.json"

    def log_file(self, sequence: int) -> Path:
        """Where an entry of the log lies."""
        return self.root / "workspace" / "store" / "log" / f"{sequence:012d}.json"

    def copied(self, root: Path) -> Chain:
        """The same in a folder of its own, to be damaged."""
        return replace(self, root=shutil.copytree(self.root, root))

    def materialised(self, asset: str, folder: Path) -> Path:
        """An asset's files, written out."""
        return materialise(self.store, self.manifest(asset), folder)

    def forged(self, asset: str, files: Mapping[str, bytes], facts: Mapping[str, Any] | None = None) -> Chain:
        """The chain with one product made by hand: other files or facts, everything else as it was, and recorded."""
        store, before = self.store, self.manifest(asset)
        entries: dict[str, Path | bytes | Entry] = {**before.entries, **files}
        made = build(store, before.kind, entries, before.inputs, {**before.facts, **(facts or {})})
        return replace(self, digests={**self.digests, asset: recorded(store, asset, made)})


def overwrite(path: Path, data: bytes) -> None:
    """Other bytes under the same name, as a careless or dishonest person would put them there."""
    path.chmod(0o644)
    path.write_bytes(data)


def flip(path: Path, position: int = -10) -> None:
    """One bit of a file turned."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    overwrite(path, bytes(data))


def recorded(store: Store, asset: str, manifest: Manifest, **more: Any) -> str:
    """Publish a product and record how it came about, as an asset's step does."""
    store.put_manifest(manifest)
    record = {
        "asset": asset,
        "partition": "tiny-v1" if asset in ("raw_export", "normalized_splits", "condition_subset") else "tiny-v1|smoke",
        "inputs": dict(manifest.inputs),
        "dagster_run": f"run-of-{asset}",
        "code": {"commit": "c0ffee", "dirty": False},
        "started": 1.0,
        **more,
    }
    log.append(store, manifest.digest, record)
    return manifest.digest


def passing(name: str, metric: str) -> dict[str, Any]:
    """A measurement with which any gate of the card passes."""
    good = {"ece": 0.01, "left_minus_right_recall": 0.0, "empty_mouth_fp_rate": 0.0}.get(metric, 0.9)
    row = {"metric": metric, "class": name, "population": "clean", "value": good, "low": good, "high": good}
    return {**row, "n": 500, "unit_count": 175, "note": ""}


def export_of(root: Path) -> Path:
    """A small export with conditions in every split."""
    builder = ExportBuilder(root)
    for split, images in (("train", 3), ("valid", 2), ("test", 3)):
        for number in range(images):
            x = 5.0 + 3 * number
            builder.image(split, {"11": [[x, 5, 10, 12]], "caries": [[x, 6, 4, 4]], "crown": [[x + 15, 8, 9, 8]]})
    return builder.write()


def checkpoint_of(store: Store, subset: Manifest, seed: int = 0, **changes: str) -> Manifest:
    """A checkpoint whose weights are made-up bytes."""
    recipe = recipes.named("smoke").override({"weights": "none", "seed": str(seed), **changes})
    files: dict[str, Path | bytes | Entry] = {
        "model/model.safetensors": np.random.default_rng(seed).bytes(4096),
        "model/config.json": b'{"architectures": ["DFineForObjectDetection"]}',
        "model/preprocessor_config.json": b"{}",
        "recipe.json": json.dumps(recipe.document).encode(),
        "history.json": b"{}",
        "health.json": json.dumps(HEALTH).encode(),
    }
    facts = checkpoint_facts(
        subset.facts["classes"],
        recipe_digest=recipe.digest,
        variant=bool(recipe.overrides),
        overrides=dict(recipe.overrides),
        image_size=[recipe.image_width, recipe.image_height],
    )
    return build(store, "checkpoint", files, {"condition_subset": subset.digest}, facts)


def predictions_of(store: Store, subset: Manifest, checkpoint: Manifest, shift_px: float = 0.0) -> Manifest:
    """Detections that find every box, moved by some pixels."""
    files: dict[str, Path | bytes | Entry] = {}
    for split in ("valid", "test"):
        found = [
            {
                "image_id": row["image_id"],
                "category_id": row["category_id"],
                "bbox": [row["bbox"][0] + shift_px, *row["bbox"][1:]],
                "score": 0.5 + 0.4 * (row["id"] % 7) / 7,
            }
            for row in read_split(store, subset, split).to_coco()["annotations"]
        ]
        files[f"{split}.arrow"] = write_table(table_of(found, DETECTIONS))
    inputs = {"condition_subset": subset.digest, "trained_checkpoint": checkpoint.digest}
    return build(store, "predictions", files, inputs, predictions_facts(subset.facts["classes"]))


def evaluation_of(store: Store, subset: Manifest, predictions: Manifest) -> Manifest:
    """The real evaluation, but with measurements that pass every gate."""
    real = evaluate_predictions(store, subset, predictions, resamples=8)
    document = read_json(store, real, "evaluation.json")
    conditions = ("caries", "calculus", "periapical-radiolucency", "root-stump")
    classes = [*subset.facts["classes"], *conditions]
    document["measurements"] = [
        *(passing(name, "ap") for name in dict.fromkeys(classes)),
        *(passing(name, "recall_at_p95") for name in CRITICAL),
        passing("macro", "ap50"),
        *(passing("all", name) for name in ("ece", "left_right_agreement", "left_minus_right_recall")),
        passing("all", "empty_mouth_fp_rate"),
    ]
    document["engines"]["agree"] = True
    document["thresholds_from"] = "valid"
    for population in document["populations"].values():
        population["macro"]["present"] = 13
    entries: dict[str, Path | bytes | Entry] = dict(real.entries)
    entries["evaluation.json"] = json.dumps(document).encode()
    return build(store, "evaluation", entries, real.inputs, real.facts)


def continue_chain(store: Store, subset: Manifest, seed: int, shift_px: float, **changes: str) -> dict[str, str]:
    """From a subset to a report; digests by asset."""
    digests = {"condition_subset": subset.digest}
    checkpoint = checkpoint_of(store, subset, seed, **changes)
    digests["trained_checkpoint"] = recorded(
        store, "trained_checkpoint", checkpoint, mlflow_run=f"{seed:032x}", packages={"torch": "2"},
        hardware={"device": "CPU"},
    )  # fmt: skip
    predictions = predictions_of(store, subset, checkpoint, shift_px)
    digests["test_predictions"] = recorded(store, "test_predictions", predictions)
    evaluation = evaluation_of(store, subset, predictions)
    digests["class_metrics"] = recorded(store, "class_metrics", evaluation)
    report = product.publish_report(
        store, product.chain_of(store, evaluation), load_policy("card"), (), None, title="tiny-v1 × smoke"
    )
    digests["release_report"] = recorded(store, "release_report", report)
    return digests


def build_chain(root: Path) -> Chain:
    """The whole chain, twice released: the first release is `earlier_release`."""
    store = open_store(root / "workspace" / "store")
    raw = ingest_export(export_of(root / "export"), store)
    digests = {"raw_export": recorded(store, "raw_export", raw, location=str(root / "export"), config=None)}
    splits = normalise_export(store, raw)
    config = {"source": None, "drop": []}
    digests["normalized_splits"] = recorded(store, "normalized_splits", splits, config=config)
    subset = select_conditions(store, splits)
    digests["condition_subset"] = recorded(store, "condition_subset", subset, config={})
    digests |= continue_chain(store, subset, 7, 0.25)
    keys = root / "workspace" / "keys"
    report = store.get_manifest(digests["release_report"])
    earlier = product.publish_release(store, report, keys)
    digests["earlier_release"] = recorded(store, "released_model", earlier)
    newer = product.publish_release(store, report, keys)
    digests["released_model"] = recorded(store, "released_model", newer)
    return Chain(root, digests)
