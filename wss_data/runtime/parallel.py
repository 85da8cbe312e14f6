"""Map a pure function over images, results in order: in process, on worker processes, or on a Dask or Ray cluster.

joblib runs the calls on whichever of them is asked for (``workers_on``); nothing
here schedules. What is added: results never pile up, and a worker that dies, killed
by hand or for want of memory, loses nothing.
"""

import logging
import os
import re
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from tqdm import tqdm

from wss_data.errors import WorkerError, shown
from wss_data.runtime.interrupts import deaf_children, end_with

T = TypeVar("T")
R = TypeVar("R")

LOGGER = logging.getLogger(__name__)

EngineName = Literal["process", "dask", "ray"]

WINDOW = 32
"""Items a worker between two waits for all of them: bounds the results that a slow reader leaves waiting."""

TRIES = 2
"""Runs of the same items side by side: if a worker dies in each, they go on one at a time. Runs of one item alone: if
its worker dies in each, it is the item that kills. Dask has tried four times by itself before it reports a death."""

DASK_BACKEND = "wss-dask"
"""What joblib knows our Dask backend by."""

CONNECT_S = 30
"""Seconds to wait for a cluster's scheduler, and for its first worker."""


@dataclass(frozen=True)
class _Workers:
    """Where calls run.

    Args:
        name: ``process``, ``dask`` or ``ray``.
        backend: What joblib's ``parallel_config`` is told of it.
        return_as: How joblib can give results: as they come, or a window at a time.
        deaths: Exceptions that mean that a worker died, beside joblib's own for processes.
        count: Workers there are, asked anew each time: clusters grow. ``None``: as many as ``map_images`` is told.
        tries: See ``TRIES``.
    """

    name: EngineName
    backend: Mapping[str, Any]
    return_as: Literal["generator", "list"] = "generator"
    deaths: tuple[type[BaseException], ...] = ()
    count: Callable[[], int] | None = None
    tries: int = TRIES


_HERE = _Workers("process", {"backend": "loky"})
_IN_FORCE: ContextVar[_Workers] = ContextVar("workers", default=_HERE)


def default_workers() -> int:
    """Number of worker processes when nobody says: ``WSS_WORKERS``, else the processors this process may use."""
    said = os.environ.get("WSS_WORKERS")
    if not said:
        return len(os.sched_getaffinity(0))
    if not re.fullmatch("[0-9]{1,4}", said):
        raise WorkerError(f"WSS_WORKERS is {shown(said)}: a number of worker processes is wanted, such as 4.")
    return max(1, int(said))


@contextmanager
def workers_on(engine: EngineName = "process", address: str | None = None, count: int | None = None) -> Iterator[None]:
    """Run what ``map_images`` maps in the block on other workers than this machine's processes.

    Args:
        engine: ``process`` (no set-up), ``dask`` or ``ray``.
        address: The cluster's scheduler, ``HOST:PORT``; ``None`` starts workers on this machine for the block.
        count: Workers to start where there is no address; ``None`` for one a processor.

    Raises:
        WorkerError: If the package is not installed, the cluster does not answer or has no worker, or an address is
            given for ``process``.
    """
    if engine == "process":
        if address is not None:
            raise WorkerError(f"an address ({address}) needs a cluster: take the engine dask or ray, or no address.")
        chosen = _in_force(_HERE)
    elif engine == "dask":
        chosen = _on_dask(address, count or default_workers())
    elif engine == "ray":
        chosen = _on_ray(address, count or default_workers())
    else:
        raise WorkerError(f"there is no engine '{engine}' for workers. Known: process, dask, ray.")
    with chosen:
        yield


@contextmanager
def _in_force(workers: _Workers) -> Iterator[None]:
    token = _IN_FORCE.set(workers)
    try:
        yield
    finally:
        _IN_FORCE.reset(token)


@contextmanager
def _on_dask(address: str | None, count: int) -> Iterator[None]:
    try:
        from distributed import Client, LocalCluster
        from distributed.client import FutureCancelledError
        from distributed.scheduler import KilledWorker
    except ImportError as error:
        raise WorkerError("the engine dask is not installed: pip install 'wss[dask]'") from error
    _register_dask()
    with ExitStack() as stack:
        try:
            where: Any = address
            if address is None:
                # Processes of one thread each, as OpenCV and BLAS are set to: a death takes one image along.
                where = stack.enter_context(LocalCluster(count, threads_per_worker=1, dashboard_address=None))
            client = stack.enter_context(Client(where, timeout=CONNECT_S, set_as_default=False))
            client.wait_for_workers(1, timeout=CONNECT_S)
        except (OSError, ValueError) as error:
            raise _unreachable("Dask", address, error) from error
        backend = {"backend": DASK_BACKEND, "client": client}
        deaths = (KilledWorker, FutureCancelledError)
        with _in_force(_Workers("dask", backend, "generator", deaths, lambda: sum(client.ncores().values()), tries=1)):
            yield


