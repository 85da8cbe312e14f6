"""Which images are odd among those of their class, by descriptors; and those of images that no engine described."""

from collections.abc import Iterator, Sequence

import numpy as np

from wss_data.cosegmentation.common import CommonSettings
from wss_data.cosegmentation.confidence import pooled

NEIGHBOURS = 20  # nearest images of its class that an image is compared with


def network_name() -> str:
    """What the ledger calls the network of ``describe_images``: descriptors of one network can be compared."""
    return CommonSettings().choice.ledger_entry().what


def describe_images(images: Sequence[np.ndarray], workers: int | None = None) -> Iterator[np.ndarray]:
    """Yield the descriptor of each image, in order: the mean of the network's last descriptors, (C,) float16, length 1.

    Args:
        images: Each (H, W, 3), uint8, RGB; may read a file when indexed.
        workers: Images described at a time; ``None`` for one a processor.
    """
    one_by_one = (images[position] for position in range(len(images)))
    for _, features in CommonSettings().network().describe_all(one_by_one, workers):
        yield pooled(features.descriptors).astype(np.float16)


def oddness(descriptors: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """How far each image of a class is from those of its class that are most like it, (n,) float32, in [0, 2].

    The mean of 1 less the cosine over the nearest ``neighbours``, or all others if there are fewer; nan for an image
    that is alone. ``descriptors``: of the images of one class, (n, C), of length 1.

    >>> oddness(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), neighbours=1).tolist()
    [0.0, 0.0, 1.0]
    """
    from sklearn.neighbors import NearestNeighbors

    # A cartoon among photographs has no neighbours, an unusual view of the object has some: distance from the mean of
    # the class would call both odd.
    count = min(neighbours, len(descriptors) - 1)
    if count < 1:
        return np.full(len(descriptors), np.nan, np.float32)
    nearest = NearestNeighbors(n_neighbors=count, algorithm="brute", metric="cosine")
    # Without an argument, `kneighbors` takes no image for its own neighbour.
    distances, _ = nearest.fit(np.asarray(descriptors, np.float32)).kneighbors()
    return distances.mean(axis=1, dtype=np.float32)
