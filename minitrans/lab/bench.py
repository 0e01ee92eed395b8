"""What every variant is measured on: one pretrained encoder, which always comes back to the attention it has, and one task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch

from minitrans.embedding.encoder import Encoder
from minitrans.lab.sts import Pair, read_pairs, spearman

TEST_FILE = "stsb-en-test.csv"


@dataclass(eq=False)
class Bench:
    """An encoder and the pairs of sentences that score it.

    Attributes:
        encoder: with its own attention.
        pairs: of the STS benchmark.
        file: where they come from.
    """

    encoder: Encoder
    pairs: list[Pair]
    file: Path

    @classmethod
    def of(cls, encoder: Encoder, data: Path) -> Bench:
        """With the test file of the STS benchmark in `data`, or below. Raises ValueError where there is none."""
        found = sorted(data.rglob(TEST_FILE))
        if not found:
            raise ValueError(f"{data}: expected {TEST_FILE} in this folder or below, found none")
        return cls(encoder, read_pairs(found[0]), found[0])

    @property
    def layers(self) -> int:
        """L, those with attention."""
        return len(self._attentions)

    @property
    def _attentions(self) -> list[Any]:
        return cast("list[Any]", self.encoder.model.base_model.attentions)

    @contextmanager
    def swapped(self, spec: Any, seed: int = 0) -> Iterator[list[str]]:
        """With this attention in the weights; yields the names of its fresh parameters."""
        model = self.encoder.model
        own = model.config.attention
        blocks = [(block, block.variants, block.backend) for block in self._attentions]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model.set_attention(spec)
        try:
            yield [name for name, _ in model.named_parameters() if ".variants." in name]
        finally:
            model.set_attention(own)
            for block, variants, backend in blocks:  # the very ones, with what they have learned
                block.install(variants, backend)

    @cached_property
    def exact(self) -> tuple[float, torch.Tensor]:
        """Score and vectors with the attention that the encoder has."""
        return self.score()

    def score(self) -> tuple[float, torch.Tensor]:
        """Spearman's correlation x 100 as the encoder is now, and the unit vectors (2 pairs, D)."""
        texts = [pair.first for pair in self.pairs] + [pair.second for pair in self.pairs]
        vectors = self.encoder.encode(texts, normalize=True)
        cosines = (vectors[: len(self.pairs)] * vectors[len(self.pairs) :]).sum(dim=-1)  # (pairs)
        return 100 * spearman(cosines.tolist(), [pair.score for pair in self.pairs]), vectors
