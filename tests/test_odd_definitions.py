"""Definitions that nobody means well: whatever stands in the file, one sentence and no time."""

import copy
import json
import os
import random
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import yaml

from wss_data.commands.cli import main
from wss_data.cosegmentation import make_engine
from wss_data.errors import SpecError, WssError, shown
from wss_data.reading.plain_yaml import MAX_CHARACTERS, plain_values
from wss_data.retrieval.sources import source_state
from wss_data.spec import definitions_folder, list_definitions, read_spec, spec_from_dict
from wss_data.target.voc import read_voc_layout

BOMB = "".join(f"  - &a{n + 1} [{','.join([f'*a{n}'] * 10)}]\n" for n in range(9))

TEXTS = {
    "alias bomb": f"name:\n  - &a0 [{','.join('x' * 10)}]\n{BOMB}classes: [cat]\n",
    "bomb of merged keys": "a: &a {b: 1}\nc: {<<: *a}\n",
    "anchor within itself": "name: x\nclasses: &c [*c]\n",
    "anchor as a key": "&k name: x\n*k : y\n",
    "deep list": "name: x\nclasses: " + "[" * 50_000,
    "deep mapping": "name: x\nclasses: " + "{a: " * 50_000,
    "deep blocks": "- " * 50_000,
    "many items": "name: x\nclasses: [" + "a," * 120_000 + "]",
    "many keys": "".join(f"k{n}: 1\n" for n in range(25_000)),
    "long text": "name: " + "x" * 200_000,
    "large file": "name: x\nclasses: [cat]\n" + "# and so on\n" * MAX_CHARACTERS,
    "number of many digits": "name: x\nclasses: [cat]\nlongest_side: " + "9" * 200_000,
    "number of 40 digits": "name: x\nclasses: [cat]\nlongest_side: " + "9" * 40,
    "number in base 60": "name: x\nclasses: [cat]\nlongest_side: 1" + ":59" * 3_000,
    "no such date": "name: x\nclasses: [cat]\nlongest_side: 2020-99-99\n",
    "binary": "name: !!binary aGFsbG8=\nclasses: [cat]\n",
    "set": "name: x\nclasses: !!set {cat, dog}\n",
    "ordered mapping": "name: x\nclasses: !!omap [cat: 1]\n",
    "tag of Python": "name: !!python/object/apply:os.system [id]\nclasses: [cat]\n",
    "tag of one's own": "%TAG ! tag:x,2000:\n---\nname: !a x\nclasses: [cat]\n",
    "not a number": "name: x\nclasses: [cat]\nfilters: {min_foreground: .nan}\n",
    "without end": "name: x\nclasses: [cat]\ndownload: {deadline_s: .inf}\n",
    "too large a number": "name: x\nclasses: [cat]\ndownload: {deadline_s: 1.0e+999}\n",
    "yes for a name": "name: yes\nclasses: [cat]\n",
    "no for a class": "name: x\nclasses: [cat, no]\n",
    "nothing for a class": "name: x\nclasses: [cat, ~]\n",
    "number for a name": "name: 7\nclasses: [cat]\n",
    "list for a name": "name: x\nclasses: [cat]\nsources: [{name: [a]}]\n",
    "mapping for a method": "name: x\nclasses: [cat]\ncosegmentation: {method: {a: 1}}\n",
    "true for an index": "name: x\nclasses: [{name: cat, index: true}]\n",
    "a key twice": "name: x\nname: y\nclasses: [cat]\n",
    "a key twice inside": "name: x\nclasses: [cat]\nfilters: {min_foreground: 0.1, min_foreground: 0.2}\n",
    "list for a key": "[a, b]: x\n",
    "list for a key, in long": "? [a, b]\n: x\n",
    "number for a key": "1: x\n",
    "number for an option": "name: x\nclasses: [cat]\ncosegmentation: {options: {1: 2}}\n",
    "control character": "name: x\nclasses: [cat]\n# \x07\n",
    "control character behind a backslash": 'name: x\nclasses: [{name: cat, index: 1, queries: ["\\e[31mcat"]}]\n',
    "half a character": 'name: x\nclasses: [{name: cat, index: 1, queries: ["\\ud800"]}]\n',
    "turned text": 'name: x\nclasses: [{name: cat, index: 1, queries: ["\u202etac"]}]\n',
    "long name": "name: " + "x" * 201 + "\nclasses: [cat]\n",
    "two documents": "name: x\nclasses: [cat]\n---\nname: y\n",
    "nothing": "",
    "a word": "x",
    "tabs": "name:\tx\n\tclasses: [cat]\n",
    "no end of a text": "name: 'x\nclasses: [cat]\n",
    "list outside the folder of lists": "name: x\nclasses: [cat]\n"
    "target: {layout: voc, options: {val: ../../../etc/passwd}}\n",
}

