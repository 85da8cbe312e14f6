"""A dataset in the FiftyOne App."""

import os
import signal
import subprocess
import sys
import threading
import webbrowser
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from socket import gethostname
from types import FrameType

from wss_data.errors import StoreError
from wss_data.runtime import database
from wss_data.runtime.files import expanded
from wss_data.store.appearance import bring_up_to_date
from wss_data.store.datasets import open_dataset
from wss_data.store.guard import LOOPBACK
from wss_data.store.info import definition, kind_of, mask_fields
from wss_data.store.server import Media, guarded_server
from wss_data.store.types import Dataset
from wss_data.store.worker import background_worker


def view_in_app(
    name: str,
    port: int = 5151,
    address: str = "localhost",
    open_browser: bool = True,
    force: bool = False,
    media: Sequence[Path | str] = (),
) -> None:
    """Show a dataset in the FiftyOne App until Ctrl-C, and run the operators that are sent to the background there.

    The App answers its own page and programs of this user (on Linux: of nobody else on this machine), and shows files
    of the datasets' folders only.

    Args:
        name: The dataset.
        port: Port of the App.
        address: Address to serve on.
        open_browser: Whether to open a browser, where there is a display.
        force: Whether to answer others: their programs on this machine, and at an address that they can reach. The
            App has no login: they see all datasets of the database, and can change and delete them.
        media: Folders whose files are shown, too.

    Raises:
        StoreError: If there is no such dataset, the address is not local and ``force`` is off, the port is taken, a
            folder is missing, or the App does not start.
    """
    if address not in LOOPBACK and not force:
        raise StoreError(
            f"address {address} can be reached by others, and FiftyOne's App has no login: it would let them see, "
            "change and delete every dataset. Keep localhost and use ssh -L, or use --force."
        )
    folders = [expanded(folder).absolute() for folder in media]
    if missing := [str(folder) for folder in folders if not folder.is_dir()]:
        raise StoreError(f"there is no folder {', '.join(missing)} to show files of.")
    dataset = open_dataset(name)
    bring_up_to_date(dataset, definition(dataset), kind_of(dataset))
    display = sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    host = f"[{address}]" if ":" in address else address  # an IPv6 address in a URL is in brackets
    page = f"http://{host}:{port}/datasets/{name}"
    # Whoever ends the command with kill instead of Ctrl-C wants the App's server to end with it, too.
    # Python lets only the main thread set a handler; a notebook may call this from another.
    in_charge = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _interrupt) if in_charge else None
    try:
        with background_worker(), guarded_server(address, port, folders, others=force) as server:
            print(f"FiftyOne shows '{name}' at  {page}")
            here = f"ssh -L {port}:{host}:{port} {gethostname()}"
            print(f"From another machine:  {here}  and open http://localhost:{port}/datasets/{name}")
            for folder, files in _not_shown(dataset, folders).items():
                print(f"Not shown: {files:,} files in {folder}, which is no folder of a dataset. With them: --media")
            print("Ctrl-C ends it.", flush=True)
            if open_browser and display:
                webbrowser.open(page, new=2)
            database.stay(lambda: _check(server))
    except KeyboardInterrupt:
        print()
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _check(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is not None:
        raise StoreError(f"the App's server ended (status {server.returncode}). Start the view again.")


def _not_shown(dataset: Dataset, media: Sequence[Path]) -> Counter[str]:
    """Folder -> number of the dataset's files in it that the App does not serve."""
    columns = dataset.values(["filepath", *(f"{field}.mask_path" for field in mask_fields(dataset))])
    files = Counter(os.path.dirname(path) for column in columns for path in column if path)
    serves = Media(media).serves
    return Counter({folder: number for folder, number in files.items() if not serves(folder)})


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
