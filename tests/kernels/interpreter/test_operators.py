"""Where Triton runs, the operators launch kernels, and what is asked of their gradients goes on to plain PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from minitrans_kernels import RelativeBias, attention, attention_varlen, attention_weights, attention_weights_varlen
from minitrans_kernels.attention import fallback, launch, operators
from torch import Tensor

B, H, G, T, S, K = 2, 4, 2, 19, 35, 16
STARTS_Q, STARTS_K = torch.tensor([0, 5, 5, 19], dtype=torch.int32), torch.tensor([0, 9, 12, 35], dtype=torch.int32)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, requires_grad=True)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what ran."""
    names: list[str] = []
    for module in (launch, fallback):
        for name in ("forward", "backward"):
            original = getattr(module, name)

            def spy(
                *given: Any, _of: Any = original, _name: str = f"{module.__name__.rpartition('.')[2]}.{name}"
            ) -> Any:
                names.append(_name)
                return _of(*given)

            monkeypatch.setattr(module, name, spy)
    return names


def test_kernels_run(ran: list[str]):
    q, k = randn(B, H, T, K), randn(B, G, S, K)
    attention(q, k, k).sum().backward()
    attention_varlen(randn(19, H, K), randn(35, G, K), randn(35, G, K), STARTS_Q, STARTS_K, 14, 23).sum().backward()
    assert ran == ["launch.forward", "launch.backward"] * 2


def test_without_tokens_nothing_is_launched(ran: list[str]):
    q, k = randn(B, H, T, K), randn(B, G, 0, K)
    attention(q, k, k).sum().backward()
    assert ran == ["fallback.forward", "fallback.backward"]
    assert q.grad is not None
    assert (q.grad == 0).all()


def test_the_second_derivative_is_that_of_the_pytorch_path(ran: list[str]):
    q, k, v = randn(B, H, T, K), randn(B, G, S, K), randn(B, G, S, K)
    table = randn(8, H)

    def penalty() -> Tensor:
        out = attention(
            q, k, v, relative_bias=RelativeBias(table, True, 11), causal=True, dropout_p=0.2, dropout_seed=3
        )
        grads = torch.autograd.grad(out.square().sum(), (q, table), create_graph=True)
        return sum((grad.square().sum() for grad in grads), torch.zeros(()))

    found = torch.autograd.grad(penalty(), (q, k, v, table))
    # the last for the way through the output, which the penalty squares
    assert ran == ["launch.forward", "fallback.forward", "launch.backward"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operators, "runs_on_triton", lambda tensor: False)
        expected = torch.autograd.grad(penalty(), (q, k, v, table))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


def test_float64_is_refused():
    x = torch.randn(1, 1, 3, K, dtype=torch.float64)
    with pytest.raises(
        TypeError, match="q is float64 on cpu, where Triton kernels compute float32, bfloat16 or float16"
    ):
        attention(x, x, x)


@pytest.mark.parametrize("transposed", [False, True])
def test_strides_are_what_the_fake_implementations_promise(transposed: bool):
    q, k, v = (torch.randn(B, n, h, K).transpose(1, 2) for n, h in ((T, H), (S, G), (S, G)))
    if not transposed:
        q, k, v = (x.contiguous() for x in (q, k, v))
    leaves = [x.detach().requires_grad_() for x in (q, k, v, torch.randn(1, H, T, S).expand(B, -1, -1, -1))]
    out, lse = attention(*leaves[:3], bias=leaves[3], alibi_slopes=torch.rand(H), return_lse=True)
    assert out.stride() == torch.empty_like(q).stride()
    assert lse.is_contiguous()
    for grad, leaf in zip(torch.autograd.grad(out.sum() + lse.sum(), leaves), leaves, strict=True):
        assert grad.stride() == torch.empty_like(leaf).stride()


def test_gradients_of_rows():
    q, k, lse = randn(B, H, T, K), randn(B, G, S, K), randn(B, H, T)
    weights = torch.rand(B, H, 2, S)
    rows = torch.tensor([3, 18])
    found = torch.autograd.grad((attention_weights(q, k, lse, rows, softcap=3.0) * weights).sum(), (q, k, lse))
    scores = 3 * torch.tanh(q[:, :, rows] @ k.repeat_interleave(2, 1).mT / 4 / 3)
    expected = torch.autograd.grad((torch.exp(scores - lse[:, :, rows, None]) * weights).sum(), (q, k, lse))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_gradients_of_rows_of_a_packed_batch():
    q, k, lse = randn(19, H, K), randn(35, G, K), randn(19, H)
    weights = torch.rand(H, 2, 35)
    rows = torch.tensor([18, 3])
    found = torch.autograd.grad(
        (attention_weights_varlen(q, k, lse, STARTS_Q, STARTS_K, 14, 23, rows, softcap=3.0) * weights).sum(),
        (q, k, lse),
    )
    total = torch.zeros(())
    for number, (row, own) in enumerate(((18, slice(12, 35)), (3, slice(0, 9)))):
        keys = k[own].transpose(0, 1).repeat_interleave(2, 0)  # (H, keys, K)
        scores = 3 * torch.tanh((keys @ q[row][..., None])[..., 0] / 4 / 3)
        total = total + (torch.exp(scores - lse[row, :, None]) * weights[:, number, own]).sum()
    for ours, theirs in zip(found, torch.autograd.grad(total, (q, k, lse)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*lru_cache.*:UserWarning")
def test_one_graph():
    """Traced with fake tensors, run with kernels."""
    torch._dynamo.reset()
    leaves = [randn(B, H, T, K), randn(B, G, S, K), randn(B, G, S, K), randn(H)]

    def step(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor) -> Tensor:
        return attention(q, k, v, alibi_slopes=slopes, window=(9, 9)).square().sum()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    found, expected = (torch.autograd.grad(function(*leaves), leaves) for function in (compiled, step))
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)
