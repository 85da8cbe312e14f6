"""This repository as a dataset of FiftyOne's zoo: built where it is loaded, kept in the zoo's own folder.

``datasets/zoo`` holds what FiftyOne looks for; it calls the two functions here.
"""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from wss_data import store
from wss_data.errors import SourceError
from wss_data.pipeline import build
from wss_data.runtime.home import dataset_folder
from wss_data.sharing.export import export_dataset
from wss_data.sharing.manifest import read_manifest
from wss_data.sharing.rebuild import rebuild
from wss_data.spec import DatasetSpec, read_spec
from wss_data.store.interchange import add_whole

if TYPE_CHECKING:
    from wss_data.store.types import Dataset


def prepare(folder: Path | str, definition: str = "drawn", manifest: str | None = None) -> tuple[None, int, list[str]]:
    """Build the kept images and masks of a definition or of a published manifest into the zoo's folder, unless there.

    Args:
        folder: The zoo's folder for this repository.
        definition: Name of a definition that comes with the package, or the path of one.
        manifest: A manifest to build again instead.

    Returns:
        What FiftyOne asks for: no type of its own, the number of images, the classes.
    """
    spec = _spec(definition, manifest)
    place = _place(folder, spec)
    if not place.is_dir():
        if manifest is not None:
            # No other call uses this name, so that the working copy can be removed below.
            rebuild(manifest, _working_name(spec))
        else:
            build(replace(spec, name=_working_name(spec)))
        working = store.open_dataset(_working_name(spec))
        export_dataset(working, place, layout="fiftyone")
        # The export holds all of it: two copies would be twice the disk.
        working.delete()
        shutil.rmtree(dataset_folder(_working_name(spec)), ignore_errors=True)  # after the records that name it
    samples = json.loads((place / "samples.json").read_text(encoding="utf-8"))["samples"]
    return None, len(samples), list(spec.class_names)


def load(dataset: "Dataset", folder: Path | str, definition: str = "drawn", manifest: str | None = None) -> None:
    """Add what ``prepare`` built, given the same arguments, to an empty dataset of FiftyOne, which becomes one of ours.

    Raises:
        SourceError: If it was not prepared.
    """
    spec = _spec(definition, manifest)
    place = _place(folder, spec)
    if not place.is_dir():
        raise SourceError(
            f"{place}: '{spec.name}' is not there yet. Let fiftyone.zoo.load_zoo_dataset download it, with the same "
            "definition or manifest."
        )
    add_whole(dataset, place, spec)


def _spec(definition: str, manifest: str | None) -> DatasetSpec:
    return read_spec(definition) if manifest is None else read_manifest(manifest, masks=False).spec


def _place(folder: Path | str, spec: DatasetSpec) -> Path:
    return Path(folder) / _working_name(spec)


def _working_name(spec: DatasetSpec) -> str:
    """A name that no other definition has: changed, it is another dataset."""
    digest = hashlib.sha256(json.dumps(spec.to_dict(), sort_keys=True).encode()).hexdigest()
    return f"zoo-{spec.name}-{digest[:12]}"  # 48 bits: enough among one user's definitions
