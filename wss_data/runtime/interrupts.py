"""Ctrl-C and SIGTERM: one line and exit status 130 or 143 at any moment of a command, and no process left behind.

Ctrl-C goes to every process of the terminal. The main process alone takes it; workers are started deaf to it, and end
when the main process does, however that ends.
"""

import atexit
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import current_process, resource_tracker
from pathlib import Path
from typing import Any

COMMANDS = ("wss-data", "wss-train")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _State:
    """The signal that asked this process to end, and what the command is called."""

    received: int | None = None
    command = COMMANDS[0]


def listen() -> None:
    """End quietly on Ctrl-C and SIGTERM: for the time before and after a command runs, and for the second signal.

    Nothing is changed where the program is not a command of ours, nor in workers, whose arguments are the command's.
    """
    name = Path(sys.argv[0]).name if sys.argv else ""
    in_charge = current_process().name == "MainProcess" and threading.current_thread() is threading.main_thread()
    if name not in COMMANDS or not in_charge:
        return
    _State.command = name
    for number in _SIGNALS:
        signal.signal(number, _leave)
    sys.unraisablehook = _report_or_leave


def interrupt_me() -> None:
    """From now on the first signal raises ``KeyboardInterrupt``, so that what runs can tidy up; the second ends it."""
    if signal.getsignal(signal.SIGINT) is _leave:
        for number in _SIGNALS:
            signal.signal(number, _raise)


def was_interrupted() -> int | None:
    """Exit status if a signal came: 130 for Ctrl-C, 143 for SIGTERM."""
    return None if _State.received is None else 128 + _State.received


def parting_words(command: str) -> str:
    """What is printed then."""
    what = "interrupted" if _State.received in (None, signal.SIGINT) else "asked to end"
    return f"\n{command}: {what}. Run the same command again to go on where it stopped."


def _raise(number: int, _frame: Any) -> None:
    _State.received = number
    for other in _SIGNALS:
        signal.signal(other, _leave)
    raise KeyboardInterrupt


def _leave(number: int, _frame: Any) -> None:
    again, _State.received = _State.received is not None, _State.received or number
    if not again:
        with suppress(OSError):
            os.write(2, f"{parting_words(_State.command)}\n".encode())
    # Not by an exception, which would end in a traceback of whatever runs at the interpreter's exit.
    os._exit(128 + number)


def _report_or_leave(unraisable: Any) -> None:
    # Raised where nothing can be raised, such as a destructor: lost, and the command would go on.
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        with suppress(OSError):
            os.write(2, f"{parting_words(_State.command)}\n".encode())
        os._exit(was_interrupted() or 130)
    sys.__unraisablehook__(unraisable)


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes and threads that the block starts never get Ctrl-C; what comes meanwhile comes after it."""
    # It lets the signal through again when it is started, which the first process or lock would do.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with(parent: int) -> None:
    """Kill this process, a worker, as soon as ``parent``, the process that started it, has ended, however it ended.

    Not by ``PR_SET_PDEATHSIG``, which means the thread that started it: threads may end before their process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        handle = os.pidfd_open(parent)
    except ProcessLookupError:
        os._exit(1)
    if os.getppid() != parent:  # ended before the handle was there, which may be another process's by now
        os._exit(1)

    def watch() -> None:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        poll.poll()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end with the main process", daemon=True).start()


def _ignore() -> None:
    if signal.getsignal(signal.SIGINT) is _leave:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)


# On import, since what is imported next takes a while.
listen()
# Registered early, so called late: the work is done then, and Python has let go of its handlers.
atexit.register(_ignore)
