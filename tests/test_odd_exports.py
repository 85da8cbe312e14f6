"""Exports that somebody changed, by accident or on purpose: taken, or refused in one sentence, and nothing is left."""

import base64
import csv
import gzip
import io
import json
import os
import random
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from builders import make_web
from limits import bare_loops

from wss_data import store
from wss_data.errors import WssError, shown
from wss_data.imaging.masks import write_mask
from wss_data.runtime.home import dataset_folder
from wss_data.sharing.export import export_dataset
from wss_data.sharing.import_dataset import check_export, import_dataset
from wss_data.sharing.manifest import read_manifest, write_manifest

MANIFEST, MASKS, VERDICTS = "manifest.jsonl.gz", "masks.csv", "verdicts.jsonl"
DEEP = json.loads("[" * 100 + "]" * 100)
ODD = [
    None,
    True,
    -1,
    0,
    10**30,
    1e308,
    "",
    "..",
    "../../x",
    "/etc/passwd",
    "a\x00b",
    "\x1b[31m",
    "\ud800",
    "\u202e",
    "a\nb",
    "x" * 20_000,
    "nan",
    "0001-01-01T00:00:00+23:00",
    "9999-12-31T23:59:59-23:00",
    "javascript:alert(1)",
    [],
    {},
    ["x"] * 200,
    {"a": "b"},
    DEEP,
]
ODD_CELLS = ["nan", "inf", "-5", "1e400", "2", "x", "0x1", "\x1b[31m", "9" * 5_000, "1_0", "../..", "٣", "=1+1"]


@pytest.fixture(scope="module")
def export(database, tmp_path_factory):
    dataset = make_web("odd-web")
    cow = dataset.match({"label.label": "cow"}).first()
    store.judge(dataset, [cow.id], "keep", "a fine cow")
    store.apply_filter(dataset)
    folder = tmp_path_factory.mktemp("odd") / "export"
    export_dataset(dataset, folder, layout="voc")
    return folder


@pytest.fixture
def copy(export, tmp_path):
    return Path(shutil.copytree(export, tmp_path / "copy"))


def manifest_lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in gzip.decompress((folder / MANIFEST).read_bytes()).splitlines()]


def write_lines(folder: Path, lines: list) -> None:
    rows = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / MANIFEST).write_bytes(gzip.compress("\n".join([*rows, ""]).encode(), 1))


def table(folder: Path) -> list[list[str]]:
    return list(csv.reader((folder / MASKS).open(newline="")))


def write_table(folder: Path, rows: list[list[str]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    (folder / MASKS).write_text(text.getvalue())


def odd_field(folder: Path, draw: random.Random) -> str:
    lines = manifest_lines(folder)
    line = draw.choice(lines)
    place = line.get("definition", line) if draw.random() < 0.4 else line
    key = draw.choice([*place, "new"])
    place[key] = draw.choice(ODD)
    write_lines(folder, lines)
    return f"{key} = {shown(place[key])}"


def odd_cell(folder: Path, draw: random.Random) -> str:
    rows = table(folder)
    row, column = draw.randrange(len(rows)), draw.randrange(len(rows[0]))
    rows[row][column] = draw.choice(ODD_CELLS)
    write_table(folder, rows)
    return f"cell {row}, {column} = {rows[row][column][:20]!r}"


def odd_verdict(folder: Path, draw: random.Random) -> str:
    act = json.loads((folder / VERDICTS).read_text())
    key = draw.choice([*act, "undoes"])
    act[key] = draw.choice([*ODD, [["cow"]], [["cow", "4", "5"]], [[1, 2]]])
    (folder / VERDICTS).write_text(json.dumps(act) + "\n")
    return f"verdict {key} = {shown(act[key])}"


def flipped_bytes(folder: Path, draw: random.Random) -> str:
    path = draw.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    data = bytearray(path.read_bytes())
    for _ in range(draw.choice([1, 3, 30])):
        data[draw.randrange(len(data))] = draw.randrange(256)
    path.write_bytes(data)
    return f"flipped in {path.name}"


def cut_off(folder: Path, draw: random.Random) -> str:
    path = draw.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])
    return f"cut off: {path.name}"


def doubled_line(folder: Path, draw: random.Random) -> str:
    path = folder / draw.choice([MANIFEST, MASKS, VERDICTS])
    if path.name == MANIFEST:
        lines = manifest_lines(folder)
        write_lines(folder, [*lines, draw.choice(lines)])
    else:
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join([*lines, draw.choice(lines)]))
    return f"a line of {path.name} twice"


def swapped(folder: Path, draw: random.Random) -> str:
    path = draw.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    kind = draw.choice(["link", "pipe", "folder", "nothing", "other"])
    other = draw.choice(sorted(p for p in folder.rglob("*") if p.is_file() and p != path))
    data = other.read_bytes()
    path.unlink()
    if kind == "link":
        path.symlink_to(draw.choice(["/etc/passwd", "/dev/zero", "/nowhere", str(path)]))
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "other":
        path.write_bytes(data)
    return f"{path.name}: {kind}"


def odd_mask(folder: Path, draw: random.Random) -> str:
    path = draw.choice(sorted((folder / "SegmentationClass").iterdir()))
    shape, value = draw.choice([(30, 40), (40, 30), (1, 1)]), draw.choice([0, 1, 2, 7, 255])
    write_mask(np.full(shape, value, np.uint8), path)
    return f"mask of {shape} full of {value}"


MUTATIONS: list[Callable[[Path, random.Random], str]] = [
    *(odd_field, odd_field, odd_cell, odd_verdict, flipped_bytes, cut_off, doubled_line, swapped, odd_mask)
]


