"""Every command of README, tutorial and how-to pages, in the order of the pages, each twice, in one home.

The data are small: definitions of a few drawn images stand for those that the commands name, recipes of two iterations
for the presets. The commands are the pages' own, word for word.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from time import perf_counter

import fiftyone as fo
import numpy as np
import pytest
import torch
import yaml
from drawings import SMALLEST
from PIL import Image
from voc_trees import trees, write_images, write_names

from wss_data import spec, store
from wss_data.commands.cli import main as wss_data_main
from wss_data.runtime.home import dataset_folder
from wss_train import recipes
from wss_train.commands.cli import main as wss_train_main
from wss_train.models import SegmentationModel

pytestmark = pytest.mark.usefixtures("small_maps")

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
FIRST = [ROOT / "README.md", DOCS / "tutorials" / "first_dataset_and_model.md"]
HOW_TO = [DOCS / name for name in re.findall(r"how_to/\w+\.md", (DOCS / "README.md").read_text(encoding="utf-8"))]
PROGRAMS = {"wss-data": wss_data_main, "wss-train": wss_train_main}

ELSEWHERE = {
    "wss-data view": "opened in a real browser by test_browser.py",
    "make view": "likewise",
    "make test": "is what runs this",
    "make demo IMAGES": "a folder of one's own: the same two commands as in use_your_own_photographs.md",
    "--executor dask": "needs a cluster: test_parallel.py starts one",
    "backbone=vit": "needs a file of weights: test_vit.py, test_timm.py",
    "--backbone convnext": "downloads weights: test_timm.py",
    "FIFTYONE_DATABASE_URI": "another database server: test_database.py",
    "wss-data build pets.yaml\n": "asks web services: test_openverse.py and others have local ones",
    "wss-data build --classes": "likewise: test_class_names.py builds from drawn images",
    "street/definition.yaml": "likewise: what that build left",
    "wss-train generator street": "likewise: the tutorial trains and predicts on drawn images",
    "wss-train predict runs/street": "likewise",
}
"""Part of a command (a line end stands for its own) -> where it is tested instead."""

COSEG = """#!{python}
import sys
from pathlib import Path
from PIL import Image

for path in Path(sys.argv[1]).glob("*.png"):
    Image.open(path).convert("L").point(lambda value: 255 * (value > 90)).save(Path(sys.argv[2]) / path.name)
"""
"""Somebody's program that co-segments."""

STATUS = {
    r"wss-train check": ({0, 1}, {0, 1}, "status 1 where something is worth a warning: check_a_dataset.md"),
    r"wss-data forget .*": ({1}, {1}, "there is no such image, and it says so"),
    r"wss-data leaks pets --against pets-target": ({0, 2}, {0, 2}, "a target of one's own, which is not built here"),
    r"wss-data import-masks voc-animals (task|project)\.": ({0, 1}, {0, 1}, "dropped images have no mask"),
    r"wss-data import-masks .*--skip-bad": ({1}, {1}, "status is 1, as something was missing: correct_masks.md"),
    r"wss-data (export|card) .*": ({0}, {2}, "a folder that is not empty is refused: share_a_dataset.md"),
    r"wss-data import-dataset": ({0}, {2}, "a dataset of that name is never touched: share_a_dataset.md"),
    r"wss-data (delete|rename)(?!.*--dry-run)": ({0}, {2}, "there is no dataset of that name any more"),
    r"wss-data rebuild": ({0, 1}, {0, 1}, "photographs of one's own have no address: publish_a_manifest.md"),
    r"wss-data cosegment voc-animals --adopt": ({0}, {0, 2}, "what was adopted is in use already"),
}
"""Pattern of a command -> statuses of the first and of the second time, and what the page says of it."""


