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
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET

from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.facts import CheckpointFacts, Corpus, ReleaseFacts, ReportFacts
from dentsight_pipeline.documents.names import Asset, CorpusKind
from dentsight_pipeline.documents.release import (
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    ChainedRelease,
    Digest,
    LogPlace,
    Named,
    NamedPolicy,
    Predicate,
    ReleasedModel,
    Statement,
)
from dentsight_pipeline.documents.verdict import Verdict
from dentsight_pipeline.errors import DocumentError, ReleaseError, SignatureError
from dentsight_pipeline.release.keys import key_pair
from dentsight_pipeline.store import log
from dentsight_pipeline.store.content import read_bytes

if TYPE_CHECKING:
    from model_signing import hashing

    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

STATEMENT = "statement.json"
SIGNATURE = "release.sig"
UNLISTED = (STATEMENT, SIGNATURE)
"""What a statement cannot list: itself, and what signs it."""
WARNING = "NEVER-FOR-X-RAYS.txt"
HEAD_REF = "release/head"

_WARNING_TEXT = (
    "NEVER FOR X-RAYS\n\n"
    "This model was trained on drawn images or released under floors made for them. It drives tests of the release\n"
    "path. It must never be used on X-rays of people, for research or otherwise.\n"
)


def build_statement(
    folder: Path,
    *,
    title: str,
    chain: Mapping[str, str],
    verdict: Verdict,
    corpus: Corpus | None,
    model: ReleasedModel,
    follows: ChainedRelease | None = None,
    logged: log.Head | None = None,
    approved_by: tuple[str, ...] = (),
) -> Statement:
    """What a release says about itself.

    Args:
        folder: The release folder, complete but for statement and signature.
        title: What is released.
        chain: Product → digest of its manifest, report included.
        verdict: The verdict that allowed it.
        corpus: What the model was made from.
        model: Facts of the checkpoint worth repeating.
        follows: The release before, or None for the first.
        logged: Newest entry of the store's log, so that what the log says of the products cannot be removed
            afterwards without breaking what was signed; None where nothing was logged.
        approved_by: Who approved it, where policy or plan ask for that.
    """
    policy = NamedPolicy(
        name=verdict.policy, version=verdict.policy_version, digest=Digest(sha256=verdict.policy_digest)
    )
    predicate = Predicate(
        title=title,
        inputs=_named(dict(sorted(chain.items()))),
        policy=policy,
        verdict=verdict.outcome,
        overrides=verdict.overrides,
        ground_truth=verdict.ground_truth_sha256,
        detections=verdict.detections_sha256,
        champion=verdict.champion,
        corpus=corpus,
        model=model,
        never_for_xrays=never_for_xrays(verdict, corpus),
        sequence=follows.sequence + 1 if follows else 1,
        previous=follows.digest if follows else None,
        log=LogPlace(sequence=logged.sequence, digest=logged.digest) if logged else None,
        licences=verdict.licences or UNSET,
        plan=chain.get(Asset.PLAN, UNSET),
        approved_by=approved_by or UNSET,
    )
    return Statement(subject=_named(file_digests(folder)), predicate=predicate)


def _named(digests: Mapping[str, str]) -> tuple[Named, ...]:
    return tuple(Named(name=name, digest=Digest(sha256=digest)) for name, digest in digests.items())


def digests_of(named: tuple[Named, ...]) -> dict[str, str]:
    """sha256 by name."""
    return {item.name: item.digest.sha256 for item in named}


def never_for_xrays(verdict: Verdict, corpus: Corpus | None) -> bool:
    """True for a policy made for drawn images, and for a model made from them whatever the policy."""
    return verdict.never_for_xrays or corpus is None or corpus.kind == CorpusKind.PHANTOM


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
        if path.is_file() and name not in UNLISTED:
            with path.open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def write_statement(folder: Path, statement: Statement) -> Path:
    """Writes `statement.json`, the same bytes for the same content."""
    path = folder / STATEMENT
    path.write_bytes(codec.pretty(statement))
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


def verify_release(folder: Path, public_key: Path) -> Statement:
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


def read_statement(folder: Path) -> Statement:
    """The statement of a folder, checked against the files that it lists.

    Raises:
        SignatureError: When it is missing, no statement, or does not fit the files.
    """
    try:
        statement = codec.read((folder / STATEMENT).read_bytes(), Statement, folder / STATEMENT)
    except (OSError, DocumentError) as error:
        raise SignatureError(folder, f"its {STATEMENT} cannot be read ({error})") from error
    if (statement.type_, statement.predicate_type) != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise SignatureError(folder, f"its {STATEMENT} is of another kind: {statement.predicate_type}")
    listed, found = digests_of(statement.subject), file_digests(folder)
    if listed != found:
        names = sorted(name for name in listed.keys() | found.keys() if listed.get(name) != found.get(name))
        raise SignatureError(folder, f"its files do not fit its statement: {', '.join(names)}")
    return statement


