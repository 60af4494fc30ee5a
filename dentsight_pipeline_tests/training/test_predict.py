"""Predictions: the right boxes in the right frame, all of them, resumable, and the same as transformers' own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import RTDetrImageProcessorPil

from dentsight_pipeline.data.agreement import pairwise_iou
from dentsight_pipeline.data.splits import read_split, read_stored, split_files
from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.annotations import write_table
from dentsight_pipeline.documents.detections import DETECTIONS, Finding
from dentsight_pipeline.documents.events import Progress
from dentsight_pipeline.documents.job import PredictJob
from dentsight_pipeline.errors import ConfigurationError, DataError, TrainingError
from dentsight_pipeline.store import content
from dentsight_pipeline.store import manifest as manifests
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store
from dentsight_pipeline.training import export, letterbox
from dentsight_pipeline.training import model as models
from dentsight_pipeline.training.detector import (
    Detections,
    Detector,
    Preprocessing,
    best_detections,
    load_detector,
)
from dentsight_pipeline.training.letterbox import Letterbox
from dentsight_pipeline.training.predict import run_predict
from dentsight_pipeline.training.recipe import Recipe
from dentsight_pipeline.training.reporting import Reporter, read_events
from dentsight_pipeline.training.xrays import draw_findings, label_places, predict_images
from dentsight_pipeline_tests.data.coco import from_coco
from dentsight_pipeline_tests.documents.facts_for_tests import checkpoint_facts, subset_facts
from dentsight_pipeline_tests.training.conftest import CLASSES, make_subset


def model_folder(recipe: Recipe, out: Path, classes: tuple[str, ...] = CLASSES) -> Path:
    """A model whose answers depend on the image: random weights, but heads that are not all alike."""
    torch.manual_seed(0)
    model = models.build(recipe, classes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bbox_embed" in name or "enc_bbox_head" in name or "class_embed" in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return export.save_pretrained_folder(model, recipe, classes, out)


def publish_checkpoint(store: Store, folder: Path, classes: tuple[str, ...] = CLASSES) -> str:
    files: dict[str, Path | bytes | manifests.Entry] = {f"model/{path.name}": path for path in folder.iterdir()}
    return store.put_manifest(content.build(store, "checkpoint", files, {}, checkpoint_facts(classes)))


@pytest.fixture
def checkpoint(store: Store, tiny_recipe: Recipe, tmp_path: Path) -> str:
    """A published checkpoint of three classes on a canvas of 96×64."""
    return publish_checkpoint(store, model_folder(tiny_recipe, tmp_path / "model"))


def predict_job(store: Store, checkpoint: str, subset: Manifest, workdir: Path, **changes: Any) -> PredictJob:
    fields = {"splits": ("valid",), "mirrored": ("valid",), "batch_size": 2, "device": "cpu", "threads": 1, **changes}
    return PredictJob(store_uri=store.uri, checkpoint=checkpoint, subset=subset.digest, workdir=str(workdir), **fields)


def found_in(store: Store, predictions: Manifest, name: str) -> list[dict[str, Any]]:
    """The detections of one pass, as rows."""
    return read_stored(store, predictions, f"{name}.arrow", DETECTIONS).to_pylist()


def run(job: PredictJob) -> str:
    with Reporter(job.folder, interval_s=0) as reporter:
        return run_predict(job, reporter)


class TestSplits:
    def test_every_image_of_every_wanted_split_is_predicted(
        self, store: Store, subset: Manifest, checkpoint: str, tmp_path: Path
    ) -> None:
        """Images without annotations count too: leaving one out would overstate precision."""
        job = predict_job(store, checkpoint, subset, tmp_path / "work", splits=("train", "valid"))

        product = store.get_manifest(run(job))

        assert (product.kind, sorted(product.entries)) == (
            "predictions",
            ["train.arrow", "valid.arrow", "valid.mirrored.arrow"],
        )
        assert product.inputs == {"trained_checkpoint": checkpoint, "condition_subset": subset.digest}
        for split in ("train", "valid"):
            results = found_in(store, product, split)
            ids = [image["id"] for image in read_split(store, subset, split).to_coco()["images"]]
            assert list(dict.fromkeys(row["image_id"] for row in results)) == ids
            assert {row["category_id"] for row in results} <= {1, 2, 3}
            assert product.facts["splits"][split] == {"images": len(ids), "detections": len(results)}
        result = json.loads((job.folder / "result.json").read_text())
        assert result["digest"] == product.digest

    def test_the_boxes_are_transformers_own_taken_back_through_the_letterbox(
        self, store: Store, subset: Manifest, checkpoint: str, tmp_path: Path
    ) -> None:
        """Written a second time with transformers' post-processing on the padded canvas, as TRAINING.md asks."""
        digest = run(predict_job(store, checkpoint, subset, tmp_path / "work", mirrored=(), batch_size=5))
        found = found_in(store, store.get_manifest(digest), "valid")
        model = models.load(tmp_path / "model")
        processor = RTDetrImageProcessorPil()

        for record in read_split(store, subset, "valid").to_coco()["images"]:
            size = record["width"], record["height"]
            image = letterbox.read_grayscale(str(store.local_path(subset.entry(record["file_name"]).sha256)), size)
            geometry = letterbox.fit(size, (96, 64))
            pixels = torch.from_numpy(geometry.apply(image))[None, None].float() / 255 / 0.2
            with torch.no_grad():
                outputs = model(pixel_values=pixels.expand(-1, 3, -1, -1))
            (expected,) = processor.post_process_object_detection(outputs, 0.0, target_sizes=[(64, 96)])
            corners = expected["boxes"].double().numpy() / ([geometry.scale_x, geometry.scale_y] * 2)
            mine = [row for row in found if row["image_id"] == record["id"]][: len(corners)]
            left_top, sizes = corners[:, :2], corners[:, 2:] - corners[:, :2]
            np.testing.assert_allclose([row["score"] for row in mine], expected["scores"].numpy(), atol=1e-5)
            np.testing.assert_allclose(
                [row["bbox"] for row in mine], np.concatenate([left_top, sizes], axis=1), atol=2e-3
            )

    def test_scores_and_boxes_are_not_rounded(
        self, store: Store, subset: Manifest, checkpoint: str, tmp_path: Path
    ) -> None:
        """Rounded scores tie, and ties change AP."""
        digest = run(predict_job(store, checkpoint, subset, tmp_path / "work", mirrored=()))

        results = found_in(store, store.get_manifest(digest), "valid")

        assert len({row["score"] for row in results}) > 0.99 * len(results)
        assert any(row["bbox"][0] != round(row["bbox"][0], 6) for row in results)

    def test_a_killed_prediction_goes_on_where_it_was_and_gives_the_same_bytes(
        self, store: Store, subset: Manifest, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whole test sets take an hour on a CPU; a kill must cost one batch, and must not show in the product."""
        whole = run(predict_job(store, checkpoint, subset, tmp_path / "whole"))
        original, calls = Detector.detect_canvases, []

        def killed(self: Any, canvases: Any, geometry: Any) -> Any:
            calls.append(len(canvases))
            if len(calls) == 3:
                raise KeyboardInterrupt
            return original(self, canvases, geometry)

        monkeypatch.setattr(Detector, "detect_canvases", killed)
        job = predict_job(store, checkpoint, subset, tmp_path / "killed")
        with pytest.raises(KeyboardInterrupt):
            run(job)
        cut_off, emptied = sorted(job.folder.rglob("valid/*.arrow"))
        cut_off.write_bytes(cut_off.read_bytes()[:-9])  # as a disk that lost power might leave it
        emptied.write_bytes(write_table(DETECTIONS.empty_table()))

        resumed = run(job)

        assert resumed == whole
        assert calls == [2, 2, 1, 2, 2, 1, 2, 2, 1]  # killed at the third; then both damaged ones and the rest
        assert not list(job.folder.rglob("000000.arrow"))  # nothing is left behind

    def test_progress_is_told_in_images_and_counts_what_was_done_before(
        self, store: Store, subset: Manifest, checkpoint: str, tmp_path: Path
    ) -> None:
        """A person who restarts wants to see what is left, not a bar from zero."""
        job = predict_job(store, checkpoint, subset, tmp_path / "work")

        run(job)

        progress = [event for event in read_events(job.folder) if isinstance(event, Progress)]
        assert [event.step for event in progress] == [0, 2, 4, 5, 7, 9, 10]
        assert progress[-1].steps == 10
        assert (progress[-1].images_per_s or 0) > 0

    def test_mirrored_predictions_are_those_of_the_mirror_image_in_the_unmirrored_frame(
        self, store: Store, tiny_recipe: Recipe, tmp_path: Path
    ) -> None:
        """Left/right consistency compares them box by box; the second image here is the first one's mirror image."""
        image = np.random.default_rng(0).integers(0, 255, (200, 300), dtype=np.uint8)
        files: dict[str, bytes | Path | manifests.Entry] = {
            "images/one.png": cv2.imencode(".png", image)[1].tobytes(),
            "images/two.png": cv2.imencode(".png", np.ascontiguousarray(image[:, ::-1]))[1].tobytes(),
        }
        records = [{"id": i, "file_name": name, "width": 300, "height": 200} for i, name in enumerate(files, start=1)]
        coco = {"images": records, "annotations": [], "categories": []}
        subset = content.build(
            store,
            "condition-subset",
            {**files, **split_files([from_coco("valid", coco)])},
            {},
            subset_facts(CLASSES),
        )
        store.put_manifest(subset)
        checkpoint = publish_checkpoint(store, model_folder(tiny_recipe, tmp_path / "model"))

        product = store.get_manifest(run(predict_job(store, checkpoint, subset, tmp_path / "work")))

        plain, mirrored = (found_in(store, product, f"valid{part}") for part in ("", ".mirrored"))
        of_two = [row for row in plain if row["image_id"] == 2]
        back_from_two = [row for row in mirrored if row["image_id"] == 1]
        assert [row["score"] for row in back_from_two] == [row["score"] for row in of_two]
        assert [row["score"] for row in of_two] != [row["score"] for row in plain if row["image_id"] == 1]
        for one, other in zip(of_two, back_from_two, strict=True):
            left, top, width, height = one["bbox"]
            assert other["bbox"] == pytest.approx([300 - left - width, top, width, height])


class TestRefusals:
    def test_splits_that_do_not_exist_are_refused_with_those_that_do(
        self, store: Store, subset: Manifest, checkpoint: str, tmp_path: Path
    ) -> None:
        """v8 has a test split, other exports have none."""
        with pytest.raises(ConfigurationError, match="no split test; it has train, valid"):
            run(predict_job(store, checkpoint, subset, tmp_path / "work", splits=("valid", "test")))
        with pytest.raises(ConfigurationError, match="none was given"):
            run(predict_job(store, checkpoint, subset, tmp_path / "work", splits=(), mirrored=()))

    def test_manifests_of_other_kinds_are_refused(
        self, store: Store, subset: Manifest, checkpoint: str, tmp_path: Path
    ) -> None:
        """Two digests look alike; swapped, they must not get far."""
        job = predict_job(store, subset.digest, store.get_manifest(checkpoint), tmp_path / "work")

        with pytest.raises(ConfigurationError, match="is a condition-subset, a checkpoint is needed"):
            run(job)

    def test_a_model_of_other_classes_is_refused(
        self, store: Store, subset: Manifest, tiny_recipe: Recipe, tmp_path: Path
    ) -> None:
        """Label 0 would silently become another finding."""
        others = ("caries", "implant", "crown")
        checkpoint = publish_checkpoint(store, model_folder(tiny_recipe, tmp_path / "model", others), others)

        with pytest.raises(ConfigurationError, match="finds caries, implant, crown; the subset"):
            run(predict_job(store, checkpoint, subset, tmp_path / "work"))

    def test_an_image_of_another_size_than_its_record_is_refused(
        self, store: Store, checkpoint: str, tmp_path: Path
    ) -> None:
        """Its boxes would be wrong by the ratio, and nobody would see it."""

        def enlarge(split: str, coco: dict[str, Any]) -> None:
            coco["images"][1]["width"] += 1

        subset = make_subset(store, {"valid": 3}, change=enlarge)

        with pytest.raises(DataError, match="its record says"):
            run(predict_job(store, checkpoint, subset, tmp_path / "work"))

    def test_a_model_that_answers_nan_is_refused(
        self, store: Store, subset: Manifest, tiny_recipe: Recipe, tmp_path: Path
    ) -> None:
        """NaN scores sort anywhere, and every metric would be of noise."""
        torch.manual_seed(0)
        model: Any = models.build(tiny_recipe, CLASSES)
        with torch.no_grad():
            model.model.decoder.class_embed[-1].bias[1] = float("nan")
        folder = export.save_pretrained_folder(model, tiny_recipe, CLASSES, tmp_path / "model")

        with pytest.raises(TrainingError, match="not finite numbers"):
            run(predict_job(store, publish_checkpoint(store, folder), subset, tmp_path / "work"))


class TestPostProcessing:
    def test_the_best_pairs_are_kept_and_ties_keep_the_order_of_queries(self) -> None:
        """By hand: two queries, two classes, three kept."""
        logits = np.array([[0.0, 2.0], [1.0, 2.0]])
        boxes = np.array([[0.5, 0.5, 0.5, 0.5], [0.25, 0.5, 0.5, 1.0]])
        geometry = Letterbox(200, 100, 100, 100, 100, 50)  # half size, the lower half of the canvas is padding

        found = best_detections(logits, boxes, geometry, limit=3)

        assert found.labels.tolist() == [1, 1, 0]
        assert found.scores.tolist() == pytest.approx([1 / (1 + np.exp(-2))] * 2 + [1 / (1 + np.exp(-1))])
        assert found.boxes_xywh_px.tolist() == [[50, 50, 100, 100], [0, 0, 100, 200], [0, 0, 100, 200]]

    def test_many_ties_keep_the_order_of_queries_and_classes(self) -> None:
        """Collapsed heads tie a lot; the order decides AP, so that it must not depend on a sorting routine."""
        logits = np.tile([0.0, 1.0], (200, 1))

        found = best_detections(logits, np.tile(np.linspace(0.1, 0.3, 200)[:, None], 4), Letterbox(1, 1, 1, 1, 1, 1))

        assert found.labels.tolist() == [1] * 200 + [0] * 100
        assert (np.diff(found.boxes_xywh_px[:200, 2]) > 0).all()

    def test_of_overlapping_findings_of_one_class_the_surest_is_kept(self) -> None:
        """By hand: overlaps of .6 and of exactly .5; another class at the same place, and one beyond the left edge."""
        boxes = [[0, 0, 10, 10], [0, 0, 10, 10], [0, 4, 10, 6], [0, 5, 10, 5], [-500, -500, 1000, 1000.0]]
        found = Detections(np.array(boxes), np.array([0.9, 0.8, 0.7, 1e-12, 1e-13]), np.array([0, 3, 0, 0, 1]))

        kept = found.without_doubles(0.5)

        assert kept.boxes_xywh_px.tolist() == [boxes[i] for i in (0, 1, 3, 4)]
        assert (kept.scores.tolist(), kept.labels.tolist()) == ([0.9, 0.8, 1e-12, 1e-13], [0, 3, 0, 1])

    def test_suppression_is_what_the_definition_says_of_any_findings(self) -> None:
        """A plain loop over random boxes of three classes, tied scores among them, some left of the image."""
        random = np.random.default_rng(0)
        boxes = np.hstack([random.uniform(-40, 60, (200, 2)), random.uniform(5, 60, (200, 2))])
        scores = np.sort(random.integers(1, 50, 200) / 50)[::-1].copy()
        found = Detections(boxes, scores, random.integers(0, 3, 200))

        kept: list[int] = []
        for at in range(200):
            rivals = [i for i in kept if found.labels[i] == found.labels[at]]
            if not (pairwise_iou(boxes[[at]], boxes[rivals]) > 0.4).any():
                kept.append(at)

        assert found.without_doubles(0.4).boxes_xywh_px.tolist() == boxes[kept].tolist()
        assert 20 < len(kept) < 180

    def test_classes_do_not_suppress_each_other_at_opposite_corners(self) -> None:
        """OpenCV moves each class down and to the right: what reaches out at the top left would land on the others."""
        boxes = np.array([[70.0, 70.0, 30.0, 30.0], [-30.0, -30.0, 60.0, 60.0]])

        assert len(Detections(boxes, np.array([0.9, 0.8]), np.array([0, 1])).without_doubles(0.2).scores) == 2

    def test_nothing_found_stays_nothing(self) -> None:
        """A model whose classes nobody taught finds none."""
        nothing = Detections(np.empty((0, 4)), np.empty(0), np.empty(0, np.int64))

        assert nothing.without_doubles(0.5).boxes_xywh_px.shape == (0, 4)

    def test_mirrored_teeth_change_their_quadrant_and_conditions_stay(self) -> None:
        """In the mirror the patient's tooth 11 looks like 21; a lower right 48 like 38."""
        classes = ("11", "21", "38", "48", "caries")
        boxes = np.array([[10.0, 5.0, 20.0, 4.0]] * 5)

        found = Detections(boxes, np.ones(5), np.arange(5)).unmirrored(100, classes)

        assert [classes[i] for i in found.labels] == ["21", "11", "48", "38", "caries"]
        assert found.boxes_xywh_px.tolist() == [[70, 5, 20, 4]] * 5


class TestPreprocessing:
    def test_a_recipes_preprocessing_survives_its_file(self, tiny_recipe: Recipe, tmp_path: Path) -> None:
        """What is exported is what predicts later."""
        processing = Preprocessing.of_recipe(tiny_recipe)
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processing.to_config()))

        assert Preprocessing.of_folder(tmp_path) == processing

    def test_the_pixels_are_those_that_the_recipe_describes(self, tiny_recipe: Recipe) -> None:
        """Bit for bit: training, validation and prediction all normalise here."""
        canvases = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 64, 96), dtype=np.uint8))

        mine = Preprocessing.of_recipe(tiny_recipe).pixels(canvases)

        gray = (canvases.float() / 255 - tiny_recipe.pixel_mean) / tiny_recipe.pixel_std
        assert torch.equal(mine, torch.stack([gray] * 3, dim=1))

    def test_stock_processors_stretch(self, tmp_path: Path) -> None:
        """Published D-FINE folders resize to a square without padding; their boxes come back by the same rule."""
        config = {"size": {"height": 640, "width": 640}, "do_pad": False, "do_normalize": False}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))

        geometry = Preprocessing.of_folder(tmp_path).letterbox((1280, 320))

        assert (geometry.new_width, geometry.new_height) == (640, 640)
        assert geometry.denormalise(np.array([[0.5, 0.5, 1.0, 1.0]])).tolist() == [[0, 0, 1280, 320]]

    @pytest.mark.parametrize(
        ("config", "reason"),
        [
            ({"size": {"shortest_edge": 800, "longest_edge": 1333}}, "gives every image another canvas"),
            ({"size": {"max_height": 64, "max_width": 96}, "do_pad": False}, "pads them to nothing"),
            (None, "cannot be read"),
        ],
    )
    def test_other_geometries_are_refused(self, config: dict[str, Any] | None, reason: str, tmp_path: Path) -> None:
        """A guess here would shift every box."""
        if config is not None:
            (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))

        with pytest.raises(ConfigurationError, match=reason):
            Preprocessing.of_folder(tmp_path)


