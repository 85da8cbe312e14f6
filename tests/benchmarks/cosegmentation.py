"""Measure a co-segmentation method on images with true masks: quality, confidence, cost, noise, growth.

    python tests/benchmarks/cosegmentation.py DATA/web_wild6 --method common
    python tests/benchmarks/cosegmentation.py DATA/web_wild6 --method centre --noise DATA/caltech_web/images/_noise
    python tests/benchmarks/cosegmentation.py DATA/web_wild6 --method common --growth 100 200 400 800
    OMP_NUM_THREADS=1 python tests/benchmarks/cosegmentation.py DATA/web_wild6 --profile

DATA/<set> holds images/<class>/<stem>.jpg and masks/<class>/<stem>.png. The method is an engine, or a
baseline: centre (centred Gaussian + cut), saliency (border saliency x centre + cut), border (border saliency + cut).
Truth is looked at only after all masks of a class are made.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
from scipy.stats import rankdata, spearmanr

from wss_data.backbones import dense
from wss_data.cosegmentation import common, make_engine, self_training
from wss_data.cosegmentation.base import ImageFiles
from wss_data.cosegmentation.features import DescriptorNetwork
from wss_data.cosegmentation.saliency import BASELINES
from wss_data.cosegmentation.score import jaccard, precision
from wss_data.errors import CosegmentationError
from wss_data.imaging.images import list_images, read_image
from wss_data.imaging.masks import foreground_ratio, read_mask

KEPT = (0.2, 0.8)
"""Foreground fractions that the filter keeps: Shen et al., BMVC 2017, section 3.1."""

TRUSTED = 0.5
"""The smallest confidence that the noise table tries."""

PROFILED = 16
"""Images on which networks with fused and with plain convolutions are compared."""

GROWTH_LIMIT_S = 3600
"""Seconds after which one size of the growth curve is given up."""


@dataclass(frozen=True)
class Measured:
    """What is known of one image after it was scored.

    Args:
        name: Class and stem.
        precision: P, in [0, 1].
        jaccard: J, in [0, 1].
        confidence: The method's own, in [0, 1].
        foreground: Fraction of the mask that is foreground, in [0, 1].
    """

    name: str
    precision: float
    jaccard: float
    confidence: float
    foreground: float

    @property
    def kept(self) -> bool:
        """Whether the foreground filter keeps it."""
        return KEPT[0] <= self.foreground <= KEPT[1]


@dataclass(frozen=True)
class Row:
    """One class, or the mean of the classes.

    Args:
        name: The class; ``mean`` for the mean over classes.
        images: Number of images.
        precision: Mean P.
        jaccard: Mean J.
        kept: Number of images kept.
        kept_jaccard: Mean J over those; ``None`` without any.
        confident_jaccard: Mean J over the half of the images with the highest confidence.
        correlation: Spearman's of confidence and J; ``None`` if one of them is constant.
    """

    name: str
    images: int
    precision: float
    jaccard: float
    kept: int
    kept_jaccard: float | None
    confident_jaccard: float
    correlation: float | None


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation in [-1, 1]; ``None`` if one side is constant or there are fewer than two values."""
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(spearmanr(first, second).statistic)


def separation(higher: Sequence[float], lower: Sequence[float]) -> float:
    """AUC: the chance that a random one of ``higher`` is above a random one of ``lower``; a tie counts half. [0, 1]."""
    places = rankdata([*higher, *lower])[: len(higher)]
    below = places.sum() - len(higher) * (len(higher) + 1) / 2
    return float(below / (len(higher) * len(lower)))


