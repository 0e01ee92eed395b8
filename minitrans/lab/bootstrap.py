"""How far a difference of scores can be trusted: the paired bootstrap over seeds and examples (Efron & Tibshirani 1993)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

DRAWS, SEED = 4000, 0


@dataclass(frozen=True)
class Difference:
    """Of two scores, per cent: the one that was found, and the ends of the middle 95 % of those drawn again."""

    found: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Better and worse are said where the interval leaves out 0."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "no difference shown"


def paired(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]], asked: Sequence[int]) -> Difference:
    """Of right answers to the same examples.

    Args:
        ours, theirs: of each seed, how many answers to each example are right.
        asked: how many each example has.
    """
    first, second = (torch.tensor(each, dtype=torch.float64) for each in (ours, theirs))  # (seeds, examples)
    number = torch.tensor(asked, dtype=torch.float64)
    change = (first - second).T  # (examples, seeds)
    examples, seeds = change.shape
    generator = torch.Generator().manual_seed(SEED)
    weights = torch.zeros(DRAWS, examples, dtype=torch.float64)
    drawn = torch.randint(examples, (DRAWS, examples), generator=generator)
    weights.scatter_add_(1, drawn, torch.ones_like(weights))
    by_seed = 100 * (weights @ change) / (weights @ number)[:, None]  # (draws, seeds)
    again = by_seed.gather(1, torch.randint(seeds, (DRAWS, seeds), generator=generator)).mean(dim=1)
    low, high = torch.quantile(again, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Difference(100 * float(change.sum() / (number.sum() * seeds)), low, high)
