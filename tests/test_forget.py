"""Forgetting an image: nothing of it stays, nothing else goes, a kill is harmless, and it does not come back."""

import csv
import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import builders
import numpy as np
import pytest
from builders import definition, make_web
from hypothesis import given, settings
from hypothesis import strategies as st
from web_server import WebServer, jpeg, picture, refusal

from wss_data import build, store
from wss_data.errors import SourceError, SpecError, StoreError
from wss_data.imaging.masks import write_mask
from wss_data.records import Provenance
from wss_data.retrieval.journal import Entry, Journal, secret_of
from wss_data.retrieval.sources.folder import read_provenance
from wss_data.runtime.files import only_one
from wss_data.runtime.home import dataset_folder
from wss_data.sharing import forget as forget_module
from wss_data.sharing.forget import forget
from wss_data.sharing.manifest import read_manifest
from wss_data.spec import spec_from_dict
from wss_data.store.provenance import image_rows

ANN = "Ännchen Canary"
ANNS_PAGE = "https://pictures.example/people/aennchen"


def provenance(digit: str) -> Provenance:
    """Photos 1 and 2 are Ann's, on pages of their own; 3 and 4 share a page and have no author."""
    mine = digit in "12"
    return Provenance(
        "flickr",
        f"photo {digit}",
        image_url=f"https://pictures.example/{digit}.jpg",
        page_url=f"https://pictures.example/{'photo/' + digit if mine else 'album'}",
        title=f"Title {digit}" if mine else None,
        author=ANN if mine else None,
        author_url=ANNS_PAGE if mine else None,
    )


@pytest.fixture
def zoo(database, monkeypatch):
    """Cats 1, 2, 3 and cow 4 with their journal; one more result of Ann's failed and one of another waits.

    The dataset is emptied for each test: making one anew takes ten times as long.
    """
    name = "forget-zoo"
    if store.connection.fiftyone().dataset_exists(name):
        store.open_dataset(name).clear()
        shutil.rmtree(dataset_folder(name))
    plain = builders.record
    monkeypatch.setattr(builders, "record", lambda *a: replace(plain(*a), provenance=provenance(a[2])))
    dataset = make_web(name)
    with Journal(dataset_folder(name) / "journal.sqlite") as journal:
        journal.record(
            Entry(row.class_name, "flickr", row.provenance.source_id, "stored", row.provenance.image_url,
                  sha256=row.sha256, provenance=row.provenance)
            for row in image_rows(dataset)
        )  # fmt: skip
        lost = replace(provenance("1"), source_id="photo 9", image_url="https://pictures.example/9.jpg")
        other = replace(provenance("4"), source_id="photo 8", image_url="https://pictures.example/8.jpg")
        journal.record(
            [
                Entry("cat", "flickr", "photo 9", "failed", lost.image_url, "timeout", "9.jpg: no", provenance=lost),
                Entry("cow", "flickr", "photo 8", "found", other.image_url, provenance=other),
            ]
        )
    return dataset


def folder_of(dataset) -> Path:
    return dataset_folder(dataset.name)


def files_of(dataset, digit: str) -> set[str]:
    return {str(p.relative_to(folder_of(dataset))) for p in folder_of(dataset).rglob(f"{digit * 20}.*")}


def digits(dataset) -> str:
    return "".join(sorted(sha256[0] for sha256 in dataset.values("sha256")))


def forgotten(dataset) -> set[tuple[str, str]]:
    with Journal(folder_of(dataset) / "journal.sqlite") as journal:
        return set(journal.forgotten())


def journal_bytes(dataset) -> bytes:
    return b"".join(p.read_bytes() for p in folder_of(dataset).glob("journal.sqlite*"))


def test_an_image_goes_with_its_file_its_masks_and_its_record_and_no_other_does(zoo):
    assert files_of(zoo, "2") == {f"images/cat/{'2' * 20}.jpg", f"cosegmentation/cat/{'2' * 20}.png"}
    rest = {digit: files_of(zoo, digit) for digit in "134"}
    report = forget(zoo, "https://pictures.example/2.jpg")
    assert digits(zoo) == "134"
    assert files_of(zoo, "2") == set()
    assert {digit: files_of(zoo, digit) for digit in "134"} == rest
    assert (report.kind, report.images, report.classes) == ("url", ("cat/" + "2" * 20,), ("cat",))
    assert (len(report.files), report.results) == (2, 1)


def test_masks_of_every_field_go_but_never_a_file_outside_the_datasets_own_folder(zoo, tmp_path):
    fo = store.connection.fiftyone()
    sample = zoo.match(fo.ViewField("sha256") == "2" * 64).first()
    mine, foreign = folder_of(zoo) / "predictions" / "run7.png", tmp_path / "foreign.png"
    for field, path in (("prediction", mine), ("other", foreign)):
        write_mask(np.zeros((30, 40), np.uint8), path)
        zoo.add_sample_field(field, fo.EmbeddedDocumentField, embedded_doc_type=fo.Segmentation)
        sample[field] = fo.Segmentation(mask_path=str(path))
    sample.save()
    forget(zoo, "2" * 64)
    assert not mine.exists()
    assert foreign.exists()


