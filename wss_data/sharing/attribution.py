"""Who made the images of a dataset, under which licence, and what was changed: the list that a licence asks for.

The order is that of Creative Commons' recommended practice: title, author, source, licence; then the changes made.

Source:
    https://wiki.creativecommons.org/wiki/Recommended_practices_for_attribution
"""

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from wss_data import store
from wss_data.errors import StoreError
from wss_data.filtering.filters import KEPT
from wss_data.reading.addresses import is_web_address
from wss_data.reading.cells import csv_text, one_line
from wss_data.records import first_source
from wss_data.runtime.files import check_outputs, expanded, write_output
from wss_data.store.provenance import ImageRow, image_rows

if TYPE_CHECKING:
    from wss_data.store.types import Dataset

UNKNOWN_LICENCE = "licence not known"

# Round brackets and ! too: they belong to links, which each line has.
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+!|~&-])")


@dataclass(frozen=True)
class Credit:
    """One image's line: texts as their sources gave them, on one line; empty where nothing is known.

    Addresses are of the web (http, https) or empty.
    """

    image: str  # class and stem of the stored file
    title: str
    author: str
    author_url: str
    source_url: str  # of the page that shows it, else of its bytes
    source: str
    license: str
    license_url: str
    changes: str


def write_attribution(dataset: "Dataset", path: Path | str, all: bool = False) -> int:
    """Write title, author, source, licence and changes of each image; returns the number of images listed.

    Args:
        dataset: A web dataset.
        path: Markdown (``.md``), a table (``.csv``) or a page (``.html``).
        all: Whether images that the filter does not keep are listed, too.

    Raises:
        StoreError: If the file name ends otherwise, or it is no web dataset.
        OutputError: If a file is there that this program did not write, or that was changed since.
    """
    path = expanded(path)
    write = {".md": markdown, ".csv": table, ".html": page}.get(path.suffix.lower())
    if write is None:
        raise StoreError(f"{path}: the list of authors is written as .md, .csv or .html; name the file so.")
    check_outputs([path])
    credits = [credit(row) for row in image_rows(dataset, "listed with their authors") if all or KEPT in row.tags]
    write_output(path, write(dataset.name, credits))
    return len(credits)


def credit(row: ImageRow) -> Credit:
    """The line of one stored image."""
    at = row.provenance
    changes = "saved again as JPEG"
    if row.original_size and row.original_size != row.size:
        before, after = (f"{width} x {height}" for width, height in (row.original_size, row.size))
        changes = f"shrunk from {before} to {after} px and {changes}"
    if row.mask_path:
        by = "other software" if row.mask_method == store.IMPORTED else f"the method {row.mask_method}"
        changes += f"; a mask of the object was made by {by}"
    return Credit(
        image=f"{row.class_name}/{Path(row.path).stem}",
        title=one_line(at.title),
        author=one_line(at.author),
        author_url=_link(at.author_url),
        source_url=_link(at.page_url) or _link(at.image_url),
        source=first_source(at)[0],
        license=one_line(at.license) or UNKNOWN_LICENCE,
        license_url=_link(at.license_url),
        changes=changes,
    )


def _link(text: str | None) -> str:
    """The address if it may stand behind a link: never ``javascript:`` or a file of this machine."""
    return text if text and is_web_address(text) else ""


def table(name: str, credits: Sequence[Credit]) -> str:
    """The lines as CSV, in the order of the fields of ``Credit``."""
    return csv_text(Credit.__dataclass_fields__, map(astuple, credits))


def markdown(name: str, credits: Sequence[Credit]) -> str:
    """The lines as Markdown, one list a class."""
    lines = [f"# Images of {_escaped(name)}", "", _summary(credits), ""]
    for class_name, members in groupby(credits, _class_of):
        items = [f"- {_sentence(item, _markdown_link, _escaped)}" for item in members]
        lines += [f"## {_escaped(class_name)}", "", *items, ""]
    return "\n".join(lines)


def page(name: str, credits: Sequence[Credit]) -> str:
    """The lines as an HTML page without scripts, one list a class."""
    title = f"Images of {html.escape(name)}"
    lines = [
        "<!DOCTYPE html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head><body>',
        f"<h1>{title}</h1>",
        f"<p>{html.escape(_summary(credits))}</p>",
    ]
    for class_name, members in groupby(credits, _class_of):
        items = [f"<li>{_sentence(item, _html_link, html.escape)}</li>" for item in members]
        lines += [f"<h2>{html.escape(class_name)}</h2>", "<ul>", *items, "</ul>"]
    return "\n".join([*lines, "</body></html>", ""])


def _class_of(item: Credit) -> str:
    return item.image.rpartition("/")[0]


def _sentence(item: Credit, link: Callable[[str, str], str], escape: Callable[[str], str]) -> str:
    """Title, author, source, licence, changes. ``link`` makes a link of text and address, ``escape`` plain text."""
    title = f'"{item.title}"' if item.title else "Untitled"
    author = link(item.author, item.author_url) if item.author else "an unknown author"
    licence = link(item.license, item.license_url)
    changes = escape(item.changes)
    return f"{link(title, item.source_url)} by {author}, from {escape(item.source)}, {licence}. Changes: {changes}."


def _markdown_link(text: str, url: str) -> str:  # round brackets would end the address of the link
    return f"[{_escaped(text)}]({url.replace('(', '%28').replace(')', '%29')})" if url else _escaped(text)


def _html_link(text: str, url: str) -> str:  # nofollow: strangers' addresses are no recommendation of ours
    return f'<a href="{html.escape(url)}" rel="nofollow">{html.escape(text)}</a>' if url else html.escape(text)


def _escaped(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text)


def _summary(credits: Sequence[Credit]) -> str:
    unknown = sum(item.license == UNKNOWN_LICENCE for item in credits)
    more = f" {unknown:,} of them have no known licence: ask their authors before you pass them on." if unknown else ""
    return f"{len(credits):,} images. Each was changed as its line says.{more}"
