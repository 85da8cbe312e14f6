"""Flickr: flickrapi signs the requests, ``api`` makes them, the pager is ours (``flickr_pager``).

The key travels in a signed header. flickrapi and the libraries below it log that header: while one of them signs, their
loggers are mute.
"""

import json
import logging
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from wss_data.errors import SourceError, SourceUnavailable, shown
from wss_data.reading.settings import Rule, settings
from wss_data.records import Provenance
from wss_data.retrieval.clock import Clock
from wss_data.retrieval.sources.api import Api, LongestSide, Pace, PassingFault, Service
from wss_data.retrieval.sources.base import Hit, Pages, SourceState, distinct
from wss_data.retrieval.sources.flickr_pager import PER_PAGE, Walk
from wss_data.retrieval.sources.licences import FLICKR_LICENCES, spdx_from_url
from wss_data.runtime.files import expanded
from wss_data.spec import ClassSpec

LOG = logging.getLogger(__name__)

ENDPOINT = "https://api.flickr.com/services/rest/"

DEFAULT_LICENCES = (4, 5, 7, 8, 9, 10, 11, 12)  # Flickr's ids of the licences that allow derivatives and reuse

# Requests in so many seconds. Flickr permits 3,600 an hour for all that use the key; a little is left to others.
RATES = ((10, 10.0), (3500, 3600.0))
# Seconds: codes 105 and 201 are what a key gets that asked for too much, so patience grows quickly.
PAUSES = (2.0, 8.0, 32.0, 128.0, 300.0)
LONGEST_WAIT = 3600.0  # seconds: a full hour's limit is waited for

# Letter of each size -> its longest side in pixels. Squares (sq, q) are crops; originals (o) are never asked for.
_SIZES = {"t": 100, "s": 240, "n": 320, "m": 500, "z": 640, "c": 800, "l": 1024}
_EXTRAS = ",".join(["license", "owner_name", "date_upload", "media", *(f"url_{letter}" for letter in _SIZES)])

_KEY_REFUSED = {96, 97, 98, 99, 100}  # invalid or missing signature, login failed, no permission, invalid key
_PASSING = {0, 10, 105, 106, 201}  # "service currently unavailable" and the like, above all when too much was asked

_WAY_OUT = "How to get a valid one: docs/how_to/get_a_flickr_key.md. Without a key, use the source openverse."

_LOGGERS = {"flickrapi", "oauthlib", "requests_oauthlib"}


