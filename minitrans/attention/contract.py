"""What every attention keeps: its inputs, its result, and how it says what it can do.

Rules: `scale` multiplies the scores (default K ** -0.5); dropout acts on probabilities; a query with nothing to attend
to gives output 0 and logsumexp -inf, with zero gradients; an option that is not supported raises, nothing falls back
silently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from minitrans.attention.bias import AttentionBias
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask
from minitrans.errors import NotSupportedError

# The words of a `supports` set.
OPTIONS = frozenset(
    {
        "key_padding", "causal", "window", "global_tokens", "blocks", "dense_mask", "bias", "packed", "dropout",
        "weights", "logsumexp", "grouped_heads", "cross_lengths", "gradient", "float64", "low_precision",
    }
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class AttentionResult:
    """What an attention returns.

    Attributes:
        output: (B, H, T, K), or (N, H, K) for a packed batch.
        weights: (B, H, T, S) probabilities before dropout, or None where they were not asked for or never existed.
            For a packed batch (1, H, N, N).
        logsumexp: (B, H, T), log of the sum of exp(scores), or None where the implementation does not give it.
            For a packed batch (N, H). Of low-precision inputs it may be float32.
    """

    output: Tensor
    weights: Tensor | None = None
    logsumexp: Tensor | None = None


class Attention(Protocol):
    """One way to compute attention: a backend of exact softmax attention, or a mechanism that computes something else.

    Three attributes are optional. `exact = True` says that it computes softmax attention, so that `check_attention`
    compares it with the oracle. `supports_on(device) -> frozenset[str]` narrows `supports` where a device cannot do all
    of it. `remark_on(device) -> str` is what `explain_backend` says of how it runs there.
    """

    name: str
    supports: frozenset[str]

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        mask: AttentionMask,
        bias: AttentionBias | None,
        layout: PackedLayout | None,
        scale: float,
        dropout_p: float,
        need_weights: bool,
    ) -> AttentionResult:
        """query (B, H, T, K); key, value (B, G, S, K) with G dividing H; or (N, H, K), (N, G, K) with a layout."""
        ...


def supported_options(attention: Attention, device: torch.device) -> frozenset[str]:
    """What `attention` supports on this device."""
    supports_on: Callable[[torch.device], frozenset[str]] | None = getattr(attention, "supports_on", None)
    return attention.supports if supports_on is None else supports_on(device)


def remark_on(attention: Attention, device: torch.device) -> str | None:
    """What `attention` has to say of how it runs on this device."""
    remark: Callable[[torch.device], str] | None = getattr(attention, "remark_on", None)
    return None if remark is None else remark(device)


def used_options(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: AttentionMask,
    bias: AttentionBias | None,
    layout: PackedLayout | None,
    dropout_p: float,
) -> set[str]:
    """The options, in the words of `OPTIONS`, that a call uses."""
    head_axis, length_axis = (1, 0) if layout is not None else (1, 2)
    used = {
        "key_padding": mask.key_padding is not None,
        "causal": mask.causal,
        "window": mask.window is not None,
        "global_tokens": mask.global_tokens is not None,
        "blocks": mask.blocks is not None,
        "dense_mask": mask.dense is not None,
        "bias": bias is not None,
        "packed": layout is not None,
        "dropout": dropout_p > 0,
        "grouped_heads": query.shape[head_axis] != key.shape[head_axis],
        "cross_lengths": query.shape[length_axis] != key.shape[length_axis],
        "gradient": torch.is_grad_enabled() and _wants_gradient(query, key, value, bias),
        "float64": query.element_size() == 8,
        "low_precision": query.element_size() == 2,
    }
    return {option for option, is_used in used.items() if is_used}


def _wants_gradient(query: Tensor, key: Tensor, value: Tensor, bias: AttentionBias | None) -> bool:
    if query.requires_grad or key.requires_grad or value.requires_grad:
        return True
    parameters = () if bias is None else vars(bias).values()
    return any(isinstance(parameter, Tensor) and parameter.requires_grad for parameter in parameters)


def require(name: str, supports: frozenset[str], used: Iterable[str], others: Mapping[str, frozenset[str]]) -> None:
    """Raises NotSupportedError naming the options that `name` lacks and which of `others` have them all."""
    used = set(used)
    lacking = sorted(used - supports)
    if lacking:
        able = sorted(other for other, has in others.items() if used <= has)
        raise NotSupportedError(
            f"attention {name!r} does not support {', '.join(lacking)}; supported by: {', '.join(able) or 'none'}"
        )


def check_shapes(query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask, layout: PackedLayout | None) -> None:
    """Raises ValueError or TypeError where the tensors of a call do not fit together."""
    dimensions, expected = (3, "(N, H, K)") if layout is not None else (4, "(B, H, T, K)")
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dim() != dimensions:
            raise ValueError(f"{name} must be {expected}, got shape {tuple(tensor.shape)}")
        if tensor.dtype != query.dtype or tensor.device != query.device:
            raise TypeError(f"{name} is {tensor.dtype} on {tensor.device}, query is {query.dtype} on {query.device}")
    if key.shape != value.shape:
        raise ValueError(f"key and value must have the same shape, got {tuple(key.shape)} and {tuple(value.shape)}")
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"query and key must have the same head width, got {query.shape[-1]} and {key.shape[-1]}")
    if key.shape[1] == 0 or query.shape[1] % key.shape[1]:
        raise ValueError(f"key/value heads must divide query heads, got {key.shape[1]} and {query.shape[1]}")
    if layout is None:
        if query.shape[0] != key.shape[0]:
            raise ValueError(f"query and key must have the same batch size, got {query.shape[0]} and {key.shape[0]}")
        mask.check(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    else:
        if query.shape[0] != key.shape[0]:
            raise ValueError(f"a packed batch has one layout: N must agree, got {query.shape[0]} and {key.shape[0]}")
        if mask.key_padding is not None or mask.dense is not None or mask.blocks is not None:
            raise ValueError("a packed batch has no padding: key_padding, dense and blocks masks do not apply to it")
        mask.check(1, query.shape[1], query.shape[0], key.shape[0])
