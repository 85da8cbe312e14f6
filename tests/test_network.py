import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import certifi
import fault_images as drawn
import pytest
from raw_server import RawServer
from virtual_clock import VirtualClock

from wss_data.errors import DownloadError
from wss_data.retrieval import network
from wss_data.retrieval.fetch import Fetcher
from wss_data.spec import DownloadSpec

# (host as written in an address, and what it leads to)
LOOPBACK = (
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "127.255.255.254",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "017700000001",
    "127.0.0.1.",
    "127%2e0%2e0%2e1",
    "\N{CIRCLED DIGIT ONE}27.0.0.1",
    "127\N{IDEOGRAPHIC FULL STOP}0\N{IDEOGRAPHIC FULL STOP}0\N{IDEOGRAPHIC FULL STOP}1",
    "localhost",
    "LocalHost",
    "localhost.",
    "0",
    "0.0.0.0",
    "0x0",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:0.0.0.0]",
    "[::127.0.0.1]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::]",
)
PRIVATE = (
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "0xc0a80001",
    "3232235521",
    "169.254.169.254",
    "0xa9fea9fe",
    "[::ffff:169.254.169.254]",
    "100.64.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[fe80::1]",
    "[fe80::1%25lo]",
    "[fec0::1]",
    "[ff02::1]",
    "[100::1]",
    "[2001:db8::1]",
    "[3fff::1]",
    "[5f00::1]",
    "[4000::1]",
)
VECTORS = LOOPBACK + PRIVATE


JPEG = drawn.jpeg("network")


class Canary:
    """Listens where nobody may connect; and every connection that our sockets try is noted before it is made."""

    def __init__(self) -> None:
        self.tried: list[tuple] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    @property
    def hits(self) -> int:
        self._listener.setblocking(False)
        count = 0
        while True:
            try:
                self._listener.accept()[0].close()
            except BlockingIOError:
                return count
            count += 1

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def canary(monkeypatch) -> Iterator[Canary]:
    canary = Canary()
    connect = network._LimitedSocket.connect

    def noted(self, address):
        canary.tried.append(address)
        connect(self, address)

    monkeypatch.setattr(network._LimitedSocket, "connect", noted)
    yield canary
    canary.close()


@pytest.fixture
def names(monkeypatch) -> dict[str, list[list[str]]]:
    """Name -> the answers that the name server gives, one look-up after the other; the last one stays."""
    answers: dict[str, list[list[str]]] = {}
    real = socket.getaddrinfo

    def fake(host, port, family=0, type=0, *rest):
        if host not in answers:
            return real(host, port, family, type, *rest)
        now = answers[host].pop(0) if len(answers[host]) > 1 else answers[host][0]
        return [info for address in now for info in real(address, port, family, type, *rest)]

    monkeypatch.setattr(socket, "getaddrinfo", fake)
    return answers


@pytest.fixture(scope="module")
def strict() -> Iterator[Fetcher]:
    """A fetcher with nothing allowed."""
    with Fetcher(DownloadSpec()) as fetcher:
        yield fetcher


def no_robots(*hosts: str, **values) -> DownloadSpec:
    return DownloadSpec(allow_hosts=hosts, respect_robots=False, **values)


def reason_of(fetcher: Fetcher, url: str) -> str:
    with pytest.raises(DownloadError) as error:
        fetcher.fetch(url)
    assert not error.value.transient, error.value
    return error.value.reason


def test_there_are_enough_vectors():
    assert len(set(VECTORS)) >= 33


@pytest.mark.parametrize("host", VECTORS)
def test_nothing_connects_to_a_forbidden_address_however_it_is_spelled(host, strict, canary):
    assert reason_of(strict, f"http://{host}:{canary.port}/a.jpg") in ("forbidden_address", "bad_url")
    assert reason_of(strict, f"https://{host}/a.jpg") in ("forbidden_address", "bad_url")
    assert (canary.tried, canary.hits) == ([], 0)


