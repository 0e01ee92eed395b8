"""A batch goes through twice, and what dropout changes in the distributions is a loss too (Liang et al. 2021, "R-Drop")."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from minitrans.layers.losses import IGNORED
from minitrans.training.objective import Batch
from minitrans.training.objectives.classes import Classes


class RDrop(Classes):
    """L = -log p₁(y) - log p₂(y) + α/2 (KL(p₁ ‖ p₂) + KL(p₂ ‖ p₁)), equations 1 to 4.

    Args:
        model: see `Classes`.
        alpha: α; the paper takes 5 in translation, 0.1 to 1 on GLUE.
        options: those of `Classes`.
    """

    def __init__(self, model: nn.Module, *, alpha: float = 1.0, **options: float) -> None:
        super().__init__(model, **options)  # type: ignore[arg-type]
        self.alpha = alpha

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """(1)."""
        one, other = self.scores(model, batch), self.scores(model, batch)
        targets = self.targets(batch)
        there = targets != IGNORED
        apart = symmetric_divergence(one[there], other[there]).sum()
        return (self.of_scores(one, targets) + self.of_scores(other, targets) + self.alpha / 2 * apart)[None]


def symmetric_divergence(one: Tensor, other: Tensor) -> Tensor:
    """KL(p ‖ q) + KL(q ‖ p) = Σ (p - q)(log p - log q) of the distributions of two logits; (..., C) twice -> (...)."""
    log_p, log_q = F.log_softmax(one, dim=-1), F.log_softmax(other, dim=-1)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(dim=-1)
