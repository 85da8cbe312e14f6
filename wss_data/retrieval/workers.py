"""The threads and processes that search, download and decode for ``retrieve``: they report, and decide nothing."""

import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from wss_data.retrieval.clock import Clock
from wss_data.retrieval.decode_pool import Decoded, DecodePool
from wss_data.retrieval.fetch import Fetched, Fetcher
from wss_data.retrieval.journal import JournalPages
from wss_data.retrieval.sources.base import Hit, Source
from wss_data.spec import ClassSpec, DownloadSpec

PAGE = 64  # search results are reported in batches of this many


@dataclass
class Job:
    """One search result on its way."""

    hit: Hit  # the search result
    position: int  # its place in its search
    host: str  # who is asked for its bytes; empty where nobody is
    attempt: int = 0  # how often that was done
    spent_s: float = 0.0  # seconds that it took so far, waiting between attempts apart
    fetched: Fetched | None = None  # its bytes, once they are there

    @property
    def key(self) -> tuple[str, str]:
        """What identifies the search result within its class."""
        return self.hit.provenance.source, self.hit.provenance.source_id

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return len(self.fetched.data) if self.fetched else 0


class WorkerPool:
    """Starts threads and processes when they are first needed, and stops them at the end of the block.

    A report is a call of the function that was given with the order, in the thread that calls ``wait``. No redirect to
    ``avoided`` hosts (-> why) is followed; they may grow meanwhile.
    """

    def __init__(
        self, download: DownloadSpec, workers: int | None, avoided: Mapping[str, str], clock: Clock = time
    ) -> None:
        self.clock = clock
        self._download, self._workers, self._avoided = download, workers, avoided
        self._reports: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._orders: queue.SimpleQueue[tuple[Callable[[], Any], Callable[[Any], object]] | None] = queue.SimpleQueue()
        self._threads = 0  # that wait for orders
        self._stopped = threading.Event()

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stopped.set()
        for _thread in range(self._threads):
            self._orders.put(None)
        # Looked up without making them: what was never needed must not be started to be stopped.
        if "fetcher" in vars(self):
            self.fetcher.close()
        if "_decoders" in vars(self):
            self._decoders.close(wait=kind is None)

    @cached_property
    def fetcher(self) -> Fetcher:
        """What downloads."""
        return Fetcher(self._download, self.clock, self._avoided)

    @cached_property
    def _decoders(self) -> DecodePool:
        return DecodePool(self._workers)

    def wait(self, seconds: float | None) -> None:
        """Deliver every report that came since; waits for the first, at most so long (``None``: for ever)."""
        try:
            self._reports.get(timeout=seconds)()
            while True:
                self._reports.get_nowait()()
        except queue.Empty:
            return

    def search(
        self,
        source: Source,
        wanted: ClassSpec,
        limit: int | None,
        pages: JournalPages,
        found: Callable[[list[tuple[int, Hit]]], object],
        ended: Callable[[BaseException | None], object],
    ) -> None:
        """Search in a thread of its own; reports ``found`` again and again, then ``ended``. Closes ``pages``."""

        def search() -> None:
            batch: list[tuple[int, Hit]] = []
            try:
                with pages:
                    for place in enumerate(source.search(wanted, limit, pages)):
                        if self._stopped.is_set():
                            return
                        batch.append(place)
                        if len(batch) == PAGE:
                            self._reports.put(partial(found, batch))
                            batch = []
            finally:
                self._reports.put(partial(found, batch))

        self._start(f"search {source.name}", self._run, search, ended)

    def fetch(self, job: Job, done: Callable[[Job, Fetched | BaseException], object]) -> None:
        """Bring the bytes of an image from the web, in one attempt; whoever calls limits how many at a time."""
        fetcher = self.fetcher  # made here, not by several threads at once

        def fetch() -> Fetched:
            start = self.clock.monotonic()
            try:
                return fetcher.fetch(job.hit.provenance.image_url or "", self._download.deadline_s - job.spent_s)
            finally:
                job.spent_s += self.clock.monotonic() - start

        self._orders.put((fetch, partial(done, job)))
        if self._threads < self._download.connections:
            self._threads += 1
            self._start(f"download {self._threads}", self._serve)

    def _serve(self) -> None:
        while order := self._orders.get():
            self._run(*order)
            del order  # what was read must not stay in memory while this waits for the next

    def _run(self, work: Callable[[], Any], done: Callable[[Any], object]) -> None:
        try:
            outcome = work()
        except BaseException as raised:  # handed on: the thread that waits raises it
            outcome = raised
        self._reports.put(partial(done, outcome))
        # An error and this frame would hold each other, and the bytes that were read, until the collector runs.
        del outcome

    def _start(self, name: str, target: Callable[..., None], *arguments: Any) -> None:
        # A daemon: an interrupt must not wait for a server that says nothing.
        threading.Thread(target=target, args=arguments, name=name, daemon=True).start()

    def decode(
        self, job: Job, folder: Path, longest_side: int, done: Callable[[Job, Decoded | BaseException], object]
    ) -> None:
        """Decode, shrink and write an image."""
        data = job.fetched.data if job.fetched else job.hit.read
        assert data is not None
        future = self._decoders.decode(data, job.hit.provenance.source_id, folder, longest_side)
        future.add_done_callback(lambda f: self._reports.put(partial(done, job, f.exception() or f.result())))
