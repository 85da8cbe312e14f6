"""Connections that go to public addresses only, and that end when their attempt's time is over.

* The address that was checked is the address connected to: a name is looked up once for a connection, so a name server
  that answers differently the next time (DNS rebinding) changes nothing.
* Every address of an answer is checked, by what it is and not by how it is spelled.
* Time is limited as a whole: a socket's timeout is per read, so a server that sends a byte now and then is never cut
  off by it. Our sockets look at the attempt's deadline before every read, in TLS handshakes and headers, too.

Built on urllib3, whose connections have a place where an address can be pinned; requests takes twice the time.
"""

import http.client
import ipaddress
import logging
import socket
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import certifi
import urllib3
from requests_hardened.ip_filter import InvalidIPAddress, get_ip_address
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from wss_data.errors import DownloadError
from wss_data.retrieval.clock import Clock

# The error that we raise says it all; without a handler logging would print the library's warning in between.
logging.getLogger("requests_hardened").addHandler(logging.NullHandler())

# Public addresses are given out in this part only; outside of it lie site-local fec0::/10 and wrapped IPv4 addresses.
_PUBLIC_IPV6 = ipaddress.ip_network("2000::/3")

# Networks that no image is on, beyond those that ``requests-hardened`` and ``ipaddress`` know: IANA's special-purpose
# address registries, and https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16
_MORE_FORBIDDEN = tuple(
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",  # Azure's metadata and name service, reached from inside of Azure only
        "192.31.196.0/24",  # AS112, local answers
        "192.52.193.0/24",  # AMT relays
        "192.175.48.0/24",  # AS112, local answers
        "2001::/23",  # protocol assignments: Teredo carries IPv4 addresses
        "2620:4f:8000::/48",  # AS112
    )
)

REMEMBER_NAME_S = 60.0  # seconds that an answer of a name server is used: a connection more costs no second look-up
NAMES_REMEMBERED = 2000
IDLE_HOSTS = 64  # hosts whose connections are kept open for the next image

Address = tuple[socket.AddressFamily, tuple[Any, ...]]

_attempt = threading.local()


@contextmanager
def time_limit(total_s: float, read_s: float) -> Iterator[None]:
    """Let no network operation of this thread go on after ``total_s`` seconds, or wait ``read_s`` for data.

    Limits may be nested; the earlier deadline holds.
    """
    before = (_deadline(), getattr(_attempt, "read_s", read_s))
    _attempt.deadline = min(before[0], time.monotonic() + total_s)
    _attempt.read_s = read_s
    try:
        yield
    finally:
        _attempt.deadline, _attempt.read_s = before


def _deadline() -> float:
    return getattr(_attempt, "deadline", float("inf"))


def seconds_left() -> float:
    """Seconds until this thread's deadline; raises ``TimeoutError`` if it has passed."""
    left = _deadline() - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time for the whole attempt is over")
    return left


def limit_bytes(count: int) -> None:
    """Let this thread receive no more than ``count`` bytes from now on; the next call sets the limit anew."""
    # Without it a server that sends "100 Continue", or trailers, for ever keeps a processor busy until the deadline.
    _attempt.bytes_left = count


def _count_bytes(count: int) -> int:
    _attempt.bytes_left -= count
    if _attempt.bytes_left < 0:
        raise http.client.HTTPException("it sends more than the image or than headers can need")
    return count


class _Limited:
    """A socket that looks at the deadline before every read, and counts what comes."""

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(min(seconds_left(), _attempt.read_s))  # type: ignore[attr-defined]
        return _count_bytes(super().recv_into(*args, **kwargs))  # type: ignore[misc]


class _LimitedSocket(_Limited, socket.socket):
    pass


class _LimitedSSLSocket(_Limited, ssl.SSLSocket):
    """The same for TLS; a handshake is limited as a whole by the timeout set when it starts."""


def is_forbidden(address: str) -> bool:
    """Whether an IP address, as name look-ups return it, is not a public one, or wraps an IPv4 address in IPv6.

    >>> is_forbidden("192.168.1.1"), is_forbidden("::ffff:127.0.0.1"), is_forbidden("1.1.1.1")
    (True, True, False)
    """
    try:
        ip, _ = get_ip_address(address, 0, allow_loopback=False)
    except InvalidIPAddress:
        return True
    if ip.version == 6 and ip not in _PUBLIC_IPV6:
        return True
    return not ip.is_global or ip.is_reserved or any(ip in network for network in _MORE_FORBIDDEN)


