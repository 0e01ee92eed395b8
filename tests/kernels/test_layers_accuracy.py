"""The layers on the CPU, where PyTorch computes them: equal to their references, and to what PyTorch itself offers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from minitrans_kernels import layers

from tests.kernels import layer_references
from tests.kernels.layer_cases import CALLS, EPS, Call, assert_accurate, errors, evaluate, integers, normal


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_equals_the_reference(call: Call) -> None:
    exact = evaluate(call.reference, call.inputs, torch.float64)
    found = evaluate(call.ours, call.inputs, torch.float64)
    for ours, truth in zip(found, exact, strict=True):
        assert max(errors(ours, truth)) <= 1e-13 * max(float(value.abs().max()) for value in truth)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_is_as_accurate_as_plain_pytorch(call: Call, dtype: torch.dtype) -> None:
    assert_accurate(call, dtype, layout="gaps")


def test_equals_what_pytorch_offers() -> None:
    x, y, weight, bias = normal(3, 5, 8), normal(3, 5, 8, seed=1), normal(8), normal(8, seed=1)
    torch.testing.assert_close(
        layers.add_dropout_layer_norm(x, y, weight, bias, eps=EPS), F.layer_norm(x + y, (8,), weight, bias, EPS)
    )
    torch.testing.assert_close(layers.rms_norm(x, weight, eps=EPS), F.rms_norm(x, (8,), weight, EPS))
    torch.testing.assert_close(layers.bias_gelu(x, bias), F.gelu(x + bias))
    torch.testing.assert_close(layers.bias_gelu(x, bias, approximate="tanh"), F.gelu(x + bias, approximate="tanh"))
    labels = torch.where(integers(2, 3, 5) > 0, integers(6, 3, 5), 7)
    weight, bias = normal(6, 8), normal(6)
    torch.testing.assert_close(
        layers.masked_lm_loss(x, labels, weight, bias, ignore_index=7),
        F.cross_entropy(F.linear(x, weight, bias).flatten(0, 1), labels.flatten(), ignore_index=7),
    )


def test_embedding_gives_padding_no_gradient_as_pytorch_does() -> None:
    ids, positions = torch.tensor([[3, 0, 2, 0]]), torch.tensor([[1, 2, 3, 1]])
    tables = [normal(4, 5).requires_grad_(), normal(6, 5).requires_grad_()]
    ones, zeros = torch.ones(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    ours = layers.embedding_layer_norm(
        ids, positions, None, tables[0], tables[1], None, ones, zeros, eps=EPS, padding_idx=0, position_padding_idx=1
    )
    total = F.embedding(ids, tables[0], padding_idx=0) + F.embedding(positions, tables[1], padding_idx=1)
    cotangent = normal(1, 4, 5, seed=3)
    found = torch.autograd.grad(ours, tables, cotangent)
    expected = torch.autograd.grad(F.layer_norm(total, (5,), eps=EPS), tables, cotangent)
    torch.testing.assert_close(found, expected)
    assert not found[0][0].any()
    assert not found[1][1].any()


def test_a_wider_residual_decides_the_dtype() -> None:
    x, residual, weight = (
        normal(4, 6).bfloat16().requires_grad_(),
        normal(4, 6).float().requires_grad_(),
        normal(6).float(),
    )
    y, z = layers.add_dropout_layer_norm(x, residual, weight, None, eps=EPS, return_sum=True)
    assert (y.dtype, z.dtype) == (torch.float32, torch.float32)
    (y * z).sum().backward()
    assert x.grad is not None
    assert residual.grad is not None
    assert (x.grad.dtype, residual.grad.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(x.grad, residual.grad.bfloat16())


def test_loss_without_a_label_is_nan_and_moves_nothing() -> None:
    hidden, weight, bias = normal(4, 6).requires_grad_(), normal(5, 6).requires_grad_(), normal(5).requires_grad_()
    loss = layers.masked_lm_loss(hidden, torch.full((4,), -100), weight, bias)
    assert loss.isnan()
    for gradient in torch.autograd.grad(loss, (hidden, weight, bias)):
        assert not gradient.any()


def test_there_is_a_reference_for_every_function_and_it_stands_alone() -> None:
    assert all(callable(getattr(layer_references, name)) for name in layers.__all__)
    assert "minitrans" not in Path(layer_references.__file__).read_text(encoding="utf-8")
