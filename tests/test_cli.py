"""The command line: every command on the real database, and no traceback for bad input."""

import shutil

import cv2
import numpy as np
import pytest
import yaml

from wss_data.commands.cli import main, make_parser
from wss_data.imaging.masks import read_mask, write_foreground
from wss_data.runtime.home import dataset_folder
from wss_data.spec import read_spec

pytestmark = pytest.mark.usefixtures("small_maps")

CLASSES = list(read_spec("drawn").class_names[:2])


@pytest.fixture(scope="module")
def zoo(database, tmp_path_factory):
    """A definition file, built: two classes of four drawn images, and its target."""
    file = tmp_path_factory.mktemp("zoo") / "zoo.yaml"
    definition = {
        "name": "zoo-cli",
        "classes": CLASSES,
        "sources": [{"name": "drawn", "limit": 4}],
        "longest_side": 160,
        "target": {"layout": "drawn", "options": {"train": 4, "val": 2, "seed": 1}},
    }
    file.write_text(yaml.safe_dump(definition))
    assert main(["build", str(file)]) == 0
    return file


def refused(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith("wss-data: ") and "Traceback" not in message
    assert message.count("\n") == 1
    return message


def test_every_command_has_help_that_ends_with_a_line_to_paste(capsys):
    commands = make_parser()._subparsers._group_actions[0].choices
    assert set(commands) >= {"build", "list", "view", "filter", "import-masks", "import-target", "export"}
    for name, parser in commands.items():
        assert parser.format_help().rstrip().splitlines()[-1].startswith(f"example:  wss-data {name}")


def test_a_built_dataset_is_listed(zoo, capsys):
    assert main(["list"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("zoo-cli "))
    assert "8 images" in line and CLASSES[0] in line


def test_a_dry_run_of_the_filter_changes_nothing(zoo, capsys):
    from wss_data import open_dataset

    before = open_dataset("zoo-cli").values("tags")
    assert main(["filter", "zoo-cli", "--min-foreground", "0.98", "--max-foreground", "0.99", "--dry-run"]) == 0
    assert "nothing was changed" in capsys.readouterr().out
    assert open_dataset("zoo-cli").values("tags") == before


def test_the_filter_tags_and_the_old_thresholds_bring_the_old_tags_back(zoo, capsys):
    from wss_data import open_dataset

    before = open_dataset("zoo-cli").values("tags")
    assert main(["filter", "zoo-cli", "--min-foreground", "0.98", "--max-foreground", "0.99"]) == 0
    assert open_dataset("zoo-cli").match_tags("kept").count() == 0
    assert main(["filter", "zoo-cli"]) == 0
    assert [sorted(tags) for tags in open_dataset("zoo-cli").values("tags")] == [sorted(tags) for tags in before]


def test_the_filter_goes_by_confidence_where_it_is_asked_to(zoo, capsys):
    assert main(["filter", "zoo-cli", "--min-confidence", "1", "--dry-run"]) == 0
    assert "low confidence" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["filter", "zoo-cli", "--min-confidence", "2"])
    assert "'2' is no fraction between 0 and 1" in capsys.readouterr().err


def test_masks_from_elsewhere_replace_the_engines_and_survive_another_build(zoo, tmp_path, capsys):
    from wss_data import open_dataset

    dataset = open_dataset("zoo-cli")
    for sample in dataset:
        mask = np.zeros((sample.metadata.height, sample.metadata.width), bool)
        mask[: mask.shape[0] // 2] = True
        write_foreground(mask, tmp_path / sample.label.label / f"{sample.filename.removesuffix('.jpg')}.png")
    assert main(["import-masks", "zoo-cli", str(tmp_path), "--supervision", "none"]) == 0
    assert main(["build", str(zoo)]) == 0
    dataset = open_dataset("zoo-cli")
    assert dataset.distinct("cosegmentation.method") == ["imported"]
    assert dataset.values("foreground_ratio") == pytest.approx([0.5] * 8, abs=0.02)
    assert dataset.exists("cosegmentation_before_import").count() == 8


def test_the_target_is_imported_with_masks_for_val_only(zoo, capsys):
    from wss_data import open_dataset

    assert main(["import-target", str(zoo)]) == 0
    target = open_dataset("zoo-cli-target")
    assert target.match_tags("train").count() == 4
    assert target.match_tags("train").exists("ground_truth").count() == 0
    assert target.match_tags("val").exists("ground_truth").count() == 2


def test_exported_masks_can_be_read_by_other_tools(zoo, tmp_path, capsys):
    assert main(["export", "zoo-cli", str(tmp_path / "out"), "--layout", "voc"]) == 0
    masks = list((tmp_path / "out" / "SegmentationClass").glob("*.png"))
    assert masks
    assert set(np.unique(read_mask(masks[0]))) <= {0, 1, 2}
    assert "not an empty folder" in refused(capsys, "export", "zoo-cli", str(tmp_path / "out"))


def test_a_folder_of_images_becomes_a_dataset_without_a_definition(zoo, tmp_path, capsys):
    for name in CLASSES:
        shutil.copytree(dataset_folder("zoo-cli") / "images" / name, tmp_path / "pets" / name)
    assert main(["build", "--images", str(tmp_path / "pets")]) == 0
    assert "dataset:   pets" in capsys.readouterr().out


def test_a_folder_is_cosegmented_and_scored_without_a_database(zoo, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WSS_DATABASE_DIR", "/nowhere/at/all")
    images, out = dataset_folder("zoo-cli") / "images", tmp_path / "masks"
    assert main(["cosegment-folder", str(images), "--out", str(out)]) == 0
    for image in images.glob("*/*.jpg"):
        mask = read_mask(out / image.parent.name / f"{image.stem}.png")
        assert mask.shape == cv2.imread(str(image)).shape[:2]
    assert (out / "scores.csv").read_text().count("\n") == 9
    capsys.readouterr()
    assert main(["score", str(out), str(out)]) == 0
    assert "1.000" in capsys.readouterr().out


def test_bad_input_is_one_line_that_says_what_to_do(zoo, tmp_path, capsys):
    images, broken = dataset_folder("zoo-cli") / "images", tmp_path / "broken.yaml"
    broken.write_text(yaml.safe_dump({"name": "x", "classes": ["a"], "sources": ["drawn"], "colour": 1}))
    assert "there is no option 'colour'" in refused(capsys, "build", str(broken))
    assert "no definition 'nothing'" in refused(capsys, "build", "nothing")
    assert "a definition (wss-data build drawn) or a folder" in refused(capsys, "build")
    assert "no such folder" in refused(capsys, "build", "--images", str(tmp_path / "nowhere"))
    assert "--images FOLDER" in refused(capsys, "build", "voc_animals")
    assert "there is no dataset 'nothing'" in refused(capsys, "filter", "nothing")
    assert "not below" in refused(capsys, "filter", "zoo-cli", "--min-foreground", "0.9")
    assert "nowhere" in refused(capsys, "import-masks", "zoo-cli", str(tmp_path / "nowhere"))
    assert "folder" in refused(capsys, "import-target", "voc_animals")
    assert "'magic'" in refused(
        capsys, "cosegment-folder", str(images), "--out", str(tmp_path / "o"), "--method", "magic"
    )


def test_a_fraction_outside_0_to_1_is_refused_by_the_parser(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["filter", "zoo", "--min-foreground", "20"])
    assert caught.value.code == 2
    assert "'20' is no fraction between 0 and 1" in capsys.readouterr().err


def test_the_app_is_not_served_to_others_unless_forced(zoo, capsys):
    assert "--force" in refused(capsys, "view", "zoo-cli", "--address", "0.0.0.0")
