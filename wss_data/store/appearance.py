"""What a dataset is given so that FiftyOne understands and shows it: fields, mask names, colours, saved views."""

from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any

from wss_data.cosegmentation.quality import MaskQuality
from wss_data.errors import MaskError
from wss_data.filtering.filters import (
    BY_VERDICT,
    DROPPED,
    FILTER_TAGS,
    GONE,
    KEPT,
    LEAK,
    LOW_CONFIDENCE,
    PLACEHOLDER,
    SCREENING_TAGS,
    TOO_LARGE,
    TOO_SMALL,
    UNREADABLE,
)
from wss_data.imaging.masks import IGNORE_INDEX, mask_names, open_mask, voc_palette
from wss_data.spec import DatasetSpec
from wss_data.store.connection import fiftyone, samples_of
from wss_data.store.info import GROUND_TRUTH, MASKS, PROVENANCE_TEXTS, SCORE, Kind, mask_fields
from wss_data.store.types import Dataset, View

# Fields of masks that a new dataset has.
MASK_FIELDS: dict[Kind, tuple[str, ...]] = {"web": (MASKS,), "target": (GROUND_TRUTH, "pseudo_mask", "prediction")}
# Field of the image-level labels: one class on the web (what was searched for), any number on a target.
LABELS: dict[Kind, str] = {"web": "label", "target": "labels"}
_SORTED = ("confidence", "foreground_ratio", SCORE)  # numbers by which saved views sort the images with one tag
ODD_VIEW = "odd ones out first"
# Names that views of an earlier version have; those of this version take their place.
_EARLIER_VIEWS = ("too small", "too large", "low confidence", "duplicates", "leaks")
KEPT_COLOUR, DROPPED_COLOUR, _JUDGED_COLOUR = "#2a9d5c", "#c0392b", "#e4a11b"

# Groups of the side bar: the three numbers to begin with, open, and the others. Their names say what is suspicious.
_NUMBERS = {
    "suspicious if low": (SCORE, "confidence"),
    "suspicious if low or high": ("foreground_ratio",),
    "more: suspicious if low": (
        *("quality.agreement", "quality.crf_agreement", "quality.compactness", "quality.colour_contrast"),
    ),
    "more: suspicious if high": (
        *("oddness", "quality.prototype_distance", "quality.border_contact", "quality.pieces", "quality.uncertain"),
    ),
}
_NOT_IN_USE = "masks not in use"  # group of the side bar


def set_up(dataset: Dataset, spec: DatasetSpec, kind: Kind) -> None:
    """Give an empty dataset its fields, mask names, colours and saved views."""
    _declare_fields(dataset, kind)
    bring_up_to_date(dataset, spec, kind)


def bring_up_to_date(dataset: Dataset, spec: DatasetSpec, kind: Kind) -> None:
    """Give a dataset that is new, changed, or made by an earlier version what it lacks; what its user changed stays.

    Saved views without an image go, and come back when there is one; a dataset without images has all.
    """
    values = mask_names(spec.class_names, spec.ignore_index)
    # By values, as earlier versions had them, or none at all; whatever else is there, its user has set.
    # Each of FiftyOne's setters reads and writes the whole dataset: here, once, at the end.
    if dataset.default_mask_targets in (values, {}):
        dataset._doc.default_mask_targets = colour_targets(spec.class_names, spec.ignore_index)
        dataset.app_config.color_scheme = fiftyone().ColorScheme(**_colours(spec, kind))
    grey = {field: values for field in mask_fields(dataset) if _is_grey(dataset, field)}
    if dataset.mask_targets != {**grey, **dataset.mask_targets}:
        dataset._doc.mask_targets = {**grey, **dataset.mask_targets}
    groups = dataset.app_config.sidebar_groups
    if groups is None or {"judge", "quality"} <= {group.name for group in groups}:  # none, or an earlier version's
        dataset.app_config.sidebar_groups = _side_bar(dataset, kind)
        # Segmentations stay hidden in the App until they are named here.
        paths = ["tags", LABELS[kind], *(field for field in mask_fields(dataset) if not _is_spare(field))]
        dataset.app_config.active_fields = fiftyone().ActiveFields(paths=paths)
        _describe_numbers(dataset)
    dataset.save()
    _make_indexes(dataset, kind)
    _offer(dataset, spec, _views(dataset, spec, kind))


