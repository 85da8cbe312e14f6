"""The loop that everybody writes: ``requests``, a thread pool, Pillow. No check but the HTTP status.

python requests_pillow.py URLS OUT [--threads 16] [--side 340] [--quality 95] [--draft]
"""

import argparse
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests
from PIL import Image

parser = argparse.ArgumentParser()
parser.add_argument("urls", type=Path, help="file with one address a line")
parser.add_argument("out", type=Path, help="folder for <line number>.jpg")
parser.add_argument("--threads", type=int, default=16)
parser.add_argument("--side", type=int, default=340, help="longest side in pixels")
parser.add_argument("--quality", type=int, default=95)
parser.add_argument("--draft", action="store_true", help="shrink while decoding, as Pillow can if it is asked right")
options = parser.parse_args()

local = threading.local()


def save(task: tuple[int, str]) -> None:
    """Download one address and write it shrunk."""
    number, url = task
    if not hasattr(local, "session"):
        local.session = requests.Session()
    response = local.session.get(url, timeout=10)
    response.raise_for_status()
    image = Image.open(io.BytesIO(response.content))
    if not options.draft:
        # The usual order. It decodes every pixel; thumbnail() before convert() would not.
        image = image.convert("RGB")
    image.thumbnail((options.side, options.side))
    image.convert("RGB").save(options.out / f"{number:06d}.jpg", quality=options.quality)


options.out.mkdir(parents=True, exist_ok=True)
with ThreadPoolExecutor(options.threads) as pool:
    for _ in pool.map(save, enumerate(options.urls.read_text().split())):
        pass
