"""Blocks one after the other: the one loop of encoders, decoders and the Transformer of 2017."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minitrans.attention.bias import SummedBias
from minitrans.attention.context import Context, Probabilities
from minitrans.layers.block import Block
from minitrans.layers.cache import Cache
from minitrans.layers.position_bias import BucketBias


class StackOutput(NamedTuple):
    """What a stack returns: its output, and of what was asked for besides, one entry a block."""

    output: Tensor
    hidden_states: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    cross_weights: tuple[Tensor, ...]


def run_blocks(
    blocks: Iterable[Callable[..., Tensor]],
    x: Tensor,
    context: Context,
    cache: Cache | None = None,
    *,
    keep_states: bool = False,
) -> StackOutput:
    """(B, T, D) -> (B, T, D), or (N, D) -> (N, D), through every block.

    Args:
        blocks: in the order in which they run.
        x: the embeddings.
        context: what the blocks share.
        cache: what earlier calls left, a layer a block; every block extends its own.
        keep_states: return x and the output of every block too (M7).
    """
    states, kept = [x] if keep_states else [], Probabilities()
    if context.need_weights:
        context = replace(context, kept=kept)
    for index, block in enumerate(blocks):
        of_block = context if context.head_mask is None else context.at(index)
        x = block(x, of_block, None if cache is None else cache.layers[index])
        if keep_states:
            states.append(x)
    return StackOutput(x, tuple(states), tuple(kept.own), tuple(kept.cross))


class Stack(nn.Module):
    """Blocks, and what belongs to all of them.

    Attributes:
        gradient_checkpointing: what runs a function of x in training, and again in the backward pass: (function, x) -> its
            value; None = blocks are called, once.

    Args:
        blocks: L of them, or fewer where layers share blocks.
        norm: what follows the last of pre-norm blocks.
        order: which block makes each layer; None = each its own.
        layer_drop: probability, in training, that a block is left out (Fan et al. 2019, "Reducing Transformer Depth on Demand").
        position_bias: what every block adds to the scores of its self-attention, besides the bias of the context (T2, P1).
    """

    gradient_checkpointing: Callable[..., Tensor] | None = None

    def __init__(
        self,
        blocks: Iterable[Block],
        norm: nn.Module | None = None,
        order: Iterable[int] | None = None,
        position_bias: BucketBias | None = None,
        layer_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.layer = nn.ModuleList(blocks)
        self.LayerNorm = norm
        self.order = tuple(range(len(self.layer)) if order is None else order)
        self.relative_attention_bias = position_bias
        self.layer_drop = layer_drop

    def blocks(self) -> Iterable[Callable[..., Tensor]]:
        """What runs, in its order."""
        return (self.layer[number] for number in self.order)

    def forward(
        self, x: Tensor, context: Context, cache: Cache | None = None, *, keep_states: bool = False
    ) -> StackOutput:
        """See `run_blocks`."""
        if self.relative_attention_bias is not None:
            bias = self.relative_attention_bias.bias()
            context = replace(context, bias=bias if context.bias is None else SummedBias(bias, context.bias))
        blocks = self.blocks()
        if self.training:
            blocks = self._in_training(blocks, cache)
        out = run_blocks(blocks, x, context, cache, keep_states=keep_states)
        return out if self.LayerNorm is None else _normed(self.LayerNorm, out)

    def _in_training(
        self, blocks: Iterable[Callable[..., Tensor]], cache: Cache | None
    ) -> Iterable[Callable[..., Tensor]]:
        """The blocks that run, each in its place, and how."""
        if self.gradient_checkpointing is not None and cache is None:
            blocks = (partial(_run_twice, self.gradient_checkpointing, block) for block in blocks)
        if self.layer_drop:
            blocks = (_leave_out if torch.rand([]) < self.layer_drop else block for block in blocks)
        return blocks


def _normed(norm: nn.Module, out: StackOutput) -> StackOutput:
    x = norm(out.output)
    return out._replace(output=x, hidden_states=(*out.hidden_states[:-1], x) if out.hidden_states else ())  # M7


def _leave_out(x: Tensor, context: Context, cache: Cache | None) -> Tensor:
    """In the place of a block."""
    return x


def _run_twice(
    run: Callable[..., Tensor], block: Callable[..., Tensor], x: Tensor, context: Context, cache: Cache | None
) -> Tensor:
    """A block that finds, whenever it runs, what the blocks before it have left in the context."""
    before = dict(context.shared)

    def once(x: Tensor) -> Tensor:
        own = replace(context, shared=dict(before))
        y = block(x, own, cache)
        if own.shared:
            context.shared.update(own.shared)
        return y

    return run(once, x)
