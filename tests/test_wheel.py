"""What is built of this repository, installed where there is no checkout."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

import pytest
from PIL import Image
from test_doors import required_packages
from test_walk_of_the_pages import draw

from wss_data import __version__

ROOT = Path(__file__).resolve().parents[1]
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
TINY = {
    "long_side": 64,
    "crop": 32,
    "batch": 2,
    "generator_iterations": 2,
    "checkpoint_every": 2,
    "head_channels": 16,
    "scales": "1.0",
    "crf_iterations": 1,
    "precision": "float32",
}


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """What a command printed; it has to end well, and sees no module of the checkout."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "FIFTYONE_DATABASE_URI")}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**environment, **variables}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """The source distribution, built of a copy of what packaging reads, and the wheel that is built of it."""
    folder = tmp_path_factory.mktemp("built")
    copy = folder / "copy"
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "wss_data", "wss_train", "datasets"):
        copied = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        (copy / name).parent.mkdir(exist_ok=True)
        copied(ROOT / name, copy / name)
    run(sys.executable, "-c", BUILD, folder, cwd=copy)
    shutil.rmtree(copy)
    (sdist,) = folder.glob("*.tar.gz")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation")
    run(*pip, "--wheel-dir", folder, sdist, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


def linked(name: str) -> Iterator[Path]:
    """The files and folders of an installed package, as they lie side by side in its folder of packages."""
    package = metadata.distribution(name)
    for top in {path.parts[0] for path in package.files or [] if ".." not in path.parts} - {"__pycache__"}:
        yield Path(str(package.locate_file(top)))


@pytest.fixture(params=["of links", pytest.param("from the index", marks=[pytest.mark.slow, pytest.mark.network])])
def installed(request, built, tmp_path) -> Iterator[Path]:
    """A fresh environment with the wheel and what it asks for, and nothing else: its folder of programs.

    Of links: to those packages of this environment that the wheel's metadata ask for; no package is fetched, and pip
    refuses if one is missing. From the index: as a user would, gigabytes.
    """
    wheel = built[1]
    of_links = request.param == "of links"
    venv.create(tmp_path / "fresh", with_pip=not of_links, symlinks=True)
    python = tmp_path / "fresh" / "bin" / "python"
    if of_links:
        site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
        (distribution,) = metadata.distributions(path=[str(wheel)])
        for name in required_packages(distribution.requires or [], frozenset({"database"})):
            for path in linked(name):
                if not (site / path.name).exists():
                    (site / path.name).symlink_to(path)
    pip = (sys.executable, "-m", "pip", "--python", python) if of_links else (python, "-m", "pip")
    offline = ["--no-index"] if of_links else []
    run(*pip, "install", "--quiet", *offline, f"webcoseg[database] @ {wheel.as_uri()}", cwd=tmp_path)
    yield python.parent
    shutil.rmtree(tmp_path / "fresh")


@pytest.mark.timeout(1800)
def test_a_wheel_builds_trains_and_predicts_where_there_is_no_checkout(installed, tmp_path):
    draw(tmp_path / "photos", [f"{name}/{i}" for name in ("cat", "cow") for i in range(6)])
    draw(tmp_path / "new", ["a", "b"])
    home = {"WSS_HOME": str(tmp_path / "home"), "WSS_DATABASE_DIR": str(tmp_path / "database")}

    def typed(line: str) -> str:
        program, *arguments = line.split()
        return run(installed / program, *arguments, cwd=tmp_path, **home)

    where = run(installed / "python", "-c", "import wss_data, wss_train; print(wss_data.__path__)", cwd=tmp_path)
    assert str(tmp_path / "fresh") in where
    typed("wss-data sources voc_animals")  # A definition that comes with the package.
    typed("wss-data build --images photos --name pets")
    settings = " ".join(f"--set {key}={value}" for key, value in TINY.items())
    typed(f"wss-train generator pets --recipe cpu {settings} --out runs/pets")
    typed("wss-train predict runs/pets new --out masks")
    masks = [Image.open(path) for path in sorted((tmp_path / "masks").rglob("*.png"))]
    assert [mask.size for mask in masks] == [(72, 54)] * 2

    dask = ("install", "--no-index", "--dry-run", "webcoseg[dask]")
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "--python", installed / "python", *dask], capture_output=True, text=True
    )
    assert "for dask" in asked.stderr  # The extra of a package that is there asks for what is missing alone.


def test_the_wheel_holds_the_two_packages_and_the_source_distribution_what_they_are_built_of(built):
    assert {re.split(r"-\d", path.name)[0] for path in built} == {"webcoseg"}
    with ZipFile(built[1]) as files:
        names = files.namelist()
    assert {name.split("/")[0] for name in names} == {"wss_data", "wss_train", f"webcoseg-{__version__}.dist-info"}
    for name in ("py.typed", "definitions/drawn.yaml", "plugin/fiftyone.yml", "sharing/card.jinja"):
        assert f"wss_data/{name}" in names
    for path in built:
        assert path.stat().st_size < 2e6


def test_every_line_that_installs_names_this_distribution_and_extras_that_it_has():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    texts = [path for folder in ("wss_data", "wss_train", "datasets", "docs") for path in (ROOT / folder).rglob("*.*")]
    named = set()
    for path in [*texts, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        if path.suffix in (".py", ".md", ".ipynb", ".jinja"):
            for line in re.findall(r"pip install [^\n`\"]*", path.read_text(encoding="utf-8")):
                named |= set(re.findall(r"(?<![\w/])(wss|webcoseg|\.)(?:\[([\w,]+)\])?(?=[' ]|$)", line))
    assert {name for name, _ in named} == {".", config["metadata"]["name"]}
    assert {extra for _, extras in named for extra in filter(None, extras.split(","))} == set(
        config["options.extras_require"]
    ) - {"dev"}
