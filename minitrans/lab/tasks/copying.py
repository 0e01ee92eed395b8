"""Copying: n random tokens, a separator, and the same tokens again. What is asked is the second half, token by token.

a b c |  a  b
      |  |  |
labels a  b  c
"""

from __future__ import annotations

import torch

from minitrans.lab.tasks.task import NOT_ASKED, Examples, Task, generated


def copying(*, vocabulary: int = 32, length: int = 64) -> Task:
    """0 is the separator."""

    def draw(count: int, length: int, generator: torch.Generator) -> Examples:
        half = (length + 1) // 2
        tokens = torch.randint(1, vocabulary, (count, half), generator=generator)
        ids = torch.cat([tokens, torch.zeros(count, 1, dtype=torch.int64), tokens[:, : length - half - 1]], dim=1)
        labels = torch.full((count, length), NOT_ASKED)
        labels[:, half:] = tokens[:, : length - half]
        return Examples(ids, labels)

    return generated("copy", draw, vocabulary=vocabulary, classes=vocabulary, causal=True, length=length)
