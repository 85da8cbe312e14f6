"""The whole road, drawn images to the table, with a tiny network: every stage runs for real."""

import json
import statistics
from dataclasses import replace

import numpy as np
import pytest
from drawings import LEARNS, SMALLEST

from wss_data.errors import RecipeError
from wss_data.imaging.images import read_image
from wss_data.runtime.files import write_output
from wss_data.spec import read_spec, spec_from_dict
from wss_train.commands.cli import main
from wss_train.recipes import with_values
from wss_train.reports.ablation import ROWS, run_ablation
from wss_train.reports.findings import report_on_run
from wss_train.reports.published import VOC_CLASSES, context, paper_row
from wss_train.reports.seeds import run_ablation_over_seeds

CLASSES = list(read_spec("drawn").class_names[:2])
KINDS = ("retrieved", "stored", "kept")
RECIPE = with_values(LEARNS, {**SMALLEST, "generator_iterations": 6, "scales": "0.7,1.0"})


@pytest.fixture(scope="module")
def datasets(database, small_maps):
    from wss_data import build, import_target

    spec = spec_from_dict(
        {
            "name": "zoo-ablation",
            "classes": CLASSES,
            "sources": [{"name": "drawn", "limit": 4}],
            "longest_side": 128,
            "target": {"layout": "drawn", "options": {"train": 4, "val": 3, "seed": 1}},
        }
    )
    return build(spec, progress=False), import_target(spec)


@pytest.fixture(scope="module")
def ablation(datasets, tmp_path_factory):
    return run_ablation(*datasets, tmp_path_factory.mktemp("runs") / "zoo", RECIPE, progress=False)


def test_the_rows_of_table_3_and_one_between_the_last_two_are_scored_on_val(ablation):
    stages = ["generator", "simple_final", "multi_label", "multi_scale", "multi_scale_crf"]
    assert [row.stage for row in ROWS] == stages
    for row in ROWS:
        evaluation = ablation.evaluations[row.stage]
        assert evaluation.images == 3
        assert 0 <= evaluation.mean_iou <= 1
    how = [(e.scales, e.crf) for e in (ablation.evaluations[stage] for stage in stages)]
    assert how == [((1.0,), False)] * 3 + [((0.7, 1.0), False), ((0.7, 1.0), True)]


def test_the_multi_label_row_has_the_branch_and_the_simple_one_has_not(ablation):
    from wss_train.checkpoints import read_card

    assert [read_card(ablation.out / run).multilabel for run in ("generator", "final_simple", "final")] == [
        False,
        False,
        True,
    ]


def test_table_and_json_hold_recipe_counts_seeds_costs_and_ledger(ablation, datasets):
    value = json.loads((ablation.out / "ablation.json").read_text())
    assert value["recipe"] == RECIPE.to_dict()
    assert value["seeds"] == [0]
    kept = datasets[0].match_tags("kept").count_values("label.label")
    for name in CLASSES:
        assert value["counts"]["classes"][name] == {"retrieved": 4, "stored": 4, "kept": kept.get(name, 0)}
    assert value["ledger"]["strictly_image_level"] is True
    assert any("ground-truth" in entry["what"] for entry in value["ledger"]["entries"])
    assert all(cost["peak_megabytes"] > 10 for cost in value["costs"].values())
    table = (ablation.out / "table.md").read_text()
    assert "| + multi-scale + CRF |" in table and "Strictly image-level: **yes**" in table
    assert "context, not a comparison" in table


def test_the_sheets_show_image_truth_and_every_row_the_pseudo_masks_and_the_web_dataset(ablation):
    folder = ablation.out / "pictures"
    assert read_image(folder / "predictions.png").shape[1] > 7 * 210
    names = {"predictions.png", "pseudo_masks.png", "cosegmentation.png", "foreground_ratio.png"}
    assert names <= {p.name for p in folder.iterdir()}


def test_failures_of_each_row_and_what_the_pseudo_masks_merge_are_reported(ablation):
    for row in ROWS:
        assert read_image(ablation.out / "evaluations" / row.stage / "failures.png").shape[1] > 210
    assert CLASSES[0] in (ablation.out / "cooccurrence" / "cooccurrence.md").read_text()


def test_a_second_call_does_no_stage_again_and_writes_nothing(ablation, datasets):
    def times():
        return {p: p.stat().st_mtime_ns for p in ablation.out.rglob("*.*") if p.name != "lock"}

    before, costs = times(), ablation.costs
    again = run_ablation(*datasets, ablation.out, RECIPE, progress=False)
    assert times() == before
    assert again.costs == costs
    assert str(again) == str(ablation)
    (ablation.out / "pictures" / "predictions.png").unlink()
    run_ablation(*datasets, ablation.out, RECIPE, progress=False)
    redrawn = {p.parent.name for p, time in times().items() if time != before[p]}
    assert redrawn <= {"pictures", "cooccurrence", ablation.out.name}
    assert times().keys() == before.keys(), "a figure that is missing is drawn again"


