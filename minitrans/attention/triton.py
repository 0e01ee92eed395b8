"""Exact attention by our own kernels, package `minitrans_kernels` (FlashAttention-2's algorithm, Dao 2023).

Where Triton cannot run, on the CPU above all, the package computes the same in plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from minitrans.attention.bias import ALiBi, AttentionBias, DenseBias, RelativeBuckets, SummedBias
from minitrans.attention.contract import OPTIONS, AttentionResult
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask
from minitrans.errors import NotSupportedError

WIDEST = 256
_NARROWEST = 16


class TritonAttention:
    """Masks, distances and dropout are computed inside the kernel; a packed batch is one call.

    What has to be stored: a `dense` mask becomes a bias of -inf, and relative positions become one score per pair.
    Heads narrower than 16 are widened with zeros.
    """

    name = "triton"
    supports = OPTIONS - {"weights"}
    exact = True

    def supports_on(self, device: torch.device) -> frozenset[str]:
        """Kernels compute float32 and below; the PyTorch path computes float64 too."""
        return self.supports - {"float64"} if _launches(device) else self.supports

    def remark_on(self, device: torch.device) -> str:
        """What of the package runs on this device, for `explain_backend`."""
        from minitrans_kernels.availability import available

        if device.type == "cuda":
            usable, reason = available()
            return f"Triton kernels ({reason})" if usable else f"the PyTorch path, because {reason}"
        if _launches(device):
            return "Triton kernels, interpreted"
        return f"the PyTorch path, because Triton does not compute on {device.type} tensors"

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
        """See `contract.Attention`. The logsumexp of low-precision inputs is float32."""
        from minitrans_kernels import attention, attention_varlen

        width = query.shape[-1]
        if width > WIDEST:
            raise NotSupportedError(
                f"attention 'triton' does not support head widths above {WIDEST}, got {width}; "
                f"supported by: eager, flex, online_softmax, sdpa"
            )
        options: dict[str, Any] = {
            "causal": mask.causal,
            "window": mask.window,
            "block_layout": None if mask.blocks is None else (mask.blocks.allowed, mask.blocks.size),
            "scale": scale,
            "dropout_p": dropout_p,
            "return_lse": True,
            **_scores(bias, mask.dense, query, key, scale, layout),
        }
        if width < _NARROWEST:
            query, key, value = (pad(tensor, (0, _NARROWEST - width)) for tensor in (query, key, value))
        if layout is None:
            output, logsumexp = attention(
                query, key, value, key_padding=mask.key_padding, global_tokens=mask.global_tokens, **options
            )
        else:
            output, logsumexp = attention_varlen(
                query, key, value, layout.cu_seqlens, layout.cu_seqlens, layout.max_seqlen, layout.max_seqlen,
                global_tokens=None if mask.global_tokens is None else mask.global_tokens[0], **options,
            )  # fmt: skip
        return AttentionResult(output[..., :width], logsumexp=logsumexp)


def _launches(device: torch.device) -> bool:
    from minitrans_kernels.runtime import runs_on_triton

    return runs_on_triton(torch.empty(0, device=device))


def _scores(
    bias: AttentionBias | None,
    dense_mask: Tensor | None,
    query: Tensor,
    key: Tensor,
    scale: float,
    layout: PackedLayout | None,
) -> dict[str, Any]:
    """The arguments bias, relative_bias and alibi_slopes of the kernels."""
    heads = query.shape[1]
    dense: Tensor | None = None
    slopes: Tensor | None = None
    relative: tuple[Tensor, bool, int] | None = None
    for part in _parts(bias):
        if isinstance(part, ALiBi):
            part.check(heads)
            slopes = part.slopes if slopes is None else slopes + part.slopes
        elif isinstance(part, RelativeBuckets) and relative is None:
            part.check(heads)
            relative = (part.table, part.bidirectional, part.max_distance)
        else:
            scores = (
                part.to_dense(query, key, scale) if layout is None else _by_sequence(part, query, key, scale, layout)
            )
            dense = scores if dense is None else dense + scores
    if dense_mask is not None:
        zero = query.new_zeros(()) if dense is None else dense
        dense = torch.where(dense_mask, zero, -torch.inf)
    return {"bias": dense, "relative_bias": relative, "alibi_slopes": slopes}


def _parts(bias: AttentionBias | None) -> Iterator[AttentionBias]:
    """The biases that are summed."""
    if isinstance(bias, SummedBias):
        yield from _parts(bias.first)
        yield from _parts(bias.second)
    elif bias is not None:
        yield bias


def _by_sequence(bias: AttentionBias, query: Tensor, key: Tensor, scale: float, layout: PackedLayout) -> Tensor:
    """(B|1, H|1, T, T) for query (N, H, K), key (N, G, K), T the longest length: the bias by position in the sequence."""
    places = layout.cu_seqlens[:-1, None] + torch.arange(layout.max_seqlen, device=query.device)  # (B, T)
    places = places.clamp(
        max=max(query.shape[0] - 1, 0)
    )  # past the end of a sequence: some token, which no pair looks at
    if isinstance(bias, DenseBias):
        values = bias.to_dense(query.transpose(0, 1)[None], key.transpose(0, 1)[None], scale)[0]  # (H|1, N, N)
        return values[:, places[:, :, None], places[:, None, :]].transpose(0, 1)
    query, key = (tensor[places].transpose(1, 2) for tensor in (query, key))  # (B, H|G, T, K)
    return bias.to_dense(query, key, scale)
