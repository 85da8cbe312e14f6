"""CPU time of the two backends of the dense CRF on photographs, and whether they give the same labels.

    python tests/benchmarks/crf_speed.py FOLDER [--images 6] [--rounds 5]

FOLDER holds JPEGImages and SegmentationClass as Pascal VOC does. The score maps are the masks, softened and with smooth
noise, as a network might make them. Both programs run in this process, on one thread, in turns; the ratio is taken
within each turn and its median shown, so that a busy machine changes the milliseconds more than the ratios.
pydensecrf: pip install pydensecrf2==1.1.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import cv2
import numpy as np

from wss_data.crf.dense_crf import CrfSettings, dense_crf
from wss_data.imaging.images import read_image
from wss_data.imaging.masks import read_mask

SAME = 0.999
"""Fraction of the pixels whose labels must be equal, in each image."""

CASES = (
    ("co-segmentation, 160 px, 5 iterations", 2, 160, CrfSettings(3, 3, 25, 5, 6, 5)),
    ("2 labels", 2, None, CrfSettings()),
    ("3 labels", 3, None, CrfSettings()),
    ("4 labels", 4, None, CrfSettings()),
    ("4 labels, 1 iteration", 4, None, replace(CrfSettings(), iterations=1)),
    ("21 labels", 21, None, CrfSettings()),
)

FIRST_CALL = """
import time
import numpy as np
from wss_data.crf.dense_crf import dense_crf
random = np.random.default_rng(0)
image = random.integers(0, 256, (60, 80, 3), dtype=np.uint8)
for labels in (2, 3, 21):
    probabilities = random.dirichlet(np.ones(labels), (60, 80)).transpose(2, 0, 1)
    start = time.process_time()
    dense_crf(probabilities, image, using="builtin")
    print(time.process_time() - start)
"""


def score_map(truth: np.ndarray, labels: int, seed: int) -> np.ndarray:
    """Probabilities (L, H, W) that lean to the mask, blurred by 8 px, with noise that is smooth over 16 px."""
    random = np.random.default_rng(seed)
    height, width = truth.shape
    _, classes = np.unique(np.where(truth == 255, 0, truth), return_inverse=True)
    noise = random.normal(0, 1.3, (labels, height // 16 + 2, width // 16 + 2))
    scores = np.empty((labels, height, width))
    for label in range(labels):
        lean = 4.0 * (classes.reshape(truth.shape) % labels == label)
        rough = cv2.resize(noise[label], (width, height), interpolation=cv2.INTER_CUBIC)
        scores[label] = cv2.GaussianBlur(lean, (0, 0), 8) + rough
    values = np.exp(scores - scores.max(axis=0))
    return values / values.sum(axis=0)


def compare(folder: Path, names: list[str], labels: int, side: int | None, settings: CrfSettings, rounds: int) -> str:
    """Run both backends in turns over all images; a row of the table. Asserts that labels are equal."""
    times: dict[str, list[float]] = {"pydensecrf": [], "builtin": []}
    same = []
    for seed, name in enumerate(names):
        image = read_image(folder / "JPEGImages" / f"{name}.jpg")
        truth = read_mask(folder / "SegmentationClass" / f"{name}.png")
        if side is not None:
            share = side / max(truth.shape)
            size = (round(truth.shape[1] * share), round(truth.shape[0] * share))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            truth = cv2.resize(truth, size, interpolation=cv2.INTER_NEAREST)
        probabilities = score_map(truth, labels, seed)
        dense_crf(probabilities, image, settings, "builtin")
        for turn in range(rounds):
            labelled = {}
            for backend in sorted(times, reverse=turn % 2 == 0):
                start = time.process_time()
                labelled[backend] = dense_crf(probabilities, image, settings, backend).argmax(axis=0)
                times[backend].append(time.process_time() - start)
        same.append(float((labelled["builtin"] == labelled["pydensecrf"]).mean()))
        assert same[-1] >= SAME, f"{name}, {labels} labels: only {same[-1]:.4%} of the pixels have the same label"
    theirs, ours = times["pydensecrf"], times["builtin"]
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    return f"{1000 * median(theirs):.0f} | {1000 * median(ours):.0f} | {median(ratios):.2f} | {min(same):.3%}"


def first_call(cache: str) -> str:
    """CPU seconds of the first call for 2, 3 and 21 labels in a new process, with numba's cache in a folder."""
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"NUMBA_CACHE_DIR": cache}
    done = subprocess.run(
        [sys.executable, "-c", FIRST_CALL], capture_output=True, text=True, check=True, cwd=root, env=environment
    )
    return ", ".join(f"{float(seconds):.2f}" for seconds in done.stdout.split())


def main() -> None:
    """Print the table; fails where labels differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with JPEGImages and SegmentationClass")
    parser.add_argument("--images", type=int, default=6, help="how many, spread over the folder (default: 6)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of both programs an image (default: 5)")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    names = sorted(path.stem for path in (options.folder / "SegmentationClass").glob("*.png"))
    if not names:
        parser.error(f"{options.folder} holds no SegmentationClass/*.png")
    names = names[:: max(1, len(names) // options.images)][: options.images]
    print("| case | pydensecrf, ms | built-in, ms | ratio | labels equal, worst image |\n|---|---|---|---|---|")
    for title, labels, side, settings in CASES:
        row = compare(options.folder, names, labels, side, settings, options.rounds)
        print(f"| {title} | {row} |", flush=True)
    with tempfile.TemporaryDirectory() as cache:
        print(f"\nfirst call in a new process, s, for 2, 3, 21 labels one after the other: {first_call(cache)}")
        print(f"the same with numba's cache filled: {first_call(cache)}")


if __name__ == "__main__":
    main()
