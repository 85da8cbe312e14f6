"""A trained model as a file without our code, and the page beside the weights."""

import json
import sys
import warnings

import numpy as np
import pytest
import torch
from drawings import SMALLEST
from torch import nn

from wss_data.errors import WssError
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_train.checkpoints import ModelCard, write_model
from wss_train.commands.cli import main
from wss_train.data import DataSummary
from wss_train.export import (
    TOLERANCE,
    PixelModel,
    export_model,
    largest_difference,
    traceable,
)
from wss_train.model_card import model_readme, write_model_readme
from wss_train.models import build_backbone, build_model, load_network
from wss_train.recipes import preset, with_values

torch.set_num_threads(1)

TINY = {"head_channels": 8, "branch_channels": 8, "long_side": 40}
# Random weights of the former network would let no signal through: any two exports would agree.
LITE = with_values(preset("cpu"), {**TINY, "new_layer_std": 0.3})
RESNET = with_values(LITE, {"backbone": "resnet18", "weights": "none", "new_layer_std": 0.2, "output_stride": 8})
LEDGER = Ledger().add("labels of a test", Supervision.IMAGE_LEVEL, UsedFor.TRAINING)


def save(folder, recipe=LITE, multilabel=True):
    torch.manual_seed(0)
    card = ModelCard("final", ("cow", "sheep"), recipe, recipe.iterations("final"), multilabel, LEDGER)
    return write_model(build_model(recipe, 3, multilabel).state_dict(), card, folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """For what does not depend on the network."""
    return save(tmp_path_factory.mktemp("run"), with_values(LITE, SMALLEST)).parent


def pixels(*shape):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(3)).to(torch.uint8)


def opened(path, texts=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch would rather have torch.export
        return torch.jit.load(path, _extra_files=texts)


def expected(run, picture):
    """Written out: what the model says of each pixel."""
    model, _ = load_network(run)
    with torch.no_grad():
        logits = model(model.normalise(picture.float())).pixel_logits
        return nn.functional.interpolate(logits, picture.shape[2:], mode="bilinear").softmax(1)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (7, 8), (8, 7)])
