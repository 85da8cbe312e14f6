"""A person's verdicts on the images of a web dataset, and the choice of those to train on."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wss_data.errors import StoreError
from wss_data.filtering.filters import Verdict, decide, retagged
from wss_data.filtering.verdicts import (
    FILE,
    Act,
    Standing,
    add_act,
    images,
    last_standing_act,
    read_acts,
    standing,
)
from wss_data.runtime.home import dataset_folder
from wss_data.store.connection import fiftyone
from wss_data.store.info import applied_filters, info_of, mark_filter_stale, update, web_info

if TYPE_CHECKING:
    import fiftyone as fo

CHOSEN = "train"
"""Tag of the images of a web dataset that a person chose to train on. Where no image has it, all kept ones are."""

ChoiceChange = Literal["replace", "add", "clear"]

_ACTION = "judged"


def verdict_file(dataset: "fo.Dataset") -> Path:
    """Where the verdicts on a dataset's images are kept for ever."""
    return dataset_folder(dataset.name) / FILE


def judge(dataset: "fo.Dataset", sample_ids: Collection[str], verdict: Verdict | None, reason: str = "") -> int:
    """Give images a person's verdict: the filter, co-segmentation, training and exports respect it from now on.

    It goes into the file of verdicts first, so that it also holds for a dataset that is built again.

    Args:
        dataset: A web dataset.
        sample_ids: The images.
        verdict: ``keep`` or ``drop``; ``None`` takes their verdicts away.
        reason: Why, for those who come later.

    Returns:
        Number of images that got it.

    Raises:
        StoreError: If it is no web dataset, none of the images is in it, or the verdict is unknown.
    """
    web_info(dataset, _ACTION)
    if verdict not in ("keep", "drop", None):
        raise StoreError(f"verdict {verdict!r} is unknown: keep, drop, or none at all.")
    keys = _keys(dataset, sample_ids)
    if not keys:
        raise StoreError(f"no image of dataset '{dataset.name}' was named: nothing was judged.")
    act = Act(datetime.now(UTC), verdict, tuple(keys.values()), reason.strip())
    add_act(verdict_file(dataset), act)
    given = None if verdict is None else Standing(verdict, act.reason, act.at)
    _store(dataset, dict.fromkeys(keys, given))
    return len(keys)


def undo_verdict(dataset: "fo.Dataset") -> Act:
    """Take back what was judged last, as a whole; once more takes back what came before it.

    Returns:
        What was taken back.

    Raises:
        StoreError: If it is no web dataset, or nothing is left to take back.
    """
    web_info(dataset, _ACTION)
    path = verdict_file(dataset)
    acts = read_acts(path)
    number = last_standing_act(acts)
    if number is None:
        raise StoreError(f"dataset '{dataset.name}' has no verdict that could be taken back.")
    undoing = Act(datetime.now(UTC), undoes=number)
    add_act(path, undoing)
    now = standing([*acts, undoing])
    wanted = set(acts[number - 1].images)
    _store(dataset, {key: now.get(image) for key, image in _keys(dataset).items() if image in wanted})
    return acts[number - 1]


def verdict_acts(dataset: "fo.Dataset") -> list[Act]:
    """All that was ever judged of a web dataset, in its order.

    Raises:
        StoreError: If it is no web dataset, or the file is damaged.
    """
    web_info(dataset, _ACTION)
    return read_acts(verdict_file(dataset))


def restore_verdicts(dataset: "fo.Dataset") -> int:
    """Give images that have no verdict the one that the file has for them. Returns how many got one.

    For images that came back: a dataset that was deleted and built again, or crawled anew.

    Raises:
        StoreError: If the file is damaged.
    """
    now = standing(read_acts(verdict_file(dataset)))
    if not now:
        return 0
    columns = dataset.values(["id", "label.label", "sha256", "verdict"])
    found = {
        key: now[(c, sha)] for key, c, sha, verdict in zip(*columns, strict=True) if not verdict and (c, sha) in now
    }
    if found:
        _store(dataset, found)
    return len(found)


def take_over_verdicts(dataset: "fo.Dataset", verdicts: Mapping[str, str], reason: str) -> None:
    """Give images the verdicts that came with them, from a manifest or an export.

    Args:
        dataset: A web dataset.
        verdicts: Sample id -> ``keep`` or ``drop``.
        reason: Where they came from.
    """
    for verdict in ("keep", "drop"):
        if of_these := [key for key, given in verdicts.items() if given == verdict]:
            judge(dataset, of_these, verdict, reason)


