"""Beam search for texts that hold words: every word, or one of its forms, must stand somewhere among the new tokens.

Beams that have come further with the words do not compete with the others (Post & Vilar 2018, dynamic beam allocation):
candidates are ranked within banks, by how many tokens of words they hold, and beams are dealt out to the banks in turn, the
fullest first. The tokens that a word needs next are always candidates. A text that ends without all words is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minitrans.generation.beam import Beams, Candidates, search_beams
from minitrans.generation.decoding import Running
from minitrans.generation.job import Job, Written
from minitrans.generation.text import Text

Word = list[list[int]]  # its forms, token ids each


class Progress(NamedTuple):
    """How far a text has come.

    Attributes:
        tokens: of words that it holds.
        is_complete: whether it holds all of them.
        needed: the tokens that would bring it further.
    """

    tokens: int
    is_complete: bool
    needed: list[int]


def words_of(given: Sequence[Any]) -> list[Word]:
    """`force_words_ids`: of each word its token ids, or several forms of it, one of which is enough."""
    return [[list(word)] if isinstance(word[0], int) else [list(form) for form in word] for word in given]


def progress(words: Iterable[Word], tokens: Sequence[int]) -> Progress:
    """How far these new tokens have come with the words."""
    count, is_complete, needed = 0, True, []
    for forms in words:
        if any(_holds(tokens, form) for form in forms):
            count += max(map(len, forms))
            continue
        begun = [_begun(tokens, form) for form in forms]
        count, is_complete = count + max(begun), False
        needed += [form[place] for form, last in zip(forms, begun, strict=True) for place in {0, last}]
    return Progress(count, is_complete, needed)


def _holds(tokens: Sequence[int], form: list[int]) -> bool:
    return any(list(tokens[start : start + len(form)]) == form for start in range(len(tokens) - len(form) + 1))


def _begun(tokens: Sequence[int], form: list[int]) -> int:
    """With how many tokens of the form the text ends."""
    return next(size for size in range(len(form) - 1, -1, -1) if size == 0 or list(tokens[-size:]) == form[:size])


class ForcedBeams(Beams):
    """Beams whose texts must hold the words of the settings."""

    def candidates(self, text: Text, scores: Tensor) -> Candidates:
        """The best continuations, the best of each beam, and those that words need."""
        usual = super().candidates(text, scores)
        words = words_of(self.job.settings.force_words_ids or ())
        best = scores.argmax(dim=2).tolist()
        found: list[list[tuple[int, int]]] = []
        for row in range(len(scores)):
            pairs = dict.fromkeys(zip(usual.beams[row].tolist(), usual.tokens[row].tolist(), strict=True))
            for beam in range(self.width):
                needed = progress(words, self.new_tokens(text, row * self.width + beam)).needed
                pairs |= dict.fromkeys((beam, token) for token in (best[row][beam], *needed))
            found.append(list(pairs))
        most = max(map(len, found))
        filled = torch.tensor([pairs + [(-1, 0)] * (most - len(pairs)) for pairs in found], device=scores.device)
        beams, tokens = filled.unbind(dim=2)  # (n, c) each
        whole = (scores + self.scores[..., None]).flatten(1)
        values = whole.gather(1, beams.clamp(min=0) * scores.shape[2] + tokens).masked_fill(beams < 0, -torch.inf)
        order = values.argsort(dim=1, descending=True, stable=True)
        return Candidates(values, beams.clamp(min=0), tokens).take(order)

    def may_finish(self, found: Candidates, ends: Tensor, texts: Text) -> Tensor:
        """Those that hold all words, however they are ranked."""
        return ends & found.values.isfinite() & self._progress(texts, ends)[1]

    def going_on(self, found: Candidates, ends: Tensor, texts: Text) -> tuple[Candidates, Tensor]:
        """Dealt out to the banks in turn."""
        values, banks = found.values.masked_fill(ends, -torch.inf), self._progress(texts, ends)[0].tolist()
        chosen = []
        for row, alive in enumerate(values.isfinite().tolist()):
            by_bank: dict[int, list[int]] = {}
            for place in range(len(alive)):  # the dead are dealt out last
                by_bank.setdefault(banks[row][place] if alive[place] else -1, []).append(place)
            turns = zip_longest(*(by_bank[bank] for bank in sorted(by_bank, reverse=True) if bank >= 0))
            dealt = [place for turn in turns for place in turn if place is not None] + by_bank.get(-1, [])
            chosen.append(sorted(dealt[: self.width]))
        which = torch.tensor(chosen, device=values.device)
        return found._replace(values=values).take(which), which

    def _progress(self, texts: Text, like: Tensor) -> tuple[Tensor, Tensor]:
        """(n, c) how many tokens of words each text holds, and whether it holds all."""
        words = words_of(self.job.settings.force_words_ids or ())
        each = [progress(words, self.new_tokens(texts, number)) for number in range(len(texts.ids))]
        counts = torch.tensor([one.tokens for one in each], device=like.device).view(like.shape)
        return counts, torch.tensor([one.is_complete for one in each], device=like.device).view(like.shape)


def forced_beam_search(run: Running, job: Job) -> Written:
    """As `beam_search`, for texts that hold the words of `force_words_ids`."""
    return search_beams(run, job, ForcedBeams)
