"""The text of a dataset card, counted from the rows of a web dataset."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.resources import files
from statistics import median
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined

from wss_data import store
from wss_data.filtering.filters import DROPPED, KEPT
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_data.reading.cells import one_line
from wss_data.records import first_source
from wss_data.sharing.attribution import Credit
from wss_data.sharing.layouts.huggingface import columns_note
from wss_data.sharing.manifest import public_cosegmentation, public_ledger
from wss_data.spec import CosegmentationSpec, DatasetSpec, FilterSpec
from wss_data.store.provenance import ImageRow

if TYPE_CHECKING:
    from wss_data.store.types import Dataset

# Ours: below this fraction or number of kept images, a class is named among the weaknesses; from this ratio of the
# largest to the smallest class on, the classes are called unequal.
FEW_KEPT, FEW_IMAGES, UNEQUAL = 0.25, 50, 3

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~&])")


@dataclass(frozen=True)
class Facts:
    """What a card is written from; no path of this machine is in it."""

    spec: DatasetSpec  # what the dataset was built by, as far as it can be published
    name: str
    created: datetime
    rows: Sequence[ImageRow]  # all images, the dropped ones too
    drops: Mapping[str, Mapping[str, int]]  # class -> reason -> number of search results that gave no image
    filters: FilterSpec  # in force now; those of the definition may be others
    ledger: Ledger

    @cached_property
    def kept(self) -> list[ImageRow]:
        """The images that the filter keeps."""
        return [row for row in self.rows if KEPT in row.tags]

    @cached_property
    def by_class(self) -> dict[str, list[ImageRow]]:
        """Group -> its images, in the definition's order."""
        return {name: [row for row in self.rows if row.class_name == name] for name in self.spec.group_names}

    @cached_property
    def sources(self) -> Counter[str]:
        """Source that found an image first -> number of images."""
        return Counter(first_source(row.provenance)[0] for row in self.rows)

    @cached_property
    def licences(self) -> Counter[tuple[str | None, str | None]]:
        """(SPDX identifier or ``None``, address of the text) -> number of kept images."""
        return Counter((row.provenance.license, row.provenance.license_url) for row in self.kept)

    @cached_property
    def retrieved(self) -> tuple[datetime, datetime] | None:
        """When the first and the last image were read; ``None`` if not known."""
        times = [row.provenance.retrieved_at for row in self.rows if row.provenance.retrieved_at is not None]
        return (min(times), max(times)) if times else None


def dataset_facts(dataset: "Dataset", rows: Sequence[ImageRow]) -> Facts:
    """What the card of a web dataset is written from. ``rows``: its ``image_rows``."""
    spec = store.definition(dataset)
    return Facts(
        spec=replace(spec, cosegmentation=CosegmentationSpec(**public_cosegmentation(asdict(spec.cosegmentation)))),
        name=dataset.name,
        created=dataset.created_at.replace(tzinfo=UTC, microsecond=0),
        rows=rows,
        drops=store.drops(dataset),
        filters=store.applied_filters(dataset) or spec.filters,
        ledger=public_ledger(store.mask_ledger(dataset, store.MASKS)),
    )


def card_text(facts: Facts, credits: Sequence[Credit] = (), with_images: bool = False) -> str:
    """The card as Markdown: ``card.jinja``, filled in.

    Args:
        facts: What it is written from.
        credits: Authors of the images in ``pictures/examples.png``; without any there is no such image.
        with_images: Whether the images lie beside it (an export) instead of a manifest alone.
    """
    spec, rows, ledger = facts.spec, facts.rows, facts.ledger.entries
    methods = Counter(row.mask_method or "unknown" for row in rows if row.mask_path)
    drops: Counter[str] = Counter()
    for name in spec.group_names:
        drops.update(facts.drops.get(name, {}))
    licences = sorted(facts.licences.items(), key=lambda item: (-item[1], str(item[0])))
    said: dict[str, str] = {Supervision.UNKNOWN: "not known", UsedFor.COSEGMENTATION: "co-segmentation"}
    # No autoescape: that is for HTML. Whatever strangers wrote passes ``words``, here or in the template.
    page = Environment(trim_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)
    page.filters["words"] = _escaped
    return page.from_string((files("wss_data.sharing") / "card.jinja").read_text(encoding="utf-8")).render(
        facts=facts,
        spec=spec,
        with_images=with_images,
        columns=columns_note(spec.class_names, spec.ignore_index),
        authors=dict.fromkeys(f"{_escaped(c.author or 'an unknown author')} ({_escaped(c.license)})" for c in credits),
        counts=_count_rows(facts),
        sources=[(name, f"{count:,}") for name, count in _ranked(facts.sources)],
        licences=[(name or "not known", f"{count:,}", address or "") for (name, address), count in licences],
        named=[row.provenance.author for row in rows if row.provenance.author],
        imported=store.IMPORTED,
        methods=[(_escaped(name), count) for name, count in _ranked(methods)],
        engine=one_line(spec.cosegmentation.method).replace("`", ""),
        options=[f"{_escaped(name)} = {_escaped(str(value))}" for name, value in spec.cosegmentation.options.items()],
        verdicts=Counter(row.verdict for row in rows),
        drops=[(reason.replace("_", " "), count) for reason, count in drops.most_common()],
        weaknesses=weaknesses(facts),
        learned=[(e.what, *(said.get(k, k.replace("_", " ")) for k in (e.supervision, e.used_for))) for e in ledger],
    )


