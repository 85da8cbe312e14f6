"""A real HTTP server on this machine: what it answers is a plain function of the path and of how often it was asked."""

import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from wss_data.imaging.images import encode_jpeg

Answer = tuple[int, dict[str, str], bytes]


def photo(seed: int, width: int = 160, height: int = 120) -> np.ndarray:
    """An image of coloured tiles that no other seed gives. Shape (height, width, 3), uint8."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((height // 6, width // 8, 1), np.uint8))


def jpeg(seed: int) -> bytes:
    """The bytes of ``photo(seed)``."""
    return encode_jpeg(photo(seed))


def picture(data: bytes, **headers: str) -> Answer:
    """An answer that brings an image."""
    return 200, {"Content-Type": "image/jpeg", **headers}, data


def refusal(status: int, **headers: str) -> Answer:
    """An answer that brings nothing; ``Retry_After`` stands for ``Retry-After``."""
    return status, {key.replace("_", "-"): value for key, value in headers.items()}, b""


class WebServer:
    """Serves ``answer(path, n)`` for the n-th request (from 1) for a path, and counts requests.

    Args:
        answer: Status, headers and body for a path; ``/robots.txt`` is 404 unless it answers that, too.
        address: Loopback address to listen on; hosts differ by it.
    """

    def __init__(self, answer: Callable[[str, int], Answer], address: str = "127.0.0.1") -> None:
        self.requests: Counter[str] = Counter()
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with outer._lock:
                    outer.requests[self.path] += 1
                    count = outer.requests[self.path]
                robots = self.path == "/robots.txt"
                try:
                    status, headers, body = answer(self.path, count)
                except KeyError:
                    status, headers, body = (404, {}, b"") if robots else (500, {}, b"")
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                pass  # A client that was killed leaves its connections broken.

        self._server = Server((address, 0), Handler)
        self.host = f"{address}:{self._server.server_port}"

    def url(self, path: str) -> str:
        """The address of a path."""
        return f"http://{self.host}{path}"

    def pictures_asked(self) -> dict[str, int]:
        """How often each path was asked for, ``robots.txt`` apart."""
        return {path: count for path, count in self.requests.items() if path != "/robots.txt"}

    def __enter__(self) -> "WebServer":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
