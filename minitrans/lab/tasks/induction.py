"""Induction: after a marker came a token; the text ends with the marker, and the token is asked for
(Fu et al. 2023, "Hungry Hungry Hippos", table 1; the circuit: Olsson et al. 2022, "In-context Learning and Induction Heads").
"""

from __future__ import annotations

import torch

from minitrans.lab.tasks.task import NOT_ASKED, Examples, Task, generated


def induction(*, vocabulary: int = 32, length: int = 64) -> Task:
    """0 is the marker; it stands once before the end, at a place drawn evenly."""

    def draw(count: int, length: int, generator: torch.Generator) -> Examples:
        ids = torch.randint(1, vocabulary, (count, length), generator=generator)
        place = torch.randint(0, length - 2, (count, 1), generator=generator)
        ids.scatter_(1, place, 0)
        ids[:, -1] = 0
        labels = torch.full((count, length), NOT_ASKED)
        labels[:, -1:] = ids.gather(1, place + 1)
        return Examples(ids, labels)

    return generated("induction", draw, vocabulary=vocabulary, classes=vocabulary, causal=True, length=length)
