"""True masks are read for what they are when a target dataset is imported, and compared with what is known."""

from pathlib import Path

import numpy as np
import png_files
import pytest
from PIL import Image
from png_files import BLACK, PALETTE, VOC, WHITE, png, shape

from wss_data.imaging.masks import read_mask
from wss_data.spec import spec_from_dict
from wss_data.target.report import no_class_shown, target_report
from wss_data.target.translation import DROP_REASONS, TargetImage, check_target
from wss_data.target.voc import TargetLayout, TargetRecord

CLASSES = [f"c{index}" for index in range(1, 255)]
SPEC = spec_from_dict({"name": "t", "classes": CLASSES, "target": {"layout": "voc"}})
KINDS = png_files.kinds()


def checked(
    folder: Path, mask: bytes, labels=("c1",), orientation: int = 1, size=(20, 12), name="v1", labels_from="table"
) -> TargetImage:
    exif = Image.Exif()
    exif[0x0112] = orientation
    folder.mkdir(parents=True, exist_ok=True)
    large = Image.fromarray(np.full((size[1], size[0], 3), 90, np.uint8))
    large.save(folder / f"{name}.jpg", exif=exif)
    path = png_files.write(folder / "masks" / f"{name}.png", mask)
    record = TargetRecord(name, folder / f"{name}.jpg", "val", tuple(labels), path, labels_from)
    return check_target(record, SPEC, folder / "out")


def report(images) -> list[str]:
    layout = TargetLayout(Path(), tuple(image.record for image in images), {"val": Path("val.txt")})
    return str(target_report(layout, images, SPEC)).splitlines()


@pytest.mark.parametrize("name", list(KINDS))
def test_each_kind_of_mask_is_stored_as_read_or_dropped_with_its_reason(tmp_path, monkeypatch, name):
    monkeypatch.setattr("wss_data.imaging.images.MIN_SIDE", 1)
    kind = KINDS[name]
    image = checked(tmp_path, kind.data, CLASSES)
    values = set(np.unique(kind.values).tolist())
    if kind.reason or (values <= {0, 255} and 255 in values):
        # The size is looked at before anything is decoded.
        reason = "size" if name in ("10,000 x 10,000 promised", "more rows promised than held") else kind.reason
        assert image.dropped == f"mask_{reason or 'binary'}" and image.dropped in DROP_REASONS
        assert image.mask_path is None and image.detail.startswith(str(tmp_path / "masks" / "v1.png"))
    else:
        assert image.dropped is None
        assert np.array_equal(read_mask(image.mask_path), kind.values)
        assert set(image.shown) == {CLASSES[value - 1] for value in values if 0 < value < 255}


BINARY = {
    "grey 0 and 255": png(shape(255)),
    "1 bit a pixel": png(shape(1), 1),
    "white in 4 bits": png(shape(15), 4),
    "palette, black first": png(shape(1), 1, PALETTE, [BLACK, WHITE]),
    "palette, white first": png(shape(0, 1), 1, PALETTE, [WHITE, BLACK]),
}


@pytest.mark.parametrize("name", list(BINARY))
def test_foreground_in_black_and_white_is_no_truth_of_classes(tmp_path, monkeypatch, name):
    monkeypatch.setattr("wss_data.imaging.images.MIN_SIDE", 1)
    image = checked(tmp_path, BINARY[name], ["c2"])
    assert image.dropped == "mask_binary"
    assert "drawn in black and white: foreground" in image.detail and "255" in image.detail and "c2" in image.detail
    # The same is right where the labels name the class that white is, or where all that it shows becomes void.
    white = {"1 bit a pixel": "c1", "palette, black first": "c1", "white in 4 bits": "c15"}.get(name)
    if white:
        assert checked(tmp_path, BINARY[name], [white]).shown == (white,)
    assert checked(tmp_path, BINARY[name], []).dropped is None


def test_a_set_of_void_in_vocs_colours_is_refused_whole_and_one_of_many_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("wss_data.imaging.images.MIN_SIDE", 1)
    void = checked(tmp_path, png(shape(255), 8, PALETTE, VOC))
    assert void.dropped is None and void.shown == ()
    assert "255 is void, not foreground" in no_class_shown([void, void])
    good = checked(tmp_path, png(shape(1), 8, PALETTE, VOC), name="v2")
    assert no_class_shown([void, good]) is None
    (line,) = [line for line in report([void, *[good] * 9]) if "masks: " in line]
    assert line == (
        "masks: 1 of 10 disagree with their image's labels: 0 show classes that no label names, 1 (c1 in 1) lack "
        "classes that a label names, the first is v1"
    )


def test_masks_that_do_not_show_what_the_labels_name_are_counted_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("wss_data.imaging.images.MIN_SIDE", 1)
    mask = png(shape(3), 8, PALETTE, VOC)
    one, two = checked(tmp_path, mask, ["c3"]), checked(tmp_path, mask, ["c1"], name="v2")
    assert not any("masks: " in line for line in report([one]))
    (line,) = [line for line in report([one, two]) if "masks: " in line]
    assert line.startswith("note: masks: 1 of 2 disagree with their image's labels: 1 (c3 in 1) show classes that no")
    assert "1 (c1 in 1) lack classes that a label names, the first is v2. Do masks and labels belong together?" in line
    unlabelled = checked(tmp_path, mask, [], labels_from="")
    assert not any("masks: " in line for line in report([unlabelled])), "nothing is known to compare with"


def test_palettes_that_were_read_by_their_colours_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("wss_data.imaging.images.MIN_SIDE", 1)
    image = checked(tmp_path, KINDS["VOC's compacted"].data, ["c15"])
    assert image.shown == ("c15",)
    assert any(line.startswith("palettes: 1 masks have VOC's colours") for line in report([image]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turn_that_the_size_of_a_mask_does_not_show_is_reported(tmp_path, monkeypatch, orientation):
    monkeypatch.setattr("wss_data.imaging.images.MIN_SIDE", 1)
    upright = checked(tmp_path, png(shape(1)), orientation=orientation)
    square = checked(tmp_path, png(shape(1)[:, :12]), orientation=orientation, size=(12, 12), name="v2")
    assert upright.dropped == ("mask_rotated" if orientation >= 5 else None)
    assert upright.turned == (orientation if orientation < 5 else 1) and square.turned == orientation
    told = [line for line in report([upright, square]) if "EXIF orientation" in line]
    if orientation == 1:
        assert told == []
    else:
        assert told[0].startswith(f"note: {1 if orientation >= 5 else 2} val images are turned upright by their EXIF")
        assert "exiftran" in told[0] and ("half a turn" in told[0]) == (orientation in (3, 4))
