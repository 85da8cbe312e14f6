"""Asking a web service for JSON: at the pace that it permits, again after faults that pass, silent about secrets."""

import json
import re
import threading
import time
from abc import ABC, abstractmethod
from bisect import bisect_right, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from wss_data.errors import SourceError, SourceUnavailable, shown
from wss_data.reading.settings import Rule
from wss_data.retrieval.clock import Clock
from wss_data.retrieval.headers import retry_after, user_agent
from wss_data.retrieval.sources.base import Hit, Pages, SourceState, distinct
from wss_data.spec import ClassSpec

LONGEST_WAIT = 300.0  # seconds; a service or host that asks for more patience than this is left until the next build
MAX_BYTES = 32 * 2**20  # an answer longer than this is no page of search results
_DEADLINE = 120.0  # seconds for one whole answer; the timeouts hold for each read only
_TOO_MANY = 15.0  # seconds of the first pause after a 429 that names none; each further one is twice as long
_LARGEST_LIMIT = 100_000  # requests; a limit reported as zero or as more is a mistake or a trap, and is ignored
_PERIODS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_RATE = re.compile(r"\s*(\d+)\s*/\s*([smhd])[a-z]*\s*", re.IGNORECASE)

# Options that several sources have.
LongestSide = Annotated[
    int, Rule(ge=1), "Pixels needed on the longest side: the smallest size that has them is downloaded."
]
LongestWait = Annotated[float, Rule(ge=0), "Seconds to wait for a limit of the service before it is left for now."]


class Refused(SourceUnavailable):
    """A service refused a request for good; ``status`` is that of HTTP, 300 to 499."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.status, str(self))


class PassingFault(Exception):
    """An answer with status 200 reports a fault that may pass; raised by the ``read`` of a request."""


class Pace:
    """Keeps requests within the limits of a service, (requests, seconds) in any stretch of time. Thread safe."""

    def __init__(self, windows: Sequence[tuple[int, float]], clock: Clock = time) -> None:
        self.clock = clock
        self._limits = {float(seconds): requests for requests, seconds in windows}
        self._times: list[float] = []  # of the requests counted, oldest first
        self._not_before = float("-inf")
        self._lock = threading.RLock()  # whoever takes a turn asks for the delay in it

    def delay(self) -> float:
        """Seconds until a request may go out; 0 if it may now."""
        with self._lock:
            now = self.clock.monotonic()
            # The request that must leave a full window before another fits.
            waits = [self._times[-n] + s - now for s, n in self._limits.items() if self._count(s, now) >= n]
            return max(0.0, self._not_before - now, *waits)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn and take it; it counts from the end of the ``with`` block."""
        while True:
            with self._lock:
                if not (delay := self.delay()):
                    taken = self.clock.monotonic()
                    del self._times[: bisect_right(self._times, taken - max(self._limits, default=0.0))]
                    insort(self._times, taken)
                    break
            self.clock.sleep(max(delay, 0.001))  # rounding can leave less than the clock can tell apart
        try:
            yield
        finally:
            # A service counts a request when it arrives, some time before its answer is here. Counted from its sending,
            # a slow request followed by quick ones would look further apart here than there.
            with self._lock:
                if taken in self._times:
                    self._times.remove(taken)
                insort(self._times, self.clock.monotonic())

    def hold(self, seconds: float) -> None:
        """Let no request out for ``seconds`` from now, as a ``Retry-After`` asks."""
        with self._lock:
            self._not_before = max(self._not_before, self.clock.monotonic() + seconds)

    def count_earlier(self, seconds_ago: float) -> None:
        """Count a request that an earlier run of this program made, ``seconds_ago``."""
        with self._lock:
            now = self.clock.monotonic()
            # The wall clock may have been set back since: then it counts as of now.
            moment = now - max(0.0, seconds_ago)
            if moment > now - max(self._limits, default=0.0):
                insort(self._times, moment)

    def note_headers(self, headers: Mapping[str, str]) -> None:
        """Learn the limits, and what others have used of them, from the headers of an answer."""
        # Openverse (api/api/utils/throttle.py) sends ``X-RateLimit-Limit-anon_burst: 20/min`` together with
        # ``X-RateLimit-Available-anon_burst: 17``; thumbnails have limits of their own.
        lowered = {name.lower(): value for name, value in headers.items()}
        limits: dict[float, int] = {}
        used: dict[float, int] = {}
        for name, value in lowered.items():
            rate = _RATE.fullmatch(value) if name.startswith("x-ratelimit-limit-") else None
            if rate is None or "thumbnail" in name:
                continue
            requests, seconds = int(rate[1]), _PERIODS[rate[2].lower()]
            if not 1 <= requests <= _LARGEST_LIMIT:
                continue
            limits[seconds] = min(requests, limits.get(seconds, requests))
            available = lowered.get(name.replace("-limit-", "-available-", 1), "").strip()
            if available.isdecimal():
                used[seconds] = max(requests - int(available), used.get(seconds, 0))
        with self._lock:
            self._limits.update(limits)
            now = self.clock.monotonic()
            # Shortest window first: what is added for it counts in the longer ones too.
            for seconds in sorted(used):
                unseen = used[seconds] - self._count(seconds, now)
                self._times.extend([now] * max(0, unseen))

    def _count(self, seconds: float, now: float) -> int:
        return len(self._times) - bisect_right(self._times, now - seconds)


