"""Every subcommand of both programs on generated arguments and files: no traceback, no hang, exit codes as documented.

Seeded and in process. What is wrong in a file is wrong at random: a byte, a value, a key, a length.
"""

import argparse
import copy
import gzip
import json
import os
import random
import shutil
import signal
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from io import StringIO
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import yaml
from builders import make_web, target_definition, write_target
from drawings import TINY, rectangles
from PIL import Image

from wss_data import store
from wss_data.commands.cli import main as wss_data_main
from wss_data.commands.cli import make_parser as wss_data_parser
from wss_data.imaging.images import write_jpeg
from wss_data.runtime.home import dataset_folder
from wss_data.sharing.export import export_dataset
from wss_train import recipes
from wss_train.commands.cli import main as wss_train_main
from wss_train.commands.cli import make_parser as wss_train_parser
from wss_train.recipes import with_values
from wss_train.training import train_generator

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("small_maps")]

MAIN = {"wss-data": wss_data_main, "wss-train": wss_train_main}
DOCUMENTED = {0, 1, 2}
"""Exit statuses of docs/reference/commands.md, but for an interruption."""

HANG_S = 60
"""On a quiet machine none takes a tenth of it."""

WEB, TARGET = "fuzz-web", "fuzz-web-target"

ODD = [
    "",
    " ",
    "-",
    "--",
    "=",
    "a=",
    "=a",
    "a=b=c",
    "nan",
    "inf",
    "-inf",
    "-1",
    "0",
    "0.0",
    "1e309",
    "1" * 400,
    "10**30",
    "1_0",
    "\u0663",
    "½",
    "é",
    "e\u0301",
    "\u202ecba",
    "\x1b[31mred",
    "a\0b",
    "a\nb",
    "a\udcffb",
    "x" * 5000,
    "~nobody/x",
    "~",
    "..",
    "../../..",
    "/",
    "/dev/null",
    "/dev/zero/x",
    "/nowhere/at/all",
    "{}",
    "{0}",
    "%s%n",
    "*",
    "[",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "http://[::1",
    "null",
    "true",
    "2020-99-99",
    "!!python/object/apply:os.system [true]",
    "&a [*a]",
    "nowhere",
    "nonsense",
    "cuda:99",
]

VALUES = {
    "spec": ["drawn", "small.yaml"],
    "dataset": [WEB, TARGET],
    "web": [WEB],
    "target": [TARGET],
    "checkpoint": ["run", "run/model.safetensors"],
    "run": ["run"],
    "images": ["photos", "photos/cat", "photos/cat/0.jpg"],
    "predictions": ["masks"],
    "masks": ["masks", "truth"],
    "truth": ["truth", "masks"],
    "folder": ["voc", "export", "photos"],
    "manifest": ["list.jsonl", "list.jsonl.gz"],
    "what": ["0" * 64, "https://example.org/1.jpg", "nobody"],
    "recipe": ["cpu", "paper", "modern"],
    "out": ["new/out", "new/out.md", "new/out.csv", "new/out.onnx", "new/out.png", "new/out.tgz", "photos", "run"],
    "name": ["fuzz-new", "fuzz_web"],
    "split": ["train", "val"],
    "field": ["cosegmentation", "pseudo_mask", "fuzz_field"],
    "mask_field": ["cosegmentation", "ground_truth"],
    "device": ["cpu"],
    "scales": ["1.0", "0.5,1.0"],
    "seeds": ["0", "0,1"],
    "seed": ["0", "1"],
    "workers": ["1", "2"],
    "size": ["32x32"],
    "values": ["generator_iterations=1", "crop=16", "batch=1", "scales=1.0", "precision=float32", "seed=1"],
    "options": ["long_side=64", "device=cpu", "uncertain_band=true", "command=cp {images}/* {masks}"],
    "method": ["common", "subcategories", "outside"],
    "methods": ["common"],
    "classes": ["cat", "cow"],
    "against": [TARGET, f"{TARGET}:train", "photos", "hashes.txt"],
    "keep": ["cat/1", "cow"],
    "drop": ["cat/1"],
    "clear": ["cat/1"],
    "port": ["99999", "-5"],
    "executor": ["process"],
    "engine": ["process"],
    "weights": ["run/model.safetensors"],
    "backbone": ["efficientnet_lite0", "resnet18"],
    "min_foreground": ["0.1"],
    "max_foreground": ["0.9"],
    "min_confidence": ["0.5"],
    "look_every": ["1"],
    "look_images": ["2"],
    "patience": ["1"],
    "settle": ["0.01"],
    "count": ["1"],
    "url": ["https://example.org"],
    "reason": ["because"],
    "list": ["voc/ImageSets/Segmentation/val.txt"],
    "labels": ["voc/image_labels.csv"],
    "sbd": ["voc"],
    "report": ["new/report.csv"],
    "compare": ["cosegmentation"],
    "adopt": ["cosegmentation_before_import"],
}
"""Name of an argument -> values that make sense for it."""

