"""The files of a manifest: a dictionary in canonical order, written in one way alone."""

from __future__ import annotations

import json
import tracemalloc
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dentsight_pipeline.errors import DataError
from dentsight_pipeline.store.manifest import Entry, Manifest

DIGEST = sha256(b"").hexdigest()
NAMES = st.text(
    st.characters(exclude_characters="/\\:", exclude_categories=["Cc", "Cs"]) | st.sampled_from('"😀ﬀ'), min_size=1
).filter(lambda name: name not in (".", "..") and len(name.encode()) < 256)
ENTRIES = st.dictionaries(NAMES, st.builds(Entry, st.just(DIGEST), st.integers(0, 2**53 - 1)), max_size=8)


@settings(deadline=None)
@given(ENTRIES, NAMES)
def test_entries_are_the_dictionary_that_they_were_made_from(entries: dict[str, Entry], other: str) -> None:
    """Before and after a round trip; the order is that of RFC 8785, by UTF-16 code units."""
    for made in (Manifest("k", entries), Manifest.from_bytes(Manifest("k", entries).to_bytes())):
        assert made.entries == entries
        assert list(made.entries) == sorted(entries, key=lambda path: path.encode("utf-16be"))
        assert list(made.entries.items()) == [(path, entries[path]) for path in made.entries]
        assert list(made.entries.values()) == [entries[path] for path in made.entries]
        assert len(made.entries) == len(entries)
        assert made.entries.get(other) == entries.get(other)
        assert all(made.entries[path] == entry for path, entry in entries.items())


@pytest.mark.parametrize(
    "members",
    [
        f'"b":{{"sha256":"{DIGEST}","size":0}},"a":{{"sha256":"{DIGEST}","size":0}}',
        f'"a":{{"sha256":"{DIGEST}","size":0}},"a":{{"sha256":"{DIGEST}","size":0}}',
        f'"a":{{"sha256":"{DIGEST}","size":0}},',
        f'"a":{{"sha256":"{DIGEST}","size":00}}',
        f'"\\u0061":{{"sha256":"{DIGEST}","size":0}}',
        f'"a":{{"sha256":"{DIGEST}", "size":0}}',
        f'"a":{{"sha256":"{DIGEST.upper()}","size":0}}',
        f'"a":{{"sha256":"{DIGEST}","size":0}}x',
        '"a":1',
    ],
)
def test_entries_in_any_other_form_are_refused(members: str) -> None:
    """Out of order, twice, or written in other words: two texts for one thing would be two identities."""
    text = f'{{"entries":{{{members}}},"facts":{{}},"inputs":{{}},"kind":"k","schema":"dentsight-manifest/1"}}'

    with pytest.raises(DataError):
        Manifest.from_bytes(text.encode())


def test_a_size_that_canonical_json_cannot_hold_is_refused() -> None:
    """Beyond 2^53 a number that is read back would be another."""
    with pytest.raises(DataError, match="canonical JSON"):
        Manifest("k", {"a": Entry(DIGEST, 2**53)})


def test_memory_of_a_manifest_is_three_times_its_text() -> None:
    """A hundred thousand images are 17 MB of text, 50 MB in memory: several manifests are held at once."""
    made = Manifest("k", {f"images/{number:064d}.jpg": Entry(DIGEST, number) for number in range(5000)})
    data = made.to_bytes()
    tracemalloc.start()
    read = Manifest.from_bytes(data)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(read.entries) == len(json.loads(data)["entries"]) == 5000
    assert held < 3.3 * len(data)
    assert peak < 5 * len(data)
