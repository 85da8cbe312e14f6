"""What we store beside the samples, in ``dataset.info["wss"]`` as plain values, and the names of fields."""

from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from wss_data.errors import StoreError
from wss_data.ledger import Ledger
from wss_data.records import Provenance
from wss_data.spec import BACKGROUND, DatasetSpec, FilterSpec, spec_from_dict
from wss_data.store.connection import fiftyone, mongodb
from wss_data.store.types import Collection, Dataset

Kind = Literal["web", "target"]

FORMAT = 1  # version of ``info["wss"]``
TAG = "wss"  # of every dataset that is ours, so that foreign ones need not be opened to be recognised

MASKS = "cosegmentation"
BEFORE_IMPORT = "cosegmentation_before_import"
GROUND_TRUTH = "ground_truth"
SCORE = "quality.score"
BASIS = "basis"  # attribute of a model's mask: ``records.mask_basis`` of the image and labels it was made from
EARLIER_NAMES = "earlier_names"  # of a dataset that was renamed: paths of an earlier name's folder are set anew
IMPORTED = "imported"  # method of masks that were made elsewhere
# What the field ``provenance`` holds as text.
PROVENANCE_TEXTS = tuple(field.name for field in fields(Provenance) if field.name not in ("retrieved_at", "opt_outs"))


def new_info(spec: DatasetSpec, kind: Kind) -> dict[str, Any]:
    """What a new dataset begins with."""
    no_filter = {"applied": None, "of_definition": None, "current": False}
    plain = spec.to_dict()
    return {"format": FORMAT, "kind": kind, "definition": plain, "ledgers": {}, "drops": {}, "filter": no_filter}


def info_of(dataset: Collection) -> dict[str, Any]:
    """A copy of ``info["wss"]``.

    Raises:
        StoreError: If this package did not make the dataset, a newer version of it did, or another program changed it.
    """
    return dict(_checked(dataset.info.get(TAG), name_of(dataset)))


def _checked(info: Any, name: str) -> dict[str, Any]:
    """``info``, the ``info["wss"]`` of the dataset that is called ``name``."""
    if not isinstance(info, dict):
        raise StoreError(
            f"FiftyOne dataset '{name}' was not made by wss-data, and is left alone. "
            "Give the definition another name; `wss-data list` shows the datasets that wss-data made."
        )
    if not _is_whole(info):
        raise StoreError(
            f"FiftyOne dataset '{name}': its info 'wss' lacks format, kind or classes of the definition, "
            "or they are damaged: another program changed them. Put the earlier info back, or delete the dataset in "
            f"Python, with fiftyone.delete_dataset({name!r}), and build it again."
        )
    if info.get("format", 0) > FORMAT:
        raise StoreError(
            f"dataset '{name}' has format {info['format']}, this version of wss reads up to {FORMAT}. Update wss."
        )
    return info


def _is_whole(info: dict[str, Any]) -> bool:
    """Whether what every reader of it relies on is there."""
    definition = info.get("definition")
    classes = definition.get("classes") if isinstance(definition, dict) else None
    return (
        isinstance(info.get("format", 0), int)
        and info.get("kind") in get_args(Kind)
        and isinstance(classes, list)
        and all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in classes)
    )


def is_ours(dataset: Collection) -> bool:
    """Whether this package made the dataset, or the one of a view."""
    return isinstance(dataset.info.get(TAG), dict)


def web_info(dataset: Dataset, action: str) -> dict[str, Any]:
    """``info_of`` a web dataset.

    Raises:
        StoreError: If it is a target dataset; ``action`` says what cannot be done with one.
    """
    info = info_of(dataset)
    if info["kind"] != "web":
        raise StoreError(f"dataset '{dataset.name}' is a target dataset; only web datasets can be {action}.")
    return info


