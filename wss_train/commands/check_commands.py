"""Commands of ``wss-train`` beside training: what looks at data and masks, and what hands predictions in."""

import argparse
from pathlib import Path

from wss_data.commands.arguments import add_command
from wss_train.commands.arguments import add_checkpoint, add_inference, add_set, read_recipe


def add_check_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``voc-submission``, ``cooccurrence`` and ``check``."""
    add = add_command(
        commands,
        "voc-submission",
        _voc_submission,
        """\
        Predict the test images of PASCAL VOC 2012 and write the archive that its server accepts. All images of the list
        get a prediction, or nothing is written. Sends nothing anywhere.""",
        "wss-train voc-submission runs/final VOC2012/JPEGImages --list VOC2012/ImageSets/Segmentation/test.txt "
        "--out results.tgz",
    )
    add_checkpoint(add)
    add.add_argument("images", metavar="IMAGES", help="target dataset; with --list a folder that holds the images")
    add.add_argument("--split", default="test", help="tag of the dataset's images (default: test)")
    add.add_argument("--list", metavar="FILE", type=Path, help="the images' ids, one a line")
    add.add_argument("--out", metavar="FILE", type=Path, required=True, help="the archive (.tgz)")
    add_inference(add, "1.0")

    add = add_command(
        commands,
        "cooccurrence",
        _cooccurrence,
        """\
        Tell which classes come together and which masks merge, from masks and labels alone.""",
        "wss-train cooccurrence drawn-target --out runs/drawn/cooccurrence",
    )
    add.add_argument("dataset", metavar="DATASET", help="web or target dataset")
    add.add_argument("--field", help="field of the masks (default: cosegmentation; of a target pseudo_mask)")
    add.add_argument("--split", help="tag of the images (default: kept images; of a target train)")
    add.add_argument(
        "--masks", metavar="FOLDER", type=Path, help="masks ID.png instead of a field, such as predictions"
    )
    add.add_argument("--out", metavar="FOLDER", type=Path, help="write table, CSV and picture here (default: nowhere)")

    add = add_command(
        commands,
        "check",
        _check,
        """\
        Check a dataset and this machine before training: one line for each finding, the most severe first, with what to
        do about it. Reads every image and mask, changes nothing. Exit status 1 where something is wrong.""",
        "wss-train check drawn --recipe cpu",
    )
    add.add_argument("dataset", metavar="DATASET", help="web or target dataset")
    add.add_argument("--split", help="tag of the images (default: kept images of a web dataset, train of a target)")
    add.add_argument(
        "--field",
        help="field of the masks (default: cosegmentation of a web dataset; of a target pseudo_mask for train, "
        "ground_truth for other splits)",
    )
    add.add_argument("--recipe", default="cpu", help="paper, authors-code, modern or cpu (default: cpu)")
    add.add_argument("--out", metavar="RUN", type=Path, help="where the run will be, for its disk (default: .)")
    add_set(add)


def _voc_submission(options: argparse.Namespace) -> int:
    from wss_train.reports.submission import images_of_list, images_of_split, read_image_list, write_submission

    if options.list is not None:
        images = images_of_list(Path(options.images), read_image_list(options.list))
    else:
        from wss_data.errors import SourceError
        from wss_data.store import open_dataset

        if Path(options.images).is_dir():
            raise SourceError(f"{options.images} is a folder: name the list of its images, too, with --list test.txt.")
        images = images_of_split(open_dataset(options.images), options.split)
    submission = write_submission(
        options.checkpoint,
        images,
        options.out,
        scales=options.scales or (1.0,),
        crf=options.crf,
        device=options.device,
        workers=options.workers,
    )
    print(submission)
    return 0


def _cooccurrence(options: argparse.Namespace) -> int:
    from wss_data.store import open_dataset
    from wss_train.reports.cooccurrence import cooccurrence, table_of

    table = table_of(open_dataset(options.dataset), options.field, options.split, options.masks)
    print(cooccurrence(table, options.out).to_markdown())
    return 0


def _check(options: argparse.Namespace) -> int:
    recipe = read_recipe(options)
    from wss_train.reports.check import check_dataset, is_sound

    findings = check_dataset(options.dataset, recipe, split=options.split, field=options.field, out=options.out)
    print("\n".join(map(str, findings)))
    return 0 if is_sound(findings) else 1
