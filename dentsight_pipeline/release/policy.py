"""Policies as data: which figures a gate may name, reading a policy, and refusing one that could pass anything.

Belongs here: everything that is checked before any model is judged. The floors themselves are in `policies/*.json`,
each with its source and reason; the form of such a file is `documents/policy.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from difflib import get_close_matches
from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import NamedTuple, get_args

from msgspec.structs import replace

from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.policy import ApprovalRule, Gate, Operator, Policy, Severity, Tier
from dentsight_pipeline.errors import ConfigurationError, DocumentError, ReleaseError
from dentsight_pipeline.release.keys import same_public_key


class Metric(NamedTuple):
    """A figure that a gate may name."""

    words: str
    """What a sentence calls it, after the class."""
    least: float = 0.0
    """A value outside is no measurement: -1 is COCO's "no ground truth"."""
    most: float = 1.0
    uses_scores: bool = False
    """Uses a score as a number (a threshold or a probability): a collapsed head makes it meaningless. The others use
    only the order of the scores and stay readable, marked ranking-only."""


METRICS: dict[str, Metric] = {
    "ap": Metric(""),
    "ap50": Metric("AP50"),
    "ap75": Metric("AP75"),
    "ar100": Metric("AR@100"),
    "recall_at_p95": Metric("recall at precision 0.95", uses_scores=True),
    "best_f1": Metric("best F1", uses_scores=True),
    "ece": Metric("calibration error", uses_scores=True),
    "left_right_agreement": Metric("left/right agreement", uses_scores=True),
    "left_minus_right_recall": Metric("left minus right recall", least=-1.0, uses_scores=True),
    "empty_mouth_fp_rate": Metric("empty mouths with a false positive", uses_scores=True),
    "empty_mouth_fp_per_image": Metric("false positives per empty mouth", most=math.inf, uses_scores=True),
    "reader_delta_kappa": Metric("κ with dentists against κ among them", least=-2.0, most=2.0, uses_scores=True),
    "paired_delta_ap": Metric("AP against the champion", least=-1.0),
    "paired_delta_ap50": Metric("AP50 against the champion", least=-1.0),
}
PAIRED = ("paired_delta_ap", "paired_delta_ap50")
"""Differences to the champion."""
READERS = ("reader_delta_kappa",)
"""Differences to dentists, from a reader study."""
HEAD_HEALTH, ENGINES_AGREE, LICENCE = "head_health", "engines_agree", "licence_allows_release"
TIER_0 = {
    HEAD_HEALTH: "classification head",
    ENGINES_AGREE: "agreement of the two engines",
    LICENCE: "licences of data and weights",
}
"""What is looked at before any figure, in words: the head that made the scores, the engines that counted them, and what
the licences of everything that it was made from allow."""
_NEEDED = (HEAD_HEALTH, ENGINES_AGREE)

_CHOICES = {"severity": get_args(Severity), "operator": get_args(Operator), "tier": get_args(Tier)}
PARTIAL_LABELS = "partial-labels"
"""The card's policy for data in which only some classes were looked for."""
_FOLDER = resources.files("dentsight_pipeline.release") / "policies"


def policy_names() -> list[str]:
    """The policies that come with the package."""
    files = (entry.name.removesuffix(".json") for entry in _FOLDER.iterdir() if entry.name.endswith(".json"))
    return sorted([*files, PARTIAL_LABELS])


def load_policy(name_or_path: str | Path) -> Policy:
    """Reads and checks a policy.

    Args:
        name_or_path: `card`, `partial-labels`, `phantom`, or the path of a policy file.

    Raises:
        ConfigurationError: When there is no such policy, the file is not JSON, or the policy is empty, unknown in any
            name, or could not block a release.
    """
    name = str(name_or_path)
    if name == PARTIAL_LABELS:
        return _for_partial_labels(load_policy("card"))
    if name in policy_names():
        return parse_policy((_FOLDER / f"{name}.json").read_text("utf-8"), name)
    if not Path(name_or_path).is_file():
        raise ConfigurationError(
            f"There is no policy {name!r}{nearest(name, policy_names())}. "
            f"Give one of {', '.join(policy_names())}, or the path of a policy file."
        )
    try:
        return parse_policy(Path(name_or_path).read_text("utf-8"), name)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"Policy file {name} cannot be read: {error}.") from error


def _for_partial_labels(card: Policy) -> Policy:
    """The same floors, asked of the classes that were looked for."""
    return replace(
        card,
        name=PARTIAL_LABELS,
        title=f"{card.title}, for the classes that were looked for",
        purpose=f"{card.purpose} Says nothing of classes that no test image was looked at for.",
        only_looked_for=True,
    )


