"""The archive of predictions that the PASCAL VOC evaluation server scores.

::

    results/VOC2012/Segmentation/comp6_test_cls/<id>.png

Each file is a palette PNG of class indices at its image's size. ``comp6`` is the server's name for segmentation learned
from other data than VOC's own training masks, ``cls`` for classes (not objects). The same predictions give the same
archive, byte by byte: files in the order of their names, and no times.

Source:
    Everingham, Winn et al., *The PASCAL Visual Object Classes Challenge 2012 Development Kit*, "Segmentation results".
"""

import gzip
import io
import tarfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Unpack

import numpy as np

from wss_data.errors import ImageError, MaskError, SourceError, TrainingDataError
from wss_data.errors.names import same_name
from wss_data.imaging.images import list_images, read_size
from wss_data.imaging.masks import decode_mask, encode_mask, voc_palette
from wss_data.reading.tables import lines_of, read_text
from wss_data.runtime.files import check_outputs, output_path
from wss_train.reports.published import VOC_CLASSES

if TYPE_CHECKING:
    from wss_data.ledger import Ledger
    from wss_data.store.types import Collection
    from wss_train.labelling import LabellingOptions

FOLDER = PurePosixPath("results/VOC2012/Segmentation/comp6_test_cls")

TEST_IMAGES = 1456
"""Images in VOC 2012's test list for segmentation."""


@dataclass(frozen=True)
class Submission:
    """An archive that was written.

    Args:
        path: The file.
        images: Number of predictions in it.
        ledger: What the model learned from.
    """

    path: Path
    images: int
    ledger: "Ledger"

    def __str__(self) -> str:
        strict = "yes" if self.ledger.strictly_image_level else "NO"
        lines = [f"{self.images} predictions: {self.path}", f"learned from image-level labels only: {strict}"]
        if self.images != TEST_IMAGES:
            lines.append(f"VOC 2012's test list has {TEST_IMAGES:,} images: the server will refuse {self.images:,}.")
        return "\n".join(lines)


def check_classes(classes: Sequence[str], name: str) -> None:
    """Make sure that the classes are VOC's twenty in VOC's order.

    Args:
        classes: Names of the classes 1..C in order of their index.
        name: What has them, for the error.

    Raises:
        TrainingDataError: If they are others; the server would score each index as another class.
    """
    if tuple(classes) == VOC_CLASSES:
        return
    if sorted(classes) == sorted(VOC_CLASSES):
        at = next(i for i, (found, wanted) in enumerate(zip(classes, VOC_CLASSES, strict=True)) if found != wanted)
        found_here = f"has VOC's classes in another order: class {at + 1} is '{classes[at]}', VOC's '{VOC_CLASSES[at]}'"
    else:
        lacking = [wanted for wanted in VOC_CLASSES if wanted not in classes]
        of_them = f", without {', '.join(lacking[:4])}{', ...' if len(lacking) > 4 else ''}" if lacking else ""
        found_here = f"has {len(classes)} classes{of_them}"
    raise TrainingDataError(
        f"{name} {found_here}. The VOC server wants the twenty classes in VOC's order: "
        "train with the definition datasets/pascal_voc.yaml."
    )


def encode_prediction(mask: np.ndarray, size: tuple[int, int], name: str) -> bytes:
    """The PNG of one prediction, checked.

    Args:
        mask: Class indices. Shape (H, W), uint8, 0..20.
        size: (width, height) of its image, pixels.
        name: The image's id, for the error.

    Returns:
        A palette PNG with VOC's palette.

    Raises:
        MaskError: If the size is another one (``size``), or an index is above 20 (``values``); also void, which is for
            truth alone.
    """
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise MaskError("values", f"{name}: a prediction must be (H, W) of uint8, found {mask.shape} of {mask.dtype}.")
    if (mask.shape[1], mask.shape[0]) != size:
        raise MaskError(
            "size",
            f"{name}: the prediction has {mask.shape[1]}x{mask.shape[0]} pixels, its image {size[0]}x{size[1]}. The "
            "VOC server wants the image's size: predict the image as VOC gives it.",
        )
    if mask.size and mask.max() > len(VOC_CLASSES):
        raise MaskError(
            "values",
            f"{name}: the prediction holds the value {mask.max()}; 0 (background) to {len(VOC_CLASSES)} are wanted, "
            "and void (255) is for truth alone.",
        )
    return encode_mask(mask)


