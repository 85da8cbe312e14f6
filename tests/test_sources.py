"""The protocol of a source: ours keep it, another's package can; and a folder may say where its images came from."""

import re
import subprocess
import sys
import textwrap
from inspect import signature
from pathlib import Path

import pytest

from wss_data.errors import SourceError
from wss_data.imaging.images import write_jpeg
from wss_data.retrieval.sources import SOURCES, list_sources, make_source
from wss_data.retrieval.sources.base import Forgetful
from wss_data.spec import ClassSpec

CAT = ClassSpec(1, "cat", ("cat",))
HEADER = "file,image_url,page_url,title,author,author_url,license,license_url"


@pytest.fixture
def photos(tmp_path):
    from web_server import photo

    for name in ("cat/1.jpg", "cat/2.jpg", "cow/1.jpg"):
        write_jpeg(photo(len(name)), tmp_path / "photos" / name)
    return tmp_path / "photos"


def with_table(folder, *rows, header=HEADER, encoding="utf-8"):
    (folder / "provenance.csv").write_bytes("\n".join([header, *rows, ""]).encode(encoding))
    return folder


def hits(folder, wanted=CAT, limit=None):
    return list(make_source("folder", {"path": folder}).search(wanted, limit, Forgetful()))


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_source_of_ours_can_be_made_without_a_positional_option_and_follows_the_protocol(name):
    from importlib import import_module

    module, kind = SOURCES[name].split(":")
    try:
        source = getattr(import_module(module), kind)
    except ImportError:
        pytest.skip(f"the package behind '{name}' is not installed")
    assert source.name == name
    assert isinstance(source.local, bool)
    assert list(signature(source.search).parameters) == ["self", "wanted", "limit", "pages"]
    assert list(signature(source.state).parameters) == ["self"]
    assert all(p.default is not p.empty for p in signature(source).parameters.values())


def test_a_folder_without_a_table_knows_only_its_own_paths(photos):
    first, second = (hit.provenance for hit in hits(photos))
    assert first.source_id == "cat/1.jpg"
    assert first.image_url == (photos / "cat" / "1.jpg").as_uri()
    assert (first.license, first.author, second.title) == (None, None, None)


def test_a_table_beside_the_images_says_where_they_came_from(photos):
    with_table(
        photos,
        'cat/1.jpg,https://x.example/1.jpg,https://x.example/1,"A cat, asleep",Ann,https://x.example/ann,CC-BY-4.0,https://creativecommons.org/licenses/by/4.0/',
        "cow/1.jpg,,,Kuh,,,,",
    )
    first, second = (hit.provenance for hit in hits(photos))
    assert (first.title, first.author, first.license) == ("A cat, asleep", "Ann", "CC-BY-4.0")
    assert (first.image_url, first.page_url) == ("https://x.example/1.jpg", "https://x.example/1")
    assert second.title is None
    assert second.image_url.startswith("file:")
    (cow,) = hits(photos, ClassSpec(2, "cow", ("cow",)))
    assert (cow.provenance.title, cow.provenance.author) == ("Kuh", None)
    assert cow.provenance.image_url.startswith("file:")


def test_a_table_saved_by_a_spreadsheet_with_a_byte_order_mark_and_fewer_columns_is_read(photos):
    with_table(photos, "Ännchen,cat/1.jpg", header="author,file", encoding="utf-8-sig")
    assert hits(photos, limit=1)[0].provenance.author == "Ännchen"


BAD_ROWS = {
    "cat/9.jpg,,,,,,,": "is no file in the folder",
    "../cat/1.jpg,,,,,,,": "is no path of the form",
    "/cat/1.jpg,,,,,,,": "is no path of the form",
    "1.jpg,,,,,,,": "is no path of the form",
    ",,,A cat,,,,": "is no path of the form",
    "cat/2.jpg,,,,,,,": "is there twice",
    "cat/1.jpg,javascript:alert(1),,,,,,": "begins with http",
    "cat/1.jpg,,ftp://x.example/1,,,,,": "begins with http",
    "cat/1.jpg,,,,,https://,,": "begins with http",
    "cat/1.jpg,,,,,,CC BY 4.0 (I think),": "an SPDX identifier",
    "cat/1.jpg,,,A cat, asleep,,,,": "more cells than there are columns",
    "cat/1.jpg,,,tab\there,,,,": "control character in title",
}


@pytest.mark.parametrize("row", BAD_ROWS)
def test_a_bad_row_is_an_error_with_its_line(photos, row):
    with_table(photos, "cat/2.jpg,,,,,,,", row)
    with pytest.raises(SourceError, match="line 3: .*" + BAD_ROWS[row]):
        make_source("folder", {"path": photos})


