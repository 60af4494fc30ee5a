"""A release with everything that an audit of it needs, in one folder or tar that outlives this program.

    README.txt · verify.py · archive.json     what it is, and a check that needs Python's standard library alone
    release-key.pub                           the key that the release was signed with
    store/                                    a store like any other, of this chain: `dentsight audit` reads it

Of the other releases of the store, manifest and statement are there, and of the log all entries: both are chains, and a
chain holds only as a whole. The images are there; who must not hand them on hands on the dossier.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from io import BytesIO
from pathlib import Path

from dentsight_pipeline.documents.codec import plain
from dentsight_pipeline.documents.facts import ReleaseFacts
from dentsight_pipeline.documents.release import ChainedRelease
from dentsight_pipeline.errors import IntegrityError, ReleaseError, StorageError
from dentsight_pipeline.lineage import check_archive
from dentsight_pipeline.lineage.releases import require_release
from dentsight_pipeline.lineage.verify import Evidence, audit
from dentsight_pipeline.lineage.walk import Walk, name_of, walk
from dentsight_pipeline.progress import Progress
from dentsight_pipeline.release import champion, statement
from dentsight_pipeline.store import canonical
from dentsight_pipeline.store import log as logs
from dentsight_pipeline.store.files import made_whole
from dentsight_pipeline.store.manifest import Entry
from dentsight_pipeline.store.names import manifest_key, object_key, record_key, ref_key
from dentsight_pipeline.store.objects import Store

SCHEMA = "dentsight-archive/1"
SCRIPT = "verify.py"
_STORE = check_archive.STORE
_README = """\
{title}, release {release}

Everything that an audit of this release needs: the model, the report, the data that it was trained and measured on,
how each of them came about, and the log of the store that it was made in. Research only; not a medical device.

    python verify.py            hashes and chains, with Python's standard library alone
    pip install model-signing   beforehand, and the signature is verified too

Status 0: all of it holds. 4: all but the signature, which nobody looked at. 5: something is missing or was changed, and
the lines say what. Compare the digest, the head and the fingerprint that are printed with what was noted elsewhere: an
archive alone can prove that it is whole, not who made it.

With the package at hand: DENTSIGHT_STORE=store dentsight audit {release} --key release-key.pub
"""


@dataclass(frozen=True)
class Contents:
    """What goes into an archive."""

    store: Store
    walked: Walk
    public_key: Path

    @cached_property
    def log(self) -> logs.LogReading:
        """All of it: a chain holds only as a whole."""
        return logs.read(self.store)

    @cached_property
    def objects(self) -> dict[str, tuple[str, Entry]]:
        """What each object is, and the object, by digest."""
        found = {entry.sha256: (f"{path} of the {name_of(of)}", entry) for of, path, entry in self.walked.objects()}
        for digest in self.releases:
            entry = self.store.get_manifest(digest).entry(statement.STATEMENT)
            found.setdefault(entry.sha256, (f"{statement.STATEMENT} of the release {digest[:12]}", entry))
        return found

    @cached_property
    def releases(self) -> dict[str, ChainedRelease]:
        """All releases of the store by digest, oldest first."""
        return {item.digest: item for item in statement.verify_chain(self.store)}

    @property
    def images(self) -> list[Entry]:
        """The X-rays among the objects."""
        pictures = {e.sha256: e for _, path, e in self.walked.objects() if path.startswith("images/")}
        return list(pictures.values())

    @property
    def size(self) -> int:
        """Bytes of all objects."""
        return sum(entry.size for _, entry in self.objects.values())

    def members(self) -> Iterator[tuple[str, bytes | Entry]]:
        """Every file by its path in the archive."""
        beside = {check_archive.KEY: self.public_key.read_bytes(), "README.txt": self._readme().encode()}
        beside[SCRIPT] = Path(check_archive.__file__).read_bytes()
        yield from beside.items()
        yield check_archive.ABOUT, self._about(beside)
        for key, data in (*self._references(), *self._documents()):
            yield f"{_STORE}{key}", data
        for digest, (_, entry) in sorted(self.objects.items()):
            yield f"{_STORE}{object_key(digest)}", entry

    def _readme(self) -> str:
        facts = self.walked.products[self.walked.top].facts_as(ReleaseFacts)
        return _README.format(title=facts.title, release=self.walked.top)

    def _about(self, beside: Mapping[str, bytes]) -> bytes:
        files = {name: sha256(data).hexdigest() for name, data in beside.items()}
        about = {"schema": SCHEMA, "release": self.walked.top, "log_head": str(self.log.head), "files": files}
        return canonical.seal(about, "An archive")

    def _references(self) -> Iterator[tuple[str, bytes]]:
        newest = list(self.releases.values())[-1]
        values = {logs.HEAD_REF: plain(self.log.head), statement.HEAD_REF: plain(newest)}
        if kept := self.store.read_ref(champion.CHAMPION_REF):
            values[champion.CHAMPION_REF] = kept
        yield from ((ref_key(name), canonical.seal(value, name)) for name, value in values.items())

    def _documents(self) -> Iterator[tuple[str, bytes]]:
        """Manifests, records and log, byte for byte."""
        products = dict.fromkeys([*self.walked.products, *self.releases])
        keys = [manifest_key(digest) for digest in products]
        told = [entry for entry in self.log.entries if entry.product in products]
        keys += [record_key(entry.product, entry.record_digest) for entry in told]
        keys += [f"log/{entry.sequence:012d}.json" for entry in self.log.entries]
        yield from ((key, self._read(key)) for key in dict.fromkeys(keys))

    def _read(self, key: str) -> bytes:
        data = self.store.blobs.read(key)
        if data is None:
            raise IntegrityError(f"{key} of {self.store.uri}", "of what was written", None, "Audit the release.")
        return data

    def fetched(self, entry: Entry) -> Path:
        """A local file with an object's bytes, verified."""
        try:
            return self.store.local_path(entry.sha256)
        except IntegrityError as error:
            what, remedy = self.objects[entry.sha256][0], "Nothing was archived. Restore it from a backup."
            raise IntegrityError(what, entry.sha256, error.found, remedy) from error


