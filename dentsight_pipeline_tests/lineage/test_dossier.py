"""A dossier says what bytes show, points at them, and is found out where it or they were changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlcroissant as mlc
import pytest

from dentsight_pipeline.documents.dossier import BOM, DOSSIER, ENVELOPE, PAGE, PROVENANCE, Dossier
from dentsight_pipeline.documents.lineage import record_of
from dentsight_pipeline.documents.names import Asset
from dentsight_pipeline.errors import ConfigurationError, DataError, ReleaseError
from dentsight_pipeline.lineage.dossier import annex, bom
from dentsight_pipeline.lineage.dossier.build import CROISSANT, build, check_dossier, write_dossier
from dentsight_pipeline.lineage.dossier.case import Case
from dentsight_pipeline.lineage.environment import environment
from dentsight_pipeline.lineage.verify import Evidence, audit
from dentsight_pipeline.release import envelope
from dentsight_pipeline_tests.lineage.chain_builder import Chain, flip
from dentsight_pipeline_tests.lineage.test_commands import at_home, called, said


def written(chain: Chain, out: Path, asset: str = "released_model") -> Dossier:
    """The dossier of the chain's release, with a signed provenance."""
    private = chain.keys / "release-key.pem"
    return write_dossier(chain.store, chain.digests[asset], out, chain.public_key, private)


def checked(chain: Chain, folder: Path) -> tuple[str, ...]:
    """What the check of a dossier finds."""
    return check_dossier(chain.store, folder, chain.public_key).findings


