"""The engine ``common``: the direction that a group's descriptors share is the object.

In the cloud of convolutional descriptors of many images of one class, the direction of
largest variance separates the class from everything else. Means and covariances add up
over images, so the cost grows linearly and a group may be summed up in shards.

What the functions below do, in order: sum up the descriptors of each image
(``image_statistics``), find the direction (``common_direction``), project an image on it
(``direction_map``), join what else is known (``evidence_map``), set the image's own threshold
(``otsu_threshold``), sharpen (``refine``), and judge (``agreement``).

Source:
    Wei, Zhang, Li, Xie, Wu, Shen and Zhou, *Deep Descriptor Transforming for Image Co-Localization*, IJCAI 2017,
    arXiv 1705.02758. The network, steps after the direction and all values are our own (recipe E); they
    were partly chosen on the images of web_wild6 and msrc_v2.
"""

import hashlib
import json
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import IO, Any

import cv2
import numpy as np

from wss_data.cosegmentation.base import Segmented
from wss_data.cosegmentation.cut import CutSettings, graph_cut
from wss_data.cosegmentation.features import DescriptorNetwork, resolve_precision
from wss_data.crf import CrfSettings, dense_crf
from wss_data.errors import CosegmentationError
from wss_data.images import longest_side_size
from wss_data.ledger import Ledger, LedgerEntry, Supervision, UsedFor
from wss_data.parallel import map_images

VERSION = 1
"""Raised whenever the code changes masks without a setting changing."""

MEMORY_BYTES = 1 << 30
"""Descriptors of a group above this size go to a temporary file (about 0.5 MB an image)."""

_WHOLE_NUMBERS = {
    "long_side": (64, 4096),
    "refine_long_side": (16, 2048),
    "crf_iterations": (0, 100),
    "cut_rounds": (1, 20),
}
_NUMBERS = {
    "prior_width": (0.01, 100.0),
    "activation_weight": (0.0, 100.0),
    "prior_weight": (0.0, 100.0),
    "prior_offset": (0.0, 1.0),
    "threshold_share": (-10.0, 10.0),
    "probability_floor": (1e-6, 0.49),
    "crf_position_px": (0.1, 1000.0),
    "crf_position_weight": (0.0, 1000.0),
    "crf_bilateral_px": (0.1, 1000.0),
    "crf_bilateral_rgb": (0.1, 1000.0),
    "crf_bilateral_weight": (0.0, 1000.0),
    "cut_evidence_weight": (0.0, 100.0),
    "cut_smoothness": (0.0, 100.0),
    "cut_colour_clip": (0.0, 100.0),
}


@dataclass(frozen=True)
class CommonSettings:
    """Every number of the engine. Lengths named ``_px`` are pixels at ``refine_long_side``.

    Args:
        long_side: Longer side at which the network sees an image, pixels.
        precision: Of the network: ``float32``, ``bf16``, or ``auto``: bf16 where the processor has AMX (0.37 times
            the time; J on web_wild6 0.726 against 0.727).
        prior_width: Standard deviation of the centred Gaussian, in sides of the image.
        activation_weight: Weight of the activation's z-score in the evidence.
        prior_weight: Weight of the centred Gaussian in the evidence.
        prior_offset: Value of the Gaussian at which it speaks for neither side.
        threshold_share: Share of Otsu's threshold that is taken off the evidence.
        refine_long_side: Longer side at which CRF and cut run, pixels; never more than the image's own.
        probability_floor: Probabilities given to the CRF stay this far from 0 and 1.
        crf_position_px: See ``CrfSettings``; these five likewise.
        crf_position_weight: As above.
        crf_bilateral_px: As above.
        crf_bilateral_rgb: As above.
        crf_bilateral_weight: As above.
        crf_iterations: As above.
        cut_evidence_weight: See ``CutSettings``; these four likewise. The cut only judges the mask.
        cut_smoothness: As above.
        cut_colour_clip: As above.
        cut_rounds: As above.

    Raises:
        CosegmentationError: If a value is of the wrong kind or out of its range.
    """

    long_side: int = 512
    precision: str = "auto"
    prior_width: float = 0.35
    activation_weight: float = 0.2
    prior_weight: float = 0.3
    prior_offset: float = 0.55
    threshold_share: float = 0.35
    refine_long_side: int = 160
    probability_floor: float = 0.02
    crf_position_px: float = 3.0
    crf_position_weight: float = 3.0
    crf_bilateral_px: float = 25.0
    crf_bilateral_rgb: float = 8.0
    crf_bilateral_weight: float = 6.0
    crf_iterations: int = 5
    cut_evidence_weight: float = 2.0
    cut_smoothness: float = 2.0
    cut_colour_clip: float = 3.0
    cut_rounds: int = 2

    def __post_init__(self) -> None:
        resolve_precision(self.precision)
        for names, kinds, kind in ((_WHOLE_NUMBERS, int, "a whole number"), (_NUMBERS, (int, float), "a number")):
            for name, (low, high) in names.items():
                value = getattr(self, name)
                if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
                    raise CosegmentationError(
                        f"co-segmentation option {name} is {value!r}; {kind} from {low} to {high} is wanted."
                    )

    @property
    def crf(self) -> CrfSettings:
        """The dense CRF's settings."""
        return CrfSettings(**self._of("crf_", CrfSettings))

    @property
    def cut(self) -> CutSettings:
        """The graph cut's settings."""
        return CutSettings(**self._of("cut_", CutSettings))

    def _of(self, prefix: str, settings: type) -> dict[str, Any]:
        return {field.name: getattr(self, prefix + field.name) for field in fields(settings)}


