"""CoNLL files: a word and its tag a line, a blank line between sentences (Tjong Kim Sang & De Meulder 2003)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minitrans.files import printable
from minitrans.training.data.records import Records, read_lines


def read_conll(path: str | Path, *, word: int = 0, tag: int = -1) -> Records:
    """Sentences as rows of `words` and `tags`; columns are parted by a tab, or where there is none by blanks.

    Args:
        path: the file.
        word: the column of the words, counted from 0.
        tag: that of the tags; -1 = the last.

    Raises:
        ValueError: naming the line that has other columns than those before it.
    """
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    width, inside = 0, False
    for number, line in read_lines(path):
        if not line.strip() or line.startswith("-DOCSTART-"):
            inside = False
            continue
        columns = [part.strip() for part in line.split("\t")] if "\t" in line else line.split()
        width = width or len(columns)
        if len(columns) != width or not -width <= tag < width or not 0 <= word < width or width < 2:
            found = f"expected {max(width, 2, word + 1, tag + 1)} columns, a word and its tag among them, found {len(columns)}"
            raise ValueError(f"{printable(path)}: line {number}: {found}: {printable(line, 60)}")
        if not inside:
            rows.append({"words": [], "tags": []})
            lines.append(number)
            inside = True
        rows[-1]["words"].append(columns[word])
        rows[-1]["tags"].append(columns[tag])
    return Records(printable(path), rows, lines)
