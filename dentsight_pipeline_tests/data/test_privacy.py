"""Stems, identifiers in text, and what may be written to a log."""

from __future__ import annotations

import pytest

from dentsight_pipeline.data.privacy import identifiers_in_text, redact, stem_kind


@pytest.mark.parametrize(
    ("stem", "kind"),
    [
        ("1-2-840-113619-2-55-3-604688_png", "uid"),
        ("1.2.826.0.1.3680043.2.1125.1.20230115103000_jpg", "uid"),
        ("2-25-123456789012345678901234567890_png", "uid"),
        ("20230115103000123_jpg", "uid"),
        ("20230115_103000_jpg", "dated"),
        ("opg 2023-01-15_png", "dated"),
        ("18_png", "numeric"),
        ("0013_jpg", "numeric"),
        ("IMG (5)_jpg", "numeric"),
        ("image_12", "numeric"),
        ("a-left-lower_png", "other"),
    ],
)
def test_stems_are_told_apart(stem: str, kind: str) -> None:
    """A UID proves a common source; a counter collides between patients and proves nothing."""
    assert stem_kind(stem) == kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("1.2.840.113619.2.55.3.604688", "uid"),
        ("x 1-2-840-113619-2-55-3-604688_png", "uid"),
        ("taken 20230115_103000", "date and time"),
        ("18_png.rf.95b01a2cb53ac23817a03c3b4fd88fd4.jpg", "export file name"),
    ],
)
def test_identifiers_are_found_in_text(text: str, kind: str) -> None:
    """Each of these occurs in real exports."""
    assert kind in identifiers_in_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "95b01a2c" * 8,
        "images/" + "20230115" * 8 + ".jpg",
        "June 1, 2024 at 2:33 PM GMT",
        "v8",
        "1.0.2",
        "RC-treated",
        "",
    ],
)
def test_digests_versions_and_export_times_are_no_identifiers(text: str) -> None:
    """A check that cries at every digest would be switched off."""
    assert identifiers_in_text(text) == {}


def test_known_stems_are_found_wherever_they_stand() -> None:
    """The proof for a corpus whose stems no pattern covers."""
    assert identifiers_in_text("label smith_anna, left", ["smith_anna"]) == {"original stem": 1}


def test_a_log_line_names_the_file_without_its_stem() -> None:
    """Messages are kept in run logs; Roboflow's own hash is enough for the owner to find the file."""
    line = (
        "train/1-2-840-113619-2-55-3-604688_png.rf.95b01a2cb53ac23817a03c3b4fd88fd4.jpg: cut off. Seen 20230115_103000"
    )

    assert redact(line) == "train/*.rf.95b01a2cb53ac23817a03c3b4fd88fd4.jpg: cut off. Seen <date>"
    assert redact("smith_anna.png, annotation 3") == "*.png, annotation 3"
    assert redact(f"images/{'ab' * 32}.jpg") == f"images/{'ab' * 32}.jpg"
