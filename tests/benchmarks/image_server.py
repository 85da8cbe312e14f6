"""Serve distinct images of photograph size on loopback, from memory, over kept-alive HTTP/1.1 connections.

Its own process, so that its work is not counted to who downloads. It ends when its
standard input is closed, thus also when the program that started it is killed.

    python tests/benchmarks/image_server.py --count 600

prints ``ready PORT`` when it listens. ``/picture/<n>.jpg`` is an image, ``/digests``
a JSON list of the sha256 of all.
"""

import argparse
import asyncio
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT = 1024, 768
"""Size of an image in pixels."""

JPEG_QUALITY = 88


def draw_picture(index: int) -> bytes:
    """Image number ``index`` as a JPEG of about 150 to 200 KB: soft colours, sharp shapes, texture and grain.

    The same index always gives the same pixels; no two indices do.
    """
    generator = np.random.default_rng([7, index])
    soft = cv2.resize(
        generator.uniform(40, 215, (6, 8, 3)).astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC
    )
    image = np.clip(soft, 0, 255).astype(np.uint8)
    for _ in range(40):
        centre = (int(generator.integers(WIDTH)), int(generator.integers(HEIGHT)))
        axes = (int(generator.integers(8, 160)), int(generator.integers(8, 120)))
        colour = tuple(int(value) for value in generator.integers(20, 236, 3))
        cv2.ellipse(image, centre, axes, float(generator.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    texture = cv2.resize(generator.normal(0, 9, (HEIGHT // 6, WIDTH // 6, 1)).astype(np.float32), (WIDTH, HEIGHT))
    grain = generator.integers(-6, 7, (HEIGHT, WIDTH), dtype=np.int16)
    shaded = image + (texture.astype(np.int16) + grain)[:, :, None]
    encoded = cv2.imencode(".jpg", np.clip(shaded, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return encoded[1].tobytes()


class _Connection(asyncio.Protocol):
    """One client: every complete request head is answered at once, in order."""

    def __init__(self, answers: dict[bytes, bytes]) -> None:
        self._answers = answers
        self._waiting = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._waiting += data
        while b"\r\n\r\n" in self._waiting:
            head, self._waiting = self._waiting.split(b"\r\n\r\n", 1)
            path = head.split(b" ", 2)[1]
            self._transport.write(self._answers.get(path, _NOT_FOUND))
            if b"connection: close" in head.lower():
                self._transport.close()


def _answer(status: str, kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: keep-alive\r\n\r\n"
    return head.encode() + body


_NOT_FOUND = _answer("404 Not Found", "text/plain", b"there is no such picture\n")


async def _serve(answers: dict[bytes, bytes]) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(answers), "127.0.0.1", 0)
    print("ready", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


@contextmanager
def image_server(count: int) -> Iterator[str]:
    """Start the server as a process of its own and yield its address, such as ``http://127.0.0.1:40123``."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), "--count", str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin is not None and process.stdout is not None
        try:
            word, _, port = process.stdout.readline().strip().partition(" ")
            if word != "ready":
                raise RuntimeError(f"the picture server did not start (it said {word!r})")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.stdin.close()
            process.wait()


def main() -> None:
    """Draw the images, then serve them until standard input is closed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=600, help="how many pictures (default: 600)")
    count = parser.parse_args().count
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pictures = [draw_picture(index) for index in range(count)]
    answers = {f"/picture/{n}.jpg".encode(): _answer("200 OK", "image/jpeg", data) for n, data in enumerate(pictures)}
    digests = json.dumps([hashlib.sha256(data).hexdigest() for data in pictures])
    answers[b"/digests"] = _answer("200 OK", "application/json", digests.encode())
    asyncio.run(_serve(answers))


if __name__ == "__main__":
    main()