@pytest.fixture(scope="module")
def folder(intact_chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dossier of an intact release. Only for reading."""
    out = tmp_path_factory.mktemp("dossier") / "kept"
    written(intact_chain, out)
    return out


def told(folder: Path, name: str = DOSSIER) -> dict[str, Any]:
    """A JSON file of it."""
    return json.loads((folder / name).read_text())


def test_every_sentence_is_linked_to_a_digest_that_the_audit_verifies(folder: Path, intact_chain: Chain) -> None:
    """The audit and nobody's word; what no byte shows is open, and counted as that."""
    evidence = Evidence(public_key=intact_chain.public_key)
    audited = {
        item.digest for item in audit(intact_chain.store, intact_chain.digests["released_model"], evidence).chain
    }
    points = [point for section in told(folder)["sections"] for point in section["points"]]

    assert [section["number"] for section in told(folder)["sections"]] == list(range(1, 10))
    assert {point["id"] for point in points if point["id"][0] == "2"} == {f"2({letter})" for letter in "abcdefgh"}
    for point in points:
        assert bool(point["says"]) == bool(point["evidence"]), point
        assert {cited["digest"] for cited in point["evidence"]} <= audited, point
    assert told(folder)["evidenced"] == sum(point["says"] is not None for point in points) > 20
    assert told(folder)["points"] == len(points) == 58


def test_what_only_a_person_can_state_is_not_evidenced(folder: Path) -> None:
    """Intended purpose, oversight, risks, declaration: a model's bytes show none of them, however good it is."""
    open_points = {p["asks"] for s in told(folder)["sections"] for p in s["points"] if p["says"] is None}

    assert {"its intended purpose", "the name of the provider", "labelling procedures"} <= open_points
    assert {"its detailed description (Article 9)", "a copy of it (Article 47)"} <= open_points


def test_the_page_shows_the_count_and_every_open_point(folder: Path) -> None:
    """In plain sight, not by leaving it out; and nothing is loaded from elsewhere."""
    page, document = (folder / PAGE).read_text(), told(folder)

    assert f"{document['evidenced']} of {document['points']} points are evidenced" in page
    assert page.count('<p><span class="badge open">not evidenced</span></p>') == 58 - document["evidenced"]
    assert "http://" not in page
    assert "https://" not in page


def test_a_point_that_cites_what_no_audit_looks_at_is_refused(intact_chain: Chain) -> None:
    """A new sentence cannot be added with evidence that nobody verifies."""
    with pytest.raises(DataError, match="no audit of the release looks at it"):
        build(Case(intact_chain.store, intact_chain.digests["released_model"]), frozenset())


def test_the_bill_of_materials_names_model_data_weights_and_packages(folder: Path, chain: Chain) -> None:
    """With hashes and licences where they are known, and a count of where they are not."""
    found = {"torch": {"version": "2", "record_sha256": "ab" * 32, "licence": "BSD-3-Clause"}}
    record = {"asset": "trained_checkpoint", "packages": {"torch": "2"}, "installed": found}
    case, checkpoint = Case(chain.store, chain.digests["released_model"]), chain.digests["trained_checkpoint"]
    case.kept.records[checkpoint] = [record_of(record, checkpoint)]

    document = json.loads(bom.bom_of(case))

    kinds = {part["name"]: part["type"] for part in document["components"]}
    assert kinds["torch"] == "library"
    assert sorted(kinds.values()) == ["data", "data", "library"]
    torch = next(part for part in document["components"] if part["name"] == "torch")
    assert torch["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    assert torch["licenses"] == [{"license": {"name": "BSD-3-Clause"}}]
    assert document["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert told(folder)["bom"] == {"hash": {"present": 3, "of": 4}, "licence": {"present": 3, "of": 4}}


def test_an_invalid_bill_of_materials_is_never_written() -> None:
    """The library judges, not we."""
    with pytest.raises(DataError, match="not valid CycloneDX"):
        bom._require_valid(b'{"bomFormat": "CycloneDX", "specVersion": "1.7", "components": [{"type": "modle"}]}')


def test_a_step_records_what_was_installed() -> None:
    """So that a bill of materials made later has a hash and a licence for each package."""
    told: Any = environment()
    found = told["installed"]["numpy"]

    assert found["version"] == told["packages"]["numpy"]
    assert len(found["record_sha256"]) == 64
    assert "BSD" in found["licence"]


def test_the_provenance_is_slsa_about_the_released_files_and_signed(folder: Path, intact_chain: Chain) -> None:
    """Subjects are the files that users hold; the signature is over exactly these bytes."""
    document, release = told(folder, PROVENANCE), intact_chain.manifest("released_model")

    signed = envelope.unsealed((folder / ENVELOPE).read_bytes(), intact_chain.public_key.read_bytes())

    assert signed == (folder / PROVENANCE).read_bytes()
    assert document["predicateType"] == "https://slsa.dev/provenance/v1"
    assert {s["name"]: s["digest"]["sha256"] for s in document["subject"]} == {
        path: entry.sha256 for path, entry in release.entries.items()
    }
    built = document["predicate"]["buildDefinition"]
    assert built["internalParameters"] == {"packages": {"torch": "2"}, "hardware": {"device": "CPU"}}
    named = {item["name"]: item["digest"] for item in built["resolvedDependencies"]}
    assert named["raw-export"] == {"sha256": intact_chain.digests["raw_export"]}
    assert named["code"] == {"gitCommit": "c0ffee"}


def test_the_croissant_is_readable_and_says_what_is_known_of_privacy(folder: Path) -> None:
    """By the reference implementation."""
    found = mlc.Dataset(str(folder / CROISSANT)).metadata

    assert "8 file names were replaced" in str(found.personal_sensitive_information)
    assert {item.sha256 for item in found.distribution if isinstance(item, mlc.FileObject)}


def test_an_untouched_dossier_passes_its_check_and_is_the_same_twice(
    folder: Path, intact_chain: Chain, tmp_path: Path
) -> None:
    """A false alarm would teach everybody to look away."""
    written(intact_chain, tmp_path / "again")

    assert checked(intact_chain, folder) == ()
    assert [
        p.name for p in sorted(folder.iterdir()) if p.read_bytes() != (tmp_path / "again" / p.name).read_bytes()
    ] == [
        ENVELOPE  # an EC signature is never the same
    ]


@pytest.mark.parametrize("name", [DOSSIER, PAGE, BOM, PROVENANCE, ENVELOPE, CROISSANT])
def test_a_changed_file_of_a_dossier_is_named(folder: Path, intact_chain: Chain, tmp_path: Path, name: str) -> None:
    """Also one that was changed together with its hash."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    text = (copy / name).read_text()
    (copy / name).write_text(text.replace("tiny-v1", "tinier-v1") if "tiny-v1" in text else text.replace("e", "f", 1))

    findings = checked(intact_chain, copy)

    assert any(line.startswith(name) for line in findings), findings


def test_a_sentence_that_was_edited_is_named_with_what_the_release_gives(
    folder: Path, intact_chain: Chain, tmp_path: Path
) -> None:
    """The evidence still stands; what is said of it is a lie."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / DOSSIER).write_text(
        (copy / DOSSIER).read_text().replace("3 test images, 3 share", "300 test images, 3 share")
    )

    findings = checked(intact_chain, copy)

    assert findings[0].startswith("Point 2(g), the validation and testing data used")
    assert "it says '300 test images" in findings[0]
    assert "the release gives '3 test images" in findings[0]


def test_a_flipped_byte_of_anything_that_is_named_is_found_by_audit_and_check(folder: Path, chain: Chain) -> None:
    """Manifest, object or record: both say which, and the check says which point rests on it."""
    cited = {c["kind"]: c for s in told(folder)["sections"] for p in s["points"] for c in p["evidence"]}
    assert {*cited} == {
        "object",
        "record",
        "checkpoint",
        "condition-subset",
        "normalized-splits",
        "raw-export",
        "release",
    }

    for item in cited.values():
        path = chain.root / "workspace" / "store" / item["key"]
        data = path.read_bytes()
        flip(path, len(data) // 2)
        found = audit(chain.store, chain.digests["released_model"], Evidence(public_key=chain.public_key))
        findings = checked(chain, folder)
        assert not found.intact, item
        changed = f"{item['name']} ({item['digest'][:12]}) was changed"
        assert [line for line in findings if line.startswith("Point ") and changed in line], findings
        path.write_bytes(data)


def test_nothing_is_evidenced_of_a_release_that_is_not_intact(chain: Chain, tmp_path: Path) -> None:
    """A dossier about other bytes than those that are there would be a forgery."""
    flip(chain.object_file("trained_checkpoint", "model/model.safetensors"))

    with pytest.raises(ReleaseError, match="nothing can be evidenced"):
        written(chain, tmp_path / "out")
    with pytest.raises(ConfigurationError, match="is a checkpoint"):
        written(chain, tmp_path / "out", "trained_checkpoint")
    assert not (tmp_path / "out").exists()


def test_the_command_counts_and_its_check_exits_5(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scripts look at the status; the keys are a contract."""
    at_home(chain, monkeypatch)
    out = tmp_path / "out"

    made = said("dossier", "release", str(out))
    good = said("dossier", str(out), "--check")
    flip(chain.object_file(Asset.CLASS_METRICS, "evaluation.json"))
    bad = said("dossier", str(out), "--check", exit_code=5)

    assert len(made["statements"]) == made["points"] == 58
    assert made["evidenced"] == sum(point["says"] is not None for point in made["statements"])
    logic = next(point for point in made["statements"] if "A detector of" in str(point["says"]))
    assert "config.json" in str(logic), logic
    assert Path(made["path"]).is_file()
    assert (good["intact"], bad["intact"]) == (True, False)


def test_every_point_of_annex_iv_is_asked_once() -> None:
    """A point that is left out would make the count look better."""
    asked = [(name, asks) for _, _, points in annex.ANNEX for name, asks, _ in points]

    assert len(set(asked)) == len(asked)
    assert [name for name, _ in asked] == sorted((name for name, _ in asked), key=lambda name: (name[0], name))


def test_a_check_says_first_what_was_given_wrongly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key was asked for to check a folder that is no dossier, and a place to write was left aside."""
    for name in ("DENTSIGHT_STORE", "DENTSIGHT_WORKSPACE", "DAGSTER_HOME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DENTSIGHT_HOME", str(tmp_path))

    no_dossier, with_out = called("dossier", "here", "--check"), called("dossier", "here", "there", "--check")

    assert str(no_dossier.exception) == "here holds no dossier.json. Give a folder that `dentsight dossier` wrote."
    assert "--check writes nothing, and there would stay empty" in str(with_out.exception)
