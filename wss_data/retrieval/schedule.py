"""Which download may start now: connections in all, connections and pace for each host, and waiting where asked."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")

# Downloads at once that a host's own rules allow: https://wikitech.wikimedia.org/wiki/Robot_policy
HOST_CONNECTIONS: Mapping[str, int] = {"upload.wikimedia.org": 2, "thumb.wikimedia.org": 2}


@dataclass
class _Host(Generic[T]):
    """One lane."""

    waiting: list[tuple[float, int, T]] = field(default_factory=list)  # a heap of (not before, number, item)
    active: int = 0
    not_before: float = 0.0
    pause: float = 0.0


class HostSchedule(Generic[T]):
    """A queue with a lane for each host. It knows no clock and no thread: whoever asks says what time it is.

    At most ``connections`` downloads run at once, ``per_host`` of them from one host, where ``pause`` seconds lie
    between two starts.
    """

    def __init__(self, connections: int, per_host: int, pause: float = 0.0) -> None:
        self._connections, self._per_host, self._pause = connections, per_host, pause
        self._hosts: dict[str, _Host[T]] = {}
        self._numbers = count()
        self.active = 0

    def __len__(self) -> int:
        """Number of items that wait."""
        return sum(len(host.waiting) for host in self._hosts.values())

    def add(self, host: str, item: T, not_before: float = 0.0) -> None:
        """Let ``item`` wait for ``host``, at least until ``not_before``."""
        heapq.heappush(self._lane(host).waiting, (not_before, next(self._numbers), item))

    def start(self, now: float) -> tuple[str, T] | None:
        """Take the next item that may start, hosts in turn; ``None`` if none may."""
        if self.active >= self._connections:
            return None
        for name, lane in list(self._hosts.items()):
            if not (lane.waiting or lane.active or lane.pause) and lane.not_before <= now:
                del self._hosts[name]  # there is nothing to remember of it
                continue
            start = self._start_of(name, lane)
            if start is not None and start <= now:
                _, _, item = heapq.heappop(lane.waiting)
                lane.active += 1
                lane.not_before = now + max(self._pause, lane.pause)
                self.active += 1
                self._hosts[name] = self._hosts.pop(name)  # the next one's turn: this host goes to the end
                return name, item
        return None

    def finish(self, host: str) -> None:
        """Note that a download from ``host`` has ended."""
        self._lane(host).active -= 1
        self.active -= 1

    def hold(self, host: str, until: float) -> None:
        """Start nothing more from ``host`` until then."""
        lane = self._lane(host)
        lane.not_before = max(lane.not_before, until)

    def slow_down(self, host: str, pause: float) -> None:
        """Leave at least ``pause`` seconds between the starts of two downloads from ``host``."""
        self._lane(host).pause = pause

    def give_up(self, host: str) -> list[T]:
        """Take away everything that waits for ``host``."""
        waiting, self._lane(host).waiting = self._lane(host).waiting, []
        return [item for _, _, item in sorted(waiting, key=lambda entry: entry[:2])]

    def next_start(self, now: float) -> float | None:
        """Seconds until something may start by itself; ``None`` if only the end of a download can bring that."""
        starts = [self._start_of(name, lane) for name, lane in self._hosts.items()]
        times = [start for start in starts if start is not None]
        return max(0.0, min(times) - now) if times and self.active < self._connections else None

    def _start_of(self, name: str, lane: _Host[T]) -> float | None:
        """When the first item of a lane may start; ``None`` without one, or while the host's connections are taken."""
        if not lane.waiting or lane.active >= min(self._per_host, HOST_CONNECTIONS.get(name, self._per_host)):
            return None
        return max(lane.not_before, lane.waiting[0][0])

    def _lane(self, host: str) -> _Host[T]:
        return self._hosts.setdefault(host, _Host())
