import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawings import TINY, rectangles

from wss_data.errors import CheckpointError, StoreError, TrainingDataError
from wss_data.imaging.masks import read_mask
from wss_data.spec import spec_from_dict
from wss_train.pseudo_masks import make_pseudo_masks
from wss_train.training import train


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return rectangles(tmp_path_factory.mktemp("rectangles"))


@pytest.fixture(scope="module")
def generator(table, tmp_path_factory):
    return train(table, TINY, tmp_path_factory.mktemp("runs") / "generator", "generator", progress=False)


def test_every_image_gets_a_mask_of_its_size_with_its_own_classes_only(generator, table, tmp_path):
    made = make_pseudo_masks(generator, table, tmp_path / "masks", progress=False)
    for path, labels in zip(made.mask_paths, made.labels, strict=True):
        mask = read_mask(path)
        assert mask.shape == (30, 40)
        assert set(np.unique(mask)) <= {0, *(np.flatnonzero(labels) + 1)}


def test_the_ledger_says_what_the_generator_and_the_labels_were(generator, table, tmp_path):
    made = make_pseudo_masks(generator, table, tmp_path / "masks", progress=False)
    assert set(table.ledger.entries) <= set(made.ledger.entries)
    assert made.ledger.strictly_image_level


def test_masks_that_the_same_model_made_are_kept_and_those_of_another_setting_are_not(generator, table, tmp_path):
    first = make_pseudo_masks(generator, table, tmp_path / "masks", scales=(1.0,), progress=False)
    os.unlink(first.mask_paths[2])
    times = {p: os.stat(p).st_mtime_ns for p in first.mask_paths if os.path.exists(p)}
    make_pseudo_masks(generator, table, tmp_path / "masks", scales=(1.0,), progress=False)
    assert os.path.exists(first.mask_paths[2])
    assert {p: os.stat(p).st_mtime_ns for p in times} == times
    make_pseudo_masks(generator, table, tmp_path / "masks", scales=(0.7, 1.0), progress=False)
    assert all(os.stat(p).st_mtime_ns > time for p, time in times.items())


def test_other_labels_give_other_masks_from_the_same_model(generator, table, tmp_path):
    make_pseudo_masks(generator, table, tmp_path / "masks", scales=(1.0,), progress=False)
    swapped = replace(table, labels=table.labels[:, ::-1])
    again = make_pseudo_masks(generator, swapped, tmp_path / "masks", scales=(1.0,), progress=False)
    for path, labels in zip(again.mask_paths, swapped.labels, strict=True):
        assert set(np.unique(read_mask(path))) <= {0, *(np.flatnonzero(labels) + 1)}


def test_the_mask_of_a_replaced_image_alone_is_made_again_wherever_the_images_lie(generator, table, tmp_path):
    shutil.copytree(Path(table.image_paths[0]).parent, tmp_path / "images")
    moved = replace(table, image_paths=tuple(str(tmp_path / "images" / Path(p).name) for p in table.image_paths))
    first = make_pseudo_masks(generator, table, tmp_path / "masks", scales=(1.0,), progress=False)
    times = [os.stat(p).st_mtime_ns for p in first.mask_paths]
    status = os.stat(moved.image_paths[2])
    shutil.copy(moved.image_paths[4], moved.image_paths[2])
    os.utime(moved.image_paths[2], ns=(status.st_atime_ns, status.st_mtime_ns))
    make_pseudo_masks(generator, moved, tmp_path / "masks", scales=(1.0,), progress=False)
    made_again = [os.stat(p).st_mtime_ns > time for p, time in zip(first.mask_paths, times, strict=True)]
    assert made_again == [False, False, True, False, False, False]
    assert np.array_equal(read_mask(first.mask_paths[2]), read_mask(first.mask_paths[4]))


def test_the_mask_of_an_image_whose_labels_were_put_right_alone_is_made_again(generator, table, tmp_path):
    first = make_pseudo_masks(generator, table, tmp_path / "masks", scales=(1.0,), progress=False)
    times = [os.stat(p).st_mtime_ns for p in first.mask_paths]
    labels = table.labels.copy()
    labels[1] = [True, False]
    make_pseudo_masks(generator, replace(table, labels=labels), tmp_path / "masks", scales=(1.0,), progress=False)
    made_again = [os.stat(p).st_mtime_ns > time for p, time in zip(first.mask_paths, times, strict=True)]
    assert made_again == [False, True, False, False, False, False]


