"""The source Openverse against a server that has Openverse's limits, on a virtual clock."""

import logging
import pickle
import traceback

import pytest
from fake_openverse import FakeOpenverse, make_items
from fake_service import HTML, KeptPages, Reply, dump
from virtual_clock import VirtualClock

from wss_data.errors import SourceError, SourceUnavailable
from wss_data.retrieval.sources import make_source
from wss_data.retrieval.sources.base import Forgetful
from wss_data.retrieval.sources.openverse import ID_VARIABLE, OPEN_LICENCES, SECRET_VARIABLE, fitting_url
from wss_data.spec import ClassSpec

COW = ClassSpec(1, "cow", ("cow",))
CLIENT = ("an-id", "canary-0pen-secret")
FAULTS = {
    3: Reply(502, HTML),
    8: Reply(200, b'{"result_count": 240, "results": [{"id"'),
    15: Reply(503, HTML, {"Retry-After": "9"}),
    22: Reply(0),
    31: Reply(429, {"detail": "Request was throttled."}, {"Retry-After": "40"}),
    44: Reply(200, HTML),
    61: Reply(500, {"detail": "Elasticsearch"}),
}


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv(ID_VARIABLE, raising=False)
    monkeypatch.delenv(SECRET_VARIABLE, raising=False)


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv(ID_VARIABLE, CLIENT[0])
    monkeypatch.setenv(SECRET_VARIABLE, CLIENT[1])


def make(service, **options):
    source = make_source("openverse", {"endpoint": service.url, **options})
    vars(source)["clock"] = service.clock
    return source


def ids(hits):
    return [hit.provenance.source_id for hit in hits]


def open_ids(items):
    return {
        item["id"]
        for item in items
        if item["license"] in OPEN_LICENCES and item["source"] != "wikimedia" and not item["mature"]
    }


@pytest.mark.parametrize("registered", [False, True], ids=["without a key", "with a key"])
def test_slices_find_at_least_99_percent_of_3000_ids_without_breaking_a_rule(registered, request):
    if registered:
        request.getfixturevalue("key")
    items = make_items(3000)
    clock = VirtualClock()
    with FakeOpenverse(items, clock, client=CLIENT, drift=True, latency=0.3, faults=FAULTS) as service:
        source = make(service, slices=True, longest_wait=100_000)
        found = ids(source.search(COW, None, Forgetful()))

        assert service.violations == []
    there = open_ids(items)
    assert len(found) == len(set(found))
    assert set(found) <= there
    assert len(found) >= 0.99 * len(there)
    # 20 requests a minute of 20 results each, against 100 of 48.
    assert (clock.monotonic() > 400.0) is not registered


def test_without_slices_a_query_is_asked_once_and_gives_the_240_best(key):
    items = make_items(2000)
    with FakeOpenverse(items, VirtualClock(), client=CLIENT) as service:
        found = ids(make(service).search(COW, None, Forgetful()))
        assert service.requests == 1 + 5  # a token, and five pages of 48
        assert service.violations == []
    best = [item["id"] for item in items if item["id"] in open_ids(items)]
    assert found == best[:240]


def test_without_a_key_pages_hold_20_results():
    with FakeOpenverse(make_items(60), VirtualClock()) as service:
        found = ids(make(service).search(COW, None, Forgetful()))
        assert set(found) == open_ids(service.items)
        assert service.requests == 3
        assert service.violations == []


def test_a_page_that_appears_while_one_reads_is_read_too():
    class Growing(FakeOpenverse):
        def _images(self, query, registered):
            reply = super()._images(query, registered)
            if query["page"] == "1":
                reply.body["page_count"] -= 1
            return reply

    items = [item | {"license": "by", "source": "met", "mature": False} for item in make_items(41)]
    with Growing(items, VirtualClock()) as service:
        assert len(ids(make(service).search(COW, None, Forgetful()))) == 41


def test_a_limit_ends_the_search_without_a_further_request():
    with FakeOpenverse(make_items(400), VirtualClock()) as service:
        assert len(ids(make(service).search(COW, 20, Forgetful()))) == 20
        assert service.requests == 1


def test_the_21st_request_of_a_minute_waits():
    clock = VirtualClock()
    items = make_items(3000)
    with FakeOpenverse(items, clock) as service:
        list(make(service, slices=True).search(COW, 500, Forgetful()))
        assert service.requests > 20
        assert clock.monotonic() >= 60.0
        assert service.violations == []


