"""Nothing that arrives as data runs a program: no definition, manifest, export, database, and nothing in the App."""

import gzip
import hashlib
import json
import logging
from pathlib import Path

import pytest
import yaml
from builders import definition, make_web
from fiftyone.operators.executor import ExecutionContext
from web_server import WebServer, jpeg, photo, picture

from wss_data import build, store
from wss_data.commands.cli import main
from wss_data.cosegmentation import ENGINES, OLD_NAMES, PROGRAM_ENGINES, make_engine
from wss_data.cosegmentation.compare import compare_saliency
from wss_data.cosegmentation.folder import cosegment_folder
from wss_data.errors import CosegmentationError, WssError
from wss_data.imaging.images import write_jpeg
from wss_data.pipeline import cosegment_again
from wss_data.plugin.operators import CosegmentAgain
from wss_data.runtime.home import dataset_folder
from wss_data.sharing import zoo
from wss_data.sharing.export import LAYOUTS, export_dataset
from wss_data.sharing.import_dataset import import_dataset
from wss_data.sharing.manifest import MANIFEST_FILE, read_manifest, write_manifest
from wss_data.sharing.rebuild import rebuild
from wss_data.spec import DownloadSpec

pytestmark = pytest.mark.usefixtures("database", "small_maps")

REFUSED = r"'external' runs a program \('touch .*--allow-programs"


@pytest.fixture
def marker(tmp_path) -> Path:
    return tmp_path / "ran"


@pytest.fixture
def engine(marker) -> dict:
    """A definition's ``cosegmentation`` whose command leaves a file."""
    options = {"command": f"touch {marker} {{masks}}", "missing_at_most": 1.0, "supervision": "masks"}
    return {"method": "external", "options": options}


@pytest.fixture
def photographs(tmp_path) -> Path:
    for n in range(2):
        write_jpeg(photo(n), tmp_path / "photos" / "cat" / f"{n}.jpg")
    return tmp_path / "photos"


@pytest.fixture
def file(tmp_path, engine, photographs) -> Path:
    source = {"name": "folder", "options": {"path": str(photographs)}}
    path = tmp_path / "theirs.yaml"
    path.write_text(
        yaml.safe_dump({"name": "theirs", "classes": ["cat"], "sources": [source], "cosegmentation": engine})
    )
    return path


def stored(name: str, engine: dict):
    """A dataset of the database whose definition names a program."""
    dataset = make_web(name)
    dataset.info["wss"] = {**dataset.info["wss"], "definition": definition(name, cosegmentation=engine).to_dict()}
    dataset.save()
    return dataset


def refused(capsys, *arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 2
    told = capsys.readouterr().err
    assert "--allow-programs" in told and told.count("\n") == 1, told


def test_an_engine_that_runs_a_program_is_refused_unless_it_is_allowed_in_so_many_words(engine):
    assert set(PROGRAM_ENGINES) <= {*ENGINES, *OLD_NAMES}
    with pytest.raises(CosegmentationError, match=REFUSED):
        make_engine(**engine)
    assert make_engine(**engine, allow_programs=True).name == "external"


def test_no_function_runs_a_program_by_itself(engine, file, photographs, marker, tmp_path):
    dataset, by_engine = stored("programs-python", engine), {"external": engine["options"]}
    for run in (
        lambda: build(file, progress=False),
        lambda: cosegment_again(dataset, progress=False),
        lambda: cosegment_again(dataset, **engine, progress=False),
        lambda: cosegment_folder(photographs, tmp_path / "masks", **engine, progress=False),
        lambda: compare_saliency(photographs / "cat", tmp_path / "a.png", ["external"], options=by_engine),
        lambda: zoo.prepare(tmp_path / "zoo", str(file)),
    ):
        with pytest.raises(CosegmentationError, match="--allow-programs"):
            run()
    assert not marker.exists()


def test_no_command_runs_a_program_that_only_a_file_or_the_database_names(engine, file, photographs, marker, capsys):
    stored("programs-commands", engine)
    command = f"command={engine['options']['command']}"
    refused(capsys, "build", file)
    refused(capsys, "build", file, "--images", photographs)
    refused(capsys, "cosegment", "programs-commands")
    refused(capsys, "cosegment", "programs-commands", "--method", "external", "--option", command)
    refused(capsys, "compare-saliency", photographs / "cat", "--out", photographs / "a.png", "--method", "external")
    assert not marker.exists()
    assert not store.dataset_exists("theirs") and not dataset_folder("theirs").exists(), "refused before all else"


def test_a_program_runs_where_the_command_line_says_so(engine, file, photographs, marker, tmp_path, capsys):
    typed = ["--method", "external", "--option", f"command={engine['options']['command']}"]
    stored("programs-typed", engine)
    for arguments in (
        ["build", file, "--allow-programs"],
        ["cosegment", "programs-typed", "--allow-programs", "--class", "cat"],
        ["cosegment-folder", photographs, "--out", tmp_path / "masks", *typed, "--option", "missing_at_most=1"],
    ):
        assert main([str(argument) for argument in arguments]) == 0, capsys.readouterr().err
        marker.unlink()


def test_a_manifest_never_hands_on_a_command_line(engine, tmp_path):
    write_manifest(stored("programs-manifest", engine), tmp_path / "m.jsonl")
    text = (tmp_path / "m.jsonl").read_text()
    assert "touch" not in text
    header = json.loads(text.splitlines()[0])
    assert header["definition"]["cosegmentation"] == {"method": "external", "options": {"supervision": "masks"}}
    assert read_manifest(tmp_path / "m.jsonl").program == "external"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_export_never_hands_on_a_command_line_or_a_folder_to_read(layout, engine, tmp_path):
    name = f"programs-export-{layout}"
    dataset = stored(name, engine)
    sources = [{"name": "folder", "options": {"path": "/home/somebody/photos"}}]
    wanted = definition(name, cosegmentation=engine, sources=sources).to_dict()
    dataset.info["wss"] = {**dataset.info["wss"], "definition": wanted, "source_folder": "/home/somebody/voc"}
    dataset.save()
    export_dataset(dataset, tmp_path / "out", layout=layout)
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            text = gzip.decompress(data) if path.suffix == ".gz" else data
            assert b"touch" not in text and b"somebody" not in text, path


def with_program(path: Path, engine: dict) -> None:
    lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    lines[0]["definition"]["cosegmentation"] = engine
    path.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))


