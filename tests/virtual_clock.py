"""A clock whose time passes only while somebody sleeps, so that a test can wait a day in no time."""

import threading


class VirtualClock:
    """A ``wss_data.retrieval.clock.Clock``; thread safe: two who sleep at once do so one after the other.

    Args:
        start: The first moment, in seconds since 1970.
    """

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._start = start
        self._passed = 0.0
        self._lock = threading.Lock()
        self.slept: list[float] = []

    def monotonic(self) -> float:
        with self._lock:
            return self._passed

    def time(self) -> float:
        with self._lock:
            return self._start + self._passed

    def sleep(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError(f"cannot sleep {seconds} s")
        self.advance(seconds)
        with self._lock:
            self.slept.append(seconds)

    def advance(self, seconds: float) -> None:
        """Let time pass without anybody sleeping."""
        with self._lock:
            self._passed += seconds
