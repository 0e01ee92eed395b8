"""Performer, FAVOR+: positive orthogonal random features of softmax (Choromanski et al. 2021, lemma 1). O(n m K)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from minitrans.attention.feature_map import FeatureMechanism
from minitrans.attention.variant import Identity, LayerSizes


class Performer(FeatureMechanism):
    """phi(x) = exp(w·x - |x|² / 2) / √m for m vectors w, orthogonal in blocks of K, of the length of normal vectors.

    The vectors are drawn by seed and layer and are no parameters: the same after saving and loading. `redraw` draws others.

    Args:
        sizes: of the block.
        features: m.
        seed: of the vectors.
    """

    name = "performer"
    trial = {"features": 24}
    # the tolerance: tests/attention/test_efficient.py derives it from the variance of the estimator
    identity = Identity({"features": 100_000}, tolerance=3e-2, limit="features to infinity, with an error of m^(-1/2)")
    vectors: Tensor

    def __init__(self, sizes: LayerSizes, *, features: int = 256, seed: int = 0) -> None:
        super().__init__(sizes)
        if not isinstance(features, int) or features < 1:
            raise ValueError(f"features must be a number of at least 1, got {features!r}")
        self.count = features
        self.register_buffer("vectors", torch.empty(features, sizes.head_width), persistent=False)
        self.redraw(seed)

    def redraw(self, seed: int) -> None:
        """Other vectors (m, K)."""
        width = self.sizes.head_width
        generator = torch.Generator().manual_seed(seed * 1009 + self.sizes.layer)
        blocks = -(-self.count // width)
        q, r = torch.linalg.qr(torch.randn(blocks, width, width, generator=generator, dtype=torch.float64))
        square = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]  # without the signs the directions are not uniform
        lengths = torch.randn(blocks, width, width, generator=generator, dtype=torch.float64).norm(dim=-1, keepdim=True)
        self.vectors.copy_((square * lengths).flatten(0, 1)[: self.count])

    def features(self, x: Tensor, places: Tensor, of_keys: bool) -> Tensor:
        """Of a query times a factor of its own, which its row is divided by again; w·x - |x|² / 2 is at most |w|² / 2."""
        exponents = x @ self.vectors.to(x.dtype).T - x.square().sum(-1, keepdim=True) / 2
        if not of_keys:
            exponents = exponents - exponents.amax(dim=-1, keepdim=True).detach()
        return torch.exp(exponents) / math.sqrt(self.count)