class TestSingleImages:
    @pytest.fixture
    def xray(self, tmp_path: Path) -> Path:
        """A noisy image of 300×180 pixels, in a colour JPEG."""
        pixels = np.random.default_rng(0).integers(0, 255, (180, 300), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "mine.jpg"), np.repeat(pixels[..., None], 3, axis=2))
        return tmp_path / "mine.jpg"

    def test_findings_come_as_json_and_as_a_picture(self, xray: Path, tiny_recipe: Recipe, tmp_path: Path) -> None:
        """The command prints the one and points to the other."""
        folder = model_folder(tiny_recipe, tmp_path / "model")

        (answer,) = predict_images([xray], folder, 0.05, pictures=tmp_path / "pictures")

        assert (answer.width, answer.height) == (300, 180)
        assert set(json.loads(codec.write(answer))["findings"][0]) == {"class", "score", "bbox_xywh_px"}
        scores = [finding.score for finding in answer.findings]
        assert scores == sorted(scores, reverse=True)
        assert min(scores) >= 0.05
        for finding in answer.findings:
            left, top, width, height = finding.bbox_xywh_px
            assert finding.name in CLASSES
            assert left >= 0 and top >= 0 and left + width <= 300 and top + height <= 180
        picture = cv2.imread(answer.picture or "")
        assert picture is not None and picture.shape == (180, 300, 3)

    def test_a_class_without_operating_point_is_not_shown(
        self, xray: Path, tiny_recipe: Recipe, tmp_path: Path
    ) -> None:
        """Nothing says from which score on it may be believed."""
        folder = model_folder(tiny_recipe, tmp_path / "model")

        (answer,) = predict_images([xray], folder, {"crown": 0.0})

        assert {finding.name for finding in answer.findings} == {"crown"}
        assert answer.picture is None
        with pytest.raises(ConfigurationError, match="Thresholds are given for carries"):
            predict_images([xray], folder, {"carries": 0.5})

    def test_files_that_are_no_images_are_refused(self, tiny_recipe: Recipe, tmp_path: Path) -> None:
        """With the name of the file, before anything is drawn."""
        folder = model_folder(tiny_recipe, tmp_path / "model")
        (tmp_path / "text.png").write_text("not an image")

        with pytest.raises(DataError, match=r"text\.png: it is neither JPEG nor PNG"):
            predict_images([tmp_path / "text.png"], folder, 0.5)
        with pytest.raises(DataError, match=r"There is no image .*absent\.png"):
            predict_images([tmp_path / "absent.png"], folder, 0.5)

    def test_the_picture_marks_the_finding_and_says_what_it_is_not(self, tmp_path: Path) -> None:
        """Pictures travel without their README."""
        blank: NDArray[np.uint8] = np.zeros((400, 600), dtype=np.uint8)
        finding = Finding(name="caries", score=0.9, bbox_xywh_px=(100.0, 100.0, 50.0, 40.0))

        drawn = cv2.imread(str(draw_findings(blank, [finding], tmp_path / "a.png")))
        clear = cv2.imread(str(draw_findings(blank, [], tmp_path / "b.png")))

        assert drawn is not None and clear is not None
        assert drawn[100, 120].any() and drawn[140, 120].any() and not drawn[120, 125].any()
        assert clear[380:].any()  # the notice
        assert not clear[:370].any()


