"""What only the kernels can get wrong: which elements dropout takes, which rows are touched, sums over thousands of tokens."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from minitrans_kernels import layers
from minitrans_kernels.dropout import dropout_mask
from minitrans_kernels.layers import masked_loss_kernels
from minitrans_kernels.layers.embedding_table_kernels import table_gradient
from minitrans_kernels.layers.launching import sum_partials
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.kernels.layer_cases import EPS, SEED, integers, normal


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(1, 1), (7, 13), (131, 40)], ids=str)
def test_dropout_takes_what_the_mask_says(shape: tuple[int, int], p: float) -> None:
    kept = dropout_mask(shape, p, SEED)
    x = torch.ones(shape, requires_grad=True)
    zeros, vector = torch.zeros(shape), torch.ones(shape[1])
    _, z = layers.add_dropout_layer_norm(
        x, zeros, vector, None, eps=EPS, dropout_p=p, dropout_seed=SEED, return_sum=True
    )
    assert torch.equal(z != 0.0, kept)
    (gradient,) = torch.autograd.grad(z.sum(), x)
    assert torch.equal(gradient != 0.0, kept)
    assert torch.equal(gradient, z.detach())

    table = normal(3, shape[1]).float()
    vector.requires_grad_()
    y = layers.embedding_layer_norm(
        integers(3, shape[0]), integers(3, shape[0]), None, table, table, None, torch.zeros(shape[1]), vector,
        eps=EPS, dropout_p=p, dropout_seed=torch.tensor([SEED]),
    )  # fmt: skip
    assert torch.equal(y != 0.0, kept)
    (gradient,) = torch.autograd.grad(y.sum(), vector)
    torch.testing.assert_close(gradient, kept.sum(0) / (1.0 - p))


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_far_from_zero(approximate: Literal["none", "tanh"]) -> None:
    """Where exponentials overflow, the slope is 0 or 1."""
    x = torch.tensor([[-1e4, -300.0, -30.0, 30.0, 300.0, 1e4]], requires_grad=True)
    y = layers.bias_gelu(x, torch.zeros(6), approximate=approximate)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(y, x.clamp(min=0.0), rtol=0.0, atol=1e-30)
    torch.testing.assert_close(gradient, (x > 0.0).float(), rtol=0.0, atol=1e-20)


def runs(*lengths: int) -> Tensor:
    """Ids 1, 2, ... of these many tokens each."""
    return torch.repeat_interleave(torch.arange(1, len(lengths) + 1), torch.tensor(lengths))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32], ids=str)
@pytest.mark.parametrize(
    "ids",
    [
        runs(1),
        runs(32),
        runs(33),
        runs(31, 1, 32, 1, 31, 65, 3),
        runs(5, 59, 64, 10),
        runs(1300),
        runs(20, 1100, 5),
        integers(2, 400),
        integers(50, 400),
        integers(5000, 70),
    ],
    ids=lambda ids: f"{len(ids)} tokens of {len(ids.unique())}",
)
def test_the_gradient_of_a_table_is_exact_where_sums_are(ids: Tensor, dtype: torch.dtype) -> None:
    ids = ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))]
    grad = integers(9, len(ids), 5, seed=1).float() - 4.0
    table = torch.full((5003, 5), torch.nan)
    expected = torch.zeros(5003, 5).index_add(0, ids, grad)
    assert torch.equal(table_gradient(grad, ids.to(dtype), table, -1), expected)
    expected[1] = 0.0
    assert torch.equal(table_gradient(grad, ids.to(dtype), table, 1), expected)


def test_an_id_that_is_no_row_shows_and_harms_no_other() -> None:
    ids = torch.tensor([0, 3, -1, 2])
    word, position = normal(3, 5).float().requires_grad_(), normal(4, 5).float()
    vector = torch.ones(5)
    y = layers.embedding_layer_norm(ids, torch.arange(4), None, word, position, None, vector, vector, eps=EPS)
    assert torch.equal(y.isnan().all(1), torch.tensor([False, True, True, False]))
    assert torch.equal(y.isnan().any(1), y.isnan().all(1))
    (gradient,) = torch.autograd.grad(y[[0, 3]].square().sum(), word)
    assert torch.equal(gradient.any(1), torch.tensor([True, False, True]))


def test_a_table_row_that_no_token_has_is_not_looked_at() -> None:
    word, position, vector = normal(3, 5).float(), normal(3, 5).float(), torch.ones(5)
    word[0] = position[0] = torch.nan
    leaves = [tensor.requires_grad_() for tensor in (word, position, vector)]
    ids = torch.tensor([1, 2, 1])
    y = layers.embedding_layer_norm(ids, ids, None, word, position, None, vector, torch.zeros(5), eps=EPS)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(y.square().sum(), leaves))


def test_the_sum_of_more_partial_sums_than_are_loaded_at_once() -> None:
    partials = integers(9, 2, 150, 37).float()
    totals = torch.full((37,), torch.nan), torch.full((37,), torch.nan)
    sum_partials(partials, *totals)
    for total, expected in zip(totals, partials.sum(1), strict=True):
        assert torch.equal(total, expected)


def test_rows_without_a_label_are_never_looked_at() -> None:
    labels = torch.full((300,), -100)
    labels[[7, 200, 299]] = torch.tensor([1, 0, 4])
    hidden, weight, bias = normal(300, 6).float(), normal(5, 6).float(), normal(5).float()
    clean = [tensor.clone().requires_grad_() for tensor in (hidden, weight, bias)]
    hidden[labels == -100] = torch.nan
    soiled = [tensor.requires_grad_() for tensor in (hidden, weight, bias)]
    losses = [layers.masked_lm_loss(h, labels, w, b) for h, w, b in (clean, soiled)]
    assert torch.equal(*losses)
    for a, b in zip(torch.autograd.grad(losses[0], clean), torch.autograd.grad(losses[1], soiled), strict=True):
        assert torch.equal(a, b)
    assert losses[1].isfinite()


def test_loss_without_a_label_is_nan_and_moves_nothing() -> None:
    inputs = [normal(4, 6).float().requires_grad_(), normal(5, 6).float().requires_grad_()]
    loss = layers.masked_lm_loss(inputs[0], torch.full((4,), 9), inputs[1], None, ignore_index=9)
    assert loss.isnan()
    assert not any(gradient.any() for gradient in torch.autograd.grad(loss, inputs))


def test_a_label_that_does_not_exist_shows() -> None:
    hidden, weight = normal(4, 6).float(), normal(5, 6).float()
    for wrong in (5, -1):
        assert layers.masked_lm_loss(hidden, torch.tensor([0, 1, wrong, 2]), weight, None).isnan()


def test_a_bias_may_exclude_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masked_loss_kernels, "_SPLIT", 64)
    hidden, weight, labels = normal(4, 6).float(), normal(200, 6).float(), torch.tensor([70, 71, 150, -100])
    bias = torch.zeros(200)
    bias[:64] = bias[128:140] = -torch.inf
    found = layers.masked_lm_loss(hidden, labels, weight, bias)
    expected = torch.nn.functional.cross_entropy(hidden @ weight.T + bias, labels)
    torch.testing.assert_close(found, expected)


class Sizes(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation returns."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple) else (result,):
            if isinstance(value, Tensor):
                self.largest = max(self.largest, value.numel())
        return result


def test_logits_are_never_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masked_loss_kernels, "_SPLIT", 128)
    monkeypatch.setattr(masked_loss_kernels, "_CHUNK", 128)
    count, width, size = 256, 16, 2048
    hidden, weight = normal(count, width).float().requires_grad_(), normal(size, width).float().requires_grad_()
    with Sizes() as sizes:
        layers.masked_lm_loss(hidden, integers(size, count), weight, None).backward()
    assert sizes.largest == max(count * 128, size * width)


@pytest.fixture(autouse=True)
def several_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many programs as a small GPU would start, so that backwards have partial sums to add."""
    monkeypatch.setattr("minitrans_kernels.layers.launching._processors", lambda device: 2)
