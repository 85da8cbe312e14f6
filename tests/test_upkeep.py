"""Whole datasets are deleted and renamed: what goes, what stays, and what happens when it is killed half way."""

from datetime import datetime
from pathlib import Path

import pytest
from builders import definition, make_web, target_definition, write_target
from web_server import photo

from wss_data import pipeline, store
from wss_data.commands.cli import main
from wss_data.errors import BusyError, SpecError, StoreError
from wss_data.imaging.images import write_jpeg
from wss_data.runtime.home import dataset_folder, dataset_owner, read_by_nobody, read_for_long
from wss_data.store.connection import fiftyone
from wss_data.store.upkeep import delete_dataset, rename_dataset

pytestmark = pytest.mark.usefixtures("database", "small_maps")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("WSS_HOME", str(tmp_path / "home"))
    yield tmp_path / "home"
    for row in store.list_datasets():
        if row.name.startswith("up-"):
            fiftyone().delete_dataset(row.name)
    if fiftyone().dataset_exists("up-instances"):  # not ours
        fiftyone().delete_dataset("up-instances")


def files_of(name: str) -> list[str]:
    folder = dataset_folder(name)
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())


def built(tmp_path, name: str):
    for number, file in enumerate(("cat/1.jpg", "cat/2.jpg", "cow/3.jpg", "cow/4.jpg")):
        write_jpeg(photo(number), tmp_path / "photos" / file)
    spec = definition(name, longest_side=64, duplicates={"max_distance": None})
    return pipeline.build(spec, tmp_path / "photos", workers=1, progress=False)


# ------------------------------------------------------------- delete


def test_records_go_files_stay_and_a_build_takes_its_images_and_verdicts_from_them(tmp_path, caplog):
    dataset = built(tmp_path, "up-again")
    store.judge(dataset, dataset.match({"label.label": "cow"}).values("id")[:1], "drop")
    before = files_of("up-again")
    report = delete_dataset("up-again")
    assert not store.dataset_exists("up-again")
    assert files_of("up-again") == before
    assert (report.images, report.files, report.left) == (4, 0, len(before) - 1), "the lock is no file of the dataset"
    assert "wss-data delete up-again --files" in str(report)
    for path in (tmp_path / "photos").rglob("*.jpg"):
        path.write_bytes(b"no image any more")
    again = built(tmp_path, "up-again")
    assert len(again) == 4
    assert again.count_values("verdict")["drop"] == 1
    assert "4 images come back from disk" in caplog.text


def test_a_dry_run_says_the_same_and_changes_nothing():
    make_web("up-dry")
    before = files_of("up-dry")
    looked = delete_dataset("up-dry", files=True, dry_run=True)
    assert store.dataset_exists("up-dry")
    assert files_of("up-dry") == before
    done = delete_dataset("up-dry", files=True)
    assert (looked.files, looked.size) == (done.files, done.size) == (8, looked.size)
    assert looked.size > 0
    assert str(looked).replace("would be ", "") == str(done)
    assert not dataset_folder("up-dry").exists()


def _last_opened(*names: str) -> list[datetime]:
    return [info["last_loaded_at"] for info in fiftyone().list_datasets(info=True) if info["name"] in names]


