"""Heads whose labels are classes, one a text or one a token: with weights of classes, with smoothed labels, and scores for
whoever compares distributions. Translation with smoothed labels is a row of it, and so is a tagger whose classes are rare.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minitrans.layers.losses import IGNORED, next_token_labels
from minitrans.models import language_tasks, pair_tasks, tasks
from minitrans.training.objective import Batch, Example, HeadObjective

KINDS = (
    tasks.LabelledModel, tasks.MultipleChoice, language_tasks.CausalLM, pair_tasks.ConditionalGeneration,
    pair_tasks.SequenceClassification,
)  # fmt: skip


class Classes(HeadObjective):
    """Cross-entropy from the scores of a head: Σ over labels of w_c · (-(1 - ε) log p_c - ε/C Σ_j log p_j).

    The weights of classes do not change what is divided by: it is the number of labels, so weights that average to 1 over the
    labels leave the size of the loss as it is.

    Args:
        model: with a head that has one label a text or a token.
        weights: (C) w, one a class; None = ones.
        smoothing: ε (Szegedy et al. 2016, section 7).

    Raises:
        TypeError: for a head of another kind. ValueError: for another number of weights, or an ε that is no share.
    """

    def __init__(self, model: nn.Module, *, weights: Sequence[float] | None = None, smoothing: float = 0.0) -> None:
        super().__init__(model)
        if not isinstance(model, KINDS):
            raise TypeError(f"{type(model).__name__} has labels of more than one kind, or none that are classes")
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must be at least 0 and below 1, got {smoothing}")
        classes = self.config.vocab_size if _knows_language(model) else self.config.num_labels
        if weights is not None and len(weights) != classes:
            raise ValueError(f"there must be a weight for each of {classes} classes, got {len(weights)}")
        self.weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)
        self.smoothing = smoothing
        self.shift_right = model.pair.shift_right if isinstance(model, pair_tasks.ConditionalGeneration) else None

    def collate(self, examples: Sequence[Example]) -> Batch:
        """As `HeadObjective`; with what the decoder of a pair reads."""
        batch = super().collate(examples)
        if self.shift_right is not None and "decoder_input_ids" not in batch:
            batch["decoder_input_ids"] = self.shift_right(batch["labels"])
        return batch

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """(1)."""
        return self.of_scores(self.scores(model, batch), self.targets(batch))[None]

    def scores(self, model: nn.Module, batch: Batch) -> Tensor:
        """(..., C) of every text or token, of one forward."""
        given = {name: value for name, value in batch.items() if name != "labels"}
        scores: Tensor = model(**given, return_dict=True).logits
        return scores

    def targets(self, batch: Batch) -> Tensor:
        """(...) the class of each score, -100 where there is none."""
        return next_token_labels(batch["labels"]) if self.predicts_next else batch["labels"]

    def of_scores(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Summed over the labels."""
        flat = scores.flatten(0, -2)
        labels = targets.flatten().long()
        each = F.cross_entropy(flat, labels, ignore_index=IGNORED, label_smoothing=self.smoothing, reduction="none")
        if self.weights is not None:
            each = each * self.weights.to(each)[labels.clamp(min=0)]
        return each.sum()


def _knows_language(model: nn.Module) -> bool:
    return isinstance(model, (language_tasks.WithLanguageModelHead, pair_tasks.ConditionalGeneration))


def balanced(labels: Sequence[int], classes: int) -> list[float]:
    """Weights in inverse proportion to how often each class is a label, with mean 1 over the labels; 0 where it never is."""
    counts = torch.bincount(torch.as_tensor(labels), minlength=classes).double()
    present = int((counts > 0).sum())
    weights: list[float] = torch.where(counts > 0, len(labels) / (present * counts.clamp(min=1)), 0.0).tolist()
    return weights
