"""From class names to an image dataset with masks, kept in FiftyOne.

::

    import wss_data

    dataset = wss_data.build("drawn")           # a fiftyone.Dataset; resumable
    target = wss_data.import_target("drawn")    # what the final model is trained and scored on
    kept = dataset.match_tags("kept")           # any FiftyOne view works

Importing this package loads neither FiftyOne (no database is started) nor torch:
each public name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wss_data.runtime.version import __version__ as __version__

if TYPE_CHECKING:
    from wss_data.cosegmentation.folder import cosegment_folder
    from wss_data.cosegmentation.score import score_folder
    from wss_data.errors import WssError
    from wss_data.pipeline import build
    from wss_data.sharing.card import write_card
    from wss_data.sharing.export import export_dataset
    from wss_data.sharing.import_dataset import import_dataset
    from wss_data.spec import DatasetSpec, read_spec, spec_from_folder
    from wss_data.store import (
        apply_filter,
        example_table,
        import_masks,
        import_target,
        list_datasets,
        open_dataset,
    )

_HOMES = {
    "DatasetSpec": "spec",
    "WssError": "errors",
    "apply_filter": "store",
    "build": "pipeline",
    "cosegment_folder": "cosegmentation.folder",
    "example_table": "store",
    "export_dataset": "sharing.export",
    "import_dataset": "sharing.import_dataset",
    "import_masks": "store",
    "import_target": "store",
    "list_datasets": "store",
    "open_dataset": "store",
    "read_spec": "spec",
    "score_folder": "cosegmentation.score",
    "spec_from_folder": "spec",
    "write_card": "sharing.card",
}

__all__ = [
    "DatasetSpec",
    "WssError",
    "apply_filter",
    "build",
    "cosegment_folder",
    "example_table",
    "export_dataset",
    "import_dataset",
    "import_masks",
    "import_target",
    "list_datasets",
    "open_dataset",
    "read_spec",
    "score_folder",
    "spec_from_folder",
    "write_card",
]


def __getattr__(name: str) -> Any:
    """Load a public name from the module where it lives, when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'wss_data' has no attribute '{name}'")
    return getattr(import_module(f"wss_data.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