def test_the_limit_of_the_day_is_reported_and_the_next_day_goes_on_where_it_stopped():
    items = make_items(800)
    clock = VirtualClock()
    pages = KeptPages()
    with FakeOpenverse(items, clock, a_day=30) as service:
        with pytest.raises(
            SourceUnavailable, match=r"openverse: its limit of requests is used up; .* the same command"
        ):
            list(make(service, slices=True).search(COW, None, pages))
        # The client learned from the headers that it is 30 here, not 200.
        assert service.requests == 30

        clock.advance(86_400)
        found = ids(make(service, slices=True).search(COW, None, pages))

        assert set(found) == open_ids(items) and len(found) == len(set(found))
        assert len(service.answered) == len(set(service.answered))
        assert service.violations == []


@pytest.mark.parametrize("dies_after", [0, 1, 25, 40])
def test_a_killed_search_asks_nothing_twice_and_finds_the_same_even_right_after(dies_after):
    items = make_items(700)
    with FakeOpenverse(items, VirtualClock(), latency=0.1) as service:
        whole = ids(make(service, slices=True).search(COW, None, Forgetful()))
    with FakeOpenverse(items, VirtualClock(), latency=0.1) as service:
        pages = KeptPages(dies_after)
        with pytest.raises(KeptPages.Killed):
            list(make(service, slices=True).search(COW, None, pages))
        pages.dies_after = None

        assert ids(make(service, slices=True).search(COW, None, pages)) == whole
        assert len(service.answered) == len(set(service.answered)) == len(pages.kept)
        # The second run remembers when the first one asked: it does not come too early after it either.
        assert service.violations == []


def test_a_finished_search_asks_nothing_more():
    pages = KeptPages()
    with FakeOpenverse(make_items(500), VirtualClock()) as service:
        first = ids(make(service, slices=True).search(COW, None, pages))
        before = service.requests
        assert ids(make(service, slices=True).search(COW, None, pages)) == first
        assert service.requests == before


def test_a_token_that_ends_during_the_search_is_replaced(key):
    items = make_items(700)
    with FakeOpenverse(items, VirtualClock(), client=CLIENT, token_seconds=100, latency=5.0) as service:
        found = ids(make(service, slices=True).search(COW, None, Forgetful()))
        assert len(found) >= 0.99 * len(open_ids(items))
        assert service.tokens_given > 3
        assert service.violations == []


def test_a_token_that_is_revoked_during_the_search_is_replaced(key):
    items = make_items(1500)
    with FakeOpenverse(items, VirtualClock(), client=CLIENT) as service:
        search = make(service).search(COW, None, Forgetful())
        for _ in range(50):
            next(search)
        service.tokens.clear()
        assert len(list(search)) == 190
        assert service.tokens_given == 2


def test_a_key_that_was_not_confirmed_has_the_limits_of_those_without_one_and_they_are_kept(key):
    items = make_items(1000)
    with FakeOpenverse(items, VirtualClock(), client=CLIENT, verified=False) as service:
        list(make(service, slices=True).search(COW, 700, Forgetful()))
        assert service.requests > 20
        assert service.violations == []


def test_larger_pages_are_given_up_when_the_service_refuses_them(key):
    items = make_items(400)
    pages = KeptPages()
    with FakeOpenverse(items, VirtualClock(), client=CLIENT) as service:
        service.largest_page["registered"] = 20
        found = ids(make(service).search(COW, None, pages))
        assert len(found) == 240
        service.requests = 0
        assert ids(make(service).search(COW, None, pages)) == found
        assert service.requests == 0


