"""Fetch one image from the web: one attempt, safe for us and polite to whoever serves it.

Checked in this order, for the first address and for each that a server redirects to: the scheme; the address that the
name leads to (``network``); robots.txt (``robots``); then, in the answer, status, opt-out headers, encoding, length and
first bytes. A body is read only when all of it passed. Nothing is tried twice here: only ``retrieve`` tries again.
"""

import http.client
import re
import ssl
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from urllib3 import BaseHTTPResponse, exceptions
from urllib3.util import Timeout, Url, parse_url

from wss_data.errors import DownloadError
from wss_data.retrieval import network, robots
from wss_data.retrieval.clock import Clock
from wss_data.retrieval.headers import opt_outs, retry_after, user_agent
from wss_data.spec import DownloadSpec

LONGEST_URL = 4000  # characters of an address; what is longer is no address of an image
CONNECT_S = 5.0  # seconds for connecting to one address
MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})
HEAD_BYTES = 400_000  # bytes that may come before a body starts: far more than any honest headers
SNIFFED = 32  # bytes of a body that are looked at before the rest is read
PIECE = 2**20  # bytes of a body that are read at once

_READ_FORMATS = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|BM|II[*+]\0|MM\0[*+]", re.DOTALL)

# AVIF and HEIC, JPEG XL, JPEG 2000, Photoshop, icons: images, but none that we read.
_OTHER_FORMATS = re.compile(rb"....ftyp|\xff\x0a|\0\0\0\x0c(?:JXL |jP  )\r\n\x87\n|8BPS|\0\0\x01\0", re.DOTALL)

# Ends of the paths to which Flickr and Imgur redirect where an image was taken away.
_PLACEHOLDERS = re.compile(r"/(?:photo_unavailable\w*\.(?:png|gif|jpe?g)|removed\.png)$")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_NEVER_IN_A_URL = re.compile(r"[\x00-\x1f\x7f\\]")  # where a backslash ends the host, programs differ

# Formats that we read first: servers that choose by this header must not choose AVIF.
_ACCEPT = "image/jpeg,image/png,image/webp,image/gif,image/tiff,image/bmp,image/*;q=0.5,*/*;q=0.1"


@dataclass(frozen=True)
class Fetched:
    """A file that was fetched: its bytes, its address after redirects, and opt-outs that are not respected."""

    data: bytes
    url: str
    opt_outs: tuple[str, ...] = ()


