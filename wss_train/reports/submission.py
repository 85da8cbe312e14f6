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
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Unpack

import numpy as np

from wss_data.errors import ImageError, MaskError, SourceError, TrainingDataError
from wss_data.errors.names import same_name
from wss_data.imaging.images import list_images, read_size
from wss_data.imaging.masks import encode_mask
from wss_data.ledger import Ledger
from wss_data.reading.tables import lines_of, read_text
from wss_data.runtime.files import check_outputs, output_path
from wss_train.checkpoints import read_card
from wss_train.data import as_table
from wss_train.labelling import LabelledImage, LabellingOptions, open_labeller
from wss_train.reports.published import VOC_CLASSES

if TYPE_CHECKING:
    from wss_data.store.types import Collection

FOLDER = PurePosixPath("results/VOC2012/Segmentation/comp6_test_cls")

TEST_IMAGES = 1456
"""Images in VOC 2012's test list for segmentation."""


@dataclass(frozen=True)
class Submission:
    """An archive that was written."""

    path: Path  # the file
    images: int  # number of predictions in it
    ledger: Ledger  # what the model learned from

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
        at = next(i for i, name in enumerate(classes) if name != VOC_CLASSES[i])
        found = f"has VOC's classes in another order: class {at + 1} is '{classes[at]}', VOC's '{VOC_CLASSES[at]}'"
    else:
        lacking = [wanted for wanted in VOC_CLASSES if wanted not in classes]
        without = f", without {', '.join(lacking[:4])}{', ...' if len(lacking) > 4 else ''}" if lacking else ""
        found = f"has {len(classes)} classes{without}"
    raise TrainingDataError(
        f"{name} {found}. The VOC server wants the twenty classes in VOC's order: train with the definition "
        "datasets/pascal_voc.yaml."
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


def write_archive(path: Path, predictions: Iterable[tuple[str, bytes]]) -> None:
    """Write a gzipped tar; equal predictions in equal order give equal bytes.

    Args:
        path: The file.
        predictions: Image id and PNG, one after the other: only one is held.
    """
    # Without the name and the time that gzip writes into its header.
    with (
        path.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, data in predictions:
            # A TarInfo as it is made has time 0, owner 0 and mode 644.
            entry = tarfile.TarInfo(str(FOLDER / f"{name}.png"))
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


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
    if without := [name for name in ids if name not in found]:
        raise SourceError(
            f"{folder}: {len(without)} of {len(ids)} listed images are not there, the first is {without[0]}. "
            "VOC gives its test images in an archive of their own."
        )
    if twice := [paths for paths in found.values() if len(paths) > 1]:
        raise SourceError(f"{twice[0][0]} and {twice[0][1]} have the same id. Give the folder of one of them.")
    return {name: found[name][0] for name in ids}


def images_of_split(target: "Collection", split: str) -> dict[str, Path]:
    """Image files of a target dataset's split by id, dropped ones included: the server wants all.

    Raises:
        TrainingDataError: If the classes are not VOC's, or no image has the tag.
    """
    view = target.match_tags(split)
    if not len(view):
        raise TrainingDataError(
            f"dataset '{target.name}' has no image with the tag '{split}'. wss-data import-target brings in the test "
            "images where ImageSets/Segmentation/test.txt and their files are there; or give a folder and --list."
        )
    table = as_table(view, None, include_dropped=True)
    check_classes(table.classes, f"dataset '{table.source}'")
    return dict(zip(table.ids, map(Path, table.image_paths), strict=True))


def write_submission(
    checkpoint: Path | str,
    images: Mapping[str, Path],
    out: Path | str,
    **options: Unpack[LabellingOptions],
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
    out = Path(out)
    if not out.name.endswith((".tgz", ".tar.gz")):
        raise SourceError(f"{out}: the archive is a gzipped tar: name it .tgz or .tar.gz, such as results.tgz.")
    # Before the network is built and an hour is spent.
    check_outputs([out], list(images.values()))
    check_classes(read_card(checkpoint).classes, f"the model {checkpoint}")
    # In the order of the archive, so that each prediction is written as it comes.
    ids = sorted(images)
    _check_ids(ids, "the list of images")
    try:
        sizes = [read_size(images[name]) for name in ids]
    except ImageError as error:
        raise SourceError(f"the archive needs a prediction for every image: {error}") from error

    labeller = open_labeller(checkpoint, options, VOC_CLASSES)

    def encoded(result: LabelledImage) -> tuple[str, bytes]:
        if result.mask is None:
            raise SourceError(f"the archive needs a prediction for every image: {result.error}")
        name = ids[result.position]
        return name, encode_prediction(result.mask, sizes[result.position], name)

    with output_path(out) as temporary:
        write_archive(temporary, labeller.label([images[name] for name in ids], encoded, "predict"))
    return Submission(out, len(ids), labeller.card.ledger)
