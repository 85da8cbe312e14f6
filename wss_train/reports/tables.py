"""Tables of a report: as Markdown, and aligned for a terminal."""

import math
from collections.abc import Iterable, Mapping, Sequence

from wss_data.ledger import Ledger


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> list[str]:
    """Lines of a Markdown table.

    Args:
        columns: Headings.
        rows: Cells of each row.
        align: ``l`` or ``r`` for each column; empty for the first to the left and the others, numbers, to the right.

    >>> markdown_table(["class", "IoU"], [["cat", "83.1"]])
    ['| class | IoU |', '|---|---:|', '| cat | 83.1 |']
    """
    align = align or "l" + "r" * (len(columns) - 1)
    head = f"| {' | '.join(columns)} |" if any(columns) else "| |"
    rule = "|" + "".join({"l": "---|", "r": "---:|"}[side] for side in align)
    return [head.replace("|  |", "| |"), rule, *(f"| {' | '.join(row)} |" for row in rows)]


def aligned(columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> list[str]:
    r"""Lines of a table for a terminal: the columns' names, then a line for each named row of cells.

    >>> print("\n".join(aligned(["mean", "cat"], {"generator": ["71.9", "75.2"], "final": ["72.9", "78.4"]})))
                 mean     cat
    generator    71.9    75.2
    final        72.9    78.4
    """
    width = max(map(len, rows))
    widths = [max(6, len(name), *(len(row[i]) for row in rows.values())) for i, name in enumerate(columns)]
    lines = [" " * width + "".join(f"  {name:>{w}}" for name, w in zip(columns, widths, strict=True))]
    for name, row in rows.items():
        lines.append(f"{name:<{width}}" + "".join(f"  {cell:>{w}}" for cell, w in zip(row, widths, strict=True)))
    return lines


def number(value: float | None, form: str, nothing: str = "–") -> str:
    """A number in a format such as ``.1f``; ``nothing`` in place of ``None`` or nan.

    >>> number(0.5, ".2f"), number(float("nan"), ".2f"), number(1234, ",.0f")
    ('0.50', '–', '1,234')
    """
    return nothing if value is None or math.isnan(value) else f"{value:{form}}"


def percent(value: float | None) -> str:
    """A fraction in [0, 1] as percent with one digit; a dash for ``None`` or nan.

    >>> percent(0.5634), percent(None)
    ('56.3', '–')
    """
    return number(None if value is None else 100 * value, ".1f")


def ledger_lines(ledger: Ledger) -> list[str]:
    """The section of a report on what something learned from, as Markdown lines."""
    strict = "yes" if ledger.strictly_image_level else "NO"
    entries = [f"- {e.what}: {e.supervision}, for {e.used_for}" for e in ledger.entries]
    return ["## Supervision", "", f"Strictly image-level: **{strict}**", "", *entries]
