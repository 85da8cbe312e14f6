"""timm and an optimizer without torch's compiler, which takes a second to load and which nothing here calls.

torchvision, which timm imports, and timm itself name two functions of the compiler while they are imported. Meanwhile
two others stand in their place, and do the same: they load the compiler when they are called.

torch's optimizers load it to keep it away from some of their methods.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.optim import AdamW

_COMPILER, _UTILS = "torch._dynamo", "torch._dynamo.utils"


def load_timm() -> Any:
    """timm, imported when it is first needed: that loads torch, and takes seconds."""
    with _without_compiler():
        import timm

    return timm


@cache
def lean_adamw() -> "type[AdamW]":
    """``torch.optim.AdamW`` without the wrappers of its methods that load the compiler; it computes the same bits."""
    import torch

    def unwrapped(name: str) -> Any:
        method = getattr(torch.optim.AdamW, name)
        return getattr(method, "__wrapped__", method)

    names = ("add_param_group", "zero_grad")
    methods = {name: unwrapped(name) for name in names} | {"step": torch.no_grad()(unwrapped("step"))}
    return type("AdamW", (torch.optim.AdamW,), methods)


def _is_compile_supported(device: Any) -> Any:
    return import_module(_UTILS).is_compile_supported(device)


def _disable(function: Callable[..., Any] | None = None, recursive: bool = True, **_: Any) -> Any:
    import torch

    return torch._disable_dynamo(function, recursive)  # torch's own way to load the compiler at the first call


class _Later(ModuleType):
    """``torch._dynamo.utils`` as far as torchvision needs it; whoever asks for more gets the module itself."""

    def __init__(self) -> None:
        super().__init__(_UTILS)
        self.is_compile_supported = _is_compile_supported

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(_UTILS) is self:
            del sys.modules[_UTILS]
        return getattr(import_module(_UTILS), name)


@contextmanager
def _without_compiler() -> Iterator[None]:
    if _COMPILER in sys.modules:
        yield
        return
    import torch

    later, disable = _Later(), torch.compiler.disable
    sys.modules[_UTILS] = later
    torch.compiler.disable = _disable  # type: ignore[assignment]  # as far as it is called here
    try:
        yield
    finally:
        torch.compiler.disable = disable
        if sys.modules.get(_UTILS) is later:
            del sys.modules[_UTILS]
