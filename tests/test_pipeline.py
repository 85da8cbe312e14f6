"""The web dataset from end to end, on the real database, killed and run again."""

import os
import signal
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import pytest
import yaml

from wss_data.errors import SourceError, StoreError
from wss_data.imaging.masks import read_mask
from wss_data.runtime.home import dataset_folder
from wss_data.spec import read_spec, spec_from_dict

pytestmark = pytest.mark.usefixtures("small_maps")

CLASSES = list(read_spec("drawn").class_names[:2])


def definition(name: str, limit: int = 6, **values) -> dict:
    source = {"name": "drawn", "limit": limit, "options": {"seed": 3}}
    return {"name": name, "classes": CLASSES, "sources": [source], "longest_side": 160, **values}


def contents(dataset) -> dict:
    """What a dataset holds, with nothing in it that may differ between two builds."""
    fields = ["label.label", "sha256", "phash", "tags", "foreground_ratio", "confidence"]
    files = dataset.values(["cosegmentation.mask_path", "filepath"])
    return {
        (label, sha256): (numbers, Path(mask).read_bytes(), Path(path).read_bytes())
        for label, sha256, *numbers, mask, path in zip(*dataset.values(fields), *files, strict=True)
    }


def written(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.suffix in (".jpg", ".png")}


def test_a_folder_with_odd_names_is_built_once_and_takes_masks_by_the_same_names(database, tmp_path):
    from drawings import disc

    from wss_data import build, store
    from wss_data.imaging.images import write_jpeg
    from wss_data.imaging.masks import write_foreground
    from wss_data.pipeline import summary_table
    from wss_data.spec import spec_from_folder

    names = [os.fsdecode(b"v\xf6gel"), "Ku\u0308he", "plain", "a\tb"]
    for number, name in enumerate(names):
        image, inside = disc(seed=number)
        write_jpeg(image, tmp_path / "photos" / "ball" / f"{name}.jpg")
        write_foreground(inside, tmp_path / "masks" / "ball" / f"{unicodedata.normalize('NFC', name)}.PNG")
    (tmp_path / "photos" / "ball" / "b.heic").write_bytes(b"x")
    (tmp_path / "photos" / "@eaDir").mkdir()
    spec = spec_from_folder(tmp_path / "photos", "zoo-odd")

    dataset = build(spec, workers=1, progress=False)
    ids = dict(zip(*dataset.values(["id", "filepath"]), strict=True))
    files = written(dataset_folder("zoo-odd"))
    again = build(spec, workers=1, progress=False)

    assert spec.class_names == ("ball",) and len(ids) == 4
    assert dict(zip(*again.values(["id", "filepath"]), strict=True)) == ids
    assert written(dataset_folder("zoo-odd")) == files, "a resumed build finds every image again"
    assert "ball: 1 file passed over (1 .heic)" in summary_table(again)
    assert set(again.values("provenance.source_id")) == {
        "ball/v\\xf6gel.jpg", "ball/Ku\u0308he.jpg", "ball/plain.jpg", "ball/a\\x09b.jpg"
    }  # fmt: skip
    report = store.import_masks(again, tmp_path / "masks")
    assert (report.imported, report.bad) == ({"ball": 4}, ())


@pytest.fixture(scope="module")
def built(database):
    from wss_data import build

    return build(spec_from_dict(definition("zoo-built")), progress=False)


def test_class_names_become_a_dataset_with_masks(built):
    assert built.persistent
    assert built.count_values("label.label") == dict.fromkeys(CLASSES, 6)
    for sample in built:
        mask = read_mask(sample.cosegmentation.mask_path)
        assert mask.shape == (sample.metadata.height, sample.metadata.width)
        assert max(sample.metadata.width, sample.metadata.height) <= 160
        assert set(mask.ravel()) <= {0, CLASSES.index(sample.label.label) + 1}
        assert sample.foreground_ratio == pytest.approx((mask > 0).mean())
        kept = 0.2 <= sample.foreground_ratio <= 0.8
        assert ("kept" in sample.tags) == kept
        assert kept or any(tag.startswith("dropped:") for tag in sample.tags)


def test_what_is_in_the_dataset_can_be_traced_to_where_it_came_from(built):
    sample = built.first()
    assert sample.provenance.source == "drawn"
    assert sample.provenance.license == "CC0-1.0"
    assert Path(sample.filepath).name == f"{sample.sha256[:20]}.jpg"


def test_a_second_build_does_nothing(built):
    from wss_data import build

    before, contents_before = written(dataset_folder("zoo-built")), contents(built)
    again = build(spec_from_dict(definition("zoo-built")), progress=False)
    assert written(dataset_folder("zoo-built")) == before
    assert contents(again) == contents_before


def test_a_build_leaves_sheets_to_look_at(built):
    names = {p.name for p in (dataset_folder("zoo-built") / "pictures").iterdir()}
    assert {"cosegmentation.png", "foreground_ratio.png"} <= names


