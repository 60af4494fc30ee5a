"""From a key and a launch to what is ingested."""

from __future__ import annotations

from pathlib import Path

import pytest

from dentsight_pipeline.errors import ConfigurationError, DataError
from dentsight_pipeline.intake.acquire import Acquisition, fetch, ingest, plan
from dentsight_pipeline.intake.datasets import DEMO_KEY, DEMO_LOCATION, RegisteredExport, register_dataset
from dentsight_pipeline.phantom import CODE_VERSION
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline_tests.data.export_builder import whole_export

RAW = "a" * 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store in which `v8` means an export that was read from /exports/v8 as `canonical`, `x` dropped."""
    made = open_store(tmp_path / "store")
    export = RegisteredExport(raw_export=RAW, location="/exports/v8", source="canonical")
    register_dataset(made, "v8", RAW, [export], drop=("x",))
    return made


def test_a_key_alone_means_what_it_meant_before(store: Store) -> None:
    """Place, mapping and dropped labels are remembered together: each of them changes the figures."""
    told = (
        "v8 remembers: --source canonical, --drop 'x'. To read the export without, give --mapping auto and a new "
        "--dataset, or --replace 'why'."
    )
    assert plan(store, "v8") == (Acquisition("/exports/v8", "canonical", ("x",), RAW, asked=False, told=told),)


def test_naming_the_place_again_keeps_mapping_and_drops(store: Store) -> None:
    """Whoever repeats the first command without its options means the same dataset, and is told so."""
    (again,) = plan(store, "v8", ["/exports/v8"])
    assert (again.source, again.drop, again.asked, again.told[:12]) == ("canonical", ("x",), True, "v8 remembers")


def test_another_place_under_the_same_key_inherits_neither_mapping_nor_drops(store: Store) -> None:
    """They were chosen for other labels; the key's digest stays known, so that other bytes are refused."""
    assert plan(store, "v8", ["/exports/v9"]) == (Acquisition("/exports/v9", None, (), RAW),)


def test_what_is_asked_for_now_is_all_that_counts(store: Store) -> None:
    """Half remembered and half asked for would be a reading that nobody ever named."""
    (other_mapping,), (other_drop,) = plan(store, "v8", source="opg-reporting"), plan(store, "v8", drop=("y",))

    assert (other_mapping.source, other_mapping.drop) == ("opg-reporting", ())
    assert (other_drop.source, other_drop.drop) == (None, ("y",))
    (nothing,) = plan(store, "v8", mappings=["auto"])
    assert (nothing.source, nothing.drop, nothing.registered) == (None, (), RAW)
    assert nothing.told.startswith("v8 was read with: --source canonical, --drop 'x'. Now only what is given counts")
    (again,) = plan(store, "v8", source="canonical", drop=("x",))
    assert again.told == ""


def test_several_places_are_planned_one_by_one_and_remembered_by_place(store: Store) -> None:
    """In any order, and each with its own mapping; one alone under their key is something else."""
    exports = [RegisteredExport(raw_export=digest * 64, location=f"/{digest}", source=digest) for digest in "ab"]
    register_dataset(store, "both", "c" * 64, exports)

    again = plan(store, "both", ["/b", "/a"])

    assert [(one.location, one.source, one.registered, one.alone) for one in again] == [
        ("/b", "b", "b" * 64, False),
        ("/a", "a", "a" * 64, False),
    ]
    assert [one.location for one in plan(store, "both")] == ["/a", "/b"]
    assert plan(store, "both", ["/a"]) == (Acquisition("/a", None, (), "c" * 64),)


def test_the_kth_mapping_is_of_the_kth_export(tmp_path: Path, store: Store) -> None:
    """One mapping for two exports would read one of them with the other's meaning."""
    file = tmp_path / "mine.yaml"
    file.write_text("source: mine\nlicence: CC0\nlabels: {A: caries}\n")

    made = plan(store, "both", ["/a", "/b"], mappings=["auto", str(file)])

    assert [one.mapping and one.mapping.source for one in made] == [None, "mine"]
    with pytest.raises(ConfigurationError, match=r"--mapping is given 1 times for 2 exports\. The k-th belongs"):
        plan(store, "both", ["/a", "/b"], mappings=["auto"])


def test_the_same_place_twice_is_refused(store: Store) -> None:
    """The images would count twice, and the last one once won in silence."""
    with pytest.raises(ConfigurationError, match=r"--export /a is given 2 times\. Name it once\."):
        plan(store, "both", ["/a", "/b", "/a"])


