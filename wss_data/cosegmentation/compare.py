"""Saliency against co-segmentation, side by side: a figure for any class, and a table where true masks are at hand.

Source:
    Shen et al., BMVC 2017, figure 2 and section 3.1. Their saliency was learned from masks drawn by people; none of
    those here was learned at all.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wss_data.cosegmentation import make_engine
from wss_data.cosegmentation.base import ImageFiles, Segmented
from wss_data.cosegmentation.saliency import BASELINES, LONG_SIDE, border_saliency
from wss_data.cosegmentation.score import jaccard, precision
from wss_data.errors import CosegmentationError, ImageError, MaskError, SourceError
from wss_data.errors.names import printable, same_name
from wss_data.imaging.images import list_images, read_image, resize_longest_side, unseen_turn
from wss_data.imaging.masks import read_mask, resize_mask
from wss_data.imaging.sheets import Tile, cut_out, fit, write_sheet
from wss_data.reading.listing import Listing, by_name, list_files
from wss_data.runtime.files import check_outputs, output_path
from wss_data.runtime.parallel import map_images

LOGGER = logging.getLogger(__name__)

LONGEST_SIDE = 340  # larger images are shrunk to it first, pixels; as those of a dataset: Shen et al., section 4.1
TILE = (200, 150)  # largest (width, height) of an image in the figure, pixels
MOST_STRETCHED = 0.02  # difference of the aspects of a true mask and its image that is rounding, beside half a pixel


@dataclass(frozen=True)
class MethodScore:
    """How well one baseline or engine does on the images that have a true mask: means of P and J, in [0, 1]."""

    name: str
    images: int
    precision: float
    jaccard: float


@dataclass(frozen=True)
class SaliencyComparison:
    """What a comparison found; prints as a table."""

    figure: Path
    images: int  # in the group
    unreadable: int  # of these: neither shown nor scored
    shown: tuple[Path, ...]  # images in the figure, from left to right
    scores: tuple[MethodScore, ...]  # one a method, baselines first; empty without true masks
    passed_over: str = ""  # files of the folder that were not taken for images, as one line

    def __str__(self) -> str:
        lines = [f"{len(self.shown)} of {self.images} images in {self.figure}"]
        if self.unreadable:
            lines.append(f"{self.unreadable} images could not be read and are left out")
        if self.passed_over:
            lines.append(self.passed_over)
        if self.scores:
            width = max(6, *(len(score.name) for score in self.scores))
            lines.append(f"{'method':{width}}  {'n':>6} {'P':>7} {'J':>6}")
            lines += [f"{s.name:{width}}  {s.images:6d} {s.precision:7.3f} {s.jaccard:6.3f}" for s in self.scores]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"figure": str(self.figure), "shown": [str(path) for path in self.shown]}


def compare_saliency(
    images: Path | str,
    out: Path | str,
    methods: Sequence[str] = ("common",),
    truth: Path | str | None = None,
    count: int = 8,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    workers: int | None = None,
    allow_programs: bool = False,
) -> SaliencyComparison:
    """Draw the saliency of images beside their co-segmentation, and score both where true masks are given.

    Args:
        images: Folder with the images of one class; all of them are the group.
        out: The PNG to write. Rows: image, border saliency, mask of the baseline ``saliency``, mask of each engine, and
            the true mask if there is one.
        methods: Engines, by name.
        truth: Folder of true masks ``<stem>.png``, every value but 0 foreground; a folder with one folder a class
            will do, too. Images without a true mask are shown, not scored.
        count: Images in the figure; fewer if the group is smaller.
        options: Engine -> its options.
        workers: Worker processes; ``None`` for one a processor.
        allow_programs: Whether an engine may be one that runs a program (``external``).

    Raises:
        SourceError: If there is no image or no true mask where one is looked for.
        CosegmentationError: If a name or an option is not known, an engine runs a program without ``allow_programs``,
            ``count`` is below 1, or no image can be read.
        MaskError: If a true mask cannot be read or has other proportions than its image.
        OutputError: If ``out`` is a file that this program did not write, or that was changed since.
    """
    if not methods:
        raise CosegmentationError("no engine is given: compare-saliency wants at least one, such as common.")
    if count < 1:
        raise CosegmentationError(f"count is {count}: at least 1 image must be shown.")
    engines = {name: make_engine(name, (options or {}).get(name), allow_programs) for name in methods}
    paths = _group(Path(images))
    title = printable(Path(images).absolute().name)
    truths = {} if truth is None else _truths(paths, Path(truth), title)
    figure = Path(out)
    check_outputs([figure], [images, *([truth] if truth else [])])

    group = ImageFiles(paths, LONGEST_SIDE)
    made = {name: dict(engine.segment_group(group, workers=workers)) for name, engine in engines.items()}
    readable = [position for position in range(len(paths)) if position not in group.unreadable]
    if not readable:
        raise CosegmentationError(f"{title}: none of the {len(paths)} images can be read.")

    # The images shown are not chosen for their looks: by the first engine's confidence, highest first, at even steps.
    first = made[methods[0]]
    ordered = sorted(readable, key=lambda position: -first[position].confidence if position in first else 0.0)
    shown = [ordered[round(step)] for step in np.linspace(0, len(ordered) - 1, min(count, len(ordered)))]
    scored = [at for at in readable if paths[at] in truths]
    if turned := [paths[at] for at in scored if unseen_turn(paths[at]) != 1]:
        LOGGER.warning(
            "%d images with a true mask are turned upright by their EXIF orientation, which the size of a mask "
            "does not show, the first is %s. True masks must belong to the upright images.",
            len(turned),
            turned[0],
        )

    every = [
        _Shown(path, truths.get(path), {n: masks.get(at) for n, masks in made.items()}) for at, path in enumerate(paths)
    ]
    _draw(figure, title, [every[at] for at in shown])
    found = list(filter(None, map_images(_score, [every[at] for at in scored], workers)))
    means = {name: np.mean([scores[name] for scores in found], axis=0) for name in (found[0] if found else ())}
    return SaliencyComparison(
        figure,
        len(paths),
        len(group.unreadable),
        tuple(paths[at] for at in shown),
        tuple(MethodScore(name, len(found), float(p), float(j)) for name, (p, j) in means.items()),
        str(paths),
    )


class _Shown(NamedTuple):
    """One image: its file, its true mask if there is one, and each engine's mask, ``None`` where it made none."""

    path: Path
    truth: Path | None
    masks: Mapping[str, Segmented | None]


