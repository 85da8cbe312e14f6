"""The notebooks of the tutorials run from the first cell to the last, and are kept with what they show."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))


def shown(text: str) -> list[tuple[str, list[str]]]:
    """Each cell of code, and the kinds of what it prints and shows; what that is depends on the machine."""
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    return [
        ("".join(c["source"]), [kind for o in c["outputs"] for kind in o.get("data", [o["output_type"]])])
        for c in cells
    ]


FIRST, JUDGE = NOTEBOOKS
"""Both take a minute and a half of two cores: the first runs each time with small numbers, the other as it is."""

SMALL = {
    FIRST: {": 16, ": ": 4, ", ": 30, ": ": 6, ", ": 15, ": ": 4, ", ": 256, ": ": 96, ", ": 300}": ": 4}"},
    JUDGE: {},
}
"""Images and iterations, and those that take seconds; every line stays."""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", [FIRST, pytest.param(JUDGE, marks=pytest.mark.slow)], ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_it_is_kept_with(path, database, tmp_path):
    pytest.importorskip("nbclient", reason="nbclient runs notebooks: pip install .[dev]")
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    small = kept = path.read_text(encoding="utf-8")
    for number, fewer in SMALL[path].items():
        assert small.count(number) == 1
        small = small.replace(number, fewer)
    (tmp_path / path.name).write_text(small, encoding="utf-8")
    assert shown(generate.executed(tmp_path / path.name, tmp_path)) == shown(small)
    assert sum("image/jpeg" in kinds for _, kinds in shown(kept)) >= 2
    assert len(kept) < 600_000


def test_there_are_two_notebooks_and_each_names_the_other():
    for path, other in zip(NOTEBOOKS, reversed(NOTEBOOKS), strict=True):
        assert other.name in path.read_text(encoding="utf-8")
