"""SBD, the Semantic Boundaries Dataset: the images that the field adds to VOC's for training, and what they show.

Two things are taken from it: which images it has and, where VOC has no
annotation of an image, the list of classes present in it. The masks and
boundaries that people drew for SBD stand in the same files as that list; they
are passed over unread.

Source:
    Hariharan, Arbelaez, Bourdev, Maji and Malik, *Semantic Contours from Inverse Detectors*, ICCV 2011.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wss_data.errors import MaskError, SourceError
from wss_data.imaging.mat import read_mat_numbers
from wss_data.reading.listing import SUFFIXES, by_name, list_files
from wss_data.reading.lists import read_list

# VOC's classes 1..20: what the numbers in SBD's files mean
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

# Images on each list as published. ``SBD cls`` is SBD's folder of .mat files, taken where its lists are missing; ``SBD
# masks`` the folder SegmentationClassAug: the 10,582, and VOC's val.
USUAL_SIZES = {
    "VOC train": 1_464,
    "VOC val": 1_449,
    "SBD train": 8_498,
    "SBD val": 2_857,
    "SBD cls": 11_355,
    "SBD masks": 12_031,
}

# The archive as it is unpacked, and as torchvision unpacks it.
_RELEASES = ("", "dataset", "benchmark_RELEASE/dataset")  # Where SBD's files may be below the folder that a user names


@dataclass(frozen=True)
class Sbd:
    """SBD, or what is left of it, as found on disk."""

    # Name of each list, as in ``USUAL_SIZES`` where it is one of these -> its images, in order
    lists: Mapping[str, tuple[str, ...]]
    label_files: Mapping[str, Path] | None = None  # Image -> its .mat file; ``None`` where there is no folder of them
    images: Mapping[str, Path] = field(default_factory=dict)  # Image -> file, for SBD's own copies of the images
    notes: tuple[str, ...] = ()  # What of the lists was passed over, as sentences

    def classes_of(self, name: str) -> set[str] | None:
        """Names of the classes present in an image; ``None`` if SBD has no file for it."""
        path = (self.label_files or {}).get(name)
        return {VOC_CLASSES[i - 1] for i in categories_present(path)} if path else None


@dataclass(frozen=True)
class TrainAug:
    """The list of training images made of VOC's and SBD's, and how."""

    ids: tuple[str, ...]  # The images, in order of the lists
    parts: Mapping[str, int]  # Name of each list that went in -> its number of images
    in_both: int  # Images of SBD that VOC's train has, too
    left_out: int  # Images of SBD that stand in VOC's val


def train_aug(voc_train: Sequence[str], voc_val: Sequence[str], sbd_lists: Mapping[str, Sequence[str]]) -> TrainAug:
    """The field's training list: VOC's train and all of SBD, without VOC's val; 10,582 images.

    Not SBD's train alone: its splits are others than VOC's, so images of both of its lists are in VOC's val. VOC's
    images come first, then SBD's in order of their lists, each once.

    Source:
        Shen et al., BMVC 2017, section 4; the list is that of Chen et al., *DeepLab*, ICLR 2015.

    >>> made = train_aug(["t1", "t2"], ["v1"], {"SBD train": ["t2", "s1"], "SBD val": ["v1", "s2"]})
    >>> made.ids, made.in_both, made.left_out
    (('t1', 't2', 's1', 's2'), 1, 1)
    """
    train, val = set(voc_train), set(voc_val)
    sbd = dict.fromkeys(name for ids in sbd_lists.values() for name in ids)
    return TrainAug(
        ids=tuple(name for name in dict.fromkeys((*voc_train, *sbd)) if name not in val),
        parts={"VOC train": len(voc_train), **{name: len(ids) for name, ids in sbd_lists.items()}},
        in_both=len(train & sbd.keys()),
        left_out=len(val & sbd.keys()),
    )


def find_sbd(path: Path, known: Container[str] = ()) -> Sbd:
    """Find out in which of its usual forms SBD is on disk.

    Args:
        path: One of: SBD's release (``benchmark_RELEASE``, a folder above or the folder ``dataset`` inside; torchvision
            makes the same), with ``cls/<id>.mat``; a folder of PNG masks named by image (``SegmentationClassAug``), of
            which the names alone are used; a list of images, such as ``train_aug.txt``.
        known: Names of the images that VOC has, as ``read_list`` takes them.

    Raises:
        SourceError: If it is none of these.
    """
    if path.is_file():
        return _with_lists({path.name: path}, known)
    if not path.is_dir():
        raise SourceError(f"{path}: there is no such folder of SBD.")
    for folder in (path / layout for layout in _RELEASES):
        if (folder / "cls").is_dir():
            return _release(folder, known)
    for folder in (path / "SegmentationClassAug", path):  # the second last: one stray image would be a list of one
        if names := _stems(folder, (".png",)):
            return Sbd({"SBD masks": tuple(sorted(names))})
    inside = ", ".join(sorted(entry.name for entry in path.iterdir())[:6]) or "nothing"
    raise SourceError(
        f"{path}: no folder cls with SBD's .mat files, nor masks named by image. Found: {inside}. Unpack SBD's "
        "benchmark.tgz and give the folder benchmark_RELEASE, or give a folder SegmentationClassAug."
    )


def _with_lists(paths: Mapping[str, Path], known: Container[str]) -> Sbd:
    lists = {name: read_list(path, known) for name, path in paths.items()}
    notes = [note for found in lists.values() for note in found.notes]
    return Sbd({name: found.names for name, found in lists.items()}, notes=tuple(notes))


def _release(folder: Path, known: Container[str]) -> Sbd:
    names = _stems(folder / "cls", (".mat",))
    paths = {f"SBD {split}": folder / f"{split}.txt" for split in ("train", "val")}
    if all(path.is_file() for path in paths.values()):
        found = _with_lists(paths, known)
    elif names:
        # One list without the other would miss thousands of images.
        found = Sbd({"SBD cls": tuple(sorted(names))})
    else:
        raise SourceError(f"{folder}: no list train.txt and val.txt, and no .mat file in cls. Unpack SBD again.")
    return replace(found, label_files=names, images=_stems(folder / "img", SUFFIXES))


def _stems(folder: Path, suffixes: Iterable[str]) -> dict[str, Path]:
    """Name without suffix -> file, of the files with such a suffix; empty if there is no such folder."""
    # Archives made on a Mac unpack to a hidden ._x.mat beside each x.mat, which is no file of SBD's.
    return {name: paths[0] for name, paths in by_name(list_files(folder, suffixes, deep=False)).items()}


def categories_present(path: Path) -> tuple[int, ...]:
    """Numbers of the classes in an image, ascending, in [1, 20], by SBD's file of it.

    Its struct ``GTcls`` holds ``Boundaries``, ``Segmentation`` and ``CategoriesPresent``; the first two are unpacked
    with it, in another process, and dropped there unread.

    Raises:
        SourceError: If the file is missing, damaged or holds no such list.
    """
    last = len(VOC_CLASSES)
    try:
        found = read_mat_numbers(path, "CategoriesPresent", f"VOC's classes, 1 to {last}, are wanted")
    except MaskError as error:
        raise SourceError(str(error)) from error
    if found is None:
        raise SourceError(f"{path}: the .mat file is damaged (GTcls.CategoriesPresent is not inside).")
    wrong = sorted(number for number in found - {0, 255} if number > last)  # background and void are no classes
    if wrong:
        raise SourceError(f"{path}: CategoriesPresent holds {wrong[0]}; VOC's classes, 1 to {last}, are wanted.")
    return tuple(sorted(found - {0, 255}))
