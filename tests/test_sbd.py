"""SBD beside VOC: the list that is made of the two, and the classes in its .mat files."""

import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from voc_trees import (
    COW,
    PERSON,
    SBD_TRAIN,
    SBD_VAL,
    TRAIN_AUG,
    VOC_TRAIN,
    VOC_VAL,
    H,
    W,
    trees,
    write_annotation,
    write_images,
    write_mat,
    write_names,
)

from wss_data.errors import SourceError
from wss_data.imaging.masks import write_mask
from wss_data.reading.lists import read_list
from wss_data.spec import DatasetSpec, read_spec, spec_from_dict
from wss_data.target.report import target_report
from wss_data.target.sbd import USUAL_SIZES, VOC_CLASSES, categories_present, find_sbd, train_aug
from wss_data.target.translation import check_targets, source_fingerprint, without_copies
from wss_data.target.voc import read_voc_layout


def opened_by(work: Callable[[], object]) -> list[str]:
    """Every path that a call opens, by whatever means Python has.

    In a process of its own: Python has no way to take an audit hook away, and each slows all that comes after it.
    """

    def listen() -> None:
        opened: list[str] = []
        sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
        work()
        sender.send(list(opened))

    forked = multiprocessing.get_context("fork")
    receiver, sender = forked.Pipe(duplex=False)
    process = forked.Process(target=listen)
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        pytest.fail("the call failed; what it raised is printed above")
    finally:
        process.join()


def definition(**expect: int) -> DatasetSpec:
    target = {"layout": "voc", "mask_classes": "pascal_voc", "options": {"expect": expect}}
    return spec_from_dict({"name": "sbd", "classes": ["cow", "person"], "sources": ["folder"], "target": target})


def report_of(voc: Path, sbd: Path | None, tmp_path: Path, **expect: int):
    layout = read_voc_layout(voc, definition(**expect), sbd=sbd)
    images = without_copies(check_targets(layout.records, definition(), tmp_path / "masks"))
    return target_report(layout, images, definition(**expect))


# ------------------------------------------------------------- the list


def test_train_aug_is_vocs_train_and_all_of_sbd_without_vocs_val():
    made = train_aug(VOC_TRAIN, VOC_VAL, {"SBD train": SBD_TRAIN, "SBD val": SBD_VAL})
    literal = sorted((set(VOC_TRAIN) | set(SBD_TRAIN) | set(SBD_VAL)) - set(VOC_VAL))
    assert sorted(made.ids) == literal == sorted(TRAIN_AUG)
    assert list(made.ids) == TRAIN_AUG, "VOC's first, each once"
    assert made.parts == {"VOC train": 2, "SBD train": 3, "SBD val": 5}
    assert (made.in_both, made.left_out) == (2, 2)


def test_lists_of_the_published_sizes_give_10582():
    train, val = [f"t{i}" for i in range(1_464)], [f"v{i}" for i in range(1_449)]
    shared = train[:1_133] + val[:1_104]
    sbd = [f"s{i}" for i in range(11_355 - len(shared))] + shared
    lists = {"SBD train": sbd[:8_498], "SBD val": sbd[8_498:]}
    sizes = {"VOC train": len(train), "VOC val": len(val), **{name: len(ids) for name, ids in lists.items()}}
    assert sizes == {name: USUAL_SIZES[name] for name in sizes}
    made = train_aug(train, val, lists)
    assert len(made.ids) == 10_582 == read_spec("pascal_voc").target.options["expect"]["train"]
    assert not set(made.ids) & set(val)


@pytest.mark.parametrize(
    "line", ["{}\n", "{}\r\n", "/JPEGImages/{0}.jpg /SegmentationClassAug/{0}.png\n", "img\\{}.jpg\r\n", "{}.JPG\n\n"]
)
def test_a_list_is_read_in_each_of_its_usual_forms(tmp_path, line):
    write_names(tmp_path / "list.txt", ["2007_000032", "2008_000001", "2007_000032"], line)
    assert read_list(tmp_path / "list.txt").names == ("2007_000032", "2008_000001")


