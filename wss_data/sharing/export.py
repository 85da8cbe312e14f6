"""A dataset as a folder for other tools, in each layout."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from wss_data import store
from wss_data.errors import StoreError
from wss_data.records import ExampleTable
from wss_data.runtime.files import write_text
from wss_data.sharing.card_content import card_text, dataset_facts
from wss_data.sharing.layouts import write_layout
from wss_data.sharing.layouts.base import Contents, ExportRow, copy_file, new_folder
from wss_data.sharing.manifest import MANIFEST_FILE, ManifestImage, public_definition, public_ledger, write_manifest
from wss_data.store.info import TAG
from wss_data.store.interchange import export_whole
from wss_data.store.provenance import image_rows
from wss_data.store.verdicts import verdict_file

if TYPE_CHECKING:
    from wss_data.store.types import Collection, Dataset

Layout = Literal["voc", "folders", "coco", "huggingface", "fiftyone", "yolo", "yolo-semantic", "cvat", "label-studio"]

LAYOUTS: tuple[Layout, ...] = get_args(Layout)


def export_dataset(
    dataset: "Dataset", folder: Path | str, layout: Layout = "voc", mask_field: str | None = None
) -> int:
    """Write the images that are in use, and their masks, to a new folder; with those of a web dataset its manifest.

    ``wss_data.import_dataset`` makes a dataset of the layout ``voc`` again, ``wss_data.import_masks`` takes masks back
    from the two label tools.

    Args:
        dataset: A dataset of ours: of a web dataset the kept images, of a target dataset those not dropped.
        folder: Missing or empty; it is either whole or not there.
        layout: ``voc``; ``folders`` (``images/<class>``, ``masks/<class>``); ``coco`` (masks as run lengths);
            ``huggingface`` (opens with ``datasets.load_dataset``); ``fiftyone`` (all fields; opens with
            ``fiftyone.Dataset.from_dir``); ``yolo`` (polygons) and ``yolo-semantic`` (masks of indices), for
            Ultralytics; or ``cvat`` and ``label-studio``, to correct the masks there.
        mask_field: Field of the masks; by default ``cosegmentation``, or ``ground_truth`` of a target dataset.

    Returns:
        Number of images written.

    Raises:
        StoreError: If the folder is not empty, the layout is unknown, or there is no such field.
        TrainingDataError: If no image is in use.
        ImageError, MaskError: If a file that has to be read cannot be.
    """
    is_web = store.kind_of(dataset) == "web"
    if layout not in LAYOUTS:
        raise StoreError(f"there is no layout '{layout}'. Known: {', '.join(LAYOUTS)}.")
    field = mask_field or (store.MASKS if is_web else store.GROUND_TRUTH)
    with_masks = store.example_table(dataset, field)
    table = with_masks if is_web else store.example_table(dataset, None)
    view = dataset.select_by("image_id", table.ids)
    with new_folder(Path(folder)) as out:
        if layout == "fiftyone":
            out.rmdir()  # FiftyOne makes it, and would say that it is there
            export_whole(view, out)
            _take_out_what_is_private(out / "metadata.json")
        rows = image_rows(dataset) if is_web else []
        # What the manifest says is what may be published: no path of this machine is in it.
        published: dict[str, ManifestImage] = {}
        if is_web:
            listed = write_manifest(dataset, out / MANIFEST_FILE, rows=rows).listed
            published = {row.path: image for row, image in zip(rows, listed, strict=True)}
            if (verdicts := verdict_file(dataset)).is_file():
                copy_file(verdicts, out / verdicts.name)
        if layout == "fiftyone":
            return len(table)
        # Here the truth is passed on, not learned from: it keeps the use that it was imported for.
        ledger = public_ledger(store.mask_ledger(dataset, field).merged_with(table.ledger))
        exported = _rows(view, table, with_masks, field, layout, published)
        card = card_text(dataset_facts(dataset, rows), with_images=True) if is_web and layout == "huggingface" else None
        contents = Contents(exported, table.classes, ledger, table.ignore_index, dataset.name, card)
        write_layout(layout, contents, out)
    return len(table)


def _take_out_what_is_private(metadata: Path) -> None:
    """Leave in FiftyOne's file what a manifest would say of the definition."""
    value = json.loads(metadata.read_text(encoding="utf-8"))
    info = value["info"][TAG]
    info["definition"] = {"name": info["definition"]["name"], **public_definition(info["definition"])}
    for key in ("source_folder", "image_folders"):  # folders of this machine
        info.pop(key, None)
    write_text(metadata, json.dumps(value))


def _rows(
    view: "Collection",
    table: ExampleTable,
    with_masks: ExampleTable,
    field: str,
    layout: Layout,
    published: Mapping[str, ManifestImage],
) -> tuple[ExportRow, ...]:
    """The rows of an export, in the order of ``table``. ``published``: by file, what the manifest says of an image."""
    tags = dict(zip(*view.values(["image_id", "tags"]), strict=True))
    # Fewer than the images: those of a target without a mask are written, too.
    masks = dict(zip(with_masks.ids, with_masks.mask_paths, strict=True))
    facts = _mask_facts(view, field) if published else {}
    rows = []
    for position, (key, path) in enumerate(zip(table.ids, table.image_paths, strict=True)):
        image = published.get(path)
        split = next((tag for tag in ("train", "val", "test") if tag in tags[key]), "other")
        rows.append(
            ExportRow(
                # Class and stem: on the web two classes may hold the same photograph.
                name=Path(key).name if layout == "folders" else key.replace("/", "_"),
                image_path=Path(path),
                mask_path=Path(mask) if (mask := masks.get(key)) else None,
                labels=tuple(table.labels_of(position)),
                split="kept" if published else split,
                sha256=image.sha256 if image else None,
                provenance=image.provenance if image else None,
                mask_facts=facts.get(key, {}),
                **({"without_label": image.class_name} if image else {}),
            )
        )
    return tuple(rows)


def _mask_facts(view: "Collection", field: str) -> dict[str, Mapping[str, Any]]:
    """What is known of each image's mask in ``field``: image id -> name -> value."""
    columns = {"method": f"{field}.method"}
    if field == store.MASKS:
        columns |= {"confidence": "confidence", "foreground_ratio": "foreground_ratio"}
        schema = view.get_field_schema(flat=True)
        columns |= {name: name for name in sorted(schema) if name.startswith("quality.")}
    columns = {name: path for name, path in columns.items() if view.has_field(path)}
    if not columns:
        return {}  # a field that somebody made in FiftyOne: nothing is known of its masks
    ids, *values = view.values(["image_id", *columns.values()])
    return {key: dict(zip(columns, row, strict=True)) for key, row in zip(ids, zip(*values, strict=True), strict=True)}
