"""Where datasets keep their files."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wss_data.errors import StoreError, shown
from wss_data.reading.listing import require_text
from wss_data.runtime.files import expanded, sole_owner

HOME_VARIABLE = "WSS_HOME"

_SEPARATORS = frozenset("/\\\0")  # a name with one would be a path


def home_folder() -> Path:
    """The folder that holds all datasets' files: ``WSS_HOME``, by default ``~/wss``."""
    path = expanded(os.environ.get(HOME_VARIABLE) or "~/wss").absolute()
    return require_text(path, f"the datasets' files ({HOME_VARIABLE})")


def dataset_folder(name: str) -> Path:
    """The folder of one dataset's images, masks, journal and sheets.

    Raises:
        StoreError: If the name leads elsewhere: a dataset of a shared database may have been given any.
    """
    if name.startswith(".") or _SEPARATORS.intersection(name):
        raise StoreError(
            f"the dataset's name {shown(name)} is no name of a folder. Give it another one in FiftyOne, of letters, "
            "digits, '-' and '_'."
        )
    return home_folder() / name


@contextmanager
def dataset_owner(name: str) -> Iterator[Path]:
    """Work on a dataset as the only process that changes images, masks or tags; yields its folder.

    Raises:
        BusyError: If another process builds or changes it.
    """
    # Commands that only read do not ask: records are read in one go, and files are only ever replaced whole. A person's
    # verdict is added to its file under a lock of its own.
    folder = dataset_folder(name)
    with sole_owner(folder / "lock", f"dataset '{name}' is being built or changed"):
        yield folder
