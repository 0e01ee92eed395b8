"""What a model says of many examples, and how well it says what it is to learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minitrans.models.pretrained import PreTrainedModel
from minitrans.pipelines.base import length_sorted_batches, padded
from minitrans.tokenizers.tokenizer import Tokenizer
from minitrans.training.metrics import Scores, perplexity
from minitrans.training.objective import Example, Objective, seed_from

AT_ONCE = 64


@torch.inference_mode()
def outputs_of(model: PreTrainedModel, tokenizer: Tokenizer, rows: Sequence[Example], name: str) -> list[Tensor]:
    """One output of a model in evaluation mode for every row, (T, ...) on the CPU; they run the longest first."""
    model.eval()
    found: list[Any] = [None] * len(rows)
    for batch in length_sorted_batches([len(row["input_ids"]) for row in rows], AT_ONCE):
        fields = padded([rows[place] for place in batch], tokenizer.pad_token_id or 0, model.device)
        output = getattr(model(**fields), name).cpu()
        for place, each in zip(batch, output, strict=True):
            found[place] = each[: len(rows[place]["input_ids"])]
    return found


@torch.no_grad()
def mean_losses(model: nn.Module, objective: Objective, source: Any, *, seed: int = 0) -> Tensor:
    """(k,) float64: each term of the objective, averaged over all that it is about; what is random is drawn once, by the seed."""
    model.eval()
    device = next(model.parameters()).device
    total = count = torch.zeros(1, dtype=torch.float64)
    for batch in length_sorted_batches(source.lengths, AT_ONCE):
        generators = (torch.Generator().manual_seed(seed_from(seed, 0, place)) for place in batch)
        examples = [objective.prepare(source[place], one) for place, one in zip(batch, generators, strict=True)]
        tensors = objective.collate(examples)
        count = count + objective.items(tensors)
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        total = total + objective.losses(model, tensors).double().cpu()
    return total / count.clamp(min=1)


def language_scores(model: nn.Module, objective: Objective, source: Any) -> Scores:
    """The loss, and what its first term means: among how many tokens the model hesitates."""
    losses = mean_losses(model, objective, source)
    return {"loss": float(losses.sum()), "perplexity": perplexity(float(losses[0]))}