@pytest.mark.parametrize("what", ["https://pictures.example/photo/2", "http://pictures.example/photo/2/#top", "2" * 64])
def test_a_page_or_a_digest_names_the_image_too(zoo, what):
    forget(zoo, what)
    assert digits(zoo) == "134"


@pytest.mark.parametrize("what", [ANN, f" {ANN.upper()} ", ANNS_PAGE])
def test_an_author_by_name_or_page_takes_all_of_their_images_and_results_along(zoo, what):
    report = forget(zoo, what)
    assert report.kind == "author"
    assert digits(zoo) == "34"
    assert report.results == 3


def test_a_dry_run_tells_the_same_and_changes_nothing(zoo):
    before = {p: p.stat().st_mtime_ns for p in folder_of(zoo).rglob("*") if p.suffix in (".jpg", ".png")}
    told = forget(zoo, ANN, dry_run=True)
    assert digits(zoo) == "1234"
    assert forgotten(zoo) == set()
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert "would be removed" in str(told)
    assert replace(forget(zoo, ANN), dry_run=True) == told


def test_neither_database_nor_journal_holds_the_authors_name_afterwards(zoo):
    assert ANN.encode() in journal_bytes(zoo)
    forget(zoo, ANN)
    left = journal_bytes(zoo)
    for trace in (ANN, "nnchen", ANNS_PAGE, "pictures.example/1.jpg", "pictures.example/9.jpg", "Title 1", "photo 9"):
        assert trace.encode() not in left, trace
    database = store.connection.fiftyone().core.odm.get_db_conn()
    kept = [*database[zoo._sample_collection_name].find(), *database.datasets.find({"name": zoo.name})]
    assert len(kept) == 3
    for trace in (ANN, ANNS_PAGE, "Title 1", "pictures.example/1.jpg"):
        assert trace not in str(kept)
    assert b"pictures.example/8.jpg" in left


def test_what_must_not_come_back_is_remembered_as_digests(zoo):
    forget(zoo, ANN)
    known = forgotten(zoo)
    for url in ("1.jpg", "2.jpg", "9.jpg", "photo/1", "photo/2"):
        assert ("url", secret_of(f"https://pictures.example/{url}")) in known
    assert {value for kind, value in known if kind == "sha256"} == {"1" * 64, "2" * 64}
    assert {value for kind, value in known if kind == "author"} == {secret_of(ANN), secret_of(ANNS_PAGE)}
    assert all(re.fullmatch("[0-9a-f]{64}", value) for _, value in known)


def test_a_page_that_shows_other_images_is_not_forgotten_with_one_of_them(zoo):
    forget(zoo, "https://pictures.example/4.jpg")
    assert ("url", secret_of("https://pictures.example/album")) not in forgotten(zoo)
    forget(zoo, "https://pictures.example/album")
    assert ("url", secret_of("https://pictures.example/album")) in forgotten(zoo)
    assert digits(zoo) == "12"


def test_what_the_dataset_does_not_have_is_remembered_all_the_same_and_said(zoo):
    told = str(forget(zoo, "Somebody Else"))
    assert "Nothing there has this author" in told
    assert forgotten(zoo) == {("author", secret_of("somebody else"))}
    assert digits(zoo) == "1234"


