import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from wss_data.errors import CheckpointError
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_train.checkpoints import (
    ModelCard,
    TrainingState,
    find_model,
    read_card,
    read_training_state,
    read_weights,
    training_states,
    write_model,
    write_training_state,
)
from wss_train.models import build_model, load_network
from wss_train.recipes import preset, with_values

RECIPE = with_values(preset("cpu"), {"weights": "none", "head_channels": "8", "branch_channels": "8"})
LEDGER = Ledger().add("labels of a test", Supervision.IMAGE_LEVEL, UsedFor.TRAINING)
CARD = ModelCard("final", ("cow", "sheep"), RECIPE, 7, True, LEDGER)
WEIGHTS = {"a": torch.arange(4.0), "b": torch.zeros(2, 3)}


@pytest.fixture
def saved(tmp_path):
    return write_model(WEIGHTS, CARD, tmp_path / "run")


def test_card_and_weights_survive_the_disk(saved):
    assert read_card(saved) == CARD
    weights = read_weights(saved)
    assert weights.keys() == WEIGHTS.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in WEIGHTS.items())


def test_a_run_folder_means_its_model(saved):
    assert find_model(saved.parent) == saved
    assert read_card(saved.parent) == CARD


def test_the_file_alone_says_what_it_is(saved, tmp_path):
    moved = saved.rename(tmp_path / "cows.safetensors")

    assert read_card(moved) == CARD


def test_the_card_for_people_is_plain_json(saved):
    card = json.loads((saved.parent / "model.json").read_text())

    assert card["format_version"] == 1
    assert card["classes"] == ["cow", "sheep"]
    assert card["recipe"]["backbone"] == "efficientnet_lite0"
    assert card["ledger"]["strictly_image_level"] is True


def test_equal_models_are_equal_files(tmp_path):
    first, second = (write_model(WEIGHTS, CARD, tmp_path / name).read_bytes() for name in "ab")

    assert first == second


def test_channels_last_tensors_keep_their_values(tmp_path):
    tensor = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)

    assert torch.equal(read_weights(write_model({"t": tensor}, CARD, tmp_path))["t"], tensor)


def test_a_loaded_model_is_the_saved_one(tmp_path):
    torch.manual_seed(0)
    model = build_model(RECIPE, 3, multilabel=True)
    write_model(model.state_dict(), CARD, tmp_path)

    loaded, card = load_network(tmp_path, expect_classes=("cow", "sheep"))

    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(images).pixel_logits, model(images).pixel_logits)
    assert card == CARD
    assert not loaded.training


def test_other_classes_are_refused_and_both_are_named(saved):
    with pytest.raises(CheckpointError, match=r"knows the classes cow, sheep; the dataset has cow, horse"):
        read_card(saved, ("cow", "horse"))


def test_the_order_of_the_classes_counts(saved):
    with pytest.raises(CheckpointError, match="Names and order"):
        read_card(saved, ("sheep", "cow"))


@pytest.mark.parametrize("left", [0, 5, 200, -3])
def test_a_truncated_file_is_refused(saved, left):
    saved.write_bytes(saved.read_bytes()[:left])

    with pytest.raises(CheckpointError, match="truncated"):
        read_weights(saved)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused_without_being_opened(tmp_path, zipped):
    file = tmp_path / "model.pth"
    torch.save(WEIGHTS, file, _use_new_zipfile_serialization=zipped)

    with pytest.raises(CheckpointError, match="PyTorch pickle"):
        read_card(file)


def test_a_file_whose_header_has_a_length_like_a_pickles_first_byte_is_read(tmp_path):
    file = tmp_path / "model.safetensors"
    for padding in range(0, 512, 8):
        save_file(WEIGHTS, file, metadata={"wss_train": "x" * padding})
        if file.read_bytes()[0] == 0x80:
            break
    assert file.read_bytes()[0] == 0x80
    assert set(read_weights(file)) == set(WEIGHTS)


def test_safetensors_of_others_are_refused(tmp_path):
    save_file(WEIGHTS, tmp_path / "model.safetensors")

    with pytest.raises(CheckpointError, match="not written by wss-train"):
        read_card(tmp_path)


def test_another_format_version_is_refused_with_both_numbers(saved):
    data = saved.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    changed = data[8 : 8 + length].replace(b'\\"format_version\\": 1', b'\\"format_version\\": 9')
    saved.write_bytes(data[:8] + changed + data[8 + length :])

    with pytest.raises(CheckpointError, match="format version 9, this program reads version 1"):
        read_card(saved)


def test_weights_of_another_network_are_refused(saved):
    with pytest.raises(CheckpointError, match="do not fit"):
        load_network(saved)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such checkpoint"):
        read_card(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors"):
        read_card(tmp_path)


def state(iteration):
    return TrainingState(iteration, WEIGHTS, {"0.momentum_buffer": torch.ones(3)})


def test_a_training_state_survives_the_disk(tmp_path):
    folder = write_training_state(state(12), CARD, tmp_path, keep=2)

    read = read_training_state(folder)

    assert folder.name == "iteration_000012"
    assert read.iteration == 12
    assert torch.equal(read.optimizer["0.momentum_buffer"], torch.ones(3))
    assert read.weights.keys() == WEIGHTS.keys()


def test_only_the_newest_states_are_kept(tmp_path):
    for iteration in (1, 2, 3, 10):
        write_training_state(state(iteration), CARD, tmp_path, keep=2)

    assert [folder.name for folder in training_states(tmp_path)] == ["iteration_000003", "iteration_000010"]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_a_run_without_an_end_points_to_its_last_checkpoint(tmp_path):
    write_training_state(state(3), CARD, tmp_path, keep=2)

    with pytest.raises(CheckpointError, match=r"has not ended.*iteration_000003"):
        read_card(tmp_path)
    assert read_card(tmp_path / "checkpoints" / "iteration_000003") == CARD


def test_a_damaged_training_state_is_refused(tmp_path):
    folder = write_training_state(state(3), CARD, tmp_path, keep=2)
    (folder / "optimizer.safetensors").write_bytes(b"cut")

    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors.*truncated"):
        read_training_state(folder)


@pytest.mark.parametrize(
    "changed",
    [
        {"ledger": []}, {"ledger": None}, {"recipe": []}, {"recipe": {"backbone": "vgg"}}, {"recipe": {"newer": 1}},
        {"classes": "cow"}, {"classes": []}, {"classes": [1]}, {"kind": "other"}, {"iterations": "many"},
    ],
)  # fmt: skip
def test_a_card_with_a_strange_value_is_refused(tmp_path, changed):
    file = tmp_path / "model.safetensors"
    save_file(WEIGHTS, file, metadata={"wss_train": json.dumps({**CARD.to_dict(), **changed})})

    with pytest.raises(CheckpointError, match=r"model\.safetensors: the model card in the checkpoint cannot be read"):
        read_card(file)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3"])
def test_a_card_that_is_no_json_object_is_refused(tmp_path, text):
    file = tmp_path / "model.safetensors"
    save_file(WEIGHTS, file, metadata={"wss_train": text})

    with pytest.raises(CheckpointError, match=r"cannot be read|format version None"):
        read_card(file)


@pytest.mark.parametrize("text", ["", "\xff", "[]", '{"format_version": 1}', '{"format_version": 1, "iteration": "x"}'])
def test_a_state_file_of_other_things_is_refused(tmp_path, text):
    folder = write_training_state(state(3), CARD, tmp_path, keep=2)
    (folder / "state.json").write_text(text, encoding="latin-1")

    with pytest.raises(CheckpointError, match=r"cannot be read|format version None"):
        read_training_state(folder)
