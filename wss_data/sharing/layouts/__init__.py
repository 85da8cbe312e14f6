"""Write images with masks to a folder for other tools, one file a layout. Works on plain values."""

from collections.abc import Callable
from pathlib import Path

from wss_data.sharing.layouts.base import Contents, write_meaning
from wss_data.sharing.layouts.coco import write_coco
from wss_data.sharing.layouts.huggingface import write_huggingface
from wss_data.sharing.layouts.voc import write_folders, write_voc

WRITERS: dict[str, Callable[[Contents, Path], None]] = {
    "voc": write_voc,
    "folders": write_folders,
    "coco": write_coco,
    "huggingface": write_huggingface,
}


def write_layout(layout: str, contents: Contents, folder: Path) -> None:
    """Write an export to an empty folder, in one of the layouts of ``WRITERS``.

    Raises:
        ImageError, MaskError: If an image or a mask has to be read and cannot be.
    """
    WRITERS[layout](contents, folder)
    write_meaning(contents, folder)
