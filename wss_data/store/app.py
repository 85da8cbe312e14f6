"""A dataset in the FiftyOne App."""

import logging
import os
import signal
import socket
import sys
import threading
from types import FrameType

from wss_data import database
from wss_data.errors import StoreError
from wss_data.store.appearance import bring_up_to_date
from wss_data.store.connection import fiftyone
from wss_data.store.datasets import open_dataset
from wss_data.store.info import definition, kind_of
from wss_data.store.worker import background_worker


def view_in_app(
    name: str, port: int = 5151, address: str = "localhost", open_browser: bool = True, force: bool = False
) -> None:
    """Show a dataset in the FiftyOne App until Ctrl-C, and run the operators that are sent to the background there.

    Args:
        name: The dataset.
        port: Port of the App.
        address: Address to serve on.
        open_browser: Whether to open a browser, where there is a display.
        force: Whether to allow an address that others can reach. The App has no login and serves every file that the
            user can read.

    Raises:
        StoreError: If there is no such dataset, the address is not local and ``force`` is off, or the port is taken.
    """
    if address not in ("localhost", "127.0.0.1", "::1") and not force:
        raise StoreError(
            f"address {address} can be reached by others, and FiftyOne's App has no login: it would serve them every "
            "file that you can read. Keep localhost and use ssh -L, or use --force."
        )
    dataset = open_dataset(name)
    _check_port(address, port)
    bring_up_to_date(fiftyone(), dataset, definition(dataset), kind_of(dataset))
    logging.getLogger("fiftyone").setLevel(logging.WARNING)  # its notes tell to type Python
    display = sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    page = f":{port}/datasets/{name}"
    session = None
    # Whoever ends the command with kill instead of Ctrl-C wants the App's server to end with it, too.
    before = signal.signal(signal.SIGTERM, _interrupt) if _in_main_thread() else None
    try:
        with background_worker():
            session = fiftyone().launch_app(dataset, port=port, address=address, remote=not (open_browser and display))
            print(f"FiftyOne shows '{name}' at  http://{address}{page}")
            here = f"ssh -L {port}:{address}:{port} {socket.gethostname()}"
            print(f"From another machine:  {here}  and open http://localhost{page}")
            print("Ctrl-C ends it.", flush=True)
            database.stay()
    except KeyboardInterrupt:
        print()
    finally:
        if session is not None:
            session.close()
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _check_port(address: str, port: int) -> None:
    # FiftyOne would silently talk to whatever App listens there, on another database perhaps.
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except (OSError, OverflowError) as error:
            raise StoreError(
                f"port {port} of {address} cannot be used ({error}). Choose another with --port."
            ) from error
