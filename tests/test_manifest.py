"""A dataset as a published list: what stands in it, what never does, and building it again."""

import csv
import gzip
import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import builders
import numpy as np
import pytest
from builders import make_web
from web_server import WebServer, jpeg, photo, picture, refusal

from wss_data import build, store
from wss_data.errors import SourceError, StoreError
from wss_data.imaging.images import encode_jpeg
from wss_data.imaging.masks import encode_mask, read_mask
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_data.records import Provenance
from wss_data.retrieval.sources import make_source
from wss_data.retrieval.sources.base import Forgetful
from wss_data.runtime.home import dataset_folder
from wss_data.sharing.manifest import VERSION, read_manifest, write_manifest
from wss_data.sharing.rebuild import decode_mask, rebuild
from wss_data.spec import ClassSpec, DownloadSpec, spec_from_dict

pytestmark = pytest.mark.usefixtures("small_maps")

WEB = Provenance(
    "flickr",
    "123",
    query="cow",
    image_url="https://pictures.example/123_z.jpg",
    page_url="https://pictures.example/photo/123",
    title='Eine "Kuh"\non a meadow',
    author="Ann Example",
    author_url="https://pictures.example/ann",
    license="CC-BY-2.0",
    license_url="https://creativecommons.org/licenses/by/2.0/",
    retrieved_at=datetime(2026, 11, 22, 18, tzinfo=UTC),
    opt_outs=("tdm-reservation: 1",),
)


@pytest.fixture
def from_web(monkeypatch):
    """Lets the cow of ``make_web`` come from the web; the cats come from a folder."""
    plain = builders.record

    def record(name, class_name, digit):
        made = plain(name, class_name, digit)
        local = replace(made.provenance, image_url=f"file:///home/me/photos/{digit}.jpg")
        return replace(made, provenance=WEB if class_name == "cow" else local)

    monkeypatch.setattr(builders, "record", record)


