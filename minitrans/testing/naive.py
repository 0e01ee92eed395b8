"""Attention one pair of tokens at a time, in Python loops: what the oracle itself is checked against.

It shares no code with the oracle: the meaning of masks and biases is written down here a second time, for one pair.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from minitrans.attention.bias import ALiBi, AttentionBias, DenseBias, RelativeBuckets, RelativePositions
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask


def naive_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: AttentionMask,
    bias: AttentionBias | None,
    layout: PackedLayout | None,
    scale: float,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, logsumexp and probabilities, shaped as `AttentionResult` says; inputs as for `attend`."""
    if layout is not None:
        query, key, value = (tensor.transpose(0, 1)[None] for tensor in (query, key, value))
    batch, heads, queries, _ = query.shape
    keys, group = key.shape[2], heads // key.shape[1]
    output = torch.zeros_like(query)
    logsumexp = query.new_full((batch, heads, queries), -math.inf)
    weights = query.new_zeros(batch, heads, queries, keys)
    for b in range(batch):
        for h in range(heads):
            for i in range(queries):
                seen = [j for j in range(keys) if may_attend(mask, b, h, i, j, queries, keys, layout)]
                if not seen:
                    continue
                scores = []
                for j in seen:
                    q, k = query[b, h, i], key[b, h // group, j]
                    score = scale * torch.dot(q, k)
                    if softcap is not None:
                        score = softcap * torch.tanh(score / softcap)
                    if bias is not None:
                        score = score + bias_of_pair(bias, q, k, (b, h, i, j), keys - queries, scale)
                    scores.append(score)
                largest = max(score.item() for score in scores)
                exponentials = [torch.exp(score - largest) for score in scores]
                total = torch.stack(exponentials).sum()
                for j, exponential in zip(seen, exponentials, strict=True):
                    weights[b, h, i, j] = exponential / total
                    output[b, h, i] = output[b, h, i] + exponential / total * value[b, h // group, j]
                logsumexp[b, h, i] = largest + torch.log(total)
    if layout is not None:
        output, logsumexp = output[0].transpose(0, 1), logsumexp[0].transpose(0, 1)
    return output, logsumexp, weights


def may_attend(
    mask: AttentionMask, b: int, h: int, i: int, j: int, queries: int, keys: int, layout: PackedLayout | None = None
) -> bool:
    """Whether query i of head h of sample b may attend to key j, by the words of `AttentionMask`."""
    position = i + keys - queries
    near = True
    if mask.window is not None:
        left, right = mask.window
        if left is not None and position - j > left:
            near = False
        if right is not None and j - position > right:
            near = False
    if mask.blocks is not None:
        table = mask.blocks.allowed
        near = near and bool(table[h % table.shape[0], i // mask.blocks.size, j // mask.blocks.size])
    if mask.global_tokens is not None:
        near = near or bool(mask.global_tokens[b, j])
        near = near or (position >= 0 and bool(mask.global_tokens[b, position]))
    if mask.causal and j > position:
        return False
    if mask.dense is not None and not mask.dense[b % mask.dense.shape[0], h % mask.dense.shape[1], i, j]:
        return False
    if mask.key_padding is not None and not mask.key_padding[b, j]:
        return False
    if layout is not None:
        starts = layout.cu_seqlens.tolist()
        b = sum(end <= i for end in starts[1:])
        if b != sum(end <= j for end in starts[1:]):
            return False
        position, j = i - starts[b], j - starts[b]
    if mask.rule is not None and not mask.rule.allows(*(torch.tensor(each) for each in (b, h, position, j))):
        return False
    return near


def bias_of_pair(
    bias: AttentionBias, q: Tensor, k: Tensor, place: tuple[int, int, int, int], offset: int, scale: float
) -> Tensor:
    """What the bias adds to the score of query q (K) and key k (K) at place (b, h, i, j); offset = S - T."""
    b, h, i, j = place
    ahead = j - (i + offset)
    if isinstance(bias, DenseBias):
        return bias.values[b % bias.values.shape[0], h % bias.values.shape[1], i, j]
    if isinstance(bias, ALiBi):
        return -bias.slopes[h] * abs(ahead)
    if isinstance(bias, RelativeBuckets):
        return bias.table[_bucket(ahead, bias.table.shape[0], bias.max_distance, bias.bidirectional), h]
    if isinstance(bias, RelativePositions):
        vector = bias.table[(len(bias.table) - 1) // 2 - ahead]
        score = torch.dot(q, vector)
        return scale * (score + torch.dot(k, vector) if bias.with_key else score)
    raise TypeError(f"no pairwise meaning is known for {type(bias).__name__}")


def _bucket(ahead: int, count: int, max_distance: int, bidirectional: bool) -> int:
    first = 0
    if bidirectional:
        count //= 2
        first = count if ahead > 0 else 0
        gap = abs(ahead)
    else:
        gap = max(-ahead, 0)
    exact = count // 2
    if gap < exact:
        return first + gap
    grown = exact + int(math.log(gap / exact) / math.log(max_distance / exact) * (count - exact))
    return first + min(grown, count - 1)
