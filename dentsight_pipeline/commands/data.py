"""`dentsight phantom` and `inspect`: exports, drawn or looked at."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from dentsight_pipeline.commands.console import absolute, progress, show, staged
from dentsight_pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from dentsight_pipeline.data.normalise import NormalisedDocument
    from dentsight_pipeline.documents.evaluation import LabelCeiling
    from dentsight_pipeline.documents.inspection import Inspection


def phantom(out: Path, images: int, seed: int, width: int, as_json: bool) -> None:
    """Draw an export and tell its size."""
    from dentsight_pipeline.phantom.export import write_phantom_export

    made = write_phantom_export(out, images, seed, width, progress=progress("drawing"))
    facts = {"out": str(out), "images": made.images, "annotations": made.annotations, "splits": made.splits}
    show(facts, as_json, lambda: f"{made.images} phantom images with {made.annotations} annotations in {out}")


def write_mapping(exports: list[str], source: str | None, file: Path, as_json: bool) -> None:
    """Write a label mapping to fill in; nothing is overwritten."""
    from dentsight_pipeline.intake.acquire import fetch
    from dentsight_pipeline.intake.mapping_file import write_template

    if len(exports) != 1:
        raise ConfigurationError("--write-mapping is of one export: dentsight inspect EXPORT --write-mapping FILE.")
    export = exports[0]
    with tempfile.TemporaryDirectory(prefix="dentsight-inspect-") as scratch:
        path, _ = fetch(absolute(export), Path(scratch), staged())
        write_template(path, source, file)
    told = f"{file} has every label of the export. Fill it in, then: dentsight inspect {export} --mapping {file}"
    show({"mapping": str(file)}, as_json, lambda: told)


def inspect(
    exports: list[str], source: str | None, mapping: list[str], drop: list[str], accept: list[str], as_json: bool
) -> None:
    """Tell what ingestion would do with an export, or several as one dataset; a remote one is not kept."""
    from dentsight_pipeline.intake.acquire import fetch
    from dentsight_pipeline.intake.inspect import inspect_export, summary_lines
    from dentsight_pipeline.intake.mapping_file import load_mapping, mappings_of

    if not exports:
        raise ConfigurationError("Say which export: dentsight inspect EXPORT.")
    if source and mapping:
        raise ConfigurationError("--source and --mapping both say what labels mean. Give one of them.")
    told, own = staged(), mappings_of(mapping, len(exports))
    with tempfile.TemporaryDirectory(prefix="dentsight-inspect-") as scratch:
        folders = [Path(scratch, str(number)) for number, _ in enumerate(exports)]
        paths = [fetch(absolute(export), folder, told)[0] for export, folder in zip(exports, folders, strict=True)]
        facts = inspect_export(
            *paths,
            source=source,
            mappings=[load_mapping(file) for file in own],
            drop=tuple(drop),
            accept=tuple(accept),
            progress=told,
            ceilings=_ceilings,
        )
    facts = replace(facts, ceiling_warnings=tuple(_floors_above(facts)))
    show(facts, as_json, lambda: "\n".join(summary_lines(facts)))


def _ceilings(document: "NormalisedDocument") -> "tuple[LabelCeiling, ...]":
    from dentsight_pipeline.data.agreement import paired_boxes
    from dentsight_pipeline.data.ontology import CLASSES
    from dentsight_pipeline.evaluation.ceiling import count_pairs, label_ceilings

    pairs = paired_boxes([*document.splits.values()], document.second_readings)
    return label_ceilings(count_pairs([*pairs], CLASSES))


def _floors_above(facts: "Inspection") -> list[str]:
    from dentsight_pipeline.documents.names import CorpusKind
    from dentsight_pipeline.release.ceiling import floors_above
    from dentsight_pipeline.release.policy import load_policy

    policy = load_policy("phantom" if facts.corpus.kind == CorpusKind.PHANTOM else "card")
    return floors_above(policy, facts.label_ceilings)
