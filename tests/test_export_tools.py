"""The layouts for other tools: read by the tools' own libraries, and back from the two in which people draw.

Those libraries pin other versions than ours, so that they live in environments of their own: ``WSS_TEST_TOOLS`` names
their Pythons, with ``:`` between. A test whose library is not there says so.
"""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from builders import H, W, make_web
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from wss_data import store
from wss_data.commands.cli import main
from wss_data.cosegmentation.label_tools import _of_cvat
from wss_data.errors import MaskError, SourceError, StoreError, WssError
from wss_data.imaging.brush import decode_brush, encode_brush
from wss_data.imaging.images import write_jpeg
from wss_data.imaging.masks import read_mask, write_mask
from wss_data.ledger import Ledger
from wss_data.sharing.export import export_dataset
from wss_data.sharing.layouts import write_layout
from wss_data.sharing.layouts.base import Contents, ExportRow
from wss_data.sharing.layouts.yolo import polygons_of

MASK = np.zeros((20, 24), np.uint8)
MASK[3:15, 4:20] = 1
MASK[6:9, 8:12] = 0  # a hole
MASK[18, 2] = 1
MASK[16:19, 10:22] = 2
MASK[0] = 255


@pytest.fixture
def contents(tmp_path):
    rows = []
    for name, split, mask in (("cat_1", "kept", MASK), ("cow_2", "val", (MASK == 2) * np.uint8(2)), ("x", "val", None)):
        image, path = tmp_path / "from" / f"{name}.jpg", tmp_path / "from" / f"{name}.png"
        write_jpeg(np.full((20, 24, 3), 90, np.uint8), image)
        if mask is not None:
            write_mask(mask, path)
        facts = {"method": "common", "confidence": 0.75}
        rows.append(ExportRow(name, image, None if mask is None else path, (name[:3],), split, mask_facts=facts))
    return Contents(tuple(rows), ("cat", "cow"), Ledger(), name="zoo")


def by_their_own(library: str, code: str, *arguments: object) -> str:
    """What a program prints that uses somebody's library; skips where it is not installed."""
    program = f"import sys\ntry:\n    import {library}\nexcept ImportError:\n    sys.exit(77)\n{code}"
    for python in os.environ.get("WSS_TEST_TOOLS", sys.executable).split(os.pathsep):
        done = subprocess.run([python, "-c", program, *map(str, arguments)], capture_output=True, text=True)
        if done.returncode != 77:
            assert done.returncode == 0, done.stderr
            return done.stdout
    pytest.skip(f"{library} is not installed; WSS_TEST_TOOLS may name a Python that has it")


# ------------------------------------------------------------- YOLO


def filled(polygons: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    for polygon in polygons:
        cv2.fillPoly(mask, [polygon.astype(np.int32)], 1)
    return mask > 0


@settings(max_examples=300, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 25), st.integers(1, 25))))
def test_polygons_filled_give_the_mask_again_with_its_holes(mask):
    polygons = polygons_of(mask)
    assert np.array_equal(filled(polygons, mask.shape), mask)
    assert len(polygons) == cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] - 1
    assert all(len(polygon) >= 3 for polygon in polygons)


def test_yolo_has_a_line_for_each_component_and_leaves_images_without_a_mask_out(tmp_path, contents):
    write_layout("yolo", contents, tmp_path / "y")
    lines = (tmp_path / "y" / "labels" / "train" / "cat_1.txt").read_text().splitlines()
    assert sorted(line[0] for line in lines) == ["0", "0", "1"]
    assert all(0 < float(value) < 1 for line in lines for value in line.split()[1:])
    assert not list((tmp_path / "y").rglob("x.*"))
    data = yaml.safe_load((tmp_path / "y" / "data.yaml").read_text())
    assert data == {"train": "images/train", "val": "images/val", "names": {0: "cat", 1: "cow"}}


