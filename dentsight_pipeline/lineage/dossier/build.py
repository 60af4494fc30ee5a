"""Writing a dossier, and checking one: built again from the store, and every byte that it names hashed again."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from dentsight_pipeline.data.croissant import croissant_of
from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.dossier import (
    BOM,
    DOSSIER,
    ENVELOPE,
    PAGE,
    PROVENANCE,
    Dossier,
    DossierChecked,
    LicenceLine,
    Section,
)
from dentsight_pipeline.documents.licences import terms_of
from dentsight_pipeline.documents.names import Asset
from dentsight_pipeline.documents.report import VERDICT
from dentsight_pipeline.errors import ConfigurationError, DataError, ReleaseError
from dentsight_pipeline.lineage.dossier import annex, bom, slsa
from dentsight_pipeline.lineage.dossier.case import Case, stands
from dentsight_pipeline.lineage.releases import require_release
from dentsight_pipeline.lineage.verify import Evidence, audit
from dentsight_pipeline.progress import Progress
from dentsight_pipeline.release import envelope
from dentsight_pipeline.release.report.page import render
from dentsight_pipeline.store.files import made_whole, refuse_existing
from dentsight_pipeline.store.objects import Store

CROISSANT = "croissant.json"


def write_dossier(
    store: Store, digest: str, out: Path, public_key: Path, private_key: Path | None, progress: Progress | None = None
) -> Dossier:
    """Write the evidence file of a release into a new folder, whole or not at all.

    Args:
        store: Where everything is.
        digest: Of the release.
        out: The new folder.
        public_key: The key that the release was signed with.
        private_key: Signs the provenance; None leaves it unsigned.
        progress: Called with stage, done, total.

    Raises:
        ConfigurationError: It is no release, or the folder exists.
        ReleaseError: The audit finds something.
        StorageError: The disk refused.
    """
    refuse_existing(out)  # before a long audit
    require_release(store, digest)
    result = audit(store, digest, Evidence(public_key=public_key), progress=progress)
    if not result.intact:
        raise ReleaseError(f"Release {digest[:12]} is not intact, so nothing can be evidenced: {result.findings[0]}")
    dossier, files = build(Case(store, digest), frozenset(item.digest for item in result.chain))
    if private_key is not None:
        files[ENVELOPE] = envelope.signed(files[PROVENANCE], private_key)
    with made_whole(out) as new:
        new.mkdir()
        for name, data in files.items():
            (new / name).write_bytes(data)
    return dossier


def build(case: Case, audited: frozenset[str]) -> tuple[Dossier, dict[str, bytes]]:
    """The dossier and its files but the signed envelope, the same bytes for the same release.

    Raises:
        DataError: A point cites what the audit did not look at.
    """
    sections = annex.sections_of(case)
    _require_audited(sections, audited)
    beside = {BOM: bom.bom_of(case), PROVENANCE: slsa.provenance_of(case), CROISSANT: croissant_of(case.subset)}
    points = [point for section in sections for point in section.points]
    licences = dict(case.said.licences or {})
    dossier = Dossier(
        release=case.digest,
        title=case.facts.title,
        verdict=case.facts.verdict,
        never_for_xrays=case.facts.never_for_xrays,
        log_head=f"{case.said.log.sequence}:{case.said.log.digest}" if case.said.log else "",
        evidenced=sum(point.says is not None for point in points),
        points=len(points),
        sections=sections,
        licences=tuple(_licence(what, licence) for what, licence in licences.items()),
        licence_evidence=case.cite(case.product(Asset.RELEASE_REPORT), VERDICT)[0],
        bom=bom.completeness(beside[BOM]),
        files={name: sha256(data).hexdigest() for name, data in beside.items()},
    )
    page = render("dossier.html.j2", d=dossier).encode()
    return dossier, {DOSSIER: codec.pretty(dossier), PAGE: page, **beside}


def _require_audited(sections: tuple[Section, ...], audited: frozenset[str]) -> None:
    for cited in (cited for section in sections for point in section.points for cited in point.evidence):
        if cited.digest not in audited:
            raise DataError(f"{cited.name} ({cited.digest[:12]}) is cited, but no audit of the release looks at it.")


def _licence(what: str, licence: str) -> LicenceLine:
    allows = terms_of(licence).allows
    return LicenceLine(what=what, licence=licence, allows=None if allows is None else tuple(sorted(allows)))


# The check -----------------------------------------------------------------------------------------------------------


def check_dossier(store: Store, folder: Path, public_key: Path, progress: Progress | None = None) -> DossierChecked:
    """Is a dossier what the store gives today, and is every byte that it names what it was?

    Args:
        store: Where the release is, or an archive's `store/`.
        folder: The dossier.
        public_key: The key that the release was signed with.
        progress: Called with stage, done, total.

    Raises:
        ConfigurationError: The folder holds no dossier.
    """
    kept = read_dossier(folder)
    findings = [*_unlike(kept, folder), *_fallen(store, kept)]
    result = audit(store, kept.release, Evidence(public_key=public_key), progress=progress)
    findings += [f"The audit of the release: {finding}" for finding in result.findings]
    if result.intact:
        findings += _differences(store, kept, folder, public_key, frozenset(item.digest for item in result.chain))
    return DossierChecked(release=kept.release, intact=not findings, findings=tuple(dict.fromkeys(findings)))


def read_dossier(folder: Path) -> Dossier:
    """What a folder says of a release.

    Raises:
        ConfigurationError: It holds no dossier.
    """
    if not (folder / DOSSIER).is_file():
        raise ConfigurationError(f"{folder} holds no {DOSSIER}. Give a folder that `dentsight dossier` wrote.")
    return codec.read((folder / DOSSIER).read_bytes(), Dossier, folder / DOSSIER)


def _unlike(kept: Dossier, folder: Path) -> Iterator[str]:
    """Files beside the dossier that are not those that it names."""
    for name, digest in kept.files.items():
        path = folder / name
        if not path.is_file():
            yield f"{name} is missing."
        elif (found := sha256(path.read_bytes()).hexdigest()) != digest:
            yield f"{name} was changed: its bytes hash to {found}, not to {digest}."


def _fallen(store: Store, kept: Dossier) -> Iterator[str]:
    """Points whose evidence does not stand any more."""
    for point in (point for section in kept.sections for point in section.points):
        for cited in point.evidence:
            if problem := stands(store, cited):
                yield f"Point {point.id}, {point.asks}: {cited.name} ({cited.digest[:12]}) {problem}."


def _differences(store: Store, kept: Dossier, folder: Path, public_key: Path, audited: frozenset[str]) -> Iterator[str]:
    """Where the dossier says otherwise than one that is built now."""
    again, files = build(Case(store, kept.release), audited)
    for old, new in zip(kept.sections, again.sections, strict=False):
        for said, given in zip(old.points, new.points, strict=False):
            if said != given:
                yield f"Point {said.id}, {said.asks}: it says {said.says!r}, the release gives {given.says!r}."
    changed = [name for name, data in files.items() if _bytes(folder / name) != data]
    yield from (f"{name} is not the one that the release gives." for name in changed)
    sealed = _bytes(folder / ENVELOPE)
    if sealed is not None and envelope.unsealed(sealed, public_key.read_bytes()) != files[PROVENANCE]:
        yield f"{ENVELOPE} is not signed with the key, or says otherwise than {PROVENANCE}."
    yield from (f"{path.name} is not part of the dossier." for path in _others(folder, files))


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _others(folder: Path, files: dict[str, bytes]) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.name not in (*files, ENVELOPE)]
