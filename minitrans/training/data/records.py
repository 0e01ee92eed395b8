"""Rows of text as files hold them, each with the place it stands at; and the lines of files, decoded strictly."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minitrans.files import printable, require_regular_file

Record = Mapping[str, Any]  # fields by their names


@dataclass(frozen=True)
class Records:
    """Rows of one file or data set.

    Attributes:
        name: of the file, for messages.
        rows: fields by their names.
        lines: the line that each row starts at, counted from 1; None where rows have no lines.
    """

    name: str
    rows: Sequence[Record]
    lines: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if not len(self.rows):
            raise ValueError(f"{self.name}: expected at least one row, found none")

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Record]:
        return (self.rows[index] for index in range(len(self.rows)))

    def __getitem__(self, chosen: slice) -> Records:
        """Some of them."""
        numbers = range(len(self.rows))[chosen]
        lines = None if self.lines is None else [self.lines[number] for number in numbers]
        return Records(self.name, [self.rows[number] for number in numbers], lines)

    def where(self, index: int) -> str:
        """File and line of a row."""
        return f"{self.name}: row {index}" if self.lines is None else f"{self.name}: line {self.lines[index]}"

    def column(self, field: str, kind: type | tuple[type, ...] = str) -> list[Any]:
        """One field of all rows. Raises ValueError, naming the row, where it is missing or of another kind."""
        return self.map(lambda row: _field(row, field, kind))

    def map(self, made: Callable[[Record], Any]) -> list[Any]:
        """What is made of every row; a ValueError on the way names the row."""
        found = []
        for index, row in enumerate(self):
            try:
                found.append(made(row))
            except ValueError as error:
                raise ValueError(f"{self.where(index)}: {error}") from None
        return found


def _field(row: Record, field: str, kind: type | tuple[type, ...]) -> Any:
    if field not in row:
        raise ValueError(f"expected a field {field!r}, found {', '.join(map(printable, row))}")
    value = row[field]
    if not isinstance(value, kind):
        wanted = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(f"{field}: expected {wanted}, found {printable(repr(value), 60)}")
    return value


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file, gzipped if its name ends in .gz, with their numbers from 1 and without their ends.

    Raises:
        ValueError: naming the file that cannot be read, or the line that is no UTF-8.
    """
    path = Path(path)
    require_regular_file(path)
    opened = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opened(path, "rb") as file:
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if "\0" in text:
                    raise ValueError(f"{printable(path)}: line {number}: expected text, found a zero byte")
                yield number, text.removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        found = f"found byte {error.object[error.start]:#04x} at {error.start}: convert the file to UTF-8"
        raise ValueError(f"{printable(path)}: line {number}: expected UTF-8 text, {found}") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{printable(path)}: after line {number}: expected gzip data, found: {error}") from None
