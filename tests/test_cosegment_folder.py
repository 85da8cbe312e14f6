import csv
import json
import os

import numpy as np
import pytest
from PIL import Image

from wss_data.cosegmentation import folder as folder_module
from wss_data.cosegmentation.base import Segmented
from wss_data.cosegmentation.folder import cosegment_folder
from wss_data.errors import CosegmentationError, SourceError
from wss_data.imaging.masks import read_mask
from wss_data.ledger import Ledger

pytestmark = pytest.mark.usefixtures("small_maps")


class BrightEngine:
    """What is bright is foreground; counts what it was asked for."""

    name = "bright"
    ledger = Ledger()

    def __init__(self):
        self.setting = 1
        self.groups, self.die_after = [], None

    def fingerprint(self):
        return f"bright-{self.setting}"

    def segment_group(self, images, wanted=None, workers=None):
        self.groups.append((len(images), list(wanted)))
        for done, position in enumerate(wanted):
            if done == self.die_after:
                raise KeyboardInterrupt
            yield position, Segmented(images[position][..., 0] > 128, 0.75)


@pytest.fixture
def engine(monkeypatch):
    engine = BrightEngine()
    monkeypatch.setattr(folder_module, "make_engine", lambda method, options, allow_programs: engine)
    return engine


def draw(path, left=0.5, size=(40, 24)):
    """A photograph whose left share is white."""
    image = np.zeros((size[1], size[0], 3), np.uint8)
    image[:, : round(left * size[0])] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def rows(out):
    with (out / "scores.csv").open(newline="") as file:
        return {(row["class"], row["stem"]): row for row in csv.DictReader(file)}


def run(images, out):
    return cosegment_folder(images, out, workers=1, progress=False)


def test_each_image_gets_a_mask_of_its_own_size_and_a_row(tmp_path, engine):
    draw(tmp_path / "in" / "cow" / "a.png", left=0.5)
    draw(tmp_path / "in" / "cow" / "b.png", left=0.1)
    draw(tmp_path / "in" / "dog" / "a.png", left=0.4, size=(1000, 500))

    summary = run(tmp_path / "in", tmp_path / "out")

    mask = read_mask(tmp_path / "out" / "dog" / "a.png")
    assert mask.shape == (500, 1000) and np.unique(mask).tolist() == [0, 255]
    assert mask[:, :390].all() and not mask[:, 410:].any()
    assert rows(tmp_path / "out")["cow", "a"] | {"group": ""} == {
        "class": "cow", "stem": "a", "status": "ok", "confidence": "0.7500", "foreground_ratio": "0.5000",
        "kept": "yes", "group": "",
    }  # fmt: skip
    assert rows(tmp_path / "out")["cow", "b"]["kept"] == "no"
    assert (summary.images, summary.made, summary.kept, summary.dropped) == (3, 3, {"cow": 1, "dog": 1}, {})
    assert "3 masks made" in str(summary)
    assert json.loads((tmp_path / "out" / "ledger.json").read_text())["fingerprint"] == "bright-1"


def test_the_second_run_makes_nothing(tmp_path, engine):
    draw(tmp_path / "in" / "cow" / "a.png")
    run(tmp_path / "in", tmp_path / "out")
    first = (tmp_path / "out" / "scores.csv").read_bytes()

    summary = run(tmp_path / "in", tmp_path / "out")

    assert engine.groups == [(1, [0])]
    assert (summary.made, summary.unchanged) == (0, 1)
    assert (tmp_path / "out" / "scores.csv").read_bytes() == first


def test_names_that_a_spreadsheet_takes_for_formulas_are_marked_in_the_table_and_known_again(tmp_path, engine):
    names = ["=1+1", "@ann", "-1", "'+2", "plain"]
    for name in names:
        draw(tmp_path / "in" / "@us" / f"{name}.png")
    run(tmp_path / "in", tmp_path / "out")
    assert sorted(rows(tmp_path / "out")) == sorted(("'@us", name if name == "plain" else f"'{name}") for name in names)
    assert all((tmp_path / "out" / "@us" / f"{name}.png").is_file() for name in names)
    assert run(tmp_path / "in", tmp_path / "out").unchanged == len(names)


