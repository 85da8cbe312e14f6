"""The transformer against a literal one, against torchvision's, and on files as DINO and DINOv2 write them."""

import math

import numpy as np
import pytest
import torch
import torchvision

from wss_data.backbones import BackboneChoice
from wss_data.backbones.vit import TransformerBackbone, TransformerShape, shape_of
from wss_data.errors import WssError

SMALL = TransformerShape(channels=128, depth=3, patch_px=8, grid=4, hidden=160)
FULL = TransformerShape(
    channels=128, depth=3, patch_px=8, grid=4, hidden=160, registers=2, layer_scale=True, qkv_bias=False
)


@pytest.fixture(autouse=True)
def one_thread():
    """These networks are too small to share out: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_state(shape, seed=0):
    """Weights of about the size that training gives."""
    generator = torch.Generator().manual_seed(seed)
    state = TransformerBackbone(shape).network.state_dict()
    # The names of DINO.
    state = {name.replace("reg_token", "register_tokens"): tensor for name, tensor in state.items()}
    for name, tensor in state.items():
        scale = 1 / math.sqrt(tensor[0].numel()) if tensor.ndim > 1 and "token" not in name else 0.3
        state[name] = torch.randn(tensor.shape, generator=generator) * scale
        if name.endswith(("norm1.weight", "norm2.weight", "norm.weight", "gamma")):
            state[name] += 1
    return state


def load(state, tmp_path):
    torch.save(state, tmp_path / "vit.pth")
    return BackboneChoice("vit", tmp_path / "vit.pth").load()


def literal_transformer(state, pixels, depth):
    """Token lists after each block and the class token's attention in the last, one number after the other.

    ``pixels``: (3, 32, 32), float64, so that the positions need no interpolation.
    """
    w = {name: tensor.double().numpy() for name, tensor in state.items()}

    def norm(x, name):
        return (
            np.array([(t - t.mean()) / math.sqrt(t.var() + 1e-6) for t in x]) * w[f"{name}.weight"] + w[f"{name}.bias"]
        )

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

    patches = []
    for row in range(4):
        for column in range(4):
            patch = pixels[:, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
            kernel = w["patch_embed.proj.weight"]
            value = [(kernel[c] * patch).sum() for c in range(len(kernel))] + w["patch_embed.proj.bias"]
            patches.append(value + w["pos_embed"][0, 1 + row * 4 + column])
    registers = list(w["register_tokens"][0]) if "register_tokens" in w else []
    tokens = np.array([w["cls_token"][0, 0] + w["pos_embed"][0, 0], *registers, *patches])
    after = []
    for b in range(depth):
        qkv = linear(norm(tokens, f"blocks.{b}.norm1"), f"blocks.{b}.attn.qkv")
        channels = tokens.shape[1]
        joined = np.zeros_like(tokens)
        for head in range(channels // 64):
            q, k, v = (qkv[:, part * channels + head * 64 :][:, :64] for part in range(3))
            for i in range(len(tokens)):
                scores = np.array([math.exp(q[i] @ k[j] / 8) for j in range(len(tokens))])
                shares = scores / scores.sum()
                joined[i, head * 64 : head * 64 + 64] = shares @ v
        tokens = tokens + w.get(f"blocks.{b}.ls1.gamma", 1) * linear(joined, f"blocks.{b}.attn.proj")
        inner = linear(norm(tokens, f"blocks.{b}.norm2"), f"blocks.{b}.mlp.fc1")
        inner = np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))))(inner)
        tokens = tokens + w.get(f"blocks.{b}.ls2.gamma", 1) * linear(inner, f"blocks.{b}.mlp.fc2")
        after.append(norm(tokens, "norm"))
    return after


@pytest.mark.parametrize("shape", [SMALL, FULL], ids=["DINO", "DINOv2 with registers"])
def test_it_is_the_literal_transformer(shape, tmp_path):
    state = random_state(shape)
    pixels = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(1))
    after = literal_transformer(state, pixels.double().numpy(), depth=3)

    with torch.no_grad():
        maps = load(state, tmp_path).dense(pixels[None])

    for ours, tokens in ((maps.last, after[2]), (maps.middle, after[1])):
        expected = torch.from_numpy(tokens[-16:]).float().reshape(4, 4, 128)
        torch.testing.assert_close(ours[0].permute(1, 2, 0), expected, atol=1e-4, rtol=1e-4)


def test_it_is_torchvisions_transformer_with_the_same_weights(tmp_path):
    state = random_state(SMALL)
    theirs = torchvision.models.VisionTransformer(32, 8, 3, 2, 128, 160).eval()
    names = {"attn.qkv.weight": "self_attention.in_proj_weight", "attn.qkv.bias": "self_attention.in_proj_bias"}
    parts = {
        "norm1": "ln_1",
        "norm2": "ln_2",
        "attn.proj": "self_attention.out_proj",
        "mlp.fc1": "mlp.0",
        "mlp.fc2": "mlp.3",
    }
    mapped = {
        "class_token": state["cls_token"],
        "encoder.pos_embedding": state["pos_embed"],
        "conv_proj.weight": state["patch_embed.proj.weight"],
        "conv_proj.bias": state["patch_embed.proj.bias"],
        "encoder.ln.weight": state["norm.weight"],
        "encoder.ln.bias": state["norm.bias"],
    }
    for name, tensor in state.items():
        if name.startswith("blocks."):
            _, number, rest = name.split(".", 2)
            for ours, other in parts.items():
                rest = rest.replace(ours, other)
            mapped[f"encoder.layers.encoder_layer_{number}.{names.get(rest, rest)}"] = tensor
    theirs.load_state_dict(mapped, strict=False)
    assert mapped.keys() == {name for name in theirs.state_dict() if not name.startswith("heads.")}
    images = torch.randn(2, 3, 32, 32)

    with torch.no_grad():
        tokens = theirs.encoder(torch.cat([theirs.class_token.expand(2, -1, -1), theirs._process_input(images)], 1))
        ours = load(state, tmp_path).dense(images).last

    torch.testing.assert_close(ours.flatten(2).transpose(1, 2), tokens[:, 1:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("channels", [192, 384])
@pytest.mark.parametrize("patch", [8, 14, 16])
def test_sizes_are_read_from_the_file_and_any_image_size_is_taken(channels, patch, tmp_path):
    shape = TransformerShape(
        channels, depth=2, patch_px=patch, grid=5, hidden=2 * channels, registers=4, layer_scale=True
    )
    network = load(random_state(shape), tmp_path)

    with torch.no_grad():
        maps = network.dense(torch.randn(1, 3, 3 * patch, 7 * patch))

    assert network.shape == shape and network.cell_px == network.side_multiple == patch
    assert maps.last.shape == maps.middle.shape == (1, channels, 3, 7)
    assert all(torch.isfinite(one).all() for one in maps)


def test_positions_are_stretched_over_the_image_rows_to_rows_and_columns_to_columns():
    network = TransformerBackbone(SMALL)
    grid = torch.zeros(4, 4, 128)
    grid[..., 0], grid[..., 1] = torch.arange(4.0)[:, None], torch.arange(4.0)[None]
    network.network.pos_embed.data[0, 1:] = grid.reshape(16, 128)

    with torch.no_grad():
        placed = network.with_positions(torch.zeros(1, 6 * 8, 128), 6, 8)[0, 1:].reshape(6, 8, 128)

    rows, columns = placed[..., 0], placed[..., 1]
    assert torch.allclose(rows, rows[:, :1].expand(6, 8), atol=1e-5) and (rows[1:] > rows[:-1]).all()
    assert torch.allclose(columns, columns[:1].expand(6, 8), atol=1e-5) and (columns[:, 1:] > columns[:, :-1]).all()
    assert abs(float(rows.mean()) - 1.5) < 1e-4 and abs(float(columns.mean()) - 1.5) < 1e-4


@pytest.mark.parametrize(("depth", "block"), [(1, 1), (2, 1), (3, 2), (12, 8), (24, 16)])
def test_the_middle_is_two_thirds_of_the_way(depth, block):
    shape = TransformerShape(channels=64, depth=depth, patch_px=8, grid=2, hidden=64)

    assert TransformerBackbone(shape).middle_block == block


def test_a_checkpoint_of_dinov2_in_chunks_with_its_heads_is_the_same_network(tmp_path):
    state = random_state(FULL)
    chunked = {name.replace("blocks.2.", "blocks.1.2.").replace("blocks.0.", "blocks.0.0.") for name in state}
    assert chunked != set(state)
    wrapped = {
        f"backbone.{name.replace('blocks.2.', 'blocks.1.2.').replace('blocks.0.', 'blocks.0.0.')}": tensor
        for name, tensor in state.items()
    }
    wrapped |= {"backbone.mask_token": torch.zeros(1, 128), "dino_head.mlp.0.weight": torch.zeros(3, 3)}
    images = torch.randn(1, 3, 32, 32)

    with torch.no_grad():
        plain = load(state, tmp_path).dense(images).last
        assert torch.equal(load({"teacher": wrapped, "iteration": 5}, tmp_path).dense(images).last, plain)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cls_token": None}, "'cls_token' is missing"),
        ({"blocks.0.mlp.fc1.weight": None}, r"'blocks\.0\.mlp\.fc1\.weight' is missing"),
        ({"pos_embed": torch.zeros(1, 16, 128)}, r"'pos_embed' has shape \(1, 16, 128\), expected"),
        ({"patch_embed.proj.weight": torch.zeros(100, 3, 8, 8)}, "multiple of 64"),
        ({"blocks.7.norm1.weight": torch.zeros(128)}, "4 blocks, but their numbers go up to 7"),
        ({"norm.weight": None}, "do not fit"),
        ({"blocks.1.mlp.fc2.bias": torch.zeros(5)}, "do not fit"),
        ({"something.else": torch.zeros(1)}, "do not fit.*something.else"),
    ],
)
def test_what_does_not_fit_is_named(change, message, tmp_path):
    state = random_state(SMALL)
    for name, tensor in change.items():
        if tensor is None:
            del state[name]
        else:
            state[name] = tensor

    with pytest.raises(WssError, match=r"vit\.pth: .*" + message):
        load(state, tmp_path)


@pytest.mark.parametrize(("channels", "heads"), [(192, 3), (384, 6), (768, 12), (1024, 16), (1280, 16)])
def test_the_number_of_heads_is_the_one_of_the_published_networks(channels, heads):
    shape = TransformerShape(channels, depth=1, patch_px=8, grid=2, hidden=64)

    assert TransformerBackbone(shape).network.blocks[0].attn.num_heads == heads


def test_a_convolutional_network_is_no_transformer():
    with pytest.raises(WssError, match=r"'cls_token' is missing.*names of DINO.*such as bn1\.bias"):
        shape_of(torchvision.models.resnet18().state_dict(), "file.pth")
