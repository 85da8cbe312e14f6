"""Texts of strangers steer no terminal and turn no line around, wherever they are kept, printed or written."""

import argparse
import io
import logging
import sys

import pytest
from tqdm import tqdm

from wss_data.commands import cli
from wss_data.errors import StoreError
from wss_data.errors.names import printable
from wss_data.errors.text import CleanStream, clean_text, is_clean, visible
from wss_data.ledger import Ledger
from wss_data.reading.addresses import is_web_address
from wss_data.reading.cells import text_cell
from wss_data.records import Provenance
from wss_data.sharing.attribution import Credit, markdown, page, table
from wss_data.sharing.card_content import _escaped
from wss_train.commands import cli as train_cli

STEERING = {
    "colour": "\x1b[31m",
    "title of the window": "\x1b]0;mine\x07",
    "bell": "\x07",
    "back": "\b",
    "control of eight bits": "\x9b2J",
    "override": "\u202e",
    "isolate": "\u2067",
    "no width": "\u200b",
    "byte order mark": "\ufeff",
    "NUL": "\x00",
    "half a character": "\ud800",
    "line separator": "\u2028",
    "tag": "\U000e0041",
}
EACH = pytest.mark.parametrize("odd", STEERING.values(), ids=list(STEERING))
KEPT = ["Kuh & Kälbchen", "גן ילדים", "می‌خواهم", "👩‍🌾 of 日本", "a  b", "naïve"]


@EACH
def test_what_steers_is_taken_out_of_a_text_and_shown_in_a_name(odd):
    assert clean_text(f"a{odd}b").replace(" ", "") == "ab"
    assert not is_clean(f"a{odd}b") and is_clean(clean_text(f"a{odd}b"))
    shown = visible(f"a{odd}b")
    assert shown.isprintable() and "\\" in shown and is_clean(shown)


@pytest.mark.parametrize("text", KEPT)
def test_texts_of_any_language_stay_as_they_are(text):
    assert clean_text(text) == visible(text) == text


def test_lines_become_one():
    assert clean_text("  Eine Kuh\r\n\ton a meadow\u2029 ") == "Eine Kuh on a meadow"


@EACH
def test_no_record_of_an_image_holds_it_but_in_what_finds_the_image_again(odd):
    at = Provenance("flickr", f"1{odd}", title=f"a{odd}", author=f"b{odd}", license=f"c{odd}", opt_outs=(f"d{odd}",))
    assert all(is_clean(text) for text in (at.title, at.author, at.license, *at.opt_outs))
    assert at.source_id == (f"1{odd}" if odd != "\ud800" else "1\\ud800")  # which no database keeps
    assert not is_web_address(f"https://x.example/{odd}")


@EACH
def test_no_ledger_error_file_name_or_cell_holds_it(odd):
    read = Ledger.from_dict({"entries": [{"what": f"w{odd}", "supervision": "none", "used_for": "weights"}]})
    told = str(StoreError(f"a{odd}.jpg: no such file.\nLook again."))
    for text in (read.entries[0].what, told, printable(f"a{odd}.jpg"), text_cell(f"a{odd}")):
        assert is_clean(text)
    assert told.endswith("Look again.") and "\n" not in told


def printing(words: str, how: str) -> argparse.ArgumentParser:
    def command(options: argparse.Namespace) -> int:
        if how == "error":
            raise StoreError(words)
        if how == "no file":
            raise FileNotFoundError(2, "No such file", words)
        if how == "log":
            handler = logging.StreamHandler()
            handler.emit(logging.LogRecord("a", 30, "a", 1, words, (), None))
        elif how == "bar":
            for _ in tqdm([1], desc=words):
                pass
        else:
            print(words, file=getattr(sys, how))
        return 0

    parser = argparse.ArgumentParser(prog="wss-data")
    parser.set_defaults(command=command)
    return parser


@pytest.mark.parametrize("how", ["stdout", "stderr", "error", "no file", "log", "bar"])
def test_whatever_a_command_prints_steers_no_terminal(how, capsys):
    cli.run(printing("".join(STEERING.values()) + "\rend", how), [])
    printed = "".join(capsys.readouterr())
    assert "end" in printed and "\\x1b[31m" in printed
    assert all(is_clean(line) for line in printed.replace("\r", "\n").split("\n"))
    assert how == "bar" or "\r" not in printed


@pytest.mark.parametrize("main", [cli.main, train_cli.main])
def test_both_programs_print_so(main, capsys):
    with pytest.raises(SystemExit):
        main(["\x1b[31mred"])
    assert "\x1b" not in capsys.readouterr().err


def test_a_file_whose_name_is_a_colour_does_not_colour_the_terminal(tmp_path, capsys):
    photos = tmp_path / "photos"
    (photos / "cat").mkdir(parents=True)
    (photos / "cat" / "a\x1b[31m\n.jpg").write_bytes(b"no image")
    assert cli.main(["cosegment-folder", str(photos), "--out", str(tmp_path / "masks")]) != 0
    printed = "".join(capsys.readouterr())
    table = (tmp_path / "masks" / "scores.csv").read_text()
    assert "\x1b" not in printed + table and "cat,a\\x1b[31m\\x0a,unreadable" in table


def test_progress_bars_still_move():
    stream = io.StringIO()
    for text in ("\r 50%", "\n\x1b[A", "\r\r"):
        CleanStream(stream).write(text)
    assert stream.getvalue() == "\r 50%\n\x1b[A\r\r"


HOSTILE = '<script>alert(1)</script>](javascript:alert(1)) | `x` ![i](https://x.example/i.png) "><img src=x>'


@pytest.mark.parametrize("field", ["title", "author", "license", "source", "image"])
def test_no_markup_of_a_stranger_works_in_the_lists_of_authors(field):
    values = dict.fromkeys(Credit.__dataclass_fields__, "cat/1") | {
        "source_url": "",
        "author_url": "",
        "license_url": "",
    }
    credit = Credit(**{**values, field: HOSTILE if field != "image" else f"{HOSTILE}/1"})
    html, text = page("pets", [credit]), markdown("pets", [credit])
    assert "<script" not in html and "<img" not in html and "javascript:alert(1)" in html
    assert "<script" not in text.replace("\\<", "") and "](" not in text.replace("\\]", "").replace("\\(", "")
    assert len(table("pets", [credit]).splitlines()) == 2


def test_no_markup_of_a_stranger_works_in_a_card():
    text = _escaped(HOSTILE + "\n# heading &lt;")
    for sign in "<>[]`|#&":
        assert sign not in text.replace(f"\\{sign}", "")
    assert "\n" not in text
