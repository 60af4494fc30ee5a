"""A child that does not outlive its parent, as the guard and the worker elsewhere want theirs. Standard library."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int, how: signal.Signals) -> None:
    """Ask the kernel to send `how` to this process when its parent dies; does nothing outside Linux.

    Args:
        parent: The parent's pid, read before the fork: if it has gone already, this process ends at once.
        how: The signal to receive.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(how), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), how)
        os._exit(128 + how)  # whoever blocks or handles the signal ends all the same
