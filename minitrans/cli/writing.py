"""Results: a table on a terminal, tab-separated values in a pipe, JSON lines when asked for."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from minitrans.files import printable

Row = dict[str, Any]
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def show(rows: Sequence[Row], *, as_json: bool = False, title: str | None = None) -> None:
    """Prints rows that have the same keys, in the form that suits where they go."""
    console = Console()
    if as_json:
        lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
    elif console.is_terminal:
        console.print(_table(rows, title) if rows else "nothing found")
        return
    else:
        lines = ("\t".join(_plain(value) for value in row.values()) for row in rows)
    for line in lines:
        sys.stdout.write(f"{line}\n")


def json_numbers(row: Row) -> Row:
    """The row with its numbers cut to the six digits that mean something."""
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()}


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error if that is a terminal; yields the function that moves it on."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


@contextmanager
def busy(what: str) -> Iterator[None]:
    """A spinner on standard error if that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(what):
        yield


def require_writable(path: Path, *, force: bool, source: str | None = None) -> None:
    """Refuses, before any work is done, an output that cannot or must not be written. Raises ValueError saying why."""
    name = printable(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{name}: expected a file to write, found a folder, device or pipe")
    if source not in (None, "-") and path.exists() and Path(str(source)).exists() and path.samefile(str(source)):
        raise ValueError(f"{name}: the output would replace the input; choose another name")
    if path.exists() and not force:
        raise ValueError(f"{name}: exists already; --force replaces it")
    if not path.parent.is_dir():
        raise ValueError(f"{name}: expected the folder {printable(path.parent)} to exist")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{printable(path.parent)}: permission denied")


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6f}"
    return "" if value is None else str(value).translate(_ESCAPES)


def _table(rows: Sequence[Row], title: str | None) -> Table:
    table = Table(title=None if title is None else Text(printable(title)), title_justify="left")
    for name, value in rows[0].items() if rows else ():
        table.add_column(name, justify="right" if isinstance(value, int | float) else "left", overflow="fold")
    for row in rows:
        table.add_row(*(f"{v:.4f}" if isinstance(v, float) else Text(printable(_shown(v), 2000)) for v in row.values()))
    return table


def _shown(value: object) -> str:
    return "" if value is None else str(value)
