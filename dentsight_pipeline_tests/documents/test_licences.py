"""Licences as sources write them: what they allow, what nobody knows, and which one binds."""

from __future__ import annotations

import pytest

from dentsight_pipeline.documents.licences import (
    USES,
    licence_on_card,
    named_in,
    published_licence,
    strictest,
    terms_of,
    together,
)


@pytest.mark.parametrize(
    ("name", "identifier", "allows"),
    [
        ("CC BY 4.0", "cc-by-4.0", set(USES)),
        ("BY-NC-SA 4.0", "cc-by-nc-sa-4.0", {"share"}),
        ("https://creativecommons.org/licenses/by-nc/4.0/", "cc-by-nc-4.0", {"share"}),
        ("Attribution-NonCommercial-NoDerivs 3.0 (CC)", "cc-by-nc-nd-3.0", set()),
        ("Creative Commons Attribution-ShareAlike", "cc-by-sa-4.0", {"share", "commercial"}),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "cc0-1.0", set(USES)),
        ("Public Domain", "cc0-1.0", set(USES)),
        ("Apache License 2.0", "apache-2.0", set(USES)),
        ("GNU Affero General Public License v3", "agpl-3.0", {"share", "commercial"}),
        ("ODbL v1.0", "odbl", {"share", "commercial"}),
        ("MIT for non-commercial use", "other", set()),
        ("Agreement 12 with City Clinic [share, own-terms]", "other", {"share", "own-terms"}),
        *[(name, "unknown", None) for name in ("", "unknown", "Private", "permitted", "CC", "All rights reserved")],
        ("CC BY 4.0 except the X-rays", "unknown", None),
    ],
)
def test_a_licence_allows_what_its_deed_says(name: str, identifier: str, allows: set[str] | None) -> None:
    """And nothing where it is not known: a permissive guess would be somebody's breach."""
    terms = terms_of(name)

    assert (terms.id, terms.allows) == (identifier, allows)


def test_the_strictest_binds() -> None:
    """Fewer uses before more, attribution before none, and unknown before everything."""
    assert strictest(["Public Domain", "Apache-2.0"]).id == "apache-2.0"
    assert strictest(["CC BY 4.0", "Apache-2.0"]).id == "cc-by-4.0"
    assert strictest(["CC BY 4.0 + AGPL-3.0", "MIT"]).id == "agpl-3.0"
    assert strictest(["AGPL-3.0", "CC BY-NC 4.0"]).id == "cc-by-nc-4.0"
    assert strictest(["CC BY-NC 4.0", "Private"]).id == "unknown"
    assert strictest([]).id == "unknown"
    assert [terms.id for terms in named_in("Clinic [share, commercial], MIT")] == ["other", "mit"]


def test_a_declared_licence_never_loosens_what_an_export_says() -> None:
    """It fills a gap; beside another name both stand, and the stricter binds."""
    assert together("Unknown", "CC BY 4.0") == "CC BY 4.0"
    assert together("CC BY 4.0", "cc-by-4.0") == "cc-by-4.0"
    assert strictest([together("CC BY-NC 4.0", "MIT")]).id == "cc-by-nc-4.0"
    assert together("Private", "") == "Private"
    assert together("", "") == "unknown"


def test_weights_say_their_licence_on_their_card() -> None:
    """In the metadata of README.md, as Hugging Face has it; elsewhere in the text it says nothing."""
    assert licence_on_card("---\nlicense: agpl-3.0\ntags: [x]\n---\n# Model") == "agpl-3.0"
    assert licence_on_card("---\nlicense: other\nlicense_name: research use only\n---\n") == "research use only"
    assert licence_on_card("# Model\nlicense: mit\n") == "unknown"
    assert published_licence("ustc-community/dfine-large-coco") == "Apache-2.0"
    assert published_licence("someone/else") == "unknown"
