"""Texts for people: what each command prints without `--json`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dentsight_pipeline.documents.codec import convert, plain
from dentsight_pipeline.documents.names import Asset
from dentsight_pipeline.store.names import is_digest

if TYPE_CHECKING:
    from dentsight_pipeline.documents.commands import CellMade, CellPlanned, ChampionTold, Finding
    from dentsight_pipeline.documents.drift import Drift
    from dentsight_pipeline.documents.lineage import (
        AuditResult,
        Code,
        DataDifference,
        Difference,
        Provenance,
        Reproduction,
        Sides,
        Step,
    )
    from dentsight_pipeline.documents.verdict import Verdict

Facts = Mapping[str, Any]
"""What a room that makes no document of it says, ready for JSON."""


def run(cell: "CellMade") -> str:
    """Of a finished cell."""
    told = {
        "Dataset:    ": cell.dataset_digest,
        "Checkpoint: ": cell.checkpoint_digest,
        "Reused:     ": ", ".join(cell.cached),
        "By tooth:   ": cell.tooth_findings_digest or "",
        "Dentists:   ": cell.reader_agreement_digest or "",
        "Suspects:   ": cell.label_review_digest and f"dentsight review {cell.label_review_digest[:12]}",
        "Released:   ": cell.released or "",
        "Verdict: ": cell.verdict,
        "Report: ": cell.report,
    }
    return "\n".join(f"{title}{value}" for title, value in told.items() if value)


def dry_run(planned: "CellPlanned") -> str:
    """Of a cell that is not run."""
    lines = [f"{planned.dataset} × {planned.recipe}, trainings on: {planned.backend}"]
    for step in planned.steps:
        place = step.where if step.where == "here" else f"on {step.where}"
        made = "where the gates allow" if step.asset == Asset.RELEASED_MODEL else place
        told = "reused" if step.reused else f"made {made}, time {_about(step.seconds)}"
        if not step.reused and step.where != "here":
            told += f", price {'unknown' if step.price is None else f'about {step.price:.2f} {step.currency}'}"
        lines.append(f"  {step.asset:20} {told}" + (f" (as on {step.measured_on})" if step.measured_on else ""))
    provided = ["Reused, provided that the export's bytes are what they were."] if planned.reused else []
    return "\n".join([*lines, *provided])


def _about(seconds: float | None) -> str:
    return (
        "unknown" if seconds is None else f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {seconds:.0f} s"
    )


def evaluation(facts: Facts, out: Path) -> str:
    """Of the images that gates read: all of them flatter where a source is shared with another split."""
    read = facts["clean"] or facts
    images = f"the {read['images']} clean of {facts['images']} images" if facts["clean"] else f"{read['images']} images"
    chosen = "valid" if facts["thresholds_from"] == "valid" else "these images themselves, which flatters"
    return "\n".join(
        [
            table(read["per_class"], ["class", "n_gt", "ap", "ap_low", "ap_high", "ap50", "ar100", "best_f1"]),
            f"macro AP50 {number(read['macro_ap50'])}, macro AP {number(read['macro_ap'])} on {images}; "
            f"{read['present']} of {read['of']} classes present; thresholds chosen on {chosen}",
            *(f"note: {note}" for note in facts["notes"]),
            f"everything is in {out}",
        ]
    )


def agreement(facts: Facts, margin: float) -> str:
    """Of a model that reads beside dentists."""
    words = {True: "yes", False: "no", None: "undecided"}
    rows = [
        {**row, **row["delta"], "Δκ": row["delta"]["value"], "non-inferior": words[row["non_inferior"]]}
        for row in facts["conditions"]
    ]
    columns = ["condition", "Δκ", "low", "high", "non-inferior", "model_kappa", "dentist_kappa", "items", "images"]
    means = f"Δκ: {facts['model']} with dentists minus dentists among themselves; δ = {margin:g}"
    return f"{table(rows, columns)}\n{means}"


def findings(facts: Facts, out: Path) -> str:
    """Of predictions on somebody's own images."""
    rows = [_finding(item["image"], finding) for item in facts["findings"] for finding in item["findings"]]
    shown = table(rows, ["image", "class", *(["tooth"] if facts["teeth"] else []), "score", "x, y, width, height"])
    others = ", ".join(f"{count} {name}" for name, count in facts["left_out"].items())
    left = f"\nLeft out, being of other modalities: {others}." if others else ""
    if facts["teeth"]:
        left += f"\nTeeth count from score {facts['tooth_score']:.2f} on ({_chosen(facts['tooth_score_from'])})."
    return f"{shown}{left}\nPictures and findings.json are in {out}. Research only."


