"""The source Open Images against a server that speaks the formats of its files."""

import logging
import subprocess
import sys

import pytest
from fake_openimages import FakeOpenImages, image_id, image_row, lists

import wss_data
from wss_data import store
from wss_data.errors import SourceError, SourceUnavailable
from wss_data.retrieval import large_file
from wss_data.retrieval.expectation import expectation
from wss_data.retrieval.sources import make_source
from wss_data.retrieval.sources.base import Forgetful
from wss_data.retrieval.sources.openimages import CLASSES, LISTS, lists_folder
from wss_data.runtime.files import only_one
from wss_data.spec import ClassSpec, spec_from_dict

pytestmark = pytest.mark.usefixtures("small_maps")

CAT, DOG, LIGHT = "/m/01yrx", "/m/0bt9lr", "/m/015qff"
LABELS = {
    "validation": [
        (1, CAT, "1"),
        (2, CAT, "0"),
        (2, DOG, "1"),
        (3, CAT, "1"),
        (3, DOG, "1"),
        (4, LIGHT, "1"),
        (5, CAT, "1.0"),
    ],
    "test": [(10, CAT, "1"), (11, DOG, "0.7")],
    "train": [(20, CAT, "1"), (21, CAT, "1")],
}
IMAGES = {
    "validation": [image_row(n, "validation") for n in (5, 4, 3, 2, 1)],
    "test": [image_row(n, "test") for n in (10, 11)],
    # 21 is an image of which there are labels and no copy.
    "train": [image_row(20, "train")],
}
FILES = lists(LABELS, IMAGES)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("WSS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(large_file, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(large_file, "CHUNK", 1)  # the lists of these tests are small
    return tmp_path / "home"


@pytest.fixture
def server():
    with FakeOpenImages(dict(FILES)) as running:
        yield running


def make(server, **options):
    return make_source("openimages", {"endpoint": server.url, "storage": server.url, **options})


def search(server, *queries, limit=None, **options):
    wanted = ClassSpec(1, queries[0].replace(" ", "_").lower(), queries)
    return [hit.provenance for hit in make(server, **options).search(wanted, limit, Forgetful())]


def ids(numbers):
    return [image_id(number) for number in numbers]


def test_images_that_people_said_to_show_the_class_come_in_the_order_of_the_lists(server):
    assert [at.source_id for at in search(server, "cat")] == ids([5, 3, 1, 10])
    assert [at.source_id for at in search(server, "Traffic-Light")] == ids([4])


def test_the_provenance_holds_licence_author_and_page_and_the_address_in_the_storage(server):
    at = search(server, "cat")[0]

    assert at.image_url == f"{server.url}/validation/{image_id(5)}.jpg"
    assert (at.page_url, at.author_url) == ("https://www.flickr.com/photos/ann/5", "https://www.flickr.com/people/ann/")
    assert (at.author, at.title) == ('Ann "A", no. 5', "A cat, 5")
    assert (at.license, at.license_url) == ("CC-BY-2.0", "https://creativecommons.org/licenses/by/2.0/")
    assert at.query == "cat"


def test_thumbnails_are_taken_where_they_are_asked_for_and_large_enough(server):
    assert search(server, "cat", thumbnails=True)[0].image_url == "https://c1.staticflickr.com/1/5_z.jpg"
    assert search(server, "cat", thumbnails=True, longest_side=800)[0].image_url.startswith(server.url)
    row = image_row(5, "validation", Thumbnail300KURL="")
    server.files |= lists(LABELS, IMAGES | {"validation": [row]})
    (lists_folder() / "validation-images-with-rotation.csv").unlink()
    assert search(server, "cat", thumbnails=True)[0].image_url.startswith(server.url)


def test_queries_are_joined_and_a_label_can_be_one(server):
    assert [(at.source_id, at.query) for at in search(server, "cat", "dog", limit=2)] == [
        (image_id(5), "cat"),
        (image_id(3), "cat"),
    ]
    assert {at.query for at in search(server, DOG)} == {DOG}


def test_turned_images_are_left_out_for_their_copies_are_not_turned_back(server):
    rows = [
        image_row(5, "validation", Rotation="90.0"),
        image_row(3, "validation", Rotation=""),
        image_row(1, "validation"),
    ]
    server.files |= lists(LABELS, {"validation": rows})
    assert [at.source_id for at in search(server, "cat")] == ids([3, 1])


def test_a_split_is_read_only_if_those_before_it_gave_too_few(server):
    assert len(search(server, "cat", limit=3, splits=["validation", "test", "train"])) == 3
    assert not [path for path in server.requests if "test" in path or "train" in path]

    assert [at.source_id for at in search(server, "cat", limit=5, splits=["validation", "test", "train"])][3:] == ids(
        [10, 20]
    )


def test_a_list_is_downloaded_once_for_all_classes(server):
    search(server, "cat")
    search(server, "dog")
    assert set(server.requests.values()) == {1}
    assert sorted(path.name for path in lists_folder().glob("*.csv")) == sorted(
        path.rpartition("/")[2] for path in server.requests
    )


def test_a_class_that_it_does_not_have_is_reported_with_the_nearest(server, caplog):
    with caplog.at_level(logging.WARNING):
        assert search(server, "catt") == []
        assert search(server, "street light") == []
    assert "has no class called 'catt'; the nearest: Cat" in caplog.messages[0]
    assert "the nearest: Traffic light. Name one as a query of the class 'street_light'" in caplog.messages[1]


@pytest.mark.parametrize("breaks", [[10], [30, 60, 90, 120], [0, 0, 0]])
def test_a_download_that_breaks_off_goes_on_where_it_was(breaks):
    path = f"/{LISTS['validation'][1]}"
    with FakeOpenImages(dict(FILES), {path: list(breaks)}) as server:
        assert [at.source_id for at in search(server, "cat")] == ids([5, 3, 1, 10])
        assert server.requests[path] == len(breaks) + 1
        assert server.sent[path] == len(FILES[path]), "no byte came twice"


def test_a_download_that_brings_nothing_is_given_up_and_goes_on_with_the_next_build():
    path = f"/{LISTS['validation'][1]}"
    with FakeOpenImages(dict(FILES), {path: [100, *[100] * 4]}) as server:
        with pytest.raises(SourceUnavailable, match=r"did not come whole.*it goes on there"):
            search(server, "cat")
        assert len(search(server, "cat")) == 4
        assert server.sent[path] == len(FILES[path])


def test_a_list_that_changed_meanwhile_is_read_anew(server):
    path, new = f"/{LISTS['validation'][1]}", lists(LABELS, {"validation": [image_row(1, "validation")]})
    server.breaks = {path: [100, 100, 100, 100, 100]}
    with pytest.raises(SourceUnavailable):
        search(server, "cat")
    server.files |= new
    server.version = '"2"'
    assert [at.source_id for at in search(server, "cat")] == ids([1])


def test_a_download_killed_after_its_last_byte_is_whole(server):
    path = f"/{LISTS['validation'][1]}"
    part = lists_folder() / f"{path.rpartition('/')[2]}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(FILES[path])
    part.with_suffix(".tag").write_text(server.version)
    assert len(search(server, "cat")) == 4
    assert server.sent[path] == 0
    assert not list(lists_folder().glob("*.part")) and not list(lists_folder().glob("*.tag"))


def test_two_processes_do_not_write_one_list(server):
    lock = lists_folder() / f"{CLASSES.rpartition('/')[2]}.lock"
    with only_one(lock), pytest.raises(SourceUnavailable, match="another process downloads"):
        search(server, "cat")


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (CLASSES, b"something else\n"),
        (LISTS["validation"][0], b"ImageID,Label\n"),
        (LISTS["validation"][1], b"ImageID,Title\n"),
        (LISTS["validation"][1], FILES[f"/{LISTS['validation'][1]}"] + b'"' + b"x" * 200_000),
        (LISTS["validation"][1], b""),
    ],
)
def test_a_list_of_another_form_leaves_the_source_out_with_a_way_out(server, path, content):
    server.files[f"/{path}"] = content
    with pytest.raises(SourceUnavailable, match=r"another form than is known\. Delete it"):
        search(server, "cat")