def archive_bytes(predictions: Mapping[str, bytes], ids: Sequence[str]) -> bytes:
    """The archive as bytes; equal predictions give equal bytes.

    Args:
        predictions: Image id -> PNG.
        ids: The images that the server expects.

    Returns:
        A gzipped tar.

    Raises:
        SourceError: If an id has no prediction or stands twice, or there are none.
    """
    _check_ids(ids, "the list of images")
    without = [name for name in ids if name not in predictions]
    if without:
        raise SourceError(
            f"{len(without)} of {len(ids)} images have no prediction, the first is {without[0]}. The VOC server scores "
            "all images of the list or none: find these images and run the command again."
        )
    buffer = io.BytesIO()
    # Without the name and the time that gzip writes into its header.
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name in sorted(ids):
            # A TarInfo as it is made has time 0, owner 0 and mode 644.
            entry = tarfile.TarInfo(str(FOLDER / f"{name}.png"))
            entry.size = len(predictions[name])
            archive.addfile(entry, io.BytesIO(predictions[name]))
    return buffer.getvalue()


def check_archive(path: Path, sizes: Mapping[str, tuple[int, int]]) -> None:
    """Read an archive back as the server would, and make sure that it would be accepted.

    Args:
        path: The archive.
        sizes: Image id -> (width, height) of the image, pixels.

    Raises:
        MaskError: If a prediction is missing or too much, is no palette PNG in VOC's colours, or has wrong values or
            another size.
    """
    found = set()
    try:
        # First of all, because a tar ends before the checksum that tells a file cut short.
        data = gzip.decompress(path.read_bytes())
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for entry in (entry for entry in archive if not entry.isdir()):
                place, file = PurePosixPath(entry.name), archive.extractfile(entry)
                if place.parent != FOLDER or place.suffix != ".png" or place.stem not in sizes or file is None:
                    raise MaskError(
                        "unexpected",
                        f"{path}: holds {entry.name}, where {FOLDER}/ID.png with an ID of the list is wanted. Write "
                        "the archive anew with wss-train voc-submission.",
                    )
                _check_picture(file.read(), sizes[place.stem], f"{path}: {entry.name}")
                found.add(place.stem)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise MaskError("unreadable", f"{path}: is no whole .tgz ({error}). Write it anew.") from error
    if without := sorted(sizes.keys() - found):
        raise MaskError("missing", f"{path}: has no prediction for {len(without)} images, the first is {without[0]}.")


def _check_picture(data: bytes, size: tuple[int, int], name: str) -> None:
    mask = decode_mask(data, name)
    wanted = len(VOC_CLASSES) + 1
    if mask.by_colour or mask.palette is None or not np.array_equal(mask.palette[:wanted], voc_palette()[:wanted]):
        found = "greyscale" if mask.palette is None else "another palette"
        raise MaskError("palette", f"{name}: a PNG with VOC's palette is wanted, found {found}.")
    encode_prediction(mask.values, size, name)


def read_image_list(path: Path) -> tuple[str, ...]:
    """The image ids of a list such as VOC's ``ImageSets/Segmentation/test.txt``: one a line, its first word.

    Raises:
        SourceError: If the file cannot be read, is empty, or names an image twice.
    """
    ids = tuple(line.split()[0] for line in lines_of(read_text(path)) if line)
    _check_ids(ids, str(path))
    return ids


def _check_ids(ids: Sequence[str], name: str) -> None:
    if not ids:
        raise SourceError(f"{name}: names no image. One id a line is wanted, such as 2008_000006.")
    key, count = Counter(ids).most_common(1)[0]
    if count > 1:
        raise SourceError(f"{name}: names {key} {count} times. Each image counts once: take the others out.")
    for key in ids:
        if PurePosixPath(key).name != key or key in (".", ".."):
            raise SourceError(f"{name}: '{key}' is no image id; a name without folder and suffix is wanted.")


