"""What holds of every document: it is read as it was written, and anything else is refused by file and field."""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from random import Random

import pytest

from dentsight_pipeline.documents.codec import Document, convert, plain, read, write
from dentsight_pipeline.errors import DocumentError
from dentsight_pipeline.store import canonical
from dentsight_pipeline_tests.documents.drawn import all_documents, drawn, refused_values

EVERY = pytest.mark.parametrize("kind", all_documents(), ids=lambda kind: kind.__qualname__)


@EVERY
def test_a_document_is_read_as_it_was_written(kind: type[Document]) -> None:
    """From JSON and from canonical JSON, where whole floats are written as whole numbers."""
    for seed in range(30):
        document = drawn(kind, Random(seed))

        assert read(write(document), kind, "a file") == document
        assert convert(canonical.loads(canonical.dumps(plain(document), "it")), kind, "a product") == document


@EVERY
def test_what_does_not_fit_is_refused_with_file_and_field(kind: type[Document]) -> None:
    """A number as text turns up as a missing figure far from its cause, unless it is refused where it is read."""
    content = plain(drawn(kind, Random(0)))
    for field, value in refused_values(kind):
        with pytest.raises(DocumentError, match=r"^a file is no ") as refusal:
            read(json.dumps({**content, field: value}), kind, "a file")
        assert f"`$.{field}" in refusal.value.problem


@EVERY
def test_an_unknown_field_is_refused(kind: type[Document]) -> None:
    """A misspelt field would otherwise be passed over, and its default believed."""
    content = {**plain(drawn(kind, Random(0))), "misspelt": 1}

    with pytest.raises(DocumentError, match="unknown field `misspelt`"):
        read(json.dumps(content), kind, "a file")


@EVERY
def test_every_field_says_what_it_means(kind: type[Document]) -> None:
    """A document is read by people of other rooms; a name alone leaves unit and absence open."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    pairs = zip(definition.body, [*definition.body[1:], None], strict=True)
    silent = [ast.unparse(f.target) for f, after in pairs if isinstance(f, ast.AnnAssign) and not _is_text(after)]

    ends = [
        name for name in silent if re.sub("_(low|high)$", "", name) in {*kind.__struct_fields__} - {name}
    ]  # of an interval
    assert [name for name in silent if f"{name}:" not in (kind.__doc__ or "") and name not in ends] == []


def _is_text(node: ast.stmt | None) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


class Counts(Document, frozen=True):
    """Something counted."""

    images: int


class Splits(Document, frozen=True):
    """Mappings in mappings, and in a list."""

    splits: dict[str, dict[str, Counts]]
    rows: tuple[dict[str, int], ...] = ()


def test_a_path_names_the_keys_of_mappings() -> None:
    """`$.splits.train.images` is where one looks; msgspec itself writes `$.splits[...].images`."""

    good = {"images": 1}
    nested = {"splits": {"train": {"a": good}, "test.mirrored": {"a": good, "b": {"images": "1"}}}}
    with pytest.raises(DocumentError, match=r"x is no Splits .*`\$\.splits\.test\.mirrored\.b\.images`"):
        convert(nested, Splits, "x")
    with pytest.raises(DocumentError, match=r"`\$\.rows\[1\]\.b`"):
        read(json.dumps({"splits": {}, "rows": [{"a": 1}, {"a": 1, "b": None}]}), Splits, "x")


def test_what_is_no_json_is_refused_with_its_file() -> None:
    """A cut file is the commonest damage; a traceback would not name it."""
    for data in (b"", b'{"a": ', b"\xff", '{"a": "\\ud800"}'):
        with pytest.raises(DocumentError, match=r"^report\.json is no "):
            read(data, all_documents()[0], "report.json")


def test_a_refusal_names_no_type_as_only_its_module_does() -> None:
    """`is no _Line of this release` reads as a fault of the program, not of the file."""

    class _Line(Document, frozen=True):
        entry: int

    with pytest.raises(DocumentError, match=r"^readings\.jsonl, line 2 is no Line of this release: .*`entry`"):
        read(b"{}", _Line, "readings.jsonl, line 2")


def test_documents_are_written_in_one_way() -> None:
    """The same content has the same bytes, whatever order it was made in."""
    assert write({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write({"a": float("nan")})
