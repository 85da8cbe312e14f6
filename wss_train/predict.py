"""Use a model: label masks for images on disk, without a database."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from wss_data.errors import SourceError
from wss_data.files import write_bytes
from wss_data.images import encode_jpeg, list_images, read_image
from wss_data.masks import write_mask
from wss_data.report import overlay as draw_overlay
from wss_train.inference import default_device, predict_files, settings_for
from wss_train.labelling import chosen_crf, label_images
from wss_train.models import load_model


@dataclass(frozen=True)
class PredictSummary:
    """What became of the images.

    Args:
        written: Number of masks written.
        out: Where they are.
        failed: Reason -> number of images without a mask.
        messages: One sentence for each of those images.
    """

    written: int
    out: Path
    failed: Counter[str] = field(default_factory=Counter)
    messages: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.written} masks written to {self.out}"]
        if self.failed:
            told = ", ".join(f"{count} {reason}" for reason, count in sorted(self.failed.items()))
            lines += [f"{self.failed.total()} images have no mask: {told}", *self.messages[:10]]
        return "\n".join(lines)


def predict_images(
    checkpoint: Path | str,
    images: Path | str,
    out: Path | str,
    *,
    scales: Sequence[float] = (1.0,),
    crf: bool = False,
    overlays: bool = False,
    device: str | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> PredictSummary:
    """Write a label mask for every image of a folder, or for one image.

    Args:
        checkpoint: Run folder or ``model.safetensors``.
        images: A folder, searched below too, or one file.
        out: Receives ``<path below images>.png``, palette PNGs in VOC colours at the (upright) image's size.
        scales: Image scales whose probabilities are averaged.
        crf: Whether a dense CRF sharpens the masks.
        overlays: Whether to write ``<...>_overlay.jpg`` too, the mask drawn over the image.
        device: ``cpu``, ``cuda`` or ``cuda:N``; ``None`` for the GPU if there is one.
        workers: Worker processes of the CRF; ``None`` for one a processor.
        progress: Whether to show a progress bar.

    Returns:
        Counts. An image that cannot be read is counted with its reason; the others go on.

    Raises:
        SourceError: If there is no image, or two would write the same mask.
        CheckpointError: If the model is missing or damaged.
    """
    images, out = Path(images), Path(out)
    paths = [images] if images.is_file() else list_images(images) if images.is_dir() else []
    if not paths:
        raise SourceError(f"{images}: no image found. Give an image, or a folder with images.")
    base = images.parent if images.is_file() else images
    stems = [path.relative_to(base).with_suffix("") for path in paths]
    for stem, count in Counter(stems).items():
        if count > 1:
            raise SourceError(f"{base / stem}.*: {count} images differ in their suffix only and would share one mask.")

    place = torch.device(device) if device else default_device()
    model, card = load_model(checkpoint, device=place)
    settings = settings_for(card, scales, place)
    written, failed, messages = 0, Counter[str](), []
    labelled = label_images(predict_files(model, paths, settings), None, chosen_crf(crf, card.recipe), workers)
    for result in tqdm(labelled, total=len(paths), desc="predict", unit="image", disable=not progress):
        if result.mask is None:
            assert result.error is not None, "an image without a mask has its reason"
            failed[result.error.reason] += 1
            messages.append(str(result.error))
            continue
        stem = out / stems[result.position]
        write_mask(result.mask, stem.parent / f"{stem.name}.png")
        if overlays:
            picture = draw_overlay(read_image(paths[result.position]), result.mask)
            write_bytes(stem.parent / f"{stem.name}_overlay.jpg", encode_jpeg(picture, 90))
        written += 1
    return PredictSummary(written, out, failed, tuple(messages))
