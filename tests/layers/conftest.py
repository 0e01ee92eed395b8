"""What the tests of the layers share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def _randomized(module: nn.Module) -> nn.Module:
    with torch.no_grad():  # fresh biases are 0 and fresh norms 1, which would hide a wrong one
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return module.double()


@pytest.fixture
def randomized() -> Callable[[nn.Module], nn.Module]:
    """Gives a module random float64 parameters, biases and norms too."""
    return _randomized


def _error(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    return float(((got - expected).abs().max() / expected.abs().max()).detach())


@pytest.fixture
def error() -> Callable[[Tensor, Tensor], float]:
    """The largest difference, relative to the largest expected entry; shapes must agree."""
    return _error
