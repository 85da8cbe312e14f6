import numpy as np
import pytest
from builders import definition, target_definition, write_target
from web_server import photo

from wss_data import store
from wss_data.errors import StoreError
from wss_data.imaging.images import write_jpeg
from wss_data.pipeline import screen_dataset
from wss_data.records import ImageRecord, Provenance
from wss_data.retrieval.decode_pool import perceptual_hash
from wss_data.runtime.home import dataset_folder
from wss_data.spec import FilterSpec


def add(name, class_name, picture, digit, pixels=100):
    """Store an image with a digest of its own; returns its name in the dataset."""
    sha256 = digit * 64
    path = dataset_folder(name) / "images" / class_name / f"{sha256[:20]}.jpg"
    write_jpeg(picture, path)
    height, width = picture.shape[:2]
    provenance = Provenance("folder", f"{class_name}/{digit}.jpg")
    found = ImageRecord(sha256, class_name, path, (width, height), (pixels, 1), perceptual_hash(picture), provenance)
    store.add_records(store.open_dataset(name), [found])
    return f"{class_name}/{sha256[:20]}"


@pytest.fixture
def zoo(database, request):
    """Two cats of one image, a cat that is a cow as well, and a cow of its own."""
    name = f"screen-{request.node.name[:60].replace('[', '-').replace(']', '')}"
    dataset = store.create_or_open(definition(name), "web")
    names = {
        "large": add(name, "cat", photo(1, 480, 360), "1", pixels=300),
        "small": add(name, "cat", photo(1, 240, 180), "2", pixels=200),
        "both": add(name, "cat", photo(2), "3"),
        "both again": add(name, "cow", photo(2), "4"),
        "cow": add(name, "cow", photo(3), "5"),
    }
    return dataset, names


def found(dataset):
    """Name of the image -> (screening tag, what it repeats)."""
    rows = zip(*dataset.values(["image_id", "tags", "duplicate_of"]), strict=True)
    return {name: (tag[8:], other) for name, tags, other in rows for tag in tags if tag.startswith("dropped:")}


def leaked(dataset):
    return {name: other for name, (reason, other) in found(dataset).items() if reason == "leak"}


def test_repeats_and_ambiguous_images_are_tagged_with_what_they_repeat(zoo):
    dataset, names = zoo
    report = store.screen(dataset, 4)
    assert found(dataset) == {
        names["small"]: ("near_duplicate", names["large"]),
        names["both"]: ("ambiguous", names["both"]),
        names["both again"]: ("ambiguous", names["both"]),
    }
    assert str(report).splitlines() == [
        "class  near duplicate  ambiguous",
        "cat                 1          1",
        "cow                 0          1",
    ]


def test_a_second_screening_writes_nothing_and_other_settings_take_tags_away(zoo, monkeypatch):
    from wss_data.store import screening

    dataset, _ = zoo
    store.screen(dataset, 4)
    before = found(dataset)
    with monkeypatch.context() as patched:
        patched.setattr(screening, "_write", lambda *_: pytest.fail("wrote"))
        assert "ambiguous" in str(store.screen(dataset, 4))
    assert found(dataset) == before
    store.screen(dataset, None)
    assert found(dataset) == {}
    assert "found nothing" in str(store.screen(dataset, None))


def test_what_is_screened_out_is_not_cosegmented_unless_a_person_wants_it(zoo):
    dataset, names = zoo
    store.screen(dataset, 4)
    assert [m.path.rsplit("/")[-1][:1] for m in store.group_members(dataset, "cat")] == ["1"]
    sample = dataset.match({"image_id": names["both"]}).first()
    sample["verdict"] = "keep"
    sample.save()
    assert [m.path.rsplit("/")[-1][:1] for m in store.group_members(dataset, "cat")] == ["1", "3"]


def test_the_filter_leaves_the_reason_of_a_screening_alone(zoo):
    dataset, names = zoo
    store.screen(dataset, 4)
    store.apply_filter(dataset, FilterSpec())
    assert found(dataset)[names["small"]] == ("near_duplicate", names["large"])
    assert found(dataset)[names["cow"]] == ("no_mask", None)


def test_a_class_of_which_screening_leaves_nothing_is_reported_with_the_reasons(database, tmp_path):
    from wss_data.errors import SourceError
    from wss_data.pipeline import build

    for class_name in ("cat", "cow"):
        write_jpeg(photo(1, 320, 240), tmp_path / class_name / "1.jpg")
    with pytest.raises(SourceError, match=r"class 'cat' has no usable image \(dropped: 1 ambiguous\)"):
        build(definition("screen-nothing-left"), images=tmp_path, workers=1, progress=False)


def test_placeholders_are_tagged(zoo):
    dataset, names = zoo
    store.screen(dataset, 4, placeholders=frozenset({"5" * 64}))
    assert found(dataset)[names["cow"]] == ("placeholder", None)


