"""The stack of encoder blocks for inference on a CPU: the same function as `models.encoder.Encoder` in fewer, larger steps.

Queries, keys and values come from one projection; projections are oneDNN's with pre-packed weights, activation or residual sum in
the same call; the sequences of a packed batch share rows (see `rows.py`), so that attention is one call a layer, or a few.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, scaled_dot_product_attention

from minitrans.attention.bias import AttentionBias
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask
from minitrans.cpu.linear import FloatLinear, IntegerLinear, PackedLinear
from minitrans.cpu.rows import Rectangle, lay_out
from minitrans.errors import NotSupportedError
from minitrans.layers.activations import Activation, gelu_erf
from minitrans.layers.encoder_block import EncoderBlock
from minitrans.layers.norms import LayerNorm
from minitrans.models.encoder import Stacked

# of what is not integer: the attention, and the sum that runs through the blocks
FLOATS = {
    "float32": (torch.float32, torch.float32),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
    "int8": (torch.bfloat16, torch.float32),
}


class FusedBlock:
    """One encoder block.

    Args:
        block: whose weights to take; they are copied.
        dtype: "float32", "bfloat16" or "int8".
    """

    def __init__(self, block: EncoderBlock, dtype: str) -> None:
        attention, network = block.attention, block.feed_forward
        self.num_heads, self.scale = attention.num_heads, attention.scale
        projections = (attention.query, attention.key, attention.value)
        inner, floats = FLOATS[dtype]
        self.activation: Activation | None = None if network.act is gelu_erf else network.act
        self.query_key_value = _pack(projections, dtype, inner)
        self.output = _pack([attention.output], dtype, floats)
        self.up = _pack([network.up], dtype, inner, gelu=self.activation is None)
        # in integers this one alone would lose as much as all others together: what GELU gives has no even spread
        self.down = _pack([network.down], "bfloat16" if dtype == "int8" else dtype, inner)
        self.norms = [_Norm(norm, floats) for norm in (block.attention_LayerNorm, block.feed_forward_LayerNorm)]
        self.norm_first = block.norm_first

    def __call__(self, x: Tensor, rectangles: Sequence[Rectangle]) -> Tensor:
        """(C, D) -> (C, D)."""
        first, second = self.norms
        attended = self.attend(first(x) if self.norm_first else x, rectangles)
        x = self.output(attended, x)
        if not self.norm_first:
            x = first(x)
        hidden = self.up(second(x) if self.norm_first else x)
        if self.activation is not None:
            hidden = self.activation(hidden)
        x = self.down(hidden, x)
        return x if self.norm_first else second(x)

    def attend(self, x: Tensor, rectangles: Sequence[Rectangle]) -> Tensor:
        """(C, D) -> (C, H·K)."""
        projected = self.query_key_value(x).view(len(x), 3, self.num_heads, -1)  # (C, 3, H, K)
        outputs = []
        for each in rectangles:
            part = projected[each.start : each.start + each.rows * each.length]
            grid = part.view(each.rows, each.length, *part.shape[1:])
            q, k, v = grid.permute(2, 0, 3, 1, 4)  # (rows, H, length, K)
            found = scaled_dot_product_attention(q, k, v, attn_mask=each.mask, scale=self.scale)
            if each.blind is not None:
                found = found.masked_fill(each.blind, 0.0)
            outputs.append(found.transpose(1, 2).flatten(2).flatten(0, 1))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


class FusedEncoder(nn.Module):
    """Takes the place of an `Encoder`.

    Args:
        blocks: of that encoder.
        order: in which it runs them.
        norm: what follows the last.
        dtype: "float32", "bfloat16" or "int8".
    """

    def __init__(
        self, blocks: Sequence[EncoderBlock], order: Sequence[int], norm: LayerNorm | None, dtype: str
    ) -> None:
        super().__init__()
        self.order = tuple(order)
        self.inner, self.floats = FLOATS[dtype]
        self.blocks = [FusedBlock(block, dtype) for block in blocks]
        self.norm = None if norm is None else _Norm(norm, self.floats)

    def forward(
        self,
        x: Tensor,
        *,
        mask: AttentionMask,
        bias: AttentionBias | None = None,
        layout: PackedLayout | None = None,
        head_masks: Sequence[Tensor | None],
        need_weights: bool = False,
        keep_states: bool = False,
        keep_cache: bool = False,
        **decoding: Any,
    ) -> Stacked:
        """(B, T, D) -> (B, T, D), or (N, D) -> (N, D); the arguments are those of `Encoder`.

        Raises:
            NotSupportedError: for what only the model that this one was prepared from computes.
        """
        asked = {
            "output_attentions": need_weights,
            "head_mask": any(each is not None for each in head_masks),
            "a mask of scores": bias is not None,
            "past_key_values": keep_cache,
            "encoder_hidden_states": decoding.get("memory") is not None,
        }
        if any(asked.values()):
            names = ", ".join(name for name, is_asked in asked.items() if is_asked)
            raise NotSupportedError(f"a prepared model does not go with {names}; use the model it was prepared from")
        shape, given = x.shape, x.dtype
        if layout is None:
            rectangles, order = [_grid(x, mask, self.inner)], None
            x = x.flatten(0, 1)
        else:
            rows = lay_out(layout.lengths(), x.shape[1], self.inner)
            rectangles, order = list(rows.rectangles), rows.cell_of_token
            x = x[rows.token_of_cell]

        def returned(cells: Tensor) -> Tensor:
            # copied, because a block may reuse the memory of its input
            return cells.to(given, copy=True).view(shape) if order is None else cells[order].to(given)

        x = x.to(self.floats, copy=order is None)
        states = [returned(x)] if keep_states else []
        for position, index in enumerate(self.order, start=1):
            x = self.blocks[index](x, rectangles)
            if self.norm is not None and position == len(self.order):
                x = self.norm(x)  # M7: the last hidden state is the normed one
            if keep_states:
                states.append(returned(x))
        return Stacked(states[-1] if keep_states else returned(x), tuple(states), (), (), ())


class _Norm:
    """A LayerNorm with its own copy of the weights."""

    def __init__(self, norm: LayerNorm, floats: torch.dtype) -> None:
        self.weight, self.bias = (p.detach().to(floats, copy=True) for p in (norm.weight, norm.bias))
        self.eps = norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


def _grid(x: Tensor, mask: AttentionMask, dtype: torch.dtype) -> Rectangle:
    """The rectangle of a batch (B, T, D) that keeps its padding."""
    rows, length = x.shape[:2]
    allowed = mask.to_dense(length, length, x.device)
    if allowed is None:
        return Rectangle(0, rows, length, None)
    blind = ~allowed.any(dim=-1, keepdim=True)
    scores = torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~(allowed | blind), -torch.inf)
    return Rectangle(0, rows, length, scores, blind if bool(blind.any()) else None)


def _pack(linears: Sequence[nn.Linear], dtype: str, floats: torch.dtype, *, gelu: bool = False) -> PackedLinear:
    """One linear layer whose output is that of all of these, side by side."""
    weight = torch.cat([each.weight.detach() for each in linears])
    biases = [each.bias for each in linears if each.bias is not None]
    bias = torch.cat([each.detach() for each in biases]) if biases else None
    if dtype == "int8":
        return IntegerLinear(weight.float(), None if bias is None else bias.float(), gelu=gelu, out=floats)
    return FloatLinear(weight.to(floats), None if bias is None else bias.to(floats), gelu=gelu)
