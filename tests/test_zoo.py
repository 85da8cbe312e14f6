"""The repository as a dataset of FiftyOne's zoo, found in an archive of it and loaded by FiftyOne itself."""

import importlib.util
import io
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from builders import make_web
from web_server import WebServer

from wss_data import store
from wss_data.errors import SourceError
from wss_data.imaging.masks import read_mask
from wss_data.runtime.home import dataset_folder
from wss_data.sharing import zoo as zoo_functions
from wss_data.sharing.manifest import write_manifest
from wss_data.spec import read_spec

pytestmark = pytest.mark.usefixtures("database", "small_maps")

ROOT = Path(__file__).resolve().parents[1]
CLASSES = list(read_spec("drawn").class_names[:2])


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("zoo") / "small.yaml"
    sources = [{"name": "drawn", "limit": 2}]
    path.write_text(yaml.safe_dump({"name": "zoo-small", "classes": CLASSES, "sources": sources, "longest_side": 96}))
    return str(path)


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """FiftyOne's zoo with an empty folder."""
    import fiftyone as fo
    import fiftyone.zoo as foz

    monkeypatch.setattr(fo.config, "dataset_zoo_dir", str(tmp_path / "zoo"))
    return foz


def archive() -> bytes:
    """The repository as its host would send it: all that could be taken for a dataset, in a folder of its own."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for path in {*ROOT.rglob("fiftyone.y*ml"), *(ROOT / "datasets").rglob("*.*")}:
            if not {".venv", "__pycache__", "build"} & set(path.relative_to(ROOT).parts):
                file.write(path, Path("wss-main") / path.relative_to(ROOT))
    return data.getvalue()


def test_fiftyone_finds_builds_and_loads_the_repositorys_dataset(zoo, small, tmp_path, monkeypatch):
    data, before = archive(), {row.name for row in store.list_datasets()}
    with WebServer(lambda path, n: (200, {"Content-Type": "application/zip"}, data)) as server:
        dataset = zoo.load_zoo_dataset(server.url("/wss.zip"), definition=small, dataset_name="zoo-loaded")
        again = zoo.load_zoo_dataset("wss", definition=small, dataset_name="zoo-again")
    try:
        assert set(dataset.distinct("label.label")) <= set(CLASSES) and len(dataset) > 0
        assert set(dataset.distinct("tags")) == {"kept"}
        paths = dataset.values("filepath") + dataset.values("cosegmentation.mask_path")
        assert all(path.startswith(str(tmp_path / "zoo" / "wss")) and Path(path).is_file() for path in paths)
        assert list(dataset.default_mask_targets.values()) == [CLASSES[0], CLASSES[1], "ignore"]
        assert read_mask(dataset.first().cosegmentation.mask_path).max() > 0
        assert again.values("sha256") == dataset.values("sha256"), "built once"
        table = store.example_table(dataset, "cosegmentation")
        assert len(table) == len(dataset) and table.ledger.entries, "training takes it"
        made = {row.name for row in store.list_datasets()} - before
        assert made == {"zoo-loaded", "zoo-again"}, "the working copy is gone"
        assert not list(dataset_folder("x").parent.glob("zoo-zoo-small*"))
        assert "wss" in zoo.list_downloaded_zoo_datasets()
    finally:
        dataset.delete()
        again.delete()


def test_a_manifest_is_built_once_under_a_name_that_nothing_else_has(small, tmp_path, monkeypatch):
    write_manifest(make_web("zoo-listed"), tmp_path / "m.jsonl")
    named = []

    def offline(manifest, name):
        """The images of this manifest have no address to fetch them from."""
        named.append(name)
        return make_web(name)

    monkeypatch.setattr(zoo_functions, "rebuild", offline)
    for _ in range(2):
        assert zoo_functions.prepare(tmp_path / "zoo", manifest=str(tmp_path / "m.jsonl")) == (None, 2, ["cat", "cow"])
    assert len(named) == 1 and named[0].startswith("zoo-zoo-listed-")
    assert not store.dataset_exists(named[0]) and not dataset_folder(named[0]).exists()
    with pytest.raises(SourceError, match="not there yet"):
        zoo_functions.load(None, tmp_path / "zoo", definition=small)


def test_without_the_package_the_zoo_says_what_to_install(monkeypatch, tmp_path):
    path = ROOT / "datasets" / "zoo" / "__init__.py"
    spec = importlib.util.spec_from_file_location("the_zoo", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "wss_data.sharing.zoo", None)
    with pytest.raises(ImportError, match="pip install git"):
        module.download_and_prepare(str(tmp_path))
    with pytest.raises(ImportError, match="pip install git"):
        module.load_dataset(None, str(tmp_path))
