"""Tables: a row a line, as tsv (no quoting), csv (quoted by RFC 4180) or jsonl (an object a line)."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from minitrans.files import printable
from minitrans.training.data.records import Records, read_lines

Rows = Iterator[tuple[int, list[str]]]
csv.field_size_limit(2**30)  # one text may be long


def read_table(path: str | Path, columns: Sequence[str] | None = None) -> Records:
    """The rows of a .tsv, .csv or .jsonl file, which may be gzipped besides (.csv.gz).

    Args:
        path: the file.
        columns: names of the fields of a file that has no line with them; None = its first line has (jsonl needs none).

    Raises:
        ValueError: for another ending, or naming the line that is malformed.
    """
    path = Path(path)
    endings = [ending for ending in path.suffixes if ending != ".gz"]
    kind = endings[-1] if endings else ""
    if kind == ".jsonl":
        rows = list(_objects(path))
    elif kind in READERS:
        rows = list(_named(path, READERS[kind](path), columns))
    else:
        known = ", ".join((*READERS, ".jsonl"))
        raise ValueError(f"{printable(path)}: expected a table with an ending of {known}")
    return Records(printable(path), [row for _, row in rows], [number for number, _ in rows])


def _separated(path: Path) -> Rows:
    """Lines cut at tabs; blank ones are left out."""
    return ((number, line.split("\t")) for number, line in read_lines(path) if line.strip())


def _quoted(path: Path) -> Rows:
    """Lines by the csv module; a quoted field may go over several, of which the first counts."""
    reader = csv.reader((line + "\n" for _, line in read_lines(path)), strict=True)
    start = 1
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"{printable(path)}: line {start}: expected quoted fields, found: {error}") from None
        if row:
            yield start, row
        start = reader.line_num + 1


READERS: dict[str, Callable[[Path], Rows]] = {".tsv": _separated, ".csv": _quoted}


def _named(path: Path, rows: Rows, columns: Sequence[str] | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows with their fields' names."""
    names = columns
    for number, row in rows:
        if names is None:
            names = row
            if len(set(names)) < len(names):
                raise ValueError(f"{printable(path)}: line {number}: the names of columns must differ, got {names}")
            continue
        if len(row) != len(names):
            found = f"expected {len(names)} fields ({', '.join(map(printable, names))}), found {len(row)}"
            raise ValueError(f"{printable(path)}: line {number}: {found}: {printable(row, 80)}")
        yield number, dict(zip(names, row, strict=True))


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON object on every line that is not blank."""
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{printable(path)}: line {number}: expected JSON, found: {printable(error)}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{printable(path)}: line {number}: expected a JSON object, found {type(row).__name__}")
        yield number, row
