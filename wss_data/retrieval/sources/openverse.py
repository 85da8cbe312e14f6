"""Openverse: a search engine for openly licensed images of Flickr, museums and many others; works without a key."""

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Annotated, Any, Literal
from urllib.parse import urlencode, urlsplit

from wss_data.errors import SourceError, SourceUnavailable
from wss_data.reading.settings import Rule, settings
from wss_data.records import Provenance
from wss_data.retrieval.sources.api import (
    LONGEST_WAIT,
    Api,
    LongestSide,
    LongestWait,
    Pace,
    Refused,
    Service,
    WebService,
    check_endpoint,
)
from wss_data.retrieval.sources.base import Hit, Pages, SourceState
from wss_data.retrieval.sources.licences import spdx_from_short, spdx_from_url

ENDPOINT = "https://api.openverse.org"  # address of the public service

# Environment variables of the key; without both of them the service is asked without a key.
ID_VARIABLE = "OPENVERSE_CLIENT_ID"
SECRET_VARIABLE = "OPENVERSE_CLIENT_SECRET"

Licence = Literal["by", "by-sa", "by-nd", "by-nc", "by-nc-sa", "by-nc-nd", "cc0", "pdm"]
OPEN_LICENCES: tuple[Licence, ...] = ("by", "by-sa", "cc0", "pdm")  # those that allow changes and any use

# (requests, seconds), as a start; the service says its real limits with every answer.
ANONYMOUS_LIMITS = ((20, 60.0), (200, 86_400.0))
REGISTERED_LIMITS = ((100, 60.0), (10_000, 86_400.0))

# Results a page. With a key 50 are allowed, but the service gives 240 results a query, and 48 divides 240.
ANONYMOUS_PAGE = 20
REGISTERED_PAGE = 48

# What is remembered of a result.
_KEPT = ("id", "url", "foreign_landing_url", "title", "creator", "creator_url", "mature")
_KEPT_OF_LICENCE = ("license", "license_version", "license_url")

# Suffixes of Flickr's addresses and their longest sides that share one secret, smallest first.
_FLICKR_SIZES = (("", 500), ("_z", 640), ("_c", 800), ("_b", 1024))

_FLICKR_URL = re.compile(
    r"(?P<stem>https://(?:live|farm\d+)\.staticflickr\.com/(?:\d+/){1,2}\d+_[0-9a-f]+)(?P<size>|_z|_c|_b)\.jpg"
)

_WAY_OUT = "See docs/how_to/use_openverse.md."


