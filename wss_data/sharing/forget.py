"""Take an image out of a dataset with all that was derived from it, and never fetch it again.

The order makes a kill harmless: what must not come back is remembered first, then files
go, then the entries of the journal, then the records in the database. As long as an entry
or a record is there, the same command finds the image again and finishes; and a build in
between brings nothing back.

What is remembered are digests: neither an address nor a name stays readable.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from wss_data.errors import StoreError
from wss_data.reading.addresses import is_web_address
from wss_data.records import Provenance, stem_of
from wss_data.retrieval.journal import Entry, Journal, secret_of
from wss_data.runtime.home import dataset_folder, dataset_owner

if TYPE_CHECKING:
    from wss_data.store.provenance import ImageRow
    from wss_data.store.types import Dataset

Kind = Literal["url", "sha256", "author"]

LOOK_ALIKE = 8
"""Perceptual hashes that differ in at most so many of 64 bits belong to pictures that look alike."""

REASON = "forgotten on request"
"""What the journal says of it; nothing of the request itself."""

_DIGEST = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class ForgetReport:
    """What was, or would be, forgotten; prints as a few lines.

    Args:
        dataset_name: The dataset.
        kind: What was given: ``url``, ``sha256`` or ``author``.
        images: ``<class>/<stem>`` of the images taken out.
        files: Files removed: images and masks.
        results: Search results of the journal that were erased, those that never became an image included.
        own_files: Files of the user's own that the images were copied from; they are left alone.
        look_alikes: ``<class>/<stem>`` of other images that look like them and stay.
        classes: Classes that lost an image.
        dry_run: Whether nothing was changed.
    """

    dataset_name: str
    kind: Kind
    images: tuple[str, ...]
    files: tuple[Path, ...]
    results: int
    own_files: tuple[str, ...]
    look_alikes: tuple[str, ...]
    classes: tuple[str, ...]
    dry_run: bool

    @property
    def is_empty(self) -> bool:
        """Whether nothing was found that could be forgotten."""
        return not (self.images or self.files or self.results)

    def __str__(self) -> str:
        would = "would be " if self.dry_run else ""
        thing = {"url": "address", "sha256": "digest", "author": "author"}[self.kind]
        lines = [
            f"{len(self.images):,} images, {len(self.files):,} files and {self.results:,} entries of the journal "
            f"{would}removed from '{self.dataset_name}'."
        ]
        if self.is_empty:
            lines.append(f"Nothing there has this {thing}. Is it written as the source writes it?")
        lines += [f"  {image}" for image in self.images]
        is_now = "would be" if self.dry_run else "is"
        lines.append(f"The {thing} {is_now} remembered as a digest, never to be fetched for this dataset again.")
        if self.look_alikes:
            lines.append(
                f"{len(self.look_alikes):,} images that look alike stay; look at them, and forget them by their "
                f"sha256 if they are the same: {', '.join(self.look_alikes)}"
            )
        if self.own_files:
            lines.append(f"Files of your own stay, delete them yourself: {', '.join(self.own_files)}")
        if self.images:
            lines.append(
                f"The next build co-segments {', '.join(self.classes)} again: the masks of the others were made "
                "with the help of these images."
            )
        lines.append(
            "What this cannot undo: models that were trained with them; exports, manifests and lists of authors that "
            "were written before; embeddings computed in FiftyOne; backups of the database; other datasets."
        )
        return "\n".join(lines)


def forget(dataset: "Dataset", what: str, dry_run: bool = False) -> ForgetReport:
    """Remove an image, or all of an author, with masks, records and traces; and remember not to fetch it again.

    Killed on the way, the same call finishes it.

    Args:
        dataset: A web dataset.
        what: Address of an image or of its page, sha256 of the original bytes, or an author's name or page.
        dry_run: Whether to tell only.

    Returns:
        What was removed.

    Raises:
        StoreError: If it is no web dataset, a build of it is running, or ``what`` is empty.
    """
    from wss_data.store.provenance import derived_files, image_rows

    what = what.strip()
    if not what:
        raise StoreError("nothing was given to forget; wanted is an address, a sha256, or an author's name.")
    rows = image_rows(dataset, "made to forget an image")
    folder = dataset_folder(dataset.name)
    with dataset_owner(dataset.name), Journal(folder / "journal.sqlite") as journal:
        entries = list(journal.entries())
        kind = _kind(what, _provenances(rows, entries))
        digests = {row.sha256 for row in rows if _matches(kind, what, row.sha256, row.provenance)}
        digests |= {e.sha256 for e in entries if e.sha256 and _matches(kind, what, e.sha256, e.provenance)}
        # The same bytes under another address or in another class are the same image.
        gone = [row for row in rows if row.sha256 in digests]
        erased: list[Entry] = []
        left: list[Entry] = []
        for e in entries:
            found = e.sha256 in digests or _matches(kind, what, e.sha256, e.provenance)
            (erased if found else left).append(e)
        stay = [row for row in rows if row.sha256 not in digests]
        files = sorted(
            {
                *_inside(folder, [*derived_files(dataset, [row.sample_id for row in gone])]),
                *_inside(folder, [Path(row.path) for row in gone]),
                *_named_by(folder, digests),
            }
        )
        report = ForgetReport(
            dataset_name=dataset.name,
            kind=kind,
            images=tuple(_name(row) for row in gone),
            files=tuple(files),
            results=len(erased),
            own_files=tuple(sorted(_own_files(_provenances(gone, erased)))),
            look_alikes=tuple(_name(row) for row in _look_alikes(stay, gone)),
            classes=tuple(dict.fromkeys(row.class_name for row in gone)),
            dry_run=dry_run,
        )
        if not dry_run:
            pages = [at.page_url for at in _provenances(stay, left) if at.page_url]
            _remember(journal, kind, what, digests, _provenances(gone, erased), pages)
            for path in files:
                path.unlink(missing_ok=True)
            journal.erase(erased)
            _remove_records(dataset, journal, folder / "pictures", [row.sample_id for row in gone])
    return report


def _kind(what: str, known: Iterable[Provenance]) -> Kind:
    """What ``what`` is. An author's page is an author: all of theirs is meant."""
    if _DIGEST.fullmatch(what):
        return "sha256"
    if is_web_address(what) and any(at.author_url and _same_address(at.author_url, what) for at in known):
        return "author"
    return "url" if is_web_address(what) or what.startswith(("file:", "drawn:")) else "author"


