"""From the bytes that a stranger sent to a stored file, in worker processes that may be killed.

What image libraries do with hostile bytes is not ours to know: they may crash,
hang or eat the memory. So the bytes are decoded where that costs one worker,
never the build.
"""

import ctypes
import fcntl
import hashlib
import os
import resource
import shutil
import signal
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import current_process, forkserver, spawn
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.util import Finalize
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from wss_data.errors import ImageError
from wss_data.imaging.images import decode_shrunk, encode_jpeg
from wss_data.records import stem_of
from wss_data.runtime.files import new_temporary_folder, remove_unfinished, write_bytes
from wss_data.runtime.interrupts import deaf_children
from wss_data.runtime.parallel import default_workers

if TYPE_CHECKING:
    from pebble import ProcessPool

_HASHED_SIDE = 64
"""Images are averaged to at most this many pixels a side before they are hashed."""

_ATTEMPTS = 2
"""So many workers may die of one image; the first death can be an accident (a machine short of memory)."""

_PIPE_BYTES = 1 << 20
"""Room in the pipe to the workers, so that a whole image is handed over at once; the most that Linux usually allows."""

_PRELOADED = ["wss_data.retrieval.decode_pool", "imagehash", "scipy.fftpack", "simplejpeg"]
"""Loaded once, by the process that workers are forked from."""

_PR_SET_PDEATHSIG = 1
_STARTING = threading.Lock()


@dataclass(frozen=True)
class Decoded:
    """One stored image.

    Args:
        sha256: Hex digest of the original bytes.
        path: The stored file, ``<folder>/<first 20 digits of sha256>.jpg``.
        size: Stored (width, height) in pixels.
        original_size: (width, height) of the upright original in pixels.
        phash: Perceptual hash, 16 hex digits.
    """

    sha256: str
    path: Path
    size: tuple[int, int]
    original_size: tuple[int, int]
    phash: str


