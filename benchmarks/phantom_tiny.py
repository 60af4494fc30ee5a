"""How `weights=phantom-tiny` is made: the tiny model trained on drawn X-rays, with the documents of its making.

    python benchmarks/phantom_tiny.py --out DIR [--steps 3000] [--images 2000] [--set field=value …]

Writes `DIR/phantom-tiny`: the model folder, recipe, history and head health of the checkpoint, its manifest and its
data's, and a README with its figures on clean test images. Killed or terminated, it goes on where it was. To ship it,
put the folder into `dentsight_pipeline/training/weights/` and the printed line into `PACKAGED` of `training/recipe.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the tests are not installed

from benchmarks import arena
from dentsight_pipeline.data.splits import read_split
from dentsight_pipeline.evaluation.columns import ground_truth_of
from dentsight_pipeline.store import content
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline.training import recipe as recipes
from dentsight_pipeline.training.recipe import Recipe, Scalar

FIELDS: dict[str, Scalar] = {
    **arena.CANVAS,
    **arena.FROM_NOTHING,
    "criterion": "published",
    "class_loss": "matchability",
    "focal_alpha": 1.0,
    "focal_gamma": 1.5,
    "dense_weight": 1.0,
    "memory_format": "channels-last",
    "augment_crop": 0.15,
    "augment_brightness": 0.1,
    "augment_contrast": 0.2,
}
README = """# phantom-tiny

A starting point for short trainings, not a model to use: D-FINE of size tiny (1.19 M parameters) that has only ever
seen synthetic phantom X-rays, drawn by this package. It knows no patient. Apache-2.0, as the package.

Made by `benchmarks/phantom_tiny.py`: {images} phantoms of seed {corpus_seed}, recipe `smoke` with the changes in
`recipe.json`, {steps} steps. `history.json` and `health.json` are the training's own, `checkpoint.json` and
`subset.json` the manifests.

On {test} clean test images of the same corpus, 90 % intervals by source: macro
AP50 {ap50}, macro AP {ap}. AP50 by class: {classes}.
"""


def figures(given: argparse.Namespace, store: Store, subset: Manifest, checkpoint: str) -> dict[str, Any]:
    """What the README says of the checkpoint."""
    truth = ground_truth_of(read_split(store, subset, "test"))
    found = arena.scores(truth, arena.found_by(given.out, store, subset, checkpoint, truth))
    classes = ", ".join(f"{name} {value}" for name, value in found["classes"].items() if value is not None)
    clean = truth.clean if truth.clean is not None else truth.partial
    macro = {name: f"{value} [{low}, {high}]" for name, (value, low, high) in found["macro"].items()}
    return {**macro, "classes": classes, "test": int(clean.sum())}


def write_folder(given: argparse.Namespace, store: Store, subset: Manifest, checkpoint: str, recipe: Recipe) -> Path:
    """The folder that is shipped, whole."""
    out, product = given.out / "phantom-tiny", store.get_manifest(checkpoint)
    shutil.rmtree(out, ignore_errors=True)
    content.materialise(store, product, given.out / "checkpoint")
    shutil.copytree(given.out / "checkpoint" / "model", out)
    for name in ("recipe.json", "history.json", "health.json"):
        shutil.copy(given.out / "checkpoint" / name, out / name)
    (out / "checkpoint.json").write_bytes(product.to_bytes())
    (out / "subset.json").write_bytes(subset.to_bytes())
    told = figures(given, store, subset, checkpoint)
    text = README.format(**{**vars(given), **told, "steps": recipe.max_steps})
    (out / "README.md").write_text(text, "utf-8")
    return out


def main() -> None:
    """Trains, measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--corpus-seed", type=int, default=30, help="neither the demo's (7) nor an arena's (22)")
    parser.add_argument("--set", nargs="*", default=[], help="field=value of the recipe")
    given = parser.parse_args()
    store = open_store(given.out / "store")
    subset = arena.phantoms(store, given.images, given.corpus_seed)
    values: dict[str, Scalar] = {"max_steps": given.steps, "evaluate_every_steps": max(1, given.steps // 6)}
    changed = dict(pair.split("=", 1) for pair in given.set)
    recipe = recipes.named("smoke").override({**FIELDS, **values, **changed})
    checkpoint, spent = arena.trained(given.out, store, subset, recipe)
    folder = write_folder(given, store, subset, checkpoint, recipe)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    print((folder / "README.md").read_text("utf-8"))
    print(f'{spent:.0f} CPU s; {folder}; "phantom-tiny": "{digest}"')


if __name__ == "__main__":
    main()
