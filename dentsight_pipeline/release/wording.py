"""A verdict in sentences that need no key, and its numbers as a reader sees them.

How a row is decided belongs in `gates.py`; how it looks on a page in `report/`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dentsight_pipeline.documents.policy import Policy
from dentsight_pipeline.documents.verdict import BLOCKING_OUTCOMES, GateRow, Outcome, Trigger
from dentsight_pipeline.release.policy import METRICS, PARTIAL_LABELS, TIER_0


def number_text(value: float | None, beside: float | None = None) -> str:
    """A metric in two decimals, or as many more (up to four) as it takes not to look equal to `beside`.

    .2996 beside a floor of .30 reads `0.2996`, not `0.30`: a FAIL must not look like a tie.
    """
    if value is None:
        return "not measured"
    for decimals in (2, 3, 4):
        text = f"{value:.{decimals}f}"
        if beside is None or value == beside or text != f"{beside:.{decimals}f}":
            return text.replace("-0.00", "0.00") if float(text) == 0 and decimals == 2 else text
    return f"{value:.6f}"


def interval_text(value: float | None, low: float | None, high: float | None, floor: float | None = None) -> str:
    """E.g. `0.04 [0.03, 0.05]`, or `0.04 (no interval)`."""
    if value is None:
        return "not measured"
    if low is None or high is None:
        return f"{number_text(value, floor)} (no interval)"
    return f"{number_text(value, floor)} [{number_text(low, floor)}, {number_text(high, floor)}]"


def bound_text(operator: str, floor: float) -> str:
    """The floor in words: `floor 0.30`, `ceiling 0.10`, `within ±0.10`, `must stay above -0.02`."""
    number = f"{floor:.2f}" if round(floor, 2) == floor else f"{floor:g}"
    words = {">=": "floor {}", "<=": "ceiling {}", "within": "within ±{}", ">": "must stay above {}"}
    return words[operator].format(number)


def row_sentence(row: GateRow) -> str:
    """The row in plain language, e.g. `caries: 0.04 [0.03, 0.05], floor 0.30: FAIL. Do not surface …`."""
    advice = f" {row.advice}" if row.advice and row.outcome in BLOCKING_OUTCOMES else ""
    if row.outcome == "NOT EVALUABLE" or (row.value is None and row.outcome != "FAIL"):
        return f"{_subject(row)}: {row.outcome}. {row.because}{advice}"
    marks = f" ({', '.join(row.marks)})" if row.marks else ""
    because = "" if row.outcome in ("PASS", "FAIL") and row.value is not None else f" {row.because}"
    return f"{_subject(row)}: {_measured(row)}{row.outcome}{marks}.{because}{advice}"


def _measured(row: GateRow) -> str:
    """Figure and bound, up to the outcome."""
    if row.value is None:
        return ""
    bound = "" if row.floor is None else f", {bound_text(row.operator, row.floor)}"
    return f"{interval_text(row.value, row.low, row.high, row.floor)}{bound}: "


def _subject(row: GateRow) -> str:
    words = TIER_0.get(row.metric) or METRICS[row.metric].words
    return words if row.condition == "all" else f"{row.condition} {words}".strip()


def summary_sentences(
    outcome: Outcome, rows: Sequence[GateRow], triggers: Sequence[Trigger], never_for_xrays: bool
) -> tuple[str, ...]:
    """The verdict in plain language: the decision, then every row that did not pass, hard ones first."""
    missed = sorted((row for row in rows if row.outcome in BLOCKING_OUTCOMES), key=lambda row: row.severity != "hard")
    return (
        _decision(outcome, [row for row in rows if row.counts]),
        *_consequences(rows, never_for_xrays),
        *(row.sentence for row in missed),
        *(trigger.sentence for trigger in triggers if trigger.fired),
    )


def coverage_sentences(policy: Policy, unknown: Sequence[str], impossible: bool) -> Iterator[str]:
    """What nobody looked for, and which policy fits then.

    Args:
        policy: The one judged by.
        unknown: Its classes that no test image was looked at for.
        impossible: Whether it needs one of them.
    """
    if unknown:
        known = [name for name in policy.classes if name not in unknown]
        yield f"Not looked for in any test image, hence unknown: {', '.join(unknown)}."
        if impossible and not policy.never_for_xrays:
            yield (
                f"Policy {policy.name!r} asks for classes that nobody looked for, so no model can pass it on these "
                f"images. Policy {PARTIAL_LABELS!r} has the same floors for what was looked for: "
                f"{', '.join(known) or 'nothing'}."
            )


def _decision(outcome: Outcome, hard: Sequence[GateRow]) -> str:
    if outcome == "PASS":
        return f"PASS: all {len(hard)} hard gates passed."
    counts = {word: sum(row.outcome == word for row in hard) for word in ("PASS", *BLOCKING_OUTCOMES)}
    tally = f"{len(hard)} hard gates: {', '.join(f'{n} {word}' for word, n in counts.items() if n)}"
    if outcome == "FAIL":
        return f"FAIL: this model did not pass its release gates ({tally})."
    return (
        f"INCONCLUSIVE: there is not enough evidence to release this model ({tally}). "
        "Nothing hard was shown to fail; nothing may be claimed to pass either."
    )


def _consequences(rows: Sequence[GateRow], never_for_xrays: bool) -> Iterator[str]:
    """What may happen with the model now."""
    if any(row.blocks for row in rows):
        yield "It must not be released."
    missed = [row for row in rows if row.severity == "hard" and row.outcome in BLOCKING_OUTCOMES]
    if overriders := [row.override.name for row in missed if row.override]:
        counted = "1 hard gate is" if len(overriders) == 1 else f"{len(overriders)} hard gates are"
        yield f"{counted} overridden by {', '.join(sorted(set(overriders)))}; the measured verdict stands."
    if never_for_xrays:
        yield "This policy's floors are for drawn images: whatever passes them is never for X-rays."
