"""What the readers of all layouts share."""

from __future__ import annotations

from dentsight_pipeline.intake.records import stem_of


def test_the_stem_is_what_stands_before_rf() -> None:
    """It decides which images share a source, so the extension inside it counts too."""
    assert stem_of("train/18_png.rf.95b01a2cb53ac23817a03c3b4fd88fd4.jpg") == "18_png"
    assert stem_of("a.rf.b.rf.0123.jpg") == "a.rf.b"
    assert stem_of("plain.name.jpg") == "plain.name"
