"""Every document of the package, and one drawn by chance from its own types."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec
from msgspec import inspect

from dentsight_pipeline import documents
from dentsight_pipeline.documents.codec import Document

TEXTS = ("", "caries", 'é "quoted"\n', "😀", "0" * 64, "a1", "None", "0.5", "x" * 40, f"images/{'0' * 64}.jpg")
FLOATS = (0.0, 1.0, -0.5, 1e-7, 0.25, 1e21)


def all_documents() -> list[type[Document]]:
    """All document types that are no mere base of others, by name."""
    for module in pkgutil.iter_modules(documents.__path__):
        importlib.import_module(f"{documents.__name__}.{module.name}")
    return sorted((kind for kind in _below(Document) if kind.__struct_fields__), key=lambda kind: kind.__qualname__)


def _below(kind: type[Document]) -> Iterator[type[Document]]:
    for child in kind.__subclasses__():
        if child.__module__.startswith(documents.__name__):
            yield child
        yield from _below(child)


def drawn(kind: type[Document], chance: Random) -> Document:
    """A document with values by chance."""
    return _value(inspect.type_info(kind), chance)


def _value(kind: Any, chance: Random) -> Any:
    match kind:
        case inspect.StructType():
            return _document(kind, chance)
        case inspect.UnionType():
            return _value(chance.choice(kind.types), chance)
        case inspect.DictType():
            many = range(chance.randrange(3))
            return {_value(kind.key_type, chance): _value(kind.value_type, chance) for _ in many}
        case inspect.VarTupleType() | inspect.CollectionType() | inspect.ListType():
            many = range((kind.min_length or 0) + chance.randrange(3))
            items = [_value(kind.item_type, chance) for _ in many]
            return tuple(items) if isinstance(kind, inspect.VarTupleType) else items
        case inspect.TupleType():
            return tuple(_value(item, chance) for item in kind.item_types)
        case inspect.EnumType():
            return chance.choice(list(kind.cls))
        case inspect.LiteralType():
            return chance.choice(kind.values)
        case inspect.IntType():
            low = kind.ge if kind.ge is not None else 0 if kind.gt is None else kind.gt + 1
            return low + chance.randrange(5)
        case inspect.FloatType():
            low, high = kind.ge if kind.ge is not None else kind.gt, kind.le if kind.le is not None else kind.lt
            return chance.choice([n for n in FLOATS if (low is None or n > low) and (high is None or n < high)])
        case inspect.StrType():
            fits = re.compile(kind.pattern or "").search
            return chance.choice([text for text in TEXTS if len(text) >= (kind.min_length or 0) and fits(text)])
        case inspect.BoolType():
            return chance.random() < 0.5
        case inspect.NoneType():
            return None
        case inspect.AnyType():
            return chance.choice([None, 1, "x", {"a": [1.5]}])
    raise NotImplementedError(f"How are values of {kind} drawn?")


def _document(kind: inspect.StructType, chance: Random) -> msgspec.Struct:
    """A document that takes its own values: an override, for example, needs a reason."""
    for _ in range(100):
        try:
            return kind.cls(**{field.name: _value(field.type, chance) for field in kind.fields})
        except ValueError:
            continue
    raise AssertionError(f"No values fit {kind.cls}.")


def refused_values(kind: type[Document]) -> Iterator[tuple[str, Any]]:
    """For each field, by its name in JSON, a value that its type refuses; none for a field that takes anything."""
    for field in msgspec.structs.fields(kind):
        for value in ([["wrong"]], 3, {"wrong": 1}):
            try:
                msgspec.convert(value, field.type, strict=True)
            except msgspec.ValidationError:
                yield field.encode_name, value
                break
