"""A dataset card: what a web dataset is, where it came from, what may be done with it, and what is weak about it.

``write_card`` writes a folder that can be published as it is. It holds no image of the dataset except small copies
of those whose licence allows that; the images themselves are listed in a manifest, from which everybody fetches them.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from wss_data.errors import StoreError
from wss_data.filtering.filters import DROPPED, KEPT
from wss_data.imaging.sheets import DatasetImage, pair_tile, spread, write_histograms, write_sheet
from wss_data.reading.cells import csv_text
from wss_data.records import stem_of
from wss_data.runtime.files import write_json, write_text
from wss_data.sharing.attribution import credit, markdown
from wss_data.sharing.card_content import Facts, card_text, dataset_facts
from wss_data.sharing.croissant import croissant
from wss_data.sharing.layouts.base import new_folder
from wss_data.sharing.layouts.huggingface import front_matter
from wss_data.sharing.manifest import MANIFEST_FILE, ManifestImage, write_manifest
from wss_data.store.provenance import ImageRow, image_rows

if TYPE_CHECKING:
    from wss_data.store.types import Dataset

Shown = Literal["licensed", "all", "none"]

SHOWN: tuple[Shown, ...] = get_args(Shown)

PER_CLASS = 6  # images of a class in the overview

# SPDX identifiers up to the version: CC BY-NC and CC BY-ND do not match, as a letter follows where a digit must.
_FREE = re.compile(r"(CC0-\d|CC-PDM-\d|PDM-\d|CC-BY-\d|CC-BY-SA-\d|LAL-|OGL-)")


@dataclass(frozen=True)
class WrittenCard:
    """What was written; prints as a few lines."""

    folder: Path
    images: int  # in the manifest
    shown: int  # in the card
    hidden: int  # kept images whose licence is not known or does not allow to show them
    without_url: int  # images that nobody can fetch

    def __str__(self) -> str:
        lines = [f"card of {self.images:,} images written to {self.folder}: README.md, croissant.json, a manifest."]
        if self.hidden:
            lines.append(
                f"{self.shown:,} images are shown; {self.hidden:,} could not be, because their licence is not known or "
                "does not allow it. If they are yours to show: --pictures all."
            )
        if self.without_url:
            lines.append(
                f"{self.without_url:,} images have no address on the web: nobody can fetch them from the manifest. "
                "Hand them on with `wss-data export`, if you may."
            )
        return "\n".join(lines)


def may_be_shown(licence: str | None) -> bool:
    """Whether a shrunk copy of an image under this licence may be published by anybody who names its author.

    Public domain, CC BY, CC BY-SA and their like. Not those without derivatives (a mask drawn over an image is one) or
    for non-commercial use only (nobody here knows who publishes the card), and not an unknown licence.

    >>> [may_be_shown(licence) for licence in ("CC-BY-SA-4.0", "CC-BY-NC-2.0", None)]
    [True, False, False]
    """
    return licence is not None and _FREE.match(licence) is not None


def write_card(
    dataset: "Dataset", folder: Path | str, shown: Shown = "licensed", masks: bool = False, url: str | None = None
) -> WrittenCard:
    """Write the card of a web dataset, and beside it all that others need to build the dataset again.

    ``README.md`` (the card; Hugging Face's Hub reads its head), ``croissant.json``, ``manifest.jsonl.gz``,
    ``images.csv`` (the manifest as a table), ``CREDITS.md``, ``ledger.json``, and sheets.

    Args:
        dataset: A web dataset.
        folder: Missing or empty.
        shown: Images that the card may show: ``licensed`` for those whose licence allows it, ``all``, or ``none``.
        masks: Whether the manifest holds the masks, too.
        url: Where the card will be published, for ``croissant.json``.

    Raises:
        StoreError: If it is no web dataset or an empty one, the folder is not empty, or ``shown`` is something else.
    """
    if shown not in SHOWN:
        raise StoreError(f"images shown are '{shown}'. Known: {', '.join(SHOWN)}.")
    rows = image_rows(dataset, "described in a card")
    if not rows:
        raise StoreError(f"dataset '{dataset.name}' has no images yet, so that a card has nothing to say.")
    facts = dataset_facts(dataset, rows)
    may = {"all": lambda licence: True, "licensed": may_be_shown, "none": lambda licence: False}[shown]
    allowed = [row for row in facts.kept if may(row.provenance.license)]
    with new_folder(Path(folder)) as out:
        manifest = write_manifest(dataset, out / MANIFEST_FILE, masks, rows)
        write_text(out / "images.csv", image_table(manifest.listed))
        credits = [credit(row) for row in facts.kept]
        write_text(out / "CREDITS.md", markdown(dataset.name, credits))
        write_json(out / "ledger.json", facts.ledger.to_dict())
        examples = _write_sheets(facts, allowed, out / "pictures")
        # The table is what loads by itself; the images are fetched with `wss-data rebuild`.
        configs = [{"config_name": "default", "data_files": "images.csv"}]
        licences = {licence for licence, _ in facts.licences} or {None}
        head = front_matter(facts.name, licences, len(rows), configs)
        write_text(out / "README.md", f"{head}\n{card_text(facts, credits=[credit(row) for row in examples])}")
        # Last: it holds the digests of the other files.
        write_json(out / "croissant.json", croissant(facts, out, IMAGE_COLUMNS, url))
    return WrittenCard(Path(folder), len(rows), len(examples), len(facts.kept) - len(allowed), manifest.without_url)


def _write_sheets(facts: Facts, allowed: Sequence[ImageRow], folder: Path) -> list[ImageRow]:
    """Write ``foreground_ratio.png`` and, of allowed images, ``examples.png``; returns the images shown."""
    by_class: dict[str, list[DatasetImage]] = {}
    for row in facts.rows:
        known = (row.class_name, row.path, row.mask_path, row.foreground_ratio, KEPT in row.tags)
        image = DatasetImage(*known, ignore_index=facts.spec.ignore_index)
        by_class.setdefault(row.class_name, []).append(image)
    filters = facts.filters
    write_histograms(by_class, folder / "foreground_ratio.png", (filters.min_foreground, filters.max_foreground))
    by_path = {row.path: row for row in allowed}
    groups, shown = [], []
    for name, members in by_class.items():
        chosen = spread([member for member in members if member.image_path in by_path], PER_CLASS)
        if chosen:
            # Width and height in pixels: enough to see what is there, too little to use in place of the image.
            groups.append((name, [pair_tile(member, (150, 115)) for member in chosen]))
            shown += [by_path[member.image_path] for member in chosen]
    if groups:
        note = "Kept images, sorted by foreground fraction, taken at even steps. Above the image, below its foreground."
        write_sheet(folder / "examples.png", f"{facts.name}: {len(by_path):,} kept images", note, groups)
    return shown


def image_table(images: Iterable[ManifestImage]) -> str:
    """The images of a manifest as CSV: one line an image, for people, spreadsheets and ``croissant.json``."""
    rows = []
    for image in images:
        at = image.provenance
        reasons = " ".join(tag.removeprefix(DROPPED) for tag in image.tags if tag.startswith(DROPPED))
        rows.append(
            (
                *(f"{image.class_name}/{stem_of(image.sha256)}", image.class_name, image.sha256, image.phash),
                *(image.size or ("", "")),
                *(getattr(at, name) for name in _OF_PROVENANCE),
                at.retrieved_at.isoformat() if at.retrieved_at else None,
                *("yes" if KEPT in image.tags else "no", reasons, image.verdict),
            )
        )
    return csv_text(IMAGE_COLUMNS, rows)


_OF_PROVENANCE = (
    *("source", "source_id", "image_url", "page_url"),
    *("title", "author", "author_url", "license", "license_url"),
)
IMAGE_COLUMNS = (
    *("image", "class", "sha256", "phash", "width", "height", *_OF_PROVENANCE),
    *("retrieved_at", "kept", "dropped", "verdict"),
)
"""Columns of ``images.csv``; width and height are those of the original, in pixels."""
