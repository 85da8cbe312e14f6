"""Masks that come back from a label tool: CVAT's *Segmentation mask 1.1*, and Label Studio's JSON with brushes."""

import json
import lzma
import re
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from wss_data.cosegmentation.imported import KnownImage, MaskFile
from wss_data.errors import ImageError, MaskError, SourceError, shown
from wss_data.errors.names import same_name
from wss_data.imaging.brush import decode_brush
from wss_data.imaging.images import MAX_PIXELS, decode_image
from wss_data.imaging.masks import MAX_BYTES, decode_mask, mask_names, write_mask
from wss_data.reading import checked
from wss_data.reading.listing import list_files
from wss_data.reading.tables import decode_text, lines_of
from wss_data.spec import BACKGROUND

LABEL_MAP = "labelmap.txt"  # CVAT's table of label and colour
CVAT_MASKS = "SegmentationClass"
NAME_KEY = "name"  # of an image, in the data of a task of Label Studio

_LARGEST_EXPORT = 1 << 30  # bytes of Label Studio's JSON
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before the name of a file that was uploaded

_Files = Mapping[str, Callable[[], bytes]]  # path below the export -> what reads the file


class _Drawn(NamedTuple):
    """What was drawn on one image: its name, its (width, height), and regions, the last on top.

    A region is a label and a function that gives its pixels, (H, W) bool: those of an image are not held at once.
    """

    name: str
    size: tuple[int, int]
    regions: Sequence[tuple[str, Callable[[], np.ndarray]]]


def is_of_label_tool(path: Path) -> bool:
    """Whether a path is an export of a label tool: a zip or JSON file, or a folder with CVAT's table of labels."""
    return (path.is_file() and path.suffix.lower() in (".zip", ".json")) or (path / LABEL_MAP).is_file()


def match_label_tool(
    path: Path, images: Sequence[KnownImage], classes: Sequence[str], out: Path
) -> tuple[list[MaskFile], list[MaskError]]:
    """Find out which mask of an export of CVAT or Label Studio belongs to which image, as ``match_masks`` does.

    Images are known by the name that ``export`` gave them, or by class and stem. Each mask is put into ``out``, an
    empty folder, as class indices.

    Raises:
        SourceError: If it is no such export, or nothing is in it.
    """
    values = {name: value for value, name in mask_names(classes).items()}
    owners: dict[str, list[KnownImage]] = defaultdict(list)
    for image in images:
        names = {f"{image.class_name}{between}{key}" for between in "_/" for key in image.keys}
        for name in names | image.keys:
            owners[name].append(image)
    claims: dict[str, list[MaskFile]] = defaultdict(list)
    bad: list[MaskError] = []
    unknown: Counter[str] = Counter()
    for number, drawn in enumerate(_of_cvat(path) if path.suffix.lower() != ".json" else _of_label_studio(path)):
        if isinstance(drawn, MaskError):
            bad.append(drawn)
            continue
        found = next((owners[key] for key in _keys(drawn.name) if key in owners), [])
        if len(found) > 1:
            bad.append(MaskError("ambiguous", f"{path}: the name '{drawn.name}' fits {len(found)} images."))
        elif not found and drawn.regions:  # an image of the background, say, on which nobody drew, is passed over
            bad.append(MaskError("unknown", f"{path}: no image of the dataset is called '{drawn.name}'."))
        elif found and not drawn.regions:
            bad.append(MaskError("empty", f"{path}: nothing is drawn on '{drawn.name}'."))
            claims[found[0].sample_id]  # it is not missing
        if len(found) != 1 or not drawn.regions:
            continue
        mask = np.zeros(drawn.size[::-1], np.uint8)
        try:
            for label, region in drawn.regions:
                if label in values:
                    mask[region()] = values[label]
                else:
                    unknown[label] += 1
        except ValueError as error:
            bad.append(MaskError("unreadable", f"{path}, {drawn.name}: {error}."))
            claims[found[0].sample_id]  # it is not missing
            continue
        place = out / f"{number:06d}.png"
        write_mask(mask, place)
        claims[found[0].sample_id].append(MaskFile(found[0], place, f"{path}, {drawn.name}", True))
    for label, count in unknown.most_common():
        wanted = ", ".join(values)
        bad.append(MaskError("unknown", f"{path}: '{label}' (on {count:,} images) is no label of {wanted}."))
    if not claims and not bad:
        raise SourceError(
            f"{path}: nothing is drawn in it. Was the work submitted in the label tool before the export?"
        )
    for image in images:
        if image.sample_id not in claims:
            bad.append(MaskError("missing", f"{image.source_id or image.path}: the image has no mask in {path}."))
    for files in claims.values():
        if len(files) > 1:
            bad.append(MaskError("ambiguous", f"{files[0]}: {len(files)} masks are of this image."))
    return [files[0] for files in claims.values() if len(files) == 1], bad


