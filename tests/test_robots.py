import gzip
import threading
from concurrent.futures import ThreadPoolExecutor

import fault_images as drawn
import pytest
from limits import bare_loops
from raw_server import RawServer
from virtual_clock import VirtualClock

from wss_data.errors import DownloadError
from wss_data.retrieval import robots
from wss_data.retrieval.fetch import Fetcher
from wss_data.retrieval.headers import opt_outs
from wss_data.retrieval.robots import Robots
from wss_data.spec import DownloadSpec

PAGE = "http://pictures.example/a/b.jpg"


class Web:
    """Addresses of robots.txt -> their text or the error to raise; counts what is asked for."""

    def __init__(self, **answers: str | DownloadError) -> None:
        self.answers = {f"http://{host.replace('_', '.')}/robots.txt": answer for host, answer in answers.items()}
        self.asked: list[str] = []

    def read(self, url: str) -> str:
        self.asked.append(url)
        answer = self.answers[url]
        if isinstance(answer, DownloadError):
            raise answer
        return answer


def allows(text: str, url: str = PAGE) -> bool:
    try:
        Robots(Web(pictures_example=text).read, VirtualClock()).check(url, 1.0)
    except DownloadError as error:
        assert (error.reason, error.transient, error.opt_outs) == ("robots", False, ("robots.txt: disallow",))
        return False
    return True


BUSY = DownloadError("server_error", "busy", transient=True)


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("", True),
        ("User-agent: *\nDisallow:", True),
        ("User-agent: *\nDisallow: /", False),
        ("User-agent: *\nDisallow: /b/", True),
        ("User-agent: *\nDisallow: /a/\nAllow: /a/b.jpg", True),
        ("User-agent: *\nDisallow: /*.jpg$", False),
        ("User-agent: wss\nDisallow: /\n\nUser-agent: *\nAllow: /", False),
        ("User-agent: WSS\nDisallow: /", False),
        ("User-agent: googlebot\nUser-agent: wss\nDisallow: /", False),
        ("User-agent: *\nDisallow: /\n\nUser-agent: wss\nAllow: /", True),
        ("User-agent: googlebot\nDisallow: /", True),
        ("User-agent: googlebot\nDisallow: /\nUser-agent: *\nDisallow: /b", True),
        ("user agent wss # us\r\ndisallow: /", False),
        ("<html>Not found</html>", True),
        ("\0\x01\xff" * 1000, True),
    ],
)
def test_rules_are_obeyed_as_they_are_written(text, allowed):
    assert allows(text) is allowed


@pytest.mark.parametrize("end", ["\n", "\x0c", "\x85", "\u2028"])
def test_rules_for_thousands_of_other_crawlers_cost_next_to_nothing(end):
    agents = [f"User-agent: a{i}" for i in range(10_000)]
    text = end.join([*agents, *["Disallow: /x"] * 10_000, "User-agent: wss", "Disallow: /"])
    with bare_loops(500):
        assert not allows(text)


def test_a_robots_txt_is_asked_for_once_by_many_threads_and_for_a_day():
    web, clock = Web(pictures_example="User-agent: *\nDisallow: /private"), VirtualClock()
    known, together = Robots(web.read, clock), threading.Barrier(8)

    def check(i: int) -> None:
        together.wait(10)
        known.check(f"http://pictures.example/{i}.jpg", 10.0)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(check, range(8)))
    clock.advance(robots.REMEMBER_S - 1)
    known.check(PAGE, 1.0)
    assert len(web.asked) == 1
    clock.advance(1)
    known.check(PAGE, 1.0)
    assert len(web.asked) == 2


def test_each_scheme_host_and_port_has_its_own_rules():
    asked = []
    known = Robots(lambda url: asked.append(url) or "", VirtualClock())
    for url in ("http://a.example/1", "HTTP://A.example/2", "https://a.example/1", "http://a.example:81/1"):
        known.check(url, 1.0)
    assert asked == [
        f"{origin}/robots.txt" for origin in ("http://a.example", "https://a.example", "http://a.example:81")
    ]


def test_a_host_whose_robots_txt_is_missing_allows_everything():
    Robots(Web(pictures_example=DownloadError("gone", "404")).read, VirtualClock()).check(PAGE, 1.0)


def test_a_host_whose_robots_txt_cannot_be_read_is_tried_once_more_and_then_left_alone_for_a_while():
    web, clock = Web(pictures_example=BUSY), VirtualClock()
    known = Robots(web.read, clock)

    def failure() -> DownloadError:
        with pytest.raises(DownloadError) as error:
            known.check(PAGE, 1.0)
        assert (error.value.reason, error.value.transient) == ("server_error", True)
        return error.value

    failure()
    assert failure().retry_after is None
    assert len(web.asked) == 1  # threads that waited for the answer share it
    clock.advance(robots.FIRST_TROUBLE_S)
    failure()
    assert len(web.asked) == 2
    clock.advance(robots.TROUBLE_S - 10)
    assert failure().retry_after == pytest.approx(10)
    assert len(web.asked) == 2
    clock.advance(10)
    web.answers = dict.fromkeys(web.answers, "")
    known.check(PAGE, 1.0)


