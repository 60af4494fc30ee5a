"""What ingestion would do with an export, without doing it: the content of `dentsight inspect --json`.

Add a line here when ingestion or normalisation learns to mend or refuse something. Nothing is written, and nothing is
decided here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pyarrow as pa

from dentsight_pipeline.data.combine import Part, combined, normalised, refuse_unknown_drops
from dentsight_pipeline.data.json_blocks import json_blocks
from dentsight_pipeline.data.normalise import NormalisedDocument
from dentsight_pipeline.data.ontology import CONDITIONS, MAPPINGS, TEETH, covered_classes, names_of
from dentsight_pipeline.data.reading import Reading
from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.annotations import RawSplit
from dentsight_pipeline.documents.evaluation import Bounds, LabelCeiling
from dentsight_pipeline.documents.facts import AppliedMapping, Cell, ExportPart, SplitsFacts, SplitTotals
from dentsight_pipeline.documents.inspection import InspectedSplit, Inspection, Refusal
from dentsight_pipeline.documents.mapping import OwnMapping
from dentsight_pipeline.errors import AnnotationError, DataError, UnknownLabelError
from dentsight_pipeline.intake.ingest import ExportContent, Request, read_content
from dentsight_pipeline.intake.limits import UNLABELLED
from dentsight_pipeline.intake.open import open_export
from dentsight_pipeline.intake.read import missing_split
from dentsight_pipeline.intake.records import Refusals
from dentsight_pipeline.progress import Progress

REQUIRED_SPLITS = ("train", "valid", "test")
"""Splits without which no model can be trained, selected and tested."""


def inspect_export(
    *exports: str | Path,
    source: str | None = None,
    mappings: Sequence[OwnMapping | None] = (),
    drop: Collection[str] = (),
    require: Sequence[str] = REQUIRED_SPLITS,
    accept: Collection[str] = (),
    workers: int = 4,
    progress: Progress | None = None,
    ceilings: Callable[[NormalisedDocument], tuple[LabelCeiling, ...]] = lambda document: (),
) -> Inspection:
    """Reads an export as ingestion and normalisation would, and says what they would do; writes nothing.

    Args:
        exports: A folder, a zip or an `s3://` address; several are told of as the one dataset that they would be.
        source: The label mapping (`--source`); None chooses by READMEs and category names.
        mappings: Of each export a mapping of one's own (`--mapping`); None, or nothing for all, takes the one at the
            export's root, if there is one.
        drop: Label names to leave out.
        require: Splits whose absence counts as a refusal.
        accept: Kinds of repairs that may be beyond their limits (`--accept-repairs`).
        workers: Threads.
        progress: Called as images are done.
        ceilings: Gives what the labels allow; figures are the evaluation's, which stands above this room.

    Returns:
        The report; when its `refusals` are not empty, ingestion would stop.

    Raises:
        DataError: It cannot be read at all.
        ConfigurationError: No such label mapping, or a name to drop that does not occur, or no such kind of repairs.
    """
    alone = len(exports) == 1
    how = Request(source, drop, require if alone else (), accept, None, workers, progress, alone=alone)
    own = mappings or [None] * len(exports)
    looked = [_looked_at(place, replace(how, mapping=given)) for place, given in zip(exports, own, strict=True)]
    made = looked[0].made if alone else _combined(looked, drop)
    places = " + ".join(map(str, exports))
    lacking = [] if alone else [missing_split(places, n, [*made.splits]) for n in require if n not in made.splits]
    unlabelled = tuple(path for one in looked for path in one.content.unlabelled)
    report = _report(looked, made, lacking)
    return msgspec.structs.replace(report, label_ceilings=ceilings(made), unlabelled_files=unlabelled)


@dataclass(frozen=True)
class _Looked:
    """One export as it was read."""

    export: str
    content: ExportContent
    made: NormalisedDocument
    errors: Sequence[DataError]
    unknown: Sequence[str]
    """Labels that no mapping knows; the rest is told as if they were dropped."""


def _combined(looked: Sequence[_Looked], drop: Collection[str]) -> NormalisedDocument:
    refuse_unknown_drops([one.content.raw for one in looked], drop)
    return combined([Part("", one.content.raw, one.made, one.content.stems) for one in looked])


def _looked_at(export: str | Path, how: Request) -> _Looked:
    refusals = Refusals(collect=True)
    with open_export(export) as files:
        content = read_content(files, how, refusals)
    unknown = sorted({error.label for error in refusals.errors if isinstance(error, UnknownLabelError)})
    # Boxes of classes that were not looked for are among the refusals already.
    reading = Reading(how.label_source, (*how.drop, *unknown))
    made = normalised(content.raw, reading, how.progress, refuse=lambda _: None)
    return _Looked(str(export), content, made, refusals.errors, unknown)


def _report(looked: Sequence[_Looked], result: NormalisedDocument, lacking: Sequence[DataError]) -> Inspection:
    facts, raws = result.facts, [one.content.raw.facts for one in looked]
    rows = {name: _class_row(name, facts) for name in (*CONDITIONS, *TEETH)}
    unknown = {name for one in looked for name in one.unknown}
    kept = tuple(name for name in facts.mapping.drop if name not in unknown)
    unlisted: Counter[str] = Counter()
    for raw in raws:
        unlisted.update({name: split.unlisted_files for name, split in raw.splits.items()})
    return Inspection(
        corpus=facts.corpus,
        identity=facts.source,
        layout=" + ".join(dict.fromkeys(raw.layout for raw in raws)),
        source=msgspec.structs.replace(facts.mapping, drop=kept),
        sources_known=tuple(MAPPINGS),
        mapping_digest=facts.mapping.digest,
        exports=facts.exports or msgspec.UNSET,
        splits={name: _split(name, facts, unlisted[name]) for name in sorted(facts.splits)},
        classes={name: row for name, row in rows.items() if name in CONDITIONS or row["total"]},
        labels=tuple(row for row in result.labels if row.raw_name not in unknown),
        loose_classes=facts.loose_classes,
        coverage={name: names_of(covered_classes(mapping)) for name, (_, mapping) in facts.by_export.items()},
        licences={name: corpus.licence for name, (corpus, _) in facts.by_export.items()},
        repairs=facts.repairs,
        accepted_repairs=tuple(sorted({kind for raw in raws for kind in raw.accepted_repairs})),
        repair_list=codec.read(b"".join(json_blocks(result.repairs)), tuple[Mapping[str, Cell], ...], "the repairs"),
        dropped={name: count for name, count in facts.dropped.items() if name not in unknown},
        leakage=facts.leakage,
        distinct_sources=facts.sources,
        agreement=tuple(result.agreement),
        label_ceilings=(),
        ceiling_warnings=(),
        flags=facts.flags,
        partial_annotation=facts.partial_annotation,
        unlabelled=_of_kind(result.repairs, UNLABELLED),
        shared_names=sum(_shared_names(one.content.raw.splits) for one in looked),
        privacy=facts.privacy,
        refusals=(*_refusals(looked), *map(_refusal, lacking)),
    )


def _refusals(looked: Sequence[_Looked]) -> Iterator[Refusal]:
    """Of each export, with its name where there are several."""
    for one in looked:
        for refusal in map(_refusal, one.errors):
            yield refusal if len(looked) == 1 else msgspec.structs.replace(refusal, export=one.export)


def _split(name: str, facts: SplitsFacts, unlisted: int) -> InspectedSplit:
    totals = {field: getattr(facts.splits[name], field) for field in SplitTotals.__struct_fields__}
    return InspectedSplit(**totals, partial_annotation=facts.partial_annotation[name], unlisted_files=unlisted)


def _of_kind(repairs: pa.Table, kind: str) -> dict[str, int]:
    """Repairs of one kind by split."""
    rows = repairs.select(["kind", "split"]).to_pylist()
    return dict(Counter(row["split"] for row in rows if row["kind"] == kind))


def _shared_names(splits: Sequence[RawSplit]) -> int:
    """Mere numbers that several different files have for a name."""
    columns = [split.images.select(["sha256", "stem_group", "stem_kind"]) for split in splits]
    rows = {
        (row["stem_group"], row["sha256"])
        for table in columns
        for row in table.to_pylist()
        if row["stem_kind"] == "numeric"
    }
    return sum(count > 1 for count in Counter(group for group, _ in rows).values())


def _class_row(name: str, facts: SplitsFacts) -> dict[str, int | bool]:
    """Annotations of a class by split and in total, and whether the source marks it loosely."""
    counts = {split: of.class_counts[name] for split, of in facts.splits.items()}
    return {**counts, "total": sum(counts.values()), "loose": name in facts.loose_classes}


def _refusal(error: DataError) -> Refusal:
    told = ("file", "record", "problem", "remedy") if isinstance(error, AnnotationError) else ()
    if isinstance(error, UnknownLabelError):
        told = ("label", "source", "suggestions")
    return Refusal(type(error).__name__, str(error), **{name: getattr(error, name) for name in told})


def summary_lines(report: Inspection) -> list[str]:
    """The same for people, one line each."""
    corpus, source, privacy = report.corpus, report.source, report.privacy
    lines = [
        f"Corpus: {corpus.name} ({corpus.kind}, licence {corpus.licence})",
        f"Labels: mapping {source.source!r} ({source.chosen_by}: {source.evidence})",
    ]
    for part in report.exports or ():
        lines += [_part_line(part), *(f"  {line}" for line in _coverage_lines(part.mapping))]
    for name, split in report.splits.items():
        leak = getattr(report.leakage, name, None)
        shared = f", {leak.shared_with_train} share a source with train" if leak else ""
        lines.append(f"{name}: {split.images} images, {split.annotations} annotations{shared}")
    conditions = [
        f"{name} {row['total']}{' (loose)' if name in report.loose_classes else ''}"
        for name, row in report.classes.items()
        if name in CONDITIONS
    ]
    lines.append(f"Conditions: {', '.join(conditions)}")
    lines += [] if report.exports else _coverage_lines(source)
    lines.append(f"Teeth: {sum(row['total'] for name, row in report.classes.items() if name in TEETH)}")
    duplicates = {name: report.repairs.get(f"{name}_duplicate", 0) for name in ("exact", "near")}
    tables = {
        "Teeth to look at": report.flags,
        "Duplicate boxes": {name: count for name, count in duplicates.items() if count},
        "Repairs": report.repairs,
        "Dropped labels": report.dropped,
    }
    lines += [f"{title}: {_counted(table) or 'none'}" for title, table in tables.items()]
    lines += _image_lines(report)
    if report.accepted_repairs:
        lines.append(f"Accepted beyond their limits: {', '.join(report.accepted_repairs)}")
    if report.label_ceilings:
        ceilings = ", ".join(f"{row.class_name} {_bounds(row.ap)}" for row in report.label_ceilings)
        lines.append(f"Labels allow an AP of: {ceilings}")
    lines += [f"  Warning: {sentence}" for sentence in report.ceiling_warnings]
    lines.append(
        f"Privacy: {privacy.names_replaced} names replaced ({_counted(privacy.stem_kinds)}); "
        f"metadata removed from {privacy.images_with_metadata} images"
    )
    refused = report.refusals
    lines.append("Refusals: none; it can be ingested" if not refused else f"Refusals: {len(refused)}")
    lines += [f"  {refusal.message}" for refusal in refused[:50]]
    if len(refused) > 50:
        lines.append(f"  … and {len(refused) - 50} more (--json lists all)")
    return lines


def _image_lines(report: Inspection) -> Iterator[str]:
    """What people should know of the images: unlabelled ones, copies, names, and whether they are panoramic at all."""
    without = {name: split.images_without_annotations for name, split in report.splits.items()}
    yield f"Negatives: {_counted(without)} images without annotations"
    if report.unlabelled:
        taken = UNLABELLED in report.accepted_repairs
        some = ", ".join(report.unlabelled_files[:5]) + ", …" * (len(report.unlabelled_files) > 5)
        yield f"Unlabelled, {'taken as negatives' if taken else 'kept out'}: {_counted(report.unlabelled)} ({some})"
    if unlisted := {name: split.unlisted_files for name, split in report.splits.items() if split.unlisted_files}:
        yield f"Image files that no annotation names, left out: {_counted(unlisted)}"
    if any(report.partial_annotation.values()):
        yield f"Conditions without tooth boxes: {_counted(report.partial_annotation)} images"
    images = sum(split.images for split in report.splits.values())
    yield f"Sources: {report.distinct_sources} of {images} images are of different patients, as far as can be told"
    if report.identity.versions:
        yield f"Versions: it says that it holds {report.identity.versions} of each image, so names are grouped"
    if report.shared_names:
        yield f"Warning: {report.shared_names} numbers are the name of several files; only their pixels are compared"
    if report.corpus.pictures:
        yield f"Warning: the pictures look like {report.corpus.pictures}, not like panoramic X-rays"


def _bounds(of: Bounds) -> str:
    interval = "no interval" if of.low is None or of.high is None else f"{of.low:.2f} to {of.high:.2f}"
    return f"{of.value:.2f} ({interval})"


def _coverage_lines(mapping: AppliedMapping) -> list[str]:
    """What was looked for, and what to do where that is not known."""
    looked_for = mapping.coverage
    if looked_for is None:
        return ["Looked for: teeth and all 13 conditions, in every image"]
    why = "declared" if looked_for.declared else "nothing is declared: it has boxes of these"
    lines = [f"Looked for ({why}): {', '.join(names_of(looked_for.classes)) or 'nothing'}"]
    if looked_for.images:
        lines.append(f"  {looked_for.images} images have a declaration of their own")
    if missing := [name for name in CONDITIONS if name not in looked_for.classes]:
        lines.append(f"Not looked for, so no image is healthy of them: {', '.join(missing)}")
    if not looked_for.declared:
        lines.append("  If they were looked for, say so: `covers` in the file that --write-mapping FILE writes")
    return lines


def _part_line(part: ExportPart) -> str:
    """One of several exports."""
    shared = f"{part.same_source} share a source with another export, {part.same_bytes} of them byte for byte"
    images = ", ".join(f"{split} {count}" for split, count in part.images.items())
    return f"Export {part.name}: {images}; mapping {part.mapping.source!r}; {shared}"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
