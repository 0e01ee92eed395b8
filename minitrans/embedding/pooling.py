"""One vector of the vectors of a text's tokens."""

from __future__ import annotations

import torch
from torch import Tensor

POOLINGS = ("mean", "cls", "max", "mean_sqrt_len", "weightedmean", "lasttoken")
_HALVES = (torch.float16, torch.bfloat16)


def pool(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """(B, T, D) and (B, T), True = a token, to (B, D); padding takes no part, on whichever side it is.

    Sums of half-precision states are made, and returned, in float32.

    Args:
        states: of the last layer.
        mask: where there are tokens.
        pooling: "mean"; "cls", the first token; "max" of each coordinate; "mean_sqrt_len", the sum over the square root of
            the count; "weightedmean", token t counting t + 1 times (Muennighoff 2022, "SGPT"); "lasttoken".
    """
    rows = torch.arange(len(states), device=states.device)
    if pooling == "cls":
        return states[rows, mask.int().argmax(dim=1)]
    if pooling == "lasttoken":
        return states[rows, mask.shape[1] - 1 - mask.flip(1).int().argmax(dim=1)]
    if pooling == "max":
        return states.masked_fill(~mask.unsqueeze(-1), float("-inf")).amax(dim=1)
    exact = torch.float32 if states.dtype in _HALVES else states.dtype
    weights = mask.to(exact)  # (B, T)
    if pooling == "weightedmean":
        weights = weights * weights.cumsum(dim=1)  # 1, 2, 3, ... from the first token
    total = (states.to(exact) * weights.unsqueeze(-1)).sum(dim=1)  # (B, D)
    count = weights.sum(dim=1, keepdim=True).clamp(min=1)  # (B, 1)
    return total / (count.sqrt() if pooling == "mean_sqrt_len" else count)
