"""Map a pure function over images, results in order: in process, on worker processes, or on a Dask cluster.

joblib or Dask runs the calls, whichever is asked for (``workers_on``); nothing here schedules. What is added: results
never pile up, and a worker that dies, killed by hand or for want of memory, loses nothing.
"""

import logging
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from tqdm import tqdm

from wss_data.errors import WorkerError, shown
from wss_data.runtime.interrupts import deaf_children, end_with

T = TypeVar("T")
R = TypeVar("R")

LOGGER = logging.getLogger(__name__)

ExecutorName = Literal["process", "dask"]

WINDOW = 32  # Items a worker between two waits for all of them: bounds the results that a slow reader leaves waiting

# Runs of the same items side by side: if a worker dies in each, they go on one at a time. Runs of one item alone: if
# its worker dies in each, it is the item that kills. Dask has tried four times by itself before it reports a death.
TRIES = 2

LEAK = 2_000_000_000  # Bytes that a worker process may grow by after its first call

CONNECT_S = 30  # Seconds to wait for a cluster's scheduler, and for its first worker


Call: TypeAlias = tuple[Callable[[T], R], T]  # A function and what it is called with

# Runs calls on workers, takes them a few ahead, and gives the results in order
Run: TypeAlias = Callable[[Iterator[Call[Any, Any]]], Iterator[Any]]


@dataclass(frozen=True)
class _Workers:
    """Where calls run."""

    # Given a number of workers, a context in which calls run on as many, or on all of a cluster
    start: Callable[[int], AbstractContextManager[Run]]
    deaths: Callable[[], tuple[type[BaseException], ...]]  # Exceptions that mean that a worker died
    # Workers there are, asked anew each time: clusters grow. ``None``: as many as ``map_images`` asks for.
    count: Callable[[], int] | None = None
    tries: int = TRIES  # See ``TRIES``


def default_workers() -> int:
    """Number of worker processes when nobody says: ``WSS_WORKERS``, else the processors this process may use."""
    said = os.environ.get("WSS_WORKERS")
    if not said:
        return len(os.sched_getaffinity(0))
    if not re.fullmatch("[0-9]{1,4}", said):
        raise WorkerError(f"WSS_WORKERS is {shown(said)}: a number of worker processes is wanted, such as 4.")
    return max(1, int(said))


@contextmanager
def workers_on(
    executor: ExecutorName = "process", address: str | None = None, count: int | None = None
) -> Iterator[None]:
    """Run what ``map_images`` maps in the block on other workers than this machine's processes.

    Args:
        executor: ``process`` (no set-up) or ``dask``.
        address: The cluster's scheduler, ``HOST:PORT``; ``None`` starts workers on this machine for the block.
        count: Workers to start where there is no address; ``None`` for one a processor.

    Raises:
        WorkerError: If the package is not installed, the cluster does not answer or has no worker, or an address is
            given for ``process``.
    """
    if executor not in ("process", "dask"):
        raise WorkerError(f"there is no executor '{executor}'. Known: process, dask.")
    if executor == "process" and address is not None:
        raise WorkerError(f"an address ({address}) needs a cluster: take the executor dask, or no address.")
    with ExitStack() as stack:
        dask = executor == "dask"
        token = _IN_FORCE.set(_on_dask(stack, address, count or default_workers()) if dask else _HERE)
        try:
            yield
        finally:
            _IN_FORCE.reset(token)


def _on_dask(stack: ExitStack, address: str | None, count: int) -> _Workers:
    """Workers of a Dask cluster, connected until ``stack`` ends."""
    try:
        from distributed import Client, LocalCluster
        from distributed.client import FutureCancelledError
        from distributed.scheduler import KilledWorker
    except ImportError as error:
        raise WorkerError("the executor dask is not installed: pip install 'webcoseg[dask]'") from error
    try:
        where: Any = address
        if address is None:
            # Processes of one thread each, as OpenCV and BLAS are set to: a death takes one image along.
            where = stack.enter_context(LocalCluster(count, threads_per_worker=1, dashboard_address=None))
        client = stack.enter_context(Client(where, timeout=CONNECT_S, set_as_default=False))
        client.wait_for_workers(1, timeout=CONNECT_S)
    except (OSError, ValueError) as error:
        there = f"at {address}" if address else "on this machine"
        raise WorkerError(
            f"no Dask cluster with a worker answers {there} ({str(error)[:200] or type(error).__name__}). Are "
            "scheduler and workers running, and reachable from here? docs/how_to/use_a_cluster.md shows "
            "how to start them."
        ) from error

    def cores() -> int:
        return sum(client.ncores().values())

    @contextmanager
    def start(_: int) -> Iterator[Run]:
        yield partial(_on_client, client, cores)

    return _Workers(start, lambda: (KilledWorker, FutureCancelledError), cores, tries=1)


