import csv
import hashlib
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from wss_data.errors import SourceError, SpecError
from wss_data.imaging.images import decode_image
from wss_data.imaging.masks import read_mask
from wss_data.retrieval.sources import make_source
from wss_data.retrieval.sources.base import Forgetful
from wss_data.retrieval.sources.drawing.canvas import Canvas, Part, Pattern, fill, limb
from wss_data.retrieval.sources.drawing.scene import (
    DRAWN_CLASSES,
    Drawing,
    draw_target_image,
    draw_web_image,
    is_wrong_image,
)
from wss_data.retrieval.sources.drawing.textures import TEXTURES
from wss_data.retrieval.sources.drawn import DrawnSource, target_mask, write_drawn_target
from wss_data.spec import ClassSpec, read_spec
from wss_data.target.voc import DrawnOptions

IMAGES = 24
BIRD = ClassSpec(1, "bird", ("bird",))


@pytest.fixture(scope="module")
def pictures() -> dict[str, list[Drawing]]:
    return {name: [draw_web_image(name, 0, i, 0.1) for i in range(IMAGES)] for name in DRAWN_CLASSES}


def right_ones(drawings: list[Drawing]) -> list[Drawing]:
    return [d for d in drawings if not d.is_wrong]


def test_an_image_is_the_same_in_another_process_and_in_another_order():
    wanted = [("car", 3), ("bird", 0), ("car", 1)]
    script = (
        "import sys, hashlib\n"
        "from wss_data.retrieval.sources.base import Forgetful\n"
        "from wss_data.retrieval.sources.drawn import DrawnSource\n"
        "from wss_data.spec import ClassSpec\n"
        "for name, index in [('car', 1), ('bird', 0), ('car', 3)]:\n"
        "    hit = list(DrawnSource(7).search(ClassSpec(1, name, (name,)), index + 1, Forgetful()))[index]\n"
        "    print(hashlib.sha256(hit.read()).hexdigest())\n"
    )
    root = Path(__file__).resolve().parents[1]
    there = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)

    here = []
    for name, index in wanted:
        hits = list(DrawnSource(7).search(ClassSpec(1, name, (name,)), index + 1, Forgetful()))
        here.append(hashlib.sha256(hits[index].read()).hexdigest())

    assert here == there.stdout.split()[::-1]


def test_seed_class_and_index_each_make_another_image():
    drawn = [draw_web_image(*what, 0.0).image for what in (("car", 0, 0), ("car", 0, 1), ("car", 1, 0), ("fish", 0, 0))]

    assert len({image.tobytes() for image in drawn}) == 4


@pytest.mark.parametrize("name", DRAWN_CLASSES)
def test_the_mask_is_where_the_image_changes_when_the_object_is_left_out(name):
    shares_inside, shares_outside = [], []
    for index in range(4):
        with_object = draw_web_image(name, 5, index, 0.0)
        without = draw_web_image(name, 5, index, 0.0, with_object=False)
        difference = with_object.image.astype(int) - without.image
        inside = with_object.mask > 0
        outside = cv2.dilate(with_object.mask, np.ones((15, 15), np.uint8)) == 0
        assert not without.mask.any()
        shares_inside.append((np.abs(difference).max(2) > 8)[inside].mean())
        # Shadows only darken; a branch may be brighter.
        shares_outside.append((difference.max(2) > 2)[outside].mean())

    assert np.mean(shares_inside) > 0.85
    assert np.mean(shares_outside) < 0.05


def test_masks_hold_the_index_of_the_class_in_the_drawn_order(pictures):
    for index, name in enumerate(DRAWN_CLASSES, start=1):
        for drawing in right_ones(pictures[name]):
            assert drawing.image.shape[:2] == drawing.mask.shape and drawing.image.dtype == np.uint8
            assert set(np.unique(drawing.mask)) <= {0, index}
            assert drawing.shown == (name,)


def test_every_class_comes_in_many_poses_shapes_and_sizes(pictures):
    for name in DRAWN_CLASSES:
        drawings = right_ones(pictures[name])
        poses = {d.description.split("(")[1].split(")")[0] for d in drawings}
        boxes = [cv2.boundingRect((d.mask > 0).astype(np.uint8)) for d in drawings]
        aspects = [w / h for _, _, w, h in boxes]

        assert len(poses) >= 4, name
        assert np.percentile(aspects, 90) / np.percentile(aspects, 10) > 1.25, name


