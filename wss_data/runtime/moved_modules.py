"""Modules found at the place they had before they moved to their rooms, for one version more."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

_PACKAGE = Path(__file__).parents[1]
_RENAMED = {"pictures": "sheets"}  # on the way to their rooms


class _MovedModules(MetaPathFinder, Loader):
    """Asked last, so that nothing that exists is found elsewhere."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        package, _, module = name.rpartition(".")
        module = _RENAMED.get(module, module)
        if package != _PACKAGE.name:
            return None
        # The commands last: masks.py there is new, and was never at the root.
        found = (place.parent.name for place in _PACKAGE.glob(f"*/{module}.py"))
        rooms = sorted(found, key=lambda room: (room == "commands", room))
        return ModuleSpec(name, self, origin=f"{package}.{rooms[0]}.{module}") if rooms else None

    def exec_module(self, module: ModuleType) -> None:
        """Put the module of the new place where the one of the old name was to be."""
        assert module.__spec__ is not None and module.__spec__.origin is not None
        new = module.__spec__.origin
        warnings.warn(f"{module.__name__} is {new} now", DeprecationWarning, stacklevel=2)
        sys.modules[module.__name__] = import_module(new)


sys.meta_path.append(_MovedModules())
