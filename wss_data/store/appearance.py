"""What a dataset is given so that FiftyOne understands and shows it: fields, mask names, colours, saved views."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from wss_data.cosegmentation.quality import MaskQuality
from wss_data.errors import MaskError
from wss_data.filtering.filters import DROPPED, KEPT, LEAK, LOW_CONFIDENCE, PLACEHOLDER, TOO_LARGE, TOO_SMALL
from wss_data.imaging.masks import IGNORE_INDEX, mask_names, open_mask, voc_palette
from wss_data.spec import DatasetSpec
from wss_data.store.connection import fiftyone
from wss_data.store.info import GROUND_TRUTH, MASKS, PROVENANCE_TEXTS, SCORE, Kind, mask_fields
from wss_data.store.types import Dataset, View

# Fields of masks that a new dataset has.
MASK_FIELDS: dict[Kind, tuple[str, ...]] = {"web": (MASKS,), "target": (GROUND_TRUTH, "pseudo_mask", "prediction")}
# Field of the image-level labels: one class on the web (what was searched for), any number on a target.
LABELS: dict[Kind, str] = {"web": "label", "target": "labels"}
_SORTED = ("confidence", "foreground_ratio", SCORE)  # numbers by which saved views sort the images with one tag


def set_up(dataset: Dataset, spec: DatasetSpec, kind: Kind) -> None:
    """Give an empty dataset its fields, mask names, colours and saved views."""
    _declare_fields(dataset, kind)
    # Segmentations stay hidden in the App until they are named here.
    paths = ["tags", LABELS[kind], *MASK_FIELDS[kind]]
    dataset.app_config.active_fields = fiftyone().ActiveFields(paths=paths)
    bring_up_to_date(dataset, spec, kind)


def bring_up_to_date(dataset: Dataset, spec: DatasetSpec, kind: Kind) -> None:
    """Give a dataset that is new, or that an earlier version made, what it lacks; what its user changed stays."""
    values = mask_names(spec.class_names, spec.ignore_index)
    # By values, as earlier versions had them, or none at all; whatever else is there, its user has set.
    if dataset.default_mask_targets in (values, {}):
        dataset.default_mask_targets = colour_targets(spec.class_names, spec.ignore_index)
        dataset.app_config.color_scheme = fiftyone().ColorScheme(**_colours(spec, kind))
    grey = {field: values for field in mask_fields(dataset) if _is_grey(dataset, field)}
    if dataset.mask_targets != {**grey, **dataset.mask_targets}:
        dataset.mask_targets = {**grey, **dataset.mask_targets}
    if dataset.app_config.sidebar_groups is None:
        dataset.app_config.sidebar_groups = _side_bar(dataset, kind)
    dataset.save()
    if kind == "web":
        # What saved views choose and sort by, so that none has to read or sort 75,800 images.
        for field in ("sha256", "label.label", "duplicate_of"):
            dataset.create_index(field)
        for number in _SORTED:
            if dataset.has_field(number):  # a dataset that an earlier version made may lack it
                dataset.create_index([("tags", 1), (number, 1)])
    there = set(dataset.list_saved_views())
    for name, view in _views(dataset, spec, kind).items():
        if name not in there:
            dataset.save_view(name, view)


def _is_grey(dataset: Dataset, field: str) -> bool:
    """Whether the masks of a field are grey PNGs, as other tools write them; judged by the first."""
    paths = dataset.exists(f"{field}.mask_path").limit(1).values(f"{field}.mask_path")
    try:
        return bool(paths) and open_mask(paths[0]).palette is None
    except MaskError:
        return False


def _side_bar(dataset: Dataset, kind: Kind) -> list[Any]:
    """The fields in the order in which a person judges by them; the others are folded up at the end."""
    schema = dataset.get_field_schema(flat=True)
    labels = [LABELS[kind], *mask_fields(dataset)]
    judged_by = ["foreground_ratio", "confidence", "oddness", "verdict", "verdict_reason", "verdict_at"]
    groups: dict[str, list[str]] = {"tags": [], "labels": labels, "judge": judged_by}
    for parent in ("quality", "provenance", "metadata"):
        groups[parent] = [path for path in schema if path.startswith(f"{parent}.")]
    shown = {name: [path for path in paths if path in schema] for name, paths in groups.items()}
    # Of an embedded field the App lists what is in it; that of labels and masks it lists by itself.
    listed = {"tags", "quality", "provenance", "metadata", *(path for paths in shown.values() for path in paths)}
    inside = tuple(f"{parent}." for parent in ("quality", "provenance", "metadata", *labels))
    shown["other"] = [path for path in schema if path not in listed and not path.startswith(inside)]
    group, folded = fiftyone().SidebarGroupDocument, ("provenance", "metadata", "other")
    return [group(name=name, paths=paths, expanded=name not in folded) for name, paths in shown.items()]


def _declare_fields(dataset: Dataset, kind: Kind) -> None:
    """Declare every field at once, so that views and the App know them before the first image has them."""
    fo = fiftyone()
    label = fo.Classification if kind == "web" else fo.Classifications
    dataset.add_sample_field(LABELS[kind], fo.EmbeddedDocumentField, embedded_doc_type=label)
    for name in ("image_id", "sha256", "phash"):
        dataset.add_sample_field(name, fo.StringField)
    for name in MASK_FIELDS[kind]:
        declare_masks(dataset, name)
    dataset.create_index("image_id")
    if kind == "target":
        return
    for name in ("verdict", "verdict_reason", "duplicate_of"):
        dataset.add_sample_field(name, fo.StringField)
    dataset.add_sample_field("verdict_at", fo.DateTimeField)
    for name in ("foreground_ratio", "confidence", "oddness"):
        dataset.add_sample_field(name, fo.FloatField)
    dataset.add_sample_field("descriptor", fo.VectorField)
    dataset.add_sample_field("descriptor_network", fo.StringField)
    # A document class of our own would have to be importable wherever the dataset is opened, the App included.
    for name in ("quality", "provenance"):
        dataset.add_sample_field(name, fo.EmbeddedDocumentField, embedded_doc_type=fo.DynamicEmbeddedDocument)
    dataset.add_sample_field(SCORE, fo.FloatField)
    for measure in fields(MaskQuality):
        dataset.add_sample_field(f"quality.{measure.name}", fo.IntField if measure.type is int else fo.FloatField)
    for name in PROVENANCE_TEXTS:
        dataset.add_sample_field(f"provenance.{name}", fo.StringField)
    dataset.add_sample_field("provenance.retrieved_at", fo.DateTimeField)
    dataset.add_sample_field("provenance.opt_outs", fo.ListField, subfield=fo.StringField)
    for name in ("original_width", "original_height"):
        dataset.add_sample_field(f"provenance.{name}", fo.IntField)


def declare_masks(dataset: Dataset, field: str) -> None:
    """Declare a field of masks, and show it in the App. A field that an earlier version made is given what it lacks."""
    fo = fiftyone()
    is_new = not dataset.has_sample_field(field)
    if is_new:
        dataset.add_sample_field(field, fo.EmbeddedDocumentField, embedded_doc_type=fo.Segmentation)
    for attribute in ("method", "fingerprint"):
        dataset.add_sample_field(f"{field}.{attribute}", fo.StringField)
    if field.startswith(f"{MASKS}_"):  # the confidence of the mask in use is the image's own
        dataset.add_sample_field(f"{field}.confidence", fo.FloatField)
    active = dataset.app_config.active_fields
    if is_new and active is not None and field not in active.paths:
        active.paths = [*active.paths, field]
        dataset.save()


def colour_targets(classes: Sequence[str], ignore_index: int = IGNORE_INDEX) -> dict[str, str]:
    """What the colours of a label mask are called, such as ``#800000``: FiftyOne reads palette PNGs as colours.

    With the values of the mask instead, its App finds none of them in the file and draws nothing. Background
    is left out: the App never draws black, and counts the colours from 1 in this order, so each class keeps its index.
    """
    return {_hex(value): name for value, name in mask_names(classes, ignore_index).items() if value}


def _hex(value: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*voc_palette()[value])


def _colours(spec: DatasetSpec, kind: Kind) -> dict[str, Any]:
    """Settings of FiftyOne's ``ColorScheme``: VOC's colour for each class, on masks and labels alike."""
    names = mask_names(spec.class_names, spec.ignore_index)
    palette = {value: _hex(value) for value in names if value}
    # When the App draws a mask again, after the view has changed, it knows a colour by its place in `colour_targets`.
    palette = {**dict(enumerate(palette.values(), start=1)), **palette}
    by_label = [{"value": name, "color": palette[value]} for value, name in names.items() if value]
    return {
        "color_by": "value",
        "default_mask_targets_colors": [{"intTarget": value, "color": colour} for value, colour in palette.items()],
        "fields": [{"path": LABELS[kind], "colorByAttribute": "label", "valueColors": by_label}],
    }


def _views(dataset: Dataset, spec: DatasetSpec, kind: Kind) -> dict[str, View]:
    if kind == "target":
        field = fiftyone().ViewField
        dropped = field("tags").filter(field().starts_with(DROPPED)).length() > 0
        splits = {split: dataset.match_tags(split) for split in ("train", "val")}
        return {**splits, "dropped": dataset.match(dropped)}
    return {
        "kept": dataset.match_tags(KEPT),
        "too small": dataset.match_tags(TOO_SMALL).sort_by("foreground_ratio"),
        "too large": dataset.match_tags(TOO_LARGE).sort_by("foreground_ratio", reverse=True),
        "low confidence": dataset.match_tags(LOW_CONFIDENCE).sort_by("confidence"),
        "most suspicious first": dataset.match_tags(KEPT).sort_by(SCORE),
        "least confident first": dataset.match_tags(KEPT).sort_by("confidence"),
        # By what they repeat, so that copies are beside each other.
        "duplicates": dataset.match(
            {"$or": [{"duplicate_of": {"$ne": None}, "tags": {"$ne": LEAK}}, {"tags": PLACEHOLDER}]}
        ).sort_by("duplicate_of"),
        "leaks": dataset.match_tags(LEAK).sort_by("duplicate_of"),
        # As MongoDB's own condition, here and above: an expression of FiftyOne's makes no use of an index.
        **{f"class {name}": dataset.match({"label.label": name}) for name in spec.group_names},
    }
