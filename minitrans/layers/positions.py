"""Vectors of positions: learned, or sinusoids (Vaswani et al. 2017, section 3.5) in the layouts of real checkpoints (S7)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn

from minitrans.attention.mask import has_values

SinusoidLayout = Literal["interleaved", "halves", "halves_offset"]


def sinusoidal_table(num_positions: int, width: int, layout: SinusoidLayout = "interleaved") -> Tensor:
    """(num_positions, D) float64: the angles of position p are p · f, one frequency f per pair of columns.

    Layouts:
        interleaved: sin in even columns, cos in odd ones, f_i = 10000^(-2i/D): the paper; DistilBERT, XLM.
        halves: all sines, then all cosines, same frequencies: Marian, Pegasus, RoFormer.
        halves_offset: all sines, then all cosines, f_i = 10000^(-i/(D/2 - 1)), a zero column at the end when D is odd,
            and row 1 zero, which is where padding looks; `SinusoidalPositions` starts at row 2: M2M-100, XGLM.

    Raises:
        ValueError: for an unknown layout, or a width too small to hold a pair.
    """
    if layout not in get_args(SinusoidLayout):
        raise ValueError(f"unknown sinusoid layout {layout!r}; known: {', '.join(get_args(SinusoidLayout))}")
    if width < (4 if layout == "halves_offset" else 2) or num_positions < 1:
        raise ValueError(
            f"sinusoids need at least one position and one pair of columns, got ({num_positions}, {width})"
        )
    position = torch.arange(num_positions, dtype=torch.float64)[:, None]
    if layout == "halves_offset":
        half = width // 2
        frequency = torch.exp(torch.arange(half, dtype=torch.float64) * (-math.log(10000.0) / (half - 1)))
        angle = position * frequency  # (P, D // 2)
        table = torch.cat([angle.sin(), angle.cos(), torch.zeros(num_positions, width % 2, dtype=torch.float64)], dim=1)
        table[1:2] = 0.0
        return table
    pairs = (width + 1) // 2  # an odd width has one more sine than cosines
    frequency = 10000.0 ** (-2.0 * torch.arange(pairs, dtype=torch.float64) / width)
    angle = position * frequency  # (P, pairs)
    sines, cosines = angle.sin(), angle.cos()[:, : width // 2]
    if layout == "halves":
        return torch.cat([sines, cosines], dim=1)
    table = torch.empty(num_positions, width, dtype=torch.float64)
    table[:, 0::2], table[:, 1::2] = sines, cosines
    return table


class OffsetPositions(nn.Embedding):
    """A learned row for each position, of which the first ones are never used (S1).

    Args:
        num_positions: the longest sequence.
        width: D.
        offset: how many rows come before that of position 0.
    """

    def __init__(self, num_positions: int, width: int, offset: int = 2) -> None:
        super().__init__(num_positions + offset, width)
        self.offset = offset

    def forward(self, positions: Tensor) -> Tensor:
        """(...) int64 -> (..., D)."""
        return super().forward(positions + self.offset)


class SinusoidalPositions(nn.Module):
    """The rows of a `sinusoidal_table` for positions counted from 0; nothing here is trained or stored.

    Args:
        num_positions: the longest sequence.
        width: D.
        layout: see `sinusoidal_table`; "halves_offset" reads row p + 2 for position p, and knows position -1: padding.
    """

    table: Tensor

    def __init__(self, num_positions: int, width: int, layout: SinusoidLayout = "interleaved") -> None:
        super().__init__()
        self.num_positions = num_positions
        self.layout = layout
        self.offset, self.first = (2, -1) if layout == "halves_offset" else (0, 0)
        table = sinusoidal_table(num_positions + self.offset, width, layout)
        self.table = nn.Buffer(table.to(torch.get_default_dtype()), persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        """(...) int64 positions -> (..., D) in the dtype of the module.

        Raises:
            ValueError: for a position outside the table (on the CPU; another device would have to be waited for).
        """
        if positions.device.type == "cpu" and has_values(positions) and positions.numel():
            low, high = (int(end) for end in torch.aminmax(positions))
            if low < self.first or high >= self.num_positions:
                got = f"of at most {self.num_positions} tokens, got position {low if low < self.first else high}"
                raise ValueError(f"positions must be in [{self.first}, {self.num_positions}), for sequences {got}")
        return self.table[positions + self.offset]

    def extra_repr(self) -> str:
        """Sizes and layout, for print(model)."""
        return f"{self.num_positions}, {self.table.shape[1]}, {self.layout}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `.to()`, `.double()` and `.to_empty()` go through: the table is computed anew, then rounded once.

        Otherwise float32 -> float64 would keep the error of float32, and a model made on the meta device no numbers.
        """
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.compute_buffers()
        return self

    def compute_buffers(self) -> None:
        """The table in the dtype and on the device that it has."""
        if self.table.device.type != "meta":
            num_rows, width = self.table.shape
            self.table = sinusoidal_table(num_rows, width, self.layout).to(self.table)
