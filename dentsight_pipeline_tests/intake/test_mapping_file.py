"""Mappings of one's own: what they mean, how they are refused, and that a dataset key never forgets or invents one."""

from __future__ import annotations

from pathlib import Path

import pytest

from dentsight_pipeline.data.identifiers import find_identifiers
from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.data.ontology import CLASSES, names_of
from dentsight_pipeline.data.raw_export import mapping_of_raw
from dentsight_pipeline.data.splits import read_split
from dentsight_pipeline.documents.facts import SplitsFacts
from dentsight_pipeline.errors import AnnotationError, ConfigurationError, DataError, UnknownLabelError
from dentsight_pipeline.intake.acquire import ingest, plan
from dentsight_pipeline.intake.datasets import register_dataset
from dentsight_pipeline.intake.ingest import Request, ingest_export
from dentsight_pipeline.intake.inspect import inspect_export, summary_lines
from dentsight_pipeline.intake.mapping_file import MAPPING_FILE, load_mapping, parse_mapping, write_template
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline_tests.data.export_builder import ExportBuilder

BOX, OTHER, TOOTH = [30, 5, 8, 9], [40, 20, 8, 9], [6, 5, 10, 12]
NAMES = ("root", "11", "Kavitet", "Krone", "Infection", "No", "Bruecke")
MINE = """
source: city-clinic
licence: CC BY 4.0
covers: [teeth, caries, crown, bridge, periapical-radiolucency]
labels:
  Kavitet: caries
  Krone: crown
  Infection: periapical-radiolucency
  No: drop
  Bruecke: [bridge, crown]
loose: {Krone: marks bridges too}
reasons: {No: a tick for a quadrant without findings}
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


@pytest.fixture
def builder(tmp_path: Path) -> ExportBuilder:
    """A whole export whose names no packaged mapping knows."""
    made = ExportBuilder(tmp_path / "export", names=NAMES)
    made.image("train", {"Kavitet": [BOX], "Infection": [OTHER], "11": [TOOTH]})
    made.image("train", {"Bruecke": [BOX], "No": [OTHER]})
    for split in ("valid", "test"):
        made.image(split, {"Krone": [BOX]})
    made.write()
    return made


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text(MINE)
    return file


def _normalised(store: Store, root: Path, mapping: Path | None = None) -> Manifest:
    own = load_mapping(str(mapping)) if mapping else None
    return normalise_export(store, ingest_export(root, store, Request(mapping=own)))


def test_labels_mean_what_the_file_says(store: Store, builder: ExportBuilder, mine: Path) -> None:
    """Classes, composites, drops, loose names and coverage; the strict table stands behind it (`11`)."""
    splits = _normalised(store, builder.root, mine)

    facts = splits.facts_as(SplitsFacts)
    counts = {name: n for name, n in facts.splits["train"].class_counts.items() if n}
    assert counts == {"11": 1, "caries": 1, "crown": 1, "periapical-radiolucency": 1, "bridge": 1}
    assert facts.dropped["No"] == 1
    assert facts.loose_classes == ("crown",)
    assert (facts.mapping.source, facts.mapping.chosen_by) == ("city-clinic", "mapping")
    assert facts.mapping.coverage is not None
    assert facts.mapping.coverage.declared
    assert names_of(facts.mapping.coverage.classes) == (
        "teeth", "caries", "crown", "periapical-radiolucency", "bridge"
    )  # fmt: skip


def test_an_export_can_bring_its_mapping(store: Store, builder: ExportBuilder, mine: Path) -> None:
    """`dentsight.yaml` at its root is read like the file that is named; without either its names are not known."""
    with pytest.raises(UnknownLabelError, match=r"'Kavitet' is not known .* inspect EXPORT --write-mapping FILE"):
        ingest_export(builder.root, store)

    named = _normalised(store, builder.root, mine)
    (builder.root / MAPPING_FILE).write_text(MINE)
    brought = _normalised(store, builder.root)

    assert brought.digest == named.digest
    own = mapping_of_raw(store, brought.inputs["raw_export"])
    assert own is not None
    assert own.source == "city-clinic"


def test_single_images_are_declared_by_their_names_and_kept_by_their_bytes(
    store: Store, builder: ExportBuilder, tmp_path: Path
) -> None:
    """The name embeds a patient: what stays is the digest of the stored picture."""
    name = builder.file_of("train", 1).name
    file = tmp_path / "own.yaml"
    declared = MINE.replace("source:", f"images: {{'*{name}': [caries, crown, bridge]}}\nsource:")
    file.write_text(declared)

    splits = _normalised(store, builder.root, file)

    train = read_split(store, splits, "train")
    covered = [names_of(c for c, there in zip(CLASSES, row, strict=True) if there) for row in train.covered]
    assert covered[1] == ("caries", "crown", "bridge")
    assert covered[0][0] == "teeth"
    raw = store.get_manifest(splits.inputs["raw_export"])
    assert find_identifiers(store, raw, stems=builder.stems()) == []
    file.write_text(declared.replace(name, "other*"))
    with pytest.raises(ConfigurationError, match=r"images, '\*other\*': no image of the export has such a name"):
        _normalised(store, builder.root, file)
    file.write_text(declared.replace("[caries, crown, bridge]", "[teeth]"))
    with pytest.raises(
        AnnotationError, match=r"annotation 3 of image 1 .* it marks bridge, which mapping 'city-clinic'"
    ):
        _normalised(store, builder.root, file)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("Kavitet: caries", "Kavitet:"), r"labels, 'Kavitet': no class yet\. Give a tooth, drop, or one of caries"),
        (("Kavitet: caries", "Kavitet: carries"), r"'carries' is no class\. Did you mean 'caries'\?"),
        (("city-clinic", "canonical"), r"source: 'canonical' is a packaged mapping"),
        (("covers: [teeth,", "covers: [tooth,"), r"covers: 'tooth' is no class that can be looked for"),
        (("marks bridges too", "''"), r"loose, 'Krone': say why"),
        (
            ("Bruecke: [bridge, crown]", "crown: drop"),
            r"labels, 'crown': it is known as crown, .* Say why it is dropped",
        ),
        (("{No: a tick", "{Nope: a tick"), r"'Nope' has a reason, but stands nowhere under `labels`"),
        (("Bruecke: [bridge, crown]", "'55': '15'"), r"labels, '55': a deciduous tooth is never folded"),
        (("No: drop", "No: drop\n  KAVITET: crown"), r"labels: 'Kavitet' and 'KAVITET' are one name"),
        (("licence:", "license:"), r"unknown field `license`"),
        (("No: drop", "No: drop\n  Krone: bridge"), r"'Krone' stands there twice"),
        (("No: drop", "No: {drop: why}"), r"Expected `str \| array`, got `object` - at `\$\.labels\.No`"),
        (("city-clinic", '"\\ud800"'), r"surrogates not allowed"),
        (("city-clinic", '"a\\0b"'), r"source: 'a\\x00b' is no plain name"),
        (("[bridge, crown]", "[" * 5000), r"recursion"),
        (("labels:", "labels: ["), r"while parsing"),
    ],
)
def test_a_mapping_that_cannot_be_meant_is_refused(change: tuple[str, str], told: str) -> None:
    """With the file, the field and the command that writes a right one."""
    with pytest.raises(ConfigurationError, match=rf"^mine\.yaml is no label mapping: .*{told}.* --write-mapping FILE`"):
        parse_mapping(MINE.replace(*change).encode(), "mine.yaml")


def test_the_template_has_every_name_and_is_a_mapping_once_it_is_filled_in(
    store: Store, builder: ExportBuilder, tmp_path: Path
) -> None:
    """Known names have their class, unknown ones a gap that is refused, all have their counts; `No` is a name."""
    file = tmp_path / "template.yaml"
    write_template(builder.root, None, file)

    text = file.read_text()
    assert '\n  "11": "11"  # train 1\n' in text
    assert "\n  Krone:  # valid 1, test 1; nearest: crown\n" in text
    assert "\n  Infection:  # train 1; it names a periapical lesion in one public dataset" in text
    with pytest.raises(ConfigurationError, match="'Kavitet': no class yet"):
        load_mapping(str(file))
    with pytest.raises(ConfigurationError, match="is there already"):
        write_template(builder.root, None, file)
    for gap, class_name in (("Kavitet", "caries"), ("Krone", "crown"), ("Infection", "drop"), ("No", "drop")):
        text = text.replace(f"\n  {gap}:", f"\n  {gap}: {class_name}")
    file.write_text(text.replace("\n  Bruecke:", "\n  Bruecke: bridge").replace("  - '11'", "  - caries"))
    with pytest.raises(AnnotationError, match="Add 'caries' to `covers`"):
        _normalised(store, builder.root, file)  # the template covers what was known: the owner says the rest


def test_inspect_tells_what_a_mapping_does(builder: ExportBuilder, mine: Path) -> None:
    """And what is not looked for, so that nobody is healthy of it."""
    report = inspect_export(builder.root, mappings=[load_mapping(str(mine))])

    assert report.refusals == ()
    (covered,) = report.coverage.values()
    assert [*report.licences.values()] == ["CC BY 4.0"]
    assert covered == ("teeth", "caries", "crown", "periapical-radiolucency", "bridge")
    assert any(
        line.startswith("Not looked for, so no image is healthy of them: calculus") for line in summary_lines(report)
    )
    assert "mapping 'city-clinic'" in summary_lines(report)[1]


def test_a_key_says_what_it_remembers_and_refuses_to_be_read_otherwise(
    store: Store, builder: ExportBuilder, mine: Path, tmp_path: Path
) -> None:
    """An option of last month that acts in silence, or a mapping that is changed under a key, loses boxes unseen."""
    location = str(builder.root)

    def run(**given: str | tuple[str, ...]) -> str:
        mappings = [str(given["mapping"])] if "mapping" in given else []
        (one,) = plan(
            store, "city", [location], str(given.get("source", "")), tuple(given.get("drop", ())), mappings=mappings
        )
        digest = ingest(store, one, tmp_path / "scratch", lambda *_: None)
        exports = [one.registered_as(digest)]
        register_dataset(store, "city", digest, exports, drop=one.drop, replace=str(given.get("replace", "")))
        return one.told

    assert run(mapping=str(mine)) == ""
    assert run().startswith(
        "city remembers: mapping 'city-clinic' (a file). To read the export without, give --mapping auto"
    )
    mine.write_text(MINE.replace("Krone: crown", "Krone: bridge"))
    with pytest.raises(DataError, match="holds other bytes, or is read with another mapping"):
        run(mapping=str(mine))
    with pytest.raises(DataError, match="holds other bytes, or is read with another mapping"):
        (builder.root / MAPPING_FILE).write_text(mine.read_text())
        run()
    run(mapping=str(mine), drop=("11",), replace="the crowns are bridges")
    assert "--drop '11'" in run()
    with pytest.raises(DataError, match=r"is read with --mapping auto --drop '11'; now --mapping auto was asked for"):
        run(mapping=str(mine))
    with pytest.raises(ConfigurationError, match="--source and --mapping both say"):
        run(mapping=str(mine), source="canonical")