class Guard:
    """Looks names up, checks what they lead to, and connects to what was checked, within ``connect_s`` seconds.

    The rule does not apply to ``allow_hosts``: pairs ``host:port``, the host as it stands in addresses.
    """

    def __init__(self, allow_hosts: tuple[str, ...], connect_s: float, clock: Clock) -> None:
        self._allowed = frozenset(host.lower().translate({ord("["): None, ord("]"): None}) for host in allow_hosts)
        self._connect_s = connect_s
        self._clock = clock
        self._lock = threading.Lock()
        self._names: OrderedDict[tuple[str, int], tuple[float, list[Address]]] = OrderedDict()

    def connect(self, host: str, port: int) -> socket.socket:
        """Open a connection to a checked address of ``host``.

        Raises:
            DownloadError: ``forbidden_address`` (nothing was sent to it), ``connection`` or ``timeout``.
        """
        problem: OSError | None = None
        for family, address in self.resolve(host, port):
            connection = _LimitedSocket(family, socket.SOCK_STREAM)
            try:
                connection.settimeout(min(seconds_left(), self._connect_s))
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.connect(address)
            except OSError as error:
                connection.close()
                problem = error
            else:
                return connection
        reason = "timeout" if isinstance(problem, TimeoutError) else "connection"
        raise DownloadError(reason, f"{host}:{port} cannot be connected to ({problem}).", transient=True)

    def resolve(self, host: str, port: int) -> list[Address]:
        """The addresses of ``host``, all of them checked; raises as ``connect``."""
        with self._lock:
            until, addresses = self._names.get((host, port), (0.0, []))
        if self._clock.monotonic() < until:
            return addresses
        addresses = _look_up(host, port)
        if f"{host.lower()}:{port}" not in self._allowed:
            for _, address in addresses:
                if is_forbidden(str(address[0])):
                    raise DownloadError(
                        "forbidden_address",
                        f"{host} leads to {address[0]}, which is no public address. If that server is yours and "
                        f"should be asked, add '{host}:{port}' to allow_hosts.",
                    )
        with self._lock:
            self._names[host, port] = (self._clock.monotonic() + REMEMBER_NAME_S, addresses)
            if len(self._names) > NAMES_REMEMBERED:
                self._names.popitem(last=False)
        return addresses


def _look_up(host: str, port: int) -> list[Address]:
    """Ask for a name's addresses, for no longer than the attempt lasts: the system's look-up has no limit itself."""
    answer: Future[list[Any]] = Future()

    def ask() -> None:
        try:
            answer.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True, name=f"look up {host}").start()
    try:
        # Without a limit there is a week's wait: ``result`` takes no infinity.
        addresses = [(family, address) for family, _, _, _, address in answer.result(min(seconds_left(), 1e6))]
    except TimeoutError:
        raise DownloadError("timeout", f"{host}: no name server answered in time.", transient=True) from None
    except UnicodeError as error:
        raise DownloadError("bad_url", f"{host}: no host can have this name ({error}).") from error
    except OSError as error:
        raise DownloadError("connection", f"{host} cannot be found ({error.strerror}).", transient=True) from error
    if not addresses:
        raise DownloadError("connection", f"{host} has no address.", transient=True)
    return addresses


def make_pools(guard: Guard, connections: int) -> urllib3.PoolManager:
    """Keep-alive connections, ``connections`` to one host, each opened by ``guard``; proxies are not used."""
    # The system's authorities, for companies that add their own, and those of certifi, for systems that have none.
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    context.sslsocket_class = _LimitedSSLSocket
    pools = urllib3.PoolManager(num_pools=IDLE_HOSTS, maxsize=connections, ssl_context=context)
    kinds = (("http", HTTPConnectionPool, HTTPConnection), ("https", HTTPSConnectionPool, HTTPSConnection))
    own = {"_new_conn": lambda connection: guard.connect(connection.host, connection.port)}
    pools.pool_classes_by_scheme = {
        scheme: type("GuardedPool", (pool,), {"ConnectionCls": type("GuardedConnection", (connection,), own)})
        for scheme, pool, connection in kinds
    }
    return pools
