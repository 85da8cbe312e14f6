"""SBD, the Semantic Boundaries Dataset: the images that the field adds to VOC's for training, and what they show.

Two things are taken from it: which images it has and, where VOC has no
annotation of an image, the list of classes present in it. The masks and
boundaries that people drew for SBD stand in the same files as that list; they
are passed over unread.

Source:
    Hariharan, Arbelaez, Bourdev, Maji and Malik, *Semantic Contours from Inverse Detectors*, ICCV 2011.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath

from wss_data.errors import MaskError, SourceError
from wss_data.images import SUFFIXES
from wss_data.mat_format import Damaged, arrays, opened, vector

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""VOC's classes 1..20: what the numbers in SBD's files mean."""

USUAL_SIZES = {
    "VOC train": 1_464,
    "VOC val": 1_449,
    "SBD train": 8_498,
    "SBD val": 2_857,
    "SBD cls": 11_355,
    "SBD masks": 12_031,
}
"""Images on each list as published. ``SBD cls`` is SBD's folder of .mat files, taken where its lists are missing;
``SBD masks`` the folder SegmentationClassAug: the 10,582, and VOC's val."""

MAX_LIST = 64 << 20
"""Bytes of a list of images at most."""

_RELEASES = ("", "dataset", "benchmark_RELEASE/dataset")
"""Where SBD's files may be below the folder that a user names."""


@dataclass(frozen=True)
class Sbd:
    """SBD, or what is left of it, as found on disk.

    Args:
        folder: Where it is.
        lists: Name of each list, as in ``USUAL_SIZES`` where it is one of these -> its images, in order.
        label_files: Holds ``<id>.mat``, or ``None``.
        images: Image -> file, for SBD's own copies of the images.
    """

    folder: Path
    lists: Mapping[str, tuple[str, ...]]
    label_files: Path | None = None
    images: Mapping[str, Path] = field(default_factory=dict)

    def classes_of(self, name: str) -> set[str] | None:
        """Names of the classes present in an image; ``None`` if SBD has no file for it.

        Raises:
            SourceError: If the file is damaged or is no file of SBD's.
        """
        path = self.label_files / f"{name}.mat" if self.label_files else None
        return {VOC_CLASSES[i - 1] for i in categories_present(path)} if path and path.is_file() else None


@dataclass(frozen=True)
class TrainAug:
    """The list of training images made of VOC's and SBD's, and how.

    Args:
        ids: The images, in order of the lists.
        parts: Name of each list that went in -> its number of images.
        in_both: Images of SBD that VOC's train has, too.
        left_out: Images of SBD that stand in VOC's val.
    """

    ids: tuple[str, ...]
    parts: Mapping[str, int]
    in_both: int
    left_out: int


def train_aug(voc_train: Sequence[str], voc_val: Sequence[str], sbd_lists: Mapping[str, Sequence[str]]) -> TrainAug:
    """The field's training list: VOC's train and all of SBD, without VOC's val; 10,582 images.

    Not SBD's train alone: its splits are others than VOC's, so images of both of its lists are in VOC's val.

    Args:
        voc_train: Images of VOC's train.
        voc_val: Images of VOC's val.
        sbd_lists: Name of a list -> its images.

    Returns:
        VOC's images first, then SBD's in order of their lists, each once.

    Source:
        Shen et al., BMVC 2017, section 4; the list is that of Chen et al., *DeepLab*, ICLR 2015.
    """
    train, val = set(voc_train), set(voc_val)
    sbd = dict.fromkeys(name for ids in sbd_lists.values() for name in ids)
    return TrainAug(
        ids=tuple(name for name in dict.fromkeys((*voc_train, *sbd)) if name not in val),
        parts={"VOC train": len(voc_train), **{name: len(ids) for name, ids in sbd_lists.items()}},
        in_both=len(train & sbd.keys()),
        left_out=len(val & sbd.keys()),
    )


