"""Which tokens an answer comes from, by gradients; and patching by one backward pass instead of a run a place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minitrans.looking.look import look

Batch = Mapping[str, Tensor]
Score = Callable[[Any], Tensor]


@dataclass(frozen=True, eq=False)
class Attribution:
    """Shares of a score.

    Attributes:
        tokens: (B, T), the share of each token: summed over the width.
        gap: (B), by how much they miss the difference that they should add up to; it falls with the number of steps.
    """

    tokens: Tensor
    gap: Tensor


def integrated_gradients(
    model: nn.Module, batch: Batch, score: Score, *, baseline: Tensor | None = None, steps: int = 64
) -> Attribution:
    """Integrated gradients of what the first block gets, from a baseline to the text (Sundararajan et al. 2017, equation 1).

    The integral is taken by Gauss-Legendre, exact for polynomials of degree 2 · steps - 1.

    Args:
        model: any that `look` takes, in evaluation mode.
        batch: as the forward takes it.
        score: of the model's output, one number a text: (B).
        baseline: (B, T, D) or broadcast; None = zeros.
        steps: runs forward and backward.

    Raises:
        ValueError: for a model in training mode, whose dropout would be another one at each step.
    """
    if model.training:
        raise ValueError("attribute in evaluation mode: call model.eval()")
    with torch.no_grad(), look(model, "embed") as seen:
        at_text = score(model(**batch))
    end = seen["embed"]
    start = torch.zeros_like(end) if baseline is None else baseline.to(end).expand_as(end)
    with torch.no_grad(), look(model, edit={"embed": lambda x: start.clone()}):
        at_baseline = score(model(**batch))
    total = torch.zeros_like(end)
    for place, weight in zip(*_gauss_legendre(steps), strict=True):
        total += weight * _gradient(model, batch, score, torch.lerp(start, end, place))
    shares = ((end - start) * total).sum(-1)
    return Attribution(shares, shares.sum(-1) - (at_text - at_baseline))


def gradient_times_input(model: nn.Module, batch: Batch, score: Score) -> Tensor:
    """(B, T): the gradient of the score by what the first block gets, times that, summed over the width."""
    with torch.no_grad(), look(model, "embed") as seen:
        model(**batch)
    x: Tensor = seen["embed"]
    return (x * _gradient(model, batch, score, x)).sum(-1)


def attribution_patching(model: nn.Module, batch: Batch, source: Batch, point: str, score: Score) -> Tensor:
    """What `patch` finds, to first order, of all places at once (Nanda 2023): gradient at `batch` · (source - batch).

    Args:
        model: any that `look` takes.
        batch: where the patches would go.
        source: where they would come from.
        point: a point of a layer.
        score: of the model's output, one number a text: (B).

    Returns:
        (L, ...) of the point's shape without its last axis.
    """
    with torch.no_grad(), look(model, point) as theirs:
        model(**source)
    with look(model, point, gradients=True) as ours:
        score(model(**batch)).sum().backward()  # type: ignore[no-untyped-call]
    layers = [layer for _, layer in ours if layer is not None]
    found = []
    for layer in layers:
        gradient = ours.grad(point, layer)
        assert gradient is not None
        found.append((gradient * (theirs[point, layer] - ours[point, layer].detach())).sum(-1))
    model.zero_grad()
    return torch.stack(found)


def _gradient(model: nn.Module, batch: Batch, score: Score, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    with look(model, edit={"embed": lambda _: x}):
        total = score(model(**batch)).sum()
    return torch.autograd.grad(total, x)[0]


def _gauss_legendre(steps: int) -> tuple[list[float], list[float]]:
    """Places and weights on [0, 1]."""
    from numpy.polynomial.legendre import leggauss

    places, weights = leggauss(steps)
    return ((places + 1) / 2).tolist(), (weights / 2).tolist()
