"""The house rules that a machine can hold: who may import what, and what an import costs."""

import ast
import configparser
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]

ROOMS = [
    *("commands", "", "sharing", "plugin", "pipeline", "store", "target", "filtering", "cosegmentation"),
    *("retrieval", "backbones", "crf", "imaging", "spec", "records", "ledger", "runtime", "reading", "errors"),
]
"""Rooms of ``wss_data`` from the top down: each may import those behind it."""

MOST_AT_THE_ROOT = 20
MOST_IMPORTS_IN_FUNCTIONS = 25
MOST_PARAMETERS = 8
LONGEST_BODY = 80

DOORS = {
    "fiftyone": {"wss_data/store/", "wss_data/plugin/"},
    "flickrapi": {"wss_data/retrieval/sources/flickr.py"},
    "icrawler": {"wss_data/retrieval/sources/google.py"},
    "pydensecrf": {"wss_data/crf/"},
    "numba": {"wss_data/crf/"},
    "huggingface_hub": {"wss_data/sharing/hub.py"},
    "timm": {"wss_data/backbones/"},
    "joblib": {"wss_data/runtime/parallel.py"},
    "dask": {"wss_data/runtime/parallel.py"},
    "distributed": {"wss_data/runtime/parallel.py"},
}


@pytest.fixture(scope="module")
def config() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    """The parts of a file's syntax tree, in no order that means anything."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@cache
def imports_of(path: Path) -> set[str]:
    """Top-level packages that a file imports, for type checking too."""
    names = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def sources() -> list[str]:
    return [str(p.relative_to(ROOT)) for package in ("wss_data", "wss_train") for p in (ROOT / package).rglob("*.py")]


@pytest.mark.parametrize("package", DOORS)
def test_each_heavy_package_has_one_door(package):
    allowed = DOORS[package]
    users = {name for name in sources() if package in imports_of(ROOT / name)}
    assert {name for name in users if not name.startswith(tuple(allowed))} == set()


def test_the_data_side_never_imports_the_training_side():
    assert [name for name in sources() if name.startswith("wss_data") and "wss_train" in imports_of(ROOT / name)] == []


@pytest.fixture(scope="module")
def house():
    """The script that draws the house, and so knows what imports what."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_module_comes_back_to_itself_by_what_it_imports_even_inside_functions(house):
    arrows = house.imports("wss_data") | house.imports("wss_train")
    circles = [module for module in arrows if module in house.reached(arrows, module)]
    assert circles == []


def test_arrows_between_the_rooms_run_down_only(house):
    up = [
        (module, other)
        for module, used in house.imports("wss_data").items()
        for other in used
        if module != "wss_data" and ROOMS.index(room(module)) > ROOMS.index(room(other))
    ]
    assert up == []


def test_only_the_commands_import_the_packages_whose_names_are_loaded_when_used(house):
    arrows = house.imports("wss_data") | house.imports("wss_train")
    users = {module for module, used in arrows.items() if used & {"wss_data", "wss_train"}}
    assert {module for module in users if ".commands." not in module} == set()


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_selection_knows_nothing_of_the_engine_and_neither_knows_reports(house):
    above = {
        "selection": ("engine", "reports", "commands"),
        "engine": ("reports", "commands"),
        "reports": ("commands",),
    }
    up = [
        (module, other)
        for module, used in house.imports("wss_train").items()
        for other in used
        if other.startswith("wss_train") and room(other) in above.get(room(module), ())
    ]
    assert up == []


def test_the_root_can_be_seen_at_a_glance():
    entries = [path.name for path in (ROOT / "wss_data").iterdir() if path.name != "__pycache__"]
    assert len(entries) <= MOST_AT_THE_ROOT, entries


def functions() -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    return [
        (name, node)
        for name in sources()
        for node in nodes_of(ROOT / name)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]


def test_modules_of_ours_are_imported_at_the_top_but_at_the_doors_to_heavy_packages():
    inside = {
        (name, inner.lineno)
        for name, node in functions()
        for inner in ast.walk(node)
        if (isinstance(inner, ast.ImportFrom) and (inner.module or "").startswith("wss_"))
        or (isinstance(inner, ast.Import) and any(alias.name.startswith("wss_") for alias in inner.names))
    }
    assert len(inside) <= MOST_IMPORTS_IN_FUNCTIONS, sorted(inside)


