"""Key-value shifting: keys and values mixed with those of the token before (Xu et al. 2024, "KV Shifting Attention")."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minitrans.attention.context import Context
from minitrans.attention.variant import Identity, LayerSizes, Variant


class KeyShift(Variant):
    """k'_i = a k_i + b k_(i-1), and v likewise, four numbers a head, a = 1 and b = 0 at first; nothing before a first token.

    Args:
        sizes: of the block.
    """

    name = "key_shift"
    identity = Identity()
    laws = ("rows sum to one", "linear in the values")
    whole_texts = True

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__(sizes)
        self.own = nn.Parameter(torch.ones(2, sizes.kv_heads))  # a, of keys and of values
        self.before = nn.Parameter(torch.zeros(2, sizes.kv_heads))  # b

    def project(self, query: Tensor, key: Tensor, value: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values shifted; queries as they are."""
        if context.layout is not None:
            follows = (context.layout.positions() > 0)[:, None, None]  # (N, 1, 1)
        else:
            real = context.mask.key_padding
            real = torch.ones_like(key[:1, 0, :, 0], dtype=torch.bool) if real is None else real
            follows = (real.roll(1, 1) & (torch.arange(real.shape[1], device=real.device) > 0))[:, None, :, None]
        along, shape = (-3, (-1, 1)) if context.layout is not None else (-2, (-1, 1, 1))
        new_key, new_value = (
            own.view(shape) * x + before.view(shape) * x.roll(1, along).masked_fill(~follows, 0.0)
            for x, own, before in zip((key, value), self.own, self.before, strict=True)
        )
        return query, new_key, new_value
