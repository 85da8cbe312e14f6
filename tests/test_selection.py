"""Signals against slow, literal versions; choosing, stopping and going on with tiny networks."""

import csv
import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from drawings import SMALLEST
from PIL import Image

from wss_data.errors import CheckpointError, MaskError, RecipeError, TrainingDataError
from wss_data.imaging.masks import write_mask
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_data.records import ExampleTable
from wss_train import training
from wss_train.checkpoints import ModelCard, read_card, read_weights
from wss_train.engine import loop
from wss_train.metrics import ConfusionMatrix
from wss_train.models import build_model
from wss_train.recipes import preset, with_values
from wss_train.selection import probes as signals
from wss_train.selection import selection as module
from wss_train.selection.selection import (
    Selection,
    SelectionSettings,
    Selector,
    plan_selection,
    read_signals,
    signal,
    snapshots,
)
from wss_train.training import train, train_final, train_generator

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
        "generator_iterations": 8,
        "final_iterations": 8,
        "checkpoint_every": 3,
        "dropout": 0.5,
        "precision": "float32",
    },
)
CLASSES = ("red", "green")
EVERY_2 = SelectionSettings(every=2, probes=4)


pytestmark = pytest.mark.usefixtures("one_thread")


def make_table(folder, count, name, prefix):
    """Images with a red or green rectangle on grey."""
    generator = np.random.default_rng(len(name))
    for i in range(count):
        image, mask = np.full((30, 40, 3), 90, np.uint8), np.zeros((30, 40), np.uint8)
        left = int(generator.integers(0, 20))
        image[5:25, left : left + 20, i % 2] = 230
        mask[5:25, left : left + 20] = i % 2 + 1
        Image.fromarray(image).save(folder / f"{prefix}{i}.png")
        write_mask(mask, folder / f"mask_{prefix}{i}.png")
    images, masks = ([str(folder / f"{kind}{prefix}{i}.png") for i in range(count)] for kind in ("", "mask_"))
    labels = np.array([[i % 2 == 0, i % 2 == 1] for i in range(count)])
    ledger = Ledger().add(f"masks of {name}", Supervision.NONE, UsedFor.COSEGMENTATION)
    ids = tuple(f"{prefix}{i}" for i in range(count))
    return ExampleTable(ids, tuple(images), tuple(masks), labels, CLASSES, ledger=ledger, source=name)


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    return make_table(tmp_path_factory.mktemp("web"), 10, "ten", "w")


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return make_table(tmp_path_factory.mktemp("target"), 6, "six", "t")


@pytest.fixture(scope="module")
def plain(web, tmp_path_factory):
    """A run that nobody looked at."""
    return train(web, TINY, tmp_path_factory.mktemp("plain") / "run", progress=False)


@pytest.fixture(scope="module")
def watched(web, target, tmp_path_factory):
    """The same run, selected by labels; every look's weights are kept."""
    settings = replace(EVERY_2, keep_snapshots=True)
    out = tmp_path_factory.mktemp("watched") / "run"
    return train_generator(web, out, TINY, select="labels", target=target, settings=settings, progress=False)


def same_weights(one, other):
    first, second = read_weights(one), read_weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def without_seconds(run):
    with (run / "signals.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


# The signals as numbers.


def test_cells_hold_the_pixels_at_their_centres():
    mask = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8)

    # Cells of 3 x 4 pixels, whose centres are the corners between pixels 1 | 2 and so on: the pixel right below.
    assert signals.cell_centres(mask, (2, 2)).tolist() == [[mask[1, 2], mask[1, 6]], [mask[4, 2], mask[4, 6]]]
    assert signals.cell_centres(mask, (6, 8)).tolist() == mask.tolist()
    assert signals.cell_centres(mask[:1, :1], (2, 2)).tolist() == [[0, 0], [0, 0]], "finer than the mask"


def test_shares_count_cells_and_leave_background_out():
    cells = np.array([[0, 0, 1, 1], [0, 3, 1, 1]], np.uint8)
    assert signals.class_fractions(cells, 4).tolist() == [4 / 8, 0, 1 / 8]


