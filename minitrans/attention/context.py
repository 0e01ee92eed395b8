"""What the blocks of one pass share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from minitrans.attention.bias import AttentionBias
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import NO_MASK, AttentionMask


@dataclass(frozen=True, eq=False)
class Probabilities:
    """Where blocks leave those of their attentions, (B, H, T, S): one entry a block, nothing of a mixer that has none."""

    own: list[Tensor] = field(default_factory=list)
    cross: list[Tensor] = field(default_factory=list)

    def add(self, own: Tensor | None, cross: Tensor | None) -> None:
        """What one block adds."""
        for kept, weights in ((self.own, own), (self.cross, cross)):
            if weights is not None:
                kept.append(weights)


@dataclass(frozen=True, eq=False)
class Context:
    """One thing more that travels through the blocks is one field more.

    Attributes:
        mask: of the self-attention.
        bias: added to the scores of the self-attention.
        layout: where the sequences of a packed batch lie.
        positions: (B, T) or (N) int64, where each token of x stands in its text; None where no block looks at them.
        memory: (B, S, D), what cross-attention attends to; None skips it.
        memory_mask: of the cross-attention.
        head_mask: (L, H) factors of the heads' probabilities, in both attentions.
        need_weights: return the probabilities too.
        shared: what variants leave for those of later blocks, in this pass.
        kept: where a block, which returns nothing but its output, leaves them.
        first: where among the keys of a cache of fixed size the first token of x stands; None = the last stands at the end.
    """

    mask: AttentionMask = field(default_factory=lambda: NO_MASK)
    bias: AttentionBias | None = None
    layout: PackedLayout | None = None
    positions: Tensor | None = None
    memory: Tensor | None = None
    memory_mask: AttentionMask = field(default_factory=lambda: NO_MASK)
    head_mask: Tensor | None = None
    need_weights: bool = False
    shared: dict[str, Any] = field(default_factory=dict)
    kept: Probabilities | None = None
    first: int | None = None

    def at(self, layer: int) -> Context:
        """What the block of this layer gets: its own row (H) of the head mask."""
        return replace(self, head_mask=None if self.head_mask is None else self.head_mask[layer])