def test_without_a_split_for_it_yolo_validates_on_the_images_that_it_learns_from(tmp_path, contents):
    only = Contents(contents.rows[:1], contents.classes, contents.ledger)
    write_layout("yolo-semantic", only, tmp_path / "y")
    data = yaml.safe_load((tmp_path / "y" / "data.yaml").read_text())
    assert (data["train"], data["val"], data["masks_dir"]) == ("images/train", "images/train", "masks")
    assert data["names"] == {0: "background", 1: "cat", 2: "cow"}
    with Image.open(tmp_path / "y" / "masks" / "train" / "cat_1.png") as mask:
        assert mask.mode == "L" and np.array_equal(np.array(mask), MASK)


ULTRALYTICS = """
import os, numpy as np
os.environ["YOLO_CONFIG_DIR"] = sys.argv[2]
from ultralytics.cfg import get_cfg
from ultralytics.data.dataset import SemanticDataset, YOLODataset
from ultralytics.data.utils import check_det_dataset, polygon2mask
data = check_det_dataset(sys.argv[1], autodownload=False)
if data.get("masks_dir"):
    found = SemanticDataset(img_path=data["train"], data=data, imgsz=32, augment=False, hyp=get_cfg())
    mask = found.load_mask(0) if hasattr(found, "load_mask") else found.get_image_and_label(0)["semantic_mask"]
else:
    found = YOLODataset(img_path=data["train"], data=data, task="segment", imgsz=32, augment=False, hyp=get_cfg())
    (label,) = found.labels
    height, width = label["shape"]
    mask = np.zeros((height, width), np.uint8)
    for kind, segment in zip(label["cls"].ravel(), label["segments"]):
        mask[polygon2mask((height, width), [(segment * (width, height)).ravel()]) > 0] = kind + 1
np.save(sys.argv[3], mask)
"""


@pytest.mark.parametrize("layout", ["yolo", "yolo-semantic"])
def test_ultralytics_reads_the_masks_that_were_exported(tmp_path, contents, layout):
    write_layout(layout, contents, tmp_path / "y")
    arguments = (tmp_path / "y" / "data.yaml", tmp_path, tmp_path / "mask.npy")
    by_their_own("ultralytics", ULTRALYTICS, *arguments)
    wanted = MASK if layout == "yolo-semantic" else np.where(MASK == 255, 0, MASK)
    assert np.array_equal(np.load(tmp_path / "mask.npy"), wanted)


# ------------------------------------------------------------- CVAT


