"""Cosine attention: scores by the angle of q and k (Liu et al. 2022, "Swin Transformer V2", equation 2; Loshchilov et al. 2024,
"nGPT"). No cost of its own."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from minitrans.attention.context import Context
from minitrans.attention.variant import Identity, LayerSizes, Variant


class Cosine(Variant):
    """score = scale · |q|^(1-a) |k|^(1-a) L^a cos(q, k), L learned for each head and a for each key head.

    With a = 1 the lengths of queries and keys do not count, and scale · L is the paper's 1 / tau; with a = 0, where a swap
    begins, it is softmax attention. L is K at first, what unit
    variances make of |q| |k|.

    Args:
        sizes: of the block.
        power: a at first.
    """

    name = "cosine"
    trial = {"power": 1.0}
    identity = Identity()
    laws = ("rows sum to one", "linear in the values")

    def __init__(self, sizes: LayerSizes, *, power: float = 0.0) -> None:
        super().__init__(sizes)
        self.power = nn.Parameter(torch.full((sizes.kv_heads,), power))  # a
        self.log_length = nn.Parameter(torch.full((sizes.heads,), math.log(sizes.head_width)))  # log L

    def project(self, query: Tensor, key: Tensor, value: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys of other lengths; values as they are."""
        group = query.shape[1] // key.shape[1]
        return self._turned(query, self.log_length, group, context), self._turned(key, None, 1, context), value

    def _turned(self, x: Tensor, log_length: Tensor | None, group: int, context: Context) -> Tensor:
        """x (L / |x|)^a, with 1 for L where there is none; a zero vector stays."""
        wide = x if x.dtype == torch.float64 else x.float()
        by_head = (-1, *[1] * (1 if context.layout is not None else 2))
        log_ratio = -0.5 * torch.log(wide.square().sum(dim=-1, keepdim=True) + torch.finfo(wide.dtype).tiny)
        if log_length is not None:
            log_ratio = log_ratio + log_length.view(by_head)
        power = self.power.repeat_interleave(group).view(by_head)
        return (wide * torch.exp(power * log_ratio)).to(x.dtype)
