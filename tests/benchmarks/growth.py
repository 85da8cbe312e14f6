"""What one image costs when there are 1, 4 and 16 times as many: CPU time and memory of each command.

    python tests/benchmarks/growth.py [--images 100] [--factors 1,4,16]

Made-up images of two classes, each another one, go through the commands as a user types them: build (from a folder),
co-segmentation alone, filter, near copies against as many images, exports, target import, pseudo masks. Shown are CPU
milliseconds an image, without what the command costs for a handful of images, and the largest memory of its processes.
Status 1 if an image costs more than ``LIMIT`` times as much where there are most: nothing may grow faster than linear.
"""

import argparse
import json
import math
import shutil
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from measure import Run, run

from wss_data.imaging.images import write_jpeg
from wss_data.imaging.masks import write_mask

LIMIT, FEW, SECONDS = 1.5, 12, 3600
CLASSES = ("disc", "square")
DEFINITION = """\
name: web
classes: [disc, square]
target: {layout: voc}
"""
QUICK = "--set generator_iterations=2 --set weights=none --set crop=64 --set batch=2 --set long_side=160"
STEPS = {
    "build": "wss-data build --images {web} --name web",
    "co-segmentation alone": "wss-data cosegment-folder {web} --out {out}/masks",
    "filter": "wss-data filter web",
    "near copies": "wss-data leaks web --against {target}/JPEGImages",
    "export voc": "wss-data export web {out}/voc --layout voc",
    "export coco": "wss-data export web {out}/coco --layout coco",
    "target import": "wss-data import-target {target}/web.yaml {target}",
    "generator": "wss-train generator web --recipe cpu " + QUICK + " --out {out}/generator",
    "pseudo masks": "wss-train masks {out}/generator web-target",
}
NOT_COUNTED = {"generator"}  # a fixed number of iterations


def drawn(number: int, kind: int) -> tuple[np.ndarray, np.ndarray]:
    """An image of 160 x 120 px that no other resembles, and its mask: a disc or a square on blurred noise."""
    random = np.random.default_rng([number, kind])
    image = cv2.GaussianBlur(random.normal(0, 1, (120, 160, 3)).astype(np.float32), (0, 0), random.uniform(2, 12))
    image = (255 * (image - image.min()) / (image.max() - image.min())).astype(np.uint8)
    mask = np.zeros((120, 160), np.uint8)
    x, y, size = (int(value) for value in random.integers((50, 45, 25), (110, 75, 40)))
    if kind:
        cv2.rectangle(mask, (x - size, y - size), (x + size, y + size), kind + 1, -1)
    else:
        cv2.circle(mask, (x, y), size, kind + 1, -1)
    image[mask > 0] = image[mask > 0] // 4 + np.array([(190, 20, 20), (20, 20, 190)][kind], np.uint8)
    return image, mask


def lay_out(folder: Path, count: int) -> dict[str, Path]:
    """Web images by class, and a target in the layout of VOC, ``count`` images each."""
    web, target = folder / "web", folder / "target"
    (target / "ImageSets" / "Segmentation").mkdir(parents=True)
    labels, names = ["image,classes"], []
    for number in range(count):
        kind = number % 2
        write_jpeg(drawn(number, kind)[0], web / CLASSES[kind] / f"{number:06d}.jpg", quality=90)
        image, mask = drawn(number + 10**6, kind)
        names.append(f"t{number:06d}")
        write_jpeg(image, target / "JPEGImages" / f"{names[-1]}.jpg", quality=90)
        write_mask(mask, target / "SegmentationClass" / f"{names[-1]}.png")
        labels.append(f"{names[-1]},{CLASSES[kind]}")
    split = max(1, count // 10)
    for part, of in (("train", names[split:]), ("val", names[:split])):
        (target / "ImageSets" / "Segmentation" / f"{part}.txt").write_text("\n".join(of) + "\n")
    (target / "image_labels.csv").write_text("\n".join(labels) + "\n")
    (target / "web.yaml").write_text(DEFINITION)
    return {"web": web, "target": target, "out": folder / "out"}


def costs(folder: Path, count: int) -> dict[str, Run]:
    """What each step costs with ``count`` images."""
    places = lay_out(folder, count)
    places["out"].mkdir()
    environment = {"WSS_HOME": str(folder / "home"), "WSS_DATABASE_DIR": str(folder / "database")}
    found = {}
    for step, line in STEPS.items():
        program, *arguments = line.format(**places).split()
        log = folder / "log.txt"
        found[step] = run([Path(sys.executable).parent / program, *arguments], log, SECONDS, environment)
        if found[step].status not in (0, 1):
            raise SystemExit(f"{step}, {count} images: status {found[step].status}\n{log.read_text()[-3000:]}")
        print(f"  {count} images, {step}: {found[step].cpu_s:.1f} s, {found[step].peak_mb:.0f} MB", flush=True)
    return found


def allowed(each: list[float], counts: list[int]) -> float:
    """What an image may cost at the largest size, by its cost at the smaller ones; all in ms.

    ``LIMIT`` times that of the smallest; of sizes between accordingly less, by the same power of the size. They count,
    too, as a start that takes a little longer hides what a cheap step costs the smallest size.
    """
    span = math.log(counts[-1] / counts[0]) or 1.0
    bounds = (ms * LIMIT ** (math.log(counts[-1] / n) / span) for ms, n in zip(each[:-1], counts, strict=False))
    return max([*bounds, LIMIT * 0.5])


def main() -> int:
    """Measure and print; 1 if a step grows faster than linear."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=100, help="images of the smallest size (default: 100)")
    parser.add_argument("--factors", default="1,4,16", help="times as many (default: 1,4,16)")
    parser.add_argument("--json", type=Path, help="write all figures here, too")
    options = parser.parse_args()
    counts = [options.images * int(factor) for factor in options.factors.split(",")]
    runs = {}
    for count in (FEW, *counts):
        folder = Path(tempfile.mkdtemp(prefix="growth-"))
        try:
            runs[count] = costs(folder, count)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    grown = []
    print(f"\n| CPU ms an image / peak MB | {' | '.join(f'{count:,} images' for count in counts)} |")
    print("|---|" + "---:|" * len(counts))
    for step in (step for step in STEPS if step not in NOT_COUNTED):
        start = runs[FEW][step].cpu_s
        each = [1e3 * (runs[count][step].cpu_s - start) / (count - FEW) for count in counts]
        cells = (f"{ms:.1f} / {runs[count][step].peak_mb:.0f}" for ms, count in zip(each, counts, strict=True))
        print(f"| {step} | {' | '.join(cells)} |")
        if each[-1] > allowed(each, counts):
            grown.append(step)
    if options.json:
        options.json.write_text(json.dumps({n: {s: vars(r) for s, r in of.items()} for n, of in runs.items()}))
    print(f"faster than linear: {', '.join(grown) or 'nothing'} (an image at most {LIMIT} times as much)")
    return int(bool(grown))


if __name__ == "__main__":
    raise SystemExit(main())
