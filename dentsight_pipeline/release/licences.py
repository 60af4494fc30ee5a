"""Which licences a model carries: of every export and of all weights behind it, however many trainings ago.

What a licence allows is in `documents/licences.py`, the gate in `gates.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.facts import CheckpointFacts, DatasetFacts
from dentsight_pipeline.documents.licences import published_licence
from dentsight_pipeline.documents.names import CHECKPOINT, Asset
from dentsight_pipeline.store.content import read_json

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

RECIPE = "recipe.json"


def licences_of(store: Store, checkpoint: Manifest) -> dict[str, str]:
    """What a checkpoint was made from → its licence; `unknown` where nothing says it.

    Starting weights from a checkpoint of the store bring all that it was made from.
    """
    found: dict[str, str] = {}
    for name, digest in checkpoint.inputs.items():
        _add(found, _of_input(store, name, digest))
    _add(found, _of_weights(store, checkpoint))
    return found


def _of_input(store: Store, name: str, digest: str) -> dict[str, str]:
    if not store.has_manifest(digest):
        return {f"{name} {digest[:12]}": "unknown"}
    if name == Asset.INITIAL_CHECKPOINT:
        return licences_of(store, store.get_manifest(digest))
    exports = store.get_manifest(digest).facts_as(DatasetFacts).by_export
    return {f"data {name}": corpus.licence for name, (corpus, _) in exports.items()}


def _add(found: dict[str, str], more: Mapping[str, str]) -> None:
    """Two things of one name keep both licences."""
    for what, licence in more.items():
        found[what] = licence if found.get(what, licence) == licence else f"{found[what]} + {licence}"


def _of_weights(store: Store, checkpoint: Manifest) -> dict[str, str]:
    """Of weights that came from outside: a folder, or a name on a hub."""
    if RECIPE not in checkpoint.entries:
        return {"weights": "unknown"}
    weights = codec.convert(read_json(store, checkpoint, RECIPE).get("weights") or "", str, RECIPE)
    if not weights or weights.startswith(CHECKPOINT):
        return {}
    licence = checkpoint.facts_as(CheckpointFacts).weights_licence or published_licence(weights)
    return {f"weights {weights.rpartition('/')[2]}": licence}
