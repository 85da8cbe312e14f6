"""Which datasets the database holds and how many images they have, read as MongoDB has it, mostly without FiftyOne.

What only reads names, counts and plain values asks here: importing FiftyOne takes seconds.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from wss_data.errors import StoreError
from wss_data.filtering.filters import KEPT
from wss_data.store.connection import correct_count, fiftyone, fiftyone_version, mongodb, samples_of
from wss_data.store.info import TAG, Kind, class_names, info_of
from wss_data.store.types import Dataset

LOGGER = logging.getLogger(__name__)

# Of the datasets that FiftyOne lists: it makes others for itself, and leaves records without a name behind.
_LISTED = {"sample_collection_name": {"$regex": r"^samples\."}, "name": {"$type": "string"}}


class DatasetRow(NamedTuple):
    """One line of the list of datasets: name, kind, images, those kept (web) and class names."""

    name: str
    kind: Kind
    images: int
    kept: int
    classes: tuple[str, ...]


@dataclass(frozen=True)
class StoredDataset:
    """What the database says of a dataset of ours, under the names that ``fiftyone.Dataset`` has for it."""

    name: str
    info: dict[str, Any]
    _sample_collection_name: str


def dataset_exists(name: str) -> bool:
    """Whether the database holds a dataset of that name, ours or not."""
    return mongodb().datasets.find_one({"name": name}, {"_id": 1}) is not None


def known_names() -> list[str]:
    """Names of the datasets with our tag, in order."""
    return sorted(mongodb().datasets.distinct("name", {**_LISTED, "tags": TAG}))


def list_datasets() -> list[DatasetRow]:
    """The datasets that were made by this package, by name."""
    rows = []
    for dataset in _tagged():
        # Anybody can set a tag.
        if TAG in dataset.info:
            try:
                info = info_of(dataset)
            except StoreError as error:  # the others are listed all the same
                LOGGER.warning("%s", error)
                continue
            kept = samples_of(dataset).count_documents({"tags": KEPT})
            rows.append(DatasetRow(dataset.name, info["kind"], correct_count(dataset), kept, class_names(dataset)))
    return rows


def _tagged() -> Iterator[StoredDataset | Dataset]:
    """The datasets with our tag, by name."""
    fields = ("name", "info", "version", "sample_collection_name")
    for row in list(mongodb().datasets.find({**_LISTED, "tags": TAG}, fields).sort("name")):
        name, info = row["name"], row.get("info")
        if row.get("version") == fiftyone_version():
            yield StoredDataset(name, info if isinstance(info, dict) else {}, row["sample_collection_name"])
        else:
            yield fiftyone().load_dataset(name)  # which brings it up to date, or says why not
