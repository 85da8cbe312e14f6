"""The FiftyOne plugin ``@wss/judge``: operators and a panel for judging a web dataset in the App.

FiftyOne loads this file under a name of its own, from the link that ``wss_data.store.plugins`` makes; everything
else is imported as part of ``wss_data``. Operators only ask and show: what they do is a function of ``wss_data``.
"""

from importlib import import_module
from typing import Any

MODULES: tuple[str, ...] = ()
"""Modules of this package that hold operators and panels, each in a tuple ``OPERATORS``."""


def register(plugin: Any) -> None:
    """Called by FiftyOne.

    Args:
        plugin: FiftyOne's context of this plugin.
    """
    for module in MODULES:
        for operator in import_module(f"wss_data.plugin.{module}").OPERATORS:
            plugin.register(operator)
