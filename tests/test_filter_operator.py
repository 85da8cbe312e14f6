"""The operator that changes the filter: the preview says what applying it then does."""

import fiftyone.operators as foo
import pytest
from builders import make_web
from fiftyone.operators.executor import ExecutionContext

from wss_data import store
from wss_data.plugin.operators import ChangeFilter, preview_rows
from wss_data.spec import FilterSpec


@pytest.fixture(scope="module")
def web(database):
    """Three cats with 10, 30 and 90 % foreground, and a cow with 50 %."""
    return make_web("filter-operator")


def test_the_preview_counts_each_class_now_and_then(web):
    now = store.apply_filter(web, FilterSpec(), dry_run=True)
    then = store.apply_filter(web, FilterSpec(0.05, 0.4), dry_run=True)
    assert preview_rows(now, then) == [
        {"class": "cat", "images": "3", "now": "1", "then": "2 (+1)"},
        {"class": "cow", "images": "1", "now": "1", "then": "0 (-1)"},
        {"class": "all", "images": "4", "now": "2", "then": "2"},
    ]


def form(dataset, **params):
    """The form as the App would get it."""
    context = ExecutionContext({"dataset_name": dataset.name, "params": params})
    return ChangeFilter().resolve_input(context).to_json()["type"]["properties"]


def test_the_form_shows_the_preview_of_what_was_typed_and_changes_nothing(web):
    before = web.values("tags")
    shown = form(web, min_foreground=0.05, max_foreground=0.4)
    assert [row["then"] for row in shown["preview"]["default"]] == ["2 (+1)", "0 (-1)", "2"]
    assert web.values("tags") == before


def test_thresholds_that_make_no_sense_are_reported_in_the_form_which_cannot_be_sent(web):
    refused = form(web, min_foreground=0.9, max_foreground=0.4)["refused"]
    assert refused["invalid"] and "min_foreground 0.9 is not below" in refused["error_message"]


def test_sending_the_form_applies_the_filter(web):
    context = {"dataset": web, "params": {"min_foreground": 0.05, "max_foreground": 0.4}}
    result = foo.execute_operator("@wss/judge/change_filter", context).result
    assert result == {"done": "the filter keeps 2 of 4 images"}
    web.reload()
    assert store.applied_filters(web) == FilterSpec(0.05, 0.4)


def test_a_threshold_left_empty_stays_and_masks_below_the_confidence_are_dropped(database):
    dataset = make_web("filter-confidence")  # cats of 10 and 30 %: confidence 0.51 and 0.53
    store.apply_filter(dataset, FilterSpec(0.05, 0.4))
    context = {"dataset": dataset, "params": {"min_confidence": 0.52, "max_foreground": None}}
    foo.execute_operator("@wss/judge/change_filter", context)
    dataset.reload()
    assert store.applied_filters(dataset) == FilterSpec(0.05, 0.4, 0.52)
    assert dataset.count_sample_tags() == {"dropped:low_confidence": 1, "kept": 1, "dropped:too_large": 2}
