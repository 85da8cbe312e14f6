"""Commands of ``wss-data`` that hand a dataset on, take one in, forget images, and rename and delete datasets."""

import argparse
from pathlib import Path

import wss_data
from wss_data.commands.arguments import Commands, add_command, add_dataset, add_workers
from wss_data.runtime.files import check_outputs
from wss_data.runtime.home import dataset_folder


def add_commands(commands: Commands) -> None:
    """Add ``manifest``, ``rebuild``, ``attribution``, ``forget``, ``export``, ``import-dataset``, ``card`` and more."""
    add = add_command(commands, _manifest, "wss-data manifest pascal-voc --out pascal-voc.jsonl.gz")
    add_dataset(add)
    add.add_argument("--out", metavar="FILE", type=Path, required=True, help="where it goes (.jsonl or .jsonl.gz)")
    add.add_argument("--masks", action="store_true", help="put the co-segmentation masks in, too")

    add = add_command(commands, _rebuild, "wss-data rebuild pascal-voc.jsonl.gz --name pascal-voc-again")
    add.add_argument("manifest", metavar="MANIFEST", type=Path, help="file that `wss-data manifest` wrote")
    add.add_argument("--name", help="name of the dataset (default: as in the manifest)")
    add.add_argument("--report", metavar="CSV", type=Path, help="write what became of each image to this file")
    add_workers(add)

    add = add_command(commands, _attribution, "wss-data attribution pascal-voc --out CREDITS.md")
    add_dataset(add)
    add.add_argument("--out", metavar="FILE", type=Path, required=True, help="where they go")
    add.add_argument("--all", action="store_true", help="of dropped images, too (default: of the kept ones)")

    add = add_command(commands, _forget, "wss-data forget pascal-voc https://example.org/photo.jpg --dry-run")
    add_dataset(add)
    add.add_argument("what", metavar="WHAT", help="URL, sha256 or author (name or address of the author's page)")
    add.add_argument("--dry-run", action="store_true", help="list what would be removed; change nothing")

    add = add_command(commands, _export, "wss-data export drawn exported --layout voc")
    add_dataset(add)
    add.add_argument("out", metavar="FOLDER", type=Path, help="where to write; must be empty or missing")
    add.add_argument(
        "--layout",
        default="voc",
        choices=["voc", "folders", "coco", "huggingface", "fiftyone", "yolo", "yolo-semantic", "cvat", "label-studio"],
        help="layout of the folder (default: voc)",
    )
    add.add_argument(
        "--mask-field",
        metavar="FIELD",
        help="field of the masks (default: cosegmentation; of a target dataset ground_truth)",
    )

    add = add_command(commands, _import_dataset, "wss-data import-dataset exported --name drawn-again")
    add.add_argument("folder", metavar="FOLDER", type=Path, help="what `wss-data export --layout voc` wrote")
    add.add_argument("--name", help="name of the dataset (default: that of the exported one)")

    add = add_command(commands, _card, "wss-data card drawn --out drawn-card")
    add_dataset(add)
    add.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="where to write; empty or missing")
    add.add_argument(
        "--pictures",
        dest="shown",
        default="licensed",
        choices=["licensed", "all", "none"],
        help="which images may be shown, small: those whose licence allows it, all (they are yours), or none "
        "(default: licensed)",
    )
    add.add_argument("--masks", action="store_true", help="put the masks into the manifest, too")
    add.add_argument("--url", help="where the card will be published, for croissant.json")

    _add_push_to_hub(commands)

    add = add_command(commands, _rename, "wss-data rename pets animals")
    add_dataset(add)
    add.add_argument("name", metavar="NAME", help="name that it gets; its target dataset is called NAME-target then")

    add = add_command(commands, _delete, "wss-data delete pets --files --dry-run")
    add_dataset(add)
    add.add_argument(
        "--files",
        action="store_true",
        help="remove its images, masks, journal and verdicts, too; never a file that it shares with another dataset, "
        "or that nobody wrote with this program (default: they stay, and a build takes its images from there)",
    )
    add.add_argument("--dry-run", action="store_true", help="say what would be deleted; change nothing")


def _add_push_to_hub(commands: Commands) -> None:
    add = add_command(commands, _push_to_hub, "wss-data push-to-hub drawn-card somebody/drawn --dry-run")
    add.add_argument(
        "folder", metavar="FOLDER", type=Path, help="what `wss-data export --layout huggingface` or `card` wrote"
    )
    add.add_argument("repository", metavar="OWNER/NAME", help="dataset on the Hub; made if it is missing")
    add.add_argument(
        "--public", action="store_true", help="a dataset that is made now is seen by everybody (default: by you alone)"
    )
    add.add_argument(
        "--may-publish",
        action="store_true",
        help="publish images whose licence is not known, or does not say that anybody may: they are yours, say",
    )
    add.add_argument("--dry-run", action="store_true", help="count files and licences; send nothing")