def test_no_function_takes_more_than_a_handful_of_parameters():
    def count(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
        names = node.args
        every = [*names.posonlyargs, *names.args, *names.kwonlyargs]
        own = bool(every) and every[0].arg in ("self", "cls")
        return len(every) - own + bool(names.vararg) + bool(names.kwarg)

    assert [(name, node.name, count(node)) for name, node in functions() if count(node) > MOST_PARAMETERS] == []


def test_no_body_is_longer_than_a_page():
    def lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        return node.end_lineno - body[0].lineno + 1 if body else 0

    assert [(name, node.name, lines(node)) for name, node in functions() if lines(node) > LONGEST_BODY] == []


def test_the_generated_pages_say_what_the_code_says():
    subprocess.run([sys.executable, ROOT / "docs" / "generate.py", "--check"], check=True)


def test_every_option_and_every_field_says_what_it_means(house):
    silent, header = [], ""
    for name, lines in house.pages().items():
        for line in lines:
            if not line.startswith("| `"):
                header = line if line.startswith("| ") else header
            elif header.endswith("| meaning |") and line.endswith("|  |"):
                silent.append((name, line))
    assert silent == []


def loaded_by(code: str) -> set[str]:
    script = f"{code}\nimport sys; print(' '.join(m for m in sys.modules if '.' not in m))"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


@pytest.mark.parametrize("package", ["wss_data", "wss_train"])
def test_importing_a_package_starts_no_database_and_loads_no_torch(package):
    assert loaded_by(f"import {package}") & {"torch", "fiftyone", "pymongo", "cv2", "scipy", "sklearn"} == set()


@pytest.mark.parametrize("package", ["wss_data", "wss_train"])
def test_asking_a_command_for_help_loads_nothing_heavy(package):
    code = f"from {package}.commands.cli import make_parser; make_parser().format_help()"
    assert loaded_by(code) & {"torch", "timm", "fiftyone", "cv2", "scipy", "numpy", "pydantic", "yaml"} == set()


@pytest.mark.parametrize("name", ["paper", "authors-code", "modern", "cpu", "cpu-labels"])
def test_printing_a_recipe_loads_no_numpy_and_no_pydantic(name):
    code = f"from wss_train.commands.cli import main; main(['recipe', '{name}'])"
    script = (
        f"{code}; import sys; assert not {{'numpy', 'torch', 'timm', 'pydantic', 'pydantic_core'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)


def test_pydantic_is_loaded_when_the_first_value_is_checked_and_not_before():
    before = "import wss_data.spec.types as types; types.FilterSpec()"
    assert "pydantic" not in loaded_by(before)
    assert "pydantic" in loaded_by(f"{before}; types.FilterSpec(0.3)")


def test_loader_workers_that_read_a_table_never_import_fiftyone():
    assert "fiftyone" not in loaded_by("import wss_train.data, wss_data.records")


def test_a_module_is_still_found_at_the_place_that_it_had_before_there_were_rooms():
    code = (
        "import warnings; warnings.simplefilter('error')\n"
        "try:\n"
        "    import wss_data.rebuild\n"
        "except DeprecationWarning as warning:\n"
        "    print(warning)\n"
        "warnings.simplefilter('ignore')\n"
        "from wss_data.masks import voc_palette\n"
        "import wss_data.imaging.masks\n"
        "print(voc_palette is wss_data.imaging.masks.voc_palette)\n"
        "try:\n"
        "    import wss_data.nothing\n"
        "except ModuleNotFoundError as error:\n"
        "    print(error)\n"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == [
        "wss_data.rebuild is wss_data.sharing.rebuild now",
        "True",
        "No module named 'wss_data.nothing'",
    ]


def test_every_public_name_can_be_loaded_and_documents_itself():
    code = (
        "import wss_data, wss_train\n"
        "for package in (wss_data, wss_train):\n"
        "    for name in package.__all__:\n"
        "        assert getattr(package, name).__doc__, name\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_exactly_one_package_provides_cv2():
    assert metadata.packages_distributions()["cv2"] == ["opencv-python-headless"]


def test_torch_and_torchvision_match():
    import torch
    import torchvision

    boxes = [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]]
    assert torchvision.ops.nms(torch.tensor(boxes), torch.tensor([0.5, 0.9]), 0.5).tolist() == [1]


def required_packages(requirements: Iterable[str], extras: frozenset[str] = frozenset()) -> set[str]:
    """Names of all installed packages that these requirements need, those that they need included.

    Args:
        requirements: Lines as in ``install_requires``.
        extras: Of the package whose requirements they are: what its markers ask for.
    """
    known, waiting = set(), [(line, extras) for line in requirements]
    while waiting:
        line, extras = waiting.pop()
        requirement = Requirement(line)
        wanted = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        marker = requirement.marker
        if wanted in known or (marker and not any(marker.evaluate({"extra": extra}) for extra in extras | {""})):
            continue
        known.add(wanted)
        waiting += [(line, wanted[1]) for line in metadata.requires(wanted[0]) or []]
    return {name for name, _ in known}


def licence_of(name: str) -> str:
    about = metadata.metadata(name)
    classifiers = [c for c in about.get_all("Classifier") or [] if c.startswith("License")]
    return " ".join([about.get("License-Expression") or "", (about.get("License") or "")[:60], *classifiers])


def test_nothing_under_the_gpl_or_a_non_commercial_licence_is_needed(config):
    refused = re.compile(r"(?<!L)\bA?GPL|(?<!Lesser )General Public|Affero|non-?commercial", re.IGNORECASE)
    needed = required_packages(config["options"]["install_requires"].strip().splitlines())
    found = {name: licence_of(name) for name in needed if refused.search(licence_of(name))}
    assert found == {}


def test_the_packages_listed_for_the_wheel_are_those_that_exist(config):
    listed = set(config["options"]["packages"].split()) - {"wss_data.definitions"}
    found = {str(Path(name).parent).replace("/", ".") for name in sources() if name.endswith("__init__.py")}
    assert listed == found
