"""A person's verdicts: the file that keeps them, the database that shows them, and everyone who respects them."""

import json
import re
from datetime import UTC, datetime

import fiftyone.operators as foo
import pytest
from builders import SHARES, definition, make_web, record
from limits import full_disk

from wss_data import store
from wss_data.commands import cli
from wss_data.errors import StoreError, TrainingDataError
from wss_data.filtering.verdicts import FILE, Act, add_act, last_standing_act, read_acts, standing
from wss_data.runtime.home import dataset_folder

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
A, B, C = ("cat", "1"), ("cat", "2"), ("cow", "4")
DROP_2 = Act(NOON, "drop", (A, B), "drawings")
KEEP_1 = Act(NOON, "keep", (B,))
CLEAR_1 = Act(NOON, None, (A,))


# ------------------------------------------------------------- the file


def verdicts(*acts):
    return {key: found.verdict for key, found in standing(acts).items()}


def test_the_last_act_on_an_image_counts_and_one_without_a_verdict_takes_it_away():
    assert verdicts(DROP_2) == {A: "drop", B: "drop"}
    assert verdicts(DROP_2, KEEP_1) == {A: "drop", B: "keep"}
    assert verdicts(DROP_2, KEEP_1, CLEAR_1) == {B: "keep"}


def test_what_was_taken_back_lets_the_act_before_it_through():
    assert verdicts(DROP_2, KEEP_1, Act(NOON, undoes=2)) == {A: "drop", B: "drop"}
    assert verdicts(DROP_2, KEEP_1, Act(NOON, undoes=2), Act(NOON, undoes=1)) == {}


def test_undo_goes_back_act_by_act_and_never_takes_back_an_undo():
    acts = [DROP_2, KEEP_1]
    for expected in (2, 1, None):
        assert last_standing_act(acts) == expected
        acts.append(Act(NOON, undoes=expected))
    assert last_standing_act([DROP_2, Act(NOON, undoes=1), KEEP_1]) == 3


def test_acts_come_back_as_they_were_written(tmp_path):
    acts = [DROP_2, KEEP_1, CLEAR_1, Act(NOON, undoes=2)]
    assert [add_act(tmp_path / "new" / FILE, act) for act in acts] == [1, 2, 3, 4]
    assert read_acts(tmp_path / "new" / FILE) == acts
    assert str(DROP_2) == "2026-01-02 12:00  drop  2 images  (drawings)"
    assert str(acts[3]) == "2026-01-02 12:00  undoes 2"


def test_a_line_that_a_killed_process_left_torn_is_not_read_and_makes_room_for_the_next(tmp_path):
    path = tmp_path / FILE
    add_act(path, DROP_2)
    path.write_bytes(path.read_bytes() + b'{"at": "2026-01-0')
    assert read_acts(path) == [DROP_2]
    assert add_act(path, KEEP_1) == 2
    assert read_acts(path) == [DROP_2, KEEP_1]


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "[]",
        '{"at": "2026-01-02T12:00:00"}',
        '{"at": "2026-01-02T12:00:00+00:00", "verdict": "maybe", "images": []}',
    ],
)
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / FILE
    add_act(path, DROP_2)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(StoreError, match="line 2: not a verdict"):
        read_acts(path)


def test_a_full_disk_leaves_the_acts_that_were_there(tmp_path):
    path = tmp_path / FILE
    add_act(path, KEEP_1)
    with full_disk(path.stat().st_size + 20), pytest.raises(OSError):
        add_act(path, DROP_2)
    assert read_acts(path) == [KEEP_1]


# ------------------------------------------------------------- the dataset


@pytest.fixture
def web(database, request):
    """Three cats (1 too small, 2 kept, 3 too large) and a cow (4, kept)."""
    return make_web(f"verdicts-{request.node.name[5:45]}")


def ids(dataset, *digits):
    found = dict(zip(*dataset.values(["sha256", "id"]), strict=True))
    return [found[digit * 64] for digit in digits]


def tags(dataset):
    return {sha[0]: found for sha, found in zip(*dataset.values(["sha256", "tags"]), strict=True)}


def trained_on(dataset):
    return {key[4] for key in store.example_table(dataset, "cosegmentation").ids}


def test_a_dropped_image_teaches_nothing_and_a_kept_one_teaches_whatever_its_mask(web):
    assert trained_on(web) == {"2", "4"}
    assert store.judge(web, ids(web, "2"), "drop", " a toy ") == 1
    store.judge(web, ids(web, "1"), "keep")

    assert tags(web) == {"1": ["kept"], "2": ["dropped:verdict"], "3": ["dropped:too_large"], "4": ["kept"]}
    assert trained_on(web) == {"1", "4"}
    assert dict(zip(*web.values(["sha256", "verdict_reason"]), strict=True))["2" * 64] == "a toy"
    assert store.filters_to_apply(web, store.definition(web)) is None


def test_undo_takes_back_a_whole_act_and_then_the_one_before(web):
    store.judge(web, ids(web, "2", "4"), "drop")
    store.judge(web, ids(web, "4"), "keep")
    assert store.undo_verdict(web).verdict == "keep"
    assert web.values("verdict") == [None, "drop", None, "drop"]
    assert store.undo_verdict(web).verdict == "drop"
    assert web.values("verdict") == [None] * 4 and web.values("verdict_at") == [None] * 4
    assert trained_on(web) == {"2", "4"}
    with pytest.raises(StoreError, match="no verdict that could be undone"):
        store.undo_verdict(web)