def lines_of(path: Path) -> list[dict]:
    data = path.read_bytes()
    return [json.loads(line) for line in (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines()]


def test_what_is_written_is_read_back_with_everything_known_of_each_image(database, from_web, tmp_path):
    dataset = make_web("listed")
    dataset.set_values("verdict", {dataset.match_tags("dropped:too_large").first().id: "keep"}, key_field="id")
    written = write_manifest(dataset, tmp_path / "zoo.jsonl", masks=True)
    assert (written.images, written.masks, written.without_url) == (4, 4, 3)
    assert "3 of them have no address on the web" in str(written)

    manifest = read_manifest(tmp_path / "zoo.jsonl")
    assert manifest.spec.class_names == ("cat", "cow")
    assert manifest.spec.name == "listed"
    assert manifest.ledger == builders.ENGINE
    assert [image.class_name for image in manifest.images] == ["cat", "cat", "cat", "cow"]
    cow = manifest.images[3]
    assert cow.provenance == WEB
    assert (cow.sha256, cow.phash, cow.size) == ("4" * 64, "4" * 16, (80, 60))
    assert cow.tags == ("kept",)
    assert [image.verdict for image in manifest.images] == [None, None, "keep", None]
    assert (cow.mask.method, cow.mask.confidence) == ("common", pytest.approx(0.55))
    mask = decode_mask(cow.mask.png, (40, 30), {0, 2})
    assert np.array_equal(mask, read_mask(dataset.match_tags("kept").values("cosegmentation.mask_path")[1]))


def test_the_same_dataset_gives_the_same_bytes(database, from_web, tmp_path):
    dataset = make_web("same")
    for name in ("a.jsonl", "b.jsonl", "a.jsonl.gz", "b.jsonl.gz"):
        write_manifest(dataset, tmp_path / name, masks=True)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    assert lines_of(tmp_path / "a.jsonl.gz") == lines_of(tmp_path / "a.jsonl")
    assert read_manifest(tmp_path / "a.jsonl.gz").images == read_manifest(tmp_path / "a.jsonl").images


def test_no_image_no_path_of_this_machine_and_no_setting_of_a_source_is_published(database, from_web, tmp_path):
    dataset = make_web("private")
    info = dict(dataset.info["wss"])
    info["definition"] = {
        **info["definition"],
        "sources": [{"name": "folder", "limit": None, "options": {"path": "/home/me/photos", "key": "c4nary"}}],
        "cosegmentation": {"method": "common", "options": {"weights": "~/weights.pt", "precision": "float32"}},
        "target": {"layout": "voc", "mask_classes": None, "options": {"path": "/home/me/VOC"}},
    }
    dataset.info["wss"] = info
    dataset.save()
    imported = Ledger().add(
        "masks computed elsewhere, imported from /home/me/my masks", Supervision.NONE, UsedFor.COSEGMENTATION
    )
    store.set_ledger(dataset, "cosegmentation", imported)
    write_manifest(dataset, tmp_path / "m.jsonl")
    text = (tmp_path / "m.jsonl").read_text()
    for secret in ("/home/me", "my masks", "file:", str(dataset_folder("private").parent), "c4nary", "weights.pt"):
        assert secret not in text
    header = lines_of(tmp_path / "m.jsonl")[0]
    assert header["ledger"]["entries"][0]["what"] == "masks computed elsewhere, imported from a folder"
    assert header["definition"]["cosegmentation"] == {"method": "common", "options": {"precision": "float32"}}
    assert "mask" not in lines_of(tmp_path / "m.jsonl")[1]


def test_an_address_with_a_name_and_password_is_not_published(database, monkeypatch, tmp_path):
    plain = builders.record
    secret = "https://ann:c4nary@pictures.example/1.jpg"
    monkeypatch.setattr(
        builders,
        "record",
        lambda *a: replace(plain(*a), provenance=replace(WEB, source_id=a[2], image_url=secret)),
    )
    assert write_manifest(make_web("passwords"), tmp_path / "m.jsonl").without_url == 4
    assert "c4nary" not in (tmp_path / "m.jsonl").read_text()


def test_tags_that_a_reader_would_refuse_are_left_out(database, tmp_path):
    dataset = make_web("tagged")
    dataset.tag_samples(["mine:1", "fine", "red\x1b[31m"])
    write_manifest(dataset, tmp_path / "m.jsonl")
    assert {tag for image in read_manifest(tmp_path / "m.jsonl").images for tag in image.tags} == {
        *("fine", "kept", "dropped:too_large", "dropped:too_small")
    }


def test_a_target_dataset_has_no_manifest(database, tmp_path):
    dataset = store.create_or_open(builders.target_definition("no-manifest"), "target")
    with pytest.raises(StoreError, match="only web datasets can be listed in a manifest"):
        write_manifest(dataset, tmp_path / "m.jsonl")
    assert not (tmp_path / "m.jsonl").exists()


HEADER = {
    "format": "wss-manifest",
    "version": VERSION,
    "name": "zoo",
    "created": "2026-11-22T18:00:00+00:00",
    "classes": ["cat", "cow"],
    "images": 2,
    "definition": {"classes": ["cat", "cow"]},
    "ledger": {"entries": []},
}
CAT = {"class": "cat", "sha256": "a" * 64, "source": "flickr", "source_id": "1", "image_url": "https://x.example/1.jpg"}
COW = {**CAT, "class": "cow", "sha256": "b" * 64, "source_id": "2"}


def listed(folder: Path, *images, **header) -> Path:
    path = folder / "m.jsonl"
    rows = [{**HEADER, **header}, *(images or (CAT, COW))]
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_the_least_that_a_manifest_must_say_is_enough(tmp_path):
    manifest = read_manifest(listed(tmp_path))
    assert [image.sha256[0] for image in manifest.images] == ["a", "b"]
    assert manifest.images[0].phash is None
    assert manifest.images[0].provenance.retrieved_at is None


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"format": "coco"}, "line 1: format is 'coco'"),
        ({"version": "1"}, "line 1: version is '1'"),
        ({"version": 0}, "line 1: version is 0"),
        ({"version": 2}, r"has version 2, this version of wss reads up to 1\. Update wss"),
        ({"images": None}, "line 1: images is None"),
        ({"name": "../../etc"}, r"line 1: definition: name is '\.\./\.\./etc'; letters"),
        ({"name": "/etc"}, "line 1: definition: name is '/etc'"),
        ({"definition": {"classes": ["../cat", "cow"]}}, r"line 1: definition: name of class 1 is '\.\./cat'"),
        ({"definition": {"classes": ["cat", "background"]}}, "line 1: .*'background' cannot be a class"),
        ({"definition": ["cat"]}, "line 1: 'definition' is missing"),
        ({"classes": ["cat"]}, r"line 1: classes are \['cat'\], the definition has"),
        ({"created": "yesterday"}, "line 1: created is 'yesterday'"),
        ({"ledger": [1]}, "line 1: the ledger cannot be read"),
        ({"images": 3}, "2 images are listed, the first line promises 3.*cut off"),
    ],
)
def test_a_wrong_first_line_is_reported(tmp_path, header, message):
    with pytest.raises(SourceError, match=message):
        read_manifest(listed(tmp_path, **header))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ('{"class": "co', "no JSON"),
        ("[1]", "a JSON object is wanted, found list"),
        ({**COW, "class": "dog"}, "class 'dog' is not one of cat, cow"),
        ({**COW, "class": ["cow"]}, "class .* is not one of"),
        ({**COW, "sha256": "B" * 64}, "sha256 is 'BBB.*lower-case hex"),
        ({**COW, "sha256": None}, "sha256 is None"),
        ({**COW, "phash": "12"}, "phash is '12'"),
        ({**COW, "image_url": "file:///etc/passwd"}, "image_url is 'file:///etc/passwd', an http"),
        ({**COW, "page_url": "javascript:alert(1)"}, "page_url is"),
        ({**COW, "title": ["x"]}, "title is"),
        ({**COW, "title": "x" * 20_000}, "title is"),
        ({**COW, "source_id": ""}, "source_id is '', a text of 1"),
        ({**COW, "size": [0, 3]}, r"size is \[0, 3\]"),
        ({**COW, "verdict": "maybe"}, "verdict is 'maybe'"),
        ({**COW, "tags": "kept"}, "tags is 'kept'"),
        ({**COW, "retrieved_at": 5}, "retrieved_at is 5"),
        ({**COW, "mask": {"png": "!!"}}, "the mask is no base64"),
        ({**COW, "mask": {"png": "aGFsbG8="}}, "the mask is no PNG"),
        ({**COW, "mask": {"png": "iVBORw0KGgo=", "confidence": 2}}, "confidence of the mask is 2"),
        (CAT, "class 'cat' has the image flickr:1 twice"),
        ({**CAT, "sha256": "c" * 64}, "class 'cat' has the image flickr:1 twice"),
    ],
)
def test_a_wrong_line_is_reported_by_its_number(tmp_path, wrong, message):
    with pytest.raises(SourceError, match=f"1 bad lines. line 3: {message}"):
        read_manifest(listed(tmp_path, CAT, wrong))


