import json
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_flickr
import pytest
from fake_flickr import KEY, SECRET, FakeFlickr, Photo, many_photos
from virtual_clock import VirtualClock

from wss_data.errors import SourceError, SourceUnavailable
from wss_data.retrieval.sources import flickr, make_source
from wss_data.retrieval.sources.base import Forgetful, Hit, Pages
from wss_data.retrieval.sources.flickr import FlickrSource
from wss_data.retrieval.sources.flickr_pager import Walk
from wss_data.retrieval.sources.licences import FLICKR_LICENCES
from wss_data.spec import ClassSpec

CAT = ClassSpec(1, "cat", ("cat",))
ATTEMPTS = len(flickr.PAUSES) + 1
WAY_OUT = "How to get a valid one: docs/how_to/get_a_flickr_key.md. Without a key, use the source openverse."
REFUSED = (
    "Flickr refused the key in FLICKR_API_KEY (code 100). How to get a valid one: docs/how_to/get_a_flickr_key.md. "
    "Without a key, use the source openverse."
)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("FLICKR_", "WSS_CONTACT"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FLICKR_API_KEY", KEY)
    monkeypatch.setenv("FLICKR_API_SECRET", SECRET)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


class Notebook:
    """Pages that are remembered as text, as a journal does."""

    def __init__(self) -> None:
        self.answers: dict[str, str] = {}

    def answer(self, question: str, ask: Callable[[], Any]) -> Any:
        if question not in self.answers:
            self.answers[question] = json.dumps(ask())
        return json.loads(self.answers[question])


def source_for(fake: FakeFlickr, **options: Any) -> FlickrSource:
    source = FlickrSource(endpoint=fake.url, **options)
    vars(source)["clock"] = fake.clock
    return source


def search(
    fake: FakeFlickr, limit: int | None = None, pages: Pages | None = None, wanted: ClassSpec = CAT, **options: Any
) -> Iterator[Hit]:
    return source_for(fake, **options).search(wanted, limit, pages or Forgetful())


def ids(hits: Iterator[Hit]) -> list[str]:
    return [hit.provenance.source_id for hit in hits]


def share_found(found: list[str], photos: list[Photo]) -> float:
    assert len(found) == len(set(found))
    return len(set(found) & {str(photo.id) for photo in photos}) / len(photos)


# What is found, and what it costs


def test_9000_photos_are_found_once_each_though_a_query_gives_4000_and_totals_drift_and_photos_vanish(clock):
    photos = many_photos(9000, largest=500)
    with FakeFlickr(photos, clock, drift=0.2, vanishing=3, blurred=True) as fake:
        found = ids(search(fake))
    assert share_found(found, photos) >= 0.99
    assert len(fake.requests) <= 24
    assert fake.over_limit == 0


def test_75800_photos_need_no_more_than_153_pages(clock):
    fake = FakeFlickr(many_photos(75_800), clock)
    asked = []

    def ask(page: int, **given: Any) -> dict[str, Any]:
        asked.append(page)
        found = fake._matching({"text": "cat", **{name: str(value) for name, value in given.items()}})
        shown = found[(page - 1) * 500 : page * 500]
        return {"total": len(found), "photos": [{"id": str(photo.id), "uploaded": photo.uploaded} for photo in shown]}

    seen: set[str] = set()
    found = list(Walk(ask, flickr.DEFAULT_LICENCES, 1_800_000_000, seen).photos(everything=True))
    assert len(found) == len(seen) == 75_800
    assert len(asked) <= 153
    assert max(asked) <= 7


def test_a_limit_below_4000_costs_its_pages_and_gives_the_most_relevant(clock):
    photos = many_photos(9000, largest=500)
    with FakeFlickr(photos, clock) as fake:
        found = ids(search(fake, limit=2500))
    best = sorted(photos, key=lambda photo: -photo.relevance)[:2500]
    assert found == [str(photo.id) for photo in best]
    assert len(fake.searches) == 5


def test_a_limit_above_4000_begins_with_the_4000_most_relevant(clock):
    photos = many_photos(9000, largest=500)
    with FakeFlickr(photos, clock) as fake:
        found = ids(search(fake, limit=6000))
    assert len(found) == len(set(found)) == 6000
    assert found[:4000] == [str(p.id) for p in sorted(photos, key=lambda photo: -photo.relevance)[:4000]]


@pytest.mark.parametrize("count", [0, 1, 500, 501, 3500, 3501, 4000, 4001])
def test_every_photo_is_found_at_the_edges_of_pages_and_windows(count, clock):
    photos = many_photos(count, largest=500)
    with FakeFlickr(photos, clock) as fake:
        assert sorted(ids(search(fake))) == sorted(str(photo.id) for photo in photos)
    assert len(fake.searches) <= count // 500 + 4


def test_answers_in_no_order_are_found_by_halving_the_windows(clock):
    photos = many_photos(9000, largest=500)
    with FakeFlickr(photos, clock, shuffled=True, drift=0.1) as fake:
        assert share_found(ids(search(fake)), photos) == 1.0
    assert len(fake.requests) <= 50


def test_totals_that_are_always_too_high_cost_a_handful_of_requests(clock):
    photos = many_photos(9000, largest=500)
    with FakeFlickr(photos, clock, overstated=0.3) as fake:
        assert share_found(ids(search(fake)), photos) == 1.0
    assert len(fake.requests) <= 26


def test_a_page_that_is_repeated_in_place_of_the_next_does_not_end_the_search(clock):
    photos = many_photos(9000, largest=500)
    with FakeFlickr(photos, clock) as fake:
        fake.faults = {6: "stutter", 13: "stutter"}
        assert share_found(ids(search(fake)), photos) >= 0.99


def test_an_order_by_relevance_that_moved_while_it_was_read_is_made_up_for_by_dates(clock):
    photos = many_photos(2000, largest=500)
    with FakeFlickr(photos, clock) as fake:
        fake.faults = {4: "stutter"}
        assert share_found(ids(search(fake)), photos) == 1.0
    assert len(fake.requests) <= 10


def test_a_burst_of_more_than_4000_in_one_minute_is_split_by_licence(clock):
    burst = many_photos(6000, start=1_500_000_000, end=1_500_000_060)
    others = [Photo(9_000 + number, 1_400_000_000 + 86_400 * number) for number in range(2500)]
    with FakeFlickr(burst + others, clock, blurred=True) as fake:
        assert share_found(ids(search(fake)), burst + others) == 1.0
    assert {len(asked["license"].split(",")) for asked in fake.searches} == {1, 8}
    assert len(fake.requests) <= 8500 / 500 + 7 + 16


def test_what_cannot_be_split_any_more_is_reported_and_the_rest_is_still_found(clock, caplog):
    burst = many_photos(6000, start=1_500_000_000, end=1_500_000_060, licence=4)
    others = [Photo(9_000 + number, 1_400_000_000 + 86_400 * number) for number in range(500)]
    with FakeFlickr(burst + others, clock, blurred=True) as fake:
        found = ids(search(fake, licences=[4]))
    assert {str(photo.id) for photo in others} <= set(found)
    assert len(found) >= 4000
    assert "Flickr has more than 3500 photos of five minutes" in caplog.text


def test_a_photo_that_two_queries_of_a_class_find_is_given_once(clock):
    photos = many_photos(600)
    photos += [Photo(number, 1_300_000_000 + number, title="a kitten") for number in range(1, 301)]
    with FakeFlickr(photos, clock) as fake:
        found = list(search(fake, wanted=ClassSpec(1, "cat", ("cat", "a", "kitten"))))
    assert sorted(ids(iter(found))) == sorted(str(photo.id) for photo in photos)
    assert {hit.provenance.query for hit in found} == {"cat", "a"}


def test_a_limit_of_nothing_asks_nothing(clock):
    with FakeFlickr(many_photos(3), clock) as fake:
        assert ids(search(fake, limit=0)) == []
    assert fake.requests == []


# The pace


def test_the_limit_of_an_hour_is_never_passed(clock, monkeypatch):
    monkeypatch.setattr(flickr, "RATES", ((10, 10.0), (40, 3600.0)))
    photos = [Photo(number + 1, 1_300_000_000 + number, title=f"cat{number % 120:03}") for number in range(240)]
    wanted = ClassSpec(1, "cat", tuple(f"cat{number:03}" for number in range(120)))
    with FakeFlickr(photos, clock, hourly=40, latency=0.0) as fake:
        fake.faults = {30: "105", 31: "html 502", 60: "429"}
        assert share_found(ids(search(fake, wanted=wanted)), photos) == 1.0
    assert fake.over_limit == 0
    assert fake.busiest(3600) == 40
    assert fake.busiest(10) == 10


def test_the_paces_stay_under_what_flickr_permits():
    assert max(requests for requests, seconds in flickr.RATES if seconds == 3600) <= fake_flickr.HOURLY


# Going on where it stopped


def test_a_killed_search_asks_nothing_twice_and_gives_the_same_in_the_same_order(clock):
    photos = many_photos(4200, largest=500)
    with FakeFlickr(photos, clock) as fake:
        whole = ids(search(fake))
        alone = len(fake.requests)
        pages = Notebook()
        for killed_after in (0, 1, 2345, 4199):
            hits = search(fake, pages=pages)
            assert [next(hits).provenance.source_id for _ in range(killed_after)] == whole[:killed_after]
            clock.advance(86_400)
        assert ids(search(fake, pages=pages)) == whole
    again = fake.requests[alone:]
    assert len(again) == alone
    assert len({json.dumps(asked, sort_keys=True) for asked in again}) == len(again)


def test_a_search_that_broke_off_goes_on_with_the_page_that_failed(clock):
    photos = many_photos(4200, largest=500)
    pages = Notebook()
    with FakeFlickr(photos, clock) as fake:
        fake.faults = dict.fromkeys(range(8, 8 + ATTEMPTS), "105")
        with pytest.raises(SourceUnavailable, match=r"gave no answer .* code 105.* goes on where it stopped"):
            ids(search(fake, pages=pages))
        assert share_found(ids(search(fake, pages=pages)), photos) == 1.0
    assert len(fake.requests) == 11 + ATTEMPTS


# Faults


PASSING = ["0", "10", "105", "201", "html 200", "html 502", "503", "429", "reset", "cut", "list", "no photos"]


@pytest.mark.parametrize("fault", PASSING)
def test_a_passing_fault_loses_nothing(fault, clock):
    photos = many_photos(1200)
    with FakeFlickr(photos, clock) as fake:
        fake.faults = {1: fault, 3: fault, 4: fault}
        assert share_found(ids(search(fake)), photos) == 1.0
    assert len(fake.requests) == 4 + 3


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_stays_ends_after_a_few_attempts_with_growing_pauses(fault, clock):
    with FakeFlickr(many_photos(10), clock) as fake:
        fake.every = fault
        with pytest.raises(SourceUnavailable, match=f"gave no answer in {ATTEMPTS} attempts"):
            ids(search(fake))
    assert len(fake.requests) == ATTEMPTS
    if fault not in ("503", "429"):
        assert sum(clock.slept) > 400


def test_retry_after_is_obeyed(clock):
    with FakeFlickr(many_photos(10), clock) as fake:
        fake.faults = {2: "503"}
        assert len(ids(search(fake))) == 10
    assert fake.times[2] - fake.times[1] >= 20


def test_a_retry_after_of_a_day_is_not_waited_for(clock):
    with FakeFlickr(many_photos(10), clock) as fake:
        fake.every = "429 long"
        with pytest.raises(SourceUnavailable, match=r"flickr: HTTP 429 with the wish to wait 86400 s"):
            ids(search(fake))
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("100", REFUSED),
        ("98", REFUSED.replace("100", "98")),
        ("112", "Flickr refused the request flickr.photos.licenses.getInfo (code 112: Method not found)."),
        ("116", "Flickr refused the request flickr.photos.licenses.getInfo (code 116: Bad URL found)."),
        ("403", f"flickr: 127.0.0.1/services/rest/ refused the request (HTTP 403). {WAY_OUT}"),
        ("redirect", f"flickr: 127.0.0.1/services/rest/ refused the request (HTTP 302). {WAY_OUT}"),
    ],
)
def test_what_is_refused_for_good_is_asked_once(fault, told, clock):
    with FakeFlickr(many_photos(10), clock) as fake:
        fake.every = fault
        with pytest.raises(SourceUnavailable) as error:
            ids(search(fake))
    assert str(error.value) == told
    assert len(fake.requests) == 1


