"""Sheets of images and masks: what co-segmentation made of a web dataset, and what the filter kept. No database."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wss_data.errors import ImageError, MaskError
from wss_data.imaging.images import read_image, strips
from wss_data.imaging.masks import IGNORE_INDEX, read_mask, resize_mask, used_values, voc_palette
from wss_data.runtime.files import atomic_path

INK, FAINT, PAPER = "#1d2129", "#8a919c", "#ffffff"
KEPT, DROPPED = "#1f8a4c", "#c0392b"

BAND_GREY = 136  # of the uncertain band
_CUT = 8  # pixels beyond a strip of a large image that are drawn with it: more than a contour is wide
_GAP, _BORDER = 10, 24  # pixels


@dataclass(frozen=True)
class DatasetImage:
    """One image of a web dataset, as a sheet needs it."""

    class_name: str  # the class it was searched for
    image_path: str  # the stored image
    mask_path: str | None  # its co-segmentation (label mask); None without one
    foreground_ratio: float | None  # fraction of the pixels that are foreground, in [0, 1]; None without a mask
    kept: bool  # by the filter
    reason: str = ""  # why it was dropped, such as too_small; empty if kept
    ignore_index: int = IGNORE_INDEX  # value of the mask's uncertain band


@dataclass(frozen=True)
class Tile:
    """One cell of a sheet."""

    image: np.ndarray | None  # (H, W, 3) uint8; None leaves the cell empty
    caption: str = ""  # one line below it
    colour: str = FAINT  # of the caption
    uncertain: bool = False  # whether an uncertain band is shown


def write_sheets(
    rows: Sequence[DatasetImage], folder: Path, thresholds: tuple[float, float], per_class: int = 16
) -> list[Path]:
    """Write sheets of the images and masks of a web dataset into a folder.

    Args:
        rows: All images of the dataset.
        folder: Receives ``cosegmentation.png`` (all classes), ``cosegmentation_<class>.png`` and
            ``foreground_ratio.png``; older files of these names are replaced.
        thresholds: Smallest and largest foreground fraction kept, 0 to 1; drawn into the histogram.
        per_class: Images on the sheet of a class.

    Returns:
        The files written, the overview first.
    """
    by_class: dict[str, list[DatasetImage]] = {}
    for row in rows:
        by_class.setdefault(row.class_name, []).append(row)
    if not by_class:
        return []

    overview, written = [], []
    for class_name, members in by_class.items():
        tiles = [pair_tile(member) for member in spread(members, per_class)]
        path = folder / f"cosegmentation_{class_name}.png"
        title = f"{class_name}: {_counts(members)}"
        write_sheet(path, title, _note(tiles), [("", tiles[i : i + 8]) for i in range(0, len(tiles), 8)])
        written.append(path)
        first = [pair_tile(member, (150, 115)) for member in spread(members, 8)]
        overview.append((f"{class_name}\n{_counts(members)}", first))

    path, histogram = folder / "cosegmentation.png", folder / "foreground_ratio.png"
    note = _note([tile for _, tiles in overview for tile in tiles])
    write_sheet(path, f"Co-segmentation of {len(by_class)} classes: {_counts(rows)}", note, overview)
    write_histograms(by_class, histogram, thresholds)
    return [path, histogram, *written]


def _note(tiles: Sequence[Tile]) -> str:
    note = "Sorted by foreground fraction, taken at even steps. Above the image, below its foreground."
    return f"{note} Grey: uncertain, counts as neither." if any(tile.uncertain for tile in tiles) else note


def spread(members: Sequence[DatasetImage], count: int) -> list[DatasetImage]:
    """At most ``count`` images at even steps of the foreground fraction, images without a mask first.

    >>> members = [DatasetImage("cow", f"{ratio}.jpg", None, ratio, True) for ratio in (0.5, 0.1, 0.3, 0.9, 0.7)]
    >>> [member.foreground_ratio for member in spread(members, 3)]
    [0.1, 0.5, 0.9]
    """
    # Not chosen for their looks: a sheet shows what the filter cuts off at both ends.
    ordered = sorted(members, key=lambda m: (-1.0 if m.foreground_ratio is None else m.foreground_ratio, m.image_path))
    if len(ordered) <= count:
        return ordered
    steps = np.linspace(0, len(ordered) - 1, count)
    return [ordered[round(step)] for step in steps]


def pair_tile(member: DatasetImage, box: tuple[int, int] = (200, 150)) -> Tile:
    """The image above its foreground, with fraction and verdict. ``box``: (width, height) of each, in pixels."""
    verdict = "kept" if member.kept else (member.reason.replace("_", " ") or "dropped")
    fraction = "" if member.foreground_ratio is None else f"{100 * member.foreground_ratio:.0f} %  "
    try:
        image = fit(read_image(member.image_path), box)
    except ImageError as error:  # gone or damaged since: the sheet says so
        return Tile(None, error.reason.replace("_", " "), DROPPED)
    below, uncertain = np.full((box[1], box[0], 3), 245, np.uint8), False
    # A mask that cannot be read is none here; wss-train check names it.
    with suppress(MaskError):
        if member.mask_path is not None:
            mask = resize_mask(read_mask(member.mask_path), (image.shape[1], image.shape[0]))
            band = mask == member.ignore_index
            uncertain = bool(band.any())
            below = _centred(cut_out(image, (mask != 0) & ~band, band if uncertain else None), box)
    line = np.full((4, box[0], 3), 255, np.uint8)
    pair = np.concatenate([_centred(image, box), line, below])
    return Tile(pair, fraction + verdict, KEPT if member.kept else DROPPED, uncertain)


def cut_out(image: np.ndarray, foreground: np.ndarray, uncertain: np.ndarray | None = None) -> np.ndarray:
    """The foreground in full colour with a contour, an uncertain band in grey, the rest faded. Shape (H, W, 3), uint8.

    Args:
        image: Shape (H, W, 3), uint8.
        foreground: Shape (H, W), bool.
        uncertain: The band, outside the foreground. Shape (H, W), bool, or ``None``.
    """
    grey = image.mean(axis=2, keepdims=True)
    faded = (0.25 * grey + 0.75 * 240).astype(np.uint8)
    result = np.where(foreground[:, :, None], image, faded)
    if uncertain is not None:
        # Between the faded background (180 to 244) and the object's own colours; a flat grey is neither.
        result[uncertain] = BAND_GREY
    return _contour(result, foreground, (224, 49, 49))


def overlay(image: np.ndarray, mask: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """A label mask over its image in the colours of VOC, with contours; background stays the image. As ``image``.

    Args:
        image: Shape (H, W, 3), uint8.
        mask: Label mask. Shape (H, W), uint8; 255 (void) is drawn white.
        opacity: Of the colours, in [0, 1].
    """
    colours = voc_palette().copy()
    colours[IGNORE_INDEX] = 255
    height, width = mask.shape
    result = np.empty_like(image)
    # In strips: colours and their mixture are floating point, eight bytes for each byte of the image.
    for rows, columns in strips(height, width):
        # A margin keeps the cut from being drawn as a contour.
        top, left = max(0, rows.start - _CUT), max(0, columns.start - _CUT)
        seen = slice(top, rows.stop + _CUT), slice(left, columns.stop + _CUT)
        below, part = image[seen], mask[seen]
        mixed = (1 - opacity) * below + opacity * colours[part]
        drawn = np.where((part != 0)[:, :, None], mixed, 0.85 * below + 0.15 * 255).astype(np.uint8)
        for index in used_values(part):
            if index not in (0, IGNORE_INDEX):
                drawn = _contour(drawn, part == index, (255, 255, 255))
        inner = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
        result[rows, columns] = drawn[inner]
    return result


def _contour(image: np.ndarray, region: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    image = np.ascontiguousarray(image)
    outlines, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(image, outlines, -1, colour, 1, cv2.LINE_AA)


def fit(image: np.ndarray, box: tuple[int, int], nearest: bool = False) -> np.ndarray:
    """The image, (H, W, 3) or (H, W) uint8, scaled to fit into ``box`` = (width, height) pixels."""
    height, width = image.shape[:2]
    factor = min(box[0] / width, box[1] / height)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    if nearest:
        return resize_mask(image, size)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)


def _centred(image: np.ndarray, box: tuple[int, int]) -> np.ndarray:
    canvas = np.full((box[1], box[0], 3), 255, np.uint8)
    top, left = (box[1] - image.shape[0]) // 2, (box[0] - image.shape[1]) // 2
    canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canvas


def write_sheet(
    path: Path, title: str, note: str, rows: Sequence[tuple[str, Sequence[Tile]]], columns: Sequence[str] = ()
) -> None:
    """Write a sheet of labelled images as a PNG, atomically.

    Args:
        path: The file.
        title: Line at the top.
        note: Smaller line below it: how the images were chosen and how to read them.
        rows: Label at the left (may have a second line; all empty for no labels) and tiles.
        columns: Headings of the columns.
    """
    sizes = [tile.image.shape for _, row in rows for tile in row if tile.image is not None]
    width = max((size[1] for size in sizes), default=200)
    height = max((size[0] for size in sizes), default=150)
    heading, body, small = (ImageFont.load_default(size) for size in (26, 17, 15))
    label_width = max((int(body.getlength(line)) for label, _ in rows for line in label.split("\n")), default=0)
    label_width += _GAP * 2 if label_width else 0
    captions = 26 if any(tile.caption for _, row in rows for tile in row) else 0
    count = max((len(row) for _, row in rows), default=0)

    top = _BORDER + (36 if title else 0) + (28 if note else 0) + (30 if columns else 0)
    text_width = max(heading.getlength(title), small.getlength(note))
    sheet_width = 2 * _BORDER + max(label_width + count * (width + _GAP), int(text_width))
    sheet = Image.new("RGB", (sheet_width, top + len(rows) * (height + captions + _GAP) + _BORDER), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_BORDER, _BORDER - 6), title, INK, heading)
    draw.text((_BORDER, _BORDER + 28), note, FAINT, small)
    for column, name in enumerate(columns):
        middle = _BORDER + label_width + column * (width + _GAP) + width / 2
        draw.text((middle, top - 10), name, INK, body, anchor="ms")
    for position, (label, row) in enumerate(rows):
        y = top + position * (height + captions + _GAP)
        for line, text in enumerate(label.split("\n")):
            draw.text((_BORDER, y + 22 * line), text, INK if line == 0 else FAINT, body if line == 0 else small)
        for column, tile in enumerate(row):
            x = _BORDER + label_width + column * (width + _GAP)
            if tile.image is not None:
                offset = (width - tile.image.shape[1]) // 2
                sheet.paste(Image.fromarray(tile.image), (x + offset, y))
            if tile.caption:
                draw.text((x + width / 2, y + height + 18), tile.caption, tile.colour, small, anchor="ms")
    with atomic_path(path) as temporary:
        # A third of the time of the usual level, for an eighth more bytes.
        sheet.save(temporary, "PNG", compress_level=1)


def write_histograms(by_class: dict[str, list[DatasetImage]], path: Path, thresholds: tuple[float, float]) -> None:
    """Write one histogram of the foreground fraction per class, with the two ``thresholds`` (0 to 1), as a PNG."""
    # A figure without pyplot: no global state and no display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(5, len(by_class))
    lines = -(-len(by_class) // columns)
    width, height = 3.1 * columns + 0.6, 2.3 * lines + 1.0
    figure = Figure(figsize=(width, height), dpi=120)
    # Margins in inches: to have matplotlib find them, all is drawn twice.
    figure.subplots_adjust(0.7 / width, 0.6 / height, 1 - 0.15 / width, 1 - 0.65 / height, wspace=0.15, hspace=0.35)
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    edges = np.linspace(0, 100, 26)
    low, high = (100 * threshold for threshold in thresholds)
    for panel, (class_name, members) in zip(panels, by_class.items(), strict=False):
        kept, dropped = (
            [100 * m.foreground_ratio for m in members if bool(m.kept) == kept and m.foreground_ratio is not None]
            for kept in (True, False)
        )
        colours, names = [KEPT, "#d9a19a"], ["kept", "dropped"]
        panel.hist([kept, dropped], edges, stacked=True, histtype="stepfilled", color=colours, label=names)
        for threshold in (low, high):
            panel.axvline(threshold, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        # Titles, and axis labels that are not there, at fixed places: to find these, every number would be measured.
        panel.set_title(class_name, fontsize=11, color=INK, loc="left", y=1)
        panel.set_title(_counts(members), fontsize=8.5, color=FAINT, loc="right", y=1)
        panel.xaxis.set_label_coords(0.5, 0)
        panel.yaxis.set_label_coords(0, 0.5)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8.5, colors=INK)
        panel.set_xlim(0, 100)
    for panel in panels[len(by_class) :]:
        panel.set_visible(False)
    title = f"Foreground fraction per image; kept between {low:.0f} % and {high:.0f} %"
    figure.suptitle(title, fontsize=13, color=INK)
    figure.supxlabel("foreground, % of the image", fontsize=10, color=INK)
    figure.supylabel("images", fontsize=10, color=INK)
    handles, labels = panels[0].get_legend_handles_labels()
    panels[0].legend(handles, labels, fontsize=8.5, frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", pil_kwargs={"compress_level": 1})


def _counts(rows: Sequence[DatasetImage]) -> str:
    return f"{sum(row.kept for row in rows)} of {len(rows)} kept"
