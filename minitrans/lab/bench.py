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


@dataclass(eq=False)
class Bench:
    """An encoder and the files that it is measured on.

    Attributes:
        encoder: with its own attention.
        files: by name, those that the sections read.
        keeps_exact: a file for score and vectors of the exact model, which are the same in every run; None = computed again.
    """

    encoder: Encoder
    files: Mapping[str, Path]
    keeps_exact: Path | None = None

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

    def score(self) -> tuple[float, torch.Tensor]:
        """Spearman's correlation x 100 as the encoder is now, and the unit vectors (2 pairs, D)."""
        texts = [pair.first for pair in self.pairs] + [pair.second for pair in self.pairs]
        vectors = self.encoder.encode(texts, normalize=True)
        cosines = (vectors[: len(self.pairs)] * vectors[len(self.pairs) :]).sum(dim=-1)  # (pairs)
        return 100 * spearman(cosines.tolist(), [pair.score for pair in self.pairs]), vectors
