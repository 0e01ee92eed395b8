"""What drawings are made of: tables, cells with a colour, points and lines in SVG."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import log
from typing import Any

Row = dict[str, Any]
Results = dict[str, dict[str, list[Row]]]  # variant -> section -> rows, one a seed
WIDTH, HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 670, 30, 370
_SQUARE = 12


def by_variant(rows: Iterable[Row]) -> Results:
    """Rows by variant and section; of several seeds all."""
    found: Results = {}
    for row in rows:
        found.setdefault(row["variant"], {}).setdefault(row["section"], []).append(row)
    return found


def mean_of(rows: Sequence[Row], key: str) -> tuple[float, float]:
    """Mean and deviation over seeds."""
    values = [row[key] for row in rows]
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def shown(rows: Sequence[Row], key: str, digits: int = 2) -> str:
    """Mean, with the deviation where there are several seeds."""
    mean, deviation = mean_of(rows, key)
    return f"{mean:.{digits}f}" + (f" ± {deviation:.{digits}f}" if len(rows) > 1 else "")


def table(titles: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Cells are texts, or HTML that begins with "<td"; those that begin with a digit or a sign stand to the right."""
    rows = [[cell if cell.startswith("<td") else _cell(cell) for cell in line] for line in lines]
    numeric = [bool(rows) and any('class="n' in row[place] for row in rows) for place in range(len(titles))]
    head = "".join(
        f'<th class="n">{escape(title)}</th>' if right else f"<th>{escape(title)}</th>"
        for title, right in zip(titles, numeric, strict=True)
    )
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(text: str) -> str:
    number = text.lstrip("+-")[:1].isdigit()
    return f'<td class="n">{escape(text)}</td>' if number else f"<td>{escape(text)}</td>"


def heat(text: str, share: float) -> str:
    """A cell: green for a share up to 1, red down to -1."""
    colour = f"hsl({10 if share < 0 else 140} 75% {95 - 40 * min(abs(share), 1.0):.0f}%)"
    return f'<td class="n heat" style="background:{colour}">{escape(text)}</td>'


class Plane:
    """A plot with two axes; `x` and `y` place values in it.

    Args:
        xs, ys: all values that are to be seen; at least one each.
        across, up: what they are.
        logarithmic: axes with decades; all values are above 0.
    """

    def __init__(
        self, xs: Sequence[float], ys: Sequence[float], across: str, up: str, logarithmic: tuple[bool, bool] = (False, False)
    ) -> None:  # fmt: skip
        self._x, self._y = (_Axis(values, log) for values, log in zip((xs, ys), logarithmic, strict=True))
        self.across, self.up = across, up
        self.marks: list[str] = []

    def place(self, x: float, y: float) -> tuple[float, float]:
        """In SVG's units."""
        return _LEFT + (_RIGHT - _LEFT) * self._x.share(x), _BOTTOM - (_BOTTOM - _TOP) * self._y.share(y)

    def point(self, x: float, y: float, title: str, label: str = "") -> None:
        """A dot that says what it is when pointed at, and beside it where there is a label."""
        left, top = self.place(x, y)
        self.marks.append(f'<circle cx="{left:.1f}" cy="{top:.1f}" r="4"><title>{escape(title)}</title></circle>')
        if label:
            self.marks.append(f'<text x="{left - 7:.1f}" y="{top + 4:.1f}" text-anchor="end">{escape(label)}</text>')

    def line(self, points: Sequence[tuple[float, float]], title: str, hue: int) -> None:
        """Through points, its title at the end of it."""
        placed = [self.place(*point) for point in points]
        text = " ".join(f"{left:.1f},{top:.1f}" for left, top in placed)
        self.marks.append(
            f'<polyline points="{text}" fill="none" stroke-width="2" style="stroke:hsl({hue} 60% 50%)">'
            f"<title>{escape(title)}</title></polyline>"
            f'<text x="{placed[-1][0] + 4:.1f}" y="{placed[-1][1] + 4:.1f}">{escape(title)}</text>'
        )

    def level(self, y: float, title: str) -> None:
        """A horizontal line."""
        _, top = self.place(self._x.low, y)
        self.marks.append(
            f'<line x1="{_LEFT}" x2="{_RIGHT}" y1="{top:.1f}" y2="{top:.1f}"/>'
            f'<text x="{_LEFT}" y="{top - 5:.1f}">{escape(title)}</text>'
        )

    def svg(self) -> str:
        """The plot."""
        name = escape(f"{self.up} against {self.across}")
        return (
            f'<svg viewBox="0 0 {WIDTH + 120} {HEIGHT}" width="{WIDTH + 120}" role="img" aria-label="{name}">'
            f'<line x1="{_LEFT}" x2="{_RIGHT}" y1="{_BOTTOM}" y2="{_BOTTOM}"/>'
            f'<line x1="{_LEFT}" x2="{_LEFT}" y1="{_TOP}" y2="{_BOTTOM}"/>'
            f'<text x="6" y="{_BOTTOM}">{self._y.low:.4g}</text><text x="6" y="{_TOP + 4}">{self._y.high:.4g}</text>'
            f'<text x="{_LEFT}" y="{_TOP - 18}">{escape(self.up)}</text>'
            f'<text x="{_LEFT}" y="{_BOTTOM + 16}">{self._x.low:.4g}</text>'
            f'<text x="{_RIGHT}" y="{_BOTTOM + 16}" text-anchor="end">{self._x.high:.4g}</text>'
            f'<text x="{(_LEFT + _RIGHT) // 2}" y="{_BOTTOM + 24}" text-anchor="middle">{escape(self.across)}</text>'
            f"{''.join(self.marks)}</svg>"
        )


class _Axis:
    def __init__(self, values: Sequence[float], logarithmic: bool) -> None:
        self.low, self.high, self.logarithmic = min(values), max(values), logarithmic

    def share(self, value: float) -> float:
        if self.high == self.low:
            return 0.5
        if self.logarithmic:
            return log(value / self.low) / log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def maps(of: Mapping[str, Sequence[Sequence[float] | None]], full: float) -> str:
    """A small map for each name: rows of squares, `full` and more in full colour; nothing where a row is missing."""
    drawings = []
    for name, rows in of.items():
        across = max((len(row) for row in rows if row is not None), default=0)
        squares = [
            f'<rect x="{_SQUARE * x}" y="{_SQUARE * y}" width="{_SQUARE}" height="{_SQUARE}" '
            f'fill="hsl(215 75% {97 - 62 * min(max(value / full, 0.0), 1.0):.0f}%)">'
            f"<title>{escape(name)}, {y}.{x}: {value:.4g}</title></rect>"
            for y, row in enumerate(rows) if row is not None for x, value in enumerate(row)
        ]  # fmt: skip
        inner = "".join(squares)
        drawings.append(
            f'<figure><svg viewBox="0 0 {_SQUARE * across} {_SQUARE * len(rows)}" width="{_SQUARE * across}" role="img" '
            f'aria-label="{escape(name)}">{inner}</svg><figcaption>{escape(name)}</figcaption></figure>'
        )
    return f"<div class='maps'>{''.join(drawings)}</div>"