def test_labels_of_neighbouring_findings_can_all_be_read() -> None:
    """Of three missing teeth in a row the middle one's name goes below; none leaves the picture or covers another."""
    row = [(100.0 + 50 * at, 200.0, 48.0, 80.0) for at in range(3)]

    assert label_places(row, [(90.0, 20.0)] * 3, (400, 600)) == [(100, 180), (150, 280), (200, 180)]
    assert label_places([(560.0, 5.0, 38.0, 60.0)], [(90.0, 20.0)], (400, 600)) == [(510, 65)]
    assert label_places([(0.0, 0.0, 600.0, 400.0)], [(90.0, 20.0)], (400, 600)) == [(0, 0)]
    many = label_places([(100.0, 200.0, 48.0, 80.0)] * 6, [(90.0, 20.0)] * 6, (400, 600))
    assert len(set(many)) == 6


def test_a_detector_says_which_device_and_classes_it_has(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """Evaluation reads the class order from here."""
    detector = load_detector(model_folder(tiny_recipe, tmp_path / "model"), "cpu")

    assert detector.classes == CLASSES
    assert detector.device == torch.device("cpu")
    assert not detector.model.training


def test_a_model_carries_its_suppression_wherever_it_is_used(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """Thresholds were chosen with it: its folder, validation, whole splits and ONNX users must hear the same number."""
    image = np.random.default_rng(0).integers(0, 255, (64, 96), dtype=np.uint8)
    dense = tiny_recipe.override({"num_queries": 110})  # of several levels at one place
    every = load_detector(model_folder(dense, tmp_path / "every"), "cpu")
    one = load_detector(model_folder(dense.override({"nms_iou": 0.05}), tmp_path / "one"), "cpu")

    (doubled,), (kept,) = every.detect([image]), one.detect([image])

    assert (every.nms_iou, one.nms_iou) == (None, 0.05)
    assert kept.boxes_xywh_px.tolist() == doubled.without_doubles(0.05).boxes_xywh_px.tolist()
    assert 0 < len(kept.scores) < len(doubled.scores)


def test_weights_that_suppressed_start_a_recipe_that_does_not(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """What is left in the configuration of the start would change the figures of a recipe that says nothing of it."""
    start = model_folder(tiny_recipe.override({"nms_iou": 0.3}), tmp_path / "start")
    recipe = tiny_recipe.override({"weights": str(start)})

    assert not hasattr(models.build(recipe, CLASSES).config, "nms_iou")
    assert models.build(recipe.override({"nms_iou": 0.6}), CLASSES).config.nms_iou == 0.6


def test_a_folder_with_an_impossible_suppression_is_refused(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """Somebody's own file."""
    folder = model_folder(tiny_recipe, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "nms_iou": "half"}))

    with pytest.raises(ConfigurationError, match=r"config.json has nms_iou = 'half'.*between 0 and 1"):
        load_detector(folder, "cpu")
