"""Datasets in FiftyOne's own layout, with all fields: written to a folder, and added from one."""

from pathlib import Path
from typing import TYPE_CHECKING

from wss_data.spec import DatasetSpec
from wss_data.store.connection import fiftyone
from wss_data.store.info import TAG, update

if TYPE_CHECKING:
    import fiftyone as fo


def export_whole(view: "fo.DatasetView", folder: Path) -> None:
    """Write images, masks and all fields of a view to a folder that does not exist yet."""
    view.export(export_dir=str(folder), dataset_type=fiftyone().types.FiftyOneDataset, progress=False)


def add_whole(dataset: "fo.Dataset", folder: Path, spec: DatasetSpec) -> None:
    """Add what ``export_whole`` wrote of a web dataset, built by ``spec``, to a dataset without images.

    For what this machine wrote itself: FiftyOne takes every path, field and name in such a folder as it stands.
    """
    # A view was exported, and with a view no saved views are; FiftyOne then takes away those that are here.
    views = {name: dataset.load_saved_view(name) for name in dataset.list_saved_views()}
    dataset.add_dir(dataset_dir=str(folder), dataset_type=fiftyone().types.FiftyOneDataset, progress=False)
    for name, view in views.items():
        dataset.save_view(name, view, overwrite=True)
    # That of the manifest, which was checked; what FiftyOne's own file says could name a program to run.
    update(dataset, definition=spec.to_dict())
    # FiftyOne hands tags of the exported dataset on to its images.
    dataset.untag_samples(TAG)
    dataset.tags = sorted({*dataset.tags, TAG})
    dataset.save()
