"""Packed batches for implementations that know only rectangles: sequences of equal length are stacked and run together.

The mask and the bias of a packed batch speak of tokens in the same sequence only, so each sequence may be computed by
itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from minitrans.attention.bias import AttentionBias, DenseBias, SummedBias
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask

Rectangle = Callable[[Tensor, Tensor, Tensor, AttentionMask, AttentionBias | None], tuple[Tensor, Tensor | None]]


def run_sequences(
    compute: Rectangle,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: AttentionMask,
    bias: AttentionBias | None,
    layout: PackedLayout,
) -> tuple[Tensor, Tensor | None]:
    """`compute` on every sequence: one call for all sequences of the same length.

    Args:
        compute: (query (b, H, n, K), key and value (b, G, n, K), mask, bias) ->
            output (b, H, n, K), logsumexp (b, H, n) or None.
        query: (N, H, K).
        key: (N, G, K).
        value: (N, G, K).
        mask: of the packed batch.
        bias: of the packed batch.
        layout: where the sequences lie.

    Returns:
        The outputs (N, H, K) and logsumexps (N, H) in the order of the tokens.
    """
    lengths = layout.lengths() or [0]
    if sum(lengths) != query.shape[0]:
        raise ValueError(f"the layout holds {sum(lengths)} tokens, the tensors hold N={query.shape[0]}")
    outputs: dict[int, Tensor] = {}
    logsumexps: dict[int, Tensor] = {}
    for spans in _equal_lengths(lengths):
        q, k, v = (_stack(tensor, spans) for tensor in (query, key, value))
        output, logsumexp = compute(q, k, v, _mask_of(mask, spans), _bias_of(bias, spans))
        for row, span in enumerate(spans):
            outputs[span.start] = output[row].transpose(0, 1)  # (n, H, K)
            if logsumexp is not None:
                logsumexps[span.start] = logsumexp[row].transpose(0, 1)  # (n, H)
    joined = torch.cat([outputs[start] for start in sorted(outputs)])
    return joined, torch.cat([logsumexps[start] for start in sorted(logsumexps)]) if logsumexps else None


def packed_bias(bias: AttentionBias, query: Tensor, key: Tensor, scale: float, layout: PackedLayout) -> Tensor:
    """(1, H, N, N): the bias of each sequence on the diagonal, zeros elsewhere.

    Args:
        bias: of the packed batch.
        query: (1, H, N, K).
        key: (1, G, N, K).
        scale: factor of the scores.
        layout: where the sequences lie.
    """
    scores = query.new_zeros(1, query.shape[1], query.shape[2], query.shape[2])
    start = 0
    for length in layout.lengths():
        span = slice(start, start + length)
        of_sequence = _bias_of(bias, [span])
        assert of_sequence is not None
        scores[:, :, span, span] = of_sequence.to_dense(query[:, :, span], key[:, :, span], scale)
        start += length
    return scores


def _equal_lengths(lengths: Sequence[int]) -> list[list[slice]]:
    """The spans of the sequences, those of equal length together; empty sequences are left out unless all are empty."""
    groups: defaultdict[int, list[slice]] = defaultdict(list)
    start = 0
    for length in lengths:
        if length or not any(lengths):
            groups[length].append(slice(start, start + length))
        start += length
    return list(groups.values())


def _stack(tensor: Tensor, spans: Sequence[slice]) -> Tensor:
    """(N, H, K) -> (b, H, n, K)."""
    return torch.stack([tensor[span] for span in spans]).transpose(1, 2)


def _mask_of(mask: AttentionMask, spans: Sequence[slice]) -> AttentionMask:
    if mask.global_tokens is None:
        return mask
    return replace(mask, global_tokens=torch.cat([mask.global_tokens[:, span] for span in spans]))


def _bias_of(bias: AttentionBias | None, spans: Sequence[slice]) -> AttentionBias | None:
    return None if bias is None else _of_sequences(bias, spans)


def _of_sequences(bias: AttentionBias, spans: Sequence[slice]) -> AttentionBias:
    if isinstance(bias, SummedBias):
        return SummedBias(_of_sequences(bias.first, spans), _of_sequences(bias.second, spans))
    if isinstance(bias, DenseBias):
        return DenseBias(torch.cat([bias.values[:, :, span, span] for span in spans]))
    return bias  # it speaks of distances and contents, the same wherever a sequence lies
