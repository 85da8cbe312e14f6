"""A dataset card: what a web dataset is, where it came from, what may be done with it, and what is weak about it.

``write_card`` writes a folder that can be published as it is. It holds no image of the dataset except small pictures
of those whose licence allows that; the images themselves are listed in a manifest, from which everybody fetches them.
"""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import yaml

from wss_data.errors import StoreError
from wss_data.filtering.filters import DROPPED, KEPT
from wss_data.reading.cells import text_cell
from wss_data.runtime.files import write_json, write_text
from wss_data.sharing.attribution import credit, write_attribution
from wss_data.sharing.card_content import card_text
from wss_data.sharing.card_facts import Facts, dataset_facts
from wss_data.sharing.croissant import croissant
from wss_data.sharing.layouts.base import new_folder
from wss_data.sharing.layouts.huggingface import licence_keys, size_category
from wss_data.sharing.manifest import Manifest, first_source, read_manifest, write_manifest
from wss_data.spec import FilterSpec

if TYPE_CHECKING:
    from wss_data.store.provenance import ImageRow
    from wss_data.store.types import Dataset

Shown = Literal["licensed", "all", "none"]

SHOWN: tuple[Shown, ...] = get_args(Shown)

PER_CLASS = 6
"""Images of a class in the card's picture."""

_FREE = re.compile(r"(CC0-\d|CC-PDM-\d|PDM-\d|CC-BY-\d|CC-BY-SA-\d|LAL-|OGL-)")


@dataclass(frozen=True)
class WrittenCard:
    """What was written; prints as a few lines.

    Args:
        folder: The card's folder.
        images: Images listed in the manifest.
        shown: Images shown in the picture.
        hidden: Kept images that were not to be shown, because their licence is not known or does not allow it.
        without_url: Images that nobody can fetch from the manifest.
    """

    folder: Path
    images: int
    shown: int
    hidden: int
    without_url: int

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

    Public domain, CC BY, CC BY-SA and their like. Not those without derivatives (a mask drawn over a picture is one) or
    for non-commercial use only (nobody here knows who publishes the card), and not an unknown licence.

    Args:
        licence: SPDX identifier, or ``None``.
    """
    return licence is not None and _FREE.match(licence) is not None


def write_card(
    dataset: "Dataset", folder: Path | str, pictures: Shown = "licensed", masks: bool = False, url: str | None = None
) -> WrittenCard:
    """Write the card of a web dataset, and beside it all that others need to build the dataset again.

    ``README.md`` (the card; Hugging Face's Hub reads its head), ``croissant.json``, ``manifest.jsonl.gz``,
    ``images.csv`` (the manifest as a table), ``CREDITS.md``, ``ledger.json``, and ``pictures``.

    Args:
        dataset: A web dataset.
        folder: Missing or empty; it is either whole or not there.
        pictures: Which images may be shown: ``licensed`` for those whose licence allows it, ``all``, or ``none``.
        masks: Whether the manifest holds the masks, too.
        url: Where the card will be published, for ``croissant.json``.

    Raises:
        StoreError: If it is no web dataset or an empty one, the folder is not empty, or ``pictures`` is something else.
    """
    from wss_data.store.provenance import image_rows

    if pictures not in SHOWN:
        raise StoreError(f"pictures is '{pictures}'. Known: {', '.join(SHOWN)}.")
    facts = dataset_facts(dataset)
    if not facts.images:
        raise StoreError(f"dataset '{dataset.name}' has no images yet, so that there is nothing to tell of it.")
    kept = [row for row in image_rows(dataset) if KEPT in row.tags]
    allowed = [
        row for row in kept if pictures == "all" or (pictures != "none" and may_be_shown(row.provenance.license))
    ]
    with new_folder(Path(folder)) as out:
        manifest = write_manifest(dataset, out / "manifest.jsonl.gz", masks=masks)
        listed = read_manifest(out / "manifest.jsonl.gz", masks=False)
        write_text(out / "images.csv", image_table(listed))
        write_attribution(dataset, out / "CREDITS.md")
        write_json(out / "ledger.json", listed.ledger.to_dict())
        shown = _write_pictures(dataset, allowed, out / "pictures")
        text = card_text(facts, credits=[credit(row) for row in shown])
        write_text(out / "README.md", f"{_front_matter(facts)}\n{text}")
        write_json(out / "croissant.json", croissant(facts, out, IMAGE_COLUMNS, url))
    return WrittenCard(Path(folder), len(listed.images), len(shown), len(kept) - len(allowed), manifest.without_url)


def _write_pictures(dataset: "Dataset", allowed: Sequence["ImageRow"], folder: Path) -> list["ImageRow"]:
    """Write ``foreground_ratio.png`` and, of allowed images, ``examples.png``; returns the images shown."""
    from wss_data import store
    from wss_data.imaging.pictures import pair_tile, spread, write_histograms, write_sheet
    from wss_data.pipeline import picture_rows

    rows = picture_rows(dataset)
    by_class: dict[str, list[Any]] = {}
    for row in rows:
        by_class.setdefault(row.class_name, []).append(row)
    write_histograms(by_class, folder / "foreground_ratio.png", store.applied_filters(dataset) or FilterSpec())
    known = {row.path: row for row in allowed}
    groups, shown = [], []
    for name, members in by_class.items():
        chosen = spread([member for member in members if member.image_path in known], PER_CLASS)
        if chosen:
            groups.append((name, [pair_tile(member, (150, 115)) for member in chosen]))
            shown += [known[member.image_path] for member in chosen]
    if groups:
        note = "Kept images, sorted by foreground share, taken at even steps. Above the image, below its foreground."
        write_sheet(folder / "examples.png", f"{dataset.name}: {len(known):,} kept images", note, groups)
    return shown


def image_table(manifest: Manifest) -> str:
    """The images of a manifest as CSV: one line an image, for people, spreadsheets and ``croissant.json``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(IMAGE_COLUMNS)
    for image in manifest.images:
        at, size = image.provenance, image.size or ("", "")
        source, source_id = first_source(at)
        reasons = " ".join(tag.removeprefix(DROPPED) for tag in image.tags if tag.startswith(DROPPED))
        values = [
            *(f"{image.class_name}/{image.sha256[:20]}", image.class_name, image.sha256, image.phash, *size),
            *(source, source_id, at.image_url, at.page_url, at.title, at.author, at.author_url),
            *(at.license, at.license_url, at.retrieved_at.isoformat() if at.retrieved_at else None),
            *("yes" if KEPT in image.tags else "no", reasons, image.verdict),
        ]
        writer.writerow([text_cell(value) for value in values])
    return text.getvalue()


IMAGE_COLUMNS = (
    *("image", "class", "sha256", "phash", "width", "height"),
    *("source", "source_id", "image_url", "page_url", "title", "author", "author_url"),
    *("license", "license_url", "retrieved_at", "kept", "dropped", "verdict"),
)
"""Columns of ``images.csv``; width and height are those of the original, in pixels."""


def _front_matter(facts: Facts) -> str:
    head = {
        "pretty_name": facts.name,
        **licence_keys({licence for licence, _ in facts.licences} or {None}),
        "task_categories": ["image-segmentation"],
        "tags": ["weakly-supervised"],
        "size_categories": [size_category(facts.images)],
        # The table is what loads by itself; the images are fetched with `wss-data rebuild`.
        "configs": [{"config_name": "default", "data_files": "images.csv"}],
    }
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n"
