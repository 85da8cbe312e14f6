"""A person's verdicts on the images of a web dataset, and the choice of those to train on.

Each function raises ``StoreError`` for a target dataset.
"""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from wss_data.errors import StoreError
from wss_data.filtering.filters import Verdict, decide, retagged
from wss_data.filtering.verdicts import FILE, Act, ImageKey, add_act, last_standing_act, read_acts, standing
from wss_data.runtime.home import dataset_folder
from wss_data.store.connection import fiftyone
from wss_data.store.info import applied_filters, mark_filter_stale, rows, update, web_info
from wss_data.store.types import Dataset

CHOSEN = "train"  # tag of the images of a web dataset that a person chose; where none has it, all kept ones teach
ChoiceChange = Literal["replace", "add", "clear"]
_ACTION = "judged"


def verdict_file(dataset: Dataset) -> Path:
    """Where the verdicts on a dataset's images are kept for ever."""
    return dataset_folder(dataset.name) / FILE


def judge(dataset: Dataset, sample_ids: Collection[str], verdict: Verdict | None, reason: str = "") -> int:
    """Give images a person's verdict: the filter, co-segmentation, training and exports respect it from now on.

    It goes into the file of verdicts first, so that it also holds for a dataset that is built again. ``None`` takes
    the images' verdicts away. Returns how many images of the dataset were named.

    Raises:
        StoreError: If none of the images is in the dataset, or the verdict is unknown.
    """
    web_info(dataset, _ACTION)
    if verdict not in (*get_args(Verdict), None):
        raise StoreError(f"verdict {verdict!r} is unknown: keep, drop, or none at all.")
    keys = _keys(dataset, sample_ids)
    if not keys:
        raise StoreError(f"no image of dataset '{dataset.name}' was named: nothing was judged.")
    act = Act(datetime.now(UTC), verdict, tuple(keys.values()), reason.strip())
    # First: a verdict that is in the file only comes back with `restore_verdicts`, one in the database only is lost.
    add_act(verdict_file(dataset), act)
    _store(dataset, dict.fromkeys(keys, act if verdict else None))
    return len(keys)


def undo_verdict(dataset: Dataset) -> Act:
    """Undo what was judged last, on all of its images, and return it; ``StoreError`` if nothing is left to undo."""
    acts = verdict_acts(dataset)
    number = last_standing_act(acts)
    if number is None:
        raise StoreError(f"dataset '{dataset.name}' has no verdict that could be undone.")
    undoing = Act(datetime.now(UTC), undoes=number)
    add_act(verdict_file(dataset), undoing)
    now = standing([*acts, undoing])
    wanted = set(acts[number - 1].images)
    _store(dataset, {key: now.get(image) for key, image in _keys(dataset).items() if image in wanted})
    return acts[number - 1]


def verdict_acts(dataset: Dataset) -> list[Act]:
    """All that was ever judged of a web dataset, in its order; ``StoreError`` if the file is damaged."""
    web_info(dataset, _ACTION)
    return read_acts(verdict_file(dataset))


def restore_verdicts(dataset: Dataset) -> int:
    """Give images without a verdict, which came back or were crawled again, that of the file. Returns how many got one.

    Raises:
        StoreError: If the file is damaged.
    """
    now = standing(verdict_acts(dataset))
    found = {}
    if now:  # most datasets have no verdict: their images are not read
        columns = rows(dataset, "id", "label.label", "sha256", "verdict")
        found = {key: now[(c, sha)] for key, c, sha, verdict in columns if not verdict and (c, sha) in now}
    if found:
        _store(dataset, found)
    return len(found)


def take_over_verdicts(dataset: Dataset, verdicts: Mapping[str, str], reason: str) -> None:
    """Give images the verdicts that came with them (sample id -> keep or drop); ``reason`` says from where."""
    for verdict in get_args(Verdict):
        if of_these := [key for key, given in verdicts.items() if given == verdict]:
            judge(dataset, of_these, verdict, reason)


def choose_for_training(dataset: Dataset, sample_ids: Collection[str], how: ChoiceChange = "replace") -> int:
    """Say which images of a web dataset are trained on; without a choice it is all that are kept.

    ``replace`` makes the images the choice, ``add`` adds them to it, ``clear`` ends it. A choice keeps nothing that the
    filter drops: that is what the verdict ``keep`` is for. Returns the number of images chosen now.

    Raises:
        StoreError: If none of the images is in the dataset.
    """
    web_info(dataset, "chosen from for training")
    if how not in get_args(ChoiceChange):
        raise StoreError(f"the choice can be changed by add, replace or clear, not by {how!r}.")
    chosen = set(_keys(dataset, sample_ids)) if how != "clear" else set()
    if how != "clear" and not chosen:
        raise StoreError(f"no image of dataset '{dataset.name}' was named: the choice stays as it was.")
    ids = set(dataset.match_tags(CHOSEN).values("id"))
    if how != "add" and (gone := ids - chosen):
        dataset.select(list(gone)).untag_samples(CHOSEN)
    if new := chosen - ids:
        dataset.select(list(new)).tag_samples(CHOSEN)
    return len(dataset.match_tags(CHOSEN))


def find_images(dataset: Dataset, names: Collection[str]) -> list[str]:
    """Sample ids of images named by ``image_id`` (class/start of the digest), digest, start of these, or sample id.

    Raises:
        StoreError: If a name fits no image or several.
    """
    web_info(dataset, _ACTION)
    known = list(rows(dataset, "id", "image_id", "sha256"))
    whole = {name: key for key, *names_of_it in known for name in (key, *names_of_it) if name}
    found = []
    for name in names:
        # A whole name comes first: one may be the start of another.
        starts = (key for key, *names_of_it in known if any((n or "").startswith(name) for n in names_of_it))
        fits = [whole[name]] if name in whole else list(starts)
        if len(fits) != 1:
            raise StoreError(
                f"dataset '{dataset.name}': {len(fits)} images are called '{name}'. Wanted is the image_id, the "
                "sha256, or enough of its start. Nothing was judged."
            )
        found.append(fits[0])
    return found


def _keys(dataset: Dataset, sample_ids: Collection[str] | None = None) -> dict[str, ImageKey]:
    view = dataset if sample_ids is None else dataset.select(list(sample_ids))
    return {key: (name, sha256) for key, name, sha256 in rows(view, "id", "label.label", "sha256")}


def _store(dataset: Dataset, verdicts: Mapping[str, Act | None]) -> None:
    """Write the acts in force on images into the database, and the tags that the filter gives these images now."""
    fo = fiftyone()
    # Of an earlier version's dataset these may be missing.
    dataset.add_sample_field("verdict_reason", fo.StringField)
    dataset.add_sample_field("verdict_at", fo.DateTimeField)
    info = web_info(dataset, _ACTION)
    mark_filter_stale(dataset)
    parts: dict[str, dict[str, Any]] = {
        "verdict": {key: act and act.verdict for key, act in verdicts.items()},
        "verdict_reason": {key: act.reason or None if act else None for key, act in verdicts.items()},
        "verdict_at": {key: act and act.at for key, act in verdicts.items()},
    }
    for name, values in parts.items():
        dataset.set_values(name, values, key_field="id")
    filters = applied_filters(dataset)
    if filters is None:
        return
    changed = rows(dataset.select(list(verdicts)), "id", "foreground_ratio", "verdict", "tags", "confidence")
    tags = {key: retagged(old, decide(ratio, word, old, filters, sure)) for key, ratio, word, old, sure in changed}
    dataset.set_values("tags", tags, key_field="id")
    update(dataset, filter=info["filter"])  # as current as it was: these images are filtered