def unpacked(archive: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    return folder


def test_what_cvat_imports_is_complete(tmp_path, contents):
    write_layout("cvat", contents, tmp_path / "c")
    assert len(list((tmp_path / "c" / "images").iterdir())) == 3, "an image without a mask is to be drawn on"
    folder = unpacked(tmp_path / "c" / "annotations.zip", tmp_path / "u")
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.*"))
    masks = [f"Segmentation{kind}/{name}.png" for kind in ("Class", "Object") for name in ("cat_1", "cow_2")]
    assert files == ["ImageSets/Segmentation/default.txt", *masks, "labelmap.txt"]
    assert (folder / "labelmap.txt").read_text().splitlines()[1:] == [
        "background:0,0,0::",
        "cat:128,0,0::",
        "cow:0,128,0::",
        "ignore:224,224,192::",
    ]
    assert [label["name"] for label in json.loads((tmp_path / "c" / "labels.json").read_text())] == [
        "cat",
        "cow",
        "ignore",
    ]


DATUMARO = """
import numpy as np
from datumaro import Dataset
found = Dataset.import_from(sys.argv[1], "voc_segmentation")
names = [label.name for label in found.categories()[next(iter(found.categories()))]]
for item in found:
    masks = {names[one.label]: np.asarray(one.image, bool) for one in item.annotations if one.type.name == "mask"}
    np.savez(sys.argv[2] + "/" + item.id, **masks)
"""


def test_datumaro_by_which_cvat_reads_finds_each_label_where_it_is(tmp_path, contents):
    write_layout("cvat", contents, tmp_path / "c")
    folder = unpacked(tmp_path / "c" / "annotations.zip", tmp_path / "u")
    by_their_own("datumaro", DATUMARO, folder, tmp_path)
    found = np.load(tmp_path / "cat_1.npz")
    assert set(found.files) == {"cat", "cow", "ignore"}
    for label, value in ("cat", 1), ("cow", 2), ("ignore", 255):
        assert np.array_equal(found[label], value == MASK)


DATUMARO_WRITES = """
import numpy as np
from datumaro import Dataset, DatasetItem, Image, Mask
mask, labels = np.load(sys.argv[1]), ["background", "cat", "cow", "ignore"]
items = [
    DatasetItem(name, media=Image.from_numpy(np.zeros((*mask.shape, 3), np.uint8)), annotations=[
        Mask(mask == value, label=labels.index(label), id=value, group=value)
        for value, label in ((1, "cat"), (2, "cow"), (255, "ignore")) if (mask == value).any()
    ])
    for name in sys.argv[3:]
]
colours = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (224, 224, 192)]
table = {label: [colour, [], []] for label, colour in zip(labels, colours)}  # as CVAT's exporter hands it over
exported = Dataset.from_iterable(items, categories=labels)
exported.export(sys.argv[2], "voc_segmentation", label_map=table, apply_colormap=True)
"""


@pytest.mark.usefixtures("database")
def test_masks_that_datumaro_wrote_for_cvat_come_back(tmp_path):
    dataset = make_web("cvat-datumaro")
    mask = drawn_on()
    np.save(tmp_path / "mask.npy", mask)
    names = [key.replace("/", "_") for key in dataset.values("image_id")]
    by_their_own("datumaro", DATUMARO_WRITES, tmp_path / "mask.npy", tmp_path / "d", *names)
    report = store.import_masks(dataset, tmp_path / "d", supervision="masks")
    assert report.imported == {"cat": 3, "cow": 1}
    for image_id, path in zip(*dataset.values(["image_id", "cosegmentation.mask_path"]), strict=True):
        own, other = (1, 2) if image_id.startswith("cat") else (2, 1)
        assert np.array_equal(read_mask(path), np.where(mask == own, own, np.where(mask == other, 255, mask)))


# ------------------------------------------------------------- Label Studio


@settings(max_examples=200, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_a_brush_comes_back_as_it_was(mask):
    assert np.array_equal(decode_brush(encode_brush(mask), mask.shape[::-1]), mask)


def test_long_runs_of_a_brush_are_written_in_parts():
    mask = np.zeros((400, 700), bool)
    mask[100:, 3:] = True
    assert np.array_equal(decode_brush(encode_brush(mask), (700, 400)), mask)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 255), max_size=60))
def test_any_bytes_are_a_brush_of_that_size_or_an_error(rle):
    head = encode_brush(np.zeros((3, 5), bool))[:7]
    try:
        assert decode_brush([*head, *rle], (5, 3)).shape == (3, 5)
    except ValueError as error:
        assert str(error)


CONVERTER = """
import json, numpy as np
from label_studio_converter import brush
task = json.load(open(sys.argv[1]))[0]
for region in task["predictions"][0]["result"]:
    width, height = region["original_width"], region["original_height"]
    mask = brush.decode_rle(region["value"]["rle"]).reshape(height, width, 4)[:, :, 3]
    np.save(f"{sys.argv[2]}/{region['value']['brushlabels'][0]}.npy", mask)
    assert brush.mask2rle(mask) == region["value"]["rle"], "their own encoder writes other bytes"
"""


def test_label_studios_own_converter_reads_the_brushes_and_writes_the_same(tmp_path, contents):
    write_layout("label-studio", contents, tmp_path / "l")
    by_their_own("label_studio_converter", CONVERTER, tmp_path / "l" / "tasks.json", tmp_path)
    for label, value in ("cat", 1), ("cow", 2), ("ignore", 255):
        assert np.array_equal(np.load(tmp_path / f"{label}.npy") > 0, value == MASK)


