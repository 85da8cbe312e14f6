"""Every row of the table in docs/reference/commands.md that says when a command ends with status 1."""

import re
from pathlib import Path

import numpy as np
import pytest
from web_server import photo

from wss_data.commands.cli import main
from wss_data.imaging.images import write_jpeg
from wss_data.imaging.masks import write_foreground

pytestmark = pytest.mark.usefixtures("small_maps")

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "commands.md"

HELD_ELSEWHERE = {
    "wss-data compare-saliency": "test_compare_saliency.py",
    "wss-data rebuild": "test_manifest.py",
    "wss-train predict": "test_train_cli.py",
    "wss-train check": "test_check.py",
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two readable cats, and a text that says it is a cat."""
    folder = tmp_path_factory.mktemp("status") / "photos"
    for number in (1, 2):
        write_jpeg(photo(number), folder / "cat" / f"{number}.jpg")
    (folder / "cat" / "text.jpg").write_text("not an image")
    return folder


@pytest.fixture(scope="module")
def built(database, photos):
    """The dataset of these photographs, and the status with which it was built."""
    status = main(["build", "--images", str(photos), "--name", "status", "--workers", "1"])
    return "status", status


def test_every_command_of_the_table_has_its_test():
    table = PAGE.read_text(encoding="utf-8").split("ends with 1 if")[1]
    commands = re.findall(r"^[|] `(wss-[a-z]+ [a-z-]+)[^`]*` [|]", table, flags=re.M)
    here = {"build", "cosegment", "cosegment-folder", "forget", "import-masks"}
    assert set(commands) == {f"wss-data {name}" for name in here} | set(HELD_ELSEWHERE)
    for name in HELD_ELSEWHERE.values():
        assert re.search(r"== 1|is_sound|complete", (Path(__file__).parent / name).read_text(encoding="utf-8"))


def test_a_build_with_an_unreadable_file_ends_with_1_each_time_and_with_0_once_it_is_gone(built, photos, tmp_path):
    assert built[1] == 1
    assert main(["build", "--images", str(photos), "--name", "status", "--workers", "1"]) == 1
    for number in (1, 2):
        write_jpeg(photo(number), tmp_path / "good" / "cat" / f"{number}.jpg")
    assert main(["build", "--images", str(tmp_path / "good"), "--name", "status-good", "--workers", "1"]) == 0


def test_co_segmentation_ends_with_0_where_each_image_has_its_mask(built):
    assert main(["cosegment", built[0], "--option", "long_side=500", "--workers", "1"]) == 0


def test_a_folder_with_an_unreadable_image_ends_with_1(photos, tmp_path):
    assert main(["cosegment-folder", str(photos), "--out", str(tmp_path / "masks"), "--workers", "1"]) == 1


def test_nothing_to_forget_is_said_and_ends_with_1_and_a_dry_run_of_something_with_0(built, capsys):
    assert main(["forget", built[0], "https://pictures.example/nowhere.jpg"]) == 1
    assert "Nothing there has this address" in capsys.readouterr().out
    assert main(["forget", built[0], built_digest(built[0]), "--dry-run"]) == 0


def built_digest(name):
    from wss_data import open_dataset

    return open_dataset(name).first()["sha256"]


def test_a_mask_that_is_not_taken_ends_with_1_where_the_others_are_taken_and_with_2_where_none_is(built, tmp_path):
    mask = np.zeros((120, 160), bool)
    mask[20:60, 20:90] = True
    write_foreground(mask, tmp_path / "masks" / "cat" / "1.png")
    write_foreground(np.zeros((9, 9), bool), tmp_path / "masks" / "cat" / "2.png")
    assert main(["import-masks", built[0], str(tmp_path / "masks")]) == 2
    assert main(["import-masks", built[0], str(tmp_path / "masks"), "--skip-bad"]) == 1
