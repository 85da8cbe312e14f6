"""Crawl a list of addresses with icrawler's own URL-list crawler and image downloader, as it comes.

python icrawler_urls.py URLS OUT KEPT [--threads 16]

``KEPT`` takes a line for each file that it kept: the address, a tab, the file.
"""

import argparse
from pathlib import Path
from typing import Any

from icrawler import ImageDownloader
from icrawler.builtin import UrlListCrawler

parser = argparse.ArgumentParser()
parser.add_argument("urls", help="file with one address a line")
parser.add_argument("out", help="folder for the pictures")
parser.add_argument("kept", type=Path, help="file for the list of what was kept")
parser.add_argument("--threads", type=int, default=16)
options = parser.parse_args()


class ListingDownloader(ImageDownloader):
    """icrawler's downloader, which also writes down what it kept, by the hook that it has for this."""

    def process_meta(self, task: dict[str, Any]) -> None:
        """Note one finished task."""
        if task.get("success"):
            with self.lock, options.kept.open("a") as file:
                file.write(f"{task['file_url']}\t{options.out}/{task['filename']}\n")


crawler = UrlListCrawler(
    downloader_cls=ListingDownloader, downloader_threads=options.threads, storage={"root_dir": options.out}
)
crawler.crawl(options.urls, max_num=0)
