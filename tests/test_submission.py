"""The archive is what the VOC server wants, or there is none."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from drawings import TINY
from PIL import Image

from wss_data import store
from wss_data.errors import MaskError, SourceError, TrainingDataError
from wss_data.imaging.images import write_jpeg
from wss_data.imaging.masks import read_mask, voc_palette, write_mask
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_data.spec import spec_from_dict
from wss_train.checkpoints import ModelCard, write_model
from wss_train.commands.cli import main
from wss_train.models import build_model
from wss_train.reports import submission
from wss_train.reports.published import VOC_CLASSES

LEDGER = Ledger().add("image-level labels", Supervision.IMAGE_LEVEL, UsedFor.TRAINING)
MASKS = {"b_2": np.full((2, 3), 20, np.uint8), "a_1": np.eye(3, dtype=np.uint8)}
SIZES = {"b_2": (3, 2), "a_1": (3, 3)}


def encoded(names: list[str]) -> list[tuple[str, bytes]]:
    return [(name, submission.encode_prediction(MASKS[name], SIZES[name], name)) for name in names]


def model_of(classes, folder: Path) -> Path:
    card = ModelCard("final", tuple(classes), TINY, 2, False, LEDGER)
    write_model(build_model(TINY, len(classes) + 1, pretrained=False).state_dict(), card, folder)
    return folder


@pytest.fixture(scope="module")
def voc_model(tmp_path_factory) -> Path:
    return model_of(VOC_CLASSES, tmp_path_factory.mktemp("voc") / "run")


@pytest.fixture
def photos(tmp_path) -> Path:
    """Three images of two sizes, one of them upright only after its EXIF rotation."""
    folder = tmp_path / "JPEGImages"
    write_jpeg(np.full((30, 40, 3), 60, np.uint8), folder / "2008_000006.jpg")
    write_jpeg(np.full((40, 30, 3), 160, np.uint8), folder / "2008_000008.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20), (200, 30, 30)).save(folder / "2008_000011.jpg", exif=exif)
    (tmp_path / "test.txt").write_text("2008_000008\n2008_000006\n\n2008_000011\n")
    return folder


def test_names_order_and_times_in_the_archive_are_fixed(tmp_path):
    submission.write_archive(tmp_path / "results.tgz", encoded(["a_1", "b_2"]))
    data = (tmp_path / "results.tgz").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        entries = archive.getmembers()
        shown = np.array(Image.open(archive.extractfile(entries[1])))
    folder = "results/VOC2012/Segmentation/comp6_test_cls"
    assert [entry.name for entry in entries] == [f"{folder}/a_1.png", f"{folder}/b_2.png"]
    assert {(entry.mtime, entry.uid, entry.uname, entry.mode) for entry in entries} == {(0, 0, "", 0o644)}
    assert np.array_equal(shown, MASKS["b_2"])
    assert data[4:8] == bytes(4), "no time in gzip's header either"


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full((2, 3), 255, np.uint8), r"holds the value 255; 0 \(background\) to 20"),
        (np.full((2, 3), 21, np.uint8), "holds the value 21"),
        (np.zeros((3, 2), np.uint8), "has 2x3 pixels, its image 3x2"),
        (np.zeros((2, 3), np.int64), "of int64"),
    ],
    ids=["void", "too high", "turned", "type"],
)
def test_a_prediction_that_the_server_would_refuse_is_refused_here(mask, message):
    with pytest.raises(MaskError, match=message):
        submission.encode_prediction(mask, (3, 2), "b_2")


def test_classes_must_be_vocs_twenty_in_order():
    submission.check_classes(VOC_CLASSES, "x")
    swapped = (VOC_CLASSES[1], VOC_CLASSES[0], *VOC_CLASSES[2:])
    with pytest.raises(TrainingDataError, match="another order: class 1 is 'bicycle', VOC's 'aeroplane'"):
        submission.check_classes(swapped, "x")
    with pytest.raises(TrainingDataError, match="x has 2 classes, without aeroplane, bicycle, bird, boat, "):
        submission.check_classes(("cat", "cow"), "x")


def test_a_list_names_each_image_once(tmp_path):
    file = tmp_path / "test.txt"
    for text, message in (
        ("a\nb\na\n", "names a 2 times"),
        ("\n", "names no image"),
        ("../a\n", "is no image id"),
    ):
        file.write_text(text)
        with pytest.raises(SourceError, match=message):
            submission.read_image_list(file)
    file.write_text("a 1\nb -1\n")
    assert submission.read_image_list(file) == ("a", "b"), "lists of one class hold a second column"
    with pytest.raises(SourceError, match="cannot be read"):
        submission.read_image_list(tmp_path / "none.txt")


def test_the_command_writes_an_archive_of_a_folder_and_a_list_twice_the_same(voc_model, photos, tmp_path, capsys):
    write_jpeg(np.zeros((20, 20, 3), np.uint8), photos / "not_listed.jpg")
    command = ["voc-submission", str(voc_model), str(photos), "--list", str(tmp_path / "test.txt"), "--out"]
    assert main([*command, str(tmp_path / "results.tgz"), "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    assert "3 predictions" in told and "learned from image-level labels only: yes" in told
    assert "test list has 1,456 images: the server will refuse 3" in told
    (tmp_path / "test.txt").write_text("2008_000011\n2008_000008\n2008_000006\n")  # the same, in another order
    assert main([*command, str(tmp_path / "again.tgz"), "--device", "cpu"]) == 0
    assert (tmp_path / "results.tgz").read_bytes() == (tmp_path / "again.tgz").read_bytes()

    with tarfile.open(tmp_path / "results.tgz") as archive:
        archive.extractall(tmp_path, filter="data")
    masks = sorted((tmp_path / submission.FOLDER).iterdir())
    assert [read_mask(mask).shape for mask in masks] == [(30, 40), (40, 30), (40, 20)], "upright, at the image's size"
    with Image.open(masks[0]) as image:
        assert image.getpalette()[: 21 * 3] == voc_palette()[:21].ravel().tolist()
    assert all(read_mask(mask).max() <= 20 for mask in masks)


def refused(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert main(["voc-submission", *arguments]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_nothing_is_written_where_anything_is_missing(voc_model, photos, tmp_path, capsys):
    out, listed = tmp_path / "results.tgz", tmp_path / "test.txt"
    command = [str(voc_model), str(photos), "--list", str(listed), "--out"]
    assert "name it .tgz" in refused(capsys, *command, str(tmp_path / "results.zip"))
    assert "name the list" in refused(capsys, str(voc_model), str(photos), "--out", str(out))
    listed.write_text("2008_000006\n2008_000099\n")
    assert "1 of 2 listed images are not there, the first is 2008_000099" in refused(capsys, *command, str(out))
    write_mask(np.zeros((30, 40), np.uint8), photos / "masks" / "2008_000006.png")
    listed.write_text("2008_000006\n")
    assert "have the same id" in refused(capsys, *command, str(out))
    (photos / "2008_000099.jpg").write_text("no image")
    listed.write_text("2008_000008\n2008_000099\n")
    assert "a prediction for every image" in refused(capsys, *command, str(out))
    other = model_of(("cat", "cow"), tmp_path / "other")
    listed.write_text("2008_000008\n")
    assert "has 2 classes" in refused(capsys, str(other), *command[1:], str(out))
    assert not out.exists() and not list(tmp_path.glob(".writing-*"))


def test_the_test_images_of_a_target_dataset_are_all_taken(database, voc_model, tmp_path, capsys):
    folder = tmp_path / "VOC2012"
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, names in {"train": ["t1"], "val": ["v1"], "test": ["s2", "s1"]}.items():
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            write_jpeg(
                np.full((30, 40, 3), 2 * ord(name[0]) - ord(name[1]), np.uint8), folder / "JPEGImages" / f"{name}.jpg"
            )
    write_mask(np.full((30, 40), 8, np.uint8), folder / "SegmentationClass" / "v1.png")
    (folder / "image_labels.csv").write_text("image,classes\nt1,cow\nv1,cat\n")
    values = {"classes": list(VOC_CLASSES), "sources": ["folder"], "target": {"layout": "voc"}}
    store.import_target(spec_from_dict({"name": "sub", **values}), folder)
    out = tmp_path / "results.tgz"
    assert main(["voc-submission", str(voc_model), "sub-target", "--out", str(out)]) == 0
    with tarfile.open(out) as archive:
        assert [Path(name).stem for name in archive.getnames()] == ["s1", "s2"]
    assert "no image with the tag 'tset'" in refused(
        capsys, str(voc_model), "sub-target", "--split", "tset", "--out", str(out)
    )
