"""The operators as torch and its compiler see them, on the PyTorch path: registration, fake tensors, whole graphs, seeds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from minitrans_kernels import (
    RelativeBias,
    attention,
    attention_varlen,
    attention_weights,
    attention_weights_varlen,
    dropout_mask,
)
from minitrans_kernels.attention import operators
from minitrans_kernels.attention.arguments import AttentionArgs, packed, padded
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
B, H, G, T, S, K = 2, 4, 2, 5, 7, 16
STARTS_Q, STARTS_K = torch.tensor([0, 2, 2, 5], dtype=torch.int32), torch.tensor([0, 3, 4, 7], dtype=torch.int32)

compiler_warnings = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*lru_cache.*:UserWarning")


def randn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def calls() -> dict[str, AttentionArgs]:
    torch.manual_seed(0)
    transposed = torch.randn(B, T, H, K).transpose(1, 2).requires_grad_()
    x = randn(B, H, T, K)
    return {
        "dense": padded(
            transposed, randn(B, G, S, K), randn(B, G, S, K), torch.rand(B, S) > 0.5,
            {"causal": True, "bias": randn(1, H, T, S), "alibi_slopes": randn(H), "dropout_p": 0.2, "dropout_seed": 3},
        ),
        "bfloat16": padded(*(x.bfloat16().detach().requires_grad_() for _ in range(3)), None, {"softcap": 2.0}),
        "packed": packed(
            randn(5, H, K), randn(7, G, K), randn(7, G, K), (STARTS_Q, STARTS_K), (3, 4),
            {"window": (2, 1), "relative_bias": (randn(8, H), True, 11)},
        ),
        "no keys": padded(x, randn(B, H, 0, K), randn(B, H, 0, K), None, {}),
    }  # fmt: skip


def leaves(args: AttentionArgs) -> list[Any]:
    fields = operators._flat(args)
    return [
        field.detach().requires_grad_() if isinstance(field, Tensor) and field.requires_grad else field
        for field in fields
    ]


@compiler_warnings
@pytest.mark.parametrize("name", ["dense", "bfloat16", "packed", "no keys"])
def test_opcheck(name: str):
    args = calls()[name]
    torch.library.opcheck(torch.ops.minitrans.attention_forward.default, leaves(args))
    with torch.no_grad():
        out, lse = operators.attend(args)
    fields = [field.detach() if isinstance(field, Tensor) else field for field in leaves(args)]
    for grad_lse in (None, torch.randn_like(lse)):
        wants = [True, False, True, args.bias is not None, args.distance_bias is not None]
        given = (*fields, out, lse, torch.randn_like(out), grad_lse, wants)
        torch.library.opcheck(torch.ops.minitrans.attention_backward.default, given)
    for rows in (None, torch.tensor([1, 3])):
        given = (*leaves(args), lse.requires_grad_(), rows)
        torch.library.opcheck(torch.ops.minitrans.attention_weights.default, given)


def dense_step(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, table: Tensor) -> Tensor:
    out, lse = attention(
        q, k, v, key_padding=torch.ones(k.shape[0], k.shape[2], dtype=torch.bool), window=(3, 3), bias=bias,
        relative_bias=RelativeBias(table, True, 11), dropout_p=0.1, dropout_seed=3, return_lse=True,
    )  # fmt: skip
    weights = attention_weights(
        q, k, lse, torch.tensor([0]), window=(3, 3), bias=bias, relative_bias=RelativeBias(table, True, 11)
    )
    return out.square().sum() + lse.sum() + weights.square().sum()


def packed_step(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, starts_q: Tensor, starts_k: Tensor, longest: int
) -> Tensor:
    out, lse = attention_varlen(
        q, k, v, starts_q, starts_k, longest, longest, causal=True, alibi_slopes=slopes, return_lse=True
    )
    weights = attention_weights_varlen(
        q, k, lse, starts_q, starts_k, longest, longest, causal=True, alibi_slopes=slopes
    )
    return out.square().sum() + torch.where(lse == -torch.inf, 0.0, lse).sum() + weights.square().sum()


def compare_with_eager(step: Any, compiled: Any, leaves: list[Tensor], *others: Any) -> None:
    found, expected = compiled(*leaves, *others), step(*leaves, *others)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(ours, theirs)


@compiler_warnings
@pytest.mark.parametrize("dynamic", [False, True])
def test_one_graph_of_a_rectangle(dynamic: bool):
    torch.manual_seed(0)
    torch._dynamo.reset()
    compiled = torch.compile(dense_step, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for keys in (7, 9):
        leaves = [randn(B, H, T, K), randn(B, G, keys, K), randn(B, G, keys, K), randn(1, H, T, keys), randn(8, H)]
        compare_with_eager(dense_step, compiled, leaves)


@compiler_warnings
def test_one_graph_serves_packed_batches_of_any_length():
    torch.manual_seed(0)
    torch._dynamo.reset()
    compiled = torch.compile(packed_step, fullgraph=True, backend="aot_eager", dynamic=True)
    compare_with_eager(
        packed_step, compiled, [randn(5, H, K), randn(7, G, K), randn(7, G, K), randn(H)], STARTS_Q, STARTS_K, 4
    )
    starts = torch.tensor([0, 6, 11, 13], dtype=torch.int32)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(2):
            leaves = [randn(13, H, K), randn(13, G, K), randn(13, G, K), randn(H)]
            compare_with_eager(packed_step, compiled, leaves, starts, starts.clone(), 6)


@compiler_warnings
@pytest.mark.slow
def test_inductor():
    torch.manual_seed(0)
    torch._dynamo.reset()
    leaves = [randn(B, H, T, K), randn(B, G, S, K), randn(B, G, S, K), randn(1, H, T, S), randn(8, H)]
    compare_with_eager(dense_step, torch.compile(dense_step, fullgraph=True), leaves)


@compiler_warnings
def test_dropout_without_a_seed_in_a_graph():
    torch._dynamo.reset()
    q = torch.randn(B, H, T, K)
    compiled = torch.compile(lambda q: attention(q, q, q, dropout_p=0.5), fullgraph=True, backend="aot_eager")
    torch.manual_seed(1)
    found = compiled(q)
    torch.manual_seed(1)
    torch.testing.assert_close(found, attention(q, q, q, dropout_p=0.5))
    assert not torch.equal(compiled(q), found)


def test_the_generator_decides_where_no_seed_is_given():
    q = torch.randn(B, H, T, K)
    torch.manual_seed(1)
    first, second = (attention(q, q, q, dropout_p=0.5) for _ in range(2))
    torch.manual_seed(1)
    assert torch.equal(attention(q, q, q, dropout_p=0.5), first)
    assert not torch.equal(first, second)
    state = torch.get_rng_state()
    attention(q, q, q)
    attention(q, q, q, dropout_p=0.5, dropout_seed=4)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("seed", [0, -3, 2**62, torch.tensor([5]), torch.tensor(5)])
def test_a_seed_drops_what_its_mask_says(seed: int | Tensor):
    q, k = torch.randn(B, H, 16, K), torch.randn(B, H, 16, K)
    identity = torch.eye(16).expand(B, H, 16, 16)
    weights = attention(q, k, identity)
    dropped = attention(q, k, identity, dropout_p=0.3, dropout_seed=seed)
    kept = dropout_mask((B, H, 16, 16), 0.3, seed)
    torch.testing.assert_close(dropped, weights * kept / 0.7)
    assert torch.equal(dropped, attention(q, k, identity, dropout_p=0.3, dropout_seed=seed))


def test_autocast_leaves_the_scores_alone():
    q, bias = torch.randn(B, H, T, K).bfloat16(), torch.randn(8, H)
    call = {"relative_bias": RelativeBias(bias, True, 11), "return_lse": True}
    expected = attention(q, q, q, **call)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attention(q, q, q, **call)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("layout", ["heads first", "tokens first"])
def test_output_and_gradients_lie_in_memory_as_the_inputs_do(layout: str):
    shape = (B, H, T, K) if layout == "heads first" else (B, T, H, K)
    q = torch.randn(shape, requires_grad=True)
    seen = q if layout == "heads first" else q.transpose(1, 2)
    out = attention(seen, seen, seen)
    assert out.stride() == seen.stride()
    (grad,) = torch.autograd.grad(out.sum(), seen)
    assert grad.stride() == seen.stride()


def test_neither_import_nor_a_call_on_the_cpu_loads_triton():
    probe = (
        "import sys, torch, minitrans_kernels as m; assert 'triton' not in sys.modules\n"
        "x = torch.randn(1, 1, 3, 16, requires_grad=True)\n"
        "out, lse = m.attention(x, x, x, return_lse=True); out.sum().backward()\n"
        "m.attention_weights(x, x, lse, torch.tensor([1]))\n"
        "bounds = torch.tensor([0, 3], dtype=torch.int32)\n"
        "m.attention_weights_varlen(x[0, 0, :, None], x[0, 0, :, None], lse[0].T, bounds, bounds, 3, 3)\n"
        "assert all(hasattr(m, name) for name in ('attention', 'attention_varlen', 'BlockLayout', 'RelativeBias', 'dropout_mask'))\n"
        "assert callable(m.attention)\n"
        "assert 'triton' not in sys.modules, 'triton was loaded'"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