def weaknesses(facts: Facts) -> list[str]:
    """What a user should know before trusting the dataset, one sentence each; the first hold for every such set."""
    rows, by_class = facts.rows, facts.by_class
    kept = {name: sum(KEPT in row.tags for row in by_class[name]) for name in facts.spec.class_names}
    few = [name for name, count in kept.items() if count < FEW_IMAGES]
    lossy = [name for name, count in kept.items() if count < FEW_KEPT * len(by_class[name])]
    unknown = sum(row.provenance.license is None for row in facts.kept)
    without_url = sum(not (row.provenance.image_url or "").startswith("http") for row in rows)
    opt_outs = sum(bool(row.provenance.opt_outs) for row in rows)
    most, least, strict = max(kept.values()), min(kept.values()), facts.ledger.strictly_image_level
    conditional = {
        f"Fewer than {FEW_IMAGES} kept images: {', '.join(map(_escaped, few))}.": few,
        f"Fewer than {FEW_KEPT:.0%} of the images were kept: {', '.join(map(_escaped, lossy))}. Their masks are "
        "probably worse than those of other classes, the kept ones included.": lossy,
        f"The classes are unequal: {most:,} kept images of one, {least:,} of another.": most >= UNEQUAL * least > 0,
        f"{unknown:,} kept images have no known licence.": unknown,
        f"{without_url:,} images have no address on the web: a rebuild lacks them.": without_url,
        f"{opt_outs:,} images came with a signal against machine learning.": opt_outs,
        "No person has judged a single image.": not any(row.verdict for row in rows),
        "Near-duplicates were not looked for.": facts.spec.duplicates.max_distance is None,
        "Something stronger than image-level labels went into the masks: see below.": not strict,
    }
    return [
        "The labels are search terms: nobody checked that an image shows its class, or that it shows nothing else.",
        "The masks were computed, not drawn: their borders and their extent are wrong in places, and no truth was "
        "there to measure by how much.",
        "A mask knows one class. Objects of other classes in the same image count as background.",
        "What is on the web is not what is in the world: images there tend to be well lit, centred, from few places.",
        *(sentence for sentence, holds in conditional.items() if holds),
    ]


def _count_rows(facts: Facts) -> list[list[str]]:
    table = []
    for item in facts.spec.groups:
        rows = facts.by_class[item.name]
        kept = [row for row in rows if KEPT in row.tags]
        reasons = Counter(tag.removeprefix(DROPPED) for row in rows for tag in row.tags if tag.startswith(DROPPED))
        dropped = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in _ranked(reasons))
        ratios = [row.foreground_ratio for row in kept if row.foreground_ratio is not None]
        middle = f"{median(ratios):.0%}" if ratios else ""
        table.append([item.name, ", ".join(item.queries), *_counts(kept, rows), middle, dropped])
    return [*table, ["all", "", *_counts(facts.kept, facts.rows), "", ""]]


def _counts(kept: Sequence[ImageRow], rows: Sequence[ImageRow]) -> tuple[str, str]:
    return f"{len(rows):,}", f"{len(kept):,} ({len(kept) / max(len(rows), 1):.0%})"


def _ranked(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _escaped(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", one_line(text))
