"""Whatever a person has in hand leads to the one product it belongs to, and a contradiction on the way is told."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dentsight_pipeline.errors import ConfigurationError, IntegrityError
from dentsight_pipeline.lineage import reference
from dentsight_pipeline.lineage.reference import Reference, checkpoint_folder, checkpoint_of, resolve
from dentsight_pipeline.release import champion
from dentsight_pipeline.store.content import build
from dentsight_pipeline_tests.lineage.chain_builder import Chain, continue_chain, flip

RUN = f"{7:032x}"


@dataclass
class RememberedRegistry:
    """A registry that answers from what a test gave it."""

    runs: dict[str, dict[str, str]] = field(default_factory=dict)
    versions: dict[tuple[str | None, str, str], dict[str, str]] = field(default_factory=dict)

    def run_tags(self, run_id: str) -> Mapping[str, str] | None:
        return self.runs.get(run_id)

    def version_tags(self, name: str | None, *, version: str = "", alias: str = "") -> Mapping[str, str] | None:
        return self.versions.get((name, version, alias))


def resolved(chain: Chain, ref: object, registry: RememberedRegistry | None = None) -> Reference:
    """The reference in the chain's store."""
    return resolve(chain.store, str(ref), registry)


def test_a_digest_and_its_start_mean_the_product(intact_chain: Chain) -> None:
    """Nobody types 64 digits."""
    digest = intact_chain.digests["trained_checkpoint"]

    assert resolved(intact_chain, digest).digest == digest
    assert resolved(intact_chain, digest[:8]).digest == digest


def test_a_start_of_fewer_than_eight_digits_is_no_reference(intact_chain: Chain) -> None:
    """Seven digits collide sooner than one thinks."""
    with pytest.raises(ConfigurationError, match="8 digits or more"):
        resolved(intact_chain, intact_chain.digests["trained_checkpoint"][:7])


def test_a_digest_that_the_store_never_had_is_refused(intact_chain: Chain) -> None:
    """A typing error, or the wrong store."""
    with pytest.raises(ConfigurationError, match="Check the digest, and the store"):
        resolved(intact_chain, "f" * 64)


def test_a_digest_whose_manifest_was_removed_still_means_the_product(chain: Chain) -> None:
    """The log remembers it, so that the audit can say what is missing instead of 'no such digest'."""
    digest = chain.digests["trained_checkpoint"]
    chain.manifest_file("trained_checkpoint").unlink()
    shutil.rmtree(chain.root / "workspace/store/records" / digest)

    assert resolved(chain, digest).digest == digest


def test_a_record_alone_tells_that_there_was_such_a_product(chain: Chain) -> None:
    """Manifest and log are gone: the record beside them still says that it was made here."""
    digest = chain.digests["trained_checkpoint"]
    chain.manifest_file("trained_checkpoint").unlink()
    for part in ("log", "refs/lineage"):
        shutil.rmtree(chain.root / "workspace/store" / part)

    assert resolved(chain, digest) == Reference(digest, "digest")


@pytest.mark.parametrize("asset", ["trained_checkpoint", "released_model", "release_report", "class_metrics"])
def test_a_folder_that_was_written_out_means_what_its_bytes_are(
    intact_chain: Chain, tmp_path: Path, asset: str
) -> None:
    """By content alone: the folder's name says nothing."""
    folder = intact_chain.materialised(asset, tmp_path / "downloaded")

    found = resolved(intact_chain, folder)

    assert (found.digest, found.findings) == (intact_chain.digests[asset], ())


def test_the_model_folder_alone_means_its_checkpoint(intact_chain: Chain, tmp_path: Path) -> None:
    """People copy `model/` away from what lies beside it; the release holds the same bytes."""
    folder = intact_chain.materialised("trained_checkpoint", tmp_path / "checkpoint") / "model"

    found = resolved(intact_chain, folder)

    assert (found.digest, found.findings) == (intact_chain.digests["trained_checkpoint"], ())


