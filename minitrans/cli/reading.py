"""Texts from the command line, from files and from standard input; none of them is trusted to be text."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path

from minitrans.files import printable

MAX_BYTES = 256 * 1024 * 1024
MAX_CHARACTERS = 1_000_000  # of one text; a tokenizer takes seconds for that


def read_lines(source: str) -> list[str]:
    """The lines of a UTF-8 file, or of standard input for "-", without their ends; an empty line is an empty text.

    Raises:
        ValueError: where there is no text, too much of it, or something that is not text, saying which line.
        OSError: where the file cannot be read.
    """
    name = "standard input" if source == "-" else printable(source)
    text = _decode(read_bytes(source), name)
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if lines[-1] == "":
        lines.pop()
    if not any(line.strip() for line in lines):
        raise ValueError(f"{name}: expected one text a line, found nothing")
    for number, line in enumerate(lines, start=1):
        check_text(line, f"{name}: line {number}")
    return lines


def given_texts(texts: Sequence[str] | None, file: str | None) -> list[str]:
    """The texts given as arguments, or those of --file. Raises ValueError unless there is exactly one kind."""
    if bool(texts) == (file is not None):
        found = "both" if texts else "neither"
        raise ValueError(f"give texts as arguments or one a line with --file FILE (- is standard input), got {found}")
    if file is not None:
        return read_lines(file)
    return [checked(text, "TEXT") for text in texts or ()]


def read_whole(source: str) -> str:
    """All of a UTF-8 file, or of standard input, as one text. Raises as `read_lines` does."""
    name = "standard input" if source == "-" else printable(source)
    return checked(_decode(read_bytes(source), name), name)


def checked(text: str, name: str) -> str:
    """A text that must not be empty. Raises ValueError, naming it, for what is none."""
    if not text.strip():
        raise ValueError(f"{name}: expected a text, found nothing")
    check_text(text, name)
    return text


def check_text(text: str, name: str) -> None:
    """Raises ValueError, naming the text, for one that is too long or holds what no text holds."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"{name}: expected at most {MAX_CHARACTERS:,} characters, found {len(text):,}; split it")
    if "\0" in text:
        raise ValueError(f"{name}: expected text, found a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:  # an argument of the process that is not UTF-8
        raise ValueError(f"{name}: expected UTF-8 text, found bytes that are not") from None


def read_bytes(source: str) -> bytes:
    """All of a file, or of standard input for "-". Raises ValueError for too much of it, OSError where it cannot be read."""
    if source == "-":
        if sys.stdin is None:
            raise ValueError("standard input: expected one text a line, found it closed")
        stream = sys.stdin.buffer if isinstance(sys.stdin, io.TextIOWrapper) else sys.stdin
        data = stream.read(MAX_BYTES + 1)
    else:
        with Path(source).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    if isinstance(data, str):  # a stand-in for standard input
        data = data.encode()
    if len(data) > MAX_BYTES:
        name = "standard input" if source == "-" else printable(source)
        raise ValueError(f"{name}: expected at most {MAX_BYTES // 2**20} MB of text, found more; split it")
    return data


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{name}: line {line}: expected UTF-8 text, found bytes that are not") from None
