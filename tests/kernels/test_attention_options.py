"""The PyTorch path against the reference: every two values of any two options meet in some case, forward and gradients."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
from minitrans_kernels import BlockLayout, RelativeBias, attention, dropout_mask
from minitrans_kernels.attention.reference import reference_attention
from torch import Tensor

H = 4
CHOICES: dict[str, tuple[Any, ...]] = {
    "lengths": ((1, 1), (1, 7), (7, 1), (5, 5), (13, 31), (31, 13)),
    "groups": (4, 2, 1),
    "width": (16, 24, 40),
    "dtype": (torch.float64, torch.float32, torch.bfloat16, torch.float16),
    "padding": (None, "some", "all of a sample"),
    "causal": (False, True),
    "window": (None, (2, 1), (None, 0), (3, None), (0, 0)),
    "global_tokens": (False, True),
    "blocks": (None, (1,), (2, H)),
    "bias": (None, (2, H), (1, H), (2, 1), (1, 1), "-inf"),
    "relative_bias": (None, True, False),
    "alibi": (False, True),
    "softcap": (None, 4.0),
    "dropout_p": (0.0, 0.3),
    "scale": (None, 0.7, -1.0),
    "strided": (False, True),
}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}  # the others are judged by the reference in the same dtype


def pairwise() -> list[dict[str, Any]]:
    """Cases that cover all pairs: each new case is the one of many random ones that covers most of what is left."""
    draw = random.Random(0)
    names = list(CHOICES)

    def pairs(case: tuple[int, ...]) -> set[tuple[int, int, int, int]]:
        return {(a, case[a], b, case[b]) for a, b in itertools.combinations(range(len(names)), 2)}

    sizes = [len(CHOICES[name]) for name in names]
    left = {
        (a, x, b, y)
        for a, b in itertools.combinations(range(len(names)), 2)
        for x in range(sizes[a])
        for y in range(sizes[b])
    }
    cases = []
    while left:
        a, x, b, y = min(left)
        best: tuple[int, ...] = ()
        gain = 0
        for _ in range(40):
            case = [draw.randrange(size) for size in sizes]
            case[a], case[b] = x, y
            found = len(pairs(tuple(case)) & left)
            if found > gain:
                best, gain = tuple(case), found
        left -= pairs(best)
        cases.append({name: CHOICES[name][index] for name, index in zip(names, best, strict=True)})
    return cases


CASES = pairwise()


def leaf(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def call(case: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What has a gradient, in float64, and the other arguments."""
    generator = torch.Generator().manual_seed(3)
    (queries, keys), width = case["lengths"], case["width"]
    leaves = {
        "q": leaf(2, H, queries, width, generator=generator),
        "k": leaf(2, case["groups"], keys, width, generator=generator),
        "v": leaf(2, case["groups"], keys, width, generator=generator),
    }
    if case["bias"] is not None:
        broadcast = (1, 1) if case["bias"] == "-inf" else case["bias"]
        leaves["bias"] = leaf(*broadcast, queries, keys, generator=generator)
        if case["bias"] == "-inf":
            leaves["bias"][..., ::3] = -torch.inf
            leaves["bias"][..., 0, :] = -torch.inf
    if case["relative_bias"] is not None:
        leaves["table"] = leaf(8, H, generator=generator)
    if case["alibi"]:
        leaves["alibi_slopes"] = leaf(H, generator=generator)
    options: dict[str, Any] = {name: case[name] for name in ("causal", "window", "softcap", "dropout_p", "scale")}
    if case["padding"] is not None:
        options["key_padding"] = torch.rand(2, keys, generator=generator) > 0.4
        if case["padding"] == "all of a sample":
            options["key_padding"][1] = False
    if case["global_tokens"]:
        options["global_tokens"] = torch.rand(2, keys, generator=generator) > 0.7
    if case["blocks"] is not None:
        grid = (*case["blocks"], -(-queries // 3), -(-keys // 3))
        options["block_layout"] = BlockLayout(torch.rand(grid, generator=generator) > 0.4, 3)
    return leaves, options


def outcome(
    function: Any, leaves: dict[str, Tensor], options: dict[str, Any], case: dict[str, Any]
) -> dict[str, Tensor]:
    """Output, logsumexp and gradients through both."""
    given = {name: tensor.clone().requires_grad_() for name, tensor in leaves.items()}
    arguments = dict(given)
    if "table" in arguments:
        arguments["relative_bias"] = RelativeBias(arguments.pop("table"), case["relative_bias"], 11)
    q, k, v = (arguments.pop(name) for name in "qkv")
    if case["strided"]:  # (B, K, T, H) in memory
        q, k, v = (tensor.permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1) for tensor in (q, k, v))
    out, lse = function(q, k, v, **arguments, **options)[:2]
    generator = torch.Generator().manual_seed(4)
    grad_out, grad_lse = (
        torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype) for x in (out, lse)
    )
    loss = (out * grad_out).sum() + (lse.masked_fill(lse == -torch.inf, 0.0) * grad_lse).sum()
    gradients = torch.autograd.grad(loss, list(given.values()))
    found = {"out": out, "lse": lse, **{f"grad {name}": x for name, x in zip(given, gradients, strict=True)}}
    return {name: tensor.detach() for name, tensor in found.items()}


def error(found: Tensor, expected: Tensor) -> float:
    finite = expected.isfinite()
    assert torch.equal(found.double()[~finite], expected[~finite])
    assert found[finite].isfinite().all()
    return float((found.double() - expected)[finite].abs().max()) if finite.any() else 0.0


def test_cases_are_few_and_complete():
    assert 30 <= len(CASES) <= 70
    seen = {(a, str(case[a]), b, str(case[b])) for case in CASES for a, b in itertools.combinations(CHOICES, 2)}
    wanted = sum(len(CHOICES[a]) * len(CHOICES[b]) for a, b in itertools.combinations(CHOICES, 2))
    assert len(seen) == wanted


@pytest.mark.parametrize("index", range(len(CASES)))
def test_against_the_reference(index: int):
    case = CASES[index]
    dtype = case["dtype"]
    exact, options = call(case)
    leaves = {name: tensor.to(dtype) for name, tensor in exact.items()}
    told = dict(options)
    if case["dropout_p"]:
        told["kept"] = dropout_mask((2, H, *case["lengths"]), case["dropout_p"], 17)
        options["dropout_seed"] = 17
    expected = outcome(reference_attention, {n: x.double() for n, x in leaves.items()}, told, case)
    found = outcome(attention_and_lse, leaves, options, case)
    plain = outcome(reference_attention, leaves, told, case)
    for name, tensor in found.items():
        assert tensor.dtype == (torch.promote_types(dtype, torch.float32) if name == "lse" else dtype)
        # gradients are differences of numbers of the size of the inputs, 1
        allowed = TOLERANCE.get(dtype, torch.finfo(dtype).eps) * max(largest(expected[name]), 1.0)
        if dtype not in TOLERANCE:
            allowed += (3 if name.startswith("grad") else 2) * error(plain[name], expected[name])
        assert error(tensor, expected[name]) <= allowed, f"{name} of {case}"


def largest(tensor: Tensor) -> float:
    finite = tensor[tensor.isfinite()].abs()
    return float(finite.max()) if finite.numel() else 0.0


def attention_and_lse(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    return attention(q, k, v, return_lse=True, **options)
