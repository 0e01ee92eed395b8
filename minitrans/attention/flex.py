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

from minitrans.attention.bias import ALiBi, AttentionBias, RelativeBuckets, RelativePositions
from minitrans.attention.contract import OPTIONS, AttentionResult
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask, BlockLayout, global_queries
from minitrans.attention.packed import packed_bias

_PROGRAMS = 1000

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


class FlexAttention:
    """A packed batch is one long sequence whose mask keeps the sequences apart."""

    name = "flex"
    supports = OPTIONS - {"weights", "dropout"}
    exact = True

    def supports_on(self, device: torch.device) -> frozenset[str]:
        """On the CPU torch has no gradient for it; elsewhere the kernels are for float32 and below."""
        return self.supports - ({"gradient"} if device.type == "cpu" else {"float64"})

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
        if layout is not None:
            query, key, value = (tensor.transpose(0, 1)[None] for tensor in (query, key, value))  # (1, H|G, N, K)
        if query.numel() == 0 or key.numel() == 0:  # torch does not take empty tensors here
            output, logsumexp = query * 0, query.new_full(query.shape[:3], -torch.inf)
        else:
            output, aux = _run(
                query,
                key,
                value,
                score_mod=None if bias is None else _score_mod(bias, query, key, scale, layout),
                block_mask=_block_mask(mask, query, key, layout),
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
    mods = _mask_mods(mask, query_length, key_length)
    if layout is not None:
        mods.append(_same_sequence(layout.sequence_of_token()))
    if not mods:
        return None
    per_batch = mask.key_padding is not None or mask.global_tokens is not None or mask.dense is not None
    per_head = mask.blocks is not None or mask.dense is not None
    return create_block_mask(
        and_masks(*mods),
        query.shape[0] if per_batch else None,
        query.shape[1] if per_head else None,
        query_length,
        key_length,
        device=query.device,
    )


def _mask_mods(mask: AttentionMask, query_length: int, key_length: int) -> list[MaskMod]:
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


def _dense(allowed: Tensor) -> MaskMod:
    per_batch, per_head = int(allowed.shape[0] > 1), int(allowed.shape[1] > 1)
    return lambda b, h, i, j: allowed[b * per_batch, h * per_head, i, j]


def _key_padding(real: Tensor) -> MaskMod:
    return lambda b, h, i, j: real[b, j]


def _same_sequence(sequence: Tensor) -> MaskMod:
    return lambda b, h, i, j: sequence[i] == sequence[j]


def _score_mod(bias: AttentionBias, query: Tensor, key: Tensor, scale: float, layout: PackedLayout | None) -> ScoreMod:
    """What adds the bias to a score; query (B, H, T, K), key (B, G, S, K)."""
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
    values = bias.to_dense(query, key, scale) if layout is None else packed_bias(bias, query, key, scale, layout)
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
