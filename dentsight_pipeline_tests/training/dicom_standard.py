"""DICOM's own tables for dicom-validator, without dicom.nema.org: from the PyPI package `dicom-standard`.

That package has PS3.3 and PS3.6 (of 2020) as JSON, with every macro written out. What it loses doing so is when a macro
of a content item is included, which is by the item's value type: `_BY_VALUE_TYPE` says it again (PS3.3, table C.17-5).
Conditions are parsed from the standard's words by dicom-validator itself.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from dicom_validator.spec_reader.condition_parser import ConditionParser
from dicom_validator.validator.dicom_info import DicomInfo
from pydicom.uid import ComprehensiveSRStorage

_IOD, _TREE, _ITEM = "comprehensive-sr", "sr-document-content", "content-item-below"
_BELOW, _CONDITIONAL = "(0040,A730)", {"1": "1C", "2": "2C"}
_BY_VALUE_TYPE = {
    "(0040,A168)": ["CODE"],
    "(0040,A300)": ["NUM"],
    "(0040,A050)": ["CONTAINER"],
    "(0040,A130)": ["TCOORD"],
    "(0008,1199)": ["COMPOSITE", "IMAGE", "WAVEFORM"],
    "(0070,0022)": ["SCOORD", "SCOORD3D"],
    "(0070,0023)": ["SCOORD", "SCOORD3D"],
    "(3006,0024)": ["SCOORD3D"],
}


@cache
def tables() -> DicomInfo:
    """What dicom-validator asks of the standard about a Comprehensive SR."""
    dictionary = {row["tag"]: {"name": row["name"], "vr": row["valueRepresentation"]} for row in _table("attributes")}
    own = [row for row in _table("ciod_to_modules") if row["ciodId"] == _IOD]
    parser, rows = ConditionParser(dictionary), _table("module_to_attributes")
    modules = {
        name: _tree([row for row in rows if row["moduleId"] == name], parser) for name in (r["moduleId"] for r in own)
    }
    for tag, values in _BY_VALUE_TYPE.items():
        for attributes in (modules[_TREE], modules[_TREE][_BELOW]["items"]):
            item = attributes[tag]
            item["type"] = _CONDITIONAL.get(item["type"], item["type"])
            item["cond"] = {"type": "MN", "index": 0, "op": "=", "tag": "(0040,A040)", "values": values}
    below = modules[_TREE][_BELOW]
    modules[_ITEM] = {**modules[_TREE], **below["items"]}  # what is two levels down is as on top
    below["items"] = {"include": [{"ref": _ITEM}]}
    uses = {row["moduleId"]: {"ref": row["moduleId"], "use": row["usage"]} for row in own}
    iod = {"title": "Comprehensive SR", "modules": uses, "group_macros": {}}
    return DicomInfo(dictionary=dictionary, iods={str(ComprehensiveSRStorage): iod}, modules=modules)


def _table(name: str) -> list[dict[str, Any]]:
    paths = [path for path in metadata.files("dicom-standard") or () if path.name == f"{name}.json"]
    return json.loads(Path(paths[0].locate()).read_text("utf-8"))


def _tree(rows: list[dict[str, Any]], parser: ConditionParser) -> dict[str, Any]:
    """The attributes of a module, those of sequences inside their sequence."""
    top: dict[str, Any] = {}
    for row in rows:
        inside = top
        for part in row["path"].split(":")[1:-1]:
            inside = inside[_tag(part)].setdefault("items", {})
        made = {"name": row["tag"], "type": row["type"]}
        if row["type"] in _CONDITIONAL.values():
            made["cond"] = parser.parse(re.sub(r"<[^>]+>|\s+", " ", row["description"])).result_dict()
        known = {key: value for key, value in inside.get(row["tag"], {}).items() if key == "items"}  # of another macro
        inside[row["tag"]] = {**made, **known}
    return top


def _tag(part: str) -> str:
    return f"({part[:4]},{part[4:]})".upper()
