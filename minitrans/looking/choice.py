"""Which heads and which texts of a value are read and edited."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from minitrans.looking.sites import Site


@dataclass(frozen=True)
class Chosen:
    """Which heads and rows."""

    heads: list[int] | None
    rows: list[int] | None

    def check(self, edits: Iterable[Site]) -> None:
        """An edit of chosen heads is at points that have some."""
        for site in edits:
            if self.heads is not None and site.point.head_axis is None:
                raise ValueError(f"{site.full_name!r} is not of a head: edit it without heads=")

    def indexes(self, site: Site, value: Tensor) -> list[tuple[int, Tensor]]:
        """(axis, which) of a value."""
        axis, found = site.point.head_axis, []
        packed = axis is not None and value.dim() < len(site.point.shape.split(", "))  # N for B, T
        if self.heads is not None and axis is not None:
            found.append((axis - packed, _numbers("heads", self.heads, value, axis - packed)))
        if self.rows is not None:
            found.append((0, _numbers("rows", self.rows, value, 0)))
        return found

    def of(self, site: Site, value: Tensor) -> Tensor:
        """The part of a value that is chosen."""
        for axis, which in self.indexes(site, value):
            value = value.index_select(axis, which)
        return value

    def put(self, site: Site, value: Tensor, part: Tensor) -> Tensor:
        """The value with another part."""
        indexes = self.indexes(site, value)
        if not indexes:
            return part
        (axis, which), *others = indexes
        inner = part if not others else value.index_select(axis, which).index_copy(*others[0], part)
        return value.index_copy(axis, which, inner)


def _numbers(what: str, numbers: list[int], value: Tensor, axis: int) -> Tensor:
    last = value.shape[axis] - 1
    if any(not 0 <= number <= last for number in numbers):
        raise ValueError(f"{what} are 0 to {last}, got {numbers}")
    return torch.tensor(numbers, device=value.device)