def test_other_thresholds_in_the_definition_filter_again_without_new_masks(database):
    from wss_data import build

    strict = {"min_foreground": 0.45, "max_foreground": 0.5}
    dataset = build(spec_from_dict(definition("zoo-filter", limit=3)), progress=False)
    masks = {p: t for p, t in written(dataset_folder("zoo-filter")).items() if "/cosegmentation/" in p}
    dataset = build(spec_from_dict(definition("zoo-filter", limit=3, filters=strict)), progress=False)
    assert {p: t for p, t in written(dataset_folder("zoo-filter")).items() if "/cosegmentation/" in p} == masks
    ratios = dataset.match_tags("kept").values("foreground_ratio")
    assert all(0.45 <= ratio <= 0.5 for ratio in ratios)


def test_a_dataset_of_that_name_with_other_classes_is_not_overwritten(built):
    from wss_data import build

    other = {**definition("zoo-built"), "classes": list(reversed(CLASSES))}
    with pytest.raises(StoreError, match="zoo-built"):
        build(spec_from_dict(other), progress=False)
    assert built.count() == 12


def test_a_class_without_a_usable_image_is_reported_with_the_reasons(database, tmp_path):
    from wss_data import build

    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "broken.jpg").write_text("no image")
    spec = {
        "name": "zoo-empty",
        "classes": ["cat"],
        "sources": [{"name": "folder", "options": {"path": str(tmp_path)}}],
    }
    with pytest.raises(SourceError, match=r"class 'cat' has no usable image \(dropped: 1 unreadable\)"):
        build(spec_from_dict(spec), progress=False)


def test_bad_images_of_a_folder_are_counted_and_the_good_ones_built(database, tmp_path):
    from wss_data import build
    from wss_data.pipeline import summary_table
    from wss_data.retrieval.sources import make_source
    from wss_data.retrieval.sources.base import Forgetful

    source = make_source("drawn", {"seed": 5})
    spec = read_spec("drawn")
    for position, hit in enumerate(source.search(spec.classes[0], 3, Forgetful())):
        path = tmp_path / "thing" / f"{position}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(hit.read())
    data = path.read_bytes()
    (tmp_path / "thing" / "half.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "thing" / "text.png").write_text("no image")
    folder_spec = {
        "name": "zoo-folder",
        "classes": ["thing"],
        "sources": [{"name": "folder", "options": {"path": str(tmp_path)}}],
        "longest_side": 160,
    }
    dataset = build(spec_from_dict(folder_spec), progress=False)
    assert dataset.count() == 3
    table = summary_table(dataset)
    assert "1 truncated" in table and "1 unreadable" in table


def start_build(file: Path) -> subprocess.Popen:
    code = "import sys; from wss_data.commands.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, "build", str(file), "--workers", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_when(process: subprocess.Popen, happened, timeout: float = 120) -> None:
    """SIGKILL the process as soon as ``happened()``; it must still be running then."""
    end = time.monotonic() + timeout
    while not happened():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_a_build_killed_while_retrieving_and_while_cosegmenting_ends_in_the_same_dataset(database, tmp_path):
    from wss_data import open_dataset

    # By a process of its own, too: what other tests did to torch in this one must not make a difference.
    file = tmp_path / "whole.yaml"
    quick = {"cosegmentation": {"method": "common", "options": {"long_side": 128}}}
    file.write_text(yaml.safe_dump(definition("zoo-whole", limit=10, **quick)))
    assert (whole := start_build(file)).wait(timeout=240) == 0, whole.stderr.read()
    file = tmp_path / "zoo.yaml"
    file.write_text(yaml.safe_dump(definition("zoo-killed", limit=10, **quick)))
    folder = dataset_folder("zoo-killed")

    def count(pattern: str) -> int:
        return len(list(folder.glob(pattern)))

    kill_when(start_build(file), lambda: count(f"images/{CLASSES[0]}/*.jpg") >= 3)
    kill_when(start_build(file), lambda: count(f"images/{CLASSES[1]}/*.jpg") >= 2)
    kill_when(start_build(file), lambda: count(f"cosegmentation/{CLASSES[0]}/*.png") >= 2)
    kill_when(start_build(file), lambda: count(f"cosegmentation/{CLASSES[1]}/*.png") >= 4)
    last = start_build(file)
    assert last.wait(timeout=240) == 0, last.stderr.read()

    found, wanted = contents(open_dataset("zoo-killed")), contents(open_dataset("zoo-whole"))
    assert found.keys() == wanted.keys()
    assert [key for key in wanted if found[key][0] != wanted[key][0]] == [], "numbers and tags"
    assert [key for key in wanted if found[key][1:] != wanted[key][1:]] == [], "files"
    assert not list(folder.rglob(".writing-*")), "what the killed ones were writing is gone"


def test_two_processes_never_build_the_same_dataset(built):
    from wss_data import build
    from wss_data.runtime.files import only_one

    with (
        only_one(dataset_folder("zoo-built") / "lock"),
        pytest.raises(StoreError, match="being built or changed by another process"),
    ):
        build(spec_from_dict(definition("zoo-built")), progress=False)
