"""A signed release tells when anything of it was changed, added or removed, offline."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from dentsight_pipeline.documents.codec import plain, pretty
from dentsight_pipeline.documents.facts import Corpus
from dentsight_pipeline.documents.names import CorpusKind
from dentsight_pipeline.documents.release import ChainedRelease, ReleasedModel
from dentsight_pipeline.documents.verdict import Override, Verdict
from dentsight_pipeline.errors import RefConflictError, ReleaseError, SignatureError
from dentsight_pipeline.release import keys as signing_keys
from dentsight_pipeline.release import statement
from dentsight_pipeline.release.policy import load_policy
from dentsight_pipeline.store import content, log, manifest, objects
from dentsight_pipeline_tests.documents.facts_for_tests import checkpoint_facts, release_facts, report_facts
from dentsight_pipeline_tests.release.conftest import judged

ROBOFLOW = Corpus(kind=CorpusKind.ROBOFLOW, name="OPG REPORTING v8", licence="private")
PHANTOM = Corpus(kind=CorpusKind.PHANTOM, name="phantom", licence="CC0-1.0")
MODEL = ReleasedModel(
    recipe="v3",
    recipe_digest="d" * 64,
    variant=False,
    overrides={},
    classes=("caries",),
    image_size=(1280, 640),
    parameters=1024,
    healthy=True,
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> signing_keys.KeyPair:
    """A signing key of one's own."""
    return signing_keys.generate_key(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def verdict(policy, evaluation, healthy) -> Verdict:
    """A verdict that allows a release."""
    return judged(evaluation, policy, healthy)


def _folder(path: Path) -> Path:
    (path / "model").mkdir(parents=True)
    (path / "model" / "model.safetensors").write_bytes(b"weights" * 100)
    (path / "model" / "config.json").write_text("{}", "utf-8")
    (path / "report.html").write_text("<p>FAIL</p>", "utf-8")
    return path


@pytest.fixture
def signed(tmp_path: Path, keys: signing_keys.KeyPair, verdict: Verdict) -> Path:
    """A signed release folder."""
    folder = _folder(tmp_path / "release")
    made = statement.build_statement(
        folder,
        title="opg × v3",
        chain={"release_report": "a" * 64, "trained_checkpoint": "b" * 64},
        verdict=verdict,
        corpus=ROBOFLOW,
        model=MODEL,
    )
    statement.write_statement(folder, made)
    statement.sign_release(folder, keys.private)
    return folder


def test_an_untouched_release_verifies_offline(signed, keys):
    """The reader needs the folder and the public key, nothing else."""
    found = statement.verify_release(signed, keys.public)

    assert {item.name for item in found.subject} == {"model/config.json", "model/model.safetensors", "report.html"}
    assert found.predicate.verdict == "PASS"
    assert (found.predicate.sequence, found.predicate.previous) == (1, None)


def test_a_statement_has_the_words_of_in_toto(signed):
    """Other tools read it: the keys are those of the in-toto form, in camel case inside the predicate."""
    said = json.loads((signed / "statement.json").read_text("utf-8"))

    assert (said["_type"], said["predicateType"]) == ("https://in-toto.io/Statement/v1", "urn:dentsight:release:1")
    assert set(said) == {"_type", "predicateType", "subject", "predicate"}
    assert set(said["predicate"]) == {
        "title", "inputs", "policy", "verdict", "overrides", "groundTruth", "detections", "champion", "corpus", "model",
        "neverForXrays", "notAMedicalDevice", "sequence", "previous", "log", "licences",
    }  # fmt: skip
    assert said["predicate"]["inputs"][0] == {"name": "release_report", "digest": {"sha256": "a" * 64}}


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("_type", "https://in-toto.io/Statement/v0.1", "is of another kind: urn:dentsight:release:1"),
        ("predicateType", "urn:dentsight:release:2", "is of another kind: urn:dentsight:release:2"),
        ("predicate", {}, r"cannot be read \(.*missing required field `title` - at `\$\.predicate`"),
    ],
)
def test_a_statement_of_another_form_is_refused(signed, key, value, why):
    """A later form may mean something else by the same words."""
    path = signed / "statement.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {key: value}), "utf-8")

    with pytest.raises(SignatureError, match=why):
        statement.read_statement(signed)