def images_of_list(folder: Path, ids: Sequence[str]) -> dict[str, Path]:
    """Find the image file of each id below a folder; other images there are passed over.

    Raises:
        SourceError: If there is no such folder, an id has no image, or has several.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder}: there is no such folder. With --list, give the folder that holds the images.")
    wanted, found = {same_name(name): name for name in ids}, dict[str, list[Path]]()
    for path in list_images(folder):
        if (name := same_name(path.stem)) in wanted:
            found.setdefault(wanted[name], []).append(path)
    without = [name for name in ids if name not in found]
    if without:
        raise SourceError(
            f"{folder}: {len(without)} of {len(ids)} listed images are not there, the first is {without[0]}. "
            "VOC gives its test images in an archive of their own."
        )
    for name in ids:
        if len(found[name]) > 1:
            raise SourceError(
                f"{found[name][0]} and {found[name][1]} have the same id. Give the folder of one of them."
            )
    return {name: found[name][0] for name in ids}


def images_of_split(target: "Collection", split: str) -> dict[str, Path]:
    """Image files of a target dataset's split by id, dropped ones included: the server wants all.

    Raises:
        TrainingDataError: If the classes are not VOC's, or no image has the tag.
    """
    from wss_data.store import example_table

    view = target.match_tags(split)
    if not len(view):
        raise TrainingDataError(
            f"dataset '{target.name}' has no image with the tag '{split}'. wss-data import-target brings in the test "
            "images where ImageSets/Segmentation/test.txt and their files are there; or give a folder and --list."
        )
    table = example_table(view, None, include_dropped=True)
    check_classes(table.classes, f"dataset '{table.source}'")
    return dict(zip(table.ids, map(Path, table.image_paths), strict=True))


def write_submission(
    checkpoint: Path | str,
    images: Mapping[str, Path],
    out: Path | str,
    **options: "Unpack[LabellingOptions]",
) -> Submission:
    """Predict images and write the archive that the VOC server accepts.

    Args:
        checkpoint: Run folder or ``model.safetensors``; a model of VOC's twenty classes.
        images: Image id -> image file: every image of the list, as ``images_of_list`` or ``images_of_split`` give them.
        out: The archive, ``.tgz`` or ``.tar.gz``; it is whole or not there.
        **options: See ``LabellingOptions``; one scale and no CRF by default (the paper's scales: 0.7, 1.0, 1.3).

    Returns:
        What was written.

    Raises:
        CheckpointError: If the model is missing or damaged.
        TrainingDataError: If it knows other classes than VOC's twenty in their order.
        SourceError: If an image cannot be read, or the file's name says that it is something else.
        MaskError: If a prediction would not be accepted.
        OutputError: If ``out`` is a file that this program did not write, or that was changed since.
    """
    from wss_train.checkpoints import read_card
    from wss_train.labelling import open_labeller

    out = Path(out)
    if not out.name.endswith((".tgz", ".tar.gz")):
        raise SourceError(f"{out}: the archive is a gzipped tar: name it .tgz or .tar.gz, such as results.tgz.")
    # Before the network is built and an hour is spent.
    check_outputs([out], list(images.values()))
    check_classes(read_card(checkpoint).classes, f"the model {checkpoint}")
    ids = tuple(images)
    _check_ids(ids, "the list of images")
    try:
        sizes = {name: read_size(path) for name, path in images.items()}
    except ImageError as error:
        raise SourceError(f"the archive needs a prediction for every image: {error}") from error

    labeller = open_labeller(checkpoint, options, VOC_CLASSES)
    predictions = {}
    for result in labeller.label([images[name] for name in ids], lambda result: result, "predict"):
        if result.mask is None:
            raise SourceError(f"the archive needs a prediction for every image: {result.error}")
        name = ids[result.position]
        predictions[name] = encode_prediction(result.mask, sizes[name], name)
    with output_path(out) as temporary:
        temporary.write_bytes(archive_bytes(predictions, ids))
        check_archive(temporary, sizes)
    return Submission(out, len(ids), labeller.card.ledger)
