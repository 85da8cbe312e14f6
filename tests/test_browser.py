"""The App in a real headless browser, on a made-up dataset and on photographs of the web."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import app, choose_view, page_of, pixels, run_operator, select_images, shown, type_operator, wait_for
from builders import ENGINE, definition, mask_values, record

from wss_data import store
from wss_data.imaging.images import list_images, read_image, resize_longest_side, write_jpeg
from wss_data.imaging.masks import voc_palette
from wss_data.store.appearance import DROPPED_COLOUR, KEPT_COLOUR

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("database")]

# What a form shows does not depend on the images.
of_any_images = pytest.mark.parametrize("opened", ["made-up"], indirect=True)

IMAGES = {"cat": "1234", "cow": "5678", "dog": "9abc"}
"""Class -> digits of its images. The third class has VOC's first colour of two channels, (128, 128, 0)."""


def made_up(name: str, photographs: Path | None = None) -> Any:
    """Four images a class; the mask is the top half of the frame, of each class's first image only a tenth."""
    spec = definition(name, classes=list(IMAGES))
    dataset = store.create_or_open(spec, "web")
    records = [record(name, class_name, digit) for class_name, digits in IMAGES.items() for digit in digits]
    if photographs is not None:
        pictures = {class_name: list_images(photographs / class_name) for class_name in IMAGES}
        for position, item in enumerate(records):
            picture = read_image(pictures[item.class_name][position % 4])
            write_jpeg(resize_longest_side(picture, 340), Path(item.path))
    store.add_records(dataset, records)
    for class_name, digits in IMAGES.items():
        members = store.group_members(dataset, class_name)
        masks = [mask_values(dataset, m, 0.1 if m.sha256[0] == digits[0] else 0.5) for m in members]
        store.set_masks(dataset, "cosegmentation", masks)
    store.set_ledger(dataset, "cosegmentation", ENGINE)
    store.apply_filter(dataset, spec.filters)
    return dataset


@pytest.fixture(scope="module", params=["made-up", pytest.param("photographs", marks=pytest.mark.data)])
def opened(request: pytest.FixtureRequest, database: str, tmp_path_factory: Any) -> Iterator[tuple[Any, Any]]:
    """A dataset, and a page of the App that shows it."""
    photographs = None
    if request.param == "photographs":
        photographs = request.getfixturevalue("test_data") / "web_animals" / "images"
    dataset = made_up(f"browser-{request.param}", photographs)
    with app(dataset.name, tmp_path_factory.mktemp("home")) as (address, _), page_of(address) as page:
        yield dataset, page


def tinted(picture: np.ndarray, value: int) -> int:
    """Number of pixels that can be VOC's colour of ``value``, laid at the App's 70 % over something."""
    lowest = 0.7 * np.array(voc_palette()[value])
    inside = (picture >= lowest - 4) & (picture <= lowest + 0.3 * 255 + 4)
    return int(inside.all(axis=-1).sum())


@of_any_images
def test_the_first_click_of_a_first_visit_is_not_taken_by_an_advertisement(opened):
    _, page = opened
    assert page.get_by_text("Explore Enterprise").count() == 1, "the button, and not what FiftyOne lays over the grid"
    choose_view(page, "kept")
    wait_for(lambda: shown(page) == 9, "the 9 kept images")


def test_masks_are_drawn_in_vocs_colours_and_keep_them_when_the_view_changes(opened):
    _, page = opened
    for value, class_name in enumerate(IMAGES, start=1):
        choose_view(page, f"class-{class_name}")
        wait_for(lambda: shown(page) == 4, f"the images of {class_name}")
        # A row of four frames, about 1050 x 200 pixels: three half covered, one a tenth.
        wait_for(lambda value=value: tinted(pixels(page), value) > 50_000, f"masks in the colour of {class_name}")


def test_kept_and_dropped_images_differ_in_the_grid_and_the_side_bar_says_which_end_of_a_number_is_suspicious(opened):
    _, page = opened
    choose_view(page, "class-cat")
    wait_for(lambda: shown(page) == 4, "the cats")
    for colour in (KEPT_COLOUR, DROPPED_COLOUR):
        rgb = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)])
        wait_for(lambda rgb=rgb: (pixels(page) == rgb).all(axis=-1).sum() > 200, f"a tag in {colour}")
    groups = page.evaluate("[...document.querySelectorAll('input')].map(input => input.value.toLowerCase())")
    assert sum("suspicious if" in group for group in groups) == 4


def test_a_saved_view_shows_its_images_and_their_number(opened):
    dataset, page = opened
    choose_view(page, "kept")
    wait_for(lambda: shown(page) == 9, "the 9 kept images")
    choose_view(page, "dropped-too-small")
    wait_for(lambda: shown(page) == 3, "the 3 images with too small masks")
    dataset.reload()  # the App's process saved the views that show something
    assert dataset.load_saved_view("dropped: too small").count() == 3
    assert dataset.list_saved_views() == [
        *("kept", "most suspicious first", "least confident first", "dropped: too small"),
        *("class cat", "class cow", "class dog"),
    ]


