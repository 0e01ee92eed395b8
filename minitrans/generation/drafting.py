"""Guessing how a text goes on: by a smaller model, or from what the text says itself."""

from __future__ import annotations

import torch
from torch import Tensor

from minitrans.generation.decoding import Running
from minitrans.generation.job import Draw
from minitrans.generation.settings import Settings
from minitrans.generation.text import Processor, Text


class DraftModel:
    """A smaller model writes on, with the same settings and the same random numbers (Leviathan et al. 2023).

    It guesses `num_assistant_tokens` tokens; by the schedules "heuristic" two more after a round in which all of a text were
    right, one less after any other. A guess less likely than `assistant_confidence_threshold` is its last.

    Args:
        run: the texts, in that model.
        process: what becomes of scores.
        settings: of the call.
    """

    def __init__(self, run: Running, process: Processor, settings: Settings) -> None:
        self._run, self._process, self._settings = run, process, settings
        self._counts = torch.full_like(run.text.first, settings.num_assistant_tokens)
        self._offered = self._known = self._length = torch.zeros_like(self._counts)

    def draft(self, text: Text, most: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """See `Drafter`."""
        run = self._run
        unread = int((text.length - self._known).max())
        run.move_to(text, unread)
        self._known, self._length = text.length - unread, text.length
        counts = torch.minimum(self._counts, most)
        offered, going = torch.zeros_like(counts), counts > 0
        tokens = []
        while bool(going.any()):
            scores = self._process(run.text, run.read().scores[:, -1])
            guess = draw(run.text, scores)
            tokens.append(guess)
            run.append(guess[:, None])
            offered += going.long()
            likely = scores.softmax(dim=-1).gather(1, guess[:, None]).squeeze(1)
            going = going & (offered < counts) & (likely >= self._settings.assistant_confidence_threshold)
        self._offered = offered
        if tokens:  # the last guess has not been read
            self._known = text.length + len(tokens) - 1
        return torch.stack(tokens, dim=1) if tokens else text.ids[:, :0], offered

    def learn(self, right: Tensor) -> None:
        """See `Drafter`."""
        self._known = torch.minimum(self._known, self._length + right)
        if self._settings.num_assistant_tokens_schedule != "constant":
            self._counts = torch.where(right == self._offered, self._counts + 2, (self._counts - 1).clamp(min=1))

    def select(self, rows: Tensor) -> None:
        """See `Drafter`."""
        self._run.select(rows)
        self._counts, self._known = self._counts[rows], self._known[rows]


class PromptLookup:
    """What followed the last tokens where they stood before, in the source or the text (Saxena 2023).

    Args:
        settings: of the call: `prompt_lookup_num_tokens` to guess, and the longest ending to look for,
            `max_matching_ngram_size`.
        sources: what an encoder has read, for each prompt; none for a decoder, whose text begins with it.
    """

    def __init__(self, settings: Settings, sources: list[list[int]] | None = None) -> None:
        self._count, self._longest = settings.prompt_lookup_num_tokens or 0, settings.max_matching_ngram_size
        self._sources = sources

    def draft(self, text: Text, most: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """See `Drafter`."""
        found = []
        for row, (prompt, count) in enumerate(zip(text.prompt.tolist(), most.tolist(), strict=True)):
            source = [] if self._sources is None else self._sources[prompt]
            found.append(self._next(source, text.row(row))[: max(0, min(self._count, count))])
        lengths = torch.tensor([len(each) for each in found], device=text.ids.device)
        width = max(map(len, found))
        tokens = torch.tensor([each + [0] * (width - len(each)) for each in found], dtype=text.ids.dtype)
        return tokens.to(text.ids.device).view(len(found), width), lengths

    def _next(self, source: list[int], text: list[int]) -> list[int]:
        for size in range(min(self._longest, len(text) - 1), 0, -1):
            end = text[-size:]
            for place in (source, text):
                for start in range(len(place) - size):
                    if place[start : start + size] == end:
                        return place[start + size :]
        return []

    def learn(self, right: Tensor) -> None:
        """Nothing to learn."""

    def select(self, rows: Tensor) -> None:
        """Nothing to select: a text says which prompt it is of."""
