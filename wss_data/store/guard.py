"""A filter before FiftyOne's server: the App's own page is answered, pages of other sites are not.

FiftyOne's server has no login and asks nobody where a request comes from. While it runs, any web page that is open in
the same browser can send it orders, and one whose name was made to lead to this machine (DNS rebinding) can read the
answers, files of the user included. So each request is looked at before FiftyOne sees it:

- ``Host`` is the name under which the browser reached the server. Loopback names are no site's. With an address that
  others can reach, that address and numeric ones count, too: no site's name is made of numbers.
- ``Origin`` is the site whose page sends the request: it is the App's, or there is none.
- ``Sec-Fetch-Site`` is what newer browsers say of the same: the App's page, or the user himself. From elsewhere a page
  may be opened in a tab by a link, and nothing else.
- A request that may change something and has neither is a program's, which says that it sends JSON. No browser lets a
  page send that to another site without asking it first, and the answer to that question is no.
- The program that connects from this machine is the user's own, or the system's.
- ``filepath``, in whatever request, names a file in a folder that may be served.

Answers forbid other pages to show the App in a frame, or to read anything by way of another origin.
"""

import ipaddress
from collections.abc import Callable

from anyio.to_thread import run_sync
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wss_data.store.peer import user_of

LOOPBACK = ("localhost", "127.0.0.1", "::1")

_READING = ("GET", "HEAD", "OPTIONS")
_PAGES = ("/", "/datasets/")

_WRITES_WHERE_RECORDS_SAY = "/commit-mask"
"""FiftyOne's one route that writes a file, to wherever a record says. None of our masks is changed by it."""

_FORBIDS = {
    "content-security-policy": "frame-ancestors 'none'",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
}
_FILE_POLICY = "sandbox; default-src 'none'; frame-ancestors 'none'"
"""A file of a dataset that is opened as a page of its own runs no script there."""


class Guard:
    """An ASGI application that answers for another one what does not come from that one's own page.

    Args:
        app: FiftyOne's server.
        address: The address that it listens on.
        serves: Whether a file may be served, by its path; called in a thread.
        owner: Id of the user whose programs on this machine are answered; ``None`` for everybody's.
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
            await send({"type": "websocket.close", "code": 1008, "reason": reason})
        else:
            await PlainTextResponse(f"Refused: {reason}\n", status_code=403)(scope, receive, forbidding)


def refusal(scope: Scope, address: str) -> str | None:
    """Why a request is not of the App's own page or of a program of the user; ``None`` if it is.

    Args:
        scope: The request, HTTP or websocket, in ASGI's form.
        address: The address that the server listens on.
    """
    headers = Headers(scope=scope)
    hosts, origins, sites = (headers.getlist(name) for name in ("host", "origin", "sec-fetch-site"))
    if len(hosts) != 1 or not _is_own(_name_of(hosts[0]), address):
        return f"the request is for the host {', '.join(hosts) or '(none)'}, this server is {address}."
    if any(origin.lower() != f"http://{hosts[0].lower()}" for origin in origins):
        return f"the request comes from a page of {', '.join(origins)}."
    if not {"same-origin", "none"}.issuperset(sites) and not _opens_page(scope, headers):
        return f"the request comes from a page of another site ({', '.join(sites)})."
    if scope.get("path", "").rstrip("/").endswith(_WRITES_WHERE_RECORDS_SAY):
        return "the App writes no files."
    reads = scope["type"] == "http" and scope["method"] in _READING
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


def _name_of(host: str) -> str:
    """The name in a ``Host`` header, in lower case, without port and brackets; empty if it has no such form."""
    name, colon, port = host.lower().rpartition(":")
    if not colon or host.endswith("]"):
        name = host.lower()
    elif not (port.isascii() and port.isdigit()):
        return ""
    if name.startswith("[") and name.endswith("]"):
        return name[1:-1]
    return "" if ":" in name else name


def _is_own(name: str, address: str) -> bool:
    if name in LOOPBACK or name == address.lower():
        return bool(name)
    if address in LOOPBACK:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
