"""The words of a dataset card, from plain values."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from wss_data.errors.text import clean_text
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_data.sharing.attribution import Credit
from wss_data.sharing.card_facts import Facts
from wss_data.sharing.layouts.huggingface import columns_told

FEW_KEPT = 0.25
"""Below this share of kept images, a class is named among the weaknesses."""

FEW_IMAGES = 50
"""Below this number of kept images, a class is named among the weaknesses."""

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~&])")


def card_text(facts: Facts, credits: Sequence[Credit] = (), with_images: bool = False) -> str:
    """The card as Markdown.

    Args:
        facts: What it tells.
        credits: Authors of the images in ``pictures/examples.png``; without any there is no such picture.
        with_images: Whether the images lie beside it (an export) instead of a manifest alone.
    """
    name = _escaped(facts.name)
    names = ", ".join(_escaped(item.name) for item in facts.classes)
    lines = [
        f"# {name}",
        "",
        f"{facts.images:,} images of {len(facts.classes)} classes ({names}), found by their class names; "
        f"{facts.kept:,} are kept. Each has a mask of the object, {_origin(facts)}. "
        f"Made with wss; first built on {facts.created:%Y-%m-%d}.",
        "",
    ]
    if with_images:
        lines += [columns_told(facts.spec.class_names, facts.spec.ignore_index)]
        lines += ["The table of all images, the dropped ones too: `manifest.jsonl.gz`.", ""]
    else:
        lines += [
            "**No image is in here.** `manifest.jsonl.gz` lists them; to fetch them from where they are:",
            "",
            "```",
            f"wss-data rebuild manifest.jsonl.gz --name {facts.spec.name}",
            "```",
            "",
            "`images.csv` is the same list as a table, `CREDITS.md` names the authors of the kept images.",
            "",
        ]
        if credits:
            lines += ["![Kept images above their masks](pictures/examples.png)", "", _shown_by(credits), ""]
    lines += ["## Counts", "", *_table(_count_rows(facts)), ""]
    if not with_images:
        lines += ["![Foreground share of the masks](pictures/foreground_ratio.png)", ""]
    lines += ["## Sources and dates", "", *_table([["source", "images"], *_sorted(facts.sources)]), ""]
    lines += [_dates(facts), ""]
    lines += ["## Licences of the kept images", "", *_table(_licence_rows(facts)), "", _licence_note(facts), ""]
    lines += ["## How the masks were made", "", *_masks_told(facts), ""]
    lines += ["## What was filtered out", "", *_filters_told(facts), ""]
    lines += ["## Known weaknesses", "", *(f"- {sentence}" for sentence in weaknesses(facts)), ""]
    lines += ["## What it learned from", "", *_ledger_told(facts.ledger), ""]
    lines += [
        "## If a picture is yours",
        "",
        "Who takes a picture off the web takes it out of every later rebuild. Who publishes this card can take it "
        "out of the list, with all that was made from it, by `wss-data forget`, and publish the list anew.",
        "",
    ]
    return "\n".join(lines)


def weaknesses(facts: Facts) -> list[str]:
    """What a user should know before trusting the dataset, one sentence each; the first hold for every such set."""
    found = [
        "The labels are search terms: nobody checked that an image shows its class, or that it shows nothing else.",
        "The masks were computed, not drawn: their borders and their extent are wrong in places, and no truth was "
        "there to measure by how much.",
        "A mask knows one class. Objects of other classes in the same image count as background.",
        "What is on the web is not what is in the world: images there tend to be well lit, centred, from few places.",
    ]
    few = [item.name for item in facts.classes if item.kept < FEW_IMAGES]
    if few:
        found.append(f"Fewer than {FEW_IMAGES} kept images: {', '.join(map(_escaped, few))}.")
    lossy = [item.name for item in facts.classes if item.images and item.kept / item.images < FEW_KEPT]
    if lossy:
        found.append(
            f"Fewer than {FEW_KEPT:.0%} of the images were kept: {', '.join(map(_escaped, lossy))}. Their masks are "
            "probably worse than those of other classes, the kept ones included."
        )
    counts = [item.kept for item in facts.classes]
    if min(counts) and max(counts) >= 3 * min(counts):
        found.append(f"The classes are unequal: {max(counts):,} kept images of one, {min(counts):,} of another.")
    if (unknown := sum(n for (licence, _), n in facts.licences.items() if licence is None)) > 0:
        found.append(f"{unknown:,} kept images have no known licence.")
    if facts.without_url:
        found.append(f"{facts.without_url:,} images have no address on the web: a rebuild lacks them.")
    if facts.opt_outs:
        found.append(f"{facts.opt_outs:,} images came with a signal against machine learning.")
    if not facts.verdicts:
        found.append("No person has judged a single image.")
    if facts.spec.duplicates.max_distance is None:
        found.append("Near-duplicates were not looked for.")
    if not facts.ledger.strictly_image_level:
        found.append("Something stronger than image-level labels went into the masks: see below.")
    return found


def _origin(facts: Facts) -> str:
    ours = {method: count for method, count in facts.methods.items() if method != "imported"}
    if not ours:
        return "made elsewhere and imported" if facts.methods else "not made yet"
    return "computed by co-segmentation" + (", some imported" if len(ours) < len(facts.methods) else "")


def _count_rows(facts: Facts) -> list[list[str]]:
    rows = [["class", "searched for", "images", "kept", "median foreground", "dropped"]]
    for item in facts.classes:
        dropped = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in _ranked(item.dropped))
        share = "" if item.foreground is None else f"{item.foreground:.0%}"
        kept = f"{item.kept:,} ({item.kept / max(item.images, 1):.0%})"
        rows.append([item.name, ", ".join(item.queries), f"{item.images:,}", kept, share, dropped])
    total = f"{facts.kept:,} ({facts.kept / max(facts.images, 1):.0%})"
    return [*rows, ["all", "", f"{facts.images:,}", total, "", ""]]


def _licence_rows(facts: Facts) -> list[list[str]]:
    rows = [["licence", "images", "text"]]
    for (licence, address), count in sorted(facts.licences.items(), key=lambda item: (-item[1], str(item[0]))):
        rows.append([licence or "not known", f"{count:,}", address or ""])
    return rows


def _licence_note(facts: Facts) -> str:
    named = f"Authors named: {facts.authors:,}; images without a known author: {facts.without_author:,}."
    return (
        f"{named} The licence is each image's own, as its source gave it, and nobody checked it. A mask is a work "
        "derived from its image: a licence without derivatives (ND) does not allow it to be published."
    )


def _dates(facts: Facts) -> str:
    if facts.retrieved is None:
        return "When the images were fetched is not known."
    first, last = (f"{moment:%Y-%m-%d}" for moment in facts.retrieved)
    return f"Fetched on {first}." if first == last else f"Fetched between {first} and {last}."


def _masks_told(facts: Facts) -> list[str]:
    made = ", ".join(f"{count:,} by {_escaped(method)}" for method, count in _ranked(facts.methods)) or "none"
    options = ", ".join(
        f"{_escaped(key)} = {_escaped(str(value))}" for key, value in facts.spec.cosegmentation.options.items()
    )
    values = ", ".join(f"{index} {_escaped(name)}" for index, name in enumerate(facts.spec.class_names, start=1))
    return [
        f"Masks: {made}. The definition asks for {_code(facts.spec.cosegmentation.method)}"
        f"{f' with {options}' if options else ''}.",
        "",
        f"A mask is a palette PNG of class indices: 0 background, {values}, {facts.spec.ignore_index} ignore.",
    ]


def _filters_told(facts: Facts) -> list[str]:
    low, high = facts.filters.min_foreground, facts.filters.max_foreground
    least = facts.filters.min_confidence
    sure = f" and whose confidence is {least:g} or more" if least else ""
    distance = facts.spec.duplicates.max_distance
    repeats = "not looked for" if distance is None else f"images whose hashes differ in at most {distance} of 64 bits"
    lines = [
        f"- Kept: images whose mask covers {low:.0%} to {high:.0%} of the frame{sure}.",
        f"- Repeats: {repeats}.",
        f"- A person's verdict: {facts.verdicts.get('keep', 0):,} to keep, {facts.verdicts.get('drop', 0):,} to drop.",
        f"- Stored images have at most {facts.spec.longest_side} pixels on their longer side.",
    ]
    lost: Counter[str] = Counter()
    for item in facts.classes:
        lost.update(item.not_stored)
    if lost:
        told = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in lost.most_common())
        lines.append(f"- Search results that gave no image: {told}.")
    return lines


def _ledger_told(ledger: Ledger) -> list[str]:
    used = {UsedFor.WEIGHTS: "weights", UsedFor.COSEGMENTATION: "co-segmentation"}
    rows = [["what", "what people had to give", "used for"]]
    for entry in ledger.entries:
        given = "not known" if entry.supervision is Supervision.UNKNOWN else str(entry.supervision).replace("_", " ")
        rows.append([entry.what, given, used.get(entry.used_for, str(entry.used_for).replace("_", " "))])
    verdict = "yes" if ledger.strictly_image_level else "no"
    return [*_table(rows), "", f"Nothing stronger than image-level labels: **{verdict}**."]


def _shown_by(credits: Sequence[Credit]) -> str:
    names = dict.fromkeys(
        f"{_escaped(item.author or 'an unknown author')} ({_escaped(item.license)})" for item in credits
    )
    return f"Shown above are shrunk images by {', '.join(names)}; all are credited in [CREDITS.md](CREDITS.md)."


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *body = [[_escaped(cell) for cell in row] for row in rows]
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body)]


def _sorted(counts: Mapping[str, int]) -> list[list[str]]:
    return [[name, f"{count:,}"] for name, count in _ranked(counts)]


def _ranked(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _code(text: str) -> str:
    return f"`{' '.join(clean_text(text).split()).replace('`', '')}`"


def _escaped(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", " ".join(clean_text(text).split()))
