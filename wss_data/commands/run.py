"""Run one command of either program: what can go wrong becomes one line and an exit status."""

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout

from wss_data.errors import WssError
from wss_data.errors.text import CleanStream, visible
from wss_data.runtime import interrupts
from wss_data.runtime.database import loss_reported


def run(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    check: Callable[[argparse.Namespace], object] = lambda options: None,
) -> int:
    """Parse and run one command; turn what can go wrong into one line and an exit status.

    Args:
        parser: Of the program.
        arguments: The words of the command line; ``None`` for those of this process.
        check: Called with the options before the command, to refuse at once what would be refused after slow imports.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not where a test or a notebook put a stream of its own
            stream.reconfigure(errors="backslashreplace")  # a file name that is not UTF-8 must not end a command
    # Here, for all that is printed: names of files, titles, authors and addresses may come from strangers.
    with redirect_stdout(CleanStream(sys.stdout)), redirect_stderr(CleanStream(sys.stderr)):
        return _run(parser, arguments, check)


def _run(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    check: Callable[[argparse.Namespace], object],
) -> int:
    try:
        interrupts.interrupt_me()
        options = parser.parse_args(arguments)
        with loss_reported():
            check(options)
            status = options.command(options) or 0
        if status and interrupts.was_interrupted():
            raise KeyboardInterrupt  # swallowed on the way: an import in C made another exception of it, say
        return status
    except KeyboardInterrupt:
        print(interrupts.parting_words(parser.prog), file=sys.stderr)
        return interrupts.was_interrupted() or 130  # 128 + SIGINT, as a shell reports it
    except Exception as error:
        if status := interrupts.was_interrupted():
            # What was going on made another exception of it: an import in C, say.
            print(interrupts.parting_words(parser.prog), file=sys.stderr)
            return status
        return _report(parser, error)
    finally:
        interrupts.listen()  # while Python ends, too, Ctrl-C leaves no traceback


def _report(parser: argparse.ArgumentParser, error: Exception) -> int:
    """Print in one line what went wrong, and return the exit status; raise what nobody foresaw."""
    if isinstance(error, BrokenPipeError):
        # The reader of our output left (`| head`); Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE  # as a shell reports a program that the signal ended
    if isinstance(error, WssError):
        words = str(error)
    elif isinstance(error, UnicodeEncodeError):
        # An argument of the command, say: file names below a given folder are taken as they are.
        words = f"{error.object!r} is not UTF-8, which is wanted here. Rename it."
    elif isinstance(error, OSError):
        where = f"{visible(str(error.filename))}: " if error.filename else ""
        words = f"{where}{error.strerror or error}. Nothing half-written was kept."
    else:
        raise error  # a mistake of ours: its traceback is what a report needs
    print(f"{parser.prog}: {words}", file=sys.stderr)
    return 2