def test_no_redirect_leads_to_a_forbidden_address(canary):
    with RawServer(b"") as server, Fetcher(no_robots(server.host)) as fetcher:
        for host in VECTORS:
            location = f"http://{host}:{canary.port}/a.jpg".encode()
            server.answer = b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % location
            canary.tried.clear()
            assert reason_of(fetcher, server.url) in ("forbidden_address", "bad_url"), host
            assert set(canary.tried) <= {("127.0.0.1", server.port)}, host
        assert server.requests == len(VECTORS)
    assert canary.hits == 0


@pytest.mark.parametrize(
    "answer",
    [
        ["127.0.0.1"],
        ["93.184.215.14", "127.0.0.1"],
        ["93.184.215.14", "93.184.215.15", "::1"],
        ["2606:4700::1", "169.254.169.254"],
        ["::ffff:10.0.0.1"],
        ["fec0::1"],
    ],
)
def test_a_name_with_one_forbidden_address_among_its_addresses_is_refused(answer, names, strict, canary):
    names["pictures.example"] = [answer]
    assert reason_of(strict, f"http://pictures.example:{canary.port}/a.jpg") == "forbidden_address"
    assert (canary.tried, canary.hits) == ([], 0)


def test_a_name_that_changes_between_check_and_connection_changes_nothing(names, monkeypatch):
    tried = []

    def refuse(self, address):
        tried.append(address[0])
        raise ConnectionRefusedError("refused for the test")

    monkeypatch.setattr(network._LimitedSocket, "connect", refuse)
    names["pictures.example"] = [["93.184.215.14"], ["127.0.0.1"]]
    clock = VirtualClock()
    with Fetcher(no_robots(), clock) as fetcher:
        with pytest.raises(DownloadError, match="refused for the test"):
            fetcher.fetch("http://pictures.example/a.jpg")
        assert tried == ["93.184.215.14"]
        clock.advance(network.REMEMBER_NAME_S)
        assert reason_of(fetcher, "http://pictures.example/a.jpg") == "forbidden_address"
    assert tried == ["93.184.215.14"]


def test_public_addresses_are_not_refused():
    public = ["93.184.215.14", "1.1.1.1", "172.15.0.1", "172.32.0.1", "100.128.0.1", "192.0.1.1", "223.255.255.255"]
    public += ["2606:4700::1111", "2a00:1450:4001:80b::200e", "2400:cb00::1", "::ffff:8.8.8.8"]
    assert [address for address in public if network.is_forbidden(address)] == []


