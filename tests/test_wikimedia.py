"""The source Wikimedia Commons against a server that answers as MediaWiki does, on a virtual clock."""

import pytest
from fake_service import HTML, KeptPages, Reply
from fake_wikimedia import FakeWikimedia, lagged, make_items
from virtual_clock import VirtualClock

from wss_data.errors import SourceError, SourceUnavailable
from wss_data.retrieval.headers import CONTACT_VARIABLE
from wss_data.retrieval.sources import make_source, wikimedia
from wss_data.retrieval.sources.base import Forgetful
from wss_data.retrieval.sources.wikimedia import plain_text
from wss_data.spec import ClassSpec

COW = ClassSpec(1, "cow", ("cow",))
FAULTS = {
    2: lagged(),
    5: Reply(502, HTML),
    9: Reply(200, b'{"query": {"pages": [{"pageid": 1'),
    14: Reply(429, b"<html>too many requests</html>", {"Retry-After": "17"}),
    20: Reply(0),
    27: Reply(200, {"error": {"code": "internal_api_error_DBQueryError", "info": "[x] Caught exception"}}),
    33: Reply(200, {"error": {"code": "ratelimited", "info": "You've exceeded your rate limit."}}),
    40: Reply(200, HTML),
}


@pytest.fixture(autouse=True)
def contact(monkeypatch):
    monkeypatch.setenv(CONTACT_VARIABLE, "farmer@farm.example")


def make(service, **options):
    source = make_source("wikimedia", {"endpoint": f"{service.url}/w/api.php", **options})
    vars(source)["clock"] = service.clock
    return source


def ids(hits):
    return [hit.provenance.source_id for hit in hits]


def page_ids(items):
    return [str(item["pageid"]) for item in items]


def one_hit(**changes):
    (item,) = make_items(1)
    with FakeWikimedia([{**item, **changes}], VirtualClock()) as service:
        hits = list(make(service).search(COW, None, Forgetful()))
    return hits[0] if hits else None


def test_at_least_99_percent_of_3000_ids_are_found_without_breaking_a_rule():
    items = make_items(3000)
    with FakeWikimedia(items, VirtualClock(), halves=True, overlap=True, latency=0.02, faults=FAULTS) as service:
        found = ids(make(service).search(COW, None, Forgetful()))
        assert service.violations == []
    assert len(found) == len(set(found))
    assert set(found) <= set(page_ids(items))
    assert len(found) >= 0.99 * len(items)


def test_results_come_best_first_although_an_answer_is_sorted_by_page_id():
    items = make_items(120)
    with FakeWikimedia(items, VirtualClock()) as service:
        assert ids(make(service).search(COW, None, Forgetful())) == page_ids(items)
        assert service.requests == 3


def test_no_more_requests_go_out_in_a_minute_than_the_limit(monkeypatch):
    assert wikimedia.LIMITS == ((120, 60.0),)
    monkeypatch.setattr(wikimedia, "LIMITS", ((8, 60.0),))
    clock = VirtualClock()
    with FakeWikimedia(make_items(1000), clock, latency=0.5, a_minute=8) as service:
        list(make(service).search(COW, None, Forgetful()))
        assert service.requests == 20
        assert clock.monotonic() >= 120.0
        assert service.violations == []


def test_the_search_stops_before_the_result_that_the_service_refuses(monkeypatch):
    assert wikimedia.MAX_OFFSET == 10_000
    monkeypatch.setattr(wikimedia, "MAX_OFFSET", 1000)
    with FakeWikimedia(make_items(1080), VirtualClock(), max_offset=1000) as service:
        assert len(ids(make(service).search(COW, None, Forgetful()))) == 1000
        assert service.requests == 20
        assert service.violations == []


def test_a_service_whose_search_ends_earlier_gives_what_it_has():
    with FakeWikimedia(make_items(500), VirtualClock(), max_offset=200) as service:
        assert len(ids(make(service).search(COW, None, Forgetful()))) == 200


def test_a_limit_ends_the_search_without_a_further_request():
    with FakeWikimedia(make_items(500), VirtualClock()) as service:
        assert len(ids(make(service).search(COW, 50, Forgetful()))) == 50
        assert service.requests == 1


