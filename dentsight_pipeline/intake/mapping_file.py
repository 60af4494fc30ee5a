"""Mappings of one's own as files: YAML that is read strictly, and a template that has every name of an export.

What a mapping means is in `data/own_mapping.py`, its fields in `documents/mapping.py`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml
from msgspec.structs import replace

from dentsight_pipeline.data.ontology import LabelRule, SourceChoice, choose_source, names_of
from dentsight_pipeline.data.own_mapping import image_classes, label_mapping
from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.mapping import DROP, OwnMapping
from dentsight_pipeline.errors import ConfigurationError, DocumentError, UnknownLabelError
from dentsight_pipeline.intake.files import ExportFiles
from dentsight_pipeline.intake.identity import source_identity
from dentsight_pipeline.intake.open import open_export
from dentsight_pipeline.intake.read import read_export
from dentsight_pipeline.intake.records import Export, Refusals

MAPPING_FILE = "dentsight.yaml"
"""Where an export itself says how it is to be read, at its root."""
AUTO = "auto"
"""Stands for no mapping of one's own: the export's, else a packaged one by its fingerprint."""
_LARGEST = 32 << 20
_REMEDY = "`dentsight inspect EXPORT --write-mapping FILE` writes one to fill in."


def mappings_of(given: Sequence[str], exports: int) -> Sequence[str]:
    """The mapping of each export as it is given, `auto` for each where none is.

    Raises:
        ConfigurationError: Not as many as there are exports.
    """
    if given and len(given) != exports:
        raise ConfigurationError(
            f"--mapping is given {len(given)} times for {exports} export{'s' * (exports > 1)}. The k-th belongs to the "
            "k-th --export: give each export its own, or `auto`."
        )
    return given or [AUTO] * exports


def load_mapping(given: str) -> OwnMapping | None:
    """The mapping that `--mapping` names; None for `auto`.

    Raises:
        ConfigurationError: There is no such file, or it is no mapping.
    """
    if given in ("", AUTO):
        return None
    try:
        data = Path(given).expanduser().read_bytes()
    except OSError as error:
        raise ConfigurationError(f"--mapping {given}: {error.strerror}. {_REMEDY}") from error
    return parse_mapping(data, given)


def mapping_in(files: ExportFiles) -> OwnMapping | None:
    """The mapping that an export brings, or None.

    Raises:
        ConfigurationError: It is no mapping.
    """
    return parse_mapping(files.read(MAPPING_FILE), MAPPING_FILE) if MAPPING_FILE in files.paths() else None


def parse_mapping(data: bytes, where: str) -> OwnMapping:
    """A mapping from YAML; every value is text (`No`, `11` and `1e3` are names), and its meaning is looked at.

    Raises:
        ConfigurationError: It is no mapping; the message names `where`, the field and the remedy.
    """
    try:
        if len(data) > _LARGEST:
            raise ConfigurationError(f"it has {len(data)} bytes, more than {_LARGEST}")
        content = yaml.load(data.decode("utf-8-sig"), Loader=_Texts)
        if isinstance(content, dict):
            content = {name: value for name, value in content.items() if value != ""}
        own = codec.convert(content, OwnMapping, where)
        codec.write(own)
        label_mapping(own)
        image_classes(own)
    except DocumentError as error:
        raise ConfigurationError(f"{where} is no label mapping: {error.problem}. {_REMEDY}") from error
    except (yaml.YAMLError, UnicodeError, RecursionError, ConfigurationError) as error:
        raise ConfigurationError(f"{where} is no label mapping: {_short(error)} {_REMEDY}") from error
    return own


class _Texts(yaml.BaseLoader):
    """Texts, lists and mappings alone, and no key twice. (The loader in C crashes on deep nesting.)"""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = Counter(str(self.construct_object(key, deep=True)) for key, _ in node.value)
        for name in (name for name, times in names.items() if times > 1):
            raise yaml.constructor.ConstructorError(None, None, f"{name!r} stands there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if text.endswith((".", "?")) else f"{text}."


def own_choice(own: OwnMapping) -> SourceChoice:
    """A mapping of one's own, as chosen."""
    mapping = label_mapping(own)
    return SourceChoice(own.source, "mapping", f"a mapping of its own, {mapping.digest[:12]}", mapping)


def chosen(export: Export, source: str | None, own: OwnMapping | None) -> SourceChoice:
    """How an export is read: by its own mapping, else by a packaged one."""
    return choose_source(export.readmes.values(), export.category_names(), source) if own is None else own_choice(own)


