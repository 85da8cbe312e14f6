import http.client
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import format_datetime

import fault_images as drawn
import pytest
from fault_server import CASES, FaultProcess
from raw_server import RawServer
from virtual_clock import VirtualClock

import wss_data
from wss_data.errors import DownloadError, SpecError
from wss_data.retrieval import network
from wss_data.retrieval.fetch import Fetched, Fetcher
from wss_data.retrieval.headers import retry_after, user_agent
from wss_data.retrieval.robots import FIRST_TROUBLE_S
from wss_data.spec import DownloadSpec

JPEG = drawn.jpeg("fetch")


def answer(body: bytes = JPEG, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def settings_for(server: RawServer, **values) -> DownloadSpec:
    return DownloadSpec(**{"allow_hosts": (server.host,), "respect_robots": False, **values})


def failure(fetcher: Fetcher, url: str) -> DownloadError:
    with pytest.raises(DownloadError) as error:
        fetcher.fetch(url)
    return error.value


# --- the fault server: what every case ends as, asked up to three times while its trouble looks like passing -------

Outcome = tuple[str, str]


@pytest.fixture(scope="module")
def server():
    with FaultProcess() as server:
        yield server


@pytest.fixture(scope="module")
def outcomes(server) -> dict[str, Outcome]:
    # Cases that must time out get little time, the others plenty: a busy machine is no slow server.
    with (
        Fetcher(DownloadSpec(allow_hosts=server.hosts, attempts=1, deadline_s=1.0), clock := VirtualClock()) as hurried,
        Fetcher(DownloadSpec(allow_hosts=server.hosts), clock) as patient,
    ):

        def outcome(name: str) -> Outcome:
            hangs = "timeout" in CASES[name].reasons or name == "hang_once"
            status = reason = ""
            for _ in range(3):
                try:
                    (hurried if hangs else patient).fetch(server.url(name))
                    return "stored", ""
                except DownloadError as error:
                    status, reason = ("failed" if error.transient else "dropped"), error.reason
                    if not error.transient:
                        break
                    clock.advance(FIRST_TROUBLE_S)
            return status, reason

        with ThreadPoolExecutor(16) as pool:
            return dict(zip(CASES, pool.map(outcome, CASES), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_every_fault_ends_as_it_should(name, server, outcomes):
    case = CASES[name]
    status, reason = outcomes[name]
    if case.fetch_decides:
        assert status == case.expected
        assert not case.reasons or reason in case.reasons
    else:
        assert status == "stored"  # for the decoder to find out
    assert server.requests(name) <= case.requests_at_most


def test_no_fault_leads_to_a_forbidden_port(server, outcomes):
    assert server.canary_hits == 0


def test_there_are_at_least_sixty_cases_and_some_of_every_kind():
    groups = {case.group for case in CASES.values()}
    assert len(CASES) >= 60
    assert groups >= {"good", "bad body", "transient", "retry after", "permanent", "opt-out", "placeholder", "hostile"}


# --- time and size -------------------------------------------------------------------------------------------------

DRIPS = {
    "headers": b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 10_000,
    "status line": b"HTTP/1.1 200 " + b"O" * 10_000,
    "body": b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + JPEG,
    "robots.txt": b"HTTP/1.1 200 OK\r\n\r\n" + b"#" * 10_000,
}


@pytest.mark.parametrize("where", DRIPS)
def test_a_slow_drip_is_cut_off_at_the_deadline_wherever_it_drips(where):
    with RawServer(DRIPS[where], drip_s=0.02) as server:
        settings = settings_for(server, attempts=1, deadline_s=0.5, respect_robots=where == "robots.txt")
        with Fetcher(settings) as fetcher:
            before = time.monotonic()
            error = failure(fetcher, server.url)
    assert (error.reason, error.transient) == ("timeout", True)
    assert time.monotonic() - before < 4


def test_a_chain_of_redirects_has_one_deadline_for_all_of_it(server):
    settings = DownloadSpec(allow_hosts=server.hosts, attempts=1, deadline_s=0.5)
    with Fetcher(settings) as fetcher:
        before = time.monotonic()
        assert failure(fetcher, server.url("redirect_slowly", 1)).reason == "timeout"
    assert time.monotonic() - before < 4


def test_a_server_that_sends_headers_for_ever_costs_no_more_than_the_limit(monkeypatch):
    received = []
    count = network._count_bytes
    monkeypatch.setattr(network, "_count_bytes", lambda size: received.append(size) or count(size))
    with RawServer(b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000) as server, Fetcher(settings_for(server)) as fetcher:
        assert failure(fetcher, server.url).reason == "bad_answer"
    assert sum(received) < 500_000


@pytest.mark.parametrize("told", [True, False])
def test_a_file_over_the_limit_is_refused_whether_its_length_is_announced_or_not(told):
    body = JPEG + bytes(100_000)
    head = answer(body) if told else b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s" % (10**9, body)
    with RawServer(head) as server, Fetcher(settings_for(server)) as fetcher:
        fetcher.max_bytes = 100_000
        assert failure(fetcher, server.url).reason == "too_many_bytes"


def test_a_file_exactly_at_the_limit_is_taken():
    with RawServer(answer()) as server, Fetcher(settings_for(server)) as fetcher:
        fetcher.max_bytes = len(JPEG)
        assert fetcher.fetch(server.url).data == JPEG


def test_a_file_that_is_no_image_is_not_read_to_its_end():
    # The server sends the start only and then waits: reading on would end in a timeout.
    with RawServer(answer(drawn.HTML, length=10_000_000)) as server, Fetcher(settings_for(server)) as fetcher:
        assert failure(fetcher, server.url).reason == "not_an_image"


# --- what is asked, and what is made of the answer -----------------------------------------------------------------


def test_the_bytes_come_as_they_were_sent_with_the_final_address():
    first = answer(b"", "Location: /b%20c.jpg?size=big#part", status="301 Moved Permanently")
    with RawServer(answer(JPEG, "Content-Type: Image/JPEG; q=1")) as last, RawServer(first) as server:
        server.answer = answer(b"", f"Location: {last.url}", status="307 Temporary Redirect")
        settings = settings_for(server, allow_hosts=(server.host, last.host))
        with Fetcher(settings) as fetcher:
            assert fetcher.fetch(server.url) == Fetched(JPEG, last.url)


@pytest.mark.parametrize(
    ("location", "asked"),
    [
        ("/b.jpg", "/b.jpg"),
        ("b.jpg", "/dir/b.jpg"),
        ("?size=big", "/dir/a.jpg?size=big"),
        ("../c d.jpg#part", "/c%20d.jpg"),
        ("/gr\u00fcn.jpg", "/gr%C3%BCn.jpg"),
    ],
)
def test_redirects_are_followed_as_browsers_do(location, asked):
    redirect = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location.encode() + b"\r\n\r\n"
    with RawServer(redirect) as server, Fetcher(settings_for(server)) as fetcher:
        failure(fetcher, f"http://{server.host}/dir/a.jpg")
        assert [head.split(b" ")[1].decode() for head in server.heads][:2] == ["/dir/a.jpg", asked]


def test_a_request_says_who_asks_wants_no_packing_and_carries_nothing_else(monkeypatch):
    with RawServer(answer(JPEG, "Set-Cookie: id=1")) as server:
        monkeypatch.setenv("WSS_CONTACT", "me@example.org")
        with Fetcher(settings_for(server)) as fetcher:
            fetcher.fetch(server.url)
            fetcher.fetch(server.url + "#part")
        assert server.heads[0] == server.heads[1]
        head = server.heads[0].decode()
    assert head.startswith("GET /a.jpg HTTP/1.1\r\n")
    names = {line.partition(":")[0].lower() for line in head.splitlines()[1:] if line}
    assert names == {"host", "user-agent", "accept", "accept-encoding"}
    assert "Accept-Encoding: identity\r\n" in head
    assert f"User-Agent: wss/{wss_data.__version__} (me@example.org)\r\n" in head
    assert "avif" not in head


def test_images_of_one_host_share_a_connection():
    with RawServer(answer()) as server, Fetcher(settings_for(server)) as fetcher:
        for n in range(10):
            fetcher.fetch(f"http://{server.host}/{n}.jpg")
        assert (server.connections, server.requests) == (1, 10)


def test_after_a_refusal_the_rest_of_its_body_is_never_taken_for_the_next_answer():
    with RawServer(answer(JPEG + b"HTTP/1.1 200 OK\r\n\r\n", status="404 Not Found")) as server:
        with Fetcher(settings_for(server)) as fetcher:
            assert failure(fetcher, server.url).reason == "gone"
            server.answer = answer()
            assert fetcher.fetch(server.url).data == JPEG
        assert server.connections == 2


def test_an_opted_out_image_is_left_unread():
    # Only the head comes; whoever wanted the body would wait for it in vain.
    head = answer(b"", "X-Robots-Tag: noai", "tdm-reservation: 1", length=10_000)
    with RawServer(head) as server, Fetcher(settings_for(server)) as fetcher:
        error = failure(fetcher, server.url)
    assert (error.reason, error.transient) == ("opted_out", False)
    assert error.opt_outs == ("X-Robots-Tag: noai", "tdm-reservation: 1")


def test_opt_outs_that_are_not_respected_are_reported():
    with RawServer(answer(JPEG, "X-Robots-Tag: noindex")) as server:
        fetcher = Fetcher(settings_for(server, respect_opt_outs=False))
        assert fetcher.fetch(server.url).opt_outs == ("X-Robots-Tag: noindex",)
        fetcher.close()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "bad_url"),
        ("a.jpg", "bad_url"),
        ("//pictures.example/a.jpg", "bad_url"),
        ("http://", "bad_url"),
        ("http:///a.jpg", "bad_url"),
        ("http://pictures.example:0/a.jpg", "bad_url"),
        ("http://pictures.example:99999/a.jpg", "bad_url"),
        ("http://[::1/a.jpg", "bad_url"),
        ("http://user:password@pictures.example/a.jpg", "bad_url"),
        ("http://pictures.example\\@127.0.0.1/a.jpg", "bad_url"),
        ("http://pictures.example/a\r\nHost: other.jpg", "bad_url"),
        ("http://pictures.example/\0.jpg", "bad_url"),
        ("http://" + "a" * 300 + ".example/a.jpg", "bad_url"),
        ("http://a..example/a.jpg", "bad_url"),
        ("http://pictures.example/" + "a" * 5000, "bad_url"),
        ("file:///etc/passwd", "forbidden_scheme"),
        ("FILE:///etc/passwd", "forbidden_scheme"),
        ("ftp://pictures.example/a.jpg", "forbidden_scheme"),
        ("gopher://pictures.example/a.jpg", "forbidden_scheme"),
        ("data:image/png;base64,AAAA", "forbidden_scheme"),
        ("javascript:alert(1)", "forbidden_scheme"),
        ("unix:///var/run/docker.sock", "forbidden_scheme"),
    ],
)
def test_what_is_no_web_address_is_refused_before_anything_is_sent(url, reason):
    with Fetcher(DownloadSpec(respect_robots=False)) as fetcher:
        error = failure(fetcher, url)
    assert (error.reason, error.transient) == (reason, False)
    assert "password" not in str(error)