def slow_f1(shares, labels, at_least):
    values = []
    for c in range(labels.shape[1]):
        right = wrong = missed = 0
        for n in range(len(labels)):
            predicted = shares[n, c] >= at_least
            right += predicted and labels[n, c]
            wrong += predicted and not labels[n, c]
            missed += labels[n, c] and not predicted
        if right + wrong + missed:
            values.append(2 * right / (2 * right + wrong + missed))
    return sum(values) / len(values) if values else nan


def test_f1_of_labels_is_the_mean_over_classes_that_are_shown_or_predicted():
    labels = np.array([[True, False, False], [True, False, False], [False, True, False]])
    shares = np.array([[0.5, 0.0, 0.0], [0.009, 0.2, 0.0], [0.0, 0.3, 0.0]])

    # Class 1: one found, one missed: 2 / 3. Class 2: one found, one too many: 2 / 3. Class 3 does not count.
    assert signals.label_f1(shares, labels) == pytest.approx(2 / 3)
    assert math.isnan(signals.label_f1(shares[:, 2:], labels[:, 2:]))


def test_f1_of_labels_equals_a_literal_count():
    generator = np.random.default_rng(0)
    for _ in range(20):
        labels = generator.random((7, 4)) < 0.3
        shares = generator.random((7, 4)) * (generator.random((7, 4)) < 0.5)
        assert signals.label_f1(shares, labels, 0.2) == pytest.approx(slow_f1(shares, labels, 0.2), nan_ok=True)


def slow_average_precision(scores, shown):
    """At each distinct score as a threshold: precision times the recall gained."""
    area, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        taken = scores >= threshold
        recall = (taken & shown).sum() / shown.sum()
        area += (recall - recall_before) * (taken & shown).sum() / taken.sum()
        recall_before = recall
    return area


def test_average_precision_equals_a_literal_sum_over_thresholds_also_with_equal_scores():
    generator = np.random.default_rng(1)
    for _ in range(20):
        labels = generator.random((9, 3)) < 0.4
        scores = generator.integers(0, 4, (9, 3)) / 4
        expected = [slow_average_precision(scores[:, c], labels[:, c]) for c in range(3) if labels[:, c].any()]
        expected = sum(expected) / len(expected) if expected else nan
        assert signals.label_average_precision(scores, labels) == pytest.approx(expected, nan_ok=True)


def test_equal_scores_rank_nothing():
    labels = np.array([[True], [False], [False], [False]])
    assert signals.label_average_precision(np.ones((4, 1)), labels) == 0.25
    assert signals.label_average_precision(np.array([[4], [3], [2], [1]]), labels) == 1.0


def test_the_running_mean_is_centred_and_passes_over_what_is_missing():
    assert signals.smoothed([1, 2, 6, 4]).tolist() == [1.5, 3, 4, 5]
    assert signals.smoothed([1, nan, 3]).tolist() == [1, 2, 3]
    assert signals.smoothed([5, 1], 1).tolist() == [5, 1]
    assert np.isnan(signals.smoothed([nan, nan])).all()


def test_a_single_high_look_is_not_chosen_over_a_high_stretch():
    values = [0.1, 0.9, 0.1, 0.5, 0.6, 0.55, 0.2]
    assert signals.best_look(values, 1) == 1
    assert signals.best_look(values, 3) == 4
    assert signals.best_look([nan], 3) is None
    assert signals.best_look([0.5, 0.5, 0.5]) == 0, "the first of equals"


def test_a_run_has_settled_when_as_many_looks_as_are_averaged_changed_little():
    changes = [nan, 0.5, 0.01, 0.2, 0.02, 0.03, 0.01]
    assert signals.settled_look(changes, 0.02) == 6, "0.02, 0.03 and 0.01 are 0.02 on average"
    assert signals.settled_look(changes, 0.02, window=1) == 2
    assert signals.settled_look(changes, 0.001) is None
    assert signals.settled_look([nan], 1.0, window=1) is None


