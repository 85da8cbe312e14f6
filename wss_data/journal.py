"""What was asked of every source, and what became of it: one SQLite file beside the images.

The database of the dataset is the truth about images; the journal is the truth
about search results, those that became no image included.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

_SCHEMA = """
CREATE TABLE IF NOT EXISTS hits (
    class_name TEXT NOT NULL,
    source     TEXT NOT NULL,
    source_id  TEXT NOT NULL,
    url        TEXT,
    status     TEXT NOT NULL CHECK (status IN ('stored', 'dropped')),
    reason     TEXT,
    detail     TEXT,
    sha256     TEXT,
    at         TEXT NOT NULL,
    PRIMARY KEY (class_name, source, source_id)
)
"""


@dataclass(frozen=True)
class Entry:
    """What became of one search result.

    Args:
        class_name: The class it was searched for.
        source: Name of the source.
        source_id: Its identity there.
        status: ``stored`` or ``dropped``.
        url: Address of its bytes, where there is one.
        reason: Why it was dropped, as a slug.
        detail: Why it was dropped, as a sentence.
        sha256: Hex digest of its original bytes, where they were read.
    """

    class_name: str
    source: str
    source_id: str
    status: Literal["stored", "dropped"]
    url: str | None = None
    reason: str | None = None
    detail: str | None = None
    sha256: str | None = None


class Journal:
    """The journal of one dataset.

    Args:
        path: The SQLite file; made where it is missing.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, timeout=30)
        self._connection.execute("PRAGMA journal_mode = WAL")
        with self._connection:
            self._connection.execute(_SCHEMA)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def record(self, entries: Iterable[Entry]) -> None:
        """Keep what became of some search results, all or none of them."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        rows = [
            (e.class_name, e.source, e.source_id, e.url, e.status, e.reason, e.detail, e.sha256, now) for e in entries
        ]
        with self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO hits VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def seen(self, class_name: str, source: str) -> set[str]:
        """Identities of the search results of one class and source that were dealt with already."""
        rows = self._connection.execute(
            "SELECT source_id FROM hits WHERE class_name = ? AND source = ?", (class_name, source)
        )
        return {row[0] for row in rows}

    def stored(self, class_name: str) -> set[str]:
        """Digests of the originals that were stored for one class."""
        rows = self._connection.execute(
            "SELECT sha256 FROM hits WHERE class_name = ? AND status = 'stored'", (class_name,)
        )
        return {row[0] for row in rows}

    def dropped(self) -> dict[str, Counter[str]]:
        """How many search results were dropped: class -> reason -> count."""
        counts: dict[str, Counter[str]] = {}
        rows = self._connection.execute(
            "SELECT class_name, reason, COUNT(*) FROM hits WHERE status = 'dropped' GROUP BY class_name, reason"
        )
        for class_name, reason, count in rows:
            counts.setdefault(class_name, Counter())[reason] = count
        return counts

    def forget_dropped(self) -> int:
        """Forget the search results that were dropped, so that they are tried again; returns how many."""
        with self._connection:
            return self._connection.execute("DELETE FROM hits WHERE status = 'dropped'").rowcount
