"""``import-masks`` on a real database, with masks as MATLAB code leaves them."""

from pathlib import Path

import numpy as np
import pytest
from builders import H, W, foreground, make_web
from PIL import Image
from scipy.io import savemat

from wss_data import store
from wss_data.commands.cli import main
from wss_data.imaging.masks import read_mask, write_foreground

pytestmark = pytest.mark.usefixtures("database")


def test_mat_files_of_a_class_and_of_an_image_take_the_place_of_the_engines_masks(tmp_path, capsys):
    dataset = make_web("import-mat")
    half, banded = foreground(0.5), np.where(foreground(0.5), 255, 0).astype(np.uint8)
    banded[:, -4:] = 128
    cats = np.zeros((1, 3), [("name", object), ("mask", object)])
    for position, mask in enumerate((half, half.astype(float), banded)):
        cats[0, position] = f"C:\\photos\\cat\\photo_{position + 1}.jpg", mask
    savemat(tmp_path / "cat.mat", {"results": cats}, do_compression=True)
    (tmp_path / "cow").mkdir()
    savemat(tmp_path / "cow" / "photo_4.mat", {"seg": np.kron(half, np.ones((2, 2)))})

    assert main(["import-masks", "import-mat", str(tmp_path), "--supervision", "none"]) == 0

    assert "4 masks imported (3 cat, 1 cow).\n1 of them had the original image's size" in capsys.readouterr().out
    dataset.reload()
    assert set(dataset.values("cosegmentation.method")) == {store.IMPORTED}
    assert dataset.values("foreground_ratio") == [0.5] * 4
    paths = dict(zip(*dataset.values(["sha256", "cosegmentation.mask_path"]), strict=True))
    assert read_mask(paths["4" * 64]).tolist() == (2 * half).tolist()
    expected = half.astype(np.uint8)
    expected[:, -4:] = 255
    assert read_mask(paths["3" * 64]).tolist() == expected.tolist(), "the band is void"
    assert store.example_table(dataset, "cosegmentation").ledger.strictly_image_level


def test_masks_of_photographs_that_exif_turns_without_changing_their_size_are_reported(tmp_path, capsys):
    dataset = make_web("import-turned")
    exif = Image.Exif()
    exif[0x0112] = 3
    photograph = tmp_path / "from the camera.jpg"
    Image.new("RGB", (W, H)).save(photograph, exif=exif)
    for sample in dataset:
        if sample["label"].label == "cow":
            sample["provenance"].image_url = photograph.as_uri()
            sample.save()
        write_foreground(foreground(0.5), tmp_path / "m" / sample["label"].label / f"{Path(sample.filepath).stem}.png")
    assert main(["import-masks", "import-turned", str(tmp_path / "m")]) == 0
    told = capsys.readouterr().out
    assert "note: 1 photographs are turned upright by their EXIF orientation" in told and str(photograph) in told


def test_a_mat_file_that_cannot_be_taken_changes_nothing_and_says_why(tmp_path, capsys):
    dataset = make_web("import-mat-bad")
    before = dataset.values(["cosegmentation.mask_path", "tags"])
    (tmp_path / "cow").mkdir()
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    (tmp_path / "cow" / "photo_4.mat").write_bytes(header + bytes(W * H))
    assert main(["import-masks", "import-mat-bad", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "4 bad: 1 mat_version, 3 missing." in told
    assert "version 7.3 (HDF5), which is not read. Save it again with save(file, 'mask', '-v7')." in told
    dataset.reload()
    assert dataset.values(["cosegmentation.mask_path", "tags"]) == before