def test_the_message_of_an_error_is_short_however_long_the_answer():
    with RawServer(b"HTTP/1.1 " + b"x" * 60_000 + b"\r\n\r\n") as server, Fetcher(settings_for(server)) as fetcher:
        assert len(str(failure(fetcher, server.url))) < 600


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        (" 0 ", 0.0),
        ("31536000", 31536000.0),
        (format_datetime(datetime.fromtimestamp(1_800_000_090, UTC), usegmt=True), 90.0),
        (format_datetime(datetime.fromtimestamp(1_700_000_000, UTC), usegmt=True), 0.0),
        ("soon", None),
        ("-5", None),
        ("1e9", None),
        ("", None),
        ("Fri, 99 Foo 2026 99:99:99 GMT", None),
        ("9" * 5000, 999_999_999_999.0),
        ("\u0665", None),
    ],
)
def test_the_wait_that_a_server_asks_for_is_read_as_seconds_or_as_a_date(value, seconds):
    assert retry_after(value, VirtualClock(1_800_000_000.0)) == seconds


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
def test_the_wait_is_handed_on(status):
    with RawServer(answer(b"", "Retry-After: 7", status=status)) as server, Fetcher(settings_for(server)) as fetcher:
        error = failure(fetcher, server.url)
    assert (error.reason, error.transient, error.retry_after) == ("rate_limited", True, 7.0)