def test_sheets_of_the_dataset_are_drawn_anew_without_it(zoo):
    from wss_data.pipeline import write_dataset_sheets

    pictures = folder_of(zoo) / "pictures"
    write_dataset_sheets(zoo, pictures)
    before = (pictures / "cosegmentation_cat.png").read_bytes()
    forget(zoo, "https://pictures.example/4.jpg")
    assert (pictures / "cosegmentation_cat.png").read_bytes() == before
    assert not (pictures / "cosegmentation_cow.png").exists()
    forget(zoo, ANN)
    assert (pictures / "cosegmentation_cat.png").read_bytes() != before


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", ["remembered", "one file", "files", "erased", "records"])
def test_killed_at_any_moment_nothing_else_is_lost_and_the_same_command_finishes(zoo, monkeypatch, moment):
    rest = {digit: files_of(zoo, digit) for digit in "34"}

    def stop(*_, **__):
        raise Killed

    removed = []

    def unlink(path, missing_ok=False, plain=Path.unlink):
        removed.append(path)
        if moment == "one file" and len(removed) == 2:
            raise Killed
        plain(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        if moment == "remembered":
            patch.setattr(Path, "unlink", stop)
        elif moment == "files":
            patch.setattr(Journal, "erase", stop)
        elif moment == "erased":
            patch.setattr(forget_module, "remove_samples", stop)
        elif moment == "records":
            patch.setattr(forget_module, "write_dataset_sheets", stop)
        with pytest.raises(Killed):
            forget(zoo, ANN)
    assert {"1", "2"} == {v[0] for kind, v in forgotten(zoo) if kind == "sha256"}

    forget(zoo, ANN)
    assert digits(zoo) == "34"
    assert files_of(zoo, "1") | files_of(zoo, "2") == set()
    assert {digit: files_of(zoo, digit) for digit in "34"} == rest
    assert ANN.encode() not in journal_bytes(zoo)
    assert (folder_of(zoo) / "pictures" / "cosegmentation.png").exists()
    assert "Nothing there has this author" in str(forget(zoo, ANN))


def test_images_that_look_alike_stay_and_are_named(zoo):
    fo = store.connection.fiftyone()
    other = zoo.match(fo.ViewField("sha256") == "3" * 64).first()
    zoo.set_values("phash", {other.id: "2222222222222223"}, key_field="id")
    report = forget(zoo, "2" * 64)
    assert report.look_alikes == ("cat/" + "3" * 20,)
    assert "1 images that look alike stay" in str(report)


def test_the_same_bytes_in_another_class_go_too(zoo):
    fo = store.connection.fiftyone()
    other = zoo.match(fo.ViewField("sha256") == "4" * 64).first()
    zoo.set_values("sha256", {other.id: "2" * 64}, key_field="id")
    assert len(forget(zoo, "https://pictures.example/2.jpg").images) == 2


def test_a_running_build_a_target_and_nothing_at_all_are_refused(zoo):
    with (
        only_one(folder_of(zoo) / "lock"),
        pytest.raises(StoreError, match="is being built or changed by another process"),
    ):
        forget(zoo, ANN)
    with pytest.raises(StoreError, match="nothing was given to forget"):
        forget(zoo, "  ")
    target = store.create_or_open(builders.target_definition("not-forgetful"), "target")
    with pytest.raises(StoreError, match="only web datasets can be made to forget an image"):
        forget(target, ANN)
    assert digits(zoo) == "1234"


def test_the_report_says_what_it_cannot_undo_and_what_happens_next(zoo):
    told = str(forget(zoo, ANN))
    for word in ("models that were trained", "manifests", "backups", "co-segments cat again"):
        assert word in told


def test_an_image_of_the_users_own_folder_stays_there_and_does_not_come_back(database, tmp_path, monkeypatch):
    monkeypatch.setattr("wss_data.pipeline.web_dataset.cosegment", lambda *_, **__: 0)
    photos = tmp_path / "photos"
    for class_name, seeds in (("cat", (1, 2, 3)), ("cow", (4, 5))):
        for seed in seeds:
            (photos / class_name).mkdir(parents=True, exist_ok=True)
            (photos / class_name / f"{seed}.jpg").write_bytes(jpeg(seed))
    spec = definition("forget-own", longest_side=64)
    dataset = build(spec, photos, workers=1, progress=False)
    assert len(dataset) == 5
    digest = hashlib.sha256((photos / "cat" / "2.jpg").read_bytes()).hexdigest()
    report = forget(dataset, digest)
    assert report.own_files == ((photos / "cat" / "2.jpg").as_uri(),)
    assert "delete them yourself" in str(report)
    assert (photos / "cat" / "2.jpg").exists()
    again = build(spec, photos, workers=1, progress=False)
    assert sorted(again.values("provenance.source_id")) == ["cat/1.jpg", "cat/3.jpg", "cow/4.jpg", "cow/5.jpg"]
    assert list(dataset_folder("forget-own").rglob(f"{digest[:20]}*")) == []
    assert store.drops(again)["cat"]["forgotten"] >= 1


def test_a_later_build_neither_asks_for_it_nor_writes_the_name_down_again(database, tmp_path, monkeypatch):
    monkeypatch.setattr("wss_data.pipeline.web_dataset.cosegment", lambda *_, **__: 0)
    rows = [("cat", 1, ANN), ("cat", 2, "Bob"), ("cow", 3, "Bob")]
    later = [*rows, ("cat", 4, ANN), ("cow", 5, "Bob")]
    server = WebServer(lambda path, n: refusal(404) if path == "/robots.txt" else picture(jpeg(int(path[1:-4]))))

    def listed(rows) -> None:
        header = {"format": "wss-manifest", "version": 1, "name": "x", "created": "2026-01-01", "ledger": None}
        header |= {"classes": ["cat", "cow"], "images": len(rows), "definition": {"classes": ["cat", "cow"]}}
        images = [
            {
                "class": c,
                "source": "flickr",
                "source_id": f"{n}",
                "image_url": server.url(f"/{n}.jpg"),
                "author": author,
            }
            | {"sha256": hashlib.sha256(jpeg(n)).hexdigest()}
            for c, n, author in rows
        ]
        (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (header, *images)))

    def built(**settings):
        source = {"name": "manifest", "options": {"path": str(tmp_path / "m.jsonl")}}
        download = {"allow_hosts": [server.host], "attempts": 1}
        spec = definition("forget-web", sources=[source], download=download, longest_side=64)
        return build(spec, workers=1, progress=False, **settings)

    with server:
        listed(rows)
        dataset = built()
        assert len(dataset) == 3
        forget(dataset, ANN)
        listed(later)
        for settings in ({"search_again": True}, {"retry": "dropped"}):
            again = built(**settings)
            assert sorted(again.values("provenance.source_id")) == ["flickr:2", "flickr:3", "flickr:5"]
            assert ANN.encode() not in journal_bytes(again)
    assert server.pictures_asked() == {"/1.jpg": 1, "/2.jpg": 1, "/3.jpg": 1, "/5.jpg": 1}


