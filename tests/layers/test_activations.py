"""Rule B1: the activations by the names of checkpoints, against the reference."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from transformers.activations import ACT2FN

from minitrans.layers.activations import ACTIVATIONS, activation

# names of the reference that need parameters or belong to no family here
ELSEWHERE = {"laplace", "prelu", "sqrtsoftplus", "xielu"}


def points() -> Tensor:
    return torch.cat([torch.linspace(-15, 15, 3001, dtype=torch.float64), torch.tensor([-1e3, -0.0, 1e-9, 1e3])])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_equals_the_reference_forward_and_gradient(name: str) -> None:
    ours, theirs = points().requires_grad_(), points().requires_grad_()
    got, expected = activation(name)(ours), ACT2FN[name](theirs)
    scale = expected.detach().abs().clamp(min=1.0)
    assert ((got - expected).abs() / scale).max() <= 1e-14  # so that gelu_new cannot pass for gelu_fast
    (gradient,) = torch.autograd.grad(got.sum(), ours)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), theirs)
    assert (gradient - expected_gradient).abs().max() <= 1e-13


def test_covers_the_reference() -> None:
    assert set(ACTIVATIONS) == set(ACT2FN) - ELSEWHERE


def test_the_forms_of_gelu_differ() -> None:
    x = points()
    forms = {name: activation(name)(x) for name in ("gelu", "gelu_new", "gelu_fast", "quick_gelu", "gelu_10")}
    for one, other in itertools.combinations(forms, 2):
        assert (forms[one] - forms[other]).abs().max() > 5e-13, (one, other)
    assert (forms["gelu"] - forms["gelu_new"]).abs().max() > 1e-4
    assert (forms["gelu_new"] - forms["gelu_fast"]).abs().max() < 1e-11


@pytest.mark.parametrize("x", [-3.0, -0.7, 0.0, 0.3, 2.5])
def test_gelu_is_x_times_the_normal_distribution(x: float) -> None:
    exact = x * 0.5 * (1 + math.erf(x / math.sqrt(2)))
    assert activation("gelu")(torch.tensor(x, dtype=torch.float64)).item() == pytest.approx(exact, rel=1e-14)


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match="unknown activation 'gleu'; known: gelu, gelu_10"):
        activation("gleu")
