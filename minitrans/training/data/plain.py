"""Plain text: a text a line, and documents, which end where a new one begins."""

from __future__ import annotations

import re
from pathlib import Path

from minitrans.files import printable
from minitrans.training.data.records import Records, read_lines


def read_texts(path: str | Path) -> Records:
    """Rows of `text`, one a line that is not blank."""
    found = [(number, line.strip()) for number, line in read_lines(path) if line.strip()]
    return Records(printable(path), [{"text": text} for _, text in found], [number for number, _ in found])


def read_documents(path: str | Path, heading: str | None = None) -> Records:
    """Rows of `sentences`: the lines of a document that are not blank.

    Args:
        path: the file; a line holds a sentence, or a few.
        heading: a pattern of the line that starts a document, which is not part of it; None = a blank line is between two
            (the form of BERT's own pre-training data).

    Raises:
        ValueError: as `read_lines`, or for no document.
    """
    starts = re.compile(r"\s*" if heading is None else heading)
    rows: list[dict[str, list[str]]] = []
    lines: list[int] = []
    inside = False
    for number, line in read_lines(path):
        if starts.fullmatch(line):
            inside = False
        elif line.strip():
            if not inside:
                rows.append({"sentences": []})
                lines.append(number)
                inside = True
            rows[-1]["sentences"].append(line.strip())
    return Records(printable(path), rows, lines)