def confident_half(images: Sequence[Measured]) -> list[Measured]:
    """The half of the images with the highest confidence, rounded up; among equals the first."""
    ordered = sorted(images, key=lambda image: -image.confidence)
    return ordered[: -(-len(ordered) // 2)]


def class_row(name: str, images: Sequence[Measured]) -> Row:
    """The figures of one class."""
    kept = [image.jaccard for image in images if image.kept]
    return Row(
        name,
        len(images),
        float(np.mean([image.precision for image in images])),
        float(np.mean([image.jaccard for image in images])),
        len(kept),
        float(np.mean(kept)) if kept else None,
        float(np.mean([image.jaccard for image in confident_half(images)])),
        rank_correlation([image.confidence for image in images], [image.jaccard for image in images]),
    )


def mean_row(rows: Sequence[Row]) -> Row:
    """The mean over classes; where a class has no figure, over the others. Counts are sums."""

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    return Row(
        "mean",
        sum(row.images for row in rows),
        float(np.mean([row.precision for row in rows])),
        float(np.mean([row.jaccard for row in rows])),
        sum(row.kept for row in rows),
        mean([row.kept_jaccard for row in rows]),
        float(np.mean([row.confident_jaccard for row in rows])),
        mean([row.correlation for row in rows]),
    )


def cpu_s() -> float:
    """CPU seconds so far of this process and of all children that it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def segment(
    method: str, options: Mapping[str, Any], images: Sequence[np.ndarray], workers: int
) -> Iterator[tuple[np.ndarray, float]]:
    """The mask, (H, W) bool, and confidence of each image of a group by a baseline or an engine.

    Raises:
        CosegmentationError: If the method or an option is not known.
    """
    if method in BASELINES:
        if options:
            raise CosegmentationError(f"the baseline {method} has no options; found {', '.join(options)}.")
        found = enumerate(BASELINES[method](images[position]) for position in range(len(images)))
    else:
        found = iter(make_engine(method, options).segment_group(images, workers=workers))
    for expected, (position, segmented) in enumerate(found):
        if position != expected:
            raise CosegmentationError(f"{method}: gave the mask of image {position} where that of {expected} was due.")
        yield segmented.mask, segmented.confidence


def classes_of(folder: Path, only: Sequence[str], every: int) -> dict[str, list[tuple[Path, Path]]]:
    """Class -> (image, true mask) of each of its images that has one, every ``every``-th.

    Raises:
        CosegmentationError: If there is none.
    """
    found: dict[str, list[tuple[Path, Path]]] = {}
    for masks in sorted(path for path in (folder / "masks").glob("*") if path.is_dir()):
        if only and masks.name not in only:
            continue
        pairs = [(image, masks / f"{image.stem}.png") for image in sorted(list_images(folder / "images" / masks.name))]
        found[masks.name] = [pair for pair in pairs if pair[1].is_file()][::every]
    found = {name: pairs for name, pairs in found.items() if pairs}
    if not found:
        raise CosegmentationError(f"{folder}: no image with a true mask. The layout is images/CLASS and masks/CLASS.")
    return found


class Stages:
    """CPU milliseconds of the parts of the engine ``common``, each without what it calls of the others."""

    PARTS = (
        ("reading", ImageFiles, "__getitem__"),
        ("loading the network", common.CommonSettings, "network"),
        ("network", DescriptorNetwork, "describe"),
        ("sums and projections", common, "target_sums"),
        ("sums and projections", common, "project"),
        ("sums and projections", common, "pooled"),
        ("the rounds' CRFs", common, "_target"),
        ("the last CRF and its mask", common, "_segment_one"),
        ("self-training", self_training, "train_cells"),
        ("self-training", common, "log_odds"),
        ("descriptors that wait", common.ArraySpool, "append"),
        ("descriptors that wait", common.ArraySpool, "read"),
    )

    def __init__(self) -> None:
        self.ms: dict[str, float] = {label: 0.0 for label, _, _ in self.PARTS}
        self._inner: list[float] = []

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Count what runs in the block."""
        with ExitStack() as stack:
            for label, owner, name in self.PARTS:
                stack.enter_context(patch.object(owner, name, self._counted(label, getattr(owner, name))))
            begun = time.process_time()
            yield
            self.ms["the rest"] = 1000 * (time.process_time() - begun) - sum(self.ms.values())

    def _counted(self, label: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            begun = time.process_time()
            self._inner.append(0.0)
            try:
                return function(*arguments, **named)
            finally:
                spent = 1000 * (time.process_time() - begun)
                self.ms[label] += spent - self._inner.pop()
                if self._inner:
                    self._inner[-1] += spent

        return counted


def profile(arguments: argparse.Namespace) -> dict[str, Any]:
    """Where the CPU time of ``common`` goes, and what fused convolutions save of the network's, images interleaved."""
    classes = classes_of(arguments.folder, arguments.classes, arguments.every)
    stages, count = Stages(), sum(map(len, classes.values()))
    run_group(arguments, "warm-up", next(iter(classes.values()))[:8])  # compiles the CRF
    with stages.watched():
        for name, pairs in classes.items():
            run_group(arguments, name, pairs)
    found = {label: spent / count for label, spent in stages.ms.items()}
    images = [read_image(image) for image, _ in next(iter(classes.values()))[:PROFILED]]
    ratios = {}
    for kind in ("float32", "bf16"):
        options = {"device": "cpu", **arguments.options, "precision": kind}
        fused = common.CommonSettings(**options).network()
        with patch.object(dense, "_can_fuse", lambda _: False):
            plain = common.CommonSettings(**options).network()
        spent: list[tuple[float, float]] = []
        for image in images:
            times, maps = [], []
            for network in (plain, fused):
                begun = time.process_time()
                maps.append(network.describe(image).descriptors.astype(np.float32))
                times.append(time.process_time() - begun)
            np.testing.assert_allclose(*maps, atol=0.02 * float(maps[0].std()), rtol=0.01)
            spent.append((times[0], times[1]))
        before, now = np.median(spent[len(spent) // 4 :], axis=0)
        ratios[kind] = {"plain_ms": 1000 * before, "fused_ms": 1000 * now, "ratio": before / now}
    if not arguments.json:
        for label, milliseconds in found.items():
            print(f"{label:26} {milliseconds:7.1f} ms an image")
        print(f"{'all':26} {sum(found.values()):7.1f} ms an image, {count} images")
        for kind, row in ratios.items():
            print(
                f"network in {kind}: {row['fused_ms']:.1f} ms an image; with torch's own convolutions "
                f"{row['plain_ms']:.1f}, {row['ratio']:.2f} times; equal maps"
            )
    return {"cpu_ms_per_image": found, "fused": ratios}


def measure(name: str, mask: np.ndarray, confidence: float, truth_path: Path) -> Measured:
    """Score one mask, (H, W) bool."""
    truth = read_mask(truth_path) > 0
    return Measured(name, precision(mask, truth), jaccard(mask, truth), confidence, foreground_ratio(mask))


@dataclass(frozen=True)
class Group:
    """The outcome of one group.

    Args:
        images: The true images, scored.
        noise: Confidence and foreground fraction of the images that were mixed in.
        cpu_s: CPU seconds for all of them.
    """

    images: list[Measured]
    noise: list[tuple[float, float]]
    cpu_s: float


def run_group(
    arguments: argparse.Namespace, name: str, pairs: Sequence[tuple[Path, Path]], noise: Sequence[Path] = ()
) -> Group:
    """Segment one group, ``noise`` mixed in at seeded places, and score the true images."""
    members: list[tuple[Path, Path | None]] = [*pairs, *((path, None) for path in noise)]
    order = np.random.default_rng(arguments.seed).permutation(len(members)) if noise else range(len(members))
    members = [members[position] for position in order]
    begun = cpu_s()
    images = ImageFiles([image for image, _ in members])
    results = list(segment(arguments.method, arguments.options, images, arguments.workers))
    used = cpu_s() - begun
    scored, mixed_in = [], []
    for (image, truth), (mask, confidence) in zip(members, results, strict=True):
        if truth is None:
            mixed_in.append((confidence, foreground_ratio(mask)))
        else:
            scored.append(measure(f"{name}/{image.stem}", mask, confidence, truth))
    return Group(scored, mixed_in, used)


def quality(arguments: argparse.Namespace) -> dict[str, Any]:
    """The table of a whole set."""
    classes = classes_of(arguments.folder, arguments.classes, arguments.every)
    groups = {name: run_group(arguments, name, pairs) for name, pairs in classes.items()}
    rows = [class_row(name, group.images) for name, group in groups.items()]
    every = [image for group in groups.values() for image in group.images]
    over_images = class_row("over images", every)
    cost = 1000 * sum(group.cpu_s for group in groups.values()) / len(every)
    if not arguments.json:
        print(f"{'class':12} {'n':>5} {'P':>6} {'J':>6}  {'kept':>5} {'J':>6}  {'J confident':>11} {'rank corr.':>10}")
        for row in [*rows, mean_row(rows), over_images]:
            print(
                f"{row.name:12} {row.images:5d} {row.precision:6.3f} {row.jaccard:6.3f}  {row.kept:5d} "
                f"{_shown(row.kept_jaccard):>6}  {row.confident_jaccard:11.3f} {_shown(row.correlation):>10}"
            )
        print(f"CPU per image: {cost:.0f} ms")
    return {
        "classes": [asdict(row) for row in rows],
        "mean": asdict(mean_row(rows)),
        "over_images": asdict(over_images),
        "cpu_ms_per_image": cost,
        "images": [asdict(image) for image in every],
    }


def noise_count(true: int, share: float) -> int:
    """How many noise images make up ``share`` of the group that results, 0 <= share < 1."""
    return round(true * share / (1 - share))


def noise(arguments: argparse.Namespace) -> list[dict[str, float]]:
    """What fractions of noise in each group cost the true images, and whether confidence tells them apart."""
    classes = classes_of(arguments.folder, arguments.classes, arguments.every)
    pool = sorted(list_images(arguments.noise))
    rows: list[dict[str, float]] = []
    for share in [0.0, *arguments.noise_shares]:
        groups = []
        for name, pairs in classes.items():
            count = noise_count(len(pairs), share)
            if count > len(pool):
                raise CosegmentationError(f"{arguments.noise}: {len(pool)} noise images, {count} wanted for {name}.")
            # A fraction takes the smaller share's images along, so that the rows differ by the added ones alone.
            chosen = [pool[i] for i in np.random.default_rng(arguments.seed).permutation(len(pool))[:count]]
            groups.append(run_group(arguments, name, pairs, chosen))
        row = {"share": share, "jaccard": float(np.mean([class_row("", g.images).jaccard for g in groups]))}
        row["cost"] = row["jaccard"] - rows[0]["jaccard"] if rows else 0.0
        if share:
            apart = [
                separation([i.confidence for i in g.images], [confidence for confidence, _ in g.noise])
                for g in groups
                if g.noise
            ]
            row["auc"] = float(np.mean(apart)) if apart else float("nan")
        row |= filtered(groups)
        rows.append(row)
        if not arguments.json:
            auc = f"  AUC of confidence {row['auc']:.3f}" if share else ""
            print(f"noise {share:4.0%}  J {row['jaccard']:.3f}  cost {-row['cost']:+.3f}{auc}")
            print(
                f"            of the kept masks {row['noise_kept']:.1%} are noise; of those with a confidence of "
                f"{TRUSTED:g} or more {row['noise_trusted']:.1%}; true ones lost {row['true_lost']:.1%}",
                flush=True,
            )
    return rows


def filtered(groups: Sequence[Group]) -> dict[str, float]:
    """What a smallest confidence makes of the masks that the filter by foreground fraction keeps."""
    true = np.array([image.confidence for group in groups for image in group.images if image.kept])
    kept = [confidence for group in groups for confidence, ratio in group.noise if KEPT[0] <= ratio <= KEPT[1]]
    mixed_in = np.array(kept)
    trusted = int((true >= TRUSTED).sum()), int((mixed_in >= TRUSTED).sum())
    return {
        "noise_kept": len(mixed_in) / max(len(true) + len(mixed_in), 1),
        "noise_trusted": trusted[1] / max(sum(trusted), 1),
        "true_lost": 1 - trusted[0] / max(len(true), 1),
    }


class Repeated(Sequence[np.ndarray]):
    """A group of any size from a few files: repeats are mirrored, and jittered in crop and brightness by seed.

    Args:
        paths: The files.
        size: Number of images.
    """

    def __init__(self, paths: Sequence[Path], size: int) -> None:
        self.files, self.size = ImageFiles(paths), size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, position: Any) -> Any:
        """The image at ``position``: (H, W, 3), uint8."""
        position = range(self.size)[position]
        image = self.files[position % len(self.files)]
        round_ = position // len(self.files)
        if round_ == 0:
            return image
        generator = np.random.default_rng(position)
        height, width = image.shape[:2]
        top, bottom = generator.integers(0, max(height // 12, 1), 2)
        left, right = generator.integers(0, max(width // 12, 1), 2)
        image = image[top : height - bottom, left : width - right]
        image = image[:, ::-1] if round_ % 2 else image
        return np.clip(image * generator.uniform(0.85, 1.15), 0, 255).astype(np.uint8)


def growth(arguments: argparse.Namespace) -> list[dict[str, float]]:
    """CPU time and peak memory of one group at several sizes, each in a process of its own."""
    from measure import own_environment, run

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in arguments.growth:
            result, log = Path(folder, f"{size}.json"), Path(folder, f"{size}.log")
            given = [word for text in arguments.option for word in ("--option", text)]
            command = [sys.executable, __file__, arguments.folder, "--method", arguments.method, *given]
            command += ["--workers", str(arguments.workers), "--only", str(size), "--result", result]
            command += ["--classes", *arguments.classes] if arguments.classes else []
            cost = run(command, log, GROWTH_LIMIT_S, own_environment())
            if cost.status != 0:
                raise CosegmentationError(f"a group of {size} failed ({cost.status}): {log.read_text()[-500:]}")
            spent = json.loads(result.read_text())["cpu_s"]
            rows.append({"images": size, "cpu_s": spent, "cpu_ms": 1000 * spent / size, "peak_mb": cost.peak_mb})
            if not arguments.json:
                print(
                    f"{size:6d} images  {spent:8.1f} CPU s  {1000 * spent / size:7.1f} ms an image  "
                    f"peak {cost.peak_mb:6.0f} MB",
                    flush=True,
                )
    return rows


def one_size(arguments: argparse.Namespace) -> None:
    """Run one size of the growth curve here; start-up is not counted, but loading the network is."""
    classes = classes_of(arguments.folder, arguments.classes, 1)
    group = Repeated([image for image, _ in next(iter(classes.values()))], arguments.only)
    begun = cpu_s()
    for _ in segment(arguments.method, arguments.options, group, arguments.workers):
        pass
    arguments.result.write_text(json.dumps({"cpu_s": cpu_s() - begun}))


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _options(texts: Sequence[str]) -> dict[str, Any]:
    """``name=value`` texts as engine options; a value that is JSON is taken as such."""
    options: dict[str, Any] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            options[name] = json.loads(value)
        except json.JSONDecodeError:
            options[name] = value
    return options


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("folder", type=Path, help="holds images/CLASS and masks/CLASS")
    add("--method", default="common", help=f"an engine or one of {', '.join(BASELINES)} (default: common)")
    add("--option", action="append", default=[], metavar="NAME=VALUE", help="an engine's option; may be repeated")
    add("--classes", nargs="+", default=[], help="only these; with --growth the first gives the images")
    add("--every", type=int, default=1, help="take every n-th image of each class (default: 1)")
    add("--workers", type=int, default=1, help="worker processes; CPU time is sure with 1 (default: 1)")
    add("--noise", type=Path, help="folder of images that show something else")
    add("--noise-shares", type=float, nargs="+", default=[0.1, 0.3, 0.5], help="of the resulting group, 0 to below 1")
    add("--growth", type=int, nargs="+", help="group sizes to measure CPU time and memory at")
    add("--profile", action="store_true", help="print the CPU time of each stage of common, and of its network")
    add("--seed", type=int, default=0, help="of the noise drawn and its places (default: 0)")
    add("--json", action="store_true", help="print JSON, with every image, in place of tables")
    add("--only", type=int, help=argparse.SUPPRESS)
    add("--result", type=Path, help=argparse.SUPPRESS)
    return parser


def main() -> None:
    """Measure and print."""
    arguments = make_parser().parse_args()
    arguments.options = _options(arguments.option)
    cv2.setNumThreads(1)
    try:
        if arguments.only:
            one_size(arguments)
            return
        measured: Any
        if arguments.growth:
            measured = {"growth": growth(arguments)}
        elif arguments.profile:
            measured = {"profile": profile(arguments)}
        elif arguments.noise:
            measured = {"noise": noise(arguments)}
        else:
            measured = quality(arguments)
    except CosegmentationError as error:
        sys.exit(f"{error}")
    if arguments.json:
        print(json.dumps({"set": arguments.folder.name, "method": arguments.method, **measured}, indent=1))


if __name__ == "__main__":
    main()
