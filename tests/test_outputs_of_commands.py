"""Every command that writes to a place of the user's choice, tried where somebody else's file, its own, and its own
edited file is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders import make_web
from drawings import TINY, rectangles

from wss_data.cosegmentation.compare import compare_saliency
from wss_data.cosegmentation.folder import cosegment_folder
from wss_data.errors import (
    BusyError,
    CheckpointError,
    OutputError,
    SourceError,
    TrainingDataError,
)
from wss_data.runtime.files import output_folder
from wss_data.sharing.attribution import write_attribution
from wss_data.sharing.manifest import write_manifest
from wss_data.sharing.rebuild import RebuildReport
from wss_train.evaluate import evaluate_model, score_masks
from wss_train.export import export_model
from wss_train.predict import predict_images
from wss_train.pseudo_masks import make_pseudo_masks
from wss_train.reports.cooccurrence import cooccurrence
from wss_train.training import train

pytestmark = pytest.mark.usefixtures("small_maps")

THEIRS = b"hours of somebody's work"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return rectangles(tmp_path_factory.mktemp("rectangles"))


@pytest.fixture(scope="module")
def model(table, tmp_path_factory):
    return train(table, TINY, tmp_path_factory.mktemp("runs") / "final", "final", progress=False)


@pytest.fixture(scope="module")
def web(database):
    return make_web("outputs-web")


class Given:
    """What the commands are called with: one table, one model, one web dataset."""

    def __init__(self, table, model, web):
        self.table, self.model, self.web = table, model, web
        self.images = Path(table.image_paths[0]).parent

    def attribution(self, out):
        write_attribution(self.web, out / "CREDITS.md")

    def manifest(self, out):
        write_manifest(self.web, out / "web.jsonl.gz")

    def rebuild(self, out):
        RebuildReport("web", ()).write_csv(out / "report.csv")

    def compare_saliency(self, out):
        compare_saliency(self.images, out / "figure.png", count=1, workers=1)

    def cosegment_folder(self, out):
        # Other settings each time, so that masks are made, not found.
        Given.side = getattr(Given, "side", 64) + 1
        cosegment_folder(self.images, out, longest_side=Given.side, workers=1, progress=False)

    def cooccurrence(self, out):
        cooccurrence(self.table, out)

    def evaluate(self, out):
        evaluate_model(self.model, self.table, out=out, workers=1, progress=False)

    def score_masks(self, out):
        score_masks(Path(self.table.mask_paths[0]).parent, self.table, out=out, workers=1, progress=False)

    def export(self, out):
        export_model(self.model, out / "model.pt")

    def predict(self, out):
        predict_images(self.model, self.images, out, overlays=True, workers=1, progress=False)

    def masks(self, out):
        Given.scale = getattr(Given, "scale", 1.0) + 0.1
        make_pseudo_masks(self.model, self.table, out, scales=(Given.scale,), workers=1, progress=False)


@pytest.fixture
def given(table, model, web):
    return Given(table, model, web)


WRITES = {
    "attribution": ["CREDITS.md"],
    "manifest": ["web.jsonl.gz"],
    "rebuild": ["report.csv"],
    "compare_saliency": ["figure.png"],
    "cosegment_folder": ["0.png", "ledger.json"],
    "cooccurrence": ["cooccurrence.md", "cooccurrence.png"],
    "evaluate": ["evaluation.json", "failures.png", "predictions/3.png"],
    "score_masks": ["evaluation.md"],
    "export": ["model.pt"],
    "predict": ["0.png", "5_overlay.jpg"],
    "masks": ["2.png"],
}
CASES = [(command, name) for command, names in WRITES.items() for name in names]


@pytest.mark.parametrize(("command", "name"), CASES)
def test_a_file_of_somebody_else_stops_the_command_before_anything_is_written(given, tmp_path, command, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(THEIRS)
    # A folder for masks that holds anything but masks of ours was refused before: with its own words.
    with pytest.raises((OutputError, TrainingDataError), match=r"name another"):
        getattr(given, command)(tmp_path)
    assert [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()] == [THEIRS]


@pytest.mark.parametrize("command", WRITES)
def test_a_command_given_twice_replaces_what_it_wrote_but_not_what_was_edited_since(given, tmp_path, command):
    run = getattr(given, command)
    run(tmp_path)
    run(tmp_path)
    for name in WRITES[command]:
        ours = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(THEIRS)
        with pytest.raises(OutputError, match="changed since"):
            run(tmp_path)
        assert (tmp_path / name).read_bytes() == THEIRS
        (tmp_path / name).write_bytes(ours)
    run(tmp_path)
    assert not list(tmp_path.rglob(".writing-*"))


@pytest.mark.parametrize("command", ["cosegment_folder", "evaluate", "masks", "predict"])
def test_a_folder_that_another_process_fills_is_refused(given, tmp_path, command):
    with output_folder(tmp_path), pytest.raises(BusyError, match="being filled by another process"):
        getattr(given, command)(tmp_path)


@pytest.mark.parametrize("command", WRITES)
def test_a_link_in_place_of_the_result_is_left_alone(given, tmp_path, command):
    letter = tmp_path / "letter"
    letter.write_bytes(THEIRS)
    link = tmp_path / "out" / WRITES[command][0]
    link.parent.mkdir()
    link.symlink_to(letter)
    with pytest.raises((OutputError, TrainingDataError)):
        getattr(given, command)(tmp_path / "out")
    assert link.is_symlink() and letter.read_bytes() == THEIRS


def test_masks_of_a_release_without_the_table_are_taken_for_ours_by_their_scores(given, tmp_path):
    given.cosegment_folder(tmp_path)
    for name in (".wss-written", "5.png"):
        (tmp_path / name).unlink()
    given.cosegment_folder(tmp_path)
    assert (tmp_path / "5.png").is_file()


def test_the_hand_drawn_mask_of_an_image_that_cannot_be_read_stays(given, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in given.images.iterdir():
        (photos / path.name).write_bytes(path.read_bytes())
    (photos / "9.jpg").write_bytes(b"no image")
    cosegment_folder(photos, tmp_path / "out", workers=1, progress=False)
    (tmp_path / "out" / "9.png").write_bytes(THEIRS)
    cosegment_folder(photos, tmp_path / "out", longest_side=64, workers=1, progress=False)
    assert (tmp_path / "out" / "9.png").read_bytes() == THEIRS


def test_masks_do_not_go_among_the_images_not_even_through_a_link(given, tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    (photos / "cow").mkdir(parents=True)
    for path in given.images.iterdir():
        (photos / "cow" / path.with_suffix(".JPG").name).write_bytes(path.read_bytes())
    out.mkdir()
    (out / "cow").symlink_to(photos / "cow")
    (tmp_path / "same").symlink_to(photos)
    before = sorted(photos.rglob("*"))
    with pytest.raises(OutputError, match="which is read"):
        cosegment_folder(photos, out, workers=1, progress=False)
    for place in (photos, tmp_path / "same"):
        with pytest.raises(SourceError):
            cosegment_folder(photos, place, workers=1, progress=False)
        with pytest.raises(SourceError, match="among the images"):
            predict_images(given.model, photos, place, progress=False)
    assert sorted(photos.rglob("*")) == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["data.json", "run.json", "checkpoints/best.pt", "model.safetensors", "snapshots/a"])
def test_a_run_does_not_begin_among_files_of_somebody_else(table, tmp_path, name, overwrite):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(THEIRS)
    with pytest.raises(CheckpointError, match="but no run of this program"):
        train(table, TINY, tmp_path, progress=False, overwrite=overwrite)
    assert [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()] == [THEIRS]


def test_overwrite_removes_the_run_and_nothing_beside_it(table, tmp_path):
    train(table, TINY, tmp_path, progress=False)
    readme = (tmp_path / "README.md").read_text() + "my notes\n"
    (tmp_path / "README.md").write_text(readme)
    for name in ("notes.txt", "checkpoints/mine.pt", "tensorboard/plot.png", "snapshots/a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(THEIRS)
    old = (tmp_path / "model.safetensors").read_bytes()
    train(table, TINY, tmp_path, "final", progress=False, overwrite=True)
    assert (tmp_path / "model.safetensors").read_bytes() != old
    for name in ("notes.txt", "checkpoints/mine.pt", "tensorboard/plot.png", "snapshots/a.txt"):
        assert (tmp_path / name).read_bytes() == THEIRS
    assert (tmp_path / "README.md").read_text() == readme


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_folder_has_one_owner_until_its_process_ends(table, tmp_path, overwrite):
    code = "import sys, time, pathlib; from wss_data.runtime.files import output_folder\n"
    code += "with output_folder(pathlib.Path(sys.argv[1])): print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "run"], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(BusyError, match="by another process"):
            train(table, TINY, tmp_path / "run", progress=False, overwrite=overwrite)
        assert os.listdir(tmp_path / "run") == [".wss-written"]
        other.kill()
    train(table, TINY, tmp_path / "run", progress=False, overwrite=overwrite)
