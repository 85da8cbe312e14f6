import sqlite3
from datetime import UTC, datetime

import pytest

from wss_data.errors import StoreError
from wss_data.records import Provenance
from wss_data.retrieval.journal import Entry, Journal, StoredImage, secret_of
from wss_data.retrieval.sources.base import Hit


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.record(
            [
                Entry("cat", "folder", "cat/1.jpg", "stored", sha256="aa"),
                Entry("cat", "folder", "cat/2.jpg", "dropped", reason="truncated"),
                Entry("cow", "folder", "cow/1.jpg", "dropped", reason="truncated"),
            ]
        )
        yield journal


def hit(number: int, source: str = "flickr", **known) -> Hit:
    return Hit("cat", Provenance(source, str(number), image_url=f"https://pictures.example/{number}.jpg", **known))


def test_what_was_dealt_with_is_remembered_by_class_and_source(journal):
    assert journal.seen("cat", "folder") == {"cat/1.jpg", "cat/2.jpg"}
    assert journal.seen("cat", "flickr") == set()


def test_digests_are_those_of_stored_images_only(journal):
    assert journal.stored("cat") == {"aa"}
    assert journal.stored("cow") == set()


def test_drops_and_failures_are_counted_by_reason(journal):
    journal.record([Entry("cow", "flickr", "7", "failed", reason="timeout")])
    assert journal.dropped() == {"cat": {"truncated": 1}, "cow": {"truncated": 1, "timeout": 1}}


def test_a_batch_is_kept_whole_or_not_at_all(journal):
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        journal.record([Entry("cat", "folder", "cat/3.jpg", "stored"), Entry("cat", "folder", "cat/4.jpg", "lost")])
    assert "cat/3.jpg" not in journal.seen("cat", "folder")


def test_a_journal_opened_again_still_knows(journal, tmp_path):
    with Journal(tmp_path / "journal.sqlite") as again:
        assert len(again.seen("cat", "folder")) == 2


def test_what_was_found_waits_in_the_order_of_its_search_and_comes_back_as_it_was(journal):
    full = hit(5, title="Über", license="CC-BY-4.0", retrieved_at=datetime(2026, 1, 2, tzinfo=UTC), opt_outs=("a",))
    expected = Hit("cat", Provenance("manifest", "m"), None, "ab" * 32, "0f" * 8)
    assert journal.found([(2, hit(9)), (0, full), (1, expected)]) == 3
    assert journal.waiting("cat", ["flickr", "manifest"], (), 10) == [(0, full), (1, expected), (2, hit(9))]
    assert journal.waiting("cat", ["flickr", "manifest"], {("flickr", "5")}, 1) == [(1, expected)]
    assert journal.waiting("cat", ["manifest"], (), 10) == [(1, expected)]
    assert journal.count_waiting("cat", ["flickr"]) == 2


def test_finding_the_same_again_changes_nothing(journal):
    journal.found([(0, hit(5))])
    journal.record([Entry("cat", "flickr", "5", "failed", reason="timeout")])
    assert journal.found([(0, hit(5)), (1, hit(6))]) == 1
    assert [e.status for e in journal.entries("cat") if e.source_id == "5"] == ["failed"]


def test_an_image_on_disk_is_known_with_its_sizes_and_hash(journal):
    image = StoredImage((340, 255), (1024, 768), "00ff00ff00ff00ff")
    journal.record([Entry("cat", "flickr", "5", "fetched", sha256="bb", image=image, position=4)])
    (entry,) = journal.entries("cat", "fetched")
    assert (entry.image, entry.sha256, entry.position) == (image, "bb", 4)


def test_what_failed_is_tried_again_and_what_is_behind_an_opt_out_never(journal):
    reasons = {"1": ("failed", "timeout"), "2": ("dropped", "gone"), "3": ("dropped", "opted_out")}
    journal.found([(int(key), hit(int(key))) for key in reasons])
    journal.record([Entry("cat", "flickr", key, status, reason=why) for key, (status, why) in reasons.items()])
    assert journal.try_again(["failed"]) == 1
    assert [h.provenance.source_id for _, h in journal.waiting("cat", ["flickr"], (), 9)] == ["1"]
    assert journal.try_again(["failed", "dropped"], local=["folder"]) == 3
    assert [h.provenance.source_id for _, h in journal.waiting("cat", ["flickr"], (), 9)] == ["1", "2"]
    assert journal.seen("cat", "folder") == {"cat/1.jpg"}
    assert journal.dropped() == {"cat": {"opted_out": 1}}


