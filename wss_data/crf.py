"""Fully connected conditional random field: one door, and two programs behind it.

``builtin`` is our own (``mean_field.py`` on ``permutohedral.py``, compiled by numba): it installs on every Python that
we support, is the faster one, and releases Python's global lock. ``pydensecrf`` is the authors' C++, where somebody
installed it; it holds the lock. At least 99.9 % of the pixels get the same label from both: see
docs/explanation/dense_crf.md.

Source:
    Krähenbühl and Koltun, *Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials*, NIPS 2011.
"""

import importlib.util
import math
import os
from dataclasses import asdict, dataclass
from typing import Literal, cast, get_args

import numpy as np

from wss_data.errors import WssError

Backend = Literal["builtin", "pydensecrf"]

VARIABLE = "WSS_CRF"
"""Environment variable that names the backend for a process and its workers."""

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

    Raises:
        ValueError: If a standard deviation is not above zero, a value not finite, or the iterations are negative.

    Source:
        The defaults are the field's habit with DeepLab: Chen et al., ICLR 2015, as in Shen et al.'s preset ``paper``.
    """

    position_px: float = 3.0
    position_weight: float = 3.0
    bilateral_px: float = 55.0
    bilateral_rgb: float = 3.0
    bilateral_weight: float = 4.0
    iterations: int = 10

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not math.isfinite(value):
                raise ValueError(f"the CRF's {name} is {value}: it must be a finite number.")
            if name.endswith(("_px", "_rgb")) and value <= 0:
                raise ValueError(f"the CRF's {name} is {value}: a standard deviation must be above 0.")
        if self.iterations < 0:
            raise ValueError(f"the CRF's iterations are {self.iterations}: 0 or more are possible.")


def backend() -> Backend:
    """Name the program that ``dense_crf`` uses in this process: the one in ``WSS_CRF``, else ``builtin``.

    Raises:
        WssError: If ``WSS_CRF`` names no backend, or one whose package is not installed.
    """
    wanted = os.environ.get(VARIABLE) or "builtin"
    if wanted not in get_args(Backend):
        raise WssError(f"{VARIABLE} is '{wanted}': the dense CRF knows {', '.join(get_args(Backend))}.")
    if wanted == "pydensecrf" and importlib.util.find_spec("pydensecrf") is None:
        raise WssError(
            f"{VARIABLE} asks for pydensecrf, which is not installed: pip install pydensecrf2==1.1 (Python 3.11 or "
            f"3.12, needs g++), or unset {VARIABLE} for the built-in CRF, which gives the same masks."
        )
    return cast(Backend, wanted)


def dense_crf(
    probabilities: np.ndarray, image: np.ndarray, settings: CrfSettings | None = None, using: Backend | None = None
) -> np.ndarray:
    """Sharpen class probabilities along the edges of an image.

    The labels need not be all classes of a dataset: passing only those that an image can show costs
    less and gives the same answer. No gift: confident, good probabilities can come out worse. Measure it.

    Args:
        probabilities: Label probabilities, non-negative; need not sum to one. Shape (L, H, W), float.
        image: The image at the same size. Shape (H, W, 3), uint8, RGB.
        settings: The pairwise terms; ``None`` for the defaults.
        using: The program that does it; ``None`` for what ``backend`` says.

    Returns:
        Marginal of each label at each pixel, sums to one over the labels. Shape (L, H, W), float32, in [0, 1].

    Raises:
        ValueError: If the shapes do not fit together, the image is not uint8, or a probability is not finite.
        WssError: If the backend asked for is not installed.

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
    if not np.isfinite(probabilities).all():
        raise ValueError(
            "dense_crf found probabilities that are NaN or infinite. Did the network that made them diverge?"
        )
    if labels <= 1 or height * width == 0:
        return np.ones(probabilities.shape, np.float32)
    # A copy of ours in any case: pydensecrf refuses read-only memory.
    energies = np.array(-np.log(np.maximum(probabilities, SMALLEST_PROBABILITY)), np.float32, order="C")
    if (using or backend()) == "pydensecrf":
        return _by_pydensecrf(energies, image, settings)
    # Loads numba: a second that only users of the CRF pay.
    from wss_data.mean_field import mean_field

    return mean_field(energies, image, **asdict(settings))


def _by_pydensecrf(energies: np.ndarray, image: np.ndarray, settings: CrfSettings) -> np.ndarray:
    try:
        from pydensecrf.densecrf import DenseCRF2D
    except ImportError as error:
        raise WssError(
            "pydensecrf is not installed: pip install pydensecrf2==1.1 (Python 3.11 or 3.12, needs g++), "
            "or take the built-in CRF."
        ) from error
    labels, height, width = energies.shape
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
