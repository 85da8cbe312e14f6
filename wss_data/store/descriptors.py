"""Descriptors in the database, and what the App makes of them: a map, search by example, images that are odd."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from tqdm import tqdm

from wss_data.errors import StoreError
from wss_data.filtering.oddness import describe_images, network_name, oddness
from wss_data.runtime.home import dataset_owner
from wss_data.store.connection import fiftyone
from wss_data.store.info import web_info

if TYPE_CHECKING:
    import fiftyone as fo

DESCRIPTOR, NETWORK, ODDNESS = "descriptor", "descriptor_network", "oddness"

MAP, SIMILAR = "map", "similar"
"""Names under which the App finds the map of the images, and the index for search by example."""

ODD_VIEW = "odd ones out first"

MapMethod = Literal["tsne", "pca"]

MOST_FOR_TSNE = 10_000
"""Images up to which t-SNE draws the map by itself; it takes minutes beyond."""

FEWEST = 3
"""Images that a map needs."""

_BATCH = 256


@dataclass(frozen=True)
class Embedded:
    """What ``embed`` did; prints as a line.

    Args:
        images: Images on the map.
        described: Of these, images that the network had to look at.
        method: What drew the map.
    """

    images: int
    described: int
    method: MapMethod

    def __str__(self) -> str:
        looked = f"{self.described:,} of them looked at now" if self.described else "all described already"
        return f"{self.images:,} images on the map ({self.method}), {looked}."


def set_descriptors(dataset: "fo.Dataset", descriptors: Mapping[str, np.ndarray], network: str) -> None:
    """Store descriptors.

    Args:
        dataset: A web dataset.
        descriptors: Sample id -> descriptor, shape (C,), float16.
        network: What described them; only descriptors of one network can be compared.
    """
    fo = fiftyone()
    if not descriptors:
        return
    for name, kind in ((DESCRIPTOR, fo.VectorField), (NETWORK, fo.StringField)):
        if not dataset.has_sample_field(name):
            dataset.add_sample_field(name, kind)
    dataset.set_values(DESCRIPTOR, dict(descriptors), key_field="id")
    dataset.set_values(NETWORK, dict.fromkeys(descriptors, network), key_field="id")


def embed(
    dataset: "fo.Dataset", method: MapMethod | None = None, workers: int | None = None, progress: bool = True
) -> Embedded:
    """Make the App's map of a web dataset, search by example, and find the images that are odd in their class.

    Descriptors come from the co-segmentation where it gave them; no model is downloaded.

    Args:
        dataset: A web dataset.
        method: What draws the map: ``tsne``, ``pca``, or ``None`` for t-SNE up to 10,000 images.
        workers: Images described at a time; ``None`` for one a processor.
        progress: Whether to show a bar.

    Raises:
        StoreError: If it is no web dataset, has fewer than 3 images, or another process is building it.
    """
    web_info(dataset, "embedded")
    if method not in ("tsne", "pca", None):
        raise StoreError(f"the map can be drawn by tsne or pca, not by {method!r}.")
    if len(dataset) < FEWEST:
        raise StoreError(f"dataset '{dataset.name}' has {len(dataset)} images; a map wants at least {FEWEST}.")
    with dataset_owner(dataset.name):
        described = _describe_rest(dataset, workers, progress)
        _forget_other_networks(dataset)
        view = dataset.exists(DESCRIPTOR) if _networks(dataset) else dataset.limit(0)
        if len(view) < FEWEST:
            raise StoreError(
                f"dataset '{dataset.name}': {len(view)} of {len(dataset)} images can be read and described; "
                f"a map wants at least {FEWEST}."
            )
        keys, classes, vectors = view.values(["id", "label.label", DESCRIPTOR])
        matrix = np.stack(vectors).astype(np.float32)
        _store_oddness(dataset, keys, np.array(classes), matrix)
        chosen: MapMethod = method or ("tsne" if len(keys) <= MOST_FOR_TSNE else "pca")
        _index(view, matrix, chosen)
    return Embedded(len(keys), described, chosen)


def _describe_rest(dataset: "fo.Dataset", workers: int | None, progress: bool) -> int:
    """Describe the images without a descriptor; those of other networks, too, where there are several."""
    from wss_data.cosegmentation.base import ImageFiles

    rows = list(zip(*dataset.values(["id", "filepath", *_networks(dataset)]), strict=True))
    names = {row[2] for row in rows} if len(rows[0]) > 2 else {None}
    if len(names) == 1 and None not in names:
        return 0
    ours = network_name()
    wanted = [row for row in rows if len(row) < 3 or row[2] != ours]
    files = ImageFiles([row[1] for row in wanted])
    found: dict[str, np.ndarray] = {}
    done = 0
    bar = tqdm(describe_images(files, workers), total=len(wanted), desc="describe", unit="image", disable=not progress)
    try:
        for position, descriptor in enumerate(bar):
            if position not in files.unreadable:
                found[wanted[position][0]] = descriptor
                done += 1
            if len(found) == _BATCH:
                set_descriptors(dataset, found, ours)
                found = {}
    finally:
        set_descriptors(dataset, found, ours)  # an interrupted run goes on from there
    return done


def _forget_other_networks(dataset: "fo.Dataset") -> None:
    """Clear what networks other than the most frequent saw: left on images that cannot be read, not to be compared."""
    counts = Counter(dataset.exists(NETWORK).values(NETWORK)) if _networks(dataset) else Counter()
    for other, _ in counts.most_common()[1:]:
        nothing = dict.fromkeys(dataset.match({NETWORK: other}).values("id"))
        for field in (DESCRIPTOR, NETWORK):
            dataset.set_values(field, nothing, key_field="id")


def _networks(dataset: "fo.Dataset") -> list[str]:
    return [NETWORK] if dataset.has_sample_field(NETWORK) else []


def _store_oddness(dataset: "fo.Dataset", keys: list[str], classes: np.ndarray, matrix: np.ndarray) -> None:
    values = np.full(len(keys), np.nan, np.float32)
    for name in np.unique(classes):
        values[classes == name] = oddness(matrix[classes == name])
    numbers = {key: None if np.isnan(value) else float(value) for key, value in zip(keys, values, strict=True)}
    if not dataset.has_sample_field(ODDNESS):
        dataset.add_sample_field(ODDNESS, fiftyone().FloatField)
    dataset.set_values(ODDNESS, numbers, key_field="id")
    if not dataset.has_saved_view(ODD_VIEW):
        dataset.save_view(ODD_VIEW, dataset.exists(ODDNESS).sort_by(ODDNESS, reverse=True))


def _index(view: "fo.DatasetView", matrix: np.ndarray, method: MapMethod) -> None:
    import fiftyone.brain as fob

    dataset = view._dataset
    for key in (MAP, SIMILAR):
        if key in dataset.list_brain_runs():
            dataset.delete_brain_run(key)
    fob.compute_visualization(view, points=_points(matrix, method), brain_key=MAP, progress=False)
    fob.compute_similarity(
        view, embeddings=DESCRIPTOR, brain_key=SIMILAR, backend="sklearn", metric="cosine", progress=False
    )


def _points(matrix: np.ndarray, method: MapMethod) -> np.ndarray:
    """Where each image lies on the map. Shape (n, 2)."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    # t-SNE looks at many distances: in 50 dimensions they are nearly the same and cost a twentieth.
    dimensions = 2 if method == "pca" else 50
    small = PCA(min(dimensions, *matrix.shape), random_state=0).fit_transform(matrix)
    if method == "pca":
        return small
    return TSNE(perplexity=min(30, (len(matrix) - 1) / 3), init="pca", random_state=0).fit_transform(small)
