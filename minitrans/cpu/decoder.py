"""The stack of decoder blocks for inference on a CPU: the same function as `layers.stack.Stack`, for a few rows at a time.

A step of one token a text reads every weight and multiplies it with few numbers. So projections of the same input are one, their
weights lie in memory as a few rows read them, what goes past a projection is summed in the same call, and masks, distances and
the keys of a memory are made once for all blocks. Caches are those of `layers.cache`, so that every search of `generate` runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, layer_norm, scaled_dot_product_attention

from minitrans.attention.bias import AttentionBias, RelativeBuckets, summed
from minitrans.attention.context import Context
from minitrans.attention.mask import AttentionMask
from minitrans.attention.recording import being_exported
from minitrans.attention.rotary_scaling import ScaledRotary
from minitrans.attention.variant import CallSizes, Variant
from minitrans.cpu.linear import Reaches, StepLinear, step_linear
from minitrans.errors import NotSupportedError
from minitrans.layers.block import Block
from minitrans.layers.cache import Cache, CrossCache, GrowingCache, LayerCache
from minitrans.layers.feed_forward import FeedForward
from minitrans.layers.half_precision import ClampedBlock, ClampedEnd, WideLinear
from minitrans.layers.multi_head_attention import MultiHeadAttention
from minitrans.layers.norms import LayerNorm, OffsetRMSNorm, RMSNorm
from minitrans.layers.position_bias import BucketBias
from minitrans.layers.stack import Stack, StackOutput


class Scores(NamedTuple):
    """What becomes of the scores of a call.

    Attributes:
        added: (B|1, H|1, T, S), -inf where a query may not see a key; None = nothing is added.
        blind: (B|1, H|1, T, 1) where a query may see nothing, so that its output is 0; None where each sees some.
        is_causal: a query sees no key to its right, and that is all.
    """

    added: Tensor | None = None
    blind: Tensor | None = None
    is_causal: bool = False


class Pass:
    """What the blocks share in one pass.

    Args:
        context: of the model.
        grid: B and T.
        bias: what every block adds to the scores of its self-attention.
        dtype: of the computation.
        turns: of the stack.
    """

    def __init__(
        self, context: Context, grid: torch.Size, bias: AttentionBias | None, dtype: torch.dtype, turns: Turns
    ) -> None:
        self.context, self.dtype = context, dtype
        self.batch, self.length = grid
        self.bias = context.bias if bias is None else summed(context.bias, bias)
        self.own: Scores | None = None
        self.cross: Scores | None = None
        self.turns, self.angles = turns, dict[str, tuple[Tensor, Tensor]]()

    def turned(self, rotary: ScaledRotary, x: Tensor) -> Tensor:
        """(B, H, T, K) -> (B, H, T, K), queries and keys alike: `Rotary.turn` in three steps, for columns i and i + K/2."""
        angles = self.angles.get(rotary.alike)
        if angles is None:
            angles = self.angles[rotary.alike] = self.turns.of(rotary, cast("Tensor", self.context.positions), x)
        return torch.addcmul(x * angles[0], x.roll(x.shape[-1] // 2, -1), angles[1])


class Turns:
    """The angles of rotary positions, computed once for all passes."""

    def __init__(self) -> None:
        self.tables: dict[str, tuple[Tensor, Tensor]] = {}

    def of(self, rotary: ScaledRotary, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """cos twice, and -sin beside sin, (B, 1, T, K) each, of positions (B, T)."""
        if rotary.rope["rope_type"] == "dynamic":  # the angle of a position depends on the others
            return self._twice(*rotary.angles(positions, like))
        last = int(positions.max())
        table = self.tables.get(rotary.alike)
        if table is None or last >= len(table[0]):
            further = torch.arange(2 * last + 64, device=positions.device)
            cos, sin = rotary.angles(further, like)  # (positions, 1, K / 2)
            table = self.tables[rotary.alike] = self._twice(cos.squeeze(1), sin.squeeze(1))
        cos, sin = (embedding(positions, each).unsqueeze(1) for each in table)
        return cos, sin

    @staticmethod
    def _twice(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


class FusedAttention:
    """Self-attention, and the sum with what runs past it.

    Args:
        attention: whose weights to take; they are copied.
        dtype: "float32", "bfloat16" or "int8".
        reach: of the inputs of its projections.
    """

    def __init__(self, attention: MultiHeadAttention, dtype: str, reach: Reaches) -> None:
        self.heads, self.groups, self.head_width = attention.num_heads, attention.num_kv_heads, attention.head_width
        self.scale = attention.scale
        own = list(attention.own)
        self.turning = [variant for variant in own if type(variant).project is not Variant.project]
        self.rotary = None
        if len(self.turning) == 1 and isinstance(self.turning[0], ScaledRotary):
            self.rotary = cast("ScaledRotary", self.turning.pop())
        self.restricting = [variant for variant in own if type(variant).restrict is not Variant.restrict]
        self.distances = cast("BucketBias | None", attention.distance_embedding)
        self.project = step_linear([attention.query, attention.key, attention.value], dtype, reach)
        self.output = step_linear([attention.output], dtype, reach)

    def __call__(self, x: Tensor, other: Tensor, of_pass: Pass, cache: GrowingCache | None) -> Tensor:
        """(N, D) and (N, D) -> (N, D)."""
        heads = by_head(self.project(x), of_pass.batch, of_pass.length, self.head_width)
        both, value = heads[:, : -self.groups], heads[:, -self.groups :]
        if self.rotary is not None:
            both = of_pass.turned(self.rotary, both)
        query, key = both[:, : self.heads], both[:, self.heads :]
        for variant in self.turning:
            query, key, value = variant.project(query, key, value, of_pass.context)
        if key.dtype != value.dtype:  # a variant's own weights may be wider
            query, key = query.to(value.dtype), key.to(value.dtype)
        if cache is not None:
            key, value = cache.write(key, value)
        return self.output(attended(query, key, value, self.scores(query, key, of_pass, cache), self.scale), other)

    def scores(self, query: Tensor, key: Tensor, of_pass: Pass, cache: GrowingCache | None) -> Scores:
        """Those of the pass, but where this block has rules of its own."""
        if of_pass.own is not None and not self.restricting and self.distances is None:
            return of_pass.own
        context = of_pass.context
        mask, bias = context.mask, of_pass.bias
        if self.distances is not None:
            bias = summed(bias, self.distances.bias())
        if cache is not None:
            bias = cache.placed(bias)
        if self.restricting:
            grid = (of_pass.batch, of_pass.length, key.shape[2])
            sizes = CallSizes(*grid, self.heads, query.device, positions=context.positions, first=context.first)
            for variant in self.restricting:
                mask, bias = variant.restrict(mask, bias, sizes)
        found = scores_of(mask, bias, query, key, self.scale)
        if not self.restricting and self.distances is None:
            of_pass.own = found
        return found


class FusedCrossAttention:
    """Attention to the memory, whose keys and values come from one projection.

    Args:
        attention: whose weights to take; they are copied.
        dtype: "float32", "bfloat16" or "int8".
        reach: of the inputs of its projections.
    """

    def __init__(self, attention: MultiHeadAttention, dtype: str, reach: Reaches) -> None:
        self.head_width, self.scale = attention.head_width, attention.scale
        self.query = step_linear([attention.query], dtype, reach)
        self.key_value = step_linear([attention.key, attention.value], dtype, reach)
        self.output = step_linear([attention.output], dtype, reach)

    def __call__(self, x: Tensor, other: Tensor, of_pass: Pass, cache: CrossCache | None) -> Tensor:
        """(N, D) and (N, D) -> (N, D)."""
        mask, fan = of_pass.context.memory_mask, 1
        if cache is not None and cache.shared is not None:
            (key, value), fan = cache.shared, cache.fan
            if mask.dense is not None:
                key, value, fan = *cache.spread(), 1
        else:
            memory = cast("Tensor", of_pass.context.memory)  # (B, S, D)
            projected = self.key_value(memory.flatten(0, 1).to(of_pass.dtype))
            key, value = projected.view(*memory.shape[:2], 2, -1, self.head_width).permute(2, 0, 3, 1, 4).contiguous()
            if cache is not None:
                cache.extend(key, value)
        # texts with a memory in common are queries of one text: it hides nothing from some that others see
        query = by_head(self.query(x), of_pass.batch // fan, fan * of_pass.length, self.head_width)
        if of_pass.cross is None:
            if mask.key_padding is not None:
                mask = replace(mask, key_padding=mask.key_padding[::fan])
            of_pass.cross = scores_of(mask, None, query, key, self.scale)
        return self.output(attended(query, key, value, of_pass.cross, self.scale), other)


class FusedNetwork:
    """The feed-forward network, gated or not, and the sum with what runs past it.

    Args:
        network: whose weights to take; they are copied.
        dtype: "float32", "bfloat16" or "int8".
        reach: of the inputs of its projections.
    """

    def __init__(self, network: FeedForward, dtype: str, reach: Reaches) -> None:
        self.act = None if network.gate is None else network.act
        if network.gate is None:
            self.up = step_linear([network.up], dtype, reach, network.act)
        else:
            self.up = step_linear([network.gate, network.up], dtype, reach)
        self.down = step_linear([network.down], dtype, reach)

    def __call__(self, x: Tensor, other: Tensor) -> Tensor:
        """(N, D) and (N, D) -> (N, D)."""
        hidden = self.up(x)
        if self.act is not None:
            gate, up = hidden.chunk(2, dim=-1)
            hidden = self.act(gate) * up
        return self.down(hidden, other)


class FusedNorm:
    """LayerNorm or RMSNorm, with its own copy of the weights.

    Args:
        norm: whose weights to take.
        dtype: of the computation.
    """

    def __init__(self, norm: nn.Module, dtype: torch.dtype) -> None:
        given = cast("LayerNorm | RMSNorm", norm)
        offset = 1.0 if isinstance(norm, OffsetRMSNorm) else 0.0
        self.weight = (given.weight.detach() + offset).to(dtype)
        self.is_root = isinstance(norm, RMSNorm)
        bias = None if self.is_root else cast("LayerNorm", norm).bias
        self.bias = None if bias is None else bias.detach().to(dtype, copy=True)
        self.eps, self.shape = given.eps, tuple(given.weight.shape)
        self.least, self.share = torch.tensor([self.eps], dtype=dtype), 1 / len(given.weight)

    def __call__(self, x: Tensor) -> Tensor:
        """(N, D) -> (N, D)."""
        if self.is_root and x.dtype == torch.bfloat16:
            return torch.rms_norm(x, self.shape, self.weight, self.eps)
        if self.is_root:  # in float32 torch's own takes longer for a few rows
            length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            return x * torch.addcmul(self.least, length, length, value=self.share).rsqrt_() * self.weight
        return layer_norm(x, self.shape, self.weight, self.bias, self.eps)


class FusedDecoderBlock:
    """One block.

    Args:
        block: whose weights to take; they are copied.
        dtype: "float32", "bfloat16" or "int8".
        reach: of the inputs of its projections.
    """

    def __init__(self, block: Block, dtype: str, reach: Reaches) -> None:
        floats = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        parts = [FusedAttention(cast("MultiHeadAttention", block.attention), dtype, reach)]
        norms = [block.attention_LayerNorm]
        self.attention = parts[0]
        self.cross = None
        if block.cross_attention is not None:
            self.cross = FusedCrossAttention(cast("MultiHeadAttention", block.cross_attention), dtype, reach)
            norms.append(cast("nn.Module", block.cross_attention_LayerNorm))
        self.network = FusedNetwork(cast("FeedForward", block.feed_forward), dtype, reach)
        self.norms = [FusedNorm(norm, floats) for norm in (*norms, block.feed_forward_LayerNorm)]
        self.norm_first = block.norm_first

    def __call__(self, x: Tensor, of_pass: Pass, cache: LayerCache | None) -> Tensor:
        """(N, D) -> (N, D)."""
        first, last = self.norms[0], self.norms[-1]
        own = None if cache is None else cache.self_attention
        x = self.attention(first(x) if self.norm_first else x, x, of_pass, own)
        x = x if self.norm_first else first(x)
        if self.cross is not None and of_pass.context.memory is not None:
            middle, seen = self.norms[1], None if cache is None else cache.cross_attention
            x = self.cross(middle(x) if self.norm_first else x, x, of_pass, seen)
            x = x if self.norm_first else middle(x)
        x = self.network(last(x) if self.norm_first else x, x)
        return x if self.norm_first else last(x)


class FusedDecoder(nn.Module):
    """Takes the place of a `Stack`.

    Args:
        stack: whose blocks, order, norm and distances to take.
        dtype: "float32", "bfloat16" or "int8".
        reach: of the inputs of the projections.
    """

    def __init__(self, stack: Stack, dtype: str, reach: Reaches) -> None:
        super().__init__()
        self.order, self.turns = stack.order, Turns()
        self.floats = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        self.blocks = [FusedDecoderBlock(cast("Block", block), dtype, reach) for block in stack.layer]
        self.norm = None if stack.LayerNorm is None else FusedNorm(stack.LayerNorm, self.floats)
        shared = stack.relative_attention_bias
        self.distances: RelativeBuckets | None = None if shared is None else shared.bias()

    def forward(
        self, x: Tensor, context: Context, cache: Cache | None = None, *, keep_states: bool = False
    ) -> StackOutput:
        """(B, T, D) -> (B, T, D); the arguments are those of `Stack`.

        Raises:
            NotSupportedError: for what only the model that this one was prepared from computes.
        """
        asked = {
            "output_attentions": context.need_weights,
            "head_mask": context.head_mask is not None,
            "a packed batch, or padding='remove'": context.layout is not None,
            "torch.jit.trace or torch.export": being_exported(),
        }
        if any(asked.values()):
            names = ", ".join(name for name, is_asked in asked.items() if is_asked)
            raise NotSupportedError(f"a prepared decoder does not go with {names}; use the model it was prepared from")
        given, shape = x.dtype, x.shape
        of_pass = Pass(context, shape[:2], self.distances, self.floats, self.turns)
        x = x.reshape(-1, shape[2]).to(self.floats, copy=True)  # a block may reuse the memory of its input
        states = [x.clone()] if keep_states else []
        for place, index in enumerate(self.order):
            x = self.blocks[index](x, of_pass, None if cache is None else cache.layers[place])
            if keep_states:
                states.append(x.clone())
        x = x if self.norm is None else self.norm(x)
        if keep_states:
            states[-1] = x  # M7
        return StackOutput(x.to(given).view(shape), tuple(each.to(given).view(shape) for each in states), (), ())


class FusedHead(nn.Module):
    """The projection onto the vocabulary.

    Args:
        linear: whose weights to take; they are copied.
        bias: (V) in place of its own.
        dtype: "float32", "bfloat16" or "int8".
        reach: of its inputs.
    """

    def __init__(self, linear: nn.Linear, bias: Tensor | None, dtype: str, reach: Reaches) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.project: StepLinear | Any = step_linear([linear], dtype, reach, bias=bias, is_last=True)
        self.floats = torch.bfloat16 if dtype == "bfloat16" else torch.float32

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        scores: Tensor = self.project(hidden.reshape(-1, self.in_features).to(self.floats))
        return scores.to(hidden.dtype).view(*hidden.shape[:-1], self.out_features)


def scores_of(
    mask: AttentionMask, bias: AttentionBias | None, query: Tensor, key: Tensor, scale: float | None
) -> Scores:
    """What becomes of the scores of queries (B, H, T, K) and keys (B, G, S, K)."""
    length, reach = query.shape[2], key.shape[2]
    if bias is None and mask.only_causal and length == reach > 1:
        return Scores(is_causal=True)
    allowed = mask.to_dense(length, reach, query.device)
    if allowed is None and bias is None:
        return Scores()
    added = query.new_zeros(1)
    if bias is not None:
        added = bias.to_dense(query, key, query.shape[-1] ** -0.5 if scale is None else scale).to(query.dtype)
    if allowed is None:
        return Scores(added)
    blind = ~allowed.any(dim=-1, keepdim=True)
    return Scores(torch.where(allowed | blind, added, -torch.inf), blind if bool(blind.any()) else None)


def by_head(x: Tensor, batch: int, length: int, width: int) -> Tensor:
    """(B · T, H · K) -> (B, H, T, K)."""
    return x.view(batch, -1, 1, width) if length == 1 else x.view(batch, length, -1, width).transpose(1, 2)


def attended(query: Tensor, key: Tensor, value: Tensor, scores: Scores, scale: float | None) -> Tensor:
    """(B, H, T, K), (B, G, S, K) -> (B · T, H · K)."""
    batch, heads, length, width = query.shape
    groups = key.shape[1]
    if (
        groups < heads and length == 1
    ):  # heads that share a key are queries of one head: what hides keys hides them from all
        query = query.reshape(batch, groups, heads // groups, width)
    found = scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=scores.added,
        is_causal=scores.is_causal,
        scale=scale,
        enable_gqa=query.shape[1] != groups,
    )
    if scores.blind is not None:
        found = found.masked_fill(scores.blind, 0.0)
    return found.reshape(batch, -1) if length == 1 else found.transpose(1, 2).reshape(batch * length, -1)


def why_not(blocks: Iterable[nn.Module]) -> str:
    """Why these blocks cannot be prepared; empty where they can."""
    for block in blocks:
        attention, network = getattr(block, "attention", None), getattr(block, "feed_forward", None)
        if (
            type(block) not in (Block, ClampedBlock, ClampedEnd)
            or type(attention) is not MultiHeadAttention
            or type(network) is not FeedForward
        ):
            return f"its blocks are {type(block).__name__}, only a Block of attention and feed-forward is served"
        parts = [attention.output, network.down]
        norms = [block.attention_LayerNorm, block.feed_forward_LayerNorm]
        own: list[Variant] = attention.all_variants
        checks = {
            "it is not on the CPU": attention.query.weight.device.type != "cpu",
            "its weights are float64": attention.query.weight.dtype == torch.float64,
            "its norms are neither LayerNorm nor RMSNorm": not all(isinstance(norm, LayerNorm | RMSNorm) for norm in norms),
            "its projections are not linear": not all(type(part) in (nn.Linear, WideLinear) for part in parts),
            "its attention is not full": bool(attention.variants) or attention.softcap is not None or any(map(_computes, own)),
            "it has relative positions": not isinstance(attention.distance_embedding, BucketBias | None),
        }  # fmt: skip
        reasons = [reason for reason, holds in checks.items() if holds]
        if reasons:
            return "; ".join(reasons)
    return ""


def _computes(variant: Variant) -> bool:
    """Whether it does more than to turn queries and keys and to restrict what they see."""
    kind = type(variant)
    return variant.is_mechanism or kind.finish is not Variant.finish or variant.softcap is not None
