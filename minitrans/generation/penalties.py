"""Processors that move the scores of tokens by what has been written already, or by how long a text has become."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minitrans.generation.text import Processor, Text


def repetition(penalty: float, seen: Callable[[Text, Tensor], Tensor]) -> Processor:
    """Divides positive scores of `seen` tokens by the penalty and multiplies negative ones (Keskar et al. 2019).

    Args:
        penalty: above 1 against repetition, below 1 for it.
        seen: (text, scores) -> (N, V), which tokens count as seen.
    """

    def process(text: Text, scores: Tensor) -> Tensor:
        return torch.where(seen(text, scores), torch.where(scores < 0, scores * penalty, scores / penalty), scores)

    return process


def in_text(text: Text, scores: Tensor) -> Tensor:
    """(N, V) which tokens the text holds, its prompt included."""
    return _counts(text.ids, text.real, scores) > 0


def in_source(ids: Tensor, real: Tensor) -> Callable[[Text, Tensor], Tensor]:
    """Which tokens the source of a text holds: of each prompt (B, S) ids, and where they are no padding."""
    return lambda text, scores: _counts(ids[text.prompt], real[text.prompt], scores) > 0


def frequency(penalty: float) -> Processor:
    """Takes the penalty from a token's score for each time that it has been written; the prompt does not count."""
    return lambda text, scores: scores - penalty * _counts(text.ids, text.is_new, scores)


def presence(penalty: float) -> Processor:
    """Takes the penalty from the score of every token that has been written; the prompt does not count."""
    return lambda text, scores: scores - penalty * (_counts(text.ids, text.is_new, scores) > 0)


def exponential_decay(start: int, factor: float, eos: Sequence[int]) -> Processor:
    """Raises the scores of the tokens that end a text by |score| (factor^(n - start) - 1), from `start` new tokens on."""

    def process(text: Text, scores: Tensor) -> Tensor:
        ends = scores[:, list(eos)]
        rise = ends.abs() * (factor ** (text.new - start).clamp(min=0).to(scores.dtype) - 1)[:, None]
        ends = ends + rise.masked_fill(~ends.isfinite(), 0.0)
        return scores.index_copy(1, torch.tensor(eos, device=scores.device), ends)

    return process


def _counts(ids: Tensor, real: Tensor, scores: Tensor) -> Tensor:
    """(N, V) how often each token stands where `real`; an id beyond the scores is none of them."""
    vocabulary = scores.shape[-1]
    counts = scores.new_zeros(len(scores), vocabulary + 1)
    return counts.scatter_add_(1, ids.clamp(max=vocabulary), real.to(scores.dtype))[:, :vocabulary]
