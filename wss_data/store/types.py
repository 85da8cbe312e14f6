"""FiftyOne's types by name, for annotations: FiftyOne itself is not imported when the program runs."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import fiftyone as fo

    Dataset = fo.Dataset
    View = fo.DatasetView
    Collection = fo.Dataset | fo.DatasetView
else:
    Dataset = View = Collection = Any