def test_swapped_weights_in_a_folder_are_found_and_named(chain: Chain, tmp_path: Path) -> None:
    """The audit of a folder is about the bytes in that folder, not only about those in the store."""
    other = continue_chain(chain.store, chain.manifest("condition_subset"), 8, 3.0)["trained_checkpoint"]
    folder = chain.materialised("trained_checkpoint", tmp_path / "mine")
    weights = chain.store.get_manifest(other).entries["model/model.safetensors"]
    (folder / "model/model.safetensors").write_bytes(chain.store.get_bytes(weights.sha256))

    found = resolved(chain, folder)

    assert found.digest == chain.digests["trained_checkpoint"]
    assert len(found.findings) == 1
    assert f"but that of the checkpoint {other[:12]}" in found.findings[0]


def test_a_file_missing_in_a_folder_is_found(intact_chain: Chain, tmp_path: Path) -> None:
    """A checkpoint without its health record would pass for one whose head was never looked at."""
    folder = intact_chain.materialised("trained_checkpoint", tmp_path / "mine")
    (folder / "health.json").unlink()

    assert "health.json of the checkpoint" in resolved(intact_chain, folder).findings[0]


def test_a_file_added_to_a_release_is_found(intact_chain: Chain, tmp_path: Path) -> None:
    """A release is signed as a whole; whatever lies beside it unsigned is no part of it."""
    folder = intact_chain.materialised("released_model", tmp_path / "mine")
    (folder / "model/pickle.bin").write_bytes(b"run me")

    assert "model/pickle.bin in" in resolved(intact_chain, folder).findings[0]


def test_a_report_means_its_product_and_an_edit_is_found(intact_chain: Chain, tmp_path: Path) -> None:
    """The path that `dentsight run` prints is what people have."""
    folder = intact_chain.materialised("release_report", tmp_path / "reports")

    untouched = resolved(intact_chain, folder / "report.html")
    flip(folder / "report.html")
    edited = resolved(intact_chain, folder / "report.html")

    assert untouched == Reference(intact_chain.digests["release_report"], f"the files in {folder}")
    assert edited.digest == untouched.digest
    assert edited.findings[0].startswith(f"report.html in {folder} is not the one of the release-report")


def test_a_folder_of_strangers_is_refused(intact_chain: Chain, tmp_path: Path) -> None:
    """Nothing in it is known; that is a wrong reference, not a broken chain."""
    (tmp_path / "model.safetensors").write_bytes(b"from the internet")

    with pytest.raises(ConfigurationError, match=r"No product of .* has the files in"):
        resolved(intact_chain, tmp_path)
    with pytest.raises(ConfigurationError, match=rf"No product of .* has the file {tmp_path}/model.safetensors\."):
        resolved(intact_chain, tmp_path / "model.safetensors")


