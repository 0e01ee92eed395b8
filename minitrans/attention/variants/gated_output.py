"""Gated attention: the output of each head times a sigmoid of x (Qiu et al. 2025, "Gated Attention for Large Language Models",
G1). + O(n D²), or O(n D H) head by head."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from minitrans.attention.context import Context
from minitrans.attention.rules import AttentionResult
from minitrans.attention.variant import Identity, LayerSizes, Variant


class GatedOutput(Variant):
    """output · factor · sigmoid(x W + b), elementwise or one gate a head, W and b zero at first.

    With the factor 2 that is softmax attention at first, where the gate is steepest: the paper's, which has the factor 1,
    with an output projection of twice the size.

    Args:
        sizes: of the block.
        by_head: one gate for all K numbers of a head; the probabilities are gated too then.
        factor: of the gates.
    """

    name = "gated_output"
    identity = Identity()
    laws = ("linear in the values",)

    def __init__(self, sizes: LayerSizes, *, by_head: bool = False, factor: float = 2.0) -> None:
        super().__init__(sizes)
        self.by_head, self.factor = by_head, factor
        self.gate = nn.Linear(sizes.width, sizes.heads * (1 if by_head else sizes.head_width))
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def finish(self, result: AttentionResult, x: Tensor, context: Context) -> AttentionResult:
        """The result with its output gated."""
        gates = torch.unflatten(
            self.factor * torch.sigmoid(self.gate(x)), -1, (self.sizes.heads, -1)
        )  # (..., T, H, K|1)
        weights = result.weights
        if self.by_head and weights is not None:
            rows = gates.transpose(0, 1)[None] if context.layout is not None else gates.transpose(1, 2)
            weights = weights * rows
        return replace(
            result,
            output=result.output * (gates if context.layout is not None else gates.transpose(1, 2)),
            weights=weights,
        )
