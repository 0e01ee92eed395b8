"""A text is damaged, and written whole by the decoder (Lewis et al. 2020, "BART", section 2.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minitrans.training.objective import Example, HeadObjective


class Damage(NamedTuple):
    """What noises know of a tokenizer.

    Attributes:
        mask: id of the mask.
        ends: (n) ids of tokens that end a sentence.
    """

    mask: int
    ends: Tensor


Noise = Callable[[Tensor, Damage, torch.Generator], Tensor]  # ids without special tokens, (T) -> (T')


def masking(share: float = 0.15) -> Noise:
    """A mask in place of each token, with probability `share`."""

    def noise(ids: Tensor, damage: Damage, generator: torch.Generator) -> Tensor:
        return ids.masked_fill(torch.rand(len(ids), generator=generator) < share, damage.mask)

    return noise


def deletion(share: float = 0.15) -> Noise:
    """Tokens are left out, each with probability `share`; one stays in any case."""

    def noise(ids: Tensor, damage: Damage, generator: torch.Generator) -> Tensor:
        kept = torch.rand(len(ids), generator=generator) >= share
        return ids[kept] if bool(kept.any()) else ids[:1]

    return noise


def infilling(share: float = 0.3, mean: float = 3.0) -> Noise:
    """One mask in place of each span; lengths are Poisson's, and a span of none puts a mask between two tokens.

    Spans are drawn until they have `share` of the tokens, the last is cut there; they do not overlap.
    """

    def noise(ids: Tensor, damage: Damage, generator: torch.Generator) -> Tensor:
        left = math.ceil(share * len(ids))
        lengths: list[int] = []
        while left:
            drawn = int(torch.poisson(torch.tensor(mean), generator=generator))
            lengths.append(min(drawn, left))
            left -= lengths[-1]
        free = len(ids) - sum(lengths)  # tokens that stay; spans stand in the gaps before, between and behind them
        order = torch.randperm(free + len(lengths), generator=generator)
        is_span = torch.zeros(len(order), dtype=torch.bool)
        is_span[order[: len(lengths)]] = True
        widths = torch.ones(len(order), dtype=torch.int64)
        widths[is_span] = torch.tensor(lengths)
        sources = (widths.cumsum(0) - widths).clamp(max=len(ids) - 1)  # of each part, its first token
        return ids[sources].masked_fill(is_span, damage.mask)

    return noise


def permutation() -> Noise:
    """The sentences in any order; what comes behind the last end is one too."""

    def noise(ids: Tensor, damage: Damage, generator: torch.Generator) -> Tensor:
        ends = (torch.isin(ids, damage.ends).nonzero().flatten() + 1).tolist()
        sentences = [part for part in torch.tensor_split(ids, ends) if len(part)]
        return torch.cat([sentences[place] for place in torch.randperm(len(sentences), generator=generator).tolist()])

    return noise


def rotation() -> Noise:
    """The text begins at a token drawn evenly, and what was before it comes at the end."""

    def noise(ids: Tensor, damage: Damage, generator: torch.Generator) -> Tensor:
        return ids.roll(-int(torch.randint(len(ids), (1,), generator=generator)))

    return noise


class Denoising(HeadObjective):
    """Examples are `input_ids` with their first and last token, which noise does not touch.

    Args:
        model: a pair of encoder and decoder.
        mask: id of the mask.
        sentence_ends: ids of the tokens that end sentences.
        noises: one after another; None = those of the published model, sentences permuted, then spans infilled.
    """

    def __init__(
        self, model: nn.Module, mask: int, sentence_ends: Sequence[int] = (), noises: Sequence[Noise] | None = None
    ) -> None:
        super().__init__(model)
        self.damage = Damage(mask, torch.tensor(list(sentence_ends), dtype=torch.int64))
        self.noises = (permutation(), infilling()) if noises is None else noises

    def prepare(self, example: Example, generator: torch.Generator) -> Example:
        """`input_ids` damaged, `labels` whole. Raises ValueError for a text without a token inside."""
        whole = torch.as_tensor(example["input_ids"])
        if len(whole) < 3:
            raise ValueError(f"a text needs a token between its first and last one, got {len(whole)} tokens")
        ids = whole[1:-1]
        for noise in self.noises:
            ids = noise(ids, self.damage, generator)
        return {"input_ids": torch.cat([whole[:1], ids, whole[-1:]]), "labels": whole}
