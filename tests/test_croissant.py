"""Croissant JSON-LD, checked and read by MLCommons' own library."""

import hashlib
import json
from dataclasses import replace

import pytest
from test_card import CATS, FACTS

from wss_data.records import Provenance
from wss_data.sharing.card import IMAGE_COLUMNS
from wss_data.sharing.croissant import croissant


@pytest.fixture
def folder(tmp_path):
    values = dict.fromkeys(IMAGE_COLUMNS, "")
    cow = {**values, "image": "cow/1", "class": "cow", "width": "1024", "height": "768", "kept": "yes"}
    lines = [",".join(IMAGE_COLUMNS), ",".join(cow.values())]
    (tmp_path / "images.csv").write_text("\n".join(lines) + "\n")
    for name in ("manifest.jsonl.gz", "CREDITS.md", "ledger.json"):
        (tmp_path / name).write_text(name)
    return tmp_path


def test_files_are_named_with_their_digests_and_licences_with_their_addresses(folder):
    value = croissant(FACTS, folder, IMAGE_COLUMNS, url="https://x.example/zoo")
    by_name = {item["@id"]: item for item in value["distribution"]}
    assert by_name["CREDITS.md"]["sha256"] == hashlib.sha256(b"CREDITS.md").hexdigest()
    assert by_name["CREDITS.md"]["contentSize"] == "10 B"
    assert value["license"] == ["https://creativecommons.org/licenses/by/2.0/"] and value["url"].endswith("/zoo")
    assert value["rai:dataCollectionTimeframe"] == ["2026-01-02T00:00:00+00:00", "2026-01-05T00:00:00+00:00"]


def test_what_is_not_known_is_left_out(folder):
    row = replace(CATS[0], provenance=Provenance("folder", "1.jpg"))
    value = croissant(replace(FACTS, rows=[row]), folder, IMAGE_COLUMNS)
    assert not {"license", "url", "rai:dataCollectionTimeframe"} & set(value)


def test_mlcommons_library_finds_no_fault_and_reads_the_images(folder, caplog):
    mlcroissant = pytest.importorskip("mlcroissant")
    described = croissant(FACTS, folder, IMAGE_COLUMNS, url="https://x.example/zoo")
    (folder / "croissant.json").write_text(json.dumps(described))
    dataset = mlcroissant.Dataset(str(folder / "croissant.json"))
    issues = dataset.metadata.ctx.issues
    assert not issues.errors and not issues.warnings
    assert "not standard" not in caplog.text
    (image,) = dataset.records("images")
    assert (image["images/class"], image["images/width"]) == (b"cow", 1024)
    values = {record["classes/name"]: record["classes/value"] for record in dataset.records("classes")}
    assert values == {"background": 0, "cat": 1, "cow": 2, "ignore": 255}
