"""Use a model: label masks for images on disk, without a database."""

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

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
from wss_data.imaging.pictures import overlay as draw_overlay
from wss_data.reading.listing import Listing, wanted_of
from wss_data.runtime.files import check_outputs, output_folder, output_path
from wss_data.runtime.threads import in_threads
from wss_train.inference import DECODED, device_of, predict_files, settings_for
from wss_train.labelling import LabelledImage, chosen_crf, label_images, pixels_of
from wss_train.models import load_model

_LONGEST_NAME = 255
"""Bytes of a file name at most, on usual file systems."""


@dataclass(frozen=True)
class PredictSummary:
    """What became of the images.

    Args:
        written: Number of masks written.
        out: Where they are.
        failed: Reason -> number of images without a mask.
        messages: One sentence for each of those images.
        passed_over: Files in the folders that were not taken for images, as one line; empty if there is none.
    """

    written: int
    out: Path
    failed: Counter[str] = field(default_factory=Counter)
    messages: tuple[str, ...] = ()
    passed_over: str = ""

    def __str__(self) -> str:
        lines = [f"{self.written} masks written to {self.out}"]
        if self.failed:
            told = ", ".join(f"{count} {reason}" for reason, count in sorted(self.failed.items()))
            lines += [f"{self.failed.total()} images have no mask: {told}", *self.messages[:10]]
        if self.passed_over:
            lines.append(self.passed_over)
        return "\n".join(lines)


def find_images(wanted: Path | str | Sequence[Path | str], out: Path | None = None) -> dict[Path, Path]:
    """Image files, and where each one's mask goes below the output folder, without its suffix.

    Args:
        wanted: Folders, searched below too; files; patterns such as ``photos/**/*.jpg``, in which ``**`` stands for
            any folders and files that are no images by their suffix are passed over; or several of these. A file
            or folder that exists is never taken for a pattern.
        out: The output folder: where it lies below a folder or pattern, what it holds is no input.

    Returns:
        File -> relative place: below the folder that was given, below the part of a pattern that stands before its
        first wildcard, or its name for a file. A file that is found twice counts once, where it was found first.

    Raises:
        SourceError: If one of them gives no image, or two images would get the same place.
    """
    return _find(wanted, out)[0]


def _find(wanted: Path | str | Sequence[Path | str], out: Path | None) -> tuple[dict[Path, Path], Listing]:
    """Image files with their places, and all that was found on the way."""
    found: dict[Path, Path] = {}
    everything = Listing()
    known: set[Path] = set()
    for entry in [wanted] if isinstance(wanted, str | Path) else wanted:
        base, listing = _files_of(Path(entry))
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
    scales: Sequence[float] = (1.0,),
    crf: bool = False,
    overlays: bool = False,
    device: str | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> PredictSummary:
    """Write a label mask for every image of a folder, for single images, or for those that match a pattern.

    Args:
        checkpoint: Run folder or ``model.safetensors``.
        images: A folder, a file, a pattern, or several: see ``find_images``.
        out: Receives ``<path below images>.png``, palette PNGs in VOC colours at the (upright) image's size.
        scales: Image scales whose probabilities are averaged.
        crf: Whether a dense CRF sharpens the masks.
        overlays: Whether to write ``<...>_overlay.jpg`` too, the mask drawn over the image; its longer side is at most
            65,500 pixels, as JPEG has it.
        device: ``cpu``, ``cuda`` or ``cuda:N``; ``None`` for the GPU if there is one.
        workers: Threads or processes of the CRF; ``None`` for one a processor.
        progress: Whether to show a progress bar.

    Returns:
        Counts. An image that cannot be read is counted with its reason; the others go on.

    Raises:
        SourceError: If there is no image, if two would write the same mask, or if a mask would replace an image.
        OutputError: If a file is in the way that this program did not write, or that was changed since.
        BusyError: If another process writes into ``out``.
        CheckpointError: If the model is missing or damaged.
    """
    out = Path(out)
    found, listing = _find(images, out)
    paths = list(found)
    targets = [_targets(out / place) for place in found.values()]
    inputs = {path.resolve() for path in paths}
    for mask, picture in targets:
        for target in (mask, picture) if overlays else (mask,):
            if len(os.fsencode(target.name)) > _LONGEST_NAME:
                raise SourceError(f"{target.name[:80]}...: the result's name would be too long. Rename that image.")
            if target.resolve() in inputs:
                raise SourceError(f"{target}: the result would replace this image. Choose another folder with --out.")

    for entry in [images] if isinstance(images, str | Path) else images:
        if out.resolve() == Path(entry).resolve():
            raise SourceError(
                f"{out}: the masks would lie among the images of this folder, where the next run would take them for "
                f"images. Choose another folder with --out, such as {out / 'predictions'}."
            )

    place = device_of(device)
    model, card = load_model(checkpoint, device=place)
    settings = settings_for(card, scales, place)
    labelled = label_images(predict_files(model, paths, settings), None, chosen_crf(crf, card.recipe), workers)

    def write(result: LabelledImage) -> ImageError | None:
        if result.mask is not None:
            mask, picture = targets[result.position]
            with output_path(mask) as temporary:
                write_mask(result.mask, temporary)
            if overlays:
                with DECODED.taken(result.mask.size):
                    image = resize_longest_side(read_image(paths[result.position]), LONGEST_JPEG)
                    drawn = draw_overlay(image, resize_mask(result.mask, (image.shape[1], image.shape[0])))
                    with output_path(picture) as temporary:
                        temporary.write_bytes(encode_jpeg(drawn, 90))
        return result.error

    written, failed, messages = 0, Counter[str](), []
    results = in_threads(write, labelled, pixels=pixels_of)
    with output_folder(out):
        check_outputs([target for pair in targets for target in (pair if overlays else pair[:1])])
        for error in tqdm(results, total=len(paths), desc="predict", unit="image", disable=not progress):
            if error is None:
                written += 1
            else:
                failed[error.reason] += 1
                messages.append(str(error))
    return PredictSummary(written, out, failed, tuple(messages), str(listing))


def _targets(stem: Path) -> tuple[Path, Path]:
    """The files of an image's mask and of its overlay. Not ``with_suffix``: a stem may hold dots."""
    return stem.parent / f"{stem.name}.png", stem.parent / f"{stem.name}_overlay.jpg"
