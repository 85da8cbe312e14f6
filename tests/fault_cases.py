"""What the fault server does wrong, case by case, and what must become of it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from typing import TYPE_CHECKING, Literal

import fault_images as drawn

if TYPE_CHECKING:
    from fault_server import Exchange

Handler = Callable[["Exchange"], None]

ATTEMPTS = 3
"""Attempts that an image gets by default while its trouble looks like passing."""

CORRUPT = frozenset({"truncated", "unreadable", "corrupt", "damaged"})
"""What a decoder may call a file whose image is not whole."""

BOMB = CORRUPT | {"too_large", "bomb", "decoder_memory", "decoder_killed", "decoder_timeout"}
"""What a decoder may call a file that would unpack to gigabytes."""


@dataclass(frozen=True)
class Case:
    """One way to misbehave.

    Args:
        name: Names it; part of its addresses.
        group: ``good``, ``bad body``, ``transient``, ``retry after``, ``permanent``, ``opt-out``, ``placeholder`` or
            ``hostile``.
        expected: What an image must end as: ``stored``, ``dropped`` (for good) or ``failed`` (worth another run).
        reasons: Reasons that are right; empty for ``stored``.
        requests_at_most: Requests allowed for one image, redirects and three attempts included.
        fetch_decides: Whether the download alone leads to the end; if not, a decoder must look at the bytes.
        handler: Answers a request for an image.
        robots: Answers a request for robots.txt.
        nobody_listens: Whether connections to its address are refused.
        wait_s: Seconds that must pass between its first request and its second.
    """

    name: str
    group: str
    expected: Literal["stored", "dropped", "failed"]
    reasons: frozenset[str]
    requests_at_most: int
    fetch_decides: bool
    handler: Handler
    robots: Handler
    nobody_listens: bool = False
    wait_s: float = 0.0


CASES: dict[str, Case] = {}


def no_robots(exchange: "Exchange") -> None:
    exchange.answer(b"none here", "text/plain", "404 Not Found")


def good(exchange: "Exchange") -> None:
    exchange.answer(drawn.jpeg(exchange.name))


def robots_text(text: str) -> Handler:
    return lambda exchange: exchange.answer(text.encode(), "text/plain")


def add(
    group: str,
    name: str,
    handler: Handler = good,
    end: str = "stored",
    at_most: int = 1,
    fetch_decides: bool = True,
    **options,
) -> None:
    """Add a case; ``end`` is ``stored``, or the status and the reasons: ``dropped gone``."""
    expected, *reasons = end.split()
    assert expected in ("stored", "dropped", "failed")
    robots = options.pop("robots", no_robots)
    case = Case(name, group, expected, frozenset(reasons), at_most, fetch_decides, handler, robots, **options)
    assert name not in CASES and len(CASES) < 240
    CASES[name] = case


def body(make: Callable[[str], bytes], content_type: str | None = "image/jpeg") -> Handler:
    return lambda exchange: exchange.answer(make(exchange.name), content_type)


# --- images that are good, however unusual, and must be kept -----------------------------------------------------


def without_length(exchange: "Exchange") -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nConnection: close\r\n\r\n")
    exchange.send(drawn.jpeg(exchange.name))


def chunked(exchange: "Exchange", end: bytes = b"0\r\n\r\n") -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n")
    data = drawn.jpeg(exchange.name)
    for start in range(0, len(data), 5000):
        part = data[start : start + 5000]
        exchange.send(b"%x\r\n%s\r\n" % (len(part), part))
    exchange.send(end)


def redirect_once(exchange: "Exchange") -> None:
    if exchange.hop:
        good(exchange)
    else:
        exchange.redirect(f"{exchange.target}?hop=1", "301 Moved Permanently")


for name, make, content_type in (
    ("good_jpeg", drawn.jpeg, "image/jpeg"),
    ("good_png", drawn.png, "image/png"),
    ("good_webp", drawn.webp, "image/webp"),
    ("good_gif", drawn.gif, "image/gif"),
    ("good_bmp", drawn.bmp, "image/bmp"),
    ("good_tiff", drawn.tiff, "image/tiff"),
    ("progressive_jpeg", drawn.progressive_jpeg, "image/jpeg"),
    ("grey_jpeg", drawn.grey_jpeg, "image/jpeg"),
    ("cmyk_jpeg", drawn.cmyk_jpeg, "image/jpeg"),
    ("exif_rotated_jpeg", drawn.exif_rotated_jpeg, "image/jpeg"),
    ("extraneous_bytes_jpeg", drawn.extraneous_bytes_jpeg, "image/jpeg"),
    ("animated_gif", drawn.animated_gif, "image/gif"),
    ("png_16_bit", drawn.png_16_bit, "image/png"),
    ("png_palette_alpha", drawn.png_palette_alpha, "image/png"),
    ("no_content_type", drawn.jpeg, None),
    ("jpeg_called_octet_stream", drawn.jpeg, "application/octet-stream"),
    ("jpeg_called_html", drawn.jpeg, "text/html; charset=utf-8"),
):
    add("good", name, body(make, content_type))
add("good", "without_length", without_length)
add("good", "chunked", chunked)
add("good", "redirect_once", redirect_once, at_most=2)

# --- answers that are no image, or only a part of one ------------------------------------------------------------

CORRUPT_END = " ".join(["dropped", *CORRUPT])
BOMB_END = " ".join(["dropped", *BOMB])

add("bad body", "html_called_jpeg", body(lambda name: drawn.HTML), "dropped not_an_image")
add("bad body", "html_page", body(lambda name: drawn.HTML, "text/html"), "dropped not_an_image")
add("bad body", "json_error", body(lambda name: b'{"error": "no"}', "application/json"), "dropped not_an_image")
add("bad body", "svg", body(lambda name: drawn.SVG, "image/svg+xml"), "dropped not_an_image")
add("bad body", "avif", body(lambda name: drawn.avif_start(), "image/avif"), "dropped unsupported_format")
add("bad body", "empty", body(lambda name: b""), "dropped empty")
add("bad body", "no_content", lambda exchange: exchange.answer(b"", None, "204 No Content"), "dropped empty")
for name, make, end in (
    ("tiny_png", drawn.tiny_png, "dropped too_small"),
    ("truncated_jpeg", drawn.truncated_jpeg, CORRUPT_END),
    ("truncated_png", drawn.truncated_png, CORRUPT_END),
    ("png_with_wrong_checksum", drawn.png_with_wrong_checksum, CORRUPT_END),
    ("jpeg_header_only", drawn.jpeg_header_only, CORRUPT_END),
    ("jpeg_without_1_kb", drawn.jpeg_without_1_kb, CORRUPT_END),
    ("jpeg_with_zeros", drawn.jpeg_with_zeros, CORRUPT_END),
    ("length_too_short", drawn.jpeg, CORRUPT_END),
    ("huge_jpeg", drawn.huge_jpeg, BOMB_END),
    ("png_bomb", lambda name: drawn.png_bomb(), BOMB_END),
    ("png_text_bomb", drawn.png_text_bomb, BOMB_END),
    ("gif_bomb", drawn.gif_bomb, BOMB_END),
    ("webp_bomb", drawn.webp_bomb, BOMB_END),
    ("tiff_bomb", lambda name: drawn.tiff_bomb(), BOMB_END),
    ("bmp_bomb", lambda name: drawn.bmp_bomb(), BOMB_END),
):
    handler = body(make)
    if name == "length_too_short":
        handler = lambda exchange: exchange.answer(drawn.jpeg(exchange.name), length=9000)  # noqa: E731
    add("bad body", name, handler, end, fetch_decides=False)
add("good", "gif_of_many_frames", body(lambda name: drawn.gif_of_many_frames(), "image/gif"))

# --- trouble that passes, and trouble that looks like it -----------------------------------------------------------


def status(line: str, *headers: str) -> Handler:
    return lambda exchange: exchange.answer(drawn.HTML, "text/html", line, headers)


def once(trouble: Handler) -> Handler:
    """The trouble at the first request for an image, the image at the others."""
    return lambda exchange: trouble(exchange) if exchange.count == 1 else good(exchange)


def hang(exchange: "Exchange") -> None:
    exchange.wait_for_the_end()


def reset(exchange: "Exchange") -> None:
    exchange.reset()


def reset_in_body(exchange: "Exchange") -> None:
    data = drawn.jpeg(exchange.name)
    exchange.answer(data[: len(data) // 2], length=len(data))
    exchange.reset()


def cut_short(exchange: "Exchange") -> None:
    data = drawn.jpeg(exchange.name)
    exchange.answer(data[: len(data) // 2], length=len(data))


TRANSIENT: tuple[tuple[str, Handler, str], ...] = (
    ("500", status("500 Internal Server Error"), "failed server_error"),
    ("502_html", status("502 Bad Gateway"), "failed server_error"),
    ("503", status("503 Service Unavailable"), "failed server_error"),
    ("hang", hang, "failed timeout"),
    ("reset", reset, "failed connection"),
    ("reset_in_body", reset_in_body, "failed connection incomplete"),
    ("cut_short", cut_short, "failed incomplete"),
    ("broken_chunks", partial(chunked, end=b""), "failed incomplete connection"),
)
for name, trouble, end in TRANSIENT:
    add("transient", f"{name}_once", once(trouble), at_most=2)
    add("transient", f"{name}_always", trouble, end, at_most=ATTEMPTS)
add("transient", "connection_refused", end="failed connection", at_most=0, nobody_listens=True)

RETRY_S = 2


def retry_at_date(exchange: "Exchange") -> None:
    # HTTP dates have whole seconds: one more, so that at least RETRY_S pass.
    then = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=RETRY_S + 1)
    date = format_datetime(then, usegmt=True)
    exchange.answer(b"", None, "429 Too Many Requests", (f"Retry-After: {date}",))


BUSY = "429 Too Many Requests"
in_seconds = status(BUSY, f"Retry-After: {RETRY_S}")
add("retry after", "429_seconds_once", once(in_seconds), at_most=2, wait_s=RETRY_S)
add("retry after", "429_date_once", once(retry_at_date), at_most=2, wait_s=RETRY_S)
add(
    "retry after",
    "503_seconds_once",
    once(status("503 Service Unavailable", f"Retry-After: {RETRY_S}")),
    at_most=2,
    wait_s=RETRY_S,
)
add("retry after", "429_without_wait_once", once(status(BUSY)), at_most=2)
add("retry after", "429_unreadable_wait_once", once(status(BUSY, "Retry-After: soon")), at_most=2)
add("retry after", "429_always", status(BUSY), "failed rate_limited", at_most=ATTEMPTS)
add("retry after", "429_for_a_year", status(BUSY, "Retry-After: 31536000"), "failed rate_limited", at_most=ATTEMPTS)

# --- errors that no second request mends ---------------------------------------------------------------------------

for code, word, reason in (
    (400, "Bad Request", "refused"),
    (401, "Unauthorized", "refused"),
    (403, "Forbidden", "refused"),
    (404, "Not Found", "gone"),
    (410, "Gone", "gone"),
    (451, "Unavailable For Legal Reasons", "refused"),
):
    add("permanent", f"{code}_always", status(f"{code} {word}"), f"dropped {reason}")
add("permanent", "404_once", once(status("404 Not Found")), "dropped gone")

# --- those who do not want their images taken --------------------------------------------------------------------


def tagged(*headers: str) -> Handler:
    return lambda exchange: exchange.answer(drawn.jpeg(exchange.name), headers=headers)


for name, text, end in (
    ("robots_for_all", "User-agent: *\nDisallow: /case/\n", "dropped robots"),
    ("robots_for_us", "User-agent: wss\nDisallow: /\n\nUser-agent: *\nAllow: /\n", "dropped robots"),
    ("robots_with_mark", "\ufeffUser-agent: *\r\nDisallow: *.jpg$\r\n", "dropped robots"),
    ("robots_for_others", "User-agent: googlebot\nDisallow: /\n", "stored"),
    ("robots_elsewhere", "User-agent: *\nDisallow: /private/\n", "stored"),
):
    add("opt-out", name, end=end, at_most=1 if end == "stored" else 0, robots=robots_text(text))
for tag in ("noai", "noimageai", "noindex", "noimageindex", "none", "noml"):
    add("opt-out", f"tag_{tag}", tagged(f"X-Robots-Tag: {tag}"), "dropped opted_out")
add("opt-out", "tag_among_others", tagged("X-Robots-Tag: nofollow, NoAI", "X-Robots-Tag: all"), "dropped opted_out")
add("opt-out", "tag_for_us", tagged("X-Robots-Tag: wss: noai"), "dropped opted_out")
add("opt-out", "tag_for_others", tagged("X-Robots-Tag: googlebot: noindex, nofollow"))
add("opt-out", "tag_with_date", tagged("X-Robots-Tag: unavailable_after: 25 Jun 2040 15:00:00 GMT"))
add("opt-out", "tdm_reserved", tagged("TDM-Reservation: 1"), "dropped opted_out")
add("opt-out", "tdm_not_reserved", tagged("tdm-reservation: 0"))

# --- images that say there is no image -------------------------------------------------------------------------


def placeholder(path: str) -> Handler:
    def handler(exchange: "Exchange") -> None:
        if exchange.target == path:
            exchange.answer(drawn.png("the one placeholder"), "image/png")
        else:
            exchange.redirect(path)

    return handler


add("placeholder", "flickr_unavailable", placeholder("/en-us/photo_unavailable.png"), "dropped placeholder", at_most=2)
add("placeholder", "imgur_removed", placeholder("/removed.png"), "dropped placeholder", at_most=2)

# --- servers that mean harm, or might as well ----------------------------------------------------------------------


def endlessly(part: bytes, pause_s: float = 0.0) -> Callable[["Exchange"], None]:
    """Send the part until the crawler hangs up."""

    def handler(exchange: "Exchange") -> None:
        while exchange.wait(pause_s) if pause_s else not exchange.server.stopping.is_set():
            exchange.send(part)

    return handler


def after(start: bytes, rest: Handler, picture: int = 0) -> Handler:
    """First ``start`` and so many bytes of the image, then the rest."""

    def handler(exchange: "Exchange") -> None:
        exchange.send(start + drawn.jpeg(exchange.name)[:picture])
        rest(exchange)

    return handler


def raw(head: str, with_picture: bool = True) -> Handler:
    """Send the head as it is, then the image, then hang up."""
    return lambda exchange: exchange.send(head.encode("latin-1") + (drawn.jpeg(exchange.name) if with_picture else b""))


def to(location: str) -> Handler:
    """Redirect, with ``{canary}`` replaced by the port that nobody may connect to."""
    return lambda exchange: exchange.redirect(location.format(canary=exchange.server.canary_port))


def redirect_on_and_on(exchange: "Exchange") -> None:
    if exchange.hop < 300:
        exchange.redirect(f"{exchange.target.partition('?')[0]}?hop={exchange.hop + 1}")
    else:
        good(exchange)


def redirect_slowly(exchange: "Exchange") -> None:
    if exchange.wait(6.0):
        redirect_on_and_on(exchange)


def gzip_bomb(exchange: "Exchange") -> None:
    squeezed = drawn.gzip_bomb()
    exchange.answer(squeezed, headers=("Content-Encoding: deflate",))


OK = "HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n"
LONG = OK.encode() + b"Content-Length: 10000000\r\n\r\n"
OPEN = OK.encode() + b"\r\n"
CHUNKS = OK.encode() + b"Transfer-Encoding: chunked\r\n\r\n"
JPEG_CHUNK = b"20\r\n\xff\xd8\xff\xe0" + bytes(28) + b"\r\n"
SLOW_S = 0.1

TIMEOUT = "failed timeout"
for name, handler, end, at_most in (
    ("drip_headers", after(OK.encode() + b"X-Slow: ", endlessly(b"a", SLOW_S)), TIMEOUT, ATTEMPTS),
    ("drip_body", after(LONG, endlessly(b"a", SLOW_S), 500), TIMEOUT, ATTEMPTS),
    ("drip_chunks", after(CHUNKS + JPEG_CHUNK, endlessly(b"1\r\na\r\n", SLOW_S)), TIMEOUT, ATTEMPTS),
    ("hang_in_headers", after(OK.encode(), hang), TIMEOUT, ATTEMPTS),
    ("hang_in_body", after(LONG, hang, 500), TIMEOUT, ATTEMPTS),
    ("redirect_slowly", redirect_slowly, TIMEOUT, 5 * ATTEMPTS),
    ("endless_body", after(OPEN, endlessly(bytes(65536)), 500), "dropped too_many_bytes", 1),
    ("endless_chunks", after(CHUNKS, endlessly(b"10000\r\n" + bytes(65536) + b"\r\n")), "dropped not_an_image", 1),
    (
        "endless_picture_chunks",
        after(CHUNKS + JPEG_CHUNK, endlessly(b"10000\r\n" + bytes(65536) + b"\r\n")),
        "dropped too_many_bytes",
        1,
    ),
    (
        "endless_continue",
        endlessly(b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        "dropped bad_answer",
        1,
    ),
    ("endless_headers", after(OK.encode(), endlessly(b"X-More: again and again\r\n" * 100)), "dropped bad_answer", 1),
    (
        "endless_trailers",
        after(CHUNKS + b"0\r\n", endlessly(b"X-More: again and again\r\n" * 100)),
        "dropped bad_answer",
        1,
    ),
    ("claims_20_gb", raw(OK + "Content-Length: 20000000000\r\n\r\n"), "dropped too_many_bytes", 1),
    ("gzip_bomb", gzip_bomb, "dropped encoded", 1),
    (
        "thousands_of_headers",
        raw(OK + "".join(f"X-{i}: {i}\r\n" for i in range(5000)) + "\r\n"),
        "dropped bad_answer",
        1,
    ),
    ("header_of_1_mb", raw(OK + "X-Long: " + "a" * 1_000_000 + "\r\n\r\n"), "dropped bad_answer", 1),
    ("invalid_status_line", raw("HTTP/1.1 OK 200\r\nContent-Type: image/jpeg\r\n\r\n"), "dropped bad_answer", 1),
    ("http_0_9", raw(""), "dropped bad_answer", 1),
    ("not_http", raw("SSH-2.0-OpenSSH_9.9\r\n", with_picture=False), "dropped bad_answer", 1),
    ("chunk_size_no_number", raw(CHUNKS.decode() + "zzz\r\n"), "failed incomplete", ATTEMPTS),
    ("negative_length", raw(OK + "Content-Length: -5\r\n\r\n"), "dropped bad_answer", 1),
    ("two_lengths", raw(OK + "Content-Length: 10\r\nContent-Length: 20\r\n\r\n"), "dropped bad_answer", 1),
    ("redirect_loop", lambda exchange: exchange.redirect(exchange.target), "dropped redirects", 2),
    ("redirect_300_times", redirect_on_and_on, "dropped redirects", 6),
    ("redirect_nowhere", status("302 Found"), "dropped redirects", 1),
    ("redirect_to_file", to("file:///etc/passwd"), "dropped forbidden_scheme", 1),
    ("redirect_to_ftp", to("ftp://127.0.0.1:{canary}/a.jpg"), "dropped forbidden_scheme", 1),
    ("redirect_to_data", to("data:image/jpeg;base64,/9j/4AAQ"), "dropped forbidden_scheme", 1),
    ("redirect_to_nonsense", to("http://[::1/a.jpg"), "dropped bad_url", 1),
    ("redirect_to_loopback", to("http://127.0.0.1:{canary}/a.jpg"), "dropped forbidden_address", 1),
    ("redirect_to_localhost", to("http://localhost:{canary}/a.jpg"), "dropped forbidden_address", 1),
    ("redirect_to_number", to("http://2130706433:{canary}/a.jpg"), "dropped forbidden_address", 1),
    ("redirect_to_hex", to("//0x7f.1:{canary}/a.jpg"), "dropped forbidden_address", 1),
    ("redirect_to_zero", to("http://0.0.0.0:{canary}/a.jpg"), "dropped forbidden_address", 1),
    ("redirect_to_mapped", to("http://[::ffff:127.0.0.1]:{canary}/a.jpg"), "dropped forbidden_address", 1),
    ("redirect_to_metadata", to("http://169.254.169.254/latest/meta-data/"), "dropped forbidden_address", 1),
    ("redirect_to_private", to("http://10.0.0.1/a.jpg"), "dropped forbidden_address", 1),
    ("redirect_https_to_private", to("https://192.168.0.1/a.jpg"), "dropped forbidden_address", 1),
):
    add("hostile", name, handler, end, at_most)
for name, handler in (
    ("nul_in_header", raw(OK + "X-Odd: a\0b\r\n\r\n")),
    (
        "bytes_after_the_end",
        after(b"", lambda exchange: (good(exchange), exchange.send(b"HTTP/1.1 200 OK\r\n\r\nmore"))),
    ),
):
    add("hostile", name, handler)
for name, robots, end, at_most in (
    ("robots_redirects_to_private", to("http://10.0.0.1/robots.txt"), "stored", 1),
    ("robots_endless", after(b"HTTP/1.1 200 OK\r\n\r\n", endlessly(b"Disallow: /x\n" * 1000)), "stored", 1),
    (
        "robots_of_many_agents",
        robots_text("".join(f"User-agent: a{i}\n" for i in range(9000)) + "Disallow: /\n" * 9000),
        "stored",
        1,
    ),
    ("robots_drip", after(b"HTTP/1.1 200 OK\r\n\r\n", endlessly(b"#", SLOW_S)), TIMEOUT, 0),
    ("robots_hang", hang, TIMEOUT, 0),
    ("robots_503_always", status("503 Service Unavailable"), "failed server_error", 0),
    (
        "robots_503_once",
        lambda exchange: (status("503 Busy") if exchange.count == 1 else no_robots)(exchange),
        "stored",
        1,
    ),
):
    add("hostile" if "503" not in name else "transient", name, good, end, at_most, robots=robots)