def test_every_block_that_is_special_is_refused_at_both_of_its_ends():
    blocks = ["0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"]
    blocks += ["192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"]
    blocks += ["203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "::/8", "100::/64", "2001::/23", "2001:db8::/32"]
    blocks += ["2002::/16", "3fff::/20", "4000::/2", "8000::/1"]
    ends = [str(ipaddress.ip_network(block)[end]) for block in blocks for end in (0, -1)]
    assert [end for end in ends if not network.is_forbidden(end)] == []


def test_an_allowed_host_is_allowed_at_its_port_only(canary):
    with Fetcher(DownloadSpec(allow_hosts=("127.0.0.1:1",))) as fetcher:
        assert reason_of(fetcher, f"http://127.0.0.1:{canary.port}/a.jpg") == "forbidden_address"
    assert canary.hits == 0


def test_the_refusal_says_how_to_allow_an_intranet_server(strict):
    with pytest.raises(DownloadError) as error:
        strict.fetch("http://localhost:8080/a.jpg")
    assert "add 'localhost:8080' to allow_hosts" in str(error.value)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_a_proxy_in_the_environment_is_not_used(variable, canary, monkeypatch):
    monkeypatch.setenv(variable, f"http://127.0.0.1:{canary.port}")
    monkeypatch.setenv("NO_PROXY", "")
    with RawServer(JPEG, plain=True) as server, Fetcher(no_robots(server.host)) as fetcher:
        assert fetcher.fetch(server.url).data == JPEG
    assert canary.hits == 0


def test_a_name_server_that_never_answers_is_not_waited_for_longer_than_the_deadline(monkeypatch):
    asked, never = threading.Event(), threading.Event()

    def silent(*_, **__):
        asked.set()
        never.wait(60)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    with Fetcher(DownloadSpec(attempts=1, deadline_s=0.2)) as fetcher, pytest.raises(DownloadError) as error:
        fetcher.fetch("http://pictures.example/a.jpg")
    never.set()
    assert asked.is_set()
    assert (error.value.reason, error.value.transient) == ("timeout", True)


def test_a_name_that_does_not_exist_may_exist_later(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with Fetcher(DownloadSpec()) as fetcher, pytest.raises(DownloadError) as error:
        fetcher.fetch("http://pictures.example/a.jpg")
    assert (error.value.reason, error.value.transient) == ("connection", True)
    assert "pictures.example cannot be found" in str(error.value)


def test_one_look_up_serves_the_connections_of_a_minute(names, monkeypatch):
    asked = []
    fake = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **more: asked.append(host) or fake(host, *rest, **more)
    )
    names["pictures.example"] = [["93.184.215.14"]]
    clock = VirtualClock()
    guard = network.Guard((), 1.0, clock)
    for _ in range(5):
        guard.resolve("pictures.example", 80)
    assert asked.count("pictures.example") == 1
    clock.advance(network.REMEMBER_NAME_S)
    guard.resolve("pictures.example", 80)
    assert asked.count("pictures.example") == 2


def test_names_are_remembered_up_to_a_number(names, monkeypatch):
    monkeypatch.setattr(network, "NAMES_REMEMBERED", 3)
    guard = network.Guard((), 1.0, VirtualClock())
    for i in range(10):
        names[f"{i}.example"] = [["93.184.215.14"]]
        guard.resolve(f"{i}.example", 80)
    assert len(guard._names) == 3


def test_nested_time_limits_keep_the_earlier_deadline():
    with network.time_limit(5, 1):
        with network.time_limit(100, 1):
            assert network.seconds_left() <= 5
        with network.time_limit(0, 1), pytest.raises(TimeoutError):
            network.seconds_left()
        assert 4 < network.seconds_left() <= 5
    assert network.seconds_left() == float("inf")


# --- TLS -----------------------------------------------------------------------------------------------------------


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for ``name``, signed by its own key; (certificate, key) as PEM files."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, key_pem = folder / "certificate.pem", folder / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pem, key_pem


@contextmanager
def tls_server(folder: Path, answer: bytes, monkeypatch) -> Iterator[tuple[RawServer, list[str]]]:
    """A server with a certificate for images.example, trusted in the test; and the names it was asked for."""
    certificate, key = make_certificate(folder, "pictures.example")
    monkeypatch.setattr(certifi, "where", lambda: str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server_names: list[str] = []
    context.sni_callback = lambda connection, name, _: server_names.append(name)
    with RawServer(answer, tls=context) as server:
        yield server, server_names


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(JPEG) + JPEG


def test_over_tls_the_name_is_sent_and_checked_though_the_address_is_pinned(tmp_path, names, monkeypatch):
    names["pictures.example"] = names["other.example"] = [["127.0.0.1"]]
    with tls_server(tmp_path, ANSWER, monkeypatch) as (server, server_names):
        allowed = (f"pictures.example:{server.port}", f"other.example:{server.port}")
        with Fetcher(no_robots(*allowed)) as fetcher:
            assert fetcher.fetch(f"https://pictures.example:{server.port}/a.jpg").data == JPEG
            assert server_names == ["pictures.example"]
            assert reason_of(fetcher, f"https://other.example:{server.port}/a.jpg") == "certificate"
    assert server.requests == 1


@pytest.mark.parametrize("silent_in", ["handshake", "headers"])
def test_a_server_that_is_silent_over_tls_is_cut_off_at_the_deadline(silent_in, tmp_path, names, monkeypatch):
    names["pictures.example"] = [["127.0.0.1"]]
    with tls_server(tmp_path, b"HTTP/1.1 200 OK\r\n", monkeypatch) as (server, _):
        if silent_in == "handshake":
            server.tls = None
            server.answer = b""
        settings = no_robots(f"pictures.example:{server.port}", deadline_s=0.5)
        with Fetcher(settings) as fetcher, pytest.raises(DownloadError) as error:
            fetcher.fetch(f"https://pictures.example:{server.port}/a.jpg")
    assert error.value.reason == "timeout"