def test_the_profile_has_what_each_stage_took_and_their_sum(ablation):
    heading, *lines = ablation.profile().splitlines()
    assert heading.split("  ")[-1] == "peak memory, MB"
    assert [line.split("  ")[0] for line in lines] == [*ablation.costs, "all"]
    values = ablation.costs.values()
    total = [sum(cost[key] for cost in values) for key in ("seconds", "cpu_seconds")]
    shown = [float(cell.replace(",", "")) for cell in lines[-1].split()[1:]]
    assert shown == [round(value) for value in (*total, max(cost["peak_megabytes"] for cost in values))]
    assert all(cost["cpu_seconds"] > 0 for stage, cost in ablation.costs.items() if "model" in stage)


def test_a_run_of_before_processor_time_was_measured_goes_on_without_it(ablation, datasets):
    kept = (ablation.out / "costs.json").read_text()
    costs = {stage: {k: v for k, v in cost.items() if k != "cpu_seconds"} for stage, cost in ablation.costs.items()}
    write_output(ablation.out / "costs.json", json.dumps(costs))
    try:
        again = run_ablation(*datasets, ablation.out, RECIPE, progress=False)
    finally:
        write_output(ablation.out / "costs.json", kept)
    assert again.costs == costs
    assert again.profile().splitlines()[1].split()[-2] == "–"


def test_the_table_can_be_read_in_a_terminal(ablation):
    lines = str(ablation).splitlines()
    assert lines[1].split() == ["mean", "background", *CLASSES]
    assert len({len(line) for line in lines[1:]}) == 1


def test_the_report_says_of_each_class_what_is_wrong_and_looks_at_the_truth_last(ablation, datasets, capsys):
    assert main(["report", str(ablation.out)]) == 0
    value = json.loads((ablation.out / "report.json").read_text())
    assert list(value["signals"]) == CLASSES
    kept = datasets[0].match_tags("kept").count_values("label.label")
    for name, signals in value["signals"].items():
        assert signals["stored"] == 4 and signals["kept"] == kept.get(name, 0)
    assert {f["class_name"] for f in value["findings"] if f["kind"] == "few images"} == set(CLASSES)
    assert list(value["checked_against_the_val_truth"]) == ["missing", "merged"]
    page = (ablation.out / "report.md").read_text()
    assert page in capsys.readouterr().out
    assert page.index("## Findings") < page.index("## Checked against the val truth")
    # Without the truth all findings are the same.
    path = ablation.out / "evaluations" / "multi_label" / "evaluation.json"
    before = path.read_bytes()
    path.unlink()
    assert main(["report", str(ablation.out)]) == 0
    again = json.loads((ablation.out / "report.json").read_text())
    assert again == value | {"checked_against_the_val_truth": {}}
    path.write_bytes(before)


def test_no_report_is_made_of_data_that_changed_since_or_are_gone(ablation, datasets, tmp_path, capsys):
    from wss_data import store

    kept = datasets[0].match_tags("kept").first()
    store.judge(datasets[0], [kept.id], "drop")
    assert main(["report", str(ablation.out)]) == 2
    error = capsys.readouterr().err
    assert "are not those that" in error and "Run wss-train ablation again" in error and error.count("\n") == 1
    store.undo_verdict(datasets[0])
    assert main(["report", str(ablation.out)]) == 0
    mask = next((ablation.out / "pseudo_masks").glob("*.png"))
    mask.rename(tmp_path / mask.name)
    assert main(["report", str(ablation.out)]) == 2
    assert f"1 of 4 masks are missing, the first is {mask.name}" in capsys.readouterr().err
    (tmp_path / mask.name).rename(mask)
    (tmp_path / "ablation.json").write_text(
        (ablation.out / "ablation.json").read_text().replace('"web": "zoo-ablation"', '"web": "gone"')
    )
    assert main(["report", str(tmp_path)]) == 2
    assert "there is no dataset 'gone'" in capsys.readouterr().err


def test_a_report_of_somebody_else_in_the_folder_is_left_alone(ablation, capsys):
    assert main(["report", str(ablation.out)]) == 0
    (ablation.out / "report.md").write_text("my notes")
    assert main(["report", str(ablation.out)]) == 2
    assert "report.md: exists" in capsys.readouterr().err
    assert (ablation.out / "report.md").read_text() == "my notes"
    (ablation.out / "report.md").unlink()


