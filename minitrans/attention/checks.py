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
    q, k, packed = query.shape, key.shape, rules.layout is not None
    faults = (
        (not 0.0 <= rules.dropout_p < 1.0, f"dropout_p must be in [0, 1), got {rules.dropout_p}"),
        (k != value.shape, f"key and value must have the same shape, got {tuple(k)} and {tuple(value.shape)}"),
        (q[-1] != k[-1], f"query and key must have the same head width, got {q[-1]} and {k[-1]}"),
        (k[1] == 0 or q[1] % k[1] != 0, f"key/value heads must divide query heads, got {k[1]} and {q[1]}"),
        (not packed, f"query and key must have the same batch size, got {q[0]} and {k[0]}"),
        (q[0] != k[0], f"a packed batch has one layout: N must agree, got {q[0]} and {k[0]}"),
        (True, "a packed batch has no padding: key_padding, dense and blocks masks do not apply to it"),
    )
    raise ValueError(next(message for wrong, message in faults if wrong))