@settings("source 'openverse'", SourceError)
class OpenverseSource(WebService):
    """Images that Openverse finds.

    Its terms forbid to scrape the catalogue and it shows the first 240 results of a query only. So a query is asked as
    it is unless ``slices`` says otherwise.
    """

    licences: Annotated[
        tuple[Licence, ...], Rule(min_length=1), "Licences to ask for; by default those that allow changes and any use."
    ] = OPEN_LICENCES
    sources: Annotated[
        tuple[str, ...], "Collections to search, such as flickr; empty for all but excluded_sources."
    ] = ()
    excluded_sources: Annotated[
        tuple[str, ...],
        "Collections left out; Wikimedia Commons has a source of its own.",
    ] = ("wikimedia",)
    slices: Annotated[
        bool, "Ask a query with more results than are shown again for each licence, collection and shape."
    ] = False
    category: Annotated[str | None, "photograph, illustration or digitized_artwork; by default any, or none."] = None
    extension: Annotated[str | None, "File extension such as jpg; by default any."] = None
    longest_side: LongestSide = 340
    page_size: Annotated[
        Annotated[int, Rule(ge=1)] | None,
        "Results a page; by default what the service allows.",
    ] = None
    longest_wait: LongestWait = LONGEST_WAIT
    endpoint: Annotated[
        str,
        "Address of the service; any other than the public one is asked without the key.",
    ] = ENDPOINT

    name = "openverse"
    most_a_query = 240

    def __post_init__(self) -> None:
        check_endpoint(self.name, self.endpoint, ENDPOINT)

    def state(self) -> SourceState:
        """Whether it can be asked."""
        has_id, has_secret = bool(os.environ.get(ID_VARIABLE)), bool(os.environ.get(SECRET_VARIABLE))
        if has_id != has_secret:
            missing = SECRET_VARIABLE if has_id else ID_VARIABLE
            return SourceState("needs", f"{missing} is not set although its partner is. Set both, or none. {_WAY_OUT}")
        if has_id and not self._is_trusted():
            return SourceState("ready", f"Asked without the key, which is for {ENDPOINT} only.")
        if has_id:
            return SourceState("ready", "With a key: about 100 requests a minute, 10,000 a day, 240 results a query.")
        limits = "Without a key: about 20 requests a minute, 200 a day, 240 results a query."
        more = f"With a free key in {ID_VARIABLE} and {SECRET_VARIABLE}: 10,000 a day. {_WAY_OUT}"
        return SourceState("ready", f"{limits} {more}")

    def _results(self, query: str, pages: Pages) -> Iterator[Mapping[str, Any]]:
        plain = {"q": query, "license": ",".join(self.licences)}
        plain |= {key: value for key in ("category", "extension") if (value := getattr(self, key)) is not None}
        if self.sources:
            plain["source"] = ",".join(self.sources)
        elif self.excluded_sources:
            plain["excluded_source"] = ",".join(self.excluded_sources)
        yield from self._read(plain, self._dimensions() if self.slices else [], pages, plain=True)

    def _read(
        self, asked: dict[str, str], cuts: Sequence[Sequence[dict[str, str]]], pages: Pages, plain: bool = False
    ) -> Iterator[Mapping[str, Any]]:
        """Results of a query, then, where it hides some, of the parts into which the first of ``cuts`` cuts it."""
        answer = self._page(asked, 1, pages)
        is_cut = bool(cuts) and _hides_results(answer)
        yield from answer["results"]
        # The plain query's results fit best; of a part that is cut again the other pages come again in its parts.
        number, last = 1, answer["pages"] if plain or not is_cut else 1
        while number < last and not answer["refused"]:
            number += 1
            answer = self._page(asked, number, pages)
            yield from answer["results"]
            # The count drifts while one reads; the largest seen decides, and a page too far costs one request.
            last = max(last, answer["pages"])
        for value in cuts[0] if is_cut else ():
            part = {name: text for name, text in asked.items() if not (name == "excluded_source" and "source" in value)}
            yield from self._read(part | value, cuts[1:], pages)

    def _dimensions(self) -> list[list[dict[str, str]]]:
        """Ways to cut a query, each into parts that leave out as little as possible."""
        # Flickr holds most of the images; the rest is one part, for that costs one request instead of fifty.
        rest = ",".join(dict.fromkeys((*self.excluded_sources, "flickr")))
        collections: list[dict[str, str]] = [{"source": name} for name in self.sources]
        if not collections and "flickr" not in self.excluded_sources:
            collections = [{"source": "flickr"}, {"excluded_source": rest}]
        cuts = [
            [{"license": str(code)} for code in self.licences],
            collections,
            [{"size": size} for size in ("large", "medium", "small")],
            [{"aspect_ratio": shape} for shape in ("wide", "tall", "square")],
        ]
        return [cut for cut in cuts if len(cut) > 1]

    def _page(self, asked: Mapping[str, str], number: int, pages: Pages) -> dict[str, Any]:
        """One page of results: ``results``, ``pages``, ``page_size`` and ``count``; ``refused`` past the last page."""
        # The size belongs to the question: pages of another size, asked before a key was set, would leave gaps.
        place = {"page": str(number), "page_size": str(self._client.page_size)}
        question = urlencode(sorted({**asked, **place}.items()))
        answer = self._client.api.remembered(pages, question, partial(self._ask, asked, number))
        self._client.page_size = min(self._client.page_size, answer["page_size"])
        return answer

    def _ask(self, asked: Mapping[str, str], number: int) -> dict[str, Any]:
        url = f"{self.endpoint.rstrip('/')}/v1/images/"
        while True:
            size = self._client.page_size
            params = {**asked, "mature": "false", "page_size": size, "page": number}
            try:
                answer = self._client.api.get_json(url, params)
            except Refused as error:
                # Without a key, 401 is how this service says that one asked for too much.
                if error.status not in (400, 404) and (error.status != 401 or self._has_key()):
                    raise
                if number > 1:
                    return {"results": [], "pages": 0, "page_size": size, "count": 0, "refused": True}
                if size <= ANONYMOUS_PAGE:
                    raise
                self._client.page_size = ANONYMOUS_PAGE
                continue
            found = [result for result in answer.get("results") or () if isinstance(result, Mapping)]
            kept = [{name: result.get(name) for name in (*_KEPT, *_KEPT_OF_LICENCE)} for result in found]
            last, count = _whole(answer.get("page_count")), _whole(answer.get("result_count"))
            return {"results": kept, "pages": last, "page_size": size, "count": count, "refused": False}

    def _hit(self, found: Mapping[str, Any], class_name: str, query: str) -> Hit | None:
        known = {key: text.strip() for key, text in found.items() if isinstance(text, str) and text.strip()}
        url, code, licence_url = known.get("url", ""), known.get("license"), known.get("license_url")
        if "id" not in known or code not in self.licences or found.get("mature"):
            return None
        if urlsplit(url).scheme not in ("http", "https"):
            return None
        spdx = spdx_from_url(licence_url) if licence_url else spdx_from_short(code, known.get("license_version"))
        provenance = Provenance(
            self.name,
            known["id"],
            query=query,
            image_url=fitting_url(url, self.longest_side),
            page_url=known.get("foreign_landing_url"),
            title=known.get("title"),
            author=known.get("creator"),
            author_url=known.get("creator_url"),
            license=spdx,
            license_url=licence_url,
        )
        return Hit(class_name, provenance)

    def _is_trusted(self) -> bool:
        # A definition may come from anybody; it must not send the key elsewhere.
        here = urlsplit(self.endpoint).hostname in ("127.0.0.1", "::1", "localhost")
        return here or self.endpoint.rstrip("/") == ENDPOINT

    def _has_key(self) -> bool:
        return self._is_trusted() and bool(os.environ.get(ID_VARIABLE) and os.environ.get(SECRET_VARIABLE))

    @cached_property
    def _client(self) -> "_Client":
        return _Client(self, self._has_key())


