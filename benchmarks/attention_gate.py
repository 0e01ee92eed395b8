"""Whether a provider computes the attention of a case: its error against float64, beside that of plain torch in its dtype."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from minitrans_kernels import dropout_mask
from minitrans_kernels.attention.reference import reference_attention
from torch import Tensor

from benchmarks.attention_cases import BUCKETS, DROPOUT, MAX_DISTANCE, WINDOW, Inputs
from benchmarks.runs import Expected, Found

_ELEMENTS_AT_ONCE = 2**26  # scores of the reference; one head of one sequence at least


def expected(inputs: Inputs, *, dropout: bool) -> Expected:
    """What a provider must find. `dropout`: under the mask that `dropout_mask` gives for the seed of the inputs."""
    dtype = inputs.case.dtype
    return Expected.of(_reference(inputs, torch.float64, dropout), _reference(inputs, dtype, dropout), dtype)


def not_finite(found: Found) -> dict[str, int]:
    """How many elements of each tensor are NaN or infinite."""
    return {name: int((~value.isfinite()).sum()) for name, value in found.items()}


def _reference(inputs: Inputs, dtype: torch.dtype, dropout: bool) -> Found:
    """The readable equation in `dtype`, some heads at a time; gradients add up in float64 where chunks share a tensor."""
    case, leaves = inputs.case, inputs.leaves
    wide = torch.float64
    found = {"output": torch.zeros_like(leaves["query"], dtype=wide)}
    found |= {name: torch.zeros_like(leaf, dtype=wide) for name, leaf in leaves.items()}
    for batch, heads in _chunks(case.batch, case.heads, case.length):
        places = {
            "query": (batch, heads), "key": (batch, heads), "value": (batch, heads), "bias": (slice(None), heads),
            "table": (slice(None), heads),
        }  # fmt: skip
        parts = {name: leaf.detach()[places[name]].to(dtype).requires_grad_() for name, leaf in leaves.items()}
        kept = _kept(inputs, batch, heads) if dropout else None
        options = _options(inputs, parts, batch, kept)
        output = reference_attention(parts["query"], parts["key"], parts["value"], **options)[0]
        output = output * inputs.real[batch]
        gradients = torch.autograd.grad(output, list(parts.values()), inputs.grad_out[batch, heads].to(dtype))
        found["output"][batch, heads] += output.detach()
        for name, gradient in zip(parts, gradients, strict=True):
            found[name][places[name]] += gradient
    return found


def _chunks(batch: int, heads: int, length: int) -> Iterator[tuple[slice, slice]]:
    """Slices of sequences and heads whose scores fit `_ELEMENTS_AT_ONCE`."""
    at_once = max(_ELEMENTS_AT_ONCE // length**2, 1)
    some_heads, sequences = min(at_once, heads), max(at_once // heads, 1)
    for b in range(0, batch, sequences):
        for h in range(0, heads, some_heads):
            yield slice(b, b + sequences), slice(h, h + some_heads)


def _options(inputs: Inputs, parts: Found, batch: slice, kept: Tensor | None) -> dict[str, Any]:
    case = inputs.case
    options: dict[str, Any] = {"causal": case.kind == "causal"}
    if case.kind == "window":
        options["window"] = (WINDOW, WINDOW)
    if inputs.key_padding is not None:
        options["key_padding"] = inputs.key_padding[batch]
    if "bias" in parts:
        options["bias"] = parts["bias"]
    if "table" in parts:
        options["relative_bias"] = (parts["table"], True, MAX_DISTANCE)
        assert parts["table"].shape[0] == BUCKETS
    if kept is not None:
        options |= {"kept": kept, "dropout_p": DROPOUT}
    return options


def _kept(inputs: Inputs, batch: slice, heads: slice) -> Tensor:
    """The part of the dropout mask; the whole is computed once, so dropout cases are not long."""
    if inputs.kept is None:
        case = inputs.case
        inputs.kept = dropout_mask((case.batch, case.heads, case.length, case.length), DROPOUT, inputs.seed)
    return inputs.kept[batch, heads]
