"""A Flickr of our own on loopback: the REST protocol, the OAuth signature, and the habits that make it hard to read.

What it does as the real one: at most the first 4,000 results of a query, then the last page again; totals that are off;
errors inside an HTTP 200; parameters that it does not know are ignored; dates distinguished by five minutes only.
"""

import base64
import hashlib
import hmac
import json
import random
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from virtual_clock import VirtualClock

KEY = "0123456789abcdef0123456789abcdef"
SECRET = "fedcba9876543210"
MOST = 4000
HOURLY = 3600

SIZES = {"sq": 75, "t": 100, "q": 150, "s": 240, "n": 320, "m": 500, "z": 640, "c": 800, "l": 1024, "o": 4000}

LICENCES = {
    0: ("All Rights Reserved", ""),
    1: ("Attribution-NonCommercial-ShareAlike License", "https://creativecommons.org/licenses/by-nc-sa/2.0/"),
    2: ("Attribution-NonCommercial License", "https://creativecommons.org/licenses/by-nc/2.0/"),
    3: ("Attribution-NonCommercial-NoDerivs License", "https://creativecommons.org/licenses/by-nc-nd/2.0/"),
    4: ("Attribution License", "https://creativecommons.org/licenses/by/2.0/"),
    5: ("Attribution-ShareAlike License", "https://creativecommons.org/licenses/by-sa/2.0/"),
    6: ("Attribution-NoDerivs License", "https://creativecommons.org/licenses/by-nd/2.0/"),
    7: ("No known copyright restrictions", "https://www.flickr.com/commons/usage/"),
    8: ("United States Government Work", "http://www.usa.gov/copyright.shtml"),
    9: ("Public Domain Dedication (CC0)", "https://creativecommons.org/publicdomain/zero/1.0/"),
    10: ("Public Domain Mark", "https://creativecommons.org/publicdomain/mark/1.0/"),
    11: ("CC BY 4.0", "https://creativecommons.org/licenses/by/4.0/"),
    12: ("CC BY-SA 4.0", "https://creativecommons.org/licenses/by-sa/4.0/"),
    13: ("CC BY-ND 4.0", "https://creativecommons.org/licenses/by-nd/4.0/"),
    14: ("CC BY-NC 4.0", "https://creativecommons.org/licenses/by-nc/4.0/"),
    15: ("CC BY-NC-SA 4.0", "https://creativecommons.org/licenses/by-nc-sa/4.0/"),
    16: ("CC BY-NC-ND 4.0", "https://creativecommons.org/licenses/by-nc-nd/4.0/"),
}


@dataclass(frozen=True)
class Photo:
    """One photo; ``largest`` is the longest side in pixels of the largest size that its owner lets others have."""

    id: int
    uploaded: int
    licence: int = 4
    title: str = "a cat"
    largest: int = 1024
    media: str = "photo"

    @property
    def relevance(self) -> int:
        return self.id * 2_654_435_761 % 2**32


