"""Write images with masks to a folder for other tools. Works on plain values.

============  ===================================================================
module        writes
============  ===================================================================
base          the row of an image, what the masks mean; no layout of its own
voc           the layout of PASCAL VOC
folders       one folder a class
coco          COCO, masks as run lengths
huggingface   what Hugging Face's ``datasets`` loads
============  ===================================================================
"""

from wss_data.sharing.layouts.base import ExportRow, copy_image, new_folder
from wss_data.sharing.layouts.coco import write_coco
from wss_data.sharing.layouts.folders import write_folders
from wss_data.sharing.layouts.huggingface import write_huggingface
from wss_data.sharing.layouts.voc import write_voc

__all__ = ["ExportRow", "copy_image", "new_folder", "write_coco", "write_folders", "write_huggingface", "write_voc"]
