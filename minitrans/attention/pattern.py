"""What variants share that only say who may attend to whom."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from minitrans.attention.bias import AttentionBias
from minitrans.attention.mask import AttentionMask, MaskRule
from minitrans.attention.variant import CallSizes, Variant

# (sample b, head h, query i, key j, number of real tokens n) -> bool; places count from the first real token
Allows = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


class Pattern(Variant):
    """Overrides `allows`, or `pattern` where a table has to be made for the call first. It runs on every backend."""

    heads_differ: ClassVar[bool] = False
    laws = ("rows sum to one", "linear in the values")

    def allows(self, i: Tensor, j: Tensor, n: Tensor) -> Tensor:
        """Whether query i may attend to key j, int64 tensors that broadcast, in a text of n tokens."""
        raise NotImplementedError

    def pattern(self, sizes: CallSizes, lengths: Tensor) -> Allows:
        """The rule for sequences of these lengths (B), or (1) for a batch without padding."""
        return lambda b, h, i, j, n: self.allows(i, j, n)

    def restrict(
        self, mask: AttentionMask, bias: AttentionBias | None, sizes: CallSizes
    ) -> tuple[AttentionMask, AttentionBias | None]:
        """The mask with the pattern; the bias unchanged."""
        first, lengths = extent(mask, sizes)
        allows, several = self.pattern(sizes, lengths), int(len(lengths) > 1)

        def rule(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            b = b * several  # a rule for one batch entry is asked about all of them
            return allows(b, h, i - first[b], j - first[b], lengths[b])

        return mask.narrowed(MaskRule(rule, lengths.shape[0], sizes.heads if self.heads_differ else 1)), bias


def extent(mask: AttentionMask, sizes: CallSizes) -> tuple[Tensor, Tensor]:
    """The first real token of each sequence and the number of tokens from there to the last: (B), or (1) for all."""
    if sizes.layout is not None:
        lengths = sizes.layout.cu_seqlens.diff().long()
        return torch.zeros_like(lengths), lengths
    if mask.key_padding is None:
        whole = torch.full((1,), sizes.keys, device=sizes.device)
        return torch.zeros_like(whole), whole
    real = mask.key_padding.int()
    first, after = real.argmax(dim=1), real.flip(1).argmax(dim=1)
    return first, sizes.keys - after - first
