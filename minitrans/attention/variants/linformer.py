"""Linformer: keys and values projected along the text (Wang et al. 2020, equation 7). O(n r K)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from minitrans.attention.rules import AttentionRules
from minitrans.attention.variant import Identity, LayerSizes
from minitrans.attention.whole import WholeMechanism, first_real, too_long


class Linformer(WholeMechanism):
    """softmax(scale q (E k)^T) F v, with E and F (r, longest) learned, shared by the heads of a layer.

    A row of E that no token of a text flows into has no score: so E = I is attention itself for texts up to r tokens,
    and that is where it starts; random ones, the paper's start, are no use in pretrained weights.

    Args:
        sizes: of the block.
        rank: r.
        start: "identity", or "random" with variance 1 / r.
    """

    name = "linformer"
    trial = {"rank": 4}
    identity = Identity({"rank": 16})

    def __init__(
        self, sizes: LayerSizes, *, rank: int = 128, start: Literal["identity", "random"] = "identity"
    ) -> None:
        super().__init__(sizes)
        if sizes.longest is None:
            raise ValueError("linformer projects texts of a fixed length: the model must have a longest one")
        if start not in ("identity", "random") or rank < 1:
            raise ValueError(f"expected start 'identity' or 'random' and a rank of at least 1, got {start!r}, {rank!r}")
        along = torch.eye(rank, sizes.longest) if start == "identity" else torch.randn(rank, sizes.longest) * rank**-0.5
        self.key_projection, self.value_projection = nn.Parameter(along.clone()), nn.Parameter(along.clone())

    def mix(self, query: Tensor, key: Tensor, value: Tensor, real: Tensor, scale: float) -> Tensor:
        """Softmax over r mixtures."""
        places = (torch.arange(real.shape[1], device=real.device) - first_real(real)[:, None]).clamp(min=0)  # (B, S)
        along, of_values = (p[:, places].transpose(0, 1)[:, None] for p in (self.key_projection, self.value_projection))
        live = (along.masked_fill(~real[:, None, None], 0.0) != 0).any(dim=-1)[:, :, None]  # (B, 1, 1, r)
        live = live | ~live.any(dim=-1, keepdim=True)
        scores = query @ (along @ key).mT * scale
        return torch.softmax(scores.masked_fill(~live, -torch.inf), dim=-1) @ (of_values @ value)

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        """No texts longer than the matrices."""
        return too_long(self.key_projection.shape[1], rules, query) or super().supports(rules, query)