def _register_dask() -> None:
    from distributed import Future
    from joblib import register_parallel_backend
    from joblib._dask import DaskDistributedBackend

    class Backend(DaskDistributedBackend):
        """joblib's, but for three things that matter when a worker dies.

        joblib 1.6 waits for ever for a task that Dask gives up for killing workers; what is aborted stays on the
        cluster, where it would go on killing them (the client is our own, so that all its tasks may go); and while
        one worker is left, calls run in this process, to kill it.
        """

        def effective_n_jobs(self, n_jobs: int) -> int:
            return max(2, super().effective_n_jobs(n_jobs))

        def submit(self, func: Any, callback: Callable[[Any], None]) -> Any:
            future = super().submit(func, callback)
            future.add_done_callback(lambda done: callback(done.exception()) if done.exception() else None)
            return future

        def abort_everything(self, ensure_ready: bool = True) -> None:
            super().abort_everything(ensure_ready)
            self.client.cancel([Future(key, self.client) for key in list(self.client.futures)], force=True)

    register_parallel_backend(DASK_BACKEND, Backend)


@contextmanager
def _on_ray(address: str | None, count: int) -> Iterator[None]:
    try:
        import ray
        from ray.exceptions import RayActorError, WorkerCrashedError
        from ray.util.joblib import register_ray
    except ImportError as error:
        raise WorkerError("the engine ray is not installed: pip install 'wss[ray]'") from error
    # A library does not report to its makers unless its user says so.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    register_ray()
    place: dict[str, Any] = {"address": address}
    if address is None:
        place = {"address": "local", "num_cpus": count, "include_dashboard": False}
    try:
        if address is not None:
            # Ray itself takes minutes, and prints much, before it gives up.
            host, port = address.removeprefix("ray://").rsplit(":", 1)
            socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **place)
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreachable("Ray", address, error) from error
    try:
        deaths = (RayActorError, WorkerCrashedError)
        with _in_force(_Workers("ray", {"backend": "ray"}, "list", deaths, lambda: _cpus(ray))):
            yield
    finally:
        ray.shutdown()


def _cpus(ray: Any) -> int:
    return int(ray.cluster_resources().get("CPU", 1))


def _unreachable(kind: str, address: str | None, error: Exception) -> WorkerError:
    where = f"at {address}" if address else "on this machine"
    why = str(error)[:200] or type(error).__name__
    return WorkerError(
        f"no {kind} cluster with a worker answers {where} ({why}). Are scheduler and workers running, and reachable "
        "from here? docs/how_to/use_a_cluster.md shows how to start them."
    )


def map_images(
    function: Callable[[T], R],
    items: Iterable[T],
    workers: int | None = None,
    description: str = "",
    total: int | None = None,
    if_killed: Callable[[T], R] | None = None,
    local: bool = False,
) -> Iterator[R]:
    """Yield ``function(item)`` for each item, in the items' order.

    Items are taken a few ahead of the results, and at most ``WINDOW`` results a
    worker wait for their reader, so memory does not grow with the number of items.

    If a worker dies, the items that have no result yet run again on fresh workers,
    in the end one at a time, so that nothing is lost and an item that kills its
    worker each time is found.

    Args:
        function: Pure and importable by name, so that another process can run it.
        items: What to map over; may be lazy.
        workers: Worker processes; 1 runs in this process, ``None`` means ``default_workers()``. On a cluster every
            number but 1 means all that it has.
        description: Text beside a progress bar; empty for no bar.
        total: Number of items, where ``items`` cannot tell, for the bar's time left.
        if_killed: What stands for the result of an item that kills its worker; ``None``: it is an error. Not asked
            with one worker: then the item kills this process.
        local: Stay on this machine inside ``workers_on``, too: for functions that read this machine's files.

    Yields:
        The results, in order.

    Raises:
        WorkerError: If an item kills its worker each time and there is no ``if_killed``.
    """
    where = _HERE if local else _IN_FORCE.get()
    if where is _HERE:
        workers = workers or default_workers()
    if workers == 1:
        results: Iterable[R] = map(function, items)
    else:
        results = _mapped(function, items, where, workers, if_killed)
    if not description:
        yield from results
        return
    if total is None and isinstance(items, Sized):
        total = len(items)
    yield from tqdm(results, total=total, desc=description, unit="image", dynamic_ncols=True)


