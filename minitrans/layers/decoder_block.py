"""The decoder block (Vaswani et al. 2017, figure 1, right): an encoder block that can also attend to a memory."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from minitrans.attention.bias import AttentionBias
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask
from minitrans.layers.cache import LayerCache
from minitrans.layers.encoder_block import BlockOutput, EncoderBlock
from minitrans.layers.multi_head_attention import MultiHeadAttention
from minitrans.layers.norms import LayerNorm

_NO_MASK = AttentionMask()


class DecoderBlock(EncoderBlock):
    """Masked self-attention, cross-attention over a memory, then feed-forward, each in a residual sum.

    Args:
        width: D.
        num_heads: H.
        hidden_width: F.
        cross_attention: whether the block can attend to a memory; without, it is a block of a decoder-only model.
        options: as for `EncoderBlock`. The variant is that of self-attention; cross-attention is full.
    """

    def __init__(
        self, width: int, num_heads: int, hidden_width: int, *, cross_attention: bool = True, **options: Any
    ) -> None:
        super().__init__(width, num_heads, hidden_width, **options)
        self.cross_attention: MultiHeadAttention | None = None
        self.cross_attention_LayerNorm: LayerNorm | None = None
        if cross_attention:
            self.cross_attention = MultiHeadAttention(
                width, num_heads, dropout=self.attention.dropout_p, backend=self.attention.backend
            )
            self.cross_attention_LayerNorm = LayerNorm(width, self.attention_LayerNorm.eps)

    def forward(
        self,
        x: Tensor,
        *,
        mask: AttentionMask,
        memory: Tensor | None = None,
        memory_mask: AttentionMask = _NO_MASK,
        bias: AttentionBias | None = None,
        layout: PackedLayout | None = None,
        past: LayerCache | None = None,
        head_mask: Tensor | None = None,
        need_weights: bool = False,
    ) -> BlockOutput:
        """Decodes one step or many.

        Args:
            x: (B, T, D).
            mask: of the self-attention, normally causal; over all S tokens when there is a past.
            memory: (B, S, D), the encoder's output; None skips the cross-attention.
            memory_mask: of the cross-attention.
            bias: added to the scores of the self-attention.
            layout: where the sequences of a packed batch lie (self-attention only).
            past: what the block remembers of earlier tokens and of the memory.
            head_mask: (H) factors of the heads, in both attentions.
            need_weights: return the probabilities too.

        Raises:
            ValueError: for a memory without cross-attention.
        """
        attended = self.attention(
            self._before(self.attention_LayerNorm, x),
            mask=mask,
            bias=bias,
            layout=layout,
            past=None if past is None else past.self_attention,
            head_mask=head_mask,
            need_weights=need_weights,
        )
        x = self._after(self.attention_LayerNorm, x + self.dropout(attended.output))

        crossed = None
        if memory is not None:
            if self.cross_attention is None or self.cross_attention_LayerNorm is None:
                raise ValueError(
                    "a memory was given to a block without cross-attention; build it with cross_attention=True"
                )
            crossed = self.cross_attention(
                self._before(self.cross_attention_LayerNorm, x),
                memory,
                mask=memory_mask,
                past=None if past is None else past.cross_attention,
                head_mask=head_mask,
                need_weights=need_weights,
            )
            x = self._after(self.cross_attention_LayerNorm, x + self.dropout(crossed.output))

        fed = self.feed_forward(self._before(self.feed_forward_LayerNorm, x))
        x = self._after(self.feed_forward_LayerNorm, x + self.feed_forward_dropout(fed))
        if crossed is None:
            return BlockOutput(x, attended.weights, None, LayerCache(attended.key_value, None))
        return BlockOutput(x, attended.weights, crossed.weights, LayerCache(attended.key_value, crossed.key_value))