@dataclass(frozen=True)
class GroupStatistics:
    """Sums over the cells of some images of a group; sums of shards add up to the group's.

    Args:
        cells: Number of cells.
        total: Sum of the descriptors x. Shape (C,), float64.
        products: Sum of the outer products x x^T. Shape (C, C), float64.
        centred: Sum of x (g - mean g), g the centred Gaussian of each cell's image. Shape (C,), float64.
    """

    cells: int
    total: np.ndarray
    products: np.ndarray
    centred: np.ndarray

    def __add__(self, other: "GroupStatistics") -> "GroupStatistics":
        return GroupStatistics(
            self.cells + other.cells,
            self.total + other.total,
            self.products + other.products,
            self.centred + other.centred,
        )


@dataclass(frozen=True)
class CommonDirection:
    """The direction a group shares.

    Args:
        mean: Mean descriptor of the group. Shape (C,), float64.
        direction: First principal direction, unit length, pointing to the object. Shape (C,), float64.
        deviation: Standard deviation of the group's descriptors along it; 0 if all are equal.
    """

    mean: np.ndarray
    direction: np.ndarray
    deviation: float


def centred_gaussian(height: int, width: int, prior_width: float) -> np.ndarray:
    """exp(-(u^2 + w^2) / (2 prior_width^2)), u and w from -0.5 to 0.5. Shape (height, width), in (0, 1]."""
    rows = (np.arange(height) + 0.5) / height - 0.5
    columns = (np.arange(width) + 0.5) / width - 0.5
    return np.exp(-(rows[:, None] ** 2 + columns[None] ** 2) / (2 * prior_width**2))


def image_statistics(descriptors: np.ndarray, prior_width: float) -> GroupStatistics:
    """What one image adds to its group.

    Args:
        descriptors: Shape (h, w, C), float.
        prior_width: Standard deviation of the centred Gaussian, in sides of the image.

    Returns:
        Its sums, in float64: the covariance is a difference of large numbers.
    """
    height, width, channels = descriptors.shape
    cells = descriptors.reshape(-1, channels).astype(np.float64)
    prior = centred_gaussian(height, width, prior_width).ravel()
    return GroupStatistics(len(cells), cells.sum(axis=0), cells.T @ cells, cells.T @ (prior - prior.mean()))


def common_direction(group: GroupStatistics) -> CommonDirection:
    """The first principal direction of a group, pointing to what stands in the middle of its images.

    An eigenvector has no sign of its own. Photographers put the object in the middle: the sign is the one for which
    the projections, summed over the group, agree with a centred Gaussian.

    Args:
        group: Sums over all images of the group.

    Returns:
        Mean, direction and deviation.

    Raises:
        CosegmentationError: If the group has no cell.

    Source:
        Wei et al., IJCAI 2017, section 3.3; there the sign is fixed by the network, here by the group.
    """
    if group.cells == 0:
        raise CosegmentationError("the group is empty: co-segmentation needs at least one readable image.")
    mean = group.total / group.cells
    covariance = group.products / group.cells - np.outer(mean, mean)
    variances, directions = np.linalg.eigh(covariance)
    direction = directions[:, -1]
    if direction @ group.centred < 0:
        direction = -direction
    variance = variances[-1]
    # Below this share of the descriptors' own size the covariance is rounding: the images are all one colour.
    negligible = variance <= 1e-9 * max(float(np.trace(group.products)) / group.cells, 1e-30)
    return CommonDirection(mean, direction, 0.0 if negligible else float(np.sqrt(variance)))


