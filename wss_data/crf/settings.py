"""The two pairwise terms of the dense CRF."""

from typing import Annotated

from wss_data.errors import WssError
from wss_data.reading.settings import Rule, settings

Deviation = Annotated[float, Rule(gt=0)]


@settings("the dense CRF", WssError)
class CrfSettings:
    """The two pairwise terms of a dense CRF, both with Potts compatibility, and its mean-field iterations.

    Source:
        The defaults are the field's habit with DeepLab: Chen et al., ICLR 2015, as in Shen et al.'s preset ``paper``.
    """

    position_px: Deviation = 3.0  # Standard deviation of the smoothness term, pixels. The authors' code uses 2
    position_weight: float = 3.0
    bilateral_px: Deviation = 55.0  # Spatial standard deviation of the appearance term, pixels
    bilateral_rgb: Deviation = 3.0  # Its standard deviation in colour, in units of 0..255
    bilateral_weight: float = 4.0
    iterations: Annotated[int, Rule(ge=0)] = 10
