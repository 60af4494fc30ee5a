"""What a licence allows, from the way sources name it: what nobody knows is unknown, and never read as allowed.

The names are Creative Commons', the OSI's and Open Data Commons'; terms as their deeds say them. No legal advice: it
finds the ancestor that was forgotten. Add a family here when a public source uses another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

Use = Literal["share", "commercial", "own-terms"]
"""`share`: hand on what was made from it; `commercial`: for money too; `own-terms`: under a licence of one's own."""
USES: tuple[Use, ...] = get_args(Use)


class Terms(NamedTuple):
    """One licence, read."""

    name: str
    """As its source names it."""
    id: str
    """As Hugging Face's cards name it; `other` where they have no word, `unknown` where nobody knows."""
    allows: frozenset[str] | None
    """Uses; None when they are not known."""

    @property
    def strictness(self) -> tuple[int, int, str]:
        """Orders licences: unknown is the strictest, then the fewer uses, then those that ask for attribution."""
        allowed = -1 if self.allows is None else len(self.allows)
        return -allowed, 0 if self.id == "cc0-1.0" else 2 if self.id.startswith("cc-by") else 1, self.id


_ALL = frozenset(USES)
_COPYLEFT = frozenset(("share", "commercial"))
_FAMILIES: tuple[tuple[str, str, frozenset[str]], ...] = (
    (r"\b(affero|agpl)\b", "agpl-3.0", _COPYLEFT),
    (r"\b(lesser|lgpl)\b", "lgpl-3.0", _COPYLEFT),
    (r"\b(gnu general public|gpl)\b", "gpl-3.0", _COPYLEFT),
    (r"\b(odbl|open database)\b", "odbl", _COPYLEFT),
    (r"\b(non ?commercial|research (use )?only|academic use)\b", "other", frozenset()),
    (r"\b(public ?domain|cc ?0|commons zero|pddl|unlicense)\b", "cc0-1.0", _ALL),
    (r"\bapache\b", "apache-2.0", _ALL),
    (r"\bmit\b", "mit", _ALL),
    (r"\bbsd\b", "bsd-3-clause", _ALL),
    (r"\b(odc by|open data commons attribution)\b", "odc-by", _ALL),
)
_BUT = re.compile(r"\b(except|reserved|redistribut\w*|restricted|but)\b")
"""Words after which a licence's name is not the whole of it."""
_CREATIVE_COMMONS = re.compile(r"^by\b|\b(cc|creative ?commons(\.org)?)\b")
_ELEMENTS = {
    "nc": re.compile(r"\bnc\b|non ?commercial"),
    "nd": re.compile(r"\bnd\b|no ?deriv"),
    "sa": re.compile(r"\bsa\b|share ?alike"),
}
_AGREED = re.compile(rf"\[((?:\s*(?:{'|'.join(USES)})\s*,?)*)\]\s*$")


_PUBLISHED = {"ustc-community/dfine": "Apache-2.0"}
"""Start of a hub's name → the licence that its authors publish the weights under."""


def published_licence(weights: str) -> str:
    """The licence of weights that a hub publishes; `unknown` of any other."""
    return next((licence for start, licence in _PUBLISHED.items() if weights.startswith(start)), "unknown")


def licence_on_card(text: str) -> str:
    """The licence that a model card (README.md) names in its metadata; `unknown` when it names none."""
    head = re.match(r"\s*---\n(.*?)\n---", text, re.DOTALL)
    named = re.findall(r"^licen[sc]e(?:_name)?:[ \t]*(\S.*?)[ \t]*$", head[1] if head else "", re.MULTILINE)
    return " + ".join(name.strip("\"'") for name in named if name != "other") or "unknown"


def terms_of(name: str) -> Terms:
    """What one licence allows.

    An agreement that no family has says it itself, in brackets at its end: `Agreement 12 with City Clinic [share]`.
    """
    if agreed := _AGREED.search(name):
        return Terms(name, "other", frozenset(re.findall(r"[a-z-]+", agreed[1])))
    text = re.sub(r"[^a-z0-9.]+", " ", name.casefold()).strip()
    if _BUT.search(text):
        return Terms(name, "unknown", None)
    if _CREATIVE_COMMONS.search(text) and not re.search(r"\b(cc ?0|zero|public ?domain)\b", text):
        return _creative_commons(name, text)
    for pattern, identifier, allows in _FAMILIES:
        if re.search(pattern, text):
            return Terms(name, identifier, allows)
    return Terms(name, "unknown", None)


def _creative_commons(name: str, text: str) -> Terms:
    has = [element for element, pattern in _ELEMENTS.items() if pattern.search(text)]
    if not has and not re.search(r"\b(by|attribution)\b", text):
        return Terms(name, "unknown", None)
    version = re.search(r"\b[1-4]\.\d\b", text)
    kept = [element for element in ("nc", "nd", "sa") if element in has]
    denied = {"nc": {"commercial", "own-terms"}, "nd": set(USES), "sa": {"own-terms"}}
    allows = _ALL.difference(*(denied[element] for element in kept))
    return Terms(name, "-".join(["cc", "by", *kept, version[0] if version else "4.0"]), frozenset(allows))


def named_in(text: str) -> tuple[Terms, ...]:
    """Every licence that a text names; parts are joined by `+`, `;` or a comma outside brackets."""
    parts = re.split(r"\s*[+;]\s*|,\s*(?![^\[]*\])", text)
    return tuple(terms_of(part.strip() or "unknown") for part in parts)


def strictest(licences: Iterable[str]) -> Terms:
    """The strictest of all that texts name; unknown when there is none."""
    named = (terms for text in licences for terms in named_in(text))
    return max(named, key=lambda terms: terms.strictness, default=terms_of("unknown"))


def together(*texts: str) -> str:
    """Licences of one thing as one text: each once, those that say nothing left out where another says something."""
    told = {terms.id: terms for text in texts if text for terms in named_in(text)}
    known = [terms.name for terms in told.values() if terms.allows is not None]
    return "; ".join(known) or next((text for text in texts if text), "unknown")
