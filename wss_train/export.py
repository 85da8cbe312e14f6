"""A trained model as one file that needs none of our code: ONNX or TorchScript.

The file takes pixels and gives class probabilities at the pixels' own size: normalisation, upsampling and softmax are
inside. No file is left that does not say the same as the PyTorch model.
"""

import copy
import io
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from wss_data.backbones.depthwise import leave_training
from wss_data.backbones.networks import WholeBackbone
from wss_data.errors import WssError
from wss_data.runtime.files import check_outputs, output_path
from wss_train.models import SegmentationModel, load_network

Format = Literal["onnx", "torchscript"]
Output = Literal["probabilities", "logits"]
InputType = Literal["uint8", "float32"]

SUFFIXES: dict[str, Format] = {".onnx": "onnx", ".pt": "torchscript", ".ts": "torchscript"}
"""End of the file's name -> its format."""

TOLERANCE = 1e-4
"""Largest difference allowed, relative to the largest score if that is above 1. Float error is about 1e-7 for
probabilities; a padding that a tracer took for a constant made 2e-3 even in an untrained network."""

OPSET = 17
"""Version of ONNX's operators, of 2022: old enough for the runtimes in use."""

# Sides that no stride divides, so that nothing that depends on them is left out of the trace.
_TRACED_SHAPE = (2, 3, 67, 93)


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: Path  # the file
    file_format: Format  # its format
    difference: float  # largest absolute difference between its scores and the PyTorch model's
    shapes: tuple[tuple[int, ...], ...]  # shapes (N, 3, H, W) of the random images for which both were compared

    def __str__(self) -> str:
        sizes = ", ".join("x".join(map(str, shape)) for shape in self.shapes)
        megabytes = self.path.stat().st_size / 1e6
        return (
            f"{self.path}: {self.file_format}, {megabytes:.1f} MB; "
            f"largest difference to the PyTorch model {self.difference:.1e} (inputs {sizes})"
        )


class PixelModel(nn.Module):
    """A segmentation model, in evaluation mode, from pixels to scores at the pixels' size."""

    def __init__(self, model: SegmentationModel, output: Output = "probabilities") -> None:
        super().__init__()
        self.model = model
        self.output = output

    def forward(self, pixels: Tensor) -> Tensor:
        """RGB pixels in [0, 255], (N, 3, H, W), uint8 or float -> scores of each, (N, C + 1, H, W), float32."""
        logits = self.model(self.model.normalise(pixels.float())).pixel_logits.float()
        logits = functional.interpolate(logits, size=pixels.shape[-2:], mode="bilinear", align_corners=False)
        return logits.softmax(dim=1) if self.output == "probabilities" else logits


def traceable(model: SegmentationModel) -> SegmentationModel:
    """A copy that scores equally, without what a tracer cannot follow; for evaluation only."""
    duplicate = copy.deepcopy(model).requires_grad_(False)
    leave_training(duplicate)
    return duplicate.eval()


def export_model(
    checkpoint: Path | str,
    out: Path | str,
    *,
    file_format: Format | None = None,
    output: Output = "probabilities",
    input_type: InputType = "uint8",
    size: tuple[int, int] | None = None,
) -> Exported:
    """Write a trained model as ONNX or TorchScript and check that it scores as the PyTorch model does.

    It takes images of any size and number, best with their longer side at the recipe's ``long_side``, as
    ``wss-train predict`` resizes them, and holds classes, recipe and ledger.

    Args:
        checkpoint: Run folder, checkpoint folder, or ``model.safetensors``.
        out: The file; replaced if this program wrote it.
        file_format: ``onnx`` or ``torchscript``; ``None`` for what the name's end says.
        output: ``probabilities`` or ``logits``.
        input_type: Type of the pixels, always in [0, 255]. ONNX takes this type only, TorchScript both.
        size: (height, width) in pixels if only one size shall be taken, as compilers for devices want it; ONNX only.

    Raises:
        WssError: If the format is unknown, a package is missing, no tracer can follow the network, or the scores
            differ; then no file is left.
        CheckpointError: If the checkpoint cannot be read.
        OutputError: If ``out`` is a file that this program did not write, or that was changed since.
    """
    out = Path(out)
    file_format = _checked_format(out, file_format, size)
    model, card = load_network(checkpoint)
    if isinstance(model.high, WholeBackbone):
        raise WssError(
            f"a model on {card.recipe.backbone} cannot be exported: a tracer cannot follow that network to images of "
            "all sizes. Use it in Python (wss_train.load_model), or train on a ResNet, EfficientNet, MobileNet or "
            "RegNet."
        )
    traced = PixelModel(traceable(model), output).eval()
    texts = {
        "classes": json.dumps(["background", *card.classes]),
        "input": f"pixels: RGB in [0, 255], {input_type}, (batch, 3, height, width)",
        "output": f"{output}: float32, (batch, {card.num_classes}, height, width)",
        "long_side": str(card.recipe.long_side),
        "strictly_image_level": json.dumps(card.ledger.strictly_image_level),
        "wss_train": json.dumps(card.to_dict()),
    }
    data = _onnx(traced, input_type, size, texts) if file_format == "onnx" else _torchscript(traced, texts)
    images = _random_images(card.recipe.long_side, size, input_type)
    with output_path(out) as temporary:
        temporary.write_bytes(data)
        # What is compared is the file, not what it was made from.
        difference = largest_difference(_opened(temporary, file_format), PixelModel(model, output).eval(), images)
    return Exported(out, file_format, difference, tuple(tuple(image.shape) for image in images))