def contents_of(store: Store, digest: str, public_key: Path) -> Contents:
    """What an archive of a release will hold.

    Args:
        store: Where everything is.
        digest: Of the release.
        public_key: The key that it was signed with.

    Raises:
        ConfigurationError: It is no release.
        ReleaseError: It is not intact as it is: manifests, records, log, signature or verdict.
    """
    require_release(store, digest)
    result = audit(store, digest, Evidence(public_key=public_key), bytes_of="top")
    if not result.intact:
        raise ReleaseError(f"Release {digest[:12]} is not intact, so nothing was archived: {result.findings[0]}")
    return Contents(store, walk(store, digest), public_key)


def write_archive(contents: Contents, out: Path, progress: Progress | None = None) -> int:
    """Write an archive, verify what was written, and only then give it its name.

    Args:
        contents: From `contents_of`.
        out: New folder, or new file ending in `.tar`.
        progress: Called with stage, done, total.

    Returns:
        How many files it has.

    Raises:
        ConfigurationError: There is something of that name.
        IntegrityError: An object is missing or was changed; the message says which.
        StorageError: The disk refused, or what was written does not verify.
    """
    say = progress or (lambda stage, done, total: None)
    with made_whole(out) as new:
        _require_room(contents, out.parent)
        files = (_into_tar if out.suffix == ".tar" else _into_folder)(contents, new, say)
        found = check_archive.check(new)
        if found.findings or not found.signed:
            problem = [*found.findings, "its signature."][0]
            raise StorageError(f"What was written does not verify: {problem} Try again.")
        os.sync()
    return files


def _require_room(contents: Contents, folder: Path) -> None:
    if (free := shutil.disk_usage(folder).free) < contents.size:
        needed = f"needs {contents.size / 1e9:.2f} GB, but {free / 1e9:.2f} GB are free"
        raise StorageError(f"The archive {needed} in {folder}. Nothing was written; choose another folder.")


def _into_folder(contents: Contents, folder: Path, say: Progress) -> int:
    done = count = 0
    for count, (name, content) in enumerate(contents.members(), start=1):  # noqa: B007 - the number of files
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
            continue
        shutil.copyfile(contents.fetched(content), target)
        say("bytes", done := done + content.size, contents.size)
    return count


def _into_tar(contents: Contents, file: Path, say: Progress) -> int:
    """The same bytes for the same contents: no times, no owners."""
    done = count = 0
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as tar:
        for count, (name, content) in enumerate(contents.members(), start=1):  # noqa: B007 - the number of files
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
                tar.addfile(member, BytesIO(content))
                continue
            member.size = content.size
            with contents.fetched(content).open("rb") as source:
                tar.addfile(member, source)
            say("bytes", done := done + content.size, contents.size)
    return count
