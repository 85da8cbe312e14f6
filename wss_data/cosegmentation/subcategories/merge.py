"""S5 to S7: boxes that overlap become one detection, and exemplars that find the same detections are merged."""

from typing import NamedTuple

import numpy as np

from wss_data.cosegmentation.subcategories.boxes import areas, greedy_groups, iou
from wss_data.cosegmentation.subcategories.top import TopBoxes

LINKED_IOU = 0.5  # Smallest intersection over union of boxes that are one detection
# Least iterations and least similarity of the first and of the second merge, see ``merge_exemplars``
PROBE, FINAL = (0.8, 0.2), (0.5, 0.6)
# Small clusters that hold this fraction of all detections are dropped, none with more detections
DROPPED_FRACTION, LARGEST_DROPPED = 0.2, 70


class Linked(NamedTuple):
    """The detections of a group and who found them."""

    boxes: np.ndarray  # Median box of each detection, (x1, y1, x2, y2), pixels. Shape (D, 4), float.
    images: np.ndarray  # Image that each detection lies on. Shape (D,), int.
    counts: np.ndarray  # C: how many boxes of each exemplar each detection joins. Shape (D, E), int.


class Cluster(NamedTuple):
    """Exemplars that were merged."""

    members: np.ndarray  # Columns of the matrix that were merged, ascending. Shape (M,), int.
    detections: np.ndarray  # Rows that more than one box of the members found. Shape (K,), int.


def link(top: TopBoxes) -> Linked:
    """Join boxes of an image that overlap: the largest free box takes all free boxes that overlap it enough.

    The detections come by image, the largest first.
    """
    columns = len(top.kept)
    boxes, images, rows = [np.zeros((0, 4))], [], [np.zeros((0, columns), int)]
    for image in np.unique(top.images):
        here = np.flatnonzero(top.images == image)
        by_area = here[np.argsort(-areas(top.boxes[here]), kind="stable")]
        overlaps = iou(top.boxes[by_area], top.boxes[by_area])
        for _, taken in greedy_groups(overlaps >= LINKED_IOU):
            joined = by_area[taken]
            boxes.append(np.median(top.boxes[joined], axis=0)[None])
            images.append(image)
            rows.append(np.bincount(top.exemplars[joined], minlength=columns)[None])
    return Linked(np.concatenate(boxes), np.array(images, dtype=int), np.concatenate(rows))


def merge_exemplars(counts: np.ndarray, least_iterations: float, least_similarity: float) -> list[Cluster]:
    """Merge the most similar pair of columns, again and again: column c is added to column r.

    With B = C > 0 the similarity of column r to column c is |B_r and B_c| / |B_r|: it is not symmetric, and a small
    column that lies inside a large one has similarity 1. As in the authors' code; the paper's text clusters spectrally.

    ``least_iterations``: fraction of the columns that is merged in any case, even if they share nothing;
    ``least_similarity``: merging goes on while a pair is as similar as this. The clusters come in order of the column
    that each grew from.

    Example:
        >>> counts = np.array([[3, 0, 2], [3, 0, 2], [0, 1, 0], [0, 4, 0]])  # exemplars 0 and 2 find the same
        >>> [(c.members.tolist(), c.detections.tolist()) for c in merge_exemplars(counts, 0, 0.6)]
        [([0, 2], [0, 1]), ([1], [3])]
    """
    columns, iterations = counts.shape[1], 0
    sums = counts.astype(np.int64)
    shared = (sums > 0).astype(float).T @ (sums > 0)
    members = [[column] for column in range(columns)]
    alive = np.ones(columns, bool)
    while alive.sum() > 1:
        similarity = shared / np.maximum(np.diag(shared), 1)[:, None]
        similarity[~alive] = -1
        similarity[:, ~alive] = -1
        np.fill_diagonal(similarity, -1)
        row, column = np.unravel_index(np.argmax(similarity), similarity.shape)
        if iterations >= least_iterations * columns and similarity[row, column] < least_similarity:
            break
        sums[:, row] += sums[:, column]
        members[row] += members[column]
        alive[column] = False
        shared[row] = shared[:, row] = (sums[:, row] > 0).astype(float) @ (sums > 0)
        iterations += 1
    return [
        Cluster(np.array(sorted(members[column]), dtype=int), np.flatnonzero(sums[:, column] > 1))
        for column in np.flatnonzero(alive)
    ]


def without_small_clusters(clusters: list[Cluster]) -> list[Cluster]:
    """Leave out the small clusters that together hold the lowest ``DROPPED_FRACTION`` of the detections."""
    sizes = np.array([len(cluster.detections) for cluster in clusters], dtype=int)
    order = np.argsort(sizes, kind="stable")
    large = (np.cumsum(sizes[order]) > DROPPED_FRACTION * sizes.sum()) | (sizes[order] > LARGEST_DROPPED)
    return [clusters[position] for position in sorted(order[large].tolist())]


def find_subcategories(counts: np.ndarray, least_detections: int) -> list[Cluster]:
    """The subcategories of a group by C of ``link``, largest first; members are columns of ``counts``."""
    # S6 removes exemplars that stand alone; S7 merges the original columns of what is left.
    probe = without_small_clusters(merge_exemplars(counts, *PROBE))
    if not probe:
        return []
    survivors = np.sort(np.concatenate([cluster.members for cluster in probe]))
    merged = merge_exemplars(counts[:, survivors], *FINAL)
    found = [
        Cluster(survivors[one.members], one.detections) for one in merged if len(one.detections) >= least_detections
    ]
    return sorted(found, key=lambda cluster: -len(cluster.detections))
