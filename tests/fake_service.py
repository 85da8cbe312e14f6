"""A local web service on a virtual clock that counts its clients' requests and notes every broken rule."""

import json
import threading
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from virtual_clock import VirtualClock

HTML = b"<html><body><h1>502 Bad Gateway</h1></body></html>"


@dataclass
class Reply:
    """What is sent back. ``body`` is JSON unless it is bytes; status 0 closes the connection without an answer."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


class Window:
    """One limit, kept as the real services keep it: a request that is refused does not count."""

    def __init__(self, requests: int, seconds: float) -> None:
        self.requests, self.seconds = requests, seconds
        self.times: list[float] = []

    def left(self, now: float) -> int:
        del self.times[: bisect_right(self.times, now - self.seconds)]
        return self.requests - len(self.times)

    def free_in(self, now: float) -> float:
        return self.times[0] + self.seconds - now


class FakeService:
    """Base of the fake services; use it as a context manager.

    Args:
        clock: The clock that the client has, too.
        latency: Virtual seconds that pass before and after each answer is made.
        faults: Number of a request (from 1) -> what it gets instead of an answer.
        host: Address of this machine to listen at.
    """

    def __init__(
        self,
        clock: VirtualClock,
        latency: float = 0.0,
        faults: Mapping[int, Reply] | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.clock = clock
        self.host = host
        self.latency = latency
        self.faults = dict(faults or {})
        self.violations: list[str] = []
        self.requests = 0
        self.answered: list[str] = []
        """The questions that got a good answer, in order, without what does not belong to the question."""
        self._in_flight = 0
        self._lock = threading.Lock()

    def __enter__(self):
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Otherwise the second packet of each answer waits 40 ms for the client to acknowledge the first.
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                service._serve(self, {})

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                service._serve(self, dict(parse_qsl(self.rfile.read(length).decode())))

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((self.host, 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self._server.server_port}"

    def most_at_once(self) -> int:
        """Requests that a client may have under way at once."""
        return 3

    def reply(self, path: str, query: dict[str, str], form: dict[str, str], headers: Mapping[str, str]) -> Reply:
        """The answer to one request; written by each service."""
        raise NotImplementedError

    def admit(self, windows: list[Window], number: int) -> Reply | None:
        """Count a request in its windows; a reply if it comes too soon, which is a broken rule."""
        now = self.clock.monotonic()
        full = [window for window in windows if window.left(now) < 1]
        if full:
            wait = max(window.free_in(now) for window in full)
            self.violations.append(f"request {number} at {now:.1f} s came {wait:.1f} s too soon")
            return Reply(429, {"detail": "Request was throttled."}, {"Retry-After": str(int(wait) + 1)})
        for window in windows:
            window.times.append(now)
        return None

    def _serve(self, handler: BaseHTTPRequestHandler, form: dict[str, str]) -> None:
        with self._lock:
            self._in_flight += 1
            if self._in_flight > self.most_at_once():
                self.violations.append(f"{self._in_flight} requests at once")
        try:
            self.clock.advance(self.latency)
            parts = urlsplit(handler.path)
            with self._lock:
                self.requests += 1
                reply = self.reply(parts.path, dict(parse_qsl(parts.query)), form, handler.headers)
            self.clock.advance(self.latency)
        finally:
            with self._lock:
                self._in_flight -= 1
        if reply.status == 0:
            handler.close_connection = True
            return
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        handler.send_response(reply.status)
        handler.send_header("Content-Type", "text/html" if body.startswith(b"<") else "application/json")
        handler.send_header("Content-Length", str(len(body)))
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)


class KeptPages:
    """``Pages`` in memory that can be killed: from the ``dies_after``-th new question on, asking raises."""

    class Killed(BaseException):
        pass

    def __init__(self, dies_after: int | None = None) -> None:
        self.kept: dict[str, str] = {}
        self.asked = 0
        self.dies_after = dies_after

    def answer(self, question: str, ask: Any) -> Any:
        if question not in self.kept:
            if self.asked == self.dies_after:
                raise self.Killed
            self.asked += 1
            # Through JSON, as the journal keeps it.
            self.kept[question] = json.dumps(ask())
        return json.loads(self.kept[question])


def dump(pages: KeptPages) -> str:
    """Everything that was remembered, as text."""
    return json.dumps(pages.kept)
