"""The attention kernels on a GPU, at the tiles they really run with: what the interpreter showed of their logic, in numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from minitrans_kernels import (
    attention,
    attention_varlen,
    attention_weights,
    attention_weights_varlen,
    available,
    dropout_mask,
)
from minitrans_kernels.attention.reference import reference_attention
from torch import Tensor

pytest.importorskip("triton")
from tests.kernels.interpreter.cases import assert_close, name_of, pairwise

RUN = available()[0] and torch.cuda.is_available()  # interpreted kernels are available too
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not RUN, reason=available()[1])]

DEVICE = "cuda"
SEED = torch.tensor([7])
DROPOUT = 0.3
CHOICES: dict[str, tuple[Any, ...]] = {
    "lengths": ((128, 128), (1, 517), (200, 333), (513, 512), (517, 130)),
    "width": (64, 64, 128, 40, 256),
    "heads": ((4, 4), (4, 2)),
    "dtype": (torch.bfloat16, torch.float16, torch.float32),
    "padding": (None, "right", "holes", "all of one"),
    "window": (None, "causal", (64, 64), (None, 100)),
    "sparse": (None, "global", "blocks"),
    "added": (None, "bias", "bias of a head", "t5", "alibi"),
    "softcap": (None, 20.0),
    "dropout_p": (0.0, DROPOUT),
    "strides": ("contiguous", "heads apart", "every other"),
}
# where hundreds of queries see nothing but one global key, plain torch is exact by chance: its probability is 1, its gradient 0
CASES = pairwise(CHOICES, lambda case: not (case["sparse"] == "global" and case["lengths"] == (517, 130)))
PACKED: dict[str, tuple[Any, ...]] = {
    "width": (64, 128, 80),
    "dtype": (torch.bfloat16, torch.float16, torch.float32),
    "window": (None, "causal", (64, 64)),
    "added": (None, "t5", "bias"),
    "dropout_p": (0.0, DROPOUT),
}
PACKED_CASES = pairwise(PACKED, lambda case: True)


def normal(*shape: int, dtype: torch.dtype, strides: str = "contiguous") -> Tensor:
    if strides == "heads apart":
        return torch.randn(shape[0], shape[2], shape[1], shape[3], device=DEVICE).to(dtype).transpose(1, 2)
    if strides == "every other":
        return torch.randn(*shape[:-1], 2 * shape[-1], device=DEVICE).to(dtype)[..., ::2]
    return torch.randn(shape, device=DEVICE).to(dtype)


def masks(case: dict[str, Any], batch: int, queries: int, keys: int) -> dict[str, Any]:
    """What has no gradient."""
    options: dict[str, Any] = {"softcap": case.get("softcap")}
    if case["window"] == "causal":
        options["causal"] = True
    elif case["window"] is not None:
        options["window"] = case["window"]
    if case.get("sparse") == "global":
        options["global_tokens"] = torch.rand(batch, keys, device=DEVICE) < 0.02
    if case.get("sparse") == "blocks":
        grid = (-(-queries // 64), -(-keys // 64))
        options["block_layout"] = (torch.rand(4, *grid, device=DEVICE) < 0.5, 64)
    padding = case.get("padding")
    if padding is not None:
        real = torch.ones(batch, keys, dtype=torch.bool, device=DEVICE)
        if padding == "right":
            real[0, keys // 3 :] = False
        elif padding == "holes":
            real = torch.rand(batch, keys, device=DEVICE) < 0.7
        else:
            real[0] = False
        options["key_padding"] = real
    return options


def added(name: str | None, batch: int, queries: int, keys: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """What is added to the scores."""
    if name == "bias":
        return {"bias": normal(1, 4, queries, keys, dtype=dtype)}
    if name == "bias of a head":
        return {"bias": normal(batch, 1, queries, keys, dtype=dtype)}
    if name == "t5":
        return {"table": normal(32, 4, dtype=torch.float32)}
    if name == "alibi":
        return {"alibi_slopes": torch.rand(4, device=DEVICE) * 0.1}
    return {}


def call(function: Callable[..., Any], leaves: dict[str, Tensor], options: dict[str, Any], *between: Any) -> Any:
    """`function` on query, key and value, what stands `between`, and the options; the table becomes a relative bias."""
    extra = {name: leaf for name, leaf in leaves.items() if name in ("bias", "alibi_slopes")}
    if "table" in leaves:
        extra["relative_bias"] = (leaves["table"], True, 128)
    return function(leaves["query"], leaves["key"], leaves["value"], *between, **extra, **options)


def gradients(leaves: dict[str, Tensor], out: Tensor, lse: Tensor, grads: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    total = (out * grads[0].to(out.dtype)).sum() + torch.where(lse == -torch.inf, 0.0, lse * grads[1]).sum()
    found = torch.autograd.grad(total, list(leaves.values()))
    return {"output": out.detach(), "lse": lse.detach(), **dict(zip(leaves, found, strict=True))}


def as_type(leaves: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: leaf.detach().to(dtype).requires_grad_() for name, leaf in leaves.items()}


def compare(got: dict[str, Tensor], exact: dict[str, Tensor], eager: dict[str, Tensor], dtype: torch.dtype) -> None:
    for name, value in got.items():
        factor, floor = (2, 1) if name in ("output", "lse") else (3, 8)
        assert_close(name, value, exact[name], eager[name], factor, floor * torch.finfo(dtype).eps)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_rectangles(case: dict[str, Any]):
    torch.manual_seed(0)
    batch, (heads, groups), (queries, keys), dtype = 2, case["heads"], case["lengths"], case["dtype"]
    leaves = {
        "query": normal(batch, heads, queries, case["width"], dtype=dtype, strides=case["strides"]),
        "key": normal(batch, groups, keys, case["width"], dtype=dtype, strides=case["strides"]),
        "value": normal(batch, groups, keys, case["width"], dtype=dtype, strides=case["strides"]),
        **added(case["added"], batch, queries, keys, dtype),
    }
    for leaf in leaves.values():
        leaf.requires_grad_()
    options, p = masks(case, batch, queries, keys), case["dropout_p"]
    grads = (torch.randn_like(leaves["query"]), torch.randn(batch, heads, queries, device=DEVICE))
    seed = SEED.to(DEVICE) if p else None
    out, lse = call(attention, leaves, {**options, "dropout_p": p, "dropout_seed": seed, "return_lse": True})
    kept = dropout_mask((batch, heads, queries, keys), p, SEED.to(DEVICE)) if p else None
    peers = []
    for kind in (torch.float64, dtype):
        copies = as_type(leaves, kind)
        result = call(reference_attention, copies, {**options, "dropout_p": p, "kept": kept})
        peers.append(gradients(copies, result[0], result[1], grads))
    compare(gradients(leaves, out, lse, grads), peers[0], peers[1], dtype)


@pytest.mark.parametrize("case", PACKED_CASES, ids=name_of)
def test_packed_batches(case: dict[str, Any]):
    torch.manual_seed(0)
    of_query, of_key, dtype, width = [300, 1, 0, 77, 128], [300, 40, 5, 0, 517], case["dtype"], case["width"]
    bounds = [
        torch.tensor([0, *itertools.accumulate(of)], dtype=torch.int32, device=DEVICE) for of in (of_query, of_key)
    ]
    longest = (max(of_query), max(of_key) + 3)  # may be overestimated
    leaves = {
        name: torch.randn(sum(of), 4, width, device=DEVICE).to(dtype)
        for name, of in (("query", of_query), ("key", of_key), ("value", of_key))
    } | added(case["added"], 1, *longest, dtype)
    for leaf in leaves.values():
        leaf.requires_grad_()
    options, p = masks(case, 1, *longest), case["dropout_p"]
    grads = (torch.randn_like(leaves["query"]), torch.randn(sum(of_query), 4, device=DEVICE))
    given = {**options, "dropout_p": p, "dropout_seed": SEED.to(DEVICE) if p else None, "return_lse": True}
    out, lse = call(attention_varlen, leaves, given, *bounds, *longest)
    kept = dropout_mask((len(of_query), 4, *longest), p, SEED.to(DEVICE)) if p else None

    def one_by_one(copies: dict[str, Tensor]) -> dict[str, Tensor]:
        outs, lses = [], []
        for number, (queries, keys) in enumerate(zip(of_query, of_key, strict=True)):
            begin, first = sum(of_query[:number]), sum(of_key[:number])
            query = copies["query"][begin : begin + queries]
            if queries == 0 or keys == 0:
                outs.append(query * 0)
                lses.append(query[..., 0] * 0 - torch.inf)
                continue
            own = dict(copies, query=query.transpose(0, 1)[None])
            for name in ("key", "value"):
                own[name] = copies[name][first : first + keys].transpose(0, 1)[None]
            if "bias" in own:
                own["bias"] = own["bias"][:, :, :queries, :keys]
            part = None if kept is None else kept[number : number + 1, :, :queries, :keys]
            result = call(reference_attention, own, {**options, "dropout_p": p, "kept": part})
            outs.append(result[0][0].transpose(0, 1))
            lses.append(result[1][0].transpose(0, 1))
        return gradients(copies, torch.cat(outs), torch.cat(lses), grads)

    exact, eager = one_by_one(as_type(leaves, torch.float64)), one_by_one(as_type(leaves, dtype))
    compare(gradients(leaves, out, lse, grads), exact, eager, dtype)


def everything(length: int = 777, dtype: torch.dtype = torch.bfloat16) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A call with a padded batch, grouped heads, a bias for all sequences, T5's table and dropout."""
    torch.manual_seed(0)
    leaves = {
        "query": normal(3, 4, length, 64, dtype=dtype), "key": normal(3, 2, length, 64, dtype=dtype),
        "value": normal(3, 2, length, 64, dtype=dtype), "bias": normal(1, 4, length, length, dtype=dtype),
        "table": normal(32, 4, dtype=torch.float32),
    }  # fmt: skip
    for leaf in leaves.values():
        leaf.requires_grad_()
    real = torch.arange(length, device=DEVICE) < torch.tensor([length, length // 2, 5], device=DEVICE)[:, None]
    return leaves, {"key_padding": real, "dropout_p": 0.1, "dropout_seed": SEED.to(DEVICE)}


def test_a_hundred_runs_give_the_same_bits():
    leaves, options = everything()
    grad = torch.randn_like(leaves["query"])
    first: list[Tensor] = []
    for _ in range(100):
        out = call(attention, leaves, options)
        found = [out.detach(), *torch.autograd.grad(out, list(leaves.values()), grad)]
        first = first or found
        assert all(torch.equal(one, other) for one, other in zip(first, found, strict=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler, about parts of torch
def test_a_compiled_call_has_no_break_and_the_same_bits():
    leaves, options = everything(256)
    grad = torch.randn_like(leaves["query"])
    names = list(leaves)

    def function(*tensors: Tensor) -> Tensor:
        return call(attention, dict(zip(names, tensors, strict=True)), options)

    out = function(*leaves.values())
    compiled = torch.compile(function, fullgraph=True)(*leaves.values())
    assert torch.equal(out, compiled)
    wanted = torch.autograd.grad(out, list(leaves.values()), grad)
    found = torch.autograd.grad(compiled, list(leaves.values()), grad)
    for name, one, other in zip(names, wanted, found, strict=True):
        if name == "table":  # what turns a table into scores is torch's, and the compiler may order its sums anew
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        else:
            assert torch.equal(one, other), name


def test_a_graph_replays_on_new_inputs():
    leaves, options = everything(300)
    grad = torch.randn_like(leaves["query"])
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())

    def run() -> list[Tensor]:
        out = call(attention, leaves, options)
        return [out.detach(), *torch.autograd.grad(out, list(leaves.values()), grad)]

    with torch.cuda.stream(stream):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        recorded = run()
    with torch.no_grad():
        for leaf in leaves.values():
            leaf.normal_()
        options["dropout_seed"].fill_(11)
    graph.replay()
    torch.cuda.synchronize()
    replayed = [tensor.clone() for tensor in recorded]
    *wanted, table = run()
    assert all(torch.equal(one, other) for one, other in zip(replayed[:-1], wanted, strict=True))
    # from the distance bias to the table is a product of torch's, which may choose another algorithm inside a graph
    torch.testing.assert_close(replayed[-1], table, rtol=1e-4, atol=1e-4)


def test_tensors_of_more_than_two_to_the_31_elements():
    shape = (8448, 16, 256, 64)  # 2.2e9 elements, 4.4 GB each; eight of them and what the random numbers need
    if torch.cuda.mem_get_info()[0] < 60 * 2**30:
        pytest.skip("needs 60 GiB of free GPU memory")
    leaves = {name: torch.empty(shape, dtype=torch.bfloat16, device=DEVICE) for name in ("query", "key", "value")}
    for leaf in leaves.values():
        leaf.normal_().requires_grad_()
    grad = torch.empty(shape, dtype=torch.bfloat16, device=DEVICE).normal_()
    out = call(attention, leaves, {})
    found = {
        "output": out.detach(),
        **dict(zip(leaves, torch.autograd.grad(out, list(leaves.values()), grad), strict=True)),
    }
    for place in (0, shape[0] // 2, shape[0] - 1):
        peers = []
        for kind in (torch.float64, torch.bfloat16):
            copies = as_type({name: leaf[place : place + 1] for name, leaf in leaves.items()}, kind)
            result = call(reference_attention, copies, {})[0]
            own = torch.autograd.grad(result, list(copies.values()), grad[place : place + 1].to(kind))
            peers.append({"output": result.detach(), **dict(zip(copies, own, strict=True))})
        compare({name: value[place : place + 1] for name, value in found.items()}, *peers, torch.bfloat16)


@pytest.mark.parametrize("length", [64, 192, 256, 704])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_of_very_low_scores_have_finite_gradients(length: int, dtype: torch.dtype):
    """Every score near -120: where cuDNN's backward gave NaN at lengths of 64 modulo 128 (pytorch issue 196678)."""
    torch.manual_seed(0)
    leaves = {name: normal(2, 2, length, 64, dtype=dtype) * 0.1 for name in ("query", "key", "value")}
    leaves["query"][..., 0] = 1.0
    leaves["key"][..., 0] = -120.0 * 8
    leaves = {name: leaf.detach().requires_grad_() for name, leaf in leaves.items()}
    options = {"key_padding": torch.ones(2, length, dtype=torch.bool, device=DEVICE)}
    out = call(attention, leaves, options)
    found = torch.autograd.grad(out, list(leaves.values()), torch.randn_like(out))
    assert all(tensor.isfinite().all() for tensor in (out, *found))


def test_probabilities_of_rows():
    leaves, options = everything(300)
    leaves.pop("table")
    options = {"key_padding": options["key_padding"]}
    _, lse = call(attention, leaves, {**options, "return_lse": True})
    rows = torch.tensor([0, 17, 299], device=DEVICE)
    found = attention_weights(leaves["query"], leaves["key"], lse, rows, bias=leaves["bias"], **options)
    peers = [
        call(reference_attention, as_type(leaves, kind), options)[2][:, :, rows]
        for kind in (torch.float64, torch.bfloat16)
    ]
    assert_close("probabilities", found, peers[0], peers[1], 2, torch.finfo(torch.bfloat16).eps)


def test_probabilities_of_rows_of_a_packed_batch():
    """The rows of a rectangle, packed; and a row that does not exist."""
    q, k = normal(3, 4, 100, 64, dtype=torch.float32), normal(3, 2, 300, 64, dtype=torch.float32)
    _, lse = attention(q, k, k, window=(70, 30), softcap=5.0, return_lse=True)
    starts = [torch.arange(4, dtype=torch.int32, device=DEVICE) * length for length in (100, 300)]
    packed = [x.transpose(1, 2).flatten(0, 1) for x in (q, k, lse)]
    rows = torch.tensor([50, 199, 200, 300, -1], device=DEVICE)
    found = attention_weights_varlen(*packed, *starts, 100, 300, rows, window=(70, 30), softcap=5.0)
    each = torch.tensor([[50], [99], [0]], device=DEVICE)
    expected = attention_weights(q, k, lse, each, window=(70, 30), softcap=5.0)[:, :, 0]
    every = attention_weights_varlen(*packed, *starts, 100, 300, window=(70, 30), softcap=5.0)
    assert torch.equal(every[:, rows[:3]], found[:, :3])
    for number in range(3):
        own = slice(300 * number, 300 * number + 300)
        torch.testing.assert_close(found[:, number, own], expected[number], atol=1e-6, rtol=1e-5)
        found[:, number, own] = 0
    assert not found.any()


def test_the_device_is_not_waited_for():
    """A packed batch is launched without the host learning a length."""
    bounds = torch.tensor([0, 100, 164], dtype=torch.int32, device=DEVICE)
    tokens = torch.randn(164, 4, 64, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)

    def run() -> None:
        out = attention_varlen(tokens, tokens, tokens, bounds, bounds, 100, 100)
        assert isinstance(out, Tensor)
        out.backward(torch.ones_like(out))

    run()  # compiles
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
