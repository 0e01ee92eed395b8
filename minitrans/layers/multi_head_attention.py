"""Multi-head attention (Vaswani et al. 2017, section 3.2.2): project, attend in each head, join, project."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minitrans.attention.bias import AttentionBias, RelativePositions, SummedBias
from minitrans.attention.dispatch import attend
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask
from minitrans.attention.registry import VariantSpec, check_backend, resolve_variant
from minitrans.layers.cache import KeyValue


class Attended(NamedTuple):
    """(B, T, D) or (N, D); the probabilities (B, H, T, S) if asked for; keys and values for a cache."""

    output: Tensor
    weights: Tensor | None
    key_value: KeyValue


class MultiHeadAttention(nn.Module):
    """Self-attention, or cross-attention when a memory is given.

    Args:
        width: D.
        num_heads: H.
        num_kv_heads: G, how many heads keys and values have; None = H (Ainslie et al. 2023, "GQA").
        head_width: K; None = D / H.
        bias: whether the projections have one.
        dropout: probability, on the attention probabilities.
        scale: factor of the scores; None = K ** -0.5.
        relative_positions: P, the longest sequence of a table of relative positions (M8); None = no table.
        relative_with_key: multiply the table with the key too.
        attention: the variant, see `minitrans.attention.registry`.
        backend: how to compute it.

    Raises:
        ValueError: where the sizes do not divide, or variant or backend are unknown.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        head_width: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        scale: float | None = None,
        relative_positions: int | None = None,
        relative_with_key: bool = False,
        attention: VariantSpec = "full",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if head_width is None and width % num_heads:
            raise ValueError(f"the width {width} is not a multiple of the number of heads {num_heads}")
        if num_heads % self.num_kv_heads:
            raise ValueError(f"{num_heads} heads cannot share {self.num_kv_heads} key/value heads evenly")
        self.head_width = width // num_heads if head_width is None else head_width
        self.query = nn.Linear(width, self.num_heads * self.head_width, bias=bias)
        self.key = nn.Linear(width, self.num_kv_heads * self.head_width, bias=bias)
        self.value = nn.Linear(width, self.num_kv_heads * self.head_width, bias=bias)
        self.output = nn.Linear(self.num_heads * self.head_width, width, bias=bias)
        self.distance_embedding = None
        if relative_positions is not None:
            self.distance_embedding = nn.Embedding(2 * relative_positions - 1, self.head_width)
        self.relative_with_key = relative_with_key
        self.dropout_p = dropout
        self.scale = scale
        self.set_attention(attention, backend)

    def set_attention(self, attention: VariantSpec, backend: str = "auto") -> None:
        """Swaps variant and backend; the weights stay. Raises ValueError or TypeError for unknown ones."""
        check_backend(backend)
        self.attention, self.backend = resolve_variant(attention), backend

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        *,
        mask: AttentionMask,
        bias: AttentionBias | None = None,
        layout: PackedLayout | None = None,
        past: KeyValue | None = None,
        head_mask: Tensor | None = None,
        need_weights: bool = False,
    ) -> Attended:
        """Attends from `x` to itself, or to `memory`.

        Args:
            x: (B, T, D), or (N, D) with a layout.
            memory: (B, S, D) to attend to instead of x.
            mask: what may attend to what.
            bias: added to the scores, besides the relative positions where there is a table of them.
            layout: where the sequences of a packed batch lie.
            past: keys and values of earlier calls: x comes after them; with a memory, they are the memory's.
            head_mask: (H) factors of the heads' probabilities.
            need_weights: return the probabilities too.
        """
        query = self._split(self.query(x))  # (B, H, T, K)
        if memory is not None and past is not None:
            key, value = past
        else:
            source = x if memory is None else memory
            key, value = self._split(self.key(source)), self._split(self.value(source))  # (B, G, S, K)
            if past is not None:
                key, value = torch.cat([past.key, key], dim=2), torch.cat([past.value, value], dim=2)
        if self.distance_embedding is not None:
            relative = RelativePositions(self.distance_embedding.weight, self.relative_with_key)
            bias = relative if bias is None else SummedBias(relative, bias)

        result = attend(
            query, key, value, mask=mask, bias=bias, layout=layout, scale=self.scale,
            dropout_p=self.dropout_p if self.training else 0.0, need_weights=need_weights,
            attention=self.attention, backend=self.backend,
        )  # fmt: skip
        output, weights = result.output, result.weights
        if head_mask is not None:  # the factor of a head's probabilities is the factor of its output
            weights = None if weights is None else weights * head_mask[:, None, None]
            output = output * (head_mask[:, None] if layout is not None else head_mask[:, None, None])
        return Attended(self.output(self._join(output)), weights, KeyValue(key, value))

    def prune_heads(self, heads: Iterable[int]) -> None:
        """Removes these heads and their weights (Michel et al. 2019, "Are Sixteen Heads Really Better than One?").

        Raises:
            ValueError: where a head does not exist, none would remain, or heads share keys and values.
        """
        gone = set(heads)
        if not gone:
            return
        if self.num_kv_heads != self.num_heads:
            raise ValueError("heads that share keys and values cannot be pruned one by one")
        if not gone <= set(range(self.num_heads)) or len(gone) == self.num_heads:
            raise ValueError(f"heads to prune must be some, not all, of 0..{self.num_heads - 1}, got {sorted(gone)}")
        kept = torch.tensor([head for head in range(self.num_heads) if head not in gone])
        rows = (kept[:, None] * self.head_width + torch.arange(self.head_width)).flatten()
        for projection in (self.query, self.key, self.value):
            _keep(projection, rows, dim=0)
        _keep(self.output, rows, dim=1)
        self.num_heads = self.num_kv_heads = len(kept)

    def _split(self, x: Tensor) -> Tensor:
        """(B, T, H·K) -> (B, H, T, K); (N, H·K) -> (N, H, K)."""
        heads = x.view(*x.shape[:-1], x.shape[-1] // self.head_width, self.head_width)
        return heads.transpose(1, 2) if heads.dim() == 4 else heads

    def _join(self, x: Tensor) -> Tensor:
        """(B, H, T, K) -> (B, T, H·K); (N, H, K) -> (N, H·K)."""
        return (x.transpose(1, 2) if x.dim() == 4 else x).flatten(-2)


def _keep(projection: nn.Linear, kept: Tensor, dim: int) -> None:
    """Keeps the `kept` rows (dim 0) or columns (dim 1) of a projection, in place."""
    kept = kept.to(projection.weight.device)
    trains = projection.weight.requires_grad
    projection.weight = nn.Parameter(projection.weight.detach().index_select(dim, kept), requires_grad=trains)
    if dim == 0:
        projection.out_features = len(kept)
        if projection.bias is not None:
            trains = projection.bias.requires_grad
            projection.bias = nn.Parameter(projection.bias.detach()[kept], requires_grad=trains)
    else:
        projection.in_features = len(kept)
