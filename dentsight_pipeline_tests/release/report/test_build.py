"""The report states every fact, escapes everything that comes from data, and needs nothing but itself."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
from msgspec import structs
from PIL import Image

from dentsight_pipeline.documents.codec import convert, read
from dentsight_pipeline.documents.evaluation import for_people, read_evaluation
from dentsight_pipeline.documents.facts import CheckpointFacts, Corpus, Coverage, ExportPart, RawExportFacts
from dentsight_pipeline.documents.health import HeadHealth, LayerScore, RuleOutcome
from dentsight_pipeline.documents.names import CorpusKind
from dentsight_pipeline.documents.readers import ReaderAgreement
from dentsight_pipeline.documents.report import ChainLink, Report, ReportedData
from dentsight_pipeline.documents.teeth import ReportedTeeth
from dentsight_pipeline.documents.verdict import Override
from dentsight_pipeline.errors import EvaluationError
from dentsight_pipeline.evaluation.evaluate import coco_inputs, evaluate
from dentsight_pipeline.evaluation.folder import write_evaluation
from dentsight_pipeline.evaluation.teeth.findings import Marked, Mouth, measure
from dentsight_pipeline.intake.ingest import ingest_export
from dentsight_pipeline.release.gates import judge
from dentsight_pipeline.release.policy import load_policy
from dentsight_pipeline.release.report import build as report
from dentsight_pipeline.release.report import gallery
from dentsight_pipeline.release.report import tables as tables_module
from dentsight_pipeline.release.report.pictures import SIDES, Truth
from dentsight_pipeline.release.report.sections import page
from dentsight_pipeline.store.objects import open_store
from dentsight_pipeline_tests.data.export_builder import whole_export
from dentsight_pipeline_tests.documents.facts_for_tests import checkpoint_facts, split_counts, subset_facts
from dentsight_pipeline_tests.release.conftest import LICENCES

EVIL = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>$x^2$|`\\q"
HEALTH = HeadHealth(
    healthy=True,
    ratio_last_to_first=1.03,
    layers=tuple(
        LayerScore(layer=i, mean_max_score=0.6 + i / 100, supervised_by_normal_queries=True, scores_at_inference=i == 2)
        for i in range(3)
    ),
    rules=(RuleOutcome(rule="last layer scores like the first", tripped=False, evidence="R = 1.03"),),
)


def _truth(ground_truth: dict[str, Any]) -> Truth:
    """What pictures need of a COCO document."""
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    boxes = [(a["id"], a["image_id"], names[a["category_id"]], *a["bbox"]) for a in ground_truth["annotations"]]
    return Truth(
        pd.DataFrame(ground_truth["images"]).set_index("id")[["width", "clean"]],
        pd.DataFrame(boxes, columns=["id", "image_id", "class", *SIDES]),
    )


def _data(classes: list[str]) -> ReportedData:
    """Facts of 130 drawn images."""
    counts = dict.fromkeys(classes, 3)
    facts = subset_facts(
        classes,
        corpus={"kind": "phantom", "name": "dentsight phantom corpus", "licence": "CC0-1.0"},
        splits={
            "train": split_counts(counts, images=90, clean_images=80, annotations=400),
            "test": split_counts(counts, images=40, clean_images=30, annotations=200),
        },
        leakage={"pairs": {}, "test": {"images": 40, "shared_with_train": 9, "shared_with_any": 10, "clean": 30}},
    )
    more = {"composites": 0, "boxes_under_2_px": 0, "sources": 120, "partial_annotation": {}, "flags": {}}
    return convert(facts | more, ReportedData, "data")


def _coco(classes: list[str], images: int, seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth with five boxes an image, and detections that find most of them."""
    random = np.random.default_rng(seed)
    truth: dict[str, Any] = {
        "images": [
            {
                "id": i,
                "file_name": f"{EVIL}{i}.jpg",
                "width": 400,
                "height": 200,
                "source_group": f"{i:064x}",
                "clean": i % 4 != 0,
            }
            for i in range(1, images + 1)
        ],
        "annotations": [],
        "categories": [{"id": k + 1, "name": name, "supercategory": "condition"} for k, name in enumerate(classes)],
    }
    found = []
    for image in range(1, images + 1):
        for _ in range(5):
            x, y, w, h = (float(v) for v in random.uniform((20, 20, 15, 15), (340, 140, 50, 50)))
            category = int(random.integers(1, len(classes) + 1))
            truth["annotations"].append(
                {"id": len(truth["annotations"]) + 1, "image_id": image, "category_id": category, "bbox": [x, y, w, h],
                 "area": w * h, "iscrowd": 0}
            )  # fmt: skip
            if random.random() < 0.8:
                box = [x + float(random.normal(0, 1)), y, w, h]
                found.append(
                    {"image_id": image, "category_id": category, "bbox": box, "score": float(random.uniform(0.3, 1))}
                )
        for _ in range(4):
            x, y = (float(v) for v in random.uniform(20, 130, 2))
            category, score = int(random.integers(1, len(classes) + 1)), float(random.uniform(0, 0.6))
            found.append({"image_id": image, "category_id": category, "bbox": [x, y, 20.0, 20.0], "score": score})
    return truth, found