def test_tasks_name_their_images_and_say_what_made_the_masks(tmp_path, contents):
    write_layout("label-studio", contents, tmp_path / "l")
    first, _, last = json.loads((tmp_path / "l" / "tasks.json").read_text())
    assert first["data"] == {"image": "/data/local-files/?d=images/cat_1.jpg", "name": "cat_1"}
    assert (tmp_path / "l" / "images" / "cat_1.jpg").is_file()
    assert (first["predictions"][0]["model_version"], first["predictions"][0]["score"]) == ("common", 0.75)
    assert "predictions" not in last
    config = (tmp_path / "l" / "label_config.xml").read_text()
    assert '<Label value="cow" background="#008000"/>' in config and '<Label value="ignore"' in config


def test_a_mask_that_holds_no_class_is_an_error_and_not_another_class(tmp_path, contents):
    write_mask(np.full((20, 24), 77, np.uint8), contents.rows[0].mask_path)
    for layout in ("yolo", "yolo-semantic", "cvat", "label-studio"):
        with pytest.raises(MaskError, match="holds the value 77"):
            write_layout(layout, contents, tmp_path / layout)


# ------------------------------------------------------------- there and back


def drawn_on() -> np.ndarray:
    mask = np.zeros((H, W), np.uint8)
    mask[2:20, 3:30], mask[5:9, 5:9], mask[22:28, 10:20], mask[:, 39] = 1, 0, 2, 255
    return mask


