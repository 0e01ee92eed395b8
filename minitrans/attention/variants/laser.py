"""LASER: the logarithm of a mean of exponentials of the values (Duvvuri and Dhillon 2024, "LASER: Attention with Exponential
Transformation"). No cost of its own."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from minitrans.attention.context import Context
from minitrans.attention.rules import AttentionResult
from minitrans.attention.variant import Identity, LayerSizes, Variant


class Laser(Variant):
    """log(sum of p_j exp(c v_j)) / c, number by number, c learned for each key head; 1 is the paper's, near 0 the mean.

    Written as log1p(c · sum of p_j u_j) / c of u = expm1(c v) / c, which loses no digits however small c is, and under
    which a row of no weights is 0. Weights that dropout enlarges can make the sum less than a logarithm takes: it is bounded.

    Args:
        sizes: of the block.
        strength: c at first.
    """

    name = "laser"
    trial = {"strength": 0.25}
    identity = Identity(
        {"strength": 1e-11}, limit="strength to 0, with an error of strength / 2 times the values' variance"
    )
    laws = ("rows sum to one",)

    def __init__(self, sizes: LayerSizes, *, strength: float = 1e-3) -> None:
        super().__init__(sizes)
        self.strength = nn.Parameter(torch.full((sizes.kv_heads,), strength))  # c

    def project(self, query: Tensor, key: Tensor, value: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Values' exponentials; queries and keys as they are."""
        c = self._strengths(value, context)
        return query, key, (torch.expm1(c * value) / c).to(value.dtype)

    def finish(self, result: AttentionResult, x: Tensor, context: Context) -> AttentionResult:
        """The logarithm of the output."""
        c = self._strengths(result.output, context)
        logarithm = torch.log1p((c * result.output).clamp(min=-1 + 2**-10)) / c
        return replace(result, output=logarithm.to(result.output.dtype))

    def _strengths(self, x: Tensor, context: Context) -> Tensor:
        """(heads, 1, 1), or (heads, 1) in a packed batch, for the heads of x; in at least float32, and not zero."""
        c = self.strength.to(torch.float64 if x.dtype == torch.float64 else torch.float32).abs().clamp(min=1e-12)
        return c.repeat_interleave(x.shape[1] // len(c)).view(-1, *[1] * (1 if context.layout is not None else 2))
