"""The tensors of a model in a table that fits a screen: layers folded into one, weight and bias too."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from rich.table import Table
from rich.text import Text

from minitrans.files import printable

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_PARAMETER = re.compile(r"\.(weight|bias|gamma|beta)$")


@dataclass(frozen=True)
class Fold:
    """One module, or the same one of every layer: its names in the columns, the largest shape, how many."""

    names: tuple[str, ...]
    shape: str
    count: int


def folded(tensors: Iterable[tuple[Sequence[str], tuple[int, ...]]]) -> list[Fold]:
    """Tensors by names and shapes, in groups that differ in a layer's number only, or are weight and bias of one module."""
    groups: dict[tuple[str, ...], list[tuple[str, tuple[int, ...]]]] = {}
    for names, shape in tensors:
        ending = names[0].rpartition(".")[2]
        group = tuple(_PARAMETER.sub("", _NUMBER.sub("*", name)) for name in names)
        groups.setdefault(group, []).append((ending, shape))
    folds = []
    for starred, held in groups.items():
        ending, shape = max(held, key=lambda tensor: prod(tensor[1]))
        alike = all(other == shape for end, other in held if end == ending)
        shown = " x ".join(str(side) for side in shape)
        folds.append(Fold(starred, shown if alike else f"{shown}, or others", len(held)))
    return folds


def fold_table(headings: Sequence[str], folds: Iterable[Fold]) -> Table:
    """A row for each, under the part of the model it belongs to; a second name only where it differs."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for heading in (*headings, "weight"):
        table.add_column(heading, overflow="fold")
    table.add_column("tensors", justify="right")
    part = ""
    for fold in folds:
        first, *others = fold.names
        stack, star, _ = first.rpartition(".*.")
        start = f"{stack}{star}" if star else f"{first.partition('.')[0]}."
        if start != part:
            part = start
            table.add_row(Text(printable(start.removesuffix("."))))
        own = first.removeprefix(start)
        shown = ["same" if name.removeprefix(start) == own else name.removeprefix(start) for name in others]
        cells = (f"  {printable(own)}", *(printable(name) for name in shown), fold.shape, str(fold.count))
        table.add_row(*(Text(cell) for cell in cells))
    return table
