"""What an export says about itself: project, version, licence, format, and whether it is the phantom corpus.

Add a field here when Roboflow's READMEs or settings name it. Nothing here is about a single image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from dentsight_pipeline.data.privacy import redact
from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.facts import Corpus, Source
from dentsight_pipeline.documents.licences import together
from dentsight_pipeline.documents.names import PHANTOM_MARKER, CorpusKind
from dentsight_pipeline.intake.records import Export

_UNIVERSE = re.compile(r"https?://universe\.roboflow\.com/([\w-]+)/([\w-]*)(?:/(?:dataset/)?(\d+))?")


def source_identity(export: Export, known: Mapping[str, str | int] | None = None) -> Source:
    """Workspace, project, version and so on, as far as the export names them.

    Args:
        export: What was read.
        known: Facts from elsewhere, e.g. Roboflow's API; they win.

    Returns:
        What is said, identifiers masked.
    """
    dataset, roboflow = export.readmes.get("README.dataset.txt", ""), export.readmes.get("README.roboflow.txt", "")
    found: dict[str, str] = {}
    if match := _UNIVERSE.search(dataset + "\n" + export.info.get("url", "")):
        found |= {"workspace": match[1], "project": match[2], "version": match[3] or "", "url": match[0]}
    if match := re.search(r"^\s*#\s*(.+?)(?:\s*>\s*.*)?$", dataset, re.MULTILINE):
        found["name"] = match[1]
    if match := re.search(r"^\s*(\S.*?)\s+-\s+v(\d+)\b.*$", roboflow, re.MULTILINE):
        found |= {"name": match[1], "version": match[2]}
    if match := re.search(r"exported via roboflow\.com on (.+)", roboflow):
        found["exported_at"] = match[1].strip()
    if match := re.search(r"annotated in (.+?) format", roboflow):
        found["annotation_format"] = match[1]
    found["licence"] = _licence(export, dataset + "\n" + roboflow)
    found |= {key: export.info[key] for key in ("workspace", "project", "version", "url") if key in _roboflow(export)}
    found |= {key: str(value) for key, value in (known or {}).items()}
    told: dict[str, str | int] = {key: redact(value) for key, value in found.items() if value}
    if versions := declared_versions(export):
        told["versions"] = versions
    return codec.convert(told, Source, "the export's identity")


def declared_versions(export: Export) -> int:
    """How many versions of each source image an export says it holds; 0 when it says nothing."""
    found = re.search(r"create (\d{1,3}) versions? of each source image", export.readmes.get("README.roboflow.txt", ""))
    return int(found[1]) if found and int(found[1]) > 1 else 0


def is_resized(export: Export) -> bool:
    """Whether the export says that its images were given one size."""
    return re.search(r"^\* Resize to ", export.readmes.get("README.roboflow.txt", ""), re.MULTILINE) is not None


def corpus(export: Export, identity: Source, declared: str = "", pictures: str = "") -> Corpus:
    """The corpus as every report names it; a licence that its owner declares stands beside the export's own."""
    lines = [line.strip().lstrip("# ").strip() for line in export.readmes.get("README.dataset.txt", "").splitlines()]
    licence = together(identity.licence, declared) if declared else identity.licence or "unknown"
    if PHANTOM_MARKER in lines:
        return Corpus(kind=CorpusKind.PHANTOM, name=PHANTOM_MARKER, licence=licence)
    kind = CorpusKind.ROBOFLOW if _is_of_roboflow(export, identity) else CorpusKind.EXPORT
    version = f" v{identity.version}" if identity.version else ""
    name = identity.name or identity.project or "unnamed export"
    return Corpus(kind=kind, name=f"{name}{version}", licence=licence, pictures=pictures)


def _is_of_roboflow(export: Export, identity: Source) -> bool:
    """By what it says, or by the names of its files."""
    said = " ".join(
        (*export.readmes, *export.readmes.values(), *export.info, *export.info.values(), identity.workspace)
    )
    paths = (image.path for split in export.splits for image in split.images[:1])
    return "roboflow" in said.lower() or bool(identity.workspace) or any(".rf." in path for path in paths)


def _licence(export: Export, text: str) -> str:
    if match := re.search(r"^\s*Licen[cs]e:\s*(.+?)\s*$", text, re.MULTILINE | re.IGNORECASE):
        return match[1]
    return ", ".join(export.license_names)


def _roboflow(export: Export) -> Mapping[str, str]:
    """The `roboflow` block of data.yaml; a COCO file's `info` block has other meanings for the same words."""
    return export.info if export.layout == "yolo" else {}
