"""Texts as far as they are written: what processors of scores and stopping criteria look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Text:
    """N texts that end at the same column.

    Attributes:
        ids: (N, T); what stands before a text is padding.
        first: (N) the column at which each text begins.
        begin: (N) the column at which its new tokens begin, after the prompt.
        most: (N) how many new tokens it may get.
        prompt: (N) the number of its prompt.
        unguided: (N, V) log-probabilities without the prompt that is to be followed, for guidance.
        hidden: how many of the first columns stand for vectors instead of tokens.
    """

    ids: Tensor
    first: Tensor
    begin: Tensor
    most: Tensor
    prompt: Tensor
    unguided: Tensor | None = None
    hidden: int = 0

    @property
    def tokens(self) -> Tensor:
        """(N, T) what users see of the ids: without columns that stand for vectors."""
        return self.ids[:, self.hidden :]

    @property
    def length(self) -> Tensor:
        """(N) tokens of each, without padding."""
        return self.ids.shape[1] - self.first

    @property
    def new(self) -> Tensor:
        """(N) new tokens of each."""
        return self.ids.shape[1] - self.begin

    @property
    def real(self) -> Tensor:
        """(N, T) where a token stands, not padding."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) >= self.first[:, None]

    @property
    def is_new(self) -> Tensor:
        """(N, T) where a new token stands."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) >= self.begin[:, None]

    def select(self, rows: Tensor) -> Self:
        """The texts of these numbers; one may come several times."""
        return self._each(lambda given: given[rows])

    def append(self, tokens: Tensor) -> Self:
        """With (N, t) tokens at the end."""
        return replace(self, ids=torch.cat([self.ids, tokens], dim=1), unguided=None)

    def cut(self, lengths: Tensor) -> Self:
        """The first tokens of each, as many as `lengths` (N) says, padding not counted; without columns of padding only."""
        longest = int(lengths.max())
        columns = torch.arange(longest, device=self.ids.device)
        first = longest - lengths
        moved = first - self.first  # what stood in column c stands in c + moved
        ids = self.ids.gather(1, (columns - moved[:, None]).clamp(min=0))
        return replace(self, ids=ids, first=first, begin=self.begin + moved, unguided=None)

    def row(self, number: int) -> list[int]:
        """The tokens of one text, without padding."""
        kept: list[int] = self.ids[number, max(int(self.first[number]), self.hidden) :].tolist()
        return kept

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        changed: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **changed)


Processor = Callable[[Text, Tensor], Tensor]  # (text, scores (N, V)) -> scores, -inf where a token is forbidden
Stop = Callable[[Text], Tensor]  # text -> (N) bool, which texts have ended


@dataclass(frozen=True)
class Prompts:
    """B prompts, with their padding on the left.

    Attributes:
        ids: (B, T).
        real: (B, T) where they are no padding.
        is_known: whether the ids are tokens; else vectors stand in their place, and an id says nothing.
    """

    ids: Tensor
    real: Tensor
    is_known: bool = True

    @property
    def shown(self) -> Tensor:
        """(B, T) ids, (B, 0) where there are none."""
        return self.ids if self.is_known else self.ids[:, :0]

    @property
    def lengths(self) -> Tensor:
        """(B) tokens without padding."""
        return self.real.sum(dim=1)

    def on_the_right(self) -> tuple[Self, Tensor]:
        """The same with their padding on the right, without columns of padding only, and which column came to which."""
        order = (~self.real).long().argsort(dim=1, stable=True)[:, : int(self.lengths.max())]
        return replace(self, ids=self.ids.gather(1, order), real=self.real.gather(1, order)), order

    def rows(self) -> list[list[int]]:
        """The tokens of each, without padding."""
        return [ids[real].tolist() for ids, real in zip(self.ids, self.real, strict=True)]

    def text(self, most: Tensor) -> Text:
        """To go on with, by up to `most` (B) tokens, without columns that are padding only."""
        longest = int(self.lengths.max())
        begin = torch.full_like(self.lengths, longest)
        numbers = torch.arange(len(self.ids), device=self.ids.device)
        return Text(
            self.ids[:, self.ids.shape[1] - longest :], longest - self.lengths, begin, most, numbers,
            hidden=0 if self.is_known else longest,
        )  # fmt: skip
