"""What belongs to us beside the samples: it stands in ``dataset.info["wss"]`` as plain values.

The kind (``web`` or ``target``), the definition, the ledger of each mask field, how
many search results were dropped, and which filter was applied.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from wss_data.errors import StoreError
from wss_data.ledger import Ledger
from wss_data.spec import DatasetSpec, FilterSpec

if TYPE_CHECKING:
    import fiftyone as fo

Kind = Literal["web", "target"]

FORMAT = 1
"""Version of what stands in ``info["wss"]``."""

TAG = "wss"
"""Tag of every dataset that is ours, so that foreign ones need not be opened to be told apart."""

MASKS = "cosegmentation"
BEFORE_IMPORT = "cosegmentation_before_import"
GROUND_TRUTH = "ground_truth"
SCORE = "quality.score"
PROVENANCE_TEXTS = (
    "source",
    "source_id",
    "query",
    "image_url",
    "page_url",
    "title",
    "author",
    "author_url",
    "license",
    "license_url",
)
"""What the field ``provenance`` holds as text."""

BASIS = "basis"
"""Attribute of a mask that a model made: ``records.mask_basis`` of the image and labels that it was made from."""

IMPORTED = "imported"
"""What stands as the method of masks that were made elsewhere."""


def new_info(spec: DatasetSpec, kind: Kind) -> dict[str, Any]:
    """What a new dataset begins with."""
    return {
        "format": FORMAT,
        "kind": kind,
        "definition": spec.to_dict(),
        "ledgers": {},
        "drops": {},
        "filter": {"applied": None, "of_definition": None, "current": False},
    }


def info_of(dataset: "fo.Dataset | fo.DatasetView") -> dict[str, Any]:
    """What stands in ``info["wss"]``.

    Raises:
        StoreError: If this package did not make the dataset, or a newer version of it did.
    """
    info = dataset.info.get(TAG)
    if not isinstance(info, Mapping):
        raise StoreError(
            f"FiftyOne dataset '{name_of(dataset)}' was not made by wss-data, and is left alone. "
            "Give the definition another name; `wss-data list` shows the datasets that wss-data made."
        )
    if info.get("format", 0) > FORMAT:
        raise StoreError(
            f"the dataset has format {info['format']}, this version of wss reads up to {FORMAT}. Update wss."
        )
    return dict(info)


def name_of(examples: "fo.Dataset | fo.DatasetView") -> str:
    """Name of the dataset, of a view too (whose own name is that of a saved view)."""
    return getattr(examples, "dataset_name", None) or examples.name


def update(dataset: "fo.Dataset", **parts: Any) -> None:
    """Replace parts of ``info["wss"]`` and store it; other parts are as the database has them, whoever changed them."""
    dataset.reload()
    dataset.info[TAG] = {**info_of(dataset), **parts}
    dataset.save()


def class_names(dataset: "fo.Dataset | fo.DatasetView") -> tuple[str, ...]:
    """Names of the classes 1..C of a dataset of ours, in order of their index."""
    return tuple(item["name"] for item in info_of(dataset)["definition"]["classes"])


def definition(dataset: "fo.Dataset | fo.DatasetView") -> DatasetSpec:
    """The definition that a dataset of ours was made from."""
    return DatasetSpec.from_dict(info_of(dataset)["definition"], name_of(dataset))


def kind_of(dataset: "fo.Dataset | fo.DatasetView") -> Kind:
    """Whether a dataset of ours is the web (``web``) or the target (``target``)."""
    return info_of(dataset)["kind"]


def set_ledger(dataset: "fo.Dataset", field: str, ledger: Ledger, origin: str = "made") -> None:
    """Store what the masks of a field were made from.

    Args:
        dataset: A dataset of ours.
        field: Field that holds the masks.
        ledger: What they were made from.
        origin: ``made`` for masks of our own, ``imported`` for masks from elsewhere; a field may hold both.
    """
    ledgers = dict(info_of(dataset)["ledgers"])
    stored = {**ledgers.get(field, {}), origin: ledger.to_dict()}
    if ledgers.get(field) != stored:
        update(dataset, ledgers={**ledgers, field: stored})


def mask_ledger(view: "fo.Dataset | fo.DatasetView", field: str) -> Ledger:
    """What the masks of a field were made from, as far as the samples of ``view`` hold such masks."""
    stored = info_of(view)["ledgers"].get(field, {})
    methods = set(view.distinct(f"{field}.method")) if len(stored) > 1 else set()
    if IMPORTED in methods and methods == {IMPORTED}:
        stored = {IMPORTED: stored[IMPORTED]}
    elif methods and IMPORTED not in methods:
        stored = {key: value for key, value in stored.items() if key != IMPORTED}
    ledger = Ledger()
    for value in stored.values():
        ledger = ledger.merged_with(Ledger.from_dict(value))
    return ledger


def set_drops(dataset: "fo.Dataset", drops: Mapping[str, Mapping[str, int]]) -> None:
    """Store how many search results became no image: class -> reason -> count."""
    plain = {name: dict(reasons) for name, reasons in drops.items()}
    if info_of(dataset)["drops"] != plain:
        update(dataset, drops=plain)


def drops(dataset: "fo.Dataset | fo.DatasetView") -> dict[str, dict[str, int]]:
    """How many search results became no image: class -> reason -> count."""
    return {name: dict(reasons) for name, reasons in info_of(dataset)["drops"].items()}


def set_passed_over(dataset: "fo.Dataset", passed_over: Mapping[str, str]) -> None:
    """Store which files of a folder of images were not taken for images: class -> one line."""
    if info_of(dataset).get("passed_over", {}) != dict(passed_over):
        update(dataset, passed_over=dict(passed_over))


def passed_over(dataset: "fo.Dataset | fo.DatasetView") -> dict[str, str]:
    """Which files of a folder of images were not taken for images, as of the last build: class -> one line."""
    return dict(info_of(dataset).get("passed_over", {}))


def applied_filters(dataset: "fo.Dataset | fo.DatasetView") -> FilterSpec | None:
    """The thresholds that were applied last, or ``None``."""
    applied = info_of(dataset)["filter"]["applied"]
    return FilterSpec(**applied) if applied else None


def filters_to_apply(dataset: "fo.Dataset", spec: DatasetSpec) -> FilterSpec | None:
    """The thresholds that a build has to apply, or ``None`` if the tags are right as they are.

    The definition's, if they were never applied or have changed since. Else the
    ones applied last (a user's own, say), if images or masks came after them.
    """
    state = info_of(dataset)["filter"]
    if state["applied"] is None or FilterSpec(**state["of_definition"]) != spec.filters:
        return spec.filters
    return None if state["current"] else FilterSpec(**state["applied"])


def mark_filter_stale(dataset: "fo.Dataset") -> None:
    """Note that images or masks came after the filter, so that a build killed here filters again."""
    state = info_of(dataset)["filter"]
    if state["current"]:
        update(dataset, filter={**state, "current": False})


def web_info(dataset: "fo.Dataset", action: str) -> dict[str, Any]:
    """``info_of`` a web dataset.

    Raises:
        StoreError: If it is a target dataset; ``action`` says what cannot be done with one.
    """
    info = info_of(dataset)
    if info["kind"] != "web":
        raise StoreError(f"dataset '{dataset.name}' is a target dataset; only web datasets can be {action}.")
    return info
