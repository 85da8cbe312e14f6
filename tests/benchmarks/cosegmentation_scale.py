"""One group of thousands of photographs through co-segmentation: time, memory, throughput, and what they mean for more.

    python tests/benchmarks/cosegmentation_scale.py --images photos --count 4000 --workers 2

Where there are fewer photographs than are asked for, they are taken again mirrored,
cropped a little and lit a little differently, so that every file is another image.
The group runs through ``cosegment_folder`` in a process of its own, as a user's would.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

IMAGES, CORES = 75_800, 16
"""What the extrapolation is for: the paper's web images, on a machine of today."""

LONGEST_SIDE = 340
MOST_CROPPED = 0.08
"""Fraction of a side that a repeated photograph loses at most, at one end."""


def varied(image: np.ndarray, seed: int) -> np.ndarray:
    """The photograph mirrored (odd seeds), cropped and lit differently. ``image``: (H, W, 3), uint8 -> (h, w, 3)."""
    rng = np.random.default_rng(seed)
    height, width = image.shape[:2]
    top, bottom, left, right = (rng.uniform(0, MOST_CROPPED, 4) * (height, height, width, width)).astype(int)
    image = image[top : height - bottom, left : width - right]
    if seed % 2:
        image = image[:, ::-1]
    lit = 255 * (image / 255.0) ** rng.uniform(0.8, 1.25) * rng.uniform(0.9, 1.1, 3)
    return np.clip(lit, 0, 255).astype(np.uint8)


def write_group(photographs: list[Path], count: int, folder: Path) -> None:
    """Write ``count`` different JPEGs of at most 340 px, each photograph as it is before any is taken again."""
    from wss_data.errors import ImageError
    from wss_data.imaging.images import read_image, resize_longest_side, write_jpeg

    written = 0
    for number in range(100 * count):
        if written == count:
            return
        path = photographs[number % len(photographs)]
        try:
            image = resize_longest_side(read_image(path), LONGEST_SIDE)
        except ImageError:
            continue
        again = number // len(photographs)
        write_jpeg(varied(image, 2 * number + again % 2) if again else image, folder / f"{written:06}.jpg")
        written += 1
    raise SystemExit(f"only {written} of {count} pictures could be made: are the photographs readable?")


def work(arguments: argparse.Namespace) -> None:
    """Co-segment the group; tell what this process took, beside its workers."""
    from wss_data.cosegmentation.folder import cosegment_folder
    from wss_data.runtime.parallel import workers_on

    cv2.setNumThreads(1)
    begun = time.monotonic()
    with workers_on(arguments.executor, arguments.address, arguments.workers):
        summary = cosegment_folder(
            arguments.work / "images",
            arguments.work / "masks",
            method=arguments.method,
            workers=arguments.workers,
            progress=False,
        )
    own = resource.getrusage(resource.RUSAGE_SELF)
    told = {
        "masks": summary.made,
        "seconds": time.monotonic() - begun,
        "own_cpu_s": own.ru_utime + own.ru_stime,
        "own_peak_mb": own.ru_maxrss / 1e3,
    }
    (arguments.work / "told.json").write_text(json.dumps(told))


def main() -> None:
    """Make the group, run it, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=Path, help="folder of photographs, searched with its folders")
    parser.add_argument("--count", type=int, default=4000, help="images in the group (default: 4000)")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="worker processes")
    parser.add_argument("--executor", default="process", choices=["process", "dask"])
    parser.add_argument("--address", help="HOST:PORT of the cluster")
    parser.add_argument("--method", default="common", help="co-segmentation engine (default: common)")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        return work(arguments)
    if arguments.images is None:
        parser.error("--images is needed")

    from measure import own_environment, run

    from wss_data.imaging.images import list_images

    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        folder = Path(name)
        photographs = list_images(arguments.images)
        if not photographs:
            parser.error(f"no photograph in {arguments.images}")
        write_group(photographs, arguments.count, folder / "images" / "group")
        command = [sys.executable, __file__, *sys.argv[1:], "--workers", str(arguments.workers), "--work", name]
        cost = run(command, folder / "log", seconds=24 * 3600, environment=own_environment())
        if cost.status != 0:
            sys.exit((folder / "log").read_text()[-4000:])
        told = json.loads((folder / "told.json").read_text())
    count, workers = arguments.count, arguments.workers
    cpu_ms = 1000 * cost.cpu_s / count
    rate = count / told["seconds"]
    print(f"images       {count} in one group, {min(count, len(photographs))} of them as photographed")
    print(f"masks        {told['masks']}")
    print(f"time         {told['seconds']:.1f} s with {workers} workers ({cost.wall_s:.1f} s with start and end)")
    print(f"throughput   {rate:.2f} images/s, {rate / workers:.2f} a worker")
    print(
        f"CPU          {cpu_ms:.0f} ms an image all in; {1000 * told['own_cpu_s'] / count:.0f} ms in the main process"
    )
    print(f"memory       {told['own_peak_mb']:.0f} MB main process, {cost.peak_mb:.0f} MB all processes (peaks)")
    print(
        f"{IMAGES:,} on {CORES} cores: {IMAGES * cpu_ms / 3.6e6 / CORES:.2f} h if all cores are busy (CPU time); "
        f"{IMAGES / rate / 3600 * workers / CORES:.2f} h if {CORES} workers are {CORES / workers:g} times as fast"
    )


if __name__ == "__main__":
    main()
