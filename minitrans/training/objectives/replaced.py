"""Replaced tokens are found out (Clark et al. 2020, "ELECTRA"): a generator guesses masked tokens, a discriminator says which
of the tokens are guesses that are wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minitrans.layers.losses import IGNORED, replaced_token_loss, token_loss
from minitrans.models.electra import ElectraForMaskedLM, ElectraForPreTraining
from minitrans.training.objective import Batch, Example
from minitrans.training.objectives.masked import Choose, Masked


class Electra(nn.Module):
    """Both models, with one set of embeddings where they have the same width (section 3.2).

    Args:
        generator: the smaller one; a quarter to a half of the discriminator's width is advised.
        discriminator: what is kept after the training.

    Raises:
        ValueError: where they do not share a vocabulary.
    """

    def __init__(self, generator: ElectraForMaskedLM, discriminator: ElectraForPreTraining) -> None:
        super().__init__()
        ours, theirs = generator.config, discriminator.config
        if ours.vocab_size != theirs.vocab_size:
            raise ValueError(f"both models need one vocabulary, got {ours.vocab_size} and {theirs.vocab_size} tokens")
        self.generator, self.discriminator = generator, discriminator
        if ours.embedding_size == theirs.embedding_size:
            for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
                setattr(generator.base_model.embeddings, name, getattr(discriminator.base_model.embeddings, name))
            generator.tie_weights()

    def forward(self, input_ids: Tensor, labels: Tensor, draws: Tensor, **others: Tensor) -> Tensor:
        """The two losses, each summed over its items.

        Args:
            input_ids: (B, T) with masks.
            labels: (B, T) the masked tokens, -100 elsewhere.
            draws: (B, T) numbers in [0, 1) that choose among the generator's guesses.
            others: `attention_mask`, and other arguments of both bodies.

        Returns:
            (2): of the masked tokens, and of which tokens were replaced.
        """
        masked = labels != IGNORED  # (B, T)
        body = self.generator.base_model(input_ids, unpack=True, return_dict=True, **others)
        scores = self.generator.lm_head(body.last_hidden_state[masked])  # (M, V)
        guesses = sampled(scores.detach(), draws[masked])
        written = input_ids.masked_scatter(masked, guesses)
        replaced = torch.zeros_like(input_ids).masked_scatter(masked, (guesses != labels[masked]).to(input_ids.dtype))
        judged = self.discriminator(written, return_dict=True, **others).logits  # (B, T)
        real = others["attention_mask"] != 0
        return torch.stack([token_loss(scores, labels[masked], 1), replaced_token_loss(judged, replaced, real, 1)])


def sampled(scores: Tensor, draws: Tensor) -> Tensor:
    """(M, V) logits and (M) numbers in [0, 1) -> (M) tokens, each with its probability: where the draw meets the sum of them."""
    reached = F.softmax(scores.double(), dim=-1).cumsum(dim=-1)
    return torch.searchsorted(reached, draws.double()[:, None] * reached[:, -1:], right=True)[:, 0].clamp(
        max=scores.shape[1] - 1
    )


class Replaced:
    """Guesses follow from the example and its generator alone, so that they are the same under any cut of a step.

    Args:
        model: generator and discriminator.
        tokenizer: whose mask it is.
        choose: what is hidden; None = 15 % of the tokens. All of it is masked (equation 1 of section 3.1).
        weight: λ, of the discriminator's loss (section 3.1).
    """

    def __init__(self, model: Electra, tokenizer: Any, choose: Choose | None = None, *, weight: float = 50.0) -> None:
        self.masked = Masked(model.generator, tokenizer, choose, masked=1.0, random=0.0)
        self.weight = weight

    def prepare(self, example: Example, generator: torch.Generator) -> Example:
        """As `Masked`, and the draws."""
        example = self.masked.prepare(example, generator)
        return {**example, "draws": torch.rand(len(example["input_ids"]), generator=generator)}

    def collate(self, examples: Sequence[Example]) -> Batch:
        """As `Masked`."""
        return self.masked.collate(examples)

    def items(self, batch: Batch) -> Tensor:
        """(2): masked tokens; tokens."""
        return torch.stack([(batch["labels"] != IGNORED).sum(), (batch["attention_mask"] != 0).sum()])

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """(2): the generator's, and λ times the discriminator's."""
        both: Tensor = model(**batch)
        return both * both.new_tensor([1.0, self.weight])
