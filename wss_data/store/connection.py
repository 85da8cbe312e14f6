"""The only place that imports FiftyOne, when it is first needed: the import takes seconds."""

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from wss_data.errors import StoreError
from wss_data.runtime import database
from wss_data.store.plugins import offer_plugin

if TYPE_CHECKING:
    import fiftyone as fo

_ready: Any = None


def fiftyone() -> Any:
    """FiftyOne, imported and connected to the database that it shall use.

    Raises:
        StoreError: If there is no database, it cannot be reached, or a newer FiftyOne made it.
    """
    global _ready
    if _ready is not None:
        return _ready
    uri = database.prepare_environment()
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
    offer_plugin(fo)
    _ready = fo
    return fo


def correct_count(dataset: "fo.Dataset") -> None:
    """Let the server count the samples of ``dataset`` anew where the number it keeps is wrong.

    It is wrong after a server was killed, for ever, and may be 0. FiftyOne and its App take it for the dataset's size.

    Args:
        dataset: Any dataset.
    """
    from pymongo.errors import OperationFailure

    database = fiftyone().core.odm.get_db_conn()
    samples = database[dataset._sample_collection_name]
    before, counted, after = (
        samples.estimated_document_count(),
        samples.count_documents({}),
        samples.estimated_document_count(),
    )
    # In between, if somebody else is storing images just now.
    if not min(before, after) <= counted <= max(before, after):
        with contextlib.suppress(OperationFailure):  # not everybody may do this on a server of their team
            database.command("validate", samples.name)


def wait_until_on_disk(dataset: "fo.Dataset") -> None:
    """Return when the server has on disk all that it confirmed for ``dataset``.

    MongoDB confirms a write before it is there, and writes every tenth of a second: a server that
    is killed in between forgets what it confirmed. To be called before anything else takes note,
    as of a thing done, of what was stored.

    Args:
        dataset: Any dataset.
    """
    from pymongo import WriteConcern

    samples = fiftyone().core.odm.get_db_conn()[dataset._sample_collection_name]
    durable = WriteConcern(**{**samples.write_concern.document, "j": True})
    # It changes nothing, and is answered when the server's journal is written up to here.
    samples.with_options(write_concern=durable).update_one({"_id": None}, {"$set": {"_id": None}})
