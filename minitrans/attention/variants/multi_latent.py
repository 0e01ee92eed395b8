"""Multi-head latent attention of a multi-head one (DeepSeek-AI 2024, "DeepSeek-V2", section 2.1.2): keys and values of one latent
vector per token. O(n r G K) more in this form, which makes all of them again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minitrans.attention.context import Context
from minitrans.attention.variant import Identity, LayerSizes, Variant


class MultiLatent(Variant):
    """[k; v] = up (down [k; v]) + offset, where down makes r numbers of the 2 G K: what would lie in a cache.

    It begins with the r largest singular vectors of the block's own projections (their biases are kept); without the
    shared rotary key of the paper, whose place a rotary variant after this one takes.

    Args:
        sizes: of the block.
        rank: r; None = 2 G K, which loses nothing.
    """

    name = "multi_latent"
    trial = {"rank": 4}
    identity = Identity()

    laws = ("rows sum to one",)

    def __init__(self, sizes: LayerSizes, *, rank: int | None = None) -> None:
        super().__init__(sizes)
        both = 2 * sizes.kv_heads * sizes.head_width
        if rank is not None and not 1 <= rank <= both:
            raise ValueError(f"rank must lie between 1 and {both}, got {rank!r}")
        self.down = nn.Parameter(torch.eye(both)[:rank])
        self.up = nn.Parameter(torch.eye(both)[:, :rank])
        self.offset = nn.Parameter(torch.zeros(both))

    def adopt(self, attention: nn.Module) -> None:
        """The nearest projections of this rank to those of the block."""
        projections = [attention.get_submodule(name) for name in ("key", "value")]
        weight = torch.cat([each.weight for each in projections])  # type: ignore[misc]
        left = torch.linalg.svd(weight.double(), full_matrices=True).U[:, : self.down.shape[0]].to(weight.dtype)
        self.up.copy_(left)
        self.down.copy_(left.T)
        if projections[0].bias is not None:
            bias = torch.cat([each.bias for each in projections])  # type: ignore[misc]
            self.offset.copy_(bias - left @ (left.T @ bias))

    def project(self, query: Tensor, key: Tensor, value: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values through the latent vector; queries as they are."""
        packed = context.layout is not None
        both = torch.cat([key, value], dim=1)  # (B, 2 G, T, K), or (N, 2 G, K)
        flat = (both if packed else both.transpose(1, 2)).flatten(-2)  # (..., 2 G K)
        made = torch.unflatten(flat @ self.down.T @ self.up.T + self.offset, -1, (-1, self.sizes.head_width))
        new_key, new_value = (made if packed else made.transpose(1, 2)).chunk(2, dim=1)
        return query, new_key, new_value
