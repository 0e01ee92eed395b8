"""A file of texts, one a line, that may be larger than memory: looked through once, then read window by window."""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from minitrans.embedding.batching import WindowRule
from minitrans.files import printable

MAX_BYTES = 256 * 1024 * 1024  # of what is read at once
MAX_CHARACTERS = 1_000_000  # of one text; a tokenizer takes seconds for that
_LONGEST = 4 * MAX_CHARACTERS + 2  # bytes of a line that may still be short enough
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Window:
    """Lines that are embedded together.

    Attributes:
        lines: how many.
        start: the byte where the first begins.
        size: bytes of all, ends of lines included.
        sha256: of these.
    """

    lines: int
    start: int
    size: int
    sha256: bytes


class LineFile:
    """The lines of a UTF-8 file, without their ends; an empty line is an empty text.

    Standard input ("-") and whatever is not a regular file are read at once, and must be small.

    Attributes:
        windows: in their order.
        lines: how many there are.
        sha256: of the bytes.
    """

    def __init__(self, source: str) -> None:
        """Looks at every line.

        Raises:
            ValueError: where there is no text, or something that is not text, saying which line.
            OSError: where the file cannot be read.
        """
        self.name = shown_name(source)
        self._source = source
        self._held = None if source != "-" and Path(source).is_file() else read_bytes(source)
        self.sha256 = ""
        self.windows = list(self._cut())
        self.lines = sum(window.lines for window in self.windows)

    def identity(self) -> dict[str, Any]:
        """What tells this text from another, and how it is cut."""
        return {"sha256": self.sha256, "lines": self.lines, "windows": len(self.windows)}

    def read(self, window: Window) -> list[str]:
        """The texts of one window. Raises ValueError if the file is not what it was."""
        with self._open() as stream:
            stream.seek(window.start)
            data = stream.read(window.size)
        if hashlib.sha256(data).digest() != window.sha256:
            raise ValueError(f"{self.name}: expected the same text as at the start, found that it changed meanwhile")
        lines = data.decode().split("\n")
        return [line.removesuffix("\r") for line in lines[: window.lines]]

    def _open(self) -> BinaryIO:
        return Path(self._source).open("rb") if self._held is None else io.BytesIO(self._held)

    def _cut(self) -> Iterator[Window]:
        rule = WindowRule()
        whole, part = hashlib.sha256(), hashlib.sha256()
        start = position = lines = 0
        empty = True
        with self._open() as stream:
            for number, raw in enumerate(iter(lambda: stream.readline(_LONGEST), b""), start=1):
                whole.update(raw)
                data = raw.removeprefix(_BOM) if number == 1 else raw
                text = self._decoded(data, f"{self.name}: line {number}")
                empty = empty and not text.strip()
                if rule.begins(len(text)):
                    if lines:
                        yield Window(lines, start, position - start, part.digest())
                    start, lines, part = position + len(raw) - len(data), 0, hashlib.sha256()
                part.update(data)
                lines += 1
                position += len(raw)
        if empty:
            raise ValueError(f"{self.name}: expected one text a line, found nothing")
        self.sha256 = whole.hexdigest()
        yield Window(lines, start, position - start, part.digest())

    def _decoded(self, data: bytes, place: str) -> str:
        if len(data) == _LONGEST and not data.endswith(b"\n"):
            raise ValueError(f"{place}: expected at most {MAX_CHARACTERS:,} characters, found more; split it")
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise ValueError(f"{place}: expected UTF-8 text, found bytes that are not") from None
        text = text.removesuffix("\n").removesuffix("\r")
        check_text(text, place)
        return text


def read_bytes(source: str) -> bytes:
    """All of a file, or of standard input for "-". Raises ValueError for too much of it, OSError where it cannot be read."""
    if source == "-":
        if sys.stdin is None:
            raise ValueError("standard input: expected text, found it closed")
        stream = sys.stdin.buffer if isinstance(sys.stdin, io.TextIOWrapper) else sys.stdin
        data = stream.read(MAX_BYTES + 1)
    else:
        with Path(source).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    if isinstance(data, str):  # a stand-in for standard input
        data = data.encode()
    if len(data) > MAX_BYTES:
        limit = MAX_BYTES // 2**20
        raise ValueError(f"{shown_name(source)}: expected at most {limit} MB of text, found more; split it")
    return data


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


def shown_name(source: str) -> str:
    """What messages call a source of texts."""
    return "standard input" if source == "-" else printable(source)
