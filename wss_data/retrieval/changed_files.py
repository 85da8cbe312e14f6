"""What changed among the photographs of a folder since they were read: gone, moved, replaced by other bytes.

Names, sizes and dates say where to look; only where these differ are bytes read, and only the bytes decide.
"""

import hashlib
from dataclasses import dataclass, field

from wss_data.errors import ImageError
from wss_data.retrieval.journal import Journal, KnownFile
from wss_data.retrieval.sources.folder import FolderSource

_SHOWN = 5


@dataclass
class Changes:
    """What changed among the files of a definition's local sources; prints as a sentence, or as nothing."""

    gone: list[KnownFile] = field(default_factory=list)  # files that are no longer there
    replaced: list[KnownFile] = field(default_factory=list)  # files that hold other bytes now
    moved: dict[str, str] = field(default_factory=dict)  # identity of a file that is gone -> where its bytes are now
    followed: bool = False  # whether the dataset follows

    def __str__(self) -> str:
        kinds = {
            "moved or renamed": [f"{old} is {new} now" for old, new in self.moved.items()],
            "no longer there": [file.source_id for file in self.gone if file.source_id not in self.moved],
            "replaced by other content": [file.source_id for file in self.replaced],
        }
        parts = []
        for what, names in kinds.items():
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            parts += [f"{len(names):,} {what} ({', '.join(names[:_SHOWN])}{more})"] if names else []
        if not parts:
            return ""
        end = "The dataset keeps them as they were. To let it follow the folder, build with --search-again."
        if self.followed:
            end = "The dataset follows: what is gone is tagged dropped:gone, what is new is read."
        return f"photographs that changed since they were read: {'; '.join(parts)}. {end}"


def look_for_changes(journal: Journal, source: FolderSource, class_name: str, changes: Changes) -> list[KnownFile]:
    """Add to ``changes``, and return, the files of a class that are gone or hold other bytes than the journal knows."""
    known = journal.files(class_name, source.name)
    gone, replaced, unchanged = [], [], {}
    for file, stamp in zip(known, source.stamps(class_name, [file.source_id for file in known]), strict=True):
        if stamp is None:
            gone.append(file)
        elif stamp != file.stamp and _is_replaced(source, file):
            replaced.append(file)
        elif stamp != file.stamp:
            unchanged[file.source_id] = stamp  # copied or touched: the next build need not read it again
    journal.note_stamps(class_name, source.name, unchanged)
    changes.gone += gone
    changes.replaced += replaced
    return gone + replaced


def find_moved(journal: Journal, changes: Changes) -> None:
    """Find out under which name the bytes of files that are gone are there now."""
    gone = {file.source_id for file in (*changes.gone, *(() if changes.followed else changes.replaced))}
    names = journal.names_of({file.sha256 for file in changes.gone if file.sha256})
    for file in changes.gone:
        if there := [other for other in names.get(file.sha256 or "", ()) if other not in gone]:
            changes.moved[file.source_id] = there[0]


def _is_replaced(source: FolderSource, file: KnownFile) -> bool:
    """Whether a file whose stamp is not the one noted, if any was, holds other bytes than were read."""
    if file.sha256 is None:
        # No image came of it. Noted by an earlier version, it has no stamp, and nobody can tell.
        return file.stamp is not None
    try:
        return hashlib.sha256(source.read(file.source_id)).hexdigest() != file.sha256
    except ImageError:
        return False