def _keys(name: str) -> Iterator[str]:
    """What an image may be called, from the whole path to the last part without what an upload put before it."""
    parts = [same_name(part) for part in PurePosixPath(name.replace("\\", "/")).parts]
    for start in range(len(parts)):
        yield "/".join(parts[start:])
    if parts:
        yield _UPLOADED.sub("", parts[-1])


# ------------------------------------------------------------- CVAT


def _of_cvat(path: Path) -> Iterator[_Drawn | MaskError]:
    """The masks of *Segmentation mask 1.1*, a zip file or its folder.

    Source:
        https://docs.cvat.ai/docs/dataset_management/formats/format-smask
    """
    files = _files(path)
    maps = sorted((name for name in files if PurePosixPath(name).name == LABEL_MAP), key=len)
    if not maps:
        raise SourceError(
            f"{path}: has no {LABEL_MAP}. Wanted is what CVAT exports as 'Segmentation mask 1.1', or Label Studio "
            "as JSON."
        )
    labels = _label_map(decode_text(files[maps[0]](), f"{path}, {LABEL_MAP}"), path)
    below = PurePosixPath(maps[0]).parent / CVAT_MASKS
    for name in files:
        place = PurePosixPath(name)
        if place.suffix.lower() != ".png" or not place.is_relative_to(below):
            continue
        title = place.relative_to(below).with_suffix("").as_posix()
        try:
            yield _read_cvat(files[name](), title, f"{path}, {name}", labels)
        except MaskError as error:
            yield error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Around what opens or unpacks an export, and nothing else: each way in which that fails ends in one sentence."""
    try:
        yield
    except (OSError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:  # gone, cut off, damaged
        raise SourceError(f"{path}: cannot be read ({error}). Export it from CVAT again.") from error
    except RuntimeError as error:  # zipfile's own for a password and for a compression that it does not know
        raise SourceError(f"{path}: cannot be unpacked ({error}). Pack it again, as a plain zip file.") from error


def _files(path: Path) -> _Files:
    if path.is_dir():
        wanted = list_files(path, (".png", ".txt"))
        return {file.relative_to(path).as_posix(): partial(_of_folder, file) for file in wanted}

    def member(info: zipfile.ZipInfo) -> Callable[[], bytes]:
        def read() -> bytes:
            if info.file_size > MAX_BYTES:  # as it says; no more than that is unpacked
                raise MaskError("too_large", f"{path}, {info.filename}: has {info.file_size:,} bytes.")
            with _reading(path), zipfile.ZipFile(path) as archive:
                return archive.read(info)

        return read

    with _reading(path), zipfile.ZipFile(path) as archive:
        return {info.filename: member(info) for info in archive.infolist() if not info.is_dir()}


def _of_folder(file: Path) -> bytes:
    with _reading(file):
        return file.read_bytes()


def _label_map(text: str, path: Path) -> list[tuple[str, int]]:
    """Label and colour (0xRRGGBB), in order of the lines."""
    labels = []
    for number, line in enumerate(lines_of(text), start=1):
        if not line or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        colour = re.fullmatch(r"\s*(\d{1,3}),\s*(\d{1,3}),\s*(\d{1,3})\s*", rest.split(":")[0])
        if not name or colour is None or any(int(part) > 255 for part in colour.groups()):
            raise SourceError(f"{path}, {LABEL_MAP}, line {number}: {shown(line)} is no `label:red,green,blue::`.")
        red, green, blue = map(int, colour.groups())
        labels.append((name, red << 16 | green << 8 | blue))
    return labels


def _read_cvat(data: bytes, title: str, name: str, labels: Sequence[tuple[str, int]]) -> _Drawn:
    """One mask, whose values are colours, or places in the table of labels."""
    try:
        decoded = decode_mask(data, name)
        codes = decoded.values.astype(np.uint32)
        if decoded.palette is not None:
            codes = _codes(decoded.palette)[np.minimum(codes, len(decoded.palette) - 1)]
        else:
            labels = [(label, place) for place, (label, _) in enumerate(labels)]
    except MaskError as error:
        if error.reason != "rgb":
            raise
        try:
            codes = _codes(decode_image(data, name))
        except ImageError as wrong:
            raise MaskError("unreadable", str(wrong)) from wrong
    used = set(np.unique(codes).tolist())
    if strange := used - {code for _, code in labels}:
        raise MaskError("values", f"{name}: holds #{min(strange):06x}, which is not in {LABEL_MAP}.")
    drawn = [(label, partial(np.equal, codes, code)) for label, code in labels if code in used and label != BACKGROUND]
    return _Drawn(title, (codes.shape[1], codes.shape[0]), drawn)


def _codes(colours: np.ndarray) -> np.ndarray:
    """Colours, (..., 3) uint8, as 0xRRGGBB."""
    return colours.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)


# ------------------------------------------------------------- Label Studio


def _of_label_studio(path: Path) -> Iterator[_Drawn | MaskError]:
    """What people drew, of an export as JSON; what a model predicted is not looked at, nor what was skipped."""
    try:
        tasks = json.loads(checked.read_bytes(path, _LARGEST_EXPORT))
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"{path}: cannot be read ({error}). Export it from Label Studio again, as JSON.") from error
    if not isinstance(tasks, list) or not all(isinstance(task, dict) and "annotations" in task for task in tasks):
        raise SourceError(
            f"{path}: is no list of tasks with 'annotations'. In Label Studio export as JSON, not JSON-MIN."
        )
    for number, task in enumerate(tasks, start=1):
        where = f"{path}, task {task.get('id', number)}"
        try:
            data = checked.an_object(task.get("data"))
            name = data.get(NAME_KEY) or _name_in(str(data.get("image", "")))
            done = [one for one in map(checked.an_object, task["annotations"]) if not one.get("was_cancelled")]
            if len(done) > 1:
                raise MaskError(
                    "ambiguous", f"{where}: {len(done)} people drew; leave one annotation, or skip the others."
                )
            for annotation in done:
                yield _read_annotation(annotation, checked.identity(name, "its image"), where)
        except MaskError as error:
            yield error
        except (ValueError, TypeError) as error:
            yield MaskError("unreadable", f"{where}: {error}.")


def _name_in(url: str) -> str:
    """Name of the image that a URL of Label Studio leads to: a file that was uploaded, or one of local storage."""
    parts = urlsplit(url)
    place = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
    return str(PurePosixPath(place).with_suffix("")) if place else ""


def _read_annotation(annotation: Mapping[str, Any], name: str, where: str) -> _Drawn:
    sizes: set[tuple[int, int]] = set()
    regions: list[tuple[str, Callable[[], np.ndarray]]] = []
    for region in map(checked.an_object, annotation.get("result", [])):
        if region.get("type") != "brushlabels":
            raise MaskError("values", f"{where}: a region of type {shown(region.get('type'))}; the brush is wanted.")
        if region.get("image_rotation"):
            raise MaskError("orientation", f"{where}: the image was turned while it was drawn on.")
        width, height = (checked.whole(region.get(f"original_{side}"), side, 1) for side in ("width", "height"))
        if width * height > MAX_PIXELS:
            raise MaskError(
                "too_large", f"{where}: an image of {width}x{height} pixels; at most {MAX_PIXELS:,} are read."
            )
        value = checked.an_object(region.get("value"))
        labels = value.get("brushlabels")
        if not isinstance(labels, list) or len(labels) != 1 or not isinstance(labels[0], str):
            raise MaskError("values", f"{where}: a region of the labels {shown(labels)}; one is wanted.")
        sizes.add((width, height))
        regions.append((labels[0], partial(decode_brush, value.get("rle", ()), (width, height))))
    if len(sizes) != 1:
        if not regions:
            return _Drawn(name, (1, 1), [])
        raise MaskError("size", f"{where}: its regions are of images of several sizes.")
    return _Drawn(name, sizes.pop(), regions)