def commands_of(page: Path) -> list[str]:
    """What the page shows to be typed into a shell, a line each."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    text = "".join(block.replace("\\\n", " ") for language, block in blocks if language == "")
    lines = [re.split(r"\s#\s?", line)[0].strip() for line in text.splitlines()]
    return [
        re.sub(r"^(wss-\w+) +", r"\1 ", line) for line in lines if line.startswith(("wss-data ", "wss-train ", "make "))
    ]


def made_by(command: str, folder: Path) -> list[str]:
    """The commands that a target of the Makefile runs, on this installation."""
    (folder / "installed").touch()
    variables = [f"VENV={folder}", f"STATE={folder / 'state'}", "DEMO_ITERATIONS="]
    shown = subprocess.run(
        ["make", "--no-print-directory", "-n", *shlex.split(command)[1:], *variables],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [f"wss-{line}" for line in re.findall(r"^\S*/bin/wss-(.*?)(?: \|\| .*)?$", shown, re.MULTILINE)]


def draw(folder: Path, names: list[str], side: int = 72) -> None:
    """Images of an ellipse on noise, no two alike, and their true masks beside ``folder``."""
    for number, name in enumerate(names):
        generator = np.random.default_rng([len(names), number])
        noise = generator.integers(0, 256, (side // 8, side // 6, 3), np.uint8)
        image = np.array(Image.fromarray(noise).resize((side, side * 3 // 4)))
        rows, columns = np.ogrid[: image.shape[0], :side]
        x, y = generator.integers(side * 2 // 5, side * 3 // 5), image.shape[0] // 2
        inside = ((columns - x) / (side / 4)) ** 2 + ((rows - y) / (side / 5)) ** 2 < 1
        image[inside] = ((200, 30, 40), (20, 60, 220), (30, 180, 60))[hash(name.split("/")[0]) % 3]
        path = folder / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, quality=92)
        mask = folder.parent / f"{folder.name}_truth" / f"{name}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(inside.astype(np.uint8) * 255).save(mask)


def small_definitions(folder: Path, work: Path) -> None:
    """The definitions that come with the package, with few and small images."""
    folder.mkdir()
    small = {"longest_side": 72, "duplicates": {"max_distance": None}}
    small["cosegmentation"] = {"method": "common", "options": {"long_side": 128}}
    drawn = {**spec.read_spec("drawn").to_dict(), **small}
    drawn |= {"classes": ["bird", "car", "fish"], "sources": [{"name": "drawn", "limit": 4}]}
    drawn["target"] = {"layout": "drawn", "options": {"train": 4, "val": 2, "seed": 1}}
    animals = {**spec.read_spec("voc_animals").to_dict(), **small, "classes": ["cat", "cow"]}
    animals["target"] = {"layout": "voc", "mask_classes": ["cat", "cow"]}
    twenty = {**animals, "name": "voc20"}
    voc = {**spec.read_spec("pascal_voc").to_dict(), **small}
    voc["sources"] = [{"name": "folder", "options": {"path": str(work / "voc_photos")}}]
    voc["target"] = {"layout": "voc", "options": {"expect": {"train": 5, "val": 2, "test": 1}}}
    for definition in (drawn, animals, twenty, voc):
        path = folder / f"{definition['name'].replace('-', '_')}.yaml"
        path.write_text(yaml.safe_dump(definition))


def small_data(work: Path) -> None:
    """What the pages take to be there: photographs, a target in VOC's layout, VOC and SBD, lists."""
    animals = [f"{name}/{i}" for name in ("cat", "cow") for i in range(4)]
    draw(work / "photos", animals)
    (work / "photos_truth").rename(work / "truth")
    for name in ("new_photos", "some_images", "test_images"):
        draw(work / name, [f"{name}_{i}" for i in range(2)])
    (work / "hashes.txt").write_text("0123456789abcdef\n")
    (work / "pets.yaml").write_text("name: pets\nclasses: [cat, cow]\n")
    external = {"method": "external", "options": {"command": "coseg {images} {masks}"}}
    (work / "my_definition.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "my-definition",
                "classes": ["cat", "cow"],
                "sources": [{"name": "folder", "options": {"path": str(work / "photos")}}],
                "cosegmentation": external,
            }
        )
    )
    draw(work / "FOLDER" / "web_animals" / "images", animals)
    (work / "FOLDER" / "web_animals" / "images_truth").rename(work / "hand_drawn")
    target = work / "FOLDER" / "voc_animals"
    draw(target / "JPEGImages", [f"v{i}" for i in range(6)])
    (target / "JPEGImages_truth").rename(target / "SegmentationClass")
    for i in range(6):
        path = target / "SegmentationClass" / f"v{i}.png"
        Image.fromarray((np.array(Image.open(path)) > 0).astype(np.uint8) * (i % 2 + 1)).save(path)
    write_names(target / "ImageSets" / "Segmentation" / "train_aug.txt", [f"v{i}" for i in range(4)])
    write_names(target / "ImageSets" / "Segmentation" / "val.txt", ["v4", "v5"])
    labels = "".join(f"v{i},{('cat', 'cow')[i % 2]}\n" for i in range(6))
    (target / "image_labels.csv").write_text(f"image,classes\n{labels}")
    (work / "FOLDER" / "web20").symlink_to(work / "FOLDER" / "web_animals")
    (work / "FOLDER" / "voc20").symlink_to(target)
    voc = trees(work)[0] / "VOC2012"
    write_images(voc / "JPEGImages", ["x1"])
    write_names(voc / "ImageSets" / "Segmentation" / "test.txt", ["x1"])
    (work / "VOC2012").symlink_to(voc)
    program = work / "bin" / "coseg"
    program.parent.mkdir()
    program.write_text(COSEG.format(python=sys.executable))
    program.chmod(0o755)
    draw(work / "voc_photos", [f"{name}/{i}" for name in spec.read_spec("pascal_voc").class_names for i in range(2)])