@dataclass(frozen=True)
class Service:
    """How one web service is asked."""

    name: str  # for messages
    way_out: str = ""  # sentence added to messages: what a user can do
    # Seconds before the second, third, ... attempt at one answer, where the service names no pause.
    pauses: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    timeout: tuple[float, float] = (5.0, 20.0)  # seconds to connect, and to wait for each read
    longest_wait: float = LONGEST_WAIT  # longest pause in seconds before the service is left for now


class Api:
    """Asks one web service for JSON: the only place where requests to services are repeated.

    Tried again, after a growing pause or the one that the service asks for, are 429, every 5xx, timeouts, broken
    connections, and with status 200 a page of HTML, broken JSON or what ``read`` finds. Nothing that was sent in a
    header or a form is ever put into a message.

    Args:
        service: What is asked, and how patiently.
        pace: The service's limits, and the clock.
        authorize: Gives the headers that carry a token; asked with ``True`` for a fresh one after a 401.
        sign: Signs each request, as the ``auth`` of requests.
    """

    def __init__(
        self,
        service: Service,
        pace: Pace,
        authorize: Callable[[bool], Mapping[str, str]] | None = None,
        sign: Callable[[Any], Any] | None = None,
    ) -> None:
        self._service, self._pace, self._clock = service, pace, pace.clock
        self._authorize, self._sign = authorize, sign
        self._session: Any = None

    def get_json(
        self, url: str, params: Mapping[str, Any] | None = None, read: Callable[[dict[str, Any]], Any] = dict
    ) -> Any:
        """What ``read`` makes of the JSON object at an address.

        ``params`` must hold no secret, for libraries below log addresses. The request is repeated where ``read`` raises
        ``PassingFault``, or the error of a value that is missing or of the wrong kind.

        Raises:
            Refused: If the service refuses the request (3xx, 4xx other than 429); 401 after a fresh token was tried.
            SourceUnavailable: If it does not answer after all attempts, or asks for too much patience.
        """
        return self._ask("GET", url, params or {}, read)

    def post_json(self, url: str, form: Mapping[str, Any], read: Callable[[dict[str, Any]], Any] = dict) -> Any:
        """As ``get_json``, for what a service answers to a form; sent without the token."""
        return self._ask("POST", url, form, read)

    def remembered(self, pages: Pages, question: str, ask: Callable[[], Any]) -> Any:
        """What was answered to ``question``, asked now or in an earlier run that was killed: see ``Pages.answer``."""
        asked_now = []

        def ask_now() -> dict[str, Any]:
            asked_now.append(ask())
            return {"answer": asked_now[0], "at": self._clock.time()}

        kept = pages.answer(question, ask_now)
        if not asked_now:
            # A search that goes on within the minute, or the day, counts the requests of the run before, too.
            self._pace.count_earlier(self._clock.time() - kept["at"])
        return kept["answer"]

    def _ask(
        self, method: Literal["GET", "POST"], url: str, values: Mapping[str, Any], read: Callable[[dict[str, Any]], Any]
    ) -> Any:
        renew = renewed = False
        attempt = 0
        while True:
            # Errors are raised here, where no variable holds what was sent or came back: some logs show an error's
            # frames with their variables.
            self._refuse_long_wait(self._pace.delay(), "its limit of requests is used up")
            status, wait, problem, value = self._attempt(method, url, values, renew, read)
            if not problem:
                return value
            if status == 401 and method == "GET" and self._authorize and not renewed:
                # A token can end at any moment. One fresh one, and the attempt is not counted.
                renew = renewed = True
                continue
            parts = urlsplit(url)
            place = f"{parts.hostname}{parts.path}"  # without the query
            if 200 < status < 500 and status != 429:
                raise Refused(status, self._sentence(f"{place} refused the request ({problem})."))
            renew = False
            attempt += 1
            if wait is None and status == 429:
                wait = _TOO_MANY * 2 ** (attempt - 1)
            if wait is not None:
                self._refuse_long_wait(wait, f"{problem} with the wish to wait {wait:.0f} s")
            if attempt > len(self._service.pauses):
                said = f"gave no answer in {attempt} attempts (last: {problem}). Start the same command again later: "
                raise SourceUnavailable(self._sentence(f"{place} {said}it goes on where it stopped."))
            self._pace.hold(self._service.pauses[attempt - 1] if wait is None else wait)

    def _attempt(
        self, method: str, url: str, values: Mapping[str, Any], renew: bool, read: Callable[[dict[str, Any]], Any]
    ) -> tuple[int, float | None, str, Any]:
        """One request: the status (0 without one), the pause asked for, what is wrong, and what was read."""
        import requests

        if self._session is None:
            self._session = requests.Session()
            # Without an ``auth`` of its own, a line for this host in ~/.netrc would replace the token.
            self._session.auth = self._sign or (lambda request: request)
        headers = self._authorize(renew) if method == "GET" and self._authorize else {}
        sent = {"User-Agent": user_agent(), "Accept": "application/json", **headers}
        given = {"params" if method == "GET" else "data": values}
        options = {"timeout": self._service.timeout, "allow_redirects": False, "stream": True}
        body = bytearray()
        try:
            # A turn lasts until the whole answer is here.
            with self._pace.turn():
                start = self._clock.monotonic()
                with self._session.request(method, url, headers=sent, **given, **options) as response:
                    for part in response.iter_content(65536):
                        body += part
                        if len(body) > MAX_BYTES or self._clock.monotonic() - start > _DEADLINE:
                            raise requests.ConnectionError("answer too long")
        except requests.RequestException as error:
            # Only its kind: the text of such an error can hold addresses and header values.
            return 0, None, f"{type(error).__name__} while asking", None
        status, answered = response.status_code, response.headers
        self._pace.note_headers(answered)
        wait = retry_after(answered.get("Retry-After"), self._clock)
        if status == 200:
            try:
                return status, wait, "", read(_json_object(body))
            except PassingFault as fault:
                return status, wait, str(fault), None
            except (LookupError, TypeError, ValueError, AttributeError):
                return status, wait, "HTTP 200 with something else than the JSON asked for", None
        said = ""
        if status < 500 and status != 429:
            with suppress(PassingFault):
                value = _json_object(body)
                said = str(value.get("detail") or value.get("error_description") or value.get("error") or "")
        said = " ".join(said.split())[:200]
        # An echo of what was sent must not come back through the message; word by word, for "Bearer" may be left out.
        private = [*headers.values(), *(values.values() if method == "POST" else ())]
        for word in " ".join(map(str, private)).split():
            said = said.replace(word, "***") if len(word) >= 8 else said
        return status, wait, f"HTTP {status}{': ' + said if said else ''}", None

    def _refuse_long_wait(self, seconds: float, why: str) -> None:
        longest, minutes = self._service.longest_wait, max(1, round(seconds / 60))
        if seconds > longest:
            said = f"{why}; the next request may go out in {minutes} min, {longest:.0f} s is the longest wait. "
            again = "Start the same command again then: it goes on where it stopped."
            raise SourceUnavailable(self._sentence(said + again))

    def _sentence(self, text: str) -> str:
        return f"{self._service.name}: {text} {self._service.way_out}".strip()


