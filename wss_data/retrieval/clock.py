"""The time as code that waits sees it, so that tests can wait an hour in no time."""

from typing import Protocol


class Clock(Protocol):
    """What code that waits needs of the module ``time``, which is the real clock."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        ...

    def time(self) -> float:
        """Seconds since 1970 (UTC)."""
        ...

    def sleep(self, seconds: float, /) -> None:
        """Wait that long."""
        ...
