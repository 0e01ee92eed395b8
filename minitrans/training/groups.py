"""Which parameters learn, how fast, and which of them decay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from minitrans.errors import nearest
from minitrans.layers.stack import Stack
from minitrans.training.settings import TrainingSettings

Parameters = Mapping[str, nn.Parameter]


def parameter_groups(model: nn.Module, settings: TrainingSettings) -> list[dict[str, Any]]:
    """Groups for an optimiser: what learns, by its depth, and apart what decays. Vectors (norms and biases) never do.

    With `layer_decay` < 1 the rate of each layer is that of the layer above, times it (Howard & Ruder 2018, section 3.2).

    Args:
        model: whose parameters with a gradient are grouped.
        settings: `learning_rate`, `weight_decay` and `layer_decay`.
    """
    depths = layer_depths(model)
    top = max(depths.values(), default=0)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        depth, decays = depths[name] if settings.layer_decay < 1 else top, parameter.dim() > 1
        rate = settings.learning_rate * settings.layer_decay ** (top - depth)
        fresh = {"params": [], "lr": rate, "weight_decay": settings.weight_decay if decays else 0.0}
        groups.setdefault((depth, decays), fresh)["params"].append(parameter)
    return list(groups.values())


def layer_depths(model: nn.Module) -> dict[str, int]:
    """Of every parameter, how high it is: 0 = embeddings, 1 ... L = the layers of its stack, L + 1 = what is above them.

    A block that makes several layers (ALBERT's) is as high as its highest.
    """
    stacks = {name: module for name, module in model.named_modules() if isinstance(module, Stack)}
    top = 1 + max((len(stack.order) for stack in stacks.values()), default=0)
    depths = {}
    for name, _ in model.named_parameters():
        depths[name] = 0 if "embedding" in name else top
        for prefix, stack in stacks.items():
            start = f"{prefix}.layer." if prefix else "layer."
            if name.startswith(start):
                block = int(name.removeprefix(start).split(".")[0])
                depths[name] = 1 + max(place for place, number in enumerate(stack.order) if number == block)
    return depths


def freeze(model: nn.Module, patterns: Iterable[str]) -> None:
    """Parameters whose names match a shell pattern (`*embeddings*`) learn nothing.

    Raises:
        ValueError: for a pattern that matches none, naming the parameter that is nearest.
    """
    for parameter in matching(dict(model.named_parameters()), patterns).values():
        parameter.requires_grad_(False)


def matching(named: Mapping[str, Any], patterns: Iterable[str]) -> dict[str, Any]:
    """The entries whose names match one of the patterns. Raises ValueError for a pattern that matches none."""
    found: dict[str, Any] = {}
    for pattern in patterns:
        some = {name: value for name, value in named.items() if fnmatchcase(name, pattern)}
        if not some:
            raise ValueError(f"no name matches {pattern!r}; the nearest is {nearest(pattern, named)}")
        found |= some
    return found


class Unfreezing:
    """Layers begin to learn one after another, from above (Howard & Ruder 2018, section 3.2, "gradual unfreezing").

    Gradients of layers that wait are dropped before the optimiser sees them: those have no moments and do not decay.

    Args:
        model: whose layers.
        every: steps after which the next one begins; None = all learn from the first step on.
    """

    def __init__(self, model: nn.Module, every: int | None) -> None:
        depths = layer_depths(model)
        self.every, self.top = every, max(depths.values(), default=0)
        self.depths: Sequence[tuple[nn.Parameter, int]] = [
            (parameter, depths[name]) for name, parameter in model.named_parameters()
        ]

    def drop(self, step: int) -> None:
        """The gradients of what does not learn yet in a step, counted from 0."""
        if self.every is None:
            return
        for parameter, depth in self.depths:
            if depth < self.top - step // self.every:
                parameter.grad = None
