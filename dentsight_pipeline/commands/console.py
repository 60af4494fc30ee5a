"""How every command speaks and listens: JSON or text on stdout, progress on stderr, arguments as people write them."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dentsight_pipeline.documents.codec import plain
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.progress import Progress, throttled


def show(facts: object, as_json: bool, text: Callable[[], str]) -> None:
    """Print facts as JSON alone, or as text for people."""
    sys.stdout.write((json.dumps(plain(facts), indent=1, default=str) if as_json else text()) + "\n")


def staged() -> Progress:
    """Progress with its stage, on stderr."""

    def tell(line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    return throttled(tell, seconds=2.0)


def progress(stage: str) -> Callable[[int, int], None]:
    """Progress of one stage, on stderr."""
    told = staged()
    return lambda done, total: told(stage, done, total)


def absolute(export: str) -> str:
    """A local path in absolute form; a URI as it is."""
    return export if not export or ":" in export.split("/")[0] else str(Path(export).expanduser().absolute())


def fields(pairs: Sequence[str] | None, option: str) -> dict[str, str]:
    """`name=value` options as a dictionary.

    Raises:
        ConfigurationError: One has no value, or a name is given twice.
    """
    for pair in pairs or ():
        if "=" not in pair:
            raise ConfigurationError(f"{option} {pair!r} has no value. Write it as {option} name=value.")
    named = [(name.strip(), value.strip()) for name, value in (pair.split("=", 1) for pair in pairs or ())]
    for name, times in Counter(name for name, _ in named).items():
        if times > 1:
            raise ConfigurationError(f"{option} {name}=… is given {times} times. Keep the one that you mean.")
    return dict(named)


def json_file(path: Path) -> Any:
    """The content of a JSON file that somebody named.

    Raises:
        ConfigurationError: There is none, or it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}. Give an existing JSON file.") from error
    except ValueError as error:
        raise ConfigurationError(f"{path} is not JSON: {error}. Write it anew; it may be cut off.") from error
