"""Associative recall of many pairs, MQAR (Arora et al. 2023, "Zoology", section 3.1).

    k1 v1 k2 v2 ... kP vP  0 0 k2 0 k1 0 0 kP ...
                                 |    |      |
    labels                      v2   v1     vP

Keys and values are drawn without repetition from the two halves of the vocabulary; every key comes once again, at a distance
that follows the power law of the paper's appendix.
"""

from __future__ import annotations

import torch

from minitrans.lab.tasks.task import NOT_ASKED, Examples, Task, generated

POWER = 0.01  # of the law: a query at the i-th free place with a probability that goes as i ** (POWER - 1)


def recall(*, vocabulary: int = 256, pairs: int = 8, length: int = 64) -> Task:
    """With P pairs, whatever the length: a longer text has the same keys at longer distances."""

    def draw(count: int, length: int, generator: torch.Generator) -> Examples:
        return _draw(count, length, generator, vocabulary, pairs)

    return generated("mqar", draw, vocabulary=vocabulary, classes=vocabulary, causal=True, length=length)


def _draw(count: int, length: int, generator: torch.Generator, vocabulary: int, pairs: int) -> Examples:
    if length < 3 * pairs or vocabulary < 2 * pairs + 2:
        raise ValueError(f"{pairs} pairs need {3 * pairs} tokens and {2 * pairs + 2} words, got {length}, {vocabulary}")
    half = vocabulary // 2
    keys = 1 + _distinct(torch.ones(count, half - 1), pairs, generator)  # (B, P), 0 is what stands between
    values = half + _distinct(torch.ones(count, vocabulary - half), pairs, generator)
    ids, labels = torch.zeros(count, length, dtype=torch.int64), torch.full((count, length), NOT_ASKED)
    ids[:, 0 : 2 * pairs : 2], ids[:, 1 : 2 * pairs : 2] = keys, values
    law = torch.arange(1, length - 2 * pairs + 1).double().pow(POWER - 1).expand(count, -1)
    places = 2 * pairs + _distinct(law, pairs, generator)
    ids.scatter_(1, places, keys)
    labels.scatter_(1, places, values)
    return Examples(ids, labels)


def _distinct(weights: torch.Tensor, number: int, generator: torch.Generator) -> torch.Tensor:
    """(B, n) weights -> (B, number) different indices."""
    return torch.multinomial(weights, number, generator=generator)
