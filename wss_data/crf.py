"""Fully connected conditional random field: the only door to pydensecrf.

It holds Python's global lock while it runs: use processes, not threads.

Source:
    Krähenbühl and Koltun, *Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials*, NIPS 2011.
"""

from dataclasses import dataclass

import numpy as np

from wss_data.errors import WssError

SMALLEST_PROBABILITY = 1e-5
"""Probabilities are raised to this before the logarithm: a zero would be a veto that no neighbour can lift."""


@dataclass(frozen=True)
class CrfSettings:
    """The two pairwise terms of a dense CRF, both with Potts compatibility.

    Args:
        position_px: Standard deviation of the smoothness term, pixels. The authors' code uses 2.
        position_weight: Weight of the smoothness term.
        bilateral_px: Spatial standard deviation of the appearance term, pixels.
        bilateral_rgb: Colour standard deviation of the appearance term, in units of 0..255.
        bilateral_weight: Weight of the appearance term.
        iterations: Mean-field iterations.

    Source:
        The defaults are the field's habit with DeepLab: Chen et al., ICLR 2015, as in Shen et al.'s preset ``paper``.
    """

    position_px: float = 3.0
    position_weight: float = 3.0
    bilateral_px: float = 55.0
    bilateral_rgb: float = 3.0
    bilateral_weight: float = 4.0
    iterations: int = 10


def dense_crf(probabilities: np.ndarray, image: np.ndarray, settings: CrfSettings | None = None) -> np.ndarray:
    """Sharpen class probabilities along the edges of an image.

    The labels need not be all classes of a dataset: passing only those that an image can show costs
    less and gives the same answer. No gift: confident, good probabilities can come out worse. Measure it.

    Args:
        probabilities: Label probabilities, non-negative; need not sum to one. Shape (L, H, W), float.
        image: The image at the same size. Shape (H, W, 3), uint8, RGB.
        settings: The pairwise terms; ``None`` for the defaults.

    Returns:
        Marginal of each label at each pixel, sums to one over the labels. Shape (L, H, W), float32, in [0, 1].

    Raises:
        ValueError: If the shapes do not fit together or the image is not uint8.
        WssError: If pydensecrf is not installed.

    Source:
        Krähenbühl and Koltun, NIPS 2011, algorithm 1.
    """
    settings = settings or CrfSettings()
    if probabilities.ndim != 3 or image.shape != (*probabilities.shape[1:], 3) or image.dtype != np.uint8:
        raise ValueError(
            f"dense_crf wants probabilities (L, H, W) and an image (H, W, 3) of uint8: "
            f"found {probabilities.shape} and {image.shape} of {image.dtype}"
        )
    labels, height, width = probabilities.shape
    if labels == 1 or height * width == 0:
        return np.ones(probabilities.shape, np.float32)
    try:
        from pydensecrf.densecrf import DenseCRF2D
    except ImportError as error:
        raise WssError(
            "the dense CRF needs pydensecrf, which is not installed: pip install pydensecrf2==1.1 (needs g++)"
        ) from error

    # np.array, not asarray: pydensecrf refuses read-only memory.
    energies = np.array(-np.log(np.maximum(probabilities, SMALLEST_PROBABILITY)), np.float32, order="C")
    field = DenseCRF2D(width, height, labels)
    field.setUnaryEnergy(energies.reshape(labels, -1))
    field.addPairwiseGaussian(sxy=settings.position_px, compat=settings.position_weight)
    field.addPairwiseBilateral(
        sxy=settings.bilateral_px,
        srgb=settings.bilateral_rgb,
        rgbim=np.array(image, order="C"),
        compat=settings.bilateral_weight,
    )
    marginals = np.array(field.inference(settings.iterations), np.float32)
    return marginals.reshape(labels, height, width)
