"""Images that a definition searches for as background: they teach what is no object, and count as no class."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from wss_data.errors import SpecError, StoreError
from wss_data.imaging.masks import read_mask
from wss_data.runtime.home import dataset_folder
from wss_data.spec import DatasetSpec, read_spec, spec_from_dict, spec_from_folder

pytestmark = pytest.mark.usefixtures("small_maps")

CLASSES = list(read_spec("drawn").class_names[:2])


def definition(name: str, **values) -> DatasetSpec:
    source = {"name": "drawn", "limit": 5, "options": {"wrong_share": 0}}
    plain = {"name": name, "classes": CLASSES, "background": ["open water"], "sources": [source], "longest_side": 96}
    quick = {"method": "common", "options": {"self_training_folds": 0, "long_side": 64, "refine_long_side": 48}}
    return spec_from_dict({**plain, "cosegmentation": quick, **values})


@pytest.fixture(scope="module")
def built(database):
    from wss_data import build

    return build(definition("zoo-background"), workers=1, progress=False)


# The definition


def test_a_definition_without_background_is_written_as_it_was_before_there_was_one():
    spec = definition("zoo", background=[])
    assert "background" not in spec.to_dict()
    assert spec.groups == spec.classes
    assert spec_from_dict(spec.to_dict()) == spec


def test_the_background_is_a_group_behind_the_classes_and_no_class():
    spec = definition("zoo", background=["open water", 1984])
    assert spec.class_names == tuple(CLASSES)
    assert spec.group_names == (*CLASSES, "background")
    assert spec.class_index("background") == 0
    assert spec.groups[-1].queries == ("open water", "1984")
    assert spec_from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    ("classes", "query", "said"),
    [
        (["potted-plant"], "Potted  Plant", "background query 'Potted  Plant' is class 'potted-plant', too"),
        ([{"name": "tv", "index": 1, "queries": ["tv set"]}], "TV", "background query 'TV' is class 'tv', too"),
        (
            [{"name": "tv", "index": 1, "queries": ["TV set"]}],
            "tv set",
            "background query 'tv set' is query 'TV set' of class 'tv', too",
        ),
    ],
)
def test_a_background_query_that_finds_a_class_is_refused_naming_both(classes, query, said):
    with pytest.raises(SpecError) as error:
        definition("zoo", classes=classes, background=["street", query])
    assert said in str(error.value)
    assert "Take one of them out" in str(error.value)


@pytest.mark.parametrize(
    ("background", "said"),
    [
        ("street", "background: found 'street', expected a list"),
        (["street", "street"], "background query 'street' is listed 2 times"),
        ([""], "background"),
        ([["street"]], "background"),
    ],
)
def test_what_is_wrong_with_the_queries_is_named(background, said):
    with pytest.raises(SpecError) as error:
        definition("zoo", background=background)
    assert said in str(error.value)


def test_a_folder_called_background_is_no_class(tmp_path):
    for name in ("dog", "background", "cat"):
        (tmp_path / name).mkdir()
    spec = spec_from_folder(tmp_path, "pets")
    assert spec.group_names == ("cat", "dog", "background")
    (tmp_path / "only" / "background").mkdir(parents=True)
    with pytest.raises(SpecError, match="no class folder"):
        spec_from_folder(tmp_path / "only", "pets")


# The dataset


def test_background_images_have_empty_masks_are_kept_and_counted(built):
    from wss_data import store

    view = built.match({"label.label": "background"})
    assert len(view) == 5
    for sample in view:
        assert not read_mask(sample.cosegmentation.mask_path).any()
        assert (sample.foreground_ratio, sample.confidence, sample.quality) == (0, None, None)
        assert sample.tags == ["kept"]
        assert sample.provenance.license == "CC0-1.0"
        assert Path(sample.filepath).parent.name == "background"
    counts = store.apply_filter(built, dry_run=True).classes
    assert [(c.class_name, c.images) for c in counts] == [(CLASSES[0], 5), (CLASSES[1], 5), ("background", 5)]
    assert counts[-1].kept == 5
    assert store.class_names(built) == tuple(CLASSES)
    assert (dataset_folder(built.name) / "pictures" / "cosegmentation_background.png").is_file()


def test_a_person_can_drop_a_background_image_that_shows_an_object(built):
    from wss_data import store

    row = built.match({"label.label": "background"}).first()
    built.set_values("verdict", {row.id: "drop"}, key_field="id")
    store.apply_filter(built)
    assert built[row.id].tags == ["dropped:verdict"]
    built.set_values("verdict", {row.id: None}, key_field="id")
    store.apply_filter(built)
    assert built[row.id].tags == ["kept"]


def test_a_second_build_does_nothing(built, caplog):
    from wss_data import build

    files = {p: p.stat().st_mtime_ns for p in dataset_folder(built.name).rglob("*.png")}
    build(definition("zoo-background"), workers=1, progress=False)
    assert {p: p.stat().st_mtime_ns for p in dataset_folder(built.name).rglob("*.png")} == files
    assert [record.message for record in caplog.records] == [
        "zoo-background: nothing to do: its images are stored, and have the masks asked for."
    ]


def test_the_table_for_training_has_them_without_a_label(built):
    from wss_data.store import example_table
    from wss_train.data import check_training_table

    table = example_table(built, "cosegmentation")
    rows = [i for i, name in enumerate(table.ids) if name.startswith("background/")]
    assert len(rows) == 5
    assert table.classes == tuple(CLASSES)
    assert not table.labels[rows].any()
    assert np.isnan(table.confidence[rows]).all() and np.isnan(table.quality[rows]).all()
    summary = check_training_table(table, needs_labels=True)
    assert sum(summary.images_labelled.values()) == summary.images - 5


def test_a_check_names_them_as_what_they_are(built):
    from wss_data.store import example_table
    from wss_train.reports.check import findings_of, inspect_row

    table = example_table(built, "cosegmentation").take([])
    whole = example_table(built, "cosegmentation")
    rows = [i for i, name in enumerate(whole.ids) if name.startswith("background/")]
    table = whole.take(rows)
    facts = [inspect_row(i, m) for i, m in zip(table.image_paths, table.mask_paths, strict=True)]
    said = [str(f) for f in findings_of(table, facts)]
    assert any("5 images show no class and have an empty mask" in line for line in said)
    assert not any("no image-level label" in line or "masks show no class" in line for line in said)


def test_the_background_may_come_later_and_does_not_leave_unnoticed(database):
    from wss_data import build

    without = definition("zoo-later", background=[])
    build(without, workers=1, progress=False)
    masks = {p: p.stat().st_mtime_ns for p in dataset_folder("zoo-later").glob("cosegmentation/*/*.png")}
    dataset = build(definition("zoo-later"), workers=1, progress=False)
    assert dataset.count_values("label.label")["background"] == 5
    assert {p: p.stat().st_mtime_ns for p in masks} == masks
    with pytest.raises(StoreError, match="no `background` queries any more"):
        build(without, workers=1, progress=False)


def test_a_folder_brings_them_and_an_image_of_a_class_is_none_of_theirs(database, tmp_path):
    from drawings import disc

    from wss_data import build
    from wss_data.imaging.images import write_jpeg

    rng = np.random.default_rng(0)
    for number in range(3):
        write_jpeg(disc(seed=number)[0], tmp_path / "ball" / f"{number}.jpg")
        noise = np.kron(rng.integers(0, 255, (8, 8, 3)), np.ones((16, 16, 1))).astype(np.uint8)
        write_jpeg(noise, tmp_path / "background" / f"{number}.jpg")
    write_jpeg(disc(seed=2)[0], tmp_path / "background" / "ball.jpg")

    dataset = build(spec_from_folder(tmp_path, "zoo-folder-background"), workers=1, progress=False)

    tags = {s.provenance.source_id: s.tags for s in dataset}
    assert tags["background/0.jpg"] == ["kept"]
    assert tags["ball/2.jpg"] == tags["background/ball.jpg"] == ["dropped:ambiguous"]


# What leaves, and what comes back


def test_the_manifest_lists_them_and_a_rebuild_searches_for_them(built, tmp_path):
    from wss_data.sharing.manifest import read_manifest, write_manifest

    write_manifest(built, tmp_path / "zoo.jsonl.gz", masks=True)
    with gzip.open(tmp_path / "zoo.jsonl.gz") as file:
        header = json.loads(file.readline())
    assert header["classes"] == CLASSES
    assert header["definition"]["background"] == ["open water"]
    manifest = read_manifest(tmp_path / "zoo.jsonl.gz")
    assert manifest.spec.background == ("open water",)
    assert sum(image.class_name == "background" for image in manifest.images) == 5


def test_an_export_comes_back_with_its_background(built, tmp_path):
    from wss_data.sharing.export import export_dataset
    from wss_data.sharing.import_dataset import import_dataset

    export_dataset(built, tmp_path / "out", "voc")
    labels = (tmp_path / "out" / "image_labels.csv").read_text()
    assert sum(line.startswith("background_") and line.endswith(",") for line in labels.splitlines()) == 5
    import_dataset(tmp_path / "out", "zoo-back")

    from wss_data.store import open_dataset

    again = open_dataset("zoo-back").match({"label.label": "background"})
    assert again.values("foreground_ratio") == [0] * 5
    assert all("kept" in tags for tags in again.values("tags"))


def test_folders_hold_them_as_a_build_would_take_them(built, tmp_path):
    from wss_data.sharing.export import export_dataset

    export_dataset(built, tmp_path / "out", "folders")
    assert len(list((tmp_path / "out" / "images" / "background").iterdir())) == 5
    assert spec_from_folder(tmp_path / "out" / "images", "again").background


def test_imported_masks_are_of_classes_only(built, tmp_path):
    from wss_data import store
    from wss_data.imaging.masks import write_foreground

    for sample in built.match({"label.label": {"$in": CLASSES}}):
        mask = np.pad(np.ones((20, 20), bool), ((8, sample.metadata.height - 28), (8, sample.metadata.width - 28)))
        write_foreground(mask, tmp_path / sample.label.label / f"{Path(sample.filepath).stem}.png")
    report = store.import_masks(built, tmp_path)
    assert report.bad == ()
    assert set(report.imported) == set(CLASSES)
    assert set(built.match({"label.label": "background"}).values("cosegmentation.method")) == {"background"}


def test_the_card_counts_them_apart_from_the_classes(built):
    from wss_data.sharing.card_content import card_text, dataset_facts
    from wss_data.store.provenance import image_rows

    text = card_text(dataset_facts(built, image_rows(built)))
    assert "| background | open water | 5 | 5 (100%) |" in text
    assert not any("background" in line for line in text.splitlines() if line.startswith("- Fewer"))


def test_a_forgotten_background_image_leaves_the_classes_alone(built):
    from wss_data.sharing.forget import forget

    sha256 = built.match({"label.label": "background"}).first().sha256
    report = forget(built, sha256, dry_run=True)
    assert report.images and report.classes == ()
    assert "co-segments" not in str(report)
