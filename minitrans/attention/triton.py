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
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask
from minitrans.attention.recording import being_traced
from minitrans.attention.rules import AttentionResult, AttentionRules

WIDEST = 256
_NARROWEST = 16


class TritonAttention:
    """Masks, distances and dropout are computed inside the kernel; a packed batch is one call.

    What has to be stored: a `dense` mask and a `rule` become a bias of -inf, with blocks that spare the tiles in which they
    allow nothing, and relative positions become one score per pair.
    Heads narrower than 16 are widened with zeros.
    """

    name = "triton"

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        """Kernels compute float32 and below; the PyTorch path computes float64 too. A trace would keep the sizes of a launch."""
        if being_traced():
            return "torch.jit.trace"
        if query.shape[-1] > WIDEST:
            return f"head widths above {WIDEST}"
        return "float64" if query.element_size() == 8 and _launches(query) else None

    def remark(self, query: Tensor) -> str:
        """What of the package runs on this device."""
        from minitrans_kernels.availability import available

        if query.device.type == "cuda":
            usable, reason = available()
            return f"Triton kernels ({reason})" if usable else f"the PyTorch path, because {reason}"
        if _launches(query):
            return "Triton kernels, interpreted"
        return f"the PyTorch path, because Triton does not compute on {query.device.type} tensors"

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        """See `rules.Backend`. The logsumexp of low-precision inputs is float32."""
        import minitrans_kernels as kernels

        mask, layout, width, scale = rules.mask, rules.layout, query.shape[-1], rules.scale_for(query)
        options: dict[str, Any] = {
            "causal": mask.causal, "window": mask.window, "scale": scale, "softcap": rules.softcap,
            "block_layout": None if mask.blocks is None else (mask.blocks.allowed, mask.blocks.size),
            **_scores(rules, query, key, scale),
        }  # fmt: skip
        if width < _NARROWEST:
            query, key, value = (pad(tensor, (0, _NARROWEST - width)) for tensor in (query, key, value))
        weights = None
        if layout is None:
            options |= {"key_padding": mask.key_padding, "global_tokens": mask.global_tokens}
            output, logsumexp = kernels.attention(
                query, key, value, return_lse=True, dropout_p=rules.dropout_p, **options
            )
            if rules.need_weights:
                weights = kernels.attention_weights(query, key, logsumexp, **options)
        else:
            options["global_tokens"] = None if mask.global_tokens is None else mask.global_tokens[0]
            where = (layout.cu_seqlens, layout.cu_seqlens, layout.max_seqlen, layout.max_seqlen)
            output, logsumexp = kernels.attention_varlen(
                query, key, value, *where, return_lse=True, dropout_p=rules.dropout_p, **options
            )
            if rules.need_weights:
                weights = kernels.attention_weights_varlen(query, key, logsumexp, *where, **options)[None]
        weights = None if weights is None else weights.to(query.dtype)
        return AttentionResult(output[..., :width], weights, logsumexp)


def _launches(query: Tensor) -> bool:
    from minitrans_kernels.runtime import runs_on_triton

    return runs_on_triton(torch.empty(0, device=query.device))


def _scores(rules: AttentionRules, query: Tensor, key: Tensor, scale: float) -> dict[str, Any]:
    """The arguments bias, relative_bias, alibi_slopes of the kernels, and block_layout for what becomes a bias of -inf."""
    from minitrans_kernels.attention.arguments import BlockLayout

    layout = rules.layout
    heads = query.shape[1]
    dense: Tensor | None = None
    slopes: Tensor | None = None
    relative: tuple[Tensor, bool, int] | None = None
    for part in _parts(rules.bias):
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
    allowed = _stored(rules.mask, query, key, layout)
    if allowed is not None:
        zero = query.new_zeros(()) if dense is None else dense
        dense = torch.where(allowed, zero, -torch.inf)
    arguments: dict[str, Any] = {"bias": dense, "relative_bias": relative, "alibi_slopes": slopes}
    if allowed is not None and rules.mask.blocks is None:  # tiles in which nothing is allowed are not visited
        arguments["block_layout"] = BlockLayout.covering(allowed)
    return arguments


def _stored(mask: AttentionMask, query: Tensor, key: Tensor, layout: PackedLayout | None) -> Tensor | None:
    """(B|1, H|1, T, S) bool: what of the mask the kernels have no argument for; by position in a packed batch."""
    if mask.rule is None:
        return mask.dense
    # positions beyond the end of a short sequence are allowed or not, and nobody looks at them
    lengths = (query.shape[2], key.shape[2]) if layout is None else (layout.max_seqlen, layout.max_seqlen)
    stored = AttentionMask(rule=mask.rule, dense=mask.dense)
    return stored.to_dense(*lengths, query.device)


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