def test_what_others_wrote_or_use_and_what_links_lead_to_stays(tmp_path):
    dataset, folder = make_web("up-shared"), dataset_folder("up-shared")
    copy = dataset.match({"label.label": "cow"}).clone("up-copy")
    fo = fiftyone()
    sample = dataset.match({"label.label": "cat"}).first()
    person = fo.Dataset("up-instances", persistent=True)
    instance = fo.Detection(label="cat", bounding_box=[0, 0, 1, 1], mask_path=sample.cosegmentation.mask_path)
    person.add_sample(fo.Sample("elsewhere.jpg", instances=fo.Detections(detections=[instance])))
    opened = _last_opened("up-copy", "up-instances")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / f"{'a' * 20}.jpg").touch()
    (folder / "images" / "dog").symlink_to(tmp_path / "elsewhere")
    (folder / "images" / "cat" / f"{'b' * 20}.jpg").symlink_to(tmp_path / "elsewhere" / f"{'a' * 20}.jpg")
    (folder / "images" / "cat" / "notes.txt").touch()
    (folder / "mine").mkdir()
    (folder / "mine" / "photo.jpg").touch()
    report = delete_dataset("up-shared", files=True)
    cow = f"cow/{'4' * 20}"
    links = [f"images/cat/{'b' * 20}.jpg", "images/dog"]
    foreign = [links[0], "images/cat/notes.txt", links[1], "mine/photo.jpg"]
    masks = [f"cosegmentation/{cow}.png", f"cosegmentation/cat/{Path(sample.cosegmentation.mask_path).name}"]
    assert files_of("up-shared") == sorted([*masks, f"images/{cow}.jpg", *foreign])
    assert report.foreign == tuple(foreign)
    assert report.used == {"up-copy": 2, "up-instances": 1}
    assert _last_opened("up-copy", "up-instances") == opened, "to look into a dataset is not to open it"
    assert all(Path(path).is_file() for path in copy.values("filepath"))
    assert (tmp_path / "elsewhere" / f"{'a' * 20}.jpg").exists()


