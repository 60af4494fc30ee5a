"""The release statement, its signature, and the chain that releases form.

Belongs here: what a release says about itself (an in-toto statement: which files, from which products, under which
policy and verdict, overridden by whom), signing it with OpenSSF model-signing and a local key, and verifying both
offline. Every statement names the release before it, so the releases form a hash chain; whoever noted its head sees
when one was removed. What may be released is decided in `gates.py` and carried out in `product.py`.

The signature covers every file of the folder, the statement included, and nothing may lie there unsigned (model-signing
alone would skip files like `.gitattributes`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from dentsight_pipeline.errors import ReleaseError, SignatureError

if TYPE_CHECKING:
    from dentsight_pipeline.release.verdict import Verdict
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

STATEMENT = "statement.json"
SIGNATURE = "release.sig"
WARNING = "NEVER-FOR-X-RAYS.txt"
PRIVATE_KEY, PUBLIC_KEY = "release-key.pem", "release-key.pub"
HEAD_REF = "release/head"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:dentsight:release:1"

_WARNING_TEXT = (
    "NEVER FOR X-RAYS\n\n"
    "This model was trained on drawn images or released under floors made for them. It drives tests of the release\n"
    "path. It must never be used on X-rays of people, for research or otherwise.\n"
)


@dataclass(frozen=True)
class KeyPair:
    """Where a signing key lies; the private part never leaves its folder."""

    private: Path
    public: Path


def generate_key(folder: Path) -> KeyPair:
    """Makes an EC key (P-256) in `folder`; the private part is readable by its owner alone.

    Raises:
        ReleaseError: When one of the two files exists; a key is never overwritten, or old releases could no longer be
            verified.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    pair = KeyPair(folder / PRIVATE_KEY, folder / PUBLIC_KEY)
    for path in (pair.private, pair.public):
        if path.exists():
            raise ReleaseError(f"{path} exists; a signing key is never overwritten. Use it, or name another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    private = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write_whole(pair.private, private, 0o600)
    _write_whole(pair.public, _public_part(private), 0o644)
    return pair


def key_pair(folder: Path) -> KeyPair:
    """The key of a folder; made when there is none, by one of all who ask at the same moment.

    A public half that is missing is derived from the private one, as after a crash between the two.

    Raises:
        ReleaseError: When the private half alone is missing.
    """
    pair = KeyPair(folder / PRIVATE_KEY, folder / PUBLIC_KEY)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".release-key.lock"):
        if pair.private.is_file():
            if not pair.public.is_file():
                _write_whole(pair.public, _public_part(pair.private.read_bytes()), 0o644)
            return pair
        if pair.public.is_file():
            raise ReleaseError(f"{folder} holds {PUBLIC_KEY}, but not {PRIVATE_KEY}. Restore the private key.")
        return generate_key(folder)


def _public_part(private: bytes) -> bytes:
    """The public key, as PEM, of a private one."""
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_private_key(private, password=None)
    except (ValueError, TypeError) as error:
        raise ReleaseError(f"{PRIVATE_KEY} is no unencrypted private key in PEM form: {error}. Restore it.") from error
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _write_whole(path: Path, data: bytes, mode: int) -> None:
    """Writes a new file that is there whole or not at all."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        os.fsync(file.fileno())
    new.replace(path)


def build_statement(
    folder: Path,
    *,
    title: str,
    chain: Mapping[str, str],
    verdict: Verdict,
    corpus: Mapping[str, Any],
    model: Mapping[str, Any],
    previous: str | None,
    sequence: int,
    log: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a release says about itself, as an in-toto statement.

    Args:
        folder: The release folder, complete but for statement and signature.
        title: What is released.
        chain: Product → digest of its manifest, report included.
        verdict: The verdict that allowed it.
        corpus: Kind, name and licence of the data.
        model: Facts of the checkpoint worth repeating.
        previous: Manifest digest of the release before, or None for the first.
        sequence: 1 for the first release, one more for each.
        log: Newest entry of the store's log (`sequence`, `digest`), so that what the log says of the products cannot
            be removed afterwards without breaking what was signed; None where nothing was logged.
    """
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in file_digests(folder).items()],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "title": title,
            "inputs": [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(chain.items())],
            "policy": {
                "name": verdict.policy,
                "version": verdict.policy_version,
                "digest": {"sha256": verdict.policy_digest},
            },
            "verdict": verdict.outcome,
            "overrides": [override.model_dump() for override in verdict.overrides],
            "groundTruth": verdict.ground_truth_sha256,
            "detections": verdict.detections_sha256,
            "champion": verdict.champion,
            "corpus": dict(corpus),
            "model": dict(model),
            "neverForXrays": never_for_xrays(verdict, corpus),
            "notAMedicalDevice": True,
            "sequence": sequence,
            "previous": previous,
            "log": dict(log) if log else None,
        },
    }