def small_recipes() -> dict[str, recipes.TrainRecipe]:
    values = {
        **SMALLEST,
        "output_stride": 16,
        "head_channels": 16,
        "branch_channels": 8,
        "dropout": 0.0,
        "long_side": 64,
        "crop": 32,
        "batch": 2,
        "generator_iterations": 2,
        "generator_low_rate_iterations": 0,
        "final_iterations": 2,
        "final_low_rate_iterations": 0,
        "checkpoint_every": 2,
        "precision": "float32",
        "scales": (1.0,),
        "crf_iterations": 1,
    }
    known = recipes.presets()
    small = {name: recipes.with_values(known["cpu"], {**values, "preset": name}) for name in known}
    # Labels teach cells that a network describes which has learned something.
    network = {"generator.backbone": "efficientnet_lite0", "generator.weights": "imagenet"}
    by_labels = {**network, "generator.head": "descriptors", "generator.label_weight": "1"}
    return {**small, "cpu-labels": recipes.with_values(small["cpu-labels"], by_labels)}


def sees_classes(forward):
    """Scores in which background never wins: two iterations teach nothing, but masks have to show classes."""

    def scored(model, images):
        output = forward(model, images)
        lowest = output.pixel_logits[:, 1:].amin(dim=1, keepdim=True) - 1
        return output._replace(pixel_logits=torch.cat([lowest, output.pixel_logits[:, 1:]], dim=1))

    return scored


