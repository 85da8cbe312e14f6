"""Openverse: a search engine for openly licensed pictures of Flickr, museums and many others; works without a key."""

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlencode, urlsplit

from wss_data.errors import SourceError, SourceUnavailable, shown
from wss_data.records import Provenance
from wss_data.retrieval.clock import Clock, SystemClock
from wss_data.retrieval.fetch import user_agent
from wss_data.retrieval.sources.api import LONGEST_WAIT, Api, Pace, Refused
from wss_data.retrieval.sources.base import Hit, Pages, SourceState, distinct
from wss_data.retrieval.sources.licences import spdx_from_short, spdx_from_url
from wss_data.spec import ClassSpec

ENDPOINT = "https://api.openverse.org"
"""Address of the public service."""

ID_VARIABLE = "OPENVERSE_CLIENT_ID"
SECRET_VARIABLE = "OPENVERSE_CLIENT_SECRET"
"""Environment variables of the key; without both of them the service is asked without a key."""

LICENCES = ("by", "by-sa", "by-nd", "by-nc", "by-nc-sa", "by-nc-nd", "cc0", "pdm")
"""Licences that can be asked for."""

OPEN_LICENCES = ("by", "by-sa", "cc0", "pdm")
"""Those that allow changes and any use."""

ANONYMOUS_LIMITS = ((20, 60.0), (200, 86_400.0))
REGISTERED_LIMITS = ((100, 60.0), (10_000, 86_400.0))
"""(requests, seconds), as a start; the service tells its real limits with every answer."""

ANONYMOUS_PAGE = 20
REGISTERED_PAGE = 48
"""Results a page. With a key 50 are allowed, but the service gives 240 results a query, and 48 divides 240."""

_KEPT = (
    *("id", "url", "foreign_landing_url", "title", "creator", "creator_url"),
    *("license", "license_version", "license_url", "mature"),
)
"""What is remembered of a result."""

_FLICKR_SIZES = (("", 500), ("_z", 640), ("_c", 800), ("_b", 1024))
"""Suffixes of Flickr's addresses and their longest sides that share one secret, smallest first."""

_FLICKR_URL = re.compile(
    r"(?P<stem>https://(?:live|farm\d+)\.staticflickr\.com/(?:\d+/){1,2}\d+_[0-9a-f]+)(?P<size>|_z|_c|_b)\.jpg"
)

_WAY_OUT = "See docs/how_to/use_openverse.md."


