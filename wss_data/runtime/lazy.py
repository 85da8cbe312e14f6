"""Packages whose names, and modules which, are loaded when they are first used."""

import ast
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import lazy_loader

Attached = tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]


def names_when_used(package: str, source: str) -> Attached:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package that imports its names for type checkers only.

    Args:
        package: Its ``__name__``.
        source: Its ``__file__``: what stands there below ``if TYPE_CHECKING:`` is loaded when it is first used.
    """
    with open(source, encoding="utf-8") as file:
        (block,) = (node for node in ast.parse(file.read()).body if isinstance(node, ast.If))
    submodules, attributes = [], {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom) and node.module is not None
        names = [alias.name for alias in node.names]
        if node.module == package:
            submodules += names
        else:
            attributes[node.module.removeprefix(f"{package}.")] = names
    return lazy_loader.attach(package, submodules, attributes)


@contextmanager
def modules_when_used(*names: str) -> Iterator[None]:
    """Within the block, an import of these modules gives stand-ins: each loads its module when that is first used.

    For what a library loads and hardly ever uses. The parents of a module are to be named, too, but for those that the
    library needs. A value in a module can be named like one. A package of which anything is loaded already is left as
    it is, and after the block the next import loads the modules as ever.
    """
    loaded = {name.partition(".")[0] for name in sys.modules}
    stands_in = {name: _StandIn(name) for name in names if name.partition(".")[0] not in loaded}
    for name, module in stands_in.items():
        parent, _, child = name.rpartition(".")
        if parent in stands_in:
            setattr(stands_in[parent], child, module)
    sys.modules.update(stands_in)
    try:
        yield
    finally:
        _StandIn.leave()


class _StandIn(ModuleType):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = _Places(name)

    def __getattr__(self, name: str) -> Any:
        self.leave()
        try:
            stands_for: Any = importlib.import_module(self.__name__)
        except ModuleNotFoundError as error:
            if error.name != self.__name__:
                raise
            module, _, child = self.__name__.rpartition(".")
            stands_for = getattr(importlib.import_module(module), child)
        return getattr(stands_for, name)

    @classmethod
    def leave(cls) -> None:
        for name in [name for name, module in sys.modules.copy().items() if isinstance(module, cls)]:
            sys.modules.pop(name, None)


class _Places(list[str]):
    """Where the modules of a package lie: an import by name asks for it, and who looks into it wants the package."""

    def __init__(self, package: str) -> None:
        self._package = package

    def __iter__(self) -> Iterator[str]:
        _StandIn.leave()
        return iter(importlib.import_module(self._package).__path__)
