"""Step 1: search, download, verify, drop repeats, shrink, store. Resumable at any moment.

For each class, sources are searched while images are downloaded and decoded; each in threads or processes of its own,
joined by one loop that alone writes the journal. What was found and what became of it is noted at once, so that a kill
costs no more than the images in flight. When a class is through, its images go into the database in the order of the
search, in a thread beside the next class: the dataset that comes out does not depend on which server answered first.
"""

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from wss_data.errors import DownloadError, ImageError, SourceUnavailable, WssError
from wss_data.records import ImageRecord, Provenance, stem_of
from wss_data.retrieval.changed_files import Changes, find_moved, look_for_changes
from wss_data.retrieval.decode_pool import Decoded
from wss_data.retrieval.fetch import Fetched
from wss_data.retrieval.journal import Entry, Journal, Status, StoredImage, secret_of
from wss_data.retrieval.schedule import HostSchedule
from wss_data.retrieval.sources.api import LONGEST_WAIT
from wss_data.retrieval.sources.base import Forgetful, Hit, Source
from wss_data.retrieval.sources.folder import FolderSource
from wss_data.retrieval.workers import Job, WorkerPool
from wss_data.spec import ClassSpec, DatasetSpec, SourceSpec

LOGGER = logging.getLogger(__name__)

_STORED_NAME = re.compile(r"[0-9a-f]{20}\.jpg")

BATCH = 64  # records are handed to the database in batches of this many
WINDOW = 512  # search results taken from the journal ahead of the downloads
NOTED = 16  # images are noted in the journal so many at a time...
NOTED_S = 0.2  # ... or after so many seconds, whatever comes first.
DECODING = 32  # images that may wait for a decoder, or be in one, before downloads pause...
PENDING_BYTES = 48 << 20  # ... and bytes.
SHORTEST_ATTEMPT = 0.5  # with less than this left (seconds) of an image's deadline it is not asked for again

CRAWL_DELAY_MAX = 60.0  # a host whose robots.txt wants a longer pause (seconds) is given up after the first image
FAILURES_IN_A_ROW = 10  # a host that failed this often in a row, by its own fault, is given up until the next build
SAME_IMAGE = 10  # perceptual hashes of one image, encoded anew, differ in at most so many of 64 bits


@dataclass
class Retrieved:
    """What a retrieval did."""

    done: int = 0  # number of search results dealt with
    left_out: dict[str, str] = field(default_factory=dict)  # sources that could not be asked -> why
    given_up: dict[str, str] = field(default_factory=dict)  # hosts that were not asked any more -> why
    changes: Changes = field(default_factory=Changes)  # files of local sources that changed since they were read


def remove_unrecorded(folder: Path, known: Collection[str]) -> None:
    """Remove images that a killed build wrote but did not come to note; call it as the dataset's only owner.

    Only files named as stored images are, below a class's folder. Others are somebody's: they stay, and are counted.
    ``known``: stems of the images that journal or dataset name. Where they name none nothing is removed: the next
    search finds again what a killed first build wrote.
    """
    foreign = [path for path in folder.glob("*/*") if path.is_symlink() or not _STORED_NAME.fullmatch(path.name)]
    if foreign:
        said = "%s: %d files are not of this dataset (such as %s); they stay."
        LOGGER.warning(said, folder, len(foreign), foreign[0])
    for path in folder.glob("*/*.jpg") if known else ():
        if path.stem not in known and path not in foreign:
            path.unlink()


@dataclass(frozen=True)
class Manner:
    """How a retrieval is done."""

    workers: int | None = None  # processes that decode; None for one a processor
    strict: bool = False  # whether a source that cannot be asked is an error while others remain
    progress: bool = True  # whether to show progress bars
    # Whether files of local sources that changed since they were read are read anew, and those that are gone let
    # go, or both only reported.
    follow: bool = False


