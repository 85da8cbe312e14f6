"""Masks in .mat files: the layouts that MATLAB code writes, each way to be wrong, and files made to do harm."""

import io
import os
import random
import signal
import struct
import subprocess
import sys
import textwrap
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from test_decoding import is_running

from wss_data.cosegmentation.imported import (
    REASONS,
    KnownImage,
    MaskFile,
    check_mask,
    match_masks,
    read_foreground,
    write_imported,
)
from wss_data.errors import MaskError, StoreError
from wss_data.imaging import mat
from wss_data.imaging.images import write_jpeg
from wss_data.imaging.masks import read_mask
from wss_data.imaging.mat import read_mat_mask, read_mat_masks

W, H = 40, 30
MATLABS_OWN = Path(scipy.io.matlab.__file__).parent / "tests" / "data"
needs_matlabs_own = pytest.mark.skipif(not MATLABS_OWN.is_dir(), reason="SciPy was installed without its test files")


def block(dtype=bool, value=1) -> np.ndarray:
    """Left half foreground, one more pixel in the top row: neither transposed nor flipped is it the same."""
    mask = np.zeros((H, W), dtype)
    mask[:, : W // 2] = value
    mask[0, W // 2] = value
    return mask


def save(path: Path, compressed: bool = True, **variables) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, variables, do_compression=compressed)
    return path


def cells(*items) -> np.ndarray:
    array = np.empty((1, len(items)), object)
    for position, item in enumerate(items):
        array[0, position] = item
    return array


def structs(**fields) -> np.ndarray:
    count = len(next(iter(fields.values())))
    array = np.zeros((1, count), [(name, object) for name in fields])
    for name, items in fields.items():
        for position, item in enumerate(items):
            array[0, position][name] = item
    return array


def reason_of(path: Path) -> str:
    with pytest.raises(MaskError) as caught:
        read_mat_mask(path)
    assert str(path) in str(caught.value)
    assert caught.value.reason in REASONS
    return caught.value.reason


# ------------------------------------------------------------- one mask a file


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.uint64, np.float32, np.float64])
def test_a_mask_is_read_whatever_numbers_it_is_made_of(tmp_path, compressed, dtype):
    mask = read_mat_mask(save(tmp_path / "a.mat", compressed, mask=block(dtype)))
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, block())


@pytest.mark.parametrize("name", ["mask", "Mask", "MASK", "masks", "seg", "segmentation", "BW", "anything"])
def test_the_mask_is_found_by_its_name_or_as_the_only_matrix(tmp_path, name):
    others = {"note": "made on Monday", "score": 0.5, "box": [1.0, 2.0, 3.0, 4.0]}
    path = save(tmp_path / "a.mat", **others, **{name: block()})
    assert np.array_equal(read_mat_mask(path), block())


def test_a_named_mask_is_taken_among_other_matrices(tmp_path):
    path = save(tmp_path / "a.mat", edges=np.eye(5), seg=block(), image=np.ones((H, W), np.uint8))
    assert np.array_equal(read_mat_mask(path), block())


def test_a_mask_may_lie_in_a_struct_or_cell_of_one(tmp_path):
    assert np.array_equal(read_mat_mask(save(tmp_path / "a.mat", result={"mask": block(), "energy": 3.0})), block())
    assert np.array_equal(read_mat_mask(save(tmp_path / "b.mat", out=cells(block()))), block())


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"a": np.eye(5), "b": np.eye(6)}, "mat_several"),
        ({"mask": block(), "Mask": block()}, "mat_several"),
        ({"note": "nothing", "score": 3.0}, "mat_no_mask"),
        ({"mask": np.ones(7)}, "mat_no_mask"),
        ({"mask": scipy.sparse.csc_matrix(block())}, "mat_no_mask"),
        ({"mask": cells(block(), block())}, "mat_no_mask"),
        ({"mask": np.ones((H, W, 3), np.uint8)}, "rgb"),
        ({"mask": block(float, 0.5)}, "values"),
        ({"mask": block(np.int16, -1)}, "values"),
        ({"mask": block(np.uint16, 256)}, "values"),
        ({"mask": block(float, np.nan)}, "values"),
        ({"mask": block(complex)}, "values"),
    ],
)
def test_each_mistake_has_its_name(tmp_path, variables, reason):
    assert reason_of(save(tmp_path / "a.mat", **variables)) == reason


