"""The target dataset as its folders describe it: image-level labels for training, masks for the final score only.

Reads the folders of PASCAL VOC, and SBD's beside them. The masks of training images are never opened, even where the
folder has them: ``TargetRecord.mask_path`` is ``None`` for them.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from PIL import Image

from wss_data.errors import SourceError, SpecError
from wss_data.reading.labels import EXAMPLE, ClassWords, read_annotation, read_label_table
from wss_data.reading.listing import SUFFIXES, by_name, list_files
from wss_data.reading.lists import ImageList, read_list
from wss_data.reading.settings import Expected, Rule, settings
from wss_data.retrieval.sources.drawn import write_drawn_target
from wss_data.spec import DatasetSpec
from wss_data.target.sbd import VOC_CLASSES, Sbd, TrainAug, find_sbd, train_aug

Split = Literal["train", "val", "test"]
Origin = Literal["table", "annotation", "sbd", ""]
Labels = Mapping[str, tuple[set[str], Origin]]  # Image -> its classes, and where they came from

LABELS_FILE = "image_labels.csv"
LIST_FOLDER = Path("ImageSets") / "Segmentation"
# Lists that are tried for the training split before VOC's own: with SBD's images, as the paper trains on them
AUGMENTED_LISTS = tuple(
    Path("ImageSets") / folder / f"{name}.txt"
    for folder in ("Segmentation", "SegmentationAug")
    for name in ("train_aug", "trainaug")
)

_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
_LIST_NAME = r"^[^/\\\x00-\x1f.][^/\\\x00-\x1f]{0,199}$"

ListName = Annotated[str, Rule(pattern=_LIST_NAME)]
_NAMED = f"Name of the list in {LIST_FOLDER}, without '.txt'"


@settings("target", SpecError)
class VocOptions:
    """Options of a target in the layout of VOC."""

    train: Annotated[ListName | None, f"{_NAMED}; without it one with SBD's images if there is one, else VOC's."] = None
    val: Annotated[ListName | None, f"{_NAMED}; without it VOC's."] = None
    test: Annotated[ListName | None, f"{_NAMED}; without it VOC's, if there is one."] = None
    expect: Annotated[
        dict[Split, Annotated[int, Rule(ge=0)]],
        "Numbers of images that the lists should have.",
        Expected("a mapping of train, val or test to a whole number of at least 0"),
    ] = field(default_factory=dict)


@settings("target", SpecError)
class DrawnOptions:
    """Options of a drawn target."""

    train: Annotated[int, Rule(ge=0), "Number of training images."] = 200
    val: Annotated[int, Rule(ge=0), "Number of validation images."] = 80
    seed: Annotated[int, Rule(ge=0), "Another seed draws other images."] = 1


_Options = TypeVar("_Options", VocOptions, DrawnOptions)


@dataclass(frozen=True)
class TargetRecord:
    """One image of a target dataset, as the lists and labels describe it."""

    id: str  # Its name in the lists, such as ``2007_000528``
    image_path: Path
    split: Split  # The list that it stands on
    # The definition's classes that it shows, in order of their index; of ``test`` none is known
    labels: tuple[str, ...]
    mask_path: Path | None = None  # Its mask, on ``val`` only
    labels_from: Origin = ""  # Where the labels came from; empty where nobody has them


@dataclass(frozen=True)
class TargetLayout:
    """A target dataset as its lists and labels describe it."""

    folder: Path  # Holds ``JPEGImages``
    records: tuple[TargetRecord, ...]  # The images: train first, then val, then test, each in order of its list
    lists: Mapping[Split, Path]  # Split -> the file of its list
    made: TrainAug | None = None  # How the list of train was made of VOC's and SBD's; ``None`` if it is a file
    same_list: Path | None = None  # A list on disk that names the same images as the one made
    notes: tuple[str, ...] = ()  # What is not as it should be, as sentences
    counts: tuple[str, ...] = ()  # What was passed over, as sentences; it may be as it should be

    def split(self, split: Split) -> list[TargetRecord]:
        """The images of one split."""
        return [record for record in self.records if record.split == split]


def read_voc_layout(
    folder: Path, spec: DatasetSpec, labels_csv: Path | None = None, sbd: Path | None = None
) -> TargetLayout:
    """Read which images a target dataset has, their split and their image-level labels.

    Splits come from ``ImageSets/Segmentation``: ``val.txt``, ``test.txt`` where its images are there, and for train
    what is made of ``train.txt`` and SBD where SBD is given, else ``train_aug.txt``, else ``train.txt``; the
    definition's target may name other lists. Labels come from ``labels_csv``, else from ``image_labels.csv`` in the
    folder, else from ``Annotations/<id>.xml``, and of images without one from SBD.

    Args:
        folder: Holds ``JPEGImages``, ``SegmentationClass``, ``ImageSets/Segmentation`` and labels; or a folder above,
            such as VOCdevkit.
        spec: The definition; labels of other classes are left out.
        labels_csv: Table with the columns ``image`` and ``classes``, as ``read_label_table`` takes it.
        sbd: SBD in one of the forms that ``find_sbd`` knows.

    Raises:
        SpecError: If an option of the target is unknown or cannot be.
        SourceError: If a folder, a list or the labels are missing, an image is in two splits, no image file exists,
            several files have the name of one image, or no training image shows a class of the definition.
    """
    folder = voc_folder(folder)
    options = voc_options(spec)
    found = list_files(folder / "JPEGImages", SUFFIXES, deep=False).with_text_names()
    candidates = by_name(found)
    extra = find_sbd(sbd, candidates) if sbd is not None else None
    known = candidates.keys() | (extra.images.keys() if extra is not None else set())
    augmented = [path for path in (folder / name for name in AUGMENTED_LISTS) if path.is_file()]
    lists = _list_files(folder, options, augmented if extra is None else [])
    read: dict[Split, ImageList] = {split: read_list(path, known) for split, path in lists.items()}
    splits: dict[Split, Sequence[str]] = {split: images.names for split, images in read.items()}
    counts = [note for images in read.values() for note in images.notes] + list(extra.notes if extra else ())
    if str(found):
        counts.append(f"JPEGImages: {found}.")
    made, same, notes = None, None, []
    if "test" in splits:
        # A test list that repeats val, as some have it, adds nothing; one whose images were never fetched neither.
        splits["test"] = [name for name in splits["test"] if name not in set(splits["val"])]
        if not any(name in candidates for name in splits["test"]):
            del splits["test"], lists["test"]
    _check_apart(splits, lists)
    if extra is not None and options.train is None:
        made = train_aug(splits["train"], splits["val"], extra.lists)
        splits["train"] = made.ids
        for path in augmented[:1]:
            if difference := _difference(made.ids, path, known):
                notes.append(difference)
            else:
                same = path
        _check_apart(splits, lists)  # SBD and the list of test, too

    files, twins = _one_each(candidates, (name for names in splits.values() for name in names), _photograph)
    notes += twins
    true_masks = list_files(folder / "SegmentationClass", (".png",), deep=False).with_text_names()
    if str(true_masks):
        counts.append(f"SegmentationClass: {true_masks}.")
    masks, _ = _one_each(by_name(true_masks), splits["val"], lambda several: None)
    words = ClassWords(spec.class_names, (*mask_names(spec), *VOC_CLASSES))
    labels, damaged, passed_over = _read_labels(folder, labels_csv, splits, extra, words)
    notes += [note for note in (*damaged, words.note()) if note]
    if extra is not None:
        files = {**extra.images, **files}
    records = []
    for split, names in splits.items():
        for name in names:
            # Nobody outside knows what the images of test show.
            classes, origin = labels[name] if name in labels and split != "test" else (set[str](), "")
            image_path = files.get(name, folder / "JPEGImages" / f"{name}.jpg")
            mask_path = masks.get(name, folder / "SegmentationClass" / f"{name}.png") if split == "val" else None
            shown = tuple(c for c in spec.class_names if c in classes)
            records.append(TargetRecord(name, image_path, split, shown, mask_path, origin))
    if not any(record.id in files for record in records):
        raise SourceError(
            f"{folder / 'JPEGImages'}: none of the {len(records)} listed images is there, such as {records[0].id}."
        )
    if not any(record.labels for record in records if record.split == "train"):
        seen = sorted({name for classes, _ in labels.values() for name in classes})
        why = " ".join(filter(None, [words.note(), *passed_over]))
        raise SourceError(
            f"{folder}: no training image shows a class of definition '{spec.name}' ({', '.join(spec.class_names)}). "
            f"Its labels name: {', '.join(seen[:12]) if seen else 'nothing'}. {why}".rstrip()
        )
    return TargetLayout(folder, tuple(records), lists, made, same, tuple(notes), (*counts, *passed_over))


def _list_files(folder: Path, options: VocOptions, augmented: Sequence[Path]) -> dict[Split, Path]:
    """The file of each split's list. ``augmented``: lists of train that are taken in place of VOC's own."""

    def file(split: Split) -> Path:
        return folder / LIST_FOLDER / f"{getattr(options, split) or split}.txt"

    train = file("train") if options.train or not augmented else augmented[0]
    lists: dict[Split, Path] = {"train": train, "val": file("val")}
    if options.test or file("test").is_file():
        lists["test"] = file("test")
    return lists


def _one_each(
    candidates: Mapping[str, Sequence[Path]],
    listed: Iterable[str],
    choose: Callable[[Sequence[Path]], Path | None],
) -> tuple[dict[str, Path], list[str]]:
    """Name -> file, and what was decided where several files have a listed name, as at most one sentence.

    ``choose`` picks the file that is meant, or ``None`` where that cannot be said: then a ``SourceError`` is raised.
    """
    several = [name for name in dict.fromkeys(listed) if len(candidates.get(name, ())) > 1]
    chosen = {name: paths[0] for name, paths in candidates.items()}
    for name in several:
        if (wanted := choose(candidates[name])) is None:
            names = " and ".join(path.name for path in candidates[name])
            raise SourceError(
                f"{candidates[name][0].parent}: {names} have one name, and which of them is meant is not clear. "
                f"Take the others out of the folder ({len(several):,} listed names have several files)."
            )
        chosen[name] = wanted
    if not several:
        return chosen, []
    first = " and ".join(path.name for path in candidates[several[0]])
    return chosen, [
        f"{chosen[several[0]].parent.name}: {len(several):,} names have several files, such as {first}; the "
        f"photographs, such as {chosen[several[0]].name}, were taken, and the masks or copies beside them left out."
    ]


def _photograph(paths: Sequence[Path]) -> Path | None:
    """Which of the files of one name is the photograph, beyond doubt: no mask is a JPEG or has full colour."""
    jpegs = [path for path in paths if path.suffix.lower() in _JPEG]
    colour = [path for path in paths if _is_in_colour(path)]
    if len(jpegs) == 1 and (not colour or jpegs[0] in colour):
        return jpegs[0]
    return colour[0] if len(colour) == 1 and not jpegs else None


def _is_in_colour(path: Path) -> bool:
    """Whether an image has colours of its own; masks are grey or have a palette. An unreadable one counts as colour."""
    try:
        with Image.open(path) as image:
            return image.mode not in ("1", "L", "P", "I", "I;16", "I;16B", "LA", "PA")
    except Exception:  # damaged bytes make Pillow raise nearly anything; the image is refused by its name later
        return True


def voc_folder(folder: Path) -> Path:
    """The folder that holds ``JPEGImages``: the given one, or VOC2012 or VOCdevkit/VOC2012 inside it."""
    if not folder.is_dir():
        raise SourceError(f"{folder}: there is no such folder of a target dataset.")
    for inside in ("", "VOC2012", "VOCdevkit/VOC2012"):
        if (folder / inside / "JPEGImages").is_dir():
            return folder / inside
    found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:6]) or "nothing"
    raise SourceError(
        f"{folder}: no folder JPEGImages inside, only: {found}. Give the folder that holds JPEGImages and ImageSets "
        "(VOC2012), or the VOCdevkit above it."
    )


def voc_options(spec: DatasetSpec) -> VocOptions:
    """The options of a definition's target; none where it has no target in the layout of VOC."""
    return _options(VocOptions, spec) if spec.target and spec.target.layout == "voc" else VocOptions()


