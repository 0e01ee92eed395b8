"""The vocabulary of the name tables: what may happen to a tensor between a Hugging Face file and one of our models.

A table is written in one direction, file -> model; `inverse` gives the other. Names are exact templates: a `{layer}`
stands for one whole dotted segment that is a plain decimal number, everything else for itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import torch

Shape = tuple[int, ...]
Numbers = dict[str, int]


@lru_cache(maxsize=4096)
def _segments(template: str) -> tuple[str, ...]:
    segments = tuple(template.split("."))
    for segment in segments:
        if ("{" in segment or "}" in segment) and not (
            segment[0] + segment[-1] == "{}" and segment[1:-1].isidentifier()
        ):
            raise ValueError(f"template {template!r}: expected placeholders that are whole segments, found {segment!r}")
    if "{" in segments[-1]:
        raise ValueError(f"template {template!r}: expected a last segment without a placeholder")
    return segments


def _number(segment: str) -> int | None:
    """`segment` as a number if it is written the one way a state dict writes it: ASCII digits, no sign, no leading zero."""
    if len(segment) > 6 or not (segment.isascii() and segment.isdigit()) or (segment[0] == "0" and segment != "0"):
        return None
    return int(segment)


def match(template: str, key: str) -> Numbers | None:
    """The numbers at which `key` is an instance of `template`, or None: match("h.{layer}.w", "h.3.w") == {"layer": 3}."""
    wanted, found = _segments(template), key.split(".", len(_segments(template)))
    if len(wanted) != len(found):
        return None
    numbers: Numbers = {}
    for want, have in zip(wanted, found, strict=True):
        if want[:1] != "{":
            if want != have:
                return None
            continue
        number = _number(have)
        if number is None or numbers.setdefault(want[1:-1], number) != number:
            return None
    return numbers


def fill(template: str, numbers: Mapping[str, int]) -> str:
    """The name that `template` stands for at these numbers."""
    return template.format_map(numbers) if "{" in template else template


class Rule:
    """One tensor movement: `sources` (templates of file keys) become `targets` (templates of model names)."""

    source: str | tuple[str, ...]
    target: str | tuple[str, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        """Templates of the keys that are read."""
        return (self.source,) if isinstance(self.source, str) else self.source

    @property
    def targets(self) -> tuple[str, ...]:
        """Templates of the names that are filled."""
        return (self.target,) if isinstance(self.target, str) else self.target

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape] | str:
        """Shapes of the targets for these shapes of the sources, or one line saying why there are none."""
        return list(shapes)

    def apply(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The targets' tensors (views where possible) from the sources' tensors."""
        return list(tensors)

    def inverse(self) -> Rule:
        """The rule that undoes this one."""
        raise NotImplementedError


def _transposed(shape: Shape) -> Shape | str:
    return shape[::-1] if len(shape) == 2 else f"expected a matrix to transpose, found shape {list(shape)}"


@dataclass(frozen=True)
class Rename(Rule):
    """The same tensor under another name."""

    source: str
    target: str

    def inverse(self) -> Self:
        """The names swapped."""
        return type(self)(self.target, self.source)


@dataclass(frozen=True)
class Alias(Rename):
    """Another name of a tensor in files: it is read, and never written."""


@dataclass(frozen=True)
class Transpose(Rename):
    """A matrix stored the other way round (the reference's Conv1D keeps (in, out), a Linear keeps (out, in))."""

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape] | str:
        """(a, b) -> (b, a)."""
        turned = _transposed(shapes[0])
        return turned if isinstance(turned, str) else [turned]

    def apply(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """(a, b) -> (b, a), a view."""
        return [tensors[0].T]


@dataclass(frozen=True)
class Split(Rule):
    """One fused tensor cut along its dimension `dim` into equal parts, in their order; each transposed, with `transpose`."""

    source: str
    target: tuple[str, ...]
    dim: int = 0
    transpose: bool = False

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape] | str:
        """The fused shape with `dim` divided by the number of parts."""
        fused = shapes[0]
        if self.dim >= len(fused) or fused[self.dim] % len(self.target):
            return f"expected dimension {self.dim} to divide into {len(self.target)} parts, found shape {list(fused)}"
        part: Shape | str = (*fused[: self.dim], fused[self.dim] // len(self.target), *fused[self.dim + 1 :])
        if self.transpose and not isinstance(part, str):
            part = _transposed(part)
        return part if isinstance(part, str) else [part] * len(self.target)

    def apply(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Views of the parts."""
        parts = tensors[0].chunk(len(self.target), self.dim)
        return [part.T if self.transpose else part for part in parts]

    def inverse(self) -> Concat:
        """The parts laid end to end again."""
        return Concat(self.target, self.source, self.dim, self.transpose)


@dataclass(frozen=True)
class Concat(Rule):
    """Tensors of one shape (each transposed first, with `transpose`) laid end to end along `dim` of the fused tensor."""

    source: tuple[str, ...]
    target: str
    dim: int = 0
    transpose: bool = False

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape] | str:
        """The part's shape with `dim` times the number of parts."""
        if len(set(shapes)) != 1:
            return f"expected parts of one shape, found {[list(shape) for shape in shapes]}"
        part = _transposed(shapes[0]) if self.transpose else shapes[0]
        if isinstance(part, str):
            return part
        if self.dim >= len(part):
            return f"expected parts with a dimension {self.dim}, found shape {list(part)}"
        return [(*part[: self.dim], part[self.dim] * len(self.source), *part[self.dim + 1 :])]

    def apply(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """A new fused tensor."""
        return [torch.cat([part.T if self.transpose else part for part in tensors], self.dim)]

    def inverse(self) -> Split:
        """The fused tensor cut again."""
        return Split(self.target, self.source, self.dim, self.transpose)


@dataclass(frozen=True)
class Drop:
    """A key that a model may do without, if no rule put it to use, and why that changes no number."""

    key: str
    why: str


@dataclass(frozen=True)
class Refuse:
    """A key that changes the numbers: if no rule put it to use, the checkpoint is refused, and `why` says what to do."""

    key: str
    why: str


@dataclass(frozen=True)
class Tied:
    """Two file keys that mean one tensor: if only one is there it serves both; if both differ each keeps its own.

    `saved` says which of them a file written by us holds, "second" or "both". `switch` is the field of the config that is
    set to False when the file's two tensors differ, so that the model holds both.
    """

    first: str
    second: str
    saved: str = "second"
    switch: str | None = None


TableRow = Rule | Drop | Refuse | Tied


def movements(table: Sequence[TableRow]) -> list[Rule]:
    """The rows of a table that move tensors."""
    return [row for row in table if isinstance(row, Rule)]


def ties(table: Sequence[TableRow]) -> list[Tied]:
    """The rows of a table that tie two keys."""
    return [row for row in table if isinstance(row, Tied)]


def inverse(table: Sequence[TableRow]) -> list[Rule]:
    """The table model -> file: every movement undone. Raises ValueError if two rows would fill one name."""
    undone = [rule.inverse() for rule in movements(table) if not isinstance(rule, Alias)]
    names = [name for rule in undone for name in rule.targets]
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ValueError(f"the table has no inverse: two rows read {', '.join(twice)}")
    return undone
