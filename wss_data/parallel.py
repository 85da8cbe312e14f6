"""Map a pure function over images, in process or on worker processes, results in order."""

import os
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
R = TypeVar("R")


def default_workers() -> int:
    """Number of worker processes when nobody says: ``WSS_WORKERS``, else the processors this process may use."""
    return max(1, int(os.environ.get("WSS_WORKERS") or len(os.sched_getaffinity(0))))


def map_images(
    function: Callable[[T], R],
    items: Iterable[T],
    workers: int | None = None,
    description: str = "",
    total: int | None = None,
) -> Iterator[R]:
    """Yield ``function(item)`` for each item, in the items' order.

    Items are taken a few ahead of the results, so memory does not grow with
    their number.

    Args:
        function: Pure and importable by name, so that another process can run it.
        items: What to map over; may be lazy.
        workers: Worker processes; 1 runs in this process, ``None`` means ``default_workers()``.
        description: Text beside a progress bar; empty for no bar.
        total: Number of items, where ``items`` cannot tell, for the bar's time left.

    Yields:
        The results, in order.
    """
    workers = workers or default_workers()
    if workers == 1:
        results: Iterable[R] = map(function, items)
    else:
        # Worker processes cost seconds to start, so joblib is loaded only where they pay.
        from joblib import Parallel, delayed

        call = delayed(_single_threaded)
        results = Parallel(n_jobs=workers, return_as="generator")(call(function, item) for item in items)
    if not description:
        yield from results
        return
    if total is None and isinstance(items, Sized):
        total = len(items)
    yield from tqdm(results, total=total, desc=description, unit="image", dynamic_ncols=True)


def _single_threaded(function: Callable[[T], R], item: T) -> R:
    """Run ``function`` with OpenCV on one thread: the processes already fill the machine."""
    import cv2

    cv2.setNumThreads(1)
    return function(item)