def _options(kind: type[_Options], spec: DatasetSpec) -> _Options:
    try:
        return kind(**(spec.target.options if spec.target else {}))
    except SpecError as error:
        raise SpecError(f"definition '{spec.name}': {error}") from None


def _check_apart(splits: Mapping[Split, Sequence[str]], lists: Mapping[Split, Path]) -> None:
    """Make sure that no image taught and scored on is the same."""
    for split in ("val", "test"):
        both = set(splits["train"]) & set(splits.get(split, ()))
        if both:
            train, other = lists["train"], lists[split]
            raise SourceError(
                f"{train.parent}: {len(both)} images are in both {train.name} and {other.name}, "
                f"such as {min(both)}. A score on images that taught the model means nothing; take them out of one "
                "list, or have the list made of VOC and SBD (--sbd)."
            )


def _difference(made: Sequence[str], path: Path, known: Collection[str]) -> str | None:
    """How a list on disk differs from the one that was made, as a sentence; ``None`` if it does not."""
    listed, ours = set(read_list(path, known).names), set(made)
    parts = [
        f"{len(more):,} only {where}, such as {min(more)}"
        for where, more in (("there", listed - ours), ("in ours", ours - listed))
        if more
    ]
    if not parts:
        return None
    return f"{path.name} on disk names other images ({'; '.join(parts)}); the list made of VOC and SBD is used."


