"""The layer kernels, interpreted: as accurate as plain PyTorch in the same dtype, at odd sizes and strides, every element written."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest
import torch
from minitrans_kernels import layers
from minitrans_kernels.layers import masked_loss_kernels

from tests.kernels.layer_cases import (
    EPS,
    Call,
    assert_accurate,
    bias_gelu_call,
    embedding_call,
    evaluate,
    layer_norm_call,
    masked_loss_call,
    normal,
    rms_norm_call,
)

# 331 rows are more tiles than the four programs that a backward starts here
SHAPES = [(1, 1), (3, 1), (1, 7), (331, 5), (2, 3, 13), (5, 768)]
DTYPES = [torch.float32, torch.float16]
LAYOUTS = ["dense", "gaps", "transposed"]


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Memory that nobody wrote holds NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.ones(1).new_empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def options(calls: dict[str, Call]) -> pytest.MarkDecorator:
    """Every call in every dtype, the layouts taking turns."""
    cases = [
        pytest.param(call, dtype, LAYOUTS[number % 3], id=f"{name}-{LAYOUTS[number % 3]}-{dtype}")
        for number, ((name, call), dtype) in enumerate(product(calls.items(), DTYPES))
    ]
    return pytest.mark.parametrize(("call", "dtype", "layout"), cases)


@options(
    {
        f"{shape} {p} {bias} {total}": layer_norm_call(shape, p, bias, total)
        for shape in SHAPES
        for p, bias, total in ((0.0, True, False), (0.4, False, True))
    }
)
def test_layer_norm(call: Call, dtype: torch.dtype, layout: str) -> None:
    assert_accurate(call, dtype, layout)


@options({f"{shape}": rms_norm_call(shape) for shape in SHAPES})
def test_rms_norm(call: Call, dtype: torch.dtype, layout: str) -> None:
    assert_accurate(call, dtype, layout)


@options(
    {
        f"{shape} {approximate}": bias_gelu_call(shape, approximate)
        for shape in (*SHAPES[:-1], (3, 1300))
        for approximate in ("none", "tanh")
    }
)
def test_bias_gelu(call: Call, dtype: torch.dtype, layout: str) -> None:
    assert_accurate(call, dtype, layout)


@options(
    {
        f"{shape} {p} {types}": embedding_call(*shape, p, types)
        for shape in ((1, 1, 1), (1, 3, 7), (5, 67, 3), (2, 3, 768))
        for p, types in ((0.0, True), (0.4, False))
    }
)
def test_embedding(call: Call, dtype: torch.dtype, layout: str) -> None:
    assert_accurate(call, dtype, layout)


@options(
    {
        f"{shape} {bias}": masked_loss_call(*shape, bias=bias)
        for shape, bias in product(
            ((1, 1, 1), (5, 7, 3), (150, 70, 131), (70, 16, 40, 1.0), (90, 33, 200, 0.0)), (True, False)
        )
    }
)
def test_masked_loss(call: Call, dtype: torch.dtype, layout: str) -> None:
    assert_accurate(call, dtype, layout)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_masked_loss_over_several_splits_and_chunks(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masked_loss_kernels, "_SPLIT", 128)
    monkeypatch.setattr(masked_loss_kernels, "_CHUNK", 128)
    assert_accurate(masked_loss_call(140, 20, 3 * 128 + 5), dtype)


def test_the_widest_rows() -> None:
    assert_accurate(layer_norm_call((2, 8192), 0.1, return_sum=True), torch.float32)
    assert_accurate(rms_norm_call((2, 8191)), torch.float32)
    with pytest.raises(ValueError, match=r"rows of at most 8192, x has shape \(2, 8193\)"):
        layers.rms_norm(torch.zeros(2, 8193), torch.zeros(8193), eps=EPS)
    ids, table, vector = torch.zeros(1, dtype=torch.int64), torch.zeros(2, 4097), torch.zeros(4097)
    with pytest.raises(ValueError, match=r"rows of at most 4096, word has shape \(2, 4097\)"):
        layers.embedding_layer_norm(ids, ids, None, table, table, None, vector, vector, eps=EPS)


def test_no_rows_at_all() -> None:
    empty, vector = torch.zeros(2, 0, 5), torch.ones(5)
    ids = torch.zeros(2, 0, dtype=torch.int64)
    table = normal(3, 5).float()
    for call, inputs in (
        (lambda x, r, w, b: (layers.add_dropout_layer_norm(x, r, w, b, eps=EPS),), (empty, empty, vector, vector)),
        (lambda x, w: (layers.rms_norm(x, w, eps=EPS),), (empty, vector)),
        (lambda x, b: (layers.bias_gelu(x, b),), (empty, vector)),
        (
            lambda a, c, w, b: (layers.embedding_layer_norm(ids, ids, None, a, c, None, w, b, eps=EPS),),
            (table, table, vector, vector),
        ),
    ):
        (output,), gradients = evaluate(call, inputs, torch.float32)
        assert output.numel() == 0
        assert not any(gradient.any() for gradient in gradients)
    (loss,), gradients = evaluate(
        lambda x, w, b: (layers.masked_lm_loss(x, ids, w, b),), (empty, table, torch.zeros(3)), torch.float32
    )
    assert loss.isnan()
    assert not any(gradient.any() for gradient in gradients)


def test_float64_is_refused() -> None:
    with pytest.raises(TypeError, match="weight is float64, which the Triton kernels do not compute"):
        layers.rms_norm(torch.zeros(2, 5), torch.zeros(5, dtype=torch.float64), eps=EPS)


def test_dtypes_may_differ() -> None:
    x, residual = normal(4, 6).half().requires_grad_(), normal(4, 6).float().requires_grad_()
    weight, bias = normal(6).float().requires_grad_(), normal(6).half().requires_grad_()
    y, z = layers.add_dropout_layer_norm(x, residual, weight, bias, eps=EPS, return_sum=True)
    assert (y.dtype, z.dtype) == (torch.float32, torch.float32)
    gradients = torch.autograd.grad((y, z), (x, residual, weight, bias), (torch.ones_like(y), y.detach()))
    assert [gradient.dtype for gradient in gradients] == [torch.float16, torch.float32, torch.float32, torch.float16]
    assert torch.equal(gradients[0], gradients[1].half())
    torch.testing.assert_close(y, torch.nn.functional.layer_norm(x + residual, (6,), weight, bias.float(), EPS))


def test_only_the_sum_is_used() -> None:
    x, residual, weight = normal(4, 6).float().requires_grad_(), normal(4, 6).float(), normal(6).float()
    _, z = layers.add_dropout_layer_norm(x, residual, weight, None, eps=EPS, return_sum=True)
    (gradient,) = torch.autograd.grad(z.sum(), x)
    assert torch.equal(gradient, torch.ones(4, 6))
