"""A filter before FiftyOne's server: the App's own page is answered, pages of other sites are not.

FiftyOne's server has no login. While it runs, any web page that is open in the same browser can send it orders, and one
whose name was made to lead to this machine (DNS rebinding) can read the answers, files of the user included. So each
request is checked before FiftyOne sees it (``refusal``): the host, the page that sends it, the user whose program it
is, and that ``filepath``, in whatever request, names a file in a folder that may be served.
"""

import errno
import ipaddress
import os
import re
import socket
import struct
from collections.abc import Callable

from anyio.to_thread import run_sync
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("localhost", "127.0.0.1", "::1")

_HOST = re.compile(r"(?:\[([^\[\]]+)\]|([^\[\]:]+))(?::[0-9]+)?")  # an IPv6 address has colons, so it is in brackets
_READING = ("GET", "HEAD", "OPTIONS")
_PAGES = ("/", "/datasets/")
# FiftyOne's one route that writes a file, to wherever a record says. None of our masks is changed by it.
_WRITES_WHERE_RECORDS_SAY = "/commit-mask"

_FORBIDS = {
    # Clicks meant for another page do not land in the App; and it does not wait for Google's fonts, which it asks for.
    "content-security-policy": "frame-ancestors 'none'; style-src 'self' 'unsafe-inline'; font-src 'self' data:",
    "x-frame-options": "DENY",  # the same, for browsers that do not know the policy
    "cross-origin-resource-policy": "same-origin",  # no other page shows our images or runs our scripts
    "x-content-type-options": "nosniff",  # no file is run as what it was not sent as
}
# A file of a dataset that is opened as a page of its own runs no script there.
_FILE_POLICY = "sandbox; default-src 'none'; frame-ancestors 'none'"

# sock_diag(7), Linux's way to ask whose a connection is: a request for one, and what is read of the answer.
_SOCK_DIAG = 4  # NETLINK_SOCK_DIAG
_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_REQUEST = 1  # NLM_F_REQUEST
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_WANTED = struct.Struct("=BBBxI")  # family, protocol, extensions, states
_ENDS = struct.Struct("!HH16s16s")  # ports of the owner and of the other, their addresses
_ANY_INTERFACE_AND_COOKIE = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
_FOUND = struct.Struct("=BBxx48xIIII")  # family, state, ..., expires, queues, user
_ESTABLISHED = 1  # the one state in which Linux says whose a connection is: of a closing one it says the system's


class Guard:
    """An ASGI application that answers for ``app``, FiftyOne's server at ``address``, what its own page did not send.

    ``serves``: whether a file may be served, by its path; called in a thread. ``owner``: id of the user whose programs
    on this machine are answered; ``None`` for everybody's.
    """

    def __init__(self, app: ASGIApp, address: str, serves: Callable[[str], bool], owner: int | None = None) -> None:
        self._app, self._address, self._serves, self._owner = app, address, serves, owner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with status 403 and a sentence."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        files = QueryParams(scope["query_string"]).getlist("filepath")
        reason = refusal(scope, self._address)
        if reason is None and self._owner is not None and not _is_of(self._owner, scope):
            reason = "the request comes from another user of this machine. To answer others, too: wss-data view --force"
        if reason is None and not all([await run_sync(self._serves, path) for path in files]):
            reason = "the file lies in no folder of a dataset. To serve other folders: wss-data view --media FOLDER"

        async def forbidding(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=list(message.get("headers", ())))
                for name in {name for name in headers if name.startswith("access-control-")}:
                    del headers[name]
                headers.update(_FORBIDS)
                if files:
                    headers["content-security-policy"] = _FILE_POLICY
                message = {**message, "headers": headers.raw}
            await send(message)

        if reason is None:
            await self._app(scope, receive, forbidding)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": reason})  # policy violation, RFC 6455
        else:
            await PlainTextResponse(f"Refused: {reason}\n", status_code=403)(scope, receive, forbidding)


