"""The documentation as a site: it is built without a warning, and what its pages lead to is there."""

import doctest
import html.parser
import importlib.util
import json
import posixpath
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[1]
LISTING = re.compile(r'<details class="mkdocstrings-source">.*?</details>', re.DOTALL)


class Places(html.parser.HTMLParser):
    """What a page leads to or shows, and the names of its own places."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.names: set[str] = set()

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.targets += [value for key in ("href", "src") if (value := found.get(key))]
        self.names |= {value for key in ("id", "name") if (value := found.get(key))}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("mkdocs", reason="mkdocs builds the site: pip install .[dev]")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    done = subprocess.run([*command, "--config-file", ROOT / "docs/site/mkdocs.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


def test_every_link_and_image_of_the_site_leads_to_a_page_a_place_in_it_or_a_file(site):
    pages = {}
    for path in site.rglob("*.html"):
        pages[path.relative_to(site).as_posix()] = places = Places()
        # Listings of source code, a third of all pages, hold no link.
        places.feed(LISTING.sub("", path.read_text(encoding="utf-8")))
    wrong = []
    for page, target in ((page, target) for page, places in pages.items() for target in places.targets):
        parts = urlsplit(target)
        if page == "404.html" or parts.scheme or parts.netloc:
            continue
        there = posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(parts.path))) if parts.path else page
        place = unquote(parts.fragment)
        if not (site / there).is_file() or (place and there in pages and place not in pages[there].names):
            wrong.append(f"{page}: {target}")
    assert wrong == []
    assert len(pages) > 200


def test_the_site_has_every_page_every_module_and_the_repositorys_pages(site):
    pages = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    assert {page.with_suffix(".html").as_posix() for page in pages} - {"README.html"} <= {
        path.relative_to(site).as_posix() for path in site.rglob("*.html")
    }
    for page in ("index", "pages", "api/index", "api/wss_data/crf/dense_crf", "project/changelog"):
        assert (site / f"{page}.html").is_file()
    assert "Source code in" in (site / "api/wss_data/crf/dense_crf.html").read_text(encoding="utf-8")
    assert "wss-data build" in (site / "reference/commands.html").read_text(encoding="utf-8")
    found = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    (entry,) = (one for one in found if one["location"].endswith("#wss_data.crf.dense_crf.dense_crf"))
    assert "NIPS 2011" in entry["text"] and "Source code in" not in "".join(one["text"] for one in found)
    listed = (site / "llms.txt").read_text(encoding="utf-8")
    assert all(page.with_suffix(".html").as_posix() in listed for page in pages if page.name != "README.md")
    assert len((site / "llms-full.txt").read_text(encoding="utf-8")) > 200_000


def test_each_file_of_the_repository_has_one_place_on_the_site():
    pytest.importorskip("mkdocs", reason="mkdocs builds the site: pip install .[dev]")
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "site" / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    assert doctest.testmod(hooks) == (0, 2)
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")} | set(hooks._linked_files())
    assert len({hooks.site_uri(source) for source in sources}) == len(sources)