def test_nonsense_among_the_photos_is_passed_over(clock, monkeypatch):
    listed = fake_flickr._listed
    odd = {
        50_000_000_001: lambda photo: photo | {"id": None},
        50_000_000_002: lambda photo: photo | {"id": "../../etc/passwd"},
        50_000_000_003: lambda photo: ["not a photo"],
        50_000_000_004: lambda photo: photo | {"title": "half \ud83d\0", "owner": "../x", "dateupload": None},
    }
    monkeypatch.setattr(fake_flickr, "_listed", lambda photo, extras: odd.get(photo.id, dict)(listed(photo, extras)))
    with FakeFlickr(many_photos(10), clock) as fake:
        found = {hit.provenance.source_id: hit.provenance for hit in search(fake)}
    assert len(found) == 7
    assert found["50000000004"].title == "half ?"
    assert found["50000000004"].page_url is None


# Sizes, licences, provenance


def address_of(clock: VirtualClock, longest_side: int, **kind: Any) -> str | None:
    with FakeFlickr([Photo(7, 1_400_000_000, **kind)], clock) as fake:
        hits = list(search(fake, longest_side=longest_side))
    return hits[0].provenance.image_url if hits else None


@pytest.mark.parametrize(
    ("longest_side", "largest", "letter"),
    [
        (340, 4000, "m"),
        (320, 4000, "n"),
        (321, 4000, "m"),
        (501, 4000, "z"),
        (1024, 4000, "l"),
        (5000, 4000, "l"),
        (340, 320, "n"),
        (340, 150, "t"),
    ],
)
def test_the_smallest_size_that_is_large_enough_is_taken_and_never_a_crop_or_the_original(
    longest_side, largest, letter, clock
):
    assert address_of(clock, longest_side, largest=largest) == (
        f"https://live.staticflickr.com/65535/7_0a1b2c3d4e_{letter}.jpg"
    )


