"""What a task is: two sources of examples, and what is asked about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

NOT_ASKED = -100


@dataclass(frozen=True, eq=False)
class Examples:
    """Some of them, all on the host.

    Attributes:
        ids: (B, T) int64.
        labels: (B, T) int64, `NOT_ASKED` where nothing is asked; (B) where one thing is asked of the whole text.
        real: (B, T) bool, the tokens that are no padding; None = all.
    """

    ids: Tensor
    labels: Tensor
    real: Tensor | None = None


Draw = Callable[[int, int, torch.Generator], Examples]  # how many, how long (T), at random from what


@dataclass(frozen=True)
class Task:
    """One thing to learn.

    Attributes:
        name: as the user writes it.
        vocabulary: V; ids are below it.
        classes: labels are below it.
        causal: whether a token may see those before it only.
        per_token: whether each token has a label, rather than the text.
        length: T in training, where the user says none.
        train: where examples to learn from come from.
        held_out: where those come from that score; the same where examples are made up as they are needed.
    """

    name: str
    vocabulary: int
    classes: int
    causal: bool
    per_token: bool
    length: int
    train: Draw
    held_out: Draw


def generated(name: str, draw: Draw, *, vocabulary: int, classes: int, causal: bool, length: int) -> Task:
    """One whose examples are made up; causal ones have a label for each token."""
    return Task(name, vocabulary, classes, causal, causal, length, draw, draw)
