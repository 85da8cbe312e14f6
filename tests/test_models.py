import hashlib
import urllib.error

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from wss_data import backbones
from wss_data.backbones.networks import load_backbone
from wss_data.backbones.weights import imagenet_file
from wss_data.errors import CheckpointError, WssError
from wss_data.ledger import Supervision
from wss_train.models import build_model, usable_precision, weights_ledger_entry
from wss_train.recipes import preset, with_values

SMALL = {"weights": "none", "head_channels": "8", "branch_channels": "8"}
SHAPES_ALONE = torch.device("meta")
"""Where a network has shapes and no numbers: for what numbers do not change."""


def recipe(name="cpu", **values):
    return with_values(preset(name), {**SMALL, **values})


@pytest.fixture(scope="module")
def lite0():
    torch.manual_seed(0)
    return build_model(recipe(), 6, multilabel=True)


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_lite0_scores_one_cell_per_stride(stride):
    model = build_model(recipe(output_stride=stride), 6)

    with torch.no_grad():
        output = model(torch.zeros(2, 3, 64, 96))

    assert output.pixel_logits.shape == (2, 6, 64 // stride, 96 // stride)
    assert output.class_logits is None
    assert model.output_stride == stride


@pytest.mark.parametrize("stride", [8, 16])
def test_resnet50_is_dilated_to_the_stride_while_its_branch_keeps_stride_32(stride):
    with SHAPES_ALONE, torch.no_grad():
        model = build_model(recipe("paper", output_stride=stride), 21, multilabel=True)
        low = model.low(torch.zeros(1, 3, 64, 64))
        output = model(torch.zeros(1, 3, 64, 64))

        assert low.shape[2:] == (8, 8)
        assert model.high(low).shape == (1, 2048, 64 // stride, 64 // stride)
        assert model.branch.high(low).shape == (1, 2048, 2, 2)
    assert output.pixel_logits.shape == (1, 21, 64 // stride, 64 // stride)
    assert output.class_logits.shape == (1, 20)


@pytest.mark.parametrize(
    ("backbone", "published"),
    [
        # torchvision's own counts, less the classifier of 1,000 classes.
        ("resnet18", 11_689_512 - 513_000),
        ("resnet34", 21_797_672 - 513_000),
        ("resnet50", 25_557_032 - 2_049_000),
        ("resnet101", 44_549_160 - 2_049_000),
        # The package's, less classifier and the convolution below it.
        ("efficientnet_lite0", 4_652_008 - 1_281_000 - 320 * 1280 - 2 * 1280),
        ("efficientnet_lite1", 5_416_680 - 1_281_000 - 320 * 1280 - 2 * 1280),
        ("efficientnet_lite2", 6_092_072 - 1_281_000 - 352 * 1280 - 2 * 1280),
    ],
)
def test_a_backbone_has_the_published_number_of_parameters_and_the_branch_those_above_stride_8(backbone, published):
    with SHAPES_ALONE:
        model = build_model(recipe(backbone=backbone), 6, multilabel=True)

    def count(*parts):
        return sum(parameter.numel() for part in parts for parameter in part.parameters())

    assert count(model.low, model.high) == published
    assert count(model.branch.high) == count(model.high)
    assert model.output_stride == 16


def test_the_papers_network_has_the_parameters_that_one_counts_by_hand():
    with SHAPES_ALONE:
        model = build_model(recipe("paper", head_channels=512, branch_channels=1024), 21, multilabel=True)
    convolution, one_by_one, scores = 3 * 3 * 2048 * 512 + 512, 512 * 512 + 512, 512 * 21 + 21
    hidden = (2048 * 1024 + 1024) + (1024 * 1024 + 1024) + (1024 * 20 + 20)

    assert sum(p.numel() for p in model.head.parameters()) == convolution + one_by_one + scores
    assert sum(p.numel() for p in model.branch.classifier.parameters()) == hidden


@pytest.mark.parametrize(("backbone", "stride"), [("resnet18", 8), ("resnet18", 16), ("resnet34", 8), ("resnet50", 8)])
def test_a_dilated_resnet_says_at_each_cell_of_stride_32_what_the_plain_one_says_there(backbone, stride):
    torch.manual_seed(0)
    plain = build_model(recipe(backbone=backbone, output_stride=32), 3)
    dilated = build_model(recipe(backbone=backbone, output_stride=stride), 3)
    dilated.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 64, 96).double()

    with torch.no_grad():
        # Without trained statistics the numbers grow from block to block, and rounding with them.
        expected = plain.double().high(plain.low(image))
        found = dilated.double().high(dilated.low(image))

    assert found.shape[2:] == (64 // stride, 96 // stride)
    every = 32 // stride
    torch.testing.assert_close(found[:, :, ::every, ::every], expected)


def test_the_dilations_of_resnet18_follow_the_same_rule():
    def dilations(**values):
        with SHAPES_ALONE:
            high = build_model(recipe(backbone="resnet18", **values), 3).high
        return [[(block.conv1.dilation[0], block.conv2.dilation[0]) for block in stage] for stage in high]

    # The convolution that loses its stride keeps the dilation before it, the next one works on the finer grid.
    assert dilations(output_stride=8) == [[(1, 2), (2, 2)], [(2, 4), (4, 4)]]
    assert dilations(output_stride=16) == [[(1, 1), (1, 1)], [(1, 2), (2, 2)]]
    assert dilations(output_stride=32) == [[(1, 1), (1, 1)], [(1, 1), (1, 1)]]
    assert dilations(output_stride=8, dilate_first_block="yes") == [[(2, 2), (2, 2)], [(4, 4), (4, 4)]]


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "efficientnet_lite1", "efficientnet_lite2"])
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_sides_that_no_stride_divides_are_rounded_up(backbone, stride):
    with SHAPES_ALONE, torch.no_grad():
        model = build_model(recipe(backbone=backbone, output_stride=stride), 4, multilabel=True)
        output = model(torch.zeros(1, 3, 65, 90))

    assert output.pixel_logits.shape == (1, 4, -(-65 // stride), -(-90 // stride))
    assert output.class_logits.shape == (1, 3)


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"])
def test_the_branch_starts_from_the_imagenet_weights_and_keeps_its_own(backbone):
    model = build_model(recipe(backbone=backbone, weights="imagenet"), 4, multilabel=True)
    published = load_backbone(backbone).parts
    first = len(published) - len(model.branch.high)
    with torch.no_grad():
        for parameter in model.high.parameters():
            parameter.zero_()

    for number, block in enumerate(model.branch.high, first):
        for name, tensor in block.state_dict().items():
            assert torch.equal(tensor, published[number].state_dict()[name]), (number, name)


def test_papers_head_is_two_hidden_layers_of_512_at_dilation_12():
    with SHAPES_ALONE:
        head = build_model(with_values(preset("paper"), {"weights": "none"}), 21).head

    first, second, third = (layer for layer in head if isinstance(layer, nn.Conv2d))
    assert (first.in_channels, first.out_channels, first.kernel_size) == (2048, 512, (3, 3))
    assert (first.dilation, first.padding) == ((12, 12), (12, 12))
    assert (second.out_channels, second.kernel_size) == (512, (1, 1))
    assert (third.out_channels, third.kernel_size) == (21, (1, 1))
    assert [layer.p for layer in head if isinstance(layer, nn.Dropout)] == [0.5]


def test_the_authors_dilate_the_first_block_of_a_stage_too():
    def dilations(name):
        with SHAPES_ALONE:
            high = build_model(recipe(name), 3).high
        return [[block.conv2.dilation[0] for block in stage] for stage in high]

    assert dilations("paper") == [[1, 2, 2, 2, 2, 2], [2, 4, 4]]
    assert dilations("authors-code") == [[2] * 6, [4] * 3]
    with SHAPES_ALONE, torch.no_grad():
        assert build_model(recipe("authors-code"), 3)(torch.zeros(1, 3, 64, 64)).pixel_logits.shape[2:] == (8, 8)


def test_new_layers_start_from_a_narrow_normal_and_zero_biases():
    torch.manual_seed(0)
    model = build_model(recipe(head_channels=64), 6, multilabel=True)

    for name, parameter in model.new_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        else:
            assert parameter.std().item() == pytest.approx(0.01, rel=0.35)


def test_the_branch_owns_copies_of_the_later_layers_that_start_equal(lite0):
    own = dict(lite0.branch.high.named_parameters())
    theirs = dict(lite0.high.named_parameters())

    assert own.keys() == theirs.keys()
    for name, parameter in own.items():
        assert torch.equal(parameter, theirs[name])
        assert parameter.data_ptr() != theirs[name].data_ptr()


def test_training_the_branch_alone_leaves_the_segmentation_layers_as_they_are():
    torch.manual_seed(0)
    model = build_model(recipe(score_fusion="no"), 6, multilabel=True).train()

    model(torch.randn(1, 3, 64, 64)).class_logits.sum().backward()

    assert all(p.grad is None for p in model.high.parameters())
    assert all(p.grad is None for p in model.head.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.branch.high.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.low.parameters())


def test_batch_norm_keeps_its_statistics_and_trains_scale_and_shift():
    torch.manual_seed(0)
    model = build_model(recipe(), 6, multilabel=True).train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]

    output = model(torch.randn(2, 3, 64, 64))
    (output.pixel_logits.sum() + output.class_logits.sum()).backward()

    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))
    assert all(norm.weight.grad is not None and norm.bias.grad is not None for norm in norms)
    assert model.head.training


