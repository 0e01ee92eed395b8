"""Low-rank updates that learn in place of weights (Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models")."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from minitrans.training.groups import matching


class LowRankUpdate(nn.Module):
    """W -> W + (alpha / rank) · B A, with A random and B zero: at first it changes nothing (section 4.1).

    The layer computes with the sum of the two, so that merging changes no bit of what it gives.

    Args:
        weight: W, (out, in).
        rank: of A (rank, in) and B (out, rank).
        alpha: of the scale.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        out, width = weight.shape
        self.scale = alpha / rank
        self.down = nn.Parameter(weight.new_empty(rank, width))
        self.up = nn.Parameter(weight.new_zeros(out, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """(out, in) -> (out, in)."""
        return weight + self.scale * (self.up @ self.down)


def add_lora(model: nn.Module, rank: int, alpha: float, targets: Iterable[str], learns: Iterable[str] = ()) -> None:
    """Gives linear layers low-rank updates, which learn in place of everything else.

    Args:
        model: changed in place.
        rank: of the updates.
        alpha: see `LowRankUpdate`.
        targets: patterns of the names of the layers.
        learns: patterns of parameters that learn besides, as a new head's.

    Raises:
        ValueError: for a pattern that matches nothing.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    chosen = matching(layers, targets)
    besides = matching(dict(model.named_parameters()), learns)
    model.requires_grad_(False)
    for parameter in besides.values():
        parameter.requires_grad_(True)
    for layer in chosen.values():
        parametrize.register_parametrization(layer, "weight", LowRankUpdate(layer.weight, rank, alpha))


def merge_lora(model: nn.Module) -> None:
    """The sums become the weights, by the names that these had before; what is not parametrized stays as it is."""
    for module in list(model.modules()):
        if isinstance(module, nn.Linear) and parametrize.is_parametrized(module, "weight"):
            with torch.no_grad():
                parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
