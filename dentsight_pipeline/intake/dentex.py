"""DENTEX's hierarchical COCO: a quadrant, a place in it and a disease for each box, as one label name.

`category_id_1` is the quadrant, `category_id_2` the tooth's place in it, `category_id_3` the disease, each with a list
of its own (Hamamci et al., "DENTEX", arXiv 2305.19112). What the names become is in `data/ontology.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LICENCE = "CC BY-NC-SA 4.0"
"""As its page says; its files say nothing."""
_LEVELS = ("1", "2", "3")


def flattened(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with one list of categories: `Quadrant 1`, `tooth 18`, or `18 Caries`.

    A box whose numbers no list has gets a category that is not there, in the words by which its owner finds it.
    """
    lists = [_names(document.get(f"categories_{level}")) for level in _LEVELS]
    ids: dict[str, int] = {}
    annotations: Any = document.get("annotations")
    if isinstance(annotations, list):
        annotations = [_flat(item, lists, ids) for item in annotations]
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    return {**document, "annotations": annotations, "categories": categories}


def _names(categories: Any) -> dict[Any, str] | None:
    """Id → name; None where a level is absent."""
    if not isinstance(categories, list):
        return None
    found = [item for item in categories if isinstance(item, dict) and isinstance(item.get("id"), int)]
    return {item["id"]: str(item.get("name", "")).strip() for item in found}


def _flat(item: Any, lists: list[dict[Any, str] | None], ids: dict[str, int]) -> Any:
    if not isinstance(item, dict):
        return item
    found: list[str] = []
    for level, names in zip(_LEVELS, lists, strict=True):
        number = item.get(f"category_id_{level}")
        if names is not None and (not isinstance(number, int) or number not in names):
            return {**item, "category_id": f"category_id_{level} {number!r}"[:60]}
        found.append(names[number] if names is not None else "")
    return {**item, "category_id": ids.setdefault(_name(*found), len(ids) + 1)}


def _name(quadrant: str, place: str, disease: str) -> str:
    if not place:
        return f"Quadrant {quadrant} {disease}".strip()
    return f"{quadrant}{place} {disease}" if disease else f"tooth {quadrant}{place}"
