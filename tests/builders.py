"""Small datasets that several test files build on."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from wss_data import store
from wss_data.cosegmentation.quality import mask_quality
from wss_data.imaging.images import write_jpeg
from wss_data.imaging.masks import write_mask
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_data.records import ImageRecord, Provenance
from wss_data.runtime.home import dataset_folder
from wss_data.spec import DatasetSpec, spec_from_dict

W, H = 40, 30
ENGINE = Ledger().add("some weights, ImageNet-1k classification", Supervision.IMAGE_LEVEL, UsedFor.COSEGMENTATION)


def definition(name: str, **values) -> DatasetSpec:
    return spec_from_dict({"name": name, "classes": ["cat", "cow"], "sources": ["folder"], **values})


def record(name: str, class_name: str, digit: str) -> ImageRecord:
    sha256 = digit * 64
    path = dataset_folder(name) / "images" / class_name / f"{sha256[:20]}.jpg"
    write_jpeg(np.full((H, W, 3), 16 * int(digit, 16), np.uint8), path)
    provenance = Provenance(
        "folder", f"{class_name}/photo_{digit}.jpg", license="CC0-1.0", retrieved_at=datetime(2026, 1, 2, tzinfo=UTC)
    )
    return ImageRecord(sha256, class_name, path, (W, H), (2 * W, 2 * H), digit * 16, provenance)


def foreground(share: float) -> np.ndarray:
    """The top ``share`` of the frame is foreground."""
    mask = np.zeros((H, W), bool)
    mask[: round(share * H)] = True
    return mask


def mask_values(dataset, member, share: float, fingerprint: str = "f1") -> store.MaskValues:
    class_name = Path(member.path).parent.name
    path = dataset_folder(dataset.name) / "cosegmentation" / class_name / f"{Path(member.path).stem}.png"
    mask = foreground(share)
    write_mask(np.where(mask, np.uint8(store.class_names(dataset).index(class_name) + 1), np.uint8(0)), path)
    quality = mask_quality(np.zeros((H, W, 3), np.uint8), mask)
    return store.MaskValues(member.sample_id, str(path), 0.5 + share / 10, share, quality, "common", fingerprint)


SHARES = {"cat": {"1": 0.1, "2": 0.3, "3": 0.9}, "cow": {"4": 0.5}}


def make_web(name: str):
    """Three cats (too small, kept, too large) and a cow (kept), as ``build`` would leave them."""
    spec = definition(name)
    dataset = store.create_or_open(spec, "web")
    records = {digit: record(name, c, digit) for c, shares in SHARES.items() for digit in shares}
    store.add_records(dataset, list(records.values()))
    for class_name, shares in SHARES.items():
        members = store.group_members(dataset, class_name)
        store.set_masks(dataset, "cosegmentation", [mask_values(dataset, m, shares[m.sha256[0]]) for m in members])
    store.set_ledger(dataset, "cosegmentation", ENGINE)
    store.apply_filter(dataset, spec.filters)
    return dataset


def write_target(folder: Path, labels="t1,cow\nt2,cat cow\nt3,dog\nv1,cat\nv2,dog\n") -> Path:
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / "train.txt").write_text("t1\nt2\nt3\n")
    (lists / "val.txt").write_text("v1\nv2\n")
    for position, name in enumerate(("t1", "t2", "t3", "v1", "v2")):
        (folder / "JPEGImages").mkdir(exist_ok=True)
        write_jpeg(np.full((H, W, 3), 40 * position, np.uint8), folder / "JPEGImages" / f"{name}.jpg")
        write_mask(foreground(0.5).astype(np.uint8), folder / "SegmentationClass" / f"{name}.png")
    (folder / "image_labels.csv").write_text("image,classes\n" + labels)
    return folder


def target_definition(name: str, **target) -> DatasetSpec:
    return definition(name, target={"layout": "voc", **target})