def test_all_wrong_lines_are_counted_and_the_first_are_shown(tmp_path):
    with pytest.raises(SourceError, match=r"9 bad lines\. line 2: .*; line 6: .* and 4 more"):
        read_manifest(listed(tmp_path, *["{}"] * 9))


def test_a_manifest_that_was_cut_off_is_refused_gzipped_or_not(tmp_path):
    whole = listed(tmp_path).read_bytes()
    (tmp_path / "half.jsonl").write_bytes(whole[: whole.rindex(b'{"class"')])
    with pytest.raises(SourceError, match="1 images are listed, the first line promises 2"):
        read_manifest(tmp_path / "half.jsonl")
    (tmp_path / "half.jsonl.gz").write_bytes(gzip.compress(whole)[:-12])
    with pytest.raises(SourceError, match="the file cannot be read"):
        read_manifest(tmp_path / "half.jsonl.gz")
    with pytest.raises(SourceError, match="there is no such manifest"):
        read_manifest(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_bytes(b"")
    with pytest.raises(SourceError, match=r"line 1: no JSON.*Is it a manifest"):
        read_manifest(tmp_path / "empty.jsonl")


def test_the_source_offers_what_has_an_address_with_what_it_should_be(tmp_path):
    lost = {key: value for key, value in CAT.items() if key != "image_url"}
    other = {**CAT, "sha256": "c" * 64, "source_id": "3", "phash": "1" * 16, "author": "Ann"}
    path = listed(tmp_path, lost, {**COW}, other, images=3)
    source = make_source("manifest", {"path": path})
    (hit,) = source.search(ClassSpec(1, "cat", ("cat",)), None, Forgetful())
    assert (hit.expected_sha256, hit.expected_phash) == ("c" * 64, "1" * 16)
    assert (hit.provenance.source, hit.provenance.source_id) == ("manifest", "flickr:3")
    assert hit.provenance.author == "Ann"
    assert source.state().detail.startswith("3 images listed in")
    with pytest.raises(SourceError, match=r"class 'dog' is not in the manifest\. Its classes: cat, cow"):
        next(source.search(ClassSpec(1, "dog", ("dog",)), None, Forgetful()))
    with pytest.raises(SourceError, match="needs a manifest"):
        make_source("manifest", {})


def test_a_mask_that_does_not_fit_its_image_is_not_decoded():
    png = encode_mask(np.eye(30, 40, dtype=np.uint8) * 2)
    assert decode_mask(png, (40, 30), {0, 2}).shape == (30, 40)
    assert decode_mask(png, (30, 40), {0, 2}) is None
    assert decode_mask(png, (40, 30), {0, 1}) is None
    assert decode_mask(png[:60], (40, 30), {0, 2}) is None
    assert decode_mask(encode_jpeg(np.zeros((30, 40, 3), np.uint8)), (40, 30), {0}) is None


# Building again, from a real server.


class Museum:
    """A server of photographs: each path answers with an image until another is set."""

    def __init__(self):
        self.answers = {}
        self.server = WebServer(self.answer)

    def answer(self, path, n):
        if path == "/robots.txt":
            return refusal(404)
        return self.answers.get(path) or picture(jpeg(int(path[1:-4])))

    def __enter__(self):
        self.server.__enter__()
        return self

    def __exit__(self, *_):
        self.server.__exit__()

    @property
    def settings(self):
        download = DownloadSpec(allow_hosts=(self.server.host,), attempts=1, backoff_s=0.0)
        return {"download": download, "workers": 1, "progress": False}


def published(museum: Museum, folder: Path, name: str) -> Path:
    """Build from the server (six cats, three cows), and publish."""
    images = [
        {
            "class": "cat" if n < 7 else "cow",
            "sha256": hashlib.sha256(jpeg(n)).hexdigest(),
            "source": "flickr",
            "source_id": str(n),
            "image_url": museum.server.url(f"/{n}.jpg"),
            "author": "Ann",
        }
        for n in range(1, 10)
    ]
    listed(folder, *images, images=len(images))
    definition = {
        "name": name,
        "classes": ["cat", "cow"],
        "sources": [{"name": "manifest", "options": {"path": str(folder / "m.jsonl")}}],
        "download": {"allow_hosts": [museum.server.host], "attempts": 1},
        "longest_side": 96,
    }
    dataset = build(spec_from_dict(definition), workers=1, progress=False)
    first = dataset.match(store.connection.fiftyone().ViewField("label.label") == "cow").first()
    dataset.set_values("verdict", {first.id: "drop"}, key_field="id")
    store.apply_filter(dataset)
    write_manifest(dataset, folder / "zoo.jsonl.gz", masks=True)
    return folder / "zoo.jsonl.gz"


@pytest.fixture(scope="module")
def museum():
    with Museum() as museum:
        yield museum


@pytest.fixture
def no_engine(monkeypatch):
    """Leaves out the co-segmentation of images that have no published mask: nothing here depends on it."""
    monkeypatch.setattr("wss_data.pipeline.web_dataset.cosegment", lambda *_, **__: 0)


@pytest.fixture(scope="module")
def manifest(database, museum, tmp_path_factory):
    return published(museum, tmp_path_factory.mktemp("published"), "museum")


def test_a_rebuilt_dataset_is_the_published_one_without_a_mask_being_made_again(museum, manifest, monkeypatch):
    from wss_data.cosegmentation.common import CommonEngine

    def never(*_, **__):
        raise AssertionError("a group was co-segmented again")

    monkeypatch.setattr(CommonEngine, "segment_group", never)
    report = rebuild(manifest, "museum-copy", **museum.settings)
    assert report.complete
    assert report.counts == {"alive": 9}
    assert (report.masks, report.masks_left) == (9, 0)
    first, copy = store.open_dataset("museum"), store.open_dataset("museum-copy")
    for field in ("sha256", "foreground_ratio", "confidence", "tags", "provenance.source_id"):
        assert sorted(map(str, first.values(field))) == sorted(map(str, copy.values(field)))
    assert copy.count_values("verdict") == {None: 8, "drop": 1}
    assert set(copy.values("cosegmentation.method")) == {"imported"}
    assert store.mask_ledger(copy, "cosegmentation") == store.mask_ledger(first, "cosegmentation")
    write_manifest(copy, manifest.parent / "again.jsonl.gz", masks=True)
    before, after = lines_of(manifest), lines_of(manifest.parent / "again.jsonl.gz")
    for line in (*before[1:], *after[1:]):
        line.pop("retrieved_at")
        line["mask"].pop("method")
    assert before[1:] == after[1:]

    asked = sum(museum.server.requests.values())
    assert rebuild(manifest, "museum-copy", **museum.settings).complete
    assert sum(museum.server.requests.values()) == asked


def test_each_image_that_is_not_what_it_was_is_reported_with_its_state(museum, manifest, no_engine, tmp_path):
    smaller = encode_jpeg(photo(1), quality=70)
    museum.answers = {
        "/1.jpg": picture(smaller),
        "/2.jpg": refusal(404),
        "/3.jpg": (200, {"Content-Type": "image/jpeg", "X-Robots-Tag": "noai"}, jpeg(3)),
        "/4.jpg": refusal(500),
        "/5.jpg": picture(jpeg(77)),
    }
    report = rebuild(manifest, "museum-decayed", **museum.settings)
    states = {item.image.provenance.image_url.rsplit("/")[-1]: (item.state, item.reason) for item in report.images}
    assert states["1.jpg"] == ("changed", "re-encoded")
    assert states["2.jpg"][0] == "dead"
    assert states["3.jpg"] == ("opted_out", "opted_out")
    assert states["4.jpg"][0] == "failed"
    assert states["5.jpg"] == ("changed", "changed")
    assert states["6.jpg"] == ("alive", None)
    assert report.counts == {"alive": 4, "changed": 2, "dead": 1, "opted_out": 1, "failed": 1}
    assert (report.masks, report.masks_left) == (4, 5)
    assert len(store.open_dataset("museum-decayed")) == 5
    assert "failed: no answer this time" in str(report)

    report.write_csv(tmp_path / "report.csv")
    rows = list(csv.DictReader((tmp_path / "report.csv").open()))
    assert len(rows) == 9
    assert {row["state"] for row in rows} == {"alive", "changed", "dead", "opted_out", "failed"}

    # The server is well again: what failed is asked for, what was refused for good is not.
    asked = dict(museum.server.requests)
    museum.answers = {}
    again = rebuild(manifest, "museum-decayed", **museum.settings)
    assert again.counts == {"alive": 5, "changed": 2, "dead": 1, "opted_out": 1}
    assert {path for path, n in museum.server.requests.items() if n > asked.get(path, 0)} - {"/robots.txt"} == {
        "/4.jpg"
    }


def test_the_same_image_in_place_of_several_is_a_placeholder(museum, manifest, no_engine):
    museum.answers = {f"/{n}.jpg": picture(jpeg(500)) for n in (1, 2, 3, 4)}
    report = rebuild(manifest, "museum-gone", **museum.settings)
    museum.answers = {}
    assert report.counts == {"alive": 5, "placeholder": 4}


def test_a_class_without_a_single_image_left_is_reported_and_so_is_every_image(museum, manifest, no_engine):
    museum.answers = {f"/{n}.jpg": refusal(410) for n in (7, 8, 9)}
    report = rebuild(manifest, "museum-cowless", **museum.settings)
    museum.answers = {}
    assert report.counts == {"alive": 6, "dead": 3}
    assert "class 'cow' has no usable image" in str(report)
    assert not report.complete


def test_a_dataset_that_was_built_from_something_else_is_left_alone(museum, manifest):
    with pytest.raises(StoreError, match=r"'museum' exists already .* name of its own \(--name\)"):
        rebuild(manifest, **museum.settings)