def find_sbd(path: Path) -> Sbd:
    """Find out in which of its usual forms SBD is on disk.

    Args:
        path: One of: SBD's release (``benchmark_RELEASE``, a folder above or the folder ``dataset`` inside; torchvision
            makes the same), with ``cls/<id>.mat``; a folder of PNG masks named by image (``SegmentationClassAug``), of
            which the names alone are used; a list of images, such as ``train_aug.txt``.

    Raises:
        SourceError: If it is none of these.
    """
    if path.is_file():
        return Sbd(path.parent, {path.name: tuple(read_list(path))})
    if not path.is_dir():
        raise SourceError(f"{path}: there is no such folder of SBD.")
    for folder in (path / layout for layout in _RELEASES):
        if (folder / "cls").is_dir():
            return _release(folder)
    for folder in (path / "SegmentationClassAug", path):  # the second last: one stray picture would be a list of one
        if names := _stems(folder, (".png",)):
            return Sbd(folder, {"SBD masks": tuple(sorted(names))})
    inside = ", ".join(sorted(entry.name for entry in path.iterdir())[:6]) or "nothing"
    raise SourceError(
        f"{path}: no folder cls with SBD's .mat files, nor masks named by image. Found: {inside}. Unpack SBD's "
        "benchmark.tgz and give the folder benchmark_RELEASE, or give a folder SegmentationClassAug."
    )


def _release(folder: Path) -> Sbd:
    names = _stems(folder / "cls", (".mat",))
    lists = {f"SBD {split}": folder / f"{split}.txt" for split in ("train", "val")}
    if all(path.is_file() for path in lists.values()):
        found = {name: tuple(read_list(path)) for name, path in lists.items()}
    elif names:
        found = {"SBD cls": tuple(sorted(names))}  # one list without the other would miss thousands of images
    else:
        raise SourceError(f"{folder}: no list train.txt and val.txt, and no .mat file in cls. Unpack SBD again.")
    return Sbd(folder, found, folder / "cls", _stems(folder / "img", SUFFIXES))


def _stems(folder: Path, suffixes: Iterable[str]) -> dict[str, Path]:
    """Name without suffix -> file, of the files with such a suffix; empty if there is no such folder."""
    if not folder.is_dir():
        return {}
    wanted = {suffix.lower() for suffix in suffixes}
    # Archives made on a Mac unpack to a hidden ._x.mat beside each x.mat.
    paths = (path for path in folder.iterdir() if not path.name.startswith("."))
    return {path.stem: path for path in paths if path.suffix.lower() in wanted}


def read_list(path: Path) -> list[str]:
    """Names of a list of images, each once.

    A line is a name, or paths of image and mask as published lists of 10,582 have them
    (``/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png``); line endings may be those of Windows.

    Raises:
        SourceError: If there is no such list, nothing is on it, or it is something else.
    """
    wanted = "Wanted: one image name a line, as PASCAL VOC has it."
    if not path.is_file():
        raise SourceError(f"{path}: there is no such list of images. {wanted}")
    with path.open("rb") as file:
        data = file.read(MAX_LIST + 1)
    if len(data) > MAX_LIST or b"\0" in data:
        raise SourceError(f"{path}: this is no list of images. {wanted} An archive must be unpacked.")
    lines = (line.split() for line in data.decode("utf-8-sig", errors="replace").splitlines())
    names = [PureWindowsPath(words[0]).name for words in lines if words]
    if not names:
        raise SourceError(f"{path}: the list is empty.")
    return list(dict.fromkeys(Path(name).stem if Path(name).suffix.lower() in SUFFIXES else name for name in names))


def categories_present(path: Path) -> tuple[int, ...]:
    """The classes in an image by SBD's file of it, without a look at the mask that stands beside them.

    Args:
        path: A file of SBD's folder ``cls``: a struct ``GTcls`` with ``Boundaries``, ``Segmentation`` and
            ``CategoriesPresent``. The bytes of the first two are unpacked, as they lie on the way, and dropped.

    Returns:
        Numbers of VOC's classes, ascending, in [1, 20].

    Raises:
        SourceError: If the file is missing, damaged or holds no such list.
    """
    last = len(VOC_CLASSES)
    found: set[int] | None = None
    try:
        with opened(path) as file:
            for array in arrays(file, inside=True):
                if array.name == "CategoriesPresent":
                    found = set(vector(array, f"VOC's classes, 1 to {last}, are wanted").tolist())
            if found is None:
                raise Damaged("GTcls.CategoriesPresent is not inside")
    except MaskError as error:
        raise SourceError(str(error)) from error
    wrong = sorted(number for number in found - {0, 255} if number > last)  # background and void are no classes
    if wrong:
        raise SourceError(f"{path}: CategoriesPresent holds {wrong[0]}; VOC's classes, 1 to {last}, are wanted.")
    return tuple(sorted(found - {0, 255}))
