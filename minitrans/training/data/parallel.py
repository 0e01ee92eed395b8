"""Parallel text: two files, of which line n of the one is a translation of line n of the other."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

from minitrans.files import printable
from minitrans.training.data.records import Records, read_lines


def read_parallel(source: str | Path, target: str | Path) -> Records:
    """Rows of `source` and `target`; a pair with a blank side is left out.

    Raises:
        ValueError: naming the line at which one file ends before the other.
    """
    rows, lines = [], []
    for one, other in zip_longest(read_lines(source), read_lines(target)):
        if one is None or other is None:
            short, number = (source, other[0]) if one is None else (target, one[0])
            raise ValueError(
                f"{printable(short)}: line {number}: expected as many lines as the other side, found its end"
            )
        if one[1].strip() and other[1].strip():
            rows.append({"source": one[1].strip(), "target": other[1].strip()})
            lines.append(one[0])
    return Records(printable(source), rows, lines)
