"""Whole facts of each kind, for products that a test makes by hand; what a test is about it changes by keyword."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CORPUS = {"kind": "phantom", "name": "drawn for a test", "licence": "CC0"}
DIGEST = "c0ffee" + 58 * "0"


def split_counts(class_counts: dict[str, int], **changes: Any) -> dict[str, Any]:
    """What a dataset says of one split."""
    counts = {
        "images": 1,
        "clean_images": 1,
        "images_without_annotations": 0,
        "annotations": sum(class_counts.values()),
    }
    return {**counts, "class_counts": class_counts, **changes}


def subset_facts(classes: Sequence[str], **changes: Any) -> dict[str, Any]:
    """Of a subset."""
    return {
        "corpus": CORPUS,
        "source": {"name": "Drawn", "licence": "CC0"},
        "privacy": {"names_replaced": 0, "stem_kinds": {}, "images_with_metadata": 0, "metadata_removed": {}},
        "classes": list(classes),
        "mapping": {
            "source": "opg-reporting",
            "chosen_by": "option",
            "evidence": "--source opg-reporting",
            "digest": DIGEST,
            "drop": [],
        },
        "loose_classes": [],
        "dropped": {},
        "repairs": {},
        "splits": {},
        "leakage": {"pairs": {}},
        "images_left_out": 0,
        **changes,
    }


def checkpoint_facts(classes: Sequence[str], **changes: Any) -> dict[str, Any]:
    """Of a checkpoint."""
    return {
        "recipe": "smoke",
        "recipe_digest": DIGEST,
        "variant": False,
        "overrides": {},
        "stage": 2,
        "corpus": CORPUS,
        "classes": list(classes),
        "image_size": [320, 192],
        "parameters": 1024,
        "steps": 8,
        "total_steps": 8,
        "best_step": 4,
        "validation": {},
        "healthy": True,
        "allow_head_collapse": None,
        "initial_weights_sha256": DIGEST,
        "processes": 1,
        "versions": {},
        **changes,
    }


def predictions_facts(classes: Sequence[str], **changes: Any) -> dict[str, Any]:
    """Of predictions."""
    return {"splits": {}, "classes": list(classes), "detections_per_image": 300, **changes}


def report_facts(**changes: Any) -> dict[str, Any]:
    """Of a report."""
    return {
        "title": "drawn × smoke",
        "verdict": "PASS",
        "releasable": True,
        "policy": {"name": "card", "version": 1, "digest": DIGEST},
        "never_for_xrays": False,
        "overrides": [],
        "champion": None,
        "corpus": CORPUS,
        **changes,
    }


def release_facts(**changes: Any) -> dict[str, Any]:
    """Of a release."""
    return {
        "title": "drawn × smoke",
        "sequence": 1,
        "previous": None,
        "corpus": CORPUS,
        "never_for_xrays": True,
        "overrides": [],
        "chain": {},
        "verdict": "PASS",
        **changes,
    }
