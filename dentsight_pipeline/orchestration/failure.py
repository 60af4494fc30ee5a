"""What broke a step, in the words that a person needs."""

from typing import TYPE_CHECKING

from dentsight_pipeline import errors

if TYPE_CHECKING:
    from dagster_shared.error import SerializableErrorInfo


def is_deliberate(info: "SerializableErrorInfo") -> bool:
    """Whether this is one of our own errors, whose message alone says what to do."""
    kind = getattr(errors, info.cls_name or "", None)
    return isinstance(kind, type) and issubclass(kind, errors.DentsightError)


def cause_of(info: "SerializableErrorInfo") -> "SerializableErrorInfo":
    """The error behind a failed step: the outermost deliberate one, else the innermost.

    A deliberate error is often raised *from* a library's own, and only the deliberate one says what to do.

    Args:
        info: What Dagster recorded of the failure; Dagster's own wrapper comes first.
    """
    while not is_deliberate(info) and info.cause is not None:
        info = info.cause
    return info


def is_interruption(info: "SerializableErrorInfo | None") -> bool:
    """Whether somebody ended the step: Ctrl-C, `kill`, or a cancel."""
    while info is not None:
        if info.cls_name in ("DagsterExecutionInterruptedError", "KeyboardInterrupt"):
            return True
        info = info.cause
    return False


def words_of(info: "SerializableErrorInfo") -> str:
    """The message without the name of a deliberate error's class."""
    text = info.message.strip()
    return text.partition(": ")[2] if is_deliberate(info) else text
