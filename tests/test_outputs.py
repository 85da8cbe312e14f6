"""Nobody's files are overwritten: a command replaces only what this program wrote and nobody changed since."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wss_data.errors import BusyError, OutputError
from wss_data.runtime.files import (
    WRITTEN,
    adopt,
    check_outputs,
    is_ours,
    output_folder,
    output_path,
    sole_owner,
    sweep,
    unfinished,
    write_output,
    write_text,
)


def test_what_was_written_here_is_replaced(tmp_path):
    for text in ("one", "two", "one"):
        write_output(tmp_path / "a.txt", text)
    assert (tmp_path / "a.txt").read_text() == "one"
    assert sorted(path.name for path in tmp_path.iterdir()) == [WRITTEN, "a.txt"]


@pytest.mark.parametrize("before", ["somebody's", "one, edited"])
def test_a_file_of_somebody_else_or_changed_since_is_left_alone(tmp_path, before):
    write_output(tmp_path / "other.txt", "makes the table")
    if before == "one, edited":
        write_output(tmp_path / "a.txt", "one")
    write_text(tmp_path / "a.txt", before)
    for attempt in (lambda: check_outputs([tmp_path / "a.txt"]), lambda: write_output(tmp_path / "a.txt", "two")):
        with pytest.raises(OutputError, match="move it away"):
            attempt()
    assert (tmp_path / "a.txt").read_text() == before
    assert not is_ours(tmp_path / "a.txt")


def test_a_file_that_went_away_may_be_written_anew(tmp_path):
    write_output(tmp_path / "a.txt", "one")
    (tmp_path / "a.txt").unlink()
    write_output(tmp_path / "a.txt", "two")
    assert is_ours(tmp_path / "a.txt")


def test_a_folder_that_was_moved_proves_its_files_still(tmp_path):
    write_output(tmp_path / "old" / "a.txt", "one")
    (tmp_path / "old").rename(tmp_path / "new")
    write_output(tmp_path / "new" / "a.txt", "two")
    assert (tmp_path / "new" / "a.txt").read_text() == "two"


def test_names_of_any_bytes_are_proved(tmp_path):
    for name in ("zwei\nZeilen", 'quote"', os.fsdecode(b"caf\xe9.png"), "ünï"):
        write_output(tmp_path / name, "one")
        write_output(tmp_path / name, "two")


def test_a_table_whose_last_line_is_torn_proves_the_others_and_what_comes_after(tmp_path):
    write_output(tmp_path / "a.txt", "one")
    with (tmp_path / WRITTEN).open("a") as table:
        table.write('["b.txt", "12')
    write_text(tmp_path / "b.txt", "somebody's")
    write_output(tmp_path / "c.txt", "one")
    assert [is_ours(tmp_path / f"{name}.txt") for name in "abc"] == [True, False, True]


def test_a_link_a_folder_and_a_pipe_are_left_alone_whatever_they_lead_to(tmp_path):
    write_output(tmp_path / "ours.txt", "one")
    (tmp_path / "link.txt").symlink_to(tmp_path / "ours.txt")
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.txt").mkdir()
    os.mkfifo(tmp_path / "pipe.txt")
    for name, kind in {"link": "a link", "dangling": "a link", "folder": "a folder", "pipe": "no plain file"}.items():
        with pytest.raises(OutputError, match=f"is {kind}, and is left alone"):
            write_output(tmp_path / f"{name}.txt", "two")
    assert (tmp_path / "ours.txt").read_text() == "one" and not (tmp_path / "nowhere").exists()


def test_a_table_that_is_a_link_is_neither_read_nor_written(tmp_path):
    write_text(tmp_path / "letter", "dear friend\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / WRITTEN).symlink_to(tmp_path / "letter")
    with pytest.raises(OSError):
        write_output(tmp_path / "out" / "a.txt", "one")
    with pytest.raises(OutputError, match="is a link"), output_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "letter").read_text() == "dear friend\n"


def test_a_place_below_a_file_is_refused_before_any_work(tmp_path):
    write_text(tmp_path / "file", "")
    with pytest.raises(OutputError, match="is no folder"):
        check_outputs([tmp_path / "file" / "below" / "a.txt"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused_before_any_work(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        check_outputs([tmp_path / "a.txt"])


@pytest.mark.parametrize("place", ["in/new.png", "in", "linked/new.png"])
def test_nothing_is_written_over_or_into_what_is_read(tmp_path, place):
    (tmp_path / "in").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "in")
    with pytest.raises(OutputError, match="which is read"):
        check_outputs([tmp_path / place], apart_from=[tmp_path / "in"])
    check_outputs([tmp_path / "out" / "new.png"], apart_from=[tmp_path / "in"])


def test_our_own_input_is_not_replaced_either(tmp_path):
    write_output(tmp_path / "m.jsonl", "one")
    with pytest.raises(OutputError, match="which is read"):
        check_outputs([tmp_path / "m.jsonl"], apart_from=[tmp_path / "m.jsonl"])


def test_files_that_an_older_table_lists_are_ours_until_there_is_the_new_table(tmp_path):
    for name in "ab":
        write_text(tmp_path / name, name)
    adopt([tmp_path / "a"])
    adopt([tmp_path / "b"])
    assert (is_ours(tmp_path / "a"), is_ours(tmp_path / "b")) == (True, False)


def test_a_failed_write_leaves_no_trace_and_the_old_file(tmp_path):
    write_output(tmp_path / "a.txt", "one")
    with pytest.raises(RuntimeError), output_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a.txt").read_text() == "one"
    assert sorted(path.name for path in tmp_path.iterdir()) == [WRITTEN, "a.txt"]


def test_a_folder_has_one_owner_and_an_unused_one_is_not_left_behind(tmp_path):
    out = tmp_path / "deep" / "out"
    with output_folder(out), pytest.raises(BusyError, match="is being filled by another process"), output_folder(out):
        pass
    assert not (tmp_path / "deep").exists()
    with output_folder(out):
        write_output(out / "a.txt", "one")
    with output_folder(out):
        pass
    assert (out / "a.txt").is_file()


def test_a_lock_goes_with_its_process_however_that_ends(tmp_path):
    code = "import sys, time, pathlib; from wss_data.runtime.files import only_one\n"
    code += "with only_one(pathlib.Path(sys.argv[1])) as free: print(free, flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, tmp_path / "lock"], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"True\n"
    busy = pytest.raises(BusyError, match="pets is being built by another process")
    with busy, sole_owner(tmp_path / "lock", "pets is being built"):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with sole_owner(tmp_path / "lock", "pets is being built"):
        pass


def test_what_a_killed_process_was_writing_is_swept_and_what_a_living_one_writes_stays(tmp_path):
    code = "import sys, pathlib; from wss_data.runtime.files import unfinished\n"
    code += "p = unfinished(pathlib.Path(sys.argv[1]))\n"
    code += "p.mkdir(); (p / 'x').touch(); unfinished(pathlib.Path(sys.argv[1]), '.png').touch()"
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)
    living = unfinished(tmp_path, ".png")
    for path in (living, tmp_path / ".writing-theirs.txt"):
        path.touch()
    assert len(list(tmp_path.iterdir())) == 4
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {living.name, ".writing-theirs.txt"}


def test_the_place_of_a_result_is_swept_when_it_is_used_again(tmp_path):
    (tmp_path / f".writing-{unfinished(Path()).name.split('-')[1]}-{2**22 + 1}-{'0' * 16}.png").touch()
    check_outputs([tmp_path / "a.png"])
    assert not list(tmp_path.iterdir())
