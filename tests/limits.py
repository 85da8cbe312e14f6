"""What a machine may run out of, and what may be asked of it, for a test."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def full_disk(room: int = 100) -> Iterator[None]:
    """No file of this process can grow beyond ``room`` bytes in the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def bare_loop_s() -> float:
    """CPU seconds that a bare loop of 100,000 additions takes, here and now."""
    total, start = 0, time.process_time()
    for number in range(100_000):
        total += number
    return time.process_time() - start


@contextmanager
def bare_loops(most: float) -> Iterator[None]:
    """What runs in the block takes no more CPU time than this many bare loops, on a machine however slow or busy."""
    start = time.process_time()
    yield
    spent = time.process_time() - start
    assert spent < most * bare_loop_s(), f"{spent:.2f} s of CPU time"