def retrieve(
    spec: DatasetSpec,
    sources: Sequence[tuple[Source, SourceSpec]],
    folder: Path,
    journal: Journal,
    store: Callable[[list[ImageRecord]], object],
    manner: Manner = Manner(),
) -> Retrieved:
    """Bring every search result of every class to its end: a stored image, or a counted reason why not.

    Args:
        spec: The definition.
        sources: Each source with its part of the definition.
        folder: Where images go: ``<folder>/<class>/<first digits of sha256>.jpg``.
        journal: What was dealt with already.
        store: Takes records into the database; must not add a (class, sha256) twice.
        manner: How it is done.

    Raises:
        SourceUnavailable: If no source can be asked, or one cannot and ``strict`` is set.
        SourceError: If a source was asked for what it does not have.
        OSError: If the disk is full; everything up to then is kept.
    """
    report = Retrieved(changes=Changes(followed=manner.follow))
    storing: Future[None] | None = None
    with (
        WorkerPool(spec.download, manner.workers, report.given_up) as pool,
        ThreadPoolExecutor(1, "store") as store_thread,
    ):
        retrieval = _Retrieval(spec, sources, journal, pool, manner, report)
        for wanted in spec.groups:
            retrieval.run(wanted, folder / wanted.name)
            if storing is not None:
                storing.result()
            storing = store_thread.submit(_store, journal.path, spec, wanted.name, folder / wanted.name, store)
        if storing is not None:
            storing.result()
    nothing_asked = sources and len(report.left_out) == len(sources)
    if nothing_asked and not any(next(journal.entries(c.name), None) for c in spec.groups):
        said = " ".join(f"{name}: {reason.removeprefix(f'{name}: ')}" for name, reason in report.left_out.items())
        raise SourceUnavailable(f"none of the definition's sources can be asked. {said}")
    find_moved(journal, report.changes)
    if said := str(report.changes):
        LOGGER.warning(said)
    return report