@pytest.mark.parametrize(("separator", "encoding"), [(";", "utf-16"), ("\t", "utf-8"), (",", "utf-8-sig")])
def test_a_table_and_its_images_meet_whatever_program_wrote_their_names(photos, separator, encoding):
    (photos / "cat" / "1.jpg").rename(photos / "cat" / "Ka\u0308tzchen.jpg")  # as a Mac writes names
    row, empty = separator.join(["Ann", " cat/K\u00e4tzchen.jpg"]), separator
    with_table(photos, row, empty, header=separator.join(["Author", "FILE"]), encoding=encoding)
    assert [hit.provenance.author for hit in hits(photos)] == [None, "Ann"]


def test_the_line_of_a_bad_row_is_right_behind_an_empty_line(photos):
    with_table(photos, "cat/2.jpg,,,,,,,", "", "cat/9.jpg,,,,,,,")
    with pytest.raises(SourceError, match=r"1 bad rows\. line 4: 'cat/9\.jpg'"):
        make_source("folder", {"path": photos})


@pytest.mark.parametrize("header", ["name,title", "file,titel", "file,title,title", ""])
def test_a_table_with_other_columns_is_refused_with_those_that_are_known(photos, header):
    with_table(photos, "cat/1.jpg,x", header=header)
    with pytest.raises(SourceError, match=r"line 1: .*wanted are 'file' and any of image_url, page_url"):
        make_source("folder", {"path": photos})


def test_a_table_in_another_encoding_is_refused_with_the_line(photos):
    with_table(photos, "cat/1.jpg,,,,Ännchen,,,", encoding="latin-1")
    with pytest.raises(SourceError, match="line 2: not UTF-8"):
        make_source("folder", {"path": photos})


def test_no_more_than_the_limit_is_offered_and_always_in_the_same_order(photos):
    assert [hit.provenance.source_id for hit in hits(photos, limit=1)] == ["cat/1.jpg"]
    assert [hit.provenance.source_id for hit in hits(photos)] == ["cat/1.jpg", "cat/2.jpg"]


HOW_TO = Path(__file__).resolve().parents[1] / "docs" / "how_to" / "add_a_source.md"

ANSWERS = """

def ask_the_museum(wing, query):
    page = f"https://museum.example/{wing}/"
    return [dict(id=n, image=f"{page}{n}.jpg", page=f"{page}{n}", title=query, artist="Unknown") for n in (1, 2, 3)]
"""


def third_party() -> str:
    """The source that the page of instructions shows, and answers for it."""
    (code,) = re.findall(r"```python\n(.*?)```", HOW_TO.read_text(encoding="utf-8"), re.DOTALL)
    return code + ANSWERS


ASKS = """
    from wss_data.retrieval.sources import SOURCES, list_sources, make_source
    from wss_data.retrieval.sources.base import Forgetful
    from wss_data.spec import ClassSpec

    assert set(SOURCES) < set(list_sources())
    assert list_sources()["folder"].startswith("wss_data.")
    source = make_source("museum", {"wing": "west"})
    found = source.search(ClassSpec(1, "cat", ("cat",)), 2, Forgetful())
    print(source.state().detail, *(hit.provenance.image_url for hit in found))
"""


def test_a_package_of_a_third_party_adds_a_source_by_an_entry_point_and_cannot_hide_ours(tmp_path):
    site = tmp_path / "site"
    about = site / "museum_wss-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "museum_wss.py").write_text(third_party())
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: museum-wss\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[wss_data.sources]\nmuseum = museum_wss:MuseumSource\nfolder = museum_wss:MuseumSource\n"
    )
    code = f"import sys; sys.path.insert(0, {str(site)!r})\n" + textwrap.dedent(ASKS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == ""
    expected = (
        "No key needed; 20 requests a minute. https://museum.example/west/1.jpg https://museum.example/west/2.jpg"
    )
    assert done.stdout.strip() == expected


def test_pip_installs_a_third_partys_source_from_a_folder_with_four_lines_of_configuration(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "museum_wss.py").write_text(third_party())
    (package / "setup.cfg").write_text(
        "[metadata]\nname = museum-wss\nversion = 1.0\n[options]\npy_modules = museum_wss\n"
        "[options.entry_points]\nwss_data.sources =\n    museum = museum_wss:MuseumSource\n"
    )
    (package / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
    )
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*pip, "--target", str(site), str(package)], capture_output=True, text=True)
    if done.returncode and "No module named" in done.stderr:
        pytest.skip(f"this environment cannot build a package: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
    code = f"import sys; sys.path.insert(0, {str(site)!r})\n" + textwrap.dedent(ASKS)
    assert (
        "museum.example/west/2.jpg"
        in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    )


def test_an_unknown_source_and_an_unknown_option_are_reported_with_those_that_are_known(photos):
    with pytest.raises(SourceError, match=r"no source 'bing'\. Known sources: drawn, flickr, folder, google, manifest"):
        make_source("bing", {})
    with pytest.raises(SourceError, match=r"no option 'colour'\. Known options: path"):
        make_source("folder", {"path": photos, "colour": "red"})
    assert set(SOURCES) <= set(list_sources())
