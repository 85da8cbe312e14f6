"""Wikimedia Commons: freely licensed images; needs no key, but a way to reach whoever asks."""

import os
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from html.parser import HTMLParser
from typing import Annotated, Any, Literal
from urllib.parse import urlencode, urljoin, urlsplit

from wss_data.errors import SourceError, SourceUnavailable
from wss_data.reading.settings import Rule, settings
from wss_data.records import Provenance
from wss_data.retrieval.headers import CONTACT_VARIABLE
from wss_data.retrieval.sources.api import (
    LONGEST_WAIT,
    Api,
    LongestSide,
    LongestWait,
    Pace,
    PassingFault,
    Service,
    WebService,
    check_endpoint,
)
from wss_data.retrieval.sources.base import Hit, Pages, SourceState
from wss_data.retrieval.sources.licences import short_from_url, spdx_from_url

ENDPOINT = "https://commons.wikimedia.org/w/api.php"  # address of the public service

Licence = Literal["by", "by-sa", "cc0", "pdm", "other", "by-nd", "by-nc", "by-nc-sa", "by-nc-nd"]
OPEN_LICENCES: tuple[Licence, ...] = ("by", "by-sa", "cc0", "pdm", "other")  # those that allow changes and any use

# (requests, seconds): the service allows 200 a minute to a client that names a contact; others may share them.
LIMITS = ((120, 60.0),)
PAGE = 50  # results a request
MAX_OFFSET = 10_000  # the search shows no result after this one
THUMBNAIL_WIDTHS = (20, 40, 60, 120, 250, 330, 500, 960, 1280, 1920, 3840)  # pixels, kept ready; others are refused

_METADATA = ("LicenseShortName", "LicenseUrl", "Artist", "ObjectName", "UsageTerms")

# Codes of errors that pass; those of the kind ``internal_api_error_...`` do, too.
_PASSING = ("maxlag", "ratelimited", "readonly", "cirrussearch-too-busy-error", "cirrussearch-backend-error")

_WAY_OUT = "See docs/how_to/use_wikimedia.md."


@settings("source 'wikimedia'", SourceError)
class WikimediaSource(WebService):
    """Images that the search of Wikimedia Commons finds, asked one request after the other as the service wants it."""

    licences: Annotated[
        tuple[Licence, ...],
        Rule(min_length=1),
        "Licences to take; 'other' is any free licence that is not Creative Commons'.",
    ] = OPEN_LICENCES
    longest_side: LongestSide = 340
    longest_wait: LongestWait = LONGEST_WAIT
    endpoint: Annotated[str, "Address of the service's api.php."] = ENDPOINT

    name = "wikimedia"
    most_a_query = MAX_OFFSET

    def __post_init__(self) -> None:
        check_endpoint(self.name, self.endpoint, ENDPOINT)

    def state(self) -> SourceState:
        """Whether it can be asked."""
        contact = os.environ.get(CONTACT_VARIABLE, "")
        if "@" not in contact and "://" not in contact:
            wanted = f"set {CONTACT_VARIABLE} to your e-mail address or web page. {_WAY_OUT}"
            return SourceState("needs", f"Wikimedia wants to know whom to contact: {wanted}")
        return SourceState("ready", f"10,000 results a query; every request carries your {CONTACT_VARIABLE}.")

    def _results(self, query: str, pages: Pages) -> Iterator[Mapping[str, Any]]:
        place: dict[str, Any] | None = {"gsroffset": 0}
        asked: set[str] = set()
        while place is not None:
            # The width belongs to the question, for the answer holds the thumbnail's address.
            question = urlencode(sorted({"gsrsearch": query, "iiurlwidth": self._width(), **place}.items()))
            offset = place.get("gsroffset", 0)
            if question in asked or (isinstance(offset, int) and offset + PAGE > MAX_OFFSET):
                return  # a service that sends us on in a circle is not followed
            asked.add(question)
            answer = self._api.remembered(pages, question, partial(self._ask, query, place))
            yield from answer["pages"]
            place = answer["continue"]

    def _ask(self, query: str, place: Mapping[str, Any]) -> dict[str, Any]:
        params = {
            "action": "query",
            "format": "json",
            "formatversion": "2",
            "maxlag": "5",
            "generator": "search",
            "gsrnamespace": "6",
            "gsrsearch": f"{query} filetype:bitmap",
            "gsrlimit": PAGE,
            "prop": "imageinfo",
            "iiprop": "url|size|mime|extmetadata",
            "iiurlwidth": self._width(),
            "iiextmetadatafilter": "|".join(_METADATA),
            "iiextmetadatalanguage": "en",
            **place,
        }
        answer = self._api.get_json(self.endpoint, params, _read)
        if answer["error"]:
            said = f"the service refused the search for {query!r} ({answer['error']})"
            raise SourceUnavailable(f"wikimedia: {said}. {_WAY_OUT}")
        return {"pages": answer["pages"], "continue": answer["continue"]}

    def _hit(self, found: Mapping[str, Any], class_name: str, query: str) -> Hit | None:
        url, thumbnail, metadata = found["url"], found["thumburl"], found["metadata"]
        if found["pageid"] is None or url is None or _licence(metadata) not in self.licences:
            return None
        # An original that is small enough is taken as it is, unless no browser could show it (TIFF).
        if thumbnail is not None and (max(found["size"]) > self.longest_side or found["mime"] == "image/tiff"):
            url = thumbnail
        if urlsplit(url).scheme not in ("http", "https"):
            return None
        author, author_url = plain_text(metadata.get("Artist", ""), self.endpoint)
        name = found["title"].removeprefix("File:")
        title = plain_text(metadata.get("ObjectName", ""))[0] or name.rpartition(".")[0] or name or None
        spdx = spdx_from_url(metadata.get("LicenseUrl", ""))
        # "Public domain" alone has no identifier: it says that no licence is needed, not why.
        if spdx is None and metadata.get("LicenseShortName", "").strip().lower() == "cc0":
            spdx = "CC0-1.0"
        provenance = Provenance(
            self.name,
            # Unlike name and SHA-1, the id of its page stays when a file is renamed or a better version is uploaded: an
            # image that somebody asked us to forget does not come back.
            str(found["pageid"]),
            query=query,
            image_url=url,
            page_url=found["page_url"],
            title=title,
            author=author,
            author_url=author_url,
            license=spdx,
            license_url=metadata.get("LicenseUrl") or None,
        )
        return Hit(class_name, provenance)

    def _width(self) -> int:
        return next((width for width in THUMBNAIL_WIDTHS if width >= self.longest_side), THUMBNAIL_WIDTHS[-1])

    @cached_property
    def _api(self) -> Api:
        service = Service(self.name, _WAY_OUT, longest_wait=self.longest_wait)
        return Api(service, Pace(LIMITS, self.clock))


