"""Google through icrawler's feeder and parser, against a server that answers as Google did, does, and refuses to."""

import json
import logging
from urllib.parse import parse_qs, urlsplit

import pytest
from requests.adapters import HTTPAdapter
from virtual_clock import VirtualClock
from web_server import WebServer

from wss_data.errors import SourceError, SourceUnavailable
from wss_data.retrieval.sources import make_source
from wss_data.retrieval.sources.api import Pace
from wss_data.retrieval.sources.base import Forgetful
from wss_data.retrieval.sources.google import PACE, GoogleSource
from wss_data.spec import ClassSpec

COW = ClassSpec(1, "cow", ("cow",))


def page(*urls: str) -> bytes:
    """A page of results as the parser understands it: addresses in a script."""
    data = json.dumps([[url, 480, 640] for url in urls])
    return f"<html><head><script>AF_initDataCallback({{data:{data}}});</script></head></html>".encode()


JAVASCRIPT_PAGE = b"<html><body><noscript>Please enable JavaScript</noscript><script>var a=1;</script></body></html>"


class ToServer(HTTPAdapter):
    """Sends every request to a server of ours, whatever host it was meant for."""

    def __init__(self, server: WebServer) -> None:
        super().__init__(max_retries=0)
        self.server = server
        self.meant_for: list[str] = []

    def send(self, request, **settings):
        self.meant_for.append(request.url)
        request.url = self.server.url(urlsplit(request.url).path + "?" + urlsplit(request.url).query)
        return super().send(request, **settings)


def asked(path: str) -> tuple[str, int]:
    """The query and the first place that a request asks for."""
    values = parse_qs(urlsplit(path).query)
    return values["q"][0], int(values["start"][0])


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def google(monkeypatch, clock):
    """Makes a source whose requests a function answers; gives the source, its server and its adapter."""
    monkeypatch.delenv("WSS_GOOGLE", raising=False)
    servers = []

    def make(answer):
        def served(path, n):
            status, body = answer(path)
            return status, {"Content-Type": "text/html"}, body

        server = WebServer(served).__enter__()
        servers.append(server)
        source = GoogleSource(enabled=True)
        vars(source)["pace"] = Pace(PACE, clock)
        adapter = ToServer(server)
        source.crawler.session.mount("https://", adapter)
        source.crawler.session.mount("http://", adapter)
        return source, server, adapter

    yield make
    for server in servers:
        server.__exit__()


def urls(source, wanted=COW, limit=None, pages=None):
    return [hit.provenance.image_url for hit in source.search(wanted, limit, pages or Forgetful())]


def test_it_is_off_unless_asked_for_and_says_why(monkeypatch):
    monkeypatch.delenv("WSS_GOOGLE", raising=False)
    source = make_source("google", {})
    assert source.state().state == "off"
    for told in ("terms", "robots.txt", "JavaScript", "licence", "WSS_GOOGLE=1"):
        assert told in source.state().detail
    with pytest.raises(SourceUnavailable, match="source 'google' is off"):
        next(source.search(COW, 1, Forgetful()))


def test_the_environment_or_an_option_turns_it_on_with_a_warning(monkeypatch):
    monkeypatch.setenv("WSS_GOOGLE", "1")
    assert make_source("google", {}).state().state == "ready"
    monkeypatch.setenv("WSS_GOOGLE", "0")
    assert make_source("google", {}).state().state == "off"
    state = make_source("google", {"enabled": True}).state()
    assert state.state == "ready"
    assert "expect no results" in state.detail
    with pytest.raises(SourceError, match="enabled is 'yes', expected true or false"):
        make_source("google", {"enabled": "yes"})


def test_addresses_on_a_page_become_hits_with_the_query_and_without_a_licence(google):
    source, _, _ = google(lambda path: (200, page("https://a.example/1.jpg", "https://b.example/2.png?x=1.jpg")))
    first, second = source.search(COW, 2, Forgetful())
    assert first.provenance.image_url == "https://a.example/1.jpg"
    assert second.provenance.image_url == "https://b.example/2.png"
    assert (first.class_name, first.provenance.source, first.provenance.query) == ("cow", "google", "cow")
    assert first.provenance.license is None
    assert first.read is None


def test_the_same_address_has_the_same_identity_for_ever(google):
    source, _, _ = google(lambda path: (200, page("https://a.example/1.jpg")))
    (hit,) = source.search(COW, 1, Forgetful())
    assert hit.provenance.source_id == "db0dc31eb89c42b28677"


def test_queries_go_on_page_by_page_until_one_is_empty_and_no_address_comes_twice(google):
    def answer(path):
        query, start = asked(path)
        if start >= 200:
            return 200, b"<html></html>"
        return 200, page(f"https://x.example/{query}{start}.jpg", "https://x.example/same.jpg")

    source, server, _ = google(answer)
    found = urls(source, ClassSpec(1, "cow", ("cow", "cattle")))
    assert found == [
        "https://x.example/cow0.jpg",
        "https://x.example/same.jpg",
        "https://x.example/cow100.jpg",
        "https://x.example/cattle0.jpg",
        "https://x.example/cattle100.jpg",
    ]
    assert sum(server.requests.values()) == 6


