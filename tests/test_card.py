"""The card of a dataset: what it tells, what it shows, and what it never gives away."""

import csv
from dataclasses import replace
from datetime import UTC, datetime

import builders
import pytest
import yaml
from builders import ENGINE, definition, make_web, target_definition, write_target

from wss_data import store
from wss_data.commands.cli import main
from wss_data.errors import StoreError
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_data.records import Provenance
from wss_data.sharing.attribution import Credit
from wss_data.sharing.card import may_be_shown, write_card
from wss_data.sharing.card_content import Facts, card_text, dataset_facts, weaknesses
from wss_data.sharing.manifest import read_manifest
from wss_data.spec import FilterSpec
from wss_data.store.provenance import ImageRow, image_rows

DAYS = [datetime(2026, 1, day, tzinfo=UTC) for day in (2, 5)]


def image(class_name: str, number: int, tag: str, ratio: float) -> ImageRow:
    """The image ``number``: three of four come from Flickr, every tenth has no known licence or author."""
    known = {
        "image_url": f"https://x.example/{class_name}_{number}.jpg",
        "author": f"author {number % 70}" if number % 10 else None,
        "license": "CC-BY-2.0" if number % 10 else None,
        "license_url": "https://creativecommons.org/licenses/by/2.0/" if number % 10 else None,
        "retrieved_at": DAYS[number % 2],
    }
    at = Provenance("flickr" if number % 4 else "openverse", f"{class_name}{number}", **known)
    sha256 = f"{number:064x}"
    place = f"{class_name}/{number}"
    known = ("drop" if number == 5 else None, 0.5, f"{place}.png", "common", at, ratio)
    return ImageRow(place, class_name, f"{place}.jpg", sha256, None, (80, 60), (80, 60), (tag,), *known)


SMALL, LARGE = "dropped:too_small", "dropped:too_large"
CATS = [image("cat", n, "kept" if n < 80 else SMALL, 0.37) for n in range(100)]
COWS = [image("cow", n, "kept" if n < 20 else SMALL if n < 80 else LARGE, 0.5) for n in range(100)]
FACTS = Facts(
    spec=definition("zoo"),
    name="zoo",
    created=datetime(2026, 1, 2, tzinfo=UTC),
    rows=[*CATS, *COWS],
    drops={"cat": {"gone": 3}},
    filters=FilterSpec(0.2, 0.8),
    ledger=ENGINE,
)


def test_the_card_counts_classes_sources_licences_and_dates():
    text = card_text(FACTS)
    assert "200 images of 2 classes (cat, cow), found by their class names; 100 are kept." in text
    assert "| cat | cat | 100 | 80 (80%) | 37% | 20 too small |" in text
    assert "| cow | cow | 100 | 20 (20%) | 50% | 60 too small, 20 too large |" in text
    assert "| flickr | 150 |\n| openverse | 50 |" in text
    assert "| CC-BY-2.0 | 90 | https://creativecommons.org/licenses/by/2.0/ |\n| not known | 10 |  |" in text
    assert "Fetched between 2026-01-02 and 2026-01-05." in text
    assert "covers 20% to 80% of the frame" in text and "0 to keep, 2 to drop" in text and "3 gone" in text
    assert "Nothing stronger than image-level labels: **yes**." in text


def test_the_card_tells_of_a_smallest_confidence():
    text = card_text(replace(FACTS, filters=FilterSpec(0.2, 0.8, 0.5)))
    assert "covers 20% to 80% of the frame and whose confidence is 0.5 or more." in text


def test_weaknesses_follow_from_the_numbers():
    told = " ".join(weaknesses(FACTS))
    assert "Fewer than 50 kept images: cow." in told and "Fewer than 25% of the images were kept: cow." in told
    assert "10 kept images have no known licence." in told
    assert "unequal: 80 kept images of one, 20 of another" in told
    assert "No person has judged" not in told and "stronger than image-level" not in told
    masks = Ledger().add("masks drawn by hand", Supervision.MASKS, UsedFor.COSEGMENTATION)
    spec = definition("zoo", classes=["cat"])
    judged = replace(FACTS, spec=spec, ledger=masks, rows=[replace(row, verdict=None) for row in CATS])
    told = " ".join(weaknesses(judged))
    assert "No person has judged" in told and "stronger than image-level" in told and "unequal" not in told


def test_what_strangers_wrote_cannot_break_the_card():
    stranger = Credit("cow/1", "t", "<script>|[x](y)\n# Ann", "", "", "flickr", "CC-BY-2.0", "", "shrunk")
    odd = replace(CATS[0], mask_method="a|b\n## c")
    text = card_text(replace(FACTS, rows=[odd, *CATS[1:], *COWS]), credits=[stranger])
    assert "\\<script\\>\\|\\[x\\](y) \\# Ann (CC-BY-2.0)" in text
    assert "a\\|b \\#\\# c" in text and "\n## c" not in text