def test_waiting_for_another_thread_that_reads_the_same_robots_txt_has_an_end():
    started, go_on = threading.Event(), threading.Event()

    def slow(_: str) -> str:
        started.set()
        go_on.wait(30)
        return ""

    known = Robots(slow, VirtualClock())
    first = threading.Thread(target=known.check, args=(PAGE, 30.0))
    first.start()
    started.wait(30)
    with pytest.raises(DownloadError, match=r"robots\.txt was not read in time") as error:
        known.check(PAGE, 0.05)
    go_on.set()
    first.join()
    assert (error.value.reason, error.value.transient) == ("timeout", True)


def test_what_is_remembered_of_hosts_is_bounded_in_number_and_in_size(monkeypatch):
    monkeypatch.setattr(robots, "HOSTS_REMEMBERED", 50)
    monkeypatch.setattr(robots, "TEXT_REMEMBERED", 10_000)
    for text, most in (("", 50), ("#" * 1000, 11)):
        known = Robots(lambda _, text=text: text, VirtualClock())
        for i in range(200):
            known.check(f"http://{i}.example/", 1.0)
        assert 1 < len(known._hosts) <= most
        assert known._characters == len(text) * len(known._hosts)


@pytest.mark.parametrize(
    ("text", "delay"),
    [
        ("", None),
        ("User-agent: *\nDisallow: /x", None),
        ("User-agent: *\nCrawl-delay: 2.5", 2.5),
        ("User-agent: wss\nCrawl-delay: 7\nUser-agent: *\nCrawl-delay: 1", 7.0),
        ("User-agent: *\nRequest-rate: 1/4", 4.0),
        ("User-agent: *\nCrawl-delay: soon", None),
    ],
)
def test_the_delay_that_a_host_asks_for_is_known_once_its_rules_are(text, delay):
    known = Robots(Web(pictures_example=text).read, VirtualClock())
    assert known.crawl_delay(PAGE) is None
    known.check(PAGE, 1.0)
    assert known.crawl_delay(PAGE) == delay


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([], []),
        (["noai"], ["noai"]),
        (["NOAI, noimageai"], ["noai", "noimageai"]),
        (["nofollow", "noindex"], ["noindex"]),
        (["noindex", "noindex"], ["noindex"]),
        (["noimageindex"], ["noimageindex"]),
        (["none"], ["none"]),
        (["noml"], ["noml"]),
        (["all"], []),
        (["nofollow, noarchive, nosnippet, notranslate"], []),
        (["max-image-preview: none"], []),
        (["max-snippet: -1, noindex"], ["noindex"]),
        (["unavailable_after: 25 Jun 2040 15:00:00 GMT"], []),
        (["googlebot: noindex"], []),
        (["googlebot: noindex, nofollow, none"], []),
        (["googlebot: noindex", "noai"], ["noai"]),
        (["wss: noai"], ["noai"]),
        (["WSS : noindex"], ["noindex"]),
        (["googlebot: nofollow, wss: noindex"], ["noindex"]),
        (["*: noai"], ["noai"]),
        (["noai; noindex"], []),
        (["", ",,,", ":", "a:b:c"], []),
    ],
)
def test_x_robots_tag_is_read_by_its_grammar(values, found):
    assert opt_outs(values, []) == tuple(f"X-Robots-Tag: {word}" for word in found)


@pytest.mark.parametrize(("values", "reserved"), [([], False), (["0"], False), (["1"], True), ([" 1 "], True)])
def test_tdm_reservation_reserves_when_it_is_1(values, reserved):
    assert opt_outs([], values) == (("tdm-reservation: 1",) if reserved else ())


def served(text: bytes, *headers: bytes) -> bytes:
    head = b"\r\n".join([b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(text), *headers])
    return head + b"\r\n\r\n" + text


@pytest.mark.parametrize(
    "answer",
    [
        served(b"User-agent: *\nDisallow: /"),
        served(b"\xef\xbb\xbfUser-agent: *\r\nDisallow: /", b"Content-Type: text/plain"),
        served(gzip.compress(b"User-agent: *\nDisallow: /"), b"Content-Encoding: gzip"),
        served(b"User-agent: *\nDisallow: /\n" + b"#" * 2_000_000),
        served(b"User-agent: *\nDisallow: /\n", b"X-Robots-Tag: noindex"),
    ],
)
def test_the_fetcher_reads_a_robots_txt_however_it_is_served(answer):
    with RawServer(answer) as server, Fetcher(DownloadSpec(allow_hosts=(server.host,))) as fetcher:
        for n in range(3):
            with pytest.raises(DownloadError) as error:
                fetcher.fetch(f"http://{server.host}/{n}.jpg")
            assert error.value.reason == "robots"
        assert server.requests == 1


def test_a_robots_txt_that_unpacks_to_a_gigabyte_is_read_no_further_than_any_other():
    answer = served(drawn.gzip_bomb(), b"Content-Encoding: deflate")
    with RawServer(answer) as server, Fetcher(DownloadSpec(allow_hosts=(server.host,))) as fetcher:
        assert len(fetcher._read_robots(f"http://{server.host}/robots.txt")) == robots.MAX_BYTES


def test_without_respect_for_robots_none_is_asked_for():
    answer = served(drawn.jpeg("robots"))
    with (
        RawServer(answer) as server,
        Fetcher(DownloadSpec(allow_hosts=(server.host,), respect_robots=False)) as fetcher,
    ):
        fetcher.fetch(server.url)
        assert [head.split(b" ")[1] for head in server.heads] == [b"/a.jpg"]