def test_most_objects_fill_a_usual_share_and_some_are_too_small_or_too_large(pictures):
    shares = np.array([(d.mask > 0).mean() for drawings in pictures.values() for d in right_ones(drawings)])

    assert 0.7 < ((shares > 0.15) & (shares < 0.6)).mean() < 0.97
    assert (shares < 0.15).any() and (shares > 0.6).any()


def test_long_sides_lie_between_360_and_520_pixels_in_upright_and_wide_frames(pictures):
    sizes = np.array([d.mask.shape for drawings in pictures.values() for d in drawings])

    assert sizes.max(1).min() >= 360 and sizes.max(1).max() <= 520
    assert (sizes[:, 0] > sizes[:, 1]).any() and (sizes[:, 0] < sizes[:, 1]).any()


def test_backgrounds_do_not_give_the_class_away(pictures):
    borders, seen = [], []
    for drawings in pictures.values():
        rows = [np.concatenate([d.image[:8][d.mask[:8] == 0], d.image[-8:][d.mask[-8:] == 0]]) for d in drawings]
        borders.append(np.mean([row.mean(0) for row in rows if len(row)], 0))
        words = {word for d in drawings for word in d.description.split(")")[-1].split()}
        seen.append(words & set(TEXTURES))

    # Every class is seen on most of the textures, and no class has a colour of surroundings of its own.
    assert all(len(words) >= 8 for words in seen)
    assert np.ptp(borders, axis=0).max() < 45


@pytest.mark.parametrize("share", [0.0, 0.1, 0.35, 1.0])
def test_the_fraction_of_wrong_images_is_as_asked(share):
    for name in DRAWN_CLASSES:
        for count in (40, 200):
            wrong = sum(is_wrong_image(name, 3, index, share) for index in range(count))
            assert abs(wrong - share * count) <= 2


def test_a_wrong_image_never_shows_the_class_and_wrong_images_are_of_several_kinds():
    drawings = [draw_web_image("fish", 0, index, 1.0) for index in range(16)]

    assert all(d.is_wrong and "fish" not in d.shown for d in drawings)
    assert any(d.shown for d in drawings) and any(d.description == "clip art" for d in drawings)
    assert all((d.mask > 0).any() == bool(d.shown) for d in drawings)


def test_a_right_image_does_not_change_with_the_fraction_of_wrong_ones():
    index = next(i for i in range(20) if not is_wrong_image("car", 0, i, 0.5))

    assert np.array_equal(draw_web_image("car", 0, index, 0.0).image, draw_web_image("car", 0, index, 0.5).image)


def test_target_scenes_show_one_to_three_classes_and_only_those_allowed():
    drawings = [draw_target_image(0, index, ("fish", "mushroom")) for index in range(6)]
    counts = {len(draw_target_image(1, index).shown) for index in range(10)}

    assert {name for d in drawings for name in d.shown} == {"fish", "mushroom"}
    assert counts >= {1, 2} and counts <= {1, 2, 3}


def test_the_source_says_where_an_image_comes_from_and_knows_its_mask():
    hits = list(make_source("drawn", {"seed": 2, "wrong_share": 0.0}).search(BIRD, 3, Forgetful()))
    provenance = hits[2].provenance
    image = decode_image(hits[2].read(), "drawn")
    mask = DrawnSource.known_mask(provenance.source_id)

    assert [hit.provenance.source_id for hit in hits] == ["bird/2/00000", "bird/2/00001", "bird/2/00002"]
    assert (provenance.source, provenance.license, provenance.author) == ("drawn", "CC0-1.0", "wss drawn source")
    assert image.shape[:2] == mask.shape and set(np.unique(mask)) == {0, 1}


def test_a_wrong_image_has_an_identity_of_its_own_so_that_an_identity_names_one_image_for_ever():
    honest, noisy = (
        [hit.provenance.source_id for hit in DrawnSource(0, share).search(BIRD, 40, Forgetful())]
        for share in (0.0, 0.5)
    )

    changed = [b for a, b in zip(honest, noisy, strict=True) if a != b]
    assert 18 <= len(changed) <= 22 and all(identity.endswith("-wrong") for identity in changed)
    assert not (DrawnSource.known_mask(changed[0]) == 1).any()


