"""What every variant is measured on: one pretrained encoder, which always comes back to the attention it has, and texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch

from minitrans.embedding.encoder import Encoder
from minitrans.lab.sts import TEST_FILE, Pair, read_pairs, spearman

CPU = torch.device("cpu")


@dataclass(eq=False)
class Bench:
    """An encoder and the files that it is measured on.

    Attributes:
        model: an encoder with its own attention; None where nothing is measured on one.
        files: by name, those that the sections read.
        keeps_exact: a file for score and vectors of the exact model, which are the same in every run; None = computed again.
        device: where models are that are made here.
    """

    model: Encoder | None
    files: Mapping[str, Path]
    keeps_exact: Path | None = None
    device: torch.device = CPU

    @property
    def encoder(self) -> Encoder:
        """The model, by a section that has one."""
        assert self.model is not None
        return self.model

    @cached_property
    def pairs(self) -> list[Pair]:
        """Of the STS benchmark, its test."""
        return read_pairs(self.files[TEST_FILE])

    @property
    def layers(self) -> int:
        """L, those with attention."""
        return len(self.attentions)

    @property
    def attentions(self) -> list[Any]:
        """The attention of each layer, a `MultiHeadAttention`."""
        return cast("list[Any]", self.encoder.model.base_model.attentions)

    @contextmanager
    def swapped(self, spec: Any, seed: int = 0) -> Iterator[list[str]]:
        """With this attention in the weights; yields the names of its fresh parameters."""
        model = self.encoder.model
        own = model.config.attention
        blocks = [(block, block.variants, block.backend) for block in self.attentions]
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
        if self.keeps_exact is not None and self.keeps_exact.exists():
            score, vectors = torch.load(self.keeps_exact, weights_only=True)
            return score, vectors
        found = self.score()
        if self.keeps_exact is not None:
            torch.save(found, self.keeps_exact)
        return found

    def exact_on(self, pairs: int) -> tuple[float, torch.Tensor]:
        """`exact` on so many pairs, evenly out of all; 0 = all."""
        chosen, (first, second) = self._chosen(pairs), self.exact[1].chunk(2)
        vectors = torch.cat([first[chosen], second[chosen]])
        return self._spearman(chosen, vectors), vectors

    def score(self, pairs: int = 0) -> tuple[float, torch.Tensor]:
        """Spearman's correlation x 100 as the encoder is now, and the unit vectors (2 pairs, D).

        Args:
            pairs: on how many, evenly out of all; 0 = all.
        """
        chosen = self._chosen(pairs)
        taken = [self.pairs[place] for place in chosen]
        vectors = self.encoder.encode([pair.first for pair in taken] + [pair.second for pair in taken], normalize=True)
        return self._spearman(chosen, vectors), vectors

    def _chosen(self, pairs: int) -> list[int]:
        count = min(pairs or len(self.pairs), len(self.pairs))
        return [place * len(self.pairs) // count for place in range(count)]

    def _spearman(self, chosen: list[int], vectors: torch.Tensor) -> float:
        cosines = (vectors[: len(chosen)] * vectors[len(chosen) :]).sum(dim=-1)  # (pairs)
        return 100 * spearman(cosines.tolist(), [self.pairs[place].score for place in chosen])
