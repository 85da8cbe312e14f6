"""Commands of ``wss-data`` that make masks, take masks made elsewhere, and score them."""

import argparse
from pathlib import Path

import wss_data
from wss_data.commands.arguments import (
    Commands,
    add_cluster,
    add_command,
    add_dataset,
    add_engine,
    add_filter,
    add_programs,
    add_workers,
    fraction,
    positive,
)
from wss_data.errors import StoreError


def add_commands(commands: Commands) -> None:
    """Add ``cosegment``, ``cosegment-folder``, ``import-masks``, ``edit-masks``, ``compare-saliency``, ``score``."""
    add = add_command(commands, _cosegment, "wss-data cosegment voc-animals --class cat --option long_side=640")
    add_dataset(add)
    add_engine(add, "the definition's")
    add_programs(add)
    add.add_argument(
        "--class",
        dest="classes",
        metavar="CLASS",
        action="append",
        help="do this class only; repeat it for more (default: all)",
    )
    what = add.add_mutually_exclusive_group()
    what.add_argument(
        "--field",
        default="cosegmentation",
        help="put the masks into this field, such as cosegmentation_2, beside those in use (default: cosegmentation)",
    )
    what.add_argument(
        "--compare", metavar="FIELD", help="make no mask: compare those of this field with those in use, class by class"
    )
    what.add_argument(
        "--adopt",
        metavar="FIELD",
        help="make no mask: use those of this field from now on; the earlier ones stay in a field of their own",
    )
    add_cluster(add)

    add = add_command(commands, _cosegment_folder, "wss-data cosegment-folder photos --out masks")
    add.add_argument(
        "images",
        metavar="IMAGES",
        type=Path,
        help="folder with one folder of images a class, or with images: then it is one group",
    )
    add.add_argument("--out", metavar="MASKS", type=Path, required=True, help="where the masks go")
    add_engine(add, "common")
    add_cluster(add)

    _add_import_masks(commands)

    add = add_command(commands, _edit_masks, "wss-data edit-masks voc-animals --class cat")
    add_dataset(add)
    add.add_argument(
        "--mask-field",
        metavar="FIELD",
        default="cosegmentation",
        help="field of the masks to edit (default: cosegmentation)",
    )
    add.add_argument(
        "--class",
        dest="classes",
        metavar="CLASS",
        action="append",
        help="do this class only; repeat it for more (default: all)",
    )

    example = "wss-data compare-saliency photos/cow --out cow.png --truth truth/cow"
    add = add_command(commands, _compare_saliency, example)
    add.add_argument("images", metavar="IMAGES", type=Path, help="folder with the images of one class: the group")
    add.add_argument("--out", metavar="PNG", type=Path, required=True, help="the figure to write")
    add.add_argument(
        "--method",
        dest="methods",
        metavar="METHOD",
        action="append",
        help="co-segmentation engine; repeat it for more (default: common)",
    )
    add.add_argument("--truth", metavar="TRUTH", type=Path, help="folder of true masks, <stem>.png")
    add.add_argument("--count", type=positive, default=8, metavar="N", help="images in the figure (default: 8)")
    add_workers(add)

    add = add_command(commands, _score, "wss-data score masks truth")
    add.add_argument("masks", metavar="MASKS", type=Path, help="folder of MASKS/<class>/<stem>.png")
    add.add_argument("truth", metavar="TRUTH", type=Path, help="folder of TRUTH/<class>/<stem>.png")
    add_filter(add)


def _add_import_masks(commands: Commands) -> None:
    add = add_command(commands, _import_masks, "wss-data import-masks voc-animals masks")
    add_dataset(add)
    what = add.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "masks",
        metavar="MASKS",
        type=Path,
        nargs="?",
        help="folder of MASKS/<class>/<stem>.png, 0 and 255 (or 0 and 1); or what CVAT or Label Studio exported, a "
        ".zip or .json file",
    )
    what.add_argument(
        "--field",
        metavar="FIELD",
        help="take instances with masks, or whole masks, that another tool left in this field; they go to "
        "cosegmentation_FIELD, beside the masks in use",
    )
    add.add_argument(
        "--min-score",
        type=fraction,
        default=0.0,
        metavar="SCORE",
        help="with --field: instances of a smaller confidence count as none, 0 to 1 (default: 0, all)",
    )
    add.add_argument(
        "--class",
        dest="classes",
        metavar="CLASS",
        action="append",
        help="with --field: do this class only; repeat it for more (default: all)",
    )
    add.add_argument(
        "--adopt", action="store_true", help="with --field: use the masks from now on (default: keep them beside)"
    )
    add.add_argument(
        "--skip-bad", action="store_true", help="take the good masks although others are bad (default: take none)"
    )
    add.add_argument(
        "--supervision",
        default="unknown",
        choices=["none", "image_level", "points", "scribbles", "boxes", "masks", "unknown"],
        help="what the program that made the masks had learned from, for the ledger (default: unknown)",
    )


