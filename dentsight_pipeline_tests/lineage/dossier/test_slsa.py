"""The provenance says what was asked, what it was made from, by which code and when."""

from __future__ import annotations

import json

from dentsight_pipeline.documents.lineage import Code, Record
from dentsight_pipeline.lineage.dossier.case import Case
from dentsight_pipeline.lineage.dossier.slsa import provenance_of
from dentsight_pipeline_tests.lineage.chain_builder import Chain


def test_a_provenance_holds_all_that_was_recorded(case: Case, intact_chain: Chain) -> None:
    """Times in UTC, without fractions of a second; what was made beside the model as well."""
    digests = intact_chain.digests
    case.kept.records[digests["trained_checkpoint"]] = [
        Record(
            dagster_run="run-1",
            code=Code(commit="c0ffee", dirty=True, version="1.2"),
            started=1_700_000_000.7,
            finished=1_700_000_060.2,
            packages={"torch": "2"},
            hardware={"device": "CPU"},
        )
    ]

    document = json.loads(provenance_of(case))

    assert document["_type"] == "https://in-toto.io/Statement/v1"
    assert document["predicate"] == {
        "buildDefinition": {
            "buildType": "urn:dentsight:training:1",
            "externalParameters": {
                "recipe": "smoke",
                "recipeDigest": case.trained.recipe_digest,
                "overrides": {"seed": 7, "weights": None},
                "dataset": digests["condition_subset"],
            },
            "internalParameters": {"packages": {"torch": "2"}, "hardware": {"device": "CPU"}},
            "resolvedDependencies": [
                {"name": "checkpoint", "digest": {"sha256": digests["trained_checkpoint"]}},
                {"name": "condition-subset", "digest": {"sha256": digests["condition_subset"]}},
                {"name": "normalized-splits", "digest": {"sha256": digests["normalized_splits"]}},
                {"name": "raw-export", "digest": {"sha256": digests["raw_export"]}},
                {"name": "code", "digest": {"gitCommit": "c0ffee"}, "annotations": {"dirty": True}},
            ],
        },
        "runDetails": {
            "builder": {"id": "urn:dentsight:pipeline", "version": {"dentsight_pipeline": "1.2"}},
            "metadata": {
                "invocationId": "run-1",
                "startedOn": "2023-11-14T22:13:20+00:00",
                "finishedOn": "2023-11-14T22:14:20+00:00",
            },
            "byproducts": [
                {"name": "release-report", "digest": {"sha256": digests["release_report"]}},
                {"name": "evaluation", "digest": {"sha256": digests["class_metrics"]}},
            ],
        },
    }


def test_what_nobody_recorded_is_unknown_or_absent(case: Case, intact_chain: Chain) -> None:
    """A provenance with a made-up commit would be worse than none."""
    for code in (None, Code(commit=None)):
        case.kept.records[intact_chain.digests["trained_checkpoint"]] = [Record(code=code)]

        predicate = json.loads(provenance_of(case))["predicate"]

        names = [part["name"] for part in predicate["buildDefinition"]["resolvedDependencies"]]
        assert names == ["checkpoint", "condition-subset", "normalized-splits", "raw-export"]
        assert predicate["buildDefinition"]["internalParameters"] == {"packages": {}, "hardware": {}}
        assert predicate["runDetails"]["metadata"] == {"invocationId": "unknown"}
        assert predicate["runDetails"]["builder"]["version"] == {"dentsight_pipeline": "unknown"}
