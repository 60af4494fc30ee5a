"""An archive verifies with Python alone, years later, and says which of its files is missing or was changed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dentsight_pipeline.errors import ConfigurationError, IntegrityError, ReleaseError, StorageError
from dentsight_pipeline.lineage import archive, check_archive
from dentsight_pipeline.lineage.check_archive import check
from dentsight_pipeline.lineage.verify import Evidence, audit
from dentsight_pipeline.release import champion
from dentsight_pipeline.release.keys import generate_key
from dentsight_pipeline.store import log
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
        name = path.relative_to(copy).as_posix()
        if not any(name in line or "log" in line or "how" in line for line in check(copy).findings):
            unnoticed.append(name)
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


@pytest.mark.parametrize("name", ["kept", "kept.tar"])
def test_all_files_are_counted_and_all_bytes_are_told(intact_chain: Chain, tmp_path: Path, name: str) -> None:
    """The command says how many there are; a bar that ends at 99 % looks like a failure."""
    contents = archive.contents_of(intact_chain.store, intact_chain.digests["released_model"], intact_chain.public_key)
    told: list[tuple[str, int, int]] = []

    count = archive.write_archive(contents, tmp_path / name, lambda *now: told.append(now))

    (tmp_path / "out").mkdir()
    if name.endswith(".tar"):
        subprocess.run(["tar", "-xf", tmp_path / name, "-C", tmp_path / "out"], check=True)
    there = tmp_path / ("out" if name.endswith(".tar") else name)
    sizes = [entry.size for _, entry in contents.objects.values()]
    assert count == sum(path.is_file() for path in there.rglob("*"))
    assert sorted(told) == told
    assert (len(told), told[-1]) == (len(sizes), ("bytes", sum(sizes), sum(sizes)))
    assert contents.size == sum(path.stat().st_size for path in (there / "store/objects").rglob("*") if path.is_file())
    assert len(contents.images) == 8


def test_a_link_to_the_right_bytes_is_no_file_of_an_archive(folder: Path, tmp_path: Path) -> None:
    """Where it leads, something else may lie tomorrow: in a folder and in a tar."""
    name = "release-key.pub"
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / name).rename(copy / "spare")
    (copy / name).symlink_to("spare")
    with tarfile.open(tmp_path / "kept.tar", "w") as tar:
        for path in copy.iterdir():
            tar.add(path, path.name)

    for place in (copy, tmp_path / "kept.tar"):
        found = check(place).findings
        assert found == [f"{name} is missing: no {name}.", "spare is not part of the archive."], place


@pytest.mark.parametrize(
    ("asset", "what"),
    [
        ("trained_checkpoint", "The trained_checkpoint of the release"),
        ("released_model", "The release"),
        ("earlier_release", "A release"),
    ],
)
def test_a_missing_manifest_is_named_by_what_leads_to_it(
    folder: Path, intact_chain: Chain, tmp_path: Path, asset: str, what: str
) -> None:
    """The first sentence says which link of the chain is gone; nothing breaks off with an error of Python."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    digest = intact_chain.digests[asset]
    (copy / f"store/manifests/{digest[:2]}/{digest}.json").unlink()

    findings = check(copy).findings

    assert findings[0].startswith(what), findings
    assert findings[0].endswith(f"({digest[:12]}) is missing: no store/manifests/{digest[:2]}/{digest}.json.")
    assert not [line for line in findings if "does not have its form" in line]


def rewritten(copy: Path, name: str, change: Callable[[Any], Any]) -> None:
    """A document that carries its own digest, changed and sealed again as a forger would."""
    value = change(json.loads((copy / name).read_text())["value"])
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    (copy / name).write_text(f'{{"sha256":"{hashlib.sha256(text.encode()).hexdigest()}","value":{text}}}')


@pytest.mark.parametrize(
    ("name", "change", "finding"),
    [
        ("archive.json", lambda v: v | {"log_head": "9:0"}, "The log was cut off or changed: it ends at 9:"),
        (
            "store/refs/lineage/head.json",
            lambda v: v | {"sequence": 8},
            "The log was cut off or changed: it ends at 9:",
        ),
        ("store/refs/release/head.json", lambda v: v | {"sequence": 3}, "says that it is number 2."),
        (
            "store/refs/release/head.json",
            lambda v: v | {"digest": None},
            "The release is not in the chain of releases.",
        ),
        ("archive.json", lambda v: v | {"files": {}}, "README.txt is not part of the archive."),
    ],
)
def test_a_document_that_was_sealed_again_does_not_fit_the_others(
    folder: Path, tmp_path: Path, name: str, change: Callable[[Any], Any], finding: str
) -> None:
    """Its own digest is right; what it says is not what the chains say."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    rewritten(copy, name, change)

    findings = check(copy).findings

    assert any(finding in line for line in findings), findings
    assert not [line for line in findings if "carry its own digest" in line or "its form" in line]


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("archive.json", "archive.json was changed: it does not carry its own digest."),
        ("store/log/000000000004.json", "Entry 4 of the log, or the one before it, was changed: they do not fit."),
        ("README.txt", "README.txt was changed: README.txt hashes to "),
    ],
)
@pytest.mark.parametrize("content", [b"no JSON", b"[]", b"{}"])
def test_other_content_under_the_name_of_a_file_is_a_finding_first_of_all(
    folder: Path, tmp_path: Path, name: str, finding: str, content: bytes
) -> None:
    """Whatever it is: a script that breaks off says nothing of the rest."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / name).write_bytes(content)

    findings = check(copy).findings

    assert findings[0].startswith(finding), findings
    assert not [line for line in findings if "does not have its form" in line]