def test_a_refused_key_is_reported_with_the_ways_out_and_stands_nowhere(key, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(SECRET_VARIABLE, "canary-wrong-secret")
    pages = KeptPages()
    with FakeOpenverse(make_items(60), VirtualClock(), client=CLIENT) as service:
        source = make(service)
        with pytest.raises(SourceUnavailable) as caught:
            list(source.search(COW, None, pages))
    assert str(caught.value) == (
        "openverse: the key in OPENVERSE_CLIENT_ID and OPENVERSE_CLIENT_SECRET was refused (HTTP 401). Correct it, or "
        "unset both to ask without a key. See docs/how_to/use_openverse.md."
    )
    told = "".join(traceback.format_exception(caught.value)) + caplog.text + repr(source) + dump(pages)
    assert "canary" not in told


def test_key_and_token_are_in_no_log_repr_question_answer_hit_or_pickle(key, caplog):
    caplog.set_level(logging.DEBUG)
    pages = KeptPages()
    with FakeOpenverse(make_items(500), VirtualClock(), client=CLIENT, faults=FAULTS) as service:
        source = make(service, slices=True)
        hits = list(source.search(COW, None, pages))
        state = source.state()
    assert service.tokens_given == 1
    told = caplog.text + repr(source) + dump(pages) + repr(hits) + repr(state)
    assert "page=2" in told
    assert "canary" not in told
    assert b"canary" not in pickle.dumps(hits)


def test_half_a_key_is_reported_before_anything_is_asked(monkeypatch):
    monkeypatch.setenv(ID_VARIABLE, "an-id")
    with FakeOpenverse([], VirtualClock()) as service:
        source = make(service)
        assert source.state().state == "needs"
        with pytest.raises(SourceUnavailable, match="OPENVERSE_CLIENT_SECRET is not set although its partner is"):
            list(source.search(COW, None, Forgetful()))
        assert service.requests == 0


def test_the_state_tells_the_limits_that_hold(key, monkeypatch):
    source = make_source("openverse", {})
    assert source.state().state == "ready"
    assert "10,000 a day" in source.state().detail
    monkeypatch.delenv(ID_VARIABLE)
    monkeypatch.delenv(SECRET_VARIABLE)
    assert source.state().state == "ready"
    assert "200 a day" in source.state().detail


def test_a_hit_carries_who_where_and_under_which_licence():
    items = make_items(30)
    item = next(i for i in items if i["license"] == "by" and i["source"] == "flickr" and not i["mature"])
    with FakeOpenverse([item], VirtualClock()) as service:
        (hit,) = make(service).search(COW, None, Forgetful())
    known = hit.provenance
    assert hit.class_name == "cow" and hit.read is None
    assert known.source == "openverse" and known.source_id == item["id"] and known.query == "cow"
    assert known.title == item["title"]
    assert (known.author, known.author_url) == (item["creator"], item["creator_url"])
    assert known.page_url == item["foreign_landing_url"]
    assert known.license == f"CC-BY-{item['license_version']}"
    assert known.license_url == item["license_url"]
    assert known.image_url == item["url"].replace("_b.jpg", ".jpg")


def test_by_default_only_licences_that_allow_changes_and_any_use_are_asked_for_and_taken():
    items = make_items(300)
    with FakeOpenverse(items, VirtualClock()) as service:
        hits = list(make(service).search(COW, None, Forgetful()))
        assert {hit.provenance.license.rsplit("-", 1)[0] for hit in hits} == {"CC-BY", "CC-BY-SA", "CC0", "CC-PDM"}
        closed = list(make(service, licences=["by-nc-nd"]).search(COW, None, Forgetful()))
        assert {hit.provenance.license.rsplit("-", 1)[0] for hit in closed} == {"CC-BY-NC-ND"}
        assert service.violations == []


def test_collections_can_be_chosen_and_left_out():
    items = make_items(200)
    source_of = {item["id"]: item["source"] for item in items}
    with FakeOpenverse(items, VirtualClock()) as service:
        only = ids(make(service, sources=["smk", "met"]).search(COW, None, Forgetful()))
        without = ids(make(service, excluded_sources=["flickr"]).search(COW, None, Forgetful()))
        every = ids(make(service, excluded_sources=[]).search(COW, None, Forgetful()))
        assert service.violations == []
    assert {source_of[i] for i in only} == {"smk", "met"}
    assert {source_of[i] for i in without} == {"smk", "met", "nasa", "wikimedia"}
    assert {source_of[i] for i in every} == {"flickr", "smk", "met", "nasa", "wikimedia"}


def test_chosen_collections_are_sliced_one_by_one():
    items = make_items(1500)
    with FakeOpenverse(items, VirtualClock()) as service:
        found = ids(
            make(service, sources=["flickr", "wikimedia"], slices=True, longest_wait=1e6).search(COW, None, Forgetful())
        )
        assert service.violations == []
    there = {i["id"] for i in items if i["source"] in ("flickr", "wikimedia") and not i["mature"]}
    there &= {i["id"] for i in items if i["license"] in OPEN_LICENCES}
    assert len(set(found) & there) >= 0.99 * len(there) and set(found) <= there


def test_results_that_cannot_be_used_are_passed_over():
    good, *bad = make_items(40, seed=3)[:8]
    for item in (good, *bad):
        item |= {"license": "by", "source": "met", "mature": False}
    bad[0]["url"] = None
    bad[1]["url"] = "ftp://met.example/1.jpg"
    bad[2]["id"] = None
    bad[3]["url"] = ""
    bad[4]["url"] = "javascript:alert(1)"
    bad[5]["url"] = 7
    bad[6]["license"] = "by-nd"  # although it was not asked for

    class Careless(FakeOpenverse):
        @staticmethod
        def _matches(item, query):
            return True

    with Careless([*bad, good], VirtualClock()) as service:
        assert ids(make(service).search(COW, None, Forgetful())) == [good["id"]]


def test_every_query_of_a_class_is_asked_and_nothing_is_found_twice():
    items = make_items(60)
    for item in items[30:]:
        item["words"] = {"calf"}
    items[0]["words"] = {"cow", "calf"}
    with FakeOpenverse(items, VirtualClock()) as service:
        hits = list(make(service).search(ClassSpec(1, "cow", ("cow", "calf", "ox")), None, Forgetful()))
    assert set(ids(hits)) == open_ids(items) and len(hits) == len(set(ids(hits)))
    assert {hit.provenance.query for hit in hits} == {"cow", "calf"}


def test_a_dead_service_is_reported():
    with FakeOpenverse(make_items(60), VirtualClock(), faults={n: Reply(502, HTML) for n in range(1, 30)}) as service:
        with pytest.raises(SourceUnavailable, match=r"openverse: 127.0.0.1/v1/images/ gave no answer in 5 attempts"):
            list(make(service).search(COW, None, Forgetful()))
        assert service.requests == 5


def test_a_blocked_address_is_reported_after_one_request():
    with FakeOpenverse([], VirtualClock(), faults={1: Reply(403, HTML)}) as service:
        with pytest.raises(SourceUnavailable, match=r"refused the request \(HTTP 403\)"):
            list(make(service).search(COW, None, Forgetful()))
        assert service.requests == 1


@pytest.mark.parametrize(
    "options",
    [
        {"licences": ["bye"]},
        {"licences": "by"},
        {"licences": []},
        {"sources": "flickr"},
        {"excluded_sources": [1]},
        {"longest_side": "340"},
        {"page_size": 0},
        {"slices": "no"},
        {"longest_wait": "5 minutes"},
        {"endpoint": "api.openverse.org"},
        {"endpoint": "file:///etc/passwd"},
    ],
    ids=str,
)
def test_wrong_options_are_named(options):
    (option,) = options
    with pytest.raises(SourceError, match=f"source 'openverse': {option} is .*, expected"):
        make_source("openverse", options)


def test_a_definition_cannot_send_the_key_elsewhere(key):
    with FakeOpenverse(make_items(30), VirtualClock(), client=CLIENT, host="127.0.0.2") as service:
        source = make(service)
        assert "without the key" in source.state().detail
        assert set(ids(source.search(COW, None, Forgetful()))) == open_ids(service.items)
        assert service.tokens_given == 0
        assert service.violations == []


@pytest.mark.parametrize(
    ("url", "side", "fitting"),
    [
        ("https://live.staticflickr.com/7372/125_acfd415fa7_b.jpg", 340, "https://live.staticflickr.com/7372/125_acfd415fa7.jpg"),
        ("https://live.staticflickr.com/7372/125_acfd415fa7.jpg", 340, "https://live.staticflickr.com/7372/125_acfd415fa7.jpg"),
        ("https://live.staticflickr.com/7372/125_acfd415fa7_b.jpg", 600, "https://live.staticflickr.com/7372/125_acfd415fa7_z.jpg"),
        ("https://live.staticflickr.com/7372/125_acfd415fa7_c.jpg", 700, "https://live.staticflickr.com/7372/125_acfd415fa7_c.jpg"),
        ("https://live.staticflickr.com/7372/125_acfd415fa7_b.jpg", 2000, "https://live.staticflickr.com/7372/125_acfd415fa7_b.jpg"),
        ("https://farm4.staticflickr.com/3/125_acfd415fa7_b.jpg", 340, "https://farm4.staticflickr.com/3/125_acfd415fa7.jpg"),
        ("https://live.staticflickr.com/7372/125_0bfd415fa7_o.jpg", 340, "https://live.staticflickr.com/7372/125_0bfd415fa7_o.jpg"),
        ("https://live.staticflickr.com/7372/125_0bfd415fa7_h.jpg", 340, "https://live.staticflickr.com/7372/125_0bfd415fa7_h.jpg"),
        ("https://live.staticflickr.com.evil.example/7372/125_ab_b.jpg", 340, "https://live.staticflickr.com.evil.example/7372/125_ab_b.jpg"),
        ("https://upload.wikimedia.org/a/ab/Cow.jpg", 340, "https://upload.wikimedia.org/a/ab/Cow.jpg"),
    ],
)  # fmt: skip
def test_flickrs_documented_sizes_are_used_and_nothing_is_guessed(url, side, fitting):
    assert fitting_url(url, side) == fitting
