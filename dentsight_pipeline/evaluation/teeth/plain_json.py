"""JSON without NaN, infinity or numpy."""

import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """What cannot be measured or reached is null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
