"""`dentsight audit`, `diff`, `promote` and `rollback` as a person calls them; with a real MLflow registry."""

import json
import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner, Result

from dentsight_pipeline import cli
from dentsight_pipeline.errors import ConfigurationError, ReleaseError
from dentsight_pipeline.lineage import verify
from dentsight_pipeline.lineage.reference import resolve
from dentsight_pipeline.orchestration import automation, metadata
from dentsight_pipeline.orchestration.lineage_events import KEYS_FOLDER
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.orchestration.tracking import registry
from dentsight_pipeline.orchestration.tracking.mlflow import Tracking
from dentsight_pipeline.orchestration.tracking.registry import MODEL, MlflowRegistry
from dentsight_pipeline.release import champion
from dentsight_pipeline.release.keys import PUBLIC_KEY, generate_key
from dentsight_pipeline_tests.lineage.chain_builder import Chain, flip


def at_home(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the chain's folder the project's home."""
    for name in ("DENTSIGHT_STORE", "DENTSIGHT_WORKSPACE", "DAGSTER_HOME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DENTSIGHT_HOME", str(chain.root))


def called(*arguments: str) -> Result:
    """A `dentsight` command in this process."""
    return CliRunner().invoke(cli.app, list(arguments))


def said(*arguments: str, exit_code: int = 0) -> dict[str, Any]:
    """What a command prints with `--json`."""
    result = called(*arguments, "--json")
    assert result.exit_code == exit_code, result.output
    return json.loads(result.stdout)


def test_a_checkpoints_metadata_leads_to_its_audit_without_a_second_one(
    intact_chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check `lineage_is_intact` audits in the same run; hashing a model's weights twice would find nothing more."""
    audited: list[str] = []
    monkeypatch.setattr(verify, "audit", lambda store, digest, *_, **__: audited.append(digest))

    shown = metadata.of_checkpoint(intact_chain.store, intact_chain.manifest("trained_checkpoint"))

    assert audited == []
    assert f"dentsight audit {intact_chain.digests['trained_checkpoint']}" in shown["audit"].value
    assert [row["product"] for row in (record.data for record in shown["data"].records)] == [
        "condition_subset",
        "normalized_splits",
        "raw_export",
    ]


def test_audit_says_intact_and_names_every_manifest_and_object(
    intact_chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys are a contract; the key to verify the release with is found in the workspace."""
    at_home(intact_chain, monkeypatch)

    facts = said("audit", intact_chain.digests["released_model"][:12], "--export", str(intact_chain.export))

    assert facts["intact"] is True
    assert facts["findings"] == []
    assert {"kind", "digest", "path"} <= set(facts["chain"][0])
    assert {item["kind"] for item in facts["chain"]} >= {"release", "raw-export", "object"}
    assert all(Path(item["path"]).is_file() for item in facts["chain"])


def test_audit_exits_5_and_says_the_first_broken_link(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts look at the status, people at the sentence."""
    at_home(chain, monkeypatch)
    flip(chain.object_file("trained_checkpoint", "model/model.safetensors"))

    facts = said("audit", chain.digests["trained_checkpoint"], exit_code=5)
    text = called("audit", chain.digests["trained_checkpoint"])

    assert facts["intact"] is False
    assert "NOT INTACT. First broken link:" in text.stdout
    assert re.search(r"- model/model\.safetensors of the checkpoint \w+ .*was changed", text.stdout)


def test_audit_of_a_folder_with_swapped_weights_exits_5(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is intact; what the person holds is not."""
    at_home(chain, monkeypatch)
    folder = chain.materialised("trained_checkpoint", tmp_path / "download")
    (folder / "model" / "model.safetensors").write_bytes(b"another model")

    facts = said("audit", str(folder), exit_code=5)

    assert facts["findings"][0].startswith(f"model/model.safetensors in {folder} is not the one of the checkpoint")


def test_audit_refuses_what_it_does_not_know(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit status 2 and not 5: nothing is known to be wrong."""
    at_home(chain, monkeypatch)

    result = called("audit", "f" * 64)

    assert "Check the digest, and the store" in str(result.exception)


@pytest.mark.parametrize(
    ("option", "says"),
    [(("--key", "gone.pub"), "There is no public key gone.pub"), (("--head", "9:3f9a"), "--head '9:3f9a' is no head")],
)
def test_a_slip_in_what_the_reader_gives_is_no_broken_link(
    intact_chain: Chain, monkeypatch: pytest.MonkeyPatch, option: tuple[str, str], says: str
) -> None:
    """The release was said to be forged, and the chain to be cut off."""
    at_home(intact_chain, monkeypatch)

    refused = called("audit", intact_chain.digests["released_model"], *option)

    assert isinstance(refused.exception, ConfigurationError)
    assert says in str(refused.exception)


def test_diff_of_a_checkpoint_with_itself_has_no_difference(
    intact_chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And every key of the contract."""
    at_home(intact_chain, monkeypatch)
    digest = intact_chain.digests["trained_checkpoint"]

    facts = said("diff", digest, digest[:10], "--resamples", "4")

    assert facts["same"] is True
    assert facts["data"]["same"] is True
    assert (facts["recipe"], facts["packages"]) == ({}, {})
    assert facts["metrics"]["paired"] is True
    assert {row["delta"] for row in facts["metrics"]["rows"]} <= {0.0, None}


def test_a_release_is_promoted_and_rolled_back_and_mlflow_shows_it(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store decides, the registry mirrors: the alias `champion` moves with both."""
    at_home(chain, monkeypatch)
    workspace = Workspace()
    tracking = Tracking(workspace=workspace)
    first, second = (chain.manifest(name) for name in ("earlier_release", "released_model"))
    registry.show(tracking)
    why = ("--by", "A. Person", "--reason", "better on caries")

    promoted = said("promote", first.digest[:12], *why)
    newer = said("promote", f"{MODEL}@challenger", *why)
    shown = resolve(chain.store, f"{MODEL}@champion", MlflowRegistry(tracking))
    back = said("rollback", *why)
    none = said("rollback", *why)

    assert (promoted["champion"], promoted["before"], promoted["registry_version"]) == (first.digest, None, "1")
    assert (newer["champion"], newer["before"], newer["registry_version"]) == (second.digest, first.digest, "2")
    assert (shown.digest, shown.findings) == (second.digest, ())
    assert (back["champion"], back["registry_version"]) == (first.digest, "1")
    assert none["champion"] is None
    assert MlflowRegistry(tracking).version_tags(None, alias="champion") is None
    assert [change.action for change in champion.history(chain.store)] == ["promote", "promote", "rollback", "rollback"]
    assert [record["by"] for record in chain.store.records(first.digest) if record.get("action") == "promote"] == [
        "A. Person"
    ]


def test_a_promotion_stands_while_mlflow_is_down_and_is_shown_afterwards(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has decided: an error would read as if nothing had happened, and a second try would be refused."""
    at_home(chain, monkeypatch)
    digest = chain.digests["released_model"]
    why = ("--by", "A. Person", "--reason", "better on caries")
    monkeypatch.setattr(Tracking, "client", property(lambda _: (_ for _ in ()).throw(ConnectionError("away"))))

    promoted = called("promote", digest, *why)
    behind = registry.is_behind(Tracking(workspace=Workspace()))
    monkeypatch.undo()
    at_home(chain, monkeypatch)
    tracking = Tracking(workspace=Workspace())
    with dg.build_sensor_context(resources={"tracking": tracking}) as context:
        told = automation.late_tracking(context)
        again = automation.late_tracking(context)
    shown = resolve(chain.store, f"{MODEL}@champion", MlflowRegistry(tracking))

    assert promoted.exit_code == 0
    assert f"Champion: release {digest}" in promoted.stdout
    assert "MLflow could not be told (ConnectionError: away)" in promoted.stdout
    assert behind
    assert "brought up to date" in str(told)
    assert "MLflow knows everything" in str(again)
    assert (shown.digest, shown.findings) == (digest, ())


def test_a_new_mlflow_is_shown_every_release_and_the_champion_once(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moving MLflow to another database leaves the old registry behind; the store still knows everything."""
    at_home(chain, monkeypatch)
    first, second = (chain.digests[name] for name in ("earlier_release", "released_model"))
    said("promote", first, "--by", "A. Person", "--reason", "the first")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}")
    tracking = Tracking(workspace=Workspace())
    behind = registry.is_behind(tracking)
    shown, again = registry.show(tracking), registry.show(tracking)
    aliases = {
        alias: resolve(chain.store, f"{MODEL}@{alias}", MlflowRegistry(tracking)).digest
        for alias in ("champion", "challenger")
    }

    assert behind
    assert not registry.is_behind(tracking)
    assert (shown.versions, shown.problem) == ({first: "1", second: "2"}, None)
    assert again == shown
    assert aliases == {"champion": first, "challenger": second}


def test_an_mlflow_that_is_down_is_a_refusal_that_names_what_needs_none(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An auditor's digest does not depend on a server; and a traceback says nothing to an auditor."""
    at_home(chain, monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    alias = called("audit", f"{MODEL}@champion")
    digest = called("audit", chain.digests["released_model"])

    assert isinstance(alias.exception, ConfigurationError)
    assert "MLflow (http://somebody:***@127.0.0.1:9) does not answer" in str(alias.exception)
    assert digest.exit_code == 0


def test_a_release_signed_before_the_key_changed_is_promoted_with_its_own(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys are changed every year or two; what they signed stays good for who has the old public one."""
    at_home(chain, monkeypatch)
    keys = Workspace().folder / KEYS_FOLDER
    keys.rename(tmp_path / "keys-2025")
    generate_key(keys)
    digest, why = chain.digests["released_model"], ("--by", "A. Person", "--reason", "it still is the best")

    refused = called("promote", digest, *why)
    promoted = said("promote", digest, *why, "--key", str(tmp_path / "keys-2025" / PUBLIC_KEY))

    assert isinstance(refused.exception, ReleaseError)
    assert "its signature does not hold" in str(refused.exception)
    assert promoted["champion"] == digest


def test_only_an_intact_release_can_be_promoted(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint never passed a gate; a damaged release is not what passed."""
    at_home(chain, monkeypatch)
    why = ("--by", "A. Person", "--reason", "because")

    checkpoint = called("promote", chain.digests["trained_checkpoint"], *why)
    flip(chain.object_file("released_model", "model/model.safetensors"))
    damaged = called("promote", chain.digests["released_model"], *why)

    assert isinstance(checkpoint.exception, ReleaseError)
    assert "Only a release can be champion" in str(checkpoint.exception)
    assert isinstance(damaged.exception, ReleaseError)
    assert "cannot be promoted: model/model.safetensors of the release" in str(damaged.exception)
    assert champion.current(chain.store) is None


def test_a_champion_taken_back_without_a_trace_is_found(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference can be set back by hand; the log still tells who decided what."""
    at_home(chain, monkeypatch)
    for asset in ("earlier_release", "released_model"):
        champion.promote(chain.store, chain.manifest(asset), "A. Person", "better")
    assert said("audit", chain.digests["released_model"])["intact"] is True
    value = chain.store.read_ref(champion.CHAMPION_REF)
    chain.store.write_ref(champion.CHAMPION_REF, {"changes": (value or {})["changes"][:1]})

    facts = said("audit", chain.digests["released_model"], exit_code=5)

    assert facts["findings"] == [
        "The history of champions was edited: it tells of 1 changes otherwise than the log's 2."
    ]


def test_a_release_made_while_mlflow_is_down_is_recorded(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is signed and heads the chain already: without a record of its own no audit would find it intact."""
    from dentsight_pipeline.orchestration.assets import release
    from dentsight_pipeline.orchestration.partitions import cell_key

    at_home(chain, monkeypatch)
    monkeypatch.setattr(Tracking, "client", property(lambda _: (_ for _ in ()).throw(ConnectionError("away"))))
    workspace, cell = Workspace(), cell_key("opg-v8", "smoke")
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions("dataset", ["opg-v8"])
        instance.report_runless_asset_event(
            dg.AssetMaterialization(
                "release_report",
                partition=cell,
                tags={"dagster/data_version": chain.digests["release_report"]},
            )
        )
        done = dg.materialize(
            [release.released_model, release.release_report],
            selection=[release.released_model],
            partition_key=cell,
            instance=instance,
            resources={"workspace": workspace, "tracking": Tracking(workspace=workspace)},
        )
    (made,) = done.asset_materializations_for_node("released_model")
    digest = (made.tags or {})["dagster/data_version"]
    (record,) = chain.store.records(digest)

    assert digest != chain.digests["released_model"]
    assert record["registry"] == {"name": MODEL, "version": None}
    assert said("audit", digest)["findings"] == []
