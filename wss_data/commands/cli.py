"""The command ``wss-data``: from class names to an image dataset with masks.

Exit status: 0 done; 1 done, but something was left out and told (a folder with unreadable images), or nothing was found
to forget; 2 refused, with one line that says why; 130 interrupted. docs/reference/commands.md has it by command.
"""

import argparse
import io
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path

from wss_data.commands.arguments import (
    Parser,
    add_cluster,
    add_dataset,
    add_engine,
    add_filter,
    add_programs,
    add_workers,
    port,
    positive,
    share,
)
from wss_data.commands.embed import add_embed_command
from wss_data.commands.judge import add_verdict_command
from wss_data.commands.masks import add_mask_fields, compare_or_adopt
from wss_data.commands.share import add_share_commands
from wss_data.errors import WssError
from wss_data.errors.text import CleanStream, visible
from wss_data.runtime import interrupts
from wss_data.runtime.database import loss_told

Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run(make_parser(), arguments)


def run(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    check: Callable[[argparse.Namespace], object] = lambda options: None,
) -> int:
    """Parse and run one command; turn what can go wrong into one line and an exit status.

    Args:
        parser: Of the program.
        arguments: The words of the command line; ``None`` for those of this process.
        check: Called with the options before the command, to refuse at once what would be refused after slow imports.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name that is not UTF-8 must not end a command
    # Here, for all that is printed: names of files, titles, authors and addresses may come from strangers.
    with redirect_stdout(CleanStream(sys.stdout)), redirect_stderr(CleanStream(sys.stderr)):
        return _run(parser, arguments, check)


def _run(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    check: Callable[[argparse.Namespace], object],
) -> int:
    try:
        interrupts.interrupt_me()
        options = parser.parse_args(arguments)
        with loss_told():
            check(options)
            return options.command(options)
    except KeyboardInterrupt:
        print(interrupts.parting_words(parser.prog), file=sys.stderr)
        return interrupts.was_interrupted() or 130
    except Exception as error:
        if status := interrupts.was_interrupted():
            # What was going on made another exception of it: an import in C, say.
            print(interrupts.parting_words(parser.prog), file=sys.stderr)
            return status
        return _told(parser, error)
    finally:
        interrupts.listen()


def _told(parser: argparse.ArgumentParser, error: Exception) -> int:
    """Tell in one line what went wrong, and return the exit status; raise what nobody foresaw."""
    if isinstance(error, BrokenPipeError):
        # The reader of our output left (`| head`); Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    if isinstance(error, WssError):
        told = str(error)
    elif isinstance(error, UnicodeEncodeError):
        # An argument of the command, say: file names below a given folder are taken as they are.
        told = f"{error.object!r} is not UTF-8, which is wanted here. Rename it."
    elif isinstance(error, OSError):
        where = f"{visible(str(error.filename))}: " if error.filename else ""
        told = f"{where}{error.strerror or error}. Nothing half-written was kept."
    else:
        raise error
    print(f"{parser.prog}: {told}", file=sys.stderr)
    return 2


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    command: Command,
    text: str,
    example: str,
) -> argparse.ArgumentParser:
    """Add one subcommand: its help is ``text``, and ends with a line one can paste."""
    parser = commands.add_parser(
        name,
        help=text.split("\n")[0],
        description=textwrap.dedent(text),
        epilog=f"example:  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=command)
    return parser


def make_parser() -> argparse.ArgumentParser:
    """The parser of ``wss-data``."""
    from wss_data.runtime.version import __version__

    parser: argparse.ArgumentParser = Parser(
        prog="wss-data",
        description="From class names to an image dataset with masks, kept in FiftyOne. Nobody draws a mask.",
        epilog="Files go to the folder in WSS_HOME (default: ~/wss), records to FiftyOne's database.",
    )
    parser.add_argument("--version", action="version", version=f"wss {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    add = add_command(
        commands,
        "build",
        _build,
        """\
        Build a dataset: retrieve, shrink, co-segment, filter, store.
        Goes on where an earlier build stopped; a finished dataset is left as it is.""",
        "wss-data build voc_animals --images photos",
    )
    add.add_argument(
        "spec", metavar="SPEC", nargs="?", help="definition: a name (drawn, voc_animals, pascal_voc) or a YAML file"
    )
    add.add_argument(
        "--images",
        metavar="FOLDER",
        type=Path,
        help="take the images from this folder, one folder a class inside; without SPEC these folders are the classes",
    )
    add.add_argument("--name", help="name of the dataset, only without SPEC (default: the folder's name)")
    add.add_argument(
        "--retry",
        choices=["failed", "dropped"],
        help="failed: try search results again that failed for a reason that may pass (timeout, overloaded server); "
        "dropped: those that were refused for good, too. What is behind an opt-out is never asked for again",
    )
    add.add_argument(
        "--search-again",
        action="store_true",
        help="ask sources again that were asked before, and add what is new; follow what was moved, replaced or "
        "deleted in a folder of photographs",
    )
    add.add_argument(
        "--strict",
        action="store_true",
        help="stop when a source has no key or does not answer; otherwise it is told and left out while others remain",
    )
    add_programs(add)
    add_cluster(add)

    add = add_command(
        commands,
        "sources",
        _sources,
        """\
        Show where images can come from, and what each source needs.
        Asks nobody: whether a service answers shows when it is searched.""",
        "wss-data sources pascal_voc",
    )
    add.add_argument("spec", metavar="SPEC", nargs="?", help="only the sources of this definition, as it sets them up")

    add = add_command(
        commands,
        "list",
        _list,
        "List the datasets that were built, with their numbers of images.",
        "wss-data list",
    )

    add = add_command(
        commands,
        "view",
        _view,
        """\
        Open a dataset in the FiftyOne App, masks drawn in VOC colours.
        Serves on this machine only, and pages of other sites get no answer; there is no login. Ends with Ctrl-C.""",
        "wss-data view drawn",
    )
    add_dataset(add)
    add.add_argument("--port", type=port, default=5151, help="port of the App (default: 5151)")
    add.add_argument("--address", default="localhost", help="address to serve on (default: localhost)")
    add.add_argument(
        "--force",
        action="store_true",
        help="answer other users, and at any address: they see, change and delete all datasets",
    )
    add.add_argument(
        "--media",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="show files of this folder, too; repeatable (default: the folders of the datasets only)",
    )

    add = add_command(
        commands,
        "filter",
        _filter,
        """\
        Keep the images whose co-segmentation mask covers a plausible share of the frame.
        Nothing is deleted: the others stay, tagged with the reason. A person's verdict wins.""",
        "wss-data filter voc-animals --min-foreground 0.2 --max-foreground 0.8 --dry-run",
    )
    add_dataset(add)
    add_filter(add)
    add.add_argument(
        "--min-confidence",
        type=share,
        default=0.0,
        metavar="CONFIDENCE",
        help="smallest confidence kept, 0 to 1: 0.5 drops most images that show nothing of their class (default: 0, "
        "as in the paper)",
    )
    add.add_argument(
        "--dry-run", action="store_true", help="print how many images each class would keep; change nothing"
    )

    add = add_command(
        commands,
        "cosegment",
        _cosegment,
        """\
        Co-segment a dataset's groups again, with another engine or other settings; then filter again.
        Makes only masks that would change; imported masks stay. The definition stays as it is: a later
        build makes the masks that it asks for, so put into it what turns out well.""",
        "wss-data cosegment voc-animals --class cat --option long_side=640",
    )
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
    add_mask_fields(add)
    add_cluster(add)

    add = add_command(
        commands,
        "leaks",
        _leaks,
        """\
        Drop web images that stand in an evaluation split, too: exact and near copies.
        They stay visible, tagged dropped:leak. A build checks its own target dataset by itself.""",
        "wss-data leaks voc-animals --against voc-animals-target --dry-run",
    )
    add_dataset(add)
    add.add_argument(
        "--against",
        metavar="SPLIT",
        required=True,
        help="a target dataset (its val), NAME:TAG for other images of it, a folder of images, or a file of hashes",
    )
    add.add_argument("--dry-run", action="store_true", help="list the leaks; change nothing")

    add = add_command(
        commands,
        "manifest",
        _manifest,
        """\
        Write a manifest: all that others need to build the dataset again, without a picture in it.
        One line an image: address, sha256 of the original, perceptual hash, licence, attribution.""",
        "wss-data manifest pascal-voc --out pascal-voc.jsonl.gz",
    )
    add_dataset(add)
    add.add_argument("--out", metavar="FILE", type=Path, required=True, help="where it goes (.jsonl or .jsonl.gz)")
    add.add_argument("--masks", action="store_true", help="put the co-segmentation masks in, too")

    add = add_command(
        commands,
        "rebuild",
        _rebuild,
        """\
        Build a dataset again from its manifest, and report what became of each picture:
        alive, changed, dead, placeholder, opted out, failed. Goes on where it stopped.""",
        "wss-data rebuild pascal-voc.jsonl.gz --name pascal-voc-again",
    )
    add.add_argument("manifest", metavar="MANIFEST", type=Path, help="file that `wss-data manifest` wrote")
    add.add_argument("--name", help="name of the dataset (default: as in the manifest)")
    add.add_argument("--report", metavar="CSV", type=Path, help="write what became of each picture to this file")
    add_workers(add)

    add = add_command(
        commands,
        "attribution",
        _attribution,
        """\
        Write the credits of a dataset: title, author, source, licence and changes made of each image.
        The format follows the file's name: .md, .csv or .html.""",
        "wss-data attribution pascal-voc --out CREDITS.md",
    )
    add_dataset(add)
    add.add_argument("--out", metavar="FILE", type=Path, required=True, help="where they go")
    add.add_argument("--all", action="store_true", help="of dropped images, too (default: of the kept ones)")

    add = add_command(
        commands,
        "forget",
        _forget,
        """\
        Remove images for good, with everything derived from them, and never fetch them again.
        WHAT is the address of a picture or its page, the sha256 of its original, or an author.""",
        "wss-data forget pascal-voc https://example.org/photo.jpg --dry-run",
    )
    add_dataset(add)
    add.add_argument("what", metavar="WHAT", help="URL, sha256 or author (name or address of the author's page)")
    add.add_argument("--dry-run", action="store_true", help="list what would be removed; change nothing")

    add = add_command(
        commands,
        "import-masks",
        _import_masks,
        """\
        Take masks that were computed elsewhere in place of the engine's.
        All masks are checked before the first is taken; the earlier masks stay as a field of their own.""",
        "wss-data import-masks voc-animals masks",
    )
    add_dataset(add)
    add.add_argument(
        "masks", metavar="MASKS", type=Path, help="folder of MASKS/<class>/<stem>.png, 0 and 255 (or 0 and 1)"
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

    add = add_command(
        commands,
        "import-target",
        _import_target,
        """\
        Read the target dataset: image-level labels for train and val, masks for val only.
        The images stay where they are; the dataset is called <name of the definition>-target.""",
        "wss-data import-target pascal_voc VOCdevkit --sbd benchmark_RELEASE",
    )
    add.add_argument("spec", metavar="SPEC", help="definition: a name or a YAML file")
    add.add_argument(
        "folder",
        metavar="FOLDER",
        type=Path,
        nargs="?",
        help="VOC layout: JPEGImages, SegmentationClass, ImageSets/Segmentation; or VOCdevkit; not needed for drawn",
    )
    add.add_argument(
        "--sbd",
        metavar="FOLDER",
        type=Path,
        help="add SBD's images to VOC's train (10,582 in all): benchmark_RELEASE, SegmentationClassAug, or a list",
    )
    add.add_argument(
        "--strict", action="store_true", help="stop where a count is not as expected, or an image cannot be used"
    )
    add.add_argument(
        "--labels",
        metavar="CSV",
        type=Path,
        help="image-level labels: columns image,classes (default: FOLDER/image_labels.csv, or FOLDER/Annotations and "
        "for images without one SBD's list of classes present)",
    )

    add_verdict_command(commands)
    add_embed_command(commands)
    add_share_commands(commands)

    add = add_command(
        commands,
        "cosegment-folder",
        _cosegment_folder,
        """\
        Co-segment folders of images into folders of masks; no database.
        IMAGES/<class>/*.jpg -> MASKS/<class>/<stem>.png (0 and 255, size of the image) and MASKS/scores.csv.""",
        "wss-data cosegment-folder photos --out masks",
    )
    add.add_argument(
        "images",
        metavar="IMAGES",
        type=Path,
        help="folder with one folder of images a class, or with images: then it is one group",
    )
    add.add_argument("--out", metavar="MASKS", type=Path, required=True, help="where the masks go")
    add_engine(add, "common")
    add_cluster(add)

    add = add_command(
        commands,
        "compare-saliency",
        _compare_saliency,
        """\
        Draw what stands out in images by themselves beside what co-segmentation finds in the group, as the paper's
        figure 2 does. With true masks, score both: precision P and Jaccard J, in [0, 1].""",
        "wss-data compare-saliency photos/cow --out cow.png --truth truth/cow",
    )
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
    add.add_argument(
        "--count",
        type=positive,
        default=8,
        metavar="N",
        help="images in the figure (default: 8)",
    )
    add_workers(add)

    add = add_command(
        commands,
        "score",
        _score,
        """\
        Compare masks with true masks: precision P (share of pixels right) and Jaccard J of the foreground.
        Per class and mean over classes, over all images and over those that the filter keeps.""",
        "wss-data score masks truth",
    )
    add.add_argument("masks", metavar="MASKS", type=Path, help="folder of MASKS/<class>/<stem>.png")
    add.add_argument("truth", metavar="TRUTH", type=Path, help="folder of TRUTH/<class>/<stem>.png")
    add_filter(add)
    return parser


def _build(options: argparse.Namespace) -> int:
    from wss_data.errors import SpecError
    from wss_data.spec import read_spec, spec_from_folder

    if options.spec is None and options.images is None:
        raise SpecError(
            "give a definition (wss-data build drawn) or a folder of images (wss-data build --images FOLDER)."
        )
    if options.spec is None:
        folder = options.images.absolute()
        spec = spec_from_folder(folder, options.name or folder.name)
    elif options.name is not None:
        raise SpecError("--name goes with --images alone; a definition has its name inside.")
    else:
        spec = read_spec(options.spec)

    from wss_data.pipeline import build, left_out, summary_table
    from wss_data.runtime.home import dataset_folder
    from wss_data.runtime.parallel import workers_on

    with workers_on(options.engine, options.address, options.workers):
        dataset = build(
            spec,
            options.images,
            workers=options.workers,
            retry=options.retry,
            search_again=options.search_again,
            strict=options.strict,
            allow_programs=options.allow_programs,
        )
    print(summary_table(dataset))
    print(f"dataset:   {dataset.name}    (wss-data view {dataset.name})")
    print(f"pictures:  {dataset_folder(dataset.name) / 'pictures'}")
    return 1 if left_out(dataset) else 0


def _sources(options: argparse.Namespace) -> int:
    from wss_data.retrieval.sources.base import list_sources, source_state
    from wss_data.spec import SourceSpec, read_spec

    parts = read_spec(options.spec).sources if options.spec else [SourceSpec(name) for name in sorted(list_sources())]
    width = max(len(part.name) for part in parts)
    for part in parts:
        state = source_state(part.name, part.options)
        limit = f"at most {part.limit:,} a class. " if part.limit else ""
        print(f"{part.name:<{width}}  {state.state:<5}  {limit}{state.detail}")
    return 0


def _cosegment(options: argparse.Namespace) -> int:
    from wss_data.pipeline import cosegment_again, summary_table, without_mask
    from wss_data.runtime.parallel import workers_on
    from wss_data.store import open_dataset

    dataset = open_dataset(options.dataset)
    if options.compare or options.adopt:
        return compare_or_adopt(options, dataset)
    with workers_on(options.engine, options.address, options.workers):
        made = cosegment_again(
            dataset,
            options.method,
            dict(options.options or ()),
            options.classes,
            workers=options.workers,
            field=options.field,
            allow_programs=options.allow_programs,
        )
    print(summary_table(dataset))
    print(f"{made} masks made{'' if made else ': there was none that would change'}.")
    return 1 if without_mask(dataset) else 0


def _leaks(options: argparse.Namespace) -> int:
    from wss_data.runtime.home import dataset_owner
    from wss_data.spec import DatasetSpec
    from wss_data.store import apply_filter, definition, leaks, open_dataset

    dataset = open_dataset(options.dataset)
    spec: DatasetSpec = definition(dataset)
    with nullcontext() if options.dry_run else dataset_owner(dataset.name):
        print(leaks(dataset, options.against, spec.duplicates.max_distance, dry_run=options.dry_run))
        if not options.dry_run:
            apply_filter(dataset)
    if options.dry_run:
        print("nothing was changed (--dry-run).")
    return 0


def _manifest(options: argparse.Namespace) -> int:
    from wss_data.sharing.manifest import write_manifest
    from wss_data.store import open_dataset

    print(write_manifest(open_dataset(options.dataset), options.out, masks=options.masks))
    return 0


def _rebuild(options: argparse.Namespace) -> int:
    from wss_data.runtime.files import check_outputs
    from wss_data.sharing.rebuild import rebuild

    if options.report is not None:
        check_outputs([options.report], apart_from=[options.manifest])
    report = rebuild(options.manifest, options.name, workers=options.workers)
    print(report)
    if options.report is not None:
        report.write_csv(options.report)
    return 0 if report.complete else 1


def _attribution(options: argparse.Namespace) -> int:
    from wss_data.sharing.attribution import write_attribution
    from wss_data.store import open_dataset

    count = write_attribution(open_dataset(options.dataset), options.out, all=options.all)
    print(f"credits of {count} images written to {options.out}.")
    return 0


def _forget(options: argparse.Namespace) -> int:
    from wss_data.sharing.forget import forget
    from wss_data.store import open_dataset

    report = forget(open_dataset(options.dataset), options.what, dry_run=options.dry_run)
    print(report)
    if options.dry_run:
        print("nothing was changed (--dry-run).")
    return 1 if report.is_empty else 0


def _list(options: argparse.Namespace) -> int:
    from wss_data.store import list_datasets

    rows = list_datasets()
    if not rows:
        print("no datasets yet. Build one:  wss-data build drawn")
        return 0
    width = max(len(row.name) for row in rows)
    for row in rows:
        kept = f"{row.kept:>7} kept" if row.kind == "web" else " " * 12
        print(f"{row.name:<{width}}  {row.kind:<6}  {row.images:>7} images  {kept}  {', '.join(row.classes)}")
    return 0


def _view(options: argparse.Namespace) -> int:
    from wss_data.store import view_in_app

    view_in_app(options.dataset, port=options.port, address=options.address, force=options.force, media=options.media)
    return 0


def _filter(options: argparse.Namespace) -> int:
    from wss_data.runtime.home import dataset_owner
    from wss_data.spec import read_filters
    from wss_data.store import apply_filter, open_dataset

    thresholds = {name: getattr(options, name) for name in ("min_foreground", "max_foreground", "min_confidence")}
    filters = read_filters(thresholds, "wss-data filter")
    with nullcontext() if options.dry_run else dataset_owner(options.dataset):
        report = apply_filter(open_dataset(options.dataset), filters, dry_run=options.dry_run)
    print(report)
    if options.dry_run:
        print("nothing was changed (--dry-run).")
    return 0


def _import_masks(options: argparse.Namespace) -> int:
    from wss_data.store import import_masks, open_dataset

    report = import_masks(
        open_dataset(options.dataset), options.masks, skip_bad=options.skip_bad, supervision=options.supervision
    )
    print(report)
    return 1 if report.bad else 0


def _import_target(options: argparse.Namespace) -> int:
    from wss_data.spec import read_spec
    from wss_data.store import import_report, import_target, target_summary

    dataset = import_target(
        read_spec(options.spec), options.folder, labels_csv=options.labels, sbd=options.sbd, strict=options.strict
    )
    print(target_summary(dataset))
    print(import_report(dataset))
    print(f"dataset:   {dataset.name}    (wss-data view {dataset.name})")
    return 0


def _cosegment_folder(options: argparse.Namespace) -> int:
    from wss_data.cosegmentation.folder import cosegment_folder
    from wss_data.runtime.parallel import workers_on

    with workers_on(options.engine, options.address, options.workers):
        summary = cosegment_folder(
            options.images,
            options.out,
            method=options.method or "common",
            options=dict(options.options or ()),
            workers=options.workers,
            allow_programs=True,  # engine and command stand on this command line and nowhere else
        )
    print(summary)
    return 1 if summary.dropped else 0


def _compare_saliency(options: argparse.Namespace) -> int:
    from wss_data.cosegmentation.compare import compare_saliency

    comparison = compare_saliency(
        options.images,
        options.out,
        methods=options.methods or ["common"],
        truth=options.truth,
        count=options.count,
        workers=options.workers,
    )
    print(comparison)
    return 1 if comparison.unreadable else 0


def _score(options: argparse.Namespace) -> int:
    from wss_data.cosegmentation.score import score_folder

    print(score_folder(options.masks, options.truth, options.min_foreground, options.max_foreground))
    return 0
