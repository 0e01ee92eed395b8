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
from minitrans.attention.rules import AttentionResult, AttentionRules

# (query (b, H, n, K), key and value (b, G, n, K), rules without a layout) -> output (b, H, n, K), logsumexp (b, H, n), ...
Rectangle = Callable[[Tensor, Tensor, Tensor, AttentionRules], AttentionResult]


def by_sequence(
    compute: Rectangle, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules
) -> AttentionResult:
    """`compute` on a padded batch as it is; on a packed one sequence by sequence, those of equal length in one call.

    Args:
        compute: attention of a rectangle.
        query: (B, H, T, K), or (N, H, K).
        key: (B, G, S, K), or (N, G, K).
        value: as `key`.
        rules: of the batch.

    Returns:
        Outputs and logsumexps in the order of the tokens; weights too, where the rules need them and `compute` gives them.
    """
    if rules.layout is None:
        return compute(query, key, value, rules)
    layout = rules.layout
    lengths = layout.lengths() or [0]
    if sum(lengths) != query.shape[0]:
        raise ValueError(f"the layout holds {sum(lengths)} tokens, the tensors hold N={query.shape[0]}")
    outputs: dict[int, Tensor] = {}
    logsumexps: dict[int, Tensor] = {}
    weights = None
    for numbers, spans in _equal_lengths(lengths):
        q, k, v = (_stack(tensor, spans) for tensor in (query, key, value))
        bias = None if rules.bias is None else _of_sequences(rules.bias, spans)
        mask = _mask_of(rules.mask, numbers, spans, query.device)
        x = None if rules.x is None else torch.stack([rules.x[span] for span in spans])  # (b, n, D)
        part = replace(rules, mask=mask, bias=bias, layout=None, x=x)
        result = compute(q, k, v, part)
        for row, span in enumerate(spans):
            outputs[span.start] = result.output[row].transpose(0, 1)  # (n, H, K)
            if result.logsumexp is not None:
                logsumexps[span.start] = result.logsumexp[row].transpose(0, 1)  # (n, H)
            if result.weights is not None:
                if weights is None:
                    weights = result.weights.new_zeros(1, query.shape[1], query.shape[0], query.shape[0])
                weights[0, :, span, span] = result.weights[row]
    output = torch.cat([outputs[start] for start in sorted(outputs)])
    logsumexp = torch.cat([logsumexps[start] for start in sorted(logsumexps)]) if logsumexps else None
    return AttentionResult(output, weights, logsumexp)


def dense_bias(bias: AttentionBias, query: Tensor, key: Tensor, scale: float, layout: PackedLayout | None) -> Tensor:
    """(B|1, H|1, T, S), the bias as it is; with a layout (1, H, N, N), that of each sequence on the diagonal, else zeros.

    Args:
        bias: of the batch.
        query: (B, H, T, K), or (1, H, N, K).
        key: (B, G, S, K), or (1, G, N, K).
        scale: factor of the scores.
        layout: where the sequences of a packed batch lie.
    """
    if layout is None:
        return bias.to_dense(query, key, scale)
    scores = query.new_zeros(1, query.shape[1], query.shape[2], query.shape[2])
    start = 0
    for length in layout.lengths():
        span = slice(start, start + length)
        of_sequence = _of_sequences(bias, [span])
        scores[:, :, span, span] = of_sequence.to_dense(query[:, :, span], key[:, :, span], scale)
        start += length
    return scores


def _equal_lengths(lengths: Sequence[int]) -> list[tuple[list[int], list[slice]]]:
    """The numbers and spans of the sequences, those of equal length together; empty ones are left out unless all are."""
    groups: defaultdict[int, tuple[list[int], list[slice]]] = defaultdict(lambda: ([], []))
    start = 0
    for number, length in enumerate(lengths):
        if length or not any(lengths):
            numbers, spans = groups[length]
            numbers.append(number)
            spans.append(slice(start, start + length))
        start += length
    return list(groups.values())


def _stack(tensor: Tensor, spans: Sequence[slice]) -> Tensor:
    """(N, H, K) -> (b, H, n, K)."""
    return torch.stack([tensor[span] for span in spans]).transpose(1, 2)


def _mask_of(
    mask: AttentionMask, numbers: Sequence[int], spans: Sequence[slice], device: torch.device
) -> AttentionMask:
    if mask.global_tokens is not None:
        mask = replace(mask, global_tokens=torch.cat([mask.global_tokens[:, span] for span in spans]))
    rule = mask.rule
    if rule is not None and rule.batch > 1:
        which = torch.tensor(numbers, device=device)
        mask = replace(
            mask, rule=replace(rule, allows=lambda b, h, i, j: rule.allows(which[b], h, i, j), batch=len(numbers))
        )
    return mask


def _of_sequences(bias: AttentionBias, spans: Sequence[slice]) -> AttentionBias:
    if isinstance(bias, SummedBias):
        return SummedBias(_of_sequences(bias.first, spans), _of_sequences(bias.second, spans))
    if isinstance(bias, DenseBias):
        return DenseBias(torch.cat([bias.values[:, :, span, span] for span in spans]))
    return bias  # it speaks of distances and contents, the same wherever a sequence lies
