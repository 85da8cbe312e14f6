"""The supervision ledger: what an artefact learned from.

Every mask set, checkpoint and report carries one. Whether a result is *strictly
image-level* is computed from the entries, never typed in.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from wss_data.errors import shown
from wss_data.reading import checked

MOST_ENTRIES = 1_000  # Entries of a ledger that is read


class Supervision(StrEnum):
    """What people had to give for something to be learned."""

    NONE = "none"
    IMAGE_LEVEL = "image_level"
    POINTS = "points"
    SCRIBBLES = "scribbles"
    BOXES = "boxes"
    MASKS = "masks"
    UNKNOWN = "unknown"


class UsedFor(StrEnum):
    """Where it entered. Only ``FINAL_SCORE`` leaves a result untouched."""

    WEIGHTS = "weights"
    COSEGMENTATION = "cosegmentation"
    TRAINING = "training"
    SELECTION = "selection"
    FINAL_SCORE = "final_score"


@dataclass(frozen=True)
class LedgerEntry:
    """One thing that was learned from."""

    what: str  # The thing in words, such as ``"efficientnet_lite0 weights, ImageNet-1k classification"``
    supervision: Supervision  # What people had to give for it
    used_for: UsedFor


@dataclass(frozen=True)
class Ledger:
    """All that an artefact learned from, in the order in which it entered, without repeats."""

    entries: tuple[LedgerEntry, ...] = ()

    @property
    def strictly_image_level(self) -> bool:
        """Whether nothing stronger than image-level labels shaped the artefact.

        Masks looked at for the final score only do not shape it; an unknown
        origin counts as stronger.
        """
        allowed = {Supervision.NONE, Supervision.IMAGE_LEVEL}
        return all(e.supervision in allowed for e in self.entries if e.used_for is not UsedFor.FINAL_SCORE)

    def add(self, what: str, supervision: Supervision, used_for: UsedFor) -> "Ledger":
        """A ledger with one more entry."""
        return self.merged_with(Ledger((LedgerEntry(what, supervision, used_for),)))

    def merged_with(self, other: "Ledger") -> "Ledger":
        """The entries of both, first come first, each once."""
        return Ledger(tuple(dict.fromkeys(self.entries + other.entries)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``strictly_image_level`` is written for the reader and ignored by ``from_dict``."""
        return {
            "strictly_image_level": self.strictly_image_level,
            "entries": [{k: str(v) for k, v in asdict(entry).items()} for entry in self.entries],
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Ledger":
        """The ledger that ``to_dict`` wrote. An unknown supervision is read as ``unknown``.

        Raises:
            ValueError: If it is none, or a longer one than anybody writes.
        """
        entries = value.get("entries", []) if isinstance(value, Mapping) else None
        if not isinstance(entries, (list, tuple)) or len(entries) > MOST_ENTRIES:
            raise ValueError(f"a ledger is a list of at most {MOST_ENTRIES:,} 'entries', found {shown(value)}")
        return cls(tuple(_entry(item) for item in entries))


def _entry(item: Any) -> LedgerEntry:
    item = checked.an_object(item)
    what, given, used_for = (checked.text(item.get(key), key) for key in ("what", "supervision", "used_for"))
    if used_for not in {member.value for member in UsedFor}:
        raise ValueError(f"used_for is {shown(used_for)}, one of {', '.join(UsedFor)} is wanted")
    known = {member.value for member in Supervision}
    return LedgerEntry(what, Supervision(given) if given in known else Supervision.UNKNOWN, UsedFor(used_for))
