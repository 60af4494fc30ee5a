"""`dentsight export`: what a person may call a subset, and what is refused before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from dentsight_pipeline.cli import export_
from dentsight_pipeline.commands.export import export_model, export_subset
from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.data.splits import read_split, split_files
from dentsight_pipeline.data.subset import select_conditions, select_teeth
from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.commands import OnnxExport
from dentsight_pipeline.documents.names import Asset, Kind
from dentsight_pipeline.errors import ConfigurationError, DataError, TrainingError
from dentsight_pipeline.intake.datasets import RegisteredExport, register_dataset
from dentsight_pipeline.intake.ingest import ingest_export
from dentsight_pipeline.store import log
from dentsight_pipeline.store.content import build
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline.training.export import write_model_folder
from dentsight_pipeline_tests.data.coco import from_coco
from dentsight_pipeline_tests.data.export_builder import whole_export
from dentsight_pipeline_tests.documents.facts_for_tests import checkpoint_facts, release_facts
from dentsight_pipeline_tests.training.planted_collapse import TOY_CLASSES, TOY_PROCESSOR, healthy_run, toy_batch


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


@pytest.fixture
def splits(tmp_path: Path, store: Store) -> Manifest:
    return normalise_export(store, ingest_export(whole_export(tmp_path / "export").write(), store))


def registered(store: Store, splits: Manifest, key: str) -> None:
    raw = splits.inputs[Asset.RAW_EXPORT]
    register_dataset(store, key, raw, [RegisteredExport(raw_export=raw, location="/somewhere")])


def test_a_digest_or_its_start_names_either_subset(tmp_path: Path, store: Store, splits: Manifest) -> None:
    """The tooth subset has no key of its own."""
    for number, subset in enumerate((select_conditions(store, splits), select_teeth(store, splits))):
        made, files = export_subset(store, subset.digest[:12], hf=tmp_path / f"hf{number}")

        assert made == subset
        assert sorted(path.name for path in files) == ["README.md", "test.parquet", "train.parquet", "valid.parquet"]
        assert all(path.exists() for path in files)


def test_a_dataset_key_names_the_subset_of_what_it_means(tmp_path: Path, store: Store, splits: Manifest) -> None:
    """Not the newest subset there is: that may be another dataset's, or the same export read in another way."""
    mine = select_conditions(store, splits)
    otherwise = normalise_export(store, store.get_manifest(splits.inputs[Asset.RAW_EXPORT]), drop=["crown"])
    larger = whole_export(tmp_path / "larger")
    larger.image("train", {"caries": [[1, 1, 5, 5]]})
    another = normalise_export(store, ingest_export(larger.write(), store))
    for subset in (mine, select_conditions(store, otherwise), select_conditions(store, another)):
        log.append(store, subset.digest, {"asset": Asset.CONDITION_SUBSET})
    registered(store, splits, "opg-v1")

    made, files = export_subset(store, "opg-v1", coco=tmp_path / "coco")

    assert made == mine
    assert [path.parent.name for path in files] == ["train", "valid", "test"]


def test_a_key_without_a_subset_says_what_to_run(tmp_path: Path, store: Store, splits: Manifest) -> None:
    """Registered by an ingestion that went no further."""
    registered(store, splits, "opg-v1")

    with pytest.raises(ConfigurationError, match=r"has no condition subset yet. Run `dentsight run --dataset opg-v1`"):
        export_subset(store, "opg-v1", hf=tmp_path / "hf")


def test_what_is_no_subset_or_names_no_form_is_refused(tmp_path: Path, store: Store, splits: Manifest) -> None:
    """Each with the option that is lacking."""
    subset = select_conditions(store, splits)

    with pytest.raises(ConfigurationError, match=r"is a normalized-splits\. Give the digest of a"):
        export_subset(store, splits.digest, hf=tmp_path / "hf")
    with pytest.raises(ConfigurationError, match="Nothing to write: give --hf DIR, --coco DIR or both"):
        export_subset(store, subset.digest)
    with pytest.raises(ConfigurationError, match="--croissant describes"):
        export_subset(store, subset.digest, croissant=tmp_path / "c.json", coco=tmp_path / "coco")


def test_a_place_that_is_taken_is_refused_before_anything_is_written(
    tmp_path: Path, store: Store, splits: Manifest
) -> None:
    """Half of it was there already, in whose way the same command with a better place then was."""
    subset, taken = select_conditions(store, splits), tmp_path / "taken"
    (taken / "of others").mkdir(parents=True)

    with pytest.raises(ConfigurationError, match="taken is not empty"):
        export_subset(store, subset.digest, hf=tmp_path / "hf", coco=taken)
    with pytest.raises(ConfigurationError, match="taken is a folder"):
        export_subset(store, subset.digest, hf=tmp_path / "hf", croissant=taken)

    assert not (tmp_path / "hf").exists()