def test_the_order_of_hashes_is_that_of_the_ids_and_not_of_their_places():
    ids = ["a", "b", "c", "d"]
    order = [ids[i] for i in signals.hash_order(ids)]
    assert [ids[::-1][i] for i in signals.hash_order(ids[::-1])] == order != ids


# What is looked at.


def test_last_looks_at_nothing_and_leaves_the_images(web):
    assert plan_selection("last", web, TINY, "generator") == (web, None)


def test_agreement_holds_the_fraction_out_that_hashes_choose(web, monkeypatch):
    monkeypatch.setattr(module, "HELD_OUT", 0.3)
    rest, selection = plan_selection("agreement", web, TINY, "generator", settings=SelectionSettings())

    assert len(selection.held_out) == 3 and len(rest) == 7
    assert set(selection.held_out.ids) == {web.ids[i] for i in signals.hash_order(web.ids)[:3]}
    assert not set(selection.held_out.ids) & set(rest.ids)
    assert selection.labelled is None and selection.ledger == Ledger()


def test_never_more_images_are_held_out_than_are_looked_at(web, monkeypatch):
    monkeypatch.setattr(module, "HELD_OUT", 0.5)
    settings = SelectionSettings(probes=2)
    rest, selection = plan_selection("agreement", web, TINY, "generator", settings=settings)
    assert (len(selection.held_out), len(rest)) == (2, 8)


def test_labels_of_a_target_cost_the_generator_no_image(web, target):
    rest, selection = plan_selection("labels", web, TINY, "generator", target, SelectionSettings(probes=4))

    assert rest is web and selection.held_out is None
    assert set(selection.labelled.ids) == {target.ids[i] for i in signals.hash_order(target.ids)[:4]}
    (entry,) = selection.ledger.entries
    assert (entry.supervision, entry.used_for) == (Supervision.IMAGE_LEVEL, UsedFor.SELECTION)


def test_a_final_model_is_looked_at_on_images_it_has_not_seen(target, monkeypatch):
    monkeypatch.setattr(module, "HELD_OUT", 0.34)
    rest, selection = plan_selection("labels", target, TINY, "final", settings=SelectionSettings())

    assert len(rest) == 4 and selection.labelled is selection.held_out
    assert not set(selection.labelled.ids) & set(rest.ids)


def test_what_cannot_be_looked_at_is_refused_with_the_way_out(web, target):
    def refusal(kind, *arguments, **options):
        with pytest.raises(kind) as caught:
            plan_selection(*arguments, **options)
        return str(caught.value)

    assert "name it with --target" in refusal(RecipeError, "labels", web, TINY, "generator")
    assert "last, labels or agreement" in refusal(RecipeError, "truth", web, TINY, "generator")
    other = replace(target, classes=("green", "red"))
    assert "green, red" in refusal(TrainingDataError, "labels", web, TINY, "generator", other)
    unlabelled = replace(target, labels=np.zeros_like(target.labels))
    assert "has an image-level label" in refusal(TrainingDataError, "labels", web, TINY, "generator", unlabelled)
    assert "at least 2 are wanted" in refusal(TrainingDataError, "agreement", web.take([0]), TINY, "generator")


@pytest.mark.parametrize("values", [{"every": 0}, {"probes": 0}, {"patience": 0}, {"settle": 1.5}])
def test_settings_out_of_range_are_refused(values):
    with pytest.raises(RecipeError, match=f"the selection: {next(iter(values))} is"):
        SelectionSettings(**values)


def test_looks_are_twenty_and_cost_a_twentieth_of_the_arithmetic():
    recipe = preset("paper")
    chosen = SelectionSettings().resolved(recipe, "generator")
    assert (chosen.every, chosen.probes) == (250, 200)
    long = with_values(preset("cpu"), {"generator_iterations": 2400})
    chosen = SelectionSettings().resolved(long, "generator")
    look = chosen.probes * 0.75 * long.long_side**2
    assert chosen.every == 120 and look / (120 * 3 * long.batch * long.crop**2) == pytest.approx(0.05, rel=0.01)
    assert SelectionSettings().resolved(TINY, "generator").probes == 32


