"""The layout that Hugging Face's ``datasets`` loads, read by hand, and by it where it is installed."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image

from wss_data.imaging.images import write_jpeg
from wss_data.imaging.masks import write_mask
from wss_data.ledger import Ledger
from wss_data.records import Provenance
from wss_data.sharing.layouts.base import Contents, ExportRow
from wss_data.sharing.layouts.huggingface import licence_keys, size_category, write_huggingface


def rows_of(folder, splits):
    rows = []
    for position, (name, split, masked) in enumerate(splits):
        image, mask = folder / f"{position}.jpg", folder / f"{position}.png"
        write_jpeg(np.full((20, 24, 3), 100 + position, np.uint8), image)
        write_mask(np.full((20, 24), 2, np.uint8), mask)
        where = Provenance("web", name, title='a "cow"\nhere', license="CC-BY-4.0")
        rows.append(ExportRow(name, image, mask if masked else None, ("cow",), split, "1" * 64, where))
    return rows


def contents_of(rows):
    return Contents(tuple(rows), ("cat", "cow"), Ledger(), name="zoo")


def head_of(folder):
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def test_a_line_names_image_and_mask_and_what_is_known(tmp_path):
    rows = rows_of(tmp_path, [("cow_1", "kept", True)])
    write_huggingface(contents_of(rows), tmp_path / "hf")
    place = tmp_path / "hf" / "data" / "train"
    (line,) = map(json.loads, (place / "metadata.jsonl").read_text().splitlines())
    assert (line["file_name"], line["mask_file_name"]) == ("images/cow_1.jpg", "masks/cow_1.png")
    assert (line["labels"], line["title"], line["license"]) == (["cow"], 'a "cow" here', "CC-BY-4.0")
    assert (place / line["file_name"]).read_bytes() == rows[0].image_path.read_bytes()
    with Image.open(place / line["mask_file_name"]) as mask:
        assert mask.mode == "P" and np.unique(np.array(mask)).tolist() == [2]
    head = head_of(tmp_path / "hf")
    assert (head["license"], head["pretty_name"]) == ("cc-by-4.0", "zoo")
    assert head["configs"][0]["data_files"] == [{"split": "train", "path": "data/train/**"}]
    assert json.loads((tmp_path / "hf" / "id2label.json").read_text())["2"] == "cow"


def test_a_split_without_masks_is_a_configuration_of_its_own(tmp_path):
    rows = rows_of(tmp_path, [("a", "train", False), ("b", "val", True)])
    write_huggingface(contents_of(rows), tmp_path / "hf")
    assert [config["config_name"] for config in head_of(tmp_path / "hf")["configs"]] == ["train", "val"]
    assert "mask_file_name" not in (tmp_path / "hf" / "data" / "train" / "metadata.jsonl").read_text()


def test_one_licence_is_named_and_several_are_not():
    assert licence_keys({"CC0-1.0"}) == {"license": "cc0-1.0"}
    assert licence_keys({"CC0-1.0", "CC-BY-2.0"})["license"] == "other"
    assert licence_keys({None})["license"] == "other"


def test_sizes_are_named_as_the_hub_does():
    assert [size_category(n) for n in (999, 1_000, 75_800)] == ["n<1K", "1K<n<10K", "10K<n<100K"]


def test_hugging_faces_own_loader_gives_indices_and_labels(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    # Not `datasets` alone: from the repository's root that would find our folder of definitions.
    load = pytest.importorskip("datasets.load", reason="Hugging Face's datasets is not installed")
    rows = rows_of(tmp_path, [("cow_1", "kept", True), ("cow_2", "kept", True)])
    write_huggingface(contents_of(rows), tmp_path / "hf")
    loaded = load.load_dataset(str(tmp_path / "hf"), cache_dir=str(tmp_path / "cache"))["train"]
    assert loaded["labels"] == [["cow"], ["cow"]]
    assert np.unique(np.array(loaded[1]["mask"])).tolist() == [2]
