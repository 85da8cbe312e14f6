"""The only place that imports FiftyOne, when it is first needed: the import takes seconds."""

import sys
from typing import Any

from wss_data import database
from wss_data.errors import StoreError
from wss_data.store.plugins import offer_plugin

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
