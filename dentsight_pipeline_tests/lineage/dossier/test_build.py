"""A dossier's check names each file that is missing, strange or not the release's, and its head tells what it is of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dentsight_pipeline.documents.dossier import DOSSIER, ENVELOPE, PAGE, PROVENANCE
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.lineage.dossier.build import write_dossier
from dentsight_pipeline.release import envelope
from dentsight_pipeline.release.keys import generate_key
from dentsight_pipeline.store import log
from dentsight_pipeline_tests.lineage.chain_builder import Chain
from dentsight_pipeline_tests.lineage.test_dossier import checked


@pytest.fixture(scope="module")
def unsigned(intact_chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dossier without a signature of its provenance. Only for reading."""
    out = tmp_path_factory.mktemp("dossier") / "kept"
    write_dossier(intact_chain.store, intact_chain.digests["released_model"], out, intact_chain.public_key, None)
    return out


def test_a_dossier_without_a_private_key_is_whole_and_has_no_envelope(unsigned: Path, intact_chain: Chain) -> None:
    """Whoever audits a stranger's release has only the public key."""
    assert not (unsigned / ENVELOPE).exists()
    assert checked(intact_chain, unsigned) == ()


def test_the_head_of_a_dossier_says_what_it_is_of(unsigned: Path, intact_chain: Chain) -> None:
    """The release, its verdict, the entry of the log that was signed, and what each licence allows."""
    told = json.loads((unsigned / DOSSIER).read_text())
    noted = log.read(intact_chain.store).entries[7]

    assert told["release"] == intact_chain.digests["released_model"]
    assert (told["title"], told["verdict"], told["never_for_xrays"]) == ("tiny-v1 × smoke", "PASS", False)
    assert told["log_head"].startswith(f"{noted.sequence}:")
    assert told["licences"] == [
        {
            "what": "data unnamed export",
            "licence": "CC BY 4.0",
            "allows": ["commercial", "own-terms", "share"],
        }
    ]
    assert told["licence_evidence"]["name"] == "release_report/verdict.json"
    assert set(told["files"]) == {p.name for p in unsigned.iterdir()} - {DOSSIER, PAGE}


@pytest.mark.parametrize("name", [PROVENANCE, PAGE])
def test_a_missing_file_is_named(unsigned: Path, intact_chain: Chain, tmp_path: Path, name: str) -> None:
    """By the dossier where it lists it, and by what the release gives in any case."""
    copy = shutil.copytree(unsigned, tmp_path / "copy")
    (copy / name).unlink()

    listed = [f"{name} is missing."] if name == PROVENANCE else []
    assert checked(intact_chain, copy) == (*listed, f"{name} is not the one that the release gives.")


def test_a_strange_file_and_an_envelope_of_another_are_named(
    unsigned: Path, intact_chain: Chain, tmp_path: Path
) -> None:
    """Signed by somebody else, or about something else."""
    copy = shutil.copytree(unsigned, tmp_path / "copy")
    (copy / "approval.pdf").write_bytes(b"approved")
    wrong = f"{ENVELOPE} is not signed with the key, or says otherwise than {PROVENANCE}."
    strange = "approval.pdf is not part of the dossier."
    private = intact_chain.keys / "release-key.pem"

    (copy / ENVELOPE).write_bytes(envelope.signed((copy / PROVENANCE).read_bytes(), private))
    assert checked(intact_chain, copy) == (strange,)
    (copy / ENVELOPE).write_bytes(envelope.signed(b"{}", private))
    assert checked(intact_chain, copy) == (wrong, strange)
    other = generate_key(tmp_path / "keys").private
    (copy / ENVELOPE).write_bytes(envelope.signed((copy / PROVENANCE).read_bytes(), other))
    assert checked(intact_chain, copy) == (wrong, strange)


def test_a_folder_without_a_dossier_and_one_that_exists_are_refused(
    unsigned: Path, intact_chain: Chain, tmp_path: Path
) -> None:
    """Before a long audit."""
    with pytest.raises(ConfigurationError, match=r"holds no dossier\.json\. Give a folder that `dentsight dossier`"):
        checked(intact_chain, tmp_path)
    with pytest.raises(ConfigurationError, match="exists"):
        write_dossier(
            intact_chain.store, intact_chain.digests["released_model"], unsigned, intact_chain.public_key, None
        )
