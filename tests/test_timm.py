"""Any network of timm as a backbone: its maps, its weights, what these learned from, and models trained on it."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional

from wss_data.backbones import BackboneChoice, networks
from wss_data.backbones.networks import ConvolutionalBackbone, WholeBackbone, load_backbone
from wss_data.backbones.published import learned_from
from wss_data.cosegmentation.features import DescriptorNetwork
from wss_data.errors import CheckpointError, RecipeError, WssError
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_train.checkpoints import ModelCard, write_model
from wss_train.export import export_model
from wss_train.models import build_model, load_network, weights_ledger_entry
from wss_train.recipes import preset, with_values

pytestmark = pytest.mark.usefixtures("one_thread")

DILATED = ("mobilenetv3_small_050", "efficientnet_b0", "resnet10t", "regnetx_002")
# Cells cut out, windows, patches of 14, rotary positions, windows that want multiples of 160, no dilation
WHOLE = (
    *("convnext_atto", "swin_tiny_patch4_window7_224", "vit_small_patch14_dinov2", "vit_small_patch16_dinov3"),
    *("test_maxvit", "vgg11"),
)


@pytest.fixture
def images():
    return torch.randn(1, 3, 128, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The smallest transformer of timm's, with its classifier, in a file."""
    torch.manual_seed(0)
    network = timm.create_model("test_vit").eval()
    file = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(network.state_dict(), file)
    return network, file


