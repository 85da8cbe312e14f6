"""Runs one ``mongod`` for as long as some process uses it. Started by ``database.py`` as a script of its own.

Only the standard library is imported, so that the isolated interpreter starts in a few hundredths of a second. Three
files in the folder say everything, so that a kill leaves nothing to clean up:

- ``users.lock``: each process that uses the database holds a *shared* lock for as long as it lives. The operating
  system drops it when the process ends, however it ends. The watcher waits for the *exclusive* lock: it gets it when
  the last user is gone, and then stops ``mongod``.
- ``watcher.lock``: the watcher holds an exclusive lock for as long as it lives. A free lock means that no database is
  running, whatever else lies in the folder.
- ``address.json``: where ``mongod`` listens; written when it is ready, removed before it is stopped.

Nobody but the owner of the folder gets an answer from the database: any user of a machine can connect to a port of
it, so ``mongod`` asks for a password. ``password``, of mode 0600, holds it: a new one at every start. ``mongod`` reads
it as its key file, which makes it the password of the user that MongoDB has built in; so nothing is stored in the
database, an old folder needs no change, and no kill can leave a password that does not fit.
"""

import contextlib
import ctypes
import fcntl
import functools
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

USERS = "users.lock"
WATCHER = "watcher.lock"
ADDRESS = "address.json"
LOG = "mongod.log"
PASSWORD = "password"
USER = "__system"  # The user whose password MongoDB takes from its key file; it may do everything
USER_SOURCE = "local"  # MongoDB's database that this user belongs to
FILES = "mongo"

_READY = re.compile(r'"msg":"Waiting for connections","attr":\{"port":(\d+)')
_IN_USE = "DBPathInUse"
_START_SECONDS = 120.0
_STOP_SECONDS = 20.0
_PR_SET_PDEATHSIG = 1  # from linux/prctl.h; Python has no name for it


def main(folder: Path, mongod: Path) -> int:
    """Start ``mongod`` on ``folder``, wait until nobody uses it, stop it. Returns the exit status.

    Status 0: started and stopped, or another watcher was faster. Status 1: ``mongod`` did not start or died.
    """
    watcher = (folder / WATCHER).open("a")
    try:
        fcntl.flock(watcher, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    address = folder / ADDRESS
    address.unlink(missing_ok=True)  # left by a watcher that was killed
    users = (folder / USERS).open("a")

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = _start(folder, mongod)
    try:
        port = _wait_until_ready(server, folder / LOG)
        deadline = time.monotonic() + _STOP_SECONDS
        while port is None and time.monotonic() < deadline and _IN_USE in (folder / LOG).read_text(errors="replace"):
            # The server of a watcher that was killed is still on its way down.
            time.sleep(0.1)
            server = _start(folder, mongod)
            port = _wait_until_ready(server, folder / LOG)
        if port is None:
            return 1
        temporary = address.with_suffix(".new")
        temporary.write_text(json.dumps({"port": port, "mongod": server.pid, "watcher": os.getpid()}) + "\n")
        temporary.replace(address)
        threading.Thread(target=_leave_when_it_dies, args=(server, address), daemon=True).start()
        fcntl.flock(users, fcntl.LOCK_EX)
        return 0
    finally:
        address.unlink(missing_ok=True)
        server.terminate()
        server.wait()
        # In this order: whoever then gets the users' lock must find that no database is running.
        watcher.close()
        users.close()


def _start(folder: Path, mongod: Path) -> subprocess.Popen[bytes]:
    (folder / FILES).mkdir(mode=0o700, exist_ok=True)
    _write_password(folder / PASSWORD)
    with contextlib.suppress(FileNotFoundError):
        (folder / LOG).replace(folder / f"{LOG}.previous")
    command = [str(mongod), "--dbpath", str(folder / FILES), "--logpath", str(folder / LOG)]
    command += ["--bind_ip", "127.0.0.1", "--port", "0", "--nounixsocket"]
    command += ["--auth", "--keyFile", str(folder / PASSWORD)]
    # Otherwise anybody on this machine may make the first user: there is none beside the built-in one.
    command += ["--setParameter", "enableLocalhostAuthBypass=false"]
    # The fewest rounds that it allows; many are for passwords that can be guessed, and every connection waits for them.
    command += ["--setParameter", "scramSHA256IterationCount=5000"]
    # MongoDB sets aside 300 MB for its journal otherwise, on every fresh folder.
    command += ["--wiredTigerEngineConfigString", "log=(file_max=8MB)"]
    command += ["--setParameter", "diagnosticDataCollectionEnabled=false"]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=functools.partial(_die_with_parent, os.getpid()),
    )


def _write_password(path: Path) -> None:
    """Write a new password, readable for the owner only from its first byte on."""
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)  # left by a watcher that was killed
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    temporary.replace(path)


def _die_with_parent(parent: int) -> None:
    """Ask Linux to stop this process when its parent is killed; other systems have no such thing."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # killed before it was asked
        os._exit(1)


def _wait_until_ready(server: subprocess.Popen[bytes], log: Path) -> int | None:
    """The port that ``server`` listens on, or ``None`` if it ended or took too long."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            found = _READY.search(log.read_text(errors="replace"))
            if found:
                return int(found.group(1))
        time.sleep(0.02)
    return None


def _leave_when_it_dies(server: subprocess.Popen[bytes], address: Path) -> None:
    server.wait()
    # The main thread sits in flock; ending the process drops both locks.
    address.unlink(missing_ok=True)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