def by_digest(own: OwnMapping, stored: Mapping[str, str]) -> OwnMapping:
    """A mapping whose images are named by their digests alone; `stored` has the digest of each path in the export.

    Raises:
        ConfigurationError: A pattern names no image, or two say different things of one.
    """
    found: dict[str, tuple[str, ...]] = {}
    for pattern, words in own.images.items():
        digests = [sha for path, sha in stored.items() if sha == pattern or _matches(path, pattern)]
        if not digests:
            raise ConfigurationError(f"images, {pattern!r}: no image of the export has such a name. Correct it.")
        for digest in digests:
            if found.setdefault(digest, words) != words:
                raise ConfigurationError(f"images, {pattern!r}: another pattern says something else of the same image.")
    return replace(own, images=dict(sorted(found.items())))


def _matches(path: str, pattern: str) -> bool:
    return fnmatchcase(path, pattern) or fnmatchcase(path.rpartition("/")[2], pattern)


def write_template(place: str | Path, source: str | None, file: Path) -> None:
    """Writes a mapping to fill in for the export at a place.

    Raises:
        ConfigurationError: The file is there already.
        DataError: The export cannot be read.
    """
    with open_export(place) as files:
        export, below = read_export(files, Refusals(collect=True))
        own = None if source else mapping_in(below)
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(template(export, source, own))
    except FileExistsError as error:
        raise ConfigurationError(f"{file} is there already, and nothing is overwritten. Name a new file.") from error


def template(export: Export, source: str | None, own: OwnMapping | None) -> str:
    """A mapping for an export, to be filled in: every raw name with its counts and what is known of it."""
    choice = chosen(export, source, own)
    rules = {name: _known(choice, name) for name in _names(export)}
    covers = choice.mapping.covers
    known = {name: rule for name, rule in rules.items() if isinstance(rule, LabelRule)}
    drawn = {name for split in export.splits for name in split.label_counts}
    seen = {cls for name, rule in known.items() if name in drawn for cls in rule.classes}
    why = "as mapping {} declares" if covers is not None else "nothing declares it; the export has boxes of these"
    licence = (own.licence if own else "") or source_identity(export).licence
    lines = [
        "# How this export is read. Fill in what is empty, and check `covers`: an image without a box of a class that",
        "# stands there is healthy of it; of a class that does not stand there it says nothing.",
        "source: my-source  # a name of your own",
        f"licence: {_quoted(licence) if licence else ''}  # under which images and labels may be used",
        f"covers:  # {why.format(choice.source)}; also: teeth, conditions",
        *[f"  - {name}" for name in names_of(seen if covers is None else covers)],
        "labels:  # raw name: class, [class, class] or drop",
        *_label_lines(export, rules),
        *_reason_lines("loose", {name: rule.reason for name, rule in known.items() if rule.loose}),
        "# reasons: {raw name: why it is dropped although it is known as a finding}",
        "# images: {pattern of file names: [what was looked for in these alone]}",
    ]
    return "\n".join(lines) + "\n"


def _names(export: Export) -> list[str]:
    """Raw names that are no placeholder, as listed."""
    named = [category.name for split in export.splits for category in split.categories if not category.placeholder]
    return list(dict.fromkeys(named))


def _known(choice: SourceChoice, name: str) -> LabelRule | UnknownLabelError:
    try:
        return choice.mapping.resolve(name)
    except UnknownLabelError as error:
        return error


def _label_lines(export: Export, rules: Mapping[str, LabelRule | UnknownLabelError]) -> Iterator[str]:
    counts = {split.name: split.label_counts for split in export.splits}
    for name, rule in rules.items():
        told = ", ".join(f"{split} {of[name]}" for split, of in counts.items() if of[name]) or "no boxes"
        if isinstance(rule, UnknownLabelError):
            near = f"nearest: {', '.join(rule.suggestions)}" if rule.suggestions else "nothing known is near"
            yield f"  {_quoted(name)}:  # {told}; {rule.reason or near}"
        else:
            yield f"  {_quoted(name)}: {_value(rule.classes)}  # {told}"


def _reason_lines(title: str, reasons: Mapping[str, str]) -> list[str]:
    return [f"{title}:", *[f"  {_quoted(name)}: {_quoted(why)}" for name, why in reasons.items()]] if reasons else []


def _value(classes: Sequence[str]) -> str:
    if len(classes) > 1:
        return f"[{', '.join(classes)}]"
    return _quoted(classes[0]) if classes and classes[0].isdigit() else (classes[0] if classes else DROP)


def _quoted(text: str) -> str:
    """Text as YAML reads it, whatever is in it; plain where that is the same."""
    return text if re.fullmatch(r"[A-Za-z][A-Za-z0-9_ -]*[A-Za-z0-9]", text) else json.dumps(text, ensure_ascii=False)