BYTES = {
    "UTF-16": "name: x\nclasses: [cat]\n".encode("utf-16"),
    "UTF-32": "name: x\nclasses: [cat]\n".encode("utf-32"),
    "Latin-1": "name: x\nclasses: [cat] # schön\n".encode("latin-1"),
    "zeros": bytes(1_000),
    "zero in a name": b"name: x\0\nclasses: [cat]\n",
    "an image": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
}


def refused(capsys, *arguments: object) -> str:
    capsys.readouterr()
    start = time.monotonic()
    assert main([str(argument) for argument in arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("wss-data: ") and message.count("\n") == 1 and len(message) < 1_500
    assert message[:-1].isprintable()
    assert time.monotonic() - start < 10, "seconds; on a quiet machine under 1"
    return message


@pytest.mark.parametrize("what", [*TEXTS, *BYTES])
def test_an_odd_definition_is_refused_with_one_short_sentence(what, tmp_path, capsys):
    file = tmp_path / "odd.yaml"
    file.write_bytes(BYTES[what] if what in BYTES else TEXTS[what].encode())
    if what == "list outside the folder of lists":
        (tmp_path / "JPEGImages").mkdir()
        with pytest.raises(SpecError, match=r"target: val is '\.\./\.\./\.\./etc/passwd'"):
            read_voc_layout(tmp_path, read_spec(file))
    else:
        assert "odd.yaml" in refused(capsys, "sources", file)


def test_reading_the_worst_of_them_takes_less_than_500_megabytes_and_little_time(tmp_path):
    for n, what in enumerate(("alias bomb", "many items", "large file", "number in base 60")):
        (tmp_path / f"{n}.yaml").write_text(TEXTS[what])
    ours = r"""
        import re, sys
        from limits import bare_loops
        from wss_data.errors import SpecError
        from wss_data.spec import read_spec
        for path in sys.argv[1:]:
            with bare_loops(500):
                try:
                    read_spec(path)
                except SpecError:
                    pass
        print(re.search(r"VmHWM:\s*(\d+)", open("/proc/self/status").read())[1])
    """
    command = [sys.executable, "-c", textwrap.dedent(ours), *(str(path) for path in sorted(tmp_path.iterdir()))]
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env=here)
    assert int(ended.stdout) < 500_000, "KiB"


def test_what_is_no_file_is_reported_and_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "circle.yaml").symlink_to("circle.yaml")
    for path in ("pipe.yaml", "folder.yaml", "circle.yaml", "not there.yaml", "x" * 300 + ".yaml"):
        refused(capsys, "sources", tmp_path / path)
    refused(capsys, "sources", "/dev/zero")
    # The command line itself refuses these two.
    for name in ("a\0b", "x" * 5_000 + ".yaml"):
        with pytest.raises(WssError):
            read_spec(name)


def test_mask_classes_that_lead_in_a_circle_or_too_far_are_refused(tmp_path, capsys):
    def write(name: str, named: str) -> Path:
        path = tmp_path / f"{name}.yaml"
        target = {"layout": "voc", "mask_classes": str(tmp_path / f"{named}.yaml")}
        path.write_text(yaml.safe_dump({"name": name, "classes": ["cat"], "target": target}))
        return path

    assert "mask_classes lead back to it" in refused(capsys, "sources", write("self", "self"))
    write("b", "a")
    assert "mask_classes lead back to it" in refused(capsys, "sources", write("a", "b"))
    for n in range(1_000):
        write(f"c{n}", f"c{n + 1}")
    assert "from definition to definition" in refused(capsys, "sources", tmp_path / "c0.yaml")


