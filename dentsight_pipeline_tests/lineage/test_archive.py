"""An archive verifies with Python alone, years later, and says which of its files is missing or was changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dentsight_pipeline.errors import ConfigurationError, IntegrityError, ReleaseError, StorageError
from dentsight_pipeline.lineage import archive
from dentsight_pipeline.lineage.check_archive import check
from dentsight_pipeline.lineage.verify import Evidence, audit
from dentsight_pipeline.release import champion
from dentsight_pipeline.store.objects import open_store
from dentsight_pipeline_tests.lineage.chain_builder import Chain, flip


def archived(chain: Chain, out: Path, asset: str = "released_model") -> Path:
    """An archive of the chain's release."""
    archive.write_archive(archive.contents_of(chain.store, chain.digests[asset], chain.public_key), out)
    return out


@pytest.fixture(scope="module")
def folder(intact_chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of an intact release. Only for reading."""
    return archived(intact_chain, tmp_path_factory.mktemp("archive") / "kept")


def run_script(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The script in the archive, in a Python that knows no installed package."""
    command = [sys.executable, "-I", "-S", str(place / "verify.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_an_archive_verifies_with_the_standard_library_alone(folder: Path) -> None:
    """In ten years this package may not install any more; what nobody looked at is not called good."""
    done = run_script(folder)

    assert "Intact." in done.stdout, done.stderr
    assert "NOT verified: pip install model-signing" in done.stdout
    assert done.returncode == 4


def test_with_model_signing_at_hand_the_signature_is_verified_too(folder: Path, tmp_path: Path) -> None:
    """The key may come from elsewhere; another one does not pass."""
    from dentsight_pipeline.release.keys import generate_key

    good, other = (check(folder, key) for key in (None, generate_key(tmp_path / "keys").public))

    assert (good.findings, good.signed) == ([], True)
    assert [line.split(":")[0] for line in other.findings] == ["The release's signature does not hold"]


def test_what_was_noted_elsewhere_is_held_against_it(folder: Path, intact_chain: Chain) -> None:
    """An archive of another release, or of a store that was set back, is whole in itself."""
    done = run_script(folder, "--release", "0" * 64, "--head", f"1:{'0' * 64}")

    assert done.returncode == 5
    assert f"It holds release {intact_chain.digests['released_model']}, not 000" in done.stdout
    assert "does not hold the noted head 1:000" in done.stdout


def test_the_store_in_it_is_one_that_an_audit_calls_intact(folder: Path, intact_chain: Chain) -> None:
    """With the package, the verdict is judged anew as well: nothing that an audit reads may be lacking."""
    before = audit(
        intact_chain.store, intact_chain.digests["released_model"], Evidence(public_key=intact_chain.public_key)
    )

    again = audit(open_store(folder / "store"), before.digest, Evidence(public_key=folder / "release-key.pub"))

    assert again.findings == ()
    assert again.hashed_bytes == before.hashed_bytes
    assert [(item.kind, item.digest) for item in again.chain] == [(item.kind, item.digest) for item in before.chain]
    assert check(folder).findings == []  # the folders for work that opening made are no part of it


def test_a_flipped_byte_of_any_file_is_found_and_named(folder: Path, tmp_path: Path) -> None:
    """One bit anywhere: object, manifest, record, log, reference, key, script, description."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    names = [path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file() and path.stat().st_size]
    unnoticed = []
    for name in names:
        data = (copy / name).read_bytes()
        flip(copy / name, len(data) // 2)
        if not any(name in line or "Entry" in line or "log" in line for line in check(copy).findings):
            unnoticed.append(name)
        (copy / name).write_bytes(data)

    assert len(names) > 60
    assert unnoticed == []


def test_a_missing_file_is_found_and_named(folder: Path, tmp_path: Path) -> None:
    """Whatever it is, the last entry of the log too."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    unnoticed = []
    for path in [path for path in copy.rglob("*") if path.is_file() and "locks" not in path.parts]:
        away = path.rename(tmp_path / "away")
        if not check(copy).findings:
            unnoticed.append(path)
        away.rename(path)

    assert unnoticed == []


def test_a_missing_image_is_named_with_the_product_that_it_is_part_of(
    folder: Path, intact_chain: Chain, tmp_path: Path
) -> None:
    """A digest alone tells nobody what is gone."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    path, entry = next(
        (p, e) for p, e in intact_chain.manifest("raw_export").entries.items() if p.startswith("images/")
    )
    (copy / "store" / "objects" / entry.sha256[:2] / entry.sha256).unlink()

    (finding,) = check(copy).findings

    assert finding.startswith(f"{path} of the ")
    assert f"is missing: no store/objects/{entry.sha256[:2]}/{entry.sha256}" in finding


def test_a_file_that_was_slipped_in_is_named(folder: Path, tmp_path: Path) -> None:
    """Somebody may take it for evidence."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "store" / "approval.pdf").write_text("approved")

    assert check(copy).findings == ["store/approval.pdf is not part of the archive."]


def test_a_tar_holds_the_same_and_is_the_same_twice(intact_chain: Chain, folder: Path, tmp_path: Path) -> None:
    """No time and no owner in it: two archives of one release can be compared by their sha256."""
    first, second = (archived(intact_chain, tmp_path / f"{name}.tar") for name in ("a", "b"))

    found = check(first)
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xf", first, "-C", tmp_path / "out"], check=True)  # Python's filters came with 3.11.4

    assert (found.findings, found.signed) == ([], True)
    assert first.read_bytes() == second.read_bytes()
    assert run_script(tmp_path / "out").returncode == 4
    (tmp_path / "cut.tar").write_bytes(first.read_bytes()[:-60_000])
    assert check(tmp_path / "cut.tar").findings


def test_a_champions_history_is_part_of_it(chain: Chain, tmp_path: Path) -> None:
    """Its log tells of the promotion, so an audit asks for the history."""
    champion.promote(chain.store, chain.manifest("earlier_release"), "Ann", "first")

    kept = archived(chain, tmp_path / "kept")

    result = audit(open_store(kept / "store"), chain.digests["released_model"], Evidence(public_key=chain.public_key))
    assert result.findings == ()


def test_a_damaged_object_stops_it_and_nothing_stands_under_the_name(chain: Chain, tmp_path: Path) -> None:
    """A half archive that looks whole would be found out in ten years."""
    contents = archive.contents_of(chain.store, chain.digests["released_model"], chain.public_key)
    image = next(path for path in chain.manifest("raw_export").entries if path.startswith("images/"))
    flip(chain.object_file("raw_export", image))
    with pytest.raises(IntegrityError, match=r"images/.* of the .*Nothing was archived"):
        archive.write_archive(contents, tmp_path / "out" / "kept")
    flip(chain.object_file("trained_checkpoint", "model/model.safetensors"))
    with pytest.raises(ReleaseError, match=r"model/model\.safetensors of the release .* was changed"):
        archived(chain, tmp_path / "out" / "kept")

    assert not list((tmp_path / "out").iterdir())


def test_killed_halfway_nothing_stands_under_the_name(
    intact_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`kill -9` while the objects are written: the process is gone in that instant."""
    out = tmp_path / "kept"
    if (child := os.fork()) == 0:  # pragma: no cover - in the process that dies
        contents = archive.contents_of(
            intact_chain.store, intact_chain.digests["released_model"], intact_chain.public_key
        )
        archive.write_archive(contents, out, lambda stage, done, total: os.kill(os.getpid(), 9))
        os._exit(0)
    status = os.waitpid(child, 0)[1]

    assert os.WTERMSIG(status) == 9
    assert not out.exists()
    assert check(archived(intact_chain, out)).findings == []


def test_what_cannot_be_archived_is_refused_before_anything_is_written(
    intact_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name in use, a product that is no release, a full disk."""
    (tmp_path / "kept").mkdir()

    with pytest.raises(ConfigurationError, match="never written over"):
        archived(intact_chain, tmp_path / "kept")
    with pytest.raises(ConfigurationError, match="is a checkpoint"):
        archived(intact_chain, tmp_path / "new", "trained_checkpoint")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(StorageError, match="GB are free"):
        archived(intact_chain, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_command_tells_the_size_first_and_where_the_archive_is(
    intact_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X-rays are large, and leave the house."""
    from dentsight_pipeline_tests.lineage.test_commands import at_home, called

    at_home(intact_chain, monkeypatch)

    done = called("archive", "release", str(tmp_path / "kept.tar"), "--json")

    told = json.loads(done.stdout)
    assert told["release"] == intact_chain.digests["released_model"]
    assert told["images"] == 8
    assert "8 images of 0 MB among them" in done.stderr
    assert check(tmp_path / "kept.tar").findings == []
