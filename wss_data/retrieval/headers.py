"""Headers: who we say we are, and what answers say about waiting and about taking an image."""

import os
import re
import time
from collections.abc import Iterable
from datetime import UTC
from email.utils import parsedate_to_datetime

from wss_data.errors import SpecError
from wss_data.retrieval.clock import Clock
from wss_data.runtime.version import __version__

NAME = "wss"  # the name that rules for us are written to

CONTACT_VARIABLE = "WSS_CONTACT"  # environment variable: an e-mail address or a page at which the user can be reached

# What ``X-Robots-Tag`` may say that means: not this image.
OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none", "noml"})

# What may stand before a colon in ``X-Robots-Tag`` without being the name of a crawler.
_WITH_VALUE = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})

_NAMED = re.compile(r"\s*([\w*-]+)\s*:\s*(.*)", re.DOTALL)


def user_agent() -> str:
    """What we call ourselves to every server: ``wss/<version> (<contact>)``, with the contact in ``WSS_CONTACT``.

    Raises ``SpecError`` if the contact cannot stand in a header.
    """
    contact = os.environ.get(CONTACT_VARIABLE, "").strip()
    if not contact:
        return f"wss/{__version__}"
    if not contact.isascii() or not contact.isprintable():
        raise SpecError(
            f"the contact {contact!r} in {CONTACT_VARIABLE} cannot be sent to web servers: it must be printable ASCII, "
            "such as an e-mail address."
        )
    return f"wss/{__version__} ({contact})"


def retry_after(value: str | None, clock: Clock = time) -> float | None:
    """Seconds to wait as a ``Retry-After`` header says, in seconds or as a date; ``None`` if it cannot be read.

    >>> retry_after("120"), retry_after("Fri, 15 Jan 2010 08:00:30 GMT"), retry_after("soon")
    (120.0, 0.0, None)
    """
    value = (value or "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]*)?", value):
        return float(value[:12])
    try:
        moment = parsedate_to_datetime(value)
        # Such dates are in GMT; one that does not say so is read as if it did.
        return max(0.0, moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - clock.time())
    except (ValueError, TypeError, OverflowError):
        return None


def opt_outs(robots_tags: Iterable[str], tdm_reservations: Iterable[str]) -> tuple[str, ...]:
    """The signals that an image must not be taken, each once, in order, from the values of two headers.

    >>> opt_outs(["googlebot: noindex", "wss: noai"], ["1"])
    ('X-Robots-Tag: noai', 'tdm-reservation: 1')

    Source:
        https://developers.google.com/search/docs/crawling-indexing/robots-meta-tag for the grammar;
        https://www.w3.org/community/reports/tdmrep/CG-FINAL-tdmrep-20240510/ for tdm-reservation.
    """
    found: dict[str, None] = {}
    for value in robots_tags:
        for_us = True
        for part in value.split(","):
            named = _NAMED.fullmatch(part)  # a name before a colon says whom the rest of the value is for
            if named and named[1].lower() not in _WITH_VALUE:
                for_us = named[1].lower() in (NAME, "*")
                part = named[2]
            word = part.strip().lower()
            if for_us and word in OPT_OUTS:
                found[f"X-Robots-Tag: {word}"] = None
    if any(value.strip() == "1" for value in tdm_reservations):
        found["tdm-reservation: 1"] = None
    return tuple(found)