def plain_text(html: str, base: str = "") -> tuple[str | None, str | None]:
    """The text of a piece of HTML and the first web address it links to, each ``None`` if there is none.

    >>> plain_text('<a href="/wiki/User:Ann">Ann</a> &amp; Bea', base="https://commons.wikimedia.org/")
    ('Ann & Bea', 'https://commons.wikimedia.org/wiki/User:Ann')
    """
    reader = _TextReader()
    reader.feed(html)
    reader.close()
    link = urljoin(base, reader.link) if reader.link else ""
    return " ".join("".join(reader.texts).split()) or None, link if link.startswith(("http://", "https://")) else None


class _TextReader(HTMLParser):
    """Collects text and the first link; what a reader of the page would not see is left out.

    Not Beautiful Soup: it lets references to control characters through (``&#27;``), and loses text behind a ``<``.
    """

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[str] = []
        self.link: str | None = None
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "style"):
            self._hidden += 1
        elif tag in ("br", "p", "li", "div", "td", "tr"):
            self.texts.append(" ")
        elif tag == "a" and self.link is None:
            self.link = dict(attrs).get("href")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style") and self._hidden:
            self._hidden -= 1

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.texts.append(data)


def _kept(page: Mapping[str, Any]) -> dict[str, Any]:
    """What is remembered of a result."""
    info = page["imageinfo"][0]
    metadata = info.get("extmetadata")
    values = {
        name: str(metadata[name].get("value", ""))
        for name in (_METADATA if isinstance(metadata, Mapping) else ())
        if isinstance(metadata.get(name), Mapping)
    }
    index = page.get("index")
    return {
        "pageid": page.get("pageid"),
        "title": str(page.get("title", "")),
        "index": index if isinstance(index, int) else 0,
        "url": info.get("url"),
        "thumburl": info.get("thumburl"),
        "page_url": info.get("descriptionurl"),
        "size": [int(info.get("width") or 0), int(info.get("height") or 0)],
        "mime": info.get("mime"),
        "metadata": values,
    }


def _licence(metadata: Mapping[str, str]) -> str | None:
    """Short code of a file's licence; ``other`` where it is none of Creative Commons, ``None`` where none is given."""
    if code := short_from_url(metadata.get("LicenseUrl", "")):
        return code
    name = metadata.get("LicenseShortName") or metadata.get("UsageTerms") or ""
    words = name.lower().replace("-", " ").split()
    if not words:
        return None
    if words[0] in ("cc0", "pdm") or words[:2] == ["public", "domain"]:
        return "cc0" if words[0] == "cc0" else "pdm"
    if words[0] == "cc" and len(words) > 1:
        return "-".join(word for word in words[1:] if word in ("by", "sa", "nd", "nc")) or "other"
    return "other"


def _read(answer: dict[str, Any]) -> dict[str, Any]:
    """``pages`` of an answer, where it ``continue``s, and the ``error`` it reports, unless that may pass."""
    error = answer.get("error")
    code = str(error.get("code")) if isinstance(error, Mapping) else ""
    if code in _PASSING or code.startswith("internal_api_error"):
        raise PassingFault(f"error {code}")
    said = ""
    # Where the offset is refused, the search ends earlier than that of Commons; what was found so far is good.
    if isinstance(error, Mapping) and "offset" not in code:
        said = " ".join(f"{code}: {error.get('info')}".split())[:200]
    found = (answer.get("query") or {}).get("pages") or []
    kept = [_kept(page) for page in found if isinstance(page, Mapping) and page.get("imageinfo")]
    further = answer.get("continue") if not code else None
    return {
        "pages": sorted(kept, key=lambda page: page["index"]),
        "continue": dict(further) if isinstance(further, Mapping) else None,
        "error": said,
    }
