"""Signals beside the truth: the table's numbers on a run that can be checked by eye, and one real run."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from drawings import SMALLEST
from PIL import Image
from scipy.stats import spearmanr

from wss_data.errors import CheckpointError
from wss_data.imaging.masks import write_mask
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_data.records import ExampleTable
from wss_train import evaluate
from wss_train.evaluate import evaluate_model
from wss_train.recipes import preset, with_values
from wss_train.reports.selection_report import SelectionReport, rank_correlation, selection_report, write_chart
from wss_train.selection.selection import Look, SelectionSettings
from wss_train.training import train, train_final

nan = math.nan
TINY = with_values(
    preset("cpu"),
    {
        **SMALLEST,
        "head_channels": 8,
        "branch_channels": 8,
        "long_side": 48,
        "crop": 32,
        "batch": 2,
        "final_iterations": 4,
        "precision": "float32",
    },
)
TRUTH = Ledger().add("masks drawn by people", Supervision.MASKS, UsedFor.FINAL_SCORE)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Six images with a red or green left half."""
    folder, mask = tmp_path_factory.mktemp("six"), np.zeros((32, 48), np.uint8)
    for i in range(6):
        image = np.full((32, 48, 3), 90, np.uint8)
        image[:, :24, i % 2] = 230
        mask[:, :24] = i % 2 + 1
        Image.fromarray(image).save(folder / f"{i}.png")
        write_mask(mask, folder / f"mask_{i}.png")
    images, masks = ([str(folder / f"{name}{i}.png") for i in range(6)] for name in ("", "mask_"))
    labels = np.array([[i % 2 == 0, i % 2 == 1] for i in range(6)])
    return ExampleTable(tuple("abcdef"), tuple(images), tuple(masks), labels, ("red", "green"), source="six")


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    settings = SelectionSettings(every=2, probes=2, keep_snapshots=True)
    out = tmp_path_factory.mktemp("runs") / "run"
    return train_final(table, out, TINY, select="agreement", settings=settings, progress=False)


def report_of(**columns):
    """A report on five looks, at 10 to 50, that the truth likes best at 20."""
    rows = [dict.fromkeys(("labels", "labels_ap", "agreement", "change"), nan) for _ in range(5)]
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    looks = [Look(10 * (i + 1), row, 0.1) for i, row in enumerate(rows)]
    truth = np.array([0.2, 0.6, 0.5, 0.4, 0.3])
    return SelectionReport(looks, truth, "labels", 20, 1, 7, "seven", TRUTH)


def test_ranks_are_correlated_as_scipy_does_it_also_where_values_are_equal():
    generator = np.random.default_rng(0)
    for _ in range(20):
        one, other = generator.integers(0, 5, 9).astype(float), generator.random(9)
        assert rank_correlation(one, other) == pytest.approx(spearmanr(one, other).statistic)


def test_ranks_without_an_order_correlate_with_nothing():
    assert math.isnan(rank_correlation(np.ones(3), np.arange(3.0)))
    assert math.isnan(rank_correlation(np.array([1.0, nan]), np.array([1.0, 2.0])))
    assert rank_correlation(np.array([1, nan, 9]), np.array([5.0, 0.0, 6.0])) == pytest.approx(1)


def test_each_signal_loses_what_its_choice_is_below_the_best():
    report = report_of(labels=[0.1, 0.9, 0.8, 0.7, 0.6], agreement=[1, 2, 3, 4, 5])

    labels, agreement, last = report.choices()
    assert (labels.name, labels.iteration, labels.mean_iou, labels.lost) == ("labels", 20, 0.6, 0.0)
    assert labels.correlation == pytest.approx(1), "both order the looks 2 3 4 5 1"
    assert (agreement.iteration, agreement.lost) == (50, pytest.approx(0.3))
    # Ranks 1 2 3 4 5 and 1 5 4 3 2: 1 - 6 * (0 + 9 + 1 + 1 + 9) / (5 * 24).
    assert agreement.correlation == pytest.approx(0.0)
    assert (last.name, last.iteration, last.lost) == ("last", 50, pytest.approx(0.3))


def test_little_change_is_good_and_stops_where_it_settled():
    change, _ = report_of(change=[nan, 0.02, 0.3, 0.4, 0.5]).choices()
    assert change.correlation == pytest.approx(1)
    assert (change.iteration, change.lost) == (20, 0.0)
    never, _ = report_of(change=[nan, 0.5, 0.4, 0.3, 0.2]).choices()
    assert never.iteration is None and math.isnan(never.lost)


