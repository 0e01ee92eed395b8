"""The stack of encoder blocks for inference on a CPU: the same function as `layers.stack.Stack` in fewer, larger steps.

Queries, keys and values come from one projection; projections are oneDNN's with pre-packed weights, activation or residual sum in
the same call; the sequences of a packed batch share rows (see `rows.py`), so that attention is one call a layer, or a few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from minitrans.attention.bias import RelativeBuckets
from minitrans.attention.context import Context
from minitrans.attention.mask import AttentionMask
from minitrans.attention.recording import being_exported
from minitrans.cpu.attention import attend_in_rows
from minitrans.cpu.decoder import FusedNetwork
from minitrans.cpu.feed_forward import FloatFeedForward, IntegerFeedForward
from minitrans.cpu.linear import POSTS, EvenLinear, FloatLinear
from minitrans.cpu.rows import Rectangle, Rows, lay_out, with_distances
from minitrans.errors import NotSupportedError
from minitrans.layers.block import Block
from minitrans.layers.cache import Cache
from minitrans.layers.feed_forward import FeedForward
from minitrans.layers.multi_head_attention import MultiHeadAttention
from minitrans.layers.norms import LayerNorm
from minitrans.layers.stack import StackOutput

# of what is not integer
FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.float32}


class Reach(NamedTuple):
    """How large each input of the projections of a block gets (D, or F for `down`)."""

    query: Tensor
    output: Tensor
    up: Tensor
    down: Tensor


class FusedBlock:
    """One encoder block.

    Args:
        block: whose weights to take; they are copied.
        dtype: "float32", "bfloat16" or "int8".
        reach: of its inputs; needed for "int8".
    """

    def __init__(self, block: Block, dtype: str, reach: Reach | None) -> None:
        attention, network = cast("MultiHeadAttention", block.attention), cast("FeedForward", block.feed_forward)
        self.head_width, self.scale = attention.head_width, attention.scale
        projections = (attention.query, attention.key, attention.value)
        floats = FLOATS[dtype]
        first, second = (cast("LayerNorm", norm) for norm in (block.attention_LayerNorm, block.feed_forward_LayerNorm))
        self.query_key_value = _pack(projections, floats, None if reach is None else reach.query)
        self.output = _pack([attention.output], floats, None if reach is None else reach.output)
        self.network: FloatFeedForward | IntegerFeedForward | FusedNetwork
        if reach is None:
            self.network = FloatFeedForward(network, floats)
        elif network.act in POSTS:
            self.network = IntegerFeedForward(network, (reach.up, reach.down))
        else:
            self.network = FusedNetwork(network, dtype, {network.up: reach.up, network.down: reach.down})
        self.norms = [_Norm(norm, floats) for norm in (first, second)]
        self.norm_first = block.norm_first

    def __call__(self, x: Tensor, rows: Rows) -> Tensor:
        """(N, D) -> (N, D)."""
        first, second = self.norms
        attended = self.attend(first(x) if self.norm_first else x, rows)
        x = self.output(attended, x)
        if not self.norm_first:
            x = first(x)
        x = self.network(second(x) if self.norm_first else x, x)
        return x if self.norm_first else second(x)

    def attend(self, x: Tensor, rows: Rows) -> Tensor:
        """(N, D) -> (N, H·K)."""
        projected = self.query_key_value(x)
        return attend_in_rows(projected.view(len(x), 3, -1, self.head_width), rows, self.scale)


class FusedEncoder(nn.Module):
    """Takes the place of a `Stack`.

    Args:
        blocks: of that stack.
        order: in which it runs them.
        norm: what follows the last.
        dtype: "float32", "bfloat16" or "int8".
        distances: scores that every block adds, where there are any.
        reach: of each block, as `FusedBlock` takes it.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        order: Sequence[int],
        norm: LayerNorm | None,
        dtype: str,
        distances: RelativeBuckets | None = None,
        reach: Sequence[Reach] = (),
    ) -> None:
        super().__init__()
        self.order = tuple(order)
        self.floats = FLOATS[dtype]
        self.blocks = [FusedBlock(block, dtype, each) for block, each in zip_longest(blocks, reach)]
        self.norm = None if norm is None else _Norm(norm, self.floats)
        self.distances = distances
        if distances is not None:
            self.distances = replace(distances, table=distances.table.detach().to(self.floats, copy=True))

    def forward(
        self, x: Tensor, context: Context, cache: Cache | None = None, *, keep_states: bool = False
    ) -> StackOutput:
        """(B, T, D) -> (B, T, D), or (N, D) -> (N, D); the arguments are those of `Stack`.

        Raises:
            NotSupportedError: for what only the model that this one was prepared from computes.
        """
        asked = {
            "output_attentions": context.need_weights,
            "head_mask": context.head_mask is not None,
            "a mask of scores": context.bias is not None,
            "past_key_values": cache is not None,
            "encoder_hidden_states": context.memory is not None,
            "torch.jit.trace or torch.export": being_exported(),
        }
        if any(asked.values()):
            names = ", ".join(name for name, is_asked in asked.items() if is_asked)
            raise NotSupportedError(f"a prepared model does not go with {names}; use the model it was prepared from")
        layout = context.layout
        rows = _grid(x, context.mask, self.floats) if layout is None else lay_out(layout.lengths(), self.floats)
        if self.distances is not None:
            rows = with_distances(rows, self.distances)
        states = [state.view(x.shape) for state in self.states(x.flatten(0, -2), rows, keep_states)]
        return StackOutput(states[-1], tuple(states) if keep_states else (), (), ())

    def states(self, x: Tensor, rows: Rows, keep: bool) -> list[Tensor]:
        """(N, D) -> the last hidden state (N, D), after all before it where those are to be kept."""
        if not len(x):  # nothing but padding
            return [x] * (1 + keep * len(self.order))
        given = x.dtype
        kept = [x] if keep else []
        x = x.to(self.floats, copy=True)  # a block may reuse the memory of its input
        for position, index in enumerate(self.order, start=1):
            x = self.blocks[index](x, rows)
            if self.norm is not None and position == len(self.order):
                x = self.norm(x)  # M7: the last hidden state is the normed one
            if keep or position == len(self.order):
                kept.append(x.to(given, copy=keep))
        return kept if self.order else [x.to(given)]