def test_a_band_of_128_is_kept_as_uncertain(tmp_path):
    values = block(np.uint8, 255)
    values[:, -3:] = 128
    image = KnownImage("a", "cow", "stored/cow/a.jpg", None, (W, H), (2 * W, 2 * H))
    large = values.repeat(2, axis=0).repeat(2, axis=1)
    for mask, resized in ((values, False), (large, True)):
        read = read_foreground(MaskFile(image, save(tmp_path / "a.mat", mask=mask)))
        assert read.resized == resized
        assert np.array_equal(read.foreground, block())
        assert np.array_equal(read.uncertain, values == 128)


def test_a_sparse_mask_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(MaskError, match=r"'mask' is sparse of size 30x40, no matrix\. Save full\(mask\)\."):
        read_mat_mask(save(tmp_path / "a.mat", mask=scipy.sparse.csc_matrix(block())))


def test_the_checks_of_import_hold_for_mat_files_too(tmp_path):
    image = KnownImage("a", "cow", "stored/cow/a.jpg", None, (W, H), None, class_index=4)

    def reason(mask: np.ndarray) -> str | None:
        bad = check_mask(MaskFile(image, save(tmp_path / "a.mat", mask=mask)))
        return bad.reason if bad else None

    assert reason(block()) is None
    assert reason(block(float, 255)) is None
    assert reason(block(float, 4)) is None, "the index of its own class"
    assert reason(block(float, 3)) == "values"
    assert reason(block().T) == "rotated"
    assert reason(block()[1:]) == "size"
    assert reason(block() & False) == "empty"
    assert reason(block() | True) == "full"


def test_other_kinds_of_mat_files_are_refused_with_how_to_save_them(tmp_path):
    new = tmp_path / "new.mat"
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    new.write_bytes(header + bytes(384) + b"\x89HDF\r\n\x1a\n")
    with pytest.raises(MaskError, match=r"version 7\.3 \(HDF5\), which is not read\. Save it again .*'-v7'") as caught:
        read_mat_mask(new)
    assert caught.value.reason == "mat_version"
    scipy.io.savemat(tmp_path / "old.mat", {"mask": block(np.uint8)}, format="4")
    assert reason_of(tmp_path / "old.mat") == "mat_version"
    (tmp_path / "octave.mat").write_text("# Created by Octave 9.2\n# name: mask\n# type: bool matrix\n")
    assert reason_of(tmp_path / "octave.mat") == "mat_version"
    (tmp_path / "plain.mat").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(200))
    assert reason_of(tmp_path / "plain.mat") == "mat_version"
    (tmp_path / "empty.mat").write_bytes(b"")
    assert reason_of(tmp_path / "empty.mat") == "unreadable"
    assert reason_of(tmp_path / "nowhere.mat") == "missing"


@needs_matlabs_own
@pytest.mark.parametrize("name", ["testmatrix_6.1_SOL2", "testmatrix_6.5.1_GLNX86", "testmatrix_7.1_GLNX86"])
def test_what_matlab_itself_wrote_is_read_as_scipy_reads_it(name):
    path = MATLABS_OWN / f"{name}.mat"
    (expected,) = (value for key, value in scipy.io.loadmat(path).items() if not key.startswith("__"))
    assert np.array_equal(read_mat_mask(path), expected)


@needs_matlabs_own
def test_every_file_of_scipys_own_tests_is_read_or_refused():
    reasons = set()
    for path in sorted(MATLABS_OWN.glob("*.mat")):
        try:
            read_mat_mask(path)
        except MaskError as error:
            reasons.add(error.reason)
    assert reasons == {"unreadable", "mat_version", "mat_no_mask", "mat_several", "values"}


# ------------------------------------------------------------- a file a class

NAMES = ["cow1.jpg", "brown/cow2.png", r"C:\cows\cow3"]
MASKS = [block(), block(np.uint8, 255), block(float)]


