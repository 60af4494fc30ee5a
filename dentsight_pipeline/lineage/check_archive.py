"""Verifies an archive of a release, offline: `python verify.py [ARCHIVE]`, a folder or a tar; default: where this lies.

    0  everything holds, the signature included
    4  every byte and every chain holds, but the signature could not be looked at (`pip install model-signing`)
    5  something is missing or was changed; each finding says what

Hashes and chains need Python's standard library alone, whatever became of the package that wrote the archive. It can
only vouch for itself: compare the release's digest, the head and the key's fingerprint that are printed with what you
noted elsewhere (--release, --head, --key).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

JSON = Any
"""Whatever a document says: this script knows no types but its own."""

INTACT, UNSIGNED, BROKEN = 0, 4, 5
ABOUT, KEY, SIGNATURE, STATEMENT = "archive.json", "release-key.pub", "release.sig", "statement.json"
STORE = "store/"
_WORKING = (f"{STORE}tmp/", f"{STORE}locks/")
"""What a program that opens the store makes; empty files that say nothing."""
_LOG = re.compile(rf"{STORE}log/(\d{{12}})\.json")
_RECORD = re.compile(rf"{STORE}records/([0-9a-f]{{64}})/([0-9a-f]{{64}})\.json")


class Files:
    """The files of a folder or tar, by their path in it."""

    def __init__(self, place: Path) -> None:
        self.place, self.tar = place, None if place.is_dir() else tarfile.open(place)  # noqa: SIM115 - read to the end
        if self.tar is None:
            found = {path.relative_to(place).as_posix(): path for path in place.rglob("*") if not path.is_dir()}
        else:
            found = {member.name: member for member in self.tar.getmembers() if not member.isdir()}
        self.found: dict[str, JSON] = found

    def opened(self, name: str) -> IO[bytes]:
        """A file to read; KeyError where there is none, or no plain one."""
        there = self.found[name]
        if isinstance(there, tarfile.TarInfo):
            file = self.tar.extractfile(there) if self.tar and there.isreg() else None
        else:
            file = there.open("rb") if there.is_file() and not there.is_symlink() else None
        if file is None:
            raise KeyError(name)
        return file

    def read(self, name: str) -> bytes:
        """All of a file."""
        with self.opened(name) as file:
            return file.read()

    def digest(self, name: str) -> tuple[str, int]:
        """sha256 and size of a file."""
        hasher, size = hashlib.sha256(), 0
        with self.opened(name) as file:
            while block := file.read(1 << 20):
                hasher.update(block)
                size += len(block)
        return hasher.hexdigest(), size


class Check:
    """One verification: what was reached, what is wrong."""

    files: Files

    def __init__(self) -> None:
        self.findings: list[str] = []
        self.reached: set[str] = {ABOUT}
        self.manifests: dict[str, JSON] = {}
        self.log: list[dict[str, JSON]] = []
        self.heads: list[str] = []
        self.about: dict[str, JSON] = {}
        self.signed: bool | None = None

    def all(self, place: Path, key: Path | None = None) -> Check:
        """Everything, from the archive's own description down to the last byte."""
        self.files = Files(place)
        self.about = self._sealed(ABOUT) or {}
        for name, digest in self.about.get("files", {}).items():
            self._hashed(name, digest, name)
        self._read_log()
        self._chain(str(self.about.get("release")))
        self._releases()
        self._records()
        self._sealed(f"{STORE}refs/release/champion.json", optional=True)
        strange = sorted({*self.files.found} - self.reached)
        self.findings += [f"{name} is not part of the archive." for name in strange if not name.startswith(_WORKING)]
        if not self.findings:
            self._signature(key)
        return self

    def _bytes(self, name: str, what: str) -> bytes | None:
        """A file, or a finding."""
        self.reached.add(name)
        try:
            return self.files.read(name)
        except (KeyError, OSError):
            self.findings.append(f"{what} is missing: no {name}.")
            return None

    def _hashed(self, name: str, digest: str, what: str, size: int | None = None) -> bool:
        """Whether a file is the one of a digest; a finding where it is not."""
        self.reached.add(name)
        try:
            found, length = self.files.digest(name)
        except (KeyError, OSError):
            self.findings.append(f"{what} is missing: no {name}.")
            return False
        if found != digest:
            self.findings.append(f"{what} was changed: {name} hashes to {found}, not to {digest}.")
        elif size not in (None, length):
            self.findings.append(f"{what} has {length} bytes, not {size}.")
        return found == digest

    def _sealed(self, name: str, *, optional: bool = False) -> JSON:
        """The value of a document that carries its own digest."""
        if optional and name not in self.files.found:
            return None
        data: bytes | None = self._bytes(name, name)
        document: dict[str, JSON] = {}
        try:
            document = json.loads(data or b"")
            text = json.dumps(document["value"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            whole = hashlib.sha256(text.encode()).hexdigest() == document["sha256"]
            whole = whole and data == f'{{"sha256":"{document["sha256"]}","value":{text}}}'.encode()
        except (ValueError, KeyError, TypeError):
            whole = False
        if data is not None and not whole:
            self.findings.append(f"{name} was changed: it does not carry its own digest.")
        return document["value"] if whole else None

    # The log ---------------------------------------------------------------------------------------------------------

    def _read_log(self) -> None:
        """Every entry names the one before it, up to the head that is noted."""
        for number in range(1, 1 + sum(1 for name in self.files.found if _LOG.fullmatch(name))):
            data = self._bytes(f"{STORE}log/{number:012d}.json", f"Entry {number} of the log")
            if data is None or not self._follows(number, data):
                return
        head, noted = self.heads[-1] if self.heads else None, self._sealed(f"{STORE}refs/lineage/head.json")
        told = f"{noted.get('sequence')}:{noted.get('digest')}" if isinstance(noted, dict) else None
        if head is None or head != told or head != self.about.get("log_head"):
            self.findings.append(f"The log was cut off or changed: it ends at {head}, its noted head is {told}.")

    def _follows(self, number: int, data: bytes) -> bool:
        """Whether an entry hangs together with the one before; it is kept when it does."""
        entry: dict[str, JSON] = {}
        try:
            entry = json.loads(data)
            before = self.heads[-1].partition(":")[2] if self.heads else None
            fits = (entry["sequence"], entry["previous"]) == (number, before) and {"product", "record"} <= entry.keys()
        except (ValueError, KeyError, TypeError, AttributeError):
            fits = False
        if fits:
            self.log.append(entry)
            self.heads.append(f"{number}:{hashlib.sha256(data).hexdigest()}")
        else:
            self.findings.append(f"Entry {number} of the log, or the one before it, was changed: they do not fit.")
        return fits

    # Products --------------------------------------------------------------------------------------------------------

    def _chain(self, top: str) -> None:
        """Every manifest from the release down, and every object that they name."""
        waiting, raw = [(top, "The release")], False
        while waiting:
            digest, what = waiting.pop(0)
            if digest in self.manifests or (manifest := self._manifest(digest, what)) is None:
                continue
            raw = raw or manifest["kind"] == "raw-export"
            self._objects(manifest, digest, manifest["entries"])
            name = f"{manifest['kind']} {digest[:12]}"
            chain = manifest["facts"].get("chain") or {}
            below = {**chain, **manifest["inputs"]}
            waiting += [(named, f"The {asset} of the {name}") for asset, named in below.items()]
        if not raw:
            self.findings.append("The chain does not reach a raw export.")

    def _manifest(self, digest: str, what: str) -> JSON:
        name = f"{STORE}manifests/{digest[:2]}/{digest}.json"
        if not self._hashed(name, digest, f"{what} ({digest[:12]})"):
            return None
        self.manifests[digest] = json.loads(self.files.read(name))
        return self.manifests[digest]

    def _objects(self, manifest: JSON, digest: str, paths: Iterable[str]) -> None:
        for path in paths:
            entry, of = manifest["entries"][path], f"{path} of the {manifest['kind']} {digest[:12]}"
            name = f"{STORE}objects/{entry['sha256'][:2]}/{entry['sha256']}"
            if name not in self.reached:
                self._hashed(name, entry["sha256"], of, entry["size"])

    # Releases --------------------------------------------------------------------------------------------------------

    def _releases(self) -> None:
        """The chain of releases, each by its manifest and statement; the one of the archive says what it holds."""
        newest = self._sealed(f"{STORE}refs/release/head.json") or {}
        digest, sequence, seen = newest.get("digest"), newest.get("sequence", 0), set()
        while digest is not None and (said := self._statement(digest)) is not None:
            seen.add(digest)
            if said["sequence"] != sequence:
                self.findings.append(f"Release {digest[:12]} says that it is number {said['sequence']}.")
                return
            digest, sequence = said["previous"], sequence - 1
        if self.about.get("release") not in seen:
            self.findings.append("The release is not in the chain of releases.")

    def _statement(self, digest: str) -> JSON:
        manifest = self.manifests.get(digest) or self._manifest(digest, "A release")
        if manifest is None:
            return None
        self._objects(manifest, digest, [STATEMENT])
        entry = manifest["entries"][STATEMENT]["sha256"]
        data = self._bytes(f"{STORE}objects/{entry[:2]}/{entry}", f"{STATEMENT} of {digest[:12]}")
        said = json.loads(data) if data and hashlib.sha256(data).hexdigest() == entry else None
        if said and digest == self.about.get("release"):
            self.findings += self._said(manifest, said)
        return said and said["predicate"]

    def _said(self, manifest: JSON, statement: JSON) -> Iterator[str]:
        """Where a release's statement is not about the files, products and log that are here."""
        signed = {p: e["sha256"] for p, e in manifest["entries"].items() if p not in (STATEMENT, SIGNATURE)}
        if {item["name"]: item["digest"]["sha256"] for item in statement["subject"]} != signed:
            yield "The release's statement lists other files than the release holds."
        named = {item["name"]: item["digest"]["sha256"] for item in statement["predicate"]["inputs"]}
        if named != manifest["facts"]["chain"]:
            yield "The release's statement names other products than the release was made from."
        logged = statement["predicate"]["log"]
        if logged and f"{logged['sequence']}:{logged['digest']}" not in self.heads:
            yield f"The log was cut off or written anew: entry {logged['sequence']} is not the one that was signed."

    def _records(self) -> None:
        """Beside each product lies what the log says of it, no more and no less."""
        beside: dict[str, list[JSON]] = {}
        for match in filter(None, map(_RECORD.fullmatch, self.files.found)):
            name, (product, digest) = match.string, match.groups()
            if self._hashed(name, digest, f"A record of {product[:12]}"):
                beside.setdefault(product, []).append(json.loads(self.files.read(name)))
        for product in {*beside, *self.manifests}:
            told = [entry["record"] for entry in self.log if entry["product"] == product]
            lacking = [record for record in told if record not in beside.get(product, [])]
            more = [record for record in beside.get(product, []) if record not in told]
            if lacking or more:
                what = "is missing" if lacking else "is not in the log"
                self.findings.append(f"A record of how {product[:12]} came about {what}.")

    def _signature(self, key: Path | None) -> None:
        """The signature over the release's files, laid out as they were signed."""
        try:
            from model_signing import hashing, verifying
        except ImportError:
            return
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "release"
            self._lay_out(folder)
            public = key or Path(temporary) / KEY
            if key is None:
                public.write_bytes(self.files.read(KEY))
            try:
                config = hashing.Config().set_ignored_paths(paths=[Path(SIGNATURE)], ignore_git_paths=False)
                verifier = verifying.Config().use_elliptic_key_verifier(public_key=public)
                verifier.set_hashing_config(config).verify(folder, folder / SIGNATURE)
                self.signed = True
            except Exception as error:  # of many kinds; whatever it is, it was not verified
                self.findings.append(f"The release's signature does not hold: {str(error) or type(error).__name__}.")

    def _lay_out(self, folder: Path) -> None:
        for path, entry in self.manifests[self.about["release"]]["entries"].items():
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise SystemExit(f"The release holds a file that would leave its folder: {path}.")
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            name = f"{STORE}objects/{entry['sha256'][:2]}/{entry['sha256']}"
            with self.files.opened(name) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file)


def check(place: Path, key: Path | None = None) -> Check:
    """Verify an archive; whatever cannot be read in it is a finding."""
    found = Check()
    try:
        return found.all(place, key)
    except (KeyError, TypeError, ValueError, AttributeError, tarfile.TarError, OSError) as error:
        found.findings.append(f"The archive, or a document in it, does not have its form ({error!r}).")
        return found


def main() -> int:
    """Verify, and say what was found."""
    parser = argparse.ArgumentParser(description="Verify an archived release offline.")
    parser.add_argument("archive", nargs="?", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--release", help="the release's digest, as you noted it elsewhere")
    parser.add_argument("--head", help="a head of the log, as you noted it elsewhere")
    parser.add_argument("--key", type=Path, help="the signer's public key, from a place that you trust")
    asked = parser.parse_args()
    if not asked.archive.exists():
        sys.stdout.write(f"NOT INTACT: there is nothing at {asked.archive}. Give an archive, a folder or a tar.\n")
        return BROKEN
    found = check(asked.archive, asked.key)
    release, findings = str(found.about.get("release")), found.findings
    if asked.release and asked.release != release:
        findings.append(f"It holds release {release}, not {asked.release}.")
    if asked.head and asked.head not in found.heads:
        findings.append(f"The log does not hold the noted head {asked.head}.")
    key = found.about.get("files", {}).get(KEY)
    told = [f"Release {release}", f"Head of the log {found.about.get('log_head')}", f"sha256 of {KEY} {key}"]
    told += [f"{len(found.manifests)} products, {len(found.reached)} files, {len(found.log)} entries of the log"]
    signature = "The signature holds." if found.signed else "The signature was NOT verified: pip install model-signing."
    verdict = ["NOT INTACT:", *(f"- {line}" for line in findings)] if findings else ["Intact.", signature]
    sys.stdout.write("\n".join([*told, *verdict]) + "\n")
    return BROKEN if findings else INTACT if found.signed else UNSIGNED


if __name__ == "__main__":
    sys.exit(main())
