"""Calls that may crash, hang or use all memory: they run in worker processes that may be killed.

What libraries do with hostile bytes is not known. Here it costs one worker, never the program.
"""

import ctypes
import os
import pickle
import queue
import resource
import select
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from itertools import accumulate
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Literal

from wss_data.errors import WorkerError
from wss_data.runtime.interrupts import deaf_children

KEPT = 1 << 20  # bytes of memory that a worker keeps for what is handed to it
ATTEMPTS = 2  # workers that may die of one call; the first death can be an accident (a machine short of memory)

_PR_SET_PDEATHSIG = 1  # from linux/prctl.h; Python has no name for it


class KillablePool:
    """Worker processes with limits of memory and time.

    A context manager: leaving it waits for what was submitted, or, on an error, kills the workers and cancels the rest.
    Workers do not run the caller's script again, and end with this process, even if that is killed.

    Args:
        workers: Worker processes, at most.
        memory: Bytes that a worker may take on top of what ``begin`` left it with.
        seconds: Time that one call may take.
        begin: Importable by name; runs in each new worker, to load what the calls need.
    """

    def __init__(self, workers: int, memory: int, seconds: float, begin: Callable[[], object] | None = None) -> None:
        self.workers, self.memory, self.seconds, self.begin = workers, memory, seconds, begin
        self._orders: queue.SimpleQueue[tuple[Future[Any], tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._seats = [_Seat(self) for _ in range(workers)]
        self._threads = [threading.Thread(target=self._serve, args=(seat,), daemon=True) for seat in self._seats]
        # The threads start the processes, which inherit that they never get Ctrl-C.
        with deaf_children():
            for thread in self._threads:
                thread.start()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Hand one call to the workers, pickled; the future's error is what it raised, or that of ``failure``."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        self._orders.put((future, (function, *arguments)))
        return future

    def failure(self, arguments: tuple[Any, ...], reason: Literal["killed", "timeout"], detail: str) -> Exception:
        """The error of a call that killed its workers or took too long; subclasses name what was worked on."""
        return WorkerError(f"a worker process gave no result ({reason}: {detail}).")

    def close(self, wait: bool = True) -> None:
        """End the workers: after their work, or (``wait`` false) now."""
        for _seat in self._seats:
            self._orders.put(None)
        if not wait:
            for seat in self._seats:
                seat.close()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> "KillablePool":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(wait=kind is None)

    def _serve(self, seat: "_Seat") -> None:
        """Run calls one after the other, in a thread of this process."""
        while self._serve_one(seat):
            pass  # a function of its own lets the bytes of a finished call go while this waits for the next
        seat.close()
        os.close(seat.shared)

    def _serve_one(self, seat: "_Seat") -> bool:
        order = self._orders.get()
        if order is None:
            return False
        future, call = order
        try:
            result = seat.run(call)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        return True


class _Seat:
    """The place of one worker process; used by one thread, closed by any."""

    def __init__(self, pool: KillablePool) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._closed = False
        self._connection: Connection[Any, Any] | None = None
        self.shared = os.memfd_create("wss")  # what goes to the process by memory; closed by the thread that serves
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, call: tuple[Any, ...]) -> Any:
        """The result of a call, in this seat's process or a new one."""
        died = ""
        for _attempt in range(ATTEMPTS):
            if self.process is None or self.process.poll() is not None:
                self._start()
            assert self._connection is not None and self.process is not None
            try:
                self._send(call)
                if not self._answers.poll(1000 * self._pool.seconds):
                    self._kill()
                    raise self._pool.failure(call[1:], "timeout", f"not done within {self._pool.seconds:g} seconds")
                result, error = self._connection.recv()
            except (EOFError, ConnectionError):
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(1)  # for its own exit status, not that of the kill
                self._kill()
                if self._closed:
                    break
                died = f"exit status {self.process.returncode}"
                continue
            if error is not None:
                raise error
            return result
        raise CancelledError if self._closed else self._pool.failure(call[1:], "killed", died)

    def _send(self, call: tuple[Any, ...]) -> None:
        """Hand a call over, what is wrapped in ``PickleBuffer`` through memory: a socket takes it in many chunks."""
        assert self._connection is not None
        buffers: list[pickle.PickleBuffer] = []
        order, lengths = pickle.dumps(call, 5, buffer_callback=buffers.append), [len(memoryview(b)) for b in buffers]
        try:
            whole = not buffers or os.pwritev(self.shared, buffers, 0) == sum(lengths)
        except OSError:  # a limit on the size of files, say
            whole = False
        self._connection.send((order, lengths) if whole else (pickle.dumps(call, 5), []))

    def close(self) -> None:
        """Kill the process and start no other."""
        with self._lock:
            self._closed = True
        self._kill()

    def _kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _start(self) -> None:
        # Not by ``multiprocessing``: its workers run the caller's script again, or are forked with its threads' locks.
        self._connection, theirs = Pipe()
        self._answers = select.poll()  # once: the connection's own makes and closes a selector for each look
        self._answers.register(self._connection, select.POLLIN)
        begin = f"import sys; sys.path[:] = {sys.path!r}; from wss_data.runtime.killable import work; "
        code = f"{begin} work({theirs.fileno()}, {self.shared}, {os.getpid()}, {self._pool.memory})"
        with theirs, self._lock:
            if self._closed:
                raise CancelledError
            self.process = subprocess.Popen(
                [sys.executable, "-c", code], pass_fds=[theirs.fileno(), self.shared], stdin=subprocess.DEVNULL
            )
        try:
            self._connection.send(self._pool.begin)
            self._connection.recv()  # it is ready: the time of the first call begins now
        except (EOFError, ConnectionError):
            self._kill()
            if self._closed:
                raise CancelledError from None
            status = self.process.returncode
            raise WorkerError(f"a worker process cannot be started (exit status {status}).") from None


def work(descriptor: int, shared: int, parent: int, memory: int) -> None:
    """What a worker runs until its parent ends: answers to calls by the connection ``descriptor`` and by memory."""
    # By the kernel: a thread that watches the parent would never run while a library hangs and holds Python's lock.
    # It means the thread that started us, which waits for us as long as its process lives.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # ended before that
        os._exit(1)
    connection: Connection[Any, Any] = Connection(descriptor)
    if begin := connection.recv():
        begin()
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    # What libraries print about hostile files would tear the progress bar; what matters of it is in the errors.
    warnings.simplefilter("ignore")
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    connection.send(None)
    with suppress(EOFError, ConnectionError):
        while True:
            order, lengths = connection.recv()
            ends = [0, *accumulate(lengths)]
            try:
                buffers = [os.pread(shared, length, start) for length, start in zip(lengths, ends, strict=False)]
                if ends[-1] > KEPT:
                    os.ftruncate(shared, 0)
                function, *arguments = pickle.loads(order, buffers=buffers)
                del buffers
                answer = pickle.dumps((function(*arguments), None))
            except BaseException as error:
                answer = pickle.dumps((None, error))
            connection.send_bytes(answer)
