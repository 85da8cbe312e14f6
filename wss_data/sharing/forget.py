"""Take an image out of a dataset with all that was derived from it, and never fetch it again.

What is remembered are digests: neither an address nor a name stays readable.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from wss_data import store
from wss_data.errors import StoreError
from wss_data.filtering.duplicates import hash_values, near_pairs
from wss_data.pipeline import write_dataset_sheets
from wss_data.reading.addresses import is_web_address
from wss_data.records import Provenance, stem_of
from wss_data.retrieval.journal import Entry, Journal, secret_of
from wss_data.runtime.home import dataset_folder, dataset_owner
from wss_data.spec import BACKGROUND
from wss_data.store.provenance import ImageRow, derived_files, image_rows, remove_samples

if TYPE_CHECKING:
    from wss_data.store.types import Dataset

Kind = Literal["url", "sha256", "author"]

LOOK_ALIKE = 8  # bits of 64 in which perceptual hashes of images that look alike differ at most
REASON = "forgotten on request"  # all that the journal says: nothing of the request itself

_DIGEST = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class ForgetReport:
    """What was, or would be (``dry_run``), forgotten; prints as a few lines. Images are ``<class>/<stem>``."""

    dataset_name: str
    kind: Kind  # what was given
    images: tuple[str, ...]
    files: tuple[Path, ...]  # images and masks
    results: int  # search results of the journal that were erased, those that never became an image included
    own_files: tuple[str, ...]  # of the user's own, that the images were copied from: they are left alone
    look_alikes: tuple[str, ...]  # other images, which stay
    classes: tuple[str, ...]  # those that lost an image
    dry_run: bool

    @property
    def is_empty(self) -> bool:
        """Whether nothing was found that could be forgotten."""
        return not (self.images or self.files or self.results)

    def __str__(self) -> str:
        thing = {"url": "address", "sha256": "digest", "author": "author"}[self.kind]
        is_now = "would be" if self.dry_run else "is"
        lines = [
            f"{len(self.images):,} images, {len(self.files):,} files and {self.results:,} entries of the journal "
            f"{'would be ' if self.dry_run else ''}removed from '{self.dataset_name}'.",
            f"Nothing there has this {thing}. Is it written as the source writes it?" if self.is_empty else "",
            *(f"  {image}" for image in self.images),
            f"The {thing} {is_now} remembered as a digest, never to be fetched for this dataset again.",
            f"{len(self.look_alikes):,} images that look alike stay; look at them, and forget them by their sha256 if "
            f"they are the same: {', '.join(self.look_alikes)}"
            if self.look_alikes
            else "",
            f"Files of your own stay, delete them yourself: {', '.join(self.own_files)}" if self.own_files else "",
            f"The next build co-segments {', '.join(self.classes)} again: the masks of the others were made with the "
            "help of these images."
            if self.classes
            else "",
            "What this cannot undo: models that were trained with them; exports, manifests and lists of authors that "
            "were written before; embeddings computed in FiftyOne; backups of the database; other datasets.",
        ]
        return "\n".join(filter(None, lines))


def forget(dataset: "Dataset", what: str, dry_run: bool = False) -> ForgetReport:
    """Remove an image, or all of an author, with masks, records and traces. After a kill the same call finishes it.

    Args:
        dataset: A web dataset.
        what: Address of an image or of its page, sha256 of the original bytes, or an author's name or page.
        dry_run: Whether to report only.

    Raises:
        StoreError: If it is no web dataset, a build of it is running, or ``what`` is empty.
    """
    what = what.strip()
    if not what:
        raise StoreError("nothing was given to forget; wanted is an address, a sha256, or an author's name.")
    rows = image_rows(dataset, "made to forget an image")
    folder = dataset_folder(dataset.name)
    with dataset_owner(dataset.name), Journal(folder / "journal.sqlite") as journal:
        entries = list(journal.entries())
        kind = _kind(what, _provenances(rows, entries))
        known = [(row.sha256, row.provenance) for row in rows] + [(e.sha256, e.provenance) for e in entries if e.sha256]
        digests = {sha256 for sha256, at in known if _matches(kind, what, sha256, at)}
        # The same bytes under another address or in another class are the same image.
        gone, stay = ([row for row in rows if (row.sha256 in digests) is wanted] for wanted in (True, False))
        erased = [e for e in entries if e.sha256 in digests or _matches(kind, what, e.sha256, e.provenance)]
        ids = [row.sample_id for row in gone]
        stems = {stem_of(digest) for digest in digests}
        # Those that are named by a digest, too: a kill may have left files without a record.
        named = (path for path in folder.rglob("*") if path.stem in stems) if stems else ()
        paths = {*derived_files(dataset, ids), *(Path(row.path) for row in gone), *named}
        files = sorted(path for path in paths if _is_inside(path, folder))
        forgotten = _provenances(gone, erased)
        report = ForgetReport(
            dataset_name=dataset.name,
            kind=kind,
            images=tuple(map(_name, gone)),
            files=tuple(files),
            results=len(erased),
            # By their place in the user's folder where the address was replaced by another's.
            own_files=tuple(
                sorted(
                    {
                        at.image_url if at.image_url and at.image_url.startswith("file:") else at.source_id
                        for at in forgotten
                        if at.source == "folder"
                    }
                )
            ),
            look_alikes=tuple(map(_name, _look_alikes(stay, gone))),
            classes=tuple(dict.fromkeys(row.class_name for row in gone if row.class_name != BACKGROUND)),
            dry_run=dry_run,
        )
        if not dry_run:
            keys = {e.key for e in erased}
            left = [e for e in entries if e.key not in keys]
            # This order makes a kill harmless: a build in between brings nothing back that is remembered, and as long
            # as an entry or a record is there, a second call finds the files.
            _remember(journal, kind, what, digests, forgotten, _provenances(stay, left))
            for path in files:
                path.unlink(missing_ok=True)
            journal.erase(erased)
            _remove_records(dataset, journal, folder / "pictures", ids)
    return report


def _kind(what: str, known: Iterable[Provenance]) -> Kind:
    """What ``what`` is. An author's page is an author: all of theirs is meant."""
    if _DIGEST.fullmatch(what):
        return "sha256"
    if is_web_address(what) and _bare(what) in {_bare(at.author_url) for at in known if at.author_url}:
        return "author"
    # The last two: addresses that the sources `folder` and `drawn` give their images.
    return "url" if is_web_address(what) or what.startswith(("file:", "drawn:")) else "author"


