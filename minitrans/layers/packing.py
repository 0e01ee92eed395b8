"""Leaving padding out: between a padded batch (B, T, ...) and its real tokens laid end to end (N, ...)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from minitrans.attention.layout import PackedLayout


@dataclass(frozen=True, eq=False)
class Packing:
    """Which cells of a (B, T) grid hold the tokens of a packed batch.

    Attributes:
        layout: where each row's tokens lie in the packed batch.
        cells: (N) int64, the place b * T + t of each token in the flattened grid, rising.
        shape: (B, T).
    """

    layout: PackedLayout
    cells: Tensor
    shape: tuple[int, int]

    @classmethod
    def of_mask(cls, real: Tensor) -> Packing:
        """The packing of a padded batch whose tokens are where `real` (B, T) is True."""
        lengths = real.sum(dim=1).tolist()
        layout = PackedLayout.from_lengths(lengths, real.device)
        return cls(layout, real.flatten().nonzero().squeeze(1), (real.shape[0], real.shape[1]))

    @classmethod
    def of_layout(cls, layout: PackedLayout) -> Packing:
        """The packing whose padded batch would have every sequence at the left of its row."""
        lengths, longest = layout.lengths(), max(layout.max_seqlen, 1)
        device = layout.cu_seqlens.device
        columns = torch.arange(longest, device=device)
        real = columns < torch.tensor(lengths, device=device)[:, None]  # (B, T)
        return cls(layout, real.flatten().nonzero().squeeze(1), (len(lengths), longest))

    def pack(self, padded: Tensor) -> Tensor:
        """(B, T, ...) -> (N, ...)."""
        return padded.reshape(-1, *padded.shape[2:])[self.cells]

    def unpack(self, packed: Tensor, fill: float = 0) -> Tensor:
        """(N, ...) -> (B, T, ...), with `fill` at padding."""
        batch, length = self.shape
        grid = packed.new_full((batch * length, *packed.shape[1:]), fill)
        return grid.index_copy_(0, self.cells, packed).view(batch, length, *packed.shape[1:])


def is_contiguous(real: Tensor) -> bool:
    """Whether the tokens of each row of `real` (B, T) stand side by side, so that packing keeps the distances between them."""
    begins = real & ~torch.nn.functional.pad(real, (1, 0))[:, :-1]
    return bool((begins.sum(dim=1) <= 1).all())
