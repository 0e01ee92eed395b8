"""A file of texts, one a line, that may be larger than memory: looked through once, then read window by window."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from minitrans.cli.reading import MAX_CHARACTERS, check_text, read_bytes
from minitrans.embedding.windowing import WindowRule
from minitrans.files import printable

_BOM = b"\xef\xbb\xbf"
_LONGEST = 4 * MAX_CHARACTERS + 2  # bytes of a line that may still be short enough


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
        self.name = "standard input" if source == "-" else printable(source)
        self._source = source
        self._held = None if source != "-" and Path(source).is_file() else read_bytes(source)
        self.windows: list[Window] = []
        self.lines = 0
        self.sha256 = ""
        self._look_through()

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

    def _look_through(self) -> None:
        rule = WindowRule()
        whole, part = hashlib.sha256(), hashlib.sha256()
        start = position = lines = 0
        empty = True
        for raw in self._raw_lines():
            whole.update(raw)
            data = raw.removeprefix(_BOM) if self.lines == 0 else raw
            text = self._checked(data, self.lines + 1)
            empty = empty and not text.strip()
            if rule.begins(len(text)):
                if lines:
                    self.windows.append(Window(lines, start, position - start, part.digest()))
                start, lines, part = position + len(raw) - len(data), 0, hashlib.sha256()
            part.update(data)
            lines += 1
            self.lines += 1
            position += len(raw)
        if empty:
            raise ValueError(f"{self.name}: expected one text a line, found nothing")
        self.windows.append(Window(lines, start, position - start, part.digest()))
        self.sha256 = whole.hexdigest()

    def _raw_lines(self) -> Iterator[bytes]:
        with self._open() as stream:
            while line := stream.readline(_LONGEST):
                yield line

    def _checked(self, data: bytes, number: int) -> str:
        place = f"{self.name}: line {number}"
        if len(data) == _LONGEST and not data.endswith(b"\n"):
            raise ValueError(f"{place}: expected at most {MAX_CHARACTERS:,} characters, found more; split it")
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise ValueError(f"{place}: expected UTF-8 text, found bytes that are not") from None
        text = text.removesuffix("\n").removesuffix("\r")
        check_text(text, place)
        return text