def layouts() -> dict[str, dict]:
    return {
        "struct array": {"results": structs(name=NAMES, mask=MASKS, score=[1.0, 2.0, 3.0])},
        "struct array, other words": {"r": structs(filename=NAMES, Seg=MASKS, image=[np.zeros((2, 2))] * 3)},
        "two cell arrays": {"masks": cells(*MASKS), "names": cells(*NAMES), "scores": np.ones((1, 3))},
        "two cell arrays, no names of their own": {"a": cells(*MASKS), "b": cells(*NAMES), "note": "by hand"},
        "a column of each": {"masks": cells(*MASKS).T, "files": cells(*NAMES).T},
        "rows of text": {"masks": cells(*MASKS), "names": np.array(NAMES)},
    }


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("layout", list(layouts()))
def test_the_masks_of_a_class_are_read_with_their_names(tmp_path, layout, compressed):
    found = list(read_mat_masks(save(tmp_path / "cow.mat", compressed, **layouts()[layout])))
    assert [name for name, _ in found] == NAMES
    assert [np.array_equal(values > 0, block()) for _, values in found] == [True] * 3


def test_names_come_from_a_list_where_the_file_has_none(tmp_path):
    path = save(tmp_path / "cow.mat", seg=cells(*MASKS))
    assert [name for name, _ in read_mat_masks(path, NAMES)] == NAMES
    listed = r"the 3 masks have no names.*one name a line into cow\.txt"
    for names, told in ((None, listed), (["a"], "3 masks but 1 names")):
        with pytest.raises(MaskError, match=told) as caught:
            list(read_mat_masks(path, names))
        assert caught.value.reason == "mat_names"


def test_one_wrong_element_does_not_cost_the_others(tmp_path):
    masks = cells(block(), block(float, 0.3), np.zeros((0, 0)), "text", np.ones((2, 2, 2)), block())
    found = list(read_mat_masks(save(tmp_path / "cow.mat", masks=masks, names=cells(*"abcdef"))))
    reasons = [None if isinstance(values, np.ndarray) else values.reason for _, values in found]
    assert reasons == [None, "values", "mat_no_mask", "mat_no_mask", "mat_no_mask", None]
    assert str(found[1][1]).startswith("element 2: 'masks' holds 0.3")


def test_a_file_of_something_else_is_refused_with_what_is_wanted(tmp_path):
    told = "neither a struct array with the fields name and mask nor a cell array of masks is inside"
    with pytest.raises(MaskError, match=told) as caught:
        list(read_mat_masks(save(tmp_path / "cow.mat", mask=block())))
    assert caught.value.reason == "mat_no_mask"
    with pytest.raises(MaskError, match=r"2 variables may be meant: a \(a cell array of size 1x1\), b"):
        list(read_mat_masks(save(tmp_path / "cow.mat", a=cells(block()), b=cells(block()))))


def stored(folder: Path, *source_ids: str) -> list[KnownImage]:
    images = []
    for source_id in source_ids:
        path = folder / "images" / "cow" / f"{Path(source_id).stem}-stored.jpg"
        write_jpeg(np.full((H, W, 3), 90, np.uint8), path)
        images.append(KnownImage(source_id, "cow", str(path), f"cow/{source_id}", (W, H), None, 1))
    return images


def test_class_files_and_mask_files_are_imported_side_by_side(tmp_path):
    images = stored(tmp_path, "cow1.jpg", "brown/cow2.jpg", "cow3.jpg", "cow4.jpg", "cow5.jpg")
    folder = tmp_path / "masks"
    save(folder / "cow.mat", **layouts()["struct array"])
    save(folder / "cow" / "cow4.mat", mask=block())
    Image.fromarray(block(np.uint8, 255)).save(folder / "cow" / "cow5.png")
    written, report = write_imported(folder, images, ["cat", "cow"], tmp_path / "out")
    assert report.imported == {"cat": 0, "cow": 5}
    assert report.bad == ()
    for mask in written:
        assert np.array_equal(read_mask(mask.path), 2 * block())


def test_a_class_file_with_mistakes_is_reported_element_by_element(tmp_path):
    images = stored(tmp_path, "cow1.jpg", "cow2.jpg", "cow3.jpg")
    folder = tmp_path / "masks"
    names = ["cow1", "cow2", "cow3", "cow1.png", "../x"]
    masks = [block(), block()[1:], block(float, 0.5), block(), block()]
    save(folder / "cow.mat", r=structs(name=names, mask=masks))
    with pytest.raises(StoreError, match=r"5 bad: 1 size, 1 values, 1 missing, 1 unknown, 1 ambiguous") as caught:
        write_imported(folder, images, ["cow"], tmp_path / "out")
    assert "cow.mat, element 2 (cow2): the mask has 40x29 pixels" in str(caught.value)
    assert "cow.mat: element 3: 'mask' holds 0.5" in str(caught.value)


