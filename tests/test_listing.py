"""Tests of which files a folder holds, and of file names."""

import os
from collections import Counter

import pytest
from drawings import disc

from wss_data.errors import SourceError, WssError
from wss_data.errors.names import printable, same_name
from wss_data.imaging.images import list_images, read_image, write_jpeg
from wss_data.reading.listing import (
    BROKEN_LINK,
    FOLDER_LINK,
    HIDDEN,
    NO_SUFFIX,
    SPECIAL,
    Listing,
    passed_over_summary,
    require_text,
)
from wss_data.retrieval.sources.base import Forgetful
from wss_data.retrieval.sources.folder import FolderSource
from wss_data.spec import ClassSpec

LATIN_1 = os.fsdecode(b"v\xf6gel")
"""A name as an old disk or a ZIP of Windows has it."""


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names_in(listing, folder):
    return [path.relative_to(folder).as_posix() for path in listing]


@pytest.mark.parametrize("suffix", ["jpg", "JPG", "jpeg", "jpe", "jfif", "Jfif", "png", "PNG", "tif", "TIFF", "webp"])
def test_a_file_is_an_image_by_its_suffix_in_any_case(tmp_path, suffix):
    touch(tmp_path, f"a.{suffix}")
    assert names_in(list_images(tmp_path), tmp_path) == [f"a.{suffix}"]


def test_a_jpeg_is_read_whatever_its_suffix(tmp_path):
    write_jpeg(disc()[0], tmp_path / "a.jpg")
    for name in ("a.jfif", "a.jpe"):
        (tmp_path / name).write_bytes((tmp_path / "a.jpg").read_bytes())
        assert (read_image(tmp_path / name) == read_image(tmp_path / "a.jpg")).all()


@pytest.mark.parametrize(
    "name",
    [".thumbnails/a.png", ".ipynb_checkpoints/a-checkpoint.jpg", "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "@EADIR/a.jpg"]
    + ["__MACOSX/a.jpg", "_old/a.jpg", "deep/.git/x/a.jpg", "#recycle/a.jpg", "._a.jpg", ".a.jpg", "Thumbs.db"]
    + ["desktop.ini", "deep/THUMBS.DB"],
)
def test_what_is_hidden_or_of_a_tool_is_left_out_and_counted(tmp_path, name):
    touch(tmp_path, "good.jpg", name)
    found = list_images(tmp_path)
    assert names_in(found, tmp_path) == ["good.jpg"]
    assert found.passed_over == Counter({HIDDEN: 1})


@pytest.mark.parametrize("above", [".cache", "_mine", "@eaDir", ".a/_b"])
def test_only_what_lies_below_the_given_folder_makes_a_file_hidden(tmp_path, above):
    folder = tmp_path / above / "birds"
    touch(folder, "a.jpg", "_DSC0001.JPG")
    assert names_in(list_images(folder), folder) == ["_DSC0001.JPG", "a.jpg"]


def test_each_file_that_is_passed_over_is_counted_by_its_kind(tmp_path):
    touch(tmp_path, "a.jpg", "b.heic", "c.HEIC", "d.avif", "e", "f.", "no. 7 at night", "deep/g.txt")
    os.symlink(tmp_path / "a.jpg", tmp_path / "link.jpg")
    os.symlink(tmp_path / "gone.jpg", tmp_path / "broken.jpg")
    os.symlink(tmp_path, tmp_path / "deep" / "circle")
    os.mkfifo(tmp_path / "pipe.jpg")

    found = list_images(tmp_path)

    assert names_in(found, tmp_path) == ["a.jpg", "link.jpg"], "a link is the file it leads to; a circle has no end"
    kinds = {".heic": 2, ".avif": 1, NO_SUFFIX: 3, ".txt": 1, BROKEN_LINK: 1, FOLDER_LINK: 1, SPECIAL: 1}
    assert found.passed_over == Counter(kinds)
    assert str(found).startswith("10 files passed over (3 without a suffix, 2 .heic, 1 ")
    assert str(found + found).startswith("20 files passed over (6 without a suffix, 4 .heic")
    assert str(list_images(tmp_path, deep=False)).startswith("8 files passed over")
    assert str(Listing()) == "" and passed_over_summary(Counter({"a": 1})) == "1 file passed over (1 a)"


def test_tables_of_this_program_beside_images_and_masks_are_not_counted(tmp_path):
    touch(tmp_path, "a.jpg", "provenance.csv", "scores.csv", "ledger.json", "drawn.json", ".wss-written", "mine.csv")
    assert list_images(tmp_path).passed_over == Counter({".csv": 1})


def test_a_given_folder_may_itself_be_a_link(tmp_path):
    touch(tmp_path / "there", "a.jpg")
    os.symlink(tmp_path / "there", tmp_path / "here")
    assert len(list_images(tmp_path / "here")) == 1


@pytest.mark.parametrize("name", [LATIN_1, "new\nline", "tab\t", "x" * 251, "\u200f", "a\udcffb", "Ü", "u\u0308"])
def test_any_name_is_found_and_can_be_printed(tmp_path, name):
    touch(tmp_path, f"{name}.jpg")
    (found,) = list_images(tmp_path)
    assert found.read_bytes() == b"x"
    assert printable(found.name).encode()


def test_names_are_the_same_whether_their_marks_are_composed_or_not():
    assert same_name("Ku\u0308he") == same_name("K\u00fche") == "K\u00fche"
    assert same_name("a") != same_name("A")
    assert printable("half \ud800") == "half \\ud800", "half a character is no file name, and can be printed still"


def test_the_words_of_an_error_can_be_printed_whatever_the_file_is_called():
    assert str(WssError(f"{LATIN_1}.jpg: broken")) == "v\\xf6gel.jpg: broken"


def test_a_folder_that_the_database_cannot_name_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"v\\xf6gel: the path of the images holds bytes that are not UTF-8"):
        require_text(tmp_path / LATIN_1, "the images")
    assert require_text(tmp_path / "Ü", "the images") == tmp_path / "Ü"


def test_the_source_finds_an_image_again_whose_name_is_not_utf_8(tmp_path):
    touch(tmp_path / "bird", f"{LATIN_1}.jpg", "a.jpg", "b.heic")
    source = FolderSource(tmp_path)

    hits = list(source.search(ClassSpec(1, "bird", ("bird",)), None, Forgetful()))

    assert [hit.provenance.source_id for hit in hits] == ["bird/a.jpg", "bird/v\\xf6gel.jpg"]
    assert hits[1].provenance.image_url.endswith("/bird/v%F6gel.jpg")
    assert hits[1].read is not None and hits[1].read() == b"x"
    assert source.passed_over == {"bird": Counter({".heic": 1})}