def never_for_xrays(verdict: Verdict, corpus: Mapping[str, Any]) -> bool:
    """True for a policy made for drawn images, and for a model made from them whatever the policy."""
    return verdict.never_for_xrays or corpus.get("kind") != "roboflow"


def file_digests(folder: Path) -> dict[str, str]:
    """sha256 of every file of a release but its statement and signature, by path.

    Raises:
        SignatureError: On a symbolic link or anything else that is no plain file or folder.
    """
    digests = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise SignatureError(folder, f"{name} is a link or a special file, which a release must not hold")
        if path.is_file() and name not in (STATEMENT, SIGNATURE):
            with path.open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def write_statement(folder: Path, statement: Mapping[str, Any]) -> Path:
    """Writes `statement.json`, the same bytes for the same content."""
    path = folder / STATEMENT
    path.write_text(
        json.dumps(statement, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n", "utf-8"
    )
    return path


def sign_release(folder: Path, private_key: Path) -> Path:
    """Signs every file of a release folder, offline.

    Args:
        folder: Holds the files and their statement.
        private_key: PEM of an EC key, unencrypted.

    Returns:
        The signature, a sigstore bundle with an in-toto envelope.

    Raises:
        ReleaseError: When there is no statement yet, a signature is there already, or the key cannot be used.
    """
    from model_signing import signing

    if not (folder / STATEMENT).is_file():
        raise ReleaseError(f"{folder} holds no {STATEMENT}. Write the statement before signing.")
    if (folder / SIGNATURE).exists():
        raise ReleaseError(f"{folder} is signed already. A release is signed once; make a new one.")
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=private_key)
    except (OSError, ValueError, TypeError) as error:
        raise ReleaseError(f"{private_key} cannot sign: {error}. Give an unencrypted EC key in PEM form.") from error
    config.set_hashing_config(_everything(folder)).sign(folder, folder / SIGNATURE)
    return folder / SIGNATURE


def verify_release(folder: Path, public_key: Path) -> dict[str, Any]:
    """Verifies a release folder offline: signature, every file, and the statement's own list of files.

    Args:
        folder: The release folder.
        public_key: PEM of the signer's public key, got from somewhere else than the folder.

    Returns:
        The statement.

    Raises:
        SignatureError: When anything was changed, added or removed, or another key signed it.
    """
    from model_signing import verifying

    if not (folder / SIGNATURE).is_file():
        raise SignatureError(folder, "it carries no signature")
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except (OSError, ValueError, TypeError) as error:
        raise SignatureError(folder, f"the public key {public_key} cannot be read ({error})") from error
    try:
        config.set_hashing_config(_everything(folder)).verify(folder, folder / SIGNATURE)
    except Exception as error:  # the library raises many kinds; whatever it is, the release is not verified
        raise SignatureError(folder, f"its signature does not hold ({str(error) or type(error).__name__})") from error
    return read_statement(folder)


