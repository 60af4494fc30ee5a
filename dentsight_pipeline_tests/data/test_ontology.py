"""The label tables: what is known, what is refused, and which mapping an export is read with."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dentsight_pipeline.data import ontology
from dentsight_pipeline.data.ontology import CONDITIONS, MAPPINGS, TEETH, choose_source, mapping_for
from dentsight_pipeline.errors import ConfigurationError, UnknownLabelError


def test_teeth_and_conditions_have_the_contracted_order() -> None:
    """Category ids are positions in these tuples: a reordering would relabel every checkpoint."""
    assert TEETH[:9] == ("11", "12", "13", "14", "15", "16", "17", "18", "21")
    assert (len(TEETH), TEETH[-1]) == (32, "48")
    assert " ".join(CONDITIONS) == (
        "caries calculus RC-treated impacted restoration crown periapical-radiolucency root-stump bridge implant "
        "tooth-bud missing other-finding"
    )


def test_every_name_of_the_published_corpus_is_known(shared_folder: Path) -> None:
    """The reference list of v8's 62 categories must map without a question."""
    listed = json.loads((shared_folder / "reference" / "opg_reporting_v8_categories.json").read_text())
    mapping = mapping_for("opg-reporting")

    classes = {c["name"]: mapping.resolve(c["name"]).classes for c in listed["categories"]}

    assert classes["OPG-data"] == ()
    assert classes["RC-treated-and-root-stump"] == ("RC-treated", "root-stump")
    assert all(classes[tooth] == (tooth,) for tooth in TEETH)


def test_every_plain_synonym_of_the_reference_table_maps_as_it_says(shared_folder: Path) -> None:
    """The table was collected from eleven exports; notes in brackets are not part of a name."""
    table = json.loads((shared_folder / "reference" / "label_synonyms.json").read_text())
    mapping = mapping_for("canonical")

    for cls, names in table.items():
        for name in names:
            if "(" in name or cls == "_ambiguous_do_not_map_silently":
                continue
            assert mapping.resolve(name).classes == (() if cls == "_drop" else (cls,)), name


def test_an_unknown_name_is_refused_with_the_nearest_known_one() -> None:
    """Nothing is guessed, but the person who mistyped should see it at once."""
    with pytest.raises(
        UnknownLabelError, match=r"'carries' is not known for source 'opg-reporting'. Did you mean 'caries'"
    ):
        mapping_for("opg-reporting").resolve("carries")


@pytest.mark.parametrize("name", ["Filling - Crown", "kuretaj", "spaced", "çekim", "Infection"])
def test_an_ambiguous_name_is_refused_with_the_reason(name: str) -> None:
    """A name that could mean two things must not become one of them silently."""
    with pytest.raises(UnknownLabelError, match=r"is ambiguous for source 'canonical': it "):
        mapping_for("canonical").resolve(name)


def test_a_deciduous_tooth_is_refused_and_no_permanent_one_is_suggested() -> None:
    """5x must never be folded into 1x, not even by a suggestion."""
    with pytest.raises(UnknownLabelError, match="deciduous tooth") as caught:
        mapping_for("canonical").resolve("55")

    assert caught.value.suggestions == []


def test_case_and_separators_do_not_make_another_label_but_letters_do() -> None:
    """'Root_Stump' is a spelling; 'root-stumps' is a name that somebody has to decide on."""
    mapping = mapping_for("canonical")

    assert mapping.resolve("Root_Stump").classes == ("root-stump",)
    with pytest.raises(UnknownLabelError, match="Did you mean 'root-stump'"):
        mapping.resolve("root-stumps")


def test_folding_never_makes_two_known_names_one_with_different_meanings() -> None:
    """Two rules that fold together would make the later one win unseen."""
    for mapping in MAPPINGS.values():
        folded = [ontology.fold(rule.raw_name) for rule in mapping.rules]
        assert len(folded) == len(set(folded)), mapping.source


def test_loose_labels_are_loose_only_for_their_source() -> None:
    """'Implant' of dental-radiography also marks root-filled teeth; elsewhere it keeps its strict meaning."""
    assert mapping_for("dental-radiography").loose_classes() == ["restoration", "implant"]
    assert mapping_for("dental-radiography").resolve("Implant").classes == ("implant",)
    assert not mapping_for("canonical").resolve("Implant").loose
    assert mapping_for("opg-reporting").resolve("Fillings").classes == ("restoration",)


def test_the_mapping_digest_changes_with_its_content_and_not_with_its_order() -> None:
    """The digest is part of a dataset's identity."""
    mapping = mapping_for("canonical")
    shuffled = ontology.LabelMapping(mapping.source, tuple(reversed(mapping.rules)), mapping.ambiguous)
    other = ontology.LabelMapping(mapping.source, mapping.rules[:-1], mapping.ambiguous)

    assert shuffled.digest == mapping.digest
    assert other.digest != mapping.digest
    assert len({m.digest for m in MAPPINGS.values()}) == len(MAPPINGS)
    assert re.fullmatch("[0-9a-f]{64}", mapping.digest)


@pytest.mark.parametrize(
    ("readme", "names", "source", "chosen_by"),
    [
        ("https://universe.roboflow.com/dental-uispo/-bhjcu", ["Cavity"], "dental-radiography", "readme"),
        ("", ["x", "Cavity", "Fillings", "Impacted Tooth", "Implant"], "dental-radiography", "category names"),
        ("", ["Cavity", "Fillings", "Impacted Tooth", "Implant", "a", "b"], "canonical", "default"),
        ("OPG REPORTING - v8", ["caries"], "opg-reporting", "readme"),
        ("", ["OPG-data", "caries"], "opg-reporting", "category names"),
        ("Some other set", ["caries", "Implant"], "canonical", "default"),
    ],
)
def test_a_mapping_is_chosen_by_readmes_and_names(readme: str, names: list[str], source: str, chosen_by: str) -> None:
    """A stranger's export gets the strict mapping; a known one its own, also without its README."""
    choice = choose_source([readme], names)

    assert (choice.source, choice.chosen_by) == (source, chosen_by)


def test_the_users_choice_wins_over_every_fingerprint() -> None:
    """`--source` is a decision; the fingerprint only a default."""
    choice = choose_source(["OPG REPORTING"], ["OPG-data"], "canonical")

    assert (choice.source, choice.chosen_by) == ("canonical", "option")


def test_an_unknown_source_is_refused_with_the_known_ones() -> None:
    """A mistyped `--source` must not fall back to a default."""
    with pytest.raises(ConfigurationError, match="Known sources: opg-reporting, dental-radiography, dentex, "):
        choose_source([], [], "opg")
