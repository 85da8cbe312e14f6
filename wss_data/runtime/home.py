"""Where datasets keep their files."""

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from wss_data.errors import BusyError, StoreError, shown
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


@contextmanager
def read_for_long(paths: Iterable[str]) -> Iterator[None]:
    """Read files of datasets in the block, such as those a run trains on: nobody deletes or renames these meanwhile.

    ``paths``: the files; those that are in no dataset's folder may be any.

    Raises:
        BusyError: If one of the datasets is being deleted or renamed.
    """
    home = f"{home_folder()}{os.sep}"
    names = {path.removeprefix(home).split(os.sep)[0] for path in paths if path.startswith(home)}
    with ExitStack() as held:
        for name in sorted(names):
            folder = home_folder() / name
            if folder.is_dir():
                held.enter_context(_folder_lock(folder, fcntl.LOCK_SH, f"dataset '{name}' is being deleted or renamed"))
        yield


@contextmanager
def read_by_nobody(folder: Path) -> Iterator[None]:
    """Move or remove a dataset's folder in the block, as nobody reads from it (``read_for_long``).

    Raises:
        BusyError: If somebody does.
    """
    with _folder_lock(folder, fcntl.LOCK_EX, f"dataset '{folder.name}' is being trained on"):
        yield


@contextmanager
def _folder_lock(folder: Path, kind: int, what: str) -> Iterator[None]:
    # On the folder itself, not on a file in it: who trains may be somebody who cannot write there.
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"{what} by another process ({folder}). Wait for it to end.") from None
        except OSError:
            pass  # a network disk that locks no folders
        yield
    finally:
        os.close(handle)
