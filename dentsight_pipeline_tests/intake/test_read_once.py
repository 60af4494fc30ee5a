"""How often bytes are read on the way from an export to what is trained on: once, and nothing is worked on twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from dentsight_pipeline.data import checks, image_bytes
from dentsight_pipeline.data.identifiers import find_identifiers
from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.data.stored_images import FINGERPRINTS, fingerprints_of, read_originals
from dentsight_pipeline.data.subset import select_conditions, select_teeth
from dentsight_pipeline.intake import images
from dentsight_pipeline.intake.files import FolderFiles
from dentsight_pipeline.intake.ingest import ingest_export
from dentsight_pipeline.store.local import LocalBlobs
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline_tests.data.export_builder import exif, jpeg, picture, whole_export


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def _counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, seen: Counter[Any]) -> None:
    original: Callable[..., Any] = getattr(owner, name)

    def counting(*args: Any, **options: Any) -> Any:
        seen[list(args)[-1] if len(args) < 3 else args[1]] += 1
        return original(*args, **options)

    monkeypatch.setattr(owner, name, counting)


def test_before_training_each_image_is_read_and_stripped_once(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand X-rays are four gigabytes: a second look at all of them costs more than everything else."""
    builder = whole_export(tmp_path / "export")
    builder.image("train", {"11": [[1, 1, 9, 9]]}, data=jpeg(picture(50), exif=exif(1)))
    files, objects, stripped = Counter[Any](), Counter[Any](), Counter[Any]()
    _counted(monkeypatch, FolderFiles, "read", files)
    _counted(monkeypatch, LocalBlobs, "read", objects)
    _counted(monkeypatch, LocalBlobs, "sha256", objects)
    _counted(monkeypatch, LocalBlobs, "local_path", objects)
    _counted(monkeypatch, image_bytes, "_strip_jpeg", stripped)
    monkeypatch.setattr(FolderFiles, "blocks", lambda *_: pytest.fail("a file was read in another way"))

    raw = ingest_export(builder.write(), store)
    splits = normalise_export(store, raw)
    select_conditions(store, splits)
    select_teeth(store, splits)
    assert checks.no_identifiers_left(store, raw).passed
    for check in (checks.test_split_is_clean, checks.labels_are_known, checks.boxes_are_valid):
        check(store, splits)

    images = {entry.sha256 for path, entry in raw.entries.items() if path.startswith("images/")}
    assert len(images) == len(stripped) == 6
    assert set(files.values()) == set(stripped.values()) == {1}
    assert not {key: n for key, n in objects.items() if key.rpartition("/")[2] in images}


def test_a_new_image_is_decoded_and_hashed_once(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding is most of what an image costs: what compares sources and what tells kinds of pictures share it."""
    builder = whole_export(tmp_path / "export")
    builder.image("train", {"11": [[1, 1, 9, 9]]}, data=jpeg(picture(50)))
    root = builder.write()
    decoded, hashed = Counter[Any](), Counter[Any]()
    _counted(monkeypatch, image_bytes.cv2, "imdecode", decoded)
    _counted(monkeypatch, images, "sha256", hashed)
    monkeypatch.setattr(images, "colour_spread", lambda data: 0.0)

    raw = ingest_export(root, store)

    originals = {image.original_sha256 for image in read_originals(store, raw).images}
    assert sum(decoded.values()) == len(originals) == 6
    assert {n for data, n in hashed.items() if sha256(data).hexdigest() in originals} == {1}


def test_each_document_is_read_once_in_a_step(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """An annotation file of a large corpus takes seconds to parse."""
    raw = ingest_export(whole_export(tmp_path / "export").write(), store)
    objects = Counter[Any]()
    _counted(monkeypatch, LocalBlobs, "read", objects)
    _counted(monkeypatch, LocalBlobs, "local_path", objects)

    normalise_export(store, raw)

    assert {n for key, n in objects.items() if key.startswith("objects/")} == {1}


def test_an_image_that_ingestion_did_not_strip_is_looked_at(tmp_path: Path, store: Store) -> None:
    """What is remembered is remembered of exactly those bytes, and only where ingestion itself made them."""
    raw = ingest_export(whole_export(tmp_path / "export").write(), store)
    ref = store.read_ref(f"{FINGERPRINTS}/{raw.digest}")
    assert ref is not None
    codes = json.loads(store.get_bytes(ref["codes"]))
    del codes[min(codes)]
    looked_at: list[int] = []

    for stripped_by in (ref["stripped_by"], "another version"):
        value = ref | {"codes": store.put_bytes(json.dumps(codes).encode()), "stripped_by": stripped_by}
        store.write_ref(f"{FINGERPRINTS}/{raw.digest}", value)
        find_identifiers(store, raw, progress=lambda stage, done, total: looked_at.append(total))

    assert looked_at == [1, 5]


def test_fingerprints_of_another_version_are_made_anew_and_what_was_stripped_stays_known(
    tmp_path: Path, store: Store
) -> None:
    """An update of the decoder is no reason to search every image of every export for identifiers again."""
    raw = ingest_export(whole_export(tmp_path / "export").write(), store)
    name = f"{FINGERPRINTS}/{raw.digest}"
    ref = store.read_ref(name)
    assert ref is not None
    codes = json.loads(store.get_bytes(ref["codes"]))
    few = {digest: code for digest, code in codes.items() if digest != min(codes)}
    looked_at: list[int] = []

    for known in (codes, few):
        store.write_ref(name, ref | {"version": "earlier", "codes": store.put_bytes(json.dumps(known).encode())})
        assert fingerprints_of(store, raw) == codes
        find_identifiers(store, raw, progress=lambda stage, done, total: looked_at.append(total))

    assert looked_at == [5], "all of them where it was known of some, none where it was known of all"
