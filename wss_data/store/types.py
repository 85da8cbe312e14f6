"""FiftyOne's types by name, for annotations elsewhere: nothing is imported when the program runs."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import fiftyone as fo

    Dataset = fo.Dataset
    Collection = fo.Dataset | fo.DatasetView
