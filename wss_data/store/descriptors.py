"""Descriptors in the database, and what the App makes of them: a map, search by example, images that are odd."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from tqdm import tqdm

from wss_data.cosegmentation.base import ImageFiles
from wss_data.errors import StoreError
from wss_data.filtering.oddness import describe_images, network_name, oddness
from wss_data.runtime.home import dataset_owner
from wss_data.store.appearance import bring_up_to_date
from wss_data.store.connection import fiftyone
from wss_data.store.info import definition, rows, web_info
from wss_data.store.types import Dataset, View

DESCRIPTOR, NETWORK, ODDNESS = "descriptor", "descriptor_network", "oddness"

MAP, SIMILAR = "map", "similar"  # what the App calls the map of the images, and the index for search by example
MapMethod = Literal["tsne", "pca"]

MOST_FOR_TSNE = 10_000  # images up to which t-SNE draws the map by default; it takes minutes beyond
FEWEST = 3  # images that a map needs: t-SNE's perplexity is below 1 with fewer

_BATCH = 256  # descriptors: at most so many are lost when a run is killed


@dataclass(frozen=True)
class Embedded:
    """What ``embed`` did: images on the map, those of them that the network had to look at; prints as a line."""

    images: int
    described: int
    method: MapMethod

    def __str__(self) -> str:
        looked = f"{self.described:,} of them looked at now" if self.described else "all described already"
        return f"{self.images:,} images on the map ({self.method}), {looked}."


def set_descriptors(dataset: Dataset, descriptors: Mapping[str, np.ndarray], network: str) -> None:
    """Store descriptors: sample id -> shape (C,), float16. Only those of one ``network`` can be compared."""
    if not descriptors:
        return
    _declare_fields(dataset)
    dataset.set_values(DESCRIPTOR, dict(descriptors), key_field="id")
    dataset.set_values(NETWORK, dict.fromkeys(descriptors, network), key_field="id")


def _declare_fields(dataset: Dataset) -> None:
    """A dataset that an earlier version made may lack them."""
    fo = fiftyone()
    for name, kind in (DESCRIPTOR, fo.VectorField), (NETWORK, fo.StringField), (ODDNESS, fo.FloatField):
        dataset.add_sample_field(name, kind)


def embed(
    dataset: Dataset, method: MapMethod | None = None, workers: int | None = None, progress: bool = True
) -> Embedded:
    """Make the App's map of a web dataset, search by example, and find the images that are odd in their class.

    Descriptors come from the co-segmentation where it gave them; no model is downloaded. ``method`` draws the map,
    ``None`` is t-SNE up to 10,000 images; ``workers``: images described at a time, ``None`` for one a processor.

    Raises:
        StoreError: If it is no web dataset, has fewer than 3 images, or another process is building it.
    """
    web_info(dataset, "embedded")
    if method not in (*get_args(MapMethod), None):
        raise StoreError(f"the map can be drawn by tsne or pca, not by {method!r}.")
    if len(dataset) < FEWEST:
        raise StoreError(f"dataset '{dataset.name}' has {len(dataset)} images; a map wants at least {FEWEST}.")
    with dataset_owner(dataset.name):
        _declare_fields(dataset)
        described = _describe_rest(dataset, workers, progress)
        # What networks other than the most frequent saw is left on images that cannot be read: not to be compared.
        for other, _ in Counter(dataset.exists(NETWORK).values(NETWORK)).most_common()[1:]:
            nothing = dict.fromkeys(dataset.match({NETWORK: other}).values("id"))
            for field in (DESCRIPTOR, NETWORK):
                dataset.set_values(field, nothing, key_field="id")
        view = dataset.exists(DESCRIPTOR)
        if len(view) < FEWEST:
            raise StoreError(
                f"dataset '{dataset.name}': {len(view)} of {len(dataset)} images can be read and described; "
                f"a map wants at least {FEWEST}."
            )
        keys, classes, vectors = view.values(["id", "label.label", DESCRIPTOR])
        matrix = np.stack(vectors).astype(np.float32)
        _store_oddness(dataset, keys, np.array(classes), matrix)
        chosen: MapMethod = method or ("tsne" if len(keys) <= MOST_FOR_TSNE else "pca")
        _index(dataset, view, matrix, chosen)
    return Embedded(len(keys), described, chosen)


def _describe_rest(dataset: Dataset, workers: int | None, progress: bool) -> int:
    """Describe the images without a descriptor; those of other networks, too, where there are several."""
    if None not in (networks := set(dataset.values(NETWORK))) and len(networks) == 1:
        return 0
    ours = network_name()
    wanted = [(key, path) for key, path, network in rows(dataset, "id", "filepath", NETWORK) if network != ours]
    files = ImageFiles([path for _, path in wanted])
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


def _store_oddness(dataset: Dataset, keys: list[str], classes: np.ndarray, matrix: np.ndarray) -> None:
    values = np.full(len(keys), np.nan, np.float32)
    for name in np.unique(classes):
        values[classes == name] = oddness(matrix[classes == name])
    numbers = {key: None if np.isnan(value) else float(value) for key, value in zip(keys, values, strict=True)}
    dataset.set_values(ODDNESS, numbers, key_field="id")
    bring_up_to_date(dataset, definition(dataset), "web")  # the view ``ODD_VIEW`` has images now


def _index(dataset: Dataset, view: View, matrix: np.ndarray, method: MapMethod) -> None:
    import fiftyone.brain as fob
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    # t-SNE looks at many distances: in 50 dimensions they are nearly the same and cost a twentieth.
    points = PCA(min(2 if method == "pca" else 50, *matrix.shape), random_state=0).fit_transform(matrix)
    if method == "tsne":
        # scikit-learn wants the perplexity, 30 by its default, below the number of images.
        points = TSNE(perplexity=min(30, (len(matrix) - 1) / 3), init="pca", random_state=0).fit_transform(points)
    # After the points: a map that cannot be drawn does not cost the earlier one.
    for key in (MAP, SIMILAR):
        if key in dataset.list_brain_runs():
            dataset.delete_brain_run(key)
    fob.compute_visualization(view, points=points, brain_key=MAP, progress=False)
    fob.compute_similarity(
        view, embeddings=DESCRIPTOR, brain_key=SIMILAR, backend="sklearn", metric="cosine", progress=False
    )
