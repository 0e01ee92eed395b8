"""What each layer means: its equation in plain torch, in the dtype it is given. The package that is judged has no part in it."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def add_dropout_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    kept: Tensor | None = None,
    dropout_p: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """(LayerNorm(z), z) with z = dropout(x) + residual (..., D); `kept` (bool, like x) says what dropout leaves."""
    if kept is not None:
        x = torch.where(kept, x / (1.0 - dropout_p), torch.zeros_like(x))
    z = x + residual
    deviation = z - z.mean(-1, keepdim=True)
    y = deviation / torch.sqrt((deviation**2).mean(-1, keepdim=True) + eps) * weight
    return (y if bias is None else y + bias), z


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x (..., D) over the root of the mean of its squares, times weight (D)."""
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + eps) * weight


def bias_gelu(x: Tensor, bias: Tensor, approximate: str) -> Tensor:
    """u Φ(u) with u = x + bias, x (..., F), bias (F); "tanh" is the paper's approximation of Φ."""
    u = x + bias
    if approximate == "tanh":
        return 0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
    return 0.5 * u * (1 + torch.erf(u / math.sqrt(2)))


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


def masked_lm_loss(hidden: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, ignore_index: int) -> Tensor:
    """Mean cross entropy of hidden (..., D) · weight (V, D) + bias against labels (...), where these are not ignore_index."""
    logits = hidden @ weight.T if bias is None else hidden @ weight.T + bias
    logits, labels = logits.flatten(0, -2), labels.flatten()
    labelled = labels != ignore_index
    probabilities = torch.log_softmax(logits[labelled], dim=-1)
    return -probabilities[torch.arange(len(probabilities)), labels[labelled]].mean()
