"""When a text has ended: each criterion is a function of the texts, (N) True where one has."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from minitrans.generation.text import Stop, Text


def full(text: Text) -> Tensor:
    """It has as many new tokens as it may get."""
    return text.new >= text.most


def ended_by(tokens: Sequence[int]) -> Stop:
    """Its last token is one of these."""

    def ended(text: Text) -> Tensor:
        last = text.ids[:, -1]
        return torch.stack([last == token for token in tokens]).any(dim=0)

    return ended


def after(seconds: float) -> Stop:
    """So much time has passed since this was made."""
    start = time.monotonic()
    return lambda text: torch.full_like(text.first, time.monotonic() - start > seconds, dtype=torch.bool)


def ended_by_text(strings: Sequence[str], decode: Callable[[list[int]], str]) -> Stop:
    """Its last token completes one of these strings, which may begin in the prompt and end within the token."""
    longest = max(len(string.encode()) for string in strings) + 8  # a token has a byte at least; some to spare

    def completes(ids: list[int]) -> bool:
        before, now = decode(ids[:-1]), decode(ids)
        same = next(
            (n for n, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), min(len(before), len(now))
        )
        return any(now.find(string, max(0, same - len(string) + 1)) >= 0 for string in strings)

    def ended(text: Text) -> Tensor:
        found = [completes(text.row(number)[-longest:]) for number in range(len(text.ids))]
        return torch.tensor(found, device=text.ids.device)

    return ended


def of_user(criterion: Callable[..., Any]) -> Stop:
    """A criterion of the reference's kind: (ids (N, T), scores = None) -> (N) bool, or one for all."""

    def ended(text: Text) -> Tensor:
        told = criterion(text.tokens, None)
        if not isinstance(told, bool) and getattr(told, "shape", None) not in ((), (1,), (len(text.ids),)):
            raise ValueError(f"a criterion of stopping_criteria must return True, False, or (N) bool, got {told!r:.80}")
        return torch.as_tensor(told, device=text.ids.device).bool().expand(len(text.ids))

    return ended


def any_of(each: Iterable[Stop]) -> Stop:
    """One of them says so."""
    each = tuple(each)
    return lambda text: torch.stack([stop(text) for stop in each]).any(dim=0)
