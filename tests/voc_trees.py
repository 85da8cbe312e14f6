"""VOC and SBD as people have them on disk, with seven images in all."""

from pathlib import Path

import numpy as np
import scipy.io
import scipy.sparse

from wss_data.imaging.images import write_jpeg
from wss_data.imaging.masks import write_mask

W, H = 32, 24
COW, PERSON = 10, 15
VOC_TRAIN, VOC_VAL = ("t1", "t2"), ("v1", "v2")
SBD_TRAIN, SBD_VAL = ("s1", "t1", "v1"), ("s2", "s3", "t2", "v2", "s1")
TRAIN_AUG = ["t1", "t2", "s1", "s2", "s3"]


def write_mat(path: Path, present, mask: int = COW, **fields) -> Path:
    """A file as SBD's are: boundaries of twenty classes, the mask, the classes present, in a struct of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    boundaries = np.empty((20, 1), object)
    for row in range(20):
        boundaries[row, 0] = scipy.sparse.csc_matrix(np.eye(H, W) * (row == mask))
    segmentation = np.zeros((H, W), np.uint8)
    segmentation[4:9] = mask
    struct = {"Boundaries": boundaries, "Segmentation": segmentation, "CategoriesPresent": present, **fields}
    scipy.io.savemat(path, {"GTcls": struct}, do_compression=True)
    return path


def write_names(path: Path, names, line: str = "{}\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line.format(name) for name in names).encode())


def write_images(folder: Path, names) -> None:
    for name in names:
        shade = sum(name.encode()) % 256, len(list(folder.parent.rglob("*.jpg"))) % 256, 60
        write_jpeg(np.full((H, W, 3), shade, np.uint8), folder / f"{name}.jpg")


def write_annotation(folder: Path, name: str, *classes: str) -> None:
    (folder / "Annotations").mkdir(exist_ok=True)
    objects = "".join(f"<object><name>{c}</name><difficult>1</difficult></object>" for c in classes)
    (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")


def trees(root: Path) -> tuple[Path, Path]:
    """VOCdevkit and benchmark_RELEASE as people have them; the masks of what teaches are no images."""
    voc = root / "VOCdevkit" / "VOC2012"
    lists = voc / "ImageSets" / "Segmentation"
    write_names(lists / "train.txt", VOC_TRAIN)
    write_names(lists / "val.txt", VOC_VAL)
    write_images(voc / "JPEGImages", (*TRAIN_AUG, *VOC_VAL))
    for name in (*TRAIN_AUG, *VOC_VAL):
        write_annotation(voc, name, "cow", "chair")
    for name in VOC_TRAIN:
        (voc / "SegmentationClass").mkdir(exist_ok=True)
        (voc / "SegmentationClass" / f"{name}.png").write_bytes(b"not for us")
    for name in VOC_VAL:
        write_mask(np.full((H, W), COW, np.uint8), voc / "SegmentationClass" / f"{name}.png")
    sbd = root / "benchmark_RELEASE" / "dataset"
    write_names(sbd / "train.txt", SBD_TRAIN)
    write_names(sbd / "val.txt", SBD_VAL)
    for name in {*SBD_TRAIN, *SBD_VAL}:
        write_mat(sbd / "cls" / f"{name}.mat", [[COW], [PERSON]])
    return root / "VOCdevkit", root / "benchmark_RELEASE"
