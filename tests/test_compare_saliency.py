import numpy as np
import pytest
from drawings import disc
from PIL import Image

from wss_data.commands.cli import main
from wss_data.cosegmentation.compare import SaliencyComparison, compare_saliency, saliency_image
from wss_data.cosegmentation.saliency import BASELINES
from wss_data.errors import CosegmentationError, MaskError, SourceError
from wss_data.imaging.images import read_image, write_jpeg
from wss_data.imaging.masks import write_foreground

pytestmark = pytest.mark.usefixtures("small_maps")

QUICK = {"common": {"long_side": 64, "refine_long_side": 48}}


@pytest.fixture
def photos(tmp_path):
    """Four discs with their true masks in the folders of a data set, and a file that is no image."""
    for number in range(4):
        image, inside = disc(seed=number)
        write_jpeg(image, tmp_path / "images" / "ball" / f"{number}.jpg")
        write_foreground(inside, tmp_path / "truth" / "ball" / f"{number}.png")
    (tmp_path / "images" / "ball" / "broken.jpg").write_bytes(b"no image")
    return tmp_path


def test_the_figure_is_drawn_and_every_method_is_scored_where_truth_is_given(photos):
    found = compare_saliency(
        photos / "images" / "ball", photos / "out.png", truth=photos / "truth", count=3, options=QUICK, workers=1
    )

    picture = read_image(photos / "out.png")
    assert picture.shape[1] > 300 and np.ptp(picture) > 100
    assert len(found.shown) == 3 and found.images == 5 and found.unreadable == 1
    assert [score.name for score in found.scores] == [*BASELINES, "common"]
    assert all(score.images == 4 and 0 <= score.jaccard <= 1 for score in found.scores)
    by_name = {score.name: score.jaccard for score in found.scores}
    assert by_name["centre"] > 0.8
    assert "1 images could not be read" in str(found) and "common" in str(found)
    assert found.to_dict()["figure"].endswith("out.png")


def test_true_masks_of_images_that_exif_turns_without_changing_their_size_are_reported(photos, caplog):
    exif = Image.Exif()
    exif[0x0112] = 3
    path = photos / "images" / "ball" / "0.jpg"
    Image.open(path).save(path, exif=exif)
    folder = photos / "images" / "ball"
    compare_saliency(folder, photos / "out.png", truth=photos / "truth", count=1, options=QUICK, workers=1)
    assert "1 images with a true mask are turned upright by their EXIF orientation" in caplog.text


def test_without_truth_nothing_is_scored(photos):
    found = compare_saliency(photos / "images" / "ball", photos / "out.png", count=99, options=QUICK, workers=1)

    assert found.scores == () and len(found.shown) == 4
    assert isinstance(found, SaliencyComparison) and (photos / "out.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count is 0: at least 1"),
        ({"methods": ()}, "no engine is given"),
        ({"methods": ("magic",)}, "no co-segmentation method 'magic'"),
    ],
)
def test_a_wrong_argument_is_named_before_anything_is_done(photos, arguments, message):
    with pytest.raises(CosegmentationError, match=message):
        compare_saliency(photos / "images" / "ball", photos / "out.png", **arguments)
    assert not (photos / "out.png").exists()


def test_a_folder_of_classes_or_without_images_is_reported(photos):
    with pytest.raises(SourceError, match=r"It holds folders: give one class, such as .*ball"):
        compare_saliency(photos / "images", photos / "out.png")
    with pytest.raises(SourceError, match="no such folder"):
        compare_saliency(photos / "nowhere", photos / "out.png")
    with pytest.raises(SourceError, match="no true mask for any of the 5 images"):
        compare_saliency(photos / "images" / "ball", photos / "out.png", truth=photos / "images")


def test_a_true_mask_of_other_proportions_is_refused(photos):
    write_foreground(np.ones((30, 90), bool), photos / "truth" / "ball" / "0.png")

    with pytest.raises(MaskError, match="other proportions"):
        compare_saliency(
            photos / "images" / "ball", photos / "out.png", truth=photos / "truth", options=QUICK, workers=1
        )


def test_a_saliency_image_is_grey_and_white_is_salient():
    assert saliency_image(np.array([[0.0, 0.5, 1.0]]))[0].tolist() == [[0] * 3, [128] * 3, [255] * 3]


def test_the_command_prints_the_table_and_fails_for_an_image_that_cannot_be_read(photos, capsys):
    folder = str(photos / "images" / "ball")

    code = main(["compare-saliency", folder, "--out", str(photos / "x.png"), "--truth", str(photos / "truth")])

    printed = capsys.readouterr().out
    assert code == 1 and "border" in printed and "common" in printed and (photos / "x.png").is_file()
