"""Vectors of sentences that belong together come near each other and far from the rest; or as near as people say."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minitrans.embedding.head import pool
from minitrans.training.objective import Batch, Example, padded

SIDES = ("input_ids", "other_ids", "negative_ids")


class _Sides:
    """Examples of two or three texts: `input_ids`, `other_ids`, and for some objectives `negative_ids`."""

    def __init__(self, model: nn.Module, pooling: str = "mean") -> None:
        config = model.config
        self.fill, self.pooling = getattr(config, "pad_token_id", 0) or 0, pooling

    def prepare(self, example: Example, generator: torch.Generator) -> Example:
        """The example as it is."""
        return example

    def collate(self, examples: Sequence[Example]) -> Batch:
        """One batch of all first texts, then all second ones, ...: one forward for all."""
        sides = [side for side in SIDES if side in examples[0]]
        rows = padded([example[side] for side in sides for example in examples], -1)  # (sides · B, T)
        batch = {"input_ids": rows.masked_fill(rows < 0, self.fill), "attention_mask": (rows >= 0).long()}
        if "labels" in examples[0]:
            batch["labels"] = torch.tensor([float(example["labels"]) for example in examples])
        return {**batch, "count": torch.tensor(len(examples))}

    def items(self, batch: Batch) -> Tensor:
        """(1): examples."""
        return batch["count"].reshape(1)

    def vectors(self, model: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """(B, D) of unit length, for each side."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        states = model(input_ids=ids, attention_mask=mask, return_dict=True).last_hidden_state
        vectors = F.normalize(pool(states, mask != 0, self.pooling), dim=-1)
        return torch.split(vectors, int(batch["count"]))


class InBatchNegatives(_Sides):
    """-log softmax(s · cos(a_i, b_j))_i over all b_j of the micro-batch, and over its negatives
    (Henderson et al. 2017, section 4.4; Chen et al. 2020, "SimCLR", has the scale).

    The negatives are those of a micro-batch on one rank: unlike all other objectives here, this one is another with other
    micro-batches. Two texts that are equal make each other wrong.

    Args:
        model: an encoder without a head.
        pooling: see `embedding.head.pool`.
        scale: s.
    """

    def __init__(self, model: nn.Module, pooling: str = "mean", *, scale: float = 20.0) -> None:
        super().__init__(model, pooling)
        self.scale = scale

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """(1)."""
        one, *others = self.vectors(model, batch)
        scores = self.scale * one @ torch.cat(others).T  # (B, B), or (B, 2B) with negatives
        return F.cross_entropy(scores, torch.arange(len(one), device=one.device), reduction="sum")[None]


class Similarity(_Sides):
    """(cos(a, b) - y)², y between -1 and 1 (Reimers & Gurevych 2019, "Sentence-BERT", section 3)."""

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """(1)."""
        one, other = self.vectors(model, batch)
        return ((one * other).sum(dim=-1) - batch["labels"].to(one)).square().sum()[None]