@pytest.mark.parametrize("dies_after", [0, 1, 3, 11])
def test_a_killed_search_asks_nothing_twice_and_finds_the_same(dies_after):
    items = make_items(600)
    with FakeWikimedia(items, VirtualClock(), halves=True) as service:
        pages = KeptPages(dies_after)
        with pytest.raises(KeptPages.Killed):
            list(make(service).search(COW, None, pages))
        pages.dies_after = None

        assert set(ids(make(service).search(COW, None, pages))) == set(page_ids(items))
        assert len(service.answered) == len(set(service.answered)) == len(pages.kept)
        assert service.violations == []


def test_without_a_contact_nothing_is_asked_and_the_way_out_is_reported(monkeypatch):
    monkeypatch.delenv(CONTACT_VARIABLE)
    with FakeWikimedia(make_items(5), VirtualClock()) as service:
        source = make(service)
        assert source.state().state == "needs"
        with pytest.raises(SourceUnavailable, match="set WSS_CONTACT to your e-mail address or web page"):
            list(source.search(COW, None, Forgetful()))
        assert service.requests == 0
    monkeypatch.setenv(CONTACT_VARIABLE, "me")
    assert source.state().state == "needs"
    monkeypatch.setenv(CONTACT_VARIABLE, "farmer@farm.example")
    assert source.state().state == "ready"


def test_lag_is_waited_for_as_long_as_the_service_says():
    clock = VirtualClock()
    with FakeWikimedia(make_items(5), clock, faults={1: lagged(), 2: lagged()}) as service:
        assert len(ids(make(service).search(COW, None, Forgetful()))) == 5
        assert clock.monotonic() == 10.0


def test_an_error_that_does_not_pass_is_reported_in_the_services_words():
    refusal = Reply(200, {"error": {"code": "blocked", "info": "Your address is blocked."}})
    with FakeWikimedia(make_items(5), VirtualClock(), faults={1: refusal}) as service:
        with pytest.raises(
            SourceUnavailable, match=r"wikimedia: .* for 'cow' \(blocked: Your address is blocked\.\)\. See docs"
        ):
            list(make(service).search(COW, None, Forgetful()))
        assert service.requests == 1


def test_a_dead_service_is_reported():
    with FakeWikimedia([], VirtualClock(), faults={n: Reply(503, HTML) for n in range(1, 9)}) as service:
        with pytest.raises(SourceUnavailable, match=r"wikimedia: 127.0.0.1/w/api.php gave no answer in 5 attempts"):
            list(make(service).search(COW, None, Forgetful()))
        assert service.requests == 5


def test_no_results_are_no_hits_and_no_error():
    with FakeWikimedia([], VirtualClock()) as service:
        assert list(make(service).search(COW, None, Forgetful())) == []


def test_a_hit_carries_who_where_and_under_which_licence():
    item = make_items(1)[0] | {
        "LicenseShortName": "CC BY-SA 3.0 de",
        "LicenseUrl": "https://creativecommons.org/licenses/by-sa/3.0/de/deed.en",
    }
    with FakeWikimedia([item], VirtualClock()) as service:
        (hit,) = make(service).search(COW, None, Forgetful())
    known = hit.provenance
    assert hit.class_name == "cow" and hit.read is None
    assert known.source == "wikimedia" and known.source_id == str(item["pageid"]) and known.query == "cow"
    assert known.title == "Cow no. 0"
    assert known.author == "Ann & B. 0"
    assert known.author_url == "http://commons.wikimedia.org/wiki/User:A0"
    assert known.page_url == "https://commons.wikimedia.org/wiki/File:Cow_no._0.jpg"
    assert known.license == "CC-BY-SA-3.0-DE"
    assert known.license_url == "https://creativecommons.org/licenses/by-sa/3.0/de/deed.en"
    assert known.image_url.endswith("/500px-Cow_no._0.jpg")


def test_a_file_that_was_renamed_or_improved_keeps_its_identity():
    before = one_hit()
    after = one_hit(title="File:Brown cow.jpg", sha1="0" * 40, width=5000)
    assert before.provenance.source_id == after.provenance.source_id


@pytest.mark.parametrize(("longest_side", "width"), [(340, 500), (500, 500), (501, 960), (100, 120), (9999, 3840)])
def test_the_smallest_standard_thumbnail_that_has_the_pixels_is_taken(longest_side, width):
    with FakeWikimedia(make_items(1), VirtualClock()) as service:
        source = make(service, longest_side=longest_side)
        (hit,) = source.search(COW, None, Forgetful())
        assert service.violations == []
    wanted = f"/{width}px-Cow_no._0.jpg" if longest_side < 4000 else "/a/ab/Cow_no._0.jpg"
    assert hit.provenance.image_url.endswith(wanted)


