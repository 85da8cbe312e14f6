"""A folder of photographs that changed between two builds: what is reported, and what --search-again makes of it."""

import os
import shutil

import pytest
from builders import SHARES, make_web
from web_server import photo

from wss_data import store
from wss_data.filtering.filters import GONE, KEPT, decide, is_left_out
from wss_data.imaging.images import encode_jpeg, write_jpeg
from wss_data.records import Provenance
from wss_data.retrieval.journal import Journal
from wss_data.retrieval.retrieve import Manner, retrieve
from wss_data.retrieval.sources import make_source
from wss_data.retrieval.sources.folder import FolderSource
from wss_data.spec import FilterSpec, SourceSpec, spec_from_dict

SPEC = spec_from_dict({"name": "zoo", "classes": ["cat", "cow"], "longest_side": 64, "sources": ["folder"]})


class Build:
    """Builds of one folder as far as its images are stored; the database is a set of (class, name of the file)."""

    def __init__(self, folder):
        self.photos, self.folder = folder / "photos", folder
        for number, name in enumerate(("cat/1.jpg", "cat/2.jpg", "cow/3.jpg", "cow/4.jpg")):
            write_jpeg(photo(number), self.photos / name)
        (self.photos / "cow" / "broken.jpg").write_text("no image")

    def __call__(self, follow=False):
        source, stored = make_source("folder", {"path": self.photos}), []
        with Journal(self.folder / "journal.sqlite") as journal:
            changes = retrieve(
                SPEC,
                [(source, SourceSpec("folder"))],
                self.folder / "images",
                journal,
                stored.extend,
                Manner(workers=1, progress=False, follow=follow),
            ).changes
            gone = journal.gone()
            journal.came_back([content for content, origin in gone.items() if origin])
            self.gone = sorted(name for (name, _), origin in gone.items() if origin is None)
            self.there = sorted(entry.source_id for entry in journal.entries(status="stored"))
        self.read = [record.provenance.source_id for record in stored]
        return str(changes)


@pytest.fixture
def build(tmp_path):
    build = Build(tmp_path)
    assert build() == ""
    assert build.read == ["cat/1.jpg", "cat/2.jpg", "cow/3.jpg", "cow/4.jpg"]
    return build


def moved(photos):
    (photos / "cat" / "2.jpg").rename(photos / "cow" / "was_cat.jpg")


def renamed(photos):
    (photos / "cat" / "2.jpg").rename(photos / "cat" / "other.jpg")


def replaced(photos):
    write_jpeg(photo(9), photos / "cat" / "2.jpg")


