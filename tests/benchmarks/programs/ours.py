"""Retrieve a list of addresses as ``wss-data build`` does, without a database behind it.

python ours.py URLS OUT [--connections 16] [--side 340] [--deadline 25] [--allow-host HOST:PORT] [--report FILE]

All checks are on as they are by default. Only the server of the benchmark, on loopback,
must be named as an exception from the rule against private addresses.
"""

import argparse
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from wss_data.records import ImageRecord, Provenance
from wss_data.retrieval.journal import Journal
from wss_data.retrieval.retrieve import Manner, retrieve
from wss_data.retrieval.sources.base import Hit, Pages, SourceState
from wss_data.spec import ClassSpec, spec_from_dict


class ListSource:
    """The addresses of a list as search results."""

    name = "list"
    local = False

    def __init__(self, urls: list[str]) -> None:
        self._urls = urls

    def state(self) -> SourceState:
        return SourceState("ready", "a list of addresses")

    def search(self, wanted: ClassSpec, limit: int | None, pages: Pages) -> Iterator[Hit]:
        for url in self._urls[:limit]:
            yield Hit(wanted.name, Provenance(self.name, url, image_url=url))


def main() -> None:
    """Retrieve; then write what became of each address, as the journal has it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("urls", type=Path, help="file with one address a line")
    parser.add_argument("out", type=Path, help="folder for images/ and journal.sqlite")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--side", type=int, default=340, help="longest side in pixels")
    parser.add_argument(
        "--deadline", type=float, default=25.0, help="seconds for all attempts for one picture together"
    )
    parser.add_argument("--allow-host", action="append", default=[], metavar="HOST:PORT")
    parser.add_argument("--report", type=Path, help="JSON file: address -> [status, reason, sha256]")
    options = parser.parse_args()

    spec = spec_from_dict(
        {
            "name": "benchmark",
            "classes": ["thing"],
            "sources": [ListSource.name],
            "longest_side": options.side,
            "download": {
                "connections": options.connections,
                "per_host": options.connections,
                "deadline_s": options.deadline,
                "allow_hosts": options.allow_host,
            },
        }
    )
    records: list[ImageRecord] = []
    with Journal(options.out / "journal.sqlite") as journal:
        source = ListSource(options.urls.read_text().split())
        retrieve(
            spec, [(source, spec.sources[0])], options.out / "images", journal, records.extend, Manner(progress=False)
        )
    print(len(records), "images stored")
    if options.report is not None:
        with sqlite3.connect(options.out / "journal.sqlite") as connection:
            rows = connection.execute("SELECT url, status, reason, sha256 FROM hits").fetchall()
        options.report.write_text(json.dumps({row[0]: row[1:] for row in rows}))


if __name__ == "__main__":
    main()
