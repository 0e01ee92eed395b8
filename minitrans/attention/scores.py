"""Scores held as one tensor, for mechanisms and for probabilities on request; backends have their own derivations."""

from __future__ import annotations

import torch
from torch import Tensor

from minitrans.attention.rules import AttentionRules


def dense_scores(query: Tensor, key: Tensor, rules: AttentionRules) -> Tensor:
    """cap(scale · Q Kᵀ): (B, H, T, K) and (B, G, S, K) -> (B, H, T, S), without bias and mask."""
    batch, heads, length, width = query.shape
    grouped = query.reshape(batch, key.shape[1], heads // key.shape[1], length, width)  # (B, G, H / G, T, K)
    scores = torch.einsum("bgrtk,bgsk->bgrts", grouped, key).reshape(batch, heads, length, key.shape[2])
    scores = scores * rules.scale_for(query)
    return scores if rules.softcap is None else rules.softcap * torch.tanh(scores / rules.softcap)


def over_values(weights: Tensor, value: Tensor) -> Tensor:
    """(B, H, T, S) times (B, G, S, K) -> (B, H, T, K)."""
    return weights @ value.repeat_interleave(weights.shape[1] // value.shape[1], dim=1)