def _manifest(options: argparse.Namespace) -> None:
    """Write a manifest: all that others need to build the dataset again, without an image in it.
    One line an image: address, sha256 of the original, perceptual hash, licence, attribution.
    """
    print(wss_data.write_manifest(wss_data.open_dataset(options.dataset), options.out, masks=options.masks))


def _rebuild(options: argparse.Namespace) -> int:
    """Build a dataset again from its manifest, and report what became of each image:
    alive, changed, dead, placeholder, opted out, failed. Goes on where it stopped.
    """
    if options.report is not None:
        # Before the downloads, which may take days.
        check_outputs([options.report], apart_from=[options.manifest])
    report = wss_data.rebuild(options.manifest, options.name, workers=options.workers)
    print(report)
    if options.report is not None:
        report.write_csv(options.report)
    return 0 if report.complete else 1


def _attribution(options: argparse.Namespace) -> None:
    """Write the credits of a dataset: title, author, source, licence and changes made of each image.
    The format follows the file's name: .md, .csv or .html.
    """
    count = wss_data.write_attribution(wss_data.open_dataset(options.dataset), options.out, all=options.all)
    print(f"credits of {count} images written to {options.out}.")


def _forget(options: argparse.Namespace) -> int:
    """Remove images for good, with everything derived from them, and never fetch them again.
    WHAT is the address of an image or its page, the sha256 of its original, or an author.
    """
    report = wss_data.forget(wss_data.open_dataset(options.dataset), options.what, dry_run=options.dry_run)
    print(report)
    if options.dry_run:
        print("nothing was changed (--dry-run).")
    return 1 if report.is_empty else 0


def _export(options: argparse.Namespace) -> None:
    """Write the kept images and their masks to a folder, for other tools.
    voc: PASCAL VOC's folders. folders: images/<class>, masks/<class>. coco: masks as run lengths (RLE).
    huggingface: what datasets.load_dataset reads. fiftyone: all fields, FiftyOne's own. yolo, yolo-semantic: what
    Ultralytics trains on, polygons or masks. cvat, label-studio: to correct masks there; import-masks takes them back.
    """
    dataset = wss_data.open_dataset(options.dataset)
    count = wss_data.export_dataset(dataset, options.out, layout=options.layout, mask_field=options.mask_field)
    print(f"{count} images with masks written to {options.out} (layout: {options.layout}).")


def _import_dataset(options: argparse.Namespace) -> None:
    """Make a web dataset of an export in the layout voc again: images, masks, labels, provenance, verdicts.
    Everything in the folder is checked first. Its masks count as imported: a later build leaves them alone.
    """
    imported = wss_data.import_dataset(options.folder, options.name)
    print(imported)
    print(f"dataset:   {imported.name}    (wss-data view {imported.name})")


def _card(options: argparse.Namespace) -> None:
    """Write a folder that can be published: what the dataset is, counts, sources, licences, dates, filters, known
    weaknesses, and a manifest by which others fetch the images. No image is in it but small copies of those
    whose licence allows that.
    """
    dataset = wss_data.open_dataset(options.dataset)
    print(wss_data.write_card(dataset, options.out, shown=options.shown, masks=options.masks, url=options.url))


def _rename(options: argparse.Namespace) -> None:
    """Give a dataset another name, with its target dataset and the folders of both.
    Masks, verdicts and journal stay what they are; a build under the new name goes on from there.
    """
    for was, now in wss_data.rename_dataset(options.dataset, options.name).items():
        print(f"dataset '{was}' is '{now}' now; its files are in {dataset_folder(now)}.")
    print(f"From now on its definition has to say  name: {options.name}  (--name {options.name} without a definition).")


def _delete(options: argparse.Namespace) -> None:
    """Delete a dataset: its records in the database that is in use, and with --files its folder in WSS_HOME.
    Your own photographs, run folders and exports are never touched.
    """
    print(wss_data.delete_dataset(options.dataset, files=options.files, dry_run=options.dry_run))
    if options.dry_run:
        print("nothing was changed (--dry-run).")


def _push_to_hub(options: argparse.Namespace) -> None:
    """Upload a folder to a dataset of Hugging Face's Hub, in one commit: all of it is there, or nothing is.
    Private unless you say otherwise. Needs an account: `hf auth login`, or a token in HF_TOKEN.
    """
    print(
        wss_data.push_to_hub(options.folder, options.repository, options.public, options.may_publish, options.dry_run)
    )
    if options.dry_run:
        print("nothing was sent (--dry-run).")