class _Client:
    """What changes while the service is asked: the size of a page, and the token."""

    def __init__(self, source: OpenverseSource, has_key: bool) -> None:
        self.page_size = source.page_size or (REGISTERED_PAGE if has_key else ANONYMOUS_PAGE)
        self._url = f"{source.endpoint.rstrip('/')}/v1/auth_tokens/token/"
        self._clock = source.clock
        self._token: tuple[str, float] | None = None
        pace = Pace(REGISTERED_LIMITS if has_key else ANONYMOUS_LIMITS, source.clock)
        service = Service(source.name, _WAY_OUT, longest_wait=source.longest_wait)
        self.api = Api(service, pace, self._authorize if has_key else None)

    def _authorize(self, fresh: bool) -> dict[str, str]:
        """The header with the token; a token is asked for when there is none, it ends soon, or ``fresh`` is wanted."""
        if fresh or self._token is None or self._clock.monotonic() >= self._token[1]:
            key = {"client_id": os.environ[ID_VARIABLE], "client_secret": os.environ[SECRET_VARIABLE]}
            try:
                answer = self.api.post_json(self._url, {"grant_type": "client_credentials", **key})
            except Refused as error:
                raise SourceUnavailable(
                    f"openverse: the key in {ID_VARIABLE} and {SECRET_VARIABLE} was refused (HTTP {error.status}). "
                    f"Correct it, or unset both to ask without a key. {_WAY_OUT}"
                ) from None
            token = answer.get("access_token")
            if not isinstance(token, str) or not token.strip():
                raise SourceUnavailable(f"openverse: the service gave no access token for the key. {_WAY_OUT}")
            # A minute less than it lasts, so that it does not end on the way.
            self._token = (token.strip(), self._clock.monotonic() + max(0, _whole(answer.get("expires_in")) - 60))
        return {"Authorization": f"Bearer {self._token[0]}"}


def fitting_url(url: str, longest_side: int) -> str:
    """Address of the smallest served size of an image whose longest side has the pixels needed.

    Only Flickr's addresses name their size (https://www.flickr.com/services/api/misc.urls.html). Its originals, its
    sizes above 1,024 px, each of which has a secret of its own, and any other address are returned as they are.

    >>> fitting_url("https://live.staticflickr.com/7372/125_acfd_b.jpg", 340)
    'https://live.staticflickr.com/7372/125_acfd.jpg'
    """
    found = _FLICKR_URL.fullmatch(url)
    if found is None:
        return url
    pixels = dict(_FLICKR_SIZES)[found["size"]]
    suffix = next((suffix for suffix, side in _FLICKR_SIZES if longest_side <= side <= pixels), found["size"])
    return f"{found['stem']}{suffix}.jpg"


def _hides_results(first: Mapping[str, Any]) -> bool:
    """Whether a query has, or may have, more results than the service shows. ``first``: its first page."""
    shown = first["pages"] * first["page_size"]
    # The count is cut at what is shown, so "as many as are shown" can mean "more". Few results are never cut.
    return first["count"] >= shown and shown >= 12 * ANONYMOUS_PAGE and len(first["results"]) > 0


def _whole(value: Any) -> int:
    return int(value) if isinstance(value, (int, float)) and math.isfinite(value) else 0