def test_two_images_dropped_in_the_app_are_dropped_in_the_database_and_not_trained_on(opened):
    dataset, page = opened
    choose_view(page, "kept")
    wait_for(lambda: shown(page) == 9, "the 9 kept images")
    select_images(page, (0, 1))
    run_operator(page, "Drop images")
    page.get_by_text("2 selected image").wait_for(timeout=20_000)
    page.locator('[role="dialog"] input, .MuiDialog-root input').first.fill("drawn by hand")
    page.get_by_role("button", name="Execute").click()

    dropped = wait_for(lambda: _dropped(dataset) if len(_dropped(dataset)) == 2 else None, "two dropped images")
    assert set(dropped.values()) == {"drawn by hand"}
    wait_for(lambda: shown(page) == 7, "the view of kept images without them")
    choose_view(page, "dropped-your-verdict")  # offered since it has an image
    wait_for(lambda: shown(page) == 2, "the two dropped images")
    table = store.example_table(dataset.match_tags("kept"), "cosegmentation")
    assert len(table.ids) == 7 and not set(table.ids) & set(dropped)


def _dropped(dataset: Any) -> dict[str, str]:
    dataset.reload()
    view = dataset.match_tags("dropped:verdict")
    return dict(zip(*view.values(["image_id", "verdict_reason"]), strict=True))


@of_any_images
@pytest.mark.parametrize(
    ("word", "icon", "heading"),
    [
        ("keep", "thumb_up", "Keep images"),
        ("drop", "thumb_down", "Drop images"),
        ("filter", "filter_alt", "Change the filter"),
    ],
)
def test_a_word_typed_into_the_list_of_operators_finds_ours_first(opened, word, icon, heading):
    _, page = opened
    type_operator(page, word)
    try:
        found = page.locator('[data-cy="operators-browser"]').inner_text().splitlines()
        assert found[:2] == [icon, heading]
    finally:
        page.keyboard.press("Escape")


@of_any_images
def test_options_of_a_second_co_segmentation_are_typed_line_by_line_without_the_internet(opened):
    _, page = opened
    run_operator(page, "Co-segment again")
    options = page.locator('[role="dialog"] textarea:visible').first
    options.click(timeout=20_000)
    page.keyboard.type("long_side: 384\nlong_sight: 1")
    page.get_by_text("long_sight").last.wait_for(timeout=20_000)
    page.get_by_text("This cannot be done here").wait_for(timeout=20_000)
    page.get_by_role("button", name="Cancel").click()


@of_any_images
def test_the_panel_shows_charts_and_a_click_on_a_bar_its_images(opened):
    dataset, page = opened
    page.locator('[data-cy="new-panel-btn"]').first.click()
    page.get_by_text("Overview", exact=True).click()
    bars = page.locator(".barlayer .point")
    wait_for(lambda: bars.count() > 20, "the panel's bars")
    assert page.get_by_text("Images of each class").count() and page.get_by_text("Licences").count()
    page.locator(".barlayer").first.locator(".trace").last.locator(".point").first.click(force=True)
    # The last series of the first chart: dropped images; its first bar: those of the first class.
    dropped = dataset.match({"label.label": "cat", "tags": {"$ne": "kept"}}).count()
    wait_for(lambda: shown(page) == dropped < 4, "the dropped images of the first class")
    page.get_by_role("button", name="Show all images").click()
    wait_for(lambda: shown(page) == 12, "all images")


@of_any_images
def test_a_mask_that_is_painted_on_in_annotation_mode_comes_back_as_a_persons(opened):
    dataset, page = opened
    images = store.make_instances(dataset)
    page.reload()
    choose_view(page, "class-cow")
    wait_for(lambda: shown(page) == 4, "the cows")
    page.locator('[data-cy="looker"]').nth(1).click()
    page.locator('[data-cy="annotate"]').click()
    labels = page.locator('[data-cy="modal"] [data-cy="sidebar"]')
    labels.get_by_text("cow", exact=True).first.click()  # listed, as the field is ticked
    page.get_by_label("Brush").click()
    canvas = page.locator('[data-cy="lighter-sample-renderer-canvas"]').bounding_box()
    left, top = canvas["x"] + canvas["width"] / 2, canvas["y"] + canvas["height"] / 2

    def brought_back() -> Any:
        # Again, until the tool is ready. A made-up image has few pixels, each many of the screen's.
        page.mouse.move(left, top)
        page.mouse.down()
        for down in range(0, 100, 20):
            page.mouse.move(left + 100 * (down // 20 % 2), top + down)
            page.mouse.move(left + 100 * (1 - down // 20 % 2), top + down)
        page.mouse.up()
        dataset.reload()
        _, report = store.import_field(dataset, "instances")
        return report if report.unchanged < images else None

    report = wait_for(brought_back, "the edit in the database")
    assert (report.imported["cow"], report.unchanged) == (1, images - 1)
    (edited,) = dataset.exists("cosegmentation_instances.mask_path")
    before, after = (store.mask_array(edited, field) for field in ("cosegmentation", "cosegmentation_instances"))
    assert ((after != 0) >= (before != 0)).all() and 0 < (after != before).sum() < before.size / 4
