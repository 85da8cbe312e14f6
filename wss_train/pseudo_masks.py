"""Eq. 2 over the target dataset: masks for images of which only the image-level labels are known."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from wss_data import store
from wss_data.errors import TrainingDataError
from wss_data.imaging.masks import write_mask
from wss_data.reading import checked
from wss_data.records import ExampleTable, mask_basis
from wss_data.runtime.files import (
    WRITTEN,
    adopt,
    check_outputs,
    digests_of,
    output_folder,
    output_path,
    write_json,
)
from wss_data.runtime.home import dataset_folder
from wss_train.data import as_table, check_imported
from wss_train.labelling import LabelledImage, Labeller, LabellingOptions, Presence, open_labeller

if TYPE_CHECKING:
    from wss_train.data import Examples

MADE_BY = "made_by.json"
"""Says in a folder of masks what made them; masks made by something else are thrown away, the same ones are kept."""


def make_pseudo_masks(
    checkpoint: Path | str,
    target: "Examples",
    out: Path | str | None = None,
    *,
    field: str = "pseudo_mask",
    **options: Unpack[LabellingOptions],
) -> ExampleTable:
    """Make a mask for every image of a dataset from a model and the images' labels.

    Of a target dataset that is step 5 of the method. A web dataset may be given, too: each image's class is its label,
    and what the model learned from all groups together says which of its pixels are the class. Images that the filter
    dropped for the mask in use get one, too. Compare and adopt such masks as those of another co-segmentation.

    Masks go to disk one by one; interrupted and started again, those that the same model made of the same image and
    labels with the same settings are kept.

    Args:
        checkpoint: The mask generator: run folder or ``model.safetensors``.
        target: FiftyOne dataset or view, such as ``target.match_tags("train")``, or a table; or a web dataset.
        out: Folder for the masks. ``None``: the dataset's own folder, below ``field``; a table needs a folder.
        field: Field that receives the masks, where ``target`` is a FiftyOne dataset or view; of a web dataset a name
            such as ``cosegmentation_all_groups``.
        **options: See ``LabellingOptions``; scales and CRF are the recipe's by default (the paper: no CRF).

    Returns:
        The images with their new masks, ready for ``train_final``.

    Raises:
        CheckpointError: If the model is missing or knows other classes than the dataset.
        StoreError: If a web dataset cannot have masks in a field of that name.
        TrainingDataError: If an image has no label, cannot be read, or is not the one that was imported.

    Source:
        Shen et al., BMVC 2017, section 3.2 and eq. (2). Of web images: Shen et al., Bootstrapping the Performance of
        Webly Supervised Semantic Segmentation, CVPR 2018; ours: the labels constrain, and no model is trained anew.
    """
    web = not isinstance(target, ExampleTable) and store.kind_of(target) == "web"
    if web:
        store.check_new_field(field)
    table = as_table(store.in_groups(target) if web else target, None, include_dropped=web)
    without = [name for name, labels in zip(table.ids, table.labels, strict=True) if not labels.any()]
    if without:
        first = ", ".join(without[:5]) + (", ..." if len(without) > 5 else "")
        raise TrainingDataError(
            f"{len(without)} of {len(table)} images have no image-level label ({first}); "
            f"every image needs at least one of {', '.join(table.classes)}, or its mask would be all background. "
            "Take their lines out of the list of images, or add their labels, and import the target again."
        )
    if out is None and isinstance(target, ExampleTable):
        raise TrainingDataError("a table has no folder of its own for masks: give one with out=FOLDER.")
    labeller = open_labeller(checkpoint, options, table.classes, by_recipe=True)
    folder = Path(out) if out is not None else dataset_folder(table.source) / field
    if web and out is None:
        # Masks that another model or other settings made may be those in use by now.
        made_by = json.dumps(_made_by(labeller, table.classes))
        folder /= hashlib.sha256(made_by.encode()).hexdigest()[:12]
    allowed = np.column_stack([np.ones(len(table), bool), np.asarray(table.labels, bool)])
    paths, bases = write_masks(labeller, table, folder, "pseudo masks", allowed)
    ledger = labeller.card.ledger.merged_with(table.ledger)
    if web:
        store.set_model_masks(store.open_dataset(table.source), field, paths, ledger)
    elif not isinstance(target, ExampleTable):
        store.set_target_masks(store.open_dataset(table.source), field, paths, ledger, bases=bases)
    return replace(table, mask_paths=tuple(map(str, paths.values())), ledger=ledger)


def write_masks(
    labeller: Labeller, table: ExampleTable, folder: Path, what: str, allowed: np.ndarray | None = None
) -> tuple[dict[str, Path], dict[str, str]]:
    """Write the masks of a table's images into a folder of their own; those that the same call made before are kept.

    Args:
        labeller: Makes them.
        table: The images; their labels count as what the masks are made from.
        folder: Receives ``<id>.png``, and a note of what made them.
        what: Text beside the progress bar, and in an error.
        allowed: Which classes each image may show, background first. Shape (N, C + 1), bool; ``None`` for all.

    Returns:
        Id -> mask, and id -> ``mask_basis`` of its image and labels.

    Raises:
        TrainingDataError: If an image cannot be read, or is not the one that was imported, or the folder holds files of
            somebody else.
    """
    paths = {name: folder / f"{name}.png" for name in table.ids}
    made_by = _made_by(labeller, table.classes)
    digests = digests_of(table.image_paths)
    check_imported(table, digests)
    bases = {name: mask_basis(digests[row], table.labels_of(row)) for row, name in enumerate(table.ids)}
    with output_folder(folder):
        _prepare(folder, paths, made_by, bases)
        missing = [row for row, path in enumerate(paths.values()) if not path.is_file()]

        def write(result: LabelledImage) -> None:
            if result.mask is None:
                raise TrainingDataError(f"no mask can be made: {result.error}")
            with output_path(paths[table.ids[missing[result.position]]]) as temporary:
                write_mask(result.mask, temporary)

        images = [table.image_paths[row] for row in missing]
        may_show = None if allowed is None else lambda position: allowed[missing[position]]
        for _ in labeller.label(images, write, what, may_show):
            pass
    return paths, bases


def _made_by(labeller: Labeller, classes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "model": labeller.fingerprint,
        **asdict(labeller.settings),
        "crf": asdict(labeller.crf) if labeller.crf else None,
        **({"presence": labeller.presence} if labeller.presence != Presence() else {}),
        "classes": classes,
    }


def _prepare(folder: Path, paths: Mapping[str, Path], made_by: dict[str, Any], bases: Mapping[str, str]) -> None:
    """Keep the masks that the same model and settings made of the same images and labels, remove the others.

    Masks of images that are not in ``paths`` are left alone.
    """
    note = folder / MADE_BY
    wanted = json.loads(json.dumps(made_by))  # as the note holds it: tuples become lists
    if not note.is_file() and folder.exists() and any(path.name != WRITTEN for path in folder.iterdir()):
        raise TrainingDataError(
            f"{folder}: the folder holds files that were not made here. Masks need a folder of their own; "
            "name another one with --out."
        )
    known = checked.note(note)
    known = known if isinstance(known, dict) else {}
    if known:
        adopt(paths.values())  # of a folder that a release before lists of written files made
    before = known.pop("made_from", {})
    if known != wanted or not isinstance(before, dict):
        before = {}
    good = {name: basis for name, basis in before.items() if bases.get(name, basis) == basis}
    stale = [paths[name] for name in paths if name not in good]
    if not stale:
        return
    check_outputs(stale)
    # Killed among the removals, the next call must neither take what is left for its own nor for somebody else's.
    write_json(note, {**wanted, "made_from": good})
    for path in stale:
        path.unlink(missing_ok=True)
    write_json(note, {**wanted, "made_from": dict(sorted({**good, **bases}.items()))})
