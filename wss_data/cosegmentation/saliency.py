"""Border saliency of one image alone, without anything learned, and the baselines that cut it out.

A *saliency map* says how much each pixel stands out in its own image; it knows nothing of the group: the floor under
every engine. No function here was fitted to drawn masks, boxes or eye movements. All maps are float64 in [0, 1], 1
salient, and zero everywhere in an image of one colour (but for the centred Gaussian, which does not look at the image).

Source:
    Zhu, Liang, Wei and Sun, *Saliency Optimization from Robust Background Detection*, CVPR 2014; numbers of equations,
    sections and constants are as we remember them, not looked up. The minimum barrier distance (Zhang et al., ICCV
    2015) and the spectral residual (Hou and Zhang, CVPR 2007) were measured and lost: docs/how_to/compare_saliency.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from wss_data.cosegmentation.base import Segmented
from wss_data.cosegmentation.confidence import overlap
from wss_data.cosegmentation.cut import graph_cut
from wss_data.cosegmentation.discriminant import centred_gaussian
from wss_data.imaging.images import resize_longest_side

LONG_SIDE = 160  # longer side at which maps and cuts are made, pixels
# Standard deviation of the centred Gaussian, in sides of the image: chosen, like the energy of the cut, on 42 images of
# web_wild6 and 81 of msrc_v2.
CENTRE_WIDTH = 0.3
# Foreground probability of the most and the least salient pixel of an image: a map's own peak is rarely near 1. In a
# prototype of another engine this scaling gained 0.06 J; here it was not measured.
PEAK, FLOOR = 0.95, 0.02
# Of the border saliency, after Zhu et al., CVPR 2014 (values as we remember them).
SUPERPIXELS = 200
COLOUR_SIGMA = 10.0  # standard deviation of Lab distances
BOUNDARY_SIGMA = 1.0  # of boundary connectivity
SPACE_SIGMA = 0.25  # of distances, in sides of the image
LEAST_WEIGHT = 0.1  # between neighbours


@dataclass(frozen=True)
class Cells:
    """The N superpixels of one image."""

    index: np.ndarray  # superpixel of each pixel, 0..N-1 without gaps, (H, W), int64
    colours: np.ndarray  # mean Lab colour of each, L in 0..100, (N, 3), float64
    places: np.ndarray  # centre of each in sides of the image, x then y, (N, 2), float64, in (0, 1)
    border: np.ndarray  # which touch the border of the image, (N,), bool
    neighbours: np.ndarray  # which touch each other, never itself, (N, N), bool


def cells_of(image: np.ndarray, index: np.ndarray) -> Cells:
    """Colour, place and neighbours of given cells. ``image``: (H, W, 3), uint8; ``index``: (H, W), 0..N-1 all used."""
    height, width = index.shape
    flat, number = index.ravel(), int(index.max()) + 1
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).reshape(-1, 3)
    rows, columns = np.mgrid[:height, :width]
    values = np.stack([*lab.T, (columns.ravel() + 0.5) / width, (rows.ravel() + 0.5) / height])
    sums = np.stack([np.bincount(flat, value, number) for value in values], axis=1)
    means = sums / np.bincount(flat, minlength=number)[:, None]
    border = np.zeros(number, bool)
    border[np.concatenate([index[0], index[-1], index[:, 0], index[:, -1]])] = True
    touching = np.zeros((number, number), bool)
    for first, second in ((index[1:], index[:-1]), (index[:, 1:], index[:, :-1])):
        touching[first, second] = touching[second, first] = True
    np.fill_diagonal(touching, False)
    return Cells(index, means[:, :3], means[:, 3:], border, touching)


def background_probability(cells: Cells) -> np.ndarray:
    """How much each cell belongs to what the image's border runs through, (N,) float64, in [0, 1].

    1 - exp(-BndCon^2 / (2 sigma^2)), BndCon = length on the border / sqrt(area), of the region of all cells that can be
    reached by small steps of colour: an object that only touches the border is no background.

    Source:
        Zhu et al., CVPR 2014, eqs. (2) to (6).
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import dijkstra

    steps = _colour_distances(cells)
    # Section 3.2: all border cells count as neighbours, so that an object across the image does not part its ground.
    joined = cells.neighbours | (cells.border[:, None] & cells.border[None])
    np.fill_diagonal(joined, False)
    # Zero means "no edge" to SciPy, in a dense matrix anything near it, too: equal colours are a tiny step apart.
    rows, columns = np.nonzero(joined)
    graph = csr_array((np.maximum(steps[rows, columns], 1e-9), (rows, columns)), shape=steps.shape)
    distances = dijkstra(graph, directed=False)
    near = np.exp(-(distances**2) / (2 * COLOUR_SIGMA**2))
    connectivity = near[:, cells.border].sum(axis=1) / np.sqrt(near.sum(axis=1))
    return 1 - np.exp(-(connectivity**2) / (2 * BOUNDARY_SIGMA**2))


