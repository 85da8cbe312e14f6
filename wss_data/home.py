"""Where datasets keep their files."""

import os
from pathlib import Path

HOME_VARIABLE = "WSS_HOME"


def home_folder() -> Path:
    """The folder that holds all datasets' files: ``WSS_HOME``, by default ``~/wss``."""
    return Path(os.environ.get(HOME_VARIABLE) or "~/wss").expanduser().absolute()


def dataset_folder(name: str) -> Path:
    """The folder of one dataset's images, masks, journal and pictures."""
    return home_folder() / name