def _make_indexes(dataset: Dataset, kind: Kind) -> None:
    """Index what images are found by; on the web what saved views choose and sort by, too.

    So that none of them has to read or sort 75,800 images.
    """
    from pymongo import IndexModel

    keys = [[("image_id", 1)]]
    if kind == "web":
        keys += [[(name, 1)] for name in ("sha256", "label.label", "duplicate_of", "oddness")]
        keys += [[("tags", 1), (number, 1)] for number in _SORTED]
    # A dataset that an earlier version made may lack a field.
    wanted = [IndexModel(key) for key in keys if all(dataset.has_field(name) for name, _ in key)]
    samples = samples_of(dataset)
    there = samples.index_information()
    # At once: FiftyOne would ask twice for each.
    if missing := [index for index in wanted if index.document["name"] not in there]:
        samples.create_indexes(missing)


def _offer(dataset: Dataset, spec: DatasetSpec, views: dict[str, View]) -> None:
    """Save those of the views that show an image, in their order and with the colour of their group."""
    # FiftyOne takes `Kept` and `kept` for one name: ours gives way to a view of the user's.
    used, slug = {view.slug: view.name for view in dataset._doc.get_saved_views()}, fiftyone().core.utils.to_slug
    free = (name for name in views if used.get(slug(name), name) == name)
    offered = [name for name in free if not len(dataset) or len(views[name].limit(1))]
    for name in dataset.list_saved_views():
        if name not in offered and (name in views or name in _EARLIER_VIEWS):
            dataset.delete_saved_view(name)
    there = [name for name in dataset.list_saved_views() if name in offered]
    # The App lists views by the time when they were saved: those before the first that is new keep their place.
    in_place = list(takewhile(lambda pair: pair[0] == pair[1], zip(there, offered, strict=False)))
    colours = {"kept": KEPT_COLOUR, "dropped": DROPPED_COLOUR}
    colours |= {f"class {name}": _hex(value) for value, name in enumerate(spec.class_names, start=1)}
    if behind := offered[len(in_place) :]:
        wanted = ((name, colours.get(name) or colours.get(name.split(":")[0]) or _JUDGED_COLOUR) for name in behind)
        _save_views(dataset, {name: (views[name], colour) for name, colour in wanted})


def _save_views(dataset: Dataset, views: dict[str, tuple[View, str]]) -> None:
    """As ``dataset.save_view(name, view, color=colour)`` for each, which would read and write the whole dataset.

    A view of that name goes to the end, and stays as its user changed it.
    """
    from bson import json_util

    record, now = fiftyone().core.odm.SavedViewDocument, datetime.now(UTC).replace(tzinfo=None)
    dataset._doc.reload("saved_views")
    there = {view.name: view for view in dataset._doc.get_saved_views()}
    ordered = []
    for position, (name, (view, colour)) in enumerate(views.items()):
        # The App orders them by their times, which the database keeps to the millisecond.
        at = now + timedelta(milliseconds=position)
        saved = there.get(name) or record(
            dataset_id=dataset._doc.id,
            name=name,
            slug=fiftyone().core.utils.to_slug(name),
            color=colour,
            view_stages=[json_util.dumps(stage) for stage in view._serialize(include_uuids=False)],
            last_modified_at=at,
        )
        saved.created_at = at
        ordered.append(saved.save(upsert=True))
    others = [view for view in dataset._doc.saved_views if view not in ordered]
    dataset._doc.saved_views = [*others, *ordered]
    dataset._doc.last_modified_at = now
    dataset._doc.save(virtual=True)