GOOD = {
    "name": "zoo",
    "classes": [{"name": "cat", "index": 1, "queries": ["cat", "kitten"]}, {"name": "cow", "index": 2}],
    "sources": [
        {"name": "drawn", "limit": 3, "options": {"seed": 1, "wrong_share": 0.1}},
        {"name": "openverse", "options": {"licences": ["by"], "sources": ["met"], "endpoint": "https://x.example"}},
        {"name": "flickr", "options": {"licences": [4]}},
        {"name": "wikimedia", "options": {"longest_wait": 3, "endpoint": "https://x.example/api.php"}},
        {"name": "google", "options": {"enabled": False}},
        {"name": "folder", "options": {"path": "/nowhere"}},
        {"name": "manifest", "options": {"path": "/nowhere.jsonl"}},
    ],
    "download": {"connections": 4, "pause_s": 0.5, "respect_robots": True, "allow_hosts": ["localhost:80"]},
    "duplicates": {"max_distance": 8},
    "longest_side": 340,
    "cosegmentation": {"method": "common", "options": {"long_side": 384, "device": "cpu", "weights": None}},
    "filters": {"min_foreground": 0.2, "max_foreground": 0.8, "min_confidence": 0.0},
    "ignore_index": 255,
    "target": {"layout": "voc", "mask_classes": ["cat"], "options": {"val": "val", "expect": {"val": 3}}},
}
ODD = [
    *(None, True, False, 0, -1, 3.5, 2**62, -(2**62), 1e300, "", " ", "x" * 9_000, "../x", "/", "~nobody/x", "~"),
    *("%s", "{x}", "*", "é", "\U0001f600", "http://[::1", "javascript:alert(1)", "file:///etc/passwd", "=1+1", "yes"),
    *(".nan", "outside", "lock", [], {}, [[]], [{}], {"x": {}}, [None], ["x"] * 300, [["x"]], [1, 2], {"path": "/"}),
]


def places(value, place=()):
    """Every place of a nested value, the whole left out."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield (*place, key)
        yield from places(value[key], (*place, key))


def with_odd_values(seed: int) -> dict:
    """The good definition with one to three of its values, or keys, replaced by odd ones."""
    draw, value = random.Random(seed), copy.deepcopy(GOOD)
    for _ in range(draw.randint(1, 3)):
        *way, key = draw.choice(list(places(value)))
        inside = value
        for step in way:
            inside = inside[step]
        if isinstance(inside, dict) and draw.random() < 0.2:
            inside[draw.choice(["", "x", "self", "__class__", "options", "path", "1"])] = inside.pop(key)
        else:
            inside[key] = copy.deepcopy(draw.choice(ODD))
    return value


@pytest.mark.parametrize("seed", range(0, 300, 60))
def test_generated_odd_definitions_are_read_or_refused_and_never_end_otherwise(seed, tmp_path):
    read = 0
    for n in range(seed, seed + 60):
        file = tmp_path / "odd.yaml"
        file.write_text(json.dumps(with_odd_values(n)))  # JSON is YAML
        try:
            spec = read_spec(file)
        except SpecError as error:
            assert "\n" not in str(error) and len(str(error)) < 1_500
            continue
        read += 1
        assert spec_from_dict(spec.to_dict()) == spec
        for source in spec.sources:
            try:
                source_state(source.name, source.options)
            except WssError as error:
                assert "\n" not in str(error) and len(str(error)) < 1_500
        try:
            make_engine(spec.cosegmentation.method, spec.cosegmentation.options)
        except WssError as error:
            assert "\n" not in str(error) and len(str(error)) < 1_500
    assert 5 < read < 55, "some are read, some refused: else nothing was tried"


def test_the_definitions_that_come_with_the_package_mean_what_they_meant():
    for name in list_definitions():
        text = (definitions_folder() / f"{name}.yaml").read_text()
        assert plain_values(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("512", 512),
        ("-3", -3),
        ("0.3", 0.3),
        ("1.0e-3", 0.001),
        ("true", True),
        ("off", False),
        ("null", None),
        ("", None),
        ("'7'", "7"),
        ("2020-01-01", "2020-01-01"),
        ("12:30", "12:30"),
        ("[1, [a, b]]", [1, ["a", "b"]]),
        ('{"a": [1.5, null, "\\u00e9"]}', {"a": [1.5, None, "é"]}),
        ("a: |\n  two\n  lines\n", {"a": "two\nlines\n"}),
    ],
)
def test_plain_values_are_read_as_yaml_has_them_and_dates_stay_texts(text, value):
    found = plain_values(text)
    assert found == value and type(found) is type(value)


def test_no_value_is_shown_at_length():
    for value in (
        "x" * 10**6,
        ["x"] * 10**6,
        [[[["x"] * 1000] * 1000] * 1000] * 1000,
        10**5_000,
        {"a": {"b": "c" * 999}},
    ):
        assert len(shown(value)) <= 60
