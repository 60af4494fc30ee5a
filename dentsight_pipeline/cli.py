"""`dentsight …`: the pipeline without a browser.

Every command prints text for people by default and, with `--json`, JSON alone on stdout; progress goes to stderr.
Exit status: 0 done whatever the verdict, 2 refused input with one line naming file, record and remedy; `gate` and
`audit` have statuses of their own. Declarations only: each command calls one
function of `commands/`, which is loaded when it is called.
"""

import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from dentsight_pipeline.errors import DentsightError

EXIT_REFUSED = 2
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

Accept = Annotated[
    list[str] | None,
    typer.Option(help="Kind of repairs that may be beyond its limit; repeatable, remembered with the dataset key."),
]
Unlabelled = Annotated[
    bool, typer.Option("--unlabelled-are-negative", help="Take images without a label file as looked at and empty.")
]
Mappings = Annotated[
    list[str] | None,
    typer.Option("--mapping", help="File that says what labels mean, or auto; the k-th belongs to the k-th export."),
]
Exports = Annotated[
    list[str] | None,
    typer.Option("--export", help="Folder, zip, s3://… or roboflow:workspace/project/version; several: one dataset."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON alone on stdout.")]


def _accepted(kinds: list[str] | None, unlabelled_are_negative: bool) -> list[str]:
    """The kinds of `--accept-repairs`, and what the option beside it stands for."""
    return [*(kinds or ()), *["unlabelled_image"] * unlabelled_are_negative]


def main() -> None:
    """Run the command line; a deliberate error, or a path that the disk refuses, is one line and exit status 2."""
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
    except OSError as error:
        if not isinstance(error.filename, str):
            raise  # no path that a person could mend
        sys.stderr.write(f"Error: {error.filename}: {error.strerror}. Check its name and rights, or give another.\n")
        sys.exit(EXIT_REFUSED)


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to write; must not exist or be empty.")],
    images: Annotated[int, typer.Option(min=1, help="Images over all splits.")] = 300,
    seed: Annotated[int, typer.Option(help="The same seed draws the same bytes.")] = 7,
    width: Annotated[int, typer.Option(min=128, help="Image width in px.")] = 1280,
    as_json: Json = False,
) -> None:
    """Write a synthetic export of panoramic X-rays; never clinical data."""
    from dentsight_pipeline.commands import data

    data.phantom(out, images, seed, width, as_json)


@app.command()
def inspect(
    export: Annotated[
        list[str] | None, typer.Argument(help="Folder, zip, s3://… or roboflow:workspace/project/version.")
    ] = None,
    exports: Exports = None,
    source: Annotated[str | None, typer.Option(help="Packaged label mapping; default: by fingerprint.")] = None,
    mapping: Mappings = None,
    write_mapping: Annotated[
        Path | None, typer.Option(help="Write a mapping to fill in, with every label and its counts, and do no more.")
    ] = None,
    drop: Annotated[list[str] | None, typer.Option(help="Label to drop on purpose; repeatable.")] = None,
    accept_repairs: Accept = None,
    unlabelled_are_negative: Unlabelled = False,
    as_json: Json = False,
) -> None:
    """Tell what ingestion would do with an export, or several as one dataset, without doing it."""
    from dentsight_pipeline.commands import data

    accepted, given = _accepted(accept_repairs, unlabelled_are_negative), [*(export or ()), *(exports or ())]
    if write_mapping:
        data.write_mapping(given, source, write_mapping, as_json)
    else:
        data.inspect(given, source, mapping or [], drop or [], accepted, as_json)


@app.command()
def run(
    export: Exports = None,
    source: Annotated[str, typer.Option(help="Packaged label mapping; default: by fingerprint.")] = "",
    mapping: Mappings = None,
    dataset: Annotated[str, typer.Option(help="Dataset key; default: the demo's.")] = "",
    recipe: Annotated[str, typer.Option(help="Named recipe.")] = "smoke",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="field=value of the recipe; repeatable.")] = None,
    policy: Annotated[str, typer.Option(help="Gate policy: card, partial-labels, phantom, or a file.")] = "card",
    drop: Annotated[list[str] | None, typer.Option(help="Label to drop on purpose; repeatable.")] = None,
    accept_repairs: Accept = None,
    unlabelled_are_negative: Unlabelled = False,
    replace: Annotated[str, typer.Option(help="Why this export may take over a key in use.")] = "",
    allow_head_collapse: Annotated[str, typer.Option(help="Why training may go on with a collapsed head.")] = "",
    override: Annotated[
        list[str] | None, typer.Option(help='A missed hard gate to override: gate_id="Name: reason"; repeatable.')
    ] = None,
    with_teeth: Annotated[bool, typer.Option(help="Stage 1 as well: the 32 teeth.")] = False,
    with_review: Annotated[
        bool, typer.Option(help="Rank the labels that are likely wrong: three more trainings, on folds.")
    ] = False,
    study: Annotated[str, typer.Option(help="Folder of a reader study of this model, to judge it by as well.")] = "",
    stage: Annotated[str, typer.Option(help="teeth: stage 1 alone, with a report of its own and no gates.")] = "",
    plan: Annotated[str, typer.Option(help="Plan, signed before the training, that this must fulfil.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what would be made, where, and its cost.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Materialise the whole graph for one cell, from the export to the release report."""
    from dentsight_pipeline.commands import run as cell
    from dentsight_pipeline.commands.console import absolute, fields

    request = cell.CellRequest(
        export=tuple(map(absolute, export or ())),
        source=source,
        mapping=tuple(given if given == "auto" else absolute(given) for given in mapping or ()),
        dataset=dataset,
        recipe=recipe,
        overrides=fields(overrides, "--set"),
        policy=policy,
        drop=tuple(drop or ()),
        accept_repairs=tuple(_accepted(accept_repairs, unlabelled_are_negative)),
        replace=replace,
        allow_head_collapse=allow_head_collapse,
        gate_overrides=fields(override, "--override"),
        with_teeth=with_teeth,
        with_review=with_review,
        study=absolute(study),
        stage=stage,
        plan=plan,
    )
    if dry_run:
        from dentsight_pipeline.commands import dry_run as planning

        planning.dry_run(request, as_json)
    else:
        cell.run(request, as_json)


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
    from dentsight_pipeline.commands import model

    model.evaluate(
        out,
        as_json,
        ground_truth=ground_truth,
        detections=detections,
        thresholds_from=thresholds_from,
        mirrored=mirrored,
        fill_missing=fill_missing,
        resamples=resamples,
        seed=seed,
    )


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
    from dentsight_pipeline.commands import model as models

    models.agreement(readings, model, margin, resamples, seed, as_json)


@app.command()
def gate(
    evaluation: Annotated[Path, typer.Option(help="Folder written by `dentsight evaluate`.")],
    policy: Annotated[str, typer.Option(help="card, partial-labels, phantom, or a policy file.")] = "card",
    health: Annotated[Path | None, typer.Option(help="health.json of the checkpoint.")] = None,
    override: Annotated[list[str] | None, typer.Option(help='gate_id="Name: reason"; repeatable.')] = None,
    licence: Annotated[
        list[str] | None, typer.Option(help="Of the data, and of the starting weights; repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Judge an evaluation by a gate policy; exit 0 pass, 3 fail, 4 inconclusive."""
    from dentsight_pipeline.commands import model

    raise typer.Exit(model.gate(evaluation, policy, health, override or [], licence or [], as_json))


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
    from dentsight_pipeline.commands import model

    model.heads(checkpoint, images, rescue, head, ground_truth, as_json)


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="X-rays of one's own: images, DICOM, folders, DICOMDIRs.")],
    checkpoint: Annotated[str, typer.Option(help="Checkpoint digest or folder.")],
    out: Annotated[Path, typer.Option(help="Folder for findings.json and the pictures.")] = Path("findings"),
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Least score of a finding.")] = 0.5,
    teeth: Annotated[str, typer.Option(help="Findings by tooth, or a checkpoint of stage 1: adds the tooth.")] = "",
    sr: Annotated[bool, typer.Option("--sr", help="Write a DICOM SR for each X-ray, beside its picture.")] = False,
    as_json: Json = False,
) -> None:
    """Find conditions on one's own X-rays, as JSON, as pictures and as DICOM SR. Research only."""
    from dentsight_pipeline.commands import model

    model.predict(model.PredictRequest(images, checkpoint, out, threshold, teeth, sr), as_json)


@app.command()
def drift(
    given: Annotated[str, typer.Argument(help="Dataset key, digest of a subset or of predictions, or a folder.")],
    against: Annotated[str, typer.Option(help="What the model was trained on: key, subset or predictions.")],
    as_json: Json = False,
) -> None:
    """Tell whether new X-rays differ from those that a model was trained on, and in what."""
    from dentsight_pipeline.commands import drift as told

    told.drift(given, against, as_json)


@app.command()
def audit(
    ref: Annotated[str, typer.Argument(help="Digest, folder, report, MLflow run, NAME@alias, champion or release.")],
    export: Annotated[
        list[Path] | None, typer.Option(help="The original files: folder or zip; repeatable, one for each export.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Public key of releases; default: this workspace's.")] = None,
    head: Annotated[
        list[str] | None, typer.Option(help="A head of the log or of the releases noted earlier; repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify every byte from a product down to the raw export; exit 5 when anything was changed or does not fit."""
    from dentsight_pipeline.commands import audit as auditing

    raise typer.Exit(auditing.audit(ref, export or [], key, head or [], as_json))


@app.command()
def archive(
    ref: Annotated[str, typer.Argument(help="A release: digest, folder, NAME@alias, or `release` for the newest.")],
    out: Annotated[Path, typer.Argument(help="New folder, or new file ending in .tar.")],
    key: Annotated[Path | None, typer.Option(help="Public key it was signed with; default: this workspace's.")] = None,
    as_json: Json = False,
) -> None:
    """Write everything that an audit of a release needs, images included, with a script that verifies it offline."""
    from dentsight_pipeline.commands import evidence

    evidence.archive(ref, out, key, as_json)


@app.command()
def plan(
    data: Annotated[list[str], typer.Option(help="Dataset key or subset that will be trained on; repeatable.")],
    recipe: Annotated[list[str], typer.Option(help="Named recipe that may be trained; repeatable.")],
    by: Annotated[str, typer.Option(help="Who plans.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="field=value of the recipes; repeatable.")
    ] = None,
    policy: Annotated[str, typer.Option(help="card, partial-labels, phantom, or a policy file.")] = "card",
    subgroup: Annotated[list[str] | None, typer.Option(help="Subgroup that must be shown; repeatable.")] = None,
    margin: Annotated[float, typer.Option(min=0, help="The most that a gate may let a model fall behind.")] = 0.05,
    approver: Annotated[
        list[str] | None, typer.Option(help="name=KEY.pub of who may approve a release; repeatable.")
    ] = None,
    approvals: Annotated[int | None, typer.Option(min=1, help="With --approver: how many must; default: 2.")] = None,
    title: Annotated[str, typer.Option(help="What is planned.")] = "",
    as_json: Json = False,
) -> None:
    """Sign policy, recipes, data, subgroups and margin before a training; `run --plan` holds the release to them."""
    from dentsight_pipeline.commands import planning

    asked = planning.PlanRequest(
        data, recipe, by, policy, subgroup or [], margin, approver or [], approvals, title, overrides or []
    )
    planning.plan(asked, as_json)


@app.command()
def approve(
    report: Annotated[str, typer.Argument(help="The release report: digest, folder or report.html.")],
    by: Annotated[str, typer.Option(help="Who approves, as policy or plan name them.")],
    key: Annotated[Path, typer.Option(help="Their private key, PEM.")],
    as_json: Json = False,
) -> None:
    """Sign a report as one of the people whose approval its policy or plan asks for."""
    from dentsight_pipeline.commands import planning

    planning.approve(report, by, key, as_json)


@app.command()
def dossier(
    ref: Annotated[str, typer.Argument(help="A release; with --check the folder of a dossier.")],
    out: Annotated[Path | None, typer.Argument(help="New folder.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Hash all that a dossier names, and build it again.")] = False,
    key: Annotated[Path | None, typer.Option(help="Public key it was signed with; default: this workspace's.")] = None,
    as_json: Json = False,
) -> None:
    """Write the evidence file of a release: EU AI Act, Annex IV, and bill of materials; --check exits 5 if it fell."""
    from dentsight_pipeline.commands import evidence

    if check:
        raise typer.Exit(evidence.check_dossier(Path(ref), out, key, as_json))
    evidence.dossier(ref, out, key, as_json)


@app.command("export")
def export_(
    ref: Annotated[str, typer.Argument(help="A subset or dataset key; a release; with --onnx a checkpoint or folder.")],
    hf: Annotated[Path | None, typer.Option(help="New folder for Hugging Face: a dataset, or a release.")] = None,
    coco: Annotated[Path | None, typer.Option(help="New folder for COCO files with their images.")] = None,
    croissant: Annotated[Path | None, typer.Option(help="File of Croissant metadata about --hf.")] = None,
    onnx: Annotated[Path | None, typer.Option(help="New folder for a model as ONNX, checked on 20 X-rays.")] = None,
    as_json: Json = False,
) -> None:
    """Write a subset, or a model, in the forms that others read."""
    from dentsight_pipeline.commands import export

    export.export(ref, hf, coco, croissant, onnx, as_json)


@app.command()
def read(
    study: Annotated[Path, typer.Argument(help="Folder of a reader study.")],
    plan: Annotated[str, typer.Option(help="Make the study from a subset, dataset key or findings by tooth.")] = "",
    reader: Annotated[list[str] | None, typer.Option(help="With --plan: a reader's name; repeatable.")] = None,
    images: Annotated[int, typer.Option(min=1, help="With --plan: how many clean test images.")] = 30,
    title: Annotated[str, typer.Option(help="With --plan: what readers see.")] = "Reader study",
    crossover: Annotated[bool, typer.Option(help="With --plan: everybody reads twice, with and without it.")] = False,
    washout_days: Annotated[float, typer.Option(min=0, help="With --crossover: days between sessions.")] = 14.0,
    seed: Annotated[int, typer.Option(help="With --plan: of images and orders.")] = 0,
    export: Annotated[bool, typer.Option(help="Write the readings as CSV and Parquet into the folder.")] = False,
    port: Annotated[int, typer.Option(min=0, help="Port of the page; 0 = a free one.")] = 0,
    as_json: Json = False,
) -> None:
    """Let dentists read X-rays on a page on localhost, each by a link of his own, until Ctrl-C."""
    from dentsight_pipeline.commands import pages

    asked = pages.ReadRequest(study, plan, reader or [], images, title, crossover, washout_days, seed, export, port)
    pages.read(asked, as_json)


@app.command()
def review(
    ref: Annotated[str, typer.Argument(help="A dataset key or subset; predictions or an evaluation: with the model.")],
    list_only: Annotated[bool, typer.Option("--list", help="Print the queue instead of opening the page.")] = False,
    corrections: Annotated[bool, typer.Option(help="Write what was decided: corrections.json and COCO files.")] = False,
    apply: Annotated[str, typer.Option(help="With --corrections: a dataset key that reads them from now on.")] = "",
    hand_over: Annotated[
        Path | None, typer.Option(help="Write what is open for other tools: CVAT, COCO, and a table.")
    ] = None,
    to: Annotated[
        str, typer.Option(help="Upload what is open as pre-annotations to a Roboflow workspace/project.")
    ] = "",
    answers: Annotated[Path | None, typer.Option(help="Take back what CVAT or Roboflow (COCO) say of it.")] = None,
    by: Annotated[str, typer.Option(help="Who decides; a name, no account.")] = "",
    out: Annotated[Path | None, typer.Option(help="Folder of the review; default: reviews/QUEUE.")] = None,
    port: Annotated[int, typer.Option(min=0, help="Port of the page; 0 = a free one.")] = 0,
    as_json: Json = False,
) -> None:
    """Review the labels that are likely wrong, best first, on a page on localhost, until Ctrl-C."""
    from dentsight_pipeline.commands import pages

    asked = pages.ReviewRequest(ref, list_only, corrections, apply, hand_over, to, answers, by, out, port)
    pages.review(asked, as_json)


@app.command()
def reproduce(
    ref: Annotated[str, typer.Argument(help="A checkpoint, or anything made with it; as for `audit`.")],
    into: Annotated[Path | None, typer.Option(help="New folder to keep what is made; default: temporary.")] = None,
    as_json: Json = False,
) -> None:
    """Make a checkpoint again from what was recorded, and compare; exit 5 when it came out otherwise."""
    from dentsight_pipeline.commands import reproduction

    raise typer.Exit(reproduction.reproduce(ref, into, as_json))


@app.command()
def diff(
    a: Annotated[str, typer.Argument(help="A checkpoint, or anything made with it; as for `audit`.")],
    b: Annotated[str, typer.Argument(help="The other one.")],
    resamples: Annotated[int, typer.Option(min=0, help="Bootstrap resamples of paired intervals.")] = 1000,
    as_json: Json = False,
) -> None:
    """What differs between two checkpoints: data, recipe, code, and metrics with paired intervals."""
    from dentsight_pipeline.commands import audit as auditing

    auditing.diff(a, b, resamples, as_json)


@app.command()
def promote(
    ref: Annotated[str, typer.Argument(help="A release: digest, folder, NAME@alias, or `release` for the newest.")],
    by: Annotated[str, typer.Option(help="Who decides.")],
    reason: Annotated[str, typer.Option(help="Why.")],
    key: Annotated[Path | None, typer.Option(help="Public key it was signed with; default: this workspace's.")] = None,
    as_json: Json = False,
) -> None:
    """Make a release the champion; what it replaces can be brought back with `rollback`."""
    from dentsight_pipeline.commands import audit as auditing

    auditing.promote(ref, by, reason, key, as_json)


@app.command()
def rollback(
    by: Annotated[str, typer.Option(help="Who decides.")],
    reason: Annotated[str, typer.Option(help="Why.")],
    as_json: Json = False,
) -> None:
    """Give the title of champion back to the release before."""
    from dentsight_pipeline.commands import audit as auditing

    auditing.rollback(by, reason, as_json)


@app.command()
def gc(
    apply: Annotated[bool, typer.Option(help="Remove; without it only tell what would be removed.")] = False,
    damaged: Annotated[
        bool, typer.Option(help="Damaged objects instead: reads every byte. Ingest their source again afterwards.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove stored objects that no manifest names, or damaged ones."""
    from dentsight_pipeline.commands import workspace

    (workspace.damaged if damaged else workspace.gc)(apply, as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check this machine and workspace, and say what to do for each thing that is missing."""
    from dentsight_pipeline.commands import doctor as examination

    examination.doctor(as_json)


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
    from dentsight_pipeline.commands import workspace

    workspace.init(folder, as_json)


if __name__ == "__main__":
    main()
