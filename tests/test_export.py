"""Writing images with masks for other tools."""

import json

import numpy as np
import pytest

from wss_data.errors import StoreError
from wss_data.imaging.images import read_image, write_jpeg
from wss_data.imaging.masks import read_mask, write_mask
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_data.sharing.layouts import write_layout
from wss_data.sharing.layouts.base import Contents, ExportRow, new_folder

LEDGER = Ledger().add("labels", Supervision.IMAGE_LEVEL, UsedFor.TRAINING)


@pytest.fixture
def contents(tmp_path):
    result = []
    for position, (name, labels) in enumerate([("cat_1", ("cat",)), ("cow_1", ("cow", "cat"))]):
        image, mask = tmp_path / "from" / f"{position}.jpg", tmp_path / "from" / f"{position}.png"
        write_jpeg(np.full((20, 24, 3), 100 + position, np.uint8), image)
        write_mask(np.full((20, 24), position + 1, np.uint8), mask)
        result.append(ExportRow(name, image, mask, labels, "kept"))
    return Contents(tuple(result), ("cat", "cow"), LEDGER)


def test_the_layout_of_voc_is_complete(tmp_path, contents):
    write_layout("voc", contents, tmp_path / "voc")
    voc = tmp_path / "voc"
    assert (voc / "JPEGImages" / "cow_1.jpg").read_bytes() == contents.rows[1].image_path.read_bytes(), (
        "not encoded again"
    )
    assert np.unique(read_mask(voc / "SegmentationClass" / "cow_1.png")).tolist() == [2]
    assert (voc / "ImageSets" / "Segmentation" / "kept.txt").read_text() == "cat_1\ncow_1\n"
    assert (voc / "image_labels.csv").read_text() == "image,classes\ncat_1,cat\ncow_1,cow cat\n"
    assert (voc / "classes.txt").read_text() == "cat\ncow\n"
    assert json.loads((voc / "ledger.json").read_text())["strictly_image_level"] is True


def test_folders_hold_one_class_each(tmp_path, contents):
    write_layout("folders", contents, tmp_path / "out")
    files = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.[jp][pn]g"))
    assert files == ["images/cat/cat_1.jpg", "images/cow/cow_1.jpg", "masks/cat/cat_1.png", "masks/cow/cow_1.png"]


def test_other_formats_become_jpegs_in_the_layout_of_voc(tmp_path, contents):
    from PIL import Image

    Image.new("RGB", (24, 20), (9, 9, 9)).save(tmp_path / "a.png")
    row = ExportRow("a", tmp_path / "a.png", None, ("cat",), "val")
    write_layout("voc", Contents((row,), ("cat",), LEDGER), tmp_path / "voc")
    assert read_image(tmp_path / "voc" / "JPEGImages" / "a.jpg").max() <= 12
    assert not (tmp_path / "voc" / "SegmentationClass").exists()


def test_a_folder_with_something_in_it_is_never_written_to(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(StoreError, match="not an empty folder"), new_folder(tmp_path):
        raise AssertionError("must not get here")


def test_a_failed_export_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "out") as folder:
        (folder / "half").touch()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_accepted(tmp_path):
    (tmp_path / "out").mkdir()
    with new_folder(tmp_path / "out") as folder:
        (folder / "file").touch()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["file"]
