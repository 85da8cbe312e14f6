"""A person's verdicts, kept for ever: a file beside the images to which lines are only added, one an ``Act``.

The database has the outcome, one verdict an image; this file has how it came about, and outlives a dataset that
is deleted and built again. Images are named by class and digest, so that the same photograph is recognised when it is
found again.
"""

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

from wss_data.errors import StoreError, shown
from wss_data.filtering.filters import Verdict
from wss_data.reading import checked

FILE = "verdicts.jsonl"

_MOST_ACTS, _LONGEST_REASON = 1_000_000, 1_000_000

ImageKey = tuple[str, str]  # class, and hex digest of the original bytes


@dataclass(frozen=True)
class Act:
    """What a person did at once; prints as ``2026-11-22 14:05  drop  2 images  (a drawing)``."""

    at: datetime  # with its time zone
    verdict: Verdict | None = None  # None takes the images' verdicts away
    images: tuple[ImageKey, ...] = ()
    reason: str = ""  # in the person's words
    undoes: int | None = None  # number of the line that this one undoes, from 1; it has no images of its own then

    def __str__(self) -> str:
        images = f"{len(self.images):,} image{'' if len(self.images) == 1 else 's'}"
        what = f"undoes {self.undoes}" if self.undoes is not None else f"{self.verdict or 'no verdict'}  {images}"
        return f"{self.at:%Y-%m-%d %H:%M}  {what}" + (f"  ({self.reason})" if self.reason else "")


def standing(acts: Sequence[Act]) -> dict[ImageKey, Act]:
    """The act in force on each image that has a verdict: of all acts, in their order, the last that was not undone.

    >>> noon = datetime(2026, 1, 2, 12)
    >>> acts = [Act(noon, "drop", (("cat", "1"), ("cat", "2"))), Act(noon, "keep", (("cat", "2"),))]
    >>> [act.verdict for act in standing(acts).values()]
    ['drop', 'keep']
    >>> [act.verdict for act in standing([*acts, Act(noon, undoes=2)]).values()]
    ['drop', 'drop']
    """
    undone = {act.undoes for act in acts}
    in_force: dict[ImageKey, Act] = {}
    for number, act in enumerate(acts, start=1):
        if number not in undone and act.undoes is None:
            in_force.update(dict.fromkeys(act.images, act))
    return {key: act for key, act in in_force.items() if act.verdict is not None}


def last_standing_act(acts: Sequence[Act]) -> int | None:
    """Number, from 1, of the last act that was not undone; ``None`` if none is left."""
    undone = {act.undoes for act in acts}
    left = (n for n, act in enumerate(acts, start=1) if act.undoes is None and n not in undone)
    return max(left, default=None)


def read_acts(path: Path) -> list[Act]:
    """All acts of a file, in their order; none if there is no file. ``StoreError`` if a line cannot be understood."""
    acts: list[Act] = []
    if not path.exists():
        return acts
    with path.open("rb") as file:
        # A last line that a killed process left torn, so without its end, counts as not written.
        while (line := file.readline(checked.LONGEST_LINE + 1)).endswith(b"\n") or len(line) > checked.LONGEST_LINE:
            number = len(acts) + 1
            try:
                if len(line) > checked.LONGEST_LINE or number > _MOST_ACTS:
                    raise ValueError("more than is read")
                acts.append(_act(checked.an_object(checked.parse_json(line)), number))
            except (KeyError, ValueError) as error:
                raise StoreError(
                    f"{path}, line {number}: not a verdict ({' '.join(str(error).split())}). Correct the line or "
                    "delete it: the others are whole."
                ) from error
    return acts


def add_act(path: Path, act: Act) -> int:
    """Add one line to the file, and wait until it is on the disk. Returns the line's number, from 1.

    Raises:
        OSError: If it cannot be written; the lines before stay as they were.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    judged = {"verdict": act.verdict, "reason": act.reason, "images": act.images}
    plain = {"at": act.at.isoformat(), **(judged if act.undoes is None else {"undoes": act.undoes})}
    with path.open("a+b") as file:
        # The App and a command may judge at the same time.
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        there = file.read()
        whole = there.rfind(b"\n") + 1
        file.truncate(whole)  # a torn last line
        try:
            file.write(json.dumps(plain, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            os.truncate(path, whole)
            raise
        return there.count(b"\n") + 1


def _act(value: Mapping[str, Any], number: int) -> Act:
    at = checked.moment(value["at"], "at")
    if datetime.fromisoformat(value["at"]).tzinfo is None:
        raise ValueError("its time has no time zone")
    if "undoes" in value:
        return Act(at, undoes=checked.whole(value["undoes"], "undoes", 1, number))
    verdict, listed = value["verdict"], value["images"]
    if verdict is not None and verdict not in get_args(Verdict):
        raise ValueError(f"verdict {shown(verdict)}; keep, drop or null is wanted")
    if not isinstance(listed, list):
        raise ValueError(f"images is {shown(listed)}, a list of class and digest is wanted")
    for item in listed:
        if not isinstance(item, list) or len(item) != 2:
            raise ValueError(f"{shown(item)} is no image: class and digest are wanted")
    images = tuple((checked.identity(name, "class"), checked.identity(digest, "digest")) for name, digest in listed)
    return Act(at, verdict, images, checked.text(value.get("reason") or "", "reason", _LONGEST_REASON))