def test_a_folder_that_is_a_link_is_refused(tmp_path):
    make_web("up-link")
    dataset_folder("up-link").rename(tmp_path / "elsewhere")
    dataset_folder("up-link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="is a link; 'up-link' is left alone"):
        delete_dataset("up-link", files=True)
    assert store.dataset_exists("up-link")


def test_files_without_records_can_be_removed_but_no_folder_that_is_not_ours(home):
    make_web("up-left")
    delete_dataset("up-left")
    with pytest.raises(StoreError, match=r"only its files in .*up-left: wss-data delete up-left --files"):
        delete_dataset("up-left")
    assert delete_dataset("up-left", files=True).files == 8
    assert not dataset_folder("up-left").exists()
    (home / "up-mine" / "images" / "cat").mkdir(parents=True)
    (home / "up-mine" / "images" / "cat" / f"{'a' * 20}.jpg").touch()
    with pytest.raises(StoreError, match="there is no dataset 'up-mine'"):
        delete_dataset("up-mine", files=True)
    assert files_of("up-mine") == [f"images/cat/{'a' * 20}.jpg"]


def test_a_target_dataset_leaves_the_images_that_it_was_made_from(tmp_path):
    make_web("up-t")
    images = write_target(tmp_path / "voc")
    store.import_target(target_definition("up-t"), images)
    count = len(list(images.rglob("*")))
    report = delete_dataset("up-t-target", files=True)
    assert len(list(images.rglob("*"))) == count
    assert not dataset_folder("up-t-target").exists()
    assert report.others == ("up-t",)
    assert store.dataset_exists("up-t")


def test_a_dataset_of_somebody_else_is_left_alone():
    foreign = fiftyone().Dataset("up-foreign")
    for change in (lambda: delete_dataset("up-foreign", files=True), lambda: rename_dataset("up-foreign", "up-other")):
        with pytest.raises(StoreError, match="was not made by wss-data"):
            change()
    assert store.dataset_exists("up-foreign")
    foreign.delete()


def test_a_dataset_that_is_built_or_trained_on_is_neither_deleted_nor_renamed():
    make_web("up-busy")
    folder = dataset_folder("up-busy")
    changes = (lambda: delete_dataset("up-busy"), lambda: rename_dataset("up-busy", "up-free"))
    for change in changes:
        with dataset_owner("up-busy"), pytest.raises(BusyError, match="being built or changed"):
            change()
        images = [str(folder / "images" / "cat" / "1.jpg"), "/somewhere/else.jpg"]
        with (
            read_for_long(images),
            read_for_long(images),
            pytest.raises(BusyError, match="'up-busy' is being trained on"),
        ):
            change()
    assert store.dataset_exists("up-busy")
    with read_by_nobody(folder), pytest.raises(BusyError, match="being deleted or renamed"), read_for_long(images):
        pass


# ------------------------------------------------------------- rename


def test_a_renamed_dataset_takes_its_target_and_folders_along_and_a_build_goes_on_from_there(tmp_path, caplog):
    dataset = built(tmp_path, "up-old")
    masks = dict(zip(dataset.values("id"), dataset.values("cosegmentation.mask_path"), strict=True))
    store.import_target(target_definition("up-old"), write_target(tmp_path / "voc"))
    assert rename_dataset("up-old", "up-new") == {"up-old": "up-new", "up-old-target": "up-new-target"}
    assert not any(map(store.dataset_exists, ("up-old", "up-old-target")))
    assert not any(dataset_folder(name).exists() for name in ("up-old", "up-old-target"))
    again = store.open_dataset("up-new")
    for key, path in zip(again.values("id"), again.values("cosegmentation.mask_path"), strict=True):
        assert path == masks[key].replace("/up-old/", "/up-new/")
        assert Path(path).is_file()
    assert store.definition(again).name == "up-new"
    assert len(store.example_table(store.open_dataset("up-new-target").match_tags("val"), "ground_truth")) == 2
    caplog.clear()
    assert len(built(tmp_path, "up-new")) == 4
    assert "up-new: nothing to do" in caplog.text


@pytest.mark.parametrize("after", ["name", "folder"])
def test_a_rename_that_was_killed_is_finished_by_the_same_call(monkeypatch, after):
    make_web("up-half")

    class Killed(Exception):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        if after == "name":
            patch.setattr(Path, "rename", killed)
        else:
            patch.setattr("wss_data.store.upkeep.set_moved_paths", killed)
        with pytest.raises(Killed):
            rename_dataset("up-half", "up-whole")
    dataset = store.open_dataset("up-whole")
    assert all(Path(path).is_file() for path in dataset.values("filepath")), "whatever was done, its files are found"
    if after == "name":
        assert rename_dataset("up-half", "up-whole") == {"up-half": "up-whole"}
    dataset = store.open_dataset("up-whole")
    for field in ("filepath", "cosegmentation.mask_path"):
        assert all(Path(path).is_relative_to(dataset_folder("up-whole")) for path in dataset.values(field))


def test_a_name_that_is_taken_or_none_changes_nothing(tmp_path):
    make_web("up-one")
    make_web("up-two")
    for new, error, words in (
        ("up-two", StoreError, "'up-one' cannot be called 'up-two': that dataset exists already"),
        ("UP_TWO", StoreError, "cannot be made beside dataset 'up-two'"),
        ("up/two", SpecError, "the new name: name is 'up/two'"),
    ):
        with pytest.raises(error, match=words):
            rename_dataset("up-one", new)
    with pytest.raises(StoreError, match="there is no dataset 'up-none'"):
        rename_dataset("up-none", "up-three")
    store.import_target(target_definition("up-one"), write_target(tmp_path / "voc"))
    with pytest.raises(StoreError, match=r"is the target dataset of 'up-one'.*wss-data rename up-one up-x"):
        rename_dataset("up-one-target", "up-x-target")
    assert files_of("up-one")
    assert files_of("up-two")


# ------------------------------------------------------------- the commands


def test_the_commands_say_what_they_did(capsys):
    def said(*words: str, status: int = 0) -> str:
        assert main(words) == status
        return "".join(capsys.readouterr())

    make_web("up-said")
    assert "'up-said' is 'up-heard' now" in said("rename", "up-said", "up-heard")
    words = said("delete", "up-heard", "--files", "--dry-run")
    assert "would be deleted: dataset 'up-heard', the records of 4 images." in words
    assert "nothing was changed (--dry-run)" in words
    assert "which frees 0.0 MB" in said("delete", "up-heard", "--files")
    assert "there is no dataset 'up-heard'" in said("delete", "up-heard", status=2)