def _chosen(split: str) -> str:
    ask = "a default; give --teeth the digest that `dentsight run --with-teeth` prints as “By tooth” for the chosen one"
    return ask if split == "default" else f"chosen on {split}"


def _finding(image: str, finding: Facts) -> Facts:
    """A row that fits a terminal: a DICOM file by the first digits of its sha256, the box in whole pixels."""
    from dentsight_pipeline.documents.detections import Finding  # with Arrow, which the other texts do without

    teeth = convert(finding, Finding, image).tooth_names
    return {
        "image": image[:12] if is_digest(image) else image,
        "tooth": " ".join(teeth) or None,
        "x, y, width, height": ", ".join(f"{value:.0f}" for value in finding["bbox_xywh_px"]),
        **finding,
    }


def heads(facts: Facts) -> str:
    """Of the class heads of a checkpoint."""
    columns = [name for name, value in facts["layers"][0].items() if not isinstance(value, list | dict)]
    ratio = f"last/first ratio {number(facts['ratio_last_to_first'])}. {facts['verdict']}"
    return "\n".join([table(facts["layers"], columns), ratio, *facts.get("notes", []), *_rescued(facts.get("rescued"))])


def _rescued(rescued: Facts | None) -> list[str]:
    if rescued is None:
        return []
    measured = [_at_rescue(when, rescued[when]) for when in ("before", "after") if rescued[when]]
    return [f"Rescued into {rescued['out']}: {rescued['method']}", *measured]


def _at_rescue(when: str, told: Facts) -> str:
    return f"AP50 {when} the rescue: {number(told['ap50'])}, mean highest score {number(told['max_score'])}"


def audit(found_by: str, result: "AuditResult") -> str:
    """Of an audit: the chain, how it came about, and what does not fit."""
    kinds = [item for item in result.chain if item.kind != "object"]
    ends = ["INTACT"] if result.intact else ["NOT INTACT. First broken link:", *_listed(result.findings)]
    return "\n".join(
        [
            f"{result.kind} {result.digest} (found by {found_by})",
            *(f"  {item.kind:18} {item.digest}" for item in kinds if item.kind != "record"),
            *_provenance(result.provenance),
            f"Hashed:  {result.hashed_bytes:,} bytes of {len(result.chain) - len(kinds)} objects",
            f"Heads:   log {result.log_head}, releases {result.release_head} (note them elsewhere)",
            *(f"Note: {note}" for note in result.notes),
            *ends,
        ]
    )


def _provenance(told: "Provenance") -> list[str]:
    corpus = f"{told.corpus.kind}: {told.corpus.name}" if told.corpus else "unknown: unknown"
    edited = {True: " (edited)", False: "", None: " (unknown)"}[told.code.dirty]
    recipe = told.recipe
    variant = " (variant)" if recipe and recipe.variant else ""
    return [
        f"Corpus:  {corpus}",
        f"Source:  {_named(plain(told.source) if told.source else {}) or 'unknown'}",
        *([f"Recipe:  {recipe.name} {recipe.digest[:12]}{variant}"] if recipe else []),
        f"Code:    {', '.join(told.code.commits) or 'unknown'}{edited}",
        f"Seeds:   {_named(told.seeds) or 'none'}",
        f"Runs:    Dagster {', '.join(told.dagster_runs) or 'none'}",
        f"         MLflow {', '.join(told.mlflow_runs) or 'none'}",
        *_machine(next((step for step in told.steps if step.kind == "checkpoint"), None)),
    ]


def _machine(training: "Step | None") -> list[str]:
    if training is None:
        return []
    packages = {name: version for name, version in (training.packages or {}).items() if version}
    return [f"Machine: {_named(training.hardware or {}) or 'unknown'}", f"Packages: {_named(packages) or 'unknown'}"]


def reproduction(result: "Reproduction") -> str:
    """Of a checkpoint that was made again."""
    rows = [{**plain(item), "same": "yes" if item.same else "no"} for item in result.products]
    compared = result.metrics if result.compared_by != "digest" else ()
    return "\n".join(
        [
            table(rows, ["asset", "how", "same", "recorded", "made"]),
            *([table(compared, ["name", "recorded", "low", "high", "made", "within"])] if compared else []),
            *(f"Note: {note}" for note in result.notes),
            f"Recorded on {result.recorded_on}; compared by {result.compared_by}.",
            "REPRODUCED" if result.reproduced else "NOT REPRODUCED",
            *_listed(result.differences),
        ]
    )


