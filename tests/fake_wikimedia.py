"""The search of Wikimedia Commons as MediaWiki answers it: continuation, lag, limits; on a virtual clock."""

import random
import re
from collections.abc import Mapping
from typing import Any

from fake_service import FakeService, Reply, Window
from virtual_clock import VirtualClock

WIDTHS = (20, 40, 60, 120, 250, 330, 500, 960, 1280, 1920, 3840)
CONTACT = re.compile(r"\S+/\S+ \(.*(?:@|https?://).*\)")

LICENCES = [
    ("CC BY-SA 4.0", "https://creativecommons.org/licenses/by-sa/4.0"),
    ("CC BY 2.0", "https://creativecommons.org/licenses/by/2.0"),
    ("CC0", "http://creativecommons.org/publicdomain/zero/1.0/deed.en"),
    ("Public domain", ""),
    ("GFDL", "http://www.gnu.org/copyleft/fdl.html"),
]


def make_items(number: int, seed: int = 0) -> list[dict[str, Any]]:
    """Files of Commons, best first."""
    dice = random.Random(seed)
    numbers = dice.sample(range(1000, 100_000_000), number)
    items = []
    for position, page_id in enumerate(numbers):
        name, url = dice.choice(LICENCES)
        items.append(
            {
                "pageid": page_id,
                "title": f"File:Cow no. {position}.jpg",
                "width": 4000,
                "height": 3000,
                "mime": "image/jpeg",
                "sha1": f"{dice.getrandbits(160):040x}",
                "LicenseShortName": name,
                "LicenseUrl": url,
                "Artist": f'<a href="//commons.wikimedia.org/wiki/User:A{position}">Ann &amp; B. {position}</a>',
                "ObjectName": f"<b>Cow</b> no. {position}",
                "words": {"cow"},
            }
        )
    return items


class FakeWikimedia(FakeService):
    """Wikimedia Commons with some files.

    Args:
        items: What it holds, best first.
        clock: The clock that the client has, too.
        max_offset: The search shows no result after this one.
        halves: Whether every third page of results gives the details of its second half in a further answer.
        overlap: Whether pages overlap now and then.
        a_minute: Requests a minute.
    """

    def __init__(
        self,
        items: list[dict[str, Any]],
        clock: VirtualClock,
        max_offset: int = 10_000,
        halves: bool = False,
        overlap: bool = False,
        a_minute: int = 200,
        **others: Any,
    ) -> None:
        super().__init__(clock, **others)
        self.items = items
        self.max_offset = max_offset
        self.halves = halves
        self.overlap = overlap
        self._windows = [Window(a_minute, 60)]

    def reply(self, path: str, query: dict[str, str], form: dict[str, str], headers: Mapping[str, str]) -> Reply:
        if not CONTACT.fullmatch(headers.get("User-Agent", "")):
            self.violations.append(f"user agent without a contact: {headers.get('User-Agent')!r}")
            return Reply(403, b"<html>Please set a user-agent and respect our robot policy</html>")
        refused = self.admit(self._windows, self.requests)
        fault = self.faults.pop(self.requests, None)
        if refused or fault:
            return refused or fault
        if path != "/w/api.php":
            return Reply(404, b"<html>no such page</html>")
        return self._query(query)

    def _query(self, query: dict[str, str]) -> Reply:
        wanted = {"action": "query", "format": "json", "formatversion": "2", "generator": "search", "gsrnamespace": "6"}
        if any(query.get(name) != value for name, value in wanted.items()) or "maxlag" not in query:
            self.violations.append(f"a request that makes no sense: {query}")
            return _error("badvalue", "Unrecognized value.")
        if int(query["iiurlwidth"]) not in WIDTHS or not {"url", "size", "extmetadata"} <= set(
            query["iiprop"].split("|")
        ):
            self.violations.append(f"thumbnails of no standard width: {query}")
        offset, size = int(query.get("gsroffset", 0)), int(query["gsrlimit"])
        if size > 50:
            self.violations.append(f"gsrlimit {size}")
        if offset + size > self.max_offset:
            return _error("cirrussearch-offset-too-large", "Could not retrieve results.")
        words, kind = query["gsrsearch"].rsplit(" ", 1)
        if kind != "filetype:bitmap":
            self.violations.append(f"search without filetype: {query['gsrsearch']}")
        found = [item for item in self.items if words in item["words"]]
        batch = list(enumerate(found))[offset : offset + size]
        if self.overlap and offset and self.requests % 4 == 0:
            batch = [(offset - 1, found[offset - 1]), *batch]
        second_half = "iicontinue" in query
        split = self.halves and offset // size % 3 == 2
        pages = []
        for place, (index, item) in enumerate(batch):
            page = {"pageid": item["pageid"], "ns": 6, "title": item["title"], "index": index + 1}
            late = place >= len(batch) // 2
            if not split or late == second_half:
                page |= self._details(item, int(query["iiurlwidth"]))
            pages.append(page)
        answer: dict[str, Any] = {"query": {"pages": sorted(pages, key=lambda page: page["pageid"])}}
        if split and not second_half:
            answer["continue"] = {"iicontinue": "Half|2020", "continue": "gsroffset||"}
            if offset:
                answer["continue"]["gsroffset"] = offset
        elif offset + size < len(found):
            answer["batchcomplete"] = True
            answer["continue"] = {"gsroffset": offset + size, "continue": "gsroffset||"}
        else:
            answer["batchcomplete"] = True
        if not batch:
            del answer["query"]
        self.answered.append(f"{words} {offset} {query.get('iicontinue', '')}")
        return Reply(200, answer)

    @staticmethod
    def _details(item: dict[str, Any], width: int) -> dict[str, Any]:
        name = item["title"].removeprefix("File:").replace(" ", "_")
        metadata = {
            key: {"value": item[key], "source": "commons-desc-page"}
            for key in ("LicenseShortName", "LicenseUrl", "Artist", "ObjectName", "UsageTerms")
            if item.get(key)
        }
        info = {
            "url": f"https://upload.wikimedia.org/wikipedia/commons/a/ab/{name}",
            "thumburl": f"https://thumb.wikimedia.org/wikipedia/commons/thumb/a/ab/{name}/{width}px-{name}",
            "thumbwidth": width,
            "descriptionurl": f"https://commons.wikimedia.org/wiki/File:{name}",
            "extmetadata": metadata,
            **{key: item[key] for key in ("width", "height", "mime", "sha1")},
        }
        if item.get("missing"):
            info = {"filemissing": True}
        return {"imagerepository": "local", "imageinfo": [info]}


def _error(code: str, info: str, headers: dict[str, str] | None = None) -> Reply:
    return Reply(200, {"error": {"code": code, "info": info, "docref": "See ..."}}, headers or {})


def lagged(seconds: float = 5.0) -> Reply:
    """What the service says when its copies lag behind: an error inside an HTTP 200."""
    reply = _error("maxlag", f"Waiting for 10.0.0.1: {seconds} seconds lagged", {"Retry-After": "5"})
    reply.body["error"]["lag"] = seconds
    return reply
