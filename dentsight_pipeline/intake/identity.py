"""What an export says about itself: project, version, licence, format, and whether it is the phantom corpus.

Add a field here when Roboflow's READMEs or settings name it. Nothing here is about a single image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dentsight_pipeline.data.coco import Export
from dentsight_pipeline.data.privacy import redact

PHANTOM_LINE = "dentsight phantom corpus (synthetic, not clinical data)"
"""The line of README.dataset.txt that makes an export the phantom corpus, and nothing else does."""

_UNIVERSE = re.compile(r"https?://universe\.roboflow\.com/([\w-]+)/([\w-]*)(?:/(?:dataset/)?(\d+))?")


def source_identity(export: Export, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Workspace, project, version and so on, as far as the export names them.

    Args:
        export: What was read.
        known: Facts from elsewhere, e.g. Roboflow's API; they win.

    Returns:
        Any of `name`, `workspace`, `project`, `version`, `licence`, `url`, `exported_at`, `annotation_format`;
        identifiers masked, nothing empty.
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
    return {key: redact(value) for key, value in sorted(found.items()) if value}


def corpus(export: Export, identity: Mapping[str, Any]) -> dict[str, str]:
    """The corpus as every report names it: kind (`phantom` or `roboflow`), name and licence."""
    lines = [line.strip().lstrip("# ").strip() for line in export.readmes.get("README.dataset.txt", "").splitlines()]
    licence = identity.get("licence", "unknown")
    if PHANTOM_LINE in lines:
        return {"kind": "phantom", "name": PHANTOM_LINE, "licence": licence}
    version = f" v{identity['version']}" if identity.get("version") else ""
    name = identity.get("name") or identity.get("project") or "unnamed export"
    return {"kind": "roboflow", "name": f"{name}{version}", "licence": licence}


def _licence(export: Export, text: str) -> str:
    if match := re.search(r"^\s*Licen[cs]e:\s*(.+?)\s*$", text, re.MULTILINE | re.IGNORECASE):
        return match[1]
    return ", ".join(export.license_names)


def _roboflow(export: Export) -> Mapping[str, str]:
    """The `roboflow` block of data.yaml; a COCO file's `info` block has other meanings for the same words."""
    return export.info if export.layout == "yolo" else {}