def update(dataset: Dataset, **parts: Any) -> None:
    """Replace parts of ``info["wss"]`` and store it; other parts stay as they are in the database."""
    # Another process may have written other parts, and FiftyOne would read and write the whole dataset for one.
    key, datasets = {"sample_collection_name": dataset._sample_collection_name}, mongodb().datasets
    if (row := datasets.find_one(key, {"info": True})) is None:
        raise StoreError(f"dataset '{dataset.name}' is gone: another process deleted it. Build it again.")
    stored = _checked((row.get("info") or {}).get(TAG), dataset.name)
    changed = {**stored, **parts}
    if changed != stored:
        notes = {f"info.{TAG}.{name}": part for name, part in parts.items()}
        datasets.update_one(key, {"$set": {**notes, "last_modified_at": datetime.now(UTC)}})
    # Past FiftyOne, which would store it once more with the next change, over what others have noted until then.
    dict.__setitem__(dataset.info, TAG, changed)


def name_of(examples: Collection) -> str:
    """Name of the dataset, of a view too (whose own name is that of a saved view)."""
    return getattr(examples, "dataset_name", None) or examples.name


def rows(view: Collection, *fields: str) -> Iterator[tuple[Any, ...]]:
    """The values of several fields, sample by sample."""
    return zip(*view.values(list(fields)), strict=True)


def mask_fields(view: Collection) -> list[str]:
    """Names of the fields that hold masks."""
    fo = fiftyone()
    return list(view.get_field_schema(ftype=fo.EmbeddedDocumentField, embedded_doc_type=fo.Segmentation))


def class_names(dataset: Collection) -> tuple[str, ...]:
    """Names of the classes 1..C of a dataset of ours, in order of their index."""
    return tuple(item["name"] for item in info_of(dataset)["definition"]["classes"])


def group_names(dataset: Collection) -> tuple[str, ...]:
    """``class_names`` and, behind them, the background where images of it are searched for: the labels of images."""
    return (*class_names(dataset), *([BACKGROUND] if info_of(dataset)["definition"].get("background") else []))


def definition(dataset: Collection) -> DatasetSpec:
    """The definition that a dataset of ours was made from."""
    return spec_from_dict(info_of(dataset)["definition"], name_of(dataset))


def kind_of(dataset: Collection) -> Kind:
    """Whether a dataset of ours is the web (``web``) or the target (``target``)."""
    return info_of(dataset)["kind"]


def drops(dataset: Collection) -> dict[str, dict[str, int]]:
    """How many search results became no image: class -> reason -> count."""
    return {name: dict(reasons) for name, reasons in info_of(dataset)["drops"].items()}


def set_ledger(dataset: Dataset, field: str, ledger: Ledger, origin: str = "made") -> None:
    """Store what the masks of a field were made from.

    ``origin``: ``made`` for masks of our own, ``imported`` for masks from elsewhere; a field may hold both.
    """
    ledgers = info_of(dataset)["ledgers"]
    update(dataset, ledgers={**ledgers, field: {**ledgers.get(field, {}), origin: ledger.to_dict()}})


def mask_ledger(view: Collection, field: str) -> Ledger:
    """What the masks of a field were made from, as far as the samples of ``view`` hold such masks."""
    stored = info_of(view)["ledgers"].get(field, {})
    methods = set(view.distinct(f"{field}.method")) if len(stored) > 1 else set()
    # Of a field that holds both kinds, a view may hold one of them.
    only = {method == IMPORTED for method in methods}
    ledger = Ledger()
    for origin, value in stored.items():
        if len(only) != 1 or (origin == IMPORTED) in only:
            ledger = ledger.merged_with(Ledger.from_dict(value))
    return ledger


def applied_filters(dataset: Collection) -> FilterSpec | None:
    """The thresholds that were applied last, or ``None``."""
    applied = info_of(dataset)["filter"]["applied"]
    return FilterSpec(**applied) if applied else None


def filters_to_apply(dataset: Dataset, spec: DatasetSpec) -> FilterSpec | None:
    """The thresholds that a build has to apply, or ``None`` if the tags are right as they are."""
    state = info_of(dataset)["filter"]
    # Compared with the definition's of then, not with those applied: a user's own thresholds stay in force.
    if state["applied"] is None or FilterSpec(**state["of_definition"]) != spec.filters:
        return spec.filters
    return None if state["current"] else FilterSpec(**state["applied"])


def mark_filter_stale(dataset: Dataset) -> None:
    """Note that images or masks came after the filter, so that a build killed here filters again."""
    state = info_of(dataset)["filter"]
    if state["current"]:
        update(dataset, filter={**state, "current": False})
