"""Keys and values pooled by segments (Wang et al. 2020, "Linformer", section 4, with mean pooling as projection). O(n m K)."""

from __future__ import annotations

import torch
from torch import Tensor

from minitrans.attention.variant import Identity, LayerSizes
from minitrans.attention.whole import WholeMechanism, segments


class Landmarks(WholeMechanism):
    """softmax(scale q·k̃ + log size) ṽ over m segment means: as if every key were the mean of its segment.

    Args:
        sizes: of the block.
        landmarks: m; a text of no more tokens has one each.
    """

    name = "landmarks"
    trial = {"landmarks": 3}
    identity = Identity({"landmarks": 16})

    def __init__(self, sizes: LayerSizes, *, landmarks: int = 64) -> None:
        super().__init__(sizes)
        if not isinstance(landmarks, int) or landmarks < 1:
            raise ValueError(f"landmarks must be a number of at least 1, got {landmarks!r}")
        self.landmarks = landmarks

    def mix(self, query: Tensor, key: Tensor, value: Tensor, real: Tensor, scale: float) -> Tensor:
        """Softmax over segments."""
        means = segments(real, self.landmarks, query.dtype)[:, None]  # (B, 1, m, S)
        sizes = (means > 0).sum(dim=-1)[:, :, None]  # (B, 1, 1, m)
        live = sizes > 0
        live = live | ~live.any(dim=-1, keepdim=True)
        scores = query @ (means @ key).mT * scale + sizes.clamp(min=1).to(query.dtype).log()
        return torch.softmax(scores.masked_fill(~live, -torch.inf), dim=-1) @ (means @ value)