@pytest.mark.parametrize("layout", ["voc", "fiftyone"])
def test_an_export_that_names_a_program_brings_it_nowhere(layout, engine, tmp_path):
    dataset = make_web(f"programs-from-{layout}")
    export_dataset(dataset, tmp_path / "theirs", layout=layout)
    with_program(tmp_path / "theirs" / MANIFEST_FILE, engine)
    for path in (tmp_path / "theirs").glob("metadata.json"):  # FiftyOne's own copy of what stands in the database
        value = json.loads(path.read_text())
        value["info"]["wss"]["definition"]["cosegmentation"] = engine
        path.write_text(json.dumps(value))
    try:
        import_dataset(tmp_path / "theirs", f"programs-to-{layout}")
    except WssError:
        return
    imported = store.open_dataset(f"programs-to-{layout}")
    assert store.definition(imported).cosegmentation.method == "common"


def test_rebuild_makes_the_masks_that_are_missing_without_the_program_and_says_so(engine, marker, tmp_path, caplog):
    data = jpeg(1)
    with WebServer(lambda path, n: picture(data)) as server:
        image = {"class": "cat", "sha256": hashlib.sha256(data).hexdigest(), "source": "flickr"}
        image |= {"source_id": "1", "image_url": server.url("/1.jpg")}
        header = {"format": "wss-manifest", "version": 1, "name": "programs-rebuilt", "classes": ["cat"], "images": 1}
        header |= {"created": "2026-11-22T18:00:00+00:00"}
        header["definition"] = {"classes": ["cat"], "longest_side": 96, "cosegmentation": engine}
        (tmp_path / "m.jsonl").write_text(json.dumps(header) + "\n" + json.dumps(image) + "\n")
        download = DownloadSpec(allow_hosts=(server.host,), respect_robots=False)
        with caplog.at_level(logging.WARNING):
            report = rebuild(tmp_path / "m.jsonl", workers=1, download=download, progress=False)
    assert report.complete and not marker.exists()
    assert "made by a program (method 'external'), which is not run here" in caplog.text
    assert store.open_dataset("programs-rebuilt").values("cosegmentation.method") == ["common"]


def test_a_manifest_names_no_file_of_this_machine_to_be_read_as_weights(tmp_path):
    header = {"format": "wss-manifest", "version": 1, "name": "weights", "classes": ["cat"], "images": 0}
    header |= {"created": "2026-11-22T18:00:00+00:00"}
    for path in ("/etc/passwd", "~/w.pth", "../w.pth", "a/../../w.pth", "C:\\w.pth", "file:///w.pth"):
        options = {"weights": path, "long_side": 96}
        header["definition"] = {"classes": ["cat"], "cosegmentation": {"method": "common", "options": options}}
        (tmp_path / "m.jsonl").write_text(json.dumps(header) + "\n")
        assert read_manifest(tmp_path / "m.jsonl").spec.cosegmentation.options == {"long_side": 96}


def test_the_app_neither_offers_nor_starts_a_program(engine, marker):
    dataset = stored("programs-app", engine)
    form = CosegmentAgain().resolve_input(ExecutionContext({"dataset_name": dataset.name, "params": {}})).to_json()
    method = form["type"]["properties"]["method"]
    assert method["type"]["values"] == sorted(set(ENGINES) - set(PROGRAM_ENGINES)) and method["default"] == "common"
    options = yaml.safe_dump(engine["options"])
    for params in ({}, {"method": "external"}, {"method": "external", "options": options}):
        context = {"dataset_name": dataset.name, "params": {"class_name": "cat", **params}, "delegated": True}
        with pytest.raises(CosegmentationError, match="--allow-programs"):
            CosegmentAgain().execute(ExecutionContext(context))
    assert not marker.exists()
