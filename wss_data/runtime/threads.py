"""Threads beside the network: files are read ahead of it and written behind it, within bounded memory."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

# Pixels of the images that are taken and not yet yielded, where their sizes are known; one may be larger
HELD = 64_000_000


class Room:
    """What threads share and must not exceed together, such as memory: who asks for more than is left waits.

    Args:
        size: How much there is. Who asks for more gets all of it, alone.
    """

    def __init__(self, size: int) -> None:
        self._size = self._left = size
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Hold ``size`` of it in the block."""
        size = min(size, self._size)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= size)
            self._left -= size
        try:
            yield
        finally:
            with self._changed:
                self._left += size
                self._changed.notify_all()


def in_threads(
    function: Callable[[T], R],
    items: Iterable[T],
    threads: int = 2,
    ahead: int = 8,
    pixels: Callable[[T], int] | None = None,
) -> Iterator[R]:
    """Yield ``function(item)`` for each item, in the items' order, while the caller takes the next ones.

    The items themselves are taken in the caller's thread, so a generator that runs the network stays there. It pays
    for functions that release Python's lock: reading and writing files, OpenCV, Pillow's codecs, numba.

    Args:
        function: Called in several threads at once.
        items: What to map over; may be lazy.
        threads: Number of threads.
        ahead: Most items that are taken and not yet yielded: bounds the memory.
        pixels: Size of an item; items of more than ``HELD`` together wait for earlier ones. ``None``: sizes are alike.

    Yields:
        The results, in order. An error of ``function`` is raised where its result would be; what has not begun by
        then never begins.
    """
    with ThreadPoolExecutor(threads) as pool:
        running: deque[tuple[Future[R], int]] = deque()
        held = 0
        try:
            for item in items:
                size = 0 if pixels is None else pixels(item)
                while running and held + size > HELD:
                    future, gone = running.popleft()
                    held -= gone
                    yield future.result()
                running.append((pool.submit(function, item), size))
                held += size
                # The caller's last item must not outlive its turn here.
                del item
                if len(running) >= ahead:
                    future, gone = running.popleft()
                    held -= gone
                    yield future.result()
            while running:
                yield running.popleft()[0].result()
        finally:
            for future, _ in running:
                future.cancel()