def test_a_halving_convolution_pads_as_tensorflow_does_at_each_size_that_is_traced(kernel, height, width):
    from efficientnet_lite_pytorch.utils import Conv2dDynamicSamePadding
    from timm.layers import Conv2dSame

    package = Conv2dDynamicSamePadding(2, 2, kernel, stride=2, groups=2, bias=False)
    ours = Conv2dSame(2, 2, kernel, stride=2, groups=2, bias=False)
    ours.load_state_dict(package.state_dict())
    features = torch.randn(1, 2, height, width)

    traced = torch.jit.trace(ours, torch.randn(1, 2, 5, 6))

    assert traced(features).shape == (1, 2, -(-height // 2), -(-width // 2))
    assert torch.equal(traced(features), package(features))


def test_the_traceable_copy_scores_equally_and_leaves_the_model_as_it_was():
    model = build_model(LITE, 3, multilabel=True)
    names = list(model.state_dict())
    picture = torch.randn(1, 3, 33, 50)

    copied = traceable(model)

    with torch.no_grad():
        assert torch.equal(copied(picture).pixel_logits, model(picture).pixel_logits)
    assert list(model.state_dict()) == names
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not [m for m in copied.modules() if isinstance(m, nn.Conv2d) and "forward" in vars(m)]


@pytest.mark.parametrize("recipe", [LITE, RESNET], ids=lambda recipe: recipe.backbone)
def test_torchscript_takes_any_size_in_bytes_or_floats_and_gives_the_same_probabilities(tmp_path, recipe):
    run = save(tmp_path / "run", recipe).parent

    exported = export_model(run, tmp_path / "model.pt")

    assert exported.file_format == "torchscript" and exported.difference < 1e-6
    module = opened(tmp_path / "model.pt")
    picture = pixels(2, 3, 35, 50)
    for given in (picture, picture.float()):
        torch.testing.assert_close(module(given), expected(run, picture), atol=1e-6, rtol=0)
    torch.testing.assert_close(module(picture).sum(1), torch.ones(2, 35, 50))


@pytest.mark.parametrize("recipe", [LITE, RESNET], ids=lambda recipe: recipe.backbone)
def test_onnx_takes_any_size_and_gives_the_same_probabilities_outside_of_pytorch(tmp_path, recipe):
    runtime = pytest.importorskip("onnxruntime")
    run = save(tmp_path / "run", recipe).parent

    exported = export_model(run, tmp_path / "model.onnx")

    assert exported.difference < TOLERANCE
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    picture = pixels(2, 3, 35, 50)
    (found,) = session.run(["probabilities"], {"pixels": picture.numpy()})
    np.testing.assert_allclose(found, expected(run, picture).numpy(), atol=TOLERANCE)
    assert found.std() > 0.05


def test_onnx_can_be_bound_to_one_size_and_give_logits_of_floats(tmp_path, run):
    runtime = pytest.importorskip("onnxruntime")

    exported = export_model(run, tmp_path / "a.onnx", output="logits", input_type="float32", size=(30, 40))

    session = runtime.InferenceSession(str(tmp_path / "a.onnx"))
    assert exported.shapes == ((1, 3, 30, 40), (2, 3, 30, 40))
    assert session.get_inputs()[0].shape == ["batch", 3, 30, 40]
    assert session.get_inputs()[0].type == "tensor(float)"
    (logits,) = session.run(["logits"], {"pixels": pixels(1, 3, 30, 40).float().numpy()})
    assert logits.shape == (1, 3, 30, 40)
    torch.testing.assert_close(
        torch.from_numpy(logits).softmax(1), expected(run, pixels(1, 3, 30, 40)), atol=1e-4, rtol=0
    )


def test_both_formats_carry_classes_recipe_and_ledger(tmp_path, run):
    onnx = pytest.importorskip("onnx")
    export_model(run, tmp_path / "model.onnx")
    export_model(run, tmp_path / "model.ts")

    props = {prop.key: prop.value for prop in onnx.load(tmp_path / "model.onnx").metadata_props}
    texts = dict.fromkeys(props, "")
    opened(tmp_path / "model.ts", texts)

    assert json.loads(props["classes"]) == ["background", "cow", "sheep"]
    assert json.loads(props["strictly_image_level"]) is True
    assert props["long_side"] == "40"
    assert ModelCard.from_json(props["wss_train"], "the file") == load_network(run)[1]
    assert {name: text.decode() for name, text in texts.items()} == props


def test_a_trace_that_takes_a_size_for_a_constant_is_wrong_at_other_sizes_and_found_out():
    from efficientnet_lite_pytorch.utils import Conv2dDynamicSamePadding

    torch.manual_seed(0)
    network = build_model(LITE, 3)
    # This one rounds with math.ceil, which a tracer takes for a constant.
    network.low[0][0] = Conv2dDynamicSamePadding(3, 32, 3, stride=2, bias=False)
    model = PixelModel(network).eval()
    with torch.no_grad(), pytest.warns(Warning):
        traced = torch.jit.trace(model, pixels(1, 3, 67, 93), check_trace=False)

    assert largest_difference(traced, model, [pixels(1, 3, 67, 93)]) < 1e-6
    with pytest.raises(WssError, match=r"1x3x64x64.*differ.*Nothing was written"):
        largest_difference(traced, model, [pixels(1, 3, 64, 64)])


@pytest.mark.parametrize("wrong", [lambda scores: scores + 0.01, lambda scores: scores * float("nan")])
def test_scores_that_differ_leave_no_file(tmp_path, run, monkeypatch, wrong):
    class Broken(PixelModel):
        def forward(self, pixels):
            scores = super().forward(pixels)
            # Only the model that is exported lacks gradients.
            return scores if next(self.parameters()).requires_grad else wrong(scores)

    monkeypatch.setattr("wss_train.export.PixelModel", Broken)

    with pytest.raises(WssError, match="differ"):
        export_model(run, tmp_path / "out" / "model.pt")
    assert list((tmp_path / "out").iterdir()) == []


def test_scores_of_another_shape_are_reported():
    with pytest.raises(WssError, match=r"shape \(1, 2, 4, 4\), the PyTorch model \(1, 2, 5, 4\)"):
        largest_difference(lambda p: torch.zeros(1, 2, 4, 4), lambda p: torch.zeros(1, 2, 5, 4), [pixels(1, 3, 5, 4)])


def refused(capsys, *arguments):
    capsys.readouterr()
    assert main(["export", *map(str, arguments)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("wss-train: ")
    return lines[0]


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, run, capsys):
    (tmp_path / "file").write_text("no folder")
    torch.save({"a": torch.zeros(1)}, tmp_path / "pickle.pth")

    assert "End it with .onnx" in refused(capsys, run, "--out", tmp_path / "model.weights")
    assert "holds no model.safetensors" in refused(capsys, tmp_path, "--out", tmp_path / "a.pt")
    assert "PyTorch pickle" in refused(capsys, tmp_path / "pickle.pth", "--out", tmp_path / "a.pt")
    assert str(tmp_path / "file") in refused(capsys, run, "--out", tmp_path / "file" / "a.pt")
    assert "this is a folder" in refused(capsys, run, "--out", tmp_path, "--format", "torchscript")
    assert "leave it out" in refused(capsys, run, "--out", tmp_path / "a.pt", "--size", "30x40")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pickle.pth"]


def test_without_the_packages_of_onnx_the_way_out_is_reported(tmp_path, run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    message = refused(capsys, run, "--out", tmp_path / "model.onnx")

    assert "pip install 'webcoseg[export]'" in message and ".pt" in message
    assert not (tmp_path / "model.onnx").exists()


def test_a_pytorch_without_the_exporter_is_an_error_in_words(tmp_path, run, monkeypatch):
    pytest.importorskip("onnxruntime")

    def gone(*args, **kwargs):
        raise TypeError("export() got an unexpected keyword argument 'dynamo'")

    monkeypatch.setattr(torch.onnx, "export", gone)

    with pytest.raises(WssError, match="no longer has the exporter"):
        export_model(run, tmp_path / "model.onnx")


def test_the_command_tells_the_difference_it_found(tmp_path, run, capsys):
    assert main(["export", str(run), "--out", str(tmp_path / "new" / "model.pt"), "--logits"]) == 0

    told = capsys.readouterr().out
    assert "torchscript" in told and "largest difference to the PyTorch model" in told
    assert opened(tmp_path / "new" / "model.pt")(pixels(1, 3, 9, 9)).shape == (1, 3, 9, 9)


SUMMARY = DataSummary("zoo", 1234, ("cow", "sheep"), {"cow": 1000, "sheep": 300}, {"cow": 990}, "f")


def card_of(ledger=LEDGER, **values):
    return ModelCard("final", ("cow", "sheep"), with_values(LITE, values), 250, True, ledger)


def test_the_page_tells_what_the_model_is_and_what_it_learned_from():
    page = model_readme(card_of(), SUMMARY)

    assert "Classes: 0 background, 1 cow, 2 sheep." in page
    assert "efficientnet_lite0 at stride 16, with a multi-label branch; 250 of 500 iterations." in page
    assert "Strictly image-level: yes" in page
    assert "| labels of a test | image_level | training |" in page
    assert "1,234 images of zoo." in page
    assert "| cow | 1,000 | 990 |" in page and "| sheep | 300 | 0 |" in page
    assert "differs from the preset `cpu` in `head_channels=8`, `new_layer_std=0.3`, " in page
    assert "Images are resized to a longer side of 40 px" in page


def test_the_page_says_no_where_true_masks_shaped_the_model():
    ledger = LEDGER.add("drawn masks", Supervision.MASKS, UsedFor.SELECTION)

    assert "Strictly image-level: **no**" in model_readme(card_of(ledger), SUMMARY)


def test_somebodys_words_break_no_table():
    ledger = Ledger().add("a | b\n<script>", Supervision.UNKNOWN, UsedFor.WEIGHTS)

    assert "| a / b &lt;script> | unknown | weights |" in model_readme(card_of(ledger), SUMMARY)


def test_the_python_of_the_page_runs(run, monkeypatch):
    from wss_data.imaging.images import write_jpeg

    monkeypatch.chdir(run)
    write_jpeg(np.full((20, 30, 3), 90, np.uint8), run / "photo.jpg")
    code = model_readme(card_of(), SUMMARY).split("```python\n")[1].split("```")[0]
    found: dict = {}

    exec(compile(code, "README.md", "exec"), found)

    assert found["mask"].shape == (20, 30)


def test_our_page_is_written_again_but_a_persons_own_is_left(tmp_path):
    path = write_model_readme(tmp_path, card_of(), SUMMARY)
    first = path.read_text()
    write_model_readme(tmp_path, card_of(seed=5), SUMMARY)
    assert path.name == "README.md" and path.read_text() != first

    path.write_text("my notes")
    write_model_readme(tmp_path, card_of(), SUMMARY)

    assert path.read_text() == "my notes"


@pytest.mark.parametrize("name", ["efficientnet_lite1", "efficientnet_lite2"])
def test_every_convolution_that_a_tracer_cannot_follow_halves(name):
    backbone = build_backbone(with_values(LITE, {"backbone": name}), "none", multilabel=True)

    special = [
        m
        for part in (backbone.low, backbone.high, backbone.branch_high)
        for m in part.modules()
        if isinstance(m, nn.Conv2d)
    ]
    assert {tuple(m.stride) for m in special if type(m) is not nn.Conv2d} == {(2, 2)}