@pytest.mark.parametrize("licence", ["CC0-1.0", "CC-PDM-1.0", "CC-BY-2.0", "CC-BY-SA-4.0", "OGL-UK-3.0"])
def test_free_licences_may_be_shown(licence):
    assert may_be_shown(licence)


@pytest.mark.parametrize("licence", [None, "", "CC-BY-ND-2.0", "CC-BY-NC-2.0", "CC-BY-NC-SA-4.0", "Proprietary"])
def test_other_licences_may_not_be_shown(licence):
    assert not may_be_shown(licence)


@pytest.fixture(scope="module")
def web(database):
    """The cats are CC0, the cow is without derivatives; two cats are dropped."""
    plain = builders.record

    def record(name, class_name, digit):
        made = plain(name, class_name, digit)
        at = replace(made.provenance, image_url=f"https://x.example/{digit}.jpg", author="=Ann", title="A | B")
        return replace(made, provenance=replace(at, license="CC-BY-ND-2.0") if class_name == "cow" else at)

    builders.record = record
    try:
        dataset = make_web("card-web")
    finally:
        builders.record = plain
    path = Ledger().add("masks of /home/somebody/masks", Supervision.UNKNOWN, UsedFor.COSEGMENTATION)
    store.set_ledger(dataset, "cosegmentation", path)
    return dataset


def test_a_card_is_a_folder_with_all_that_others_need_and_no_image(web, tmp_path):
    card = write_card(web, tmp_path / "card")
    assert (card.images, card.shown, card.hidden, card.without_url) == (4, 1, 1, 0)
    names = sorted(str(path.relative_to(tmp_path / "card")) for path in (tmp_path / "card").rglob("*.*"))
    listed = ["CREDITS.md", "README.md", "croissant.json", "images.csv", "ledger.json", "manifest.jsonl.gz"]
    assert names == [*listed, "pictures/examples.png", "pictures/foreground_ratio.png"]
    assert len(read_manifest(tmp_path / "card" / "manifest.jsonl.gz").images) == 4
    head = yaml.safe_load((tmp_path / "card" / "README.md").read_text().split("---\n")[1])
    assert (head["pretty_name"], head["license"]) == ("card-web", "other")
    text = (tmp_path / "card" / "README.md").read_text()
    assert "wss-data rebuild manifest.jsonl.gz --name card-web" in text and "somebody" not in text
    assert "=Ann (CC0-1.0)" in text and "(CC-BY-ND-2.0)" not in text, "only who is shown is named as shown"


def test_the_table_of_images_is_one_line_an_image_and_no_formula(web, tmp_path):
    write_card(web, tmp_path / "card")
    rows = list(csv.DictReader((tmp_path / "card" / "images.csv").open()))
    assert [(row["class"], row["kept"], row["dropped"]) for row in rows] == [
        ("cat", "no", "too_small"),
        ("cat", "yes", ""),
        ("cat", "no", "too_large"),
        ("cow", "yes", ""),
    ]
    assert rows[0]["image_url"] == "https://x.example/1.jpg" and (rows[0]["width"], rows[0]["height"]) == ("80", "60")
    assert rows[0]["author"] == "'=Ann"


def test_the_owner_may_show_all_or_none(web, tmp_path):
    assert write_card(web, tmp_path / "all", shown="all").shown == 2
    card = write_card(web, tmp_path / "none", shown="none")
    assert card.shown == 0 and not (tmp_path / "none" / "pictures" / "examples.png").exists()
    assert "examples.png" not in (tmp_path / "none" / "README.md").read_text()
    with pytest.raises(StoreError, match="Known: licensed, all, none"):
        write_card(web, tmp_path / "some", shown="some")


def test_facts_of_a_stored_dataset(web):
    text = card_text(dataset_facts(web, image_rows(web)))
    assert "| cat | cat | 3 | 1 (33%) | 30% | 1 too large, 1 too small |" in text
    assert "| cow | cow | 1 | 1 (100%) | 50% |  |" in text
    assert "Authors named: 1; images without a known author: 0." in text and "Masks: 4 by common." in text


def test_a_target_dataset_has_no_card(database, tmp_path):
    target = store.import_target(target_definition("card-t"), write_target(tmp_path / "voc"))
    with pytest.raises(StoreError, match="only web datasets"):
        write_card(target, tmp_path / "card")


def test_the_command_writes_a_card_and_tells_what_is_hidden(web, tmp_path, capsys):
    assert main(["card", "card-web", "--out", str(tmp_path / "card"), "--masks"]) == 0
    told = capsys.readouterr().out
    assert "card of 4 images" in told and "1 could not be" in told and "--pictures all" in told
    listed = read_manifest(tmp_path / "card" / "manifest.jsonl.gz")
    assert all(image.mask is not None for image in listed.images)
    assert main(["card", "card-web", "--out", str(tmp_path / "card")]) == 2
