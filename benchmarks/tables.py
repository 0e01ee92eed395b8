"""Rows of results as tables in markdown whose columns line up, for a terminal and a page alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

Row = dict[str, Any]
OURS = "minitrans"  # how the names of our own providers begin
_SIZES = ("B", "H", "S", "K", "N", "D")


def number(value: float, digits: int = 4) -> str:
    """So many digits that mean something, never an exponent."""
    if not value or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:,.{max(digits - 1 - math.floor(math.log10(abs(value))), 0)}f}"


def table(heading: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows under a heading; columns of numbers stand to the right."""
    cells = [[_cell(value) for value in row] for row in (heading, *rows)]
    columns = list(zip(*cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [all(text.lstrip("*-")[:1].isdigit() for text in column[1:] if text) for column in columns]

    def line(row: Sequence[str]) -> str:
        shown = (text.rjust(w) if r else text.ljust(w) for text, w, r in zip(row, widths, right, strict=True))
        return f"| {' | '.join(shown)} |"

    rule = (f"{'-' * (max(w, 3) - r)}{':' * r}" for w, r in zip(widths, right, strict=True))
    return "\n".join([line(cells[0]), f"| {' | '.join(rule)} |", *map(line, cells[1:])])


def _cell(value: object) -> str:
    if value is None:
        return ""
    return number(value) if isinstance(value, float) else str(value).replace("|", "/")


def quartiles(found: Row) -> str:
    """Of what `measuring.quantiles` gives."""
    return f"{number(found['low'])}..{number(found['high'])}"


def best(row: Row, name: str) -> float | None:
    """The figure of the graph where there is one: it has no launches in it."""
    value: float | None = row.get(f"graph_{name}", row.get(name))
    return value


def shown(value: float | None, factor: float = 1) -> str | None:
    """Three digits of a ratio or rate."""
    return None if value is None else number(factor * value, 3)


# headings and how a row gives them; a column that no row of a table fills is left out
_COLUMNS: dict[str, Callable[[Row], object]] = {
    "runs": lambda row: row.get("runs"),
    "ms": lambda row: row["ms"]["median"],
    "quartiles": lambda row: quartiles(row["ms"]),
    "graph ms": lambda row: row["graph_ms"]["median"] if row.get("graph_ms") else None,
    "baseline": lambda row: row.get("baseline"),
    "x times": lambda row: shown(row.get("times")),
    "TFLOP/s": lambda row: shown(best(row, "tflops")),
    "% of matmul": lambda row: shown(best(row, "share_of_matmul"), 100),
    "% of copy": lambda row: shown(best(row, "share_of_copy"), 100),
    "real tokens/s": lambda row: row.get("tokens_per_second"),
    "MFU %": lambda row: shown(row.get("mfu"), 100),
    "peak MB": lambda row: shown(row.get("peak_bytes"), 1e-6),
}


def case_of(row: Row, *, dtype: bool = True) -> str:
    """A case in words."""
    sizes = (f"{name}={row[name]}" for name in _SIZES if name in row)
    return " ".join([str(row["case"]), *sizes, *([row["dtype"]] if dtype and "dtype" in row else [])])


def against_baseline(rows: Sequence[Row], name: str | None = None) -> list[Row]:
    """The timed rows, each with its `baseline` and how many `times` as fast it is.

    Args:
        rows: of any status.
        name: the provider that is the baseline; None = of each case and mode the fastest that is not ours.
    """
    timed = [row for row in rows if row["status"] == "timed"]
    found: dict[tuple[str, str], Row] = {}
    for row in timed:
        if row["provider"] == name or (name is None and not row["provider"].startswith(OURS)):
            place = case_of(row), row["mode"]
            found[place] = min(found.get(place, row), row, key=lambda each: each["ms"]["median"])
    measured = []
    for row in timed:
        base = found.get((case_of(row), row["mode"]))
        times = {} if base is None else {"times": base["ms"]["median"] / row["ms"]["median"]}
        measured.append(row if base is None else {**row, "baseline": base["provider"], **times})
    return measured


def timed_table(rows: Sequence[Row], first: dict[str, Callable[[Row], object]]) -> str:
    """The `first` columns, then what the rows fill; the rows come from `against_baseline`."""
    columns = first | {name: value for name, value in _COLUMNS.items() if any(value(row) is not None for row in rows)}
    return table(list(columns), [[value(row) for value in columns.values()] for row in rows])