def _picture(_: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.tile(np.arange(400) % 256, (200, 1)).astype(np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


Inputs = Callable[..., report.ReportInputs]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Report inputs on a real evaluation of made-up detections; keywords replace fields."""
    policy = load_policy("card")

    def made(classes: list[str], **changes: Any) -> report.ReportInputs:
        folder = tmp_path_factory.mktemp("evaluation")
        truth, found = _coco(classes, 40, 1)
        write_evaluation(
            evaluate(coco_inputs(truth, found, thresholds_from=_coco(classes, 20, 2), mirrored=found, resamples=60)),
            folder,
        )
        base = report.ReportInputs(
            title="phantom-v1 × smoke",
            evaluation_folder=folder,
            verdict=judge(read_evaluation(folder), policy, HEALTH, licences=LICENCES),
            policy=policy,
            health=HEALTH,
            data=_data(classes),
            checkpoint=convert(
                checkpoint_facts(classes, parameters=3_700_000, nms_iou=0.5), CheckpointFacts, "checkpoint"
            ),
            chain=(ChainLink(kind="evaluation", digest="e" * 64), ChainLink(kind="raw-export", digest="f" * 64)),
            cost={"wall_seconds": 12.5, "usd": None},
            links={"MLflow run": "http://127.0.0.1:5000/#/runs/1"},
            truth=_truth(truth),
            images=_picture,
        )
        return replace(base, **changes)

    return made


@pytest.fixture(scope="module")
def plain(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> tuple[report.ReportInputs, report.ReportPaths]:
    """A report on the 13 conditions."""
    given = inputs(list(load_policy("card").classes))
    return given, report.build_report(given, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def hostile(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> report.ReportPaths:
    """A report in which every text that data can bring is an attack."""
    policy = load_policy("card")
    given_classes = [EVIL, "caries", "}}{{ 7 * 7 }}", "</style></svg>"]
    given = inputs(given_classes)
    override = Override(gate="tier1_caries_ap", name=EVIL, reason=EVIL)
    rule = RuleOutcome(rule=EVIL, tripped=False, evidence=EVIL)
    health = structs.replace(HEALTH, rules=(rule,), override=EVIL)
    corpus: Any = Corpus(kind=cast(CorpusKind, EVIL), name=EVIL, licence=EVIL)
    hostile = replace(
        given,
        title=EVIL,
        verdict=judge(
            read_evaluation(given.evaluation_folder), policy, health, licences=LICENCES, overrides=[override]
        ),
        health=health,
        data=structs.replace(_data(given_classes), corpus=corpus, loose_classes=(EVIL,), dropped={EVIL: 3}),
        checkpoint=structs.replace(
            convert(checkpoint_facts(given_classes), CheckpointFacts, "checkpoint"),
            recipe=EVIL,
            variant=True,
            overrides={EVIL: EVIL},
            versions={EVIL: EVIL},
        ),
        chain=(ChainLink(kind=EVIL, digest=EVIL),),
        cost={EVIL: EVIL},
        links={EVIL: "javascript:alert(1)", "run": 'http://127.0.0.1/"onmouseover="alert(1)'},
    )
    return report.build_report(hostile, tmp_path_factory.mktemp("hostile"))


class _Tags(HTMLParser):
    """Every start tag with its attributes, and all text outside `style`."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._style = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._style = self._style and tag != "style"

    def handle_data(self, data: str) -> None:
        if not self._style:
            self.text += data


def test_the_verdict_comes_first_in_plain_language(plain):
    """A reviewer who reads one screen must know what was decided and what not to do."""
    given, paths = plain
    text = _Tags(paths.html.read_text("utf-8")).text

    assert given.verdict.outcome in text
    assert text.index("It must not be released.") < text.index("A gate passes when")
    for row in given.verdict.blocking:
        assert row.sentence in text


def test_phantom_results_are_labelled_before_anything_else(plain):
    """Nobody may take a figure on drawn images for a clinical one."""
    text = _Tags(plain[1].html.read_text("utf-8")).text

    assert text.index("Phantom corpus: these are not clinical results.") < text.index("It must not be released.")


def test_everything_that_reviewers_look_for_is_there(plain):
    """The list of EVALUATION.md, 'What reviewers like to see', as section and figure ids."""
    html = plain[1].html.read_text("utf-8")

    sections = [
        "verdict",
        "gates",
        "classes",
        "data",
        "head",
        "curves",
        "errors",
        "trust",
        "gallery",
        "champion",
        "why",
        "cost",
        "chain",
        "limits",
    ]
    figures = (
        "precision-recall",
        "thresholds",
        "confusion",
        "errors",
        "scores",
        "reliability",
        "sizes",
        "froc",
        "layers",
    )
    assert [name for name in sections if f'id="{name}"' not in html] == []
    assert [name for name in figures if f'id="figure-{name}"' not in html] == []


def test_the_page_needs_nothing_but_itself(plain):
    """A report is kept for years and read offline: no script, no font, no image from elsewhere."""
    html = plain[1].html.read_text("utf-8")
    page = _Tags(html)

    assert {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "base", "form"} == set()
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "data", "action"):
            target = attributes.get(name)
            if target and tag != "a":
                assert target.startswith(("#", "data:image/jpeg;base64,"))
    assert "@import" not in html
    assert re.findall(r"url\((?!#)", html) == []


def test_every_figure_has_an_alternative_text(plain):
    """Figures must be readable without eyes, and in a page whose pictures failed."""
    pictures = [attributes for tag, attributes in _Tags(plain[1].html.read_text("utf-8")).tags if tag == "svg"]

    assert len(pictures) >= 10
    assert all(picture["role"] == "img" and len(picture["aria-label"] or "") > 20 for picture in pictures)


def test_ids_are_unique_on_the_page(plain):
    """Figures are drawn apart from each other; a shared clip path would cut the wrong one."""
    ids = [attributes["id"] for _, attributes in _Tags(plain[1].html.read_text("utf-8")).tags if "id" in attributes]

    assert len(ids) == len(set(ids))


def test_light_dark_and_paper_are_provided_for(plain):
    """Colours are roles: a value fixed in a figure would be unreadable in one of the schemes."""
    html = plain[1].html.read_text("utf-8")

    assert "@media (prefers-color-scheme: dark)" in html
    assert "@media print" in html
    assert "var(--ink)" in html
    assert re.findall(r"#0[1-9]0[1-9]0[1-9]", html) == []


def test_verdicts_are_words_and_not_only_colours(plain):
    """One reader in twelve men does not tell red from green."""
    badges = re.findall(r'class="badge [^"]*">([^<]+)<', plain[1].html.read_text("utf-8"))

    assert badges
    assert all(
        re.search(r"PASS|FAIL|INCONCLUSIVE|NOT EVALUABLE|NOT APPLICABLE|good|tripped|not judged", b) for b in badges
    )


def test_class_names_are_spelt_as_in_the_ontology(plain):
    """A report that says 'periapical' where the data says 'periapical-radiolucency' cannot be searched."""
    from dentsight_pipeline.data.ontology import CONDITIONS

    text = _Tags(plain[1].html.read_text("utf-8")).text

    assert [name for name in CONDITIONS if name not in text] == []
    assert load_policy("card").classes == CONDITIONS


def test_the_same_inputs_give_the_same_bytes(plain, tmp_path):
    """The report is a product with a digest: rebuilding it must not change it."""
    given, paths = plain

    again = report.build_report(given, tmp_path)

    for first, second in ((paths.html, again.html), (paths.json, again.json), (paths.model_card, again.model_card)):
        assert first.read_bytes() == second.read_bytes()


def test_report_json_holds_the_facts_of_the_page(plain):
    """Scripts read the JSON; it must not know less than the page."""
    given, paths = plain
    facts = json.loads(paths.json.read_text("utf-8"))

    assert read(paths.json.read_bytes(), Report, "report.json").verdict == given.verdict
    assert facts["verdict"]["outcome"] == given.verdict.outcome
    assert facts["evaluation"]["ground_truth_sha256"] == given.verdict.ground_truth_sha256
    assert facts["data"]["leakage"]["test"]["shared_with_train"] == 9
    assert facts["policy"]["name"] == "card"
    assert [link["digest"] for link in facts["chain"]] == ["e" * 64, "f" * 64]
    assert facts["health"]["ratio_last_to_first"] == 1.03
    assert any("not a medical device" in limit for limit in facts["limits"])
    assert len(facts["gallery"]) == 6


def test_leakage_figures_are_on_the_page(plain):
    """'Tested on 40 images' means little when nine of them share a source with training."""
    html = plain[1].html.read_text("utf-8")

    row = re.search(r'<th scope="row">test</th>(.*?)</tr>', html, re.DOTALL)
    assert row is not None
    assert re.findall(r">(\d+)<", row.group(1)) == ["40", "30", "9", "10", "200"]


def test_the_gallery_shows_the_worst_images_with_missed_and_wrong_boxes(plain):
    """Figures hide what a look at the pictures shows at once."""
    html = plain[1].html.read_text("utf-8")
    counts = [tuple(map(int, c)) for c in re.findall(r"Image \d+: (\d+) right, (\d+) wrong, (\d+) missed\.<", html)]

    assert len(counts) == 6
    assert [wrong + missed for _, wrong, missed in counts] == sorted((w + m for _, w, m in counts), reverse=True)
    shown = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", html.partition('<section id="gallery">')[2])
    assert Image.open(io.BytesIO(base64.b64decode(shown[0]))).size == (400, 200)


def test_a_crowded_picture_numbers_the_surest_and_says_how_many_more(plain):
    """Sixty numbers on one X-ray hide the teeth; the boxes themselves all stay."""
    truth, image = plain[0].truth, 1
    found = pd.DataFrame(
        [{"image_id": image, "class": "caries", "score": 0.9 - i / 100, "x": 5.0 * i, "y": 5.0, "w": 9.0, "h": 9.0,
          "matched_at_50": np.nan, "iou": 0.0, "kind": "background", "above_threshold": True} for i in range(30)]
    )  # fmt: skip

    examples, _ = gallery.worst_cases(found, truth, {"caries": 0.5}, _picture, most=1)

    wrong = next(part.text for part in examples[0].lists if part.title == "Wrong")
    drawn = [box for box in examples[0].boxes if box.words.startswith("caries 0.")]
    assert len(drawn) == 30
    assert [box.words[7:11] for box in drawn if box.number] == [f"{0.9 - i / 100:.2f}" for i in range(12)]
    assert wrong.endswith("and 18 more without a number")


def test_the_cuttings_count_what_the_error_figure_counts(plain):
    """Both are on the images that the gates read; two numbers for one thing would cost the reader's trust."""
    given, paths = plain
    html = paths.html.read_text("utf-8")
    shown = re.findall(r'<h3>([\w-]+) <span class="muted small">(\d+) wrong, (\d+) missed<', html)
    errors = read_evaluation(given.evaluation_folder).errors

    assert {name: (int(wrong), int(missed)) for name, wrong, missed in shown} == {
        name: (sum(structs.astuple(counts)) - counts.missed, counts.missed)
        for name, counts in errors.items()
        if any(structs.astuple(counts))
    }
    assert any(any(structs.astuple(counts)) for counts in errors.values())


def test_an_image_that_cannot_be_decoded_is_left_out_and_said_so(inputs, tmp_path):
    """A broken or oversized image must not take the report down."""
    given = inputs(["caries", "crown"], images=lambda image_id: b"no picture")

    facts = json.loads(report.build_report(given, tmp_path).json.read_text("utf-8"))

    assert facts["gallery"] == []
    assert facts["gallery_problems"][0].startswith("Image ")
    assert facts["gallery_problems"][0] in (tmp_path / "report.html").read_text("utf-8")


def test_labels_names_and_reasons_cannot_inject_html(hostile):
    """Label and file names come from outside; the report is opened in a browser beside the MLflow session."""
    html = hostile.html.read_text("utf-8")
    page = _Tags(html)

    assert "script" not in {tag for tag, _ in page.tags}
    assert [a for _, attributes in page.tags for a in attributes if a.startswith("on")] == []
    assert [a["src"] for _, a in page.tags if "src" in a] == []
    assert "alert('x')" in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert html.count("</style>") == 1


def test_halves_of_characters_in_an_export_leave_a_page_that_can_be_written(inputs, tmp_path):
    """The licence and the title come from the export as ingestion told them, and stand on page, card and JSON."""
    builder = whole_export(tmp_path / "export")
    builder.splits["train"]["licenses"] = [{"id": 1, "name": "CC \ud83d"}]
    raw = ingest_export(builder.write(), open_store(tmp_path / "store"))
    given = inputs(list(load_policy("card").classes))
    corpus = raw.facts_as(RawExportFacts).corpus

    paths = report.build_report(replace(given, data=structs.replace(given.data, corpus=corpus)), tmp_path / "report")

    for path in (paths.html, paths.json, paths.model_card):
        assert "CC ?" in path.read_bytes().decode()  # strict: nothing but UTF-8


def test_pictures_that_are_not_panoramic_are_not_called_so(inputs, plain, tmp_path):
    """Whoever finds the model by its tags would read bitewings with it, or think that it had seen panoramic X-rays."""
    given = inputs(list(load_policy("card").classes))
    told = "photographs (by their colours)"
    corpus = Corpus(kind=CorpusKind.EXPORT, name="lips v1", licence="unknown", pictures=told)

    paths = report.build_report(replace(given, data=structs.replace(given.data, corpus=corpus)), tmp_path / "report")

    words = " ".join(_Tags(paths.html.read_text()).text.split())
    assert f"Not panoramic X-rays. They look like {told}." in words
    assert "panoramic-x-ray" not in paths.model_card.read_text()
    assert "panoramic-x-ray" in plain[1].model_card.read_text()


def test_only_web_addresses_become_links(hostile):
    """`javascript:` in an MLflow address must stay text."""
    targets = [a["href"] or "" for tag, a in _Tags(hostile.html.read_text("utf-8")).tags if tag == "a"]

    assert [t for t in targets if not t.startswith(("#", "http://127.0.0.1"))] == []


def test_the_page_forbids_scripts_itself(plain):
    """If an injection were ever found, the browser still must not run it."""
    policy = next(
        attributes["content"]
        for tag, attributes in _Tags(plain[1].html.read_text("utf-8")).tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )

    assert "default-src 'none'" in (policy or "")
    assert "script-src" not in (policy or "")


def test_no_file_name_reaches_the_report(plain, hostile):
    """File names can hold identifiers of persons; the report names images by number."""
    for paths in (plain[1], hostile):
        assert not re.search(r"\d\.jpg", paths.html.read_text("utf-8"))


def test_page_and_card_say_how_the_labels_were_read(inputs: Any, tmp_path: Path) -> None:
    """Whoever reads a figure must see what was left out, mended, and not looked for; and what binds the model."""
    given = inputs(["caries", "crown"])
    coverage = Coverage(declared=True, classes=("caries",), digest="0" * 64)
    mapping = structs.replace(given.data.mapping, drop=("Infection",), coverage=coverage)
    mended = {"clipped_box": 7, "near_duplicate": 2}
    data = structs.replace(given.data, mapping=mapping, dropped={"Infection": 181, "OPG-data": 0}, repairs=mended)

    paths = report.build_report(replace(given, data=data), tmp_path)

    told = {
        "Label mapping": "opg-reporting (option: --source opg-reporting)",
        "Dropped labels": "Infection 181",
        "Dropped on request": "Infection",
        "Repairs": "clipped_box 7",
        "Duplicate boxes left out": "near_duplicate 2",
        "Not looked for": "crown",
        "data OPGs v8": "CC BY 4.0",
        "The strictest": "CC BY 4.0",
    }
    html, card = paths.html.read_text("utf-8"), paths.model_card.read_text("utf-8").replace("\\", "")
    for what, value in told.items():
        assert f'>{what}</th><td class="anywhere">{value}</td>' in html.replace(' scope="row"', ""), what
        assert f"| {what} | {value} |" in card, what


def test_each_of_several_exports_says_how_it_was_read(inputs: Any) -> None:
    """One set's teeth and another's conditions are one dataset, but not one declaration."""
    data = inputs(["caries", "crown"]).data
    coverage = Coverage(declared=False, classes=("caries",), digest="0" * 64)
    more = {"raw_export": "", "corpus": data.corpus, "source": data.source, "annotations": 0}
    counts = {"images": {}, "same_bytes": 0, "same_source": 0}
    parts = (
        ExportPart(name="A", mapping=data.mapping, **more, **counts),
        ExportPart(name="B", mapping=structs.replace(data.mapping, source="mine", coverage=coverage), **more, **counts),
    )

    told = dict(tables_module.reading_rows(structs.replace(data, exports=parts)))

    assert told["Label mapping of A"].startswith("opg-reporting")
    assert told["Label mapping of B"].startswith("mine")
    assert told["Not looked for of B"] == "crown"
    assert "Not looked for of A" not in told


def test_huggingface_parses_the_model_card(plain):
    """The card's figures must appear on the hub as results, not only as text."""
    given, paths = plain

    card: Any = huggingface_hub.ModelCard.load(paths.model_card)

    results = {result.metric_name: result.metric_value for result in card.data.eval_results or []}
    macro = read_evaluation(given.evaluation_folder).populations["clean"].macro
    assert results["macro mAP@0.5"] == macro.ap50
    assert "mAP@0.5:0.95 (caries)" in results
    assert card.data.license == "cc-by-4.0"
    assert "never-for-x-rays" in (card.data.tags or [])
    assert (huggingface_hub.metadata_load(paths.model_card) or {})["model-index"]


def test_the_model_card_says_what_the_page_says(plain):
    """Whoever has the card alone must not know less: why a gate is there, how the model errs, what it takes."""
    given, paths = plain
    card = paths.model_card.read_text("utf-8").replace("\\", "")
    evaluation = read_evaluation(given.evaluation_folder)
    page = _Tags(paths.html.read_text("utf-8")).text

    for row in given.verdict.rows:
        assert f"| {row.id} | {row.reason} | {row.source} |" in unescape(card)
    for name, counts in evaluation.errors.items():
        kinds = ("class_confusion", "localisation", "duplicate", "background", "missed")
        assert f"| {name} | {' | '.join(str(getattr(counts, kind)) for kind in kinds)} |" in card
    tables = tables_module.tier2_tables(evaluation)
    assert [table.title for table in tables][-1] == "X-rays for an interval of ±0.05"
    calibration = [name for table in tables if table.title == "Calibration" for name, _ in table.rows]
    assert calibration[:2] == ["Detection ECE as scored", "Detection ECE after Platt scaling"]
    for name, value in (row for table in tables for row in table.rows):
        assert f"| {name} | {value} |" in unescape(card)
        assert name in page
    for name, value in tables_module.model_rows(given.checkpoint):
        assert f"| {name} | {value} |" in card
    assert "| last layer scores like the first | ✓ good | R = 1.03 |" in card
    assert "Thresholds were chosen on: valid." in card


def test_hard_gates_that_did_not_pass_stand_before_soft_ones(plain) -> None:
    """A reader who stops after the first line must have read what blocks the release."""
    given, paths = plain
    listed = paths.html.read_text("utf-8").split('<ul class="follow">')[1].split("</ul>")[0]
    severities = ["soft" if "soft: warns only" in line else "hard" for line in listed.split("<li>")[1:]]
    outcomes = {(row.severity, row.outcome) for row in given.verdict.rows}

    assert {("hard", "INCONCLUSIVE"), ("soft", "FAIL")} <= outcomes, "else the order would be that of the outcomes"
    assert severities == sorted(severities)


def test_page_and_card_say_whether_doubles_are_suppressed(inputs: Any, tmp_path: Path) -> None:
    """The model's file does not do it: without this sentence nobody else arrives at the figures."""
    given = inputs(list(load_policy("card").classes))
    plain = replace(given, checkpoint=structs.replace(given.checkpoint, nms_iou=None))

    for one, words in (
        (given, "of findings of one class that overlap by more than 0.5 (IoU) only the surest counts"),
        (plain, "not suppressed: every finding counts"),
    ):
        paths = report.build_report(one, tmp_path / words[:3])
        assert words in _Tags(paths.html.read_text("utf-8")).text
        assert f"| Doubles | {words} |" in paths.model_card.read_text("utf-8").replace("\\", "")


def test_a_hostile_label_stays_text_in_the_model_card(hostile):
    """Markdown renders HTML, and a bar would shift every column of the table."""
    card = huggingface_hub.ModelCard.load(hostile.model_card)

    assert "<script" not in card.text
    assert "<img" not in card.text
    rows = [line for line in card.text.splitlines() if line.startswith("|") and "alert" in line]
    assert rows
    for table in re.findall(r"(?:^\|.*\n)+", card.text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1


def test_a_verdict_of_another_evaluation_is_refused(plain, tmp_path):
    """A PASS must not be printed above other figures."""
    given, _ = plain
    foreign = structs.replace(given.verdict, detections_sha256="0" * 64)

    with pytest.raises(EvaluationError, match="belongs to another evaluation"):
        report.build_report(replace(given, verdict=foreign), tmp_path)


def test_a_verdict_under_another_policy_is_refused(plain, tmp_path):
    """The floors printed beside a verdict must be the ones that made it."""
    given, _ = plain

    with pytest.raises(EvaluationError, match="Judge again under the policy"):
        report.build_report(replace(given, policy=load_policy("phantom")), tmp_path)


def test_an_empty_folder_is_refused_with_the_remedy(plain, tmp_path):
    """One clear line instead of a traceback."""
    given, _ = plain

    with pytest.raises(EvaluationError, match=r"holds no evaluation\.json"):
        report.build_report(replace(given, evaluation_folder=tmp_path), tmp_path / "out")


def test_a_bare_evaluation_still_gives_a_report(inputs, tmp_path):
    """`dentsight evaluate` alone leaves no images, no health and no subset; what is unknown is said, not hidden."""
    bare = inputs(["caries", "crown"])
    for name in ("curves.json", "matches.parquet"):
        (bare.evaluation_folder / name).unlink()
    verdict = judge(read_evaluation(bare.evaluation_folder), bare.policy)
    bare = report.ReportInputs("bare", bare.evaluation_folder, verdict, bare.policy)

    html = report.build_report(bare, tmp_path).html.read_text("utf-8")

    assert "Unknown corpus." in html
    assert "Not measured." in html
    assert 'id="gallery"' not in html
    assert 'id="mistakes"' not in html


def test_a_collapsed_head_hides_the_figures_that_mean_nothing(inputs, tmp_path):
    """A collapsed head can look well calibrated; the number must not stand in the gates."""
    given = inputs(["caries", "crown"])
    health = structs.replace(HEALTH, healthy=False)
    verdict = judge(read_evaluation(given.evaluation_folder), given.policy, health, licences=LICENCES)

    html = report.build_report(replace(given, verdict=verdict, health=health), tmp_path).html.read_text("utf-8")

    assert "Ranking-only." in html
    assert "**NOT EVALUABLE:**" in (tmp_path / "model_card.md").read_text("utf-8")
    row = re.search(r"Detection calibration error</span>(.*?)</tr>", html, re.DOTALL)
    assert row is not None
    assert "NOT EVALUABLE" in row.group(1)
    assert not re.search(r">0\.\d\d", row.group(1))


def test_what_nobody_looked_for_is_told_on_the_page_and_on_the_card(plain, tmp_path):
    """A dash alone reads as bad luck; the number of images looked at says how much each figure rests on."""
    given = plain[0]
    populations = {
        name: structs.replace(part, looked_at={"calculus": 0, "crown": 7})
        for name, part in given.evaluation.populations.items()
    }
    document = structs.replace(given.evaluation, populations=populations)
    (tmp_path / "evaluation.json").write_bytes(for_people(document))
    verdict = judge(document, given.policy, HEALTH)

    paths = report.build_report(replace(given, evaluation_folder=tmp_path, verdict=verdict), tmp_path / "report")

    html, card = paths.html.read_text("utf-8"), paths.model_card.read_text("utf-8")
    text = _Tags(html).text
    assert "Policy 'partial-labels' has the same floors" in text
    assert "calculus not looked for" in text
    assert re.search(r'crown</th><td class="num">\d+<span class="ci">7</span>', html)
    assert re.search(r"\| calculus \| \d+ \| not looked for \|", card)
    assert re.search(r"\| crown \| \d+ \| 7 \|", card)


@pytest.mark.parametrize("width_px", [1280, 1200, 500])
def test_nothing_overflows_in_a_browser(plain, tmp_path, width_px):
    """Tables cut off at the right edge were the first thing wrong with the page; on a telephone, figures too small."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs chromium")
    probe = (
        "<script>addEventListener('load', () => { const wide = [...document.querySelectorAll('.scroll')]"
        ".filter(e => e.scrollWidth > e.clientWidth + 1).length; "
        "const tiny = [...document.querySelectorAll('.drawing svg')]"
        ".filter(e => e.clientWidth < Math.min(640, parseFloat(e.style.getPropertyValue('--natural')) - 1)).length;"
        "document.title = `${document.documentElement.scrollWidth}/${innerWidth}/${wide}/${tiny}`; })</script></body>"
    )
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", plain[1].html.read_text("utf-8"))
    page = tmp_path / "page.html"
    page.write_text(html.replace("</body>", probe), "utf-8")

    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         f"--window-size={width_px},900", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip

    title = re.search(r"<title>(\d+)/(\d+)/(\d+)/(\d+)</title>", done.stdout)
    assert title is not None
    scroll_width, inner_width, wide_tables, tiny_drawings = map(int, title.groups())
    assert scroll_width <= inner_width
    assert tiny_drawings == 0
    if width_px >= 1200:
        assert wide_tables == 0


def test_a_reader_study_has_a_chapter_of_its_own(plain: Any, tmp_path: Path) -> None:
    """Δκ by condition, and what the model changes; a title with HTML in it stays text."""
    bounds = {"value": 0.031, "low": -0.012, "high": 0.074}
    figures = dict.fromkeys(("model_kappa", "dentist_kappa", "model_ac1", "dentist_ac1", "dentist_alpha"), 0.6)
    row = {"condition": "caries", "delta": bounds, "note": "", "alpha_with_model": 0.6, "items": 960, "images": 30}
    fields = [f"{w}_{arm}" for w in ("sensitivity", "specificity") for arm in ("unaided", "aided", "change")]
    arm = {"condition": "caries", "positives": 40, "negatives": 920, **dict.fromkeys(fields, bounds)}
    told = {"title": "<b>Thirty</b>", "readers": ["x", "y"], "images": 30, "unfinished": 2, "measurements": []}
    study = convert({**told, "conditions": [row | figures], "arms": [arm]}, ReaderAgreement, "a study")

    paths = report.build_report(replace(plain[0], readers=study), tmp_path)

    html = paths.html.read_text("utf-8")
    chapter = html.split('id="readers"')[1].split("</section>")[0]
    assert "&lt;b&gt;Thirty&lt;/b&gt;" in chapter
    assert "2 readings still to be done" in chapter
    assert "0.03" in chapter and "With the model against without" in chapter
    assert 'id="readers"' not in plain[1].html.read_text("utf-8")


LEFT, RIGHT = (0.0, 0.0, 10.0, 20.0), (20.0, 0.0, 10.0, 20.0)
"""Where two teeth are."""


def by_tooth(*found: tuple[str, ...], healthy: bool | None = True, clean: bool = True) -> ReportedTeeth:
    """Of mouths with caries on 16 of the teeth 15 and 16; `found` has the teeth on which each is said to be."""
    teeth, place = [Marked("15", LEFT, 0.9), Marked("16", RIGHT, 0.9)], {"15": LEFT, "16": RIGHT}
    mouths = [
        Mouth(str(n), clean, teeth, [Marked("caries", place[on], 0.8) for on in own], teeth, [Marked("caries", RIGHT)])
        for n, own in enumerate(found)
    ]
    populations = measure(mouths, ["caries", "calculus", "crown"], resamples=0)
    return ReportedTeeth(heads_healthy={"tooth_checkpoint": healthy}, populations=populations)


def tooth_chapter(given: report.ReportInputs) -> str:
    """Its words, on a page without figures."""
    html = page(report.report_facts(given, [], []), defaultdict(lambda: None), [], [])
    return unescape(re.sub(r"(<[^>]+>|\s)+", " ", html.split('<section id="teeth">')[1].split("</section>")[0]))


def test_sensitivity_and_specificity_by_tooth_are_counted_over_teeth_and_x_rays(plain: Any) -> None:
    """Five X-rays: found in two, in one on the neighbour as well, missed in two. Of 5 carious teeth 3 are found, of 5
    sound ones 4 are left alone. A gated class that no tooth has says so, one that no gate reads is left out."""
    shown = tooth_chapter(replace(plain[0], teeth=by_tooth(("16",), ("16",), ("15", "16"), (), ())))

    assert "on 5 of the" in shown and "5 sources" in shown and "collapsed" not in shown
    assert "caries gated 0.60 0.80 5 5 4 0" in shown
    assert "calculus gated NOT MEASURED 1.00 0 10" in shown
    assert "crown" not in shown


@pytest.mark.parametrize(
    ("teeth", "said"),
    [
        (None, "NOT MEASURED. Stage 1 did not run"),
        (ReportedTeeth(heads_healthy={}, populations=None), "NOT MEASURED. Stage 1 ran, but on none of the clean"),
        (by_tooth(("16",), clean=False), "NOT MEASURED. Stage 1 ran, but on none of the clean"),
        (by_tooth(("16",), healthy=False), "Stage 1's classification head has collapsed."),
        (by_tooth(("16",), healthy=None), "The health of stage 1's head was not judged."),
    ],
)
def test_what_is_not_known_tooth_by_tooth_is_said(plain: Any, teeth: ReportedTeeth | None, said: str) -> None:
    """A missing table could be read as one without misses."""
    assert said in tooth_chapter(replace(plain[0], teeth=teeth))