def test_a_call_killed_while_it_removes_old_masks_can_be_repeated(generator, table, tmp_path, monkeypatch):
    first = make_pseudo_masks(generator, table, tmp_path / "masks", scales=(1.0,), progress=False)
    times = {p: os.stat(p).st_mtime_ns for p in first.mask_paths}

    class Killed(BaseException):
        pass

    def killed(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.unlink", killed)
        with pytest.raises(Killed):
            make_pseudo_masks(generator, table, tmp_path / "masks", scales=(0.7,), progress=False)
    make_pseudo_masks(generator, table, tmp_path / "masks", scales=(0.7,), progress=False)
    assert all(os.stat(p).st_mtime_ns > time for p, time in times.items())


def test_a_folder_with_other_files_is_not_emptied(generator, table, tmp_path):
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "thesis.txt").write_text("years of work")
    with pytest.raises(TrainingDataError, match="files that were not made here"):
        make_pseudo_masks(generator, table, tmp_path / "masks", progress=False)
    assert (tmp_path / "masks" / "thesis.txt").exists()


def test_an_image_without_a_label_is_refused_by_name(generator, table, tmp_path):
    labels = table.labels.copy()
    labels[3] = False
    with pytest.raises(
        TrainingDataError, match=r"1 of 6 images have no image-level label \(3\); every.*red, green.*add their labels"
    ):
        make_pseudo_masks(generator, replace(table, labels=labels), tmp_path / "masks", progress=False)


def test_a_model_for_other_classes_is_refused_with_both_lists(generator, table, tmp_path):
    other = replace(table, classes=("cow", "cat"))
    with pytest.raises(CheckpointError, match=r"red, green.*cow, cat"):
        make_pseudo_masks(generator, other, tmp_path / "masks", progress=False)


def test_a_table_needs_a_folder(generator, table):
    with pytest.raises(TrainingDataError, match="out=FOLDER"):
        make_pseudo_masks(generator, table, progress=False)


def test_masks_go_into_the_field_of_a_stored_dataset(generator, database, tmp_path):
    from wss_data import import_target, open_dataset

    folder = tmp_path / "target"
    table = rectangles(folder)
    _voc_layout(folder, table)
    spec = spec_from_dict(
        {"name": "rectangles", "classes": ["red", "green"], "sources": ["folder"], "target": {"layout": "voc"}}
    )
    target = import_target(spec, folder)
    made = make_pseudo_masks(generator, target.match_tags("train"), progress=False)
    stored = open_dataset("rectangles-target").match_tags("train")
    assert sorted(stored.values("pseudo_mask.mask_path")) == sorted(made.mask_paths)
    assert stored.count() == 4


def _voc_layout(folder, table):
    (folder / "images").rename(folder / "JPEGImages")
    for path in (folder / "JPEGImages").iterdir():
        path.rename(path.with_suffix(".jpg"))
    (folder / "masks").rename(folder / "SegmentationClass")
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("".join(f"{i}\n" for i in range(4)))
    (lists / "val.txt").write_text("4\n5\n")
    rows = [f"{i},{'red' if i % 2 == 0 else 'green'}\n" for i in range(6)]
    (folder / "image_labels.csv").write_text("image,classes\n" + "".join(rows))


def test_a_web_dataset_gets_masks_of_its_own_classes_also_where_the_filter_dropped_the_masks_in_use(database, tmp_path):
    from builders import make_web

    from wss_data import store

    dataset = make_web("all-groups")
    dataset.match({"sha256": {"$regex": "^2"}}).tag_samples("dropped:near_duplicate")
    generator = train(
        store.example_table(dataset, "cosegmentation"), TINY, tmp_path / "run", "generator", progress=False
    )
    with pytest.raises(StoreError, match="cosegmentation_2"):
        make_pseudo_masks(generator, dataset, progress=False)

    made = make_pseudo_masks(generator, dataset, field="cosegmentation_all_groups", progress=False)
    stored = store.open_dataset("all-groups").exists("cosegmentation_all_groups")
    assert sorted(digest[0] for digest in stored.values("sha256")) == ["1", "3", "4"]  # the repeat alone has none
    for class_name, path in zip(*stored.values(["label.label", "cosegmentation_all_groups.mask_path"]), strict=True):
        assert set(np.unique(read_mask(path))) <= {0, made.classes.index(class_name) + 1}

    # Adopted, they survive what another model, or the same with other settings, says later.
    assert store.adopt_masks(dataset, "cosegmentation_all_groups") == 3
    make_pseudo_masks(generator, dataset, field="cosegmentation_all_groups", scales=(0.7,), progress=False)
    assert all(Path(path).is_file() for path in dataset.exists("cosegmentation").values("cosegmentation.mask_path"))
    assert not set(made.mask_paths) & set(dataset.values("cosegmentation_all_groups.mask_path"))
    assert store.delete_dataset("all-groups", files=True).foreign == ()