def test_the_choice_is_that_of_the_running_mean():
    report = replace(report_of(labels=[0.9, 0.0, 0.5, 0.6, 0.3]), smooth=3)
    assert report.choices()[0].iteration == 40


def test_looks_without_weights_are_averaged_over_but_neither_chosen_nor_scored():
    report = replace(
        report_of(labels=[0.1, 0.9, 0.2, 0.6, 0.5]), smooth=3, mean_iou=np.array([0.2, 0.6, nan, nan, 0.3])
    )

    # Means 0.5, 0.4, 0.567, 0.433 and 0.55: that of 30 is best, but only 10, 20 and 50 have weights.
    assert report.choices()[0].iteration == 50 and report.choices()[0].lost == pytest.approx(0.3)
    assert "2 looks have no score: their weights were not kept" in report.to_markdown()
    assert report.to_csv().splitlines()[3].endswith(",")
    assert "The last, 50, has no score." in replace(report, mean_iou=np.array([0.2, 0.6, nan, nan, nan])).to_markdown()


def test_the_page_says_how_much_longer_is_worse_and_that_the_truth_chose_nothing():
    page = report_of(labels=[0.1, 0.9, 0.8, 0.7, 0.6], change=[nan, 0.5, 0.4, 0.3, 0.2]).to_markdown()

    assert "true masks of 7 images of seven were looked at for this report only, after the run had ended" in page
    assert "iteration 20 with mean IoU 60.0 %. The last, 50, has 30.0 %, 30.0 points less" in page
    assert "| **labels: F1 of predicted classes** | +1.00 | 20 | 60.0 | 0.0 |" in page
    assert "| change: settled at 2 % | -1.00 | – | – | – |" in page
    assert "| nothing: the last state | – | 50 | 30.0 | 30.0 |" in page
    assert "Strictly image-level: **yes**" in page and "masks drawn by people: masks, for final_score" in page
    assert "keep-snapshots" not in page


def test_the_chart_has_a_panel_a_signal(tmp_path):
    one, two = report_of(labels=[1, 2, 3, 4, 5]), report_of(labels=[1, 2, 3, 4, 5], change=[nan, 1, 1, 1, 1])
    small, large = (np.asarray(Image.open(write_chart(r, tmp_path / "p.png"))).shape for r in (one, two))
    assert large[0] > small[0] and large[1] == small[1]


def test_every_look_is_scored_as_evaluation_scores_it_and_the_model_stays(table, run):
    before = (run / "model.safetensors").read_bytes()
    report = selection_report(run, table, progress=False)

    assert report.iterations == [2, 4]
    expected = [evaluate_model(run / "snapshots" / f"iteration_00000{i}", table, progress=False) for i in (2, 4)]
    assert report.mean_iou.tolist() == [e.mean_iou for e in expected]
    assert (run / "model.safetensors").read_bytes() == before
    folder = run / "selection_report"
    written = {"selection.md", "selection.csv", "selection.png", "scores", ".wss-written"}
    assert {path.name for path in folder.iterdir()} == written
    with (folder / "selection.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["iteration"] for row in rows] == ["2", "4"]
    assert float(rows[0]["true_mean_iou"]) == pytest.approx(report.mean_iou[0], rel=1e-4)
    assert report.chosen == json.loads((run / "model.json").read_text())["iterations"]


def test_scores_are_kept_for_the_next_call_and_not_for_other_masks(table, run, tmp_path, monkeypatch):
    selection_report(run, table, tmp_path / "out", progress=False)
    scored = []
    monkeypatch.setattr(evaluate, "evaluate_model", lambda *a, **k: scored.append(a[0]) or evaluate_model(*a, **k))
    selection_report(run, table, tmp_path / "out", progress=False)
    assert not scored
    selection_report(run, table.take([0, 1]), tmp_path / "out", progress=False)
    assert len(scored) == 2


def test_a_run_that_nobody_looked_at_is_refused_and_an_unfinished_one_too(table, run, tmp_path):
    plain = train(table, TINY, tmp_path / "plain", "final", progress=False)
    with pytest.raises(CheckpointError, match=r"holds no signals.*--select labels"):
        selection_report(plain, table, progress=False)
    with pytest.raises(CheckpointError, match="has not ended"):
        (plain / "model.safetensors").unlink()
        selection_report(plain, table, progress=False)
