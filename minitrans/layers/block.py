"""The Transformer block (Vaswani et al. 2017, figure 1): sub-layers in residual sums, post-norm as in the paper or pre-norm.

  encoder            decoder

     x                  x
     ├──────┐           ├──────┐
 attention  │       attention  │          mixer: anything (x, context, cache) -> AttentionOutput
     + ◄────┘           + ◄────┘
    norm               norm
     │                  ├──────┐
     │            cross-attention ◄── memory
     │                  + ◄────┘
     │                 norm
     ├──────┐           ├──────┐
feed-forward│      feed-forward│
     + ◄────┘           + ◄────┘
    norm               norm               pre-norm: before each sub-layer instead, on the branch
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from minitrans.attention.context import Context
from minitrans.layers.cache import LayerCache

# Norms carry "LayerNorm" in their names: fine-tuning scripts exempt parameters from weight decay by that substring.


class Block(nn.Module):
    """Self-attention, cross-attention where there is any, then feed-forward. The family makes the parts and hands them in.

    Args:
        attention: a mixer of tokens: (x, context, cache) -> AttentionOutput.
        feed_forward: (..., D) -> (..., D).
        norms: one a sub-layer, in their order.
        cross_attention: a mixer that looks at `context.memory`.
        norm_first: normalise before each sub-layer (Xiong et al. 2020) instead of after each sum, as the paper does.
        dropout: probability, on the output of each attention.
        feed_forward_dropout: probability, on the output of the feed-forward network; None = the same.
    """

    attention: nn.Module
    feed_forward: nn.Module

    def __init__(
        self,
        attention: nn.Module,
        feed_forward: nn.Module,
        norms: Sequence[nn.Module],
        *,
        cross_attention: nn.Module | None = None,
        norm_first: bool = False,
        dropout: float = 0.0,
        feed_forward_dropout: float | None = None,
    ) -> None:
        super().__init__()
        self.attention, self.attention_LayerNorm = attention, norms[0]
        self.cross_attention = cross_attention
        self.cross_attention_LayerNorm = None if cross_attention is None else norms[1]
        self.feed_forward, self.feed_forward_LayerNorm = feed_forward, norms[-1]
        self.dropout = nn.Dropout(dropout)
        self.feed_forward_dropout = nn.Dropout(dropout if feed_forward_dropout is None else feed_forward_dropout)
        self.norm_first = norm_first

    def forward(self, x: Tensor, context: Context, cache: LayerCache | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D), or (N, D) -> (N, D) where the context has a layout."""
        past = None if cache is None else cache.self_attention
        attended = self.attention(self._before(self.attention_LayerNorm, x), context, past)
        x = self._after(self.attention_LayerNorm, x + self.dropout(attended.output))

        crossed = None
        if self.cross_attention is not None and context.memory is not None:
            seen = None if cache is None else cache.cross_attention
            crossed = self.cross_attention(self._before(self.cross_attention_LayerNorm, x), context, seen)
            x = self._after(self.cross_attention_LayerNorm, x + self.dropout(crossed.output))

        fed = self.feed_forward(self._before(self.feed_forward_LayerNorm, x))
        x = self._after(self.feed_forward_LayerNorm, x + self.feed_forward_dropout(fed))
        if context.kept is not None:
            context.kept.add(attended.weights, None if crossed is None else crossed.weights)
        return x

    def _before(self, norm: nn.Module | None, x: Tensor) -> Tensor:
        return norm(x) if norm is not None and self.norm_first else x

    def _after(self, norm: nn.Module | None, x: Tensor) -> Tensor:
        return x if norm is None or self.norm_first else norm(x)
