"""Write images with masks to a folder for other tools, one file a layout. Works on plain values."""

from collections.abc import Callable
from pathlib import Path

from wss_data.sharing.layouts.base import Contents, write_meaning
from wss_data.sharing.layouts.coco import write_coco
from wss_data.sharing.layouts.huggingface import write_huggingface
from wss_data.sharing.layouts.label_tools import write_cvat, write_label_studio
from wss_data.sharing.layouts.voc import write_folders, write_voc
from wss_data.sharing.layouts.yolo import write_yolo, write_yolo_semantic

WRITERS: dict[str, Callable[[Contents, Path], None]] = {
    "voc": write_voc,
    "folders": write_folders,
    "coco": write_coco,
    "huggingface": write_huggingface,
    "yolo": write_yolo,
    "yolo-semantic": write_yolo_semantic,
    "cvat": write_cvat,
    "label-studio": write_label_studio,
}


def write_layout(layout: str, contents: Contents, folder: Path) -> None:
    """Write an export to an empty folder, in one of the layouts of ``WRITERS``.

    Raises:
        ImageError, MaskError: If an image or a mask has to be read and cannot be.
    """
    WRITERS[layout](contents, folder)
    write_meaning(contents, folder)
