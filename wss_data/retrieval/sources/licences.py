"""SPDX identifiers of the licences that image services use: Creative Commons codes and addresses, Flickr's numbers."""

import re

_CODES = frozenset({"by", "by-sa", "by-nd", "by-nc", "by-nc-sa", "by-nc-nd"})
_VERSIONS = frozenset({"1.0", "2.0", "2.5", "3.0", "4.0"})

# (code, version) -> the national versions that have an identifier; the many others have none.
_PORTS = {
    ("by", "2.5"): {"au"},
    ("by", "3.0"): {"at", "au", "de", "igo", "nl", "us"},
    ("by-nc", "3.0"): {"de"},
    ("by-nc-nd", "3.0"): {"de", "igo"},
    ("by-nc-sa", "2.0"): {"de", "fr", "uk"},
    ("by-nc-sa", "3.0"): {"de", "igo"},
    ("by-nd", "3.0"): {"de"},
    ("by-sa", "2.0"): {"uk"},
    ("by-sa", "2.1"): {"jp"},
    ("by-sa", "3.0"): {"at", "de", "igo"},
}

_PUBLIC = {"zero": "cc0", "mark": "pdm"}

_CC_URL = re.compile(
    r"(?:https?:)?//(?:www\.)?creativecommons\.org/"
    r"(?:licenses/(?P<code>[a-z-]+)/(?P<version>\d\.\d)(?:/(?P<port>[a-z]{2,3}))?|publicdomain/(?P<public>zero|mark)/1\.0)"
    r"(?:/(?:deed(?:\.[a-z_-]+)?|legalcode(?:\.[a-z_-]+)?)?)?(?:[?#].*)?",
    re.IGNORECASE,
)

_OTHER_URLS = (
    (re.compile(r"nationalarchives\.gov\.uk/doc/open-government-licence/version/([123])(?:/|$)"), "OGL-UK-{}.0"),
    (re.compile(r"artlibre\.org/licence/lal(?:/|$)"), "LAL-1.3"),
)


def spdx_from_short(code: str, version: str | None) -> str | None:
    """SPDX identifier of a Creative Commons licence named by its short code; ``None`` where there is none.

    CC0 and the public domain mark have one version only. Source: https://spdx.org/licenses/.

    >>> spdx_from_short("by-sa", "4.0"), spdx_from_short("CC0", None), spdx_from_short("by", None)
    ('CC-BY-SA-4.0', 'CC0-1.0', None)
    """
    code, version = code.strip().lower(), (version or "").strip()
    if code in ("cc0", "pdm"):
        return {"cc0": "CC0-1.0", "pdm": "CC-PDM-1.0"}[code]
    return f"CC-{code.upper()}-{version}" if code in _CODES and version in _VERSIONS else None


def spdx_from_url(url: str) -> str | None:
    """SPDX identifier of a licence named by the address of its text; ``None`` as for most national versions.

    >>> spdx_from_url("https://creativecommons.org/licenses/by-sa/3.0/de/deed.en")
    'CC-BY-SA-3.0-DE'
    """
    url = url.strip()
    found = _CC_URL.fullmatch(url)
    if found is None:
        others = ((pattern.search(url), identifier) for pattern, identifier in _OTHER_URLS)
        return next((identifier.format(*other.groups()) for other, identifier in others if other), None)
    if found["public"]:
        return spdx_from_short(_PUBLIC[found["public"].lower()], None)
    if found["port"]:
        code, version, port = found["code"].lower(), found["version"], found["port"].lower()
        return f"CC-{code}-{version}-{port}".upper() if port in _PORTS.get((code, version), ()) else None
    return spdx_from_short(found["code"], found["version"])


def short_from_url(url: str) -> str | None:
    """Short code of a Creative Commons licence named by the address of its text; ``None`` for any other address.

    >>> short_from_url("https://creativecommons.org/licenses/by-sa/3.0/de/")
    'by-sa'
    """
    found = _CC_URL.fullmatch(url.strip())
    if found is None:
        return None
    return _PUBLIC[found["public"].lower()] if found["public"] else found["code"].lower()


def _creative_commons(code: str, version: str) -> tuple[str | None, str, str]:
    """Identifier, address and name of a Creative Commons licence."""
    url = f"https://creativecommons.org/licenses/{code}/{version}/"
    return spdx_from_short(code, version), url, f"CC {code.upper()} {version}"


# Flickr's licence number -> (SPDX identifier or ``None``, address of the text, name).
FLICKR_LICENCES: dict[int, tuple[str | None, str, str]] = {
    0: (None, "", "All Rights Reserved"),
    1: _creative_commons("by-nc-sa", "2.0"),
    2: _creative_commons("by-nc", "2.0"),
    3: _creative_commons("by-nc-nd", "2.0"),
    4: _creative_commons("by", "2.0"),
    5: _creative_commons("by-sa", "2.0"),
    6: _creative_commons("by-nd", "2.0"),
    7: (None, "https://www.flickr.com/commons/usage/", "No known copyright restrictions"),  # no licence, so no SPDX
    8: (None, "https://www.usa.gov/government-copyright", "United States Government Work"),
    9: ("CC0-1.0", "https://creativecommons.org/publicdomain/zero/1.0/", "CC0 1.0"),
    10: ("CC-PDM-1.0", "https://creativecommons.org/publicdomain/mark/1.0/", "Public Domain Mark 1.0"),
    11: _creative_commons("by", "4.0"),
    12: _creative_commons("by-sa", "4.0"),
    13: _creative_commons("by-nd", "4.0"),
    14: _creative_commons("by-nc", "4.0"),
    15: _creative_commons("by-nc-sa", "4.0"),
    16: _creative_commons("by-nc-nd", "4.0"),
}
