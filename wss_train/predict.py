"""Use a model: label masks of images in memory, on disk, or in a FiftyOne view."""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

import numpy as np
from PIL import Image

from wss_data import store
from wss_data.errors import ImageError, SourceError, WssError, shown
from wss_data.imaging.images import (
    LONGEST_JPEG,
    SUFFIXES,
    AnyImage,
    encode_jpeg,
    list_images,
    pixels_of,
    resize_longest_side,
)
from wss_data.imaging.masks import used_values, write_mask
from wss_data.imaging.sheets import overlay as draw_overlay
from wss_data.ledger import Ledger
from wss_data.reading.listing import Listing, wanted_of
from wss_data.reading.settings import only_known
from wss_data.runtime.files import check_outputs, output_folder, output_path
from wss_data.runtime.home import dataset_folder
from wss_train.inference import DECODED, Predicted, at_image_size
from wss_train.labelling import LabelledImage, Labeller, LabellingOptions, LookOptions, open_labeller
from wss_train.pseudo_masks import write_masks

if TYPE_CHECKING:
    from wss_data.store.types import Collection

_LONGEST_NAME = 255  # bytes of a file name at most, on usual file systems


Labels = str | Sequence[str] | None
"""Names of the classes that an image is known to show; ``None`` if that is not known."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """The label mask of one image."""

    mask: np.ndarray  # class index of each pixel of the upright image. Shape (H, W), uint8, 0 background
    classes: tuple[str, ...]  # name of each index, the background first
    image: AnyImage = field(repr=False)  # what was predicted, as it was given
    # What the network says of each class, before labels and CRF; sums to 1 over the classes. Shape (C + 1, H, W),
    # float32; None unless it was asked for.
    probabilities: np.ndarray | None = field(default=None, repr=False)

    @property
    def shown(self) -> list[str]:
        """Names of the classes that the mask shows, without the background."""
        return [self.classes[index] for index in used_values(self.mask) if index]

    def overlay(self, opacity: float = 0.6) -> np.ndarray:
        """The mask over its image in the colours of VOC, (H, W, 3), uint8, RGB; a file is read again for it.

        ``opacity``: of the colours, in [0, 1].
        """
        return draw_overlay(pixels_of(self.image), self.mask, opacity)


@dataclass(frozen=True)
class TrainedModel:
    """A model that is loaded once and asked often, from several threads too; see ``load_model``."""

    labeller: Labeller = field(repr=False)
    classes: tuple[str, ...]  # name of each value of a mask, the background first

    @property
    def ledger(self) -> Ledger:
        """What the model learned from."""
        return self.labeller.card.ledger

    @overload  # a path's text is a sequence, too, but of nothing that is an image
    def predict(  # type: ignore[overload-overlap]
        self, images: AnyImage, labels: Labels = None, probabilities: bool = False, **options: Unpack[LookOptions]
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        images: Sequence[AnyImage],
        labels: Sequence[Labels] | None = None,
        probabilities: bool = False,
        **options: Unpack[LookOptions],
    ) -> list[Prediction]: ...

    def predict(
        self,
        images: AnyImage | Sequence[AnyImage],
        labels: Labels | Sequence[Labels] = None,
        probabilities: bool = False,
        **options: Unpack[LookOptions],
    ) -> Prediction | list[Prediction]:
        """Label an image, or several: those that are of equal size once resized share a pass.

        Args:
            images: A file, an image of Pillow's, or RGB pixels, (H, W, 3), uint8 (what OpenCV reads is BGR: turn it
                round with ``[:, :, ::-1]``); or a list of these.
            labels: Classes that the image is known to show, such as ``["cat", "dog"]``: no other gets a pixel (eq. 2).
                Of a list of images a list with one entry for each, ``None`` where they are not known.
            probabilities: Whether to give the class probabilities, too: 4 (C + 1) bytes a pixel.
            **options: As of ``load_model``, for this call alone; a progress bar is shown if it is asked for.

        Returns:
            One prediction, or a list of them in the order of the images.

        Raises:
            ImageError: If an image cannot be read, or an array is no RGB image.
            WssError: If a label is no class of the model.
            RecipeError: If the scales are none.
        """
        one = isinstance(images, Path | str | Image.Image | np.ndarray)
        wanted: list[Any] = [images] if one else list(images)  # type: ignore[arg-type]
        if one and not isinstance(images, Path | str):
            wanted = [pixels_of(wanted[0])]  # here, where an error needs no number
        allowed = self._allowed([labels] if one else labels, len(wanted))  # type: ignore[list-item,arg-type]
        labeller = self._labeller({"progress": False, **options})
        maps: dict[int, np.ndarray] = {}

        def noted(predictions: Iterator[Predicted]) -> Iterator[Predicted]:
            for predicted in predictions:
                if probabilities and predicted.probabilities is not None:
                    whole = at_image_size(predicted.probabilities.float(), *predicted.shape)
                    maps[predicted.position] = whole.cpu().numpy()
                yield predicted

        def made(result: LabelledImage) -> tuple[int, Prediction]:
            position = result.position
            if result.mask is None:
                raise result.error or WssError(f"images[{position}]: no mask was made.")
            return position, Prediction(result.mask, self.classes, wanted[position], maps.pop(position, None))

        may_show = None if allowed is None else allowed.__getitem__
        found = dict(labeller.label(wanted, made, "predict", may_show, noted))
        return found[0] if one else [found[position] for position in range(len(wanted))]

    def predict_view(
        self,
        view: "Collection",
        field: str = "prediction",
        out: Path | str | None = None,
        **options: Unpack[LookOptions],
    ) -> int:
        """Label the images of a FiftyOne dataset or view, ours or not, and write the masks into a field of it.

        Masks of other images in the field stay. Interrupted and called again, those that were made are kept.

        Args:
            view: The images.
            field: Field that receives the masks; made if it is missing.
            out: Folder for the masks, ``<id>.png``. ``None``: the dataset's own below ``WSS_HOME``.
            **options: As of ``load_model``, for this call alone.

        Returns:
            Number of masks.

        Raises:
            StoreError: If the field is for other masks, the view holds no images, or the dataset is of other classes.
            TrainingDataError: If an image cannot be read: its masks before it stay on disk, the field as it is.
        """
        store.check_mask_field(view, field)
        table = store.image_table(view, self.classes[1:])
        folder = dataset_folder(table.source) / field if out is None else Path(out)
        paths, _ = write_masks(self._labeller(options), table, folder, "predict")
        store.set_predictions(view, field, replace(table, mask_paths=tuple(map(str, paths.values()))), self.ledger)
        return len(paths)

    def _labeller(self, options: LookOptions) -> Labeller:
        only_known(options, LookOptions)
        return self.labeller.with_options(options)

    def _allowed(self, labels: Sequence[Labels] | None, count: int) -> np.ndarray | None:
        """Which classes each image may show, (N, C + 1), bool; ``None`` if nothing is known of any."""
        if labels is None or all(names is None for names in labels):
            return None
        if isinstance(labels, str) or len(labels) != count:
            raise WssError(
                f"labels are {shown(labels)}, and there are {count} images; wanted is a list with one entry for each "
                "image: a list of class names, or None."
            )
        allowed = np.zeros((count, len(self.classes)), bool)
        allowed[:, 0] = True
        for row, names in zip(allowed, labels, strict=True):
            for name in self.classes if names is None else [names] if isinstance(names, str) else names:
                if name not in self.classes:
                    raise WssError(
                        f"the label {shown(name)} is no class of the model; it knows {', '.join(self.classes[1:])}."
                    )
                row[self.classes.index(name)] = True
        return allowed


def load_model(checkpoint: Path | str, **options: Unpack[LabellingOptions]) -> TrainedModel:
    """Load a trained model to ask it for masks.

    ::

        model = wss_train.load_model("runs/final")
        prediction = model.predict("photo.jpg", scales=(0.7, 1.0, 1.3), crf=True)
        prediction.mask, prediction.shown, prediction.overlay()

    Args:
        checkpoint: Run folder, checkpoint folder, or ``model.safetensors``.
        **options: See ``LabellingOptions``; one scale and no CRF by default. ``predict`` can change all but the device.

    Raises:
        CheckpointError: If it is no model, or a damaged one.
        RecipeError: If this machine has no such device.
    """
    labeller = open_labeller(checkpoint, options)
    return TrainedModel(labeller, ("background", *labeller.card.classes))


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
    model = load_model(checkpoint, **options)

    def write(result: LabelledImage) -> ImageError | None:
        if result.mask is not None:
            with output_path(masks[result.position]) as temporary:
                write_mask(result.mask, temporary)
            if overlays:
                with DECODED.taken(result.mask.size):
                    # A JPEG has no side of more than 65,500 pixels.
                    drawn = Prediction(result.mask, model.classes, paths[result.position]).overlay()
                    with output_path(drawings[result.position]) as temporary:
                        temporary.write_bytes(encode_jpeg(resize_longest_side(drawn, LONGEST_JPEG), 90))
        return result.error

    with output_folder(out):
        check_outputs([*masks, *drawings])
        errors = [error for error in model.labeller.label(paths, write, "predict") if error is not None]
    failed, messages = Counter(error.reason for error in errors), tuple(map(str, errors))
    return PredictSummary(len(paths) - len(errors), out, failed, messages, str(listing))