def test_a_folder_of_too_many_files_is_refused_before_all_are_read(
    intact_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody's home folder would be hashed for hours; a link is no file and counts as none."""
    folder = intact_chain.materialised("class_metrics", tmp_path / "mine")
    (folder / "link").symlink_to(folder / "evaluation.json")
    files = len(intact_chain.manifest("class_metrics").entries)

    monkeypatch.setattr(reference, "_MOST_FILES", files)
    assert resolved(intact_chain, folder).digest == intact_chain.digests["class_metrics"]
    monkeypatch.setattr(reference, "_MOST_FILES", files - 1)
    with pytest.raises(ConfigurationError, match=f"holds more than {files - 1} files"):
        resolved(intact_chain, folder)


def test_a_path_that_is_no_plain_file_is_refused(intact_chain: Chain, tmp_path: Path) -> None:
    """A report that is a link may be another one tomorrow."""
    folder = intact_chain.materialised("release_report", tmp_path / "reports")
    (folder / "latest.html").symlink_to(folder / "report.html")

    with pytest.raises(ConfigurationError, match=r"latest\.html is no plain file"):
        resolved(intact_chain, folder / "latest.html")


def test_champion_and_release_are_the_stores_own(chain: Chain) -> None:
    """They work without MLflow."""
    with pytest.raises(ConfigurationError, match="There is no champion yet"):
        resolved(chain, "champion")
    champion.promote(chain.store, chain.manifest("earlier_release"), "A. Person", "first")

    assert resolved(chain, "champion").digest == chain.digests["earlier_release"]
    assert resolved(chain, "release").digest == chain.digests["released_model"]


def test_an_mlflow_run_means_what_it_made(intact_chain: Chain) -> None:
    """From the experiment table to the audit in one step."""
    digest = intact_chain.digests["trained_checkpoint"]
    tags = {
        "dentsight.checkpoint_digest": digest,
        "dentsight.input.condition_subset": intact_chain.digests["condition_subset"],
    }
    registry = RememberedRegistry(runs={RUN: tags})

    for ref in (RUN, f"runs:/{RUN}", f"runs:/{RUN}/checkpoint"):
        assert resolved(intact_chain, ref, registry) == Reference(digest, f"MLflow run {RUN}")


def test_a_run_is_held_against_the_log_where_a_record_was_changed(chain: Chain) -> None:
    """The audit says that it was changed; the tag that names the run is no forgery for that."""
    digest = chain.digests["trained_checkpoint"]
    for record in (chain.root / "workspace/store/records" / digest).iterdir():
        flip(record)
    registry = RememberedRegistry(runs={RUN: {"dentsight.checkpoint_digest": digest}})

    assert resolved(chain, RUN, registry) == Reference(digest, f"MLflow run {RUN}")


def test_a_forged_tag_of_an_mlflow_run_is_found(intact_chain: Chain) -> None:
    """MLflow's tags can be edited by anybody who can write there."""
    digest = intact_chain.digests["trained_checkpoint"]
    other = "e" * 32
    registry = RememberedRegistry(
        runs={
            other: {"dentsight.checkpoint_digest": digest},
            RUN: {"dentsight.checkpoint_digest": digest, "dentsight.input.condition_subset": "f" * 64},
        }
    )

    claimed = resolved(intact_chain, other, registry).findings
    contradicted = resolved(intact_chain, RUN, registry).findings

    assert claimed[0].startswith(f"A tag was forged: MLflow run {other} says that it made {digest[:12]}, but no record")
    assert "says that it read condition_subset ffffffffffff" in contradicted[0]


@pytest.mark.parametrize("ref", ["champions@challenger", "champions/3", "models:/champions/3", "challenger"])
def test_a_registered_model_means_its_release(intact_chain: Chain, ref: str) -> None:
    """By number, by alias, and in MLflow's own notation."""
    digest = intact_chain.digests["released_model"]
    tags = {"dentsight.release_digest": digest}
    keys = [("champions", "", "challenger"), ("champions", "3", ""), (None, "", "challenger")]
    registry = RememberedRegistry(versions=dict.fromkeys(keys, tags))

    assert resolved(intact_chain, ref, registry).digest == digest


def test_a_forged_registered_model_is_found(chain: Chain) -> None:
    """A version that names another checkpoint than the release it stands for; an alias moved by hand."""
    digest = chain.digests["released_model"]
    tags = {"dentsight.release_digest": digest, "dentsight.trained_checkpoint": "f" * 64}
    registry = RememberedRegistry(versions={("m", "1", ""): tags, ("m", "", "champion"): tags})

    assert "names trained_checkpoint ffffffffffff, but release" in resolved(chain, "m/1", registry).findings[0]
    assert len(resolved(chain, "m/1", registry).findings) == 1
    assert "but the store's champion is none" in resolved(chain, "m@champion", registry).findings[-1]


def test_a_registered_model_that_this_pipeline_did_not_register_is_refused(intact_chain: Chain) -> None:
    """Its tags name no release, or one that is none, or one whose manifest is gone."""
    digest, gone = intact_chain.digests["trained_checkpoint"], "e" * 64
    tags = [{}, {"dentsight.release_digest": digest}, {"dentsight.release_digest": gone}]
    registry = RememberedRegistry(versions={("m", str(n), ""): own for n, own in enumerate(tags, start=1)})

    with pytest.raises(ConfigurationError, match=r"^m/1 carries no dentsight\.release_digest"):
        resolved(intact_chain, "m/1", registry)
    with pytest.raises(ConfigurationError, match=r"^MLflow knows no m@none\."):
        resolved(intact_chain, "m@none", registry)
    with pytest.raises(ConfigurationError, match=r"^MLflow knows no m/4\."):
        resolved(intact_chain, "models:/m/4")
    assert resolved(intact_chain, "m/2", registry).findings == (
        f"A tag was forged: m/2 names {digest[:12]} as its release, but that is a checkpoint.",
    )
    assert resolved(intact_chain, "m/3", registry) == Reference(gone, "m/3")


def test_an_unknown_name_says_what_there_is(intact_chain: Chain) -> None:
    """With digests that exist."""
    with pytest.raises(ConfigurationError, match=r"no digest, folder, MLflow run.*the store has products such as"):
        resolved(intact_chain, "no such thing")
    with pytest.raises(ConfigurationError, match="MLflow knows no run"):
        resolved(intact_chain, "d" * 32, RememberedRegistry())
    with pytest.raises(ConfigurationError, match="made nothing: it carries none of dentsight"):
        resolved(intact_chain, RUN, RememberedRegistry(runs={RUN: {}}))


@pytest.mark.parametrize("asset", ["trained_checkpoint", "released_model", "release_report", "test_predictions"])
def test_the_model_folder_of_any_product_can_be_used(intact_chain: Chain, asset: str) -> None:
    """`predict --checkpoint` takes what a person has; the weights are those of the one checkpoint behind it."""
    wanted = intact_chain.object_file("trained_checkpoint", "model/model.safetensors").read_bytes()

    with checkpoint_folder(intact_chain.store, intact_chain.digests[asset]) as folder:
        assert (folder / "model.safetensors").read_bytes() == wanted
        assert (folder / "config.json").is_file()
        assert (folder / "preprocessor_config.json").is_file()


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        ("predictions", {"trained_checkpoint": "mine"}),
        ("tooth-findings", {"tooth_checkpoint": "mine", "trained_checkpoint": "other"}),
        ("tooth-report", {"tooth_checkpoint": "mine"}),
        ("checkpoint", {}),
    ],
)
def test_the_checkpoint_behind_a_product_is_the_one_that_it_was_made_with(
    chain: Chain, kind: str, inputs: dict[str, str]
) -> None:
    """What was found tooth by tooth was made with the teeth's model, whatever else it read."""
    mine = chain.digests["trained_checkpoint"]
    digests = {"mine": mine, "other": "e" * 64}
    named = {asset: digests[which] for asset, which in inputs.items()}
    product = build(chain.store, kind, {"a": b"a"}, named, {})
    chain.store.put_manifest(product)

    assert checkpoint_of(chain.store, product.digest if inputs else mine).digest == mine