@pytest.mark.parametrize("name", DILATED)
@pytest.mark.parametrize("stride", [8, 16])
def test_a_network_in_parts_gives_the_maps_that_timm_gives(name, stride, images):
    theirs = timm.create_model(name, features_only=True, output_stride=stride).eval()
    ours = load_backbone(name, "none", stride)
    assert isinstance(ours, ConvolutionalBackbone)

    with torch.no_grad():
        for mine, wanted in zip(ours.parts.parameters(), theirs.parameters(), strict=True):
            mine.copy_(wanted)
        maps, expected = ours.dense(images), theirs(images)

    torch.testing.assert_close(maps.last, expected[-1])
    torch.testing.assert_close(maps.middle, expected[-2])
    assert maps.last.shape[2:] == (128 // stride, 96 // stride)


@pytest.mark.parametrize("name", WHOLE)
def test_a_network_that_cannot_be_dilated_gives_cells_of_16_px_or_its_patches(name, images):
    network = load_backbone(name, "none")
    cell = 14 if "patch14" in name else 16

    with torch.no_grad():
        maps = network.dense(images)

    assert isinstance(network, WholeBackbone) and network.cell_px == cell
    assert maps.last.shape[2:] == maps.middle.shape[2:] == (-(-128 // cell), -(-96 // cell))
    assert maps.last.shape[1] == network.channels


def test_the_maps_of_a_transformer_are_its_normed_patches(images):
    network = load_backbone("test_vit", "none")
    with torch.no_grad():
        maps = network.dense(images)
        tokens = network.network.forward_features(images)[:, network.network.num_prefix_tokens :]

    assert network.cell_px == network.side_multiple == 16
    torch.testing.assert_close(maps.last.flatten(2).transpose(1, 2), tokens)


# vgg11's hundred million weights are no other kind than this network's one million: no dilation, and multiples of 32.
@pytest.mark.parametrize("name", [*DILATED, *WHOLE[:-1], "edgenext_xx_small"])
def test_a_model_on_it_is_trained_saved_and_read(name, tmp_path):
    recipe = with_values(preset("cpu"), {"backbone": name, "weights": "none", "head_channels": 8, "branch_channels": 8})
    torch.manual_seed(0)
    model = build_model(recipe, 4, multilabel=True).train()
    images = model.normalise(torch.rand(1, 3, 75, 97) * 255)
    output = model(images)
    (output.pixel_logits.sum() + output.class_logits.sum()).backward()
    model.eval()

    write_model(model.state_dict(), ModelCard("final", ("a", "b", "c"), recipe, 1, True, Ledger()), tmp_path)
    read, _ = load_network(tmp_path / "model.safetensors")

    assert output.pixel_logits.shape == (1, 4, 5, 7)  # cells of the recipe's 16 px, whatever the patch
    assert any(p.grad is not None and p.grad.any() for p in model.high.parameters())
    with torch.no_grad():
        for found, wanted in zip(read(images), model(images), strict=True):
            torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(read.pixel_mean, model.pixel_mean)


def test_a_network_is_described_with_in_both_precisions(tiny):
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)

    exact, coarse = (
        DescriptorNetwork(96, precision, "test_vit", tiny[1], "cpu").describe(image)
        for precision in ("float32", "bf16")
    )

    assert exact.descriptors.shape == exact.middle.shape == coarse.middle.shape == (4, 6, 64)
    assert np.corrcoef(exact.descriptors.ravel(), coarse.descriptors.ravel())[0, 1] > 0.99


# --- weights ---------------------------------------------------------------------------------------------------------


def test_a_file_of_timms_is_read_whatever_its_classifier(tiny, images):
    theirs, file = tiny

    ours = load_backbone("test_vit", file)

    assert all(torch.equal(tensor, theirs.state_dict()[key]) for key, tensor in ours.network.state_dict().items())


def test_a_file_of_dinov2_with_registers_is_read_by_the_names_of_its_authors(tmp_path):
    network = timm.create_model("vit_small_patch14_reg4_dinov2", num_classes=0).state_dict()
    theirs = {key: value for key, value in network.items() if key != "reg_token"}
    theirs |= {"register_tokens": network["reg_token"], "mask_token": torch.zeros(1, 384)}
    theirs["pos_embed"] = torch.cat([torch.ones(1, 1, 384), network["pos_embed"]], dim=1)  # the class token's, too
    torch.save(theirs, tmp_path / "dinov2.pth")

    ours = load_backbone("vit_small_patch14_reg4_dinov2", tmp_path / "dinov2.pth").network.state_dict()

    wanted = {**network, "cls_token": network["cls_token"] + 1}
    assert all(torch.equal(tensor, wanted[key]) for key, tensor in ours.items())


@pytest.mark.parametrize("name", ["convnext_atto", "vit_small_patch16_224", "mobilenetv3_small_050", "test_vit2"])
def test_a_file_of_another_network_is_refused(name, tiny):
    with pytest.raises(CheckpointError, match=r"model\.safetensors: the.* (fit|weights of)"):
        load_backbone(name, tiny[1])


def test_weights_that_the_hub_does_not_give_end_in_one_sentence_with_the_way_out(monkeypatch):
    def offline(*args, **kwargs):
        raise ConnectionError("Name or service not known\nand much more")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", offline)

    with pytest.raises(WssError) as caught:
        BackboneChoice("test_vit").load()

    assert str(caught.value).count("\n") == 0
    assert "timm's weights of test_vit cannot be had (Name or service not known)" in str(caught.value)
    assert "https://huggingface.co/timm/test_vit.r160_in1k on another machine, and name it" in str(caught.value)


def test_weights_that_the_hub_gives_are_taken_without_their_classifier(tiny, monkeypatch):
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *a, **k: dict(tiny[0].state_dict()))

    ours = BackboneChoice("test_vit").load()

    assert all(torch.equal(tensor, tiny[0].state_dict()[key]) for key, tensor in ours.network.state_dict().items())


def test_pixels_are_those_that_the_weights_were_trained_with():
    network = load_backbone("vit_tiny_patch16_224.augreg_in21k", "none")

    assert network.pixel_mean == network.pixel_divisor == (127.5,) * 3
    recipe = with_values(preset("cpu"), {"backbone": "vit_tiny_patch16_224.augreg_in21k"})
    assert recipe.pixel_statistics == ((127.5,) * 3, (127.5,) * 3)


def test_a_network_of_one_size_sees_images_of_all_sizes_stretched_to_it():
    torch.manual_seed(0)
    network = load_backbone("visformer_tiny", "none")
    image = torch.rand(1, 3, 224, 448)

    with torch.no_grad():
        wide, square = network.dense(image), network.dense(functional.interpolate(image, (224, 224), mode="bilinear"))

    assert square.last.shape[2:] == (14, 14) and wide.last.shape[2:] == (14, 28)
    assert np.corrcoef(square.last.mean(3).ravel(), wide.last.mean(3).ravel())[0, 1] > 0.99


def test_a_network_without_maps_is_refused(monkeypatch):
    def none(*arguments):
        raise ValueError("it has none")

    monkeypatch.setattr(networks, "_cells", none)

    with pytest.raises(WssError, match=r"the network dla34 of timm cannot be a backbone: .* \(it has none\)"):
        load_backbone("dla34", "none")


def test_training_wants_the_name_of_a_transformer():
    with pytest.raises(RecipeError, match="Name the network of timm that the file is of, such as vit_small"):
        with_values(preset("cpu"), {"backbone": "vit"})


# --- what they learned from ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "supervision", "words"),
    [
        ("resnet50.a1_in1k", Supervision.IMAGE_LEVEL, "ImageNet-1k"),
        ("convnext_tiny.in12k_ft_in1k", Supervision.IMAGE_LEVEL, "ImageNet-21k"),
        ("vit_base_patch16_224.augreg2_in21k_ft_in1k", Supervision.IMAGE_LEVEL, "ImageNet-21k"),
        ("tf_efficientnet_b0.ns_jft_in1k", Supervision.IMAGE_LEVEL, "JFT"),
        ("vit_base_patch16_clip_224.openai", Supervision.IMAGE_LEVEL, "CLIP"),
        ("vit_base_patch16_siglip_224.webli", Supervision.IMAGE_LEVEL, "CLIP"),
        ("resnet50.fb_swsl_ig1b_ft_in1k", Supervision.IMAGE_LEVEL, "hashtags"),
        ("vit_small_patch16_224.dino", Supervision.NONE, "images alone"),
        ("vit_small_patch14_dinov2.lvd142m", Supervision.NONE, "DINOv2"),
        ("vit_small_patch16_dinov3.lvd1689m", Supervision.NONE, "DINOv3"),
        ("vit_base_patch16_224.mae", Supervision.NONE, "images alone"),
        ("convnextv2_tiny.fcmae_ft_in1k", Supervision.IMAGE_LEVEL, "ImageNet-1k"),
        ("samvit_base_patch16.sa1b", Supervision.MASKS, "masks"),
        # Sharpness-aware minimisation, no masks
        ("vit_base_patch16_224.sam_in1k", Supervision.IMAGE_LEVEL, "ImageNet-1k"),
        ("vit_base_patch16_radio_v3.c_radio", Supervision.MASKS, "masks"),
        ("vit_so400m_patch14_siglip_gap_448.pali_refcoco_seg", Supervision.MASKS, "masks"),
    ],
)
def test_the_ledger_knows_what_common_weights_learned_from(weights, supervision, words):
    entry = BackboneChoice(weights).ledger_entry()

    assert learned_from(weights)[1] is entry.supervision is supervision
    assert entry.what.startswith(f"{weights} weights, ") and words in entry.what


