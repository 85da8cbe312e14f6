"""Whether masks show the classes that the image-level labels of their images name. Pure functions."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Disagreement:
    """Where masks and labels differ; prints as the end of a sentence."""

    of: int  # Number of images that have both
    positions: tuple[int, ...]  # The images that differ, by their place among those
    other: tuple[frozenset[str], ...]  # Classes shown that the labels do not name: one set an image
    lacking: tuple[frozenset[str], ...]  # Classes named that the mask does not show: likewise

    @property
    def with_others(self) -> int:
        """Number of images whose mask shows a class that no label names."""
        return sum(map(bool, self.other))

    def __str__(self) -> str:
        return (
            f"{len(self.positions):,} of {self.of:,} disagree with their image's labels: {_counted(self.other)} show "
            f"classes that no label names, {_counted(self.lacking)} lack classes that a label names"
        )


def disagreement(shown: Sequence[Collection[str]], named: Sequence[Collection[str]]) -> Disagreement:
    """Compare the classes in each image's mask with those of its labels; both in the order of the images.

    >>> found = disagreement([{"cat"}, {"cow"}], [{"cat"}, {"cow", "cat"}])
    >>> found.positions, found.lacking[1]  # the mask of the second image lacks the cat
    ((1,), frozenset({'cat'}))
    """
    other = tuple(frozenset(a) - frozenset(b) for a, b in zip(shown, named, strict=True))
    lacking = tuple(frozenset(b) - frozenset(a) for a, b in zip(shown, named, strict=True))
    differing = tuple(i for i, sets in enumerate(zip(other, lacking, strict=True)) if any(sets))
    return Disagreement(len(shown), differing, other, lacking)


def _counted(differences: Sequence[frozenset[str]]) -> str:
    """Number of images that differ, and the classes in which they do, most frequent first."""
    classes = Counter(name for names in differences for name in sorted(names))
    first = ", ".join(f"{name} in {count:,}" for name, count in classes.most_common(4))
    return f"{sum(map(bool, differences)):,}" + (f" ({first}{', ...' if len(classes) > 4 else ''})" if classes else "")