def _is_spare(field: str) -> bool:
    """Whether a field holds masks beside those in use: earlier ones, or a second co-segmentation's."""
    return field.startswith(f"{MASKS}_")


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
    # The App ticks tags, which say what was kept, only if they are in a group other than its own.
    labels, masks = ["tags", LABELS[kind]], mask_fields(dataset)
    groups: dict[str, Sequence[str]] = {"labels": [*labels, *(field for field in masks if not _is_spare(field))]}
    if kind == "web":
        more = {_NOT_IN_USE: [field for field in masks if _is_spare(field)]}
        groups |= {"verdict": ("verdict", "verdict_reason", "verdict_at"), **_NUMBERS, **more}
    listed = {path for paths in groups.values() for path in paths}
    for parent in ("quality", "provenance", "metadata"):
        groups[parent] = [path for path in schema if path.startswith(f"{parent}.") and path not in listed]
    shown = {name: [path for path in paths if path in schema] for name, paths in groups.items()}
    # Of an embedded field the App lists what is in it; that of labels and masks it lists by itself.
    inside = tuple(f"{parent}." for parent in ("quality", "provenance", "metadata", LABELS[kind], *masks))
    listed |= {"quality", "provenance", "metadata"}
    shown["other"] = [path for path in schema if path not in listed and not path.startswith(inside)]
    group, open_ = fiftyone().SidebarGroupDocument, ("labels", "verdict", *list(_NUMBERS)[:2])
    kept = {name: paths for name, paths in shown.items() if paths or name == _NOT_IN_USE}
    bar = [group(name=name, paths=paths, expanded=name in open_) for name, paths in kept.items()]
    return [group(name="tags", paths=[], expanded=False), *bar]


def _describe_numbers(dataset: Dataset) -> None:
    """Say in the App, where the mouse is over a number, which end of it is suspicious."""
    for group, paths in _NUMBERS.items():
        for path in filter(dataset.has_field, paths):
            field, said = dataset.get_field(path), group.removeprefix("more: ")
            if field.description != said:  # those of a new dataset were declared with it
                field.description = said
                field.save()


def _declare_fields(dataset: Dataset, kind: Kind) -> None:
    """Declare every field at once, so that views and the App know them before the first image has them."""
    fo = fiftyone()
    label = fo.Classification if kind == "web" else fo.Classifications
    declared = {LABELS[kind]: fo.EmbeddedDocumentField(label)}
    declared |= {name: fo.StringField() for name in ("image_id", "sha256", "phash")}
    for name in MASK_FIELDS[kind]:
        declared |= _of_masks(name)
    if kind == "web":
        said = {path: group.removeprefix("more: ") for group, paths in _NUMBERS.items() for path in paths}
        numbers = {field.name: field.type for field in fields(MaskQuality)}
        numbers = {f"quality.{name}": number for name, number in numbers.items()} | {SCORE: float}
        numbers |= dict.fromkeys(("foreground_ratio", "confidence", "oddness"), float)
        numbers |= {f"provenance.{name}": int for name in ("original_width", "original_height")}
        texts = ("verdict", "verdict_reason", "duplicate_of", *(f"provenance.{name}" for name in PROVENANCE_TEXTS))
        declared |= {name: fo.StringField() for name in texts}
        declared |= {name: fo.DateTimeField() for name in ("verdict_at", "provenance.retrieved_at")}
        # A document class of our own would have to be importable wherever the dataset is opened, the App included.
        declared |= {name: fo.EmbeddedDocumentField(fo.DynamicEmbeddedDocument) for name in ("quality", "provenance")}
        declared |= {"descriptor": fo.VectorField(), "descriptor_network": fo.StringField()}
        declared["provenance.opt_outs"] = fo.ListField(fo.StringField())
        for path, number in numbers.items():
            field = fo.IntField if number is int else fo.FloatField
            declared[path] = field(description=said.get(path))
    # In one go: for each declaration FiftyOne writes and reads all of them again, and for each depth of them.
    dataset.add_dynamic_sample_fields(_nested(declared))


def _nested(declared: dict[str, Any]) -> dict[str, Any]:
    """Fields by path, those that are in one of the others as fields of that one."""
    inside: dict[str, list[Any]] = {}
    for path, field in declared.items():
        parent, _, field.name = path.rpartition(".")
        field.db_field, field.null = field.name, True  # as FiftyOne makes fields
        inside.setdefault(parent, []).append(field)
    outer = {field.name: field for field in inside.pop("")}
    for parent, fields_of_it in inside.items():
        outer[parent].fields = fields_of_it
    return outer


def _of_masks(field: str, texts: Sequence[str] = (), description: str | None = None) -> dict[str, Any]:
    """A field of masks and what is in it beside FiftyOne's own; ``texts``: more names of fields in it."""
    fo = fiftyone()
    inside = {f"{field}.{name}": fo.StringField() for name in ("method", "fingerprint", *texts)}
    if _is_spare(field):  # the confidence of the mask in use is the image's own
        inside[f"{field}.confidence"] = fo.FloatField()
    return {field: fo.EmbeddedDocumentField(fo.Segmentation, description), **inside}


