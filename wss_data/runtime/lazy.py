"""Packages whose names are loaded when they are first used."""

import ast
from collections.abc import Callable
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