def _everything(folder: Path) -> hashing.Config:
    """Hashing of all files but the signature; git's files, which the library skips by default, included."""
    from model_signing import hashing

    # The path must be relative to the folder, and is: the library joins it.
    return hashing.Config().set_ignored_paths(paths=[Path(SIGNATURE)], ignore_git_paths=False)


# Releases in a store -------------------------------------------------------------------------------------------------


def head(store: Store) -> ChainedRelease | None:
    """The newest release; note its digest elsewhere, and a chain that lost releases can be told."""
    value = store.read_ref(HEAD_REF)
    return codec.convert(value, ChainedRelease, f"reference {HEAD_REF}") if value else None


def statement_of(store: Store, release: Manifest) -> Statement:
    """The statement that a stored release holds.

    Raises:
        DocumentError: It is none.
        IntegrityError: Its bytes were changed.
    """
    return codec.read(read_bytes(store, release, STATEMENT), Statement, f"{STATEMENT} of {release.digest[:12]}")


def write(
    store: Store,
    folder: Path,
    *,
    report: Manifest,
    checkpoint: Manifest,
    verdict: Verdict,
    chain: Mapping[str, str],
    approved_by: tuple[str, ...] = (),
) -> ReleaseFacts:
    """Writes the statement of a release folder, chained to the newest release of the store.

    Args:
        store: Knows the head of the chain.
        folder: The release folder, complete but for statement and signature.
        report: The report that allowed it.
        checkpoint: The model.
        verdict: The verdict in that report.
        chain: Product → manifest digest.
        approved_by: Who approved it, where policy or plan ask for that.

    Returns:
        Facts for the release's manifest.
    """
    told, trained = report.facts_as(ReportFacts), checkpoint.facts_as(CheckpointFacts)
    marked = never_for_xrays(verdict, told.corpus)
    if marked:
        (folder / WARNING).write_text(_WARNING_TEXT, "utf-8")
    statement = build_statement(
        folder,
        title=told.title,
        chain=chain,
        verdict=verdict,
        corpus=told.corpus,
        model=ReleasedModel(**{name: getattr(trained, name) for name in ReleasedModel.__struct_fields__}),
        follows=head(store),
        logged=log.head(store),
        approved_by=approved_by,
    )
    write_statement(folder, statement)
    return ReleaseFacts(
        title=told.title,
        sequence=statement.predicate.sequence,
        previous=statement.predicate.previous,
        corpus=told.corpus,
        never_for_xrays=marked,
        overrides=verdict.overrides,
        chain=chain,
        verdict=verdict.outcome,
    )


def sign(folder: Path, keys: Path) -> Path:
    """Signs with the key of the folder `keys`; a key is made when there is none."""
    return sign_release(folder, key_pair(keys).private)


def advance(store: Store, release: Manifest) -> ChainedRelease:
    """Makes a stored release the head of the chain. Doing it twice changes nothing.

    Raises:
        ReleaseError: When the release does not follow the present head: another one was released meanwhile.
        RefConflictError: The same, in the very instant.
    """
    facts, before = release.facts_as(ReleaseFacts), head(store)
    made = ChainedRelease(digest=release.digest, sequence=facts.sequence, previous=facts.previous)
    if made == before:
        return made
    if made.previous != (before.digest if before else None):
        raise ReleaseError(
            f"Release {made.digest[:12]} follows {(made.previous or 'nothing')[:12]}, but the newest release is "
            f"{(before.digest if before else 'none')[:12]}: another one was released meanwhile. Release again."
        )
    store.write_ref(HEAD_REF, codec.plain(made), expected=codec.plain(before) if before else None)
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
        said = statement_of(store, store.get_manifest(digest)).predicate
        if said.sequence != sequence:
            raise SignatureError(digest[:12], f"it says that it is release {said.sequence}, not {sequence}")
        walked.append(ChainedRelease(digest=digest, sequence=sequence, previous=said.previous))
        digest, sequence = said.previous, sequence - 1
    if sequence != 0:
        raise SignatureError("The chain of releases", f"it ends {sequence} release(s) too early")
    if expected_head is not None and expected_head not in [item.digest for item in walked]:
        raise SignatureError("The chain of releases", f"the noted head {expected_head[:12]} is not in it")
    return walked[::-1]
