"""The charts of a dataset: each bar counts the images that its condition finds."""

import json

import pytest
from builders import make_web, target_definition, write_target

from wss_data import store
from wss_data.errors import StoreError
from wss_data.plugin.overview import Bar, Chart, layout, overview, traces
from wss_data.spec import FilterSpec
from wss_data.store.connection import fiftyone


@pytest.fixture(scope="module")
def web(database):
    """Three cats with 10 (too small), 30 (kept) and 90 % (too large) foreground, and a cow with 50 % (kept)."""
    return make_web("overview-web")


@pytest.fixture(scope="module")
def target(database, tmp_path_factory):
    """Train: a cow, a cow with a cat, one without a label of the definition; val: a cat."""
    folder = write_target(tmp_path_factory.mktemp("target"))
    return store.import_target(target_definition("overview"), folder)


def charts(dataset) -> dict[str, Chart]:
    return {chart.name: chart for chart in overview(dataset)}


def counts(chart: Chart) -> dict[str, list[int]]:
    return {name: [bar.count for bar in bars] for name, bars in chart.series.items()}


def test_classes_are_stacked_of_kept_and_dropped_images(web):
    found = charts(web)
    assert counts(found["classes"]) == {"kept": [1, 1], "dropped": [2, 0]}
    assert {bar.label: bar.count for bar in found["reasons"].series["dropped"]} == {"too_small": 1, "too_large": 1}


def test_foreground_fractions_stand_between_the_thresholds_that_were_applied(web):
    chart = charts(web)["foreground_ratio"]
    there = {bar.label: bar.count for bar in chart.series["images"] if bar.count}
    assert there == {0.125: 1, 0.325: 1, 0.525: 1, 0.925: 1}
    assert chart.lines == (0.2, 0.8)


def test_a_smallest_confidence_is_a_line_where_there_is_one(web):
    assert charts(web)["confidence"].lines == ()
    dataset = make_web("overview-confidence")
    store.apply_filter(dataset, FilterSpec(min_confidence=0.5))
    assert charts(dataset)["confidence"].lines == (0.5,)


def test_sources_and_licences_are_counted(web):
    assert [(bar.label, bar.count) for bar in charts(web)["sources"].series["images"]] == [("folder", 4)]
    assert [(bar.label, bar.count) for bar in charts(web)["licences"].series["images"]] == [("CC0-1.0", 4)]


def test_a_target_shows_its_splits_and_which_classes_come_together(target):
    found = charts(target)
    assert {bar.label: bar.count for bar in found["splits"].series["images"]} == {"train": 3, "val": 2}
    assert counts(found["cooccurrence"]) == {"cat": [2, 1], "cow": [1, 2]}


@pytest.mark.parametrize("which", ["web", "target"])
def test_every_bar_counts_what_its_condition_finds_after_its_way_through_the_app(which, request):
    dataset = request.getfixturevalue(which)
    for chart in overview(dataset):
        for bars in chart.series.values():
            for bar in bars:
                assert dataset.match(json.loads(json.dumps(bar.condition))).count() == bar.count, (chart.name, bar)


def test_a_dataset_without_masks_has_no_charts_of_them(database):
    from builders import definition, record

    dataset = store.create_or_open(definition("overview-bare"), "web")
    assert overview(dataset) == []
    store.add_records(dataset, [record("overview-bare", "cat", "1")])
    assert set(charts(dataset)) == {"classes", "sources", "licences"}


def test_a_dataset_that_is_not_ours_is_refused_with_a_sentence(database):
    with pytest.raises(StoreError, match="was not made by wss-data"):
        overview(fiftyone().Dataset("overview-foreign", overwrite=True))


def test_bars_carry_their_condition_and_thresholds_are_lines():
    chart = Chart("x", "X", {"kept": (Bar("cat", 2, {"label.label": "cat"}),), "dropped": ()}, lines=(0.2,))
    kept, _ = traces(chart)
    assert kept["ids"] == ['{"label.label": "cat"}'] and kept["y"] == [2]
    assert [shape["x0"] for shape in layout(chart)["shapes"]] == [0.2]


def test_a_matrix_is_drawn_as_one():
    row = (Bar("cat", 2, {"a": 1}), Bar("cow", 1, {"a": 2}))
    (trace,) = traces(Chart("m", "M", {"cat": row}, matrix=True))
    assert trace["type"] == "heatmap" and trace["z"] == [[2, 1]]
    assert trace["ids"] == [['{"a": 1}', '{"a": 2}']]
