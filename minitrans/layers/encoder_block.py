"""The encoder block (Vaswani et al. 2017, figure 1, left), post-norm as in the paper or pre-norm."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from minitrans.attention.bias import AttentionBias
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask
from minitrans.attention.registry import VariantSpec
from minitrans.layers.cache import LayerCache
from minitrans.layers.feed_forward import FeedForward
from minitrans.layers.multi_head_attention import MultiHeadAttention
from minitrans.layers.norms import LayerNorm

# Norms carry "LayerNorm" in their names: fine-tuning scripts exempt parameters from weight decay by that substring.


class BlockOutput(NamedTuple):
    """What a block returns: (B, T, D) or (N, D), probabilities if asked for, and what a cache would keep."""

    output: Tensor
    weights: Tensor | None
    cross_weights: Tensor | None
    cache: LayerCache


class EncoderBlock(nn.Module):
    """Self-attention, then feed-forward, each in a residual sum.

    Args:
        width: D.
        num_heads: H.
        hidden_width: F.
        act: activation of the feed-forward network.
        gated: its gated form.
        norm_first: normalise before each sub-layer (Xiong et al. 2020) instead of after each sum, as the paper does.
        eps: of the norms.
        dropout: probability, on the output of the attention.
        feed_forward_dropout: probability, on the output of the feed-forward network; None = the same.
        attention_dropout: probability, on the attention probabilities.
        relative_positions: see `MultiHeadAttention`.
        relative_with_key: see `MultiHeadAttention`.
        attention: the variant.
        backend: how to compute it.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        hidden_width: int,
        *,
        act: str = "gelu",
        gated: bool = False,
        norm_first: bool = False,
        eps: float = 1e-5,
        dropout: float = 0.0,
        feed_forward_dropout: float | None = None,
        attention_dropout: float = 0.0,
        relative_positions: int | None = None,
        relative_with_key: bool = False,
        attention: VariantSpec = "full",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(
            width,
            num_heads,
            dropout=attention_dropout,
            relative_positions=relative_positions,
            relative_with_key=relative_with_key,
            attention=attention,
            backend=backend,
        )
        self.attention_LayerNorm = LayerNorm(width, eps)
        self.feed_forward = FeedForward(width, hidden_width, act=act, gated=gated)
        self.feed_forward_LayerNorm = LayerNorm(width, eps)
        self.dropout = nn.Dropout(dropout)
        self.feed_forward_dropout = nn.Dropout(dropout if feed_forward_dropout is None else feed_forward_dropout)
        self.norm_first = norm_first

    def forward(
        self,
        x: Tensor,
        *,
        mask: AttentionMask,
        bias: AttentionBias | None = None,
        layout: PackedLayout | None = None,
        head_mask: Tensor | None = None,
        need_weights: bool = False,
    ) -> BlockOutput:
        """(B, T, D) -> (B, T, D), or (N, D) -> (N, D) with a layout."""
        attended = self.attention(
            self._before(self.attention_LayerNorm, x),
            mask=mask,
            bias=bias,
            layout=layout,
            head_mask=head_mask,
            need_weights=need_weights,
        )
        x = self._after(self.attention_LayerNorm, x + self.dropout(attended.output))

        fed = self.feed_forward(self._before(self.feed_forward_LayerNorm, x))
        x = self._after(self.feed_forward_LayerNorm, x + self.feed_forward_dropout(fed))
        return BlockOutput(x, attended.weights, None, LayerCache(attended.key_value, None))

    def _before(self, norm: nn.Module, x: Tensor) -> Tensor:
        return norm(x) if self.norm_first else x

    def _after(self, norm: nn.Module, x: Tensor) -> Tensor:
        return x if self.norm_first else norm(x)
