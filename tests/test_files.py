import pytest

from wss_data.files import atomic_path, write_json, write_text


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
