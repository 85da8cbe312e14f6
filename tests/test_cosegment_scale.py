"""A group on one process, on two, on a cluster; and what must not end a run in the middle of thousands of images."""

import csv
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from builders import foreground, make_web
from PIL import Image
from test_full_disk import full_disk

from wss_data import pipeline, store
from wss_data.commands.cli import main, make_parser
from wss_data.cosegmentation import folder
from wss_data.cosegmentation.base import ImageFiles, Segmented
from wss_data.cosegmentation.common import CommonEngine
from wss_data.cosegmentation.folder import cosegment_folder
from wss_data.errors import CosegmentationError, SpecError, StoreError
from wss_data.filtering.filters import UNREADABLE
from wss_data.imaging.masks import read_mask
from wss_data.ledger import Ledger
from wss_data.runtime.home import dataset_folder
from wss_data.runtime.parallel import map_images, workers_on


class BrightEngine:
    """What is bright is foreground. ``on_the_way`` is called before each image is read."""

    name = "bright"
    ledger = Ledger()

    def __init__(self, on_the_way=lambda position: None, skipped=(), setting=1):
        self.on_the_way, self.skipped, self.setting = on_the_way, skipped, setting
        self.asked = []

    def fingerprint(self):
        return f"bright-{self.setting}"

    def segment_group(self, images, wanted=None, workers=None):
        self.asked.append((len(images), list(wanted)))
        for position in wanted:
            self.on_the_way(position)
            image = images[position]
            if position not in self.skipped:
                yield position, Segmented(image[..., 0] > 128, 0.75)


def draw(path, left=0.5, size=(40, 24)):
    """A photograph whose left share is white."""
    image = np.zeros((size[1], size[0], 3), np.uint8)
    image[:, : round(left * size[0])] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def use(monkeypatch, engine):
    monkeypatch.setattr(folder, "make_engine", lambda method, options, allow_programs: engine)
    return engine


def run(tmp_path, out="out", **values):
    return cosegment_folder(tmp_path / "in", tmp_path / out, workers=1, progress=False, **values)


def status(tmp_path, out="out"):
    with (tmp_path / out / "scores.csv").open(newline="") as file:
        return {row["stem"]: row["status"] for row in csv.DictReader(file)}