def test_a_class_without_a_kept_image_is_named_below_the_table(ablation):
    counts = {**ablation.counts, "classes": {**ablation.counts["classes"], CLASSES[1]: dict.fromkeys(KINDS, 0)}}
    poor = replace(ablation, counts=counts)
    said = f"no image was kept of {CLASSES[1]}: the generator never learned them"
    assert said in str(poor) and said in poor.to_markdown()
    assert "no image was kept" not in str(ablation) + ablation.to_markdown()


def test_a_crf_changed_after_training_is_the_one_that_scores(ablation, datasets):
    without = with_values(RECIPE, {"crf_iterations": 0})
    again = run_ablation(*datasets, ablation.out, without, progress=False)
    plain, sharpened, before = (
        evaluations[stage].matrix.counts
        for evaluations, stage in (
            (again.evaluations, "multi_scale"),
            (again.evaluations, "multi_scale_crf"),
            (ablation.evaluations, "multi_scale_crf"),
        )
    )
    # Both interpolate, to six digits alike: where two classes are that close, a pixel may change.
    assert np.abs(sharpened - plain).sum() <= np.abs(before - plain).sum() / 4, "no iteration changes nothing"


@pytest.fixture(scope="module")
def over_seeds(datasets, tmp_path_factory):
    recipe = with_values(RECIPE, {"final_iterations": 4, "seed": 7})
    out = tmp_path_factory.mktemp("runs") / "seeds"
    return run_ablation_over_seeds(*datasets, out, recipe, (0, 1), progress=False)


def test_over_seeds_each_row_has_mean_and_deviation_of_the_single_tables(over_seeds):
    value = json.loads((over_seeds.out / "ablation.json").read_text())
    assert value["seeds"] == [0, 1]
    for stage in ("generator", "multi_scale_crf"):
        single = [
            100 * json.loads((over_seeds.out / f"seed_{seed}" / "ablation.json").read_text())["rows"][stage]["mean_iou"]
            for seed in (0, 1)
        ]
        assert value["rows"][stage]["mean"]["mean"] == pytest.approx(statistics.mean(single), abs=1e-3)
        assert value["rows"][stage]["standard_deviation"]["mean"] == pytest.approx(statistics.stdev(single), abs=1e-3)
        told = f"{statistics.mean(single):.1f} ± {statistics.stdev(single):.1f}"
        assert told in str(over_seeds)
        assert f"| {told} |" in (over_seeds.out / "table.md").read_text()
    assert [ablation.recipe.seed for ablation in over_seeds.ablations.values()] == [0, 1]


@pytest.mark.parametrize("seeds", [(), (0,), (1, 1)])
def test_one_seed_or_the_same_twice_has_no_deviation(datasets, tmp_path, seeds):
    with pytest.raises(RecipeError, match="two or more different ones"):
        run_ablation_over_seeds(*datasets, tmp_path, RECIPE, seeds, progress=False)


def test_where_the_classes_are_vocs_the_paper_stands_beside_us_class_by_class():
    (row,) = paper_row(VOC_CLASSES)
    assert row.startswith("| the paper, Table 1, val | 56.4 | 85.8 | 53.0 | 24.0 |")
    assert row.count("|") == 1 + 1 + 1 + 21 + 1, "name, mean, 21 classes, and the column of Table 3"
    told = "\n".join(context(VOC_CLASSES))
    assert "| SEC | image-level | 50.7 | 51.7 |" in told
    assert context(("cat", "dog")) == []


def test_a_generator_that_labels_teach_goes_the_whole_road_and_can_be_reported_on(datasets, tmp_path):
    network = {"backbone": "efficientnet_lite0", "weights": "imagenet"}
    values = {**network, "head": "descriptors", "label_weight": 1.0, "generator_iterations": 20}
    recipe = replace(
        RECIPE, generator=values, mask_presence=0.5, mask_background=3.0, mask_crf=True, final_iterations=3
    )
    made = run_ablation(*datasets, tmp_path / "run", recipe, progress=False)
    again = run_ablation(*datasets, tmp_path / "run", recipe, progress=False)

    assert made.evaluations.keys() == again.evaluations.keys() == {row.stage for row in ROWS}
    assert made.costs == again.costs, "each stage that is done is found again"
    assert json.loads((made.out / "pseudo_masks" / "made_by.json").read_text())["presence"] == [0.5, 3.0]
    assert made.ledger.strictly_image_level
    assert report_on_run(made.out).classes == tuple(CLASSES)