def test_a_step_moves_scale_and_shift_of_every_batch_norm_and_none_of_its_statistics():
    torch.manual_seed(0)
    model = build_model(recipe(backbone="resnet18"), 6, multilabel=True).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), 1.0)

    # Scores of random new layers are tiny: enlarged, so that a step can be seen in float32.
    output = model(torch.randn(2, 3, 64, 64))
    (1e6 * output.pixel_logits.square().sum() + 1e6 * output.class_logits.square().sum()).backward()
    optimizer.step()

    after = model.state_dict()
    names = [name.removesuffix(".running_mean") for name in after if name.endswith(".running_mean")]
    assert len(names) == 20 + 10  # resnet18 has 20, and the branch those of stages 4 and 5 again
    for name in names:
        for statistic in ("running_mean", "running_var", "num_batches_tracked"):
            assert torch.equal(after[f"{name}.{statistic}"], before[f"{name}.{statistic}"])
        assert not torch.equal(after[f"{name}.weight"], before[f"{name}.weight"]), name
        assert not torch.equal(after[f"{name}.bias"], before[f"{name}.bias"]), name


@pytest.mark.parametrize("stride", [8, 16])
def test_resnet50_is_dilated_as_torchvision_dilates_it(stride):
    with SHAPES_ALONE:
        theirs = torchvision.models.resnet50(replace_stride_with_dilation=[False, stride == 8, True])
        model = build_model(recipe("paper", output_stride=stride), 3)

    def geometry(*stages):
        return [(m.stride, m.dilation, m.padding) for s in stages for m in s.modules() if isinstance(m, nn.Conv2d)]

    assert geometry(*model.high) == geometry(theirs.layer3, theirs.layer4)


