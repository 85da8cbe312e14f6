import numpy as np
import pytest

from wss_data.errors import SourceError
from wss_data.images import read_image, write_jpeg
from wss_data.journal import Journal
from wss_data.retrieve import perceptual_hash, retrieve
from wss_data.sources.base import make_source
from wss_data.spec import DatasetSpec

SPEC = DatasetSpec.from_dict({"name": "zoo", "classes": ["cat", "cow"], "sources": ["folder"], "longest_side": 64})


def photo(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((20, 20, 1), np.uint8))


@pytest.fixture
def photos(tmp_path):
    """Two cats, one of them twice, a text that says it is a cat, half a cow and a whole one."""
    folder = tmp_path / "photos"
    write_jpeg(photo(1), folder / "cat" / "1.jpg")
    write_jpeg(photo(2), folder / "cat" / "2.jpg")
    write_jpeg(photo(2), folder / "cat" / "again.jpg")
    (folder / "cat" / "text.jpg").write_text("not found")
    write_jpeg(photo(3), folder / "cow" / "1.jpg")
    half = (folder / "cow" / "1.jpg").read_bytes()
    (folder / "cow" / "half.jpg").write_bytes(half[: len(half) // 2])
    return folder


class Database(list):
    """Takes records as the store does: a (class, sha256) once."""

    def add(self, records):
        known = {(r.class_name, r.sha256) for r in self}
        self.extend(r for r in records if (r.class_name, r.sha256) not in known)


def run(photos, tmp_path, database, limit=None, workers=1):
    source = make_source("folder", {"path": photos})
    with Journal(tmp_path / "journal.sqlite") as journal:
        done = retrieve(
            SPEC, [(source, limit)], tmp_path / "images", journal, database.add, workers=workers, progress=False
        )
        return done, journal.dropped()


def test_every_search_result_ends_as_a_stored_image_or_a_counted_drop(photos, tmp_path):
    database = Database()
    done, dropped = run(photos, tmp_path, database)
    assert done == 6
    assert dropped == {"cat": {"duplicate": 1, "unreadable": 1}, "cow": {"truncated": 1}}
    assert [(r.class_name, r.provenance.source_id) for r in database] == [
        ("cat", "cat/1.jpg"),
        ("cat", "cat/2.jpg"),
        ("cow", "cow/1.jpg"),
    ]


def test_a_record_says_where_the_image_is_how_large_it_was_and_where_it_came_from(photos, tmp_path):
    database = Database()
    run(photos, tmp_path, database)
    record = database[0]
    assert record.path == tmp_path / "images" / "cat" / f"{record.sha256[:20]}.jpg"
    assert (record.original_size, record.size) == ((160, 120), (64, 48))
    assert read_image(record.path).shape == (48, 64, 3)
    assert record.provenance.source == "folder"
    assert record.provenance.image_url.endswith("photos/cat/1.jpg")
    assert record.provenance.retrieved_at is not None


def test_the_second_run_reads_nothing_and_a_new_image_is_picked_up(photos, tmp_path):
    database = Database()
    run(photos, tmp_path, database)
    assert run(photos, tmp_path, database)[0] == 0
    write_jpeg(photo(9), photos / "cow" / "new.jpg")
    assert run(photos, tmp_path, database)[0] == 1
    assert len(database) == 4


def test_a_batch_that_was_stored_but_not_noted_is_stored_once(photos, tmp_path):
    database = Database()

    class Killed(Exception):
        pass

    class DyingDatabase(Database):
        def add(self, records):
            database.add(records)
            raise Killed

    with pytest.raises(Killed):
        run(photos, tmp_path, DyingDatabase())
    run(photos, tmp_path, database)
    assert [r.provenance.source_id for r in database] == ["cat/1.jpg", "cat/2.jpg", "cow/1.jpg"]


def test_worker_processes_give_the_same_records_as_one_process(photos, tmp_path):
    alone, together = Database(), Database()
    run(photos, tmp_path / "alone", alone)
    run(photos, tmp_path / "together", together, workers=2)
    assert [(r.sha256, r.phash, r.size) for r in alone] == [(r.sha256, r.phash, r.size) for r in together]


def test_the_limit_counts_for_each_class(photos, tmp_path):
    database = Database()
    run(photos, tmp_path, database, limit=1)
    assert [r.class_name for r in database] == ["cat", "cow"]


def test_a_class_without_a_folder_is_refused_with_the_folders_found(photos, tmp_path):
    (photos / "cow").rename(photos / "cattle")
    with pytest.raises(SourceError, match=r"class 'cow' has no folder. Folders found in .*: cat, cattle"):
        run(photos, tmp_path, Database())


def test_a_missing_folder_an_unknown_source_and_an_unknown_option_are_refused(tmp_path):
    with pytest.raises(SourceError, match="no such folder"):
        make_source("folder", {"path": tmp_path / "nowhere"})
    with pytest.raises(SourceError, match="needs a folder"):
        make_source("folder", {})
    with pytest.raises(SourceError, match=r"no source 'bing'\. Known sources: drawn, folder"):
        make_source("bing", {})
    with pytest.raises(SourceError, match=r"'folder' has no option 'colour'\. Known options: path"):
        make_source("folder", {"colour": "red"})


def test_the_perceptual_hash_barely_changes_when_an_image_is_shrunk(tmp_path):
    def distance(a, b):
        return bin(int(perceptual_hash(a), 16) ^ int(perceptual_hash(b), 16)).count("1")

    assert distance(photo(1), photo(1)[::2, ::2]) <= 4
    assert distance(photo(1), photo(2)) >= 16