class Fetcher:
    """Fetches images; may be used from many threads at once.

    ``clock`` dates ``Retry-After`` and ages what is remembered; deadlines run by the real time, for the network knows
    no other. No redirect to ``avoided`` hosts (-> why) is followed; they may grow while others fetch.
    """

    def __init__(self, download: DownloadSpec, clock: Clock = time, avoided: Mapping[str, str] | None = None) -> None:
        self._download = download
        # A server that says nothing leaves time for the other attempts.
        self._read_s = download.deadline_s / download.attempts
        self.max_bytes = download.max_megabytes << 20
        self._clock = clock
        self._avoided = {} if avoided is None else avoided  # not `or`: an empty one that is passed will grow
        self._headers = {"User-Agent": user_agent(), "Accept": _ACCEPT, "Accept-Encoding": "identity"}
        guard = network.Guard(download.allow_hosts, CONNECT_S, self._clock)
        self._pools = network.make_pools(guard, download.connections)
        self._robots = robots.Robots(self._read_robots, self._clock)
        self.crawl_delay = self._robots.crawl_delay

    def __enter__(self) -> "Fetcher":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._pools.clear()

    def fetch(self, url: str, within_s: float = float("inf")) -> Fetched:
        """Fetch the image at ``url``, in one attempt, within ``within_s`` seconds and the time of an attempt.

        Raises:
            DownloadError: If there is none to be had. Its ``reason``, where ``transient``: ``timeout``,
                ``connection``, ``server_error``, ``rate_limited``, ``incomplete``; where final: ``gone``,
                ``refused``, ``forbidden_address``, ``forbidden_scheme``, ``bad_url``, ``certificate``,
                ``redirects``, ``bad_answer``, ``encoded``, ``too_many_bytes``, ``empty``, ``not_an_image``,
                ``unsupported_format``, ``placeholder``, ``opted_out``, ``robots``.
        """
        asked: list[str] = []
        limit_s = min(self._download.deadline_s, within_s)
        try:
            with self._answer(url, self._download.respect_robots, asked, limit_s) as (response, url):
                return self._read_image(response, url)
        except DownloadError as error:
            # Where a chain has no end, who started it is to blame; else whoever was asked last.
            if asked and error.reason != "redirects" and host_of(asked[-1]) != host_of(asked[0]):
                error.host = host_of(asked[-1])
            raise

    @contextmanager
    def _answer(
        self, url: str, polite: bool, asked: list[str], limit_s: float
    ) -> Iterator[tuple[BaseHTTPResponse, str]]:
        """The good answer at the end of all redirects, and its address; what is raised becomes a ``DownloadError``.

        Each address is noted in ``asked`` before anything is asked there, its robots.txt included.
        """
        with network.time_limit(limit_s, self._read_s), _errors_of(url):
            response, url = self._follow(url, polite, asked)
            try:
                _check_status(response, url, self._clock)
                yield response, url
            except BaseException:
                # What is left of the body shall not be read, so the connection cannot be used again.
                response.close()
                raise

    def _follow(self, url: str, polite: bool, asked: list[str]) -> tuple[BaseHTTPResponse, str]:
        start, seen = url, set()
        for _ in range(MAX_REDIRECTS + 1):
            parts = _checked(url)
            url = parts.url
            if url in seen:
                raise DownloadError("redirects", f"{start}: redirected in a circle, to {url}.")
            seen.add(url)
            asked.append(url)
            if url != start and (why := self._avoided.get(host_of(url))):
                raise DownloadError("host_given_up", why, transient=True)
            if polite:
                self._robots.check(url, network.seconds_left())
            network.limit_bytes(HEAD_BYTES)
            response = self._pools.connection_from_host(parts.host, parts.port, parts.scheme).urlopen(
                "GET",
                parts.request_uri,
                headers=self._headers,
                retries=False,
                redirect=False,
                assert_same_host=False,
                # Ours is looked at before every read; urllib3's own is left for sending.
                timeout=Timeout(total=None, connect=CONNECT_S, read=self._read_s),
                preload_content=False,
                decode_content=False,
            )
            # Chunks may be framed by as many bytes as they hold.
            network.limit_bytes(2 * max(self.max_bytes, robots.MAX_BYTES))
            if response.status not in REDIRECTS:
                return response, url
            location = response.headers.get("Location", "")
            response.close()
            if not location:
                raise DownloadError("redirects", f"{url}: redirected (status {response.status}) without saying where.")
            url = _joined(url, location)
            if _PLACEHOLDERS.search(url.partition("?")[0]):
                raise DownloadError("placeholder", f"{start}: the image was taken away; redirected to {url}.")
        raise DownloadError("redirects", f"{start}: redirected more than {MAX_REDIRECTS} times.")

    def _read_image(self, response: BaseHTTPResponse, url: str) -> Fetched:
        """Check the headers of a good answer, then read it."""
        headers = response.headers
        signals = opt_outs(headers.getlist("X-Robots-Tag"), headers.getlist("tdm-reservation"))
        if signals and self._download.respect_opt_outs:
            raise DownloadError("opted_out", f"{url}: not to be taken ({', '.join(signals)}).", opt_outs=signals)
        if (encoding := _encoding(response)) not in ("", "identity"):
            raise DownloadError("encoded", f"{url}: came packed ({encoding}) although that was not asked for.")
        length = _content_length(response, url)
        limit = self.max_bytes
        if length is not None and length > limit:
            raise DownloadError("too_many_bytes", f"{url}: {length:,} bytes, at most {limit:,} are read.")

        parts = [response.read(SNIFFED)]
        if not parts[0] and not length:
            raise DownloadError("empty", f"{url}: an empty file.")
        if parts[0] and not _READ_FORMATS.match(parts[0]):
            kind = headers.get("Content-Type", "").partition(";")[0].strip().lower() or None
            if _OTHER_FORMATS.match(parts[0]):
                raise DownloadError("unsupported_format", f"{url}: an image in a format that is not read ({kind}).")
            raise DownloadError("not_an_image", f"{url}: not an image; the server calls it {kind or 'nothing'}.")
        count = len(parts[0])
        # In parts: a body without an end is never held twice, as it would be while one buffer grows.
        while parts[-1] and count <= limit and count != length:
            parts.append(response.read(min(PIECE, limit + 1 - count)))
            count += len(parts[-1])
        if length is not None and count < length:
            raise DownloadError("incomplete", f"{url}: {count:,} of {length:,} bytes came.", transient=True)
        if count > limit:
            raise DownloadError("too_many_bytes", f"{url}: more than {limit:,} bytes.")
        return Fetched(b"".join(parts), url, signals)

    def _read_robots(self, url: str) -> str:
        """The text of a robots.txt, as much of it as counts."""
        with self._answer(url, False, [], robots.READ_S) as (response, url):
            data = response.read(robots.MAX_BYTES)
            if _encoding(response) in ("gzip", "x-gzip", "deflate"):
                try:
                    data = zlib.decompressobj(wbits=47).decompress(data, robots.MAX_BYTES)  # 47: finds out which
                except zlib.error as error:
                    raise DownloadError("encoded", f"{url}: cannot be unpacked ({error}).") from error
            if len(data) == robots.MAX_BYTES:
                response.close()
            return data.decode("utf-8-sig", errors="replace")


def _encoding(response: BaseHTTPResponse) -> str:
    return response.headers.get("Content-Encoding", "").strip().lower()