def test_of_other_weights_a_person_must_say_it():
    strange = "resnet50.bamboo"

    assert BackboneChoice(strange).ledger_entry().supervision is Supervision.UNKNOWN
    assert BackboneChoice(strange, weights_supervision="image_level").ledger_entry().supervision == "image_level"


def test_a_name_without_a_tag_is_entered_with_the_tag_that_timm_takes():
    recipe = with_values(preset("cpu"), {"backbone": "convnext_atto"})

    assert BackboneChoice("convnext_atto").fingerprint() == "convnext_atto.d2_in1k"
    entry = weights_ledger_entry(recipe)
    assert entry.what == "convnext_atto.d2_in1k weights, ImageNet-1k classification"
    assert entry.used_for is UsedFor.WEIGHTS


def test_most_published_weights_are_known():
    published = timm.list_pretrained()

    assert sum(learned_from(name) is not None for name in published) > 0.9 * len(published)


def test_a_network_that_no_exporter_can_follow_is_refused(tmp_path):
    recipe = with_values(preset("cpu"), {"backbone": "test_vit", "weights": "none", "head_channels": 8})
    card = ModelCard("generator", ("a", "b", "c"), recipe, 1, False, Ledger())
    write_model(build_model(recipe, 4).state_dict(), card, tmp_path)

    with pytest.raises(WssError, match=r"test_vit.* cannot be exported.*wss_train\.load_model"):
        export_model(tmp_path / "model.safetensors", tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()