@pytest.fixture
def work(database, tmp_path, monkeypatch):
    """A folder with all that the pages take to be there; no dataset of their names is in the database."""
    small_definitions(tmp_path / "definitions", tmp_path / "work")
    small_data(tmp_path / "work")
    small = small_recipes()
    monkeypatch.setattr("wss_data.spec.read.definitions_folder", lambda: tmp_path / "definitions")
    monkeypatch.setattr(recipes, "PRESETS", {name: vars(recipe) for name, recipe in small.items()})
    monkeypatch.setattr(SegmentationModel, "forward", sees_classes(SegmentationModel.forward))
    monkeypatch.setenv("WSS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WSS_CONTACT", "you@example.org")
    monkeypatch.setenv("PATH", f"{tmp_path / 'work' / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path / "work")
    names = (
        "drawn",
        "animals",
        "pets",
        "pets-again",
        "pets-copy",
        "voc-animals",
        "voc20",
        "pascal-voc",
        "my-definition",
    )
    datasets = [name for base in names for name in (base, f"{base}-target")]
    for name in datasets:
        _remove(name)
    yield tmp_path / "work"
    for name in datasets:
        _remove(name)


def _remove(name: str) -> None:
    with suppress(Exception):
        store.open_dataset(name).delete()
    shutil.rmtree(dataset_folder(name), ignore_errors=True)


def run(command: str) -> tuple[int, str]:
    """Exit status of a command, and what it printed."""
    program, *arguments = shlex.split(command)
    words = StringIO()
    with redirect_stdout(words), redirect_stderr(words):
        try:
            status = PROGRAMS[program](arguments)
        except SystemExit as error:
            status = int(error.code or 0)
    return status, words.getvalue()


def typed(command: str, folder: Path) -> list[str]:
    """A page's command as its reader types it on the small data; none if it is tested elsewhere."""
    if any(part in f"{command}\n" for part in ELSEWHERE):
        return []
    if command.startswith("make"):
        return made_by(command, folder)
    if command.startswith("wss-data verdict drawn --drop"):
        first, second, *rest = sorted(store.open_dataset("drawn").values("image_id"))
        Path("list.txt").write_text(f"{rest[0]}\n{rest[1]}\n")
        command = command.replace("bird/9f2c1a", first).replace("77ab03", second)
    if command.startswith("wss-data import-masks voc-animals for-editing"):
        # "Delete the masks that you leave as they are."
        next(Path("for-editing/masks/cat").glob("*.png"), Path("gone")).unlink(missing_ok=True)
    if command.startswith("wss-data import-masks voc-animals --field sam3"):
        dataset = store.open_dataset("voc-animals")
        for sample in dataset.skip(1):  # in place of the model: an instance in the middle of all images but one
            middle = {"bounding_box": [0.2, 0.2, 0.6, 0.6], "mask": np.ones((9, 9), bool)}
            found = [fo.Detection(label=sample["label"].label, **middle)]
            sample["sam3"] = fo.Detections(detections=found)
            sample.save()
    if command.startswith("wss-data import-masks voc-animals task.zip"):
        shutil.copy("to-cvat/annotations.zip", "task.zip")
    if command.startswith("wss-data import-masks voc-animals project.json"):
        tasks = json.loads(Path("to-label-studio/tasks.json").read_text())
        drawn = [{**task, "annotations": task["predictions"]} for task in tasks]
        Path("project.json").write_text(json.dumps(drawn))
    if command.startswith("wss-data import-masks voc-animals masks"):
        # Elsewhere `masks` is where cosegment-folder writes to.
        shutil.rmtree("masks", ignore_errors=True)
        shutil.copytree("hand_drawn", "masks")
    elif command.startswith("wss-data cosegment-folder") and not Path("masks/scores.csv").is_file():
        shutil.rmtree("masks", ignore_errors=True)
    # So many iterations are for a model that shall know something.
    return [re.sub(r"(generator|final)_iterations=\d+", r"\1_iterations=4", os.path.expandvars(command))]


def unlike_the_page(command: str, time: str, words: str) -> str:
    """What the page promises of a command and its words do not show; empty if there is nothing."""
    works = re.search(r"co-segment \w+:|retrieve \w+: [1-9]", words)
    if time == "second" and command.startswith("wss-data build") and works:
        return "a second build of an unchanged definition does something"
    if command.startswith("wss-data import-target pascal_voc") and words.count("as expected") < 2:
        return "the counts of train and val are not 'as expected'"
    return ""


@pytest.mark.timeout(900)
def test_every_command_of_the_pages_can_be_typed_in_their_order_and_again(work, tmp_path, one_thread):
    wrong, walked = [], 0
    for page in [*FIRST, *HOW_TO]:
        for shown in commands_of(page):
            for command in typed(shown, tmp_path):
                walked += 1
                rules = [rule for pattern, rule in STATUS.items() if re.match(pattern, command)]
                wanted = rules[0][:2] if rules else ({0}, {0})
                for time, statuses in zip(("first", "second"), wanted, strict=True):
                    began = perf_counter()
                    status, words = run(command)
                    print(f"{perf_counter() - began:6.1f} s  {status}  {command}")
                    promise = unlike_the_page(command, time, words)
                    if status not in statuses or "Traceback" in words or promise:
                        last = promise or [line for line in words.splitlines() if line.strip()][-1:]
                        wrong.append(f"{page.name}, the {time} time: {command}\n    status {status}: {last}")
    assert not wrong, "\n".join(wrong)
    assert walked >= 60
    assert os.listdir(work)


def test_no_page_is_walked_past():
    assert sorted(HOW_TO) == sorted((DOCS / "how_to").glob("*.md"))


def test_the_lines_that_make_demo_prints_put_a_shell_where_the_tutorial_takes_it_to_be(tmp_path):
    state, venv = tmp_path / "a state", tmp_path / "venv"
    state.mkdir()
    venv.mkdir()
    (venv / "installed").touch()
    make = ["make", "--no-print-directory", "-n", "demo", f"VENV={venv}", f"STATE={state}"]
    shown = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    def shell(lines: str) -> str:
        return subprocess.run(["sh", "-ec", lines], capture_output=True, text=True, check=True).stdout

    pasted = shell("\n".join(line for line in shown.splitlines() if line.startswith('echo "  ')))
    there = shell(f'{pasted}\necho "${{PATH%%:*}} $WSS_HOME $WSS_DATABASE_DIR"; pwd')
    assert there == f"{venv / 'bin'} {state / 'data'} {state / 'database'}\n{state}\n"
    runs = re.findall(r"--out '(.*?)'", shown)
    assert runs == [str(state / "runs" / "drawn")]
    tutorial = [" ".join(command.split()) for command in commands_of(FIRST[1])]
    typed_by_make = [
        line.split("/bin/", 1)[1].replace(f"'{runs[0]}'", "runs/drawn")
        for line in shown.splitlines()
        if "/bin/wss-" in line and not line.startswith("echo")
    ]
    assert set(typed_by_make) <= set(tutorial), "what is typed again finds its work done"
