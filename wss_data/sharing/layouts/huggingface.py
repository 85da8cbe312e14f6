"""The layout that Hugging Face's ``datasets`` loads by itself: an image folder with a table, and a README.

Nothing of Hugging Face is needed to write it, and a person can look into it: images and masks stay files.

Source:
    https://huggingface.co/docs/datasets/image_dataset (``metadata.jsonl``; a column ``mask_file_name`` becomes the
    image column ``mask``).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from wss_data.imaging.masks import mask_names
from wss_data.runtime.files import write_json, write_text
from wss_data.sharing.layouts.base import Contents, ExportRow, copy_image, copy_mask
from wss_data.sharing.layouts.coco import provenance_values

SPLITS = {"kept": "train"}  # our name of a split -> the name that `datasets` expects; others stay

# https://huggingface.co/docs/hub/datasets-cards, `size_categories`
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def write_huggingface(contents: Contents, folder: Path) -> None:
    """Write a folder that ``datasets.load_dataset(FOLDER)`` loads.

    ``data/<split>/metadata.jsonl`` beside ``images/<name>.jpg`` and ``masks/<name>.png`` (palette, values are the
    class indices), ``README.md`` and ``id2label.json``. Images of the split ``kept`` become ``train``.
    """
    files, masked = [], set()
    for split, rows in contents.splits().items():
        split = SPLITS.get(split, split)
        place = folder / "data" / split
        # A column of images without one image has no type, and `datasets` would refuse it.
        masks = any(row.mask_path for row in rows)
        masked.add(masks)
        files.append({"split": split, "path": f"data/{split}/**"})
        for row in rows:
            copy_image(row.image_path, place / "images" / f"{row.name}.jpg")
            copy_mask(row.mask_path, place / "masks" / f"{row.name}.png")
        lines = "".join(json.dumps(_line(row, masks), ensure_ascii=False) + "\n" for row in rows)
        write_text(place / "metadata.jsonl", lines)
    if len(masked) == 1:
        configs: list[dict[str, Any]] = [{"config_name": "default", "data_files": files}]
    else:  # splits of one configuration must have the same columns
        configs = [{"config_name": file["split"], "data_files": [file]} for file in files]
    values = mask_names(contents.classes, contents.ignore_index)
    write_json(folder / "id2label.json", {str(value): text for value, text in values.items()})
    licences = {row.provenance.license if row.provenance else None for row in contents.rows}
    head = front_matter(contents.name, licences, len(contents.rows), configs)
    body = contents.card or f"# {contents.name}\n\n{columns_note(contents.classes, contents.ignore_index)}"
    write_text(folder / "README.md", f"{head}\n{body}")


def _line(row: ExportRow, masks: bool) -> dict[str, Any]:
    line: dict[str, Any] = {"file_name": f"images/{row.name}.jpg"}
    if masks:
        line["mask_file_name"] = None if row.mask_path is None else f"masks/{row.name}.png"
    line["labels"] = list(row.labels)
    if row.sha256:
        line["sha256"] = row.sha256
    return line | dict(row.mask_facts) | (provenance_values(row.provenance) if row.provenance else {})


def columns_note(classes: Sequence[str], ignore_index: int) -> str:
    """What the columns mean and how to load them, as Markdown."""
    values = ", ".join(f"{value} {name}" for value, name in mask_names(classes, ignore_index).items())
    return (
        "```python\nimport datasets\n\nimages = datasets.load_dataset(FOLDER)\n```\n\n"
        f"`mask` holds class indices: {values}. Read it without converting it to "
        "RGB: `numpy.array(row['mask'])`. `labels` are the classes that an image was searched for or is said to show.\n"
    )


def front_matter(name: str, licences: set[str | None], images: int, configs: Sequence[Mapping[str, Any]]) -> str:
    """The head of a README, by which the Hub and ``datasets`` know what is there: YAML between two ``---``.

    Args:
        name: Of the dataset.
        licences: As in ``licence_keys``.
        images: Their number.
        configs: Which files ``datasets`` loads.
    """
    head = {
        "pretty_name": name,
        **licence_keys(licences),
        "task_categories": ["image-segmentation"],
        "tags": ["weakly-supervised"],
        "size_categories": [size_category(images)],
        "configs": configs,
    }
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n"


def licence_keys(licences: set[str | None]) -> dict[str, str]:
    """The Hub's keys for the licence: one if all images share it, else ``other``. ``None`` is a licence not known.

    >>> licence_keys({"CC0-1.0"})
    {'license': 'cc0-1.0'}
    >>> licence_keys({"CC0-1.0", None})
    {'license': 'other', 'license_name': 'mixed', 'license_link': 'README.md'}
    """
    if len(licences) == 1 and (only := next(iter(licences))) is not None:
        return {"license": only.lower()}
    return {"license": "other", "license_name": "mixed", "license_link": "README.md"}


def size_category(count: int) -> str:
    """The Hub's word for a number of images.

    >>> size_category(999), size_category(1_000)
    ('n<1K', '1K<n<10K')
    """
    return next((word for limit, word in _SIZES if count < limit), "n>1M")
