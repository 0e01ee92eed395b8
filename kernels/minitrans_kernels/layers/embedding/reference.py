"""The meaning of embedding_layer_norm, in the dtype of the tables (Devlin et al. 2019, figure 2)."""

from __future__ import annotations

import torch
from torch import Tensor


def embedding_layer_norm(
    input_ids: Tensor,
    position_ids: Tensor,
    token_type_ids: Tensor | None,
    word: Tensor,
    position: Tensor,
    token_type: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    kept: Tensor | None = None,
    dropout_p: float = 0.0,
) -> Tensor:
    """dropout(LayerNorm(word + type + position)); `kept` (bool, like the result) says what dropout leaves."""
    total = word[input_ids]
    if token_type is not None:
        total = total + token_type[token_type_ids]
    total = total + position[position_ids]
    deviation = total - total.mean(-1, keepdim=True)
    y = deviation / torch.sqrt((deviation**2).mean(-1, keepdim=True) + eps) * weight + bias
    return y if kept is None else torch.where(kept, y / (1.0 - dropout_p), torch.zeros_like(y))
