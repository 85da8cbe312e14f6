"""Read a file of weights that a person brings, without running anything that it holds. Loads torch.

Source:
    The wrappers and prefixes are those of the public checkpoints of DINO, iBOT, MAE and DINOv2.
"""

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from wss_data.errors import WssError

WRAPPERS = ("teacher", "model", "state_dict")
"""Keys under which training programs keep the weights, beside optimizer and arguments; the first that is there wins."""

PREFIXES = ("module.", "model.", "teacher.", "backbone.")
"""What wrapping modules put before names. Where one occurs, names without it belong to other parts (heads)."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The network's tensors by name, without wrappers and prefixes.

    Args:
        path: A ``.safetensors`` file, or one that ``torch.save`` wrote. Only tensors and plain values are loaded, and
            the arguments of a training program; anything else is refused, never run.

    Returns:
        Tensors on the CPU, floating point ones as float32.

    Raises:
        WssError: If the file is missing, damaged, holds other things than tensors, or numbers that are not finite.
    """
    if not path.is_file():
        raise WssError(f"{path}: there is no such file. A .pth or .safetensors file of weights is wanted.")
    state = _unprefixed(_unwrapped(_read(path), path))
    tensors = {name: t.float() if t.is_floating_point() else t for name, t in state.items()}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise WssError(f"{path}: the weights '{name}' hold numbers that are not finite. Get the file again.")
    return tensors


def load_exactly(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Put tensors into a network that they must fit one for one.

    Raises:
        WssError: If one is missing, too many, or of another shape; the first such is named.
    """
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()[:200]
        raise WssError(f"{path}: the weights are of another network than the one wanted ({first}).") from error


def _read(path: Path) -> object:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        # DINO's and MAE's checkpoints hold the arguments of their run: a bag of values, harmless.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    # torch raises whatever a damaged archive provokes: KeyError, EOFError, struct.error, ...
    except Exception as error:
        refused = isinstance(error, pickle.UnpicklingError) and "Unsupported" in str(error)
        first = (str(error) or type(error).__name__).splitlines()[0][:160]
        raise WssError(
            f"{path}: the file {'holds more than tensors' if refused else 'cannot be read as weights'} ({first}). "
            "Wanted: a .safetensors file, or what torch.save(network.state_dict(), FILE) writes."
        ) from error


def _unwrapped(content: object, path: Path) -> dict[str, Tensor]:
    while isinstance(content, dict):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        found = ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else type(content).__name__
        raise WssError(
            f"{path}: no state dict (tensors by name) was found, but: {found or 'nothing'}. "
            f"Wanted: one, or one under {' or '.join(WRAPPERS)}."
        )
    return {str(name): tensor for name, tensor in content.items()}


def _unprefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    while prefix := next((p for p in PREFIXES if any(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    return state
