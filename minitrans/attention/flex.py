"""Exact attention through torch's FlexAttention (Dong et al. 2024), which fuses the mask and the bias into one kernel.

Masks become a `mask_mod`, biases a `score_mod`: functions of (batch b, head h, query i, key j) that the compiler
inlines, so that neither is a (T, S) tensor unless it was given as one. The block mask needs T·S bools for a moment,
while it is built.

Compiled where torch has a kernel for it; on the CPU torch runs the same functions uncompiled, forward only.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, and_masks, create_block_mask, flex_attention

from minitrans.attention.backend_selection import wants_gradient
from minitrans.attention.bias import ALiBi, AttentionBias, RelativeBuckets, RelativePositions
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask, BlockLayout, MaskRule, global_queries
from minitrans.attention.packed import dense_bias
from minitrans.attention.recording import being_traced
from minitrans.attention.rules import AttentionResult, AttentionRules
from minitrans.errors import NotSupportedError

_PROGRAMS = 1000

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


class FlexAttention:
    """A packed batch is one long sequence whose mask keeps the sequences apart."""

    name = "flex"

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        """No dropout, no trace; on the CPU torch has no gradient for it; elsewhere its kernels are for float32 and below."""
        if being_traced():
            return "torch.jit.trace"
        if rules.dropout_p > 0:
            return "dropout"
        if query.device.type != "cpu":
            return "float64" if query.element_size() == 8 else None
        return "gradient" if torch.is_grad_enabled() and wants_gradient(rules, query) else None

    def remark(self, query: Tensor) -> str | None:
        """Where nothing is fused."""
        return "uncompiled, forward only" if query.device.type == "cpu" else None

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        """See `rules.Backend`. The logsumexp of low-precision inputs is float32."""
        if self.supports(rules, key) or self.supports(rules, value):  # a gradient may be asked of these alone
            raise NotSupportedError("attention 'flex' does not support gradient on the CPU; supported by: eager, sdpa")
        layout, scale = rules.layout, rules.scale_for(query)
        if layout is not None:
            query, key, value = (tensor.transpose(0, 1)[None] for tensor in (query, key, value))  # (1, H|G, N, K)
        if query.numel() == 0 or key.numel() == 0:  # torch does not take empty tensors here
            output, logsumexp = query * 0, query.new_full(query.shape[:3], -torch.inf)
        else:
            output, aux = _run(
                query,
                key,
                value,
                score_mod=_score_mod(rules, query, key, scale),
                block_mask=_block_mask(rules.mask, query, key, layout),
                scale=scale,
                enable_gqa=query.shape[1] != key.shape[1],
                return_aux=AuxRequest(lse=True),
            )
            logsumexp = aux.lse
        if layout is not None:
            output, logsumexp = output[0].transpose(0, 1), logsumexp[0].transpose(0, 1)  # (N, H, K), (N, H)
        return AttentionResult(output, logsumexp=logsumexp)


def _run(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # the compiler's, about parts of torch
        if query.device.type == "cpu":
            with torch.no_grad():  # torch refuses tensors that require gradients even where none are recorded
                return flex_attention(query.detach(), key.detach(), value.detach(), **options)
        # each mask and bias is a program of its own; torch's default would give up after eight of them
        with torch._dynamo.config.patch(recompile_limit=_PROGRAMS, accumulated_recompile_limit=_PROGRAMS):
            return _compiled()(query, key, value, **options)


@cache
def _compiled() -> Callable[..., Any]:
    return torch.compile(flex_attention, fullgraph=True)  # fullgraph: an error rather than the unfused computation


def _block_mask(mask: AttentionMask, query: Tensor, key: Tensor, layout: PackedLayout | None) -> BlockMask | None:
    query_length, key_length = query.shape[2], key.shape[2]
    mods = _mask_mods(mask, query_length, key_length, layout)
    if layout is not None:
        mods.append(_same_sequence(layout.sequence_of_token()))
    if not mods:
        return None
    given = (mask.key_padding, mask.global_tokens, mask.dense)
    per_batch = any(part is not None for part in given) or (mask.rule is not None and mask.rule.batch > 1)
    per_head = mask.blocks is not None or mask.dense is not None or (mask.rule is not None and mask.rule.heads > 1)
    return create_block_mask(
        and_masks(*mods),
        query.shape[0] if per_batch else None,
        query.shape[1] if per_head else None,
        query_length,
        key_length,
        device=query.device,
    )


def _mask_mods(mask: AttentionMask, query_length: int, key_length: int, layout: PackedLayout | None) -> list[MaskMod]:
    """The parts of the mask, whose conjunction it is."""
    offset = key_length - query_length
    local: list[MaskMod] = []
    if mask.window is not None:
        local.append(_window(*mask.window, offset))
    if mask.blocks is not None:
        local.append(_blocks(mask.blocks))
    if local and mask.global_tokens is not None:
        local = [_unless_global(and_masks(*local), mask.global_tokens, query_length)]
    if mask.causal and query_length > 1:
        local.append(_window(None, 0, offset))
    if mask.rule is not None:
        local.append(_rule(mask.rule, offset, layout))
    if mask.dense is not None:
        local.append(_dense(mask.dense))
    if mask.key_padding is not None:
        local.append(_key_padding(mask.key_padding))
    return local


def _window(left: int | None, right: int | None, offset: int) -> MaskMod:
    # an unbounded side is a distance that no pair has
    low, high = -(left if left is not None else 2**31), right if right is not None else 2**31
    return lambda b, h, i, j: (j - i - offset >= low) & (j - i - offset <= high)


def _blocks(blocks: BlockLayout) -> MaskMod:
    allowed, size, per_head = blocks.allowed, blocks.size, int(blocks.allowed.shape[0] > 1)
    return lambda b, h, i, j: allowed[h * per_head, i // size, j // size]


def _unless_global(local: MaskMod, global_keys: Tensor, query_length: int) -> MaskMod:
    queries = global_queries(global_keys, query_length)
    return lambda b, h, i, j: local(b, h, i, j) | global_keys[b, j] | queries[b, i]


def _rule(rule: MaskRule, offset: int, layout: PackedLayout | None) -> MaskMod:
    allows = rule.allows
    if layout is None:
        return lambda b, h, i, j: allows(b, h, i + offset, j)
    sequence, place = layout.sequence_of_token(), layout.positions()
    return lambda b, h, i, j: allows(sequence[i], h, place[i], place[j])


def _dense(allowed: Tensor) -> MaskMod:
    per_batch, per_head = int(allowed.shape[0] > 1), int(allowed.shape[1] > 1)
    return lambda b, h, i, j: allowed[b * per_batch, h * per_head, i, j]


def _key_padding(real: Tensor) -> MaskMod:
    return lambda b, h, i, j: real[b, j]


def _same_sequence(sequence: Tensor) -> MaskMod:
    return lambda b, h, i, j: sequence[i] == sequence[j]


def _score_mod(rules: AttentionRules, query: Tensor, key: Tensor, scale: float) -> ScoreMod | None:
    """What caps a score and adds the bias; query (B, H, T, K), key (B, G, S, K)."""
    added = None if rules.bias is None else _bias_mod(rules.bias, query, key, scale, rules.layout)
    cap = rules.softcap
    if cap is None:
        return added
    if added is None:
        return lambda score, b, h, i, j: cap * torch.tanh(score / cap)
    return lambda score, b, h, i, j: added(cap * torch.tanh(score / cap), b, h, i, j)


def _bias_mod(bias: AttentionBias, query: Tensor, key: Tensor, scale: float, layout: PackedLayout | None) -> ScoreMod:
    """What adds the bias to a score."""
    query_length, key_length = query.shape[2], key.shape[2]
    offset = key_length - query_length
    if isinstance(bias, ALiBi):
        bias.check(query.shape[1])
        slopes = bias.slopes.to(query.dtype)
        return lambda score, b, h, i, j: score - slopes[h] * (j - i - offset).abs()
    if isinstance(bias, RelativeBuckets):
        bias.check(query.shape[1])
        distances = torch.arange(1 - key_length, query_length, device=query.device)
        by_distance = bias.table[bias.buckets(distances)].to(query.dtype)  # (T + S - 1, H)
        return lambda score, b, h, i, j: score + by_distance[j - i - offset + key_length - 1, h]
    if isinstance(bias, RelativePositions):
        return _relative_positions(bias, query, key, scale, layout)
    values = dense_bias(bias, query, key, scale, layout)
    per_batch, per_head = int(values.shape[0] > 1), int(values.shape[1] > 1)
    return lambda score, b, h, i, j: score + values[b * per_batch, h * per_head, i, j]


def _relative_positions(
    bias: RelativePositions, query: Tensor, key: Tensor, scale: float, layout: PackedLayout | None
) -> ScoreMod:
    """Products with every vector of the table, (B, H, T, 2P - 1) and (B, G, S, 2P - 1), looked up by distance."""
    longest = max(query.shape[2], key.shape[2]) if layout is None else layout.max_seqlen
    bias.check(longest, query.shape[3])
    offset, last = key.shape[2] - query.shape[2], bias.table.shape[0] - 1
    table = bias.table.to(query.dtype)
    of_query = scale * (query @ table.T)

    def entry(i: Tensor, j: Tensor) -> Tensor:
        # clamped for pairs of different sequences, which the mask forbids but which are looked up all the same
        return (bias.positions - 1 - (j - i - offset)).clamp(0, last)

    if not bias.with_key:
        return lambda score, b, h, i, j: score + of_query[b, h, i, entry(i, j)]
    of_key, group = scale * (key @ table.T), query.shape[1] // key.shape[1]
    return lambda score, b, h, i, j: score + of_query[b, h, i, entry(i, j)] + of_key[b, h // group, j, entry(i, j)]