def test_files_that_a_statement_does_not_list_are_named(signed):
    """Without the signature, too, a folder is held against its own list."""
    (signed / "model" / "extra.bin").write_bytes(b"x")

    with pytest.raises(SignatureError, match=r"do not fit its statement: model/extra\.bin"):
        statement.read_statement(signed)


def _flip_a_byte(folder: Path) -> None:
    path = folder / "model" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[17] ^= 1
    path.write_bytes(bytes(data))


def _edit_the_report(folder: Path) -> None:
    (folder / "report.html").write_text("<p>PASS</p>", "utf-8")


def _edit_the_statement(folder: Path) -> None:
    path = folder / "statement.json"
    path.write_text(path.read_text("utf-8").replace('"PASS"', '"FINE"'), "utf-8")


def _remove_a_file(folder: Path) -> None:
    (folder / "model" / "config.json").unlink()


def _remove_the_signature(folder: Path) -> None:
    (folder / "release.sig").unlink()


def _cut_the_signature(folder: Path) -> None:
    path = folder / "release.sig"
    path.write_bytes(path.read_bytes()[:200])


def _add_a_file(folder: Path) -> None:
    (folder / "model" / "extra.bin").write_bytes(b"x")


def _add_a_git_file(folder: Path) -> None:
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs", "utf-8")


def _add_a_git_folder(folder: Path) -> None:
    (folder / ".git").mkdir()
    (folder / ".git" / "hook").write_text("#!/bin/sh", "utf-8")


def _swap_in_a_link(folder: Path) -> None:
    path = folder / "model" / "config.json"
    path.unlink()
    path.symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    "tamper",
    [
        _flip_a_byte,
        _edit_the_report,
        _edit_the_statement,
        _remove_a_file,
        _remove_the_signature,
        _cut_the_signature,
        _add_a_file,
        _add_a_git_file,
        _add_a_git_folder,
        _swap_in_a_link,
    ],
)
def test_tampering_is_found(signed, keys, tamper):
    """Each of these was a way to hand on another model under the same signature."""
    tamper(signed)

    with pytest.raises(SignatureError, match="cannot be trusted"):
        statement.verify_release(signed, keys.public)


def test_another_key_does_not_verify(signed, tmp_path):
    """A folder signed anew by somebody else must not pass under the key that the reader trusts."""
    other = signing_keys.generate_key(tmp_path / "other")

    with pytest.raises(SignatureError, match="signature does not hold"):
        statement.verify_release(signed, other.public)


def test_a_release_may_move_to_a_folder_of_another_name(signed, keys, tmp_path):
    """Downloads land anywhere."""
    moved = tmp_path / "elsewhere" / "download"
    shutil.copytree(signed, moved)

    assert statement.verify_release(moved, keys.public).predicate.sequence == 1


def test_a_release_is_not_signed_twice(signed, keys):
    """A second signature over changed files would hide the change."""
    with pytest.raises(ReleaseError, match="signed already"):
        statement.sign_release(signed, keys.private)


def test_nothing_is_signed_without_a_statement(tmp_path, keys):
    """A signature alone says who, not what was judged."""
    with pytest.raises(ReleaseError, match=r"holds no statement\.json"):
        statement.sign_release(_folder(tmp_path / "release"), keys.private)


def test_a_key_is_never_overwritten(tmp_path):
    """Overwriting it would make every earlier release unverifiable."""
    pair = signing_keys.generate_key(tmp_path)

    with pytest.raises(ReleaseError, match="never overwritten"):
        signing_keys.generate_key(tmp_path)
    assert pair.private.stat().st_mode & 0o077 == 0


def test_half_a_key_is_refused(tmp_path):
    """Making a new pair beside a lost half would orphan what the old one signed."""
    signing_keys.generate_key(tmp_path).private.unlink()

    with pytest.raises(ReleaseError, match="Restore the private key"):
        signing_keys.key_pair(tmp_path)


