"""Processors that narrow a distribution before a token is drawn from it; each keeps at least `keep` tokens.

All are (text, scores (N, V)) -> scores, where -inf forbids a token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minitrans.generation.text import Processor, Text


def temperature(value: float) -> Processor:
    """Divides the scores: below 1 the likely become likelier."""
    return lambda text, scores: scores / value


def top_k(count: int, keep: int = 1) -> Processor:
    """The `count` best, and what is as good as the last of them (Fan et al. 2018)."""
    return lambda text, scores: _without(scores, scores < _kth(scores, max(count, keep)))


def top_p(mass: float, keep: int = 1) -> Processor:
    """The fewest best tokens whose probabilities reach `mass` (Holtzman et al. 2020)."""

    def process(text: Text, scores: Tensor) -> Tensor:
        ranked, order = scores.sort(dim=-1)  # the worst first: what is summed up is what may go
        gone = ranked.softmax(dim=-1).cumsum(dim=-1) <= 1 - mass
        gone[..., -keep:] = False
        return _without(scores, gone.scatter(1, order, gone))

    return process


def min_p(share: float, keep: int = 1) -> Processor:
    """Tokens at least `share` times as likely as the best (Nguyen et al. 2024)."""

    def process(text: Text, scores: Tensor) -> Tensor:
        likely = scores.softmax(dim=-1)
        gone = likely < share * likely.amax(dim=-1, keepdim=True)
        best = likely.topk(min(keep, likely.shape[-1]), dim=-1).indices
        return _without(scores, gone.scatter(1, best, value=False))

    return process


def top_h(share: float) -> Processor:
    """The best of the 100 best tokens, while their part of the entropy stays below `share` of it (Potraghloo et al. 2025)."""

    def process(text: Text, scores: Tensor) -> Tensor:
        best, order = scores.topk(min(100, scores.shape[-1]), dim=-1)
        entropy = _surprise(best.log_softmax(dim=-1)).cumsum(dim=-1)
        kept = entropy <= share * entropy[..., -1:]
        kept[..., 0] = True
        return _without(scores, torch.ones_like(scores, dtype=torch.bool).scatter(1, order, ~kept))

    return process


def typical(mass: float, keep: int = 1) -> Processor:
    """The tokens whose surprise is nearest the entropy, up to `mass` (Meister et al. 2023, locally typical sampling)."""

    def process(text: Text, scores: Tensor) -> Tensor:
        logs = scores.log_softmax(dim=-1)
        distance, order = (-logs - _surprise(logs).sum(dim=-1, keepdim=True)).abs().sort(dim=-1)
        reached = scores.gather(-1, order).softmax(dim=-1).cumsum(dim=-1)
        last = (reached < mass).sum(dim=1, keepdim=True).clamp(max=scores.shape[-1] - 1)
        gone = distance > distance.gather(1, last)
        gone[..., :keep] = False
        return _without(scores, gone.scatter(1, order, gone))

    return process


def epsilon(least: float, keep: int = 1) -> Processor:
    """Tokens of at least this probability (Hewitt et al. 2022)."""
    return lambda text, scores: _without(scores, (scores.softmax(dim=-1) < least) & (scores < _kth(scores, keep)))


def eta(least: float, keep: int = 1) -> Processor:
    """The same with a bound that falls with the entropy (Hewitt et al. 2022)."""

    def process(text: Text, scores: Tensor) -> Tensor:
        logs = scores.log_softmax(dim=-1)
        entropy = _surprise(logs).sum(dim=-1, keepdim=True)
        bound = (least**0.5 * torch.exp(-entropy)).clamp(max=least)
        return _without(scores, (logs.exp() < bound) & (scores < _kth(scores, keep)))

    return process


def _without(scores: Tensor, gone: Tensor) -> Tensor:
    return scores.masked_fill(gone, -torch.inf)


def _kth(scores: Tensor, count: int) -> Tensor:
    """(N, 1) the score that `count` tokens reach."""
    return scores.topk(min(count, scores.shape[-1]), dim=-1).values[..., -1:]


def _surprise(logs: Tensor) -> Tensor:
    """-p log p, 0 where p is 0."""
    return -torch.xlogy(logs.exp(), logs.exp())
