import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pictures import TINY, rectangles

from wss_data.errors import CheckpointError, TrainingDataError
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_data.masks import read_mask, write_mask
from wss_train.evaluate import Evaluation, evaluate_model, percent
from wss_train.metrics import ConfusionMatrix
from wss_train.training import train


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    table = rectangles(tmp_path_factory.mktemp("rectangles"))
    return replace(table, ledger=Ledger().add("true masks", Supervision.MASKS, UsedFor.FINAL_SCORE))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    table = rectangles(tmp_path_factory.mktemp("rectangles"))
    return train(table, TINY, tmp_path_factory.mktemp("runs") / "final", "final", progress=False)


@pytest.mark.parametrize("crf", [False, True])
def test_the_score_is_that_of_one_matrix_over_all_predictions(model, table, tmp_path, crf):
    evaluation = evaluate_model(model, table, crf=crf, out=tmp_path, workers=1, progress=False)
    literal = np.zeros((3, 3), int)
    for name, mask_path in zip(table.ids, table.mask_paths, strict=True):
        truth, found = read_mask(mask_path), read_mask(tmp_path / "predictions" / f"{name}.png")
        for t, p in zip(truth.ravel(), found.ravel(), strict=True):
            literal[t, p] += 1
    assert evaluation.matrix.counts.tolist() == literal.tolist()
    assert evaluation.images == 6


def test_scores_survive_json_and_are_written_for_people_too(model, table, tmp_path):
    evaluation = evaluate_model(model, table, out=tmp_path, progress=False)
    value = json.loads((tmp_path / "evaluation.json").read_text())
    again = Evaluation.from_dict(value)
    assert again.matrix.counts.tolist() == evaluation.matrix.counts.tolist()
    assert again.mean_iou == evaluation.mean_iou == value["mean_iou"]
    assert f"| **mean** | **{percent(evaluation.mean_iou)}** |" in (tmp_path / "evaluation.md").read_text()


def test_true_masks_for_the_final_score_leave_a_result_strictly_image_level(model, table):
    ledger = evaluate_model(model, table, progress=False).ledger
    assert any(e.supervision is Supervision.MASKS for e in ledger.entries)
    assert ledger.strictly_image_level


def test_a_class_in_neither_truth_nor_prediction_has_no_score_and_does_not_lower_the_mean():
    matrix = ConfusionMatrix(3)
    matrix.update(np.array([[0, 1]], np.uint8), np.array([[0, 1]], np.uint8))
    evaluation = Evaluation(("red", "green"), matrix, 1, (1.0,), False, 0.0, "x", Ledger())
    assert evaluation.per_class() == {"background": 1.0, "red": 1.0, "green": None}
    assert evaluation.mean_iou == 1.0
    assert percent(None) == "–" and percent(0.5634) == "56.3"


def test_a_mask_that_cannot_be_scored_is_named(model, table, tmp_path):
    for mask, part in [(np.full((30, 40), 9, np.uint8), "value 9"), (np.zeros((10, 10), np.uint8), "shape")]:
        write_mask(mask, tmp_path / "bad.png")
        broken = replace(table, mask_paths=(str(tmp_path / "bad.png"), *table.mask_paths[1:]))
        with pytest.raises(TrainingDataError, match=rf"bad\.png.*{part}"):
            evaluate_model(model, broken, progress=False)


def test_a_model_for_other_classes_is_refused(model, table):
    with pytest.raises(CheckpointError, match="Names and order must agree"):
        evaluate_model(model, replace(table, classes=("green", "red")), progress=False)


def test_a_missing_model_is_refused(table):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        evaluate_model(Path("nowhere"), table, progress=False)