def test_whatever_a_server_sends_ends_as_a_download_error_or_as_bytes():
    pieces = [b"HTTP/1.1 200 OK\r\n", b"Content-Length: 9\r\n", b"\r\n", b"\0", b"\xff\xd8\xff", b"Location: \x80\r\n"]
    pieces += [b"HTTP/1.1 302 \r\n", b"Transfer-Encoding: chunked\r\n", b"-1\r\n", b": \r\n", b" folded\r\n", b"\n\n"]
    pieces += [b"Content-Encoding: \xff\r\n", b"HTTP/9.9 999 ?\r\n", b"Retry-After: \xff\r\n", b"X-Robots-Tag: :,:\r\n"]
    draw = random.Random(0)
    with RawServer(b"") as server, Fetcher(settings_for(server, attempts=1000, deadline_s=10.0)) as fetcher:
        for _ in range(300):
            server.answer = b"".join(draw.choices(pieces, k=draw.randint(1, 8)))
            try:
                assert isinstance(fetcher.fetch(server.url).data, bytes)
            except DownloadError as error:
                assert error.reason


# --- who we say we are, and what an import costs -------------------------------------------------------------------


def test_the_user_agent_names_the_contact_of_the_environment(monkeypatch):
    monkeypatch.delenv("WSS_CONTACT", raising=False)
    assert user_agent() == f"wss/{wss_data.__version__}"
    monkeypatch.setenv("WSS_CONTACT", "https://example.org/crawl")
    assert user_agent() == f"wss/{wss_data.__version__} (https://example.org/crawl)"


@pytest.mark.parametrize("contact", ["a\r\nX-Evil: 1", "\u00e4@example.org", "a\x01b"])
def test_a_contact_that_cannot_stand_in_a_header_is_refused(contact, monkeypatch):
    monkeypatch.setenv("WSS_CONTACT", contact)
    with pytest.raises(SpecError, match="printable ASCII"):
        user_agent()


def test_importing_the_package_and_the_sources_loads_no_network_library():
    network = "{'urllib3', 'requests', 'protego', 'certifi'}"
    code = f"import wss_data.retrieval.sources.openverse, sys; print({network} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_the_standard_library_still_limits_headers_as_the_checks_rely_on():
    assert http.client._MAXHEADERS == 100
    assert http.client._MAXLINE == 65536
