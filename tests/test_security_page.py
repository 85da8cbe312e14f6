"""Each claim of docs/explanation/security.md names a test that exists."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "explanation" / "security.md").read_text(encoding="utf-8")
CLAIMS = [line.split("|")[2] for line in PAGE.splitlines() if line.startswith("|") and "test_" in line]


def named(cell: str) -> list[tuple[str, str]]:
    """(File, test) for each test that a cell names; a test without a file is of the file before it."""
    found, file = [], ""
    for text in re.findall(r"`([^`]+)`", cell):
        file, _, test = (
            text.rpartition(": ") if ": " in text else (text, "", "") if text.endswith(".py") else (file, "", text)
        )
        found.append((file, test))
    return found


@pytest.mark.parametrize("cell", CLAIMS)
def test_a_claim_names_tests_that_there_are(cell):
    assert named(cell)
    for file, test in named(cell):
        assert not test or f"def {test}(" in (TESTS / file).read_text(encoding="utf-8"), f"{file}: {test}"