def test_the_branch_of_a_dilated_network_is_not_dilated():
    with SHAPES_ALONE:
        model = build_model(recipe("authors-code"), 3, multilabel=True)
    three_by_three = [m for m in model.branch.high.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]

    assert {m.dilation for m in three_by_three} == {(1, 1)}
    assert [m.stride[0] for m in three_by_three].count(2) == 2


def test_the_weights_have_the_names_of_checkpoints_that_were_written_before():
    def names(**values):
        with SHAPES_ALONE:
            return list(build_model(recipe(**values), 3, multilabel=True).state_dict())

    lite, resnet = names(), names(name="paper")
    assert (len(lite), lite[0], lite[-1]) == (498, "low.0.0.weight", "branch.classifier.6.bias")
    assert {"low.1._depthwise_conv.weight", "high.0._expand_conv.weight", "branch.high.10._bn2.bias"} < set(lite)
    assert (len(resnet), resnet[0], resnet[-1]) == (504, "low.0.weight", "branch.classifier.6.bias")
    assert {"low.4.0.conv1.weight", "high.0.5.bn3.weight", "branch.high.1.0.downsample.0.weight"} < set(resnet)


def test_batch_norm_epsilon_is_the_authors_where_the_recipe_says_so():
    with SHAPES_ALONE:
        model = build_model(recipe("authors-code"), 3)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]

    assert {norm.eps for norm in norms} == {1.001e-5}


def test_class_scores_are_added_to_the_pixels_of_their_class_and_not_to_background(lite0):
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        output = lite0(images)
        alone = lite0.head(lite0.high(lite0.low(images)))

    added = output.pixel_logits - alone
    assert output.class_logits.shape == (2, 5)
    torch.testing.assert_close(added[:, 0], torch.zeros(2, 4, 4))
    torch.testing.assert_close(
        added[:, 1:], output.class_logits[:, :, None, None].expand(2, 5, 4, 4), atol=1e-6, rtol=0
    )


def test_fused_scores_are_those_of_a_loop_over_every_pixel_and_class(lite0):
    torch.manual_seed(1)
    images = torch.randn(2, 3, 33, 64)
    with torch.no_grad():
        output = lite0(images)
        low = lite0.low(images)
        pixels, classes = lite0.head(lite0.high(low)), lite0.branch(low)

    for n in range(2):
        for row in range(3):
            for column in range(4):
                assert output.pixel_logits[n, 0, row, column] == pixels[n, 0, row, column]
                for c in range(1, 6):
                    fused = pixels[n, c, row, column] + classes[n, c - 1]
                    assert output.pixel_logits[n, c, row, column] == fused


