"""What is special to the tiles of `online_softmax`: what it keeps, its gradients, its dropout."""

from __future__ import annotations

import pytest
import torch

from minitrans.attention import AttentionMask, AttentionRules, DenseBias, attend
from minitrans.attention.online_softmax import OnlineSoftmaxAttention
from minitrans.errors import NotSupportedError

B, H, T, S, K = 2, 3, 5, 7, 4
q = torch.randn(B, H, T, K, dtype=torch.float64, requires_grad=True)
k, v = (torch.randn(B, H, S, K, dtype=torch.float64, requires_grad=True) for _ in range(2))
CAUSAL, NOTHING = AttentionMask(causal=True), AttentionRules()
small = OnlineSoftmaxAttention(query_tile=2, key_tile=3)


@pytest.mark.parametrize(("dropout_p", "softcap"), [(0.0, None), (0.4, 0.8)])
def test_gradients_are_those_of_finite_differences(dropout_p: float, softcap: float | None) -> None:
    values = torch.randn(1, H, T, S, dtype=torch.float64, requires_grad=True)

    def function(*tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        query, key, value, bias = tensors
        torch.manual_seed(3)
        rules = AttentionRules(CAUSAL, DenseBias(bias), softcap=softcap, dropout_p=dropout_p)
        result = small(query, key, value, rules)
        assert result.logsumexp is not None
        return result.output, result.logsumexp

    assert torch.autograd.gradcheck(function, (q, k, v, values))


def test_no_probabilities_are_kept_for_the_backward_pass() -> None:
    kept: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        small(q, k, v, AttentionRules(CAUSAL, softcap=0.8))
    assert q.shape in kept
    assert all(shape[-2:] != (T, S) for shape in kept)


def test_no_second_derivative() -> None:
    output = small(q, k, v, NOTHING).output
    with pytest.raises(NotSupportedError, match="no second derivative; supported by: eager"):
        torch.autograd.grad(output.sum(), q, create_graph=True)


def test_tiles_do_not_change_the_result() -> None:
    whole = attend(q, k, v, backend="online_softmax").output
    for tiles in ((1, 1), (2, 3), (5, 7), (4, 100)):
        cut = OnlineSoftmaxAttention(query_tile=tiles[0], key_tile=tiles[1])
        torch.testing.assert_close(cut(q, k, v, NOTHING).output, whole, rtol=1e-12, atol=1e-12)


def test_every_tile_drops_others() -> None:
    x = torch.randn(1, 1, 32, 32)
    identity = torch.eye(32)[None, None]
    square = OnlineSoftmaxAttention(query_tile=8, key_tile=8)
    kept = square(x, x, identity, AttentionRules(dropout_p=0.5)).output[0, 0] > 0
    tiles = {tuple(kept[i : i + 8, j : j + 8].flatten().tolist()) for i in range(0, 32, 8) for j in range(0, 32, 8)}
    assert len(tiles) == 16


def test_the_maximum_may_rise_with_every_tile() -> None:
    query = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    key = torch.linspace(0, 3000, 9, dtype=torch.float64).reshape(1, 1, 9, 1)  # exp(3000) is no double
    for keys in (key, key.flip(2)):
        result = small(query, keys, keys, AttentionRules(scale=1.0))
        torch.testing.assert_close(result.output, torch.tensor([[[[3000.0]]]], dtype=torch.float64))
        torch.testing.assert_close(result.logsumexp, torch.tensor([[[3000.0]]], dtype=torch.float64))


def test_low_precision_accumulates_in_float32() -> None:
    ones = torch.ones(1, 1, 4096, 1, dtype=torch.bfloat16)  # a bfloat16 sum of ones stops at 256
    result = small(ones[:, :, :1], ones, ones, NOTHING)
    assert result.output.item() == 1.0
    assert result.logsumexp is not None
    assert result.logsumexp.dtype == torch.float32
    torch.testing.assert_close(result.logsumexp.exp().item(), 4096 * 2.718281828, rtol=1e-4, atol=0)


@pytest.mark.parametrize("tiles", [(0, 3), (3, 0)])
def test_empty_tiles_are_refused(tiles: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="a tile must hold at least 1 query and 1 key"):
        OnlineSoftmaxAttention(query_tile=tiles[0], key_tile=tiles[1])


def test_the_gradient_of_a_cap_far_above_the_scores_is_that_without_one() -> None:
    """And of one far below them none at all: tanh is flat there."""
    plain, high, low = (
        torch.autograd.grad(small(q, k, v, AttentionRules(scale=scale, softcap=cap)).output.square().sum(), q)[0]
        for scale, cap in ((None, None), (None, 1e8), (1e6, 0.5))
    )
    torch.testing.assert_close(high, plain, rtol=1e-10, atol=1e-12)
    assert plain.abs().max() > 1e-2
    assert (low == 0).all()
