"""Attention-free Transformer: each channel has its own weights, made of the key alone (Zhai et al. 2021, equation 2; positions by
distance as in AFT-conv). O(n² D)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from minitrans.attention.dense import biased, forbid
from minitrans.attention.mask import distance
from minitrans.attention.packed import by_sequence
from minitrans.attention.rules import AttentionResult, AttentionRules
from minitrans.attention.variant import LayerSizes, Variant

_ROWS = 32  # queries whose weights, one for each channel, are held at a time


class AttentionFree(Variant):
    """sigmoid(q_i) times the mean of v_j weighted by exp(k_j + w[clip(j - i)]), number by number; w is 0 at first.

    Args:
        sizes: of the block.
        reach: distances beyond it are taken for it.
    """

    name = "aft"
    trial = {"reach": 2}
    laws = ("linear in the values",)

    def __init__(self, sizes: LayerSizes, *, reach: int = 16) -> None:
        super().__init__(sizes)
        self.by_distance = nn.Parameter(torch.zeros(sizes.heads, 2 * reach + 1))

    def compute(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        """Sequence by sequence in a packed batch."""
        return by_sequence(self._rectangle, query, key, value, rules)

    def _rectangle(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        group, reach = query.shape[1] // key.shape[1], self.by_distance.shape[1] // 2
        which = distance(query.shape[2], key.shape[2], query.device).clamp(-reach, reach) + reach
        near = self.by_distance[:, which].to(query.dtype)[None].expand(len(query), -1, -1, -1)
        near, allowed = biased(near, query, key, rules)
        allowed = allowed.expand(*allowed.shape[:2], query.shape[2], -1)
        near = forbid(near, allowed)
        keys, values = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
        kept = dropout(torch.ones_like(values[..., :1]), rules.dropout_p) if rules.dropout_p else 1.0
        means = [
            torch.einsum("bhtsk,bhsk->bhtk", torch.softmax(rows[..., None] + keys[:, :, None], dim=3), values * kept)
            for rows in torch.split(near, _ROWS, dim=2)
        ]
        output = torch.sigmoid(query) * torch.cat(means, dim=2)
        return AttentionResult(output.masked_fill(~allowed.any(dim=-1, keepdim=True), 0.0))

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        """There is no score of a pair: nothing to scale or cap, and no probability for all channels of a head."""
        lacking = {
            "another scale than K ** -0.5": rules.scale_for(query) != query.shape[-1] ** -0.5,
            "softcap": rules.softcap is not None, "probabilities": rules.need_weights,
            "the logsumexp": rules.need_logsumexp,
        }  # fmt: skip
        return next((name for name, asked in lacking.items() if asked), None)
