"""How long work says how far it is. Who shows it, and how often, is decided where it is called from."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with a stage in words, how much of it is done, and how much there is (0 when that is not known)."""