def _matches(kind: Kind, what: str, sha256: str | None, at: Provenance | None) -> bool:
    if kind == "sha256":
        return sha256 == what.lower()
    if at is None:
        return False
    if kind == "url":
        return any(url and _same_address(url, what) for url in (at.image_url, at.page_url))
    named = at.author is not None and secret_of(at.author) == secret_of(what)
    return named or (at.author_url is not None and _same_address(at.author_url, what))


def _same_address(one: str, other: str) -> bool:
    return _bare(one) == _bare(other)


def _bare(url: str) -> str:
    """An address without what does not matter for which picture it names."""
    return re.sub(r"^https?://(www\.)?", "", url.strip().casefold().partition("#")[0]).rstrip("/")


def _provenances(rows: Sequence["ImageRow"], entries: Sequence[Entry]) -> list[Provenance]:
    return [row.provenance for row in rows] + [e.provenance for e in entries if e.provenance]


def _remember(
    journal: Journal,
    kind: Kind,
    what: str,
    digests: set[str],
    provenances: Sequence[Provenance],
    other_pages: Sequence[str],
) -> None:
    """Put everything by which the images could come back on the list of what is never fetched."""
    urls = {at.image_url for at in provenances}
    # A photo's page names it in all sizes; a page that shows other pictures, too, must not take them along.
    shared = {_bare(url) for url in other_pages}
    urls |= {at.page_url for at in provenances if at.page_url and _bare(at.page_url) not in shared}
    if kind == "url":
        urls.add(what)
    for url in sorted(url for url in urls if url):
        journal.remember_forgotten("url", secret_of(url), REASON)
    for sha256 in sorted(digests | ({what.lower()} if kind == "sha256" else set())):
        journal.remember_forgotten("sha256", sha256, REASON)
    if kind == "author":
        own = [at for at in provenances if _matches(kind, what, None, at)]
        for name in sorted({what, *(at.author_url for at in own if at.author_url)}):
            journal.remember_forgotten("author", secret_of(name), REASON)


def _remove_records(dataset: "Dataset", journal: Journal, pictures: Path, sample_ids: Sequence[str]) -> None:
    """Take the records out, and make anew what shows all images."""
    from wss_data import store
    from wss_data.pipeline import write_dataset_pictures
    from wss_data.store.provenance import remove_samples

    if sample_ids:
        for path in pictures.glob("*"):
            if path.is_file():
                path.unlink()
        remove_samples(dataset, sample_ids)
    store.set_drops(dataset, journal.dropped())
    # Pictures are missing, too, after a kill that came when the records had gone.
    if sample_ids or not (pictures / "cosegmentation.png").exists():
        store.apply_filter(dataset)
        write_dataset_pictures(dataset, pictures)


def _inside(folder: Path, paths: Iterable[Path]) -> Iterator[Path]:
    """Those of the paths that lie in the dataset's own folder; nothing else may ever be removed."""
    root = folder.resolve()
    return (path for path in paths if path.resolve().is_relative_to(root) and path.is_file())


def _named_by(folder: Path, digests: set[str]) -> Iterator[Path]:
    """Files of the dataset's folder that are named by one of the digests, those without a record included."""
    stems = {stem_of(digest) for digest in digests}
    return _inside(folder, (path for path in folder.rglob("*") if path.stem in stems)) if stems else iter(())


def _own_files(provenances: Iterable[Provenance]) -> set[str]:
    """Files that a folder of the user's own holds, as an address, or by their place in it where that was replaced."""
    return {
        at.image_url if at.image_url and at.image_url.startswith("file:") else at.source_id
        for at in provenances
        if at.source == "folder"
    }


def _look_alikes(rows: Sequence["ImageRow"], gone: Sequence["ImageRow"]) -> list["ImageRow"]:
    # OpenCV stands behind it: loaded when images are compared, not by the command line's help.
    from wss_data.filtering.duplicates import hash_values, near_pairs

    known, forgotten = ([row for row in part if row.phash] for part in (rows, gone))
    hashes, against = (hash_values([row.phash or "" for row in part]) for part in (known, forgotten))
    return [known[i] for i in sorted(set(near_pairs(hashes, LOOK_ALIKE, against).first.tolist()))]


def _name(row: "ImageRow") -> str:
    return f"{row.class_name}/{Path(row.path).stem}"