def test_a_public_half_that_a_crash_left_out_is_derived(tmp_path):
    """The private half alone decides; the first release after the crash must not fail for ever."""
    made = signing_keys.generate_key(tmp_path)
    published = made.public.read_bytes()
    made.public.unlink()

    assert signing_keys.key_pair(tmp_path).public.read_bytes() == published


def test_first_releases_at_the_same_moment_sign_with_one_key(tmp_path):
    """Two runs of a fresh workspace end together: none may fail, and the halves must belong together."""
    program = (
        "import sys, pathlib\nfrom dentsight_pipeline.release import keys\n"
        "import cryptography.hazmat.primitives.asymmetric.ec\n"
        "print('ready', flush=True); input()\n"
        "print(keys.key_pair(pathlib.Path(sys.argv[1])).private.read_bytes().hex())"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "keys")]
    signers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for signer in signers:
        assert signer.stdout is not None
        assert signer.stdout.readline() == "ready\n"
    for signer in signers:
        assert signer.stdin is not None
        signer.stdin.write("\n")
        signer.stdin.flush()
    found = [signer.communicate(timeout=60) for signer in signers]
    pair = signing_keys.key_pair(tmp_path / "keys")

    assert [error for _, error in found] == [""] * 4
    assert {key for key, _ in found} == {pair.private.read_bytes().hex() + "\n"}
    assert signing_keys.public_part(pair.private.read_bytes()) == pair.public.read_bytes()


def test_a_statement_is_the_same_bytes_for_the_same_release(tmp_path, verdict):
    """Its digest is part of what is signed and chained."""
    first, second = (_folder(tmp_path / name) for name in ("a", "b"))

    for folder in (first, second):
        made = statement.build_statement(
            folder,
            title="t",
            chain={"b": "1", "a": "2"},
            verdict=verdict,
            corpus=ROBOFLOW,
            model=MODEL,
        )
        statement.write_statement(folder, made)

    assert (first / "statement.json").read_bytes() == (second / "statement.json").read_bytes()


def test_a_statement_says_all_that_a_release_rests_on(tmp_path, verdict):
    """Products by name, policy and verdict, what it follows, the log's entry, the plan and who approved it."""
    folder = _folder(tmp_path / "release")
    before = ChainedRelease(digest="e" * 64, sequence=4, previous=None)

    made = statement.build_statement(
        folder,
        title="opg × v3",
        chain={"trained_checkpoint": "b" * 64, "plan": "c" * 64},
        verdict=verdict,
        corpus=ROBOFLOW,
        model=MODEL,
        follows=before,
        logged=log.Head(9, "f" * 64),
        approved_by=("A. Bell",),
    )

    said = json.loads(pretty(made))["predicate"]
    assert said == {
        "title": "opg × v3",
        "inputs": [
            {"name": "plan", "digest": {"sha256": "c" * 64}},
            {"name": "trained_checkpoint", "digest": {"sha256": "b" * 64}},
        ],
        "policy": {"name": "card", "version": 2, "digest": {"sha256": verdict.policy_digest}},
        "verdict": "PASS",
        "overrides": [],
        "groundTruth": "a" * 64,
        "detections": "b" * 64,
        "champion": None,
        "corpus": plain(ROBOFLOW),
        "model": json.loads(pretty(MODEL)),
        "neverForXrays": False,
        "notAMedicalDevice": True,
        "sequence": 5,
        "previous": "e" * 64,
        "log": {"sequence": 9, "digest": "f" * 64},
        "licences": dict(verdict.licences),
        "plan": "c" * 64,
        "approvedBy": ["A. Bell"],
    }
    assert list(statement.digests_of(made.subject)) == ["model/config.json", "model/model.safetensors", "report.html"]