def as_exported(folder: Path, layout: str, change: dict[str, np.ndarray] | None = None) -> Path:
    """What a tool exports when a person opened our export, drew ``change`` (name -> label mask), and submitted it."""
    labels = {1: "cat", 2: "cow", 255: "ignore"}
    if layout == "cvat":
        back = unpacked(folder / "annotations.zip", folder / "back")
        colours = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 255: (224, 224, 192)}
        for name, mask in (change or {}).items():
            painted = np.zeros((*mask.shape, 3), np.uint8)
            for value, colour in colours.items():
                painted[mask == value] = colour
            Image.fromarray(painted).save(back / "SegmentationClass" / f"{name}.png")
        with zipfile.ZipFile(folder / "back.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for file in back.rglob("*.*"):
                archive.write(file, file.relative_to(back))
        return folder / "back.zip"
    tasks = json.loads((folder / "tasks.json").read_text())
    for number, task in enumerate(tasks, start=1):
        predicted = task.pop("predictions")[0]["result"]
        if (mask := (change or {}).get(task["data"]["name"])) is not None:
            values = [value for value in labels if (mask == value).any()]
            part = {"type": "brushlabels", "original_width": mask.shape[1], "original_height": mask.shape[0]}
            predicted = [
                {**part, "value": {"format": "rle", "rle": encode_brush(mask == v), "brushlabels": [labels[v]]}}
                for v in values
            ]
        task |= {"id": number, "annotations": [{"was_cancelled": False, "result": predicted}]}
    (folder / "back.json").write_text(json.dumps(tasks))
    return folder / "back.json"


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("layout", ["cvat", "label-studio"])
def test_a_mask_that_was_corrected_comes_back_and_the_others_stay_what_they_are(tmp_path, layout, capsys):
    dataset = make_web(f"back-{layout}")
    assert main(["export", dataset.name, str(tmp_path / "out"), "--layout", layout]) == 0
    kept = [key.replace("/", "_") for key in dataset.match_tags("kept").values("image_id")]
    assert len(kept) == 2
    back = as_exported(tmp_path / "out", layout, {kept[0]: drawn_on()})
    before = dict(zip(*dataset.values(["sha256", "cosegmentation.mask_path"]), strict=True))

    command = ["import-masks", dataset.name, str(back), "--supervision", "masks"]
    assert main(command) == 2, "the two that were dropped have no mask"
    assert "nothing was imported. 2 bad: 2 missing" in capsys.readouterr().err
    assert main([*command, "--skip-bad"]) == 1
    told = capsys.readouterr().out
    assert "1 masks imported (1 cat, 0 cow)." in told and "1 are as they were: they stay what they are." in told

    dataset.reload()
    rows = {sha: (path, method) for sha, path, method in zip(
        *dataset.values(["sha256", "cosegmentation.mask_path", "cosegmentation.method"]), strict=True
    )}  # fmt: skip
    assert [sha[0] for sha, (path, _) in rows.items() if path != before[sha]] == ["2"]
    assert {sha[0]: method for sha, (_, method) in rows.items()} == {
        "1": "common", "2": store.IMPORTED, "3": "common", "4": "common",
    }  # fmt: skip
    drawn = drawn_on()
    assert np.array_equal(read_mask(rows["2" * 64][0]), np.where(drawn == 2, 255, drawn)), "a cow is void on a cat"
    assert not store.example_table(dataset, "cosegmentation").ledger.strictly_image_level
    assert store.example_table(dataset.match({"label.label": "cow"}), "cosegmentation").ledger.strictly_image_level


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("layout", ["yolo", "yolo-semantic", "cvat", "label-studio"])
def test_a_folder_with_something_in_it_is_refused_and_nothing_is_left_of_what_failed(tmp_path, layout):
    name = f"refused-{layout}"
    dataset = make_web(name)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(StoreError, match="not an empty folder"):
        export_dataset(dataset, tmp_path / "out", layout)
    Path(dataset.match_tags("kept").values("cosegmentation.mask_path")[0]).write_bytes(b"no mask")
    with pytest.raises(MaskError):
        export_dataset(dataset, tmp_path / "new", layout)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine.txt"]


def region(**values) -> dict:
    mask = np.zeros((H, W), bool)
    mask[:5] = True
    value = {"format": "rle", "rle": encode_brush(mask), "brushlabels": [values.pop("label", "cat")]}
    return {"type": "brushlabels", "original_width": W, "original_height": H, "value": value, **values}


def task(name: str, *results: list[dict], **values) -> dict:
    return {"data": {"image": name}, "annotations": [{"result": result, **values} for result in results]}


CAT = "cat_" + 20 * "1"


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ([task(f"/data/upload/1/0a1b2c3d-{CAT}.jpg", [region()])], "3 bad: 3 missing"),
        ([task(f"/data/local-files/?d=x/cat/{CAT[4:]}.jpg", [region()])], "3 bad: 3 missing"),
        ([task("elsewhere.jpg", [region()])], "1 unknown, 4 missing|4 missing, 1 unknown"),
        ([task("elsewhere.jpg", [])], "nothing is drawn in it"),
        ([task(f"{CAT}.jpg", [])], "1 empty, 3 missing"),
        ([task(f"{CAT}.jpg", [region()], [region()])], "4 missing, 1 ambiguous"),
        ([task(f"{CAT}.jpg", [region()]), task(f"{CAT}.jpg", [region()])], "3 missing, 1 ambiguous"),
        (
            [task(f"{CAT}.jpg", [region(label="dog")])],
            "1 empty|'dog' .on 1 images. is no label of background, cat, cow",
        ),
        ([task(f"{CAT}.jpg", [region(type="polygonlabels")])], "a region of type 'polygonlabels'; the brush is wanted"),
        ([task(f"{CAT}.jpg", [region(original_width=7)])], "those of the image are 210"),
        ([task(f"{CAT}.jpg", [region(original_width="7")])], "width is '7', a whole number"),
        ([task(f"{CAT}.jpg", [region(original_width=10**9)])], "1 too_large, 4 missing.*at most 100,000,000"),
        ([task(f"{CAT}.jpg", [region(image_rotation=90)])], "turned while it was drawn on"),
        ([task(f"{CAT}.jpg", [region()], was_cancelled=True)], "nothing is drawn in it"),
        ([{"image": CAT}], "not JSON-MIN"),
        ({"a": 1}, "not JSON-MIN"),
    ],
)
def test_what_label_studio_exported_is_checked_and_one_fault_changes_nothing(tmp_path, tasks, words):
    dataset = store.open_dataset("ls-bad") if store.dataset_exists("ls-bad") else make_web("ls-bad")
    before = dataset.values(["cosegmentation.mask_path", "tags"])
    (tmp_path / "back.json").write_text(json.dumps(tasks))
    with pytest.raises((StoreError, SourceError), match=words):
        store.import_masks(dataset, tmp_path / "back.json")
    assert dataset.values(["cosegmentation.mask_path", "tags"]) == before


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("labels", "pixels", "words"),
    [
        ("cat:128,0,0::\n", (0, 1, 2), "holds #000102, which is not in labelmap.txt"),
        ("cat:128,0,0::\nbackground:0,0,0::\ndog:0,0,9::\n", (0, 0, 9), "'dog' .on 1 images. is no label of"),
        ("cat;128;0;0\n", (0, 0, 0), "labelmap.txt, line 1: 'cat;128;0;0' is no `label:red,green,blue::`"),
        ("cat:128,0,999::\n", (0, 0, 0), "line 1"),
        ("background:0,0,0::\n", (0, 0, 0), "1 empty, 3 missing"),
    ],
)
def test_what_cvat_exported_is_checked_and_one_fault_changes_nothing(tmp_path, labels, pixels, words):
    dataset = store.open_dataset("cvat-bad") if store.dataset_exists("cvat-bad") else make_web("cvat-bad")
    before = dataset.values(["cosegmentation.mask_path", "tags"])
    (tmp_path / "SegmentationClass").mkdir()
    (tmp_path / "labelmap.txt").write_text(labels)
    Image.new("RGB", (W, H), pixels).save(tmp_path / "SegmentationClass" / f"{CAT}.png")
    with pytest.raises((StoreError, SourceError), match=words):
        store.import_masks(dataset, tmp_path)
    assert dataset.values(["cosegmentation.mask_path", "tags"]) == before