def test_a_small_original_is_taken_as_it_is_unless_it_is_a_tiff():
    assert one_hit(width=300, height=200).provenance.image_url.startswith("https://upload.wikimedia.org/")
    tiff = one_hit(width=300, height=200, mime="image/tiff", title="File:Cow.tif")
    assert "500px" in tiff.provenance.image_url


@pytest.mark.parametrize(
    ("name", "url", "identifier"),
    [
        ("CC BY 2.0", "https://creativecommons.org/licenses/by/2.0", "CC-BY-2.0"),
        ("CC BY-SA 2.5 pl", "https://creativecommons.org/licenses/by-sa/2.5/pl/deed.en", None),
        ("CC0", "", "CC0-1.0"),
        ("Public domain", "", None),
        ("Public domain", "https://creativecommons.org/publicdomain/mark/1.0/deed.en", "CC-PDM-1.0"),
        ("FAL", "http://artlibre.org/licence/lal/en", "LAL-1.3"),
        ("GFDL", "http://www.gnu.org/copyleft/fdl.html", None),
        ("CC BY-SA 4.0", "", None),
    ],
)
def test_free_licences_are_taken_and_named_where_they_have_a_name(name, url, identifier):
    hit = one_hit(LicenseShortName=name, LicenseUrl=url)
    assert hit.provenance.license == identifier
    assert hit.provenance.license_url == (url or None)


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("CC BY-ND 2.0", "https://creativecommons.org/licenses/by-nd/2.0"),
        ("CC BY-NC-SA 2.0", ""),
        ("CC-BY-NC-ND-3.0", ""),
        ("", ""),
    ],
)
def test_licences_that_forbid_changes_or_uses_and_unknown_ones_are_left_out(name, url):
    assert one_hit(LicenseShortName=name, LicenseUrl=url) is None


def test_licences_can_be_chosen():
    items = make_items(100)
    with FakeWikimedia(items, VirtualClock()) as service:
        hits = list(make(service, licences=["cc0", "pdm"]).search(COW, None, Forgetful()))
    wanted = {str(i["pageid"]) for i in items if i["LicenseShortName"] in ("CC0", "Public domain")}
    assert set(ids(hits)) == wanted


def test_files_that_are_gone_are_passed_over():
    items = make_items(10)
    items[4]["missing"] = True
    with FakeWikimedia(items, VirtualClock()) as service:
        assert ids(make(service).search(COW, None, Forgetful())) == page_ids(items[:4] + items[5:])


@pytest.mark.parametrize(
    ("html", "text", "link"),
    [
        ('<a href="//commons.wikimedia.org/wiki/User:Ann">Ann</a>', "Ann", "https://commons.wikimedia.org/wiki/User:Ann"),
        ('<a rel="nofollow" href="https://ann.example">Ann</a> &amp; <b>Bea</b>', "Ann & Bea", "https://ann.example"),
        ('<a href="/wiki/User:Ann">Ann</a>', "Ann", "https://commons.wikimedia.org/wiki/User:Ann"),
        ('<a href="javascript:alert(1)">Ann</a>', "Ann", None),
        ("<script>alert(1)</script>Ann<style>b{}</style>", "Ann", None),
        ("Ann<br>Bea\n  Cleo", "Ann Bea Cleo", None),
        ("<div><span></span></div>", None, None),
        ("Ann <", "Ann <", None),
        ("", None, None),
    ],
)  # fmt: skip
def test_html_becomes_the_text_that_a_reader_sees(html, text, link):
    assert plain_text(html, "https://commons.wikimedia.org/w/api.php") == (text, link)


@pytest.mark.parametrize(
    "options",
    [{"licences": ["gpl"]}, {"licences": "by"}, {"longest_side": 0}, {"longest_wait": None}, {"endpoint": "commons"}],
    ids=str,
)
def test_wrong_options_are_named(options):
    (option,) = options
    with pytest.raises(SourceError, match=f"source 'wikimedia': {option} is .*, expected"):
        make_source("wikimedia", options)
