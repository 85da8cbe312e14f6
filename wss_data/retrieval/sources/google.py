"""Google's image search, through icrawler's feeder and parser; off unless it is asked for.

Used of it is which addresses to ask (feeder) and which image addresses an answer holds (parser), without its threads:
on a page that is built by JavaScript its thread dies, and ``crawl()`` comes back as if all were well.
"""

import hashlib
import logging
import os
from collections.abc import Iterator
from functools import cached_property, partial
from queue import Queue
from typing import Annotated, Any

from wss_data.errors import SourceError, SourceUnavailable
from wss_data.reading.addresses import is_web_address
from wss_data.reading.settings import settings
from wss_data.records import Provenance
from wss_data.retrieval.headers import user_agent
from wss_data.retrieval.sources.api import Pace
from wss_data.retrieval.sources.base import Hit, Pages, SourceState, distinct
from wss_data.spec import ClassSpec

ENABLE_VARIABLE = "WSS_GOOGLE"  # set to 1, it turns the source on for every definition that names it
MOST_RESULTS = 1000  # Google repeats itself after so many results of one query
TIMEOUT = (5.0, 20.0)  # seconds to connect and to wait for each read

# (requests, seconds): our own choice, since Google states no limit for programs; it allows none.
PACE = ((1, 5.0), (60, 3600.0))

_THUMBNAILS = ("gstatic.com", "ggpht.com", "googleusercontent.com", "google.com")
_INSTEAD = "Take openverse, wikimedia or flickr instead (docs/how_to/use_google.md)."
_ID_DIGITS = 20


@settings("source 'google'", SourceError)
class GoogleSource:
    """Asks Google's image search, which permits no program to do so and answers few of them.

    Licences and authors are not known of anything it finds.
    """

    enabled: Annotated[bool, f"Whether to ask at all; {ENABLE_VARIABLE}=1 in the environment does the same."] = False

    name = "google"
    local = False

    @cached_property
    def pace(self) -> Pace:
        """When it may be asked."""
        return Pace(PACE)

    @cached_property
    def crawler(self) -> Any:
        """The crawler of icrawler, with its logger left alone, no file storage, and our own name."""
        from icrawler.builtin import GoogleImageCrawler

        class Crawler(GoogleImageCrawler):
            def set_logger(self, log_level: int = 0) -> None:
                # Its own would configure the root logger of the whole program.
                self.logger = logging.getLogger("icrawler.crawler")

            def set_storage(self, storage: object) -> None:
                self.storage = None

        crawler = Crawler()
        crawler.session.trust_env = False
        crawler.session.headers.clear()
        crawler.session.headers.update({"User-Agent": user_agent(), "Accept": "text/html"})
        return crawler

    def state(self) -> SourceState:
        """``off`` with the reasons, or ``ready`` with a warning."""
        said = (
            "Google's terms and its robots.txt forbid programs to search, its pages are built by JavaScript, which "
            "icrawler's parser cannot read, and no licence is known of what is found."
        )
        if self.enabled or os.environ.get(ENABLE_VARIABLE, "").strip() == "1":
            return SourceState("ready", f"Turned on, but expect no results: {said}")
        return SourceState("off", f"{said} To try all the same: options: {{enabled: true}}, or {ENABLE_VARIABLE}=1.")

    def search(self, wanted: ClassSpec, limit: int | None, pages: Pages) -> Iterator[Hit]:
        """Yield image addresses that Google's pages hold, query by query; ``SourceUnavailable`` if none does."""
        if (state := self.state()).state == "off":
            raise SourceUnavailable(f"source 'google' is off. {state.detail}")
        empty: list[_NothingFound] = []
        found = 0
        for found, hit in enumerate(distinct(self._hits(wanted, limit, pages, empty), limit), start=1):  # noqa: B007
            yield hit
        if not found:
            raise empty[-1] if empty else SourceUnavailable(f"Google found nothing for '{wanted.name}'. {_INSTEAD}")

    def _hits(self, wanted: ClassSpec, limit: int | None, pages: Pages, empty: list["_NothingFound"]) -> Iterator[Hit]:
        """The results of each query, page by page until one holds none, which is noted in ``empty``."""
        feeder = self.crawler.feeder
        for query in wanted.queries:
            feeder.out_queue = Queue()
            feeder.feed(keyword=query, offset=0, max_num=min(limit or MOST_RESULTS, MOST_RESULTS))
            for number in range(feeder.out_queue.qsize()):
                ask = partial(self._ask, feeder.out_queue.get_nowait(), query)
                try:
                    urls = pages.answer(f"{query}, page {number}", ask)
                except _NothingFound as error:
                    empty.append(error)
                    break
                for url in urls:
                    # Google gives no identity of its own; the address stands for the image.
                    identity = hashlib.sha256(url.encode()).hexdigest()[:_ID_DIGITS]
                    yield Hit(wanted.name, Provenance(self.name, identity, query=query, image_url=url))

    def _ask(self, address: str, query: str) -> list[str]:
        """The image addresses that one page of results holds."""
        import requests

        with self.pace.turn():
            try:
                response = self.crawler.session.get(address, timeout=TIMEOUT)
            except requests.RequestException as error:
                raise SourceUnavailable(
                    f"Google did not answer when asked for '{query}' ({type(error).__name__}). {_INSTEAD}"
                ) from error
        if response.status_code != 200 or "/sorry/" in response.url:
            raise SourceUnavailable(
                f"Google refused to answer a program that asked for '{query}' (status {response.status_code}). "
                f"Asking more often makes it worse. {_INSTEAD}"
            )
        try:
            # Nothing at all is what the parser returns for a page that it does not understand.
            tasks = self.crawler.parser.parse(response) or []
        except (ValueError, TypeError):
            tasks = []
        found = [url for task in tasks if (url := _clean(task["file_url"])) is not None]
        if not found:
            needs = ", a page that needs JavaScript" if b"<noscript" in response.content else ""
            raise _NothingFound(
                f"Google's answer to '{query}' holds no image address ({len(response.content):,} bytes{needs}). "
                f"icrawler's parser is broken for most users since Google changed its pages. {_INSTEAD}"
            )
        return list(dict.fromkeys(found))


class _NothingFound(SourceUnavailable):
    """A page of results without a result."""


def _clean(text: str) -> str | None:
    """The image address in what the parser took for one, or ``None``: its pattern is greedy to the left."""
    text = text.strip()
    if not is_web_address(text):
        text = text[text.rfind("http") :]
    if not is_web_address(text):
        return None
    host = text.split("/")[2].rpartition("@")[2].partition(":")[0].lower()
    return None if any(host == own or host.endswith(f".{own}") for own in _THUMBNAILS) else text