def _matches(kind: Kind, what: str, sha256: str | None, at: Provenance | None) -> bool:
    if kind == "sha256":
        return sha256 == what.lower()
    if at is None:
        return False
    if kind == "url":
        return any(url and _bare(url) == _bare(what) for url in (at.image_url, at.page_url))
    named = at.author is not None and secret_of(at.author) == secret_of(what)
    return named or (at.author_url is not None and _bare(at.author_url) == _bare(what))


def _bare(url: str) -> str:
    """An address without what does not matter for which image it names.

    >>> _bare("https://www.photos.example/Photo/1/#top")
    'photos.example/photo/1'
    """
    return re.sub(r"^https?://(www\.)?", "", url.strip().casefold().partition("#")[0]).rstrip("/")


def _provenances(rows: Sequence[ImageRow], entries: Sequence[Entry]) -> list[Provenance]:
    return [row.provenance for row in rows] + [e.provenance for e in entries if e.provenance]


def _remember(
    journal: Journal, kind: Kind, what: str, digests: set[str], gone: list[Provenance], others: list[Provenance]
) -> None:
    """Put everything by which the images could come back on the list of what is never fetched."""
    # A photo's page names it in all sizes; a page that shows other images, too, must not take them along.
    shared = {_bare(at.page_url) for at in others if at.page_url}
    urls = {at.image_url for at in gone if at.image_url} | ({what} if kind == "url" else set())
    urls |= {at.page_url for at in gone if at.page_url and _bare(at.page_url) not in shared}
    authors: set[str] = set()
    if kind == "author":
        authors = {what, *(at.author_url for at in gone if at.author_url and _matches(kind, what, None, at))}
    secrets = [("url", secret_of(url)) for url in sorted(urls)]
    secrets += [("sha256", sha256) for sha256 in sorted(digests | ({what.lower()} if kind == "sha256" else set()))]
    secrets += [("author", secret_of(name)) for name in sorted(authors)]
    for remembered, secret in secrets:
        journal.remember_forgotten(remembered, secret, REASON)


def _remove_records(dataset: "Dataset", journal: Journal, sheets: Path, sample_ids: Sequence[str]) -> None:
    """Take the records out, and make anew what shows all images."""
    if sample_ids:
        for path in sheets.glob("*"):
            if path.is_file():
                path.unlink()
        remove_samples(dataset, sample_ids)
    store.update(dataset, drops=journal.dropped())
    # Sheets are missing, too, after a kill that came when the records had gone.
    if sample_ids or not (sheets / "cosegmentation.png").exists():
        store.apply_filter(dataset)
        write_dataset_sheets(dataset, sheets)


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether a file lies in the dataset's own folder; nothing else may ever be removed."""
    return path.resolve().is_relative_to(folder.resolve()) and path.is_file()


def _look_alikes(rows: Sequence[ImageRow], gone: Sequence[ImageRow]) -> list[ImageRow]:
    known = [row for row in rows if row.phash]
    hashes, against = (hash_values([row.phash for row in part if row.phash]) for part in (known, gone))
    return [known[i] for i in sorted(set(near_pairs(hashes, LOOK_ALIKE, against).first.tolist()))]


def _name(row: ImageRow) -> str:
    return f"{row.class_name}/{Path(row.path).stem}"