def test_a_list_with_a_byte_order_mark_is_read_all_the_same_and_other_letters_are_refused_with_their_line(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeff2007_000032\n", encoding="utf-8")
    assert read_list(tmp_path / "a.txt").names == ("2007_000032",)
    (tmp_path / "b.txt").write_bytes(b"2007_000032\nd\xfcne\n")
    with pytest.raises(SourceError, match=r"b\.txt, line 2: not UTF-8 text.*Windows-1252"):
        read_list(tmp_path / "b.txt")


def test_an_archive_given_in_place_of_its_folder_is_no_list(tmp_path):
    (tmp_path / "benchmark.tgz").write_bytes(bytes(range(256)))
    with pytest.raises(SourceError, match=r"benchmark\.tgz: no text.*must be unpacked"):
        find_sbd(tmp_path / "benchmark.tgz")


def test_names_that_stand_where_people_put_the_folders_are_found(tmp_path):
    voc, sbd = trees(tmp_path)
    for given in (voc, voc / "VOC2012", tmp_path):
        assert read_voc_layout(given, definition(), sbd=sbd).folder == voc / "VOC2012"
    for given in (sbd, sbd / "dataset", tmp_path):
        assert find_sbd(given).lists == {"SBD train": SBD_TRAIN, "SBD val": tuple(dict.fromkeys(SBD_VAL))}
    assert [record.id for record in read_voc_layout(voc, definition(), sbd=sbd).split("train")] == TRAIN_AUG


def test_without_sbds_lists_its_files_say_what_it_has(tmp_path):
    voc, sbd = trees(tmp_path)
    (sbd / "dataset" / "val.txt").unlink()
    (sbd / "dataset" / "cls" / "._s1.mat").touch()  # as archives from a Mac have them
    assert find_sbd(sbd).lists == {"SBD cls": ("s1", "s2", "s3", "t1", "t2", "v1", "v2")}
    assert sorted(r.id for r in read_voc_layout(voc, definition(), sbd=sbd).split("train")) == sorted(TRAIN_AUG)


def test_a_folder_of_masks_or_a_published_list_will_do_in_place_of_sbd(tmp_path):
    voc, _ = trees(tmp_path)
    masks = voc / "VOC2012" / "SegmentationClassAug"
    masks.mkdir()
    for name in (*TRAIN_AUG, *VOC_VAL):
        (masks / f"{name}.png").write_bytes(b"never looked at")
    listed = tmp_path / "published.txt"
    write_names(listed, TRAIN_AUG, "/JPEGImages/{0}.jpg /SegmentationClassAug/{0}.png\r\n")

    def read() -> None:
        for sbd in (masks, voc / "VOC2012", listed):
            layout = read_voc_layout(voc, definition(), sbd=sbd)
            assert sorted(record.id for record in layout.split("train")) == sorted(TRAIN_AUG)

    opened = opened_by(read)
    assert [path for path in opened if path == str(listed)]
    assert not [path for path in opened if "SegmentationClassAug" in path]


def test_a_list_that_somebody_put_beside_vocs_is_used_alone_and_compared_with_what_is_made(tmp_path):
    voc, sbd = trees(tmp_path)
    listed = voc / "VOC2012" / "ImageSets" / "SegmentationAug" / "train_aug.txt"
    write_names(listed, reversed(TRAIN_AUG))
    assert [record.id for record in read_voc_layout(voc, definition()).split("train")] == TRAIN_AUG[::-1]
    layout = read_voc_layout(voc, definition(), sbd=sbd)
    assert (layout.same_list, layout.notes) == (listed, ())
    write_names(listed, ["t1", "t2", "s1", "zz"])
    layout = read_voc_layout(voc, definition(), sbd=sbd)
    assert [record.id for record in layout.split("train")] == TRAIN_AUG
    assert layout.notes == (
        "train_aug.txt on disk names other images (1 only there, such as zz; 2 only in ours, such as s2); "
        "the list made of VOC and SBD is used.",
    )


def test_a_list_with_an_image_of_val_is_an_error_and_the_made_list_the_way_out(tmp_path):
    voc, sbd = trees(tmp_path)
    lists = voc / "VOC2012" / "ImageSets" / "Segmentation"
    write_names(lists / "train_aug.txt", [*TRAIN_AUG, "v2"])
    with pytest.raises(SourceError, match=r"1 images are in both train_aug\.txt and val\.txt, such as v2.*--sbd"):
        read_voc_layout(voc, definition())
    assert "v2" not in [record.id for record in read_voc_layout(voc, definition(), sbd=sbd).split("train")]
    write_names(lists / "train.txt", ["t1", "v1"])
    with pytest.raises(SourceError, match=r"both train\.txt and val\.txt, such as v1"):
        read_voc_layout(voc, definition(), sbd=sbd)


def test_what_is_missing_of_sbd_is_reported_in_one_sentence(tmp_path):
    voc, sbd = trees(tmp_path)
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "benchmark.tgz").touch()
    (tmp_path / "empty" / "cls").mkdir(parents=True)
    for given, wanted in (
        ("nowhere", "there is no such folder of SBD"),
        ("packed", r"no folder cls.*Found: benchmark\.tgz\. Unpack"),
        ("empty", "no list train.txt and val.txt, and no .mat file in cls"),
    ):
        with pytest.raises(SourceError, match=wanted):
            read_voc_layout(voc, definition(), sbd=tmp_path / given)
    (sbd / "dataset" / "val.txt").write_text("\r\n \r\n")
    with pytest.raises(SourceError, match=r"val\.txt: the list is empty"):
        read_voc_layout(voc, definition(), sbd=sbd)
    (voc / "VOC2012").rename(voc / "VOC2007_of_old")
    with pytest.raises(SourceError, match=r"no folder JPEGImages inside, only: VOC2007_of_old\."):
        read_voc_layout(voc, definition())


