"""Multi-token attention: scores are mixed with those of near queries and keys (Golovneva et al. 2025, section 3.1). + O(n² c)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from minitrans.attention.dense import DenseMechanism, forbid
from minitrans.attention.rules import AttentionRules
from minitrans.attention.variant import Identity, LayerSizes
from minitrans.errors import NotSupportedError


class MultiToken(DenseMechanism):
    """A convolution of the scores over queries i - c_q + 1 .. i and keys j - c_k // 2 .. j + c_k // 2, then softmax.

    A kernel for each head, at first the one that changes nothing. Queries look back only, as in the paper, so it has a
    causal form; forbidden scores and rows of padding enter as 0.

    Args:
        sizes: of the block.
        queries: c_q.
        keys: c_k, odd.
    """

    name = "multi_token"
    trial = {"queries": 2, "keys": 3}
    identity = Identity()
    laws = ("rows sum to one", "linear in the values")
    whole_texts = True

    def __init__(self, sizes: LayerSizes, *, queries: int = 6, keys: int = 11) -> None:
        super().__init__(sizes)
        if queries < 1 or keys < 1 or keys % 2 == 0:
            raise ValueError(f"queries must be at least 1 and keys odd, got {queries} and {keys}")
        kernel = torch.zeros(sizes.heads, 1, queries, keys)
        kernel[:, :, -1, keys // 2] = 1
        self.kernel = nn.Parameter(kernel)

    def weights(self, scores: Tensor, allowed: Tensor) -> Tensor:
        """Softmax of the mixed scores."""
        if scores.shape[-2] != scores.shape[-1]:
            raise NotSupportedError(f"attention {self.name!r} does not support T != S")
        whole = allowed.expand(*allowed.shape[:2], scores.shape[-1], -1)
        real = whole.diagonal(dim1=-2, dim2=-1)[..., None]
        entering = scores.masked_fill(~(allowed & real), 0.0)
        back, side = self.kernel.shape[2] - 1, self.kernel.shape[3] // 2
        mixed = conv2d(pad(entering, (side, side, back, 0)), self.kernel, groups=self.kernel.shape[0])
        return torch.softmax(forbid(mixed, allowed), dim=-1)

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        """Where near queries see other keys, what one may not see would reach it through another."""
        mask = rules.mask
        patterns = (mask.window, mask.blocks, mask.rule, mask.dense, mask.global_tokens)
        if any(part is not None for part in patterns):
            return "masks but key padding and causality"
        return super().supports(rules, query)