@settings("source 'flickr'", SourceError)
class FlickrSource:
    """Searches Flickr by text, best matches first as far as they reach."""

    longest_side: LongestSide = 340
    licences: Annotated[
        Annotated[tuple[int, ...], Rule(min_length=1)] | Literal["any"],
        "Flickr's licence ids to accept, or any (docs/how_to/get_a_flickr_key.md lists them); by "
        "default those that allow derivatives and reuse.",
    ] = DEFAULT_LICENCES
    endpoint: Annotated[str, "Address of the service, for tests: api.flickr.com or this machine."] = ENDPOINT

    name = "flickr"
    local = False
    clock: ClassVar[Clock] = time

    def __post_init__(self) -> None:
        parts = urlsplit(self.endpoint)
        here = parts.scheme in ("http", "https") and parts.hostname in ("127.0.0.1", "::1", "localhost")
        if not here and (parts.scheme, parts.netloc) != ("https", "api.flickr.com"):
            # A definition may come from anybody; it must not send the key elsewhere.
            raise SourceError(
                f"source 'flickr': endpoint is {shown(self.endpoint)}; the key is sent to {ENDPOINT} only."
            )

    def state(self) -> SourceState:
        """Whether there is a key; Flickr is not asked whether it is valid."""
        found = _find_key()
        if isinstance(found, str):
            return SourceState("needs", found)
        return SourceState("ready", f"Key found in {found.where}. Flickr permits 3,600 queries an hour.")

    def search(self, wanted: ClassSpec, limit: int | None, pages: Pages) -> Iterator[Hit]:
        """Yield at most ``limit`` photos: the 4,000 most relevant, then windows of upload dates, newest first.

        Raises:
            SourceUnavailable: If there is no key, Flickr refuses it, or Flickr does not answer.
            SourceError: If Flickr does not know a licence that was asked for.
        """
        return distinct(self._hits(wanted, limit is None, pages), limit)

    def _hits(self, wanted: ClassSpec, everything: bool, pages: Pages) -> Iterator[Hit | None]:
        accepted = self._accepted(pages)
        now = pages.answer("flickr: now", lambda: int(self.clock.time()))
        seen: set[str] = set()
        for query in wanted.queries:
            ask = partial(self._page, pages, query)
            for photo in Walk(ask, sorted(accepted), now, seen).photos(everything):
                licence, owner, site = photo["licence"], photo["owner"], "https://www.flickr.com"
                if licence not in accepted:
                    self._warn(f"Flickr answered photos under licence {licence}, which was not asked for; left out.")
                    continue
                if photo["url"] is None:
                    continue
                spdx, license_url = accepted[licence]
                provenance = Provenance(
                    self.name,
                    photo["id"],
                    query=query,
                    image_url=photo["url"],
                    page_url=f"{site}/photos/{owner}/{photo['id']}" if owner else None,
                    title=photo["title"] or None,
                    author=photo["owner_name"] or None,
                    author_url=f"{site}/people/{owner}/" if owner else None,
                    license=spdx,
                    license_url=license_url,
                )
                yield Hit(wanted.name, provenance)

    def _accepted(self, pages: Pages) -> dict[int, tuple[str | None, str | None]]:
        """Licence id -> (SPDX identifier, address) of the licences to ask for, as Flickr lists them now."""
        method = "flickr.photos.licenses.getInfo"

        def read(value: Any) -> list[list[Any]]:
            found = value["licenses"]["license"]
            return [[int(one["id"]), str(one.get("name") or ""), str(one.get("url") or "")] for one in found]

        answer = pages.answer(method, lambda: self._ask(method, {}, read))
        listed = {number: (name, url) for number, name, url in answer}
        known: dict[int, tuple[str | None, str | None]] = {}
        for number, (name, url) in listed.items():
            spdx, text, _ = FLICKR_LICENCES.get(number, (None, "", ""))
            live = spdx_from_url(url)
            if number not in FLICKR_LICENCES:
                self._warn(f"Flickr has a licence that is not known here: {number}, '{name}' ({url}).")
            elif live is not None and live != spdx:
                self._warn(f"Flickr's licence {number} was {spdx} and now is '{name}' ({url}); left out by default.")
            if self.licences != DEFAULT_LICENCES or (number in FLICKR_LICENCES and live in (None, spdx)):
                known[number] = (live or spdx, url or text or None)
        if self.licences == "any":
            return known
        if self.licences != DEFAULT_LICENCES and not set(self.licences) <= set(known):
            wrong = ", ".join(str(number) for number in self.licences if number not in known)
            names = ", ".join(f"{number} {name}" for number, (name, _) in sorted(listed.items()))
            raise SourceError(f"source 'flickr': licences has {wrong}, unknown to Flickr. It knows: {names}.")
        accepted = {number: known[number] for number in self.licences if number in known}
        if not accepted:
            raise SourceUnavailable(
                f"Flickr lists none of the licences {', '.join(map(str, self.licences))} any more. Name those to "
                "accept with the option 'licences' of the source flickr."
            )
        return accepted

    def _page(self, pages: Pages, query: str, page: int, **given: Any) -> dict[str, Any]:
        """One page of results: ``total`` and ``photos``, as ``_read_photo`` makes them."""
        # Photographs, no screenshots or drawings: content_types is today's name, content_type the former.
        kind = {"media": "photos", "content_types": "0", "content_type": 1, "safe_search": 1}
        params = {"text": query, "page": page, "per_page": PER_PAGE, **kind, "extras": _EXTRAS, **given}
        question = f"flickr.photos.search {json.dumps(params, sort_keys=True)} for {self.longest_side} px"
        read = partial(_read_page, longest_side=self.longest_side)
        return pages.answer(question, lambda: self._ask("flickr.photos.search", params, read))

    def _ask(self, method: str, params: Mapping[str, Any], read: Callable[[Any], Any]) -> Any:
        """What ``read`` makes of Flickr's answer."""

        def checked(value: dict[str, Any]) -> tuple[str, Any]:
            if value["stat"] == "ok":
                return "", read(value)
            code, said = value["code"], f"code {value['code']}: {value['message']}"
            for secret in (self._key.key, self._key.secret):
                said = said.replace(secret, "***")  # should Flickr have repeated it
            said = " ".join(said.split())[:200]
            if code in _PASSING:
                raise PassingFault(said)
            if code in _KEY_REFUSED:
                return f"Flickr refused the key in {self._key.where} (code {code}). {_WAY_OUT}", None
            return f"Flickr refused the request {method} ({said}).", None

        form = {"method": method, "format": "json", "nojsoncallback": 1, **params}
        refusal, found = self._api.post_json(self.endpoint, form, checked)
        if refusal:
            raise SourceUnavailable(refusal)
        return found

    @cached_property
    def _key(self) -> "_Key":
        found = _find_key()
        if isinstance(found, str):
            # Raised here, where no variable holds what was read: some logs show the variables of an error's frames.
            raise SourceUnavailable(found)
        return found

    @cached_property
    def _api(self) -> Api:
        from flickrapi import FlickrAPI

        with _MUTE.speaking():
            oauth = FlickrAPI(self._key.key, self._key.secret, store_token=False, cache=False).flickr_oauth.oauth

        def sign(request: Any) -> Any:
            """As the ``auth`` of requests; all that flickrapi is used for."""
            with _MUTE.speaking():
                return oauth(request)

        service = Service(self.name, _WAY_OUT, PAUSES, (5.0, 30.0), LONGEST_WAIT)
        return Api(service, Pace(RATES, self.clock), sign=sign)

    @cached_property
    def _warn(self) -> Callable[[str], None]:
        return cache(LOG.warning)  # each text once


