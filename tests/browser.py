"""The App in a real headless browser: an App of its own process on the tests' database, and a page that looks at it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

_VIEW = (
    "import sys; from wss_data.commands.cli import main; sys.exit(main(['view', sys.argv[1], '--port', sys.argv[2]]))"
)
_START_SECONDS = 120.0
_OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE localhost"


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def chromium() -> str:
    """A browser to drive; skips where there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("no Chromium on the PATH: `make test` as root installs Debian's, else apt install chromium")


@contextmanager
def app(name: str, home: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """``wss-data view`` on the tests' database.

    Args:
        name: The dataset.
        home: A folder where FiftyOne may note what it has reported.

    Yields:
        Address of the dataset's page, and the process, which is ended afterwards.
    """
    port, log = free_port(), home / "view.log"
    environment = {**os.environ, "HOME": str(home), "OMP_NUM_THREADS": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", _VIEW, name, str(port)],
            stdout=out,
            stderr=out,
            env=environment,
            start_new_session=True,
        )
    try:
        wait_for(lambda: "Ctrl-C" in log.read_text() or process.poll() is not None, "the App", _START_SECONDS)
        assert process.poll() is None, log.read_text()
        yield f"http://localhost:{port}/datasets/{name}", process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextmanager
def page_of(address: str, width: int = 1400, height: int = 900) -> Iterator[Any]:
    """A page of a headless browser that shows ``address``, when its first images are there: a first visit, offline.

    At the end ``AssertionError`` if the page asked any other server for anything.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser: pip install .[dev]")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium(), args=["--no-sandbox", _OFFLINE])
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            here = (address.partition("/datasets/")[0], "data:", "blob:")
            elsewhere: list[tuple[str, str]] = []
            # Without names of hosts none succeeds; what the server's own policy stops in the browser is none sent.
            page.on("requestfailed", lambda asked: elsewhere.append((asked.url, asked.failure)))
            page.goto(address)
            page.wait_for_selector('[data-cy="looker"]', timeout=60_000)
            yield page
            assert not [asked for asked in elsewhere if not asked[0].startswith(here) and asked[1] != "csp"]
        finally:
            browser.close()


def pixels(page: Any) -> np.ndarray:
    """What the page shows. Returns (H, W, 3), uint8."""
    return np.asarray(Image.open(BytesIO(page.screenshot())).convert("RGB"))


def wait_for(condition: Any, what: str, seconds: float = 20.0) -> Any:
    """What ``condition()`` returns as soon as that is true; ``what`` names it if it never is."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.2)
    return result


def shown(page: Any) -> int:
    """Number of images that the App says it shows."""
    return int(page.locator('[data-cy="entry-counts"]').inner_text().split()[0].replace(",", ""))


def choose_view(page: Any, slug: str) -> None:
    """Choose a saved view in the side bar; ``slug`` is its name with hyphens."""
    page.locator('[data-cy="saved-views-selection"]').click()
    page.locator(f'[data-cy="saved-views-{slug}-selection-option"]').click()


def select_images(page: Any, positions: tuple[int, ...]) -> None:
    """Tick images of the grid, counted from 0 in the order of the page."""
    for position in positions:
        looker = page.locator('[data-cy="looker"]').nth(position)
        looker.hover()
        box = looker.bounding_box()
        page.mouse.click(box["x"] + 18, box["y"] + 18)


def type_operator(page: Any, word: str) -> None:
    """Open FiftyOne's list of operators, and type into its search."""
    page.keyboard.press("Backquote")
    page.wait_for_function("document.activeElement.tagName === 'INPUT'")
    page.keyboard.type(word, delay=20)


def run_operator(page: Any, label: str) -> None:
    """Open the form of an operator from FiftyOne's list of them."""
    type_operator(page, label)
    page.keyboard.press("Enter")