def files_of(out):
    return {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def noisy_pictures(count):
    """Grey noise with a coloured block somewhere near the middle."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        image = rng.integers(80, 140, (48, 64, 3), dtype=np.uint8)
        top, left = rng.integers(4, 16), rng.integers(4, 24)
        image[top : top + 26, left : left + 30] = (200, 60, 40)
        yield image


def test_a_group_has_the_same_masks_on_one_process_on_two_and_on_a_cluster():
    pytest.importorskip("distributed")
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    images = list(noisy_pictures(18))
    engine = CommonEngine(long_side=64, refine_long_side=48)

    one = list(engine.segment_group(images, workers=1))
    two = list(engine.segment_group(images, workers=2))
    with workers_on("dask", count=2):
        cluster = list(engine.segment_group(images))

    for other in (two, cluster):
        assert [position for position, _ in other] == list(range(18))
        for (_, ours), (_, theirs) in zip(one, other, strict=True):
            assert np.array_equal(ours.mask, theirs.mask) and ours.confidence == theirs.confidence


def test_a_group_with_every_kind_of_bad_image_is_done_and_each_is_reported(tmp_path):
    group = tmp_path / "in" / "cow"
    for name in "abc":
        draw(group / f"{name}.png", size=(64, 48))
    draw(group / "black.png", left=0)
    draw(group / "small.png", size=(16, 16))
    draw(group / "tiny.png", size=(15, 15))
    (group / "empty.jpg").write_bytes(b"")
    (group / "text.jpg").write_bytes(b"no picture")
    whole = draw(group / "half.bmp").read_bytes()
    (group / "half.bmp").write_bytes(whole[: len(whole) // 2])
    draw(tmp_path / "in" / "alone" / "only.png")

    summary = run(tmp_path, options={"long_side": 64, "memory_mb": 0})

    told = status(tmp_path)
    assert {stem for stem, word in told.items() if word == "ok"} == {"a", "b", "c", "black", "small", "only"}
    assert told | {"a": "ok"} == told | {
        "tiny": "too_small",
        "empty": "unreadable",
        "text": "unreadable",
        "half": "truncated",
        "a": "ok",
    }
    assert summary.made == 6 and sum(summary.dropped.values()) == 4
    assert {path.stem for path in (tmp_path / "out" / "cow").iterdir()} == {"a", "b", "c", "black", "small"}


def test_masks_that_fill_or_miss_the_image_are_masks_and_are_not_kept(tmp_path, monkeypatch):
    use(monkeypatch, BrightEngine())
    for name, left in (("full", 1.0), ("none", 0.0), ("half", 0.5)):
        draw(tmp_path / "in" / "cow" / f"{name}.png", left)

    summary = run(tmp_path)

    assert status(tmp_path) == {"full": "ok", "none": "ok", "half": "ok"}
    assert summary.kept == {"cow": 1}


@pytest.mark.parametrize("what", ["vanishes", "breaks", "changes"])
def test_an_image_that_is_lost_in_the_middle_costs_itself_alone(tmp_path, monkeypatch, what):
    paths = [draw(tmp_path / "in" / "cow" / f"{name}.png") for name in "abcd"]

    def lose(position):
        if position == 2 and what == "vanishes":
            paths[2].unlink()
        elif position == 2 and what == "breaks":
            paths[2].write_bytes(paths[2].read_bytes()[:60])
        elif position == 2:
            ImageFiles.__getitem__(seen[0], 2)
            draw(paths[2], size=(24, 40))

    seen = []
    first = ImageFiles.__init__
    monkeypatch.setattr(ImageFiles, "__init__", lambda self, *values: (first(self, *values), seen.append(self))[0])
    engine = use(monkeypatch, BrightEngine(lose))

    summary = run(tmp_path)

    reason = {"vanishes": "missing", "breaks": "unreadable", "changes": "changed"}[what]
    if what == "breaks":
        assert summary.dropped.keys() <= {"unreadable", "truncated"}
    else:
        assert summary.dropped == {reason: 1}
    assert summary.made == 3 and "1 images have no mask" in str(summary)
    assert {path.stem for path in (tmp_path / "out" / "cow").iterdir()} == {"a", "b", "d"}

    # A grey image stood for it: the next run makes the masks of the group as it is now.
    engine.on_the_way = lambda position: None
    again = run(tmp_path)
    assert engine.asked[1] == ((4, [0, 1, 2, 3]) if what == "changes" else (3, [0, 1, 2]))
    assert again.made == len(engine.asked[1][1])
    assert run(tmp_path).made == 0


def test_a_lost_image_is_grey_to_the_engine_and_keeps_the_size_that_it_had(tmp_path):
    images = ImageFiles([draw(tmp_path / "a.png"), draw(tmp_path / "b.png")])
    assert images[0].shape == (24, 40, 3)
    (tmp_path / "a.png").unlink()
    (tmp_path / "b.png").unlink()
    assert images[0].shape == (24, 40, 3) and set(images[0].ravel()) == {128}
    assert images[-1].shape == (64, 64, 3)
    assert {position: error.reason for position, error in images.unreadable.items()} == {0: "missing", 1: "missing"}
    with pytest.raises(IndexError):
        images[2]


def test_an_image_for_which_the_engine_gives_no_mask_is_reported_and_tried_again(tmp_path, monkeypatch):
    engine = use(monkeypatch, BrightEngine(skipped=[1]))
    for name in "abc":
        draw(tmp_path / "in" / "cow" / f"{name}.png")

    assert run(tmp_path).dropped == {"no_mask": 1}
    engine.skipped = []
    assert run(tmp_path).dropped == {} and engine.asked[1] == (3, [1])


def test_a_disk_that_fills_in_the_middle_is_reported_and_the_next_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "SAVE_EVERY", 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(position):
        if position == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))

    engine = use(monkeypatch, BrightEngine(fill))
    for name in "abcde":
        draw(tmp_path / "in" / "cow" / f"{name}.png")
    try:
        with pytest.raises(CosegmentationError, match=r"cow: no room left \(File too large\).*TMPDIR.*again"):
            run(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.stem for path in (tmp_path / "out" / "cow").iterdir()} == {"a", "b", "c"}

    engine.on_the_way = lambda position: None
    assert run(tmp_path).made == 2
    assert engine.asked == [(5, [0, 1, 2, 3, 4]), (5, [3, 4])]


def test_no_room_for_descriptors_that_wait_for_their_group_is_reported(tmp_path):
    draw(tmp_path / "in" / "cow" / "a.png")
    with full_disk(), pytest.raises(CosegmentationError, match="cow: no room left"):
        run(tmp_path, options={"long_side": 64, "memory_mb": 0})


def killed_once(item):
    number, first = item
    if number == 9 and not first.exists():
        first.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number, Segmented(np.ones((24, 40), bool), 0.5)


def test_a_worker_that_is_killed_in_the_middle_of_a_group_loses_no_mask(tmp_path, monkeypatch):
    class Fragile(BrightEngine):
        def segment_group(self, images, wanted=None, workers=None):
            yield from map_images(killed_once, ((position, tmp_path / "first") for position in wanted), workers=2)

    use(monkeypatch, Fragile())
    for number in range(20):
        draw(tmp_path / "in" / "cow" / f"{number:02}.png")

    assert run(tmp_path).made == 20
    assert (tmp_path / "first").exists() and len(list((tmp_path / "out" / "cow").iterdir())) == 20


SLOW_RUN = """
import sys, time
sys.path[:0] = [sys.argv[3]]
from pathlib import Path
from test_cosegment_scale import BrightEngine
from wss_data.cosegmentation import folder
folder.SAVE_EVERY = 3
folder.make_engine = lambda method, options, allow_programs: BrightEngine(lambda position: time.sleep(0.1))
folder.cosegment_folder(sys.argv[1], sys.argv[2], workers=1, progress=False)
"""


def test_a_run_killed_in_the_middle_of_a_group_goes_on_and_ends_in_the_same_files(tmp_path, monkeypatch):
    engine = use(monkeypatch, BrightEngine())
    for number in range(40):
        draw(tmp_path / "in" / "cow" / f"{number:02}.png", left=number / 40)
    run(tmp_path, "whole")
    out = tmp_path / "out"
    arguments = [sys.executable, "-c", SLOW_RUN, str(tmp_path / "in"), str(out), str(Path(__file__).parent)]
    process = subprocess.Popen(arguments)
    end = time.monotonic() + 60
    while len(list(out.glob("cow/[!.]*.png"))) < 7 and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = len(list(out.glob("cow/[!.]*.png")))
    assert 7 <= there < 40

    summary = run(tmp_path)

    assert summary.unchanged >= 6 and summary.made + summary.unchanged == 40
    assert engine.asked[1] == (40, list(range(summary.unchanged, 40)))
    assert files_of(out) == files_of(tmp_path / "whole")


def test_an_image_of_a_dataset_that_is_lost_is_tagged_and_comes_back_when_it_is_mended(database):
    dataset = make_web("scale-lost")
    spec = store.definition(dataset)
    cats = store.group_members(dataset, "cat")
    lost = Path(cats[1].path)
    data = lost.read_bytes()
    engine = BrightEngine(lambda position: lost.unlink(missing_ok=True) if position == 1 else None)

    def cosegment():
        return pipeline.cosegment(dataset, spec, engine, workers=1, progress=False)

    assert cosegment() == 3  # two cats and the cow
    store.apply_filter(dataset)
    assert dataset.match_tags(UNREADABLE).values("filepath") == [str(lost)]
    assert str(lost) not in dataset.match_tags("kept").values("filepath")
    assert cosegment() == 2 and engine.asked[-1] == (2, [0, 1])  # the two cats, as a group of two
    assert cosegment() == 0

    lost.write_bytes(data)
    engine.on_the_way = lambda position: None
    assert cosegment() == 3 and engine.asked[-1] == (3, [0, 1, 2])
    assert dataset.match_tags(UNREADABLE).count() == 0


def test_a_full_disk_leaves_in_the_dataset_what_was_made(database):
    dataset = make_web("scale-full")
    spec = store.definition(dataset)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(position):
        if position == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))

    engine = BrightEngine(fill)
    results = engine.segment_group

    def with_room_for_the_database(*values, **options):
        try:
            yield from results(*values, **options)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    engine.segment_group = with_room_for_the_database
    with pytest.raises(CosegmentationError, match="cat: no room left"):
        pipeline.cosegment(dataset, spec, engine, workers=1, progress=False)
    engine.on_the_way = lambda position: None
    assert pipeline.cosegment(dataset, spec, engine, workers=1, progress=False) == 2
    assert engine.asked[1] == (3, [2])


def test_a_stored_dataset_is_cosegmented_again_with_other_settings_and_filtered_again(database, monkeypatch):
    dataset = make_web("scale-again")
    engine = BrightEngine(setting=2)
    asked = []
    monkeypatch.setattr(
        pipeline.class_groups,
        "make_engine",
        lambda method, options, allow_programs: asked.append((method, options)) or engine,
    )

    assert pipeline.cosegment_again(dataset, options={"long_side": 640}, classes=["cow"], progress=False) == 1
    assert asked == [("common", {"long_side": 640})]
    assert dataset.match_tags("kept").count() == 1  # the bright fraction of the cow is none
    assert len(store.mask_ledger(dataset, "cosegmentation").entries) == 1  # of the cats' masks
    assert pipeline.cosegment_again(dataset, "outside", {"command": "x"}, progress=False) == 3
    assert asked[1] == ("outside", {"command": "x"})
    mask = read_mask(dataset.match({"label.label": "cat"}).first().cosegmentation.mask_path)
    assert mask.shape == foreground(0.5).shape and not mask.any()
    with pytest.raises(SpecError, match=r"no class 'dog'\. Its classes: cat, cow"):
        pipeline.cosegment_again(dataset, classes=["dog"])


def test_only_a_dataset_of_web_images_that_nobody_builds_is_cosegmented_again(database):
    from wss_data.runtime.files import only_one

    dataset = make_web("scale-locked")
    with only_one(dataset_folder("scale-locked") / "lock"), pytest.raises(StoreError, match="another process"):
        pipeline.cosegment_again(dataset, progress=False)


def test_options_on_the_command_line_have_the_types_of_a_definition():
    given = ["a=512", "b=0.3", "c=true", "d=word", "e=", 'f="coseg one" {images}', "g=x=y"]
    arguments = [part for text in given for part in ("--option", text)]
    options = make_parser().parse_args(["cosegment-folder", "in", "--out", "out", *arguments]).options
    values = {"a": 512, "b": 0.3, "c": True, "d": "word", "e": None, "f": '"coseg one" {images}', "g": "x=y"}
    assert dict(options) == values


def test_an_option_without_a_name_or_a_value_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["cosegment", "zoo", "--option", "long_side"])
    assert "'long_side' is no NAME=VALUE" in capsys.readouterr().err


def test_the_command_cosegments_a_dataset_again_and_an_unknown_option_changes_nothing(database, capsys, monkeypatch):
    make_web("scale-command")
    assert main(["cosegment", "scale-command", "--option", "magic=1"]) == 2
    assert "there is no option 'magic'" in capsys.readouterr().err
    monkeypatch.setattr(
        "wss_data.pipeline.class_groups.make_engine", lambda method, options, allow_programs: BrightEngine(setting=3)
    )
    assert main(["cosegment", "scale-command", "--class", "cat", "--workers", "1"]) == 0
    assert "3 masks made." in capsys.readouterr().out
    assert main(["cosegment", "scale-command", "--class", "cat", "--workers", "1"]) == 0
    assert "0 masks made: there was none that would change" in capsys.readouterr().out


def test_the_command_to_cosegment_a_folder_passes_method_and_options_on(tmp_path, capsys):
    draw(tmp_path / "in" / "cow" / "a.png")
    folders = [str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert main(["cosegment-folder", *folders, "--option", "long_side=64"]) == 0
    assert main(["cosegment-folder", *folders, "--option", "long_side=6"]) == 2
    assert "long_side is 6" in capsys.readouterr().err
    assert main(["cosegment-folder", *folders, "--method", "magic"]) == 2
    assert main(["cosegment-folder", *folders, "--address", "localhost:8786"]) == 2
    assert "take the executor dask" in capsys.readouterr().err


def test_a_bar_shows_how_much_of_the_group_was_looked_at_each_image_once(tmp_path, capsys):
    images = ImageFiles([draw(tmp_path / "a.png"), draw(tmp_path / "b.png")], description="look at cow")
    for position in (0, 0, 1, 0):
        _ = images[position]

    shown = capsys.readouterr().err
    assert "look at cow" in shown and "0/2" in shown and "3/2" not in shown

    _ = ImageFiles([tmp_path / "a.png"])[0]
    assert capsys.readouterr().err == ""
