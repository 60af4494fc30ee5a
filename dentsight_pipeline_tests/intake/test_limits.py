"""How much may be mended: the limits, the words in which they refuse, and how a person accepts what is beyond them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dentsight_pipeline.commands.run import CellRequest, run_cell
from dentsight_pipeline.errors import AnnotationError, ConfigurationError
from dentsight_pipeline.intake.acquire import Acquisition, plan
from dentsight_pipeline.intake.datasets import RegisteredExport, register_dataset
from dentsight_pipeline.intake.ingest import Request, ingest_export
from dentsight_pipeline.intake.inspect import inspect_export, summary_lines
from dentsight_pipeline.intake.limits import LIMITS, Limits
from dentsight_pipeline.intake.records import Refusals
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline_tests.data.export_builder import ExportBuilder, whole_export


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def _mostly_missing(root: Path) -> Path:
    """An export of whose training images six of eight have no file."""
    builder: ExportBuilder = whole_export(root)
    for _ in range(6):
        builder.image("train", {"caries": [[1, 1, 9, 9]]})
    builder.write()
    for image in builder.splits["train"]["images"][-6:]:
        (root / "train" / image["file_name"]).unlink()
    return root


@pytest.mark.parametrize("kind", LIMITS)
def test_a_limit_lets_through_what_is_at_it_and_stops_what_is_beyond(kind: str) -> None:
    """Each stops by its share and by its least count, and says what was counted, why, and how to accept it."""
    limit = LIMITS[kind]
    total = round(max(limit.least, 1) / max(limit.share, 0.01)) + 100
    at = max(int(limit.share * total), limit.least - 1)
    refusals = Refusals(collect=True)
    limits = Limits((), refusals)

    limits.judge("train", kind, at, total)
    limits.judge("train", kind, limit.least - 1, limit.least - 1)
    assert refusals.errors == []
    limits.judge("train", kind, at + 1, total)
    words = f"{at + 1} of {total} {limit.of}: {limit.cause}"
    assert [words in str(e) and (limit.option or f"--accept-repairs {kind}") in str(e) for e in refusals.errors] == [
        True
    ]


def test_what_is_accepted_goes_on_and_is_recorded(tmp_path: Path, store: Store) -> None:
    """Whoever reads the dataset years later must see that a limit was passed, and which."""
    root = _mostly_missing(tmp_path / "export")

    with pytest.raises(AnnotationError, match=r"6 of \d listed images: their files are missing.*image_without_file"):
        ingest_export(root, store)
    raw = ingest_export(root, store, Request(accept=["image_without_file", "clipped_box"]))
    assert raw.facts["accepted_repairs"] == ["image_without_file"]
    report = inspect_export(root, accept=["image_without_file"])
    assert (report.refusals, report.accepted_repairs) == ((), ("image_without_file",))
    assert "Accepted beyond their limits: image_without_file" in summary_lines(report)


def test_accepting_what_need_not_be_accepted_changes_nothing(tmp_path: Path, store: Store) -> None:
    """A digest tells bytes apart, not the care with which a command was written."""
    root = whole_export(tmp_path / "export").write()

    plain = ingest_export(root, store)
    assert ingest_export(root, store, Request(accept=list(LIMITS))).digest == plain.digest
    assert "accepted_repairs" not in plain.facts


def test_an_unknown_kind_is_refused_with_the_known_ones(tmp_path: Path, store: Store) -> None:
    """By every door, and before anything is read."""
    words = r"--accept-repairs 'clipped': no such kind\. There are image_without_file, clipped_box, "

    with pytest.raises(ConfigurationError, match=words):
        inspect_export(whole_export(tmp_path / "export").write(), accept=["clipped"])
    with pytest.raises(ConfigurationError, match=words):
        plan(store, "v8", ["/exports/v8"], accept=("clipped",))
    with pytest.raises(ConfigurationError, match=words):
        run_cell(CellRequest(export=(str(tmp_path / "export"),), dataset="v8", accept_repairs=("clipped",)))


def test_a_dataset_key_remembers_what_was_accepted_for_its_place(store: Store) -> None:
    """The same command without the option means the same dataset; another place inherits nothing."""
    kinds = ("clipped_box",)
    export = RegisteredExport(raw_export="a" * 64, location="/exports/v8")
    register_dataset(store, "v8", "a" * 64, [export], accept=kinds)

    assert plan(store, "v8")[0].accept == kinds
    assert plan(store, "v8", ["/exports/v8"], accept=("zero_area_box",))[0].accept == ("zero_area_box",)
    assert plan(store, "v8", ["/exports/v9"])[0].accept == ()


def test_a_version_that_was_read_by_accepting_is_not_recalled_without() -> None:
    """What one key accepts must not be slipped under another key of the same Roboflow version."""
    plain = Acquisition("roboflow:team/opg/8", None, (), None, asked=True)
    accepting = Acquisition("roboflow:team/opg/8", None, (), None, asked=True, accept=("clipped_box",))

    assert plain.memo == {"location": "roboflow:team/opg/8"}
    assert plain.memo != accepting.memo