# A run that is looked at.


def test_looking_changes_no_weight_of_the_training(plain, watched):
    assert same_weights(plain, watched / "snapshots" / "iteration_000008")
    assert same_weights(plain / "checkpoints" / "iteration_000006", watched / "checkpoints" / "iteration_000006")


def test_looking_draws_no_random_number(web, target, tmp_path):
    _, selection = plan_selection("labels", web, TINY, "generator", target, EVERY_2)
    model = build_model(TINY, 3, pretrained=False).train()
    selector = Selector(selection, card_of(web), tmp_path)
    before, weights = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    selector.look(2, model.eval())
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in weights.items())


def test_the_model_is_the_state_whose_running_mean_is_best_and_its_card_says_when(watched):
    looks = read_signals(watched)
    assert [look.iteration for look in looks] == [2, 4, 6, 8]
    best = looks[signals.best_look(signal(looks, "labels"))].iteration

    card = read_card(watched)
    assert card.iterations == best
    assert same_weights(watched, watched / "snapshots" / f"iteration_{best:06d}")
    assert read_card(watched / "snapshots" / f"iteration_{best:06d}") == card


def test_the_ledger_names_the_labels_and_stays_strictly_image_level(watched):
    ledger = read_card(watched).ledger
    assert [(e.what, e.used_for) for e in ledger.entries] == [
        ("masks of ten", UsedFor.COSEGMENTATION),
        ("image-level labels of the target images (six)", UsedFor.SELECTION),
    ]
    assert ledger.strictly_image_level


def test_signals_of_a_look_equal_a_literal_count_over_its_snapshot(web, target, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "HELD_OUT", 0.4)
    settings = EVERY_2
    _, selection = plan_selection("agreement", web, TINY, "generator", target, settings)
    model = build_model(TINY, 3, pretrained=False)
    torch.manual_seed(3)
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter, 0, 0.5)
    selector = Selector(selection, card_of(web), tmp_path)
    selector.look(2, model)
    found = read_signals(tmp_path)[0].values

    def maps(path):
        # 40 x 30 pixels at a longer side of 48: 48 x 32 at stride 16, 3 x 2 cells.
        image = np.asarray(Image.open(path).resize((48, 32), Image.Resampling.BILINEAR))
        with torch.inference_mode():
            pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
            return model(model.normalise(pixels)).pixel_logits.softmax(1)[0]

    shares = np.array(
        [[float((maps(p).argmax(0) == c).float().mean()) for c in (1, 2)] for p in selection.labelled.image_paths]
    )
    means = np.array([maps(p).mean((1, 2))[1:].tolist() for p in selection.labelled.image_paths])
    assert found["labels"] == pytest.approx(slow_f1(shares, selection.labelled.labels, 0.01))
    ranked = [slow_average_precision(means[:, c], selection.labelled.labels[:, c]) for c in range(2)]
    assert found["labels_ap"] == pytest.approx(sum(ranked) / 2)
    matrix = ConfusionMatrix(3)
    for image, mask in zip(selection.held_out.image_paths, selection.held_out.mask_paths, strict=True):
        truth = np.asarray(Image.open(mask))
        cells = np.array([[truth[15 * y + 7, round(40 / 3 * (x + 0.5) - 0.5)] for x in range(3)] for y in range(2)])
        matrix.update(cells.astype(np.uint8), maps(image).argmax(0).numpy().astype(np.uint8))
    assert found["agreement"] == pytest.approx(matrix.mean_iou)
    assert math.isnan(found["change"]), "there was no look before"
    selector.look(4, model)
    assert read_signals(tmp_path)[1].values["change"] == 0.0


def card_of(table):
    return ModelCard("generator", table.classes, TINY, 8, False, table.ledger)


