"""A web dataset of the paper's size in the database: what building, filtering, reading and looking at it cost.

    python tests/benchmarks/app_scale.py [--images 75800] [--keep FOLDER]

The records are made up; their images and masks are a few drawn files again and again. The database is one of its own,
in a temporary folder. ``--keep`` puts it, and the dataset ``app-scale``, into FOLDER, so that one can look at it later.

Building goes by turns with FiftyOne's own ``add_samples`` on the same records, part by part in one process; the ratios
are those of the parts, and their median is shown. The App's own server is started, and asked what the App's page asks
when a saved view is opened: the first page of samples, and the counts of the side bar.
"""

import argparse
import hashlib
import json
import os
import random
import resource
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

from wss_data.spec import spec_from_dict

NAME = "app-scale"
PARTS = 10
"""Turns that ours and FiftyOne's own take."""

PAGE = 20
"""Samples that the App asks for at a time."""

WIDTH, HEIGHT = 340, 255


def made_up(folder: Path, classes: Sequence[str], start: int, stop: int) -> Iterator[Any]:
    """Records number ``start`` to ``stop`` of an endless list: as long as those of a crawl, the same every time."""
    from wss_data.records import ImageRecord, Provenance

    for number in range(start, stop):
        sha256 = hashlib.sha256(str(number).encode()).hexdigest()
        name = classes[number % len(classes)]
        yield ImageRecord(
            sha256,
            name,
            folder / "images" / name / f"{sha256[:20]}.jpg",
            (WIDTH, HEIGHT),
            (1024, 768),
            sha256[:16],
            Provenance(
                "flickr",
                str(4_000_000_000 + number),
                query=name,
                image_url=f"https://live.example.org/65535/{4_000_000_000 + number}_{sha256[:10]}_b.jpg",
                page_url=f"https://www.example.org/photos/somebody/{4_000_000_000 + number}",
                title=f"{name}, seen on day {number % 365}",
                author=f"Somebody {number % 997}",
                author_url=f"https://www.example.org/people/{number % 997}",
                license=("CC-BY-2.0", "CC-BY-SA-2.0", "CC0-1.0")[number % 3],
                license_url="https://creativecommons.org/licenses/by/2.0/",
                retrieved_at=datetime(2026, 1, 1 + number % 28, tzinfo=UTC),
            ),
        )


def mask_of(record: Any) -> dict[str, Any]:
    """What is stored of the mask of a made-up record: the same values for both contenders."""
    draw = random.Random(record.sha256)
    return {
        "mask_path": str(record.path).replace("/images/", "/cosegmentation/").replace(".jpg", ".png"),
        "foreground_ratio": draw.betavariate(2, 3),
        "confidence": draw.betavariate(6, 2),
        "quality": {
            "compactness": draw.random(),
            "pieces": draw.randint(1, 5),
            "border_contact": draw.random() / 2,
            "colour_contrast": draw.random(),
            "uncertain": 0.0,
        },
    }


@contextmanager
def stopwatch(into: list[tuple[float, float]]) -> Iterator[None]:
    """Append (CPU seconds of this process, wall seconds) of the block."""
    cpu, wall = time.process_time(), time.perf_counter()
    yield
    into.append((time.process_time() - cpu, time.perf_counter() - wall))


def empty_by_turns(spec: Any) -> list[tuple[float, float]]:
    """Ratios, CPU and wall, of an empty dataset with fields, colours, indexes and views to its fields one at a time."""
    from wss_data import store
    from wss_data.store.connection import fiftyone

    fo, ratios = fiftyone(), []
    for _ in range(PARTS):
        times: list[tuple[float, float]] = []
        with stopwatch(times):
            dataset = store.create_or_open(spec, "web")
        plain, schema = fo.Dataset(), dataset.get_field_schema(flat=True)
        with stopwatch(times):
            for path, field in schema.items():
                kinds = {"embedded_doc_type": getattr(field, "document_type", None)}
                kinds |= {"subfield": type(field.field)} if isinstance(field, fo.ListField) and field.field else {}
                if not plain.has_field(path):
                    plain.add_sample_field(path, type(field), **kinds)
        assert schema.keys() <= plain.get_field_schema(flat=True).keys()
        fo.delete_dataset(plain.name)
        fo.delete_dataset(dataset.name)
        ratios.append((times[0][0] / times[1][0], times[0][1] / times[1][1]))
    return ratios


