"""FiftyOne's App server behind our guard, as a process of its own; FiftyOne would start its own without one.

The view opens the port and hands it over, so that no other program can listen there in between, and shows the App only
when the guard was seen to refuse.
"""

import asyncio
import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wss_data.errors import StoreError
from wss_data.runtime.files import expanded
from wss_data.runtime.home import dataset_folder
from wss_data.store.connection import fiftyone, mongodb
from wss_data.store.guard import Guard, users_are_seen
from wss_data.store.worker import companion, end_with_parent

_START_SECONDS = 150.0  # importing FiftyOne took up to half a minute on a busy machine
_LOOK_AGAIN_SECONDS = 1.0  # so that a page of many refused files does not read the database once a file

_JOURNAL = "journal.sqlite"  # in every folder that a build made
_TARGET_FOLDERS = ("JPEGImages", "img")  # what the folders of VOC's and SBD's images are called


@contextmanager
def guarded_server(
    address: str, port: int, media: Sequence[Path] = (), others: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """Serve the App at ``address`` and ``port`` while the block runs; yields the server's process when it answers.

    Files of the folders ``media`` are served, too; ``others``: whether other users of this machine are answered.

    Raises:
        StoreError: If the port is taken, or the server does not start with its guard.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        opened = socket.create_server((address, port), family=family)
    except (OSError, OverflowError) as error:
        raise StoreError(f"port {port} of {address} cannot be used ({error}). Choose another with --port.") from error
    with opened as listening, tempfile.TemporaryFile() as errors:
        code = "from wss_data.store.server import main; main()"
        arguments = (str(listening.fileno()), address, str(int(others)), *(str(folder) for folder in media))
        with companion(code, *arguments, inherited=[listening.fileno()], errors=errors) as server:
            here = listening.getsockname()
            listening.close()  # so that it refuses when the server has ended
            _wait_until_guarded(server, here[0], here[1], errors)
            yield server


def _wait_until_guarded(server: subprocess.Popen[bytes], address: str, port: int, errors: Any) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            # No site has a name in .example (RFC 2606).
            answers = [_status(address, port, host) for host in (f"localhost:{port}", "foreign.example")]
        except OSError:
            time.sleep(0.1)  # it is starting
            continue
        if answers == [200, 403]:
            return
        raise StoreError(
            f"the App's server answers {answers[0]} to its own page and {answers[1]} to another site's, instead of 200 "
            "and 403: it is not started. Is the FiftyOne installed one that this version of wss is made for?"
        )
    errors.seek(0)
    reason = errors.read().decode(errors="replace").strip().splitlines() or ["it does not answer"]
    raise StoreError(f"the App's server did not start: {reason[-1]}.")


def _status(address: str, port: int, host: str) -> int:
    # An address that stands for all of this machine's is none to connect to; the loopback is one of them.
    server = http.client.HTTPConnection({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address), port, timeout=5)
    try:
        server.request("GET", "/fiftyone", headers={"Host": host})
        return server.getresponse().status
    except http.client.HTTPException as error:
        raise OSError(str(error)) from error
    finally:
        server.close()


class Media:
    """Which files the App may show: those below the folders of the database's datasets, and below ``more``.

    The folders are those below ``WSS_HOME``, those of builds elsewhere, the images of VOC and SBD that targets were
    imported from, and FiftyOne's own two.
    """

    # What a record says counts for nothing, because records come from others, too.

    def __init__(self, more: Sequence[Path | str] = ()) -> None:
        self._more = [expanded(folder) for folder in more]
        self._names: set[str] = set()
        self._folders: set[Path] = set()
        self._next_look = 0.0

    def serves(self, path: str) -> bool:
        """Whether the file, or folder, at an absolute path may be shown."""
        try:
            real = Path(path).resolve()  # links are followed first: one in a dataset's folder may lead anywhere
        except (OSError, ValueError, RuntimeError):
            return False
        if not os.path.isabs(path):
            return False
        # A look asks the database for all datasets, so it is only made for a path that is in none known.
        if not self._holds(real) and time.monotonic() >= self._next_look:
            self._look()  # a dataset may be new
            self._next_look = time.monotonic() + _LOOK_AGAIN_SECONDS
        return self._holds(real)

    def _holds(self, real: Path) -> bool:
        above = [real, *real.parents]
        return any(folder in self._folders for folder in above) or any(
            folder.name in self._names and (folder / _JOURNAL).is_file() for folder in above
        )

    def _look(self) -> None:
        fo = fiftyone()
        folders = [*self._more, Path(fo.config.default_dataset_dir), Path(fo.config.dataset_zoo_dir)]
        wanted = {"name": 1, "info.wss.source_folder": 1, "info.wss.image_folders": 1}
        for row in mongodb().datasets.find({}, wanted):
            name, known = row.get("name"), ((row.get("info") or {}).get("wss") or {})
            if isinstance(name, str) and Path(name).name == name and not name.startswith("."):
                self._names.add(name)
                folders.append(dataset_folder(name))
            images = [f"{known.get('source_folder')}/{_TARGET_FOLDERS[0]}", *(known.get("image_folders") or ())]
            folders += [path for path in map(Path, map(str, images)) if path.name in _TARGET_FOLDERS]
        self._folders = {folder.resolve() for folder in folders if folder.is_absolute()}


# What FiftyOne's App notes in the browser once its advertisement, which lies over the grid and takes the first click
# at the first visit, was closed.
_ADVERTISEMENT_SEEN = "<script>localStorage.setItem('fiftyone-enterprise-tooltip-seen', 'true')</script>"


def _without_advertisement(static: Any) -> None:
    """Make ``static``, FiftyOne's class that serves the App's files, say that the advertisement was seen."""
    from starlette.responses import HTMLResponse

    served = static.file_response

    def file_response(self: Any, full_path: Any, *arguments: Any, **named: Any) -> Any:
        if Path(full_path).name != "index.html":
            return served(self, full_path, *arguments, **named)
        page = Path(full_path).read_text(encoding="utf-8").replace("<head>", f"<head>{_ADVERTISEMENT_SEEN}", 1)
        return HTMLResponse(page, headers={"cache-control": "no-store"})

    static.file_response = file_response


def main() -> None:
    """Serve FiftyOne's App on the socket whose descriptor is in ``sys.argv``, until the view ends."""
    end_with_parent()
    os.environ["FIFTYONE_SERVER"] = "1"  # as FiftyOne's own entry does: what it caches would be old in a server
    fiftyone()  # connects first: what follows imports FiftyOne
    from fiftyone.server.app import Static, app
    from fiftyone.server.events import set_port
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    _without_advertisement(Static)
    descriptor, address, others, *media = sys.argv[1:]
    owner = os.getuid() if not int(others) and users_are_seen() else None
    with socket.socket(fileno=os.dup(int(descriptor))) as listening:
        set_port(listening.getsockname()[1])
    config = Config()
    config.bind = [f"fd://{descriptor}"]
    guarded: Any = Guard(app, address, Media(media).serves, owner)  # to mypy, hypercorn's own words for ASGI are others
    asyncio.run(serve(guarded, config))
