"""Title, author, source, licence and changes of each image, whatever strangers wrote into them."""

import csv
from dataclasses import replace
from html.parser import HTMLParser

import builders
import pytest
from builders import make_web

from wss_data import store
from wss_data.errors import StoreError
from wss_data.reading.cells import text_cell
from wss_data.records import Provenance
from wss_data.sharing.attribution import Credit, credit, markdown, page, table, write_attribution
from wss_data.store.provenance import ImageRow

ANN = Provenance(
    "flickr",
    "123",
    image_url="https://pictures.example/123_z.jpg",
    page_url="https://pictures.example/photo/123",
    title="A cow",
    author="Ann Example",
    author_url="https://pictures.example/ann",
    license="CC-BY-2.0",
    license_url="https://creativecommons.org/licenses/by/2.0/",
)
ROW = ImageRow(
    "id", "cow", "/home/me/wss/zoo/images/cow/444.jpg", "4" * 64, None, (340, 255), (1024, 768), ("kept",), None, 0.5,
    "/home/me/wss/zoo/cosegmentation/cow/444.png", "common", ANN,
)  # fmt: skip
HOSTILE = replace(
    ANN,
    title='<script>alert(1)</script>](https://evil.example) "\n# x',
    author="=HYPERLINK(evil)",
    author_url="javascript:alert(1)",
    page_url='https://x.example/a_(b)?q=<>"',
    license=None,
    license_url="file:///etc/passwd",
)


def test_a_line_says_title_author_source_licence_and_changes_in_this_order():
    text = markdown("zoo", [credit(ROW)])
    assert (
        '- ["A cow"](https://pictures.example/photo/123) by [Ann Example](https://pictures.example/ann), from flickr, '
        r"[CC\-BY\-2.0](https://creativecommons.org/licenses/by/2.0/). Changes: shrunk from 1024 x 768 to 340 x 255 px "
        "and saved again as JPEG; a mask of the object was made by the method common."
    ) in text
    assert "/home/me" not in text


def test_what_is_not_known_is_said_and_counted():
    nothing = replace(ROW, mask_path=None, original_size=(340, 255), provenance=Provenance("folder", "cow/1.jpg"))
    text = markdown("zoo", [credit(nothing), credit(ROW)])
    assert "- Untitled by an unknown author, from folder, licence not known. Changes: saved again as JPEG." in text
    assert "2 images. Each was changed as its line says. 1 of them have no known licence" in text


def test_a_mask_that_was_imported_is_not_called_ours():
    assert credit(replace(ROW, mask_method="imported")).changes.endswith("was made by other software")


def test_an_image_that_came_through_a_manifest_is_credited_to_its_first_source():
    assert credit(replace(ROW, provenance=replace(ANN, source="manifest", source_id="flickr:123"))).source == "flickr"


def test_where_there_is_no_page_the_images_own_address_stands_behind_the_title():
    assert credit(replace(ROW, provenance=replace(ANN, page_url=None))).source_url == ANN.image_url


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append(tag)
        self.links += [value for key, value in attributes if key == "href"]


def test_a_hostile_title_stays_a_title_in_html():
    tags = Tags(page("zoo", [credit(replace(ROW, provenance=HOSTILE))]))
    assert "script" not in tags.found
    assert tags.links == [ANN.image_url]


def test_a_hostile_title_stays_a_title_in_markdown():
    text = markdown("zoo", [credit(replace(ROW, provenance=HOSTILE))])
    assert "<script>" not in text
    assert "](https://evil" not in text
    assert "javascript:" not in text
    assert [line for line in text.splitlines() if line.startswith("#")] == ["# Images of zoo", "## cow"]


def test_round_brackets_in_an_address_do_not_end_the_link():
    text = markdown("zoo", [credit(replace(ROW, provenance=replace(ANN, page_url="https://x.example/a_(b)")))])
    assert "](https://x.example/a_%28b%29)" in text


def test_no_cell_of_the_table_is_a_formula_and_each_image_takes_one_line():
    lines = table("zoo", [credit(replace(ROW, provenance=HOSTILE)), credit(ROW)]).splitlines()
    rows = list(csv.DictReader(lines))
    assert len(lines) == 3
    assert list(rows[0]) == list(Credit.__dataclass_fields__)
    assert rows[0]["author"] == "'=HYPERLINK(evil)"
    assert rows[0]["author_url"] == rows[0]["license_url"] == ""
    assert rows[1]["author"] == "Ann Example"
    cells = {
        "+1": "'+1",
        " @x": "'@x",
        "\t=1": "'=1",
        "a=b": "a=b",
        "a; -1": "a; '-1",
        "\uff1d1": "'\uff1d1",
        "a;b": "a;b",
    }
    assert {text: text_cell(text) for text in cells} == cells


def test_only_kept_images_are_listed_unless_all_are_asked_for(database, tmp_path):
    dataset = make_web("credited")
    assert write_attribution(dataset, tmp_path / "a.csv") == 2
    assert write_attribution(dataset, tmp_path / "b.csv", all=True) == 4
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert [row["image"] for row in rows] == ["cat/" + "2" * 20, "cow/" + "4" * 20]
    assert rows[0]["license"] == "CC0-1.0"
    assert rows[0]["changes"].startswith("shrunk from 80 x 60 to 40 x 30 px")
    for name in ("a.md", "a.html"):
        assert write_attribution(dataset, tmp_path / name) == 2


def test_another_kind_of_file_or_dataset_is_refused(database, tmp_path):
    with pytest.raises(StoreError, match=r"written as \.md, \.csv or \.html"):
        write_attribution(make_web("credited-too"), tmp_path / "a.txt")
    target = store.create_or_open(builders.target_definition("no-authors"), "target")
    with pytest.raises(StoreError, match="only web datasets can be listed with their authors"):
        write_attribution(target, tmp_path / "a.md")
    assert list(tmp_path.iterdir()) == []