def choose_for_training(dataset: "fo.Dataset", sample_ids: Collection[str], how: ChoiceChange = "replace") -> int:
    """Say which images of a web dataset are trained on; without a choice it is all that are kept.

    A choice keeps nothing that the filter drops: that is what the verdict ``keep`` is for.

    Args:
        dataset: A web dataset.
        sample_ids: The images.
        how: ``replace`` makes them the choice, ``add`` adds them to it, ``clear`` ends the choice: all that are kept
            are trained on again.

    Returns:
        Number of images chosen now.

    Raises:
        StoreError: If it is no web dataset, or none of the images is in it.
    """
    web_info(dataset, "chosen from for training")
    if how not in ("add", "replace", "clear"):
        raise StoreError(f"the choice can be changed by add, replace or clear, not by {how!r}.")
    chosen = set(_keys(dataset, sample_ids)) if how != "clear" else set()
    if how != "clear" and not chosen:
        raise StoreError(f"no image of dataset '{dataset.name}' was named: the choice stays as it was.")
    before = dataset.match_tags(CHOSEN)
    ids = set(before.values("id"))
    if how != "add" and (gone := ids - chosen):
        dataset.select(list(gone)).untag_samples(CHOSEN)
    if new := chosen - ids:
        dataset.select(list(new)).tag_samples(CHOSEN)
    return len(dataset.match_tags(CHOSEN))


def find_images(dataset: "fo.Dataset", names: Collection[str]) -> list[str]:
    """Sample ids of images named by a person.

    Args:
        dataset: A web dataset.
        names: ``image_id`` (class/start of the digest), sample id or digest of each, or the start of ``image_id`` or
            digest.

    Raises:
        StoreError: If it is no web dataset, or a name fits no image or several.
    """
    web_info(dataset, _ACTION)
    rows = list(zip(*dataset.values(["id", "image_id", "sha256"]), strict=True))
    whole = {name: key for key, *names_of_it in rows for name in (key, *names_of_it) if name}
    found = []
    for name in names:
        if name in whole:
            found.append(whole[name])
            continue
        fits = [
            key
            for key, image_id, sha256 in rows
            if (image_id or "").startswith(name) or (sha256 or "").startswith(name)
        ]
        if len(fits) != 1:
            raise StoreError(
                f"dataset '{dataset.name}': {len(fits)} images are called '{name}'. Wanted is the image_id, the "
                "sha256, or enough of its start. Nothing was judged."
            )
        found.append(fits[0])
    return found


def act_told(act: Act) -> str:
    """What an act did, such as ``drop of 2 images (a drawing)``."""
    what = "taking away the verdict" if act.verdict is None else act.verdict
    return f"{what} of {images(act)}" + (f" ({act.reason})" if act.reason else "")


def _keys(dataset: "fo.Dataset", sample_ids: Collection[str] | None = None) -> dict[str, tuple[str, str]]:
    view = dataset if sample_ids is None else dataset.select(list(sample_ids))
    return {
        key: (name, sha256) for key, name, sha256 in zip(*view.values(["id", "label.label", "sha256"]), strict=True)
    }


def _store(dataset: "fo.Dataset", verdicts: Mapping[str, Standing | None]) -> None:
    """Write verdicts into the database, and the tags that the filter gives these images now."""
    fo = fiftyone()
    for name, kind in (("verdict_reason", fo.StringField), ("verdict_at", fo.DateTimeField)):
        if not dataset.has_sample_field(name):
            dataset.add_sample_field(name, kind)
    filters, state = applied_filters(dataset), info_of(dataset)["filter"]
    mark_filter_stale(dataset)
    parts: dict[str, dict[str, Any]] = {
        "verdict": {key: now.verdict if now else None for key, now in verdicts.items()},
        "verdict_reason": {key: now.reason or None if now else None for key, now in verdicts.items()},
        "verdict_at": {key: now.at if now else None for key, now in verdicts.items()},
    }
    for name, values in parts.items():
        dataset.set_values(name, values, key_field="id")
    if filters is None:
        return
    view = dataset.select(list(verdicts))
    rows = zip(*view.values(["id", "foreground_ratio", "verdict", "tags", "confidence"]), strict=True)
    tags = {key: retagged(old, decide(ratio, word, old, filters, sure)) for key, ratio, word, old, sure in rows}
    dataset.set_values("tags", tags, key_field="id")
    update(dataset, filter=state)  # as current as it was: these images are filtered
