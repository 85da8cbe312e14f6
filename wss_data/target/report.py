"""What a target dataset was made from, counted and compared with what it should be."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wss_data.errors import SourceError
from wss_data.imaging.images import TURNED
from wss_data.spec import DatasetSpec
from wss_data.target.agreement import disagreement
from wss_data.target.sbd import USUAL_SIZES
from wss_data.target.translation import TargetImage
from wss_data.target.voc import Split, TargetLayout, voc_options

# Where more than this fraction of the masks disagree with the labels, something is wrong with all of them. Ours.
_MANY = 0.1

_ORIGINS = {"table": "a table", "annotation": "Annotations", "sbd": "SBD's lists of classes"}


@dataclass(frozen=True)
class TargetReport:
    """What a target dataset was made from, as lines (``counts``), and what is not as it should be, as sentences."""

    counts: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([*self.counts, *(f"note: {problem}" for problem in self.problems)])

    def check(self, name: str) -> None:
        """Raise ``SourceError`` if there is a problem; ``name``: of the dataset."""
        if self.problems:
            more = f" ({len(self.problems) - 1} more; without --strict all are shown)" if self.problems[1:] else ""
            raise SourceError(f"{name}: {self.problems[0]}{more}")

    def to_dict(self) -> dict[str, list[str]]:
        """Plain values for JSON."""
        return {"counts": list(self.counts), "problems": list(self.problems)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "TargetReport":
        """The report that ``to_dict`` wrote."""
        return cls(tuple(value.get("counts", ())), tuple(value.get("problems", ())))


def target_report(layout: TargetLayout, images: Sequence[TargetImage], spec: DatasetSpec) -> TargetReport:
    """Count what a target dataset was made from, and say what differs from what the definition expects.

    Args:
        layout: From ``read_voc_layout``.
        images: Its records after ``check_targets`` and ``without_copies``.
        spec: The definition.
    """
    expected = voc_options(spec).expect
    problems = list(layout.notes)
    counts = []
    for split in layout.lists:
        listed, wanted = len(layout.split(split)), expected.get(split)
        counts.append(f"{split}: {listed:,} images {_from_lists(layout, split)}")
        if wanted == listed:
            counts[-1] += ", as expected"
        elif wanted is not None:
            more = f"{abs(listed - wanted):,} {'more' if listed > wanted else 'fewer'}"
            why = _why(layout, split, listed)
            problems.append(f"{split} has {listed:,} images, {more} than the {wanted:,} expected: {why}")
    hashes = [image.sha256 for image in images if image.record.split == "train" and image.sha256]
    leaks = sum(image.dropped == "leak" for image in images)
    copies = f"copies: {len(hashes) - len(set(hashes)):,} in train, {leaks:,} of train in what is scored on"
    counts += [_labels(layout), _files(layout, images), copies, *layout.counts]
    problems += [problem for split in layout.lists if (problem := _dropped(images, split))]
    agreement, many = _agreement(images)
    (problems if many else counts).extend(agreement)
    if read := [image for image in images if image.by_colour]:
        counts.append(
            f"palettes: {len(read):,} masks have VOC's colours, or black and white, in another order and were read by "
            f"them, the first is {read[0].record.id}"
        )
    problems += _turned(images)
    return TargetReport(tuple(counts), tuple(problems))


def _from_lists(layout: TargetLayout, split: Split) -> str:
    if split != "train" or layout.made is None:
        return f"of {layout.lists[split].name}"
    made = layout.made
    parts = " + ".join(f"{name} {count:,}" for name, count in made.parts.items())
    same = f", the same as in {layout.same_list.name}" if layout.same_list else ""
    return f"({parts}, of SBD {made.in_both:,} are in VOC train and {made.left_out:,} of VOC val left out{same})"


def _why(layout: TargetLayout, split: Split, listed: int) -> str:
    """Why a list has another length than expected, as far as its parts show."""
    if split != "train" or layout.made is None:
        name = layout.lists[split].name
        if split == "train" and listed == USUAL_SIZES["VOC train"]:
            return f"{name} is VOC's own list, without the images of SBD. Add them: --sbd FOLDER."
        return f"{name} names so many. Is it VOC 2012's?"
    parts = {**layout.made.parts, "VOC val": len(layout.split("val"))}
    odd = [
        f"{name} has {count:,}, usual are {USUAL_SIZES[name]:,}"
        for name, count in parts.items()
        if name in USUAL_SIZES and count != USUAL_SIZES[name]
    ]
    return f"{'; '.join(odd) or 'their lists name other images than usual'}."


def _labels(layout: TargetLayout) -> str:
    origins: Counter[str] = Counter(record.labels_from for record in layout.records if record.split != "test")
    shown = [f"{origins[origin]:,} from {words}" for origin, words in _ORIGINS.items() if origins[origin]]
    shown.append(f"{origins['']:,} images without")
    return f"labels: {', '.join(shown)}"


def _files(layout: TargetLayout, images: Sequence[TargetImage]) -> str:
    missing = sum(image.dropped == "missing" for image in images)
    sbd = sum(image.record.image_path.parent != layout.folder / "JPEGImages" for image in images)
    return f"images: {len(images) - sbd - missing:,} in JPEGImages, {sbd:,} in SBD alone, {missing:,} without a file"


def no_class_shown(images: Sequence[TargetImage]) -> str | None:
    """What is wrong where no mask of val shows a class although the labels name some, as a sentence; else ``None``."""
    scored = [image for image in images if image.mask_path and not image.dropped and image.record.labels]
    if not scored or any(image.shown for image in scored):
        return None
    return (
        f"none of the {len(scored):,} val masks shows a class of the definition, though the images' labels name some: "
        f"they hold background (0) and void (255), the first {scored[0].record.mask_path}. In masks of classes 255 is "
        "void, not foreground: write each object's class index in its place."
    )


def _agreement(images: Sequence[TargetImage]) -> tuple[list[str], bool]:
    """Where the masks show other classes than the image-level labels name, as a line; and whether in many images."""
    known = [image for image in images if image.mask_path and not image.dropped and image.record.labels_from]
    found = disagreement([image.shown for image in known], [image.record.labels for image in known])
    if not found.positions:
        return [], False
    line = f"masks: {found}, the first is {known[found.positions[0]].record.id}"
    many = len(found.positions) > _MANY * len(known)
    return [f"{line}. Do masks and labels belong together?" if many else line], many


def _turned(images: Sequence[TargetImage]) -> list[str]:
    """Which images are turned when they are read, so that a mask drawn on the pixels as they lie in the file is not."""
    turned = [image for image in images if image.turned != 1 and not image.dropped]
    if not turned:
        return []
    kinds = Counter(TURNED[image.turned] for image in turned).most_common()
    return [
        f"{len(turned):,} val images are turned upright by their EXIF orientation when they are read "
        f"({', '.join(f'{count:,} {kind}' for kind, count in kinds)}), and the size of their masks does not say "
        f"whether they were drawn on the upright image, the first is {turned[0].record.id}. Look at it in `wss-data "
        "view`; if image and mask do not fit, turn the image files themselves upright (exiftran -ai FILE) and import "
        "again."
    ]


def _dropped(images: Sequence[TargetImage], split: Split) -> str | None:
    """Which images of a split are not used; not those whose labels are all of classes that the definition lacks."""
    dropped = [
        image
        for image in images
        if image.record.split == split
        and image.dropped
        and not (image.dropped == "no_labels" and image.record.labels_from)
    ]
    if not dropped:
        return None
    reasons = Counter(image.dropped for image in dropped).most_common()
    shown = ", ".join(f"{count:,} {reason}" for reason, count in reasons)
    return f"{len(dropped):,} {split} images are not used ({shown}). {dropped[0].detail}"