class _Retrieval:
    """Brings one class after the other to its end. All state lives in the one thread that runs it."""

    def __init__(
        self,
        spec: DatasetSpec,
        sources: Sequence[tuple[Source, SourceSpec]],
        journal: Journal,
        pool: WorkerPool,
        manner: Manner,
        report: Retrieved,
    ) -> None:
        self._spec, self._sources, self._journal, self._pool = spec, sources, journal, pool
        self._manner, self._report, self._clock = manner, report, pool.clock
        self._local_names = [source.name for source, _ in sources if source.local]
        self._web_names = [source.name for source, _ in sources if not source.local]
        # What is known of hosts, from class to class.
        self._schedule: HostSchedule[Job] = HostSchedule(
            spec.download.connections, spec.download.per_host, spec.download.pause_s
        )
        self._failures: Counter[str] = Counter()
        self._known_hosts: set[str] = set()
        self._given_up = report.given_up
        # What is under way; all of it has ended when a class has.
        self._jobs: set[tuple[str, str]] = set()
        self._searching = 0
        self._local: list[Iterator[tuple[int, Hit]]] = []
        self._ended: list[Entry] = []
        self._noted = self._clock.monotonic()
        self._decoding = 0
        self._pending_bytes = 0
        self._forgotten = journal.forgotten()
        self._stamps: dict[tuple[str, str], str] = {}

    def run(self, wanted: ClassSpec, folder: Path) -> None:
        """Deal with every search result of one class; its images go into ``folder``."""
        self._wanted, self._folder, name = wanted, folder, wanted.name
        self._counts: Counter[str] = Counter()
        self._more_waiting = True
        lost = [e for e in self._journal.entries(name, "fetched") if not _image_path(folder, e.sha256).is_file()]
        self._journal.put_back(lost, self._local_names)
        for source, _ in self._sources:
            if isinstance(source, FolderSource):
                changed = look_for_changes(self._journal, source, name, self._report.changes)
                if self._manner.follow:
                    self._journal.let_go(name, source.name, changed, self._local_names)
        self._start_searches()
        waiting = self._journal.count_waiting(name, self._web_names)
        if not (self._searching or self._local or waiting):
            return
        how: dict[str, Any] = {"disable": not self._manner.progress, "unit": "image", "dynamic_ncols": True}
        with tqdm(total=waiting, desc=f"retrieve {name}", **how) as self._bar:
            try:
                while self._step():
                    pass
            finally:
                self._note()

    def _step(self) -> bool:
        """Start what may start, wait for reports, note what ended; returns whether anything is left to do."""
        self._refill()
        full = self._decoding >= DECODING or self._pending_bytes >= PENDING_BYTES
        while not full and (started := self._schedule.start(self._clock.monotonic())):
            _, job = started
            job.attempt += 1
            self._pool.fetch(job, self._downloaded)
        if not (self._searching or self._schedule.active or self._decoding or len(self._schedule)):
            return False
        # Reports are waited for until there is something else to do.
        waits = [NOTED_S] if self._ended else []
        if not full and (start := self._schedule.next_start(self._clock.monotonic())) is not None:
            waits.append(start)
        self._pool.wait(min(waits, default=None))
        if len(self._ended) >= NOTED or self._clock.monotonic() > self._noted + NOTED_S:
            self._note()
        return True

    # Searching

    def _start_searches(self) -> None:
        name = self._wanted.name
        for source, part in self._sources:
            if source.name in self._report.left_out:
                continue
            if source.local:
                self._local.append(self._search_here(source, part))
                continue
            # What is asked of a source, to distinguish it from another question.
            asked = {"queries": self._wanted.queries, "limit": part.limit, "options": asdict(part)["options"]}
            question = json.dumps(asked, sort_keys=True, default=str)
            if self._journal.search_is_finished(name, source.name, question):
                continue
            state = source.state()
            if state.state != "ready":
                self._leave_out(source.name, SourceUnavailable(state.detail))
                continue
            self._searching += 1
            ended = partial(self._search_ended, source.name, question)
            self._pool.search(
                source, self._wanted, part.limit, self._journal.pages(name, source.name), self._found, ended
            )

    def _search_here(self, source: Source, part: SourceSpec) -> Iterator[tuple[int, Hit]]:
        seen = self._journal.seen(self._wanted.name, source.name)
        for place, hit in enumerate(source.search(self._wanted, part.limit, Forgetful())):
            key = hit.provenance.source_id
            # Of a forgotten image only a digest of its identity is left.
            if not {key, secret_of(key)} & seen:
                if isinstance(source, FolderSource) and (stamp := source.stamps(self._wanted.name, [key])[0]):
                    self._stamps[source.name, key] = stamp  # before it is read: what changes meanwhile is noticed
                yield place, hit

    def _leave_out(self, name: str, error: SourceUnavailable) -> None:
        if self._manner.strict:
            raise error
        self._report.left_out[name] = str(error)
        LOGGER.warning("source '%s' is left out: %s", name, error)

    def _search_ended(self, name: str, question: str, error: BaseException | None) -> None:
        self._searching -= 1
        if isinstance(error, SourceUnavailable):
            self._leave_out(name, error)
        elif isinstance(error, Exception) and not isinstance(error, WssError | OSError):
            # A service changed its answers, say. The text may hold a key; its kind does not.
            said = f"its search broke off ({type(error).__name__}); what it found until then is used."
            self._leave_out(name, SourceUnavailable(said))
        elif error is not None:
            raise error
        else:
            self._journal.finish_search(self._wanted.name, name, question)

    def _found(self, hits: list[tuple[int, Hit]]) -> None:
        names = {hit.provenance.source for _, hit in hits}
        seen = {name: self._journal.seen(self._wanted.name, name) for name in names}
        new = [(n, hit) for n, hit in hits if secret_of(hit.provenance.source_id) not in seen[hit.provenance.source]]
        count = self._journal.found(new)
        self._bar.total += count
        self._bar.refresh()
        self._more_waiting = self._more_waiting or count > 0

    # Downloading

    def _refill(self) -> None:
        """Take more search results up: those of local sources to be decoded, those of the web to be downloaded."""
        while self._local and self._decoding < DECODING:
            try:
                position, hit = next(self._local[0])
            except StopIteration:
                self._local.pop(0)
                continue
            self._bar.total += 1
            job = Job(hit, position, "")
            self._jobs.add(job.key)
            self._decode(job)
        while self._more_waiting and len(self._schedule) < WINDOW // 2:
            self._note()  # what ended must not come again
            room = WINDOW - len(self._schedule)
            waiting = self._journal.waiting(self._wanted.name, self._web_names, self._jobs, room)
            self._more_waiting = len(waiting) == room
            for position, hit in waiting:
                job = Job(hit, position, urlsplit(hit.provenance.image_url or "").netloc)
                if refused := self._refused(hit):
                    self._end(job, "dropped", *refused)
                elif job.host in self._given_up:
                    self._end(job, "failed", "host_given_up", self._given_up[job.host])
                else:
                    self._jobs.add(job.key)
                    self._schedule.add(job.host, job)

    def _refused(self, hit: Hit) -> tuple[str, str] | None:
        """Why this image must not be asked for, as reason and sentence; ``None`` if it may."""
        at = hit.provenance
        secrets = [("url", at.image_url), ("url", at.page_url), ("author", at.author), ("author", at.author_url)]
        # Hashing every address would be waste where nothing was ever forgotten.
        if self._forgotten and any(value and (kind, secret_of(value)) in self._forgotten for kind, value in secrets):
            return _FORGOTTEN
        earlier = self._journal.forbidden(at.image_url) if at.image_url else None
        return (earlier.reason or "opted_out", earlier.detail or "") if earlier else None

    def _downloaded(self, job: Job, outcome: Fetched | BaseException) -> None:
        self._schedule.finish(job.host)
        if isinstance(outcome, DownloadError):
            self._failed(job, outcome)
            return
        if isinstance(outcome, BaseException):
            raise outcome
        job.fetched = outcome
        for host in {job.host, urlsplit(outcome.url).netloc}:
            self._failures.pop(host, None)
        self._pending_bytes += job.size
        self._decode(job)
        if job.host not in self._known_hosts:
            self._known_hosts.add(job.host)
            pause = self._pool.fetcher.crawl_delay(job.hit.provenance.image_url or "") or 0.0
            if pause > CRAWL_DELAY_MAX:
                self._give_up(job.host, f"{job.host} wants {pause:,.0f} s between two requests.")
            else:
                self._schedule.slow_down(job.host, pause)

    def _failed(self, job: Job, error: DownloadError) -> None:
        """Try again later, or end it: the only place where downloads are repeated."""
        host = error.host or job.host
        if host != job.host:
            self._failures.pop(job.host, None)  # it answered: it sent us on
        if not error.transient:
            self._failures.pop(host, None)
            self._end(job, "dropped", error.reason, str(error), provenance=_asked(job, error.opt_outs))
            return
        wait, download, why = error.retry_after, self._spec.download, ""
        if host not in self._given_up:
            self._failures[host] += 1
            if wait is not None and wait > LONGEST_WAIT:
                why = f"{host} asks to wait {wait:,.0f} s."
            elif self._failures[host] >= FAILURES_IN_A_ROW:
                why = f"{host} failed {FAILURES_IN_A_ROW} times in a row ({error})"
            elif wait is not None:
                self._schedule.hold(host, self._clock.monotonic() + wait)
        over = job.attempt >= download.attempts or job.spent_s > download.deadline_s - SHORTEST_ATTEMPT
        if over or why or {host, job.host} & self._given_up.keys():
            self._end(job, "failed", error.reason, str(error))
        else:
            # One that was redirected is asked for again when the host it was led to allows it.
            pause = max(download.backoff_s * 4 ** (job.attempt - 1), wait or 0.0)
            self._schedule.add(job.host, job, self._clock.monotonic() + pause)
        if why:
            self._give_up(host, why)

    def _give_up(self, host: str, why: str) -> None:
        self._given_up[host] = why
        LOGGER.warning("host given up until the next build: %s", why)
        for job in self._schedule.give_up(host):
            self._end(job, "failed", "host_given_up", why)

    # Decoding

    def _decode(self, job: Job) -> None:
        self._decoding += 1
        self._pool.decode(job, self._folder, self._spec.longest_side, self._decoded)

    def _decoded(self, job: Job, outcome: Decoded | BaseException) -> None:
        self._decoding -= 1
        self._pending_bytes -= job.size
        opt_outs = job.fetched.opt_outs if job.fetched else ()
        job.fetched = None  # its bytes are not needed any more
        if isinstance(outcome, ImageError):
            self._end(job, "dropped", outcome.reason, str(outcome))
            return
        if isinstance(outcome, BaseException):
            raise outcome
        image = StoredImage(outcome.size, outcome.original_size, outcome.phash)
        known: dict[str, Any] = {"sha256": outcome.sha256, "provenance": _asked(job, opt_outs)}
        expected_sha256, expected_phash = job.hit.expected_sha256, job.hit.expected_phash
        if ("sha256", outcome.sha256) in self._forgotten:
            outcome.path.unlink(missing_ok=True)
            self._end(job, "dropped", *_FORGOTTEN)
        elif expected_sha256 in (None, outcome.sha256):
            self._end(job, "fetched", image=image, **known)
        elif expected_phash and (int(expected_phash, 16) ^ int(outcome.phash, 16)).bit_count() <= SAME_IMAGE:
            said = "The same image, in other bytes than expected."
            self._end(job, "fetched", "re-encoded", said, image=image, **known)
        else:
            outcome.path.unlink(missing_ok=True)
            self._end(job, "dropped", "changed", "Another image than expected.", **known)

    # What became of it

    def _end(
        self, job: Job, status: Status, reason: str | None = None, detail: str | None = None, **known: Any
    ) -> None:
        self._jobs.discard(job.key)
        at = job.hit.provenance
        values = {"position": job.position, "provenance": at, **known}
        self._ended.append(Entry(job.hit.class_name, *job.key, status, at.image_url, reason, detail or None, **values))

    def _note(self) -> None:
        """Keep what became of the images that ended."""
        entries, self._ended = self._ended, []
        self._noted = self._clock.monotonic()
        if not entries:
            return
        self._journal.record(entries)
        for entry in entries:
            stamp = self._stamps.pop((entry.source, entry.source_id), None)
            if stamp and entry.reason != "forgotten":
                self._journal.note_stamps(entry.class_name, entry.source, {entry.source_id: stamp})
        if forgotten := [entry for entry in entries if entry.reason == "forgotten"]:
            # Noted like the others, then hidden: their addresses and authors must not be written down again.
            self._journal.erase(forgotten)
        self._counts.update("kept" if entry.status == "fetched" else str(entry.reason) for entry in entries)
        self._report.done += len(entries)
        self._bar.update(len(entries))
        self._bar.set_postfix(dict(self._counts.most_common()), refresh=False)