def test_an_auxiliary_branch_leaves_the_pixel_scores_alone_and_learns_nothing_from_them():
    torch.manual_seed(0)
    model = build_model(recipe(score_fusion="no"), 6, multilabel=True).train()
    model.head.eval()  # no dropout, so that the two agree
    images = torch.randn(1, 3, 64, 64)

    output = model(images)
    output.pixel_logits.sum().backward()

    assert output.class_logits.shape == (1, 5)
    torch.testing.assert_close(output.pixel_logits, model.head(model.high(model.low(images))))
    assert all(parameter.grad is None for parameter in model.branch.parameters())


def test_a_branch_that_knows_background_raises_background_too():
    torch.manual_seed(0)
    model = build_model(recipe(branch_target="mask_classes"), 6, multilabel=True)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        output = model(images)
        alone = model.head(model.high(model.low(images)))

    assert output.class_logits.shape == (1, 6)
    expected = output.class_logits[:, :, None, None].expand_as(alone)
    torch.testing.assert_close(output.pixel_logits - alone, expected, atol=1e-6, rtol=0)


def test_the_mean_colour_normalises_to_zero_and_lite0_gets_its_own_range(lite0):
    pixels = torch.tensor([127.0, 255.0]).view(1, 1, 1, 2).expand(1, 3, 1, 2)

    assert lite0.normalise(pixels)[0, :, 0, :].tolist() == [[0.0, 1.0]] * 3


def test_the_installed_imagenet_weights_are_loaded_unless_the_recipe_says_none():
    loaded = build_model(preset("cpu"), 6)
    again = build_model(preset("cpu"), 6)

    assert torch.equal(loaded.low[0][0].weight, again.low[0][0].weight)
    assert not torch.equal(loaded.low[0][0].weight, build_model(recipe(), 6).low[0][0].weight)


def test_a_file_of_torchvision_weights_is_loaded_and_known_by_its_hash(tmp_path, monkeypatch):
    network = torchvision.models.resnet50()
    file = tmp_path / "weights.pth"
    torch.save(network.state_dict(), file)
    values = recipe("paper", weights=str(file))

    model = build_model(values, 3)

    assert torch.equal(model.low[0].weight, network.conv1.weight)
    assert weights_ledger_entry(values).supervision is Supervision.UNKNOWN

    monkeypatch.setitem(
        backbones.IMAGENET_DIGESTS, "resnet50", ("-", hashlib.sha256(file.read_bytes()).hexdigest()[:8])
    )
    assert weights_ledger_entry(values).supervision is Supervision.IMAGE_LEVEL


def test_safetensors_of_lite0_with_the_packages_names_are_loaded(tmp_path):
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    file = tmp_path / "lite0.safetensors"
    save_file(network.state_dict(), file)

    model = build_model(recipe(weights=str(file)), 3)

    assert torch.equal(model.low[0][0].weight, network._conv_stem.weight)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "damaged"), (b"not weights at all", "damaged|holds more"), (None, "do not fit")],
)
def test_a_file_of_other_things_is_refused_as_weights(tmp_path, content, message):
    file = tmp_path / "weights.pth"
    if content is None:
        torch.save({"conv1.weight": torch.zeros(3)}, file)
    else:
        file.write_bytes(content)

    with pytest.raises(CheckpointError, match=message):
        build_model(recipe("paper", weights=str(file)), 3)


def test_a_missing_file_of_weights_is_named():
    with pytest.raises(WssError, match=r"no/where\.pth: there is no such file"):
        build_model(recipe("paper", weights="no/where.pth"), 3)


def test_without_a_network_the_way_out_is_reported(monkeypatch):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: "/nonexistent-and-not-writable")

    with pytest.raises(WssError, match="--weights FILE"):
        imagenet_file("resnet50", "0676ba61")


def test_weights_that_torchvision_has_downloaded_before_are_taken_from_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    file = tmp_path / "checkpoints" / torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[-1]
    network = torchvision.models.resnet18()
    torch.save(network.state_dict(), file)

    model = build_model(recipe(backbone="resnet18", weights="imagenet"), 3, multilabel=True)

    assert torch.equal(model.low[0].weight, network.conv1.weight)
    assert torch.equal(model.high[1][1].conv2.weight, network.layer4[1].conv2.weight)
    assert torch.equal(model.branch.high[1][1].conv2.weight, network.layer4[1].conv2.weight)

    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=rf"{file.name}: the file (is damaged|holds more)"):
        build_model(recipe(backbone="resnet18", weights="imagenet"), 3)


def test_random_weights_taught_nothing():
    assert weights_ledger_entry(recipe()) is None
    assert weights_ledger_entry(preset("cpu")).supervision is Supervision.IMAGE_LEVEL


def test_float32_stays_float32():
    assert usable_precision("float32", "cpu") == "float32"
