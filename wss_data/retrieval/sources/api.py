"""Asking a web service politely: at the pace that it permits, patient with its faults, silent about secrets."""

import json
import re
import threading
from bisect import bisect_right, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from wss_data.errors import SourceUnavailable
from wss_data.retrieval.clock import Clock, SystemClock
from wss_data.retrieval.sources.base import Pages

LONGEST_WAIT = 300.0
"""Seconds; a service that asks for more patience than this is left for now."""

MAX_BYTES = 32 * 2**20
"""An answer longer than this is no page of search results."""

_DEADLINE = 120.0
"""Seconds for one whole answer; the timeouts hold for each read only."""

_PERIODS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_LARGEST_LIMIT = 100_000
"""Requests; a limit told as zero or as more than this is a mistake or a trap, and is passed over."""

_RATE = re.compile(r"\s*(\d+)\s*/\s*([smhd])[a-z]*\s*", re.IGNORECASE)


class Refused(SourceUnavailable):
    """A service refused a request for good.

    Args:
        status: The HTTP status, 300 to 499.
        message: The sentence for the user.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.status, str(self))


class Pace:
    """Keeps requests within the limits of a service: at most so many in any stretch of so many seconds.

    Thread safe: each caller gets its own turn.

    Args:
        windows: (requests, seconds) of each limit; all of them hold at once.
        clock: Where the time comes from.
    """

    def __init__(self, windows: Sequence[tuple[int, float]], clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._limits = {float(seconds): requests for requests, seconds in windows}
        self._times: list[float] = []  # of the requests counted, oldest first
        self._not_before = float("-inf")
        self._lock = threading.Lock()

    def delay(self) -> float:
        """Seconds until a request may go out; 0 if it may now."""
        with self._lock:
            return self._delay(self._clock.monotonic())

    def wait(self) -> None:
        """Wait for a turn and take it; it counts from now on."""
        self._take_turn()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn and take it; it counts from the end of the ``with`` block.

        A service counts a request when it arrives, which is some time before
        its answer is here. Counted from its sending, a slow request followed by
        quick ones would look further apart here than there.
        """
        taken = self._take_turn()
        try:
            yield
        finally:
            with self._lock:
                if taken in self._times:
                    self._times.remove(taken)
                insort(self._times, self._clock.monotonic())

    def hold(self, seconds: float) -> None:
        """Let nobody go for ``seconds`` from now, as a ``Retry-After`` asks."""
        with self._lock:
            self._not_before = max(self._not_before, self._clock.monotonic() + seconds)

    def count_earlier(self, seconds_ago: float) -> None:
        """Count a request that an earlier run of this program made, ``seconds_ago``."""
        with self._lock:
            now = self._clock.monotonic()
            # The wall clock may have been set back since: then it counts as of now.
            moment = now - max(0.0, seconds_ago)
            if moment > now - max(self._limits, default=0.0):
                insort(self._times, moment)

    def note_headers(self, headers: Mapping[str, str]) -> None:
        """Learn the limits, and what others have used of them, from the headers of an answer.

        Understood are pairs such as ``X-RateLimit-Limit-anon_burst: 20/min`` and
        ``X-RateLimit-Available-anon_burst: 17``; thumbnails have limits of their
        own, which are passed over.

        Source:
            Openverse, ``api/api/utils/throttle.py``.
        """
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
            now = self._clock.monotonic()
            # Shortest window first: what is added for it counts in the longer ones too.
            for seconds in sorted(used):
                unseen = used[seconds] - self._count(seconds, now)
                self._times.extend([now] * max(0, unseen))

    def _take_turn(self) -> float:
        while True:
            with self._lock:
                now = self._clock.monotonic()
                delay = self._delay(now)
                if delay <= 0:
                    longest = max(self._limits, default=0.0)
                    del self._times[: bisect_right(self._times, now - longest)]
                    insort(self._times, now)
                    return now
            # Rounding can leave less than the clock can tell apart.
            self._clock.sleep(max(delay, 0.001))

    def _delay(self, now: float) -> float:
        delay = max(0.0, self._not_before - now)
        for seconds, requests in self._limits.items():
            if self._count(seconds, now) >= requests:
                # The request that must leave the window before another fits.
                delay = max(delay, self._times[-requests] + seconds - now)
        return delay

    def _count(self, seconds: float, now: float) -> int:
        return len(self._times) - bisect_right(self._times, now - seconds)