def test_names_in_a_text_file_beside_the_class_file(tmp_path):
    images = stored(tmp_path, "cow1.jpg", "cow2.jpg")
    save(tmp_path / "masks" / "cow.mat", masks=cells(block(), block()))
    with pytest.raises(StoreError, match=r"nothing was imported\. 1 bad: 1 mat_names"):
        write_imported(tmp_path / "masks", images, ["cow"], tmp_path / "out")
    (tmp_path / "masks" / "cow.txt").write_text("cow2.jpg\ncow1.jpg\n")
    written, _ = write_imported(tmp_path / "masks", images, ["cow"], tmp_path / "out")
    assert [mask.image.sample_id for mask in written] == ["cow2.jpg", "cow1.jpg"]


def test_a_png_and_a_mat_file_of_one_image_are_not_guessed(tmp_path):
    save(tmp_path / "cow" / "a.mat", mask=block())
    Image.fromarray(block(np.uint8, 255)).save(tmp_path / "cow" / "a.png")
    _, bad = match_masks(tmp_path, [KnownImage("a", "cow", "x/a.jpg", None, (W, H), None)], ["cow"])
    assert [item.reason for item in bad] == ["ambiguous"]
    assert "a.mat, a.png are masks of one image" in str(bad[0])


# ------------------------------------------------------------- files made to do harm


def element(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def matrix(name: bytes, shape: tuple[int, ...], data: bytes, kind: int = 9, size: int | None = None) -> bytes:
    """An array by hand, so that its header can lie."""
    body = element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack(f"<{len(shape)}i", *shape))
    body += element(1, name) + data
    return struct.pack("<II", 14, len(body) if size is None else size) + body


def written(path: Path, *variables: bytes) -> Path:
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + b"".join(variables))
    return path


def packed(variable: bytes) -> bytes:
    data = zlib.compress(variable)
    return struct.pack("<II", 15, len(data)) + data


def test_a_file_that_kills_scipy_is_only_unreadable(tmp_path):
    data = bytearray(save(tmp_path / "a.mat", compressed=False, mask=np.ones((4, 5), np.uint8)).read_bytes())
    data[data.rindex(struct.pack("<II", 2, 20))] = 8  # no type of numbers
    (tmp_path / "a.mat").write_bytes(data)
    assert reason_of(tmp_path / "a.mat") == "unreadable"


def test_a_bomb_is_refused_by_its_header(tmp_path):
    side = 60_000
    zeros = struct.pack("<II", 2, side * side) + bytes(1 << 20)
    bomb = written(tmp_path / "a.mat", packed(matrix(b"mask", (side, side), zeros, size=(1 << 32) - 1)))
    assert reason_of(bomb) == "too_large"
    # Small enough to be read, and as large as it says only in its header.
    liar = written(tmp_path / "b.mat", matrix(b"mask", (9000, 9000), struct.pack("<II", 2, 81_000_000)))
    assert reason_of(liar) == "unreadable"
    many = written(tmp_path / "c.mat", matrix(b"masks", (1 << 30, 1 << 30), b"", kind=1))
    with pytest.raises(MaskError, match="neither a struct array"):
        list(read_mat_masks(many))


