"""Compare a folder of foreground masks with a folder of true ones."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wss_data.errors import MaskError, SourceError
from wss_data.errors.names import printable, same_name
from wss_data.imaging.masks import foreground_ratio, read_mask, split_band
from wss_data.reading.listing import list_files, passed_over_summary


@dataclass(frozen=True)
class ClassScore:
    """How well the masks of one class fit; fractions are in [0, 1]."""

    name: str
    images: int
    precision: float  # P, mean pixel accuracy
    jaccard: float  # J, mean intersection over union of the foreground
    kept: int  # images that the foreground filter keeps
    kept_precision: float | None  # P over those; None if none is kept
    kept_jaccard: float | None
    decided: float = 1.0  # mean fraction of the pixels outside an uncertain band; P and J are of those alone


@dataclass(frozen=True)
class ScoreTable:
    """Scores per class, in order of name, and their mean; prints as a table."""

    classes: tuple[ClassScore, ...]
    mean: ClassScore  # over the classes (over those that keep an image, for the kept)
    min_foreground: float  # the filter's
    max_foreground: float
    notes: tuple[str, ...] = ()  # about files of the two folders that were not compared

    def __str__(self) -> str:
        rows = [*self.classes, self.mean]
        width = max(5, *(len(row.name) for row in rows))
        kept = f"kept ({self.min_foreground:.0%}-{self.max_foreground:.0%})"
        lines = [
            f"{'':{width}}  {'all images':^21}  {kept:^21}",
            f"{'class':{width}}  {'n':>6} {'P':>7} {'J':>6}  {'n':>6} {'P':>7} {'J':>6}",
        ]
        for row in rows:
            figures = ["-" if value is None else f"{value:.3f}" for value in (row.kept_precision, row.kept_jaccard)]
            lines += ["-" * len(lines[-1])] if row is self.mean else []
            lines.append(
                f"{row.name:{width}}  {row.images:6d} {row.precision:7.3f} {row.jaccard:6.3f}  "
                f"{row.kept:6d} {figures[0]:>7} {figures[1]:>6}"
            )
        without = [row.name for row in self.classes if not row.kept]
        if without and len(without) < len(self.classes):  # if no class keeps any, the dashes say it
            lines.append(
                f"The mean of the kept is over {len(self.classes) - len(without)} of {len(self.classes)} classes: "
                f"{', '.join(without[:5])}{', ...' if len(without) > 5 else ''} "
                f"{'keeps' if len(without) == 1 else 'keep'} no image."
            )
        if self.mean.decided < 1:
            lines.append(
                f"The masks decide {self.mean.decided:.1%} of the pixels; P and J are of those alone, and no match for "
                "figures of masks without an uncertain band."
            )
        return "\n".join([*lines, *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def precision(mask: np.ndarray, truth: np.ndarray) -> float:
    """Fraction of the pixels, foreground or background, that are right, in [0, 1]. Both (H, W), bool.

    >>> precision(np.array([True, True, False, False]), np.array([True, False, False, False]))
    0.75

    Source:
        The co-segmentation field's P: Rubinstein et al., CVPR 2013, section 5; Chen et al., CVPR 2014, section 4.
    """
    return float((mask == truth).mean())


def jaccard(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of the foregrounds, in [0, 1]; 1 if both are empty. Both (H, W), bool.

    >>> jaccard(np.array([True, True, False, False]), np.array([True, False, False, False]))
    0.5
    """
    union = int((mask | truth).sum())
    return int((mask & truth).sum()) / union if union else 1.0


def score_mask(
    mask: np.ndarray, truth: np.ndarray, uncertain: np.ndarray | None = None, void: np.ndarray | None = None
) -> tuple[float, float, float]:
    """P and J of the decided pixels, and the fraction of the pixels not void that is decided; all in [0, 1].

    ``uncertain`` is the mask's band, which is neither right nor wrong; ``void`` where the truth itself is open, as at
    VOC's borders: such pixels count nowhere. All (H, W), bool.
    """
    counted = np.ones(mask.shape, bool) if void is None else ~void
    decided = counted if uncertain is None else counted & ~uncertain
    fraction = float(decided.sum() / max(int(counted.sum()), 1))
    if not decided.any():
        return 0.0, 0.0, fraction
    # A mask that leaves open what is hard must not get full marks for the rest.
    hidden = (truth & counted).any() and not (truth & decided).any()
    overlap = 0.0 if hidden else jaccard(mask[decided], truth[decided])
    return precision(mask[decided], truth[decided]), overlap, fraction