def replaced_with_its_date(photos):
    """The bytes of another image, as many of them and with the date of the old one."""
    path = photos / "cat" / "2.jpg"
    data, status = path.read_bytes(), path.stat()
    path.write_bytes(encode_jpeg(photo(9), 30).ljust(len(data), b"\0"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def exchanged(photos):
    one, other = photos / "cat" / "2.jpg", photos / "cow" / "4.jpg"
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)


def deleted(photos):
    (photos / "cat" / "2.jpg").unlink()


CHANGES = {
    moved: ("1 moved or renamed (cat/2.jpg is cow/was_cat.jpg now)", ["cow/was_cat.jpg"], ["cat"]),
    renamed: ("1 moved or renamed (cat/2.jpg is cat/other.jpg now)", ["cat/other.jpg"], []),
    replaced: ("1 replaced by other content (cat/2.jpg)", ["cat/2.jpg"], ["cat"]),
    replaced_with_its_date: ("1 replaced by other content (cat/2.jpg)", ["cat/2.jpg"], ["cat"]),
    exchanged: ("2 replaced by other content (cat/2.jpg, cow/4.jpg)", ["cat/2.jpg", "cow/4.jpg"], ["cat", "cow"]),
    deleted: ("1 no longer there (cat/2.jpg)", [], ["cat"]),
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_changed_is_reported_at_every_build_and_followed_where_that_is_asked_for(build, change):
    change(build.photos)
    told, read, gone = CHANGES[change]
    for _ in range(2):
        assert f"photographs that changed since they were read: {told}" in (said := build())
        assert "--search-again" in said
        assert build.gone == []
    assert told in build(follow=True)
    assert set(read) <= set(build.there)
    assert build.gone == gone
    names = sorted(path.relative_to(build.photos).as_posix() for path in build.photos.glob("*/[!b]*.jpg"))
    assert build.there == names, "the dataset is what the folder shows"
    assert build() == build(follow=True) == ""


def test_what_is_gone_comes_back_with_its_file(build):
    deleted(build.photos)
    build(follow=True)
    write_jpeg(photo(1), build.photos / "cat" / "2.jpg")
    build()
    assert build.read == ["cat/2.jpg"]
    assert build.gone == []


def test_a_copy_takes_the_place_of_the_file_that_is_gone(build):
    shutil.copy(build.photos / "cat" / "2.jpg", build.photos / "cat" / "copy.jpg")
    build()
    assert "cat/copy.jpg" not in build.there
    deleted(build.photos)
    assert "cat/2.jpg is cat/copy.jpg now" in build(follow=True)
    assert "cat/copy.jpg" in build.there
    assert build.gone == []


def test_a_file_that_was_only_touched_is_no_change(build):
    for path in build.photos.glob("c*/[!b]*.jpg"):
        path.touch()
        path.chmod(0o600)
    assert build() == ""
    assert build.read == []


def test_an_unchanged_folder_is_not_read_again(build, monkeypatch):
    monkeypatch.setattr(FolderSource, "read", lambda *_: pytest.fail("a file was read"))
    assert build() == build(follow=True) == ""


def test_a_journal_without_sizes_and_dates_is_completed_by_digests_once(build, monkeypatch):
    with Journal(build.folder / "journal.sqlite") as journal:
        journal._connection.execute("DELETE FROM stamps")
        journal._connection.commit()
    replaced(build.photos)
    assert "1 replaced by other content (cat/2.jpg)" in build(follow=True)
    monkeypatch.setattr(FolderSource, "read", lambda *_: pytest.fail("a file was read"))
    assert build() == ""


def test_images_beyond_the_limit_are_not_gone(build):
    write_jpeg(photo(7), build.photos / "cat" / "0.jpg")
    source = make_source("folder", {"path": build.photos})
    with Journal(build.folder / "journal.sqlite") as journal:
        parts = [(source, SourceSpec("folder", 2))]
        report = retrieve(SPEC, parts, build.folder / "images", journal, list, Manner(1, progress=False, follow=True))
        assert str(report.changes) == ""
        assert journal.gone() == {}


@pytest.mark.parametrize("verdict", [None, "keep", "drop"])
def test_no_verdict_keeps_an_image_whose_original_is_gone(verdict):
    assert is_left_out([GONE], verdict)
    assert decide(0.5, verdict, [GONE], FilterSpec()) != KEPT


def test_a_gone_image_is_tagged_and_takes_no_part_and_one_that_came_back_is_as_before(database):
    dataset = make_web("zoo-gone")
    cow = ("cow", "4" * 64)
    store.set_gone(dataset, {cow: None})
    store.apply_filter(dataset)
    assert dataset.match_tags(GONE).values("sha256") == [cow[1]]
    assert store.group_members(dataset, "cow") == []
    assert "cow" not in store.example_table(dataset, "cosegmentation").ids[0]
    assert len(dataset) == sum(map(len, SHARES.values())), "nothing is deleted"

    store.set_gone(dataset, {cow: Provenance("folder", "cow/other.jpg")})
    store.apply_filter(dataset)
    sample = dataset.match({"sha256": cow[1]}).first()
    assert (sample.tags, sample.provenance.source_id) == ([KEPT], "cow/other.jpg")
    assert sample.provenance.original_width == 80
