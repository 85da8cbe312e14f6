"""The text of a dataset card, counted from the rows of a web dataset."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING

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

FEW_KEPT = 0.25
"""Below this fraction of kept images, a class is named among the weaknesses. Ours."""

FEW_IMAGES = 50
"""Below this number of kept images, a class is named among the weaknesses. Ours."""

_UNEQUAL = 3
"""From this ratio of the largest to the smallest class on, the classes are called unequal. Ours."""

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~&])")


@dataclass(frozen=True)
class Facts:
    """What a card is written from; no path of this machine is in it.

    Args:
        spec: What the dataset was built by, as far as it can be published.
        name: Name of the dataset.
        created: When it was made.
        rows: All images.
        drops: Class -> reason -> number of search results that gave no image.
        filters: The thresholds in force.
        ledger: What the masks were made from.
    """

    spec: DatasetSpec
    name: str
    created: datetime
    rows: Sequence[ImageRow]
    drops: Mapping[str, Mapping[str, int]]
    filters: FilterSpec
    ledger: Ledger

    @cached_property
    def kept(self) -> list[ImageRow]:
        """The images that the filter keeps."""
        return [row for row in self.rows if KEPT in row.tags]

    @cached_property
    def by_class(self) -> dict[str, list[ImageRow]]:
        """Class -> its images, in the definition's order."""
        return {name: [row for row in self.rows if row.class_name == name] for name in self.spec.class_names}

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
    """The card as Markdown.

    Args:
        facts: What it is written from.
        credits: Authors of the images in ``pictures/examples.png``; without any there is no such image.
        with_images: Whether the images lie beside it (an export) instead of a manifest alone.
    """
    names = ", ".join(_escaped(name) for name in facts.spec.class_names)
    if with_images:
        files = columns_note(facts.spec.class_names, facts.spec.ignore_index)
        files += "\nThe table of all images, the dropped ones too: `manifest.jsonl.gz`.\n"
        histogram = ""
    else:
        files = _FILES.format(name=facts.spec.name) + (_shown_by(credits) if credits else "")
        histogram = "\n![Foreground fraction of the masks](pictures/foreground_ratio.png)\n"
    weak = "\n".join(f"- {sentence}" for sentence in weaknesses(facts))
    sources = [["source", "images"], *([name, f"{count:,}"] for name, count in _ranked(facts.sources))]
    return f"""\
# {_escaped(facts.name)}

{len(facts.rows):,} images of {len(facts.spec.classes)} classes ({names}), found by their class names; \
{len(facts.kept):,} are kept. Each has a mask of the object, {_origin(_methods(facts))}. \
Made with wss; first built on {facts.created:%Y-%m-%d}.

{files}
## Counts

{_table(_count_rows(facts))}
{histogram}
## Sources and dates

{_table(sources)}

{_dates(facts.retrieved)}

## Licences of the kept images

{_licences(facts)}

## How the masks were made

{_masks(facts)}

## What was filtered out

{_filters(facts)}

## Known weaknesses

{weak}

## What it learned from

{_ledger(facts.ledger)}

## If an image is yours

Who takes an image off the web takes it out of every later rebuild. Who publishes this card can take it out of \
the list, with all that was made from it, by `wss-data forget`, and publish the list anew.
"""


_FILES = """\
**No image is in here.** `manifest.jsonl.gz` lists them; to fetch them from where they are:

```
wss-data rebuild manifest.jsonl.gz --name {name}
```

`images.csv` is the same list as a table, `CREDITS.md` names the authors of the kept images.
"""


def weaknesses(facts: Facts) -> list[str]:
    """What a user should know before trusting the dataset, one sentence each; the first hold for every such set."""
    rows, kept = facts.rows, {name: sum(KEPT in row.tags for row in rows) for name, rows in facts.by_class.items()}
    few = [name for name, count in kept.items() if count < FEW_IMAGES]
    lossy = [name for name, count in kept.items() if count < FEW_KEPT * len(facts.by_class[name])]
    unknown = sum(row.provenance.license is None for row in facts.kept)
    without_url = sum(not (row.provenance.image_url or "").startswith("http") for row in rows)
    opt_outs = sum(bool(row.provenance.opt_outs) for row in rows)
    most, least = max(kept.values()), min(kept.values())
    conditional = {
        f"Fewer than {FEW_IMAGES} kept images: {', '.join(map(_escaped, few))}.": few,
        f"Fewer than {FEW_KEPT:.0%} of the images were kept: {', '.join(map(_escaped, lossy))}. Their masks are "
        "probably worse than those of other classes, the kept ones included.": lossy,
        f"The classes are unequal: {most:,} kept images of one, {least:,} of another.": least
        and most >= _UNEQUAL * least,
        f"{unknown:,} kept images have no known licence.": unknown,
        f"{without_url:,} images have no address on the web: a rebuild lacks them.": without_url,
        f"{opt_outs:,} images came with a signal against machine learning.": opt_outs,
        "No person has judged a single image.": not any(row.verdict for row in rows),
        "Near-duplicates were not looked for.": facts.spec.duplicates.max_distance is None,
        "Something stronger than image-level labels went into the masks: see below.": not (
            facts.ledger.strictly_image_level
        ),
    }
    return [
        "The labels are search terms: nobody checked that an image shows its class, or that it shows nothing else.",
        "The masks were computed, not drawn: their borders and their extent are wrong in places, and no truth was "
        "there to measure by how much.",
        "A mask knows one class. Objects of other classes in the same image count as background.",
        "What is on the web is not what is in the world: images there tend to be well lit, centred, from few places.",
        *(sentence for sentence, holds in conditional.items() if holds),
    ]