def direction_map(descriptors: np.ndarray, common: CommonDirection) -> np.ndarray:
    """How far each cell lies along the group's direction, in the group's standard deviations.

    Args:
        descriptors: Shape (h, w, C), float.
        common: The group's direction.

    Returns:
        (x - mean) . direction / deviation; zero if the group has no deviation. Shape (h, w), float64.
    """
    if common.deviation == 0:
        return np.zeros(descriptors.shape[:2])
    along = descriptors.astype(np.float32) @ common.direction.astype(np.float32)
    return (along.astype(np.float64) - common.mean @ common.direction) / common.deviation


def evidence_map(direction: np.ndarray, activation: np.ndarray, settings: CommonSettings) -> np.ndarray:
    """Join direction, activation and the photographer's habit into evidence for the foreground.

    Args:
        direction: From ``direction_map``. Shape (h, w), float.
        activation: From ``ImageFeatures``; its z-score over the image is used, zero if it is constant. Shape (h, w).
        settings: The weights.

    Returns:
        d + 0.2 a + 0.3 (g - 0.55) with the default weights, less the image's share of Otsu's threshold;
        positive is foreground. Shape (h, w), float64.
    """
    spread = float(activation.std())
    score = (activation - activation.mean()) / spread if spread > 0 else np.zeros(activation.shape)
    height, width = direction.shape
    prior = centred_gaussian(height, width, settings.prior_width)
    joined = direction + settings.activation_weight * score + settings.prior_weight * (prior - settings.prior_offset)
    return joined - settings.threshold_share * otsu_threshold(joined)


