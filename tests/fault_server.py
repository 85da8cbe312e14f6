"""A web server that misbehaves in every known way: one loopback address a case, so that each is a host of its own.

In a test::

    with FaultServer() as server:
        settings = DownloadSpec(allow_hosts=server.hosts)
        ...fetch(server.url("hang"))...
        assert server.requests("hang") == 1

``FaultProcess`` is the same in a process of its own, so that neither its processor time nor its memory are ours.

By hand, to point other crawlers at it (Linux, where all of 127.0.0.0/8 is loopback)::

    python tests/fault_server.py --port 8800                  # the cases as JSON lines, then serves until Ctrl-D
    curl http://127.0.0.1:8800/state                          # requests so far, by case and address
"""

import argparse
import copy
import json
import selectors
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections import defaultdict
from dataclasses import dataclass, field
from types import TracebackType

from fault_cases import CASES, Case

__all__ = ["CASES", "Case", "Exchange", "FaultProcess", "FaultServer"]

ADDRESSES = {name: f"127.0.0.{10 + i}" for i, name in enumerate(CASES)}
"""Where each case listens."""


@dataclass
class Exchange:
    """One request to a case, and the means to answer it well or badly.

    Args:
        case: Name of the case.
        target: Path and query asked for.
        n: Number of the image.
        count: How often this target was asked for until now, this time included.
        server: Whom it was sent to.
        headers: The request's headers, names in lower case.
        socket: The connection.
    """

    case: str
    target: str
    n: int
    count: int
    server: "FaultServer"
    headers: dict[str, str]
    socket: socket.socket
    keep: bool = False

    @property
    def name(self) -> str:
        """Name of the image, from which it is drawn."""
        return f"{self.case}/{self.n}"

    @property
    def hop(self) -> int:
        """Which step of a chain of redirects this is; 0 for the address that a crawler starts from."""
        return int(self.target.partition("?hop=")[2] or 0)

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def answer(
        self,
        body: bytes = b"",
        content_type: str | None = "image/jpeg",
        status: str = "200 OK",
        headers: tuple[str, ...] = (),
        length: int | None = None,
    ) -> None:
        """Send a whole, correct answer; ``length``: what to claim instead of the true length."""
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
        if content_type:
            lines.append(f"Content-Type: {content_type}")
        self.keep = length is None
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    def redirect(self, location: str, status: str = "302 Found") -> None:
        """Send the crawler elsewhere."""
        self.answer(b"", None, status, (f"Location: {location}",))

    def wait(self, seconds: float) -> bool:
        """Wait; returns False, at once, when the server stops."""
        return not self.server.stopping.wait(seconds)

    def wait_for_the_end(self) -> None:
        """Say nothing until the crawler hangs up."""
        self.socket.settimeout(0.2)
        while not self.server.stopping.is_set():
            try:
                if not self.socket.recv(4096):
                    return
            except TimeoutError:
                continue

    def reset(self) -> None:
        """End the connection with a reset instead of a farewell."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


@dataclass
class _Counts:
    times: list[float] = field(default_factory=list)
    targets: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    robots: int = 0


class _Reports:
    """What a fault server, here or in another process, tells of itself."""

    port: int
    canary_port: int

    def state(self) -> dict:
        """``canary_hits``, and ``cases``: name -> ``targets`` (target -> requests), ``robots``, ``times``."""
        raise NotImplementedError

    @property
    def hosts(self) -> tuple[str, ...]:
        """``host:port`` of every case, for ``DownloadSpec.allow_hosts``."""
        return tuple(f"{address}:{self.port}" for address in ADDRESSES.values())

    def url(self, name: str, n: int = 0) -> str:
        """Address of image ``n`` of a case."""
        return f"http://{ADDRESSES[name]}:{self.port}/case/{name}/{n}.jpg"

    def requests(self, name: str, n: int | None = None) -> int:
        """How many requests a case got (for image ``n`` only), those for its robots.txt not counted."""
        targets = self._case(name)["targets"]
        start = "" if n is None else f"/case/{name}/{n}.jpg"
        return sum(count for target, count in targets.items() if target.startswith(start))

    def robots_requests(self, name: str) -> int:
        """How often the robots.txt of a case was asked for."""
        return self._case(name)["robots"]

    def times(self, name: str) -> list[float]:
        """When its requests came, in seconds of ``time.monotonic``; those for robots.txt not counted."""
        return self._case(name)["times"]

    @property
    def canary_hits(self) -> int:
        """How many connected to the port that nobody may connect to."""
        return self.state()["canary_hits"]

    def _case(self, name: str) -> dict:
        return self.state()["cases"].get(name, {"targets": {}, "robots": 0, "times": []})


class FaultServer(_Reports):
    """Serves every case until it is closed.

    Args:
        port: Port of every address; 0 for any that is free.

    Attributes:
        port: The port.
        canary_port: A port of 127.0.0.1 that nobody may connect to.
        stopping: Set when the server is being closed.
    """

    def __init__(self, port: int = 0) -> None:
        self.stopping = threading.Event()
        self._canary_hits = 0
        self._lock = threading.Lock()
        self._counts: dict[str, _Counts] = defaultdict(_Counts)
        self._case_at = {ADDRESSES[case.name]: case.name for case in CASES.values() if not case.nobody_listens}
        self._listeners = self._listen(["127.0.0.1", *self._case_at], port)
        self.port = self._listeners[0].getsockname()[1]
        canary = socket.create_server(("127.0.0.1", 0))
        self.canary_port = canary.getsockname()[1]
        self._listeners.append(canary)
        self._canary = canary
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._accept, daemon=True, name="fault server")
        self._thread.start()

    @staticmethod
    def _listen(addresses: list[str], port: int) -> list[socket.socket]:
        for _ in range(20):
            listeners = [socket.create_server((addresses[0], port), backlog=256)]
            chosen = listeners[0].getsockname()[1]
            try:
                listeners += [socket.create_server((address, chosen), backlog=64) for address in addresses[1:]]
            except OSError:
                for listener in listeners:
                    listener.close()
                if port:
                    raise
            else:
                return listeners
        raise OSError("no port is free on all of the addresses")

    def __enter__(self) -> "FaultServer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving; connections that hang are let go."""
        self.stopping.set()
        self._wake.send(b"x")
        self._thread.join()
        for listener in [*self._listeners, self._wake, self._woken]:
            listener.close()

    def state(self) -> dict:
        with self._lock:
            cases = {name: {**vars(counts), "targets": dict(counts.targets)} for name, counts in self._counts.items()}
            return {"canary_hits": self._canary_hits, "cases": copy.deepcopy(cases)}

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            for listener in [*self._listeners, self._woken]:
                selector.register(listener, selectors.EVENT_READ)
            while not self.stopping.is_set():
                for key, _ in selector.select():
                    ready = key.fileobj
                    if ready is self._woken or not isinstance(ready, socket.socket):
                        continue
                    connection, _ = ready.accept()
                    if ready is self._canary:
                        self._canary_hits += 1
                        connection.close()
                    else:
                        threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        case = self._case_at.get(connection.getsockname()[0])
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            try:
                while not self.stopping.is_set():
                    head = self._read_head(connection)
                    if head is None or not self._answer(connection, case, *head):
                        return
            except (OSError, ValueError):
                return  # the crawler went away, which is its good right

    def _read_head(self, connection: socket.socket) -> tuple[str, dict[str, str]] | None:
        connection.settimeout(0.2)
        data = b""
        while b"\r\n\r\n" not in data:
            try:
                more = connection.recv(65536)
            except TimeoutError:
                if self.stopping.is_set():
                    return None
                continue
            if not more or len(data) > 1_000_000:
                return None
            data += more
        connection.settimeout(60)
        first, *lines = data.decode("latin-1").partition("\r\n\r\n")[0].split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return first.split(" ")[1], headers

    def _answer(self, connection: socket.socket, case: str | None, target: str, headers: dict[str, str]) -> bool:
        """Answer one request; returns whether another may follow on the connection."""
        if case is None:
            body = json.dumps(self.state()).encode()
            Exchange("", target, 0, 0, self, headers, connection).answer(body, "application/json")
            return False
        digits = target.rpartition("/")[2].partition(".")[0]
        is_robots = target == "/robots.txt"
        with self._lock:
            counts = self._counts[case]
            if is_robots:
                counts.robots += 1
                count = counts.robots
            else:
                counts.times.append(time.monotonic())
                counts.targets[target] += 1
                count = counts.targets[target]
        n = int(digits) if digits.isdigit() else 0
        exchange = Exchange(case, target, n, count, self, headers, connection)
        (CASES[case].robots if is_robots else CASES[case].handler)(exchange)
        return exchange.keep