def test_a_subset_that_fails_a_blocking_check_is_not_handed_on(tmp_path: Path, store: Store, splits: Manifest) -> None:
    """An export leaves the house: an identifier in it cannot be called back, nor can wrong boxes."""
    subset = select_conditions(store, splits)
    coco = read_split(store, subset, "train").to_coco()
    coco["annotations"][0]["image_id"] = 99
    changed = build(
        store, subset.kind, {**subset.entries, **split_files([from_coco("train", coco)])}, subset.inputs, subset.facts
    )
    store.put_manifest(changed)

    with pytest.raises(DataError, match=r"boxes_are_valid failed"):
        export_subset(store, changed.digest, hf=tmp_path / "hf")

    assert not (tmp_path / "hf").exists()


def test_a_model_is_exported_as_onnx_from_a_digest_or_a_folder_and_answers_as_torch_does(
    tmp_path: Path, store: Store
) -> None:
    """Whoever uses the file has neither this project nor torch: geometry and class names must lie beside it."""
    model = healthy_run().model
    folder = write_model_folder(tmp_path / "model", model, TOY_PROCESSOR)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"nms_iou": 0.5}))
    files = {f"model/{path.name}": path for path in folder.iterdir()}
    checkpoint = store.put_manifest(build(store, Kind.CHECKPOINT, files, {}, checkpoint_facts(TOY_CLASSES)))
    written = [export_model(store, str(ref), onnx=tmp_path / to) for to, ref in (("a", checkpoint), ("b", folder))]

    names = ["model.onnx", "onnx.json", "preprocessor_config.json", "config.json"]
    assert [[path.name for path in paths] for paths in written] == [names, names]
    assert written[0][0].read_bytes() == written[1][0].read_bytes()
    said = codec.read(written[0][1].read_bytes(), OnnxExport, "onnx.json")
    assert (len(said.classes), said.nms_iou) == (len(TOY_CLASSES), 0.5)
    assert (said.opset, said.onnxruntime, said.parity_images) == (17, onnxruntime.__version__, 20)
    assert max(said.parity_logits, said.parity_boxes) < 1e-3
    pixels = toy_batch(np.random.default_rng(3), 2)["pixel_values"]
    session = onnxruntime.InferenceSession(written[0][0], providers=["CPUExecutionProvider"])
    logits, boxes = session.run(None, {"pixel_values": pixels.numpy()})
    with torch.no_grad():
        expected = model.eval()(pixel_values=pixels)
    assert np.abs(logits - expected.logits.numpy()).max() < 1e-3
    assert np.abs(boxes - expected.pred_boxes.numpy()).max() < 1e-3
    with pytest.raises(ConfigurationError, match="is not empty"):
        export_model(store, checkpoint, onnx=tmp_path / "a")


def test_a_subset_has_no_model(tmp_path: Path, store: Store, splits: Manifest) -> None:
    """Two digests look alike."""
    subset = select_conditions(store, splits)

    with pytest.raises(ConfigurationError, match="no model"):
        export_model(store, subset.digest, onnx=tmp_path / "onnx")
    with pytest.raises(ConfigurationError, match="Give one or the other"):
        export_(subset.digest, onnx=tmp_path / "onnx", coco=tmp_path / "coco")


def test_an_onnx_file_that_answers_otherwise_than_torch_is_not_left_lying_about(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever gets it has nothing to compare it with."""
    folder = write_model_folder(tmp_path / "model", healthy_run().model, TOY_PROCESSOR)
    monkeypatch.setattr("dentsight_pipeline.training.export.PARITY", 1e-12)

    with pytest.raises(TrainingError, match=r"differ by .* on 20 X-rays"):
        export_model(store, str(folder), onnx=tmp_path / "onnx")

    assert list((tmp_path / "onnx").iterdir()) == []


def test_a_release_is_written_with_its_card_and_nothing_else_is(tmp_path: Path, store: Store) -> None:
    """Figures on a card are those that were judged; plain transformers reads the folder."""
    folder = write_model_folder(tmp_path / "model", healthy_run().model, TOY_PROCESSOR)
    files: dict[str, Path | bytes] = {f"model/{path.name}": path for path in folder.iterdir()}
    checkpoint = store.put_manifest(build(store, Kind.CHECKPOINT, files, {}, checkpoint_facts(TOY_CLASSES)))
    report = {str(Asset.RELEASE_REPORT): "0" * 64}
    card = {"model_card.md": b"---\nmodel-index: []\n---\n"}
    release = store.put_manifest(build(store, Kind.RELEASE, {**files, **card}, report, release_facts()))

    written = export_model(store, release, hf=tmp_path / "hf")

    names = ["config.json", "model.safetensors", "preprocessor_config.json", "README.md"]
    assert [path.name for path in written] == names
    assert written[-1].read_bytes() == card["model_card.md"]
    assert written[1].read_bytes() == (folder / "model.safetensors").read_bytes()
    with pytest.raises(ConfigurationError, match="only a release has a card with measured figures"):
        export_model(store, checkpoint, hf=tmp_path / "none")
