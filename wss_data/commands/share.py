"""Commands of ``wss-data`` that hand a dataset on, and take one in that was handed on."""

import argparse
from pathlib import Path

from wss_data.commands.arguments import add_dataset


def add_share_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``export``, ``import-dataset`` and ``card``."""
    from wss_data.commands.cli import add_command

    add = add_command(
        commands,
        "export",
        _export,
        """\
        Write the kept images and their masks to a folder, for other tools.
        voc: PASCAL VOC's folders. folders: images/<class>, masks/<class>. coco: masks as run lengths (RLE).
        huggingface: what datasets.load_dataset reads. fiftyone: all fields, FiftyOne's own.""",
        "wss-data export drawn exported --layout voc",
    )
    add_dataset(add)
    add.add_argument("out", metavar="FOLDER", type=Path, help="where to write; must be empty or missing")
    add.add_argument(
        "--layout",
        default="voc",
        choices=["voc", "folders", "coco", "huggingface", "fiftyone"],
        help="layout of the folder (default: voc)",
    )
    add.add_argument(
        "--mask-field",
        metavar="FIELD",
        help="field of the masks (default: cosegmentation; of a target dataset ground_truth)",
    )

    add = add_command(
        commands,
        "import-dataset",
        _import_dataset,
        """\
        Make a web dataset of an export in the layout voc again: images, masks, labels, provenance, verdicts.
        Everything in the folder is checked first. Its masks count as imported: a later build leaves them alone.""",
        "wss-data import-dataset exported --name drawn-again",
    )
    add.add_argument("folder", metavar="FOLDER", type=Path, help="what `wss-data export --layout voc` wrote")
    add.add_argument("--name", help="name of the dataset (default: that of the exported one)")

    add = add_command(
        commands,
        "card",
        _card,
        """\
        Write a folder that can be published: what the dataset is, counts, sources, licences, dates, filters, known
        weaknesses, and a manifest by which others fetch the images. No image is in it but small pictures of those
        whose licence allows that.""",
        "wss-data card drawn --out drawn-card",
    )
    add_dataset(add)
    add.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="where to write; empty or missing")
    add.add_argument(
        "--pictures",
        default="licensed",
        choices=["licensed", "all", "none"],
        help="which images may be shown, small: those whose licence allows it, all (they are yours), or none "
        "(default: licensed)",
    )
    add.add_argument("--masks", action="store_true", help="put the masks into the manifest, too")
    add.add_argument("--url", help="where the card will be published, for croissant.json")


def _export(options: argparse.Namespace) -> int:
    from wss_data.sharing.export import export_dataset
    from wss_data.store import open_dataset

    dataset = open_dataset(options.dataset)
    count = export_dataset(dataset, options.out, layout=options.layout, mask_field=options.mask_field)
    print(f"{count} images with masks written to {options.out} (layout: {options.layout}).")
    return 0


def _import_dataset(options: argparse.Namespace) -> int:
    from wss_data.sharing.import_dataset import import_dataset

    imported = import_dataset(options.folder, options.name)
    print(imported)
    print(f"dataset:   {imported.name}    (wss-data view {imported.name})")
    return 0


def _card(options: argparse.Namespace) -> int:
    from wss_data.sharing.card import write_card
    from wss_data.store import open_dataset

    dataset = open_dataset(options.dataset)
    print(write_card(dataset, options.out, pictures=options.pictures, masks=options.masks, url=options.url))
    return 0