def test_a_class_is_found_by_its_queries_as_well():
    hit = next(DrawnSource().search(ClassSpec(3, "automobile", ("Car", "limousine")), 1, Forgetful()))

    assert hit.class_name == "automobile"
    assert hit.provenance.source_id.startswith("car/") and hit.provenance.query == "Car"


def test_an_unknown_class_is_refused_with_the_classes_that_can_be_drawn():
    with pytest.raises(SourceError, match=r"cannot draw class 'cow'.*bird, car, fish, mushroom"):
        next(DrawnSource().search(ClassSpec(1, "cow", ("cow", "cattle")), 1, Forgetful()))


@pytest.mark.parametrize("options", [{"seed": -1}, {"seed": "a"}, {"wrong_share": 1.5}, {"wrong_share": "x"}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(SourceError, match=next(iter(options))):
        make_source("drawn", options)


@pytest.mark.parametrize("identity", ["bird", "cow/0/00001", "bird/0/x", "bird/0/00001-odd", "bird/0/1/2"])
def test_an_identity_that_names_no_drawn_image_is_refused(identity):
    with pytest.raises(SourceError, match="no drawn image"):
        DrawnSource.known_mask(identity)


def test_the_definition_that_comes_with_the_package_can_be_drawn():
    spec = read_spec("drawn")
    source = make_source(spec.sources[0].name, spec.sources[0].options)

    assert spec.target is not None and spec.target.layout == "drawn"
    assert all(next(source.search(one, 1, Forgetful())).class_name == one.name for one in spec.classes)


def test_the_void_border_lies_on_both_sides_of_an_outline():
    car, fish = DRAWN_CLASSES.index("car") + 1, DRAWN_CLASSES.index("fish") + 1
    row = np.array([[0, 0, 0, 0, fish, fish, fish, fish, car, car, car, car]] * 9, np.uint8)

    target = target_mask(row, ("fish", "car"), border=1)

    assert target[4].tolist() == [0, 0, 0, 255, 255, 1, 1, 255, 255, 2, 2, 2]


def test_a_written_target_has_the_layout_of_voc(tmp_path):
    classes = ("mushroom", "car", "bird", "fish")
    write_drawn_target(tmp_path, classes, train=3, val=4, seed=1)

    lists = tmp_path / "ImageSets" / "Segmentation"
    train, val = ((lists / f"{split}.txt").read_text().split() for split in ("train", "val"))
    with (tmp_path / "image_labels.csv").open(newline="") as file:
        labels = {row["image"]: row["classes"].split() for row in csv.DictReader(file)}
    assert (len(train), len(val)) == (3, 4) and not set(train) & set(val)
    assert sorted(labels) == sorted(train + val) and all(labels.values())
    assert sorted(p.stem for p in (tmp_path / "JPEGImages").glob("*.jpg")) == sorted(labels)
    assert sorted(p.stem for p in (tmp_path / "SegmentationClass").glob("*.png")) == sorted(val)
    for stem in val:
        mask = read_mask(tmp_path / "SegmentationClass" / f"{stem}.png")
        image = decode_image((tmp_path / "JPEGImages" / f"{stem}.jpg").read_bytes(), stem)
        assert mask.shape == image.shape[:2]
        assert {classes[i - 1] for i in np.unique(mask) if 0 < i < 255} <= set(labels[stem])
        # Wherever an object meets the background there is void between them.
        decided = np.where(mask == 255, 0, mask)
        touching = (cv2.dilate(decided, np.ones((3, 3), np.uint8)) > 0) & (mask == 0)
        assert (mask == 255).any() and not touching.any()


def test_writing_a_target_again_changes_nothing(tmp_path):
    write_drawn_target(tmp_path, ("car", "fish"), train=2, val=1, seed=1)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}

    write_drawn_target(tmp_path, ("car", "fish"), train=2, val=1, seed=1)

    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_target_whose_writing_was_killed_ends_as_the_same_files(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        write_drawn_target(folder, ("car", "fish"), train=2, val=2, seed=1)
    for path in (killed / "drawn.json", next((killed / "SegmentationClass").iterdir()), killed / "image_labels.csv"):
        path.unlink()

    write_drawn_target(killed, ("car", "fish"), train=2, val=2, seed=1)

    files = {p.relative_to(whole): p.read_bytes() for p in whole.rglob("*") if p.is_file()}
    assert {p.relative_to(killed): p.read_bytes() for p in killed.rglob("*") if p.is_file()} == files


def test_a_target_for_classes_in_another_order_is_drawn_anew(tmp_path):
    write_drawn_target(tmp_path, ("car", "fish"), train=0, val=2, seed=1)
    first = [read_mask(p) for p in sorted((tmp_path / "SegmentationClass").iterdir())]

    write_drawn_target(tmp_path, ("fish", "car"), train=0, val=2, seed=1)

    second = [read_mask(p) for p in sorted((tmp_path / "SegmentationClass").iterdir())]
    assert not all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("classes", "complaint"),
    [
        (("cow",), "'cow'.*of bird, car"),
        ((), "at least one"),
        (("car", "car"), "each once"),
    ],
)
def test_a_target_that_cannot_be_drawn_is_refused_before_anything_is_written(tmp_path, classes, complaint):
    with pytest.raises(SourceError, match=complaint):
        write_drawn_target(tmp_path / "target", classes, train=1, val=1, seed=0)

    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("number", ["train", "val", "seed"])
def test_no_number_of_a_drawn_target_is_below_0(number):
    with pytest.raises(SpecError, match=f"{number} is -1"):
        DrawnOptions(**{number: -1})


def test_a_filled_outline_covers_all_inside_it_and_smooths_the_pixel_beyond():
    square = np.array([[2.0, 1.0], [4.0, 1.0], [4.0, 3.0], [2.0, 3.0]])

    covered = fill([square], 8, 8)

    assert (covered[1:3, 2:4] == 255).all()
    assert not covered[:, 6:].any() and not covered[5:].any() and 0 < covered[3, 2] < 255


def flat(outline: np.ndarray, is_object: bool = True) -> Part:
    return Part(outline, np.ones(3), np.ones(3), roundness=0, is_object=is_object)


def test_an_outline_outside_the_image_changes_nothing():
    canvas = Canvas(np.zeros((8, 8, 3), np.float32), np.array([0.0, 0.0, 1.0]))

    canvas.draw([flat(np.array([[20.0, 20.0], [30.0, 20.0], [25.0, 30.0]]))], np.eye(2, 3))

    assert not canvas.image.any() and not canvas.alpha.any()


def test_what_lies_before_the_object_takes_its_pixels_from_the_mask():
    canvas = Canvas(np.zeros((10, 10, 3), np.float32), np.array([0.0, 0.0, 1.0]))
    square = np.array([[0.0, 0.0], [10.0, 0.0], [10.0, 10.0], [0.0, 10.0]])

    canvas.draw([flat(square), flat(square * 0.5, is_object=False)], np.eye(2, 3))

    assert canvas.alpha[2, 2] == 0 and canvas.alpha[7, 7] == 1


def test_a_round_shape_is_brighter_on_the_side_of_the_light():
    canvas = Canvas(np.zeros((40, 40, 3), np.float32), np.array([-0.6, 0.0, 0.8]))
    grey = np.full(3, 0.5)

    canvas.draw([Part(limb([(5, 20), (35, 20)], [30, 30], 0.5), grey, grey, roundness=1, gloss=0)], np.eye(2, 3))

    row = canvas.image[20, :, 0]
    assert row[9] > row[20] > row[31] > 0


def test_a_pattern_shows_its_colour_where_it_should_and_only_there():
    canvas = Canvas(np.zeros((4, 40, 3), np.float32), np.array([0.0, 0.0, 1.0]))
    square = np.array([[-1.0, -1.0], [41.0, -1.0], [41.0, 5.0], [-1.0, 5.0]])
    stripes = Pattern("stripes", np.zeros(3), size=20)

    canvas.draw([Part(square, np.ones(3), np.ones(3), stripes, roundness=0)], np.eye(2, 3))

    assert np.flatnonzero(canvas.image[1, :, 0] < 0.5).tolist() == [*range(0, 4), *range(16, 24), *range(36, 40)]


def test_a_limb_runs_through_its_points_and_is_as_wide_as_asked():
    outline = limb([(0.0, 0.0), (1.0, 0.0), (2.0, 0.0)], [2.0, 3.0, 4.0], ends=0, steps=3)

    assert outline == pytest.approx(np.array([(0, 1), (1, 1.5), (2, 2), (2, -2), (1, -1.5), (0, -1)]))