@torch.no_grad()
def largest_difference(
    exported: Callable[[Tensor], Tensor], reference: Callable[[Tensor], Tensor], images: Sequence[Tensor]
) -> float:
    """The largest absolute difference between the scores of two models.

    Raises:
        WssError: If the shapes differ, or the difference is not below ``TOLERANCE``.
    """
    largest = 0.0
    for image in images:
        found, wanted = exported(image), reference(image)
        shape = "x".join(map(str, image.shape))
        if found.shape != wanted.shape:
            raise WssError(
                f"for an input of {shape} the exported model gives scores of shape {tuple(found.shape)}, the PyTorch "
                f"model {tuple(wanted.shape)}. Nothing was written; try the other format."
            )
        difference = float((found - wanted).abs().max())
        # Not "above": a difference that is no number must fail, too.
        if not difference <= TOLERANCE * max(1.0, float(wanted.abs().max())):
            raise WssError(
                f"for an input of {shape} the exported model's scores differ from the PyTorch model's by "
                f"{difference:.1e}; at most {TOLERANCE:g} is allowed. Nothing was written; try the other format."
            )
        largest = max(largest, difference)
    return largest


def _checked_format(out: Path, file_format: Format | None, size: tuple[int, int] | None) -> Format:
    """The format that is asked for; refuses what cannot be written before the model is read."""
    if file_format is None and out.suffix.lower() not in SUFFIXES:
        raise WssError(
            f"{out}: the name does not say which format is wanted. End it with .onnx (ONNX) or .pt (TorchScript), "
            "or give --format."
        )
    chosen = file_format or SUFFIXES[out.suffix.lower()]
    if chosen not in SUFFIXES.values():
        raise WssError(f"there is no format '{chosen}'. Known: onnx, torchscript.")
    if out.is_dir():
        raise WssError(f"{out}: this is a folder. The name of a file is wanted, such as {out / 'model.onnx'}.")
    check_outputs([out])
    if size is not None and (chosen != "onnx" or min(size) < 1):
        raise WssError(
            f"size {size[0]}x{size[1]} cannot be fixed in {chosen}: "
            f"{'two numbers above 0 are wanted' if chosen == 'onnx' else 'TorchScript takes any; leave it out'}."
        )
    if chosen == "onnx":
        _package("onnx")
        _package("onnxruntime")
    return chosen


def _package(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise WssError(
            f"ONNX files need the package {name}, which is not installed: pip install 'webcoseg[export]' "
            "(or pip install onnx onnxruntime). TorchScript needs nothing more: end the name with .pt."
        ) from error


def _random_images(long_side: int, size: tuple[int, int] | None, input_type: InputType) -> list[Tensor]:
    """Random images: of the one size, or tiny and odd ones, several at once, and one as large as in training."""
    # No stride divides 75, 131, 33 or 7; one pixel is the least that a padding can meet.
    shapes = [(1, 3, 64, 96), (2, 3, 75, 131), (1, 3, 33, 7), (1, 3, 1, 1), (1, 3, long_side * 3 // 4, long_side)]
    if size is not None:
        shapes = [(1, 3, *size), (2, 3, *size)]
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, shape, generator=generator).to(getattr(torch, input_type)) for shape in shapes]


@contextmanager
def _without_advice() -> Iterator[None]:
    # PyTorch would rather have torch.export, whose files bind to one PyTorch version.
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _onnx(model: PixelModel, input_type: InputType, size: tuple[int, int] | None, texts: dict[str, str]) -> bytes:
    onnx = _package("onnx")
    shape = _TRACED_SHAPE if size is None else (*_TRACED_SHAPE[:2], *size)
    free = {0: "batch"} if size is not None else {0: "batch", 2: "height", 3: "width"}
    buffer = io.BytesIO()
    try:
        with _without_advice():
            # The newer exporter reasons about every side as a formula: 2 minutes in place of 3 seconds for
            # EfficientNet-Lite0, and the file computes the same.
            torch.onnx.export(
                model,
                (torch.zeros(shape, dtype=getattr(torch, input_type)),),
                cast(Any, buffer),  # this exporter writes into files in memory, too; its annotation knows paths only
                dynamo=False,
                opset_version=OPSET,
                input_names=["pixels"],
                output_names=[model.output],
                dynamic_axes={"pixels": free, model.output: free},
            )
    except (TypeError, ValueError) as error:
        raise WssError(
            f"this PyTorch ({torch.__version__}) no longer has the exporter to ONNX that is used here ({error}). "
            "Take TorchScript: end the name with .pt."
        ) from error
    network = onnx.load_model_from_string(buffer.getvalue())
    onnx.helper.set_model_props(network, texts)
    return network.SerializeToString()


def _opened(path: Path, file_format: Format) -> Callable[[Tensor], Tensor]:
    """What a file computes: pixels (N, 3, H, W) -> scores (N, C + 1, H, W)."""
    if file_format == "torchscript":
        with _without_advice():
            return torch.jit.load(path, map_location="cpu")
    session = _package("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda pixels: torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0])


def _torchscript(model: PixelModel, texts: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with _without_advice():
        # A check would trace it once more; the file is compared at other sizes anyway.
        traced = torch.jit.trace(model, torch.zeros(_TRACED_SHAPE, dtype=torch.uint8), check_trace=False)
        torch.jit.save(cast(torch.jit.ScriptModule, traced), buffer, _extra_files=texts)
    return buffer.getvalue()
