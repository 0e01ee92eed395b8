"""LayerNorm and RMSNorm against their formulas, written out, with gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers.models.t5.modeling_t5 import T5LayerNorm

from minitrans.layers.norms import LayerNorm, RMSNorm

Error = Callable[[Tensor, Tensor], float]
Randomized = Callable[[nn.Module], nn.Module]


def layer_norm(x: Tensor, eps: float, weight: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    mean = x.sum(dim=-1, keepdim=True) / x.shape[-1]
    variance = ((x - mean) ** 2).sum(dim=-1, keepdim=True) / x.shape[-1]
    return weight * (x - mean) / (variance + eps) ** 0.5 + bias


def without_bias(width: int, eps: float) -> LayerNorm:
    return LayerNorm(width, eps, bias=False)


def rms_norm(x: Tensor, eps: float, weight: Tensor) -> Tensor:
    return weight * x / ((x**2).sum(dim=-1, keepdim=True) / x.shape[-1] + eps) ** 0.5


@pytest.mark.parametrize("eps", [1e-12, 1e-5, 0.3])
@pytest.mark.parametrize("kind", [LayerNorm, without_bias, RMSNorm])
def test_equals_the_formula(
    kind: Callable[[int, float], nn.Module], eps: float, randomized: Randomized, error: Error
) -> None:
    norm = randomized(kind(7, eps))
    formula: Callable[..., Tensor] = rms_norm if kind is RMSNorm else layer_norm
    x = torch.randn(2, 3, 7, dtype=torch.float64, requires_grad=True)
    parameters = list(norm.parameters())
    got, expected = norm(x), formula(x, eps, *parameters)
    assert error(got, expected) <= 1e-13
    upstream = torch.randn_like(got)
    gradients = torch.autograd.grad(got, [x, *parameters], upstream)
    for one, other in zip(gradients, torch.autograd.grad(expected, [x, *parameters], upstream), strict=True):
        assert error(one, other) <= 1e-12


@pytest.mark.parametrize("kind", [LayerNorm, RMSNorm])
def test_gradcheck(kind: type[nn.Module], randomized: Randomized) -> None:
    norm = randomized(kind(5, 1e-3))
    assert torch.autograd.gradcheck(norm, torch.randn(2, 5, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("kind", [LayerNorm, RMSNorm])
def test_eps_is_the_one_given(kind: type[nn.Module]) -> None:
    x = torch.full((1, 4), 1e-6, dtype=torch.float64)
    x[0, 0] = -1e-6  # so small that eps is most of the denominator
    sizes = [kind(4, eps).double()(x).abs().max().item() for eps in (1e-12, 1e-6)]
    assert sizes[0] > 100 * sizes[1]


def test_defaults() -> None:
    assert LayerNorm(3).eps == 1e-5
    assert RMSNorm(3).eps == 1e-6
    assert [name for name, _ in LayerNorm(3).named_parameters()] == ["weight", "bias"]
    assert [name for name, _ in RMSNorm(3).named_parameters()] == ["weight"]
    assert [name for name, _ in LayerNorm(3, bias=False).named_parameters()] == ["weight"]
    assert repr(LayerNorm(3, 1e-12)) == "LayerNorm(3, eps=1e-12)"
    assert repr(LayerNorm(3, bias=False)) == "LayerNorm(3, eps=1e-05, bias=False)"
    assert repr(RMSNorm(3)) == "RMSNorm(3, eps=1e-06)"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rms_norm_is_bit_equal_to_the_reference(dtype: torch.dtype) -> None:
    """T1: the mean of squares is taken in float32; in float16 the squares of these numbers are infinite."""
    ours, theirs = RMSNorm(64).to(dtype), T5LayerNorm(64).to(dtype)
    with torch.no_grad():
        ours.weight.copy_(torch.randn(64))
        theirs.weight.copy_(ours.weight)
    x = (torch.randn(3, 64) * 500).to(dtype)
    assert ours(x).dtype == dtype
    assert ours(x).isfinite().all()
    assert torch.equal(ours(x), theirs(x))