def saliency_image(saliency: np.ndarray) -> np.ndarray:
    """A saliency map as a grey image, white salient. ``saliency``: (H, W), in [0, 1] -> (H, W, 3), uint8."""
    return np.stack([np.rint(255 * np.clip(saliency, 0, 1)).astype(np.uint8)] * 3, axis=2)


def _group(folder: Path) -> Listing:
    if not folder.is_dir():
        raise SourceError(f"{folder}: there is no such folder of images.")
    listing = list_images(folder, deep=False)
    if not listing:
        classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        hint = f" It holds folders: give one class, such as {folder / classes[0]}." if classes else ""
        seen = f" ({listing})" if str(listing) else ""
        raise SourceError(f"{folder}: no image in it{seen}.{hint}")
    return listing


def _truths(paths: Sequence[Path], folder: Path, class_name: str) -> dict[Path, Path]:
    """Image -> its true mask, for those that have one."""
    if not folder.is_dir():
        raise SourceError(f"{folder}: there is no such folder of masks.")
    places = [place for place in (folder, folder / class_name) if place.is_dir()]
    masks: dict[str, list[Path]] = {}
    for place in places:  # what is in the class's own folder replaces what lies beside it
        masks |= by_name(list_files(place, (".png",), deep=False))
    found = {path: masks[name][0] for path in paths if (name := same_name(path.stem)) in masks}
    if not found:
        raise SourceError(
            f"{folder}: no true mask for any of the {len(paths)} images; {places[-1] / (paths[0].stem + '.png')} was "
            "looked for, among others."
        )
    return found


