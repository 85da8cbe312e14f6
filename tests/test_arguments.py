"""What stands on a command line is looked at before anything is done: one line, status 2."""

from functools import cache

import pytest

from wss_data.commands import cli as data_cli
from wss_data.commands.arguments import fraction, natural, number, positive
from wss_data.errors import RecipeError, SourceError, WorkerError
from wss_data.runtime.files import expanded
from wss_data.runtime.parallel import default_workers
from wss_train.commands import cli as train_cli
from wss_train.inference import device_of

PARSERS = {"wss-data": data_cli.make_parser, "wss-train": train_cli.make_parser}


@cache
def commands():
    """(program, command, its parser) of all commands."""
    found = []
    for program, make in PARSERS.items():
        (sub,) = (action for action in make()._actions if hasattr(action, "choices") and action.choices)
        found += [(program, name, parser) for name, parser in sub.choices.items()]
    return found


def arguments():
    """(program, command, its parser, argument) of all arguments that take a value."""
    for program, command, parser in commands():
        for action in parser._actions:
            if action.nargs != 0 and action.choices is None:
                yield program, command, parser, action


def refusal(capsys, program, words):
    """The one line with which a command line is refused."""
    main = data_cli.main if program == "wss-data" else train_cli.main
    with pytest.raises(SystemExit) as left:
        main(words)
    said = capsys.readouterr().err
    assert left.value.code == 2 and said.count("\n") == 1 and "Traceback" not in said and "usage:" not in said
    return said


def line_with(action, value, parser):
    """Words in which one argument has the value and the others are as they should be."""
    options = [f"{action.option_strings[-1]}={value}"] if action.option_strings else []
    others = [other for other in parser._actions if other.required and other is not action and other.option_strings]
    options += [word for other in others for word in (other.option_strings[-1], "x")]
    places = [other for other in parser._actions if not other.option_strings]
    return [*options, "--", *(value if other is action else "x" for other in places)]


EMPTY_ALLOWED = {"--reason"}

TEXTS = ["a\0b", "a\nb", "a\x1b[31m", "x" * 5000]


@pytest.mark.parametrize("value", ["", "  ", *TEXTS], ids=lambda value: repr(value[:9]))
def test_no_argument_of_any_command_takes_control_characters_nothing_or_thousands_of_letters(value, capsys):
    seen = 0
    for program, command, parser, action in arguments():
        if value.strip() or not EMPTY_ALLOWED.intersection(action.option_strings):
            refusal(capsys, program, [command, *line_with(action, value, parser)])
            seen += 1
    assert seen > 90


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "1e999", "1_0", "٣", "²", "9" * 30, "x", "0x10"])
def test_no_number_of_any_command_is_negative_huge_or_none(value, capsys):
    numbers = {"N", "RATIO", "CONFIDENCE", "FRACTION", "S,S,...", "N,N,...", "HxW"}
    options = {"--port", "--seed"}
    seen = set()
    for program, command, parser, action in arguments():
        if action.metavar in numbers or options.intersection(action.option_strings):
            refusal(capsys, program, [command, *line_with(action, value, parser)])
            seen.add(action.option_strings[-1])
    assert seen >= {
        "--workers",
        "--port",
        "--seed",
        "--seeds",
        "--scales",
        "--size",
        "--count",
        "--patience",
        "--settle",
    }


@pytest.mark.parametrize(
    "words",
    [
        "wss-data build x --workers 0",
        "wss-data build x --workers 1000000000",
        "wss-data view x --port 99999",
        "wss-data view x --port 0",
        "wss-data cosegment x --option long_side",
        "wss-train predict m x --out o --scales 0",
        "wss-train predict m x --out o --scales 1,1e9",
        "wss-train predict m x --out o --scales 1,1.0",
        "wss-train predict m x --out o --device nonsense",
        "wss-train predict m x --out o --device cuda:x",
        "wss-train export m --out m.onnx --size 99999x99999",
        "wss-train export m --out m.onnx --size 0x10",
        "wss-train nothing",
        "wss-data",
    ],
)
def test_a_value_out_of_range_is_refused_in_one_line(words, capsys):
    program, *rest = words.split()
    assert refusal(capsys, program, rest).startswith(program)


def test_a_home_that_does_not_exist_is_refused_for_every_path_of_every_command(capsys):
    seen = 0
    for program, command, parser, action in arguments():
        if getattr(action.type, "__name__", "") in ("Path", "path", "path_text"):
            for value in ("~nobody_of_that_name/x", "x/" + "y" * 300):
                said = refusal(capsys, program, [command, *line_with(action, value, parser)])
                assert "nobody_of_that_name" in said or "255 bytes" in said
            seen += 1
    assert seen > 35


def test_paths_from_elsewhere_are_expanded_or_refused_likewise(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert str(expanded("~/photos")) == "/home/somebody/photos"
    for path in ("~nobody_of_that_name/x", "a\0b"):
        with pytest.raises(SourceError):
            expanded(path)


def test_numbers_are_read_as_they_are_written():
    assert (natural("0"), positive("12"), number("1e-3"), fraction("0.5"), fraction("1")) == (0, 12, 0.001, 0.5, 1.0)


def test_a_device_that_this_machine_lacks_is_refused_with_those_that_there_are(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert (device_of(None).type, device_of("cpu").type) == ("cpu", "cpu")
    for name, words in (("cuda", "has none"), ("cuda:3", "has none"), ("nonsense", "known are cpu")):
        with pytest.raises(RecipeError, match=words):
            device_of(name)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert device_of("cuda:1").index == 1
    with pytest.raises(RecipeError, match="has 2 that"):
        device_of("cuda:2")


@pytest.mark.parametrize("said", ["x", "-1", "1.5", "99999"])
def test_a_number_of_workers_in_the_environment_that_is_none_is_refused(said, monkeypatch):
    monkeypatch.setenv("WSS_WORKERS", said)
    with pytest.raises(WorkerError, match="WSS_WORKERS"):
        default_workers()


def test_every_command_says_in_its_help_what_its_arguments_are(capsys):
    for program, command, _ in commands():
        main = data_cli.main if program == "wss-data" else train_cli.main
        with pytest.raises(SystemExit) as left:
            main([command, "--help"])
        assert left.value.code == 0 and "example:" in capsys.readouterr().out
