"""Our FiftyOne plugin, found without being copied, beside those that the user has.

FiftyOne looks for plugins in one folder. It is given one of ours, which holds two links: to the plugin in this package,
and to the folder where it would have looked.
"""

import logging
import os
import secrets
from pathlib import Path
from typing import Any

from wss_data.runtime.home import home_folder

LOGGER = logging.getLogger(__name__)

VARIABLE = "FIFTYONE_PLUGINS_DIR"
OURS = Path(__file__).resolve().parents[1] / "plugin"


def offer_plugin(fiftyone: Any) -> None:
    """Let FiftyOne find our plugin, in this process and in those that it starts.

    Without a place to write, the App is as FiftyOne made it, and a warning says so.

    Args:
        fiftyone: The module.
    """
    folder = home_folder() / ".plugins"
    theirs = Path(fiftyone.config.plugins_dir or "~/fiftyone/__plugins__").expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _link(folder / "wss", OURS)
        if theirs != folder:
            _link(folder / "yours", theirs)
    except OSError as error:
        LOGGER.warning("%s: no place for the link to our FiftyOne plugin (%s); the App lacks it.", folder, error)
        return
    os.environ[VARIABLE] = str(folder)
    fiftyone.config.plugins_dir = str(folder)


def _link(path: Path, target: Path) -> None:
    if path.is_symlink() and path.readlink() == target:
        return
    # Renamed into place: another process may be doing the same.
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    temporary.symlink_to(target, target_is_directory=True)
    temporary.replace(path)
