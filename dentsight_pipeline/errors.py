"""Every error that dentsight_pipeline raises on purpose.

A message is built from typed fields and says three things: what was given, what exists, what to do.
A missed release gate is a *result*, never an error; only releasing in spite of it is one.

    DentsightError
    ├── ConfigurationError        a setting, a recipe or a command line that cannot be meant
    ├── DataError                 an export or dataset that cannot be used
    │   ├── AnnotationError       one record of an annotation file
    │   ├── UnknownLabelError     a label name that no mapping knows
    │   ├── DocumentError         a file or a product's facts that are not what they should say
    │   ├── IntegrityError        bytes that are missing or are not what their digest says
    │   └── SignatureError        a release whose signature, statement or chain does not hold
    ├── StorageError              the disk or bucket refused (full, read-only, unreachable)
    ├── RefConflictError          a named reference that somebody else changed meanwhile
    ├── TrainingError             training could not start, go on or end
    │   └── HeadCollapseError     the classification head stopped learning scores
    ├── EvaluationError           ground truth or detections that cannot be scored
    │   └── ScoringRecordError    one record of them that would be mis-scored in silence
    └── ReleaseError              a release that the recorded verdict does not allow
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


class DentsightError(Exception):
    """Base of all deliberate errors; the command line prints its message alone and exits 2."""


class ConfigurationError(DentsightError):
    """A setting that cannot be meant; the message names the nearest legal value."""


class DataError(DentsightError):
    """An export or dataset that cannot be used as it is."""


class AnnotationError(DataError):
    """One record of an annotation file that is neither valid nor repairable.

    Args:
        file: The file that holds the record, relative to the export.
        record: The record in words, e.g. `annotation 17`.
        problem: What is wrong with it.
        remedy: What the user can do.
    """

    def __init__(self, file: str, record: str, problem: str, remedy: str) -> None:
        self.file, self.record, self.problem, self.remedy = file, record, problem, remedy
        super().__init__(f"{file}, {record}: {problem}. {remedy}")


class UnknownLabelError(DataError):
    """A label name that the source's mapping does not know.

    Args:
        label: The name as given.
        source: The mapping in use.
        known: All names that the mapping knows, for the suggestion.
        reason: Why a name that the mapping does list must not be mapped silently; then nothing is suggested.
        where: File and record that hold the name.
    """

    def __init__(self, label: str, source: str, known: Iterable[str], reason: str = "", where: str = "") -> None:
        self.label, self.source, self.reason, self.where = label, source, reason, where
        self.suggestions = [] if reason else get_close_matches(label, list(known), n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(map(repr, self.suggestions))}?" if self.suggestions else ""
        state = f"is ambiguous for source {source!r}: {reason}" if reason else f"is not known for source {source!r}"
        super().__init__(
            f"{where + ': ' if where else ''}Label {label!r} {state}.{hint} "
            f"Say what it means in a mapping of your own (`dentsight inspect EXPORT --write-mapping FILE` writes one), "
            f"or drop it with --drop {label!r}."
        )


class DocumentError(DataError):
    """A document that is not of its type.

    Args:
        where: The file or product that it comes from.
        kind: What it should be.
        problem: What does not fit, with the field's path (`$.splits.train.images`).
    """

    def __init__(self, where: str, kind: str, problem: str) -> None:
        self.where, self.kind, self.problem = where, kind, problem
        super().__init__(
            f"{where} is no {kind} of this release: {problem}. Restore it from a backup or make its product again."
        )


class IntegrityError(DataError):
    """Bytes that are missing, or are not what their digest says.

    Args:
        what: The object, manifest or file in words.
        expected: The digest it should have.
        found: The digest it has, or None when it is missing.
        remedy: What the user can do.
    """

    def __init__(self, what: str, expected: str, found: str | None, remedy: str) -> None:
        self.what, self.expected, self.found, self.remedy = what, expected, found, remedy
        state = "is missing" if found is None else f"was changed: its bytes hash to {found}"
        super().__init__(f"{what} (sha256 {expected}) {state}. {remedy}")


class SignatureError(DataError):
    """A release whose signature, statement or place in the chain of releases does not hold.

    Args:
        what: The release folder, its digest, or the chain in words.
        problem: What does not hold.
    """

    def __init__(self, what: object, problem: str) -> None:
        self.what, self.problem = what, problem
        super().__init__(f"{what} cannot be trusted: {problem}. Do not use it; fetch it again from where it was made.")


class StorageError(DentsightError):
    """The disk or bucket refused: full, read-only or unreachable. Nothing half-written stays behind."""


class RefConflictError(DentsightError):
    """A named reference of the store that is not what its writer expected: somebody else changed it meanwhile.

    Args:
        name: The reference.
        expected: The value that the writer had read, or None for "there is none".
        found: The value that it has now, or None.
    """

    def __init__(self, name: str, expected: object, found: object) -> None:
        self.name, self.expected, self.found = name, expected, found
        was, now = ("absent" if value is None else repr(value) for value in (expected, found))
        super().__init__(
            f"Reference {name!r} was expected to be {was}, but it is {now}. Read it again and decide anew."
        )


class TrainingError(DentsightError):
    """Training could not start, go on or end."""


class HeadCollapseError(TrainingError):
    """The classification head stopped learning scores; AP would hide it.

    Args:
        step: The optimiser step of the evaluation that tripped the rule.
        rules: The rules that tripped.
        evidence: Measured values by name.
    """

    def __init__(self, step: int, rules: Iterable[str], evidence: Mapping[str, float | str]) -> None:
        self.step, self.rules, self.evidence = step, tuple(rules), dict(evidence)
        numbers = ", ".join(f"{k} = {v:.4g}" if isinstance(v, float) else f"{k} = {v}" for k, v in evidence.items())
        super().__init__(
            f"The classification head has collapsed at step {step} ({'; '.join(self.rules)}): {numbers}. "
            "AP keeps looking plausible while every score is meaningless. See docs/training.md, 'Head health'; "
            "to go on all the same, record a reason with --allow-head-collapse."
        )


class EvaluationError(DentsightError):
    """Ground truth or detections that cannot be scored; names the record and the reason."""


class ScoringRecordError(EvaluationError):
    """One record of the ground truth or the detections that an engine would crash on or score wrongly in silence.

    Args:
        source: `ground truth`, `detections` or the file's name.
        record: The record in words, e.g. `annotations[3] (id 0)`.
        problem: What is wrong with it, and what an engine would make of it.
        remedy: What the user can do.
    """

    def __init__(self, source: str, record: str, problem: str, remedy: str) -> None:
        self.source, self.record, self.problem, self.remedy = source, record, problem, remedy
        super().__init__(f"{source}, {record}: {problem}. {remedy}")


class ReleaseError(DentsightError):
    """A release that the recorded verdict does not allow."""
