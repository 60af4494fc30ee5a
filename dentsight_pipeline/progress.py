"""How long work tells how far it is: stages, what is done and what there is; said at most every few seconds."""

import time
from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with a stage in words, how much of it is done, and how much there is (0 when that is not known)."""


def throttled(say: Callable[[str], None], seconds: float = 4.0) -> Progress:
    """A progress callback `(stage, done, total)` that speaks at most every few seconds, and at the end of a stage."""
    state = {"at": 0.0, "stage": "", "started": 0.0}

    def report(stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != state["stage"]:
            state.update(stage=stage, started=now, at=now)
            return
        if now - state["at"] < seconds and done < total:
            return
        if done >= total and now - state["started"] < seconds:
            return
        state["at"] = now
        left = (now - state["started"]) / max(done, 1) * (total - done)
        say(
            f"{stage}: {done} of {total}"
            + (f", about {left:.0f} s left" if done < total else f" in {now - state['started']:.0f} s")
        )

    return report