@pytest.fixture
def target(database, tmp_path, zoo):
    """The target dataset of the zoo: v1 shows the zoo's cow in other bytes, t1 (train) its large cat."""
    dataset, _ = zoo
    write_target(tmp_path)
    write_jpeg(photo(1, 480, 360), tmp_path / "JPEGImages" / "t1.jpg")
    write_jpeg(photo(3), tmp_path / "JPEGImages" / "v1.jpg", quality=70)
    for name in ("t1", "v1"):
        path = tmp_path / "SegmentationClass" / f"{name}.png"
        from wss_data.imaging.masks import write_mask

        write_mask(np.ones((120, 160) if name == "v1" else (360, 480), np.uint8), path)
    return store.import_target(target_definition(dataset.name), tmp_path)


def test_importing_the_target_drops_the_leaks_of_a_dataset_that_was_built_before(zoo, target):
    dataset, names = zoo
    assert found(dataset)[names["cow"]] == ("leak", f"{target.name}: v1")


def test_copies_of_validation_images_are_leaks_and_copies_of_training_images_are_not(zoo, target):
    dataset, names = zoo
    add(dataset.name, "cow", photo(3, 320, 240), "6")
    report = store.leaks(dataset, target.name, 4, dry_run=True)
    assert [leak[1][:5] for leak in report.leaks] == ["cow/5", "cow/6"]
    assert str(report).endswith(f"2 leaks into the 2 images of {target.name}.")
    assert len(leaked(dataset)) == 1
    store.leaks(dataset, target.name, 4)
    assert leaked(dataset) == {"cow/" + "5" * 20: f"{target.name}: v1", "cow/" + "6" * 20: f"{target.name}: v1"}
    train = store.leaks(dataset, f"{target.name}:train", 4, dry_run=True)
    assert [leak[1] for leak in train.leaks] == [names["large"], names["small"]]


def test_copies_of_test_images_are_leaks_too_when_the_target_is_imported_and_when_the_dataset_is_built(zoo, tmp_path):
    dataset, names = zoo
    write_target(tmp_path)
    write_jpeg(photo(3), tmp_path / "JPEGImages" / "x1.jpg", quality=70)
    (tmp_path / "ImageSets" / "Segmentation" / "test.txt").write_text("x1\n")
    target = store.import_target(target_definition(dataset.name), tmp_path)
    assert found(dataset)[names["cow"]] == ("leak", f"{target.name}: x1")
    add(dataset.name, "cow", photo(3, 320, 240), "6")
    screen_dataset(dataset, definition(dataset.name), frozenset())
    assert set(leaked(dataset).values()) == {f"{target.name}: x1"}
    assert len(leaked(dataset)) == 2


def test_only_the_splits_that_are_there_are_compared_with(zoo, target):
    dataset, names = zoo
    assert store.evaluation_splits(target.name) == [f"{target.name}:val"]
    screen_dataset(dataset, definition(dataset.name), frozenset())
    assert set(leaked(dataset)) == {names["cow"]}
    # An image that could not be read has no hash, so that there is nothing to compare with.
    target.match_tags("val").set_field("phash", "").save()
    assert store.evaluation_splits(target.name) == []
    screen_dataset(dataset, definition(dataset.name), frozenset())
    assert store.evaluation_splits("no-such-target") == []


def test_a_leak_stays_one_when_the_split_is_not_at_hand(zoo, target):
    dataset, names = zoo
    store.screen(dataset, 4)
    assert found(dataset)[names["cow"]][0] == "leak"


def test_a_folder_and_a_file_of_hashes_are_splits_too(zoo, tmp_path):
    dataset, names = zoo
    write_jpeg(photo(3), tmp_path / "split" / "a.jpg")
    (tmp_path / "split" / "text.jpg").write_text("no image")
    (tmp_path / "split" / "b.heic").write_text("no image by its name")
    report = store.leaks(dataset, str(tmp_path / "split"), 4, dry_run=True)
    assert [leak[1] for leak in report.leaks] == [names["cow"]]
    assert str(report).endswith("split: 1 images cannot be read; 1 file passed over (1 .heic)")
    hashes = tmp_path / "hashes.txt"
    hashes.write_text(f"# of my test set\r\n{perceptual_hash(photo(3))}\r\n{'2' * 64};{'0' * 16}\r\n", "utf-16")
    leaks = store.leaks(dataset, str(hashes), 4, dry_run=True).leaks
    assert {leak[1] for leak in leaks} == {names["cow"], names["small"]}


def test_a_split_that_is_none_is_refused(zoo, tmp_path):
    dataset, _ = zoo
    with pytest.raises(StoreError, match="'nowhere' is no folder, no file and no dataset"):
        store.leaks(dataset, "nowhere", 4)
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="no image in it"):
        store.leaks(dataset, str(tmp_path / "empty"), 4)
    (tmp_path / "hashes.txt").write_text("deadbeef\n")
    with pytest.raises(StoreError, match="line 1: found 'deadbeef', wanted a perceptual hash"):
        store.leaks(dataset, str(tmp_path / "hashes.txt"), 4)


def test_the_saved_views_show_repeats_side_by_side_and_leaks(zoo):
    dataset, names = zoo
    store.screen(dataset, 4)
    shown = dataset.load_saved_view("dropped: duplicates").values("image_id")
    assert {*shown[:2]} == {names["large"], names["small"]}
    assert {*shown[2:]} == {names["both"], names["both again"]}
    assert len(dataset.load_saved_view("dropped: leaks")) == 0