def test_the_demo_key_is_drawn_unless_a_place_is_given(store: Store) -> None:
    """It is the one key that means something before it was ever used."""
    assert plan(store, DEMO_KEY) == (Acquisition(DEMO_LOCATION, asked=False),)
    assert plan(store, DEMO_KEY, ["/mine"])[0].location == "/mine"


def test_an_unknown_key_without_a_place_is_refused(store: Store) -> None:
    """And says where to give one."""
    with pytest.raises(ConfigurationError, match=r"Nothing is known about dataset 'v9'\. .* --export DIR"):
        plan(store, "v9")


@pytest.mark.parametrize(
    ("location", "memo"),
    [
        ("phantom:4:7", {"location": "phantom:4:7", "drawing": CODE_VERSION}),
        ("roboflow:clinic/opg/8", {"location": "roboflow:clinic/opg/8"}),
        ("s3://bucket/v8", None),
        ("/exports/v8", None),
        ("/exports/v8.zip", None),
    ],
)
def test_only_what_cannot_change_is_recalled_without_reading_it(location: str, memo: dict[str, str] | None) -> None:
    """A folder, a zip and a bucket may hold other bytes tomorrow."""
    assert Acquisition(location, None, (), None, asked=True).memo == memo


def _silent(stage: str, done: int, total: int) -> None:
    """Says nothing."""


def test_a_remembered_place_that_is_gone_gives_the_bytes_in_the_store(tmp_path: Path, store: Store) -> None:
    """A disk that was unplugged stops nobody; but a place that is named now must be there."""
    gone = str(tmp_path / "gone")

    assert ingest(store, Acquisition(gone, None, (), RAW, asked=False), tmp_path, _silent) == RAW
    for acquisition in (Acquisition(gone, None, (), RAW, asked=True), Acquisition(gone, None, (), None, asked=False)):
        with pytest.raises(DataError, match=r"There is nothing at .*gone\. Give an export's folder or zip"):
            ingest(store, acquisition, tmp_path, _silent)


def test_what_a_folder_holds_is_ingested_with_mapping_drops_and_all_splits(tmp_path: Path, store: Store) -> None:
    """Nothing of what was asked for is lost on the way."""
    builder = whole_export(tmp_path / "export")
    location = str(builder.write())

    digest = ingest(store, Acquisition(location, None, (), None, asked=True), tmp_path / "scratch", _silent)

    assert store.get_manifest(digest).facts["splits"]["train"]["images"] == 3
    with pytest.raises(ConfigurationError, match="--drop 'nothing'"):
        ingest(store, Acquisition(location, None, ("nothing",), None, asked=True), tmp_path / "scratch", _silent)
    with pytest.raises(ConfigurationError, match="no-such-mapping"):
        ingest(store, Acquisition(location, "no-such-mapping", (), None, asked=True), tmp_path / "scratch", _silent)
    for file in (builder.root / "test").iterdir():
        file.unlink()
    (builder.root / "test").rmdir()
    with pytest.raises(DataError, match="the split 'test' is missing"):
        ingest(store, Acquisition(location, None, (), None, asked=True), tmp_path / "scratch", _silent)


def test_a_drawn_corpus_leaves_no_drawing_behind(tmp_path: Path, store: Store) -> None:
    """It can be drawn again at any time; another one is other bytes."""
    digests = {
        seed: ingest(store, Acquisition(f"phantom:6:{seed}", None, (), None, asked=True), tmp_path / "scratch", _silent)
        for seed in (1, 2)
    }

    assert digests[1] != digests[2]
    assert store.get_manifest(digests[1]).facts["corpus"]["kind"] == "phantom"
    assert not (tmp_path / "scratch" / "phantom").exists()


def test_a_path_is_fetched_as_it_is_and_an_address_by_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`roboflow:` and `s3://` are the only prefixes; what they bring is tested where they are."""
    monkeypatch.delenv("ROBOFLOW_API_KEY", raising=False)
    monkeypatch.delenv("ROBOFLOW_API_KEY_FILE", raising=False)
    assert fetch("exports/v8.zip", tmp_path, _silent) == (Path("exports/v8.zip"), None)

    with pytest.raises(ConfigurationError, match="is no version on Roboflow"):
        fetch("roboflow:clinic/opg", tmp_path, _silent)
    with pytest.raises(ConfigurationError, match="Roboflow needs an API key"):
        fetch("roboflow:clinic/opg/8", tmp_path, _silent)
    with pytest.raises(ConfigurationError, match="is no address on S3"):
        fetch("s3://", tmp_path, _silent)
