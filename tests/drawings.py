"""Coloured rectangles with known masks, a tiny recipe, a network that sees colours: what the training tests share."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from wss_data.imaging.masks import write_mask
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_data.records import ExampleTable
from wss_train.data import resize_image
from wss_train.inference import InferenceSettings, network_size
from wss_train.models import ModelOutput
from wss_train.recipes import preset, with_values

# On a busy machine two threads wait for each other at every one of thousands of tiny operations.
torch.set_num_threads(1)

CLASSES = ("red", "green")

SMALLEST = {"backbone": "test_efficientnet", "weights": "none"}
"""A network that timm has for tests: a fifth of the time of efficientnet_lite0, and a fortieth of its file."""

TINY = with_values(
    preset("cpu"),
    {
        **SMALLEST,
        "head_channels": 8,
        "branch_channels": 8,
        "long_side": 40,
        "crop": 32,
        "batch": 2,
        "generator_iterations": 2,
        "final_iterations": 2,
        "checkpoint_every": 2,
        "precision": "float32",
        "new_layer_std": 1.0,  # so that even an untrained network sees every class somewhere
    },
)

LEARNS = with_values(
    TINY,
    {
        "backbone": "efficientnet_lite0",
        "weights": "imagenet",
        "head_channels": 32,
        "dropout": 0.0,
        "long_side": 128,
        "crop": 96,
        "batch": 4,
        "generator_iterations": 20,
        "checkpoint_every": 20,
        "learning_rate": 3e-4,
    },
)
"""Quick as well, but sees every class somewhere after its few iterations, so that its masks can teach."""


def rectangles(folder: Path, count: int = 6) -> ExampleTable:
    """Images of 40 x 30 px, grey with a red (even) or green (odd) rectangle, and their masks."""
    generator = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    images, masks = [], []
    for i in range(count):
        image, mask = np.full((30, 40, 3), 90, np.uint8), np.zeros((30, 40), np.uint8)
        left = int(generator.integers(0, 20))
        image[5:25, left : left + 20, i % 2] = 230
        mask[5:25, left : left + 20] = i % 2 + 1
        images.append(str(folder / "images" / f"{i}.png"))
        masks.append(str(folder / "masks" / f"{i}.png"))
        Image.fromarray(image).save(images[-1])
        write_mask(mask, Path(masks[-1]))
    labels = np.array([[i % 2 == 0, i % 2 == 1] for i in range(count)])
    ledger = Ledger().add("co-segmentation masks", Supervision.NONE, UsedFor.COSEGMENTATION)
    ids = tuple(str(i) for i in range(count))
    return ExampleTable(ids, tuple(images), tuple(masks), labels, CLASSES, ledger=ledger, source="rectangles")


class ColourNetwork(nn.Module):
    """Its logits are the image's own colours: red where it is red, green where it is green, else background."""

    output_stride = 1

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        return images / 255

    def forward(self, images: torch.Tensor) -> ModelOutput:
        red, green = images[:, 0], images[:, 1]
        grey = torch.full_like(red, 0.5)
        return ModelOutput(20 * torch.stack([grey, red, green], dim=1), None)


@torch.inference_mode()
def plain_probabilities(network: nn.Module, image: np.ndarray, settings: InferenceSettings) -> np.ndarray:
    """Class probabilities by the plain way: each scale's logits brought to the image's size. (C + 1, H, W), float32."""
    height, width = image.shape[:2]
    found = []
    for scale in settings.scales:
        size = network_size(height, width, settings.long_side * scale, network.output_stride)
        pixels = torch.from_numpy(resize_image(image, size[::-1])).permute(2, 0, 1)[None].float()
        logits = network(network.normalise(pixels)).pixel_logits
        logits = nn.functional.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
        found.append(logits.softmax(dim=1)[0])
    return torch.stack(found).mean(dim=0).numpy()


def disc(height=60, width=80, colour=(230, 60, 40), ground=(40, 90, 50), seed=0):
    """A bright disc on darker, slightly noisy ground, and where it is."""
    rows, columns = np.mgrid[:height, :width]
    inside = (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (height / 4) ** 2
    image = np.where(inside[..., None], np.array(colour), np.array(ground)).astype(np.int64)
    noisy = image + np.random.default_rng(seed).integers(-8, 9, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), inside