def test_a_photo_without_any_size_and_a_film_are_left_out(clock):
    assert address_of(clock, 340, largest=0) is None
    assert address_of(clock, 340, media="video") is None


def test_what_is_known_of_a_photo_goes_into_its_provenance(clock):
    with FakeFlickr([Photo(1999, 1_400_000_000, licence=12, title="Two cats")], clock) as fake:
        (hit,) = search(fake)
    known = hit.provenance
    assert hit.class_name == "cat" and hit.read is None
    assert (known.source, known.source_id, known.query, known.title) == ("flickr", "1999", "cat", "Two cats")
    assert (known.author, known.author_url) == ("Owner 5", "https://www.flickr.com/people/5@N01/")
    assert known.page_url == "https://www.flickr.com/photos/5@N01/1999"
    assert (known.license, known.license_url) == ("CC-BY-SA-4.0", "https://creativecommons.org/licenses/by-sa/4.0/")


def one_of_each_licence() -> list[Photo]:
    return [Photo(100 + number, 1_400_000_000 + number, licence=number) for number in range(18)]


def licences_found(fake: FakeFlickr, **options: Any) -> set[int]:
    return {int(found) - 100 for found in ids(search(fake, **options))}


def test_by_default_only_licences_that_allow_derivatives_and_reuse_are_taken(clock):
    with FakeFlickr(one_of_each_licence(), clock) as fake:
        assert licences_found(fake) == {4, 5, 7, 8, 9, 10, 11, 12}


