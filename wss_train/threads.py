"""Threads beside the network: files are read ahead of it and written behind it."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_threads(function: Callable[[T], R], items: Iterable[T], threads: int = 2, ahead: int = 8) -> Iterator[R]:
    """Yield ``function(item)`` for each item, in the items' order, while the caller takes the next ones.

    The items themselves are taken in the caller's thread, so a generator that runs the network stays there. It pays
    for functions that release Python's lock: reading and writing files, OpenCV, Pillow's codecs, numba.

    Args:
        function: Called in several threads at once.
        items: What to map over; may be lazy.
        threads: Number of threads.
        ahead: Most items that are taken and not yet yielded: bounds the memory.

    Yields:
        The results, in order. An error of ``function`` is raised where its result would be; what has not begun by
        then never begins.
    """
    with ThreadPoolExecutor(threads) as pool:
        running: deque[Future[R]] = deque()
        try:
            for item in items:
                running.append(pool.submit(function, item))
                if len(running) >= ahead:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()
