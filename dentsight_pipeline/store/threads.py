"""Work on many items at once, in order and in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_AHEAD = 8


def map_in_threads(function: Callable[[_Item], _Result], items: Iterable[_Item], workers: int) -> Generator[_Result]:
    """The results in the order of the items; after the first error nothing new is begun.

    `ThreadPoolExecutor.map` takes all items at once, at about 1 kB each; this takes a few more than it works on.

    Args:
        function: What is done with each item, in some thread.
        items: Read in the caller's thread.
        workers: Threads.
    """
    with ThreadPoolExecutor(max(1, workers)) as pool:
        running: deque[Future[_Result]] = deque()
        try:
            for item in items:
                running.append(pool.submit(function, item))
                if len(running) >= _AHEAD * workers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
