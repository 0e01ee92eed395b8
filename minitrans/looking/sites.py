"""Where the points of a model are: each at a module, on the way in or out, or in an attention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from minitrans.attention.rules import AttentionRules
from minitrans.layers.block import Block
from minitrans.layers.multi_head_attention import MultiHeadAttention
from minitrans.layers.stack import Stack
from minitrans.looking.points import IN_ATTENTION, POINTS, STREAM, Point, Side

CROSS = "cross_"


@dataclass(frozen=True)
class Site:
    """A point at a place in a model.

    Attributes:
        name: of the point, with `cross_` before it where it is the cross-attention's.
        half: "encoder" or "decoder" of a pair, "" of a model with one stack.
        layer: from 0; None for a point of the model.
        point: what it means.
        module: whose argument or result it is; of `IN_ATTENTION` the attention.
        side: which of the two.
        block: it is in; None for a point of the model.
        stack: of that block.
    """

    name: str
    half: str
    layer: int | None
    point: Point
    module: nn.Module
    side: Side
    block: Block | None
    stack: Stack | None

    @property
    def full_name(self) -> str:
        """With the half of the pair before it."""
        return f"{self.half}.{self.name}" if self.half else self.name

    @property
    def bare(self) -> str:
        """The name of the point itself, without `cross_`."""
        return self.name if self.name in POINTS else self.name.removeprefix(CROSS)

    @property
    def in_attention(self) -> bool:
        """Whether it lies between modules."""
        return self.bare in IN_ATTENTION

    @property
    def in_stream(self) -> bool:
        """Whether what follows in the block reads it beside the norm that it is found at."""
        return self.name in STREAM and self.pre_norm

    @property
    def pre_norm(self) -> bool:
        """Whether its block normalises before each half."""
        return self.block is not None and self.block.norm_first


def sites_of(model: nn.Module) -> list[Site]:
    """All points of a model, layer by layer.

    Raises:
        ValueError: for a model without a stack of blocks.
    """
    stacks = {path: module for path, module in model.named_modules() if isinstance(module, Stack)}
    if not stacks:
        raise ValueError(f"{type(model).__name__} has no stack of blocks to look into")
    found: list[Site] = []
    for path, stack in stacks.items():
        half = next(part for part in path.split(".") if part in ("encoder", "decoder")) if len(stacks) > 1 else ""
        found.append(Site("embed", half, None, POINTS["embed"], stack, "in", None, stack))
        for layer, number in enumerate(stack.order):
            block = stack.layer[number]
            if isinstance(block, Block):
                found += _of_block(block, layer, half, stack)
        if stack.LayerNorm is not None:
            found.append(Site("final_norm", half, None, POINTS["final_norm"], stack.LayerNorm, "out", None, stack))
    pooler = next((module for path, module in model.named_modules() if path.split(".")[-1] == "pooler"), None)
    if pooler is not None:
        found.append(Site("pooled", "", None, POINTS["pooled"], pooler, "out", None, None))
    if hasattr(model, "base_model") and model.base_model is not model:
        found.append(Site("logits", "", None, POINTS["logits"], model, "out", None, None))
    return found


def _of_block(block: Block, layer: int, half: str, stack: Stack) -> Iterator[Site]:
    gated = getattr(block.feed_forward, "gate", None) is not None
    for name, point in POINTS.items():
        for full, path, side in _paths(name, point, block, gated):
            module: nn.Module | None = block
            for part in filter(None, path.split(".")):
                module = getattr(module, part, None)
            if isinstance(module, nn.Module):
                yield Site(full, half, layer, point, module, side, block, stack)


def _paths(name: str, point: Point, block: Block, gated: bool) -> Iterator[tuple[str, str, Side]]:
    """Name, module and side of the point, and of that of the cross-attention."""
    crosses = block.cross_attention is not None
    module, side = point.module, point.side
    if block.norm_first and point.pre_norm is not None:
        module, side = point.pre_norm
        if crosses and name in ("resid_mid", "resid_mid_norm"):
            module = "cross_attention_LayerNorm"
    if name == "mlp_pre" and gated:
        module = "feed_forward.gate"
    if (name.startswith("resid_mid_cross") and not crosses) or (name == "mlp_pre_linear" and not gated):
        return
    if name in IN_ATTENTION:
        module = "attention"
    if name in (*IN_ATTENTION, "head_out") and name in _lacking(block.attention):
        return
    if module is None:
        return
    yield name, module, side
    if crosses and point.crossing:
        yield CROSS + name, module.replace("attention", "cross_attention", 1), side


def _lacking(attention: nn.Module) -> set[str]:
    """What an attention that is no softmax of scores does not have; and one whose heads are not simply summed."""
    if not isinstance(attention, MultiHeadAttention):
        return {*IN_ATTENTION, "head_out"}
    lacking = set() if isinstance(attention.output, nn.Linear) else {"head_out"}
    mechanism = next((each for each in reversed(attention.all_variants) if each.is_mechanism), None)
    if mechanism is not None:
        query = attention.query.weight.new_empty(1, attention.num_heads, 1, attention.head_width)
        shows = mechanism.supports(AttentionRules(need_weights=True), query) is None
        lacking |= {"scores"} if shows else {"scores", "pattern"}
    return lacking
