"""Commands of ``wss-data`` that build datasets, list and show them."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import wss_data
from wss_data.commands.arguments import (
    Commands,
    add_cluster,
    add_command,
    add_dataset,
    add_programs,
    port,
    positive,
    text,
)
from wss_data.errors import shown
from wss_data.runtime.home import dataset_folder
from wss_data.spec import DEFAULT_LIMIT, DEFINITION_FILE


def add_commands(commands: Commands) -> None:
    """Add ``build``, ``sources``, ``import-target``, ``list``, ``view``."""
    _add_build(commands)

    add = add_command(commands, _sources, "wss-data sources pascal_voc")
    add.add_argument("spec", metavar="SPEC", nargs="?", help="only the sources of this definition, as it sets them up")

    add = add_command(commands, _import_target, "wss-data import-target pascal_voc VOCdevkit --sbd benchmark_RELEASE")
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

    add_command(commands, _list, "wss-data list")

    add = add_command(commands, _view, "wss-data view drawn")
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


def _add_build(commands: Commands) -> None:
    add = add_command(commands, _build, 'wss-data build --classes cat dog "traffic light" --limit 300')
    add.add_argument(
        "spec", metavar="SPEC", nargs="?", help="definition: drawn, voc_animals, voc20, pascal_voc or a YAML file"
    )
    add.add_argument(
        "--classes",
        metavar="NAME",
        nargs="+",
        help="class names, in place of SPEC: searched for by name at the sources that need no key; the definition "
        "made of them is kept in the dataset's folder, to be changed and built again",
    )
    add.add_argument(
        "--limit",
        metavar="N",
        type=positive,
        help=f"most images to take for each class from each source, with --classes (default: {DEFAULT_LIMIT})",
    )
    add.add_argument(
        "--query",
        metavar="NAME=WORDS,...",
        type=_query,
        action="append",
        help="search for a class by these words, too, with --classes; repeatable. background=WORDS,...: images that "
        "show no class",
    )
    add.add_argument(
        "--images",
        metavar="FOLDER",
        type=Path,
        help="take the images from this folder, one folder a class inside; without SPEC these folders are the classes",
    )
    add.add_argument(
        "--name", help="name of the dataset, only without SPEC (default: made of the class names, or the folder's name)"
    )
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
        help="stop when a source has no key or does not answer; else it is reported and left out while others remain",
    )
    add_programs(add)
    add_cluster(add)


def _build(options: argparse.Namespace) -> int:
    """Build a dataset: retrieve, shrink, co-segment, filter, store.
    Goes on where an earlier build stopped; a finished dataset is left as it is.
    """
    queries: dict[str, list[str]] = {}
    for class_name, words in options.query or ():
        queries.setdefault(class_name, []).extend(words)
    asked = {
        "classes": options.classes,
        "name": options.name,
        "limit": options.limit,
        "queries": queries or None,
    }
    if options.classes:
        spec = wss_data.spec.definition_asked_for(options.spec, options.images, **asked)
        _print_sources(spec.sources)

    with wss_data.workers_on(options.executor, options.address, options.workers):
        dataset = wss_data.build(
            options.spec,
            options.images,
            **asked,
            workers=options.workers,
            retry=options.retry,
            search_again=options.search_again,
            strict=options.strict,
            allow_programs=options.allow_programs,
        )
    print(wss_data.pipeline.summary_table(dataset))
    print(f"dataset:   {dataset.name}    (wss-data view {dataset.name})")
    print(f"sheets:    {dataset_folder(dataset.name) / 'pictures'}")
    if options.classes:
        print(f"definition: {dataset_folder(dataset.name) / DEFINITION_FILE}    (change it and build it again)")
    return 1 if wss_data.pipeline.left_out(dataset) else 0


def _sources(options: argparse.Namespace) -> None:
    """Show where images can come from, and what each source needs.
    Asks nobody: whether a service answers shows when it is searched.
    """
    parts = (
        wss_data.read_spec(options.spec).sources
        if options.spec
        else [wss_data.SourceSpec(name) for name in sorted(wss_data.list_sources())]
    )
    _print_sources(parts)


def _print_sources(parts: Sequence["wss_data.SourceSpec"]) -> None:
    width = max(len(part.name) for part in parts)
    for part in parts:
        state = wss_data.source_state(part.name, part.options)
        limit = f"at most {part.limit:,} a class. " if part.limit else ""
        print(f"{part.name:<{width}}  {state.state:<5}  {limit}{state.detail}")


def _query(given: str) -> tuple[str, list[str]]:
    """NAME=WORDS,... as (name, queries)."""
    name, _, words = (part.strip() for part in text(given).partition("="))
    queries = [word.strip() for word in words.split(",") if word.strip()]
    if not name or not queries:
        raise argparse.ArgumentTypeError(f"{shown(given)} is no NAME=WORDS,... such as dog=puppy")
    return name, queries


def _import_target(options: argparse.Namespace) -> None:
    """Read the target dataset: image-level labels for train and val, masks for val only.
    The images stay where they are; the dataset is called <name of the definition>-target.
    """
    dataset = wss_data.import_target(
        wss_data.read_spec(options.spec),
        options.folder,
        labels_csv=options.labels,
        sbd=options.sbd,
        strict=options.strict,
    )
    print(wss_data.store.target_summary(dataset))
    print(wss_data.store.import_report(dataset))
    print(f"dataset:   {dataset.name}    (wss-data view {dataset.name})")


def _list(options: argparse.Namespace) -> None:
    """List the datasets that were built, with their numbers of images."""
    rows = wss_data.list_datasets()
    if not rows:
        print("no datasets yet. Build one:  wss-data build drawn")
        return
    width = max(len(row.name) for row in rows)
    for row in rows:
        kept = f"{row.kept:>7} kept" if row.kind == "web" else " " * 12
        print(f"{row.name:<{width}}  {row.kind:<6}  {row.images:>7} images  {kept}  {', '.join(row.classes)}")


def _view(options: argparse.Namespace) -> None:
    """Open a dataset in the FiftyOne App, masks drawn in VOC colours.
    Serves on this machine only, and pages of other sites get no answer; there is no login. Ends with Ctrl-C.
    """
    wss_data.view_in_app(
        options.dataset, port=options.port, address=options.address, force=options.force, media=options.media
    )
