import pytest

from wss_data.runtime.files import atomic_path, only_one, remove_unfinished, write_json, write_text


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "notes.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("killed")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_missing_folders_are_made_and_the_file_is_readable_by_others(tmp_path):
    path = tmp_path / "a" / "b.json"
    write_json(path, {"café": 1})
    assert path.read_text(encoding="utf-8") == '{\n  "café": 1\n}\n'
    assert path.stat().st_mode & 0o044


def test_what_a_killed_process_was_writing_is_removed_and_nothing_else(tmp_path):
    for name in ("deep/.writing-abc.png", "deep/kept.png", ".hidden"):
        write_text(tmp_path / name, "")
    remove_unfinished(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [".hidden", "kept.png"]


def test_a_lock_is_held_by_one_at_a_time_and_free_again_afterwards(tmp_path):
    with only_one(tmp_path / "lock") as first, only_one(tmp_path / "lock") as second:
        assert (first, second) == (True, False)
    with only_one(tmp_path / "lock") as again:
        assert again