def test_other_licences_are_taken_when_named(clock):
    with FakeFlickr(one_of_each_licence(), clock) as fake:
        assert licences_found(fake, licences=[2, 14]) == {2, 14}
        assert licences_found(fake, licences="any") == set(range(17))


def test_a_licence_that_flickr_does_not_list_is_an_error(clock):
    with FakeFlickr([], clock) as fake, pytest.raises(SourceError, match=r"licences has 99, unknown to Flickr.*4 Attr"):
        ids(search(fake, licences=[4, 99]))


def test_a_licence_unknown_here_is_reported_once_and_left_out_unless_named(clock, caplog):
    with FakeFlickr(one_of_each_licence(), clock) as fake:
        fake.licences[17] = ("CC BY 5.0", "https://creativecommons.org/licenses/by/5.0/")
        source = source_for(fake)
        found = [ids(source.search(CAT, None, Forgetful())) for _ in range(3)]
        assert "117" not in found[0]
        assert licences_found(fake, licences=[17]) == {17}
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == (
        "Flickr has a licence that is not known here: 17, 'CC BY 5.0' (https://creativecommons.org/licenses/by/5.0/)."
    )
    assert len(told) == 2  # once for each source


def test_an_id_that_changed_its_meaning_is_reported_and_left_out(clock, caplog):
    with FakeFlickr(one_of_each_licence(), clock) as fake:
        fake.licences[4] = ("Attribution-NonCommercial", "https://creativecommons.org/licenses/by-nc/4.0/")
        assert licences_found(fake) == {5, 7, 8, 9, 10, 11, 12}
    assert "Flickr's licence 4 was CC-BY-2.0 and now is" in caplog.text


