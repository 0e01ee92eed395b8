"""Differential attention: one softmax minus another (Ye et al. 2024, "Differential Transformer"; version 2, 2026). O(n² K)."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, rms_norm

from minitrans.attention.context import Context
from minitrans.attention.dense import DenseMechanism
from minitrans.attention.rules import AttentionResult, AttentionRules
from minitrans.attention.scores import over_values
from minitrans.attention.variant import Identity, LayerSizes


class Differential(DenseMechanism):
    """a_h - lambda_h a_partner, the partner of a head being the other of its pair (2i, 2i + 1), each with its own values.

    lambda = c_h sigmoid(x w_h + b_h) of each token and head, without a norm. In the second version c is 1 and a pair has one
    output; here both heads of a pair keep theirs and c is learned, 0 at first, so that it can be swapped in and trained
    from there; w and b are zero at first.

    Args:
        sizes: of the block.
        strength: c at first.
    """

    name = "differential"
    identity = Identity()
    laws = ("linear in the values",)

    def __init__(self, sizes: LayerSizes, *, strength: float = 0.0) -> None:
        super().__init__(sizes)
        if sizes.heads % 2:
            raise ValueError(f"heads make pairs: their number must be even, got {sizes.heads}")
        self.gate = nn.Linear(sizes.width, sizes.heads)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)
        self.strength = nn.Parameter(torch.full((sizes.heads,), strength))  # c

    def reweigh(self, weights: Tensor, key: Tensor, rules: AttentionRules) -> Tensor:
        """What the partner attends to, taken off."""
        assert rules.x is not None
        partner = torch.arange(weights.shape[1], device=weights.device) ^ 1
        share = (self.strength * torch.sigmoid(self.gate(rules.x))).transpose(1, 2)[..., None]  # (B, H, T, 1)
        return weights - share * weights[:, partner]


class DifferentialV1(DenseMechanism):
    """The paper's: heads h and h + H/2 make a pair with the values of both, (a_h - lambda a_(h + H/2)) [v_h; v_(h + H/2)].

    lambda = exp(q1·k1) - exp(q2·k2) + initial, of learned vectors (K); then an RMS norm over both widths, times 1 - initial.

    Args:
        sizes: of the block.
        initial: lambda at first; None = the paper's 0.8 - 0.6 exp(-0.3 layer).
        eps: of the norm.
    """

    name = "differential_v1"

    def __init__(self, sizes: LayerSizes, *, initial: float | None = None, eps: float = 1e-5) -> None:
        super().__init__(sizes)
        if sizes.heads % 2:
            raise ValueError(f"heads make pairs: their number must be even, got {sizes.heads}")
        self.initial = 0.8 - 0.6 * math.exp(-0.3 * sizes.layer) if initial is None else initial
        self.eps = eps
        vectors = torch.zeros(4, sizes.head_width)
        self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2 = (
            nn.Parameter(each.normal_(0, 0.1)) for each in vectors.clone()
        )

    def output(self, weights: Tensor, value: Tensor, rules: AttentionRules) -> Tensor:
        """(B, H, T, S), (B, G, S, K) -> (B, H, T, K): pair by pair."""
        group = weights.shape[1] // value.shape[1]
        first, second = value.repeat_interleave(group, dim=1).chunk(2, dim=1)
        pairs = torch.cat([first, second], dim=-1)  # (B, H / 2, S, 2 K)
        positive = torch.exp((self.lambda_q1 * self.lambda_k1).sum())
        share = positive - torch.exp((self.lambda_q2 * self.lambda_k2).sum()) + self.initial
        one, other = dropout(weights, rules.dropout_p).chunk(2, dim=1)
        mixed = over_values(one, pairs) - share * over_values(other, pairs)
        return torch.unflatten(mixed, -1, (2, -1)).transpose(2, 3).flatten(1, 2)

    def finish(self, result: AttentionResult, x: Tensor, context: Context) -> AttentionResult:
        """The result, normed over the two heads that are one."""
        packed = context.layout is not None
        by_token = result.output if packed else result.output.transpose(1, 2)
        pairs = torch.unflatten(by_token, -2, (-1, 2)).flatten(-2)
        normed = rms_norm(pairs, pairs.shape[-1:], eps=self.eps) * (1 - self.initial)
        normed = torch.unflatten(normed, -1, (2, -1)).flatten(-3, -2)  # (..., T, H, K)
        return replace(result, output=normed if packed else normed.transpose(1, 2))

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        """Neither probabilities nor the logsumexp: two softmaxes make each output."""
        return "probabilities" if rules.need_weights else super().supports(rules, query)