def test_an_address_behind_an_opt_out_is_known_for_every_class(journal):
    journal.record([Entry("cow", "flickr", "1", "dropped", url="https://a/1.jpg", reason="opted_out", detail="noai")])
    assert journal.forbidden("https://a/1.jpg").detail == "noai"
    assert journal.forbidden("https://a/2.jpg") is None


def test_the_same_bytes_under_three_addresses_of_one_host_are_a_placeholder(journal):
    def under(*urls, sha256):
        return [Entry("cat", "flickr", url, "stored", url=url, sha256=sha256) for url in urls]

    journal.record(under("https://a/1", "https://a/2", "https://a/3", sha256="gone"))
    journal.record(under("https://a/4", "https://b/1", "https://c/1", sha256="reposted"))
    journal.record(under("file:///1", "file:///2", "file:///3", sha256="copied"))
    assert journal.placeholders() == {"gone"}


def test_answers_are_remembered_until_the_search_is_finished(journal):
    pages = journal.pages("cat", "flickr")
    assert pages.answer("page 1", lambda: {"photos": [1, 2]}) == {"photos": [1, 2]}
    assert pages.answer("page 1", lambda: pytest.fail("asked again")) == {"photos": [1, 2]}
    assert journal.pages("cow", "flickr").answer("page 1", lambda: "another class") == "another class"
    journal.finish_search("cat", "flickr", "cats, 10")
    assert journal.search_is_finished("cat", "flickr", "cats, 10")
    assert not journal.search_is_finished("cat", "flickr", "cats, 20")
    assert pages.answer("page 1", lambda: "asked again") == "asked again"
    journal.forget_searches()
    assert not journal.search_is_finished("cat", "flickr", "cats, 10")


def test_of_what_is_forgotten_only_digests_stay(journal, tmp_path):
    secret = hit(5, author="Jane Doe", page_url="https://pages.example/5")
    journal.found([(0, secret)])
    journal.pages("cat", "flickr").answer("page 1", lambda: {"ownername": "Jane Doe"})
    journal.remember_forgotten("author", secret_of("Jane Doe"), "she asked")
    journal.erase([e for e in journal.entries("cat") if e.source_id == "5"])
    assert journal.forgotten() == {("author", secret_of(" jane doe "))}
    assert journal.seen("cat", "flickr") == {secret_of("5")}
    assert journal.dropped()["cat"]["forgotten"] == 1
    assert b"Jane" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_files_whose_names_differ_in_capitals_only_are_forgotten_together(journal):
    """The digest that is left of them is the same."""
    files = [
        Entry("fox", "folder", name, "stored", sha256="ab" * 32) for name in ("fox/A.JPG", "fox/a.jpg", "fox/b.jpg")
    ]
    journal.record(files)
    journal.erase(files)
    assert journal.seen("fox", "folder") == {secret_of("fox/a.jpg"), secret_of("fox/b.jpg")}
    assert "ab" * 32 not in journal.digests()


def test_a_journal_of_a_newer_version_is_left_alone(tmp_path):
    newer = sqlite3.connect(tmp_path / "journal.sqlite")
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(StoreError, match="format 99"):
        Journal(tmp_path / "journal.sqlite")


def test_a_damaged_journal_is_reported_in_one_sentence(tmp_path):
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match=r"cannot be read .*move it away"):
        Journal(path)
    path.unlink()
    Journal(path).__exit__(None, None, None)
    row = ["cat", "flickr", "1", 0, None, "", None, "found", None, None, None, None, "2026"]
    for odd in ("{", "[]", '{"x": 1}', '{"source": "a", "source_id": "b", "title": 5}', '{"retrieved_at": "x"}'):
        changed = sqlite3.connect(path)
        changed.execute(f"INSERT OR REPLACE INTO hits VALUES ({', '.join('?' * len(row))})", [*row[:5], odd, *row[6:]])
        changed.commit()
        changed.close()
        with Journal(path) as journal, pytest.raises(StoreError, match="search result that cannot be read"):
            list(journal.entries())