def background_contrast(cells: Cells, background: np.ndarray) -> np.ndarray:
    """How much each cell differs in colour from the ``background`` (probability) around it. (N,), float64, in [0, 1].

    Source:
        Zhu et al., CVPR 2014, eqs. (7) and (8).
    """
    squares = ((cells.places[:, None] - cells.places[None]) ** 2).sum(axis=-1)
    weights = np.exp(-squares / (2 * SPACE_SIGMA**2))
    return _scaled((_colour_distances(cells) * weights) @ background)


def smooth_over_cells(cells: Cells, background: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """The least s, (N,), in [0, 1], of sum ``background`` s^2 + sum ``foreground`` (s - 1)^2 + sum w (s_i - s_j)^2.

    Source:
        Zhu et al., CVPR 2014, eq. (9); neighbours of neighbours and all of the border are pairs, as in their code.
    """
    touching = cells.neighbours.astype(np.float64)
    pairs = cells.neighbours | (touching @ touching > 0) | (cells.border[:, None] & cells.border[None])
    np.fill_diagonal(pairs, False)
    weights = np.exp(-(_colour_distances(cells) ** 2) / (2 * COLOUR_SIGMA**2)) + LEAST_WEIGHT
    weights = np.where(pairs, weights, 0.0)
    system = np.diag(weights.sum(axis=1) + background + foreground) - weights
    return np.linalg.solve(system, foreground) if (background + foreground).any() else np.zeros(len(foreground))


def border_saliency(image: np.ndarray) -> np.ndarray:
    """How much each superpixel differs from what the image's border runs through; best at a longer side of 160 to 400.

    ``image``: (H, W, 3), uint8, RGB -> (H, W), float64, in [0, 1].

    Source:
        Superpixels: Achanta et al., *SLIC Superpixels*, TPAMI 2012; scikit-image's implementation.
    """
    from skimage.segmentation import slic

    found = slic(image, n_segments=SUPERPIXELS, compactness=10, start_label=0, channel_axis=-1)
    # SLIC leaves gaps in its numbers where a cell was merged into another.
    cells = cells_of(image, np.unique(found, return_inverse=True)[1].reshape(found.shape))
    background = background_probability(cells)
    saliency = smooth_over_cells(cells, background, background_contrast(cells, background))
    return _scaled(saliency)[cells.index]


def centred(saliency: np.ndarray) -> np.ndarray:
    """Saliency x centre: the geometric mean with a centred Gaussian. ``saliency``: (H, W), in [0, 1] -> the same."""
    # The mean, not the product: a product is small nearly everywhere.
    return np.sqrt(saliency * centred_gaussian(saliency.shape, CENTRE_WIDTH))


def evidence_of(saliency: np.ndarray) -> np.ndarray:
    """Log-odds of the foreground from a map, (H, W), scaled to ``FLOOR``..``PEAK``; zero if it has no structure."""
    if np.ptp(saliency) < 1e-12:
        return np.zeros(saliency.shape)
    probability = FLOOR + (PEAK - FLOOR) * _scaled(saliency)
    return np.log(probability / (1 - probability))


def cut_out_saliency(image: np.ndarray, saliency: Callable[[np.ndarray], np.ndarray]) -> Segmented:
    """Cut a saliency map along the edges and colours of its image, (H, W, 3) uint8 RGB.

    ``saliency`` takes the image at a longer side of 160 px and gives (h, w) float. The confidence of the mask is its
    intersection over union with what is salient before the cut.
    """
    small = resize_longest_side(image, LONG_SIDE)
    evidence = evidence_of(saliency(small))
    mask = graph_cut(evidence, small)
    salient = evidence > 0
    large = cv2.resize(mask.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 0.5
    # Where colours and edges say the same as the map, both are probably right.
    return Segmented(large, overlap(mask.astype(float), salient.astype(float)))


# Name of each baseline -> the function; takes (H, W, 3) uint8. `centre` is a centred Gaussian, cut: it knows nothing of
# group or saliency. `saliency` is border saliency x centre.
BASELINES: dict[str, Callable[[np.ndarray], Segmented]] = {
    "centre": partial(cut_out_saliency, saliency=lambda image: centred_gaussian(image.shape[:2], CENTRE_WIDTH)),
    "saliency": partial(cut_out_saliency, saliency=lambda image: centred(border_saliency(image))),
    "border": partial(cut_out_saliency, saliency=border_saliency),
}


def _colour_distances(cells: Cells) -> np.ndarray:
    """Lab distance between all cells. Shape (N, N), float64."""
    return np.linalg.norm(cells.colours[:, None] - cells.colours[None], axis=-1)


def _scaled(values: np.ndarray) -> np.ndarray:
    """Values moved and stretched to [0, 1]; zero if all are equal."""
    spread = float(np.ptp(values))
    return (values - values.min()) / spread if spread > 1e-12 else np.zeros(values.shape)
