"""How suspicious each mask of a web dataset is, beside the others."""

from typing import TYPE_CHECKING

from wss_data.cosegmentation.quality import quality_scores
from wss_data.store.connection import fiftyone
from wss_data.store.info import SCORE, web_info

if TYPE_CHECKING:
    import fiftyone as fo

MEASURES = ("confidence", "quality.agreement", "quality.crf_agreement")
"""Fields that the score is made of: each asks for the mask a second time, in a way of its own."""


def rank_masks(dataset: "fo.Dataset") -> int:
    """Give each mask its score, ``quality.score``: 1 is the least suspicious of the dataset, 0 the most.

    It says where a mask stands among all of the dataset, so it is computed anew whenever masks have changed.

    Args:
        dataset: A web dataset.

    Returns:
        Number of scores that changed.

    Raises:
        StoreError: If it is no web dataset.
    """
    web_info(dataset, "ranked")
    fo = fiftyone()
    for path in (*MEASURES, SCORE):
        if not dataset.has_field(path):  # a dataset from before there was such a measure
            dataset.add_sample_field(path, fo.FloatField)
    ids, pieces, before, *measures = dataset.values(["id", "quality.pieces", SCORE, *MEASURES])
    scores = quality_scores(measures)
    # Three digits: a new image moves all others a little, and nobody sees that.
    rows = zip(ids, pieces, scores, before, strict=True)
    found = {key: (round(new, 3), old) for key, measured, new, old in rows if measured is not None and new is not None}
    changed = {key: new for key, (new, old) in found.items() if new != old}
    if changed:
        dataset.set_values(SCORE, changed, key_field="id")
    return len(changed)
