"""Openverse as its own source code describes it: page sizes, depth, throttles, tokens; on a virtual clock."""

import math
import random
import uuid
from collections.abc import Mapping
from typing import Any

from fake_service import FakeService, Reply, Window
from virtual_clock import VirtualClock

LICENCES = {"by", "by-sa", "by-nd", "by-nc", "by-nc-sa", "by-nc-nd", "cc0", "pdm", "sampling+", "nc-sampling+"}
CHOICES = {
    "license": LICENCES,
    "source": {"flickr", "wikimedia", "smk", "met", "nasa"},
    "excluded_source": {"flickr", "wikimedia", "smk", "met", "nasa"},
    "size": {"small", "medium", "large"},
    "aspect_ratio": {"tall", "wide", "square"},
    "category": {"photograph", "illustration", "digitized_artwork"},
    "extension": {"jpg", "png", "gif", "svg"},
}
PARAMETERS = {"q", "page", "page_size", "mature", "filter_dead", *CHOICES}
DEPTH = 240
NOT_THE_QUESTION = {"mature", "page_size"}


def make_items(number: int, seed: int = 0) -> list[dict[str, Any]]:
    """Images with the mix that the service has: most of them Flickr's, large, wide."""
    dice = random.Random(seed)
    items = []
    for position in range(number):
        licence = dice.choices(["by", "by-sa", "cc0", "pdm", "by-nc-nd"], [40, 25, 15, 10, 10])[0]
        source = dice.choices(["flickr", "smk", "met", "nasa", "wikimedia"], [70, 10, 10, 5, 5])[0]
        version = "1.0" if licence in ("cc0", "pdm") else dice.choice(["2.0", "4.0"])
        where = {"cc0": "publicdomain/zero/1.0", "pdm": "publicdomain/mark/1.0"}.get(
            licence, f"licenses/{licence}/{version}"
        )
        url = f"https://live.staticflickr.com/65535/{50_000 + position}_{position:010x}_b.jpg"
        items.append(
            {
                "id": str(uuid.UUID(int=dice.getrandbits(128), version=4)),
                "indexed_on": "2020-01-01T00:00:00Z",
                "title": f"Cow no. {position}",
                "foreign_landing_url": f"https://{source}.example/{position}",
                "url": url if source == "flickr" else f"https://{source}.example/{position}.jpg",
                "creator": f"Author {position % 97}",
                "creator_url": f"https://{source}.example/authors/{position % 97}",
                "license": licence,
                "license_version": version,
                "license_url": f"https://creativecommons.org/{where}/",
                "source": source,
                "provider": source,
                "category": dice.choice(["photograph", None]),
                "thumbnail": "https://api.openverse.org/v1/images/x/thumb/",
                "width": 1024,
                "height": 683,
                "mature": position % 211 == 7,
                "tags": [{"name": "cow", "accuracy": None}],
                "size": dice.choices(["large", "medium", "small", None], [50, 30, 20, 0.3])[0],
                "aspect_ratio": dice.choices(["wide", "tall", "square", None], [50, 30, 20, 0.3])[0],
                "words": {"cow"},
            }
        )
    return items


