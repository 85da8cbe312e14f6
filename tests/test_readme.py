"""What the README shows is what runs, and its links lead somewhere."""

import re
from itertools import chain
from pathlib import Path

import pytest
import yaml
from drawings import LEARNS, SMALLEST

from wss_data.spec import read_spec
from wss_train.recipes import with_values

pytestmark = pytest.mark.usefixtures("small_maps")

ROOT = Path(__file__).resolve().parents[1]
QUICK = with_values(LEARNS, {**SMALLEST, "generator_iterations": 6})
# Not below the folders with a dot: an environment's has tens of thousands of files.
FOLDERS = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")]
PAGES = sorted(chain(ROOT.glob("*.md"), *(folder.rglob("*.md") for folder in FOLDERS)))


def python_of(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_the_readmes_python_runs_twice_as_it_stands_on_a_small_definition(database, tmp_path, monkeypatch, capsys):
    definition = {
        **read_spec("drawn").to_dict(),
        "name": "drawn",
        "sources": [{"name": "drawn", "limit": 3}],
        "longest_side": 128,
        "target": {"layout": "drawn", "options": {"train": 4, "val": 2, "seed": 1}},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(definition))
    (code,) = python_of(ROOT / "README.md")
    # Smaller, so that it takes seconds; every line stays.
    code, found = re.subn(r'(build|import_target)\("drawn"\)', rf'\1(r"{tmp_path / "small.yaml"}")', code)
    assert found == 2
    code, found = re.subn(r'recipe="cpu"', "recipe=QUICK", code)
    assert found == 2
    code, found = re.subn(r'F\("confidence"\) > 0\.5', 'F("confidence") > 0.0', code)
    assert found == 1
    monkeypatch.chdir(tmp_path)
    scores = []
    for _ in ("first time", "second time"):
        exec(compile(code, "README.md", "exec"), {"QUICK": QUICK})
        scores += [line for line in capsys.readouterr().out.splitlines() if line.startswith("mean IoU")]
    assert len(scores) == 2 and scores[0] == scores[1]
    assert (tmp_path / "runs" / "final" / "model.safetensors").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file(page):
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not t.startswith("mailto:") and not (page.parent / t).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_that_a_page_shows_exists(page):
    from wss_data.commands.cli import make_parser as data_parser
    from wss_train.commands.cli import make_parser as train_parser

    known = {
        "wss-data": set(data_parser()._subparsers._group_actions[0].choices),
        "wss-train": set(train_parser()._subparsers._group_actions[0].choices),
    }
    for program, command in re.findall(r"(wss-(?:data|train)) +([a-z][a-z-]+)", page.read_text(encoding="utf-8")):
        assert command in known[program], f"{program} {command}"


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.name != "model_card.md"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_lines_of_prose_are_short_enough_that_a_diff_can_be_read(page):
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    long = [line for line in prose.splitlines() if len(line) > 120 and " " in line[:110] and line[:1] not in "|<![`"]
    assert long == []