class Told(Selector):
    """A selector whose networks score what the test says."""

    def __init__(self, run, web, target, scores, settings):
        _, selection = plan_selection("labels", web, TINY, "generator", target, settings)
        super().__init__(selection, card_of(web), run)
        self._scores = scores

    def look(self, iteration, model):
        before = signals.label_f1
        from wss_train.selection import selection

        selection.label_f1 = lambda shares, labels: self._scores[iteration // 2 - 1]
        try:
            return super().look(iteration, model)
        finally:
            selection.label_f1 = before


def looks_until_stop(run, web, target, scores, settings):
    model = build_model(TINY, 3, pretrained=False)
    selector = Told(run, web, target, scores, settings)
    for number in range(1, len(scores) + 1):
        with torch.no_grad():
            model.head[0].bias.fill_(number)
        if selector.look(2 * number, model):
            return selector, number
    return selector, None


def test_patience_counts_looks_without_a_better_running_mean(web, target, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SMOOTH", 1)
    settings = replace(EVERY_2, patience=2)
    selector, stopped = looks_until_stop(tmp_path, web, target, [0.1, 0.5, 0.4, 0.6, 0.5, 0.6, 0.1], settings)
    assert stopped == 6, "0.6 at the fourth; twice nothing better"
    iteration, weights = selector.chosen()
    assert iteration == 8 and float(weights["head.0.bias"][0]) == 4.0


def test_without_patience_the_best_of_the_whole_run_is_chosen(web, target, tmp_path):
    selector, stopped = looks_until_stop(tmp_path, web, target, [0.1, 0.5, 0.6, 0.5, 0.2, 0.1], EVERY_2)
    assert stopped is None and selector.chosen()[0] == 6
    assert "iteration 6" in selector.summary()


def test_a_run_stops_when_it_has_settled(web, target, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SMOOTH", 1)
    settings = replace(EVERY_2, settle=1.0)
    assert looks_until_stop(tmp_path, web, target, [0.1, 0.2, 0.3], settings)[1] == 2, "the first change"


def test_only_weights_that_may_be_chosen_stay_on_disk(web, target, tmp_path):
    looks_until_stop(tmp_path, web, target, [0.1, 0.5, 0.6, 0.5, 0.2, 0.1], EVERY_2)
    assert set(snapshots(tmp_path)) == {6, 12}, "the best and the last"


def test_a_stopped_run_ends_there_and_says_so(web, target, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Selector, "look", lambda self, iteration, model: iteration == 4)
    monkeypatch.setattr(Selector, "chosen", lambda self: None)
    run = train_generator(web, tmp_path / "run", TINY, select="labels", target=target, settings=EVERY_2)
    assert read_card(run).iterations == 4
    said = capsys.readouterr().err
    assert "strictly image-level: yes" in said
    assert "- image-level labels of the target images (six): image_level, for selection" in said


class Killed(BaseException):
    pass


def test_a_run_killed_after_it_was_asked_to_stop_stops_there_again(web, target, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SMOOTH", 1)
    options = {"select": "labels", "target": target, "settings": replace(EVERY_2, every=3, settle=1.0)}
    with monkeypatch.context() as patch:
        patch.setattr(training, "write_model", lambda *arguments: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            train_generator(web, tmp_path / "run", TINY, progress=False, **options)
    # Both a look and a checkpoint are due at 3 and 6; the run settles at 6, the first look that knows a change.
    run = train_generator(web, tmp_path / "run", TINY, progress=False, **options)
    assert [look.iteration for look in read_signals(run)] == [3, 6]


@pytest.mark.parametrize("moment", ["in the look at 6", "after the look at 8"])
def test_a_run_killed_and_resumed_has_the_signals_and_the_model_of_one_that_was_not(
    web, target, watched, tmp_path, monkeypatch, moment
):
    options = {"select": "labels", "target": target, "settings": replace(EVERY_2, keep_snapshots=True)}
    with monkeypatch.context() as patch:
        if moment == "in the look at 6":
            real_write = Selector._write_signals

            def deadly(self):
                if self._looks[-1].iteration == 6:
                    raise Killed
                real_write(self)

            patch.setattr(Selector, "_write_signals", deadly)
        else:
            # Where the checkpoint of 6 or 8 would be written, the look there has been.
            real_state, at = loop.write_training_state, int(moment[-1])

            def deadly(state, *arguments):
                if state.iteration == at:
                    raise Killed
                return real_state(state, *arguments)

            patch.setattr(loop, "write_training_state", deadly)
        with pytest.raises(Killed):
            train_generator(web, tmp_path / "run", TINY, progress=False, **options)
    run = train_generator(web, tmp_path / "run", TINY, progress=False, **options)

    assert without_seconds(run) == without_seconds(watched)
    assert same_weights(run, watched) and read_card(run) == read_card(watched)
    assert snapshots(run).keys() == snapshots(watched).keys()


def test_another_selection_is_another_run(web, target, watched, plain):
    with pytest.raises(CheckpointError, match="another run"):
        train_generator(web, plain, TINY, select="labels", target=target, progress=False)
    with pytest.raises(CheckpointError, match="another run"):
        train_generator(
            web, watched, TINY, select="labels", target=target, settings=replace(EVERY_2, patience=3), progress=False
        )
    assert json.loads((watched / "run.json").read_text())["selection"]["every"] == 2


def test_throwing_a_run_away_takes_its_looks_along(web, watched, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(watched, run)
    train(web, TINY, run, progress=False, overwrite=True)
    assert not any((run / name).exists() for name in ("signals.csv", "snapshots", "looks"))


def test_a_final_model_is_selected_on_held_out_images(target, tmp_path):
    run = train_final(target, tmp_path / "run", TINY, select="labels", settings=EVERY_2, progress=False)
    looks = read_signals(run)
    assert not np.isnan(signal(looks, "labels")).any() and not np.isnan(signal(looks, "agreement")).any()
    assert json.loads((run / "data.json").read_text())["images"] == 5


def test_a_held_out_mask_that_holds_no_class_is_reported_before_training(web, tmp_path):
    bad = np.full((30, 40), 9, np.uint8)
    write_mask(bad, tmp_path / "bad.png")
    _, selection = plan_selection("agreement", web, TINY, "generator", settings=EVERY_2)
    held_out = replace(selection.held_out, mask_paths=(str(tmp_path / "bad.png"),) * len(selection.held_out))
    with pytest.raises(TrainingDataError, match="holds the value 9"):
        Selector(Selection("agreement", selection.settings, None, held_out), card_of(web), tmp_path)
    write_mask(np.ones((10, 40), np.uint8), tmp_path / "bad.png")
    with pytest.raises(MaskError, match="40x10 pixels, the image 40x30"):
        Selector(Selection("agreement", selection.settings, None, held_out), card_of(web), tmp_path)


def test_a_bad_held_out_mask_leaves_nothing_half_made(web, tmp_path):
    write_mask(np.full((30, 40), 9, np.uint8), tmp_path / "bad.png")
    bad = replace(web, mask_paths=(str(tmp_path / "bad.png"),) * len(web))
    rest, selection = plan_selection("agreement", bad, TINY, "generator", settings=EVERY_2)
    good = web.take([web.ids.index(name) for name in rest.ids])
    with pytest.raises(TrainingDataError, match="holds the value 9"):
        train(good, TINY, tmp_path / "run", selection=selection, progress=False)
    assert not (tmp_path / "run").exists()


def test_signals_that_cannot_be_read_are_reported(tmp_path):
    (tmp_path / "signals.csv").write_text("iteration,labels\n2,x\n")
    with pytest.raises(CheckpointError, match="signals cannot be read"):
        read_signals(tmp_path)


def test_a_run_that_nobody_looks_at_knows_no_selection(plain):
    assert json.loads((plain / "run.json").read_text())["selection"] is None
    assert not {path.name for path in plain.iterdir()} & set(training.SELECTION_FILES)
