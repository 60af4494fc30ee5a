"""`dentsight …`: the pipeline without a browser.

Every command prints text for people by default and, with `--json`, JSON alone on stdout; progress goes to stderr.
Exit status: 0 done whatever the verdict, 2 refused input with one line naming file, record and remedy; `gate` and
`audit` have statuses of their own. Only parsing and printing belong here: each command calls one function of a room.
"""

import json
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from dentsight_pipeline.documents.codec import plain
from dentsight_pipeline.errors import ConfigurationError, DentsightError
from dentsight_pipeline.progress import Progress

EXIT_REFUSED = 2
EXIT_NOT_INTACT = 5
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="dentsight",
    help="An auditable ML pipeline for dental findings on panoramic X-rays. Research only; not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
workspace_app = typer.Typer(name="workspace", help="The folder that a project's work lives in.", no_args_is_help=True)
app.add_typer(workspace_app)

Json = Annotated[bool, typer.Option("--json", help="Print JSON alone on stdout.")]


def main() -> None:
    """Run the command line; a deliberate error becomes one line on stderr and exit status 2."""
    # Dagster marks interfaces that this project uses as preview or beta: news for its authors, not for its users.
    warnings.filterwarnings("ignore", message=r"(?s).*currently in (preview|beta)")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` ends a command as Ctrl-C does
    try:
        app()
    except DentsightError as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(EXIT_REFUSED)
    except (KeyboardInterrupt, SystemExit) as ended:  # typer makes Ctrl-C an exit with this status
        if isinstance(ended, SystemExit) and ended.code != EXIT_INTERRUPTED:
            raise
        sys.stderr.write("Interrupted. What was finished is kept; the same command takes the rest up again.\n")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.exit(EXIT_INTERRUPTED)


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to write; must not exist or be empty.")],
    images: Annotated[int, typer.Option(min=1, help="Images over all splits.")] = 300,
    seed: Annotated[int, typer.Option(help="The same seed draws the same bytes.")] = 7,
    width: Annotated[int, typer.Option(min=128, help="Image width in px.")] = 1280,
    as_json: Json = False,
) -> None:
    """Write a synthetic export of panoramic X-rays; never clinical data."""
    from dentsight_pipeline.phantom.export import write_phantom_export

    summary = write_phantom_export(out, images, seed, width, progress=_progress("drawing"))
    facts = {"out": str(out), "images": summary.images, "annotations": summary.annotations, "splits": summary.splits}
    _show(facts, as_json, lambda: f"{summary.images} phantom images with {summary.annotations} annotations in {out}")


@app.command()
def inspect(
    export: Annotated[str, typer.Argument(help="Folder, zip, s3://… or roboflow:workspace/project/version.")],
    source: Annotated[str | None, typer.Option(help="Label mapping; default: by fingerprint.")] = None,
    drop: Annotated[list[str] | None, typer.Option(help="Label to drop on purpose; repeatable.")] = None,
    as_json: Json = False,
) -> None:
    """Tell what ingestion would do with an export, without doing it."""
    from dentsight_pipeline.intake.acquire import fetch
    from dentsight_pipeline.intake.inspect import inspect_export, summary_lines

    progress = _staged_progress()
    with tempfile.TemporaryDirectory(prefix="dentsight-inspect-") as scratch:  # a remote export is not kept
        path, _ = fetch(_absolute(export), Path(scratch), progress)
        facts = inspect_export(path, source=source, drop=tuple(drop or ()), progress=progress)
    _show(facts, as_json, lambda: "\n".join(summary_lines(facts)))


@app.command()
def run(
    export: Annotated[str, typer.Option(help="Folder, zip, s3://… or roboflow:workspace/project/version.")] = "",
    source: Annotated[str, typer.Option(help="Label mapping; default: by fingerprint.")] = "",
    dataset: Annotated[str, typer.Option(help="Dataset key; default: the demo's.")] = "",
    recipe: Annotated[str, typer.Option(help="Named recipe.")] = "smoke",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="field=value of the recipe; repeatable.")] = None,
    policy: Annotated[str, typer.Option(help="Gate policy: card, phantom, or a file.")] = "card",
    drop: Annotated[list[str] | None, typer.Option(help="Label to drop on purpose; repeatable.")] = None,
    replace: Annotated[str, typer.Option(help="Why this export may take over a key in use.")] = "",
    allow_head_collapse: Annotated[str, typer.Option(help="Why training may go on with a collapsed head.")] = "",
    override: Annotated[
        list[str] | None, typer.Option(help='A missed hard gate to override: gate_id="Name: reason"; repeatable.')
    ] = None,
    with_teeth: Annotated[bool, typer.Option(help="Stage 1 as well: the 32 teeth.")] = False,
    as_json: Json = False,
) -> None:
    """Materialise the whole graph for one cell, from the export to the release report."""
    from dentsight_pipeline.commands.run import CellRequest, run_cell

    request = CellRequest(
        export=_absolute(export),
        source=source,
        dataset=dataset,
        recipe=recipe,
        overrides=_fields(overrides or [], "--set"),
        policy=policy,
        drop=tuple(drop or ()),
        replace=replace,
        allow_head_collapse=allow_head_collapse,
        gate_overrides=_fields(override or [], "--override"),
        with_teeth=with_teeth,
    )
    facts = plain(run_cell(request))
    _show(facts, as_json, lambda: _run_text(facts))


@app.command()
def evaluate(
    ground_truth: Annotated[Path, typer.Option(help="COCO annotation file.")],
    detections: Annotated[Path, typer.Option(help="COCO results list.")],
    out: Annotated[Path, typer.Option(help="Folder for tables, curves and evaluation.json.")],
    thresholds_from: Annotated[
        tuple[Path, Path] | None, typer.Option(help="GT and DT of valid, to choose thresholds on.", metavar="GT DT")
    ] = None,
    mirrored: Annotated[
        Path | None, typer.Option(help="Detections of the mirrored images, mapped back: left/right consistency.")
    ] = None,
    fill_missing: Annotated[
        bool, typer.Option(help="Compute a missing area and take a missing iscrowd as 0; noted in the result.")
    ] = False,
    resamples: Annotated[int, typer.Option(min=0, help="Bootstrap resamples.")] = 1000,
    seed: Annotated[int, typer.Option(help="Bootstrap seed.")] = 0,
    as_json: Json = False,
) -> None:
    """Evaluate any COCO detections against any COCO ground truth."""
    from dentsight_pipeline.evaluation.evaluate import evaluate_files

    facts = evaluate_files(
        ground_truth,
        detections,
        out,
        thresholds_from=thresholds_from,
        mirrored=mirrored,
        fill_missing=fill_missing,
        resamples=resamples,
        seed=seed,
        progress=_staged_progress(),
    )
    _show(facts, as_json, lambda: _evaluation_text(facts, out))


@app.command()
def agreement(
    readings: Annotated[Path, typer.Argument(help="CSV with the columns reader, image, tooth, condition, present.")],
    model: Annotated[str, typer.Option(help="The reader that is the model; all others are dentists.")] = "model",
    margin: Annotated[float, typer.Option(min=0, help="The most that κ may fall behind.")] = 0.05,
    resamples: Annotated[int, typer.Option(min=0, help="Bootstrap resamples.")] = 1000,
    seed: Annotated[int, typer.Option(help="Bootstrap seed.")] = 0,
    as_json: Json = False,
) -> None:
    """Does a model agree with dentists as well as they agree with each other? By condition, with intervals."""
    from dentsight_pipeline.evaluation.agreement import agreement_of_readings

    found = agreement_of_readings(readings, model=model, margin=margin, resamples=resamples, seed=seed)
    facts = {"model": model, "conditions": plain(found)}
    _show(facts, as_json, lambda: _agreement_text(facts, margin))


@app.command()
def gate(
    evaluation: Annotated[Path, typer.Option(help="Folder written by `dentsight evaluate`.")],
    policy: Annotated[str, typer.Option(help="card, phantom, or a policy file.")] = "card",
    health: Annotated[Path | None, typer.Option(help="health.json of the checkpoint.")] = None,
    override: Annotated[list[str] | None, typer.Option(help='gate_id="Name: reason"; repeatable.')] = None,
    as_json: Json = False,
) -> None:
    """Judge an evaluation by a gate policy; exit 0 pass, 3 fail, 4 inconclusive."""
    from dentsight_pipeline.documents.codec import convert, plain
    from dentsight_pipeline.documents.evaluation import read_evaluation
    from dentsight_pipeline.documents.health import HeadHealth
    from dentsight_pipeline.release.gates import judge
    from dentsight_pipeline.release.policy import load_policy
    from dentsight_pipeline.release.product import overrides_of

    verdict = judge(
        read_evaluation(evaluation),
        load_policy(policy),
        convert(_json_file(health), HeadHealth, health) if health else None,
        overrides=overrides_of(_fields(override or [], "--override")),
    )
    told = plain(verdict)
    facts = {"verdict": verdict.outcome, "gates": [{**row, "verdict": row["outcome"]} for row in told["rows"]], **told}
    _show(facts, as_json, lambda: "\n".join(verdict.sentences))
    raise typer.Exit(verdict.exit_code)


@app.command()
def heads(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of any D-FINE checkpoint.")],
    images: Annotated[Path | None, typer.Option(help="Folder of X-rays to score; default: phantoms.")] = None,
    rescue: Annotated[Path | None, typer.Option(help="Write a checkpoint that scores with an earlier head.")] = None,
    head: Annotated[int | None, typer.Option(help="The head to score with; default: the last safe one.")] = None,
    ground_truth: Annotated[
        Path | None, typer.Option(help="COCO file of --images: measures AP before and after the rescue.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Audit the scores of every decoder layer of a checkpoint."""
    from dentsight_pipeline.training import heads as audit_of_heads

    audit = audit_of_heads.audit_heads(checkpoint, audit_of_heads.read_images(images) if images else None)
    facts = plain(audit)
    if rescue is not None:
        chosen = head if head is not None else max(audit.rescue_heads)
        truth = _json_file(ground_truth) if ground_truth else None
        rescued = audit_of_heads.rescue(checkpoint, chosen, rescue, ground_truth=truth, images=images)
        facts["rescued"] = plain(rescued)
    _show(facts, as_json, lambda: _heads_text(facts))


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="X-rays of one's own.")],
    checkpoint: Annotated[str, typer.Option(help="Checkpoint digest or folder.")],
    out: Annotated[Path, typer.Option(help="Folder for findings.json and the pictures.")] = Path("findings"),
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Least score of a finding.")] = 0.5,
    as_json: Json = False,
) -> None:
    """Find conditions on one's own X-rays, as JSON and as pictures. Research only."""
    from dentsight_pipeline.lineage.reference import checkpoint_folder
    from dentsight_pipeline.training.xrays import predict_images

    out.mkdir(parents=True, exist_ok=True)
    with checkpoint_folder(_workspace(), checkpoint, _registry()) as folder:
        found = predict_images(images, folder, threshold, pictures=out)
    facts = {"checkpoint": checkpoint, "threshold": threshold, "findings": plain(found)}
    (out / "findings.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    _show(facts, as_json, lambda: _findings_text(facts, out))


@app.command()
def audit(
    ref: Annotated[str, typer.Argument(help="Digest, folder, report, MLflow run, NAME@alias, champion or release.")],
    export: Annotated[Path | None, typer.Option(help="The original files: folder or zip.")] = None,
    key: Annotated[Path | None, typer.Option(help="Public key of releases; default: this workspace's.")] = None,
    head: Annotated[
        list[str] | None, typer.Option(help="A head of the log or of the releases noted earlier; repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify every byte from a product down to the raw export; exit 5 when anything was changed or does not fit."""
    from dentsight_pipeline.commands.audit import audit_reference

    export = export.absolute() if export else None
    found, result = audit_reference(
        _workspace(), ref, export=export, key=key, noted_heads=head or (), progress=_staged_progress()
    )
    facts = {"ref": ref, "found_by": found.how, **plain(result)}
    _show(facts, as_json, lambda: _audit_text(facts))
    raise typer.Exit(0 if result.intact else EXIT_NOT_INTACT)


@app.command("export")
def export_(
    subset: Annotated[str, typer.Argument(help="A subset's digest, or a dataset key.")],
    hf: Annotated[Path | None, typer.Option(help="New folder for Hugging Face: load_dataset(DIR).")] = None,
    coco: Annotated[Path | None, typer.Option(help="New folder for COCO files with their images.")] = None,
    croissant: Annotated[Path | None, typer.Option(help="File of Croissant metadata about --hf.")] = None,
    as_json: Json = False,
) -> None:
    """Write a subset in the forms that others read."""
    from dentsight_pipeline.commands.export import export_subset

    store, progress = _workspace().store, _staged_progress()
    made, files = export_subset(store, subset, hf=hf, coco=coco, croissant=croissant, progress=progress)
    facts = {"subset": made.digest, "kind": made.kind, "files": [str(path) for path in files]}
    _show(facts, as_json, lambda: "\n".join(facts["files"]))


@app.command()
def reproduce(
    ref: Annotated[str, typer.Argument(help="A checkpoint, or anything made with it; as for `audit`.")],
    into: Annotated[Path | None, typer.Option(help="New folder to keep what is made; default: temporary.")] = None,
    as_json: Json = False,
) -> None:
    """Make a checkpoint again from what was recorded, and compare; exit 5 when it came out otherwise."""
    from dentsight_pipeline.commands.reproduction import reproduce_reference

    into = into.absolute() if into else None
    result = reproduce_reference(_workspace(), ref, into=into, progress=_staged_progress())
    facts = {"ref": ref, **plain(result)}
    _show(facts, as_json, lambda: _reproduction_text(facts))
    raise typer.Exit(0 if result.reproduced else EXIT_NOT_INTACT)


@app.command()
def diff(
    a: Annotated[str, typer.Argument(help="A checkpoint, or anything made with it; as for `audit`.")],
    b: Annotated[str, typer.Argument(help="The other one.")],
    resamples: Annotated[int, typer.Option(min=0, help="Bootstrap resamples of paired intervals.")] = 1000,
    as_json: Json = False,
) -> None:
    """What differs between two checkpoints: data, recipe, code, and metrics with paired intervals."""
    from dentsight_pipeline.lineage import diff as comparison
    from dentsight_pipeline.lineage.reference import resolve

    store, registry = _workspace().store, _registry()
    digests = [resolve(store, ref, registry).digest for ref in (a, b)]
    found = comparison.diff(store, *digests, resamples=resamples, progress=_staged_progress())
    facts = plain(found)
    _show(facts, as_json, lambda: _difference_text(facts))


@app.command()
def promote(
    ref: Annotated[str, typer.Argument(help="A release: digest, folder, NAME@alias, or `release` for the newest.")],
    by: Annotated[str, typer.Option(help="Who decides.")],
    reason: Annotated[str, typer.Option(help="Why.")],
    key: Annotated[Path | None, typer.Option(help="Public key it was signed with; default: this workspace's.")] = None,
    as_json: Json = False,
) -> None:
    """Make a release the champion; what it replaces can be brought back with `rollback`."""
    from dentsight_pipeline.commands.audit import promote_reference

    facts = promote_reference(_workspace(), ref, by, reason, key=key)
    _show(facts, as_json, lambda: _champion_text(facts))


@app.command()
def rollback(
    by: Annotated[str, typer.Option(help="Who decides.")],
    reason: Annotated[str, typer.Option(help="Why.")],
    as_json: Json = False,
) -> None:
    """Give the title of champion back to the release before."""
    from dentsight_pipeline.commands.audit import roll_back

    facts = roll_back(_workspace(), by, reason)
    _show(facts, as_json, lambda: _champion_text(facts))


@app.command()
def gc(
    apply: Annotated[bool, typer.Option(help="Remove; without it only tell what would be removed.")] = False,
    as_json: Json = False,
) -> None:
    """Remove stored objects that no manifest names."""
    from dentsight_pipeline.store import gc as collection

    store = _workspace().store
    found = collection.plan(store)
    facts = {
        "store": store.uri,
        "objects": len(found.unnamed),
        "bytes": sum(size for _, size in found.unnamed),
        "leftovers": len(found.leftovers),
        "removed": apply,
    }
    if apply:
        removed = collection.apply(store, found)
        facts |= {"objects": removed.objects, "bytes": removed.size, "leftovers": removed.leftovers}
    verb = "removed" if apply else "would be removed (add --apply)"
    _show(
        facts,
        as_json,
        lambda: f"{facts['objects']} objects, {facts['bytes']:,} bytes and {facts['leftovers']} leftovers {verb}",
    )


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check this machine and workspace, and say what to do for each thing that is missing."""
    from dentsight_pipeline.commands.doctor import examine

    findings = examine(_workspace())
    _show({"checks": findings, "ok": all(item["ok"] for item in findings)}, as_json, lambda: _doctor_text(findings))


@app.command()
def ui(
    dagster_port: Annotated[int, typer.Option(help="Port of the Dagster UI, or the next free one.")] = 3000,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow UI, or the next free one.")] = 5000,
) -> None:
    """Start the Dagster UI and the MLflow UI on localhost until Ctrl-C."""
    from dentsight_pipeline.commands.ui import serve

    serve(dagster_port, mlflow_port)


@workspace_app.command("init")
def workspace_init(
    folder: Annotated[Path, typer.Argument(help="Where; default: here.")] = Path(),
    as_json: Json = False,
) -> None:
    """Prepare a folder once: dagster.yaml, workspace.yaml, the store and the MLflow database."""
    from dentsight_pipeline.commands.doctor import initialise

    facts = initialise(folder.resolve())
    _show(facts, as_json, lambda: f"Workspace ready in {facts['home']}. Next: cd there and run `dentsight run`.")


# Printing ------------------------------------------------------------------------------------------------------------


def _show(facts: Mapping[str, Any], as_json: bool, text: Callable[[], str]) -> None:
    sys.stdout.write((json.dumps(facts, indent=1, default=str) if as_json else text()) + "\n")


def _run_text(facts: Mapping[str, Any]) -> str:
    lines = [f"Dataset:    {facts['dataset_digest']}", f"Checkpoint: {facts['checkpoint_digest']}"]
    if facts["cached"]:
        lines.append(f"Reused:     {', '.join(facts['cached'])}")
    if "tooth_findings_digest" in facts:
        lines.append(f"By tooth:   {facts['tooth_findings_digest']}")
    return "\n".join([*lines, f"Verdict: {facts['verdict']}", f"Report: {facts['report']}"])


def _evaluation_text(facts: Mapping[str, Any], out: Path) -> str:
    """The images that gates read: all of them flatter where a source is shared with another split."""
    read = facts["clean"] or facts
    images = f"the {read['images']} clean of {facts['images']} images" if facts["clean"] else f"{read['images']} images"
    chosen = "valid" if facts["thresholds_from"] == "valid" else "these images themselves, which flatters"
    return "\n".join(
        [
            _table(read["per_class"], ["class", "n_gt", "ap", "ap_low", "ap_high", "ap50", "ar100", "best_f1"]),
            f"macro AP50 {_number(read['macro_ap50'])}, macro AP {_number(read['macro_ap'])} on {images}; "
            f"{read['present']} of {read['of']} classes present; thresholds chosen on {chosen}",
            *(f"note: {note}" for note in facts["notes"]),
            f"everything is in {out}",
        ]
    )


def _agreement_text(facts: Mapping[str, Any], margin: float) -> str:
    words = {True: "yes", False: "no", None: "undecided"}
    rows = [
        {
            **row,
            "Δκ": row["delta"]["value"],
            "low": row["delta"]["low"],
            "high": row["delta"]["high"],
            "non-inferior": words[row["non_inferior"]],
        }
        for row in facts["conditions"]
    ]
    columns = ["condition", "Δκ", "low", "high", "non-inferior", "model_kappa", "dentist_kappa", "items", "images"]
    return (
        _table(rows, columns) + f"\nΔκ: {facts['model']} with dentists minus dentists among themselves; δ = {margin:g}"
    )


def _findings_text(facts: Mapping[str, Any], out: Path) -> str:
    rows = [
        {"image": item["image"], **{key: finding[key] for key in ("class", "score", "bbox_xywh_px")}}
        for item in facts["findings"]
        for finding in item["findings"]
    ]
    return (
        _table(rows, ["image", "class", "score", "bbox_xywh_px"])
        + f"\nPictures and findings.json are in {out}. Research only."
    )


def _audit_text(facts: Mapping[str, Any]) -> str:
    provenance, kinds = facts["provenance"], [item for item in facts["chain"] if item["kind"] != "object"]
    lines = [f"{facts['kind']} {facts['digest']} (found by {facts['found_by']})"]
    lines += [f"  {item['kind']:18} {item['digest']}" for item in kinds if item["kind"] != "record"]
    source = ", ".join(f"{key} {value}" for key, value in (provenance["source"] or {}).items())
    recipe, code = provenance["recipe"], provenance["code"]
    edited = {True: " (edited)", False: "", None: " (unknown)"}[code["dirty"]]
    corpus = provenance["corpus"] or {}
    lines.append(f"Corpus:  {corpus.get('kind', 'unknown')}: {corpus.get('name', 'unknown')}")
    lines.append(f"Source:  {source or 'unknown'}")
    if recipe:
        lines.append(f"Recipe:  {recipe['name']} {recipe['digest'][:12]}{' (variant)' if recipe['variant'] else ''}")
    lines.append(f"Code:    {', '.join(code['commits']) or 'unknown'}{edited}")
    lines.append(f"Seeds:   {', '.join(f'{name} {seed}' for name, seed in provenance['seeds'].items()) or 'none'}")
    lines.append(f"Runs:    Dagster {', '.join(provenance['dagster_runs']) or 'none'}")
    lines.append(f"         MLflow {', '.join(provenance['mlflow_runs']) or 'none'}")
    made = next((step for step in provenance["steps"] if step["kind"] == "checkpoint"), {})
    if made:
        lines.append(f"Machine: {', '.join(f'{k} {v}' for k, v in made.get('hardware', {}).items()) or 'unknown'}")
        lines.append(
            f"Packages: {', '.join(f'{k} {v}' for k, v in made.get('packages', {}).items() if v) or 'unknown'}"
        )
    lines.append(f"Hashed:  {facts['hashed_bytes']:,} bytes of {len(facts['chain']) - len(kinds)} objects")
    lines.append(f"Heads:   log {facts['log_head']}, releases {facts['release_head']} (note them elsewhere)")
    lines += [f"Note: {note}" for note in facts["notes"]]
    if facts["intact"]:
        return "\n".join([*lines, "INTACT"])
    return "\n".join([*lines, "NOT INTACT. First broken link:", *(f"- {finding}" for finding in facts["findings"])])


def _reproduction_text(facts: Mapping[str, Any]) -> str:
    rows = [{**item, "same": "yes" if item["same"] else "no"} for item in facts["products"]]
    lines = [_table(rows, ["asset", "how", "same", "recorded", "made"])]
    if facts["metrics"] and facts["compared_by"] != "digest":
        lines.append(_table(facts["metrics"], ["name", "recorded", "low", "high", "made", "within"]))
    lines += [f"Note: {note}" for note in facts["notes"]]
    lines.append(f"Recorded on {facts['recorded_on']}; compared by {facts['compared_by']}.")
    lines.append("REPRODUCED" if facts["reproduced"] else "NOT REPRODUCED")
    return "\n".join([*lines, *(f"- {difference}" for difference in facts["differences"])])


def _difference_text(facts: Mapping[str, Any]) -> str:
    data, metrics = facts["data"], facts["metrics"]
    lines = [f"A {facts['a']}", f"B {facts['b']}"]
    if data["same"]:
        lines.append("Data: the same.")
    else:
        images = data["images"]
        moved = ", ".join(f"{count} {between}" for between, count in images["moved"].items()) or "none"
        lines.append(
            f"Data: {images['added']} images added, {images['removed']} removed, moved between splits: {moved}."
        )
        labels = [{"class": name, **counts} for name, counts in data["labels"].items()]
        if labels:
            lines.append(_table(labels, list(labels[0])))
    for title, fields in (("Recipe", facts["recipe"]), ("Packages", facts["packages"])):
        lines.append(f"{title}: {'the same.' if not fields else ''}".rstrip())
        lines += [f"  {name}: {values['a']} → {values['b']}" for name, values in fields.items()]
    code = [
        f"{side['commit']}{' (edited)' if side.get('dirty') else ''}" if side else "unknown"
        for side in (facts["code"]["a"], facts["code"]["b"])
    ]
    lines.append("Code: the same." if facts["code"]["same"] else f"Code: {code[0]} → {code[1]}")
    if metrics["rows"]:
        lines.append(_table(metrics["rows"], ["class", "metric", "a", "b", "delta", "low", "high"]))
    lines.append("Intervals of B − A are paired (90 %)." if metrics["paired"] else f"Not paired: {metrics['reason']}")
    return "\n".join(lines)


def _champion_text(facts: Mapping[str, Any]) -> str:
    text = f"Champion: release {facts['champion'] or 'none'} (before: {facts['before'] or 'none'})"
    if not facts["registry_problem"]:
        return text
    return (
        f"{text}\nMLflow could not be told ({facts['registry_problem']}). It will be: by the sensor late_tracking "
        "while `dentsight ui` runs, or with the next release, promotion or rollback."
    )


def _heads_text(facts: Mapping[str, Any]) -> str:
    columns = [name for name in facts["layers"][0] if not isinstance(facts["layers"][0][name], list | dict)]
    ratio = _number(facts["ratio_last_to_first"])
    lines = [_table(facts["layers"], columns), f"last/first ratio {ratio}. {facts['verdict']}", *facts.get("notes", [])]
    if rescued := facts.get("rescued"):
        lines.append(f"Rescued into {rescued['out']}: {rescued['method']}")
        lines += [
            f"AP50 {when} the rescue: {_number(rescued[when]['ap50'])}, mean highest score "
            f"{_number(rescued[when]['max_score'])}"
            for when in ("before", "after")
            if rescued[when]
        ]
    return "\n".join(lines)


def _doctor_text(findings: list[dict[str, Any]]) -> str:
    return "\n".join(
        f"{'ok ' if item['ok'] else '!! '} {item['check']}: {item['found']}"
        + ("" if item["ok"] else f"\n      → {item['remedy']}")
        for item in findings
    )


def _table(rows: list[dict[str, Any]], columns: list[str]) -> str:
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, header_style="bold")
    for row in rows:
        table.add_row(*(_number(row.get(column)) for column in columns))
    console = Console(width=120)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip()


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _progress(stage: str) -> Callable[[int, int], None]:
    staged = _staged_progress()
    return lambda done, total: staged(stage, done, total)


def _staged_progress() -> Progress:
    from dentsight_pipeline.progress import throttled

    return throttled(lambda text: print(text, file=sys.stderr, flush=True), seconds=2.0)  # noqa: T201 - progress


# Arguments -----------------------------------------------------------------------------------------------------------


def _absolute(export: str) -> str:
    """A local path in absolute form; a URI as it is."""
    return export if not export or ":" in export.split("/")[0] else str(Path(export).expanduser().absolute())


def _fields(pairs: list[str], option: str) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise ConfigurationError(f"{option} {pair!r} has no value. Write it as {option} name=value.")
    named = [(name.strip(), value.strip()) for name, value in (pair.split("=", 1) for pair in pairs)]
    for name, times in Counter(name for name, _ in named).items():
        if times > 1:
            raise ConfigurationError(f"{option} {name}=… is given {times} times. Keep the one that you mean.")
    return dict(named)


def _json_file(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}. Give an existing JSON file.") from error
    except ValueError as error:
        raise ConfigurationError(f"{path} is not JSON: {error}. Write it anew; it may be cut off.") from error


def _registry() -> Any:
    from dentsight_pipeline.orchestration.tracking.mlflow import Tracking
    from dentsight_pipeline.orchestration.tracking.registry import MlflowRegistry

    return MlflowRegistry(Tracking(workspace=_workspace()))


def _workspace() -> Any:
    from dentsight_pipeline.orchestration.resources import Workspace

    return Workspace()


if __name__ == "__main__":
    main()
