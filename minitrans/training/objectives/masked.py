"""Hidden tokens are guessed (Devlin et al. 2019, section 3.1): single tokens, whole words, or spans; and pairs with them.

On a model with two heads (`BertForPreTraining`, `AlbertForPreTraining`) the label of the pair, next sentence or sentence order,
is learnt at the same time: the head says so, not this file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from minitrans.layers.losses import IGNORED
from minitrans.training.objective import Example, HeadObjective

# From where words begin and which tokens may be hidden, each (T) bool: (T) int64, -1 where a token is not chosen. Tokens with
# one number share their fate: all are masked, all replaced, or all kept.
Choose = Callable[[Tensor, Tensor, torch.Generator], Tensor]


def tokens(share: float = 0.15) -> Choose:
    """Each token by itself, with probability `share`."""

    def choose(starts: Tensor, free: Tensor, generator: torch.Generator) -> Tensor:
        chosen = (torch.rand(len(free), generator=generator) < share) & free
        return torch.arange(len(free)).masked_fill(~chosen, -1)

    return choose


def whole_words(share: float = 0.15) -> Choose:
    """Each word, with probability `share`: then all its tokens are chosen, but each is masked, replaced or kept by itself."""

    def choose(starts: Tensor, free: Tensor, generator: torch.Generator) -> Tensor:
        words = _words(starts)
        chosen = (torch.rand(len(free), generator=generator) < share)[words] & free
        return torch.arange(len(free)).masked_fill(~chosen, -1)

    return choose


def spans(share: float = 0.15, stop: float = 0.2, longest: int = 10) -> Choose:
    """Spans of whole words until `share` of the tokens is chosen (Joshi et al. 2020, "SpanBERT", section 3.1).

    A span has l words with probability in proportion to stop · (1 - stop)^(l-1), l <= `longest`; its first word is drawn evenly
    among those with nothing chosen yet. The last span is cut where the share is reached.
    """
    lengths = (1 - stop) ** torch.arange(longest, dtype=torch.float64)

    def choose(starts: Tensor, free: Tensor, generator: torch.Generator) -> Tensor:
        words = _words(starts)
        found = torch.full((len(free),), -1)
        wanted = math.ceil(share * int(free.sum()))
        number = 0
        while int((found >= 0).sum()) < wanted:
            open_words = torch.unique_consecutive(words[free & (found < 0)])
            first = open_words[torch.randint(len(open_words), (1,), generator=generator)]
            last = first + torch.multinomial(lengths, 1, generator=generator)
            inside = (words >= first) & (words <= last)
            barrier = (inside & (~free | (found >= 0))).nonzero()  # it ends before the next special token or span
            if len(barrier):
                inside &= torch.arange(len(free)) < barrier[0]
            places = inside.nonzero().flatten()[: wanted - int((found >= 0).sum())]
            found[places] = number
            number += 1
        return found

    return choose


def _words(starts: Tensor) -> Tensor:
    """(T) the number of each token's word."""
    words: Tensor = starts.long().cumsum(0) - 1
    return words.clamp(min=0)


class Masked(HeadObjective):
    """Examples are `input_ids`, with `word_starts` where words matter; the tokens to guess are drawn anew at every sight.

    Args:
        model: with a head for masked tokens.
        tokenizer: whose mask it is; its special tokens are never chosen.
        choose: what is hidden.
        masked: the share of the chosen tokens that the mask takes the place of.
        random: the share that a random token does; the rest stays as it is.

    Raises:
        ValueError: for a tokenizer without a mask, or shares that are none.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        choose: Choose | None = None,
        *,
        masked: float = 0.8,
        random: float = 0.1,
    ) -> None:
        super().__init__(model)
        if tokenizer.mask_token_id is None:
            raise ValueError("tokens are hidden behind a mask: the tokenizer needs a mask_token")
        if not 0 <= masked <= masked + random <= 1 + 1e-9:
            raise ValueError(f"shares must not be negative, nor more than 1 together, got {masked} and {random}")
        self.choose = tokens() if choose is None else choose
        self.mask, self.vocabulary = tokenizer.mask_token_id, len(tokenizer)
        self.special = torch.tensor(sorted(set(tokenizer.all_special_ids)))
        self.masked, self.random = masked, random

    def prepare(self, example: Example, generator: torch.Generator) -> Example:
        """`input_ids` with tokens hidden, and `labels`: their ids, -100 elsewhere."""
        ids = torch.as_tensor(example["input_ids"])
        given = example.get("special_tokens_mask")
        free = ~torch.isin(ids, self.special) if given is None else torch.as_tensor(given) == 0
        starts = torch.as_tensor(example.get("word_starts", [1] * len(ids))) == 1
        starts = starts | ~free | ~free.roll(1)  # no word goes on over a special token
        chosen = self.choose(starts, free, generator)  # (T)
        fate = torch.rand(len(ids), generator=generator)[chosen.clamp(min=0)]
        others = torch.randint(self.vocabulary, (len(ids),), generator=generator)
        hidden = torch.where(fate < self.masked, self.mask, torch.where(fate < self.masked + self.random, others, ids))
        kept = {name: value for name, value in example.items() if name not in ("word_starts", "special_tokens_mask")}
        return {
            **kept,
            "input_ids": torch.where(chosen >= 0, hidden, ids),
            "labels": torch.where(chosen >= 0, ids, IGNORED),
        }