def test_class_names_are_read_with_and_without_a_line_of_columns(server):
    server.files[f"/{CLASSES}"] = b"\xef\xbb\xbf" + server.files[f"/{CLASSES}"].partition(b"\n")[2]
    assert len(search(server, "cat")) == 4


def test_a_refused_list_is_reported_at_once(server):
    del server.files[f"/{LISTS['test'][0]}"]
    with pytest.raises(
        SourceUnavailable, match=r"oidv7-test-annotations-human-imagelabels.csv was refused \(HTTP 403\)"
    ):
        search(server, "cat")
    assert server.requests[f"/{LISTS['test'][0]}"] == 1


def test_lists_come_from_the_public_address_or_this_machine_only():
    with pytest.raises(SourceError, match=r"expected https://storage\.googleapis\.com/openimages or this"):
        make_source("openimages", {"endpoint": "https://example.org/lists"})
    with pytest.raises(SourceError, match="validation, test or train"):
        make_source("openimages", {"splits": ["val"]})


def test_a_dataset_is_built_and_its_ledger_says_what_people_did(server, database):
    definition = spec_from_dict(
        {
            "name": "open-pets",
            "classes": ["cat", "dog"],
            "sources": [{"name": "openimages", "limit": 9, "options": {"endpoint": server.url, "storage": server.url}}],
            "longest_side": 64,
            "duplicates": {"max_distance": None},
            "download": {"allow_hosts": [server.host]},
        }
    )
    assert "at most 18 images of 2 classes from openimages" in expectation(definition, workers=1)
    dataset = wss_data.build(definition, progress=False, workers=1)

    assert sorted(dataset.values("provenance.source_id")) == sorted(ids([1, 2, 3, 5, 10, 3]))
    ledger = store.example_table(dataset, None).ledger
    assert ledger.strictly_image_level
    (said,) = [entry for entry in ledger.entries if "checked by people" in entry.what]
    assert "labels of 4 images: proposed by a classifier" in said.what
    dataset.delete()


