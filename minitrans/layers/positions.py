"""Sinusoidal positions (Vaswani et al. 2017, section 3.5), in the three layouts that real checkpoints use (S7)."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

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


class SinusoidalPositions(nn.Module):
    """The rows of a `sinusoidal_table` for positions counted from 0; nothing here is trained or stored.

    Args:
        num_positions: the longest sequence.
        width: D.
        layout: see `sinusoidal_table`; "halves_offset" reads row p + 2 for position p.
    """

    def __init__(self, num_positions: int, width: int, layout: SinusoidLayout = "interleaved") -> None:
        super().__init__()
        self.offset = 2 if layout == "halves_offset" else 0
        self.num_positions = num_positions
        self.table = nn.Buffer(sinusoidal_table(num_positions + self.offset, width, layout), persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        """(...) int64 positions -> (..., D) in the dtype of the module.

        Raises:
            ValueError: for a position beyond the table.
        """
        if positions.numel() and int(positions.max()) >= self.num_positions:
            raise ValueError(
                f"the longest sequence is {self.num_positions} tokens, got position {int(positions.max())}"
            )
        return self.table[positions + self.offset]
