"""What training draws from: examples that can be counted, measured, looked up and recognised again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol

Example = dict[str, Any]  # of one example: lists of integers, and numbers


class Sentence(NamedTuple):
    """Tokens without special ones.

    Attributes:
        ids: of the tokens.
        starts: of every token, 1 where it begins a word.
    """

    ids: list[int]
    starts: list[int]


Document = list[Sentence]


class Source(Protocol):
    """Examples in an order that does not change."""

    @property
    def lengths(self) -> Sequence[int]:
        """Of every example, how many tokens it has."""
        ...

    @property
    def fingerprint(self) -> str:
        """The same for the same examples in the same order, and for no others."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def where(self, index: int) -> str:
        """Where an example comes from, for messages."""
        ...


class Examples:
    """Examples in memory.

    Args:
        examples: each with `input_ids`; all have the same fields.
        places: of every example where it comes from; None = its number.
        name: of all of them.

    Raises:
        ValueError: if there are none, or one is without tokens.
    """

    def __init__(
        self, examples: Iterable[Example], places: Sequence[str] | None = None, name: str = "examples"
    ) -> None:
        self.examples = list(examples)
        self.name = name
        self._places = places
        if not self.examples:
            raise ValueError(f"{name}: expected at least one example, found none")
        self.lengths = [max(_tokens(each), default=0) for each in self.examples]
        if 0 in self.lengths:
            raise ValueError(f"{self.where(self.lengths.index(0))}: expected at least one token, found none")

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]

    def where(self, index: int) -> str:
        """As `Source.where`."""
        return f"{self.name}: example {index}" if self._places is None else self._places[index]

    @cached_property
    def fingerprint(self) -> str:
        """Of all that the examples hold."""
        return fingerprint(self.examples)


def _tokens(example: Mapping[str, Any]) -> list[int]:
    """How many tokens the sides of an example have: of a pair of texts, or of a source and its target."""
    return [
        len(value) for name, value in example.items() if name == "labels" or name.endswith("input_ids") if _many(value)
    ]


def _many(value: object) -> bool:
    return hasattr(value, "__len__")


def fingerprint(rows: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256, in hexadecimal, of rows of numbers, texts and lists of them."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode())
        digest.update(b"\n")
    return digest.hexdigest()
