"""Publishing a folder on the Hub, against a stand-in of its API that takes small files in the commit itself.

What large files take (LFS, Xet), quotas, and the Hub's own checks are not in it.
"""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from builders import make_web

from wss_data.commands.cli import main
from wss_data.errors import OutputError, StoreError
from wss_data.sharing.export import export_dataset
from wss_data.sharing.hub import push_to_hub

pytest.importorskip("huggingface_hub", minversion="1.0")


class StandIn(ThreadingHTTPServer):
    """A Hub of one dataset: its files, whether it is private, and what is refused."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.private: bool | None = None  # None: there is none
        self.commits, self.tokens = 0, set()
        self.refuse = ""  # part of the path that is answered by 403
        self.address = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        hub, path = self.server, self.path.split("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        hub.tokens.add(self.headers.get("Authorization"))
        if hub.refuse and hub.refuse in path:
            return self._answer({"error": "You may not write here."}, 403)
        if path == "/api/repos/create":
            if hub.private is not None:
                return self._answer({"url": f"{hub.address}/datasets/me/pets", "error": "exists"}, 409)
            hub.private = json.loads(body)["visibility"] == "private"
            return self._answer({"url": f"{hub.address}/datasets/me/pets", "id": "me/pets"})
        if "/preupload/" in path:
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            return self._answer({"files": [{**file, "shouldIgnore": False} for file in files]})
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    hub.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "deletedFile":
                    del hub.files[value["path"]]
            hub.commits += 1
            return self._answer(
                {"commitOid": "a" * 40, "commitUrl": f"{hub.address}/datasets/me/pets/commit/{'a' * 40}"}
            )
        if "/tree/" in path:
            tree = [{"type": "file", "path": name, "size": len(data), "oid": "0"} for name, data in hub.files.items()]
            return self._answer(tree)
        if path.startswith("/api/datasets/me/pets") and hub.private is None:
            return self._answer({"error": "Repository not found"}, 404)
        if path.startswith("/api/datasets/me/pets"):
            siblings = [{"rfilename": name} for name in hub.files]
            return self._answer({"id": "me/pets", "private": hub.private, "siblings": siblings, "sha": "a" * 40})
        return self._answer({})

    do_GET = do_POST = do_HEAD = _serve

    def _answer(self, value: object, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def the_hub(monkeypatch):
    with StandIn() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
        yield server
        server.shutdown()


@pytest.fixture
def folder(tmp_path):
    """An export of a free image and one whose licence is not known."""
    place = tmp_path / "out"
    (place / "data" / "train" / "images").mkdir(parents=True)
    (place / "README.md").write_text("---\npretty_name: pets\n---\n# pets\n")
    (place / "ledger.json").write_text("{}")
    for name in "ab":
        (place / "data" / "train" / "images" / f"{name}.jpg").write_bytes(name.encode() * 100)
    lines = [{"file_name": "images/a.jpg", "license": "CC0-1.0"}, {"file_name": "images/b.jpg", "license": None}]
    (place / "data" / "train" / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return place


def files_of(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("database")
def test_an_export_arrives_whole_in_one_commit_and_is_private(the_hub, tmp_path, capsys):
    export_dataset(make_web("hub-pets"), tmp_path / "out", "huggingface")
    assert main(["push-to-hub", str(tmp_path / "out"), "me/pets"]) == 0
    told = capsys.readouterr().out
    assert "to the dataset me/pets, seen by you alone." in told and f"{the_hub.address}/datasets/me/pets/commit" in told
    assert the_hub.files == files_of(tmp_path / "out")
    assert (the_hub.commits, the_hub.private) == (1, True)
    assert "Bearer hf_of_a_test" in the_hub.tokens


def test_a_second_upload_leaves_nothing_of_the_first_that_the_folder_lacks(the_hub, folder):
    push_to_hub(folder, "me/pets")
    (folder / "data" / "train" / "images" / "b.jpg").unlink()
    push_to_hub(folder, "me/pets")
    assert the_hub.files == files_of(folder) and the_hub.commits == 2


def test_images_that_are_not_free_become_public_only_if_one_says_that_one_may(the_hub, folder):
    with pytest.raises(StoreError, match=r"1 images are under no licence.*me/pets is public\. Nothing was sent"):
        push_to_hub(folder, "me/pets", public=True)
    assert the_hub.private is None
    the_hub.private = False  # somebody made it public in the browser
    with pytest.raises(StoreError, match="me/pets is public"):
        push_to_hub(folder, "me/pets")
    assert the_hub.commits == 0
    assert push_to_hub(folder, "me/pets", may_publish=True).public
    assert the_hub.commits == 1


def test_what_something_else_made_on_the_hub_is_left_alone(the_hub, folder):
    the_hub.private, the_hub.files = True, {".gitattributes": b"", "train.parquet": b"x"}
    with pytest.raises(OutputError, match=r"holds 1 files, and no ledger\.json: something else made it"):
        push_to_hub(folder, "me/pets")
    assert set(the_hub.files) == {".gitattributes", "train.parquet"}


@pytest.mark.parametrize("part", ["/create", "/preupload/", "/commit/"])
def test_a_refusal_of_the_hub_is_one_sentence_and_nothing_is_there(the_hub, folder, part, capsys):
    the_hub.refuse = part
    assert main(["push-to-hub", str(folder), "me/pets"]) == 2
    told = capsys.readouterr().err
    assert "was not uploaded to me/pets: " in told and "40" in told and len(told.splitlines()) == 1
    assert the_hub.files == {} and the_hub.commits == 0


def test_without_a_hub_or_with_a_wrong_folder_or_name_nothing_is_sent(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    with pytest.raises(StoreError, match=r"was not uploaded to me/pets: .*refused"):
        push_to_hub(folder, "me/pets")
    with pytest.raises(StoreError, match="OWNER/NAME is wanted"):
        push_to_hub(folder, "pets")
    with pytest.raises(StoreError, match=r"has no README.md and ledger\.json"):
        push_to_hub(tmp_path, "me/pets")
    assert main(["push-to-hub", str(folder), "me/pets", "--dry-run"]) == 0
    assert "5 files" in capsys.readouterr().out