class FaultProcess(_Reports):
    """A fault server in a process of its own, which ends with the block."""

    def __enter__(self) -> "FaultProcess":
        self._process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            if "port" in told:
                self.port, self.canary_port = told["port"], told["canary_port"]
                return self
        raise OSError("the fault server did not start")

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def state(self) -> dict:
        # No proxy from the environment may stand between two processes of one machine.
        ask = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with ask.open(f"http://127.0.0.1:{self.port}/state", timeout=30) as answer:
            return json.load(answer)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="Serve every case of misbehaviour, one loopback address each.")
    parser.add_argument("--port", type=int, default=0, help="port of every address (default: any that is free)")
    parser.add_argument("--pictures", type=int, default=1, help="addresses listed for each case (default: 1)")
    arguments = parser.parse_args()
    with FaultServer(arguments.port) as server:
        for case in CASES.values():
            urls = [server.url(case.name, n) for n in range(arguments.pictures)]
            line = {
                "name": case.name,
                "group": case.group,
                "expected": case.expected,
                "reasons": sorted(case.reasons),
                "requests_at_most": case.requests_at_most,
                "urls": urls,
            }
            print(json.dumps(line), flush=True)
        print(json.dumps({"port": server.port, "canary_port": server.canary_port}), flush=True)
        try:
            # Started by a program, it ends with that program; started by hand, by Ctrl-C or Ctrl-D.
            sys.stdin.read()
        except KeyboardInterrupt:
            sys.exit(0)


if __name__ == "__main__":
    main()
