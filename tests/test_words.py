"""One word for one thing: the words that the glossary's took the place of are gone from code, tests and docs."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

OLD_WORDS = {
    r"pictures?": "image, sheet, chart or diagram",
    r"told": "reported, logged, known",
    r"lessons?": "self-training fold",
    r"workshops?": "worker pool",
    r"judge?ments?": "confidence, verdict",
    r"doctor": "check",
    r"compactness": "solidity",
    r"pieces": "connected component, part, chunk",
    r"outside (?:program|mask|engine|setting|model)s?": "external program",
    r"(?:a|the|what|its|foreground) shares?|shares? of": "fraction",
}
OLD = re.compile(rf"(?<![A-Za-z])(?:{'|'.join(OLD_WORDS)})(?![a-z])", re.IGNORECASE)

A_NAME = re.compile(r"""(["'])[\w.:/-]*\1|`[^`]*`|--[\w-]+|[\w.<>*-]*/[\w./<>*-]*""")
"""Names in quotes, options and paths: names of fields, files and options that exist stay what they are."""

NAMES_THAT_STAY = {
    "wss_data/cosegmentation/quality.py": {"compactness", "pieces"},  # fields in databases and exports
    "wss_data/store/tables.py": {"compactness"},
    "wss_data/cosegmentation/saliency.py": {"compactness"},  # a parameter of scikit-image's SLIC
}
PAGES = sorted(p for p in [*ROOT.glob("docs/**/*.md"), *ROOT.glob("datasets/*.md"), ROOT / "README.md"])
SOURCES = sorted(p for package in ("wss_data", "wss_train") for p in (ROOT / package).rglob("*.py"))
TESTS = sorted(p for p in (ROOT / "tests").rglob("*.py") if p != Path(__file__).resolve())


def old_words(text: str) -> list[str]:
    """The old words in prose.

    >>> old_words("A share of the picture is told: `told`, pictures/a.png, --pictures")
    ['A share', 'picture', 'told']
    """
    return [match.group() for match in OLD.finditer(A_NAME.sub(" ", text))]


def prose_of(path: Path, names: bool) -> str:
    """Docstrings and comments of a file and its test functions' names; with ``names`` all strings and names as well."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    found = [token.string for token in tokenize.generate_tokens(io.StringIO(source).readline) if names
             or token.type == tokenize.COMMENT]  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            found.append(node.value.value)
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            found.append(node.name.replace("_", " "))
    return "\n".join(found)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_source_uses_the_words_of_the_glossary(path):
    text = prose_of(path, names=True).replace("_", " ")
    assert set(old_words(text)) - NAMES_THAT_STAY.get(str(path.relative_to(ROOT)), set()) == set()


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_tests_use_the_words_of_the_glossary(path):
    assert old_words(prose_of(path, names=False)) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_pages_use_the_words_of_the_glossary(path):
    assert old_words(path.read_text(encoding="utf-8")) == []


def test_the_glossary_lists_each_word_once_in_order():
    rows = re.findall(r"^\| ([^|]+) \|", (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE)[2:]
    assert [row.lower() for row in rows] == sorted({row.lower() for row in rows})