class _Feed(Generic[T]):
    """Items on their way to workers: those without a result are kept, to be handed out again."""

    def __init__(self, items: Iterable[T]) -> None:
        self._source = iter(items)
        self._again: deque[T] = deque()
        self._under_way: deque[T] = deque()
        self._round = 0
        self._ended = False
        # joblib takes items in threads of its own, and may be in the middle of it when a death is reported here.
        self._lock = threading.Lock()

    def window(self, size: int) -> Iterator[T]:
        """Hand out ``size`` items at most, until the next death."""
        current = self._round
        for _ in range(size):
            with self._lock:
                if self._round != current or self._ended:
                    return
                try:
                    item = self._again.popleft() if self._again else next(self._source)
                except StopIteration:
                    self._ended = True
                    return
                self._under_way.append(item)
            yield item

    def finish(self) -> None:
        """The first item under way has its result."""
        with self._lock:
            self._under_way.popleft()

    def after_death(self) -> int:
        """Take back all items without a result; returns how many."""
        with self._lock:
            self._round += 1
            self._again.extendleft(reversed(self._under_way))
            self._under_way.clear()
            self._ended = self._ended and not self._again
            return len(self._again)

    @property
    def ended(self) -> bool:
        """Whether every item was handed out and has its result."""
        return self._ended and not self._under_way and not self._again


def _mapped(
    function: Callable[[T], R],
    items: Iterable[T],
    where: _Workers,
    workers: int | None,
    if_killed: Callable[[T], R] | None,
) -> Iterator[R]:
    # Worker processes cost seconds to start, so joblib is loaded only where they pay.
    from joblib import delayed
    from joblib.externals.loky.backend import resource_tracker
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    if where is _HERE:
        resource_tracker.ensure_running()  # as in ``deaf_children``: loky has its own

    # With one worker, or one item for one, joblib would run it in this process, to kill it.
    jobs = max(2, where.count() if where.count else workers or 1)
    call = delayed(_single_threaded)
    deaths = (TerminatedWorkerError, *where.deaths)
    feed, done, died, alone = _Feed(items), 0, 0, 0
    while not feed.ended:
        size = 1 if alone else WINDOW * (where.count() if where.count else workers or 1)
        try:
            with _parallel(where, 2 if alone else jobs) as parallel:
                while not feed.ended:
                    # A pair in a tuple: Dask's backend would put bare arguments on one worker, to die with it.
                    with deaf_children():  # they are started here, not while results are read
                        results = parallel(call((function, item)) for item in feed.window(size))
                    for result in results:
                        feed.finish()
                        done += 1
                        yield result
                    died = 0
                    if alone:
                        alone -= 1
                        if not alone:
                            break
        except deaths as error:
            died += 1
            waiting = feed.after_death()
            if alone and died >= where.tries:
                (item,) = feed.window(1)
                feed.finish()
                message = f"{_name(item, done)} kills its worker process each time"
                if if_killed is None:
                    raise WorkerError(
                        f"{message} ({error.__class__.__name__}): a fault in a library, or too little memory. "
                        "What was done before it is kept. Take it out, or run with fewer workers."
                    ) from error
                LOGGER.warning("%s: it is left out.", message)
                done, died, alone = done + 1, 0, alone - 1
                yield if_killed(item)
            elif not alone:
                LOGGER.warning("a worker process died: %d images without a result run again.", waiting)
                if died >= where.tries:
                    alone, died = waiting, 0


def _begin(parent: int, folder: str) -> None:
    """What a worker process does first: it ends with its parent, and is where that is."""
    end_with(parent)
    # Workers are started where the program was when it was imported, and are kept: ``photos/1.jpg`` would lead
    # elsewhere, or nowhere. With another folder among these arguments, joblib starts new ones.
    with suppress(OSError):
        os.chdir(folder)


def _current_folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # removed meanwhile: then only whole paths lead anywhere
        return "/"


def _parallel(where: _Workers, jobs: int) -> Any:
    """A ``joblib.Parallel`` on these workers; the caller's own use of joblib is not touched."""
    from joblib import Parallel, parallel_config

    backend = dict(where.backend)
    if where is _HERE:
        # A worker that waits for somebody to read its result would wait for ever if this process were killed.
        backend |= {"initializer": _begin, "initargs": (os.getpid(), _current_folder())}
    with parallel_config(**backend):
        return Parallel(n_jobs=jobs, return_as=where.return_as)


def _name(item: object, number: int) -> str:
    """What to call an item in an error: its path or its position, where it has one."""
    if isinstance(item, str | Path):
        return str(item)
    path, position = getattr(item, "path", None), getattr(item, "position", None)
    return str(path) if path is not None else f"image {number if position is None else position}"


def _single_threaded(call: tuple[Callable[[T], R], T]) -> R:
    """Run a function on an item with OpenCV on one thread: the processes already fill the machine."""
    import cv2

    cv2.setNumThreads(1)
    function, item = call
    return function(item)