@pytest.mark.usefixtures("database")
def test_files_that_no_label_tool_wrote_are_one_sentence(tmp_path):
    dataset = store.open_dataset("cvat-bad") if store.dataset_exists("cvat-bad") else make_web("cvat-bad")
    (tmp_path / "a.zip").write_bytes(b"PK no zip")
    (tmp_path / "a.json").write_text("[" * 100_000)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("SegmentationClass/a.png", b"")
    for name, words in (
        ("a.zip", "Export it from CVAT again"),
        ("b.zip", "has no labelmap.txt"),
        ("a.json", "as JSON"),
    ):
        with pytest.raises(SourceError, match=words):
            store.import_masks(dataset, tmp_path / name)


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_damaged_archive_is_one_sentence_wherever_the_damage_is(tmp_path, packing):
    whole, damaged = tmp_path / "whole.zip", tmp_path / "task.zip"
    write_mask(MASK, tmp_path / "cat.png")
    with zipfile.ZipFile(whole, "w", packing) as archive:
        archive.writestr("labelmap.txt", "background:0,0,0::\ncat:128,0,0::\ncow:0,128,0::\n" * 20)
        archive.write(tmp_path / "cat.png", "SegmentationClass/cat.png")
    data = whole.read_bytes()
    read = 0
    for position in range(len(data)):
        for damage in (data[:position], data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]):
            damaged.write_bytes(damage)
            try:
                read += len(list(_of_cvat(damaged)))
            except WssError as error:
                assert "task.zip" in str(error)
    assert read > 0, "damage to what nobody reads, such as a date, hurts nothing"
