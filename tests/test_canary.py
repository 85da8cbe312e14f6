"""A key is asked to its service and to nobody else: not to logs, files, the journal, the manifest or the database."""

import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest
from fake_flickr import FakeFlickr, Photo
from virtual_clock import VirtualClock
from web_server import WebServer, jpeg, picture, refusal

from wss_data import pipeline, store
from wss_data.retrieval.sources import SOURCES
from wss_data.retrieval.sources.flickr import FlickrSource
from wss_data.runtime.home import dataset_folder
from wss_data.sharing.manifest import write_manifest
from wss_data.spec import spec_from_dict

pytestmark = pytest.mark.usefixtures("small_maps")

KEY, SECRET = "canary0123456789canary0123456789", "secretcanary0123"


class LocalFlickr(FlickrSource):
    """Flickr, but its images are on a server of ours, which takes them by their number."""

    pictures = ""

    def search(self, wanted, limit, pages) -> Iterator:
        self.clock = VirtualClock()
        for number, hit in enumerate(super().search(wanted, limit, pages)):
            yield replace(hit, provenance=replace(hit.provenance, image_url=f"{self.pictures}/{number}"))


@pytest.mark.parametrize("fault", [None, "105", "html 502"])
def test_a_whole_build_writes_its_key_nowhere(database, monkeypatch, caplog, capfd, fault):
    monkeypatch.setenv("FLICKR_API_KEY", KEY)
    monkeypatch.setenv("FLICKR_API_SECRET", SECRET)
    monkeypatch.setitem(SOURCES, "flickr", "test_canary:LocalFlickr")
    caplog.set_level(logging.DEBUG)

    def answer(path, count):
        number = int(path[1:]) if path[1:].isdigit() else -1
        return picture(jpeg(number)) if 0 <= number != 3 else refusal(404)

    photos = [Photo(number, 1_600_000_000 + number) for number in range(8)]
    with FakeFlickr(photos, VirtualClock()) as fake, WebServer(answer) as server:
        fake.key, fake.secret = KEY, SECRET
        if fault:
            fake.faults[1] = fault
        monkeypatch.setattr(LocalFlickr, "pictures", server.url(""))
        name = f"canary-{fault or 'none'}".replace(" ", "-")
        spec = spec_from_dict(
            {
                "name": name,
                "classes": ["cat"],
                "longest_side": 64,
                "sources": [{"name": "flickr", "options": {"endpoint": fake.url}}],
                "download": {"allow_hosts": [server.host]},
            }
        )
        dataset = pipeline.build(spec, workers=1, progress=False)
        assert any(KEY in str(seen) for seen in fake.keys)
    assert len(dataset) == 7
    write_manifest(dataset, dataset_folder(name) / "manifest.jsonl")
    written = b"".join(path.read_bytes() for path in dataset_folder(name).rglob("*") if path.is_file())
    stored = "".join(str(sample.to_dict()) for sample in dataset) + str(dataset.info)
    told = caplog.text + "".join(capfd.readouterr())
    for canary in (KEY, SECRET):
        assert canary.encode() not in written
        assert canary not in stored
        assert canary not in told
    assert store.drops(dataset) == {"cat": {"gone": 1}}