def declare_masks(dataset: Dataset, field: str, texts: Sequence[str] = (), description: str | None = None) -> None:
    """Declare a field of masks; the App shows it, or lists it below if it is not in use.

    A field that an earlier version made is given what it lacks.

    Args:
        dataset: The dataset.
        field: Name of the field.
        texts: Names of fields in it, beside those of all masks.
        description: What the App says of a new field.
    """
    is_new = not dataset.has_sample_field(field)
    dataset.add_dynamic_sample_fields(_nested(_of_masks(field, texts, description)))
    if not is_new:
        return
    # A field that is in no group the App lists, ticked or not, among those in use.
    listed = [group for group in dataset.app_config.sidebar_groups or () if group.name == _NOT_IN_USE]
    shown = [dataset.app_config.active_fields] if dataset.app_config.active_fields is not None else []
    for place in listed if _is_spare(field) else shown:
        if field not in place.paths:
            place.paths = [*place.paths, field]
    dataset.save()


def show_in_app(dataset: Dataset, spec: DatasetSpec, field: str) -> None:
    """Tick a field of instances in the App, which lets nobody edit what is not ticked, and give them VOC's colours."""
    scheme, shown = dataset.app_config.color_scheme, dataset.app_config.active_fields
    if scheme is not None:
        others = [entry for entry in scheme.fields or () if entry["path"] != field]
        scheme.fields = [*others, _coloured_by_label(field, spec)]
    if shown is not None and field not in shown.paths:
        shown.paths = [*shown.paths, field]
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
    return {
        "color_by": "value",
        "default_mask_targets_colors": [{"intTarget": value, "color": colour} for value, colour in palette.items()],
        "fields": [
            _coloured_by_label(LABELS[kind], spec),
            {"path": "tags", "valueColors": _tag_colours()},
        ],
    }


def _coloured_by_label(field: str, spec: DatasetSpec) -> dict[str, Any]:
    """VOC's colours for a field of labels, whose names are those of classes and of void."""
    names = mask_names(spec.class_names, spec.ignore_index)
    colours = [{"value": name, "color": _hex(value)} for value, name in names.items() if value]
    return {"path": field, "colorByAttribute": "label", "valueColors": colours}


def _tag_colours() -> list[dict[str, str]]:
    """Kept and dropped images differ in the grid."""
    dropped = sorted({*FILTER_TAGS, *SCREENING_TAGS, UNREADABLE, GONE} - {KEPT})
    return [{"value": tag, "color": KEPT_COLOUR if tag == KEPT else DROPPED_COLOUR} for tag in (KEPT, *dropped)]


def _views(dataset: Dataset, spec: DatasetSpec, kind: Kind) -> dict[str, View]:
    if kind == "target":
        field = fiftyone().ViewField
        dropped = field("tags").filter(field().starts_with(DROPPED)).length() > 0
        splits = {split: dataset.match_tags(split) for split in ("train", "val")}
        return {**splits, "dropped": dataset.match(dropped)}
    return {
        "kept": dataset.match_tags(KEPT),
        "most suspicious first": dataset.match_tags(KEPT).sort_by(SCORE),
        "least confident first": dataset.match_tags(KEPT).sort_by("confidence"),
        ODD_VIEW: dataset.match({"oddness": {"$ne": None}}).sort_by("oddness", reverse=True),
        "dropped: too small": dataset.match_tags(TOO_SMALL).sort_by("foreground_ratio"),
        "dropped: too large": dataset.match_tags(TOO_LARGE).sort_by("foreground_ratio", reverse=True),
        "dropped: low confidence": dataset.match_tags(LOW_CONFIDENCE).sort_by("confidence"),
        "dropped: your verdict": dataset.match_tags(BY_VERDICT),
        # By what they repeat, so that copies are beside each other.
        "dropped: duplicates": dataset.match(
            {"$or": [{"duplicate_of": {"$ne": None}, "tags": {"$ne": LEAK}}, {"tags": PLACEHOLDER}]}
        ).sort_by("duplicate_of"),
        "dropped: leaks": dataset.match_tags(LEAK).sort_by("duplicate_of"),
        # As MongoDB's own condition, here and above: an expression of FiftyOne's makes no use of an index.
        **{f"class {name}": dataset.match({"label.label": name}) for name in spec.group_names},
    }
