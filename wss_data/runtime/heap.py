"""What the C library does with memory that is freed."""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

KEPT = 500_000_000  # Bytes at the heap's end that are not given back; a training iteration frees and takes more
_LOCK = threading.Lock()
_blocks = 0  # that are in it now, in all threads

# From glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_LARGEST_THRESHOLD, _MMAPS = 32 << 20, 65_536  # where glibc's own thresholds end up, and its default


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep memory that is freed in the block, for work that takes and frees the same large blocks again and again.

    glibc gives blocks above 32 MB back to the system at once, which clears each of their pages when they are asked
    for anew. When the last of these blocks ends, all is given back. Does nothing with another C library.

    Source:
        https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    library = ctypes.CDLL(None) if os.name == "posix" else None
    if library is None or not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):
        yield
        return
    _count(1, library)
    try:
        yield
    finally:
        _count(-1, library)


def _count(change: int, library: ctypes.CDLL) -> None:
    """Enter or leave a block; the first one and the last one tell the library."""
    global _blocks
    with _LOCK:
        _blocks += change
        if change > 0 and _blocks == 1:
            library.mallopt(_MMAP_MAX, 0)
            library.mallopt(_TRIM_THRESHOLD, KEPT)
        elif _blocks == 0:
            library.mallopt(_MMAP_MAX, _MMAPS)
            library.mallopt(_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
            library.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_THRESHOLD)
            library.malloc_trim(0)