class FakeOpenverse(FakeService):
    """Openverse with some images.

    Args:
        items: What it holds, best first.
        clock: The clock that the client has, too.
        client: (id, secret) of the one registered key.
        verified: Whether the key's owner answered the e-mail; otherwise it has the limits of those without one.
        token_seconds: How long a token lasts.
        drift: Whether the number of results is reported a little differently each time, and pages overlap.
        a_day: Requests a day of those without a key.
    """

    def __init__(
        self,
        items: list[dict[str, Any]],
        clock: VirtualClock,
        client: tuple[str, str] | None = None,
        verified: bool = True,
        token_seconds: int = 12 * 3600,
        drift: bool = False,
        a_day: int = 200,
        **others: Any,
    ) -> None:
        super().__init__(clock, **others)
        self.items = items
        self.client = client
        self.verified = verified
        self.token_seconds = token_seconds
        self.drift = drift
        self.tokens: dict[str, float] = {}
        self.tokens_given = 0
        self.largest_page = {"anonymous": 20, "registered": 50}
        self._windows = {
            "anon": [Window(20, 60), Window(a_day, 86_400)],
            "oauth2_client_credentials": [Window(100, 60), Window(10_000, 86_400)],
        }

    def reply(self, path: str, query: dict[str, str], form: dict[str, str], headers: Mapping[str, str]) -> Reply:
        who = headers.get("Authorization")
        if who is not None and self.tokens.get(who.removeprefix("Bearer "), 0.0) <= self.clock.monotonic():
            return Reply(401, {"detail": "Authentication credentials were not provided."})
        scope = "oauth2_client_credentials" if who is not None and self.verified else "anon"
        refused = self.admit(self._windows[scope], self.requests)
        limits = {}
        for kind, window in zip(("burst", "sustained"), self._windows[scope], strict=True):
            period = {60: "min", 86_400: "day"}[int(window.seconds)]
            limits[f"X-RateLimit-Limit-{scope}_{kind}"] = f"{window.requests}/{period}"
            limits[f"X-RateLimit-Available-{scope}_{kind}"] = str(window.left(self.clock.monotonic()))
        limits["X-RateLimit-Limit-anon_thumbnail"] = "1/min"
        limits["X-RateLimit-Available-anon_thumbnail"] = "0"
        reply = refused or self.faults.pop(self.requests, None)
        if reply is None:
            if path == "/v1/auth_tokens/token/":
                reply = self._token(form)
            elif path == "/v1/images/":
                reply = self._images(query, who is not None)
            else:
                reply = Reply(404, {"detail": "Not found."})
        reply.headers = {**limits, **reply.headers}
        return reply

    def _token(self, form: dict[str, str]) -> Reply:
        given = (form.get("client_id"), form.get("client_secret"))
        if form.get("grant_type") != "client_credentials" or given != self.client:
            # Servers do echo what they were sent.
            return Reply(401, {"error": "invalid_client", "error_description": f"{form}"})
        self.tokens_given += 1
        token = f"token-canary-{self.tokens_given}"
        self.tokens[token] = self.clock.monotonic() + self.token_seconds
        return Reply(
            200, {"access_token": token, "token_type": "Bearer", "expires_in": self.token_seconds, "scope": "read"}
        )

    def _images(self, query: dict[str, str], registered: bool) -> Reply:
        page, size = int(query.get("page", 1)), int(query.get("page_size", 20))
        too_much = 400 if registered else 401
        wrong = [name for name in query if name not in PARAMETERS]
        wrong += [name for name, known in CHOICES.items() if name in query and set(query[name].split(",")) - known]
        if wrong or not query.get("q") or {"source", "excluded_source"} <= set(query):
            self.violations.append(f"a request that makes no sense: {query}")
            return Reply(400, {"detail": {name: ["Invalid."] for name in wrong}})
        if size > self.largest_page["registered" if registered else "anonymous"]:
            return Reply(too_much, {"detail": f"Ensure this value is less than or equal to {size - 1}."})
        if page * size > DEPTH:
            return Reply(too_much, {"detail": "The requested page is too deep."})
        found = [item for item in self.items if self._matches(item, query)]
        total = len(found) + (self.requests % 5 - 2 if self.drift and len(found) > 5 else 0)
        count = min(total, DEPTH)
        results = found[(page - 1) * size : page * size]
        if self.drift and page > 1 and self.requests % 3 == 0:
            # Somebody's new image came first in the meantime: the last of the page before is seen again.
            results = found[(page - 1) * size - 1 : (page - 1) * size] + results
        self.answered.append("&".join(f"{k}={v}" for k, v in sorted(query.items()) if k not in NOT_THE_QUESTION))
        return Reply(
            200,
            {
                "result_count": count,
                "page_count": math.ceil(count / size),
                "page_size": size,
                "page": page,
                "results": [
                    {k: v for k, v in r.items() if k not in ("size", "aspect_ratio", "words")} for r in results
                ],
            },
        )

    @staticmethod
    def _matches(item: dict[str, Any], query: dict[str, str]) -> bool:
        if query["q"] not in item["words"] or (item["mature"] and query.get("mature") != "true"):
            return False
        if "excluded_source" in query and item["source"] in query["excluded_source"].split(","):
            return False
        return all(
            item[name] in query[name].split(",")
            for name in ("license", "source", "size", "aspect_ratio", "category")
            if name in query
        )