def test_photos_under_a_licence_that_was_not_asked_for_are_left_out_and_reported(clock, caplog, monkeypatch):
    # As if the service ignored the parameter, which it does with those that it does not know.
    match = FakeFlickr._match
    monkeypatch.setattr(FakeFlickr, "_match", lambda self, asked: match(self, {**asked, "license": ""}))
    with FakeFlickr(one_of_each_licence(), clock) as fake:
        assert licences_found(fake) == {4, 5, 7, 8, 9, 10, 11, 12}
    assert "under licence 0, which was not asked for" in caplog.text


def test_the_fake_lists_the_licences_that_are_known(clock):
    assert set(fake_flickr.LICENCES) == set(FLICKR_LICENCES)


# The key


def test_a_request_is_signed_and_a_wrong_secret_is_reported(clock, monkeypatch):
    monkeypatch.setenv("FLICKR_API_SECRET", "0000000000000000")
    with FakeFlickr(many_photos(1), clock) as fake, pytest.raises(SourceUnavailable) as error:
        ids(search(fake, wanted=ClassSpec(1, "cat", ("Katze & süß = 猫",))))
    assert str(error.value) == REFUSED.replace("100", "96")


def test_a_query_in_any_script_is_signed_right(clock):
    title = "Katze & süß = 猫 ~ 100 %"
    with FakeFlickr([Photo(5, 1_400_000_000, title=title)], clock) as fake:
        assert ids(search(fake, wanted=ClassSpec(1, "cat", (title,)))) == ["5"]


def test_without_a_key_the_state_and_the_search_say_how_to_get_one(monkeypatch):
    monkeypatch.delenv("FLICKR_API_KEY")
    told = (
        "Flickr needs a key: FLICKR_API_KEY is not set, nor is FLICKR_KEY_FILE. How to get a valid one: "
        "docs/how_to/get_a_flickr_key.md. Without a key, use the source openverse."
    )
    assert (FlickrSource().state().state, FlickrSource().state().detail) == ("needs", told)
    with pytest.raises(SourceUnavailable) as error:
        next(FlickrSource().search(CAT, 1, Forgetful()))
    assert str(error.value) == told
    assert Path(__file__).parents[1].joinpath("docs/how_to/get_a_flickr_key.md").is_file()


def test_with_a_key_the_source_is_ready():
    assert FlickrSource().state().state == "ready"
    assert FlickrSource().state().detail == "Key found in FLICKR_API_KEY. Flickr permits 3,600 queries an hour."


def key_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "flickr.json"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_key_can_be_kept_in_a_file(clock, tmp_path, monkeypatch):
    monkeypatch.delenv("FLICKR_API_KEY")
    path = key_file(tmp_path, json.dumps({"key": KEY, "secret": SECRET}))
    monkeypatch.setenv("FLICKR_KEY_FILE", str(path))
    with FakeFlickr(many_photos(3), clock) as fake:
        assert len(ids(search(fake))) == 3
        fake.every = "100"
        with pytest.raises(SourceUnavailable, match=r"refused the key in the file .*flickr\.json"):
            ids(search(fake))


CANARY = "canary0123456789canary0123456789"


@pytest.mark.parametrize(
    ("text", "mode", "told"),
    [
        ('{"key": "%s", "secret": "%s"}', 0o604, r"open to every user of this machine \(mode 604\).*chmod 600"),
        ('{"key": "%s", "secret": "%s"}', 0o602, "open to every user"),
        ("%s %s", 0o600, "wanted .* as JSON"),
        ('["%s", "%s"]', 0o600, "wanted .* as JSON"),
        ('{"key": "%s%s"}', 0o600, "wanted .* as JSON"),
        ('{"key": "%s and %s", "secret": ""}', 0o600, "needs the secret"),
        ('{"key": "%s%s \\u00e4", "secret": "12345678"}', 0o600, "hold no key"),
    ],
)
def test_a_key_file_that_is_open_or_wrong_is_refused_without_showing_it(text, mode, told, tmp_path, monkeypatch):
    monkeypatch.delenv("FLICKR_API_KEY")
    monkeypatch.setenv("FLICKR_KEY_FILE", str(key_file(tmp_path, text % (CANARY, CANARY), mode)))
    state = FlickrSource().state()
    assert state.state == "needs"
    assert CANARY not in state.detail
    with pytest.raises(SourceUnavailable, match=told) as error:
        next(FlickrSource().search(CAT, 1, Forgetful()))
    assert CANARY not in everything_of(error.value)


