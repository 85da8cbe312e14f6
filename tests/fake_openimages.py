"""Open Images V7 as its storage serves it: large lists with ranges and ETags, images by their id; on this machine."""

import csv
import io
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from web_server import jpeg

from wss_data.retrieval.sources.openimages import CLASSES, LISTS

DISPLAY = {
    "/m/01yrx": "Cat",
    "/m/0bt9lr": "Dog",
    "/m/015qff": "Traffic light",
    "/m/0cnyhnx": "Bull",
    "/m/01xq0k1": "Cattle",
}


def image_id(number: int) -> str:
    """Sixteen hex digits, as an image's id has them."""
    return f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}"


def image_row(number: int, split: str, **changes: str) -> dict[str, str]:
    """A row of the list of images, as the lists have it: quotes, commas and empty cells included."""
    return {
        "ImageID": image_id(number),
        "Subset": split,
        "OriginalURL": f"https://farm1.staticflickr.com/1/{number}_o.jpg",
        "OriginalLandingURL": f"https://www.flickr.com/photos/ann/{number}",
        "License": "https://creativecommons.org/licenses/by/2.0/",
        "AuthorProfileURL": "https://www.flickr.com/people/ann/",
        "Author": f'Ann "A", no. {number}',
        "Title": f"A cat, {number}",
        "OriginalSize": "123456",
        "OriginalMD5": "0Sad+xMj2ttXM1U8meEJ0A==",
        "Thumbnail300KURL": f"https://c1.staticflickr.com/1/{number}_z.jpg",
        "Rotation": "0.0",
    } | changes


def lists(labels: dict[str, list[tuple[int, str, str]]], images: dict[str, list[dict[str, str]]]) -> dict[str, bytes]:
    """Path -> bytes of the lists. ``labels``: split -> (number of an image, label, confidence)."""
    classes = "".join(f"{label},{name}\n" for label, name in DISPLAY.items())
    found = {f"/{CLASSES}": f'LabelName,DisplayName\n/m/0100nhbf,"Tulip, Sprenger\'s"\n{classes}'.encode()}
    for split, (of_labels, of_images) in LISTS.items():
        rows = "".join(f"{image_id(n)},verification,{label},{sure}\n" for n, label, sure in labels.get(split, ()))
        found[f"/{of_labels}"] = f"ImageID,Source,LabelName,Confidence\n{rows}".encode()
        text = io.StringIO()
        table = csv.DictWriter(text, list(image_row(0, split)))
        table.writeheader()
        table.writerows(images.get(split, ()))
        found[f"/{of_images}"] = text.getvalue().encode()
    return found


class FakeOpenImages:
    """The storage.

    Args:
        files: Path -> bytes of the lists; images are served for every path that ends with ``.jpg``.
        breaks: Path -> bytes after which the connection ends, once for each number.
    """

    def __init__(self, files: dict[str, bytes], breaks: dict[str, list[int]] | None = None) -> None:
        self.files, self.breaks = files, breaks or {}
        self.version = '"1"'
        self.requests: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests[self.path] += 1
                if self.path.endswith(".jpg"):
                    number = next(n for n in range(10_000) if image_id(n) in self.path)
                    outer._send(self, 200, jpeg(number), {"Content-Type": "image/jpeg"})
                elif self.path not in outer.files:
                    outer._send(self, 403, b"", {})
                else:
                    outer._list(self, outer.files[self.path])

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}"

    def _list(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        """A whole list, or the range that is asked for if its version still is the one."""
        start, total = 0, len(body)
        asked = handler.headers.get("Range")
        if asked and handler.headers.get("If-Range") == self.version:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= total:
                return self._send(handler, 416, b"", {"Content-Range": f"bytes */{total}"})
        extra = {"ETag": self.version} | ({"Content-Range": f"bytes {start}-{total - 1}/{total}"} if start else {})
        at = self.breaks.get(handler.path) or [total]
        self._send(handler, 206 if start else 200, body[start:], extra, (at.pop(0) if at != [total] else total) - start)
        return None

    def _send(
        self,
        handler: BaseHTTPRequestHandler,
        status: int,
        body: bytes,
        headers: dict[str, str],
        most: int | None = None,
    ) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        part = body if most is None else body[: max(0, most)]
        handler.wfile.write(part)
        self.sent[handler.path] += len(part)

    def __enter__(self) -> "FakeOpenImages":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