def test_a_dropped_image_takes_no_part_in_co_segmentation(web):
    store.judge(web, ids(web, "2"), "drop")
    assert {member.sha256[0] for member in store.group_members(web, "cat")} == {"1", "3"}
    store.undo_verdict(web)
    assert {member.sha256[0] for member in store.group_members(web, "cat")} == {"1", "2", "3"}


def test_verdicts_outlive_a_dataset_that_is_deleted_and_built_again(web):
    name = web.name
    store.judge(web, ids(web, "2"), "drop", "a toy")
    web.delete()
    again = store.create_or_open(definition(name), "web")
    store.add_records(again, [record(name, c, digit) for c, shares in SHARES.items() for digit in shares])

    assert store.restore_verdicts(again) == 1
    assert again.values("verdict") == [None, "drop", None, None]
    assert again.values("verdict_reason")[1] == "a toy"
    assert store.restore_verdicts(again) == 0


def test_nothing_is_judged_where_no_image_was_named_or_the_dataset_is_a_target(web):
    with pytest.raises(StoreError, match="nothing was judged"):
        store.judge(web, [], "drop")
    with pytest.raises(StoreError, match="nothing was judged"):
        store.judge(web, ["0" * 24], "drop")
    target = store.create_or_open(definition(web.name + "-target"), "target")
    with pytest.raises(StoreError, match="only web datasets can be judged"):
        store.judge(target, [], "drop")
    assert not (dataset_folder(web.name) / FILE).exists()


def test_a_choice_for_training_is_respected_within_what_is_kept_and_can_be_ended(web, caplog):
    assert store.choose_for_training(web, ids(web, "2", "3")) == 2
    table = store.example_table(web, "cosegmentation")
    assert {key[4] for key in table.ids} == {"2"}
    assert "1 of 2 images are taken, those that a person chose for training" in caplog.text
    assert any(entry.what == "a person's choice of 1 images" for entry in table.ledger.entries)
    assert store.choose_for_training(web, ids(web, "4"), "add") == 3
    assert trained_on(web) == {"2", "4"}
    assert store.choose_for_training(web, ids(web, "3")) == 1
    with pytest.raises(TrainingDataError):
        store.example_table(web, "cosegmentation")
    assert store.choose_for_training(web, [], "clear") == 0
    assert trained_on(web) == {"2", "4"}


# ------------------------------------------------------------- the command and the operators


def test_the_command_drops_by_the_start_of_a_name_lists_and_takes_back(web, capsys, tmp_path):
    assert cli.main(["verdict", web.name, "--drop", "cat/2", "4444", "--reason", "toys"]) == 0
    assert cli.main(["verdict", web.name]) == 0
    assert "drop  2 images  (toys)" in capsys.readouterr().out
    listed = tmp_path / "list"
    listed.write_text("cat/1\n\n")
    for words in (["--keep", "--from", str(listed)], ["--from", "--keep", str(listed)]):
        assert cli.main(["verdict", web.name, *words]) == 0
        assert trained_on(web) == {"1"}
        assert cli.main(["verdict", web.name, "--undo"]) == 0
        listed.write_bytes(b"\xef\xbb\xbfcat/1\r\n")  # as Windows writes it
    assert cli.main(["verdict", web.name, "--keep"]) == 2
    assert "was named: nothing was judged" in capsys.readouterr().err
    assert cli.main(["verdict", web.name, "--from", str(listed)]) == 2
    listed.write_bytes(b"Stra\xdfe\n")
    assert cli.main(["verdict", web.name, "--keep", "--from", str(listed)]) == 2
    assert "list, line 1: not UTF-8 text" in capsys.readouterr().err
    assert cli.main(["verdict", web.name, "--keep", "cat/1"]) == 0
    assert cli.main(["verdict", web.name, "--undo"]) == 0
    assert re.search(r"undone: \S+ \S+  keep  1 image\n", capsys.readouterr().out)
    assert cli.main(["verdict", web.name, "--drop", "cat"]) == 2
    assert "3 images are called 'cat'" in capsys.readouterr().err


def run(dataset, name, selected=(), **params):
    context = {"dataset": dataset, "selected": list(selected), "params": params}
    return foo.execute_operator(f"@wss/judge/{name}", context).result


def test_the_operators_judge_what_is_selected_and_show_errors_as_sentences(web):
    assert run(web, "drop_images", ids(web, "2", "4"), reason="toys") == {"done": "drop: 2 images"}
    web.reload()
    assert trained_on_nothing(web)
    assert re.fullmatch(r"undone: \S+ \S+  drop  2 images  \(toys\)", run(web, "undo_verdict")["done"])
    assert run(web, "keep_images") == {"error": f"no image of dataset '{web.name}' was named: nothing was judged."}
    assert run(web, "keep_images", whole_view=True) == {"done": "keep: 4 images"}
    assert json.loads((dataset_folder(web.name) / FILE).read_text().splitlines()[-1])["verdict"] == "keep"
    assert run(web, "send_to_training", ids(web, "1"), how="replace") == {"done": "1 images are chosen for training"}
    assert run(web, "send_to_training", how="clear") == {"done": "all kept images are trained on"}


def trained_on_nothing(dataset):
    with pytest.raises(TrainingDataError, match="2 dropped:verdict"):
        store.example_table(dataset, "cosegmentation")
    return True
