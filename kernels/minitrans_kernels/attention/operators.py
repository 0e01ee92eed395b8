"""The operators `minitrans::attention_forward`, `attention_backward` and `attention_rows`, as torch and its compiler know them.

Each runs on Triton where that can run and in plain PyTorch elsewhere. Gradients of gradients are always those of the
PyTorch path, computed again with a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from minitrans_kernels.attention import pytorch
from minitrans_kernels.attention.problem import Problem
from minitrans_kernels.registration import Operator
from minitrans_kernels.runtime import runs_on_triton

# a Problem, field by field
_PROBLEM = (
    "(Tensor query, Tensor key, Tensor value, Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, SymInt max_seqlen_q, "
    "SymInt max_seqlen_k, Tensor? key_padding, Tensor? global_tokens, Tensor? blocks, SymInt block_size, Tensor? bias, "
    "Tensor? diagonals, bool causal, SymInt? left, SymInt? right, float scale, float? softcap, float dropout_p, "
    "Tensor? dropout_seed"
)
_FIELDS = tuple(part.split()[-1] for part in _PROBLEM.split(","))
_DIFFERENTIABLE = ("query", "key", "value", "bias", "diagonals")
_PLACES = tuple(_FIELDS.index(name) for name in _DIFFERENTIABLE)


def attend(problem: Problem) -> tuple[Tensor, Tensor]:
    """Output, like the query, and log-sum-exp (B, H, T), or packed (N, H)."""
    out, lse = _FORWARD(*_flat(problem))
    return out, lse


def probabilities(problem: Problem, lse: Tensor, rows: Tensor) -> Tensor:
    """Probabilities, as `Problem.shape_of_rows` says, of the query rows `rows`, given what `attend` gave as log-sum-exp."""
    found: Tensor = _ROWS(*_flat(problem), lse, rows)
    return found


def check_boundaries(problem: Problem) -> None:
    """Raises ValueError where boundaries that can be read without waiting for a device do not fit the tokens."""
    for name, boundaries, tokens, longest in (
        ("cu_seqlens_q", problem.cu_seqlens_q, problem.query, problem.max_seqlen_q),
        ("cu_seqlens_k", problem.cu_seqlens_k, problem.key, problem.max_seqlen_k),
    ):
        if boundaries is None or boundaries.device.type != "cpu":
            continue
        ends = boundaries.tolist()
        lengths = boundaries.diff().tolist()
        if ends[0] != 0 or ends[-1] != len(tokens) or min(lengths, default=0) < 0:
            raise ValueError(f"{name} must begin with 0, never fall, and end with {len(tokens)} tokens, got {ends}")
        if max(lengths, default=0) > longest:
            raise ValueError(
                f"max_seqlen_{name[-1]} must be at least {max(lengths)}, the longest length, got {longest}"
            )


def _flat(problem: Problem) -> tuple[Any, ...]:
    return tuple(getattr(problem, name) for name in _FIELDS)


def _launches(problem: Problem) -> bool:
    return _computes((problem.query, problem.key)) and runs_on_triton(problem.query)


def _forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    problem = Problem(*arguments)
    check_boundaries(problem)
    if _launches(problem):
        from minitrans_kernels.attention.launch import forward

        return forward(problem)
    out, lse = pytorch.forward(problem)
    return torch.empty_like(problem.query).copy_(out), lse.contiguous()


def _forward_fake(*arguments: Any) -> tuple[Tensor, Tensor]:
    query: Tensor = arguments[0]
    dtype = torch.promote_types(query.dtype, torch.float32)
    return torch.empty_like(query), query.new_empty(query.shape[:-1], dtype=dtype)


def _backward(*arguments: Any) -> list[Tensor]:
    *fields, out, lse, grad_out, grad_lse, wants = arguments
    problem = Problem(*fields)
    if _launches(problem):
        from minitrans_kernels.attention.launch import backward

        gradients = backward(problem, out, lse, grad_out, grad_lse, tuple(wants))
        return [gradient for gradient in gradients if gradient is not None]
    gradients = pytorch.backward(problem, out, lse, grad_out, grad_lse, tuple(wants))
    inputs = (fields[place] for place in _PLACES)
    return [
        torch.empty_like(given).copy_(gradient)
        for given, gradient in zip(inputs, gradients, strict=True)
        if gradient is not None
    ]


def _backward_fake(*arguments: Any) -> list[Tensor]:
    wants = arguments[-1]
    return [torch.empty_like(arguments[place]) for place, want in zip(_PLACES, wants, strict=True) if want]


def _rows(*arguments: Any) -> Tensor:
    *fields, lse, rows = arguments
    problem = Problem(*fields)
    check_boundaries(problem)
    count = lse.shape[0] if problem.packed else lse.shape[2]
    if rows.device.type == "cpu" and rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < count:
        raise ValueError(f"rows must be in 0..{count - 1}, got {rows.tolist()}")
    if _launches(problem):
        from minitrans_kernels.attention.rows import probabilities as launch_rows

        return launch_rows(problem, lse, rows)
    return pytorch.rows(problem, lse, rows).contiguous()


def _rows_fake(*arguments: Any) -> Tensor:
    *fields, lse, rows = arguments
    found: Tensor = lse.new_empty(Problem(*fields).shape_of_rows(rows))
    return found


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """For the backward: every input, and the outputs of the forward."""
    outputs = output if isinstance(output, tuple) else ()
    ctx.set_materialize_grads(False)
    ctx.tensors = [isinstance(value, Tensor) for value in inputs]
    ctx.others = [value for value in inputs if not isinstance(value, Tensor)]
    ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)), *outputs)


def _kept(ctx: Any) -> tuple[list[Any], list[Tensor]]:
    """The inputs in their order, and the outputs."""
    tensors, others = list(ctx.saved_tensors), list(ctx.others)
    inputs = [tensors.pop(0) if is_tensor else others.pop(0) for is_tensor in ctx.tensors]
    return inputs, tensors


def _backward_of_forward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    inputs, (out, lse) = _kept(ctx)
    if grad_out is None and grad_lse is None:
        return (None,) * len(inputs)
    wants = [ctx.needs_input_grad[place] for place in _PLACES]
    places = [place for place, want in zip(_PLACES, wants, strict=True) if want]
    grad_out = torch.zeros_like(out) if grad_out is None else grad_out
    if torch.is_grad_enabled() and _computes(inputs):
        gradients = _computed_again(
            lambda fields: pytorch.forward(Problem(*fields)), inputs, places, (grad_out, grad_lse)
        )
    else:
        gradients = _BACKWARD(*inputs, out, lse, grad_out, grad_lse, wants)
    return _at(places, gradients, len(inputs))


def _backward_of_rows(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
    inputs, _ = _kept(ctx)
    if grad is None:
        return (None,) * len(inputs)
    places = [place for place, needed in enumerate(ctx.needs_input_grad) if needed]
    if _computes(inputs):
        gradients = _computed_again(
            lambda given: (pytorch.rows(Problem(*given[:-2]), given[-2], given[-1]),), inputs, places, (grad,)
        )
    else:
        gradients = [torch.zeros_like(inputs[place]) for place in places]
    return _at(places, gradients, len(inputs))


def _computed_again(
    compute: Callable[[list[Any]], tuple[Tensor, ...]],
    inputs: list[Any],
    places: list[int],
    gradients: tuple[Tensor | None, ...],
) -> Sequence[Tensor]:
    """The gradients of the inputs at `places`, with a graph of their own where gradients of gradients are asked for."""
    create_graph = torch.is_grad_enabled()
    inputs = list(inputs)
    for place in places:
        # as nodes of their own: where one tensor is both query and key, each place gets its own part of the gradient
        given = inputs[place]
        inputs[place] = given.view_as(given) if create_graph else given.detach().requires_grad_()
    with torch.enable_grad():
        pairs = [pair for pair in zip(compute(inputs), gradients, strict=True) if pair[1] is not None]
        results, grads = zip(*pairs, strict=True)
        given = [inputs[place] for place in places]
        # rows have no use for the value, which may be given with a gradient all the same
        return torch.autograd.grad(results, given, grads, create_graph=create_graph, materialize_grads=True)


def _at(places: Sequence[int], gradients: Sequence[Tensor], count: int) -> tuple[Tensor | None, ...]:
    """The gradients at their places among `count` inputs, None at the others."""
    found: list[Tensor | None] = [None] * count
    for place, gradient in zip(places, gradients, strict=True):
        found[place] = gradient
    return tuple(found)


def _computes(inputs: Sequence[Any]) -> bool:
    """Whether there is a query and a key at all; without, every result is a constant."""
    return bool(inputs[0].numel() > 0 and inputs[1].numel() > 0)


_FORWARD = Operator("minitrans::attention_forward", _forward, f"{_PROBLEM}) -> (Tensor, Tensor)")
_BACKWARD = Operator(
    "minitrans::attention_backward",
    _backward,
    f"{_PROBLEM}, Tensor out, Tensor lse, Tensor grad_out, Tensor? grad_lse, bool[] wants) -> Tensor[]",
)
_ROWS = Operator("minitrans::attention_rows", _rows, f"{_PROBLEM}, Tensor lse, Tensor rows) -> Tensor")
for _operator, _fake in ((_FORWARD, _forward_fake), (_BACKWARD, _backward_fake), (_ROWS, _rows_fake)):
    _operator.register_fake(_fake)
for _operator, _derivative in ((_FORWARD, _backward_of_forward), (_ROWS, _backward_of_rows)):
    _operator.register_autograd(_derivative, setup_context=_keep)
