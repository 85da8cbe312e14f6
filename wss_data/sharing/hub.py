"""Publish a folder on Hugging Face's Hub: what ``export --layout huggingface`` or ``card`` wrote, looked at by now."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wss_data.errors import OutputError, StoreError, WssError
from wss_data.reading import checked
from wss_data.runtime.files import expanded
from wss_data.sharing.card import may_be_shown

_README, _LEDGER = "README.md", "ledger.json"  # in every folder of ours for the Hub
_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


@dataclass(frozen=True)
class Upload:
    """What goes to the Hub, or went there; prints as a few lines."""

    folder: Path
    repository: str  # OWNER/NAME
    public: bool
    files: int
    size: int  # bytes
    not_free: int  # images whose licence is not known, or does not let anybody show them
    url: str | None = None  # of the commit; None where nothing was sent

    def __str__(self) -> str:
        who = "everybody" if self.public else "you alone"
        lines = [
            f"{self.files:,} files, {self.size / 1e6:,.1f} MB, of {self.folder} to the dataset {self.repository}, seen "
            f"by {who}."
        ]
        if self.not_free:
            lines.append(
                f"{self.not_free:,} images are under no licence that lets anybody show them, or none is known."
            )
        return "\n".join([*lines, *([self.url] if self.url else [])])


def push_to_hub(
    folder: Path | str, repository: str, public: bool = False, may_publish: bool = False, dry_run: bool = False
) -> Upload:
    """Upload a folder to a dataset of the Hub, made if it is missing, in one commit: all of it is there, or nothing is.

    An earlier state of the dataset stays in its history; files that the folder lacks are gone from the new one. The
    account is that of ``hf auth login``, or of the token in ``HF_TOKEN``.

    Args:
        folder: What ``export_dataset`` wrote in the layout ``huggingface``, or ``write_card``.
        repository: ``OWNER/NAME``.
        public: Whether a dataset that is made now can be seen by everybody; by default only by its owner. One that
            exists stays as visible as it is.
        may_publish: Whether images may be public although their licence is not known or does not say so.
        dry_run: Whether only to count; nothing is sent, and nobody is asked.

    Raises:
        OutputError: If the dataset on the Hub holds what this program did not write.
        StoreError: If the folder is no such folder, images may not be public, ``huggingface_hub`` is not installed, or
            the Hub cannot be reached or refuses.
    """
    folder = expanded(folder).absolute()
    if not all((folder / name).is_file() for name in (_README, _LEDGER)):
        raise StoreError(
            f"{folder}: has no {_README} and {_LEDGER}, so that it is not for the Hub. Wanted is a folder that "
            "`wss-data export --layout huggingface` or `wss-data card` wrote."
        )
    if not _NAME.fullmatch(repository):
        raise StoreError(f"'{repository}' is no dataset of the Hub; OWNER/NAME is wanted.")
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    size = sum(path.stat().st_size for path in files)
    upload = Upload(
        folder, repository, public, len(files), size, sum(not may_be_shown(one) for one in _licences(folder))
    )
    if dry_run:
        return upload
    _check_rights(upload, may_publish)
    return _send(upload, may_publish)


def _check_rights(upload: Upload, may_publish: bool) -> None:
    if upload.public and upload.not_free and not may_publish:
        raise StoreError(
            f"{upload.folder}: {upload.not_free:,} images are under no licence that lets anybody show them, or none is "
            f"known, and {upload.repository} is public. Nothing was sent. Publish the card instead (`wss-data card`), "
            "which lists images and holds none of these, or say that you may (--may-publish)."
        )


def _licences(folder: Path) -> Iterator[str | None]:
    """The licence of each image that lies in an export; a card holds only small copies of free ones."""
    for table in sorted(folder.glob("data/*/metadata.jsonl")):
        for number, line in enumerate(table.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                licence: Any = checked.an_object(json.loads(line)).get("license")
            except ValueError as error:
                raise StoreError(f"{table}, line {number}: {error}. Export the dataset again.") from error
            yield licence if isinstance(licence, str) else None


def _send(upload: Upload, may_publish: bool) -> Upload:
    """Upload in one commit."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise StoreError("push-to-hub needs huggingface_hub: pip install 'webcoseg[hub]'.") from error
    # Named here, too: huggingface_hub reads the variable only when it is imported first.
    hub = huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    where: dict[str, Any] = {"repo_id": upload.repository, "repo_type": "dataset"}
    try:
        hub.create_repo(**where, private=not upload.public, exist_ok=True)
        found = hub.dataset_info(upload.repository)
        upload = replace(upload, public=not found.private)
        _check_rights(upload, may_publish)  # it may have been public before
        there = {file.rfilename for file in found.siblings or ()} - {".gitattributes"}
        if there and _LEDGER not in there:
            raise OutputError(
                f"the dataset {upload.repository} of the Hub holds {len(there):,} files, and no {_LEDGER}: something "
                "else made it, and it is left alone. Name another."
            )
        commit = hub.upload_folder(
            **where, folder_path=upload.folder, delete_patterns="*", commit_message="Upload by wss-data"
        )
    except WssError:
        raise
    except Exception as error:  # its HTTP library, which changes with the version, has errors of its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StoreError(
            f"{upload.folder} was not uploaded to {upload.repository}: {reason} The account is that of `hf auth login` "
            "or of the token in HF_TOKEN, and needs the right to write there."
        ) from error
    return replace(upload, url=str(commit.commit_url))