NOT_STARTED = {"view": {"dataset": ["nowhere", *ODD]}}
"""What would serve until it is interrupted is only ever given what it refuses."""

WEIGHTS = {"generator": 0.4, "final": 0.4, "ablation": 0.3, "masks": 0.6, "embed": 0.3, "compare-saliency": 0.5}
"""Commands that may really train get fewer lists than the others."""


class Hang(BaseException):
    """Raised by the alarm; no handler for errors may take it for one."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    def ring(number, frame):
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run(program: str, arguments: list[str]) -> tuple[int | str, str]:
    """Exit status of a command, or what it did in place of ending with one; and its words."""
    words = StringIO()
    with redirect_stdout(words), redirect_stderr(words):
        try:
            with within(HANG_S):
                status: int | str = MAIN[program](arguments)
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 0 if error.code is None else f"exit {error.code!r}"
        except Hang:
            status = "hang"
        except BaseException as error:
            status = f"{type(error).__name__}: {str(error)[:200]} at {_place(error)}"
    return status, words.getvalue()


def _place(error: BaseException) -> str:
    """The last line of ours that an error came through."""
    place, trace = "", error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "wss_" in name:
            place = f"{Path(name).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def faults(calls: list[tuple[str, list[str]]], reset: Callable[[], object] = lambda: None) -> tuple[list[str], Counter]:
    """What is wrong with the answers to commands, and how often each status came."""
    wrong, statuses = [], Counter()
    for program, arguments in calls:
        status, words = run(program, arguments)
        statuses[status if isinstance(status, int) else "fault"] += 1
        complaint = ""
        if status not in DOCUMENTED:
            complaint = str(status)
        elif "Traceback (most recent call last)" in words:
            complaint = "a traceback among its words"
        elif status == 2 and not any(": error: " in line or line.startswith(program) for line in words.splitlines()):
            complaint = f"refused without a sentence: {words[-200:]!r}"
        elif "\x1b[31m" in words or "\0" in words:
            complaint = "control characters of the input among its words"
        if complaint:
            wrong.append(
                f"{program} {' '.join(a if len(a) < 80 else a[:77] + '...' for a in arguments)!r}: {complaint}"
            )
        reset()
    return wrong, statuses


@pytest.fixture(scope="module")
def world(database, tmp_path_factory) -> Iterator[Path]:
    """A folder with sound examples of all that the commands take, and a web and a target dataset."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("fuzz")
    patch.setenv("WSS_HOME", str(folder / "home"))
    patch.chdir(folder)
    for name in (WEB, TARGET):
        with suppress(Exception):
            store.open_dataset(name).delete()
    tiny = with_values(TINY, {"generator_iterations": 1, "final_iterations": 1, "crop": 16, "long_side": 32})
    patch.setattr(recipes, "PRESETS", dict.fromkeys(("paper", "authors-code", "modern", "cpu"), vars(tiny)))
    definitions = folder / "definitions"
    definitions.mkdir()
    patch.setattr("wss_data.spec.read.definitions_folder", lambda: definitions)
    # All files of a machine take a minute: those in its root stand for them.
    walk = os.walk
    patch.setattr(os, "walk", lambda top, *a, **k: islice(walk(top, *a, **k), 1 if str(top) == "/" else None))
    small = {"classes": ["cat", "cow"], "longest_side": 48}
    drawn = {"name": "fuzz-drawn", **small, "classes": ["car"], "sources": [{"name": "drawn", "limit": 1}]}
    (definitions / "drawn.yaml").write_text(yaml.safe_dump(drawn))
    own = {"name": "fuzz-small", **small, "sources": [{"name": "folder", "options": {"path": str(folder / "photos")}}]}
    Path("small.yaml").write_text(yaml.safe_dump({**own, "target": {"layout": "voc"}}))
    generator = np.random.default_rng(0)
    for name in ("cat", "cow"):
        for i in range(2):
            write_jpeg(generator.integers(0, 256, (32, 40, 3)).astype(np.uint8), Path(f"photos/{name}/{i}.jpg"))
            for kind in ("masks", "truth"):
                mask = np.zeros((32, 40), np.uint8)
                mask[8:24, 8:32] = 255
                Path(kind, name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(Path(kind, name, f"{i}.png"))
    web = make_web(WEB)
    store.import_target(target_definition(WEB), write_target(Path("voc")))
    export_dataset(web, Path("export"))
    from wss_data.sharing.manifest import write_manifest

    write_manifest(web, Path("list.jsonl"))
    write_manifest(web, Path("list.jsonl.gz"))
    Path("hashes.txt").write_text("0123456789abcdef\n")
    train_generator(rectangles(folder / "rectangles", 4), folder / "run", tiny)
    yield folder
    for name in store.list_datasets():
        if name.name.startswith("fuzz"):
            store.open_dataset(name.name).delete()
    patch.undo()


def _actions(program: str) -> dict[str, list[argparse.Action]]:
    parser = wss_data_parser() if program == "wss-data" else wss_train_parser()
    (group,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return {name: [a for a in sub._actions if a.dest != "help"] for name, sub in group.choices.items()}


def _value(action: argparse.Action, command: str, chance: random.Random) -> str:
    values = NOT_STARTED.get(command, {}).get(action.dest)
    if values is not None:
        return chance.choice(values)
    if chance.random() < 0.25:
        return chance.choice(ODD)
    if action.choices:
        # A cluster that is not there is waited for.
        return chance.choice([str(choice) for choice in action.choices if choice not in ("dask", "ray")])
    return chance.choice(VALUES.get(action.dest, ODD))


def argument_list(command: str, actions: list[argparse.Action], chance: random.Random) -> list[str]:
    """A command line: mostly complete, its values partly odd."""
    words = [command]
    for action in actions:
        many = chance.randint(1, 3) if action.nargs in ("+", "*") else 1
        values = [_value(action, command, chance) for _ in range(many if action.nargs != 0 else 0)]
        if not action.option_strings:
            if chance.random() < (0.97 if action.nargs != "?" else 0.6):
                words += values
        elif chance.random() < (0.9 if action.required else 0.2):
            words += [chance.choice(action.option_strings), *values]
    if chance.random() < 0.05:
        words.insert(chance.randint(1, len(words)), chance.choice(ODD))
    return words


def argument_lists(count: int, seed: int) -> list[tuple[str, list[str]]]:
    chance = random.Random(seed)
    commands = [(program, name, actions) for program in MAIN for name, actions in _actions(program).items()]
    weights = [WEIGHTS.get(name, 1.0) for _, name, _ in commands]
    calls = []
    for program, name, actions in (*commands, *chance.choices(commands, weights, k=count - len(commands))):
        calls.append((program, argument_list(name, actions, chance)))
    return calls


def test_generated_argument_lists_end_with_a_documented_status(world):
    calls = argument_lists(1_000, seed=0)
    assert {arguments[0] for _, arguments in calls} == {*_actions("wss-data"), *_actions("wss-train")}
    began = time.monotonic()
    sound = snapshot(world)
    wrong, statuses = faults(calls, lambda: restore(world, sound))
    print(f"{len(calls)} argument lists: {dict(statuses)}, {time.monotonic() - began:.0f} s")
    assert not wrong, f"{len(wrong)} of {len(calls)}:\n" + "\n".join(wrong)
    assert statuses[0] > 100, "the lists are so odd that hardly a command ran"


KEPT = ("photos", "masks", "truth", "voc", "export", "run", "small.yaml", "list.jsonl", "list.jsonl.gz", "hashes.txt")


def snapshot(folder: Path) -> dict[str, Path]:
    kept = folder / "sound"
    kept.mkdir()
    for name in KEPT:
        (shutil.copytree if (folder / name).is_dir() else shutil.copyfile)(folder / name, kept / name)
    return {name: kept / name for name in KEPT}


def restore(folder: Path, sound: dict[str, Path]) -> None:
    """Take what a command wrote to ``new`` away, and give back what one wrote over on purpose (``--overwrite``)."""
    shutil.rmtree(folder / "new", ignore_errors=True)
    for name, kept in sound.items():
        there = folder / name
        if kept.is_dir() and not there.is_dir():
            shutil.copytree(kept, there)
        elif kept.is_file() and not there.is_file():
            shutil.copyfile(kept, there)
    if not (folder / "run" / "model.safetensors").is_file():
        shutil.rmtree(folder / "run")
        shutil.copytree(sound["run"], folder / "run")


SCALARS = [
    None, True, -1, 0, 1.5, float("nan"), float("inf"), 10**400, "", " ", "\x1b[31m", "a\0b", "x" * 100_000, "é",
    "../..", "/etc/passwd", [], {}, [[]], [None], {"a": {}}, [1] * 5_000, "2020-99-99", {"name": "outside"}, "outside",
]  # fmt: skip


def _places(value: object, path: tuple = ()) -> list[tuple]:
    """Every place inside plain values, the deepest last."""
    inside: list[tuple] = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        inside += _places(item, (*path, key))
    return inside


def mutated(value: object, chance: random.Random) -> object:
    """Plain values with one to three of them replaced, removed, renamed or doubled."""
    value = json.loads(json.dumps(value))
    for _ in range(chance.randint(1, 3)):
        path = chance.choice(_places(value)[1:] or [()])
        if not path:
            return copy.deepcopy(chance.choice(SCALARS))
        parent = value
        with suppress(KeyError, IndexError, TypeError):
            for key in path[:-1]:
                parent = parent[key]
            kind = chance.randrange(4)
            if kind == 0 and isinstance(parent, dict):
                parent[chance.choice(["nobody", "", "__class__", "name"])] = parent.pop(path[-1])
            elif kind == 1:
                del parent[path[-1]]
            elif kind == 2 and isinstance(parent, list):
                parent.append(copy.deepcopy(parent[path[-1]]))
            else:
                parent[path[-1]] = copy.deepcopy(chance.choice(SCALARS))
    return value


def broken(data: bytes, chance: random.Random) -> bytes:
    """Bytes that were cut off, changed, doubled or put into another encoding."""
    kind = chance.randrange(6)
    at = chance.randrange(max(1, len(data)))
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
    if kind == 2:
        return data[:at] + data
    if kind == 3:
        return b"\xff\xfe" + data
    if kind == 4:
        return data[:at] + bytes(chance.choice([0, 9, 255]) for _ in range(20)) + data[at:]
    return data[:at] + struct.pack(">Q", chance.getrandbits(64)) + data[at + 8 :]


YAML = [
    "name: x\nclasses: [cat]\nclasses: [cow]\n",
    "[" * 3_000 + "]" * 3_000,
    "name: x\nclasses: " + "{a: " * 500 + "1" + "}" * 500,
    "a: &a [*a]\n",
    "? [a]\n: b\n",
    "!!python/name:os.system\n",
    "name: !!binary aGFsbG8=\nclasses: [cat]\n",
    "name: !!set {a, b}\nclasses: [cat]\n",
    "name: x\nclasses: [cat]\nlongest_side: 2020-99-99\n",
    "name: x\nclasses: [cat]\nlongest_side: " + "9" * 5_000 + "\n",
    "--- a\n--- b\n",
    "%YAML 9.9\n---\nname: x\n",
    "\ufeffname: fuzz-bom\nclasses: [cat]\n",
    "name: x\nclasses: [yes, no, on, null, 1, 1.0]\n",
    "name:\n" + "".join(f"  - &a{i} [{', '.join([f'*a{i - 1}'] * 10 if i else ['x'] * 10)}]\n" for i in range(10)),
]


def test_generated_definitions_are_read_or_refused(world):
    chance = random.Random(1)
    sound = {**yaml.safe_load(Path("small.yaml").read_text()), "cosegmentation": {"method": "common", "options": {}}}
    sound |= {"filters": {"min_foreground": 0.2}, "download": {"attempts": 2}, "duplicates": {"max_distance": 4}}
    texts = [text.encode() for text in YAML]
    for i in range(170 - len(YAML)):
        data = yaml.safe_dump(mutated(sound, chance) if i % 3 else sound, allow_unicode=True).encode(errors="replace")
        texts.append(data if i % 3 else broken(data, chance))
    calls = []
    Path("definitions_").mkdir(exist_ok=True)
    for i, data in enumerate(texts):
        path = Path("definitions_", f"{i}.yaml")
        path.write_bytes(data)
        calls.append(("wss-data", ["sources", str(path)]))
        if i % 15 == 0:
            calls.append(("wss-data", ["import-target", str(path), "voc"]))
    wrong, statuses = faults(calls)
    print(f"{len(texts)} definitions: {dict(statuses)}")
    assert not wrong, f"{len(wrong)} of {len(calls)}:\n" + "\n".join(wrong)
    assert statuses[0] and statuses[2]


def test_mutated_exports_are_imported_or_refused_and_leave_nothing_behind(world):
    chance = random.Random(2)
    calls = []
    for i in range(150):
        folder = Path(shutil.copytree("export", f"exports/{i}"))
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        path = chance.choice(files)
        if i % 3 == 0:
            path = folder / "manifest.jsonl.gz"
            lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
            at = chance.randrange(len(lines))
            lines[at] = mutated(lines[at], chance)
            with gzip.open(path, "wt") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
        elif i % 3 == 1 and (path := chance.choice([p for p in files if p.suffix in (".csv", ".json", ".txt")])):
            path.write_bytes(broken(path.read_bytes(), chance))
        elif i % 7 == 2:
            path.unlink()
            path.symlink_to(chance.choice(["/etc/passwd", "nowhere", str(chance.choice(files).absolute())]))
        else:
            path.write_bytes(broken(path.read_bytes(), chance))
        calls.append(("wss-data", ["import-dataset", str(folder), "--name", f"fuzz-import-{i}"]))
    wrong, statuses = [], Counter()
    for number, call in enumerate(calls):
        found, counts = faults([call])
        wrong += found
        statuses += counts
        name = f"fuzz-import-{number}"
        if counts[2] and (store.dataset_exists(name) or dataset_folder(name).exists()):
            wrong.append(f"{name}: was refused and left something behind")
        with suppress(Exception):
            store.open_dataset(name).delete()
    print(f"{len(calls)} exports: {dict(statuses)}")
    assert not wrong, f"{len(wrong)} of {len(calls)}:\n" + "\n".join(wrong)
    assert statuses[0] and statuses[2]


def test_mutated_checkpoints_are_used_or_refused(world):
    chance = random.Random(3)
    sound = Path("run/model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", sound[:8])
    header, weights = json.loads(sound[8 : 8 + length]), sound[8 + length :]
    calls = []
    for i in range(60):
        folder = Path(f"checkpoints/{i}")
        folder.mkdir(parents=True)
        data = broken(sound, chance)
        if i % 3:
            changed = json.loads(json.dumps(header))
            if i % 3 == 1 and (key := chance.choice(sorted(changed.get("__metadata__", {})) or [""])):
                with suppress(ValueError):
                    card = mutated(json.loads(changed["__metadata__"][key]), chance)
                    changed["__metadata__"][key] = json.dumps(card)
            else:
                changed = mutated(changed, chance)
            text = json.dumps(changed).encode()
            data = struct.pack("<Q", len(text)) + text + weights
        (folder / "model.safetensors").write_bytes(data)
        calls.append(("wss-train", ["predict", str(folder), "photos/cat/0.jpg", "--out", f"checkpoints/{i}/out"]))
    wrong, statuses = faults(calls)
    print(f"{len(calls)} checkpoints: {dict(statuses)}")
    assert not wrong, f"{len(wrong)} of {len(calls)}:\n" + "\n".join(wrong)
    assert statuses[2]


def _png(chance: random.Random) -> bytes:
    """A PNG of any depth, colour type and size, sound or not."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    side = chance.choice([1, 32, 40, 60_000])
    head = struct.pack(
        ">IIBBBBB", side, 32, chance.choice([1, 2, 4, 8, 16, 3]), chance.choice([0, 2, 3, 4, 6, 5]), 0, 0, 0
    )
    parts = [chunk(b"IHDR", head)]
    if chance.random() < 0.6:
        parts.append(chunk(b"PLTE", bytes(chance.randrange(256) for _ in range(3 * chance.choice([1, 2, 256])))))
    parts.append(chunk(b"IDAT", zlib.compress(bytes(chance.choice([100, 2_000, 10_000])))))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def test_mutated_masks_are_read_or_refused(world):
    chance = random.Random(4)
    sound = Path("masks/cat/0.png").read_bytes()
    calls = []
    for i in range(66):
        folder = Path(shutil.copytree("masks", f"masks_/{i}"))
        (folder / "cat" / "0.png").write_bytes(_png(chance) if i % 2 else broken(sound, chance))
        calls.append(("wss-data", ["score", str(folder), "truth"]))
        if i % 3 == 0:
            calls.append(("wss-data", ["import-masks", WEB, str(folder), "--skip-bad"]))
            calls.append(
                ("wss-data", ["compare-saliency", "photos/cat", "--out", f"masks_/{i}.png", "--truth", f"{folder}/cat"])
            )
        if i % 5 == 0:
            voc = Path(shutil.copytree("voc", f"vocs/{i}"))
            (voc / "SegmentationClass" / "v1.png").write_bytes((folder / "cat" / "0.png").read_bytes())
            calls.append(("wss-data", ["import-target", "small.yaml", str(voc)]))
    wrong, statuses = faults(calls)
    print(f"{len(calls)} calls with masks: {dict(statuses)}")
    assert not wrong, f"{len(wrong)} of {len(calls)}:\n" + "\n".join(wrong)
    assert statuses[2]
