"""What FiftyOne's zoo calls to get and to load this repository's datasets.

FiftyOne copies this folder alone to its own place and loads it from there, so that the work is done by the installed
package: ``wss_data.sharing.zoo``.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import fiftyone as fo

MISSING = (
    "this dataset of the FiftyOne zoo is built by the package webcoseg, which is not installed here. Install it from "
    "the repository that you named: pip install git+https://github.com/USER/REPOSITORY"
)


def download_and_prepare(
    dataset_dir: str, definition: str = "drawn", manifest: str | None = None
) -> tuple[None, int, list[str]]:
    """Build the dataset; see ``wss_data.sharing.zoo.prepare``."""
    try:
        from wss_data.sharing.zoo import prepare
    except ModuleNotFoundError as error:
        raise ImportError(MISSING) from error
    return prepare(dataset_dir, definition, manifest)


def load_dataset(
    dataset: "fo.Dataset", dataset_dir: str, definition: str = "drawn", manifest: str | None = None
) -> None:
    """Add the images to a dataset of FiftyOne; see ``wss_data.sharing.zoo.load``."""
    try:
        from wss_data.sharing.zoo import load
    except ModuleNotFoundError as error:
        raise ImportError(MISSING) from error
    load(dataset, dataset_dir, definition, manifest)