def otsu_threshold(values: np.ndarray, bins: int = 256) -> float:
    """The threshold that best parts the values in two classes, by the variance between them.

    Args:
        values: Any shape, float, finite.
        bins: Bins between smallest and largest value.

    Returns:
        Centre of the last bin of the lower class; the value itself if all are equal.

    Source:
        Otsu, IEEE Transactions on Systems, Man, and Cybernetics, 1979.
    """
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-12:
        return low
    counts, edges = np.histogram(values, bins=bins, range=(low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    sum_below = np.cumsum(counts * centres)[:-1]
    above, sum_above = counts.sum() - below, (counts * centres).sum() - sum_below
    # First and last bin hold the extremes, so neither side is ever empty.
    between = below * above * (sum_below / below - sum_above / above) ** 2
    return float(centres[np.argmax(between)])


def refine(evidence: np.ndarray, image: np.ndarray, settings: CommonSettings) -> np.ndarray:
    """Foreground probability after a dense CRF: the step that gains most (+0.06 to +0.09 J).

    Args:
        evidence: At the image's size. Shape (H, W), float.
        image: Shape (H, W, 3), uint8.
        settings: Floor of the probabilities and the CRF's settings.

    Returns:
        Marginal probability of the foreground. Shape (H, W), float32, in [0, 1].
    """
    floor = settings.probability_floor
    foreground = np.clip(1 / (1 + np.exp(-np.clip(evidence, -50, 50))), floor, 1 - floor)
    return dense_crf(np.stack([1 - foreground, foreground]), image, settings.crf)[1]


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two masks, in [0, 1]; 0 if both are empty. ``first``, ``second``: (H, W), bool."""
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 0.0


@dataclass(frozen=True)
class _Prepared:
    """One image after the group is known, small enough to send to another process."""

    position: int
    size: tuple[int, int]
    small: np.ndarray
    direction: np.ndarray
    activation: np.ndarray


def _segment_one(prepared: _Prepared, settings: CommonSettings) -> tuple[int, Segmented]:
    evidence = evidence_map(prepared.direction, prepared.activation, settings)
    height, width = prepared.small.shape[:2]
    evidence = cv2.resize(evidence.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    probability = refine(evidence, prepared.small, settings)
    confidence = agreement(probability > 0.5, graph_cut(evidence, prepared.small, settings.cut))
    mask = cv2.resize(probability, prepared.size, interpolation=cv2.INTER_LINEAR) > 0.5
    return prepared.position, Segmented(mask, confidence)


class CommonEngine:
    """Co-segment a group by the direction its descriptors share.

    Every group has an answer, however small: one image is told from its own cells, equal images get equal masks,
    and of images without any structure the middle is taken, with whatever confidence the cut agrees with.

    Args:
        **options: Fields of ``CommonSettings``.

    Raises:
        CosegmentationError: If there is no such option, or its value is out of its range.
    """

    name = "common"

    def __init__(self, **options: Any) -> None:
        known = [field.name for field in fields(CommonSettings)]
        for option in options:
            if option not in known:
                raise CosegmentationError(
                    f"co-segmentation method 'common' has no option '{option}'. Known options: {', '.join(known)}."
                )
        self.settings = CommonSettings(**options)
        self._network: DescriptorNetwork | None = None

    @property
    def ledger(self) -> Ledger:
        """What the engine learned from: the classification weights, nothing else."""
        weights = "efficientnet_lite0 weights, ImageNet-1k classification"
        return Ledger((LedgerEntry(weights, Supervision.IMAGE_LEVEL, UsedFor.COSEGMENTATION),))

    def fingerprint(self) -> str:
        """Short text that changes whenever a setting that changes masks does."""
        values = asdict(self.settings) | {"precision": resolve_precision(self.settings.precision), "version": VERSION}
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
        return f"{self.name}-{digest[:12]}"

    def segment_group(
        self, images: Sequence[np.ndarray], wanted: Collection[int] | None = None, workers: int | None = None
    ) -> Iterator[tuple[int, Segmented]]:
        """Yield (position in the group, its mask) for each wanted image, in order of position.

        Each image is read once. Its descriptors wait in memory, above 1 GiB in a temporary file, until the group's
        direction is known; CRF and cut then run on worker processes. Masks do not depend on their number.

        Args:
            images: The group, each (H, W, 3) uint8 RGB; may read a file when indexed.
            wanted: Positions to yield; ``None`` means all.
            workers: Worker processes; ``None`` for one a processor.

        Raises:
            CosegmentationError: If the group is empty.
        """
        if len(images) == 0:
            raise CosegmentationError("the group is empty: co-segmentation needs at least one readable image.")
        positions = set(range(len(images)) if wanted is None else wanted)
        if not positions:
            return
        with tempfile.SpooledTemporaryFile(max_size=MEMORY_BYTES) as spool:
            group = self._describe_group(images, positions, spool, workers)
            spool.seek(0)
            prepared = _read_back(spool, sorted(positions & set(range(len(images)))), common_direction(group))
            # Starting processes takes seconds: a handful of images is done sooner here.
            few = len(positions) < 16
            yield from map_images(
                partial(_segment_one, settings=self.settings), prepared, workers=1 if few else workers
            )

    def _describe_group(
        self, images: Sequence[np.ndarray], positions: Collection[int], spool: IO[bytes], workers: int | None
    ) -> GroupStatistics:
        if self._network is None:
            self._network = DescriptorNetwork(self.settings.long_side, self.settings.precision)
        group: GroupStatistics | None = None
        one_by_one = (images[position] for position in range(len(images)))
        for position, (image, features) in enumerate(self._network.describe_all(one_by_one, workers)):
            own = image_statistics(features.descriptors, self.settings.prior_width)
            group = own if group is None else group + own
            if position in positions:
                size = (image.shape[1], image.shape[0])
                small_size = longest_side_size(*size, self.settings.refine_long_side)
                small = cv2.resize(image, small_size, interpolation=cv2.INTER_AREA)
                for values in (np.array(size), small, features.descriptors, features.activation):
                    np.save(spool, values)
        assert group is not None
        return group


def _read_back(spool: IO[bytes], positions: Sequence[int], common: CommonDirection) -> Iterator[_Prepared]:
    for position in positions:
        width, height = np.load(spool).tolist()
        small, descriptors, activation = (np.load(spool) for _ in range(3))
        yield _Prepared(position, (width, height), small, direction_map(descriptors, common), activation)