class WebService(ABC):
    """A source that asks a web service: each query of a class in turn, each result made a hit, or nothing."""

    name = ""
    local = False
    most_a_query: ClassVar[int | None] = None  # results that it shows of one query; ``None`` if all that it has
    clock: ClassVar[Clock] = time

    @abstractmethod
    def state(self) -> SourceState:
        """Whether it can be asked."""

    @abstractmethod
    def _results(self, query: str, pages: Pages) -> Iterator[Mapping[str, Any]]:
        """Results of one query, best first."""

    @abstractmethod
    def _hit(self, found: Mapping[str, Any], class_name: str, query: str) -> Hit | None:
        """What is known of a result; ``None`` if it is of no use."""

    def search(self, wanted: ClassSpec, limit: int | None, pages: Pages) -> Iterator[Hit]:
        """Yield at most ``limit`` hits for one class, none twice.

        Raises:
            SourceUnavailable: If it is not ready, its key is refused, a limit is used up, or it does not answer.
        """
        if (state := self.state()).state != "ready":
            raise SourceUnavailable(f"{self.name}: {state.detail}")
        hits = (self._hit(found, wanted.name, q) for q in wanted.queries for found in self._results(q, pages))
        yield from distinct(hits, limit)


def check_endpoint(source: str, endpoint: str, usual: str) -> None:
    """Raise ``SourceError`` for an address of a service without scheme http or https, or without host."""
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SourceError(f"source '{source}': endpoint is {shown(endpoint)}, expected an address such as {usual}.")


def _json_object(body: bytes | bytearray) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise PassingFault("HTTP 200 with something else than a JSON object")
    return value
