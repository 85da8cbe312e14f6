"""timm, Fabric and optimizers without torch's compiler, which takes seconds to load and which few runs call.

torchvision, which timm imports, and timm itself name two functions of the compiler while they are imported, and Fabric
its class of compiled networks. Meanwhile others stand in their place, and do the same: the functions load the compiler
when they are called, and what was compiled is known by it.

torch's optimizers load it to keep it away from some of their methods.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

_COMPILER, _UTILS = "torch._dynamo", "torch._dynamo.utils"


def load_timm() -> Any:
    """timm, imported when it is first needed: that loads torch, and takes seconds."""
    with _without_compiler():
        import timm

    return timm


def load_fabric() -> Any:
    """``lightning_fabric``, imported when it is first needed, as ``load_timm``."""
    with _without_compiler():
        import lightning_fabric

    return lightning_fabric


@cache
def lean_optimizer(name: Literal["AdamW", "SGD"]) -> Any:
    """A class of ``torch.optim``, the same bits, without the wrappers of its methods that load the compiler."""
    import torch

    optimizer = getattr(torch.optim, name)

    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict", "step")
    wrapped = {method: getattr(optimizer, method) for method in names}
    methods = {method: getattr(function, "__wrapped__", function) for method, function in wrapped.items()}
    return type(name, (optimizer,), {**methods, "step": torch.no_grad()(methods["step"])})


def _is_compile_supported(device: Any) -> Any:
    return import_module(_UTILS).is_compile_supported(device)


def _disable(function: Callable[..., Any] | None = None, recursive: bool = True, **_: Any) -> Any:
    import torch

    return torch._disable_dynamo(function, recursive)  # torch's own way to load the compiler at the first call


class _Compiled(type):
    """The class of ``OptimizedModule``: a network is one if the compiler, once it is loaded, says so."""

    def __instancecheck__(cls, instance: object) -> bool:
        compiler: Any = sys.modules.get(_COMPILER)
        return type(compiler) is ModuleType and isinstance(instance, compiler.OptimizedModule)


class OptimizedModule(metaclass=_Compiled):
    """Stands for ``torch._dynamo.OptimizedModule`` where that is asked for and the compiler is not loaded."""


class _Later(ModuleType):
    """A module of the compiler as far as importing others needs it; whoever asks for more gets the module itself."""

    def __init__(self, name: str, **needed: Any) -> None:
        super().__init__(name)
        vars(self).update(needed)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


@contextmanager
def _without_compiler() -> Iterator[None]:
    if _COMPILER in sys.modules:
        yield
        return
    import torch

    functions = _Later(_UTILS, is_compile_supported=_is_compile_supported)
    later, disable = (functions, _Later(_COMPILER, OptimizedModule=OptimizedModule)), torch.compiler.disable
    sys.modules |= {module.__name__: module for module in later}
    torch.compiler.disable = _disable  # type: ignore[assignment]  # as far as it is called here
    try:
        yield
    finally:
        torch.compiler.disable = disable
        for module in later:
            if sys.modules.get(module.__name__) is module:
                del sys.modules[module.__name__]
