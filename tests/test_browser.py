"""The App in a real headless browser, on a made-up dataset and on photographs of the web."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import app, choose_view, page_of, pixels, run_operator, select_images, shown, wait_for
from builders import ENGINE, definition, mask_values, record

from wss_data import store
from wss_data.imaging.images import list_images, read_image, resize_longest_side, write_jpeg
from wss_data.imaging.masks import voc_palette

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("database")]

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


def test_masks_are_drawn_in_vocs_colours_and_keep_them_when_the_view_changes(opened):
    _, page = opened
    for value, class_name in enumerate(IMAGES, start=1):
        choose_view(page, f"class-{class_name}")
        wait_for(lambda: shown(page) == 4, f"the images of {class_name}")
        # A row of four frames, about 1050 x 200 pixels: three half covered, one a tenth.
        wait_for(lambda value=value: tinted(pixels(page), value) > 50_000, f"masks in the colour of {class_name}")


def test_a_saved_view_shows_its_images_and_their_number(opened):
    dataset, page = opened
    choose_view(page, "kept")
    wait_for(lambda: shown(page) == 9, "the 9 kept images")
    choose_view(page, "too-small")
    wait_for(lambda: shown(page) == 3, "the 3 images with too small masks")
    assert dataset.load_saved_view("too small").count() == 3


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
    table = store.example_table(dataset.match_tags("kept"), "cosegmentation")
    assert len(table.ids) == 7 and not set(table.ids) & set(dropped)


def _dropped(dataset: Any) -> dict[str, str]:
    dataset.reload()
    view = dataset.match_tags("dropped:verdict")
    return dict(zip(*view.values(["image_id", "verdict_reason"]), strict=True))


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