@pytest.mark.parametrize("name", [os.fsdecode(b"v\xf6gel"), "a\nb", "a\rb", ' a,"b ', "x" * 251, "U\u0308"])
def test_an_image_of_any_name_gets_its_mask_once(tmp_path, engine, name):
    draw(tmp_path / "in" / "cow" / f"{name}.png")

    assert run(tmp_path / "in", tmp_path / "out").made == 1
    assert (tmp_path / "out" / "cow" / f"{name}.png").is_file()
    assert run(tmp_path / "in", tmp_path / "out").unchanged == 1


def test_what_is_passed_over_is_reported_with_the_masks(tmp_path, engine):
    draw(tmp_path / "in" / "cow" / "a.png")
    for name in ("cow/b.heic", "cow/@eaDir/a.png/thumb.jpg", "_old/c.png", "cow/.thumbnails/a.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"x")

    summary = run(tmp_path / "in", tmp_path / "out")

    assert (summary.images, summary.made) == (1, 1)
    assert str(summary).endswith("4 files passed over (3 hidden or of a tool, 1 .heic)")
    (tmp_path / "in" / "cow" / "a.png").unlink()
    with pytest.raises(SourceError, match=r"no image found \(4 files passed over"):
        run(tmp_path / "in", tmp_path / "other")


def test_an_interrupted_run_goes_on_with_what_is_missing_and_ends_in_the_same_files(tmp_path, engine):
    for name in "abcde":
        draw(tmp_path / "in" / "cow" / f"{name}.png")
    run(tmp_path / "in", tmp_path / "whole")
    engine.groups.clear()
    engine.die_after = 3
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "in", tmp_path / "out")
    engine.die_after = None

    summary = run(tmp_path / "in", tmp_path / "out")

    assert engine.groups == [(5, [0, 1, 2, 3, 4]), (5, [3, 4])]
    assert (summary.made, summary.unchanged) == (2, 3)
    for path in (tmp_path / "whole").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "out" / path.relative_to(tmp_path / "whole")).read_bytes()


@pytest.mark.parametrize("change", ["image", "new image", "setting", "mask lost"])
def test_a_changed_group_is_made_again(tmp_path, engine, change):
    draw(tmp_path / "in" / "cow" / "a.png")
    draw(tmp_path / "in" / "dog" / "a.png")
    run(tmp_path / "in", tmp_path / "out")
    if change == "image":
        draw(tmp_path / "in" / "cow" / "a.png", left=0.3)
    elif change == "new image":
        draw(tmp_path / "in" / "cow" / "b.png")
    elif change == "setting":
        engine.setting = 2
    else:
        (tmp_path / "out" / "cow" / "a.png").unlink()

    summary = run(tmp_path / "in", tmp_path / "out")

    assert summary.made == {"image": 1, "new image": 2, "setting": 2, "mask lost": 1}[change]
    assert (tmp_path / "out" / "cow" / "a.png").is_file()


def test_unreadable_images_are_counted_with_their_reason_and_the_rest_is_done(tmp_path, engine):
    draw(tmp_path / "in" / "cow" / "a.png")
    (tmp_path / "in" / "cow" / "b.jpg").write_bytes(b"no picture")
    (tmp_path / "in" / "dog").mkdir()
    (tmp_path / "in" / "dog" / "c.jpg").write_bytes(b"")

    summary = run(tmp_path / "in", tmp_path / "out")

    assert summary.dropped == {"unreadable": 2} and summary.made == 1
    assert rows(tmp_path / "out")["cow", "b"]["status"] == "unreadable"
    assert rows(tmp_path / "out")["dog", "c"]["confidence"] == ""
    assert "2 images have no mask (2 unreadable)" in str(summary)
    assert engine.groups == [(1, [0])]


def test_the_mask_of_an_image_that_broke_since_is_taken_away(tmp_path, engine):
    draw(tmp_path / "in" / "cow" / "a.png")
    draw(tmp_path / "in" / "cow" / "b.png")
    run(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "cow" / "a.png").write_bytes(b"no picture")

    run(tmp_path / "in", tmp_path / "out")

    assert not (tmp_path / "out" / "cow" / "a.png").exists()
    assert (tmp_path / "out" / "cow" / "b.png").exists()


def test_images_right_in_the_folder_are_one_group(tmp_path, engine):
    draw(tmp_path / "cows" / "a.png")
    draw(tmp_path / "cows" / "b.png")

    run(tmp_path / "cows", tmp_path / "out")

    assert engine.groups == [(2, [0, 1])]
    assert (tmp_path / "out" / "b.png").is_file()
    assert ("cows", "b") in rows(tmp_path / "out")