# ------------------------------------------------------------- the classes present


def test_numbers_of_sbd_mean_vocs_classes_in_vocs_order():
    assert read_spec("pascal_voc").class_names == VOC_CLASSES


@pytest.mark.parametrize("present", [[[15], [10]], [[10, 15]], [[10.0], [15.0], [10.0]], [[0], [10], [15], [255]]])
def test_the_classes_present_are_read_whatever_numbers_they_are(tmp_path, present):
    assert categories_present(write_mat(tmp_path / "a.mat", present)) == (COW, PERSON)


def test_one_class_and_none(tmp_path):
    assert categories_present(write_mat(tmp_path / "a.mat", 20)) == (20,)
    assert categories_present(write_mat(tmp_path / "b.mat", np.zeros((0, 0)))) == ()


def test_the_mask_beside_the_list_has_no_say(tmp_path):
    other = write_mat(tmp_path / "a.mat", [[COW]], mask=3, Segmentation=np.full((H, W), 3, np.uint8))
    assert categories_present(other) == (COW,)
    odd = write_mat(tmp_path / "b.mat", [[COW]], Segmentation="no mask at all", Boundaries=[1.0])
    assert categories_present(odd) == (COW,)


@pytest.mark.parametrize(
    ("present", "wanted"),
    [
        ([[21]], "CategoriesPresent holds 21; VOC's classes, 1 to 20, are wanted"),
        ([[1.5]], "'CategoriesPresent' holds 1.5; VOC's classes, 1 to 20"),
        ("cow", "'CategoriesPresent' is text"),
    ],
)
def test_a_wrong_list_of_classes_is_reported(tmp_path, present, wanted):
    with pytest.raises(SourceError, match=wanted):
        categories_present(write_mat(tmp_path / "a.mat", present))


