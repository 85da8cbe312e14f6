import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawings import TINY, rectangles

from wss_data.errors import CheckpointError, MaskError, TrainingDataError
from wss_data.imaging.masks import read_mask, write_mask
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_train.evaluate import Evaluation, evaluate_masks, evaluate_model, score_masks
from wss_train.metrics import ConfusionMatrix
from wss_train.reports.ablation import ROWS, iou_text
from wss_train.reports.tables import percent
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
    assert "over 2 of 3 classes (green is in no mask), 1 images" in str(evaluation)
    assert "| **mean of 2** | **100.0** |" in evaluation.to_markdown()
    assert evaluation.to_dict()["mean_over_classes"] == 2
    stages, cells = [row.stage for row in ROWS], ["100.0", "100.0", "100.0", "–"]
    runs = [dict.fromkeys(stages, evaluation)]
    table = iou_text("IoU in percent", evaluation.classes, dict.fromkeys(stages, cells), runs)
    assert "mask generator: the mean is over 2 of 3 classes (green is in no mask)." in table.splitlines()
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


def test_masks_on_disk_get_the_score_of_the_model_that_made_them(model, table, tmp_path):
    of_model = evaluate_model(model, table, out=tmp_path, workers=1, progress=False)
    of_files = score_masks(tmp_path / "predictions", table, out=tmp_path / "again", progress=False)

    assert of_files.matrix.counts.tolist() == of_model.matrix.counts.tolist()
    assert str(of_files).endswith("6 images; masks from files")
    written = json.loads((tmp_path / "again" / "evaluation.json").read_text())
    assert Evaluation.from_dict(written).mean_iou == of_model.mean_iou
    assert written["predictions"] == str(tmp_path / "predictions")


def test_masks_of_whom_nothing_is_known_are_not_called_image_level(model, table, tmp_path):
    evaluate_model(model, table, out=tmp_path, workers=1, progress=False)
    assert not score_masks(tmp_path / "predictions", table, progress=False).ledger.strictly_image_level


def test_a_folder_that_lacks_a_mask_is_not_scored(model, table, tmp_path):
    evaluate_model(model, table, out=tmp_path, workers=1, progress=False)
    (tmp_path / "predictions" / f"{table.ids[2]}.png").unlink()
    with pytest.raises(TrainingDataError, match=rf"1 of 6 masks are missing, the first is {table.ids[2]}\.png"):
        score_masks(tmp_path / "predictions", table, progress=False)


@pytest.mark.parametrize(("shape", "value", "told"), [((30, 40), 7, "value 7"), ((3, 4), 0, "shape")])
def test_a_mask_on_disk_that_does_not_fit_is_named_with_its_truth(model, table, tmp_path, shape, value, told):
    evaluate_model(model, table, out=tmp_path, workers=1, progress=False)
    bad = tmp_path / "predictions" / f"{table.ids[0]}.png"
    write_mask(np.full(shape, value, np.uint8), bad)
    with pytest.raises(TrainingDataError, match=rf"{bad.name}: .*{told}"):
        score_masks(bad.parent, table, progress=False)


def written(folder, name, rows):
    write_mask(np.array(rows, np.uint8), folder / f"{name}.png")
    return folder / f"{name}.png"


def test_pairs_of_files_are_counted_into_one_matrix_without_database_or_model(tmp_path):
    truths = [written(tmp_path, "t0", [[0, 1], [1, 255]]), written(tmp_path, "t1", [[2, 2, 0]])]
    found = [written(tmp_path, "p0", [[0, 1], [0, 2]]), written(tmp_path, "p1", [[2, 0, 0]])]
    matrix = evaluate_masks(truths, found, num_classes=3, workers=2)
    assert matrix.counts.tolist() == [[2, 0, 0], [1, 1, 0], [1, 0, 1]]
    assert matrix.iou.tolist() == [2 / 4, 1 / 2, 1 / 2]


def test_files_that_are_no_pairs_are_refused_by_name(tmp_path):
    truth, small = written(tmp_path, "t", [[0, 3]]), written(tmp_path, "small", [[0]])
    with pytest.raises(TrainingDataError, match="2 true masks and 1 predictions"):
        evaluate_masks([truth, truth], [truth], 3)
    with pytest.raises(TrainingDataError, match=r"small\.png: .*t\.png: .*shape"):
        evaluate_masks([truth], [small], 4)
    with pytest.raises(TrainingDataError, match="truth holds the value 3; classes run from 0 to 2"):
        evaluate_masks([truth], [written(tmp_path, "p", [[0, 0]])], 3)
    with pytest.raises(MaskError, match="no such mask"):
        evaluate_masks([tmp_path / "none.png"], [truth], 4)


@pytest.mark.parametrize(("rows", "told"), [([[7] * 40] * 30, "truth holds the value 7"), ([[0] * 30] * 40, "shape")])
def test_a_true_mask_with_a_foreign_value_or_of_another_size_is_named(model, table, tmp_path, rows, told):
    bad = written(tmp_path, "bad", rows)
    paths = (*table.mask_paths[:3], str(bad), *table.mask_paths[4:])
    with pytest.raises(TrainingDataError, match=rf"bad\.png: the mask cannot be scored: .*{told}"):
        evaluate_model(model, replace(table, mask_paths=paths), progress=False)
