"""The layouts of two label tools, CVAT and Label Studio, in which people correct masks; both are read back.

``wss_data.cosegmentation.label_tools`` reads what they export.
"""

import io
import json
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image

from wss_data.cosegmentation.label_tools import CVAT_MASKS, LABEL_MAP, NAME_KEY
from wss_data.imaging.brush import encode_brush
from wss_data.imaging.masks import mask_names, used_values, voc_palette
from wss_data.runtime.files import write_json, write_text
from wss_data.sharing.layouts.base import Contents, copy_image, read_label_mask


def _labels(contents: Contents) -> dict[int, str]:
    """What can be drawn: value in a label mask -> label; void, too."""
    return {value: name for value, name in mask_names(contents.classes).items() if value}


def _hex(value: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*voc_palette()[value])


def write_cvat(contents: Contents, folder: Path) -> None:
    """Write what CVAT takes as *Segmentation mask 1.1*: ``images/``, ``annotations.zip`` and ``labels.json``.

    In the zip file are ``labelmap.txt``, ``SegmentationClass/`` (the colours of the labels) and
    ``SegmentationObject/``, one object a class of an image.
    """
    labels, palette = _labels(contents), voc_palette()
    table = ["# label:color_rgb:parts:actions", "background:0,0,0::"]
    table += [f"{name}:{','.join(map(str, palette[value].tolist()))}::" for value, name in labels.items()]
    annotations = folder / "annotations.zip"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(annotations, "w") as archive:
        drawn = []
        for row in contents.rows:
            copy_image(row.image_path, folder / "images" / f"{row.name}.jpg")
            if (mask := read_label_mask(row, contents)) is None:
                continue
            drawn.append(f"{row.name}\n")
            objects = np.zeros(256, np.uint8)
            for number, value in enumerate((value for value in used_values(mask) if value), start=1):
                objects[value] = number
            for place, values in (CVAT_MASKS, mask), ("SegmentationObject", objects[mask]):
                buffer = io.BytesIO()
                # Colours, as CVAT writes them: of a palette some of its readers would take the indices.
                Image.fromarray(palette[values]).save(buffer, "PNG")
                archive.writestr(zipfile.ZipInfo(f"{place}/{row.name}.png"), buffer.getvalue())
        archive.writestr(zipfile.ZipInfo(LABEL_MAP), "\n".join(table) + "\n")
        archive.writestr(zipfile.ZipInfo("ImageSets/Segmentation/default.txt"), "".join(drawn))
    write_json(folder / "labels.json", [{"name": name, "color": _hex(value)} for value, name in labels.items()])


def write_label_studio(contents: Contents, folder: Path) -> None:
    """Write what Label Studio imports: ``tasks.json`` with the masks as predictions, ``images/``, and its interface.

    The addresses of the images are those of local storage whose root is the folder; ``label_config.xml`` is the
    interface, a brush with the classes and void.
    """
    labels = _labels(contents)
    tasks = []
    for row in contents.rows:
        copy_image(row.image_path, folder / "images" / f"{row.name}.jpg")
        task: dict[str, Any] = {
            "data": {"image": f"/data/local-files/?d=images/{quote(row.name)}.jpg", NAME_KEY: row.name}
        }
        if (mask := read_label_mask(row, contents)) is not None:
            height, width = mask.shape
            common = {"from_name": "mask", "to_name": "image", "type": "brushlabels"}
            size = {"original_width": width, "original_height": height, "image_rotation": 0}
            result = [
                {
                    "id": f"{row.name}-{value}",
                    **common,
                    **size,
                    "value": {
                        "format": "rle",
                        "rle": encode_brush(mask == value),
                        "brushlabels": [labels[value]],
                    },
                }
                for value in used_values(mask)
                if value
            ]
            facts = row.mask_facts
            prediction: dict[str, Any] = {"model_version": str(facts.get("method") or "mask"), "result": result}
            if facts.get("confidence") is not None:
                prediction["score"] = facts["confidence"]
            task["predictions"] = [prediction]
        tasks.append(task)
    # One line: run lengths on a line a number would be a hundred times as long.
    write_text(folder / "tasks.json", json.dumps(tasks, ensure_ascii=False, separators=(",", ":")) + "\n")
    shown = "".join(
        f"    <Label value={quoteattr(name)} background={quoteattr(_hex(value))}/>\n" for value, name in labels.items()
    )
    config = (
        '<View>\n  <Image name="image" value="$image" zoom="true" zoomControl="true"/>\n'
        f'  <BrushLabels name="mask" toName="image">\n{shown}  </BrushLabels>\n</View>\n'
    )
    write_text(folder / "label_config.xml", config)