def score_folder(
    masks: Path | str, truth: Path | str, min_foreground: float = 0.2, max_foreground: float = 0.8
) -> ScoreTable:
    """Score ``masks/<class>/<stem>.png`` against ``truth/<class>/<stem>.png``.

    Masks without a truth are left out and counted. Folders that hold PNG files directly count as one class.

    Args:
        masks: Foreground masks; every value but 0 is foreground, except for an uncertain band: 128 in masks of 0, 128
            and 255, and 255 in masks of 0, one class index and 255.
        truth: True foreground masks, likewise; there a band is void.
        min_foreground: Smallest foreground fraction of the *mask* (never of the truth) that counts as kept.
        max_foreground: Largest such fraction.

    Raises:
        SourceError: If a folder is missing or holds no mask, a mask has no counterpart, or two are of one name.
        MaskError: If a mask cannot be read or has another size than its truth.

    Source:
        Means over the images of a class, then over classes, as in Rubinstein et al., CVPR 2013;
        Shen et al., BMVC 2017, section 3.1 for the filter.
    """
    masks, truth = Path(masks), Path(truth)
    for folder in (masks, truth):
        if not folder.is_dir():
            raise SourceError(f"{folder}: there is no such folder of masks.")
    made, left_out = _masks(masks)
    true, passed_over = _masks(truth)
    if not true:
        seen = f" ({passed_over_summary(passed_over)})" if passed_over else ""
        raise SourceError(f"{truth}: no true mask found{seen}. The layout is {truth}/<class>/<stem>.png.")
    # A mask that was not made would otherwise raise the score.
    if missing := [path for key, path in true.items() if key not in made]:
        raise SourceError(
            f"{masks}: {len(missing)} of {len(true)} masks are missing, the first is "
            f"{masks / missing[0].relative_to(truth)} (true mask {missing[0]}). Both folders need the layout "
            "<class>/<stem>.png with the same names."
        )
    by_class: dict[str, list[ClassScore]] = defaultdict(list)
    for key, path in true.items():
        name = printable(path.relative_to(truth).parent.name or truth.absolute().name)
        by_class[name].append(_score_files(made[key], path, (min_foreground, max_foreground)))
    if without := len(made.keys() - true.keys()):
        left_out["without a true mask"] += without
    notes = (f"{path}: {passed_over_summary(n)}" for path, n in ((masks, left_out), (truth, passed_over)) if n)
    rows = tuple(_mean(name, scores) for name, scores in by_class.items())
    return ScoreTable(rows, _mean("mean", rows), min_foreground, max_foreground, tuple(notes))


def _masks(folder: Path) -> tuple[dict[str, Path], Counter[str]]:
    """``<class>/<stem>``, in the form of ``same_name`` -> mask, also right in the folder; and what else lies there."""
    found: dict[str, Path] = {}
    listing = list_files(folder, (".png",))
    passed_over = Counter(listing.passed_over)
    for path in listing:
        relative = path.relative_to(folder)
        key = same_name(relative.with_suffix(""))
        if len(relative.parts) > 2:
            passed_over["deeper than <class>/<stem>.png"] += 1
        elif key in found:
            raise SourceError(f"{path} and {found[key].name}: two masks of one name. Take one of them out.")
        else:
            found[key] = path
    return found, passed_over


def _score_files(mask_path: Path, truth_path: Path, kept: tuple[float, float]) -> ClassScore:
    mask, uncertain = split_band(read_mask(mask_path))
    truth, void = split_band(read_mask(truth_path))
    if mask.shape != truth.shape:
        raise MaskError(
            "size",
            f"{mask_path}: the mask has {mask.shape[1]}x{mask.shape[0]} pixels, "
            f"the true mask {truth_path} {truth.shape[1]}x{truth.shape[0]}. Both must have the image's size.",
        )
    p, j, decided = score_mask(mask > 0, truth > 0, uncertain, void)
    is_kept = kept[0] <= foreground_ratio(mask > 0, uncertain) <= kept[1]
    return ClassScore(mask_path.stem, 1, p, j, int(is_kept), p if is_kept else None, j if is_kept else None, decided)


def _mean(name: str, rows: Sequence[ClassScore]) -> ClassScore:
    """The sums of counts and the means of the rest: of the images of a class, or of classes."""

    def mean(field: str, among: Sequence[ClassScore]) -> float:
        return float(np.mean([getattr(row, field) for row in among]))

    kept = [row for row in rows if row.kept]
    return ClassScore(
        name,
        sum(row.images for row in rows),
        mean("precision", rows),
        mean("jaccard", rows),
        sum(row.kept for row in rows),
        mean("kept_precision", kept) if kept else None,
        mean("kept_jaccard", kept) if kept else None,
        mean("decided", rows),
    )
