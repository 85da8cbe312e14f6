"""The commands about where images come from, on a dataset that was built from a local web server."""

import json

import pytest
import yaml
from test_cli import refused
from web_server import WebServer, jpeg, photo, picture, refusal

from wss_data import open_dataset
from wss_data.commands.cli import main
from wss_data.imaging.images import write_jpeg
from wss_data.records import Provenance
from wss_data.retrieval.sources import SOURCES
from wss_data.retrieval.sources.base import Hit, SourceState
from wss_data.runtime.home import dataset_folder

pytestmark = pytest.mark.usefixtures("small_maps")


class Museum:
    """A source whose images hang on a local server: three cats, of which one is gone, and three cows."""

    name, local = "museum", False
    host = ""

    def state(self):
        return SourceState("ready", "three pictures a class")

    def search(self, wanted, limit, pages):
        first = {"cat": 0, "cow": 10}[wanted.name]
        for n in range(first, first + 3):
            url = f"http://{self.host}/{n}.jpg"
            page = f"https://museum.example/{n}"
            at = Provenance(self.name, str(n), image_url=url, page_url=page, author=f"Painter {n}", license="CC0-1.0")
            yield Hit(wanted.name, at)


def answer(path, count):
    number = path[1:-4]
    return picture(jpeg(int(number))) if number.isdigit() and number != "2" else refusal(404)


@pytest.fixture(scope="module")
def museum(database, tmp_path_factory):
    """The definition's file, built once; the server goes on serving."""
    with pytest.MonkeyPatch.context() as patched, WebServer(answer) as server:
        patched.setitem(SOURCES, "museum", "test_cli_web:Museum")
        patched.setattr(Museum, "host", server.host)
        file = tmp_path_factory.mktemp("museum") / "museum.yaml"
        definition = {
            "name": "museum-cli",
            "classes": ["cat", "cow"],
            "sources": [{"name": "museum", "limit": 3}],
            "longest_side": 64,
            "download": {"allow_hosts": [server.host]},
        }
        file.write_text(yaml.safe_dump(definition))
        assert main(["build", str(file), "--workers", "1"]) == 0
        yield file, server


def test_the_summary_tells_what_was_not_stored(museum, capsys):
    file, server = museum
    assert main(["build", str(file), "--workers", "1"]) == 0
    assert "cat: not stored: 1 gone" in capsys.readouterr().out
    assert server.pictures_asked()["/2.jpg"] == 1


def test_what_was_refused_for_good_is_asked_for_again_only_when_that_is_wanted(museum):
    file, server = museum
    assert main(["build", str(file), "--workers", "1", "--retry", "failed"]) == 0
    before = server.pictures_asked()["/2.jpg"]
    assert main(["build", str(file), "--workers", "1", "--retry", "dropped"]) == 0
    assert server.pictures_asked()["/2.jpg"] == before + 1


def test_sources_are_listed_with_what_they_need(museum, capsys, monkeypatch):
    for name in ("FLICKR_API_KEY", "FLICKR_API_SECRET", "FLICKR_KEY_FILE", "WSS_CONTACT", "WSS_GOOGLE"):
        monkeypatch.delenv(name, raising=False)
    assert main(["sources"]) == 0
    states = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines())
    assert states["openverse"] == "ready"
    assert (states["flickr"], states["google"], states["wikimedia"]) == ("needs", "off", "needs")
    assert main(["sources", str(museum[0])]) == 0
    assert capsys.readouterr().out == "museum  ready  at most 3 a class. three pictures a class\n"


def test_leaks_are_listed_and_a_dry_run_changes_nothing(museum, tmp_path, capsys):
    write_jpeg(photo(10, 320, 240), tmp_path / "test set" / "cow.jpg")
    assert main(["leaks", "museum-cli", "--against", str(tmp_path / "test set"), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "1 leaks into the 1 images" in out and "nothing was changed" in out
    assert open_dataset("museum-cli").match_tags("dropped:leak").count() == 0


def test_a_manifest_is_built_again_and_every_image_is_accounted_for(museum, tmp_path, capsys, monkeypatch):
    from wss_data.sharing import rebuild as module
    from wss_data.spec import DownloadSpec

    _, server = museum
    manifest = tmp_path / "museum.jsonl"
    assert main(["manifest", "museum-cli", "--out", str(manifest), "--masks"]) == 0
    assert len(manifest.read_text().splitlines()) == 1 + 5
    # The command asks public addresses only; the test's server is on this machine.
    monkeypatch.setattr(module, "DownloadSpec", lambda: DownloadSpec(allow_hosts=(server.host,)))
    report = tmp_path / "report.csv"
    again = ["rebuild", str(manifest), "--name", "museum-again", "--report", str(report), "--workers", "1"]
    assert main(again) == 0
    assert "all" in capsys.readouterr().out
    assert report.read_text().count(",alive,") == 5
    kept = [dataset.values("cosegmentation.method") for dataset in (open_dataset("museum-again"),)]
    assert set(kept[0]) == {"imported"}


def test_credits_name_every_author(museum, tmp_path, capsys):
    assert main(["attribution", "museum-cli", "--out", str(tmp_path / "credits.md"), "--all"]) == 0
    assert "credits of 5 images" in capsys.readouterr().out
    assert all(f"Painter {n}" in (tmp_path / "credits.md").read_text() for n in (0, 1, 10, 11, 12))


def test_a_forgotten_author_is_gone_and_does_not_come_back(museum, capsys):
    file, server = museum
    assert main(["forget", "museum-cli", "Painter 12", "--dry-run"]) == 0
    assert "nothing was changed" in capsys.readouterr().out
    assert main(["forget", "museum-cli", "painter 12"]) == 0
    asked = server.pictures_asked()["/12.jpg"]
    assert main(["build", str(file), "--workers", "1", "--search-again"]) == 0
    assert server.pictures_asked()["/12.jpg"] == asked
    assert "Painter 12" not in open_dataset("museum-cli").values("provenance.author")
    written = b"".join(path.read_bytes() for path in dataset_folder("museum-cli").rglob("*") if path.is_file())
    assert b"Painter 12" not in written
    assert json.dumps("Painter 11") in written.decode("latin-1")


def test_what_cannot_be_done_is_reported_in_one_line(museum, tmp_path, capsys):
    assert "no folder, no file and no dataset" in refused(capsys, "leaks", "museum-cli", "--against", "nowhere")
    assert "there is no definition" in refused(capsys, "sources", "nowhere")
    (tmp_path / "not.jsonl").write_text("[]\n")
    assert "not.jsonl" in refused(capsys, "rebuild", str(tmp_path / "not.jsonl"))
    with pytest.raises(SystemExit, match="2"):
        main(["forget", "museum-cli", " "])
    assert "it is empty" in capsys.readouterr().err
    assert ".txt" in refused(capsys, "attribution", "museum-cli", "--out", str(tmp_path / "credits.txt"))