def refusal(scope: Scope, address: str) -> str | None:
    """Why a request, HTTP or websocket, is not of the App's own page or of a program of the user; ``None`` if it is.

    ``address``: the address that the server listens on.
    """
    headers = Headers(scope=scope)
    hosts, origins, sites = (headers.getlist(name) for name in ("host", "origin", "sec-fetch-site"))
    # The name under which the browser reached the server: loopback names are no site's.
    if len(hosts) != 1 or not _is_own(hosts[0], address):
        return f"the request is for the host {', '.join(hosts) or '(none)'}, this server is {address}."
    # The site whose page sends the request: it is the App's, or there is none.
    if any(origin.lower() != f"http://{hosts[0].lower()}" for origin in origins):
        return f"the request comes from a page of {', '.join(origins)}."
    # What newer browsers say of the same. From elsewhere a link may open a page in a tab, and nothing else.
    if not {"same-origin", "none"}.issuperset(sites) and not _opens_page(scope, headers):
        return f"the request comes from a page of another site ({', '.join(sites)})."
    if scope.get("path", "").rstrip("/").endswith(_WRITES_WHERE_RECORDS_SAY):
        return "the App writes no files."
    reads = scope["type"] == "http" and scope["method"] in _READING
    # No browser lets a page send JSON to another site without asking it first, and the answer to that question is no.
    kinds = {kind.split(";")[0].strip().lower() for kind in headers.getlist("content-type")}
    if reads or origins or sites == ["same-origin"] or kinds == {"application/json"}:
        return None
    return "the request does not say which page sends it. Programs send Content-Type: application/json."


def _is_of(owner: int, scope: Scope) -> bool:
    """Whether a request comes from a program of ``owner``, of the system, or from another machine."""
    client, server = scope["client"], scope["server"]
    if not ipaddress.ip_address(client[0]).is_loopback:
        return True
    return user_of(tuple(client), tuple(server)) in (owner, 0)


def _opens_page(scope: Scope, headers: Headers) -> bool:
    """Whether a browser opens one of the App's pages in a tab: not in a frame, and with nothing set in its address."""
    path = scope.get("path", "")
    return (
        scope.get("method") == "GET"
        and (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
        and (path == _PAGES[0] or path.startswith(_PAGES[1]))
        and not scope.get("query_string")
    )


def _is_own(host: str, address: str) -> bool:
    """Whether a ``Host`` header names this server: no name of a site, which may lead anywhere."""
    found = _HOST.fullmatch(host.lower())
    name = (found[1] or found[2]) if found else ""
    if name in LOOPBACK or name == address.lower():
        return bool(name)
    if address in LOOPBACK:
        return False
    # Others were let in by force: no site's name is made of numbers.
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def user_of(client: tuple[str, int], server: tuple[str, int]) -> int | None:
    """Id of the user whose program holds the client's end of a connection; ``None`` if it is not there (any more).

    ``client``, ``server``: numeric address and port of the two ends, both on this machine.

    Raises:
        OSError: If the system does not say: only Linux does, and not everywhere.
    """
    family = socket.AF_INET6 if ":" in client[0] else socket.AF_INET
    hosts = (socket.inet_pton(family, host) for host, _ in (client, server))
    request = _WANTED.pack(family, socket.IPPROTO_TCP, 0, 1 << _ESTABLISHED)
    request += _ENDS.pack(client[1], server[1], *hosts) + _ANY_INTERFACE_AND_COOKIE
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as system:
        system.send(_HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _REQUEST, 0, 0) + request)
        answer = system.recv(4096)
    _, kind, *_ = _HEADER.unpack_from(answer)
    if kind != _BY_FAMILY:
        (code,) = struct.unpack_from("=i", answer, _HEADER.size)
        if -code == errno.ENOENT:
            return None
        raise OSError(-code, os.strerror(-code))
    _, state, *_, user = _FOUND.unpack_from(answer, _HEADER.size)
    return user if state == _ESTABLISHED else None


def users_are_seen() -> bool:
    """Whether this system says whose connections are, tried with one of our own."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        try:
            return user_of(client.getsockname(), server.getsockname()) is not None
        except (OSError, AttributeError):  # no such kind of socket
            return False
