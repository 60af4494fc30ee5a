"""A bill of materials lists what a release is made of, with hashes and licences as they were recorded."""

from __future__ import annotations

import json
from typing import Any

from msgspec import structs

from dentsight_pipeline.documents.lineage import Installed, Record
from dentsight_pipeline.lineage.dossier.bom import bom_of
from dentsight_pipeline.lineage.dossier.case import Case
from dentsight_pipeline_tests.lineage.chain_builder import Chain
from dentsight_pipeline_tests.lineage.dossier.conftest import with_facts


def _components(case: Case) -> dict[str, dict[str, Any]]:
    """What it is made of, by name."""
    return {part["name"]: part for part in json.loads(bom_of(case))["components"]}


def test_the_release_itself_is_the_subject_with_its_card(case: Case) -> None:
    """Name, number, verdict, the files, what it was trained on and every figure that a gate could read."""
    document = json.loads(bom_of(case))
    model = document["metadata"]["component"]
    card = model["modelCard"]

    assert (model["type"], model["bom-ref"], model["name"], model["version"]) == (
        "machine-learning-model",
        case.digest,
        "tiny-v1 × smoke",
        "2",
    )
    assert model["hashes"] == [{"alg": "SHA-256", "content": case.digest}]
    assert model["properties"] == [
        {"name": "dentsight:verdict", "value": "PASS"},
        {"name": "dentsight:never_for_xrays", "value": "False"},
    ]
    assert {file["name"]: file["hashes"][0]["content"] for file in model["components"]} == {
        path: entry.sha256 for path, entry in case.release.entries.items()
    }
    assert card["modelParameters"]["task"] == "object detection"
    assert card["modelParameters"]["modelArchitecture"] == case.recipe["architecture"]
    assert card["modelParameters"]["datasets"] == [{"ref": case.subset.digest}, {"ref": case.raws[0].digest}]
    assert card["modelParameters"]["inputs"] == [{"format": "image, 448 x 256 px"}]
    assert card["considerations"]["technicalLimitations"] == []
    metrics = card["quantitativeAnalysis"]["performanceMetrics"]
    assert len(metrics) == len(case.measured.measurements)
    assert metrics[0] == {
        "type": "ap",
        "value": "0.9",
        "slice": "caries, clean test images",
        "confidenceInterval": {"lowerBound": "0.9", "upperBound": "0.9"},
    }
    assert document["dependencies"] == [
        {"ref": case.digest, "dependsOn": sorted(part["bom-ref"] for part in document["components"])}
    ]
    assert "timestamp" not in document["metadata"]


def test_figures_of_other_images_and_those_that_were_not_measured_are_none_of_the_card(case: Case) -> None:
    """A reader of the card takes them for what the gates read; a point without an interval has none there either."""
    first, second, third, *_ = case.measured.measurements
    rows = (
        structs.replace(first, low=None, high=None),
        structs.replace(second, population="all"),
        structs.replace(third, value=None),
    )
    vars(case)["told"] = structs.replace(case.told, evaluation=structs.replace(case.measured, measurements=rows))

    model = json.loads(bom_of(case))["metadata"]["component"]

    assert model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"] == [
        {"type": "ap", "value": "0.9", "slice": "caries, clean test images"}
    ]


def test_the_data_is_listed_from_the_export_to_what_was_trained_on(case: Case) -> None:
    """With kind, licence and the number of files, and as health data."""
    subset, raw, *_ = _components(case).values()

    assert (subset["type"], subset["name"]) == ("data", "unnamed export, condition-subset")
    assert (raw["bom-ref"], raw["name"], raw["version"]) == (
        case.raws[0].digest,
        "unnamed export, raw-export",
        case.raws[0].digest[:12],
    )
    assert raw["licenses"] == [{"license": {"name": "CC BY 4.0"}}]
    assert raw["properties"] == [
        {"name": "dentsight:kind", "value": "raw-export"},
        {"name": "dentsight:files", "value": str(len(case.raws[0].entries))},
    ]
    (told,) = raw["data"]
    assert told["type"] == "dataset"
    assert "contents" not in told
    assert told["sensitiveData"] == ["health data: panoramic X-rays, pseudonymised"]


def test_weights_are_listed_with_the_licence_of_whoever_published_them(case: Case) -> None:
    """As it was recorded, else as it is known of the name; where nobody knows there is none."""
    told = {}
    for weights, licence in (("ustc-community/dfine-large-coco", ""), ("mine", "MIT"), ("somebody/s", "")):
        vars(case)["recipe"] = {**case.recipe, "weights": weights}
        told[weights] = _components(with_facts(case, "trained", weights_licence=licence))[weights]

    assert {name: part.get("licenses") for name, part in told.items()} == {
        "ustc-community/dfine-large-coco": [{"license": {"name": "Apache-2.0"}}],
        "mine": [{"license": {"name": "MIT"}}],
        "somebody/s": None,
    }
    assert told["mine"]["type"] == "machine-learning-model"
    assert told["mine"]["hashes"] == [{"alg": "SHA-256", "content": case.trained.initial_weights_sha256}]


def test_a_package_has_the_hash_of_what_was_installed_in_that_very_version(case: Case, intact_chain: Chain) -> None:
    """That of another version would vouch for bytes that nobody ran; Python is no package."""
    whole = Installed(version="2.1+cu121", record_sha256="ab" * 32, licence="BSD-3-Clause")
    record = Record(
        packages={"torch": "2.1+cu121", "Some_Thing": "1.0", "gone": None, "numpy": "2.0", "python": "3.12"},
        installed={"torch": whole, "numpy": structs.replace(whole, version="1.9")},
    )
    case.kept.records[intact_chain.digests["trained_checkpoint"]] = [record]
    with_facts(case, "trained", versions={"numpy": "2.0"})

    found = {name: part for name, part in _components(case).items() if part["type"] == "library"}

    assert {name: part["purl"] for name, part in found.items()} == {
        "Some_Thing": "pkg:pypi/some-thing@1.0",
        "numpy": "pkg:pypi/numpy@2.0",
        "torch": "pkg:pypi/torch@2.1%2Bcu121",
    }
    assert found["torch"]["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    assert found["torch"]["licenses"] == [{"license": {"name": "BSD-3-Clause"}}]
    assert found["torch"]["properties"][0]["name"] == "dentsight:hash_of"
    assert [found["numpy"].get(field) for field in ("hashes", "licenses", "properties")] == [None, None, []]


def test_the_time_of_the_bill_is_that_of_the_release(case: Case) -> None:
    """Not that of writing it, which would make every copy another one."""
    case.kept.records[case.digest] = [Record(finished=1_700_000_000.7)]

    assert json.loads(bom_of(case))["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"
