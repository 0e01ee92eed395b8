"""The feed-forward network, plain and gated, against the formula."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from minitrans.layers.activations import ACTIVATIONS, activation
from minitrans.layers.feed_forward import FeedForward

Error = Callable[[Tensor, Tensor], float]
Randomized = Callable[[nn.Module], nn.Module]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("act", ["relu", "gelu", "gelu_new", "silu"])
def test_equals_the_formula(act: str, gated: bool, bias: bool, randomized: Randomized, error: Error) -> None:
    network = randomized(FeedForward(5, 11, act=act, gated=gated, bias=bias))
    weights = dict(network.named_parameters())
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)

    def project(name: str, y: Tensor) -> Tensor:
        return y @ weights[f"{name}.weight"].T + (weights[f"{name}.bias"] if bias else 0.0)

    hidden = activation(act)(project("gate" if gated else "up", x))
    expected = project("down", hidden * project("up", x) if gated else hidden)
    got = network(x)
    assert error(got, expected) <= 1e-13
    leaves = [x, *weights.values()]
    for one, other in zip(
        torch.autograd.grad(got.sum(), leaves), torch.autograd.grad(expected.sum(), leaves), strict=True
    ):
        assert error(one, other) <= 1e-12


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_runs_every_activation_on_any_number_of_axes(act: str) -> None:
    network = FeedForward(5, 11, act=act)
    assert network(torch.randn(5)).shape == (5,)
    assert network(torch.randn(2, 3, 4, 5)).shape == (2, 3, 4, 5)


def test_dropout_acts_on_the_wide_activations() -> None:
    network = FeedForward(5, 11, act="linear", dropout=0.5)
    nn.init.ones_(network.down.weight)
    nn.init.zeros_(network.down.bias)
    seen: list[Tensor] = []
    network.down.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(torch.ones(7, 5))
    network.eval()(torch.ones(7, 5))
    assert seen[0].shape == (7, 11)
    assert 0 < (seen[0] == 0).sum() < seen[0].numel()
    assert torch.allclose(seen[0][seen[0] != 0], 2 * seen[1][seen[0] != 0])


def test_unknown_activation() -> None:
    with pytest.raises(ValueError, match="unknown activation 'rleu'"):
        FeedForward(5, 11, act="rleu")
