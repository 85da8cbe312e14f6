"""What a new dataset is given so that FiftyOne understands and shows it: fields, mask names, colours, saved views.

FiftyOne itself comes in as an argument: only ``connection`` imports it.
"""

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from wss_data.filters import DROPPED, KEPT, LEAK, PLACEHOLDER, TOO_LARGE, TOO_SMALL
from wss_data.masks import voc_palette
from wss_data.quality import MaskQuality
from wss_data.spec import DatasetSpec
from wss_data.store.info import GROUND_TRUTH, MASKS, PROVENANCE_TEXTS, Kind

if TYPE_CHECKING:
    import fiftyone as fo

MASK_FIELDS: dict[str, tuple[str, ...]] = {
    "web": (MASKS,),
    "target": (GROUND_TRUTH, "pseudo_mask", "prediction"),
}
"""Fields of masks that a new dataset has."""


def label_field(kind: Kind) -> str:
    """Field of the image-level labels: one class on the web (what was searched for), any number on a target."""
    return "label" if kind == "web" else "labels"


def set_up(fiftyone: Any, dataset: "fo.Dataset", spec: DatasetSpec, kind: Kind) -> None:
    """Give an empty dataset its fields, mask names, colours and saved views.

    Args:
        fiftyone: The module.
        dataset: An empty dataset.
        spec: The definition.
        kind: ``web`` or ``target``.
    """
    _declare_fields(fiftyone, dataset, kind)
    dataset.default_mask_targets = mask_targets(spec)
    dataset.app_config.color_scheme = fiftyone.ColorScheme(**colours(spec, kind))
    # Segmentations stay hidden in the App until they are named here.
    dataset.app_config.active_fields = fiftyone.ActiveFields(paths=["tags", label_field(kind), *MASK_FIELDS[kind]])
    dataset.save()
    for name, view in _views(fiftyone.ViewField, dataset, spec, kind).items():
        dataset.save_view(name, view)


def _declare_fields(fiftyone: Any, dataset: "fo.Dataset", kind: Kind) -> None:
    """Declare every field at once, so that views and the App know them before the first image has them."""
    embedded = fiftyone.EmbeddedDocumentField
    label = fiftyone.Classification if kind == "web" else fiftyone.Classifications
    dataset.add_sample_field(label_field(kind), embedded, embedded_doc_type=label)
    for name in ("image_id", "sha256", "phash"):
        dataset.add_sample_field(name, fiftyone.StringField)
    for name in MASK_FIELDS[kind]:
        declare_masks(fiftyone, dataset, name)
    dataset.create_index("image_id")
    if kind == "target":
        return
    for name in ("verdict", "duplicate_of"):
        dataset.add_sample_field(name, fiftyone.StringField)
    for name in ("foreground_ratio", "confidence"):
        dataset.add_sample_field(name, fiftyone.FloatField)
    dataset.add_sample_field("quality", embedded, embedded_doc_type=fiftyone.DynamicEmbeddedDocument)
    for measure in fields(MaskQuality):
        dataset.add_sample_field(
            f"quality.{measure.name}", fiftyone.IntField if measure.type is int else fiftyone.FloatField
        )
    # A document class of our own would have to be importable wherever the dataset is opened, the App included.
    dataset.add_sample_field("provenance", embedded, embedded_doc_type=fiftyone.DynamicEmbeddedDocument)
    for name in PROVENANCE_TEXTS:
        dataset.add_sample_field(f"provenance.{name}", fiftyone.StringField)
    dataset.add_sample_field("provenance.retrieved_at", fiftyone.DateTimeField)
    dataset.add_sample_field("provenance.opt_outs", fiftyone.ListField, subfield=fiftyone.StringField)
    for name in ("original_width", "original_height"):
        dataset.add_sample_field(f"provenance.{name}", fiftyone.IntField)
    dataset.create_index("sha256")


def declare_masks(fiftyone: Any, dataset: "fo.Dataset", field: str) -> None:
    """Declare a field of masks, and show it in the App. Does nothing where the field is there."""
    if dataset.has_sample_field(field):
        return
    dataset.add_sample_field(field, fiftyone.EmbeddedDocumentField, embedded_doc_type=fiftyone.Segmentation)
    for attribute in ("method", "fingerprint"):
        dataset.add_sample_field(f"{field}.{attribute}", fiftyone.StringField)
    active = dataset.app_config.active_fields
    if active is not None and field not in active.paths:
        active.paths = [*active.paths, field]
        dataset.save()


def mask_targets(spec: DatasetSpec) -> dict[int, str]:
    """What the values of a label mask are called."""
    return {0: "background", **dict(enumerate(spec.class_names, start=1)), spec.ignore_index: "ignore"}


def colours(spec: DatasetSpec, kind: Kind) -> dict[str, Any]:
    """Settings of FiftyOne's ``ColorScheme``: VOC's colour for each class, on masks and labels alike."""
    palette = {value: "#{:02x}{:02x}{:02x}".format(*voc_palette()[value]) for value in mask_targets(spec) if value}
    by_label = [{"value": name, "color": palette[value]} for value, name in mask_targets(spec).items() if value]
    return {
        "color_by": "value",
        "default_mask_targets_colors": [{"intTarget": value, "color": colour} for value, colour in palette.items()],
        "fields": [{"path": label_field(kind), "colorByAttribute": "label", "valueColors": by_label}],
    }


def _views(field: Any, dataset: "fo.Dataset", spec: DatasetSpec, kind: Kind) -> dict[str, Any]:
    if kind == "target":
        dropped = field("tags").filter(field().starts_with(DROPPED)).length() > 0
        return {
            "train": dataset.match_tags("train"),
            "val": dataset.match_tags("val"),
            "dropped": dataset.match(dropped),
        }
    return {
        "kept": dataset.match_tags(KEPT),
        "too small": dataset.match_tags(TOO_SMALL).sort_by("foreground_ratio"),
        "too large": dataset.match_tags(TOO_LARGE).sort_by("foreground_ratio", reverse=True),
        "least confident first": dataset.match_tags(KEPT).sort_by("confidence"),
        # By what they repeat, so that copies stand beside each other.
        "duplicates": dataset.match(
            ((field("duplicate_of") != None) & ~field("tags").contains(LEAK))  # noqa: E711 (an expression, not a test)
            | field("tags").contains(PLACEHOLDER)
        ).sort_by("duplicate_of"),
        "leaks": dataset.match_tags(LEAK).sort_by("duplicate_of"),
        **{f"class {name}": dataset.match(field("label.label") == name) for name in spec.class_names},
    }