# Hostile names.

HOSTILE_PARTS = [
    "..",
    ".",
    "/",
    "\\",
    "\0",
    "~",
    "C:",
    "con",
    "a" * 300,
    "%2e%2e",
    "\n",
    " ",
    "\u202e",
    "é",
    "-rf",
    "$(x)",
]
NAMES = st.lists(st.sampled_from(HOSTILE_PARTS) | st.text(max_size=8), min_size=1, max_size=5).map("".join)


def everything(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@given(class_name=NAMES, name=NAMES, url=NAMES, source_id=NAMES)
@settings(max_examples=200, deadline=None)
def test_no_name_of_a_class_a_file_or_an_address_leads_outside_the_datasets_folder(
    tmp_path_factory, class_name, name, url, source_id
):
    """Names come from definitions, manifests, tables and the web; whatever is accepted stays under the root."""
    root = tmp_path_factory.getbasetemp() / "hostile"
    root.mkdir(exist_ok=True)
    try:
        spec = spec_from_dict({"name": name, "classes": [class_name], "sources": ["folder"]})
    except SpecError:
        spec = None
    if spec is not None:
        stored = root / spec.name / "images" / spec.class_names[0] / f"{'a' * 20}.jpg"
        assert stored.resolve().is_relative_to(root.resolve())
        assert ".." not in stored.parts

    # A manifest with the same names is refused, or its names are safe.
    definition_part = {"classes": [class_name], "filters": {}}
    header = {"format": "wss-manifest", "version": 1, "name": name, "created": "2026-01-01T00:00:00+00:00"}
    header |= {"classes": [class_name], "images": 1, "definition": definition_part, "ledger": {"entries": []}}
    image = {"class": class_name, "sha256": "a" * 64, "source": "x", "source_id": source_id, "image_url": url}
    path = root / "m.jsonl"
    path.write_text(json.dumps(header) + "\n" + json.dumps(image) + "\n", encoding="utf-8", errors="surrogatepass")
    try:
        manifest = read_manifest(path)
    except SourceError:
        pass
    else:
        assert spec is not None
        assert manifest.images[0].provenance.image_url.startswith("http")

    # What forget removes is named by digests and lies inside, whatever path the database holds.
    inside = root / "dataset"
    (inside / "images").mkdir(parents=True, exist_ok=True)
    outside = root / "outside.png"
    outside.touch()
    try:
        held = inside / "images" / name
        paths = [held, outside, inside / ".." / "outside.png"]
        found = [path for path in paths if forget_module._is_inside(path, inside)]
    except (ValueError, OSError):
        found = []
    assert all(p.resolve().is_relative_to(inside.resolve()) for p in found)
    assert outside not in found


@given(name=NAMES)
@settings(max_examples=200, deadline=None)
def test_a_hostile_file_name_in_a_provenance_table_is_a_bad_row(tmp_path_factory, name):
    folder = tmp_path_factory.getbasetemp() / "hostile_table" / "table"  # alone in its folder, all of which is read
    (folder / "cat").mkdir(parents=True, exist_ok=True)
    with (folder / "provenance.csv").open("w", newline="", encoding="utf-8", errors="surrogatepass") as file:
        csv.writer(file).writerows([["file", "title"], [name, "x"]])
    before = everything(folder.parent)
    with pytest.raises(SourceError, match=r"provenance\.csv"):
        read_provenance(folder)
    assert everything(folder.parent) == before


def test_a_name_too_long_for_the_file_system_is_a_bad_row(tmp_path):
    (tmp_path / "provenance.csv").write_text(f"file,title\n{'a' * 300}/b.jpg,x\n")

    with pytest.raises(SourceError, match="is no file in the folder"):
        read_provenance(tmp_path)