def _cosegment(options: argparse.Namespace) -> int:
    """Co-segment a dataset's groups again, with another engine or other settings; then filter again.
    Makes only masks that would change; imported masks stay. The definition stays as it is: a later
    build makes the masks that it asks for, so put into it what turns out well.
    """
    dataset = wss_data.open_dataset(options.dataset)
    if options.compare:
        print(wss_data.store.compare_masks(dataset, options.compare, classes=options.classes))
        return 0
    if options.adopt:
        count = wss_data.store.adopt_masks(dataset, options.adopt, options.classes)
        print(f"{count:,} masks of '{options.adopt}' are used from now on.")
        return 0
    with wss_data.workers_on(options.executor, options.address, options.workers):
        made = wss_data.cosegment_again(
            dataset,
            options.method,
            dict(options.options or ()),
            options.classes,
            workers=options.workers,
            field=options.field,
            allow_programs=options.allow_programs,
        )
    print(wss_data.pipeline.summary_table(dataset))
    print(f"{made} masks made{'' if made else ': there was none that would change'}.")
    return 1 if wss_data.pipeline.without_mask(dataset) else 0


def _cosegment_folder(options: argparse.Namespace) -> int:
    """Co-segment folders of images into folders of masks; no database.
    IMAGES/<class>/*.jpg -> MASKS/<class>/<stem>.png (0 and 255, size of the image) and MASKS/scores.csv.
    """
    with wss_data.workers_on(options.executor, options.address, options.workers):
        summary = wss_data.cosegment_folder(
            options.images,
            options.out,
            method=options.method or "common",
            options=dict(options.options or ()),
            workers=options.workers,
            allow_programs=True,  # engine and command stand on this command line and nowhere else
        )
    print(summary)
    return 1 if summary.dropped else 0


def _import_masks(options: argparse.Namespace) -> int:
    """Take masks that were computed elsewhere in place of the engine's, or from a field of FiftyOne beside them.
    All masks are checked before the first is taken; the earlier masks stay as a field of their own.
    """
    dataset = wss_data.open_dataset(options.dataset)
    manner = {"skip_bad": options.skip_bad, "supervision": options.supervision}
    if options.field is not None:
        into, report = wss_data.import_field(
            dataset, options.field, min_score=options.min_score, classes=options.classes, **manner
        )
        print(report)
        if options.adopt and any(report.imported.values()):
            count = wss_data.store.adopt_masks(dataset, into, options.classes)
            print(f"{count:,} masks of '{into}' are used from now on.")
        if options.adopt or not any(report.imported.values()):
            return 1 if report.bad else 0
        for does, option in ("compare with the masks in use", "--compare"), ("use from now on", "--adopt"):
            print(f"{does}:  wss-data cosegment {dataset.name} {option} {into}")
        return 1 if report.bad else 0
    if options.min_score or options.classes or options.adopt:
        raise StoreError("--min-score, --class and --adopt go with --field; nothing was imported.")
    report = wss_data.import_masks(dataset, options.masks, **manner)
    print(report)
    return 1 if report.bad else 0


def _edit_masks(options: argparse.Namespace) -> None:
    """Turn masks into instances that the App's annotation mode edits, in the field `instances`; nothing else changes.
    Bring them back with import-masks --field instances: what was edited counts as drawn by a person, the other
    masks stay what they are.
    """
    dataset = wss_data.open_dataset(options.dataset)
    count = wss_data.make_instances(dataset, options.mask_field, options.classes)
    print(f"{count:,} images have their masks as instances in the field 'instances'.")
    print(f"edit them:        wss-data view {dataset.name}    (open an image, then Annotate)")
    print(f"bring them back:  wss-data import-masks {dataset.name} --field instances --adopt")


def _compare_saliency(options: argparse.Namespace) -> int:
    """Draw what stands out in images by themselves beside what co-segmentation finds in the group, as the paper's
    figure 2 does. With true masks, score both: precision P and Jaccard J, in [0, 1].
    """
    comparison = wss_data.compare_saliency(
        options.images,
        options.out,
        methods=options.methods or ["common"],
        truth=options.truth,
        count=options.count,
        workers=options.workers,
    )
    print(comparison)
    return 1 if comparison.unreadable else 0


def _score(options: argparse.Namespace) -> None:
    """Compare masks with true masks: pixel accuracy P (fraction of pixels right) and Jaccard J of the foreground.
    Per class and mean over classes, over all images and over those that the filter keeps.
    """
    print(wss_data.score_folder(options.masks, options.truth, options.min_foreground, options.max_foreground))
