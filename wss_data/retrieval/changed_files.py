"""What changed among the photographs of a folder since they were read: gone, moved, replaced by other bytes.

Names, sizes and dates say where to look; only where these differ are bytes read, and only the bytes decide.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from wss_data.errors import ImageError
from wss_data.retrieval.journal import Journal, KnownFile
from wss_data.retrieval.sources.folder import FolderSource

_SHOWN = 5


@dataclass
class Changes:
    """What changed among the files of a definition's local sources; prints as a sentence, or as nothing."""

    # (class, identity, digest or None) of files that are no longer there.
    gone: list[tuple[str, str, str | None]] = field(default_factory=list)
    # The same of files that hold other bytes now.
    replaced: list[tuple[str, str, str | None]] = field(default_factory=list)
    # Identity of a file that is gone -> that of the file that holds its bytes now.
    moved: dict[str, str] = field(default_factory=dict)
    followed: bool = False  # whether the dataset follows

    def __str__(self) -> str:
        kinds = {
            "moved or renamed": [f"{old} is {new} now" for old, new in self.moved.items()],
            "no longer there": [name for _, name, _ in self.gone if name not in self.moved],
            "replaced by other content": [name for _, name, _ in self.replaced],
        }
        parts = [f"{len(names):,} {what} ({_first(names)})" for what, names in kinds.items() if names]
        if not parts:
            return ""
        end = "The dataset keeps them as they were. To let it follow the folder, build with --search-again."
        if self.followed:
            end = "The dataset follows: what is gone is tagged dropped:gone, what is new is read."
        return f"photographs that changed since they were read: {'; '.join(parts)}. {end}"


def look_for_changes(journal: Journal, source: FolderSource, class_name: str, changes: Changes) -> list[KnownFile]:
    """Compare the files of a class with what the journal knows of them, and add what differs to ``changes``.

    Returns:
        The files that are gone or were replaced.
    """
    known = journal.files(class_name, source.name)
    differing, unchanged = [], {}
    for file, stamp in zip(known, source.stamps(class_name, [file.source_id for file in known]), strict=True):
        what = (class_name, file.source_id, file.sha256)
        if stamp is None:
            changes.gone.append(what)
        elif stamp == file.stamp:
            continue
        elif _is_replaced(source, file):
            changes.replaced.append(what)
        else:
            unchanged[file.source_id] = stamp
            continue
        differing.append(file)
    journal.note_stamps(class_name, source.name, unchanged)
    return differing


def find_moved(journal: Journal, changes: Changes) -> None:
    """Find out under which name the bytes of files that are gone are there now."""
    gone = {name for _, name, _ in (*changes.gone, *(() if changes.followed else changes.replaced))}
    names = journal.names_of({sha256 for _, _, sha256 in changes.gone if sha256})
    for _, name, sha256 in changes.gone:
        if there := [other for other in names.get(sha256 or "", ()) if other not in gone]:
            changes.moved[name] = there[0]


def _is_replaced(source: FolderSource, file: KnownFile) -> bool:
    """Whether a file whose stamp is not the one noted, if any was, holds other bytes than were read."""
    if file.sha256 is None:
        # No image came of it. Noted by an earlier version, it has no stamp, and nobody can tell.
        return file.stamp is not None
    try:
        return hashlib.sha256(source.read(file.source_id)).hexdigest() != file.sha256
    except ImageError:
        return False


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
