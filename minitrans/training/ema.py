"""The average of the weights over the steps, which is often better than the last of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class Ema:
    """average <- decay · average + (1 - decay) · weights, after each step (Polyak & Juditsky 1992).

    Args:
        weights: by name, those that learn.
        decay: of the average; 0 = there is none, and nothing is kept.
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.weights = {name: weight.detach() for name, weight in weights.items()} if decay else {}
        self.averages = {name: weight.clone() for name, weight in self.weights.items()}

    def update(self) -> None:
        """After a step."""
        for name, average in self.averages.items():
            average.lerp_(self.weights[name], 1 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """In which the model has the averages for weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def keep(self) -> None:
        """The averages become the weights."""
        for name, average in self.averages.items():
            self.weights[name].copy_(average)

    def _swap(self) -> None:
        with torch.no_grad():
            for name, average in self.averages.items():
                held = self.weights[name].clone()
                self.weights[name].copy_(average)
                average.copy_(held)