def build_by_turns(dataset: Any, folder: Path, count: int) -> dict[str, list[tuple[float, float]]]:
    """Fill ``dataset`` by our functions and a plain dataset by ``add_samples``, part by part; returns their times.

    Ours is what a build does: images in batches as they come, masks in batches as they are made. FiftyOne's own gets
    all of it at once: the samples of a part, masks and numbers on them, in one call, in batches of its own choice.
    """
    from wss_data import store
    from wss_data.cosegmentation.quality import MaskQuality
    from wss_data.retrieval.retrieve import BATCH
    from wss_data.store.connection import fiftyone

    fo = fiftyone()
    classes = store.class_names(dataset)
    plain = fo.Dataset()
    times: dict[str, list[tuple[float, float]]] = {"images": [], "masks": [], "plain": []}

    def ours(records: list[Any]) -> None:
        with stopwatch(times["images"]):
            for start in range(0, len(records), BATCH):
                store.add_records(dataset, records[start : start + BATCH])
        # A build asks for the members of a class at a time; here the ids of this part alone are wanted.
        wanted = dataset.match(fo.ViewField("sha256").is_in([record.sha256 for record in records]))
        ids = dict(zip(*wanted.values(["sha256", "id"]), strict=True))
        with stopwatch(times["masks"]):
            for start in range(0, len(records), BATCH):
                values = []
                for record in records[start : start + BATCH]:
                    made = mask_of(record)
                    quality = MaskQuality(**made.pop("quality"))
                    values.append(
                        store.MaskValues(ids[record.sha256], method="common", fingerprint="f", quality=quality, **made)
                    )
                store.set_masks(dataset, store.MASKS, values)

    def fiftyones(records: list[Any]) -> None:
        with stopwatch(times["plain"]):
            plain.add_samples([_plain_sample(fo, record) for record in records], progress=False)

    size = -(-count // PARTS)
    for turn in range(PARTS):
        records = list(made_up(folder, classes, turn * size, min(count, (turn + 1) * size)))
        for contender in (ours, fiftyones) if turn % 2 else (fiftyones, ours):
            contender(records)
    fo.delete_dataset(plain.name)
    return times


def _plain_sample(fo: Any, record: Any) -> Any:
    """The sample of a record as somebody would write it who uses FiftyOne alone."""
    made, source = mask_of(record), record.provenance
    return fo.Sample(
        filepath=str(record.path),
        tags=["kept" if 0.2 <= made["foreground_ratio"] <= 0.8 else "dropped"],
        metadata=fo.ImageMetadata(width=WIDTH, height=HEIGHT, num_channels=3, mime_type="image/jpeg"),
        image_id=f"{record.class_name}/{record.path.stem}",
        label=fo.Classification(label=record.class_name),
        sha256=record.sha256,
        phash=record.phash,
        provenance=fo.DynamicEmbeddedDocument(
            source=source.source,
            source_id=source.source_id,
            query=source.query,
            image_url=source.image_url,
            page_url=source.page_url,
            title=source.title,
            author=source.author,
            author_url=source.author_url,
            license=source.license,
            license_url=source.license_url,
            retrieved_at=source.retrieved_at,
            opt_outs=list(source.opt_outs),
            original_width=record.original_size[0],
            original_height=record.original_size[1],
        ),
        foreground_ratio=made["foreground_ratio"],
        confidence=made["confidence"],
        quality=fo.DynamicEmbeddedDocument(**made["quality"]),
        cosegmentation=fo.Segmentation(mask_path=made["mask_path"], method="common", fingerprint="f"),
    )


GRAPHQL = {
    "samples": """query page($dataset: String!, $view: BSONArray!, $filter: SampleFilter!, $count: Int) {
        samples(dataset: $dataset, view: $view, first: $count, filter: $filter, filters: {}, paginationData: true) {
            ... on SampleItemStrConnection { edges { node { ... on ImageSample { id sample urls { field url } } } } }
        } }""",
    "counts": """query counts($form: AggregationForm!) {
        aggregations(form: $form) { ... on RootAggregation { path count } ... on StringAggregation { path count }
            ... on FloatAggregation { path count min max } } }""",
}
SIDE_BAR = ("", "tags", "label.label", "confidence", "foreground_ratio", "quality.compactness")
"""What the side bar counts; the empty path is the number of images."""


@contextmanager
def app_server() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The App's server on a free port: its address and its process."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "fiftyone.server.main", "--port", str(port), "--address", "localhost"],
        env={**os.environ, "FIFTYONE_DISABLE_SERVICES": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://localhost:{port}/fiftyone", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < end, "the App's server did not start"
                time.sleep(0.2)
        yield f"http://localhost:{port}", process
    finally:
        process.terminate()
        process.wait()


def ask(address: str, question: str, **variables: Any) -> Any:
    """What the App's server answers to one question of its page."""
    body = json.dumps({"query": GRAPHQL[question], "variables": variables}).encode()
    request = urllib.request.Request(f"{address}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        told = json.load(answer)
    assert "errors" not in told, told
    return told["data"]


def open_view(address: str, dataset: Any, name: str | None) -> tuple[int, float]:
    """Ask what the App asks when a saved view is opened; returns its number of images and the seconds it took."""
    stages = json.loads(json.dumps(dataset.load_saved_view(name)._serialize(), default=str)) if name else []
    form = {"dataset": dataset.name, "view": stages, "paths": SIDE_BAR, "mixed": False, "extendedStages": {}}
    form |= {"filters": {}, "hiddenLabels": [], "sampleIds": [], "groupId": None, "slice": None, "slices": None}
    form |= {"index": 0, "viewName": None}
    begun = time.perf_counter()
    page = ask(address, "samples", dataset=dataset.name, view=stages, filter={"group": None}, count=PAGE)
    counts = ask(address, "counts", form=form)["aggregations"]
    seconds = time.perf_counter() - begun
    shown = next(row["count"] for row in counts if row["path"] == "")
    assert len(page["samples"]["edges"]) == min(PAGE, shown), name
    return shown, seconds


def mark_repeats(dataset: Any) -> None:
    """Mark every thirtieth image as screening marks what repeats another, and some of them as leaks."""
    ids, names, tags = dataset.values(["id", "image_id", "tags"])
    repeats = {ids[i]: names[i - 1] for i in range(29, len(ids), 30)}
    dataset.set_values("duplicate_of", repeats, key_field="id")
    there = dict(zip(ids, tags, strict=True))
    marked = {
        key: [*there[key], f"dropped:{'leak' if i % 30 == 29 else 'near_duplicate'}"] for i, key in enumerate(repeats)
    }
    dataset.set_values("tags", marked, key_field="id")


def draw_files(folder: Path, classes: Sequence[str], count: int) -> None:
    """One drawn image and mask a class, and a link to it under the name of each record."""
    from wss_data.imaging.images import write_jpeg
    from wss_data.imaging.masks import write_mask

    for index, name in enumerate(classes, start=1):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[60:200, 80:260] = index
        image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
        image[mask > 0] = (40 + 10 * index, 220 - 9 * index, 128)
        write_jpeg(image, folder / f"{name}.jpg")
        write_mask(mask, folder / f"{name}.png")
    for record in made_up(folder, classes, 0, count):
        for path, source in ((record.path, f"{record.class_name}.jpg"), (Path(mask_of(record)["mask_path"]), None)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(folder / (source or f"{record.class_name}.png"))


def peak_mb() -> float:
    """Largest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def timed(what: str, work: Callable[[], Any]) -> Any:
    """Do it and print what it cost."""
    times: list[tuple[float, float]] = []
    with stopwatch(times):
        result = work()
    (cpu, wall), peak = times[0], peak_mb()
    print(f"| {what} | {cpu:.1f} | {wall:.1f} | {peak:.0f} |", flush=True)
    return result


def main() -> None:
    """Build by turns, filter, read, look; print what each cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=75_800)
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="keep the dataset, with links to drawn pictures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.keep or Path(temporary)).absolute()
        os.environ["WSS_DATABASE_DIR"] = str(folder / "database")
        os.environ["WSS_HOME"] = str(folder / "home")
        from wss_data import store
        from wss_data.spec import FilterSpec, read_spec

        ratios = empty_by_turns(_named(read_spec("pascal_voc")))
        dataset = store.create_or_open(_named(read_spec("pascal_voc")), "web")
        home = folder / "home" / NAME
        print(f"memory with everything imported: {peak_mb():.0f} MB")
        cpu, wall = (median(ratio[clock] for ratio in ratios) for clock in (0, 1))
        print(f"an empty dataset, against its fields alone, declared one at a time: CPU {cpu:.2f}, wall {wall:.2f}")
        times = build_by_turns(dataset, home, options.images)
        print("\n| building, against add_samples | CPU | wall |\n|---|---:|---:|")
        for what, parts in (("images alone", ("images",)), ("images, then masks", ("images", "masks"))):
            ratios = [
                median(
                    sum(times[part][turn][clock] for part in parts) / times["plain"][turn][clock]
                    for turn in range(len(times["plain"]))
                )
                for clock in (0, 1)
            ]
            print(f"| {what} | {ratios[0]:.2f} | {ratios[1]:.2f} |")
        each = sum(wall for part in ("images", "masks") for _, wall in times[part]) / options.images
        print(f"\nours: {1000 * each:.2f} ms an image, wall")

        print("\n| | CPU s | wall s | largest memory, MB |\n|---|---:|---:|---:|")
        timed("filter", lambda: store.apply_filter(dataset))
        timed("the same filter again", lambda: store.apply_filter(dataset))
        timed("other thresholds, dry", lambda: store.apply_filter(dataset, FilterSpec(0.3, 0.7), dry_run=True))
        timed("other thresholds", lambda: store.apply_filter(dataset, FilterSpec(0.3, 0.7)))
        store.apply_filter(dataset, FilterSpec(0.2, 0.8))
        timed("members of all groups", lambda: [store.group_members(dataset, c) for c in store.class_names(dataset)])
        timed("screening", lambda: store.screen(dataset, None))
        mark_repeats(dataset)
        table = timed("table for training", lambda: store.example_table(dataset, store.MASKS))
        print(f"\n{len(table):,} of {dataset.count():,} images kept")

        with app_server() as (address, process):
            print("\n| saved view | images | first time, s | then, s |\n|---|---:|---:|---:|")
            views = [name for name in dataset.list_saved_views() if not name.startswith("class ")]
            for name in (None, *views, f"class {store.class_names(dataset)[0]}"):
                (shown, first), *later = (open_view(address, dataset, name) for _ in range(4))
                then = median(seconds for _, seconds in later)
                print(f"| {name or '(all)'} | {shown:,} | {first:.2f} | {then:.2f} |", flush=True)
            print(f"\nmemory of the App's server: {psutil.Process(process.pid).memory_info().rss / 1e6:.0f} MB")
        if options.keep:
            draw_files(home, store.class_names(dataset), options.images)
            print(f"\nWSS_HOME={folder}/home WSS_DATABASE_DIR={folder}/database wss-data view {NAME}")


def _named(spec: Any) -> Any:
    return spec_from_dict({**spec.to_dict(), "name": NAME})


if __name__ == "__main__":
    main()