def test_no_more_pages_are_asked_for_than_the_limit_needs(google):
    source, server, _ = google(lambda path: (200, page(*(f"https://x.example/{i}.jpg" for i in range(100)))))
    assert len(urls(source, limit=30)) == 30
    assert sum(server.requests.values()) == 1


def test_a_page_that_needs_javascript_is_an_error_and_not_an_empty_class(google):
    """The parser returns nothing for it; in icrawler's own thread that is a TypeError that nobody sees."""
    source, server, _ = google(lambda path: (200, JAVASCRIPT_PAGE))
    with pytest.raises(SourceUnavailable, match=r"'cow' holds no image address \(\d+ bytes, a page that needs JavaScr"):
        urls(source)
    assert sum(server.requests.values()) == 1


def test_a_page_that_breaks_the_parser_is_the_same_error(google):
    source, _, _ = google(lambda path: (200, rb"<script>http://a.example/\u12.jpg</script>"))
    with pytest.raises(SourceUnavailable, match="holds no image address"):
        urls(source)


def test_one_query_without_results_does_not_lose_those_of_the_others(google):
    def answer(path):
        return 200, page("https://x.example/1.jpg") if asked(path) == ("cattle", 0) else JAVASCRIPT_PAGE

    source, _, _ = google(answer)
    assert urls(source, ClassSpec(1, "cow", ("cow", "cattle"))) == ["https://x.example/1.jpg"]


@pytest.mark.parametrize("status", [403, 429, 500])
def test_a_refusal_is_reported_and_not_repeated(google, status):
    source, server, _ = google(lambda path: (status, b"unusual traffic"))
    with pytest.raises(SourceUnavailable, match=rf"refused to answer .* \(status {status}\).*openverse"):
        urls(source)
    assert sum(server.requests.values()) == 1


def test_no_answer_at_all_is_reported(google):
    source, server, _ = google(lambda path: (200, b""))
    server.__exit__()
    with pytest.raises(SourceUnavailable, match=r"did not answer when asked for 'cow' \(ConnectionError\)"):
        urls(source)


@pytest.mark.parametrize(
    "address",
    [
        "https://encrypted-tbn0.gstatic.com/images/1.jpg",
        "https://lh3.googleusercontent.com/1.jpg",
        "https:///1.jpg",
        "http://x.example:port/1.jpg",
    ],
)
def test_googles_own_thumbnails_and_what_is_no_address_are_left_out(google, address):
    source, _, _ = google(lambda path: (200, page(address, "https://x.example/1.jpg")))
    assert urls(source, limit=1) == ["https://x.example/1.jpg"]


def test_an_answer_that_is_remembered_is_not_asked_for_again(google, tmp_path):
    from wss_data.retrieval.journal import Journal

    source, server, _ = google(lambda path: (200, page(f"https://x.example/{asked(path)[1]}.jpg")))
    with Journal(tmp_path / "journal.sqlite") as journal:
        first = next(source.search(COW, None, journal.pages("cow", "google")))
        again = next(source.search(COW, None, journal.pages("cow", "google")))
    assert first == again
    assert sum(server.requests.values()) == 1


def test_a_failure_is_never_remembered(google, tmp_path):
    from wss_data.retrieval.journal import Journal

    answers = iter([(200, JAVASCRIPT_PAGE), (429, b"")])
    source, _, _ = google(lambda path: next(answers, (200, page("https://x.example/1.jpg"))))
    with Journal(tmp_path / "journal.sqlite") as journal:
        for _ in range(2):
            with pytest.raises(SourceUnavailable):
                urls(source, limit=1, pages=journal.pages("cow", "google"))
        assert urls(source, limit=1, pages=journal.pages("cow", "google")) == ["https://x.example/1.jpg"]


def test_requests_go_to_google_at_a_pace_of_one_in_five_seconds(google, clock):
    source, _, adapter = google(lambda path: (200, page(f"https://x.example/{asked(path)[1]}.jpg")))
    assert len(urls(source)) == 10
    assert {urlsplit(url).netloc for url in adapter.meant_for} == {"www.google.com"}
    assert clock.monotonic() >= 45


def test_it_introduces_itself_by_its_own_name_and_leaves_the_programs_log_alone(google):
    before = list(logging.getLogger().handlers), logging.getLogger().level
    source, _, _ = google(lambda path: (200, page("https://x.example/1.jpg")))
    assert source.crawler.session.headers["User-Agent"].startswith("wss/")
    assert "Mozilla" not in str(source.crawler.session.headers)
    assert (logging.getLogger().handlers, logging.getLogger().level) == before