def test_a_chain_that_ends_before_the_export_is_found(folder: Path, tmp_path: Path) -> None:
    """A model without the data that it came from proves nothing."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    data = b'{"entries":{},"facts":{},"inputs":{},"kind":"checkpoint"}'
    digest = hashlib.sha256(data).hexdigest()
    (copy / f"store/manifests/{digest[:2]}").mkdir(exist_ok=True)
    (copy / f"store/manifests/{digest[:2]}/{digest}.json").write_bytes(data)
    rewritten(copy, "archive.json", lambda value: value | {"release": digest})

    findings = check(copy).findings

    assert findings[:2] == ["The chain does not reach a raw export.", "The release is not in the chain of releases."]


def status_of(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The status of the script in this process, where model-signing is at hand."""
    monkeypatch.setattr(sys, "argv", ["verify.py", *map(str, arguments)])
    return check_archive.main()


def test_the_status_says_what_held(
    folder: Path, intact_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """0 for all of it with the right notes and key, 5 for any other note; the place of the script is the default."""
    release, head = intact_chain.digests["released_model"], str(log.head(intact_chain.store))
    first = f"1:{hashlib.sha256(intact_chain.log_file(1).read_bytes()).hexdigest()}"
    other = generate_key(tmp_path / "keys").public
    monkeypatch.setattr(check_archive, "__file__", str(folder / "verify.py"))

    notes = ("--release", release, "--key", intact_chain.public_key, "--head")

    assert status_of(monkeypatch) == status_of(monkeypatch, folder, *notes, head) == 0
    assert capsys.readouterr().out.endswith("Intact.\nThe signature holds.\n")
    assert status_of(monkeypatch, folder, *notes, first) == 0
    for wrong in (("--release", head), ("--head", release), ("--key", other), ("--key", tmp_path / "none.pub")):
        assert status_of(monkeypatch, folder, *wrong) == 5, wrong
        assert "\nNOT INTACT:\n- " in capsys.readouterr().out
    assert status_of(monkeypatch, tmp_path) == 5


def test_a_path_with_nothing_at_it_is_told_as_that(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`Release None … does not have its form (FileNotFoundError(…))` reads as an archive that somebody damaged."""
    assert status_of(monkeypatch, tmp_path / "gone.tar") == 5

    gone = tmp_path / "gone.tar"
    assert capsys.readouterr().out == f"NOT INTACT: there is nothing at {gone}. Give an archive, a folder or a tar.\n"


def test_what_the_script_prints_can_be_held_against_a_note(folder: Path, intact_chain: Chain) -> None:
    """Release, head, fingerprint of the key, and how much was looked at."""
    done = run_script(folder, "--release", intact_chain.digests["released_model"])

    about = json.loads((folder / "archive.json").read_text())["value"]
    key = hashlib.sha256((folder / "release-key.pub").read_bytes()).hexdigest()
    files = sum(path.is_file() for path in folder.rglob("*"))
    assert done.stdout.splitlines() == [
        f"Release {intact_chain.digests['released_model']}",
        f"Head of the log {about['log_head']}",
        f"sha256 of release-key.pub {key}",
        f"9 products, {files} files, 9 entries of the log",
        "Intact.",
        "The signature was NOT verified: pip install model-signing.",
    ]


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


def test_an_archive_that_does_not_verify_when_it_is_written_is_not_kept(
    intact_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that keeps other bytes than it was given would be found in ten years."""
    written = archive._into_folder

    def onto_a_bad_disk(contents: archive.Contents, new: Path, say: Any) -> int:
        files = written(contents, new, say)
        flip(next(path for path in new.rglob("objects/*/*") if path.is_file()))
        return files

    monkeypatch.setattr(archive, "_into_folder", onto_a_bad_disk)

    with pytest.raises(StorageError, match=r"What was written does not verify: .* Try again"):
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