@dataclass(frozen=True)
class _Key:
    """A key, and in words where it was found."""

    key: str = field(repr=False)
    secret: str = field(repr=False)
    where: str


def _find_key() -> _Key | str:
    """The key, or the sentence that says why there is none."""
    names = ("FLICKR_API_KEY", "FLICKR_API_SECRET", "FLICKR_KEY_FILE")
    key, secret, file = (os.environ.get(name, "").strip() for name in names)
    where = names[0]
    if not key and file:
        path, where = expanded(file), f"the file {file} (FLICKR_KEY_FILE)"
        try:
            mode = path.stat().st_mode
            value = json.loads(path.read_bytes())
            key, secret = value["key"].strip(), value["secret"].strip()
        except OSError as error:
            return f"{path}: the file in FLICKR_KEY_FILE cannot be read ({error.strerror})."
        except (ValueError, TypeError, KeyError, AttributeError):
            return f'{path}: wanted {{"key": "...", "secret": "..."}} as JSON. {_WAY_OUT}'
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            said = f"open to every user of this machine (mode {stat.S_IMODE(mode):o}). Close it: chmod 600 {path}"
            return f"{path}: the file in FLICKR_KEY_FILE is {said}"
    if not key:
        return f"Flickr needs a key: FLICKR_API_KEY is not set, nor is FLICKR_KEY_FILE. {_WAY_OUT}"
    if not secret:
        return f"Flickr needs the secret of the key in {where} too (FLICKR_API_SECRET). {_WAY_OUT}"
    if not all(re.fullmatch(r"[A-Za-z0-9_-]{8,128}", part) for part in (key, secret)):
        return f"{where} and its secret hold no key: 32 and 16 letters and digits are usual. {_WAY_OUT}"
    return _Key(key, secret, where)


class _Mute(logging.Filter):
    """Drops what libraries log in this thread while it speaks to Flickr: the key, and what is signed with it."""

    _here = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(self._here, "speaking", False)

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Drop records while the block runs."""
        for name in list(logging.root.manager.loggerDict):
            if name.split(".")[0] in _LOGGERS:
                # Asked of each logger: a filter does not hold for those below it. Added once however often.
                logging.getLogger(name).addFilter(self)
        self._here.speaking = True
        try:
            yield
        finally:
            self._here.speaking = False


_MUTE = _Mute()


def _read_page(value: Any, longest_side: int) -> dict[str, Any]:
    """``total`` and ``photos`` of one page of results."""
    page = value["photos"]
    photos = [photo for item in page["photo"] if (photo := _read_photo(item, longest_side)) is not None]
    if page["photo"] and not photos:
        raise ValueError("none of the photos has an id")
    return {"total": int(page["total"]), "photos": photos}


def _read_photo(photo: Any, longest_side: int) -> dict[str, Any] | None:
    """What is kept of one search result, as plain values; ``None`` for nonsense.

    ``url``: of the smallest size that is large enough, or else of the largest; ``None`` for a film or without any size.
    """
    if not isinstance(photo, dict) or not re.fullmatch(r"\d{1,20}", str(photo.get("id"))):
        return None
    owner = str(photo.get("owner"))
    sizes = {}
    for letter, usual in _SIZES.items() if photo.get("media", "photo") == "photo" else ():
        url = photo.get(f"url_{letter}")
        if isinstance(url, str) and url.startswith(("http://", "https://")):
            sizes[max(_number(photo.get(f"{side}_{letter}"), 0) for side in ("width", "height")) or usual] = url
    smallest = min((side for side in sizes if side >= longest_side), default=max(sizes, default=0))
    return {
        "id": str(photo["id"]),
        "url": sizes.get(smallest),
        "title": _text(photo.get("title")),
        "owner": owner if re.fullmatch(r"[\w@-]{1,64}", owner) and photo.get("owner") else "",
        "owner_name": _text(photo.get("ownername")),
        "licence": _number(photo.get("license"), -1),
        "uploaded": _number(photo.get("dateupload"), 0),
    }


def _text(value: Any) -> str:
    """``value`` as text that every database takes: JSON can hold halves of characters."""
    return str(value or "").encode("utf-8", "replace").decode().replace("\0", "").strip()


def _number(value: Any, otherwise: int) -> int:
    """``value``, which Flickr gives as text here and as a number there."""
    return int(value) if re.fullmatch(r"\d{1,12}", str(value)) else otherwise
