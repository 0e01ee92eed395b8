"""What a search is to do, and what it has written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from minitrans.generation.noise import Noise
from minitrans.generation.settings import Settings
from minitrans.generation.text import Processor, Stop
from minitrans.layers.cache import Cache


class Streamer(Protocol):
    """Gets tokens as they are written."""

    def put(self, value: Tensor) -> None:
        """The prompts (B, T) first, then (N) tokens at a time."""
        ...

    def end(self) -> None:
        """No more will come."""
        ...


@dataclass(frozen=True)
class Job:
    """One search.

    Attributes:
        settings: of the call.
        process: what becomes of the scores.
        ended: which texts have ended.
        noise: random numbers.
        streamer: that gets the tokens.
    """

    settings: Settings
    process: Processor
    ended: Stop
    noise: Noise
    streamer: Streamer | None = None


@dataclass
class Written:
    """What a search returns.

    Attributes:
        tokens: the new tokens of each text, in the order of prompts, then of their texts.
        sequences_scores: (N) of the texts of beams.
        beam_indices: of each text, the row of the scores that each of its tokens comes from.
        scores: (N, V) of every step; of a text that has ended 0 for padding and -inf for all else.
        logits: the same, as they came from the model.
        cache: what the model remembers, where no text has left the batch.
    """

    tokens: list[list[int]]
    sequences_scores: Tensor | None = None
    beam_indices: list[list[int]] | None = None
    scores: list[Tensor] | None = None
    logits: list[Tensor] | None = None
    cache: Cache | None = None


class Record:
    """The scores of every step, if they are wanted, as rows of the whole batch.

    Args:
        job: says so.
        rows: N, of the whole batch.
    """

    def __init__(self, job: Job, rows: int) -> None:
        wanted = job.settings
        self._rows, self._pad = rows, wanted.pad or 0
        self.scores: list[Tensor] | None = [] if wanted.return_dict_in_generate and wanted.output_scores else None
        self.logits: list[Tensor] | None = [] if wanted.return_dict_in_generate and wanted.output_logits else None

    def keep(self, there: Tensor, scores: Tensor, logits: Tensor) -> None:
        """(n, V) each, of the rows that are there."""
        for steps, values in ((self.scores, scores), (self.logits, logits)):
            if steps is not None:
                kept = values.new_full((self._rows, values.shape[1]), -torch.inf)
                kept[:, self._pad] = 0.0
                kept[there] = values
                steps.append(kept)


def require_possible(scores: Tensor) -> None:
    """Raises ValueError where the chosen tokens have a score that no token should be chosen with."""
    if not bool(scores.isfinite().all()):
        raise ValueError(
            "no token is left to choose, or the model gives NaN or infinite numbers: look at what is suppressed, forbidden or "
            "forced, and whether the weights are broken or overflow in this dtype"
        )