BIG = """
import resource, sys
from pathlib import Path
from wss_data.retrieval.sources.base import Forgetful
from wss_data.retrieval.sources.openimages import CLASSES, LISTS, OpenImagesSource, lists_folder
from wss_data.spec import ClassSpec

folder = lists_folder()
folder.mkdir(parents=True)
(folder / Path(CLASSES).name).write_text("LabelName,DisplayName\\n/m/01yrx,Cat\\n")
labels, images = (folder / Path(name).name for name in LISTS["train"])
count = 1_000_000
with labels.open("w") as file:
    file.write("ImageID,Source,LabelName,Confidence\\n")
    for n in range(count):
        file.write(f"{n:016x},verification,/m/01yrx,{int(n % 10 == 0)}\\n{n:016x},verification,/m/0bt9lr,1\\n")
with images.open("w") as file:
    file.write("ImageID,OriginalLandingURL,License,AuthorProfileURL,Author,Title,Thumbnail300KURL,Rotation\\n")
    for n in range(count):
        file.write(f"{n:016x},https://www.flickr.com/photos/x/{n},,https://www.flickr.com/x/,X,{'t' * 60},,0.0\\n")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = sum(1 for _ in OpenImagesSource(splits=("train",)).search(ClassSpec(1, "cat", ("cat",)), None, Forgetful()))
print(found, labels.stat().st_size + images.stat().st_size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_lists_of_200_megabytes_are_read_in_a_tenth_of_their_size():
    done = subprocess.run([sys.executable, "-c", BIG], capture_output=True, text=True, check=True)
    found, size, grown_kb = map(int, done.stdout.split())
    assert found == 100_000
    assert size > 200_000_000
    assert grown_kb * 1024 < 50_000_000