_FORGOTTEN = ("forgotten", "It was asked to be forgotten.")  # reason and sentence


def _store(
    journal_path: Path, spec: DatasetSpec, class_name: str, folder: Path, store: Callable[[list[ImageRecord]], object]
) -> None:
    """Store the images of a class that are on disk, in the order of its sources and their results."""
    sources = [source.name for source in spec.sources]
    with Journal(journal_path) as journal:  # a connection belongs to its thread
        stored = journal.stored(class_name)
        while batch := journal.fetched(class_name, sources, BATCH):
            ended, records = [], []
            for entry in batch:
                assert entry.sha256 is not None and entry.image is not None and entry.provenance is not None
                if entry.sha256 in stored:
                    repeat = "The class holds the same bytes already."
                    ended.append(replace(entry, status="dropped", reason="duplicate", detail=repeat, image=None))
                    continue
                stored.add(entry.sha256)
                path = _image_path(folder, entry.sha256)
                image = ImageRecord(entry.sha256, class_name, path, **vars(entry.image), provenance=entry.provenance)
                records.append(image)
                ended.append(replace(entry, status="stored"))
            if records:
                store(records)
            journal.record(ended)


def _image_path(folder: Path, sha256: str | None) -> Path:
    return folder / f"{stem_of(str(sha256))}.jpg"


def _asked(job: Job, opt_outs: tuple[str, ...]) -> Provenance:
    """Where an image comes from, once it was asked for: with the day, and the opt-outs that its answer held."""
    return replace(job.hit.provenance, retrieved_at=datetime.now(UTC).replace(microsecond=0), opt_outs=opt_outs)