def many_photos(count: int, start: int = 1_150_000_000, end: int = 1_790_000_000, **kind: Any) -> list[Photo]:
    """Photos uploaded over twenty years, most of them in bursts, under every licence of the default."""
    draw = random.Random(count)
    days = [draw.uniform(start, end) for _ in range(max(1, count // 40))]
    photos = []
    for number in range(count):
        moment = draw.choice(days) + draw.uniform(0, 3600) if draw.random() < 0.7 else draw.uniform(start, end)
        licence = draw.choice((4, 5, 7, 8, 9, 10, 11, 12))
        photos.append(Photo(50_000_000_000 + number, int(min(moment, end)), **{"licence": licence, **kind}))
    return photos


class FakeFlickr:
    """The server; use it in a ``with`` block.

    Args:
        photos: What there is.
        clock: Time of the hourly limit; each request takes ``latency`` seconds of it.
        drift: Reported totals are off by up to this share, either way.
        vanishing: One photo is taken down every so many requests; 0 for never.
        blurred: Dates are distinguished by five minutes only.
        shuffled: The order asked for is not kept.
        overstated: Totals are too high by this share, always.
        hourly: Requests permitted an hour.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        clock: VirtualClock,
        drift: float = 0.0,
        vanishing: int = 0,
        blurred: bool = False,
        shuffled: bool = False,
        overstated: float = 0.0,
        hourly: int = HOURLY,
        latency: float = 0.4,
    ) -> None:
        self.photos = sorted(photos, key=lambda photo: (photo.uploaded, photo.id))
        self.dates = [photo.uploaded for photo in self.photos]
        self.clock, self.latency, self.hourly = clock, latency, hourly
        self.drift, self.vanishing, self.blurred = drift, vanishing, blurred
        self.shuffled, self.overstated = shuffled, overstated
        self.key, self.secret = KEY, SECRET
        self.licences = dict(LICENCES)
        self.faults: dict[int, str] = {}
        self.every: str | None = None
        self.requests: list[dict[str, str]] = []
        self.times: list[float] = []
        self.keys: set[str] = set()
        self.over_limit = 0
        self.gone: set[int] = set()
        self._found: dict[tuple[str, ...], list[Photo]] = {}
        self._draw = random.Random(7)
        self._lock = threading.Lock()

    def __enter__(self) -> "FakeFlickr":
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                form = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                fake.answer(self, dict(parse_qsl(form, keep_blank_values=True)))

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/services/rest/"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def searches(self) -> list[dict[str, str]]:
        return [asked for asked in self.requests if asked["method"] == "flickr.photos.search"]

    def busiest(self, seconds: float) -> int:
        """Most requests that came within so many seconds."""
        return max(bisect_left(self.times, time + seconds) - at for at, time in enumerate(self.times))

    def answer(self, handler: BaseHTTPRequestHandler, asked: dict[str, str]) -> None:
        with self._lock:
            self.clock.advance(self.latency)
            now = self.clock.monotonic()
            self.requests.append(asked)
            self.times.append(now)
            self.keys.add(handler.headers.get("Authorization", ""))
            number = len(self.requests)
            fault = self.faults.get(number) or self.every
            too_many = number - bisect_right(self.times, now - 3600) > self.hourly
            self.over_limit += too_many
            if self.vanishing and number % self.vanishing == 0:
                self.gone.add(self._draw.choice(self.photos).id)
            status, body, headers = self._reply(handler, asked, "201" if too_many else fault)
        if fault == "reset":
            handler.close_connection = True
            handler.connection.close()
            return
        lines = [f"HTTP/1.1 {status} Fake", "Content-Type: application/json", *headers]
        lines.append(f"Content-Length: {len(body) + (500 if fault == 'cut' else 0)}")
        handler.wfile.write(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
        handler.close_connection = fault == "cut"

    def _reply(
        self, handler: BaseHTTPRequestHandler, asked: dict[str, str], fault: str | None
    ) -> tuple[int, bytes, list[str]]:
        failed = {
            "0": "Sorry, the Flickr API service is not currently available.",
            "3": "Parameterless searches have been disabled. Please use flickr.photos.getRecent instead.",
            "10": "Sorry, the Flickr search API is not currently available.",
            "98": "Invalid auth token",
            "100": f"Invalid API Key (Key {self.key} not found)",
            "105": "Service currently unavailable",
            "112": "Method not found",
            "116": "Bad URL found",
            "201": "Sorry, the Flickr API service is not currently available.",
        }
        html = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
        if fault in failed:
            return 200, _failure(int(fault), failed[fault]), []
        match fault:
            case "html 200":
                return 200, html, []
            case "html 502":
                return 502, html, []
            case "503":
                return 503, b"", ["Retry-After: 20"]
            case "429":
                return 429, b"", ["Retry-After: 7"]
            case "429 long":
                return 429, b"", ["Retry-After: 86400"]
            case "list":
                return 200, b"[1, 2]", []
            case "no photos":
                return 200, b'{"stat": "ok", "photos": {"page": 1}}', []
            case "401":
                return 401, f"oauth_problem=consumer_key_unknown&key={self.key}".encode(), []
            case "403":
                return 403, html, []
            case "redirect":
                return 302, b"", ["Location: http://127.0.0.1:9/elsewhere"]
        refused = self._check_signature(handler, asked)
        if refused is not None:
            return 200, _failure(*refused), []
        if asked["method"] == "flickr.photos.licenses.getInfo":
            listed = [{"id": number, "name": name, "url": url} for number, (name, url) in self.licences.items()]
            return 200, json.dumps({"licenses": {"license": listed}, "stat": "ok"}).encode(), []
        if asked["method"] != "flickr.photos.search":
            return 200, _failure(112, f'Method "{asked["method"]}" not found'), []
        return 200, json.dumps(self._search(asked, fault)).encode(), []

    def _check_signature(self, handler: BaseHTTPRequestHandler, asked: dict[str, str]) -> tuple[int, str] | None:
        """OAuth 1, HMAC-SHA1, as RFC 5849 has it."""
        head = handler.headers.get("Authorization", "")
        given = {
            unquote(name.strip()): unquote(value.strip().strip('"'))
            for name, value in (part.split("=", 1) for part in head.removeprefix("OAuth ").split(",") if "=" in part)
        }
        if given.get("oauth_consumer_key") != self.key:
            return 100, "Invalid API Key (Key has invalid format)"
        signature = given.pop("oauth_signature", "")
        url = f"http://{handler.headers['Host']}{handler.path}"
        values = sorted((quote(k, safe="~"), quote(v, safe="~")) for k, v in {**asked, **given}.items())
        normal = "&".join(f"{name}={value}" for name, value in values)
        base = "&".join(quote(part, safe="~") for part in ("POST", url, normal))
        wanted = hmac.new(f"{self.secret}&".encode(), base.encode(), hashlib.sha1).digest()
        return None if base64.b64decode(signature) == wanted else (96, "Invalid signature")

    def _search(self, asked: dict[str, str], fault: str | None) -> dict[str, Any]:
        if fault == "stutter":
            asked = {**asked, "page": str(int(asked["page"]) - 1)}
        per_page, page = min(int(asked.get("per_page", 100)), 500), max(int(asked.get("page", 1)), 1)
        found = self._matching(asked)
        total = len(found) * (1 + self.overstated)
        if self.drift:
            total *= 1 + self._draw.uniform(-self.drift, self.drift)
        page = min(page, MOST // per_page, max(1, -(-len(found) // per_page)))
        shown = found[(page - 1) * per_page : page * per_page]
        extras = asked.get("extras", "").split(",")
        return {
            "photos": {
                "page": page,
                "pages": -(-int(total) // per_page),
                "perpage": per_page,
                "total": int(total),
                "photo": [_listed(photo, extras) for photo in shown],
            },
            "stat": "ok",
        }

    def _matching(self, asked: dict[str, str]) -> list[Photo]:
        names = ("text", "license", "min_upload_date", "max_upload_date", "sort")
        question = tuple(asked.get(name, "") for name in names)
        if self.vanishing or question not in self._found:
            self._found[question] = self._match(asked)
        return self._found[question]

    def _match(self, asked: dict[str, str]) -> list[Photo]:
        low, high = int(asked.get("min_upload_date", 0)), int(asked.get("max_upload_date", 2**40))
        if self.blurred:
            low, high = low - low % 300, high - high % 300 + 299
        licences = {int(number) for number in asked["license"].split(",")} if asked.get("license") else set(LICENCES)
        found = [
            photo
            for photo in self.photos[bisect_left(self.dates, low) : bisect_right(self.dates, high)]
            if photo.licence in licences and asked["text"] in photo.title and photo.id not in self.gone
        ]
        if self.shuffled:
            return sorted(found, key=lambda photo: (photo.relevance, asked["sort"]))
        if asked.get("sort") == "relevance":
            return sorted(found, key=lambda photo: -photo.relevance)
        return found[::-1]


def _failure(code: int, message: str) -> bytes:
    return json.dumps({"stat": "fail", "code": code, "message": message}).encode()


def _listed(photo: Photo, extras: Sequence[str]) -> dict[str, Any]:
    listed: dict[str, Any] = {
        "id": str(photo.id),
        "owner": f"{photo.id % 997}@N01",
        "secret": "0a1b2c3d4e",
        "server": "65535",
        "farm": 66,
        "title": photo.title,
        "ispublic": 1,
        "isfriend": 0,
        "isfamily": 0,
    }
    more = {
        "license": str(photo.licence),
        "owner_name": f"Owner {photo.id % 997}",
        "date_upload": str(photo.uploaded),
        "media": photo.media,
    }
    answered = {"owner_name": "ownername", "date_upload": "dateupload"}
    for name in extras:
        if name in more:
            listed[answered.get(name, name)] = more[name]
        letter = name.removeprefix("url_")
        if letter != name and letter in SIZES and SIZES[letter] <= photo.largest:
            side = SIZES[letter]
            short = side if letter in ("sq", "q") else side * 3 // 4
            file = f"{photo.id}_0a1b2c3d4e_{letter}.jpg"
            listed[name] = f"https://live.staticflickr.com/65535/{file}"
            listed[f"width_{letter}"], listed[f"height_{letter}"] = side, str(short)
    return listed
