"""The two pairwise terms of the dense CRF."""

import math
from dataclasses import asdict, dataclass


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
