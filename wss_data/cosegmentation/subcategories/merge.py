"""S6 and S7: exemplars that find the same detections are merged, first to clean, then into subcategories."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Cluster:
    """Exemplars that were merged.

    Args:
        members: Columns of the matrix that were merged, ascending. Shape (M,), int.
        detections: Rows that more than one box of the members found. Shape (K,), int.
    """

    members: np.ndarray
    detections: np.ndarray

    @property
    def size(self) -> int:
        """Number of its detections."""
        return len(self.detections)


def merge_exemplars(counts: np.ndarray, least_iterations: float, least_similarity: float) -> list[Cluster]:
    """Merge the most similar pair of columns, again and again.

    With B = C > 0 the similarity of column r to column c is |B_r and B_c| / |B_r|: it is not symmetric, and a small
    column that lies inside a large one has similarity 1. Column c is added to column r. It goes on while fewer than
    ``least_iterations`` times the number of columns were merged, *or* the pair is as similar as asked: pairs that
    share nothing are merged too until the number is reached, as in the authors' code.

    Args:
        counts: C of ``link``. Shape (D, E), int.
        least_iterations: Share of the columns that is merged in any case, in [0, 1].
        least_similarity: Merging goes on above this similarity, in [0, 1].

    Returns:
        The clusters, in order of the column that each grew from.

    Source:
        Chen et al., CVPR 2014, public code; the paper's text clusters spectrally instead.
    """
    columns = counts.shape[1]
    sums = counts.astype(np.int64).copy()
    shared = (sums > 0).astype(float).T @ (sums > 0)
    members = [[column] for column in range(columns)]
    alive = np.ones(columns, bool)
    iterations = 0
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


def without_small_clusters(clusters: list[Cluster], share: float = 0.2, largest: int = 70) -> list[Cluster]:
    """Leave out the small clusters that together hold the lowest share of the detections.

    Args:
        clusters: From ``merge_exemplars``.
        share: Share of all clusters' detections that may be lost, in [0, 1].
        largest: A cluster above this size is never left out.

    Returns:
        The others, in their order.

    Source:
        Chen et al., CVPR 2014, public code.
    """
    sizes = np.array([cluster.size for cluster in clusters], dtype=int)
    order = np.argsort(sizes, kind="stable")
    dropped = order[(np.cumsum(sizes[order]) <= share * sizes.sum()) & (sizes[order] <= largest)]
    return [cluster for position, cluster in enumerate(clusters) if position not in set(dropped.tolist())]


def find_subcategories(
    counts: np.ndarray,
    probe_iterations: float = 0.8,
    probe_similarity: float = 0.2,
    drop_share: float = 0.2,
    drop_largest: int = 70,
    final_iterations: float = 0.5,
    final_similarity: float = 0.6,
    least_detections: int = 5,
) -> list[Cluster]:
    """The subcategories of a group: S6, which cleans, then S7 on the original columns of what is left.

    Args:
        counts: C of ``link``. Shape (D, E), int.
        probe_iterations: See ``merge_exemplars``; the first merge.
        probe_similarity: As above.
        drop_share: See ``without_small_clusters``.
        drop_largest: As above.
        final_iterations: See ``merge_exemplars``; the second merge.
        final_similarity: As above.
        least_detections: A subcategory has at least so many.

    Returns:
        The subcategories, largest first; members are columns of ``counts``.

    Source:
        Chen et al., CVPR 2014, public code.
    """
    probe = without_small_clusters(
        merge_exemplars(counts, probe_iterations, probe_similarity), drop_share, drop_largest
    )
    if not probe:
        return []
    survivors = np.sort(np.concatenate([cluster.members for cluster in probe]))
    merged = merge_exemplars(counts[:, survivors], final_iterations, final_similarity)
    found = [
        Cluster(survivors[cluster.members], cluster.detections)
        for cluster in merged
        if cluster.size >= least_detections
    ]
    return sorted(found, key=lambda cluster: -cluster.size)