def parse_policy(text: str, name: str = "policy") -> Policy:
    """Reads a policy from the text of its JSON file.

    Raises:
        ConfigurationError: As `load_policy`.
    """
    try:
        policy = codec.read(text, Policy, name)
    except DocumentError as error:
        raise _refused(name, f"{error.problem}{_choices(error.problem)}") from error
    return checked(policy)


def checked(policy: Policy) -> Policy:
    """The policy, when it is one that can block a release.

    Raises:
        ConfigurationError: When it cannot, or names what nobody knows.
    """
    if problems := list(_problems(policy)):
        raise _refused(policy.name, "; ".join(problems))
    return policy


def nearest(name: str, known: list[str]) -> str:
    """What was probably meant, for the end of a message."""
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else f" (known are {', '.join(known)})"


def _refused(name: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"Policy {name!r} is refused: {why}. Compare it with release/policies/card.json.")


def _choices(message: str) -> str:
    """The legal values of the field that a message is about, when there are few."""
    found = re.search(r"Invalid enum value '(.*)' - at `\$\.gates\[\d+\]\.(\w+)`", message)
    return nearest(found[1], list(_CHOICES[found[2]])) if found else ""


def _problems(policy: Policy) -> Iterator[str]:
    if not policy.gates:
        yield "the policy is empty: it has no gates, so it would pass anything"
        return
    if not any(
        gate.severity == "hard" and gate.metric in METRICS and gate.metric not in (*PAIRED, *READERS)
        for gate in policy.gates
    ):
        yield "no hard gate on any measurement: it could never block a release"
    for metric in _NEEDED:
        found = [gate for gate in policy.gates if gate.metric == metric]
        if [gate.severity for gate in found] != ["hard"]:
            yield f"exactly one hard gate on {metric!r} is needed (tier 0), found {len(found)}"
    if any(gate.metric == LICENCE for gate in policy.gates) and not policy.uses:
        yield f"a gate on {LICENCE!r} needs `uses`: what a release is for"
    if duplicates := sorted({name for name in policy.gate_ids if policy.gate_ids.count(name) > 1}):
        yield f"gate ids occur twice: {', '.join(duplicates)}"
    if policy.bands.acceptable > policy.bands.strong:
        yield "bands: 'acceptable' lies above 'strong'"
    if policy.approvals and (problem := rule_problem(policy.approvals)):
        yield f"approvals: {problem}"
    for gate in policy.gates:
        yield from (f"gate {gate.id!r}: {problem}" for problem in _gate_problems(gate, policy))


def rule_problem(rule: ApprovalRule) -> str | None:
    """Why a rule of approvals asks for less than it seems, or for what nobody can give."""
    if not all(name.strip() for name in rule.people):
        return "a person without a name"
    try:
        if any(same_public_key(one, other) for one, other in combinations(rule.people.values(), 2)):
            return "two people have the same key, so one of them could sign for both"
    except ReleaseError as error:
        return str(error).rstrip(".")
    if rule.needed > len(rule.people):
        return f"it asks for {rule.needed} signatures, but names {len(rule.people)} people"
    return None


def _gate_problems(gate: Gate, policy: Policy) -> Iterator[str]:
    known = {"metric": [*METRICS, *TIER_0], "class": [*policy.classes, "macro", "all"], "trigger": [*policy.triggers]}
    named = {"metric": gate.metric, "class": gate.condition, "trigger": gate.trigger}
    for what, name in named.items():
        if name is not None and name not in known[what]:
            yield f"unknown {what} {name!r}{nearest(name, known[what])}"
    if gate.metric in METRICS and (problem := _floor_problem(gate)):
        yield problem


def _floor_problem(gate: Gate) -> str | None:
    """A floor that every possible value meets is no gate."""
    low, high, floor = METRICS[gate.metric].least, METRICS[gate.metric].most, gate.floor
    if (gate.metric in (*PAIRED, *READERS)) != (gate.operator == ">"):
        return "operator '>' belongs to the paired metrics (champion, dentists), and only to them"
    right, words = {
        ">=": (low < floor <= high, f"floor {floor:g} decides nothing; give one in ({low:g}, {high:g}]"),
        "<=": (low <= floor < high, f"ceiling {floor:g} decides nothing; give one in [{low:g}, {high:g})"),
        "within": (0 < floor < high, f"half-width {floor:g} must lie in (0, {high:g})"),
        ">": (-0.5 <= floor <= 0, f"the margin must lie in [-0.5, 0], got {floor:g}"),
    }[gate.operator]
    return None if right else words