def test_a_folder_from_elsewhere_is_used_as_it_is(intact_chain: Chain, tmp_path: Path) -> None:
    """Any D-FINE folder can predict; it need not be known to the store."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")

    with checkpoint_folder(intact_chain.store, str(tmp_path)) as folder:
        assert folder == tmp_path / "model"
    with checkpoint_folder(intact_chain.store, str(tmp_path / "model")) as folder:
        assert folder == tmp_path / "model"
    (tmp_path / "model" / "config.json").unlink()
    with (
        pytest.raises(ConfigurationError, match=r"is no checkpoint: neither it nor its model/ holds a config\.json"),
        checkpoint_folder(intact_chain.store, str(tmp_path)),
    ):
        pass


def test_damaged_weights_are_never_handed_out(chain: Chain) -> None:
    """Nobody predicts with weights that were changed."""
    flip(chain.object_file("trained_checkpoint", "model/model.safetensors"))

    with (
        pytest.raises(IntegrityError, match="was changed"),
        checkpoint_folder(chain.store, chain.digests["trained_checkpoint"]),
    ):
        pass


def test_data_has_no_model(intact_chain: Chain) -> None:
    """A dataset is no checkpoint, and the message says so."""
    digest = intact_chain.digests["condition_subset"]

    with pytest.raises(ConfigurationError, match="has no model"), checkpoint_folder(intact_chain.store, digest):
        pass
    with pytest.raises(ConfigurationError, match="was not made with a checkpoint"):
        checkpoint_of(intact_chain.store, digest)
