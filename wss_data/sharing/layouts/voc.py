"""The two layouts that hold masks as files beside images: that of PASCAL VOC, and one folder a class."""

from pathlib import Path

from wss_data.reading.cells import csv_text
from wss_data.runtime.files import write_text
from wss_data.sharing.layouts.base import Contents, copy_file, copy_image, copy_mask


def write_voc(contents: Contents, folder: Path) -> None:
    """Write the layout of PASCAL VOC.

    ``JPEGImages/<name>.jpg``, ``SegmentationClass/<name>.png`` (palette, values are the class indices), one list a
    split in ``ImageSets/Segmentation/``, and ``image_labels.csv``.
    """
    for row in contents.rows:
        copy_image(row.image_path, folder / "JPEGImages" / f"{row.name}.jpg")
        copy_mask(row.mask_path, folder / "SegmentationClass" / f"{row.name}.png")
    for split, rows in contents.splits().items():
        names = "".join(f"{row.name}\n" for row in rows)
        write_text(folder / "ImageSets" / "Segmentation" / f"{split}.txt", names)
    table = ((row.name, " ".join(row.labels)) for row in contents.rows)
    write_text(folder / "image_labels.csv", csv_text(["image", "classes"], table, cell=str))


def write_folders(contents: Contents, folder: Path) -> None:
    """Write one folder a class, for editors of masks and ``cosegment-folder``.

    ``images/<class>/<name>.<suffix>``, byte by byte, and ``masks/<class>/<name>.png``. An image of several classes
    goes to the folder of the first.
    """
    for row in contents.rows:
        copy_file(row.image_path, folder / "images" / row.group / f"{row.name}{row.image_path.suffix.lower()}")
        copy_mask(row.mask_path, folder / "masks" / row.group / f"{row.name}.png")