class OpenverseSource:
    """Pictures that Openverse finds.

    Its terms forbid to scrape the catalogue and it shows the first 240 results
    of a query only. So a query is asked as it is unless ``slices`` says
    otherwise.

    Args:
        licences: Short codes of the licences to ask for; by default those that allow changes and any use.
        sources: Collections to search, such as ``flickr``; by default all but ``excluded_sources``.
        excluded_sources: Collections left out; by default Wikimedia Commons, for which there is a source of its own.
        slices: Whether to ask a query that has more results than are shown once more for each licence, collection,
            size and shape.
        category: ``photograph``, ``illustration`` or ``digitized_artwork``; by default any, the many without one
            included.
        extension: File extension such as ``jpg``; by default any.
        longest_side: Pixels that are needed; of Flickr's pictures the smallest size that has them is taken.
        page_size: Results a page; by default what the service allows.
        longest_wait: Seconds to wait for a limit before the source is left for now.
        endpoint: Address of the service; any other than the public one is asked without the key.

    Raises:
        SourceError: If an option makes no sense.
    """

    name = "openverse"
    local = False

    def __init__(
        self,
        licences: Sequence[str] = OPEN_LICENCES,
        sources: Sequence[str] | None = None,
        excluded_sources: Sequence[str] = ("wikimedia",),
        slices: bool = False,
        category: str | None = None,
        extension: str | None = None,
        longest_side: int = 340,
        page_size: int | None = None,
        longest_wait: float = LONGEST_WAIT,
        endpoint: str = ENDPOINT,
    ) -> None:
        if _is_no_list(licences) or not licences or not set(licences) <= set(LICENCES):
            raise SourceError(_wrong("licences", licences, f"a list of some of: {', '.join(LICENCES)}"))
        for option, names in (("sources", sources), ("excluded_sources", excluded_sources)):
            if names is not None and (_is_no_list(names) or not all(isinstance(name, str) for name in names)):
                raise SourceError(_wrong(option, names, "a list of names such as [flickr, met]"))
        for option, number in (("longest_side", longest_side), ("page_size", page_size)):
            if number is not None and (type(number) is not int or number < 1):
                raise SourceError(_wrong(option, number, "a whole number, at least 1"))
        if type(slices) is not bool:
            raise SourceError(_wrong("slices", slices, "true or false"))
        if type(longest_wait) not in (int, float) or longest_wait < 0:
            raise SourceError(_wrong("longest_wait", longest_wait, "seconds, at least 0"))
        parts = urlsplit(str(endpoint))
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SourceError(_wrong("endpoint", endpoint, f"an address such as {ENDPOINT}"))
        self.clock: Clock = SystemClock()
        self._licences = tuple(licences)
        self._sources = tuple(sources or ())
        self._excluded = tuple(excluded_sources)
        self._slices = slices
        self._filters = {
            name: value for name, value in (("category", category), ("extension", extension)) if value is not None
        }
        self._longest_side = longest_side
        self._page_size = page_size
        self._longest_wait = longest_wait
        self._endpoint = str(endpoint).rstrip("/")
        # A definition may come from anybody; it must not send the key elsewhere.
        self._is_trusted = self._endpoint == ENDPOINT or parts.hostname in ("127.0.0.1", "::1", "localhost")
        self._api: Api | None = None
        self._token: tuple[str, float] | None = None

    def state(self) -> SourceState:
        """Whether it can be asked."""
        has_id, has_secret = bool(os.environ.get(ID_VARIABLE)), bool(os.environ.get(SECRET_VARIABLE))
        if has_id != has_secret:
            missing = SECRET_VARIABLE if has_id else ID_VARIABLE
            return SourceState("needs", f"{missing} is not set although its partner is. Set both, or none. {_WAY_OUT}")
        if has_id and not self._is_trusted:
            return SourceState("ready", f"Asked without the key, which is for {ENDPOINT} only.")
        if has_id:
            return SourceState("ready", "With a key: about 100 requests a minute, 10,000 a day, 240 results a query.")
        return SourceState(
            "ready",
            "Without a key: about 20 requests a minute, 200 a day, 240 results a query. With a free key in "
            f"{ID_VARIABLE} and {SECRET_VARIABLE}: 10,000 a day. {_WAY_OUT}",
        )

    def search(self, wanted: ClassSpec, limit: int | None, pages: Pages) -> Iterator[Hit]:
        """Yield at most ``limit`` hits for one class, none twice.

        Raises:
            SourceUnavailable: If half a key is set, the key is refused, the limit of the day is used up, or the service
                does not answer.
        """
        state = self.state()
        if state.state != "ready":
            raise SourceUnavailable(f"openverse: {state.detail}")
        results = ((query, result) for query in wanted.queries for result in self._results(query, pages))
        yield from distinct((self._hit(result, wanted.name, query) for query, result in results), limit)

    def _results(self, query: str, pages: Pages) -> Iterator[Mapping[str, Any]]:
        """Results of one query: the plain query first, whose results fit best, then its slices."""
        plain = {"q": query, **self._filters, "license": ",".join(self._licences)}
        if self._sources:
            plain["source"] = ",".join(self._sources)
        elif self._excluded:
            plain["excluded_source"] = ",".join(self._excluded)
        first = self._page(plain, 1, pages)
        yield from self._all_pages(plain, first, pages)
        if self._slices and _hides_results(first):
            yield from self._sliced(plain, self._dimensions(), pages)

    def _sliced(
        self, asked: dict[str, str], dimensions: Sequence[Sequence[dict[str, str]]], pages: Pages
    ) -> Iterator[Mapping[str, Any]]:
        """Results of a query asked once for each value of the first dimension, and further where that still hides some.

        Of a slice that is cut again only the first page is read: its results come again in its parts.
        """
        for value in dimensions[0]:
            part = {name: text for name, text in asked.items() if not (name == "excluded_source" and "source" in value)}
            part |= value
            first = self._page(part, 1, pages)
            if _hides_results(first) and len(dimensions) > 1:
                yield from first["results"]
                yield from self._sliced(part, dimensions[1:], pages)
            else:
                yield from self._all_pages(part, first, pages)

    def _dimensions(self) -> list[list[dict[str, str]]]:
        """Ways to cut a query, each into parts that leave out as little as possible."""
        # Flickr holds most of the pictures; the rest is one part, for that costs one request instead of fifty.
        rest = ",".join(dict.fromkeys((*self._excluded, "flickr")))
        collections = [{"source": name} for name in self._sources]
        if not collections and "flickr" not in self._excluded:
            collections = [{"source": "flickr"}, {"excluded_source": rest}]
        cuts = [
            [{"license": code} for code in self._licences],
            collections,
            [{"size": size} for size in ("large", "medium", "small")],
            [{"aspect_ratio": shape} for shape in ("wide", "tall", "square")],
        ]
        return [cut for cut in cuts if len(cut) > 1]

    def _all_pages(
        self, asked: Mapping[str, str], first: Mapping[str, Any], pages: Pages
    ) -> Iterator[Mapping[str, Any]]:
        answer, number, last = first, 1, first["pages"]
        while True:
            yield from answer["results"]
            if number >= last:
                return
            number += 1
            answer = self._page(asked, number, pages)
            if answer["refused"]:
                return
            # The count drifts while one reads; the largest seen decides, and a page too far costs one request.
            last = max(last, answer["pages"])

    def _page(self, asked: Mapping[str, str], number: int, pages: Pages) -> dict[str, Any]:
        """One page of results: ``results``, ``pages``, ``page_size`` and ``count``; ``refused`` past the last page."""
        # The size belongs to the question: pages of another size, asked before a key was set, would leave gaps.
        place = {"page": str(number), "page_size": str(self._size())}
        question = urlencode(sorted({**asked, **place}.items()))
        answer = self._the_api().remembered(pages, question, partial(self._ask, asked, number))
        self._page_size = min(self._size(), answer["page_size"])
        return answer

    def _ask(self, asked: Mapping[str, str], number: int) -> dict[str, Any]:
        api = self._the_api()
        url = f"{self._endpoint}/v1/images/"
        while True:
            size = self._size()
            params = {**asked, "mature": "false", "page_size": size, "page": number}
            try:
                answer = api.get_json(url, params)
            except Refused as error:
                # Without a key, 401 is how this service says that one asked for too much.
                if error.status not in (400, 404) and (error.status != 401 or self._has_key()):
                    raise
                if number > 1:
                    return {"results": [], "pages": 0, "page_size": size, "count": 0, "refused": True}
                if size <= ANONYMOUS_PAGE:
                    raise
                self._page_size = ANONYMOUS_PAGE
                continue
            found = answer.get("results")
            kept = [{name: result.get(name) for name in _KEPT} for result in found or () if isinstance(result, Mapping)]
            return {
                "results": kept,
                "pages": _whole(answer.get("page_count")),
                "page_size": size,
                "count": _whole(answer.get("result_count")),
                "refused": False,
            }

    def _hit(self, result: Mapping[str, Any], class_name: str, query: str) -> Hit | None:
        identity, url, code = (_text(result.get(name)) for name in ("id", "url", "license"))
        if identity is None or url is None or code not in self._licences or result.get("mature"):
            return None
        if urlsplit(url).scheme not in ("http", "https"):
            return None
        licence_url = _text(result.get("license_url"))
        licence = (
            spdx_from_url(licence_url) if licence_url else spdx_from_short(code, _text(result.get("license_version")))
        )
        return Hit(
            class_name,
            Provenance(
                source=self.name,
                source_id=identity,
                query=query,
                image_url=fitting_url(url, self._longest_side),
                page_url=_text(result.get("foreign_landing_url")),
                title=_text(result.get("title")),
                author=_text(result.get("creator")),
                author_url=_text(result.get("creator_url")),
                license=licence,
                license_url=licence_url,
            ),
        )

    def _has_key(self) -> bool:
        return self._is_trusted and bool(os.environ.get(ID_VARIABLE) and os.environ.get(SECRET_VARIABLE))

    def _size(self) -> int:
        return self._page_size or (REGISTERED_PAGE if self._has_key() else ANONYMOUS_PAGE)

    def _the_api(self) -> Api:
        if self._api is None:
            limits = REGISTERED_LIMITS if self._has_key() else ANONYMOUS_LIMITS
            self._api = Api(
                self.name,
                user_agent(),
                Pace(limits, self.clock),
                self.clock,
                longest_wait=self._longest_wait,
                authorize=self._authorize if self._has_key() else None,
                way_out=_WAY_OUT,
            )
        return self._api

    def _authorize(self, fresh: bool) -> dict[str, str]:
        """The header with the token; a token is asked for when there is none, it ends soon, or ``fresh`` is wanted."""
        if fresh or self._token is None or self.clock.monotonic() >= self._token[1]:
            form = {
                "grant_type": "client_credentials",
                "client_id": os.environ[ID_VARIABLE],
                "client_secret": os.environ[SECRET_VARIABLE],
            }
            try:
                answer = self._the_api().post_json(f"{self._endpoint}/v1/auth_tokens/token/", form)
            except Refused as error:
                raise SourceUnavailable(
                    f"openverse: the key in {ID_VARIABLE} and {SECRET_VARIABLE} was refused (HTTP {error.status}). "
                    f"Correct it, or unset both to ask without a key. {_WAY_OUT}"
                ) from None
            token = _text(answer.get("access_token"))
            if token is None:
                raise SourceUnavailable(f"openverse: the service gave no access token for the key. {_WAY_OUT}")
            # A minute less than it lasts, so that it does not end on the way.
            self._token = (token, self.clock.monotonic() + max(0, _whole(answer.get("expires_in")) - 60))
        return {"Authorization": f"Bearer {self._token[0]}"}


def fitting_url(url: str, longest_side: int) -> str:
    """The smallest served size of a picture that has the pixels needed.

    Only Flickr's addresses name their size in a documented way; any other
    address is returned as it is. So are Flickr's originals and its sizes above
    1,024 px, each of which has a secret of its own.

    Args:
        url: Address of the picture.
        longest_side: Pixels needed on the longest side.

    Source:
        https://www.flickr.com/services/api/misc.urls.html.
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


def _is_no_list(value: Any) -> bool:
    return isinstance(value, str) or not isinstance(value, Sequence)


def _wrong(option: str, value: Any, wanted: str) -> str:
    return f"source 'openverse': {option} is {shown(value)}, wanted {wanted}."


def _text(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _whole(value: Any) -> int:
    return int(value) if isinstance(value, (int, float)) and math.isfinite(value) else 0