class _Norm:
    """A LayerNorm with its own copy of the weights."""

    def __init__(self, norm: LayerNorm, floats: torch.dtype) -> None:
        self.weight = norm.weight.detach().to(floats, copy=True)
        self.bias = None if norm.bias is None else norm.bias.detach().to(floats, copy=True)
        self.eps = norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


def _grid(x: Tensor, mask: AttentionMask, dtype: torch.dtype) -> Rows:
    """The rows of a batch (B, T, D) that keeps its padding."""
    count, length = x.shape[:2]
    allowed = mask.to_dense(length, length, x.device)
    if allowed is None:
        return lay_out([length] * count, dtype)
    blind = ~allowed.any(dim=-1, keepdim=True)
    scores = torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~(allowed | blind), -torch.inf)
    return Rows((Rectangle(0, count, length, length, 0, scores, blind if bool(blind.any()) else None),))


def _pack(linears: Sequence[nn.Linear], floats: torch.dtype, reach: Tensor | None) -> FloatLinear | EvenLinear:
    """One linear layer whose output is that of all of these, side by side; in integers where the reach of its inputs is known."""
    weight = torch.cat([each.weight.detach() for each in linears]).to(floats)
    biases = [each.bias.detach() for each in linears if each.bias is not None]
    bias = torch.cat(biases).to(floats) if biases else None
    return FloatLinear(weight, bias) if reach is None else EvenLinear(weight, bias, reach)