def read_statement(folder: Path) -> dict[str, Any]:
    """The statement of a folder, checked against the files that it lists.

    Raises:
        SignatureError: When it is missing, no statement, or does not fit the files.
    """
    try:
        statement = json.loads((folder / STATEMENT).read_text("utf-8"))
        listed = {item["name"]: item["digest"]["sha256"] for item in statement["subject"]}
        kind = (statement["_type"], statement["predicateType"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SignatureError(folder, f"its {STATEMENT} cannot be read ({error})") from error
    if kind != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise SignatureError(folder, f"its {STATEMENT} is of another kind: {kind[1]}")
    found = file_digests(folder)
    if listed != found:
        names = sorted(name for name in listed.keys() | found.keys() if listed.get(name) != found.get(name))
        raise SignatureError(folder, f"its files do not fit its statement: {', '.join(names)}")
    return statement


def _everything(folder: Path) -> Any:
    """Hashing of all files but the signature; git's files, which the library skips by default, included."""
    from model_signing import hashing

    # The path must be relative to the folder, and is: the library joins it.
    return hashing.Config().set_ignored_paths(paths=[Path(SIGNATURE)], ignore_git_paths=False)


# ── Releases in a store ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class ChainedRelease:
    """One release of the chain."""

    digest: str
    sequence: int
    previous: str | None


def head(store: Store) -> ChainedRelease | None:
    """The newest release; note its digest elsewhere, and a chain that lost releases can be told."""
    value = store.read_ref(HEAD_REF)
    return ChainedRelease(value["digest"], value["sequence"], value["previous"]) if value else None


def write(
    store: Store,
    folder: Path,
    *,
    report: Manifest,
    checkpoint: Manifest,
    verdict: Verdict,
    chain: Mapping[str, str],
) -> dict[str, Any]:
    """Writes the statement of a release folder, chained to the newest release of the store.

    Args:
        store: Knows the head of the chain.
        folder: The release folder, complete but for statement and signature.
        report: The report that allowed it.
        checkpoint: The model.
        verdict: The verdict in that report.
        chain: Product → manifest digest.

    Returns:
        Facts for the release's manifest: `sequence`, `previous`, `corpus`, `never_for_xrays`, `overrides`, `title`.
    """
    from dentsight_pipeline.store import log

    newest, logged = head(store), log.head(store)
    corpus = report.facts.get("corpus") or {}
    title = str(report.facts.get("title") or "dentsight model")
    sequence, previous = (newest.sequence + 1, newest.digest) if newest else (1, None)
    marked = never_for_xrays(verdict, corpus)
    if marked:
        (folder / WARNING).write_text(_WARNING_TEXT, "utf-8")
    repeated = ("recipe", "recipe_digest", "variant", "overrides", "classes", "image_size", "parameters", "healthy")
    statement = build_statement(
        folder,
        title=title,
        chain=chain,
        verdict=verdict,
        corpus=corpus,
        model={key: checkpoint.facts[key] for key in repeated if key in checkpoint.facts},
        previous=previous,
        sequence=sequence,
        log={"sequence": logged.sequence, "digest": logged.digest} if logged else None,
    )
    write_statement(folder, statement)
    return {
        "title": title,
        "sequence": sequence,
        "previous": previous,
        "corpus": dict(corpus),
        "never_for_xrays": marked,
        "overrides": [override.model_dump() for override in verdict.overrides],
    }


def sign(folder: Path, keys: Path) -> Path:
    """Signs with the key of the folder `keys`; a key is made when there is none."""
    return sign_release(folder, key_pair(keys).private)


def advance(store: Store, release: Manifest) -> ChainedRelease:
    """Makes a stored release the head of the chain. Doing it twice changes nothing.

    Raises:
        ReleaseError: When the release does not follow the present head: another one was released meanwhile.
        RefConflictError: The same, in the very instant.
    """
    made = ChainedRelease(release.digest, release.facts["sequence"], release.facts["previous"])
    before = store.read_ref(HEAD_REF)
    value = {"digest": made.digest, "sequence": made.sequence, "previous": made.previous}
    if before == value:
        return made
    if made.previous != (before["digest"] if before else None):
        raise ReleaseError(
            f"Release {made.digest[:12]} follows {(made.previous or 'nothing')[:12]}, but the newest release is "
            f"{(before['digest'] if before else 'none')[:12]}: another one was released meanwhile. Release again."
        )
    store.write_ref(HEAD_REF, value, expected=before)
    return made


def verify_chain(store: Store, expected_head: str | None = None) -> list[ChainedRelease]:
    """Walks the chain from its head to the first release.

    Args:
        store: Holds the releases.
        expected_head: A head noted earlier; it must be the present one or lie behind it.

    Returns:
        All releases, oldest first.

    Raises:
        SignatureError: When a release is missing, does not fit its successor, or the noted head is not in the chain.
        IntegrityError: When a stored manifest or statement was changed.
    """
    newest, walked = head(store), []
    digest, sequence = (newest.digest, newest.sequence) if newest else (None, 0)
    while digest is not None:
        statement = json.loads(store.get_bytes(store.get_manifest(digest).entries[STATEMENT].sha256))["predicate"]
        if statement["sequence"] != sequence:
            raise SignatureError(digest[:12], f"it says that it is release {statement['sequence']}, not {sequence}")
        walked.append(ChainedRelease(digest, sequence, statement["previous"]))
        digest, sequence = statement["previous"], sequence - 1
    if sequence != 0:
        raise SignatureError("The chain of releases", f"it ends {sequence} release(s) too early")
    if expected_head is not None and expected_head not in [item.digest for item in walked]:
        raise SignatureError("The chain of releases", f"the noted head {expected_head[:12]} is not in it")
    return walked[::-1]
