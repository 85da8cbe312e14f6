"""A full disk at every place that writes: an error, no partial file under a final name, and what was there stays.

A limit on the size of files stands for the full disk: the system refuses to write beyond it.
"""

import numpy as np
import pytest
from builders import make_web
from limits import full_disk

from wss_data.errors import StoreError
from wss_data.imaging.images import encode_jpeg, write_jpeg
from wss_data.imaging.masks import write_mask
from wss_data.pipeline import write_dataset_sheets
from wss_data.records import Provenance
from wss_data.retrieval.decode_pool import decode_to_file
from wss_data.retrieval.journal import Entry, Journal
from wss_data.retrieval.sources.base import Hit
from wss_data.runtime.files import write_bytes, write_json, write_text
from wss_data.sharing.attribution import write_attribution
from wss_data.sharing.manifest import write_manifest

NOISE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
JPEG = encode_jpeg(NOISE)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.bin", lambda path: write_bytes(path, bytes(1000))),
        ("a.txt", lambda path: write_text(path, "x" * 1000)),
        ("a.json", lambda path: write_json(path, ["x" * 1000])),
        ("a.jpg", lambda path: write_jpeg(NOISE, path)),
        ("a.png", lambda path: write_mask(NOISE[:, :, 0], path)),
    ],
)
def test_a_file_that_does_not_fit_is_not_there_and_the_one_before_stays(tmp_path, name, write):
    path = tmp_path / name
    with full_disk(), pytest.raises(OSError, match="File too large"):
        write(path)
    assert list(tmp_path.iterdir()) == []
    path.write_text("before")
    with full_disk(), pytest.raises(OSError, match="File too large"):
        write(path)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert path.read_text() == "before"


def test_an_image_that_does_not_fit_is_no_bad_image_but_a_full_disk(tmp_path):
    with full_disk(), pytest.raises(OSError, match="File too large"):
        decode_to_file(JPEG, "noise", tmp_path, 340)
    assert list(tmp_path.iterdir()) == []


def test_a_journal_that_cannot_grow_says_so_and_keeps_what_it_has(tmp_path):
    with Journal(tmp_path / "journal.sqlite") as journal, journal.pages("cat", "web") as pages:
        journal.record([Entry("cat", "web", "0", "stored", sha256="aa")])
        hits = [
            (n, Hit("cat", Provenance("web", str(n), image_url="https://a.example/" + "x" * 500))) for n in range(50)
        ]
        entries = [Entry("cat", "web", str(n), "dropped", reason="gone", detail="x" * 500) for n in range(50)]
        for write in (
            lambda: journal.found(hits),
            lambda: journal.record(entries),
            lambda: pages.answer("page 1", lambda: NOISE.tolist()),
            lambda: journal.finish_search("cat", "web", "x" * 9000),
        ):
            with full_disk(), pytest.raises(StoreError, match=r"cannot be written .* Is the disk full\?"):
                write()
        assert [entry.source_id for entry in journal.entries()] == ["0"]
        assert journal.found(hits) == 49


@pytest.mark.parametrize("name", ["manifest.jsonl", "manifest.jsonl.gz", "credits.md", "credits.csv", "credits.html"])
def test_what_is_written_about_a_dataset_is_whole_or_not_there(database, tmp_path, name):
    dataset = make_web(f"full-{name.replace('.', '-')}")
    write = write_manifest if "manifest" in name else write_attribution
    with full_disk(), pytest.raises(OSError, match="File too large"):
        write(dataset, tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    write(dataset, tmp_path / name)
    assert (tmp_path / name).stat().st_size > 100


def test_sheets_of_a_dataset_are_whole_or_not_there(database, tmp_path):
    dataset = make_web("full-pictures")
    with full_disk(), pytest.raises(OSError, match="File too large"):
        write_dataset_sheets(dataset, tmp_path / "pictures")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
