"""Goes through all that Flickr has for one query, which is more than it gives to one question.

Flickr gives at most the first 4,000 results and then repeats them, so a large query is cut into windows of upload
dates. Each window is read newest first for seven full pages, and the next one ends where it stopped: no request is
spent on finding out how wide a window may be. Where the answers are not in that order, windows are halved instead; five
minutes, below which Flickr does not tell dates apart, are split by licence.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

LOG = logging.getLogger(__name__)

PER_PAGE = 500
# Pages of one query before Flickr repeats itself: 4,000 results, as flickr.photos.search.html of its API says.
MOST_PAGES = 8
WINDOW_PAGES = 7  # pages read of one window of dates: one less than there should be, as a margin
# Narrowest window in seconds: Flickr answers to five seconds what it answers to five minutes.
FIVE_MINUTES = 300  # https://github.com/WordPress/openverse-catalog/pull/1047
FIRST_UPLOAD = 1_075_593_600  # 1 February 2004; Flickr opened on the 10th
# Fraction of the reported total that counts as all: totals count photos that are not shown, and are off by hundreds.
ENOUGH = 0.9  # https://github.com/WordPress/openverse-catalog/pull/1031


@dataclass
class Run:
    """What some pages of one query brought."""

    ids: set[str] = field(default_factory=set)  # the photos, those seen before included
    total: int = 0  # what Flickr says there are
    ended: bool = False  # whether there is nothing after them, as far as that can be seen
    oldest: int = 2**62  # earliest upload date, in seconds since 1970; 0 if one was missing
    newest_first: bool = True  # whether they came in that order, as far as Flickr tells dates apart

    @property
    def is_all(self) -> bool:
        """Whether it came to its end, and not by a page that was repeated for the next."""
        return self.ended and len(self.ids) >= ENOUGH * self.total


class Walk:
    """Goes through all results of one query.

    ``ask`` gives a page, by its number and further parameters; ``now`` is the latest upload date, in seconds since 1970
    and the same for the whole search; ``seen`` holds the ids that were given already, and grows.
    """

    def __init__(self, ask: Callable[..., dict[str, Any]], licences: Sequence[int], now: int, seen: set[str]) -> None:
        self._ask, self._licences, self._now, self._seen = ask, tuple(licences), now, seen

    def photos(self, everything: bool) -> Iterator[dict[str, Any]]:
        """The photos, the most relevant ones first unless everything is wanted and there is too much for that."""
        if not self._licences:
            return
        run = Run()
        for fresh in self._run(run, MOST_PAGES, sort="relevance", license=_listed(self._licences)):
            yield from fresh
            if everything and run.total > WINDOW_PAGES * PER_PAGE:
                break
        if not run.is_all:
            # What is sorted by relevance moves while it is read: some comes twice, some never.
            yield from self._window(FIRST_UPLOAD, self._now, self._licences)

    def _window(self, low: int, high: int, licences: tuple[int, ...]) -> Iterator[dict[str, Any]]:
        """The photos uploaded from ``low`` to ``high`` (seconds since 1970), both included, newest first."""
        while low <= high:
            run = Run()
            asked = {"min_upload_date": low, "max_upload_date": high, "license": _listed(licences)}
            for fresh in self._run(run, WINDOW_PAGES, sort="date-posted-desc", **asked):
                yield from fresh
            if run.is_all:
                return
            cut = max(low, min(run.oldest, high))
            if not run.newest_first and high - low >= FIVE_MINUTES:
                # Where it stopped says nothing then (https://github.com/dajobe/flickcurl/issues/38).
                if not run.ended:
                    middle = (low + high) // 2
                    yield from self._window(middle + 1, high, licences)
                    yield from self._window(low, middle, licences)
                return
            if high - cut >= FIVE_MINUTES:
                high = cut
                continue
            start = max(low, high - FIVE_MINUTES + 1)
            if not run.ended and len(licences) > 1:
                for licence in licences:
                    yield from self._window(start, high, (licence,))
            elif not run.ended:
                LOG.warning("Flickr has more than %d photos of five minutes; some are left out.", len(run.ids))
            high = start - 1

    def _run(self, run: Run, most: int, **given: Any) -> Iterator[list[dict[str, Any]]]:
        """Read up to ``most`` pages into ``run``; yields the photos of each that are new."""
        previous = 2**62
        for page in range(1, most + 1):
            answer = self._ask(page=page, **given)
            photos = answer["photos"]
            if run.ids.issuperset(photo["id"] for photo in photos):
                # None, or repeats: the end, whatever the total says.
                run.ended = True
                return
            run.ids.update(photo["id"] for photo in photos)
            run.total = answer["total"]
            # A page may be short because photos were hidden; a full one may be followed by more than was counted.
            run.ended = page * PER_PAGE >= run.total and len(photos) < PER_PAGE
            for photo in photos:
                run.newest_first &= 0 < photo["uploaded"] <= previous + FIVE_MINUTES
                previous = photo["uploaded"]
                run.oldest = min(run.oldest, previous)
            fresh = {photo["id"]: photo for photo in photos if photo["id"] not in self._seen}
            self._seen.update(fresh)
            yield list(fresh.values())
            if run.ended:
                return


def _listed(licences: Sequence[int]) -> str:
    return ",".join(str(licence) for licence in licences)