def _checked(url: str) -> Url:
    """The parts of an address, normalised; raises ``bad_url`` or ``forbidden_scheme``."""
    shown = url[:200]
    if len(url) > LONGEST_URL:
        raise DownloadError("bad_url", f"{shown}...: an address of {len(url):,} characters.")
    scheme = _SCHEME.match(url)
    if scheme is None:
        raise DownloadError("bad_url", f"{shown!r}: no address; one starts with http:// or https://.")
    if scheme[1].lower() not in ("http", "https"):
        raise DownloadError("forbidden_scheme", f"{shown}: only http and https are fetched, not {scheme[1]}.")
    if _NEVER_IN_A_URL.search(url):
        raise DownloadError("bad_url", f"{shown!r}: holds control characters or backslashes.")
    parts = parse_url(url)
    if not parts.host or parts.port == 0:
        raise DownloadError("bad_url", f"{shown}: names no host.")
    if parts.auth is not None:
        raise DownloadError("bad_url", f"{parts._replace(auth=None).url[:200]}: came with a user name; none is sent.")
    return parts._replace(fragment=None)


def host_of(url: str) -> str:
    """``host`` or ``host:port`` of an address, as hosts are distinguished; empty where it names none."""
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""


def _joined(url: str, location: str) -> str:
    """Where a Location header that came from ``url`` leads to."""
    # Headers are read as Latin-1, but addresses are meant as UTF-8 where they are not plain ASCII.
    with suppress(UnicodeError):
        location = location.encode("latin-1").decode("utf-8")
    try:
        return urljoin(url, location.strip())
    except ValueError as error:
        raise DownloadError("bad_url", f"{url}: redirected to {location[:200]!r}, which is no address.") from error


def _check_status(response: BaseHTTPResponse, url: str, clock: Clock) -> None:
    status = response.status
    if status in (200, 203):
        return
    wait_s, why = retry_after(response.headers.get("Retry-After"), clock), ""
    if status == 429 or (status == 503 and wait_s is not None):
        reason, why = "rate_limited", "" if wait_s is None else f", to be asked again in {wait_s:.0f} s"
    elif status == 408:
        reason, why, wait_s = "timeout", " (it waited too long)", None
    elif status >= 500:
        reason = "server_error"
    elif status in (404, 410):
        reason, why = "gone", ": there is no such image"
    elif status >= 400:
        reason = "refused"
    elif status in (204, 205):
        reason, why = "empty", ": no content"
    else:
        reason, why = "bad_answer", ", which is no answer to a plain request"
    transient = status in (408, 429) or status >= 500
    said = f"{url}: the server answered {status}{why}."
    raise DownloadError(reason, said, transient=transient, retry_after=wait_s if transient else None)


def _content_length(response: BaseHTTPResponse, url: str) -> int | None:
    """Bytes that the body is said to have; ``None`` where that is not said."""
    if "Transfer-Encoding" in response.headers:
        return None
    values = {part.strip() for value in response.headers.getlist("Content-Length") for part in value.split(",")}
    if not values:
        return None
    value = values.pop()
    # Several that differ are how a request is smuggled past a proxy; 18 digits are more than any file has.
    if values or not (value.isascii() and value.isdigit()) or len(value) > 18:
        raise DownloadError("bad_answer", f"{url}: its length cannot be read from the Content-Length header.")
    return int(value)


# What is raised -> reason, sentence, and whether it may pass; the first that fits.
_TROUBLES: tuple[tuple[tuple[type[BaseException], ...], str, str, bool], ...] = (
    ((TimeoutError, exceptions.TimeoutError), "timeout", "too slow, or silent for too long", True),
    ((ssl.SSLCertVerificationError,), "certificate", "its certificate is not valid", False),
    ((ConnectionError, ssl.SSLError, exceptions.SSLError), "connection", "the connection broke", True),
    ((http.client.IncompleteRead, exceptions.IncompleteRead), "incomplete", "the answer ended early", True),
    ((exceptions.InvalidChunkLength,), "incomplete", "the answer ended early", True),
    ((exceptions.LocationValueError, UnicodeError), "bad_url", "no address that can be asked for", False),
    ((http.client.InvalidURL,), "bad_url", "no address that can be asked for", False),
    ((http.client.HTTPException, exceptions.InvalidHeader), "bad_answer", "the server does not speak HTTP", False),
    ((OSError, exceptions.ProtocolError), "connection", "the connection broke", True),
    ((BaseException,), "bad_answer", "the answer cannot be read", False),
)


@contextmanager
def _errors_of(url: str) -> Iterator[None]:
    """Turn what the network and its libraries raise into ``DownloadError``."""
    try:
        yield
    except (exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
        # urllib3 wraps what happened as an argument, the standard library as the cause.
        causes = [error, *error.args, error.__cause__, error.__context__]
        for kinds, reason, said, transient in _TROUBLES:
            if any(isinstance(cause, kinds) for cause in causes):
                said = f"{url[:200]}: {said} ({str(error)[:200]})."
                raise DownloadError(reason, said, transient=transient) from error
