"""What is wrong with a call of `attend`, in a sentence."""

from __future__ import annotations

from typing import NoReturn

from torch import Tensor

from minitrans.attention.rules import AttentionRules


def refuse_call(query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> NoReturn:
    """Raises ValueError or TypeError for the first thing that does not fit."""
    dimensions, expected = (3, "(N, H, K)") if rules.layout is not None else (4, "(B, H, T, K)")
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dim() != dimensions:
            raise ValueError(f"{name} must be {expected}, got shape {tuple(tensor.shape)}")
        if tensor.dtype != query.dtype or tensor.device != query.device:
            raise TypeError(f"{name} is {tensor.dtype} on {tensor.device}, query is {query.dtype} on {query.device}")
    if not 0.0 <= rules.dropout_p < 1.0:
        raise ValueError(f"dropout_p must be in [0, 1), got {rules.dropout_p}")
    if key.shape != value.shape:
        raise ValueError(f"key and value must have the same shape, got {tuple(key.shape)} and {tuple(value.shape)}")
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"query and key must have the same head width, got {query.shape[-1]} and {key.shape[-1]}")
    if key.shape[1] == 0 or query.shape[1] % key.shape[1]:
        raise ValueError(f"key/value heads must divide query heads, got {key.shape[1]} and {query.shape[1]}")
    if rules.layout is None:
        raise ValueError(f"query and key must have the same batch size, got {query.shape[0]} and {key.shape[0]}")
    if query.shape[0] != key.shape[0]:
        raise ValueError(f"a packed batch has one layout: N must agree, got {query.shape[0]} and {key.shape[0]}")
    raise ValueError("a packed batch has no padding: key_padding, dense and blocks masks do not apply to it")
