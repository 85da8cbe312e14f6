import pytest

from wss_data.journal import Entry, Journal


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


def test_what_was_dealt_with_is_remembered_by_class_and_source(journal):
    assert journal.seen("cat", "folder") == {"cat/1.jpg", "cat/2.jpg"}
    assert journal.seen("cat", "flickr") == set()


def test_digests_are_those_of_stored_images_only(journal):
    assert journal.stored("cat") == {"aa"}
    assert journal.stored("cow") == set()


def test_drops_are_counted_by_reason(journal):
    assert journal.dropped() == {"cat": {"truncated": 1}, "cow": {"truncated": 1}}


def test_forgotten_drops_are_to_be_tried_again(journal):
    assert journal.forget_dropped() == 2
    assert journal.seen("cat", "folder") == {"cat/1.jpg"}


def test_a_batch_is_kept_whole_or_not_at_all(journal):
    with pytest.raises(Exception, match="CHECK"):
        journal.record([Entry("cat", "folder", "cat/3.jpg", "stored"), Entry("cat", "folder", "cat/4.jpg", "lost")])
    assert "cat/3.jpg" not in journal.seen("cat", "folder")


def test_a_journal_opened_again_still_knows(journal, tmp_path):
    with Journal(tmp_path / "journal.sqlite") as again:
        assert len(again.seen("cat", "folder")) == 2
