import atexit
import fcntl
import gc
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from wss_data.errors import StoreError
from wss_data.runtime import database as database_module
from wss_data.runtime import database_watcher

# Scripts, not tests: pytest would import them to look for examples in docstrings.
collect_ignore_glob = ["benchmarks/[!t]*.py", "benchmarks/training_speed.py", "benchmarks/programs/*"]

# A shell starts its background jobs with the interrupt ignored, which all that these tests start would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Set for the whole session, before anything can import FiftyOne: whatever a test or a command that it starts does,
# it meets a database and folders of its own, never the user's. The environment reaches subprocesses, too.
SESSION = Path(tempfile.mkdtemp(prefix="wss-tests-"))
DATABASE = SESSION / "database"
os.environ[database_module.FOLDER_VARIABLE] = str(DATABASE)
os.environ["WSS_HOME"] = str(SESSION / "home")
os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(SESSION / "compiled")
os.environ["DASK_TEMPORARY_DIRECTORY"] = str(SESSION)
# There are no fewer test processes than processors: more threads and workers would only wait for one another.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "WSS_WORKERS"), "1")


@atexit.register
def _remove_session() -> None:
    # FiftyOne registers later and so runs earlier: it still finds its database.
    if DATABASE in database_module._joined:
        database_module.leave(DATABASE)
        with (DATABASE / database_watcher.WATCHER).open("a") as lock:
            end = time.monotonic() + 10
            while time.monotonic() < end:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(0.02)
    shutil.rmtree(SESSION, ignore_errors=True)


LONGEST = (
    *("test_walk_of_the_pages", "test_browser", "test_fuzz", "test_pipeline", "test_wheel", "test_parallel"),
    *("test_ablation", "test_training", "test_site", "test_retrieve", "test_several_processes", "test_timm"),
    *("test_subcategories", "test_notebooks", "test_upkeep", "test_store_app", "test_processes", "test_worker"),
)
"""The files that take most, the longest first: one that is begun last is alone at the end of a parallel run."""


def pytest_collection() -> None:
    gc.disable()
    if "PYTEST_XDIST_WORKER" in os.environ:
        # A run of all tests loads FiftyOne: as our programs do, without what it hardly uses.
        from wss_data.store.connection import fiftyone

        with suppress(StoreError):
            fiftyone()


def pytest_collection_finish() -> None:
    """What was imported stays to the end: a million objects that no collection has to look at again.

    Nor are the others looked at as often: all of them, a tenth of a second, a fifth as often.
    """
    gc.freeze()
    gc.set_threshold(700, 10, 50)
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # what is still there when Python ends would be reported as a leak


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session")
def database() -> str:
    """The address of the session's own database; skips where FiftyOne came without one."""
    from wss_data.store.connection import fiftyone

    try:
        fo = fiftyone()
    except StoreError as error:
        pytest.skip(str(error))
    assert fo.config.database_uri == os.environ["FIFTYONE_DATABASE_URI"]
    return fo.config.database_uri


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real images, or a skip that says what is missing."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("WSS_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}; set WSS_TEST_DATA to a folder that holds them")
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread of torch: on a busy machine two wait for each other at every one of thousands of tiny operations."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


_SMALL_NETWORKS: dict[tuple[Any, ...], dict[str, Any]] = {}
"""What a network was made with -> what it consists of."""


@pytest.fixture(scope="module")
def small_maps() -> Iterator[None]:
    """Co-segmentation's network sees images at 128 px in place of 512: for tests of what is around it.

    It is real all the same, and takes a sixteenth of the time. Its weights are read once: nothing changes them.
    """
    from wss_data.cosegmentation.features import DescriptorNetwork

    def at_128(self: DescriptorNetwork, long_side: int = 512, *others: Any) -> None:
        given = (min(long_side, 128), *others)
        if given not in _SMALL_NETWORKS:
            made(self, *given)
            _SMALL_NETWORKS[given] = vars(self)
        vars(self).update(_SMALL_NETWORKS[given])

    made = DescriptorNetwork.__init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DescriptorNetwork, "__init__", at_128)
        yield
