"""What a search is to do, and what it has written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from minitrans.generation.decoding import Reading
from minitrans.generation.noise import Noise
from minitrans.generation.settings import Settings
from minitrans.generation.text import Processor, Stop, Text
from minitrans.layers.cache import Cache


class Streamer(Protocol):
    """Gets tokens as they are written."""

    def put(self, value: Tensor) -> None:
        """The prompts (B, T) first, then (N) tokens at a time."""
        ...

    def end(self) -> None:
        """No more will come."""
        ...


class Drafter(Protocol):
    """Guesses how texts go on. A guess changes how fast a text is written, never the text."""

    def draft(self, text: Text, most: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Guesses of each text.

        Args:
            text: N texts.
            most: (N) how many tokens there is use for.
            draw: the next token of texts from its scores, as the search chooses them.

        Returns:
            (N, d) tokens, and (N) how many of them are guesses; the rest is filling.
        """
        ...

    def learn(self, right: Tensor) -> None:
        """How many guesses of each text were right, (N)."""
        ...

    def select(self, rows: Tensor) -> None:
        """Text n becomes what text rows[n] was."""
        ...


Draw = Callable[[Text, Tensor], Tensor]  # (text, scores (N, V)) -> (N) tokens


@dataclass(frozen=True)
class Job:
    """One search.

    Attributes:
        settings: of the call.
        process: what becomes of the scores.
        ended: which texts have ended.
        noise: random numbers.
        streamer: that gets the tokens.
        drafter: that guesses tokens, which are checked several at a time.
    """

    settings: Settings
    process: Processor
    ended: Stop
    noise: Noise
    streamer: Streamer | None = None
    drafter: Drafter | None = None


@dataclass
class Written:
    """What a search returns.

    Attributes:
        tokens: the new tokens of each text, in the order of prompts, then of their texts.
        sequences_scores: (N) of the texts of beams.
        beam_indices: of each text, the row of the scores that each of its tokens comes from.
        scores: (N, V) of every step; of a text that has ended 0 for padding and -inf for all else.
        logits: the same, as they came from the model.
        seen: what else was wanted of every step, by the names of `decoding.SEEN`: of each layer (N, ...), 0 for texts that ended.
        cache: what the model remembers, where no text has left the batch.
    """

    tokens: list[list[int]]
    sequences_scores: Tensor | None = None
    beam_indices: list[list[int]] | None = None
    scores: list[Tensor] | None = None
    logits: list[Tensor] | None = None
    seen: dict[str, tuple[tuple[Tensor, ...], ...]] = field(default_factory=dict)
    cache: Cache | None = None


class Record:
    """The scores of every step, if they are wanted, as rows of the whole batch.

    Args:
        job: says so.
        rows: N, of the whole batch.
    """

    def __init__(self, job: Job, rows: int) -> None:
        wanted = job.settings
        self._pad = wanted.pad or 0
        self._kinds = (
            wanted.return_dict_in_generate and wanted.output_scores,
            wanted.return_dict_in_generate and wanted.output_logits,
        )
        self._kept: tuple[list[list[Tensor]], ...] = tuple([[] for _ in range(rows)] for _ in self._kinds)
        self._seen: dict[str, list[list[tuple[Tensor, ...]]]] = {
            name: [[] for _ in range(rows)] for name, is_wanted in wanted.looks.items() if is_wanted
        }

    def keep(self, there: Tensor, scores: Tensor, logits: Tensor, reading: Reading | None = None) -> None:
        """(n, V) each, the next of these rows, and what was read for them."""
        for name, of_rows in self._seen.items():
            assert reading is not None
            for place, row in enumerate(there.tolist()):
                of_rows[row].append(tuple(layer[place] for layer in reading.seen.get(name, ())))
        for wanted, kept, values in zip(self._kinds, self._kept, (scores, logits), strict=True):
            if wanted:
                for row, value in zip(there.tolist(), values, strict=True):
                    kept[row].append(value)

    def written(self, tokens: list[list[int]], **others: Any) -> Written:
        """What a search has written, with what was kept."""
        seen = {name: _layers(rows) for name, rows in self._seen.items()}
        return Written(tokens, scores=self._steps(0), logits=self._steps(1), seen=seen, **others)

    def _steps(self, kind: int) -> list[Tensor] | None:
        if not self._kinds[kind]:
            return None
        rows = self._kept[kind]
        longest = max(rows, key=len)
        ended = torch.full_like(longest[0], -torch.inf)
        ended[self._pad] = 0.0
        return [torch.stack([row[step] if step < len(row) else ended for row in rows]) for step in range(len(longest))]


def _layers(rows: list[list[tuple[Tensor, ...]]]) -> tuple[tuple[Tensor, ...], ...]:
    """Of every step the layers, (N, ...), from the layers of every step of each row."""
    longest = max(rows, key=len)
    filled = [[*row, *(tuple(map(torch.zeros_like, step)) for step in longest[len(row) :])] for row in rows]
    return tuple(tuple(map(torch.stack, zip(*step, strict=True))) for step in zip(*filled, strict=True))


def require_possible(scores: Tensor) -> None:
    """Raises ValueError where the chosen tokens have a score that no token should be chosen with."""
    if not bool(scores.isfinite().all()):
        raise ValueError(
            "no token is left to choose, or the model gives NaN or infinite numbers: look at what is suppressed, forbidden or "
            "forced, and whether the weights are broken or overflow in this dtype"
        )
