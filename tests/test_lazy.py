import subprocess
import sys
from pathlib import Path

import pytest

from wss_data.runtime.lazy import modules_when_used


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A package with two modules in it; gives which of them are loaded now."""
    package = tmp_path / "whale"
    package.mkdir()
    (package / "__init__.py").write_text("colour = 'grey'\n")
    (package / "fin.py").write_text("length = 3\n")
    (package / "tail.py").write_text("from whale import colour\n")
    monkeypatch.syspath_prepend(tmp_path)

    def files() -> set[str]:
        modules = [module for name, module in sys.modules.items() if name.partition(".")[0] == "whale"]
        return {Path(module.__file__).stem for module in modules}

    yield files
    for name in ("whale", "whale.fin", "whale.tail"):
        sys.modules.pop(name, None)


def test_a_module_is_loaded_when_it_is_used_and_not_when_it_is_imported(loaded) -> None:
    with modules_when_used("whale", "whale.fin"):
        import whale.fin as fin

    assert loaded() == set()
    assert fin.length == 3
    assert loaded() == {"__init__", "fin"}


def test_a_value_can_be_named_as_well_and_a_parent_that_is_not_is_loaded(loaded) -> None:
    with modules_when_used("whale.fin", "whale.fin.length"):
        import whale
        from whale.fin import length

    assert loaded() == {"__init__"}
    assert (length.bit_length(), whale.colour) == (2, "grey")
    assert loaded() == {"__init__", "fin"}


def test_after_the_block_an_import_loads_as_ever(loaded) -> None:
    with modules_when_used("whale", "whale.fin"):
        import whale.fin as before
    import whale.fin as after

    assert loaded() == {"__init__", "fin"}
    assert before is not after
    assert before.length == after.length


def test_what_is_imported_by_name_or_was_not_expected_is_the_module_itself(loaded) -> None:
    with modules_when_used("whale", "whale.fin"):
        import whale.tail
        from whale.fin import length

        assert (length, whale.tail.colour, whale.colour) == (3, "grey", "grey")
    assert loaded() == {"__init__", "fin", "tail"}
    assert sys.modules["whale"].tail.colour == "grey"


def test_a_package_that_is_there_already_stays_as_it_is(loaded) -> None:
    import whale

    with modules_when_used("whale", "whale.fin"):
        import whale.fin as fin

        assert loaded() == {"__init__", "fin"}
    assert sys.modules["whale"] is whale
    assert whale.fin is fin


def test_fiftyone_is_there_without_what_it_hardly_uses_and_uses_that(database: str) -> None:
    code = """
import sys
from wss_data.store.connection import fiftyone
fo = fiftyone()
rare = ("IPython", "matplotlib", "pandas", "plotly", "py7zr", "pydantic.v1", "scipy", "sklearn", "torch")
print([name for name in rare if name in sys.modules])
import fiftyone.utils.transforms as transforms
turned = transforms.rotation_matrix_to_quaternion([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
print(turned.round(3).tolist(), fo.core.utils.validate_color("tomato"), type(sys.modules["scipy"]).__name__)
regression = fo.core.plots.utils.skl.LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0])
plot = fo.plot_confusion_matrix([[2, 1], [0, 3]], ["cat", "dog"], backend="plotly")
print(round(float(regression.coef_[0]), 6), type(plot).__name__, "sklearn" in sys.modules)
import strawberry.experimental.pydantic
print(strawberry.experimental.pydantic.type.__name__, fo.core.context.is_notebook_context())
import eta.core.utils as etau
print(etau.py7zr.SevenZipFile.__name__, fo.core.labels.spn.find_objects.__name__)
"""
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    last = ["SevenZipFile find_objects"]
    assert shown.splitlines() == ["[]", "[0.0, 0.0, 0.707, 0.707] None module", "2.0 Figure True", "type False", *last]
