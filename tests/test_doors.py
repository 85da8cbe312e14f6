"""The house rules that a machine can hold: who may import what, and what an import costs."""

import ast
import configparser
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]

DOORS = {
    "fiftyone": {"wss_data/store/", "wss_data/plugin/"},
    "flickrapi": {"wss_data/retrieval/sources/flickr.py"},
    "icrawler": {"wss_data/retrieval/sources/google.py"},
    "pydensecrf": {"wss_data/crf/"},
    "numba": {"wss_data/crf/"},
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


def imports_of(path: Path) -> set[str]:
    """Top-level packages that a file imports, for type checking too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
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
    assert loaded_by(code) & {"torch", "timm", "fiftyone", "cv2", "scipy"} == set()


def test_loader_workers_that_read_a_table_never_import_fiftyone():
    assert "fiftyone" not in loaded_by("import wss_train.data, wss_data.records")


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


def required_packages(config: configparser.ConfigParser) -> set[str]:
    """Names of all installed packages that the project needs, those that they need included."""
    names, waiting = set(), config["options"]["install_requires"].strip().splitlines()
    while waiting:
        requirement = Requirement(waiting.pop())
        name = canonicalize_name(requirement.name)
        if name in names or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        names.add(name)
        waiting += metadata.requires(name) or []
    return names


def licence_of(name: str) -> str:
    about = metadata.metadata(name)
    classifiers = [c for c in about.get_all("Classifier") or [] if c.startswith("License")]
    return " ".join([about.get("License-Expression") or "", (about.get("License") or "")[:60], *classifiers])


def test_nothing_under_the_gpl_or_a_non_commercial_licence_is_needed(config):
    refused = re.compile(r"(?<!L)\bA?GPL|(?<!Lesser )General Public|Affero|non-?commercial", re.IGNORECASE)
    found = {name: licence_of(name) for name in required_packages(config) if refused.search(licence_of(name))}
    assert found == {}


def test_the_packages_listed_for_the_wheel_are_those_that_exist(config):
    listed = set(config["options"]["packages"].split()) - {"wss_data.definitions"}
    found = {str(Path(name).parent).replace("/", ".") for name in sources() if name.endswith("__init__.py")}
    assert listed == found
