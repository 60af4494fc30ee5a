"""The bill of materials of a release, as CycloneDX 1.7 (cyclonedx.org): model, data, weights, packages, with licences.

The library has no classes for model cards and data sets, so the JSON is written here and validated by it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import NAMESPACE_URL, uuid5

from dentsight_pipeline.documents.dossier import Completeness
from dentsight_pipeline.documents.evaluation import Measurement
from dentsight_pipeline.documents.facts import RawExportFacts
from dentsight_pipeline.documents.licences import published_licence, strictest, terms_of
from dentsight_pipeline.documents.lineage import Installed
from dentsight_pipeline.errors import ConfigurationError, DataError
from dentsight_pipeline.lineage.dossier.case import Case
from dentsight_pipeline.store.canonical import JSON
from dentsight_pipeline.store.manifest import Manifest

_VERSION = "1.7"


def bom_of(case: Case) -> bytes:
    """The bill of materials, the same bytes for the same release.

    Raises:
        ConfigurationError: The library that validates it is missing.
        DataError: It is not valid CycloneDX; nothing should be handed out then.
    """
    components = list(_components(case))
    document = {
        "$schema": f"http://cyclonedx.org/schema/bom-{_VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": _VERSION,
        "serialNumber": f"urn:uuid:{uuid5(NAMESPACE_URL, case.digest)}",
        "version": 1,
        "metadata": {**_made(case), "component": _model(case)},
        "components": components,
        "dependencies": [{"ref": case.digest, "dependsOn": sorted(str(part["bom-ref"]) for part in components)}],
    }
    data = json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"
    _require_valid(data)
    return data


def completeness(data: bytes) -> dict[str, Completeness]:
    """How many components of a bill of materials carry a hash and a licence."""
    document = json.loads(data)
    parts = [document["metadata"]["component"], *document["components"]]
    known = {"hash": "hashes", "licence": "licenses"}
    return {
        name: Completeness(present=sum(bool(part.get(field)) for part in parts), of=len(parts))
        for name, field in known.items()
    }


def _require_valid(data: bytes) -> None:
    try:
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator

        problem = JsonStrictValidator(SchemaVersion.V1_7).validate_str(data.decode())
    except Exception as error:
        raise ConfigurationError(
            "The bill of materials is validated by cyclonedx-python-lib, which cannot be loaded "
            f"({error}). Install it: pip install 'dentsight_pipeline[dossier]'."
        ) from error
    if problem is not None:
        raise DataError(f"The bill of materials is not valid CycloneDX {_VERSION}: {problem}")


def _made(case: Case) -> dict[str, JSON]:
    finished = case.how(case.release).finished
    return {"timestamp": datetime.fromtimestamp(int(finished), UTC).isoformat()} if finished else {}


def _sha256(digest: str) -> list[JSON]:
    return [{"alg": "SHA-256", "content": digest}]


def _licences(text: str) -> dict[str, JSON]:
    """A licence as CycloneDX has it; nothing where nobody says."""
    terms = terms_of(text)
    return {"licenses": [{"license": {"name": terms.name}}]} if text and text != "unknown" else {}


def _properties(**told: object) -> list[JSON]:
    return [{"name": f"dentsight:{name}", "value": str(value)} for name, value in told.items() if value is not None]


# The model -----------------------------------------------------------------------------------------------------------


def _model(case: Case) -> dict[str, JSON]:
    licences = case.said.licences or {}
    return {
        "type": "machine-learning-model",
        "bom-ref": case.digest,
        "name": case.facts.title,
        "version": str(case.facts.sequence),
        "description": "Dental findings on panoramic X-rays. Research only; not a medical device.",
        "hashes": _sha256(case.digest),
        "modelCard": _card(case),
        "components": [_file(path, entry.sha256) for path, entry in case.release.entries.items()],
        **_licences(strictest(licences.values()).name),
        "properties": _properties(verdict=case.facts.verdict, never_for_xrays=case.facts.never_for_xrays),
    }


def _file(path: str, digest: str) -> JSON:
    return {"type": "file", "bom-ref": f"file:{path}", "name": path, "hashes": _sha256(digest)}


def _card(case: Case) -> JSON:
    width, height = case.trained.image_size
    limits = [row.sentence for row in case.told.verdict.rows if not row.passed]
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "object detection",
            "modelArchitecture": str(case.recipe.get("architecture", "unknown")),
            "datasets": [{"ref": manifest.digest} for manifest in (case.subset, *case.raws)],
            "inputs": [{"format": f"image, {width} x {height} px"}],
            "outputs": [{"format": f"boxes with class and score; classes: {', '.join(case.trained.classes)}"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": [_metric(row) for row in _gated(case)]},
        "considerations": {"technicalLimitations": limits},
    }


def _gated(case: Case) -> Iterator[Measurement]:
    population = case.measured.gated_population
    return (row for row in case.measured.measurements if row.population == population and row.value is not None)


def _metric(row: Measurement) -> JSON:
    bounds = {"lowerBound": row.low, "upperBound": row.high}
    interval = {name: str(bound) for name, bound in bounds.items() if bound is not None}
    told = {"type": row.metric, "value": str(row.value), "slice": f"{row.class_name}, {row.population} test images"}
    return {**told, "confidenceInterval": interval} if interval else told


# What it was made from -----------------------------------------------------------------------------------------------


def _components(case: Case) -> Iterator[dict[str, JSON]]:
    corpus = case.data.corpus
    yield _data(case.subset, corpus.name, corpus.licence, "What it was trained, validated and tested on.")
    for raw in case.raws:
        facts = raw.facts_as(RawExportFacts)
        text = "An export as it came, without metadata and names."
        yield _data(raw, facts.corpus.name, facts.corpus.licence, text, facts.source.url)
    if weights := str(case.recipe.get("weights") or ""):
        yield _weights(case, weights)
    yield from _packages(case)


def _data(manifest: Manifest, name: str, licence: str, text: str, url: str = "") -> dict[str, JSON]:
    contents = {"contents": {"url": url}} if url else {}
    told = {"type": "dataset", "name": name, "description": text, **contents}
    return {
        "type": "data",
        "bom-ref": manifest.digest,
        "name": f"{name}, {manifest.kind}",
        "version": manifest.digest[:12],
        "hashes": _sha256(manifest.digest),
        **_licences(licence),
        "data": [{**told, "sensitiveData": ["health data: panoramic X-rays, pseudonymised"]}],
        "properties": _properties(kind=manifest.kind, files=len(manifest.entries)),
    }


def _weights(case: Case, weights: str) -> dict[str, JSON]:
    licence = case.trained.weights_licence or published_licence(weights)
    return {
        "type": "machine-learning-model",
        "bom-ref": f"weights:{weights}",
        "name": weights,
        "hashes": _sha256(case.trained.initial_weights_sha256),
        **_licences(licence),
        "properties": _properties(hash_of="all weights before the first step"),
    }


def _packages(case: Case) -> Iterator[dict[str, JSON]]:
    """Those that were recorded where the model was trained, with the digest of what was installed."""
    how = case.how(case.checkpoint)
    versions = {**(how.packages or {}), **case.trained.versions}
    for name, version in sorted(versions.items()):
        found = (how.installed or {}).get(name, Installed())
        if version and name != "python":
            yield _package(name, version, found if found.version == version else Installed())


def _package(name: str, version: str, found: Installed) -> dict[str, JSON]:
    purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{version.replace('+', '%2B')}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        **({"hashes": _sha256(found.record_sha256)} if found.record_sha256 else {}),
        **_licences(found.licence or ""),
        "properties": _properties(hash_of="RECORD of the installed distribution" if found.record_sha256 else None),
    }