def test_a_damaged_file_gives_an_error_and_never_wrong_classes(tmp_path):
    path = write_mat(tmp_path / "a.mat", [[COW], [PERSON]])
    whole = path.read_bytes()
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(SourceError, match=str(path)):
            categories_present(path)
    for position in range(128, len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            assert categories_present(path) == (COW, PERSON)
        except SourceError:
            continue
    scipy.io.savemat(path, {"GTinst": {"Categories": [[COW]]}})
    with pytest.raises(SourceError, match=r"CategoriesPresent is not inside"):
        categories_present(path)
    with pytest.raises(SourceError, match=r"there is no such \.mat file"):
        categories_present(tmp_path / "none.mat")


# ------------------------------------------------------------- labels and images


def test_labels_are_vocs_annotations_and_sbds_only_where_these_are_missing(tmp_path):
    voc, sbd = trees(tmp_path)
    (voc / "VOC2012" / "Annotations" / "s2.xml").unlink()
    layout = read_voc_layout(voc, definition(), sbd=sbd)
    labels = {record.id: (record.labels, record.labels_from) for record in layout.records}
    assert labels.pop("s2") == (("cow", "person"), "sbd")
    assert set(labels.values()) == {(("cow",), "annotation")}, "objects marked as difficult are there to be seen"


def test_without_annotations_sbd_labels_all_that_it_has(tmp_path):
    voc, sbd = trees(tmp_path)
    (voc / "VOC2012" / "Annotations").rename(tmp_path / "elsewhere")
    (sbd / "dataset" / "cls" / "t2.mat").unlink()
    layout = read_voc_layout(voc, definition(), sbd=sbd)
    assert {record.id: record.labels_from for record in layout.records if not record.labels} == {"t2": ""}
    with pytest.raises(SourceError, match="no image-level labels"):
        read_voc_layout(voc, definition())


def test_a_damaged_file_of_sbd_costs_its_image_and_is_reported(tmp_path):
    voc, sbd = trees(tmp_path)
    (voc / "VOC2012" / "Annotations" / "s2.xml").unlink()
    (sbd / "dataset" / "cls" / "s2.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(100))
    report = report_of(voc, sbd, tmp_path)
    assert "labels: 6 from Annotations, 1 images without" in report.counts
    assert report.problems[0].startswith("1 files of SBD's cannot be read.")
    assert "s2.mat: the .mat file is damaged" in report.problems[0]
    assert report.problems[1].startswith("1 train images are not used (1 no_labels). s2: no image-level label")


def test_an_image_that_only_sbd_has_is_taken_from_there(tmp_path):
    voc, sbd = trees(tmp_path)
    (sbd / "dataset" / "img").mkdir()
    (voc / "VOC2012" / "JPEGImages" / "s2.jpg").rename(sbd / "dataset" / "img" / "s2.jpg")
    (sbd / "dataset" / "img" / "s1.jpg").write_bytes(b"VOC's own copy is preferred")
    (voc / "VOC2012" / "JPEGImages" / "s3.jpg").unlink()
    layout = read_voc_layout(voc, definition(), sbd=sbd)
    paths = {record.id: record.image_path for record in layout.records}
    assert paths["s2"] == sbd / "dataset" / "img" / "s2.jpg"
    assert paths["s1"] == voc / "VOC2012" / "JPEGImages" / "s1.jpg"
    report = report_of(voc, sbd, tmp_path)
    assert "images: 5 in JPEGImages, 1 in SBD alone, 1 without a file" in report.counts
    assert "1 train images are not used (1 missing)" in report.problems[0]


def test_images_of_test_are_a_split_without_labels_where_their_images_are_there(tmp_path):
    voc, sbd = trees(tmp_path)
    test = voc / "VOC2012" / "ImageSets" / "Segmentation" / "test.txt"
    write_names(test, ["x1", "x2"])
    layout = read_voc_layout(voc, definition(), sbd=sbd)
    assert not layout.split("test")
    assert layout.notes == ()
    write_images(voc / "VOC2012" / "JPEGImages", ["x1", "x2"])
    write_annotation(voc / "VOC2012", "x1", "person")
    layout = read_voc_layout(voc, definition(), sbd=sbd)
    assert [(r.id, r.labels, r.mask_path) for r in layout.split("test")] == [("x1", (), None), ("x2", (), None)]
    assert not [i for i in check_targets(layout.records, definition(), tmp_path / "out") if i.dropped]
    write_names(test, ["x1", "s3"])
    with pytest.raises(SourceError, match=r"both train\.txt and test\.txt, such as s3"):
        read_voc_layout(voc, definition(), sbd=sbd)
    write_names(test, VOC_VAL)
    assert not read_voc_layout(voc, definition(), sbd=sbd).split("test"), "val under another name"


# ------------------------------------------------------------- strict supervision, and how much is opened


def test_no_mask_of_a_training_image_is_opened_and_no_mat_file_where_an_annotation_is(tmp_path):
    voc, sbd = trees(tmp_path)
    for name in TRAIN_AUG:
        for folder in ("SegmentationClassAug", "SegmentationObject"):
            (voc / "VOC2012" / folder).mkdir(exist_ok=True)
            (voc / "VOC2012" / folder / f"{name}.png").write_bytes(b"not for us")

    def read() -> None:
        layout = read_voc_layout(voc, definition(), sbd=sbd)
        images = check_targets(layout.records, definition(), tmp_path / "masks")
        assert not [image for image in images if image.dropped]

    ours = [Path(path) for path in opened_by(read) if path.startswith(str(voc)) or path.startswith(str(sbd))]
    assert {path.name for path in ours if path.parent.name.startswith("Segmentation") and path.suffix == ".png"} == {
        "v1.png",
        "v2.png",
    }
    assert not [path for path in ours if path.suffix == ".mat"]


def test_only_what_is_listed_is_opened_and_each_file_once(tmp_path):
    voc, sbd = trees(tmp_path)
    for number in range(200):  # VOC 2012 has 17,125 images, of which 12,031 are on our lists
        (voc / "VOC2012" / "JPEGImages" / f"other{number}.jpg").touch()
        (voc / "VOC2012" / "Annotations" / f"other{number}.xml").touch()
    opened = opened_by(lambda: source_fingerprint(read_voc_layout(voc, definition(), sbd=sbd), definition()))
    ours = sorted(Path(path).name for path in opened if path.startswith(str(tmp_path)))
    assert ours == sorted(
        [f"{name}.xml" for name in (*TRAIN_AUG, *VOC_VAL)] + 2 * ["train.txt", "val.txt"]  # VOC's and SBD's
    )


# ------------------------------------------------------------- the counts


def test_the_counts_say_what_came_from_where(tmp_path):
    voc, sbd = trees(tmp_path)
    report = report_of(voc, sbd, tmp_path, train=5, val=2)
    assert str(report).splitlines() == [
        "train: 5 images (VOC train 2 + SBD train 3 + SBD val 5, of SBD 2 are in VOC train and 2 of VOC val left out), "
        "as expected",
        "val: 2 images of val.txt, as expected",
        "labels: 7 from Annotations, 0 images without",
        "images: 7 in JPEGImages, 0 in SBD alone, 0 without a file",
        "copies: 0 in train, 0 of train in what is scored on",
    ]
    report.check("sbd-target")


def test_another_number_than_expected_is_reported_with_the_difference_and_why(tmp_path):
    voc, sbd = trees(tmp_path)
    report = report_of(voc, sbd, tmp_path, train=10_582, val=2)
    assert report.problems == (
        "train has 5 images, 10,577 fewer than the 10,582 expected: VOC train has 2, usual are 1,464; "
        "SBD train has 3, usual are 8,498; SBD val has 5, usual are 2,857; VOC val has 2, usual are 1,449.",
    )
    with pytest.raises(SourceError, match="sbd-target: train has 5 images"):
        report.check("sbd-target")
    write_names(voc / "VOC2012" / "ImageSets" / "Segmentation" / "train.txt", [f"t{i}" for i in range(1_464)])
    report = report_of(voc, None, tmp_path, train=10_582)
    assert report.problems[0] == (
        "train has 1,464 images, 9,118 fewer than the 10,582 expected: train.txt is VOC's own list, without the images "
        "of SBD. Add them: --sbd FOLDER."
    )


def test_a_training_image_with_the_bytes_of_one_of_val_teaches_nothing(tmp_path):
    voc, sbd = trees(tmp_path)
    pictures = voc / "VOC2012" / "JPEGImages"
    (pictures / "s1.jpg").write_bytes((pictures / "v2.jpg").read_bytes())
    (pictures / "s2.jpg").write_bytes((pictures / "s3.jpg").read_bytes())
    layout = read_voc_layout(voc, definition(), sbd=sbd)
    images = without_copies(check_targets(layout.records, definition(), tmp_path / "masks"))
    assert {image.record.id: image.dropped for image in images if image.dropped} == {"s1": "leak"}
    assert images[2].detail == "s1: the same file as v2 of val."
    report = target_report(layout, images, definition())
    assert "copies: 1 in train, 1 of train in what is scored on" in report.counts
    assert report.problems == ("1 train images are not used (1 leak). s1: the same file as v2 of val.",)


def test_images_of_classes_that_the_definition_lacks_are_no_problem(tmp_path):
    voc, sbd = trees(tmp_path)
    write_annotation(voc / "VOC2012", "s3", "sofa")
    report = report_of(voc, sbd, tmp_path, train=5)
    assert report.problems == ()


def test_the_fingerprint_changes_with_sbd(tmp_path):
    voc, sbd = trees(tmp_path)
    with_sbd = source_fingerprint(read_voc_layout(voc, definition(), sbd=sbd), definition())
    assert with_sbd == source_fingerprint(read_voc_layout(voc, definition(), sbd=sbd), definition())
    assert with_sbd != source_fingerprint(read_voc_layout(voc, definition()), definition())


def test_masks_of_val_keep_vocs_border_as_void(tmp_path):
    voc, sbd = trees(tmp_path)
    mask = np.zeros((H, W), np.uint8)
    mask[:6], mask[6:12], mask[12:18] = COW, 255, 9  # a chair, which the definition lacks
    write_mask(mask, voc / "VOC2012" / "SegmentationClass" / "v1.png")
    layout = read_voc_layout(voc, definition(), sbd=sbd)
    images = check_targets(layout.split("val"), definition(), tmp_path / "masks")
    assert np.array(Image.open(images[0].mask_path))[::6, 0].tolist() == [1, 255, 255, 0]
