"""What counts as an address on the web, wherever one is read from a file or a page."""

import re
from urllib.parse import urlsplit

from wss_data.errors.text import is_clean

_NEVER_IN_AN_ADDRESS = re.compile(r"[\x00-\x20\x7f\"<>\\]")

LONGEST = 4000  # characters; what is longer is no address that a server takes


def is_web_address(text: str) -> bool:
    """Whether ``text`` is an http or https address with a host and without blanks, quotes or control characters.

    >>> is_web_address("https://example.org/a.jpg"), is_web_address("javascript:alert(1)"), is_web_address("https://")
    (True, False, False)
    """
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    wanted = parts.scheme in ("http", "https") and bool(host) and len(text) <= LONGEST
    return wanted and not _NEVER_IN_AN_ADDRESS.search(text) and is_clean(text)