def _draw(figure: Path, title: str, shown: Sequence[_Shown]) -> None:
    images = [resize_longest_side(read_image(one.path), LONGEST_SIDE) for one in shown]
    truths = [_true_mask(one.truth, image) if one.truth else None for one, image in zip(shown, images, strict=True)]

    def tiles(masks: Sequence[Segmented | None], scored: bool = True) -> list[Tile]:
        return [_mask_tile(*parts, scored) for parts in zip(images, masks, truths, strict=True)]

    maps = [saliency_image(border_saliency(resize_longest_side(image, LONG_SIDE))) for image in images]
    rows: list[tuple[str, list[Tile]]] = [
        ("image", [Tile(fit(image, TILE)) for image in images]),
        ("border saliency\nZhu 2014", [Tile(fit(saliency, TILE)) for saliency in maps]),
        ("saliency mask\nborder x centre, cut", tiles([BASELINES["saliency"](image) for image in images])),
    ]
    rows += [(f"co-segmentation\n{name}", tiles([one.masks[name] for one in shown])) for name in shown[0].masks]
    if any(truth is not None for truth in truths):
        drawn = [None if mask is None else Segmented(mask, 1.0) for mask in truths]
        rows.append(("true mask", tiles(drawn, scored=False)))
    note = "Sorted by the confidence of the co-segmentation, taken at even steps."
    with output_path(figure) as temporary:
        write_sheet(temporary, f"{title}: saliency and co-segmentation", note, rows)


def _mask_tile(image: np.ndarray, segmented: Segmented | None, truth: np.ndarray | None, scored: bool) -> Tile:
    if segmented is None:
        return Tile(None, "no mask")
    small = fit(image, TILE)
    size = (small.shape[1], small.shape[0])
    band = None if segmented.uncertain is None else resize_mask(segmented.uncertain, size)
    mask = resize_mask(segmented.mask, size)
    caption = "" if truth is None or not scored else f"J {jaccard(segmented.mask, truth):.2f}"
    return Tile(cut_out(small, mask if band is None else mask & ~band, band), caption)


def _true_mask(path: Path, image: np.ndarray) -> np.ndarray:
    """The true mask at the size of its image, (H, W) bool."""
    mask = read_mask(path) > 0
    height, width = image.shape[:2]
    stretched = (mask.shape[0] / height) / (mask.shape[1] / width)
    # Rounding may take half a pixel of a side, which is much of a small one.
    if abs(stretched - 1) > MOST_STRETCHED + 1 / min(height, width):
        raise MaskError(
            "size",
            f"{path}: the true mask has {mask.shape[1]}x{mask.shape[0]} pixels, its image {width}x{height} after "
            "shrinking: other proportions. Was the image cropped, or turned by its EXIF tag?",
        )
    return resize_mask(mask, (width, height))


def _score(item: _Shown) -> dict[str, tuple[float, float]] | None:
    """Baseline or engine -> (P, J) on one image with a true mask; ``None`` if the image is gone by now."""
    assert item.truth is not None
    try:
        image = resize_longest_side(read_image(item.path), LONGEST_SIDE)
    except ImageError:
        return None
    truth = _true_mask(item.truth, image)
    # A mask that was not made counts as empty: it must not raise the score.
    engines = {name: np.zeros(truth.shape, bool) if one is None else one.mask for name, one in item.masks.items()}
    masks = {name: baseline(image).mask for name, baseline in BASELINES.items()} | engines
    return {name: (precision(mask, truth), jaccard(mask, truth)) for name, mask in masks.items()}