def test_a_key_file_that_is_not_there_is_reported(tmp_path, monkeypatch):
    monkeypatch.delenv("FLICKR_API_KEY")
    monkeypatch.setenv("FLICKR_KEY_FILE", str(tmp_path / "none.json"))
    assert "none.json: the file in FLICKR_KEY_FILE cannot be read (No such file" in FlickrSource().state().detail


def everything_of(error: BaseException) -> str:
    """An error with its cause, its context and the variables of its frames, as a thorough log would show it."""
    whole = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames = [f"{frame.line} {frame.locals}" for frame in whole.stack if Path(frame.filename) != Path(__file__)]
    assert frames
    parts = [*frames, *whole.format_exception_only(), repr(error), repr(vars(error))]
    return "\n".join(parts + [everything_of(e) for e in (error.__cause__, error.__context__) if e is not None])


@pytest.mark.parametrize("fault", [None, *PASSING, "98", "100", "112", "401", "403", "redirect", "429 long"])
def test_the_key_is_found_in_no_log_no_error_no_page_and_no_repr(fault, clock, monkeypatch, caplog, capfd):
    secret = "secretcanary0123"
    monkeypatch.setenv("FLICKR_API_KEY", CANARY)
    monkeypatch.setenv("FLICKR_API_SECRET", secret)
    caplog.set_level(logging.DEBUG)
    pages = Notebook()
    shown = []
    with FakeFlickr(many_photos(600), clock) as fake:
        fake.key, fake.secret = CANARY, secret
        fake.every = fault
        source = source_for(fake)
        try:
            shown += [repr(hit) for hit in source.search(CAT, None, pages)]
        except SourceUnavailable as error:
            shown += [everything_of(error)]
        assert (len(shown) == 600) == (fault is None)
        assert any(CANARY in str(seen) for seen in fake.keys)
        shown += [repr(thing) for thing in (source, vars(source), vars(source._api), source.state(), pages.answers)]
    shown += [repr(record.__dict__) + record.getMessage() for record in caplog.records]
    shown += list(capfd.readouterr())
    for canary in (CANARY, secret):
        assert [text for text in shown if canary in text] == []


def test_what_other_code_logs_through_the_same_libraries_is_still_logged(clock, caplog):
    caplog.set_level(logging.DEBUG)
    with FakeFlickr(many_photos(3), clock) as fake:
        hits = search(fake)
        next(hits)
        for name in ("flickrapi.core", "oauthlib.oauth1.rfc5849", "urllib3.connectionpool"):
            logging.getLogger(name).debug("of others")
    assert [record.getMessage() for record in caplog.records].count("of others") == 3


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://api.flickr.com/services/rest/",
        "https://api.flickr.com.evil.example/services/rest/",
        "https://api.flickr.com@evil.example/",
        "https://evil.example/api.flickr.com/",
        "http://192.168.1.1/",
        "ftp://localhost/",
        "",
    ],
)
def test_a_definition_cannot_send_the_key_elsewhere(endpoint):
    with pytest.raises(SourceError, match=r"the key is sent to https://api\.flickr\.com/services/rest/ only"):
        FlickrSource(endpoint=endpoint)


# Options and imports


@pytest.mark.parametrize(
    "options",
    [
        {"longest_side": 0},
        {"longest_side": "340"},
        {"longest_side": True},
        {"licences": []},
        {"licences": "4,5"},
        {"licences": ["4"]},
        {"licences": 4},
        {"licences": [True]},
        {"licence": [4]},
    ],
)
def test_an_option_that_makes_no_sense_is_an_error_though_flickr_would_accept_it(options):
    with pytest.raises(SourceError, match=r"source 'flickr'.*(longest_side|licence)"):
        make_source("flickr", options)


def test_flickrapi_is_loaded_only_when_flickr_is_asked():
    code = (
        "import sys; from wss_data.retrieval.sources.flickr import FlickrSource; FlickrSource().state();"
        "print(*{'flickrapi', 'requests', 'oauthlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