def difference(found: "Difference") -> str:
    """Of what differs between two checkpoints."""
    code, metrics = found.code, found.metrics
    columns = ["class", "metric", "a", "b", "delta", "low", "high"]
    return "\n".join(
        [
            f"A {found.a}",
            f"B {found.b}",
            *_data(found.data),
            *_changed("Recipe", found.recipe),
            *_changed("Packages", found.packages),
            "Code: the same." if code.same else f"Code: {_commit(code.a)} → {_commit(code.b)}",
            *([table(metrics.rows, columns)] if metrics.rows else []),
            "Intervals of B − A are paired (90 %)." if metrics.paired else f"Not paired: {metrics.reason}",
        ]
    )


def _data(data: "DataDifference") -> list[str]:
    if data.same:
        return ["Data: the same."]
    images = data.images
    moved = ", ".join(f"{count} {between}" for between, count in images.moved.items()) or "none"
    labels = [{"class": name, **plain(counts)} for name, counts in data.labels.items()]
    exports = [{"export": name, **plain(counts)} for name, counts in data.exports.items()]
    return [
        f"Data: {images.added} images added, {images.removed} removed, moved between splits: {moved}.",
        *([_corrections(data.corrections)] if data.corrections else []),
        *([table(exports, list(exports[0]))] if exports else []),
        *([table(labels, list(labels[0]))] if labels else []),
    ]


def _corrections(sides: "Sides") -> str:
    words = [", ".join(f"{n} {how}" for how, n in side.items()) or "none" for side in (sides.a, sides.b)]
    return f"Corrections of labels: {words[0]} → {words[1]}."


def _changed(title: str, fields: "Mapping[str, Sides]") -> list[str]:
    changes = [f"  {name}: {values.a} → {values.b}" for name, values in fields.items()]
    return [f"{title}:", *changes] if changes else [f"{title}: the same."]


def _commit(code: "Code") -> str:
    return f"{code.commit}{' (edited)' if code.dirty else ''}" if code.commit else "unknown"


def garbage(facts: Facts) -> str:
    """Of what was or would be removed from a store."""
    return f"{facts['objects']} objects, {facts['bytes']:,} bytes and {facts['leftovers']} leftovers {_removed(facts)}"


def damaged(facts: Facts) -> str:
    """Of what is damaged in a store."""
    told = f"{len(facts['damaged'])} damaged objects {_removed(facts)}"
    return "\n".join([told, *_listed(facts["damaged"])]) if facts["damaged"] else "No object is damaged"


def _removed(facts: Facts) -> str:
    return "removed" if facts["removed"] else "would be removed (add --apply)"


def champion(told: "ChampionTold") -> str:
    """Of a promotion or rollback."""
    text = f"Champion: release {told.champion or 'none'} (before: {told.before or 'none'})"
    if not told.registry_problem:
        return text
    return (
        f"{text}\nMLflow could not be told ({told.registry_problem}). It will be: by the sensor late_tracking "
        "while `dentsight ui` runs, or with the next release, promotion or rollback."
    )


def drift(found: "Drift") -> str:
    """Of new X-rays against known ones."""
    from dentsight_pipeline.data.drift import summary_of

    columns = ("property", "before", "after", "distance", "p after Holm", "")
    rows = [
        dict(
            zip(
                columns,
                (own.name, *map(number, (own.before, own.after, own.distance, own.p_holm)), "shifted" * own.alarm),
                strict=True,
            )
        )
        for own in found.shifts
    ]
    missing = [f"{name}: not compared ({why})" for name, why in found.not_measured.items()]
    told = [f"Against {found.against} ({found.known_sources} sources): {summary_of(found)}"]
    told += [f"{found.images_known} images are known already and left out."] if found.images_known else []
    return "\n".join([*told, *([table(rows, columns)] if rows else []), *_listed(missing)])


def doctor(found: "Sequence[Finding]") -> str:
    """Of the state of machine and workspace."""
    return "\n".join(map(_examined, found))


def _examined(item: "Finding") -> str:
    return f"ok  {item.check}: {item.found}" if item.ok else f"!!  {item.check}: {item.found}\n      → {item.remedy}"


def table(rows: Sequence[object], columns: Sequence[str]) -> str:
    """A table of mappings or documents."""
    from rich.console import Console
    from rich.table import Table

    drawn = Table(*columns, box=None, header_style="bold")
    for row in map(plain, rows):
        drawn.add_row(*(number(row.get(column)) for column in columns))
    console = Console(width=120)
    with console.capture() as capture:
        console.print(drawn)
    return capture.get().rstrip()


def number(value: Any) -> str:
    """Four decimals for a float, a dash for nothing."""
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _named(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def next_steps(verdict: "Verdict") -> list[str]:
    """What would help the gates that did not pass, hard ones first."""
    told = _listed([f"{remedy.kind}: {remedy.sentence}" for remedy in verdict.remedies])
    return ["What to do next:", *told] if told else []


def _listed(sentences: Sequence[str]) -> list[str]:
    return [f"- {sentence}" for sentence in sentences]
