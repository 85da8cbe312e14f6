"""What was asked of every source, and what became of it: one SQLite file beside the images.

The database of the dataset is the truth about images; the journal is the truth about search results, those that became
no image included. It is also the queue: what was found and not yet dealt with is taken up again after a kill.
"""

import hashlib
import json
import sqlite3
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args
from urllib.parse import urlsplit

from wss_data.errors import StoreError, shown
from wss_data.records import Provenance
from wss_data.retrieval.sources.base import Hit

FORMAT = 3  # version of the tables below, kept in the file as SQLite's user_version

# A search result is, or gave ...
Status = Literal[
    "found",  # listed by its source; nobody asked for its bytes yet, or not to the end
    "fetched",  # an image on disk; the dataset does not hold it yet
    "stored",  # an image of the dataset
    "failed",  # no image for a reason that may pass: a timeout, an overloaded server
    "dropped",  # no image, and never will: gone, corrupt, a repeat, behind an opt-out
]

NEVER_AGAIN = ("opted_out", "robots", "forgotten")  # reasons that forbid a second request, whoever asks for a retry
PLACEHOLDER_ADDRESSES = 3  # the same bytes under so many addresses of one host are an image that says there is none

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS hits (
    class_name TEXT NOT NULL,
    source     TEXT NOT NULL,
    source_id  TEXT NOT NULL,
    position   INTEGER NOT NULL,
    url        TEXT,
    provenance TEXT NOT NULL,
    expected   TEXT,
    status     TEXT NOT NULL CHECK (status IN ({", ".join(f"'{status}'" for status in get_args(Status))})),
    reason     TEXT,
    detail     TEXT,
    sha256     TEXT,
    image      TEXT,
    at         TEXT NOT NULL,
    PRIMARY KEY (class_name, source, source_id)
);
CREATE INDEX IF NOT EXISTS waiting_hits ON hits (class_name, position) WHERE status = 'found';
CREATE INDEX IF NOT EXISTS dropped_hits ON hits (url) WHERE status = 'dropped';
CREATE TABLE IF NOT EXISTS searches (
    class_name TEXT NOT NULL, source TEXT NOT NULL, question TEXT NOT NULL, PRIMARY KEY (class_name, source)
);
CREATE TABLE IF NOT EXISTS pages (
    class_name TEXT NOT NULL, source TEXT NOT NULL, question TEXT NOT NULL, answer BLOB NOT NULL,
    PRIMARY KEY (class_name, source, question)
);
CREATE TABLE IF NOT EXISTS forgotten (
    kind TEXT NOT NULL CHECK (kind IN ('url', 'sha256', 'author')), value TEXT NOT NULL,
    reason TEXT NOT NULL, at TEXT NOT NULL, PRIMARY KEY (kind, value)
);
CREATE TABLE IF NOT EXISTS stamps (
    class_name TEXT NOT NULL, source TEXT NOT NULL, source_id TEXT NOT NULL, stamp TEXT NOT NULL,
    PRIMARY KEY (class_name, source, source_id)
);
CREATE TABLE IF NOT EXISTS gone (
    class_name TEXT NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (class_name, sha256)
);
"""

_as_text = json.JSONEncoder(ensure_ascii=False).encode  # made once: ``json.dumps`` makes one for each text
_SIZES = ("size", "original_size")


@dataclass(frozen=True)
class StoredImage:
    """An image on disk: stored and original upright (width, height) in pixels, and perceptual hash (16 hex digits)."""

    size: tuple[int, int]
    original_size: tuple[int, int]
    phash: str


@dataclass(frozen=True)
class Entry:
    """What became of one search result: a row of the table ``hits``."""

    class_name: str  # the class it was searched for
    source: str  # name of the source
    source_id: str  # its identity there
    status: Status
    url: str | None = None  # address of its bytes, where there is one
    reason: str | None = None  # why it was dropped or failed, as a slug
    detail: str | None = None  # the same as a sentence
    sha256: str | None = None  # hex digest of its original bytes, where they were read
    position: int = 0  # its place among the results of its search, from 0
    provenance: Provenance | None = None  # where it comes from
    image: StoredImage | None = None  # the image on disk, where it became one
    expected: tuple[str | None, str | None] = (None, None)  # sha256 and perceptual hash that it should have

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies it."""
        return self.class_name, self.source, self.source_id


