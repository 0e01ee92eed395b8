"""LoLCATs: softmax attention to near keys and linear attention to the others, under one sum (Zhang et al. 2024, "LoLCATs: On
Low-Rank Linearizing of Large Language Models", equation 6). O(n² K) here, O(n (w + K) K) in kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minitrans.attention.dense import DenseMechanism
from minitrans.attention.mask import distance
from minitrans.attention.rules import AttentionRules
from minitrans.attention.scores import dense_scores
from minitrans.attention.variant import Identity, LayerSizes
from minitrans.attention.variants.hedgehog import Hedgehog


class Lolcats(DenseMechanism):
    """exp(s - m) for |i - j| <= window // 2 and c · phi(q)·phi(k) beyond, over the sum of both; m the largest s inside.

    phi is Hedgehog's, c a learned factor for each head, at first 1, in the place of the paper's pair of factors, of which
    only the ratio counts. A bias is added to s and multiplies phi(q)·phi(k) by its exponential.

    Args:
        sizes: of the block.
        window: even width in tokens, half to each side.
    """

    name = "lolcats"
    trial = {"window": 2}
    identity = Identity({"window": 10**6})
    laws = ("rows sum to one", "linear in the values")

    def __init__(self, sizes: LayerSizes, *, window: int) -> None:
        super().__init__(sizes)
        if not isinstance(window, int) or window < 2 or window % 2:
            raise ValueError(f"window must be an even number of at least 2, got {window!r}")
        self.side = window // 2
        self.map = Hedgehog(sizes)
        self.log_factor = nn.Parameter(torch.zeros(sizes.heads))  # log c

    def scores(self, query: Tensor, key: Tensor, rules: AttentionRules) -> Tensor:
        """s inside, the logarithm of what takes its exponential's place beyond; m is added to that in `weights`."""
        root, group = rules.scale_for(query) ** 0.5, query.shape[1] // key.shape[1]
        places = torch.arange(key.shape[2], device=key.device)
        wide = query.dtype if query.dtype == torch.float64 else torch.float32
        of_query = self.map.features(query.to(wide) * root, places, False)
        of_key = self.map.features(key.to(wide).repeat_interleave(group, dim=1) * root, places, True)
        product = (of_query @ of_key.mT).clamp(min=torch.finfo(wide).tiny)
        beyond = (torch.log(product) + self.log_factor[:, None, None]).to(query.dtype)
        return torch.where(self._inside(beyond), dense_scores(query, key, rules), beyond)

    def weights(self, scores: Tensor, allowed: Tensor) -> Tensor:
        """One softmax; a row that may see no near key has nothing to be compared with, m = 0."""
        inside = self._inside(scores)
        largest = scores.masked_fill(~(inside & allowed), -torch.inf).amax(dim=-1, keepdim=True)
        largest = largest.masked_fill(largest == -torch.inf, 0.0)
        return torch.softmax(torch.where(inside, scores, scores + largest), dim=-1)

    def _inside(self, scores: Tensor) -> Tensor:
        """(T, S) bool."""
        return distance(scores.shape[-2], scores.shape[-1], scores.device).abs() <= self.side

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        """The feature maps know no cap, and are made for the usual scale."""
        if rules.scale_for(query) != query.shape[-1] ** -0.5:
            return "another scale than K ** -0.5"
        return "softcap" if rules.softcap is not None else super().supports(rules, query)
