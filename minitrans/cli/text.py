"""Texts in and results out: a table on a terminal, tab-separated values in a pipe, JSON lines when asked for."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from minitrans.files import printable

Row = dict[str, Any]
BAR = 12
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def read_lines(source: str) -> list[str]:
    """The lines of a UTF-8 file, or of standard input for "-", without their ends. Raises as `LineFile` does."""
    from minitrans.embedding.jobs.lines import LineFile

    lines = LineFile(source)
    return [line for window in lines.windows for line in lines.read(window)]


def given_texts(texts: Sequence[str] | None, file: str | None) -> list[str]:
    """The texts given as arguments, or those of --file. Raises ValueError unless there is exactly one kind."""
    if bool(texts) == (file is not None):
        found = "both" if texts else "neither"
        raise ValueError(f"give texts as arguments or one a line with --file FILE (- is standard input), got {found}")
    if file is not None:
        return read_lines(file)
    return [checked(text, "TEXT") for text in texts or ()]


def read_whole(source: str) -> str:
    """All of a UTF-8 file, or of standard input, as one text. Raises as `LineFile` does."""
    from minitrans.embedding.jobs.lines import read_bytes, shown_name

    data, name = read_bytes(source), shown_name(source)
    try:
        return checked(data.decode("utf-8-sig"), name)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{name}: line {line}: expected UTF-8 text, found bytes that are not") from None


def checked(text: str, name: str) -> str:
    """A text that must not be empty. Raises ValueError, naming it, for what is none."""
    from minitrans.embedding.jobs.lines import check_text

    if not text.strip():
        raise ValueError(f"{name}: expected a text, found nothing")
    check_text(text, name)
    return text


def show(rows: Sequence[Row], *, as_json: bool = False, title: str | None = None) -> None:
    """Prints rows that have the same keys, in the form that suits where they go."""
    console = Console()
    if as_json:
        lines = (json.dumps(_rounded(row), ensure_ascii=False, allow_nan=False) for row in rows)
    elif console.is_terminal:
        console.print(_table(rows, title, ascii_only(console)) if rows else "nothing found")
        return
    else:
        lines = ("\t".join(_plain(value) for value in row.values()) for row in rows)
    for line in lines:
        sys.stdout.write(f"{line}\n")


def _rounded(row: Row) -> Row:
    """The row with its numbers cut to the six digits that mean something."""
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()}


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6f}"
    return "" if value is None else str(value).translate(_ESCAPES)


def _table(rows: Sequence[Row], title: str | None, plain: bool) -> Table:
    """A score between 0 and 1 has a bar beside it."""
    table = framed(title=title)
    barred = "score" in rows[0] and all(-1 <= row["score"] <= 1 for row in rows)
    for name, value in rows[0].items():
        table.add_column(name, justify="right" if isinstance(value, int | float) else "left", overflow="fold")
        if name == "score" and barred:
            table.add_column()
    for row in rows:
        cells: list[str | Text] = []
        for name, value in row.items():
            shown = "" if value is None else printable(value, 2000)
            cells.append(f"{value:.4f}" if isinstance(value, float) else Text(shown))
            if name == "score" and barred:
                cells.append(bar(value, plain=plain))
        table.add_row(*cells)
    return table


def bar(share: float, *, plain: bool) -> Text:
    """A number from 0 to 1 (less is 0) as a bar."""
    return Text((("#" if plain else "█") * max(0, round(share * BAR))).ljust(BAR), style="green")


def framed(*columns: str, title: str | None = None) -> Table:
    """A table with lines around its cells."""
    table = Table(title=None if title is None else Text(printable(title)), title_justify="left")
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def borderless(*columns: str, right: Sequence[str] = ()) -> Table:
    """A table of columns side by side; those in `right` hold numbers."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def ascii_only(console: Console) -> bool:
    """Whether only ASCII may be printed: what the output takes, and what the user said in LC_ALL."""
    return not console.encoding.startswith("utf") or os.environ.get("LC_ALL") in ("C", "POSIX")


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error if that is a terminal; yields the function that moves it on."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(what, total=total)
        yield lambda done: shown.advance(task, done)


@contextmanager
def busy(what: str) -> Iterator[None]:
    """A spinner on standard error if that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(what):
        yield