def test_a_bomb_takes_no_memory(tmp_path):
    """A variable of 4 GB beside the mask is passed over unread."""
    size = 4 * 10**9
    junk = matrix(b"junk", (20_000, 200_000), b"", size=size + 56)
    squeeze = zlib.compressobj(1)
    data = squeeze.compress(junk) + squeeze.compress(bytes(1 << 26)) + squeeze.flush()  # the rest would be as nothing
    mask = matrix(b"mask", (2, 2), element(2, b"\1\0\1\1"))
    path = written(tmp_path / "a.mat", struct.pack("<II", 15, len(data)) + data, packed(mask))
    code = f"""
        import resource
        from wss_data.imaging.mat import read_mat_mask
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert read_mat_mask({str(path)!r}).tolist() == [[1, 1], [0, 1]]
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20_000, "KiB"


@pytest.fixture
def small_reader(monkeypatch):
    """A reading process with tight limits."""
    mat._reader().close()
    mat._reader.cache_clear()
    monkeypatch.setattr(mat, "MEMORY_BYTES", 1 << 25)
    monkeypatch.setattr(mat, "TIME_LIMIT_S", 1.0)
    yield
    mat._reader().close()
    mat._reader.cache_clear()


def test_a_bomb_of_many_elements_ends_at_the_limit(tmp_path, small_reader):
    filler = matrix(b"", (1, 1 << 23), element(2, bytes(1 << 23)))
    variable = matrix(b"masks", (1, 9), 9 * filler, kind=1)
    path = written(tmp_path / "a.mat", packed(variable))
    with pytest.raises(MaskError, match="more memory than is allowed") as caught:
        list(read_mat_masks(path))
    assert caught.value.reason == "too_large"
    assert len(read_mat_mask(save(tmp_path / "b.mat", mask=block()))) == H, "the next file is read"


def test_a_file_that_takes_too_long_is_given_up(tmp_path, small_reader):
    os.mkfifo(tmp_path / "a.mat")  # nothing ever comes out of it
    with pytest.raises(MaskError, match=r"a\.mat: .*not done within 1 seconds") as caught:
        read_mat_mask(tmp_path / "a.mat")
    assert caught.value.reason == "unreadable"


def test_a_class_of_masks_is_read_in_little_more_memory_than_it_takes(tmp_path, monkeypatch):
    masks = [np.full((340, 255), position % 2 * 255, np.uint8) for position in range(1600)]  # 139 MB
    path = save(tmp_path / "cow.mat", True, masks=cells(*masks), names=cells(*map(str, range(1600))))
    with mat._Reader(1, 320 << 20, 60, mat._begin) as reader:
        monkeypatch.setattr(mat, "_reader", lambda: reader)
        found = list(read_mat_masks(path))
    assert [name for name, _ in found] == [str(position) for position in range(1600)]
    assert all(np.array_equal(values, mask) for (_, values), mask in zip(found, masks, strict=True))


def test_the_reading_process_ends_with_us(tmp_path):
    path = save(tmp_path / "a.mat", mask=block())
    code = f"""
        from wss_data.imaging import mat
        mat.read_mat_mask({str(path)!r})
        print(*(seat.process.pid for seat in mat._reader()._seats), flush=True)
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert done.returncode == -signal.SIGKILL
    for _ in range(100):
        if not is_running(int(done.stdout)):
            return
        time.sleep(0.1)
    raise AssertionError("it is still there")


def test_signs_that_steer_a_terminal_are_not_passed_on(tmp_path):
    path = written(tmp_path / "a.mat", matrix(b"\x1b[2Jmask", (1, 1), element(2, b"\x01")))
    with pytest.raises(MaskError) as caught:
        read_mat_mask(path)
    assert "\x1b" not in str(caught.value)


def test_a_bomb_of_a_png_is_too_large(tmp_path):
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 9) + b"IDAT" + bytes(13))
    image = KnownImage("a", "cow", "x/a.jpg", None, (W, H), None)
    assert check_mask(MaskFile(image, tmp_path / "a.png")).reason == "too_large"


def test_no_damage_does_more_than_raise_a_mask_error(tmp_path):
    """Bytes changed, parts cut off, sizes made up, before and after compression: some 600 files."""
    draw = random.Random(1)
    small = [{"mask": block()[:6, 17:23]}, {"masks": cells(*[np.eye(3)] * 2), "names": cells("a", "b")}]
    small.append({"r": structs(name=["a", "b"], mask=[np.eye(3, dtype=bool)] * 2)})
    originals = []
    for variables in small:
        for compressed in (False, True):
            file = io.BytesIO()
            scipy.io.savemat(file, variables, do_compression=compressed)
            originals.append(file.getvalue())
    path, refused = tmp_path / "cow.mat", 0
    for _ in range(600):
        data = bytearray(draw.choice(originals))
        if draw.random() < 0.2:
            del data[draw.randrange(len(data)) :]
        for _ in range(draw.randrange(1, 4)):
            if len(data) > 120:
                data[draw.randrange(116, len(data))] = draw.choice([0, 1, 127, 128, 255, draw.randrange(256)])
        if len(data) > 128 and draw.random() < 0.3:
            data[128:] = packed(bytes(data[128:]))
        path.write_bytes(data)
        for read in (read_mat_mask, lambda path: list(read_mat_masks(path, ["a", "b"]))):
            try:
                read(path)
            except MaskError as error:
                refused += 1
                assert error.reason in REASONS
    assert refused > 600


def test_reading_mat_files_loads_no_scipy():
    code = "import wss_data.cosegmentation.imported, sys; print('scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
