"""Take the screenshots of the App that the pages show, of the drawn dataset: after a change of what the App shows.

    wss-data build drawn && wss-data embed drawn
    python tests/screenshots.py docs/images

The last one leaves the field ``instances`` in the dataset: build it anew before the others are taken again.
"""

import argparse
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from browser import app, choose_view, page_of, run_operator, select_images, shown, wait_for
from PIL import Image

import wss_data

NAME = "drawn"


def masks(page: Any) -> None:
    """Masks in VOC's colours, the least confident first."""
    choose_view(page, "least-confident-first")
    page.locator('[data-cy="looker"]').nth(12).wait_for(timeout=60_000)


def drop(page: Any) -> None:
    """The form of "drop images", where an image of another class is ticked."""
    _view_of_fish(page)
    view = wss_data.open_dataset(NAME).load_saved_view("class fish")
    drawn = zip(view.values("provenance.source_id"), view.values("tags"), strict=True)
    wrong = [position for position, (name, tags) in enumerate(drawn) if "kept" in tags and name.endswith("-wrong")]
    select_images(page, (wrong[0],))
    run_operator(page, "Drop images")
    page.get_by_text("1 selected image").wait_for(timeout=20_000)
    page.locator('[role="dialog"] input, .MuiDialog-root input').first.fill("a mushroom among the fish")


def filter_form(page: Any) -> None:
    """The form of "change the filter" with its preview."""
    _view_of_fish(page)
    run_operator(page, "Change the filter")
    confidence = page.locator('[role="dialog"] input[type="number"], .MuiDialog-root input[type="number"]').nth(2)
    confidence.fill("0.5", timeout=20_000)
    page.get_by_text("kept then").wait_for(timeout=20_000)
    page.wait_for_timeout(3_000)  # the preview follows what is typed


def panel(page: Any) -> None:
    """The panel beside the grid, after a click on the bar of the kept birds."""
    _open_panel(page, "Overview")
    bars = page.locator(".barlayer .point")
    wait_for(lambda: bars.count() > 8, "the panel's bars")
    page.get_by_role("button", name="Show all images").click()
    wait_for(lambda: shown(page) == 160, "all images")
    page.locator(".barlayer").first.locator(".trace").first.locator(".point").first.click(force=True)
    wait_for(lambda: shown(page) < 40, "the kept birds")


def embeddings(page: Any) -> None:
    """The map of all images."""
    _open_panel(page, "Embeddings")
    page.locator('[data-cy="new-panel-btn"]').first.locator("xpath=../../following::button[1]").click(timeout=20_000)
    page.get_by_text("map", exact=True).first.click(timeout=20_000)
    page.wait_for_timeout(5_000)


def annotate(page: Any) -> None:
    """A mask in annotation mode, to which the brush adds a stroke."""
    choose_view(page, "class-mushroom")
    page.locator('[data-cy="looker"]').nth(1).click()
    page.locator('[data-cy="annotate"]').click()
    labels = page.locator('[data-cy="modal"] [data-cy="sidebar"]')
    labels.get_by_text("mushroom", exact=True).first.click(timeout=20_000)
    page.get_by_label("Brush").click()
    page.wait_for_timeout(3_000)
    page.mouse.move(600, 440)
    page.mouse.down()
    page.mouse.move(560, 520, steps=10)
    page.mouse.up()


SHOTS: dict[str, Callable[[Any], None]] = {
    "app_masks": masks,
    "app_drop": drop,
    "app_filter": filter_form,
    "app_panel": panel,
    "app_map": embeddings,
    "app_annotate": annotate,
}


def _view_of_fish(page: Any) -> None:
    choose_view(page, "class-fish")
    wait_for(lambda: shown(page) == 40, "the fish")


def _open_panel(page: Any, name: str) -> None:
    page.locator('[data-cy="new-panel-btn"]').first.click()
    page.get_by_text(name, exact=True).first.click()


def main() -> None:
    """Write each of ``SHOTS`` as a PNG of 256 colours."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", choices=SHOTS, nargs="+", default=list(SHOTS))
    options = parser.parse_args()
    for name in options.only:
        if name == "app_annotate":
            wss_data.make_instances(wss_data.open_dataset(NAME))  # the App then shows them
        # Each with an App of its own, which remembers views and panels.
        with (
            tempfile.TemporaryDirectory() as home,
            app(NAME, Path(home)) as (address, _),
            page_of(address, 1200, 770) as page,
        ):
            SHOTS[name](page)
            page.wait_for_timeout(5_000)  # thumbnails
            picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            picture.quantize(256, dither=Image.Dither.NONE).save(options.out / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
