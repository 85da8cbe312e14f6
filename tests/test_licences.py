"""Names of licences: from Creative Commons codes and addresses, and Flickr's numbers."""

import pytest

from wss_data.retrieval.sources.licences import FLICKR_LICENCES, short_from_url, spdx_from_short, spdx_from_url


@pytest.mark.parametrize(
    ("url", "identifier"),
    [
        ("https://creativecommons.org/licenses/by/2.0/", "CC-BY-2.0"),
        ("https://creativecommons.org/licenses/by-sa/4.0", "CC-BY-SA-4.0"),
        ("http://creativecommons.org/licenses/by-nc-nd/3.0/deed.en", "CC-BY-NC-ND-3.0"),
        ("//www.creativecommons.org/licenses/by-sa/3.0/de/deed.de", "CC-BY-SA-3.0-DE"),
        ("https://creativecommons.org/licenses/by-sa/3.0/igo/legalcode", "CC-BY-SA-3.0-IGO"),
        ("https://creativecommons.org/licenses/by/3.0/?ref=openverse", "CC-BY-3.0"),
        ("http://creativecommons.org/publicdomain/zero/1.0/deed.en", "CC0-1.0"),
        ("https://creativecommons.org/publicdomain/mark/1.0/", "CC-PDM-1.0"),
        ("https://www.nationalarchives.gov.uk/doc/open-government-licence/version/3/", "OGL-UK-3.0"),
        ("http://artlibre.org/licence/lal/en", "LAL-1.3"),
        # A national version without an identifier is not the international licence.
        ("https://creativecommons.org/licenses/by-sa/2.5/pl/", None),
        ("https://creativecommons.org/licenses/by/9.9/", None),
        ("https://creativecommons.org/licenses/sampling+/1.0/", None),
        ("https://evil.example/?https://creativecommons.org/licenses/by/2.0/", None),
        ("https://creativecommons.org.evil.example/licenses/by/2.0/", None),
        ("", None),
    ],
)
def test_the_address_of_a_licence_names_it(url, identifier):
    assert spdx_from_url(url) == identifier


@pytest.mark.parametrize(
    ("code", "version", "identifier"),
    [
        ("by", "2.0", "CC-BY-2.0"),
        ("BY-NC-SA", "4.0", "CC-BY-NC-SA-4.0"),
        ("cc0", "1.0", "CC0-1.0"),
        ("pdm", None, "CC-PDM-1.0"),
        ("by", None, None),
        ("by", "7.0", None),
        ("sampling+", "1.0", None),
    ],
)
def test_a_short_code_with_its_version_names_a_licence(code, version, identifier):
    assert spdx_from_short(code, version) == identifier


def test_a_national_version_has_the_code_of_the_international_one():
    assert short_from_url("https://creativecommons.org/licenses/by-sa/2.5/pl/") == "by-sa"
    assert short_from_url("https://creativecommons.org/publicdomain/zero/1.0/") == "cc0"
    assert short_from_url("https://www.gnu.org/copyleft/fdl.html") is None


def test_flickrs_numbers_have_the_licences_that_flickr_lists():
    found = {number: spdx for number, (spdx, _, _) in FLICKR_LICENCES.items()}
    assert found == {
        0: None,
        1: "CC-BY-NC-SA-2.0",
        2: "CC-BY-NC-2.0",
        3: "CC-BY-NC-ND-2.0",
        4: "CC-BY-2.0",
        5: "CC-BY-SA-2.0",
        6: "CC-BY-ND-2.0",
        7: None,
        8: None,
        9: "CC0-1.0",
        10: "CC-PDM-1.0",
        11: "CC-BY-4.0",
        12: "CC-BY-SA-4.0",
        13: "CC-BY-ND-4.0",
        14: "CC-BY-NC-4.0",
        15: "CC-BY-NC-SA-4.0",
        16: "CC-BY-NC-ND-4.0",
    }


def test_the_address_given_for_each_of_flickrs_licences_names_the_same_licence():
    for spdx, url, _ in FLICKR_LICENCES.values():
        assert spdx_from_url(url) == spdx