def test_the_facts_of_a_release_are_those_of_its_statement(store, tmp_path, verdict):
    """The store lists releases by them, without opening a file."""
    override = Override(gate="tier1_caries_ap", name="A. Reviewer", reason="Study.")
    first = _release(store, tmp_path / "first", verdict, tmp_path / "keys")
    second = _release(store, tmp_path / "second", replace(verdict, overrides=(override,)), tmp_path / "keys")

    assert second.facts == {
        "title": "second",
        "sequence": 2,
        "previous": first.digest,
        "corpus": plain(ROBOFLOW),
        "never_for_xrays": False,
        "overrides": [plain(override)],
        "chain": dict(second.inputs),
        "verdict": "PASS",
    }
    assert statement.WARNING not in second.entries


def test_keys_are_compared_by_their_point_however_they_are_written(tmp_path):
    """A line break more makes no other key; one of another kind is refused by what it is."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    one, other = (signing_keys.generate_key(tmp_path / name).public.read_text() for name in "ab")
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    edwards = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(*form).decode()

    assert signing_keys.same_public_key(one, f"\n{one}\n\n")
    assert not signing_keys.same_public_key(one, other)
    with pytest.raises(ReleaseError, match="is not of the EC kind"):
        signing_keys.same_public_key(one, edwards)
    with pytest.raises(ReleaseError, match=r"release-key\.pem is no unencrypted private key in PEM form"):
        signing_keys.public_part(b"no key")
    assert (tmp_path / "a" / "release-key.pub").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "a" / "release-key.pem").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("policy_name", "corpus", "marked"),
    [("card", ROBOFLOW, False), ("card", PHANTOM, True), ("phantom", ROBOFLOW, True), ("card", None, True)],
)
def test_what_comes_from_drawn_images_is_marked_never_for_xrays(evaluation, healthy, policy_name, corpus, marked):
    """The mark must not depend on which policy somebody chose for a phantom model."""
    verdict = judged(evaluation, load_policy(policy_name), healthy)

    assert statement.never_for_xrays(verdict, corpus) is marked


# ── The chain of releases in a store ────────────────────────────────────────────────────────────────────────────────


def _release(
    store: objects.Store, folder: Path, verdict: Verdict, keys: Path, corpus: Corpus = ROBOFLOW
) -> manifest.Manifest:
    """One release, as the pipeline makes it."""
    _folder(folder)
    checkpoint = content.build(store, "checkpoint", {"model/config.json": b"{}"}, {}, checkpoint_facts(["caries"]))
    told = report_facts(corpus=plain(corpus), title=folder.name)
    report = content.build(store, "release-report", {"report.html": b"x"}, {}, told)
    for product in (checkpoint, report):
        store.put_manifest(product)
    chain = {"release_report": report.digest, "trained_checkpoint": checkpoint.digest}
    facts = statement.write(store, folder, report=report, checkpoint=checkpoint, verdict=verdict, chain=chain)
    statement.sign(folder, keys)
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    made = content.build(store, "release", files, chain, facts)
    store.put_manifest(made)
    statement.advance(store, made)
    return made


@pytest.fixture
def store(tmp_path) -> objects.Store:
    """A store on disk."""
    return objects.open_store(tmp_path / "store")


def test_releases_form_a_chain_from_the_first_to_the_head(store, tmp_path, verdict):
    """Each names the one before it, so none can be taken out of the middle."""
    releases = [_release(store, tmp_path / f"r{i}", verdict, tmp_path / "keys") for i in range(3)]

    chain = statement.verify_chain(store)

    assert [item.digest for item in chain] == [release.digest for release in releases]
    assert [item.sequence for item in chain] == [1, 2, 3]
    newest = statement.head(store)
    assert newest is not None
    assert newest.digest == releases[-1].digest


def test_a_chain_that_lost_its_newest_release_is_told_by_the_noted_head(store, tmp_path, verdict):
    """Setting the head back is the one change that the chain alone cannot show."""
    first, second = (_release(store, tmp_path / f"r{i}", verdict, tmp_path / "keys") for i in range(2))
    store.write_ref("release/head", {"digest": first.digest, "sequence": 1, "previous": None})

    assert [item.digest for item in statement.verify_chain(store)] == [first.digest]
    with pytest.raises(SignatureError, match="noted head"):
        statement.verify_chain(store, expected_head=second.digest)


def test_a_release_that_claims_another_place_breaks_the_chain(store, tmp_path, verdict):
    """A forged sequence number would let a release vanish from the count."""
    release = _release(store, tmp_path / "r", verdict, tmp_path / "keys")
    store.write_ref("release/head", {"digest": release.digest, "sequence": 2, "previous": None})

    with pytest.raises(SignatureError, match="says that it is release 1, not 2"):
        statement.verify_chain(store)


def test_two_releases_cannot_follow_the_same_one(store, tmp_path, verdict):
    """Of two runs that release at once, one must be told to release again."""
    first = _release(store, tmp_path / "r0", verdict, tmp_path / "keys")
    late = content.build(store, "release", {"x": b"y"}, {}, release_facts())
    store.put_manifest(late)

    with pytest.raises(ReleaseError, match="released meanwhile"):
        statement.advance(store, late)
    assert statement.advance(store, first).digest == first.digest


def test_a_stored_release_verifies_after_it_was_taken_out_of_the_store(store, tmp_path, verdict):
    """What the auditor materialises is what was signed, marks and statement included."""
    override = Override(gate="tier1_caries_ap", name="A. Reviewer", reason="Study.")
    overridden = replace(verdict, overrides=(override,))
    made = _release(store, tmp_path / "r", overridden, tmp_path / "keys", PHANTOM)

    out = content.materialise(store, made, tmp_path / "out")

    found = statement.verify_release(out, tmp_path / "keys" / "release-key.pub")
    assert found.predicate.overrides == (override,)
    assert found.predicate.never_for_xrays is True
    assert "NEVER FOR X-RAYS" in (out / "NEVER-FOR-X-RAYS.txt").read_text("utf-8")
    assert made.facts["never_for_xrays"] is True
    assert statement.statement_of(store, made) == found


def test_a_release_that_follows_one_which_is_not_there_is_refused(store):
    """The first release of a store has nothing before it; another one would begin a chain in the middle."""
    late = content.build(store, "release", {"x": b"y"}, {}, release_facts(sequence=2, previous="a" * 64))
    store.put_manifest(late)

    with pytest.raises(ReleaseError, match="the newest release is none"):
        statement.advance(store, late)


def test_a_head_that_changed_in_the_very_instant_is_not_written_over(store, tmp_path, verdict, monkeypatch):
    """Between looking and writing somebody else may release; theirs must not be lost."""
    _release(store, tmp_path / "r", verdict, tmp_path / "keys")
    late = content.build(store, "release", {"x": b"y"}, {}, release_facts())
    store.put_manifest(late)
    monkeypatch.setattr(statement, "head", lambda store: None)  # what was seen before theirs came

    with pytest.raises(RefConflictError):
        statement.advance(store, late)


def test_a_chain_that_ends_before_its_first_release_is_broken(store, tmp_path, verdict):
    """A second release that names nothing before it hides the first."""
    made = _release(store, tmp_path / "r", verdict, tmp_path / "keys")
    said = statement.statement_of(store, made)
    cut = replace(said, predicate=replace(said.predicate, sequence=2))
    forged = content.build(store, "release", {"statement.json": pretty(cut)}, {}, release_facts(sequence=2))
    store.put_manifest(forged)
    store.write_ref("release/head", {"digest": forged.digest, "sequence": 2, "previous": None})

    with pytest.raises(SignatureError, match=r"ends 1 release\(s\) too early"):
        statement.verify_chain(store)


@pytest.mark.parametrize(
    ("tamper", "why"),
    [(_edit_the_report, r"do not fit its statement: report\.html"), (_swap_in_a_link, r"config\.json is a link")],
)
def test_a_statement_alone_tells_changed_files_and_links(signed, tamper, why):
    """The list is a second lock beside the signature."""
    tamper(signed)

    with pytest.raises(SignatureError, match=why):
        statement.read_statement(signed)
