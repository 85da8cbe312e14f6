"""The threads and processes that search, download and decode for ``retrieve``: they report, and decide nothing."""

import queue
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from wss_data.retrieval.clock import Clock
from wss_data.retrieval.journal import Entry, Journal, Status
from wss_data.retrieval.sources.base import Hit, Source
from wss_data.spec import ClassSpec, DownloadSpec

if TYPE_CHECKING:
    from wss_data.retrieval.decode_pool import Decoded, DecodePool
    from wss_data.retrieval.fetch import Fetched, Fetcher

PAGE = 64
"""Search results are reported in batches of this many."""


@dataclass
class Job:
    """One search result on its way.

    Args:
        hit: The search result.
        position: Its place in its search.
        host: Who is asked for its bytes; empty where nobody is.
        attempt: How often that was done.
        spent_s: Seconds that it took so far, waiting between attempts apart.
        fetched: Its bytes, once they are there.
    """

    hit: Hit
    position: int
    host: str
    attempt: int = 0
    spent_s: float = 0.0
    fetched: "Fetched | None" = None

    @property
    def key(self) -> tuple[str, str]:
        """What identifies the search result within its class."""
        return self.hit.provenance.source, self.hit.provenance.source_id

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return len(self.fetched.data) if self.fetched else 0

    def ended(self, status: Status, reason: str | None = None, detail: str | None = None) -> Entry:
        """What became of it."""
        at = self.hit.provenance
        return Entry(
            self.hit.class_name,
            at.source,
            at.source_id,
            status,
            at.image_url,
            reason,
            detail,
            position=self.position,
            provenance=at,
        )


@dataclass(frozen=True)
class Found:
    """A source listed results, each with its place."""

    hits: list[tuple[int, Hit]]


@dataclass(frozen=True)
class Searched:
    """A source has no more results, or failed."""

    source: Source
    error: BaseException | None


@dataclass(frozen=True)
class Downloaded:
    """A download ended with bytes, or failed."""

    job: Job
    outcome: "Fetched | BaseException"


@dataclass(frozen=True)
class Written:
    """A picture was decoded and written, or could not be."""

    job: Job
    outcome: "Decoded | BaseException"


Event = Found | Searched | Downloaded | Written


class Workshop:
    """Starts threads and processes when they are first needed, and stops them at the end of the block.

    Args:
        download: How pictures are downloaded.
        workers: Processes that decode; ``None`` for one a processor.
        clock: Where the time comes from.
    """

    def __init__(self, download: DownloadSpec, workers: int | None, clock: Clock = time) -> None:
        self.clock = clock
        self._download, self._workers = download, workers
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._orders: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads = 0
        self._fetcher: Fetcher | None = None
        self._pool: DecodePool | None = None
        self._stopped = threading.Event()
        self.avoided: Mapping[str, str] = {}
        """Hosts that no redirect is followed to -> why; may grow meanwhile."""

    def __enter__(self) -> "Workshop":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        for _thread in range(self._threads):
            self._orders.put(None)
        if self._fetcher is not None:
            self._fetcher.close()
        if self._pool is not None:
            self._pool.close(wait=kind is None)

    def wait(self, seconds: float | None) -> list[Event]:
        """Everything that happened since; waits for the first of it, at most so long (``None``: for ever)."""
        try:
            events = [self._events.get(timeout=seconds)]
        except queue.Empty:
            return []
        while True:
            try:
                events.append(self._events.get_nowait())
            except queue.Empty:
                return events

    def search(self, source: Source, wanted: ClassSpec, limit: int | None, journal: Journal) -> None:
        """Search in a thread of its own; reports ``Found`` again and again, then ``Searched``."""
        # A daemon, as all threads here: an interrupt must not wait for a server that says nothing.
        order = (source, wanted, limit, journal)
        threading.Thread(target=self._search, args=order, name=f"search {source.name}", daemon=True).start()

    def _search(self, source: Source, wanted: ClassSpec, limit: int | None, journal: Journal) -> None:
        pages = journal.pages(wanted.name, source.name)
        error: BaseException | None = None
        batch: list[tuple[int, Hit]] = []
        try:
            for position, hit in enumerate(source.search(wanted, limit, pages)):
                batch.append((position, hit))
                if self._stopped.is_set():
                    return
                if len(batch) == PAGE:
                    self._events.put(Found(batch))
                    batch = []
        except BaseException as raised:
            error = raised
        finally:
            pages.close()
        self._events.put(Found(batch))
        self._events.put(Searched(source, error))

    def fetch(self, job: Job) -> None:
        """Bring the bytes of a picture from the web; reports ``Downloaded``."""
        if self._fetcher is None:
            self._fetcher = self._start_downloads()
        self._orders.put(job)

    def _start_downloads(self) -> "Fetcher":
        from wss_data.retrieval.fetch import Fetcher, FetchSettings

        settings = FetchSettings(
            # A server that says nothing leaves time for the other attempts.
            read_s=self._download.deadline_s / self._download.attempts,
            deadline_s=self._download.deadline_s,
            max_bytes=self._download.max_megabytes << 20,
            respect_robots=self._download.respect_robots,
            respect_opt_outs=self._download.respect_opt_outs,
            allow_hosts=self._download.allow_hosts,
            connections=self._download.connections,
        )
        fetcher = Fetcher(settings, self.clock)
        fetcher.avoided = self.avoided
        self._threads = self._download.connections
        for number in range(self._threads):
            threading.Thread(target=self._fetch, args=(fetcher,), name=f"download {number}", daemon=True).start()
        return fetcher

    def _fetch(self, fetcher: "Fetcher") -> None:
        while (job := self._orders.get()) is not None:
            start = self.clock.monotonic()
            left_s = self._download.deadline_s - job.spent_s
            try:
                outcome: Fetched | BaseException = fetcher.fetch(job.hit.provenance.image_url or "", left_s)
            except BaseException as raised:
                outcome = raised
            job.spent_s += self.clock.monotonic() - start
            self._events.put(Downloaded(job, outcome))

    def crawl_delay(self, url: str) -> float:
        """Seconds that the host of ``url`` wants between two requests."""
        return (self._fetcher.crawl_delay(url) if self._fetcher else None) or 0.0

    def decode(self, job: Job, folder: Path, longest_side: int) -> None:
        """Decode, shrink and write a picture; reports ``Written``."""
        if self._pool is None:
            from wss_data.retrieval.decode_pool import DecodePool

            self._pool = DecodePool(self._workers)
        data = job.fetched.data if job.fetched else job.hit.read
        assert data is not None
        future = self._pool.decode(data, job.hit.provenance.source_id, folder, longest_side)
        future.add_done_callback(lambda done: self._events.put(Written(job, _outcome(done))))


def _outcome(done: "Future[Decoded]") -> "Decoded | BaseException":
    return done.exception() or done.result()
