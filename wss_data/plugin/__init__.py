"""The FiftyOne plugin ``@wss/judge``: operators and a panel for judging a web dataset in the App.

FiftyOne loads this file under a name of its own, from the link that ``wss_data.store.connection`` makes; everything
else is imported as part of ``wss_data``. Operators only ask and show: what they do is a function of ``wss_data``.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

MODULES = ("operators", "overview")  # each with its operators and panels in a tuple ``OPERATORS``


def register(plugin: Any) -> None:
    """Called by FiftyOne; ``plugin``: its context of this plugin."""
    # The App's server starts in a folder of its own: a checkout that is not installed is found by the link's target.
    checkout = str(Path(__file__).resolve().parents[2])
    if checkout not in sys.path:
        sys.path.append(checkout)
    for module in MODULES:
        for operator in import_module(f"wss_data.plugin.{module}").OPERATORS:
            plugin.register(operator)
