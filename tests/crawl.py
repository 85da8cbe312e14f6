"""A crawl in a process of its own, so that it can be killed and weighed: ``python crawl.py PLAN``.

The plan, a JSON file: ``folder``, ``urls`` (identity -> address), ``longest_side``, ``download``, ``workers``, and
``file_limit``, the size in bytes at which the disk shall count as full. The database is SQLite: it takes a
(class, sha256) once, as FiftyOne's store does. Prints how many MiB the process grew by.
"""

import json
import os
import resource
import sqlite3
import sys
from pathlib import Path
from typing import Any

from wss_data.spec import spec_from_dict

ROOT = Path(__file__).resolve().parents[1]


class Listed:
    """A source that lists the addresses of the plan."""

    name, local = "listed", False

    def __init__(self, urls: dict[str, str]) -> None:
        self.urls = urls

    def state(self) -> Any:
        from wss_data.retrieval.sources.base import SourceState

        return SourceState("ready", "")

    def search(self, wanted: Any, limit: int | None, pages: Any) -> Any:
        from wss_data.records import Provenance
        from wss_data.retrieval.sources.base import Hit

        for source_id, url in pages.answer("list", lambda: self.urls).items():
            yield Hit(wanted.name, Provenance(self.name, source_id, image_url=url))


def write_plan(path: Path, folder: Path, urls: dict[str, str], **values: Any) -> list[str]:
    """Write a plan; returns the command that crawls it."""
    plan = {"folder": str(folder), "urls": urls, "longest_side": 340, "download": {}, "workers": 1, "file_limit": None}
    path.write_text(json.dumps({**plan, **values}))
    return [sys.executable, str(Path(__file__).resolve()), str(path)]


def environment() -> dict[str, str]:
    """The environment in which the command finds the package."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def stored(folder: Path) -> list[tuple[str, str, str]]:
    """sha256, identity and file of every image that the database took."""
    return list(sqlite3.connect(folder / "database.sqlite").execute("SELECT sha256, source_id, path FROM images"))


def peak_mib() -> float:
    """The most memory that this process ever had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Crawl."""
    from wss_data.retrieval.journal import Journal
    from wss_data.retrieval.retrieve import Manner, retrieve
    from wss_data.spec import SourceSpec

    plan = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(plan["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    part = {key: plan[key] for key in ("longest_side", "download")}
    spec = spec_from_dict({"name": "crawl", "classes": ["thing"], "sources": ["listed"], **part})
    database = sqlite3.connect(folder / "database.sqlite", timeout=30, check_same_thread=False)
    database.execute("CREATE TABLE IF NOT EXISTS images (sha256 TEXT PRIMARY KEY, source_id TEXT, path TEXT)")

    def store(records: list[Any]) -> None:
        with database:
            rows = [(r.sha256, r.provenance.source_id, str(r.path)) for r in records]
            database.executemany("INSERT OR IGNORE INTO images VALUES (?, ?, ?)", rows)

    before = peak_mib()
    with Journal(folder / "journal.sqlite") as journal:
        if plan["file_limit"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (plan["file_limit"], plan["file_limit"]))
        source = Listed(plan["urls"])
        retrieve(
            spec,
            [(source, SourceSpec(source.name))],
            folder / "images",
            journal,
            store,
            Manner(plan["workers"], progress=False),
        )
    print(json.dumps({"grew_by_mib": peak_mib() - before, "peak_mib": peak_mib()}))


if __name__ == "__main__":
    main()
