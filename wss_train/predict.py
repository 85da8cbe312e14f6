"""Use a model: label masks for images on disk, without a database."""

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

from wss_data.errors import ImageError, SourceError
from wss_data.imaging.images import (
    LONGEST_JPEG,
    SUFFIXES,
    encode_jpeg,
    list_images,
    read_image,
    resize_longest_side,
)
from wss_data.imaging.masks import resize_mask, write_mask
from wss_data.imaging.sheets import overlay as draw_overlay
from wss_data.reading.listing import Listing, wanted_of
from wss_data.runtime.files import check_outputs, output_folder, output_path
from wss_train.inference import DECODED
from wss_train.labelling import LabelledImage, LabellingOptions, open_labeller

_LONGEST_NAME = 255  # bytes of a file name at most, on usual file systems


@dataclass(frozen=True)
class PredictSummary:
    """What became of the images."""

    written: int  # number of masks written
    out: Path  # where they are
    failed: Counter[str] = field(default_factory=Counter)  # reason -> number of images without a mask
    messages: tuple[str, ...] = ()  # one sentence for each of those images
    passed_over: str = ""  # files in the folders that were not taken for images, as one line; empty if there is none

    def __str__(self) -> str:
        lines = [f"{self.written} masks written to {self.out}"]
        if self.failed:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.failed.items()))
            lines += [f"{self.failed.total()} images have no mask: {reasons}", *self.messages[:10]]
        if self.passed_over:
            lines.append(self.passed_over)
        return "\n".join(lines)


def find_images(wanted: Path | str | Sequence[Path | str], out: Path | None = None) -> tuple[dict[Path, Path], Listing]:
    """Image files, and where each one's mask goes below the output folder, without its suffix.

    Args:
        wanted: Folders, searched below too; files; patterns such as ``photos/**/*.jpg``; or several of these. A file
            or folder that exists is never taken for a pattern.
        out: The output folder: where it lies below a folder or pattern, what it holds is no input.

    Returns:
        File -> place below the folder that was given, or below the part of a pattern before its first wildcard; a file
        that is found twice counts where it was found first. Second, all that was found on the way.

    Raises:
        SourceError: If one of them gives no image, or two images would get the same place.
    """
    found: dict[Path, Path] = {}
    everything = Listing()
    known: set[Path] = set()
    for entry in _entries(wanted):
        base, listing = _files_of(entry)
        files: Sequence[Path] = listing
        if out is not None and base.resolve() in out.resolve().parents:
            files = [file for file in files if out.resolve() not in file.resolve().parents]
        everything += listing
        if not files:
            seen = f" ({listing})" if str(listing) else ""
            raise SourceError(
                f"{entry}: no image found{seen}. Give images, folders with images, or a quoted pattern such as "
                f"'photos/**/*.jpg'; names of images end in {', '.join(SUFFIXES)}."
            )
        for file in files:
            if file.absolute() not in known:
                known.add(file.absolute())
                found[file] = file.relative_to(base).with_suffix("")
    if not found:
        raise SourceError("no image was asked for. Give images, folders with images, or a pattern.")
    for place, count in Counter(found.values()).items():
        if count > 1:
            sharing = [str(file) for file, other in found.items() if other == place]
            raise SourceError(
                f"{', '.join(sharing[:3])}: {count} images would share the mask {place}.png. Give their common folder "
                "instead of each; where they differ in their suffix only, rename them or predict them apart."
            )
    return found, everything


def _entries(wanted: Path | str | Sequence[Path | str]) -> list[Path]:
    return [Path(entry) for entry in ([wanted] if isinstance(wanted, str | Path) else wanted)]


def _files_of(entry: Path) -> tuple[Path, Listing]:
    """What a file, a folder or a pattern stands for, and the folder from which its places are counted."""
    if entry.is_file():
        return entry.parent, Listing((entry,))
    if entry.is_dir():
        return entry, list_images(entry)
    fixed = 0
    while fixed < len(entry.parts) and not glob.has_magic(entry.parts[fixed]):
        fixed += 1
    if fixed == len(entry.parts):
        return entry, Listing()
    paths = (Path(name) for name in glob.iglob(str(entry), recursive=True))
    base, written = Path(*entry.parts[:fixed]), set(entry.parts)
    # A folder of a tool that a person wrote out is meant; one that a wildcard met is not.
    return base, wanted_of(paths, SUFFIXES, lambda path: set(path.relative_to(base).parts[:-1]) - written)


def predict_images(
    checkpoint: Path | str,
    images: Path | str | Sequence[Path | str],
    out: Path | str,
    *,
    overlays: bool = False,
    **options: Unpack[LabellingOptions],
) -> PredictSummary:
    """Write a label mask for every image of a folder, for single images, or for those that match a pattern.

    Args:
        checkpoint: Run folder or ``model.safetensors``.
        images: A folder, a file, a pattern, or several: see ``find_images``.
        out: Receives ``<path below images>.png``, palette PNGs in VOC colours at the (upright) image's size.
        overlays: Whether to write ``<...>_overlay.jpg`` too, the mask drawn over the image.
        **options: See ``LabellingOptions``; one scale and no CRF by default.

    Returns:
        Counts. An image that cannot be read is counted with its reason; the others go on.

    Raises:
        SourceError: If there is no image, if two would write the same mask, or if a mask would replace an image.
        OutputError: If a file is in the way that this program did not write, or that was changed since.
        BusyError: If another process writes into ``out``.
        CheckpointError: If the model is missing or damaged.
    """
    out = Path(out)
    found, listing = find_images(images, out)
    paths = list(found)
    # Not ``with_suffix``: a place may hold dots.
    masks = [out / place.parent / f"{place.name}.png" for place in found.values()]
    drawings = [mask.parent / f"{mask.name[:-4]}_overlay.jpg" for mask in masks] if overlays else []
    read = {path.resolve() for path in paths}
    for target in (*masks, *drawings):
        if len(os.fsencode(target.name)) > _LONGEST_NAME:
            raise SourceError(f"{target.name[:80]}...: the result's name would be too long. Rename that image.")
        if target.resolve() in read:
            raise SourceError(f"{target}: the result would replace this image. Choose another folder with --out.")
    if any(out.resolve() == entry.resolve() for entry in _entries(images)):
        raise SourceError(
            f"{out}: the masks would lie among the images of this folder, where the next run would take them for "
            f"images. Choose another folder with --out, such as {out / 'predictions'}."
        )
    labeller = open_labeller(checkpoint, options)

    def write(result: LabelledImage) -> ImageError | None:
        if result.mask is not None:
            with output_path(masks[result.position]) as temporary:
                write_mask(result.mask, temporary)
            if overlays:
                with DECODED.taken(result.mask.size):
                    # A JPEG has no side of more than 65,500 pixels.
                    image = resize_longest_side(read_image(paths[result.position]), LONGEST_JPEG)
                    drawn = draw_overlay(image, resize_mask(result.mask, (image.shape[1], image.shape[0])))
                    with output_path(drawings[result.position]) as temporary:
                        temporary.write_bytes(encode_jpeg(drawn, 90))
        return result.error

    with output_folder(out):
        check_outputs([*masks, *drawings])
        errors = [error for error in labeller.label(paths, write, "predict") if error is not None]
    failed, messages = Counter(error.reason for error in errors), tuple(map(str, errors))
    return PredictSummary(len(paths) - len(errors), out, failed, messages, str(listing))
