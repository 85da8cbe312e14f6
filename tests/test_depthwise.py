import copy

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from wss_data.backbones import depthwise
from wss_data.backbones.depthwise import leave_training, speed_up_training
from wss_train.models import build_model
from wss_train.recipes import preset


def both(convolution: nn.Module, features: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Result and gradients of a convolution, and of its copy that is made fast: the latter first."""
    found = []
    for fast in (True, False):
        layers = nn.Sequential(copy.deepcopy(convolution))
        if fast:
            speed_up_training(layers)
            assert "forward" in vars(layers[0])
        own = features.clone().requires_grad_()
        result = layers(own)
        # Not symmetric, so that a gradient that is turned or moved is another one.
        (result * torch.linspace(-1, 2, result.numel(), dtype=result.dtype).view_as(result)).sum().backward()
        found.append([result.detach(), own.grad, *(parameter.grad for parameter in layers.parameters())])
    return found[0], found[1]


KINDS = {
    "3x3": nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False),
    "5x5 with bias": nn.Conv2d(4, 4, 5, padding=2, groups=4),
    "7x3": nn.Conv2d(4, 4, (7, 3), padding=(3, 0), groups=4),
    "strided": nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4, bias=False),
    "5x5 strided by 2 and 3": nn.Conv2d(4, 4, 5, stride=(2, 3), padding=(2, 1), groups=4, bias=False),
    "dilated": nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, bias=False),
    "5x5 dilated by 2 and 4": nn.Conv2d(4, 4, 5, padding=(4, 3), dilation=(2, 4), groups=4, bias=False),
    "padded by itself": Conv2dSame(4, 4, 5, stride=2, groups=4, bias=False),
}


@pytest.mark.parametrize("sides", [(19, 22), (24, 17)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradients_are_those_of_torch(kind, sides):
    features = torch.randn(2, 4, *sides, dtype=torch.float64).to(memory_format=torch.channels_last)
    with pytest.MonkeyPatch.context() as patch:
        # In float64 the sums can be compared to the last digits; used is it for bf16, or where there is a dilation.
        patch.setattr(depthwise, "is_slow", lambda *_: True)
        ours, expected = both(KINDS[kind].double(), features)

    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_in_bf16_they_are_those_of_float32_but_for_rounding(kind):
    features = torch.randn(2, 4, 33, 26).to(memory_format=torch.channels_last)
    convolution = KINDS[kind].float()
    with torch.autocast("cpu", torch.bfloat16):
        ours, _ = both(convolution, features)
    _, expected = both(convolution, features)

    assert ours[0].dtype == torch.bfloat16 and all(gradient.dtype == torch.float32 for gradient in ours[1:])
    for one, other in zip(ours, expected, strict=True):
        assert (one.float() - other).abs().mean() < 0.01 * other.abs().mean()


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(4, 4, 1, groups=4),
        nn.Conv2d(4, 4, 3, padding=3, groups=4),
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", groups=4),
        nn.Conv2d(4, 4, 3, stride=2, dilation=2, groups=4),
    ],
    ids=["all channels", "two results a channel", "1x1", "far around", "text", "reflecting", "strided and dilated"],
)
def test_other_convolutions_are_left_alone(convolution):
    layers = nn.Sequential(convolution)

    speed_up_training(layers)

    assert "forward" not in vars(convolution)


def test_a_network_keeps_its_names_and_what_it_says_without_gradients():
    model = build_model(preset("cpu"), 3)
    plain = copy.deepcopy(model)
    leave_training(plain)
    images = torch.randn(1, 3, 64, 64)

    with torch.no_grad():
        assert torch.equal(model.high(model.low(images)), plain.high(plain.low(images)))
    assert "forward" in vars(model.high[0]._depthwise_conv) and "forward" not in vars(plain.high[0]._depthwise_conv)
    assert list(model.state_dict()) == list(plain.state_dict())


def test_a_whole_network_in_training_says_in_bf16_what_it_says_in_float32():
    torch.manual_seed(0)
    model = build_model(preset("cpu"), 3).train()
    images = torch.randn(1, 3, 64, 64)

    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.high(model.low(images))
        mixed.sum().backward()
    with torch.no_grad():
        exact = model.high(model.low(images))

    assert mixed.dtype == torch.bfloat16
    assert (mixed.float() - exact).abs().mean() < 0.05 * exact.abs().mean()
    assert model.high[0]._depthwise_conv.weight.grad.any()


def test_a_copy_of_a_network_learns_with_weights_of_its_own():
    model = build_model(preset("cpu"), 3).train()
    copied = copy.deepcopy(model)

    with torch.autocast("cpu", torch.bfloat16):
        copied.high(copied.low(torch.randn(1, 3, 64, 64))).float().sum().backward()

    assert copied.high[0]._depthwise_conv.weight.grad.any()
    assert model.high[0]._depthwise_conv.weight.grad is None