def test_an_export_that_somebody_changed_is_taken_or_refused_in_one_sentence(export, tmp_path):
    refused, stored = 0, 0
    for seed in range(180):
        draw = random.Random(seed)
        folder = Path(shutil.copytree(export, tmp_path / "changed"))
        done = MUTATIONS[seed % len(MUTATIONS)](folder, draw)
        name = f"odd-{seed}"
        try:
            check_export(folder, name)
        except WssError as error:
            refused += 1
            assert "\n" not in str(error) and str(error).isprintable() and len(str(error)) < 1_500, (seed, done)
            assert not dataset_folder(name).exists(), (seed, done)
        except Exception as error:
            raise AssertionError(f"seed {seed}, {done}: {type(error).__name__}: {error}") from error
        else:
            # Enough of those that are taken come whole into the database, too.
            if stored < 6:
                stored += 1
                assert import_dataset(folder, name).images > 0, (seed, done)
                store.open_dataset(name).delete()
        shutil.rmtree(folder)
    assert refused > 90 and stored == 6
    assert {row.name for row in store.list_datasets() if row.name.startswith("odd-")} == {"odd-web"}


@pytest.mark.parametrize(
    ("name", "data"),
    [  # made by the test: hundreds of megabytes
        (MANIFEST, lambda: gzip.compress(b"\n" * (300 << 20), 1)),
        (MANIFEST, lambda: gzip.compress(b"[" * (300 << 20), 1)),
        (MANIFEST, lambda: gzip.compress(b"{" + b'"a":{},' * (40 << 20), 1)),
        (MANIFEST, lambda: gzip.compress(b'{"images": ' + b"9" * (40 << 20) + b"}", 1)),
        (VERDICTS, lambda: b"[" * (20 << 20) + b"\n"),
        (VERDICTS, lambda: b'{"at": "2026-01-01T00:00:00Z", "undoes": ' + b"9" * 5_000 + b"}\n"),
        (MASKS, lambda: b"image,class\n" * (6 << 20)),
        (MASKS, lambda: b'image,class\n"' + b"x" * (20 << 20)),
        (MASKS, lambda: b"," * (20 << 20)),
        (MASKS, lambda: b"image,class," + b"c," * 100_000 + b"\n"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_file_of_an_export_makes_the_program_slow_or_large(copy, name, data):
    (copy / name).write_bytes(data())
    tracemalloc.start()
    try:
        # Traced, as the bare loops are: two to three times as slow as it is.
        with bare_loops(500), pytest.raises(WssError, match=name.replace(".", r"\.")):
            check_export(copy, "odd-large")
        assert tracemalloc.get_traced_memory()[1] < 400 << 20
    finally:
        tracemalloc.stop()


def test_a_manifest_with_masks_that_somebody_changed_is_read_or_refused_in_one_sentence(export, tmp_path):
    path = tmp_path / "m.jsonl.gz"
    write_manifest(store.open_dataset("odd-web"), path, masks=True)
    lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    png = base64.b64decode(lines[1]["mask"]["png"])
    huge = png[:16] + struct.pack(">II", 60_000, 60_000) + png[24:]
    odd = [*ODD, {"png": base64.b64encode(huge).decode()}, {"png": "é"}, {"png": lines[1]["mask"]["png"], "more": 1}]
    refused = 0
    for seed in range(120):
        draw, changed = random.Random(seed), json.loads(json.dumps(lines))
        line = draw.choice(changed[1:])
        if seed % 2:
            line["mask"][draw.choice(list(line["mask"]))] = draw.choice(odd)
        else:
            line["mask"] = draw.choice(odd)
        path.write_text("".join(json.dumps(line) + "\n" for line in changed))
        try:
            read_manifest(path)
        except WssError as error:
            refused += 1
            assert str(error).isprintable() and len(str(error)) < 1_500, seed
    assert refused > 80


def test_images_that_changed_places_are_reported(export, copy):
    lines = manifest_lines(copy)
    for line in lines[1:]:
        line["phash"] = "0123456789abcdef"
    write_lines(copy, lines)
    assert "look like others" in " ".join(check_export(copy, "odd-places").passed_over)


def test_an_image_of_a_hundred_gigabytes_of_nothing_is_refused(copy):
    image = next((copy / "JPEGImages").iterdir())
    os.truncate(image, 100 << 30)
    with pytest.raises(WssError, match="at most 268,435,456 are read"):
        check_export(copy, "odd-hole")


@pytest.mark.parametrize("part", ["JPEGImages", "SegmentationClass"])
def test_a_folder_that_is_a_link_is_refused(copy, part, tmp_path):
    (copy / part).rename(tmp_path / "elsewhere")
    (copy / part).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WssError, match="is a link"):
        check_export(copy, "odd-link")


def test_what_nobody_reads_is_reported(copy):
    lines = manifest_lines(copy)
    lines[0]["colour"], lines[1]["smell"] = "red", {"a": 1}
    write_lines(copy, lines)
    write_table(copy, [[*row, "1" if place else "taste"] for place, row in enumerate(table(copy))])
    (copy / "JPEGImages" / "cat_extra.jpg").write_bytes(b"x")
    told = " ".join(check_export(copy, "odd-told").passed_over)
    for word in ("colour (line 1)", "smell (line 2)", "'taste'", "1 files in JPEGImages", "cat_extra.jpg"):
        assert word in told


def test_titles_and_authors_come_in_without_control_characters(copy):
    lines = manifest_lines(copy)
    for line in lines[1:]:
        line |= {"title": "a \x1b[31mred\x1b[0m\ncat", "author": "\ud800An\u202en", "opt_outs": ["no\x07ai"]}
    write_lines(copy, lines)
    at = check_export(copy, "odd-titles").images[0].record.provenance
    assert (at.title, at.author, at.opt_outs) == ("a red cat", "Ann", ("noai",))