_NAMES = tuple(field.name for field in fields(Entry))
_COLUMNS = ", ".join(_NAMES)
_INSERT = f"INTO hits ({_COLUMNS}, at) VALUES ({', '.join('?' * (len(_NAMES) + 1))})"
_KEY = "WHERE class_name = ? AND source = ? AND source_id = ?"
_AMONG = "IN (SELECT value FROM json_each(?))"  # a list as one value, in JSON


class KnownFile(NamedTuple):
    """A file of a local source that was read, its digest if it was an image, and its size and dates at that time."""

    source_id: str
    sha256: str | None
    stamp: str | None


class Journal:
    """The journal of one dataset, made where it is missing; another thread opens another, or has it to itself.

    Raises:
        StoreError: If another version wrote the file, or it is damaged.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        try:
            self._connection = sqlite3.connect(path, timeout=30, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode = WAL")
            # A crash of the machine may lose the last commits, one of the program none; the file is whole either way.
            self._connection.execute("PRAGMA synchronous = NORMAL")
            # What is erased must not stay readable in the file's unused pages.
            self._connection.execute("PRAGMA secure_delete = ON")
            version = self._value("PRAGMA user_version")
            if version not in (0, FORMAT):
                raise StoreError(f"{path} has format {version}, this version of wss reads {FORMAT}. Update wss.")
            if version == 0:
                # One transaction: two processes that open a new file at the same time do not meet in the middle.
                self._connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")
        except sqlite3.DatabaseError as error:
            raise StoreError(
                f"{path}: the journal cannot be read ({error}). If it is damaged, move it away: the images stay, the "
                "next build searches again."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def _read(self, statement: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        return self._connection.execute(statement, values)

    def _value(self, statement: str, *values: Any) -> Any:
        return next(self._read(statement, *values))[0]

    def _column(self, statement: str, *values: Any) -> set[str]:
        return {row[0] for row in self._read(statement, *values)}

    def _entries(self, where: str, *values: Any) -> Iterator[Entry]:
        return map(_entry, self._read(f"SELECT {_COLUMNS} FROM hits WHERE {where}", *values))

    def _write(self, *statements: tuple[str, Iterable[Sequence[Any]]]) -> int:
        """Execute each statement for each row of its values, all in one transaction; returns how many rows changed."""
        before = self._connection.total_changes
        try:
            with self._connection:
                for statement, rows in statements:
                    self._connection.executemany(statement, rows)
        except sqlite3.OperationalError as error:
            raise StoreError(
                f"{self.path}: the journal cannot be written ({error}). Is the disk full? What was written stays; make "
                "room and run the same command again."
            ) from error
        return self._connection.total_changes - before

    # Search results and what became of them

    def found(self, hits: Iterable[tuple[int, Hit]]) -> int:
        """Note search results with their places, unless they are known; returns how many were new."""
        rows = []
        for position, hit in hits:
            at, expected = hit.provenance, (hit.expected_sha256, hit.expected_phash)
            known: dict[str, Any] = {"position": position, "provenance": at, "expected": expected}
            rows.append(_row(Entry(hit.class_name, at.source, at.source_id, "found", at.image_url, **known)))
        return self._write((f"INSERT OR IGNORE {_INSERT}", rows))

    def record(self, entries: Iterable[Entry]) -> None:
        """Keep what became of some search results, all or none of them."""
        names = ("url", "provenance", "status", "reason", "detail", "sha256", "image", "at")
        update = ", ".join(f"{name} = excluded.{name}" for name in names)
        conflict = f"ON CONFLICT (class_name, source, source_id) DO UPDATE SET {update}"
        self._write((f"INSERT {_INSERT} {conflict}", [_row(entry) for entry in entries]))

    def entries(self, class_name: str | None = None, status: Status | None = None) -> Iterator[Entry]:
        """What became of each search result, class by class, in the order of their places and sources."""
        where = "(?1 IS NULL OR class_name = ?1) AND (?2 IS NULL OR status = ?2)"
        return self._entries(f"{where} ORDER BY class_name, position, source, source_id", class_name, status)

    def fetched(self, class_name: str, sources: Sequence[str], count: int) -> list[Entry]:
        """The next ``count`` images of a class that are on disk and not stored yet.

        Those of the first of ``sources`` come first; within a source they come in the order of its search.
        """
        place = "ifnull((SELECT key FROM json_each(?) WHERE value = source), 1e9)"
        order = f"ORDER BY {place}, position, source_id LIMIT ?"
        where = f"class_name = ? AND status = 'fetched' {order}"
        return list(self._entries(where, class_name, json.dumps(sources), count))

    def waiting(
        self, class_name: str, sources: Sequence[str], without: Collection[tuple[str, str]], count: int
    ) -> list[tuple[int, Hit]]:
        """The next ``count`` search results of a class and of some sources that nobody dealt with, with their places.

        ``without``: (source, source id) of those that are being dealt with.
        """
        where = f"class_name = ? AND status = 'found' AND source {_AMONG} ORDER BY position, source, source_id LIMIT ?"
        known = json.dumps(sources)
        rows = self._read(f"SELECT {_COLUMNS} FROM hits WHERE {where}", class_name, known, count + len(without))
        # Compared before they are read as entries, which takes the most time.
        new = map(_entry, islice((row for row in rows if row[1:3] not in without), count))
        return [(e.position, Hit(class_name, e.provenance or Provenance(*e.key[1:]), None, *e.expected)) for e in new]

    def count_waiting(self, class_name: str, sources: Sequence[str]) -> int:
        """How many search results of a class and of some sources nobody dealt with."""
        where = f"class_name = ? AND status = 'found' AND source {_AMONG}"
        return int(self._value(f"SELECT COUNT(*) FROM hits WHERE {where}", class_name, json.dumps(sources)))

    def seen(self, class_name: str, source: str) -> set[str]:
        """Identities of the search results of one class and source that are known already."""
        return self._column("SELECT source_id FROM hits WHERE class_name = ? AND source = ?", class_name, source)

    def stored(self, class_name: str) -> set[str]:
        """Digests of the originals that were stored for one class."""
        return self._column("SELECT sha256 FROM hits WHERE class_name = ? AND status = 'stored'", class_name)

    def digests(self) -> set[str]:
        """Digests of all originals that are known, whatever became of them."""
        return self._column("SELECT sha256 FROM hits WHERE sha256 IS NOT NULL")

    def dropped(self) -> dict[str, Counter[str]]:
        """How many search results gave no image: class -> reason -> count; those that may yet give one included."""
        counts: dict[str, Counter[str]] = {}
        for class_name, reason, count in self._read(
            "SELECT class_name, reason, COUNT(*) FROM hits WHERE status IN ('dropped', 'failed') GROUP BY 1, 2"
        ):
            counts.setdefault(class_name, Counter())[reason] = count
        return counts

    def try_again(self, statuses: Sequence[Status], local: Collection[str] = ()) -> int:
        """Put search results with these statuses back, but none behind an opt-out; returns how many."""
        found = [e for status in statuses for e in self.entries(status=status) if e.reason not in NEVER_AGAIN]
        self.put_back(found, local)
        return len(found)

    def put_back(self, entries: Iterable[Entry], local: Collection[str] = ()) -> None:
        """Put search results back to be dealt with; those of ``local`` sources are forgotten, and found again."""
        keys = [entry.key for entry in entries]
        again = f"UPDATE hits SET status = 'found', reason = NULL, detail = NULL, sha256 = NULL, image = NULL {_KEY}"
        here = [key for key in keys if key[1] in local]
        forget = [(f"DELETE FROM {table} {_KEY}", here) for table in ("hits", "stamps")]
        self._write(*forget, (again, [key for key in keys if key[1] not in local]))

    def store_again(self, class_names: Sequence[str]) -> int:
        """Let stored images of these classes be stored once more, for a dataset that is gone; returns how many."""
        again = f"UPDATE hits SET status = 'fetched' WHERE status = 'stored' AND class_name {_AMONG}"
        return self._write((again, [(json.dumps(class_names),)]))

    def of_other_size(self, longest_side: int) -> int:
        """How many images on disk were not shrunk to ``longest_side`` pixels, but to another size."""
        sides = [[f"json_extract(image, '$.{size}[{side}]')" for side in (0, 1)] for size in _SIZES]
        stored, original = (f"max({', '.join(pair)})" for pair in sides)
        where = f"image IS NOT NULL AND {stored} != min(?, {original})"
        return int(self._value(f"SELECT COUNT(*) FROM hits WHERE {where}", longest_side))

    def placeholders(self) -> frozenset[str]:
        """Digests of files that came from several addresses of one host: images that say that there is none."""
        addresses: dict[tuple[str, str], set[str]] = {}
        for sha256, url in self._read(
            "SELECT sha256, url FROM hits WHERE url LIKE 'http%' AND sha256 IN (SELECT sha256 FROM hits "
            "WHERE sha256 IS NOT NULL GROUP BY sha256 HAVING COUNT(DISTINCT url) >= ?)",
            PLACEHOLDER_ADDRESSES,
        ):
            addresses.setdefault((sha256, urlsplit(url).netloc), set()).add(url)
        return frozenset(sha256 for (sha256, _), urls in addresses.items() if len(urls) >= PLACEHOLDER_ADDRESSES)

    # Files of local sources

    def files(self, class_name: str, source: str) -> list[KnownFile]:
        """The files of one class and local source that were read, but for those that were forgotten."""
        rows = self._read(
            "SELECT source_id, sha256, stamp FROM hits LEFT JOIN stamps USING (class_name, source, source_id) "
            "WHERE class_name = ? AND source = ? AND reason IS NOT 'forgotten' ORDER BY source_id",
            *(class_name, source),
        )
        return [KnownFile(*row) for row in rows]

    def note_stamps(self, class_name: str, source: str, stamps: Mapping[str, str]) -> None:
        """Keep size and dates of files as they were when they were read: identity -> stamp."""
        rows = [(class_name, source, *item) for item in stamps.items()]
        if rows:  # an empty transaction would still wait for the file
            self._write(("INSERT OR REPLACE INTO stamps VALUES (?, ?, ?, ?)", rows))

    def let_go(self, class_name: str, source: str, files: Sequence[KnownFile], local: Collection[str]) -> None:
        """Forget that files of a class and a local source were read: their content is gone.

        What is under their names now is read anew, and a repeat of such content, of a ``local`` source too, takes its
        place.
        """
        digests = {file.sha256 for file in files if file.sha256}
        self.put_back([e for e in self.entries(class_name, "dropped") if e.sha256 in digests], local)
        keys = [(class_name, source, file.source_id) for file in files]
        self._write(
            ("INSERT OR IGNORE INTO gone VALUES (?, ?)", [(class_name, sha256) for sha256 in sorted(digests)]),
            *((f"DELETE FROM {table} {_KEY}", keys) for table in ("hits", "stamps")),
        )

    def gone(self) -> dict[tuple[str, str], Provenance | None]:
        """(class, digest) of content that was let go -> where it is from, if it is stored again; else ``None``."""
        rows = self._read(
            "SELECT class_name, sha256, provenance FROM gone "
            "LEFT JOIN (SELECT * FROM hits WHERE status = 'stored') USING (class_name, sha256)"
        )
        return {(name, sha256): _provenance(text) if text else None for name, sha256, text in rows}

    def came_back(self, contents: Iterable[tuple[str, str]]) -> None:
        """Note that content, as (class, digest), is not gone any more."""
        self._write(("DELETE FROM gone WHERE class_name = ? AND sha256 = ?", list(contents)))

    def names_of(self, digests: Collection[str]) -> dict[str, list[str]]:
        """Digest -> identities of the files and search results that hold these bytes, in their order."""
        found: dict[str, list[str]] = {}
        statement = f"SELECT sha256, source_id FROM hits WHERE sha256 {_AMONG} ORDER BY class_name, source_id"
        for sha256, source_id in self._read(statement, json.dumps(list(digests))):
            found.setdefault(sha256, []).append(source_id)
        return found

    # Searches

    def search_is_finished(self, class_name: str, source: str, question: str) -> bool:
        """Whether ``question`` (queries, limit, options) was searched for to the end."""
        statement = "SELECT question FROM searches WHERE class_name = ? AND source = ?"
        return question in self._column(statement, class_name, source)

    def finish_search(self, class_name: str, source: str, question: str) -> None:
        """Note that a search came to its end; what it remembered of the way is not needed any more."""
        self._write(
            ("INSERT OR REPLACE INTO searches VALUES (?, ?, ?)", [(class_name, source, question)]),
            ("DELETE FROM pages WHERE class_name = ? AND source = ?", [(class_name, source)]),
        )

    def forget_searches(self) -> None:
        """Let every source be asked again; what it found before stays known."""
        self._write(("DELETE FROM searches", [()]), ("DELETE FROM pages", [()]))

    def pages(self, class_name: str, source: str) -> "JournalPages":
        """What this journal remembers of one unfinished search; may be used in another thread."""
        return JournalPages(self.path, class_name, source)

    # What must not be asked for again

    def forbidden(self, url: str) -> Entry | None:
        """What forbade an earlier request for this address for good, or ``None``."""
        where = f"url = ? AND status = 'dropped' AND reason {_AMONG} LIMIT 1"
        return next(self._entries(where, url, json.dumps(NEVER_AGAIN)), None)

    def remember_forgotten(self, kind: str, value: str, reason: str) -> None:
        """Never fetch again what has this digest: of a ``url`` or an ``author`` ``secret_of`` it, or its ``sha256``."""
        self._write(("INSERT OR REPLACE INTO forgotten VALUES (?, ?, ?, ?)", [(kind, value, reason, _now())]))

    def forgotten(self) -> frozenset[tuple[str, str]]:
        """(kind, value) of everything that must never be fetched again."""
        return frozenset(self._read("SELECT kind, value FROM forgotten"))

    def erase(self, entries: Iterable[Entry]) -> None:
        """Mark search results as forgotten, and keep nothing of them but their identity as a digest."""
        erasing: list[tuple[str, list[Sequence[Any]]]] = []
        # One after the other: the digest of `a.jpg` is that of `A.jpg`, and the second takes the place of the first.
        for key, hidden in {entry.key: secret_of(entry.source_id) for entry in entries}.items():
            nothing_else = _provenance_text(Provenance(key[1], hidden))
            erasing += [
                (f"DELETE FROM hits {_KEY}", [(*key[:2], hidden)]),
                (f"DELETE FROM stamps {_KEY}", [key]),
                (
                    "UPDATE hits SET source_id = ?, url = NULL, provenance = ?, expected = NULL, status = 'dropped', "
                    f"reason = 'forgotten', detail = NULL, sha256 = NULL, image = NULL, at = ? {_KEY}",
                    [(hidden, nothing_else, _now(), *key)],
                ),
            ]
        # Answers of unfinished searches may hold the name; they can be asked for again.
        self._write(*erasing, ("DELETE FROM pages", [()]))
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # nor must it stay in the log beside the file


class JournalPages(Journal):
    """What a service answered while a search goes on; goes when the search is finished."""

    def __init__(self, path: Path, class_name: str, source: str) -> None:
        super().__init__(path)
        self._search = (class_name, source)

    def answer(self, question: str, ask: Callable[[], Any]) -> Any:
        """What was answered to ``question``; ``ask`` is called, and its answer kept, if it never was."""
        key = (*self._search, question)
        where = "WHERE class_name = ? AND source = ? AND question = ?"
        for (kept,) in self._read(f"SELECT answer FROM pages {where}", *key):
            return json.loads(zlib.decompress(kept))
        text = json.dumps(ask())
        self._write(("INSERT OR REPLACE INTO pages VALUES (?, ?, ?, ?)", [(*key, zlib.compress(text.encode()))]))
        return json.loads(text)


def secret_of(text: str) -> str:
    """Hex digest that stands for an address or a name that must be recognised and not be kept.

    >>> secret_of("Jane Doe") == secret_of(" jane doe ")
    True
    """
    return hashlib.sha256(text.strip().casefold().encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _row(entry: Entry) -> tuple[Any, ...]:
    """The values of ``_COLUMNS``, and the moment."""
    provenance = entry.provenance or Provenance(entry.source, entry.source_id, image_url=entry.url)
    texts = {
        "provenance": _provenance_text(provenance),
        "image": json.dumps(vars(entry.image)) if entry.image else None,
        "expected": json.dumps(entry.expected) if entry.expected[0] else None,
    }
    return (*{**vars(entry), **texts}.values(), _now())


def _entry(row: tuple[Any, ...]) -> Entry:
    values: dict[str, Any] = dict(zip(_NAMES, row, strict=True))
    values["provenance"] = _provenance(values["provenance"])
    values["expected"] = tuple(json.loads(values["expected"])) if values["expected"] else (None, None)
    if values["image"]:
        image = json.loads(values["image"])
        values["image"] = StoredImage(**{**image, **{name: tuple(image[name]) for name in _SIZES}})
    return Entry(**values)


def _provenance_text(provenance: Provenance) -> str:
    values = {key: value for key, value in vars(provenance).items() if value not in (None, ())}
    if provenance.retrieved_at is not None:
        values["retrieved_at"] = provenance.retrieved_at.isoformat()
    return _as_text(values)


def _provenance(text: str) -> Provenance:
    try:
        values = json.loads(text)
        values["opt_outs"] = tuple(values.get("opt_outs", ()))
        if at := values.get("retrieved_at"):
            values["retrieved_at"] = datetime.fromisoformat(at)
        return Provenance(**values)
    except (AttributeError, TypeError, ValueError) as error:
        raise StoreError(f"the journal holds a search result that cannot be read ({error}): {shown(text)}.") from error
