"""robots.txt of every host, read by Protego as RFC 9309 says.

A file that does not exist (4xx) allows everything; a server that cannot be asked (5xx, no answer) nothing for now.
"""

import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from protego import Protego

from wss_data.errors import DownloadError
from wss_data.retrieval.clock import Clock
from wss_data.retrieval.headers import NAME

MAX_BYTES = 500_000  # what lies beyond is not read; RFC 9309 asks for about as much
READ_S = 10.0  # seconds for reading one robots.txt, redirects included
REMEMBER_S = 86_400.0  # how long the rules of a host hold, in seconds (RFC 9309: at most a day)

FIRST_TROUBLE_S = 0.5  # after a first failure it is asked for again, by the next attempt, after so many seconds...
TROUBLE_S = 600.0  # ... and after a further one only after so many.
HOSTS_REMEMBERED = 2000
TEXT_REMEMBERED = 4_000_000  # characters whose rules are kept; the hosts asked longest ago are forgotten first

_AGENT_LINE = re.compile(r"^[ \t]*user[- ]?agent[ \t]*:?[ \t]*([^\r\n#]*)", re.IGNORECASE | re.MULTILINE)


@dataclass
class _Known:
    """What is known of one host's robots.txt."""

    lock: threading.Lock = field(default_factory=threading.Lock)  # held by the thread that reads it
    rules: Protego | None = None
    trouble: DownloadError | None = None
    failures: int = 0  # in a row
    until: float = float("-inf")  # for how long the rest holds
    characters: int = 0


class Robots:
    """The robots.txt of every host, each read once; ``read`` gives what stands at an address or raises."""

    def __init__(self, read: Callable[[str], str], clock: Clock) -> None:
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._hosts: OrderedDict[str, _Known] = OrderedDict()
        self._characters = 0

    def check(self, url: str, wait_s: float) -> None:
        """Return if ``url`` may be asked for; waits at most ``wait_s`` while another thread reads the robots.txt.

        Raises:
            DownloadError: ``robots`` if it may not; or, transient, why its robots.txt cannot be read.
        """
        origin, known = self._known(url)
        if known.trouble is not None or self._clock.monotonic() >= known.until:
            self._refresh(origin, known, wait_s)
        if known.rules is not None and not known.rules.can_fetch(url, NAME):
            raise DownloadError(
                "robots", f"{url}: {origin}/robots.txt does not allow it.", opt_outs=("robots.txt: disallow",)
            )

    def crawl_delay(self, url: str) -> float | None:
        """Seconds that the host wants between requests; ``None`` where it does not say, or was not asked yet."""
        rules = self._known(url)[1].rules
        if rules is None:
            return None
        delay, rate = rules.crawl_delay(NAME), rules.request_rate(NAME)
        delays = (delay, rate and rate.seconds / rate.requests)
        return max((float(seconds) for seconds in delays if seconds is not None), default=None)

    def _known(self, url: str) -> tuple[str, _Known]:
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}".lower()
        with self._lock:
            known = self._hosts.setdefault(origin, _Known())
            self._hosts.move_to_end(origin)
            while len(self._hosts) > HOSTS_REMEMBERED or (self._characters > TEXT_REMEMBERED and len(self._hosts) > 1):
                _, oldest = self._hosts.popitem(last=False)
                self._characters -= oldest.characters
        return origin, known

    def _refresh(self, origin: str, known: _Known, wait_s: float) -> None:
        """Read a robots.txt, unless another thread just did."""
        if not known.lock.acquire(timeout=wait_s):
            raise DownloadError("timeout", f"{origin}/robots.txt was not read in time.", transient=True)
        try:
            left = known.until - self._clock.monotonic()
            if left > 0:
                if known.trouble is not None:
                    # Threads that waited for the same robots.txt share its failure; only a lasting one is worth a wait.
                    raise _not_asked(origin, known.trouble, left if known.failures > 1 else None)
                return
            try:
                text = self._read(f"{origin}/robots.txt")
            except DownloadError as error:
                if error.transient:
                    known.failures, known.trouble = known.failures + 1, error
                    known.until = self._clock.monotonic() + (FIRST_TROUBLE_S if known.failures == 1 else TROUBLE_S)
                    raise _not_asked(origin, error, error.retry_after) from error
                text = ""
            # A file that names thousands of other crawlers before thousands of rules would be stored as millions of
            # rules. Protego ends lines wherever ``splitlines`` does, so the pattern must meet the same lines.
            lines = _AGENT_LINE.sub(_ours_or_any, "\n".join(text.splitlines()))
            known.rules, known.trouble, known.failures = Protego.parse(lines) if text else None, None, 0
            known.until = self._clock.monotonic() + REMEMBER_S
            with self._lock:
                if self._hosts.get(origin) is known:
                    self._characters += len(text) - known.characters
                    known.characters = len(text)
        finally:
            known.lock.release()


def _not_asked(origin: str, error: DownloadError, retry_after: float | None) -> DownloadError:
    message = f"{origin} was not asked, since its robots.txt cannot be read: {error}"
    return DownloadError(error.reason, message, transient=True, retry_after=retry_after)


def _ours_or_any(line: re.Match[str]) -> str:
    name = line[1].strip().lower()
    return f"User-agent: {name if name.replace('*', '') in ('', NAME) else 'another'}"