def _on_client(client: Any, cores: Callable[[], int], calls: Iterator[Call[T, R]]) -> Iterator[R]:
    """Run calls on a Dask cluster, twice as many under way as it has cores."""
    # joblib's own Dask backend waits for ever (joblib 1.6) for a task that Dask gives up for killing workers.
    under_way: deque[Any] = deque()
    try:
        for call in calls:
            # As one callable: Dask 2024.8 takes a tuple that begins with a function for a task of its own.
            under_way.append(client.submit(partial(_single_threaded, call), pure=False))
            if len(under_way) >= 2 * cores():
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        # What stays on the cluster would go on killing its workers.
        client.cancel(list(under_way), force=True)


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

    At most ``WINDOW`` results a worker wait for their reader, so memory does not grow with the number of items. If a
    worker dies, the items without a result run again, in the end one at a time: so the one that kills is found.

    Args:
        function: Pure and importable by name, so that another process can run it.
        items: What to map over; may be lazy.
        workers: Worker processes; 1 runs in this process, ``None`` means ``default_workers()``. On a cluster every
            number but 1 means all that it has.
        description: Text beside a progress bar; empty for no bar.
        total: Number of items, where ``items`` does not know it, for the bar's time left.
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
    # With one worker, or one item for one, joblib would run it in this process, to kill it.
    jobs = max(2, where.count() if where.count else workers or 1)
    feed, done, died, alone = _Feed(items), 0, 0, 0
    while not feed.ended:
        size = 1 if alone else WINDOW * (where.count() if where.count else workers or 1)
        try:
            with where.start(2 if alone else jobs) as run:
                while not feed.ended:
                    for result in run((function, item) for item in feed.window(size)):
                        feed.finish()
                        done += 1
                        yield result
                    died = 0
                    if alone:
                        alone -= 1
                        if not alone:
                            break
        except where.deaths() as error:
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
    # A worker that has 300 MB more than after its first call is taken for one that leaks, and replaced, which costs
    # seconds: networks and groups of images take more. No public setting says how much.
    from joblib.externals.loky import process_executor

    process_executor._MAX_MEMORY_LEAK_SIZE = LEAK


def _current_folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # removed meanwhile: then only whole paths lead anywhere
        return "/"


class _QuietManagers:
    """Says nothing of joblib's thread that hands out calls which were dropped meanwhile, as when a signal ends a run.

    It looks up a call that is there no longer (joblib 1.6), and dies as it should, but with a traceback.
    """

    others: Callable[[threading.ExceptHookArgs], object] = staticmethod(threading.excepthook)

    def __call__(self, died: threading.ExceptHookArgs) -> None:
        if died.thread is None or died.thread.name != "ExecutorManagerThread" or died.exc_type is not KeyError:
            self.others(died)


_quiet_managers = _QuietManagers()


@contextmanager
def _processes(jobs: int) -> Iterator[Run]:
    """Worker processes of this machine, kept by joblib for the next time; the caller's own use of it is not touched."""
    # They cost seconds to start, so joblib is loaded only where they pay.
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky.backend import resource_tracker

    if threading.excepthook is not _quiet_managers:
        _quiet_managers.others = threading.excepthook
        threading.excepthook = _quiet_managers
    resource_tracker.ensure_running()  # as in ``deaf_children``: loky has its own
    # A worker that waits for somebody to read its result would wait for ever if this process were killed.
    with (
        parallel_config(backend="loky", initializer=_begin, initargs=(os.getpid(), _current_folder())),
        Parallel(n_jobs=jobs, return_as="generator") as parallel,
    ):

        def run(calls: Iterator[Call[Any, Any]]) -> Iterator[Any]:
            with deaf_children():  # they are started here, not while results are read
                return parallel(delayed(_single_threaded)(call) for call in calls)

        yield run


def _loky_deaths() -> tuple[type[BaseException], ...]:
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    return (TerminatedWorkerError,)


def _name(item: object, number: int) -> str:
    """What to call an item in an error: its path or its position, where it has one."""
    if isinstance(item, str | Path):
        return str(item)
    path, position = getattr(item, "path", None), getattr(item, "position", None)
    return str(path) if path is not None else f"image {number if position is None else position}"


def _single_threaded(call: Call[T, R]) -> R:
    """Run a function on an item with OpenCV on one thread: the processes already fill the machine."""
    import cv2

    cv2.setNumThreads(1)
    function, item = call
    return function(item)


_HERE = _Workers(_processes, _loky_deaths)
_IN_FORCE: ContextVar[_Workers] = ContextVar("workers", default=_HERE)