def decode_to_file(data: bytes, name: str, folder: Path, longest_side: int) -> Decoded:
    """Verify, shrink, hash and store the bytes of one image.

    The same bytes give the same file wherever and however often this is done.

    Args:
        data: The original file's bytes.
        name: What to call it in an error.
        folder: Where the file goes; made where it is missing.
        longest_side: Longest side of the stored image, in pixels; smaller images keep their size.

    Returns:
        What was stored.

    Raises:
        ImageError: If it is no usable image, as ``decode_shrunk``.
        OSError: If the file cannot be written (disk full, say); ``errno`` says why.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    image, original_size = decode_shrunk(data, name, longest_side)
    path = folder / f"{stem_of(sha256)}.jpg"
    write_bytes(path, encode_jpeg(image))
    return Decoded(sha256, path, (image.shape[1], image.shape[0]), original_size, perceptual_hash(image))


def perceptual_hash(image: np.ndarray) -> str:
    """Perceptual hash of an image, as 16 hex digits. ``image``: (H, W, 3), uint8, RGB.

    Near-duplicates differ in few of the 64 bits. The image is averaged to 64
    pixels a side first, which saves most of the time and changes at most 2 bits.

    Source:
        ``imagehash.phash``: signs of the lowest 8x8 DCT coefficients of the 32x32 grey image.
    """
    # SciPy stands behind imagehash: loaded where images are hashed, not when the package is imported.
    from imagehash import phash
    from PIL import Image

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    size = (min(width, _HASHED_SIDE), min(height, _HASHED_SIDE))
    if size != (width, height):
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return str(phash(Image.fromarray(grey)))


@dataclass(eq=False)
class _Job:
    """An image on its way: what the worker gets, whom to tell, and what happened so far."""

    data: bytes | Callable[[], bytes]
    name: str
    folder: Path
    longest_side: int
    future: "Future[Decoded]"
    attempt: int = 0
    pool: "ProcessPool | None" = None


class DecodePool:
    """Worker processes that run ``decode_to_file``; hostile bytes cost a worker at most.

    A context manager: leaving it waits for what was submitted, or, on an error,
    kills the workers and cancels the rest. Workers die with this process, even
    if it is killed. Scripts need no ``if __name__ == "__main__"`` for it.

    Args:
        workers: Number of worker processes; ``None`` for one a processor.
        memory_mb: Memory that one worker may take on top of what it needs to start, in MiB.
        seconds: Time that one image may take.
    """

    def __init__(self, workers: int | None = None, memory_mb: int = 1024, seconds: float = 20.0) -> None:
        self.workers = workers or default_workers()
        self._memory = memory_mb << 20
        self._seconds = seconds
        self._lock = threading.RLock()
        self._jobs: set[_Job] = set()
        self._pool = self._new_pool()

    def submit(
        self,
        data: bytes | Callable[[], bytes],
        name: str,
        folder: Path,
        longest_side: int,
    ) -> "Future[Decoded]":
        """Hand one image to the workers; arguments as of ``decode_to_file``.

        The bytes are held until the future is done, so the caller decides how
        many are under way at a time. A function that can be pickled may stand for
        them: then the worker calls it for the bytes.

        Returns:
            A future, which cannot be cancelled. Its error is ``ImageError`` (those of ``decode_to_file``, and
            ``decoder_timeout``, ``decoder_killed``, ``decoder_memory`` if the image was too much for a worker) or the
            ``OSError`` of a file that could not be written.
        """
        future: Future[Decoded] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            job = _Job(data, name, folder, longest_side, future)
            self._jobs.add(job)
            if not self._pool.active:
                self._replace(self._pool)
            self._start(job)
        return future

    def close(self, wait: bool = True) -> None:
        """End the workers: after their work, or (``wait`` false) now; what they had half written is removed."""
        with self._lock:
            waiting, folders = [job.future for job in self._jobs], {job.folder for job in self._jobs}
        if wait:
            # Waited for here: a closed pool of pebble's does not take an image back for its second attempt.
            wait_for(waiting)
            self._pool.close()
        else:
            self._pool.stop()
        self._pool.join()
        if not wait:
            for folder in folders:
                remove_unfinished(folder)
        with self._lock:
            for job in self._jobs:
                job.future.set_exception(CancelledError())
            self._jobs.clear()

    def __enter__(self) -> "DecodePool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(wait=kind is None)

    def _new_pool(self) -> "ProcessPool":
        from pebble import ProcessPool

        _name_socket_folder()
        context = _Context()
        context.set_forkserver_preload(_PRELOADED)
        return ProcessPool(self.workers, initializer=_begin_worker, initargs=(self._memory,), context=context)

    def _start(self, job: _Job) -> None:
        job.attempt += 1
        job.pool = self._pool
        arguments = (job.data, job.name, job.folder, job.longest_side)
        with deaf_children():  # the first job starts threads, and they the processes
            scheduled = self._pool.schedule(_decode_in_worker, args=arguments, timeout=self._seconds)
        scheduled.add_done_callback(partial(self._finish, job))

    def _finish(self, job: _Job, scheduled: "Future[Decoded]") -> None:
        """Pass on what became of a job, or try it again; called by a thread of the pool."""
        from pebble import ProcessExpired

        error: BaseException | None = CancelledError() if scheduled.cancelled() else scheduled.exception()
        with self._lock:
            if job not in self._jobs:
                return
            if isinstance(error, BrokenProcessPool) and job.attempt < _ATTEMPTS:
                self._replace(job.pool)
                return
            if isinstance(error, ProcessExpired):
                if job.attempt < _ATTEMPTS:
                    self._start(job)
                    return
                error = ImageError("decoder_killed", f"{job.name}: the decoder dies of this image ({error}).")
            elif isinstance(error, TimeoutError) and not isinstance(error.errno, int):  # else a file system's
                error = ImageError(
                    "decoder_timeout", f"{job.name}: not decoded within {self._seconds:g} seconds, so given up."
                )
            self._jobs.discard(job)
        if error is None:
            job.future.set_result(scheduled.result())
        else:
            job.future.set_exception(error)

    def _replace(self, broken: "ProcessPool | None") -> None:
        """Go on with new workers after a pool has lost its own; its jobs are theirs now."""
        if broken is not self._pool:
            return
        # Joined elsewhere: this may be one of the threads that are waited for.
        threading.Thread(target=broken.join, daemon=True).start()
        self._pool = self._new_pool()
        for job in self._jobs:
            if job.pool is broken:
                self._start(job)


def _name_socket_folder() -> None:
    """Let the server that workers are forked from have its socket where ``files.sweep`` finds it after a kill."""
    with _STARTING:
        config = current_process()._config  # type: ignore[attr-defined]
        if config.get("tempdir") is None:
            folder = config["tempdir"] = str(new_temporary_folder(for_socket=True))
            # As multiprocessing removes its own.
            Finalize(None, shutil.rmtree, args=(folder, True), exitpriority=-100)


class _DecodeProcess(ForkServerProcess):
    """A worker that does not run the caller's script again, which nothing here needs."""

    def start(self) -> None:
        """Start it."""

        def without_script(name: str) -> dict[str, Any]:
            prepared = prepare(name)
            return (
                {k: v for k, v in prepared.items() if not k.startswith("init_main")} if name == self.name else prepared
            )

        with _STARTING:
            prepare = spawn.get_preparation_data
            spawn.get_preparation_data = without_script
            try:
                super().start()
            finally:
                spawn.get_preparation_data = prepare


class _Context(ForkServerContext):
    """How workers are started: forked from a server that has loaded the libraries and runs no other thread."""

    Process = _DecodeProcess

    def Pipe(self, duplex: bool = True) -> tuple[Connection, Connection]:
        """A pipe with room for an image."""
        reader, writer = super().Pipe(duplex)
        with suppress(OSError):  # where the system has set a lower limit, it is only slower
            fcntl.fcntl(writer.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        return reader, writer


def _begin_worker(memory: int) -> None:
    """Set a worker's limits: it dies with its parent and takes at most ``memory`` more bytes."""
    # The server lives as long as anybody holds this end of its pipe; it shall be the main process alone. Then
    # the server ends with the main process, however that ends, and takes the workers along.
    os.close(forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]
    server = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server or server == 1:  # it ended before that
        os._exit(1)

    cv2.setNumThreads(1)
    perceptual_hash(np.zeros((_HASHED_SIDE, _HASHED_SIDE, 3), np.uint8))  # loads what the first image needs
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    # What libraries say of hostile files would tear the progress bar; what matters of it is in the errors.
    warnings.simplefilter("ignore")
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def _decode_in_worker(data: bytes | Callable[[], bytes], name: str, folder: Path, longest_side: int) -> Decoded:
    try:
        return decode_to_file(data() if callable(data) else data, name, folder, longest_side)
    except (MemoryError, cv2.error) as error:
        raise ImageError("decoder_memory", f"{name}: decoding needs more memory than is allowed.") from error