class Api:
    """Asks one web service for JSON.

    Every request waits for its turn. Passing faults are tried again after a
    growing pause, or the pause that the service asks for: 429, every 5xx,
    time-outs, broken connections, a page of HTML or broken JSON with status
    200. Nothing that was sent in a header or a form is ever put into a message.

    Args:
        name: Name of the service, for messages.
        user_agent: How to introduce oneself.
        pace: The service's limits.
        clock: Where the time comes from.
        timeout: Seconds to connect and to wait for each read.
        attempts: Most requests for one answer.
        longest_wait: Longest pause in seconds before the service is left for now.
        authorize: Gives the headers that carry a token; asked with ``True`` for a fresh one after a 401.
        again: Says of an answer with status 200 whether it is a passing fault, and what fault; ``None`` if it is none.
        way_out: Sentence added to messages: what a user can do.
    """

    def __init__(
        self,
        name: str,
        user_agent: str,
        pace: Pace,
        clock: Clock | None = None,
        timeout: tuple[float, float] = (5.0, 20.0),
        attempts: int = 5,
        longest_wait: float = LONGEST_WAIT,
        authorize: Callable[[bool], Mapping[str, str]] | None = None,
        again: Callable[[Mapping[str, Any]], str | None] | None = None,
        way_out: str = "",
    ) -> None:
        self.name = name
        self._user_agent = user_agent
        self._pace = pace
        self._clock = clock or SystemClock()
        self._timeout = timeout
        self._attempts = attempts
        self._longest_wait = longest_wait
        self._authorize = authorize
        self._again = again
        self._way_out = way_out
        self._session: Any = None

    def get_json(
        self, url: str, params: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """The JSON object at an address.

        Args:
            url: Where to ask.
            params: The query; must hold no secret, for libraries below log addresses.
            headers: Sent as they are.

        Raises:
            Refused: If the service refuses the request (3xx, 4xx other than 429); 401 after a fresh token was tried.
            SourceUnavailable: If it does not answer after all attempts, or asks for too much patience.
        """
        return self._ask("GET", url, params or {}, headers or {}, authorized=self._authorize is not None)

    def post_json(self, url: str, form: Mapping[str, str]) -> dict[str, Any]:
        """The JSON object that a service answers to a form; sent without the token.

        Raises:
            Refused: If the service refuses the request.
            SourceUnavailable: If it does not answer after all attempts, or asks for too much patience.
        """
        return self._ask("POST", url, form, {}, authorized=False)

    def remembered(self, pages: Pages, question: str, ask: Callable[[], Any]) -> Any:
        """What was answered to ``question``, asked now or in an earlier run that was killed.

        The moment is kept with the answer. A search that goes on within the
        minute, or the day, counts the requests of the run before, too.

        Args:
            pages: Where answers are kept.
            question: Names the request; without any key or secret.
            ask: Makes the request; must return plain values (JSON).
        """
        asked_now = False

        def ask_now() -> dict[str, Any]:
            nonlocal asked_now
            asked_now = True
            answer = ask()
            return {"at": self._clock.time(), "answer": answer}

        kept = pages.answer(question, ask_now)
        if not asked_now:
            self._pace.count_earlier(self._clock.time() - kept["at"])
        return kept["answer"]

    def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _ask(
        self,
        method: Literal["GET", "POST"],
        url: str,
        values: Mapping[str, Any],
        headers: Mapping[str, str],
        authorized: bool,
    ) -> dict[str, Any]:
        from requests import RequestException

        problem = ""
        renew = renewed = False
        attempt = 0
        while attempt < self._attempts:
            sent = dict(headers)
            if authorized and self._authorize is not None:
                sent.update(self._authorize(renew))
                renewed, renew = renewed or renew, False
            self._refuse_long_wait(self._pace.delay(), "its limit of requests is used up")
            try:
                with self._pace.turn():
                    status, answered, body = self._request(method, url, values, sent)
            except RequestException as error:
                # Only its kind: the text of such an error can hold addresses and header values.
                problem, pause = f"{type(error).__name__} while asking", None
            else:
                self._pace.note_headers(answered)
                if status == 200:
                    value = _json_object(body)
                    fault = "HTTP 200 with something else than a JSON object"
                    if value is not None:
                        said = self._again(value) if self._again is not None else None
                        if said is None:
                            return value
                        fault = said
                    problem, pause = fault, retry_after(answered, self._clock)
                elif status == 401 and authorized and not renewed:
                    # A token can end at any moment. One fresh one, and the attempt is not counted.
                    renew = True
                    continue
                elif status != 429 and status < 500:
                    private = [*sent.values(), *(values.values() if method == "POST" else ())]
                    raise Refused(status, self._refusal(status, url, body, private))
                else:
                    problem, pause = f"HTTP {status}", retry_after(answered, self._clock)
                    if status == 429 and pause is None:
                        pause = 15.0 * 2**attempt
            attempt += 1
            if pause is not None:
                self._refuse_long_wait(pause, f"{problem} with the wish to wait {pause:.0f} s")
                self._pace.hold(pause)
            elif attempt < self._attempts:
                self._pace.hold(2.0 ** (attempt - 1))
        raise SourceUnavailable(
            self._sentence(f"{self.name}: {_place(url)} gave no answer in {attempt} attempts (last: {problem}).")
        )

    def _request(
        self, method: str, url: str, values: Mapping[str, Any], headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One request: status, headers and body of the answer."""
        import requests

        if self._session is None:
            self._session = requests.Session()
            # Otherwise a line for this host in ~/.netrc would replace the token.
            self._session.auth = lambda request: request
        sent = {"User-Agent": self._user_agent, "Accept": "application/json", **headers}
        given: dict[str, Any] = {"params": values} if method == "GET" else {"data": values}
        start = self._clock.monotonic()
        with self._session.request(
            method, url, headers=sent, timeout=self._timeout, allow_redirects=False, stream=True, **given
        ) as response:
            body = bytearray()
            for part in response.iter_content(65536):
                body += part
                if len(body) > MAX_BYTES or self._clock.monotonic() - start > _DEADLINE:
                    raise requests.ConnectionError("answer too long")
            return response.status_code, response.headers, bytes(body)

    def _refuse_long_wait(self, seconds: float, why: str) -> None:
        if seconds > self._longest_wait:
            minutes = max(1, round(seconds / 60))
            raise SourceUnavailable(
                self._sentence(
                    f"{self.name}: {why}; the next request may go out in {minutes} min, {self._longest_wait:.0f} s is "
                    "the longest wait. Start the same command again then: it goes on where it stopped."
                )
            )

    def _refusal(self, status: int, url: str, body: bytes, private: Sequence[str]) -> str:
        said = _reason(body)
        # An echo of what was sent must not come back through the message; word by word, for "Bearer" may be left out.
        for word in " ".join(private).split():
            said = said.replace(word, "***") if len(word) >= 8 else said
        return self._sentence(
            f"{self.name}: {_place(url)} refused the request (HTTP {status}{': ' + said if said else ''})."
        )

    def _sentence(self, text: str) -> str:
        return f"{text} {self._way_out}".strip()


def retry_after(headers: Mapping[str, str], clock: Clock) -> float | None:
    """Seconds that a ``Retry-After`` header asks to wait, at least 0; ``None`` without a readable one."""
    value = next((v for name, v in headers.items() if name.lower() == "retry-after"), "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d*)?", value):
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - clock.time())


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _reason(body: bytes) -> str:
    """What a refusal says, if it says it in the usual JSON key; at most 200 characters on one line."""
    value = _json_object(body) or {}
    said = value.get("detail") or value.get("error_description") or value.get("error") or ""
    return " ".join(str(said).split())[:200]


def _place(url: str) -> str:
    """The address without its query."""
    parts = urlsplit(url)
    return f"{parts.hostname}{parts.path}"
