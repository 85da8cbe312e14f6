"""What keeps a dataset of 75,800 images quick: indexes where views choose and sort, one pass where tags change."""

import json
from unittest.mock import patch

import pytest
from builders import make_web, record

from wss_data import store
from wss_data.spec import FilterSpec

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture(scope="module")
def web(database):
    return make_web("scale-web")


def plan(dataset, view) -> str:
    """How MongoDB answers what the App asks for a view, as JSON text."""
    command = {"aggregate": dataset._sample_collection_name, "pipeline": view._pipeline(), "cursor": {}}
    told = dataset._sample_collection.database.command("explain", command, verbosity="queryPlanner")
    planner = told["stages"][0]["$cursor"]["queryPlanner"] if "stages" in told else told["queryPlanner"]
    return json.dumps([planner["winningPlan"], told.get("stages", [])[1:]], default=str)


SORTED = (
    "dropped: too small",
    "dropped: too large",
    "odd ones out first",
    "least confident first",
    "most suspicious first",
)


@pytest.mark.parametrize("name", ["kept", "dropped: duplicates", "dropped: leaks", "class cow", *SORTED])
def test_a_saved_view_reads_its_own_images_only(web, name):
    found = plan(web, web.load_saved_view(name))
    assert "IXSCAN" in found
    assert "COLLSCAN" not in found
    if name in SORTED:
        assert "SORT" not in found.upper(), "MongoDB would sort whole documents, on disk if they are many"


def test_images_that_are_stored_already_and_members_of_a_group_are_found_by_an_index(web):
    asked = []
    match = type(web).match

    def spy(self, condition):
        asked.append(match(self, condition))
        return asked[-1]

    with patch.object(type(web), "match", spy):
        assert store.add_records(web, [record("scale-web", "cat", "1")]) == 0
        assert len(store.group_members(web, "cat")) == 3
    assert len(asked) == 2
    assert all("IXSCAN" in plan(web, view) for view in asked)


def test_other_thresholds_change_the_tags_in_one_pass_and_only_where_they_differ(web):
    store.apply_filter(web, FilterSpec(0.2, 0.8))
    with patch.object(type(web), "set_values", autospec=True) as set_values:
        report = store.apply_filter(web, FilterSpec(0.05, 0.8))
    # Of the fractions 0.1, 0.3, 0.9 and 0.5 the first alone is judged otherwise.
    assert report.kept == 3
    ((_, field, values), _), *more = [tuple(call) for call in set_values.call_args_list]
    assert not more
    assert field == "tags"
    assert list(values.values()) == [["kept"]]


def test_a_dataset_is_counted_anew_where_the_server_has_its_size_wrong(web):
    samples = type(web._sample_collection)
    commands = []
    with (
        patch.object(samples, "estimated_document_count", return_value=0),
        patch.object(type(web._sample_collection.database), "command", lambda _, *told, **__: commands.append(told)),
    ):
        store.connection.correct_count(web)
    store.connection.correct_count(web)
    assert commands == [("validate", web._sample_collection_name)]