def _read_labels(
    folder: Path,
    labels_csv: Path | None,
    splits: Mapping[Split, Sequence[str]],
    sbd: Sbd | None,
    words: ClassWords,
) -> tuple[Labels, list[str], list[str]]:
    """The image-level labels of train and val, from the table, else from annotations and SBD; and as sentences what is
    wrong, and what was passed over.
    """
    path = labels_csv or folder / LABELS_FILE
    if path.is_file():
        listed = {name for names in splits.values() for name in names}
        table = read_label_table(path, words, listed)
        return {name: (classes, "table") for name, classes in table.labels.items()}, [], table.notes(listed)
    if labels_csv is not None:
        raise SourceError(f"{labels_csv}: there is no such table of image-level labels.")
    annotations = folder / "Annotations"
    if not annotations.is_dir() and (sbd is None or sbd.label_files is None):
        raise SourceError(
            f"{folder}: no image-level labels. Wanted: {LABELS_FILE} with the columns image,classes as in: {EXAMPLE}; "
            "or VOC's Annotations/<image>.xml, or a table given with --labels."
        )
    labels: dict[str, tuple[set[str], Origin]] = {}
    damaged = []  # one unreadable file of SBD's 11,355 stops nothing
    listing = list_files(annotations, (".xml",), deep=False)
    files = by_name(listing)
    for name in dict.fromkeys((*splits["train"], *splits["val"])):
        if name in files:
            labels[name] = set().union(*(read_annotation(file, words) for file in files[name])), "annotation"
        elif sbd is not None:
            try:
                if (present := sbd.classes_of(name)) is not None:
                    labels[name] = present, "sbd"
            except SourceError as error:
                damaged.append(str(error))
    notes = [f"{len(damaged):,} files of SBD's cannot be read. {damaged[0]}"] if damaged else []
    return labels, notes, [f"Annotations: {listing}."] if str(listing) else []


def mask_names(spec: DatasetSpec) -> Sequence[str]:
    """Names of the classes 1, 2, ... in the target's masks."""
    return (spec.target.mask_classes if spec.target else None) or spec.class_names


def write_drawn(spec: DatasetSpec, folder: Path) -> None:
    """Write the drawn target dataset of a definition in the layout of VOC, unless it is there already.

    Raises:
        SpecError: If an option of the target is unknown or cannot be.
        SourceError: If a class cannot be drawn.
    """
    options = _options(DrawnOptions, spec)
    write_drawn_target(folder, spec.class_names, options.train, options.val, options.seed)
