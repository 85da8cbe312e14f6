"""Depthwise convolutions that a processor trains fast.

oneDNN has fast code for their forward pass, and for the gradient of weights of 3x3 without dilation. Other gradients in
bf16, and those with a dilation in float32, take it up to 60 times as long. Here they are computed by what is fast.
"""

from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from wss_data.backbones.lean import load_timm

timm = load_timm()

Pair = tuple[int, int]

WINDOW = 3  # Side of the weights whose gradient is fast.


def speed_up_training(network: nn.Module) -> None:
    """Let the depthwise convolutions of a network use ``DepthwiseProduct`` where that is faster."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and _fits(module):
            # Set on the instance: a wrapping module would change the names of the weights.
            setattr(module, "forward", partial(_forward, module, module.forward))  # noqa: B010


def leave_training(network: nn.Module) -> None:
    """Undo ``speed_up_training``, for use alone: no tracer can follow it."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.__dict__.pop("forward", None)


def _fits(convolution: nn.Conv2d) -> bool:
    return (
        type(convolution) in (nn.Conv2d, timm.layers.Conv2dSame)
        and 1 < convolution.groups == convolution.in_channels == convolution.out_channels
        and not isinstance(convolution.padding, str)
        and convolution.padding_mode == "zeros"
        and min(convolution.kernel_size) >= WINDOW
        # Both at once no network of ours has.
        and (max(convolution.stride) == 1 or max(convolution.dilation) == 1)
        and all(
            padding <= step * (side - 1)
            for padding, step, side in zip(
                convolution.padding, convolution.dilation, convolution.kernel_size, strict=True
            )
        )
    )


def is_slow(convolution: nn.Conv2d, dtype: torch.dtype) -> bool:
    """Whether oneDNN trains a depthwise convolution slowly in a type."""
    return dtype == torch.bfloat16 or max(convolution.dilation) > 1


def _forward(convolution: Any, plain: Any, features: Tensor) -> Tensor:
    window = convolution.kernel_size, convolution.stride, convolution.dilation
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else features.dtype
    if features.device.type != "cpu" or not torch.is_grad_enabled() or not is_slow(convolution, dtype):
        return plain(features)
    features = features.to(dtype)
    if isinstance(convolution, timm.layers.Conv2dSame):  # pads by itself, as much as the image's size asks for
        features = timm.layers.padding.pad_same(features, *window)
    with torch.autocast("cpu", enabled=False):
        weight = convolution.weight.to(dtype)
        result = DepthwiseProduct.apply(features, weight, *window[1:], convolution.padding)
        return result if convolution.bias is None else result + convolution.bias.to(dtype).view(-1, 1, 1)


class DepthwiseProduct(torch.autograd.Function):
    """A depthwise convolution whose gradients are made of forward passes and of gradients of 3x3 weights.

    Features are (N, C, h, w), weights (C, 1, k, k'). The gradient of the features is a convolution of the result's
    gradient with the weights turned by 180 degrees, with ``stride - 1`` zeros between cells. The gradient of the
    weights is that of windows of 3x3 which cover them; with a dilation d each of the d x d grids of cells is an image
    of its own.
    """

    @staticmethod
    def forward(context: Any, features: Tensor, weight: Tensor, stride: Pair, dilation: Pair, padding: Pair) -> Tensor:
        """The convolution itself; ``stride``, ``dilation`` and ``padding`` as PyTorch's, of rows and of columns."""
        context.save_for_backward(features, weight)
        context.window = stride, dilation, padding
        return torch.conv2d(features, weight, None, stride, padding, dilation, len(weight))

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of features and weights."""
        features, weight = context.saved_tensors
        needs_features, needs_weight, *_ = context.needs_input_grad
        of_features = _of_features(gradients[0], features, weight, *context.window) if needs_features else None
        of_weight = _of_weight(gradients[0], features, weight, *context.window) if needs_weight else None
        return of_features, of_weight, None, None, None


def _of_features(
    gradient: Tensor, features: Tensor, weight: Tensor, stride: Pair, dilation: Pair, padding: Pair
) -> Tensor:
    reach = [step * (side - 1) for step, side in zip(dilation, weight.shape[2:], strict=True)]
    if max(stride) > 1:
        rows, columns = (
            side + 2 * pad - far for side, pad, far in zip(features.shape[2:], padding, reach, strict=True)
        )
        spread = gradient.new_zeros(len(gradient), rows, columns, gradient.shape[1])
        spread[:, :: stride[0], :: stride[1]] = gradient.movedim(1, -1)
        gradient = spread.movedim(-1, 1)
    around = [far - pad for far, pad in zip(reach, padding, strict=True)]
    return torch.conv2d(gradient, weight.flip(2, 3), None, 1, around, dilation, len(weight))


def _of_weight(
    gradient: Tensor, features: Tensor, weight: Tensor, stride: Pair, dilation: Pair, padding: Pair
) -> Tensor:
    if tuple(weight.shape[2:]) == (WINDOW, WINDOW) and max(dilation) == 1:
        return _of_window(gradient, features, weight, stride, padding)
    sides = gradient.shape[2:]
    # Each of the grids of a dilation is to have the same number of cells: zeros add nothing.
    more = [-side % step for side, step in zip(sides, dilation, strict=True)]
    gradient = _padded(gradient, (0, 0), more)
    features = _padded(features, padding, [pad + extra for pad, extra in zip(padding, more, strict=True)])
    gradient, features = _grids(gradient, dilation), _grids(features, dilation)
    rows, columns = ((side - 1) * step + WINDOW for side, step in zip(gradient.shape[2:], stride, strict=True))
    result = torch.empty_like(weight)
    corner = weight[:, :, :WINDOW, :WINDOW].contiguous()  # only its size is looked at
    for top, left in product(*([*range(0, side - WINDOW, WINDOW), side - WINDOW] for side in weight.shape[2:])):
        seen = features[:, :, top : top + rows, left : left + columns].contiguous(memory_format=torch.channels_last)
        result[:, :, top : top + WINDOW, left : left + WINDOW] = _of_window(gradient, seen, corner, stride, (0, 0))
    return result


def _of_window(gradient: Tensor, features: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    backward = torch.ops.aten.convolution_backward
    wanted = [False, True, False]
    return backward(gradient, features, weight, None, stride, padding, (1, 1), False, (0, 0), len(weight), wanted)[1]


def _padded(features: Tensor, before: Any, after: Any) -> Tensor:
    """Zeros around, channels last; PyTorch's own ``pad`` takes several times as long."""
    if not any((*before, *after)):
        return features
    count, channels, *sides = features.shape
    rows, columns = (first + side + last for first, side, last in zip(before, sides, after, strict=True))
    result = features.new_zeros(count, rows, columns, channels)
    result[:, before[0] : before[0] + sides[0], before[1] : before[1] + sides[1]] = features.movedim(1, -1)
    return result.movedim(-1, 1)


def _grids(features: Tensor, dilation: Pair) -> Tensor:
    """Every d-th row and d'-th column as an image of its own. Shape (N, C, h, w) -> (N d d', C, h / d, w / d')."""
    if max(dilation) == 1:
        return features
    count, channels, rows, columns = features.shape
    down, across = dilation
    cells = features.movedim(1, -1).reshape(count, rows // down, down, columns // across, across, channels)
    cells = cells.permute(0, 2, 4, 1, 3, 5).reshape(-1, rows // down, columns // across, channels)
    return cells.movedim(-1, 1)
