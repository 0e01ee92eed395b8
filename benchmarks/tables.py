"""Tables in markdown whose columns line up, for a terminal and a page alike."""

from __future__ import annotations

import math
from collections.abc import Sequence


def number(value: float, digits: int = 4) -> str:
    """So many digits that mean something, never an exponent."""
    if not value or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:,.{max(digits - 1 - math.floor(math.log10(abs(value))), 0)}f}"


def table(heading: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows under a heading; numbers stand to the right."""
    cells = [[_cell(value) for value in row] for row in (heading, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [any(isinstance(row[n], int | float) for row in rows) for n in range(len(heading))]

    def line(row: Sequence[str]) -> str:
        shown = (text.rjust(w) if r else text.ljust(w) for text, w, r in zip(row, widths, right, strict=True))
        return f"| {' | '.join(shown)} |"

    rule = (f"{'-' * (max(w, 3) - r)}{':' * r}" for w, r in zip(widths, right, strict=True))
    return "\n".join([line(cells[0]), f"| {' | '.join(rule)} |", *map(line, cells[1:])])


def _cell(value: object) -> str:
    if value is None:
        return ""
    return number(value) if isinstance(value, float) else str(value).replace("|", "/")
