"""Step 2, co-segmentation: one group in, one foreground mask an image out. Finds an engine by its name."""

import logging
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from wss_data.cosegmentation.base import Engine
from wss_data.errors import CosegmentationError, shown

LOGGER = logging.getLogger(__name__)

# Name of each engine -> where its class lives; loaded when it is asked for.
ENGINES = {
    "common": "wss_data.cosegmentation.common:CommonEngine",
    "external": "wss_data.cosegmentation.external:ExternalEngine",
    "subcategories": "wss_data.cosegmentation.subcategories.engine:SubcategoriesEngine",
}
# Those that run a program named by an option: definitions, manifests, exports and databases come from others, too.
PROGRAM_ENGINES = ("external", "outside")
OLD_NAMES = {"outside": "external"}  # in definitions and on the command line; with a warning, until 0.3


def make_engine(method: str, options: Mapping[str, Any] | None = None, allow_programs: bool = False) -> Engine:
    """The engine called ``method``, set up with ``options`` from the definition.

    ``allow_programs``: whether it may be one that runs a program. Only for options that the user typed, or for which
    the user has said so: no caller takes that from a file or a database.

    Raises:
        CosegmentationError: If there is no such engine, it refuses an option, or it runs a program and may not.
    """
    if not isinstance(method, str) or method not in {*ENGINES, *OLD_NAMES}:
        raise CosegmentationError(
            f"there is no co-segmentation method {shown(method)}. Known: {', '.join(sorted(ENGINES))}."
        )
    if method in PROGRAM_ENGINES and not allow_programs:
        command = (options or {}).get("command")
        raise CosegmentationError(
            f"co-segmentation method '{method}' runs a program{f' ({shown(command)})' if command else ''}, and a "
            "program runs only if you say so: give wss-data build or cosegment the option --allow-programs, or type "
            "the command in wss-data cosegment-folder --method external (in Python: allow_programs=True)."
        )
    if method in OLD_NAMES:
        LOGGER.warning("co-segmentation method '%s' is called '%s' now.", method, OLD_NAMES[method])
    module, kind = ENGINES[OLD_NAMES.get(method, method)].split(":")
    try:
        return getattr(import_module(module), kind)(**(options or {}))
    except TypeError as error:  # names that are no text: Python looks at these before the engine does
        raise CosegmentationError(
            f"co-segmentation method '{method}' cannot take the options {shown(options)} ({error})."
        ) from error