def _methods(facts: Facts) -> Counter[str]:
    """What made the masks -> number of masks."""
    return Counter(row.mask_method or "unknown" for row in facts.rows if row.mask_path)


def _origin(methods: Counter[str]) -> str:
    if not set(methods) - {store.IMPORTED}:
        return "made elsewhere and imported" if methods else "not made yet"
    return "computed by co-segmentation" + (", some imported" if store.IMPORTED in methods else "")


def _count_rows(facts: Facts) -> list[list[str]]:
    table = [["class", "searched for", "images", "kept", "median foreground", "dropped"]]
    for item in facts.spec.classes:
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


def _licences(facts: Facts) -> str:
    table = [["licence", "images", "text"]]
    for (licence, address), count in sorted(facts.licences.items(), key=lambda item: (-item[1], str(item[0]))):
        table.append([licence or "not known", f"{count:,}", address or ""])
    authors = [row.provenance.author for row in facts.rows if row.provenance.author]
    return (
        f"{_table(table)}\n\nAuthors named: {len(set(authors)):,}; images without a known author: "
        f"{len(facts.rows) - len(authors):,}. The licence is each image's own, as its source gave it, and nobody "
        "checked it. A mask is a work derived from its image: a licence without derivatives (ND) does not allow it to "
        "be published."
    )


def _dates(retrieved: tuple[datetime, datetime] | None) -> str:
    if retrieved is None:
        return "When the images were fetched is not known."
    first, last = (f"{moment:%Y-%m-%d}" for moment in retrieved)
    return f"Fetched on {first}." if first == last else f"Fetched between {first} and {last}."


def _masks(facts: Facts) -> str:
    made = ", ".join(f"{count:,} by {_escaped(method)}" for method, count in _ranked(_methods(facts))) or "none"
    engine = facts.spec.cosegmentation
    options = ", ".join(f"{_escaped(key)} = {_escaped(str(value))}" for key, value in engine.options.items())
    values = ", ".join(f"{index} {_escaped(name)}" for index, name in enumerate(facts.spec.class_names, start=1))
    method = f"`{one_line(engine.method).replace('`', '')}`"
    return (
        f"Masks: {made}. The definition asks for {method}{f' with {options}' if options else ''}.\n\n"
        f"A mask is a palette PNG of class indices: 0 background, {values}, {facts.spec.ignore_index} ignore."
    )


def _filters(facts: Facts) -> str:
    low, high, least = facts.filters.min_foreground, facts.filters.max_foreground, facts.filters.min_confidence
    sure = f" and whose confidence is {least:g} or more" if least else ""
    distance = facts.spec.duplicates.max_distance
    repeats = "not looked for" if distance is None else f"images whose hashes differ in at most {distance} of 64 bits"
    verdicts = Counter(row.verdict for row in facts.rows)
    lost: Counter[str] = Counter()
    for name in facts.spec.class_names:
        lost.update(facts.drops.get(name, {}))
    without = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in lost.most_common())
    return (
        f"- Kept: images whose mask covers {low:.0%} to {high:.0%} of the frame{sure}.\n"
        f"- Repeats: {repeats}.\n"
        f"- A person's verdict: {verdicts['keep']:,} to keep, {verdicts['drop']:,} to drop.\n"
        f"- Stored images have at most {facts.spec.longest_side} pixels on their longer side."
        + (f"\n- Search results that gave no image: {without}." if without else "")
    )


def _ledger(ledger: Ledger) -> str:
    used = {UsedFor.WEIGHTS: "weights", UsedFor.COSEGMENTATION: "co-segmentation"}
    table = [["what", "what people had to give", "used for"]]
    for entry in ledger.entries:
        given = "not known" if entry.supervision is Supervision.UNKNOWN else str(entry.supervision).replace("_", " ")
        table.append([entry.what, given, used.get(entry.used_for, str(entry.used_for).replace("_", " "))])
    verdict = "yes" if ledger.strictly_image_level else "no"
    return f"{_table(table)}\n\nNothing stronger than image-level labels: **{verdict}**."


def _shown_by(credits: Sequence[Credit]) -> str:
    names = dict.fromkeys(
        f"{_escaped(item.author or 'an unknown author')} ({_escaped(item.license)})" for item in credits
    )
    return (
        "\n![Kept images above their masks](pictures/examples.png)\n\n"
        f"Shown above are shrunk images by {', '.join(names)}; all are credited in [CREDITS.md](CREDITS.md).\n"
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = [[_escaped(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body))


def _ranked(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _escaped(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", one_line(text))