def test_the_upright_image_decides_the_masks_size(tmp_path, engine):
    path = tmp_path / "in" / "cow" / "a.jpg"
    draw(path, size=(40, 24))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.open(path).save(path, exif=exif)

    run(tmp_path / "in", tmp_path / "out")

    assert read_mask(tmp_path / "out" / "cow" / "a.png").shape == (40, 24)


def test_two_images_for_one_mask_are_an_error_before_anything_is_made(tmp_path, engine):
    draw(tmp_path / "in" / "cow" / "a.png")
    draw(tmp_path / "in" / "cow" / "a.jpg")

    with pytest.raises(SourceError, match=r"cow/a\.jpg, cow/a\.png would have the same mask cow/a\.png"):
        run(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["in", "in/masks"])
def test_masks_must_not_go_among_the_images(tmp_path, engine, out):
    draw(tmp_path / "in" / "cow" / "a.png")

    with pytest.raises(SourceError, match="masks must go outside"):
        run(tmp_path / "in", tmp_path / out)


def test_missing_empty_and_mixed_folders_are_errors(tmp_path, engine):
    (tmp_path / "empty").mkdir()
    draw(tmp_path / "mixed" / "cow" / "a.png")
    draw(tmp_path / "mixed" / "stray.png")

    for name, message in (("nowhere", "no such folder"), ("empty", "no image found"), ("mixed", r"stray\.png")):
        with pytest.raises(SourceError, match=message):
            run(tmp_path / name, tmp_path / "out")


def test_a_score_file_of_another_program_is_not_overwritten(tmp_path, engine):
    draw(tmp_path / "in" / "cow" / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "scores.csv").write_text("name,points\nme,3\n")

    with pytest.raises(CosegmentationError, match="not a score file of this program"):
        run(tmp_path / "in", tmp_path / "out")


def test_the_real_engine_runs_from_folder_to_folder(tmp_path):
    for name in "ab":
        draw(tmp_path / "in" / "cow" / f"{name}.png")

    summary = cosegment_folder(tmp_path / "in", tmp_path / "out", options={"long_side": 64}, workers=1, progress=False)

    assert summary.made == 2
    assert json.loads((tmp_path / "out" / "ledger.json").read_text())["strictly_image_level"] is True


def test_an_unknown_method_or_a_tiny_side_is_refused(tmp_path):
    draw(tmp_path / "in" / "cow" / "a.png")

    with pytest.raises(CosegmentationError, match="no co-segmentation method 'magic'"):
        cosegment_folder(tmp_path / "in", tmp_path / "out", method="magic")
    with pytest.raises(CosegmentationError, match="longest_side is 10"):
        cosegment_folder(tmp_path / "in", tmp_path / "out", longest_side=10)


def test_masks_of_images_that_are_gone_are_reported_and_listed_no_more_and_no_file_is_lost(engine, tmp_path):
    for name in ("cat/1", "cat/2", "cow/3"):
        draw(tmp_path / "images" / f"{name}.png")
    out = tmp_path / "masks"
    run(tmp_path / "images", out)
    Image.new("L", (4, 4)).save(out / "cat" / "drawn by hand.png")
    (tmp_path / "images" / "cat" / "2.png").unlink()
    (tmp_path / "images" / "cow" / "3.png").rename(tmp_path / "images" / "cat" / "3.png")
    (tmp_path / "images" / "cow").rmdir()
    for _ in range(2):
        summary = run(tmp_path / "images", out)
        assert set(rows(out)) == {("cat", "1"), ("cat", "3")}
        assert [path.relative_to(out).as_posix() for path in summary.left_over] == ["cat/2.png", "cow/3.png"]
        assert "2 masks of images that are no longer there stay in" in str(summary)
        assert all(path.is_file() for path in summary.left_over)


def test_an_image_replaced_by_another_of_its_name_and_date_gets_another_mask(engine, tmp_path):
    images, out = tmp_path / "images", tmp_path / "masks"
    draw(images / "cat" / "1.bmp", left=0.25)
    draw(images / "cat" / "2.bmp")
    run(images, out)
    status = (images / "cat" / "1.bmp").stat()
    draw(images / "cat" / "1.bmp", left=0.75)
    os.utime(images / "cat" / "1.bmp", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (images / "cat" / "1.bmp").stat().st_size == status.st_size
    assert run(images, out).made == 2
    assert rows(out)["cat", "1"]["foreground_ratio"] == "0.7500"
