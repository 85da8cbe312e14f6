"""The only place that imports FiftyOne, when it is first needed: the import takes seconds."""

import contextlib
import logging
import os
import secrets
import sys
from functools import cache
from pathlib import Path
from typing import Any

from wss_data.errors import StoreError
from wss_data.runtime import database
from wss_data.runtime.home import home_folder
from wss_data.runtime.lazy import modules_when_used
from wss_data.store.types import Dataset

LOGGER = logging.getLogger(__name__)

_PLUGIN = Path(__file__).resolve().parents[1] / "plugin"

# FiftyOne loads them at once and uses them for plots, cameras, archives and names of colours alone, or not at all (the
# last). They are more than half of its import.
_RARELY_USED = (
    *("sklearn", "sklearn.linear_model", "sklearn.metrics"),
    *("plotly", "plotly.colors", "plotly.express", "plotly.graph_objects", "plotly.subplots"),
    *("scipy", "scipy.ndimage", "scipy.spatial", "scipy.spatial.transform", "scipy.spatial.transform.Rotation"),
    *("matplotlib", "matplotlib.colors", "IPython", "IPython.display", "py7zr", "strawberry.experimental"),
)

_ready: Any = None
_plain: Any = None


def fiftyone() -> Any:
    """FiftyOne, imported and connected to the database that it shall use.

    Raises:
        StoreError: If there is no database, it cannot be reached, or a newer FiftyOne made it.
    """
    global _ready, _plain
    if _ready is not None:
        return _ready
    if _plain is not None:
        _plain.client.close()
        _plain = None
    uri = database.prepare_environment()
    with modules_when_used(*_RARELY_USED):
        import fiftyone as fo
    from pymongo.errors import PyMongoError

    if uri is not None and fo.config.database_uri != uri:
        # The user imported FiftyOne first; its configuration was read before ours was there.
        if getattr(sys.modules.get("fiftyone.core.odm.database"), "_client", None) is not None:
            raise StoreError(
                f"FiftyOne is connected to another database than the one in {database.FOLDER_VARIABLE}. "
                "Open a dataset with wss_data before FiftyOne is used for anything else, or unset the variable."
            )
        for setting, value in database.private_settings(uri).items():
            setattr(fo.config, setting, value)
    try:
        fo.list_datasets()
    except fo.core.config.FiftyOneConfigError as error:
        raise StoreError(database.no_database_message("its mongod is missing")) from error
    except (OSError, RuntimeError, PyMongoError, fo.core.service.ServiceException) as error:
        reason = " ".join(str(error).split())
        if "with client v" in reason or "You must have fiftyone" in reason:
            raise StoreError(
                f"the FiftyOne database was made by a newer FiftyOne than the one installed here ({reason}). "
                f"It was not touched. Update FiftyOne, or set {database.FOLDER_VARIABLE} to a folder for another."
            ) from error
        raise StoreError(f"FiftyOne's database cannot be used: {reason}") from error
    _offer_plugin(fo)
    _ready = fo
    return fo


def _offer_plugin(fiftyone: Any) -> None:
    """Let FiftyOne, the module, find our plugin, in this process and in those that it starts."""
    # It looks for plugins in one folder: it is given one of ours, with links to our plugin and to where it would look.
    folder = home_folder() / ".plugins"
    theirs = Path(fiftyone.config.plugins_dir or "~/fiftyone/__plugins__").expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, target in ("wss", _PLUGIN), ("yours", theirs):
            path = folder / name
            if target == folder or (path.is_symlink() and path.readlink() == target):
                continue
            # Renamed into place: another process may be doing the same.
            temporary = path.with_name(f".{name}-{secrets.token_hex(8)}")
            temporary.symlink_to(target, target_is_directory=True)
            temporary.replace(path)
    except OSError as error:
        LOGGER.warning("%s: no place for the link to our FiftyOne plugin (%s); the App lacks it.", folder, error)
        return
    os.environ["FIFTYONE_PLUGINS_DIR"] = str(folder)
    fiftyone.config.plugins_dir = str(folder)


def mongodb() -> Any:
    """FiftyOne's database as MongoDB has it; FiftyOne is imported only if it has to find it or to bring it up to date.

    Raises:
        StoreError: As ``fiftyone``.
    """
    global _plain
    if _ready is None and "fiftyone" not in sys.modules:
        _plain = _plain if _plain is not None else _private_database()
        if _plain is not None:
            return _plain
    return fiftyone().core.odm.get_db_conn()


def _private_database() -> Any:
    """That of ``WSS_DATABASE_DIR``, unless that is not set, or another FiftyOne than the one here used it last."""
    if (uri := database.prepare_environment()) is None:
        return None
    from pymongo import MongoClient
    from pymongo.errors import PyMongoError

    client: Any = MongoClient(uri)
    found = client[database.private_settings(uri)["database_name"]]
    try:
        seen = list(found.config.find({}, {"_id": 0, "version": 1, "type": 1}))
    except PyMongoError:
        seen = [{}]
    if seen in ([], [{"version": fiftyone_version(), "type": "fiftyone"}]):
        return found
    client.close()
    return None


@cache
def fiftyone_version() -> str:
    """Version of the FiftyOne installed here."""
    from importlib.metadata import version  # which loads the standard library's e-mail

    return version("fiftyone")


def samples_of(dataset: Dataset) -> Any:
    """MongoDB's collection of a dataset's samples, for what FiftyOne has no call for."""
    return mongodb()[dataset._sample_collection_name]


def correct_count(dataset: Dataset) -> int:
    """The number of a dataset's samples; the server counts them again if the number it keeps is wrong."""
    # It is wrong after a server was killed, for ever, and may be 0. FiftyOne and its App take it for the size.
    from pymongo.errors import OperationFailure

    samples = samples_of(dataset)
    before = samples.estimated_document_count()
    counted = samples.count_documents({})
    after = samples.estimated_document_count()
    # In between, if somebody else is storing images just now.
    if not min(before, after) <= counted <= max(before, after):
        with contextlib.suppress(OperationFailure):  # not everybody may do this on a server of their team
            samples.database.command("validate", samples.name)
    return counted


def wait_until_on_disk(dataset: Dataset) -> None:
    """Return when the server has on disk all that it confirmed: to be called before anything takes note of it."""
    # MongoDB confirms a write before it is on disk, and writes every tenth of a second: a server that is killed in
    # between forgets what it confirmed.
    from pymongo import WriteConcern

    samples = samples_of(dataset)
    durable = WriteConcern(**{**samples.write_concern.document, "j": True})
    # It changes nothing, and is answered when the server's journal is written up to here.
    samples.with_options(write_concern=durable).update_one({"_id": None}, {"$set": {"_id": None}})
