"""The operators `minitrans::attention_forward`, `_backward` and `_weights`, as torch and its compiler know them.

Each runs on Triton where that can run and in plain PyTorch elsewhere. Gradients of gradients are always those of the
PyTorch path, computed again with a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from minitrans_kernels.attention import fallback
from minitrans_kernels.attention.arguments import DIFFERENTIABLE, AttentionArgs, check_rows, check_values
from minitrans_kernels.registration import Operator
from minitrans_kernels.runtime import runs_on_triton

_FIELDS = tuple(field.name for field in fields(AttentionArgs))
_PLACES = tuple(_FIELDS.index(name) for name in DIFFERENTIABLE)
_TYPES = {"int": "SymInt"}  # where the schema has a name of its own
_SCHEMA = ", ".join(
    f"{_TYPES.get(kind, kind)}{'?' * bool(optional)} {field.name}"
    for field in fields(AttentionArgs)
    for kind, optional, _ in [str(field.type).partition(" | ")]
)


def attend(args: AttentionArgs) -> tuple[Tensor, Tensor]:
    """Output, like the query, and log-sum-exp (B, H, T), or packed (N, H)."""
    out, lse = _FORWARD(*_flat(args))
    return out, lse


def weights(args: AttentionArgs, lse: Tensor, rows: Tensor | None) -> Tensor:
    """Probabilities, as `AttentionArgs.weights_shape` says, given what `attend` gave as log-sum-exp."""
    found: Tensor = _WEIGHTS(*_flat(args), lse, rows)
    return found


def _flat(args: AttentionArgs) -> tuple[Any, ...]:
    return tuple(getattr(args, name) for name in _FIELDS)


def _launches(args: AttentionArgs) -> bool:
    return not args.empty and runs_on_triton(args.query)


def _forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    args = AttentionArgs(*arguments)
    check_values(args)
    if _launches(args):
        from minitrans_kernels.attention import launch

        return launch.forward(args)
    out, lse = fallback.forward(args)
    return torch.empty_like(args.query).copy_(out), lse.contiguous()


def _forward_fake(*arguments: Any) -> tuple[Tensor, Tensor]:
    query: Tensor = arguments[0]
    dtype = torch.promote_types(query.dtype, torch.float32)
    return torch.empty_like(query), query.new_empty(query.shape[:-1], dtype=dtype)


def _backward(*arguments: Any) -> list[Tensor]:
    *inputs, out, lse, grad_out, grad_lse, wants = arguments
    args = AttentionArgs(*inputs)
    if _launches(args):
        from minitrans_kernels.attention import launch

        gradients = launch.backward(args, out, lse, grad_out, grad_lse, tuple(wants))
        return [gradient for gradient in gradients if gradient is not None]
    gradients = fallback.backward(args, out, lse, grad_out, grad_lse, tuple(wants))
    return [
        torch.empty_like(inputs[place]).copy_(gradient)
        for place, gradient in zip(_PLACES, gradients, strict=True)
        if gradient is not None
    ]


def _backward_fake(*arguments: Any) -> list[Tensor]:
    wants = arguments[-1]
    return [torch.empty_like(arguments[place]) for place, want in zip(_PLACES, wants, strict=True) if want]


def _weights(*arguments: Any) -> Tensor:
    *inputs, lse, rows = arguments
    args = AttentionArgs(*inputs)
    check_values(args)
    if rows is not None:
        check_rows(rows, lse.shape[0] if args.packed else lse.shape[2])
    if _launches(args):
        from minitrans_kernels.attention import launch

        return launch.attention_weights(args, lse, rows)
    return fallback.attention_weights(args, lse, rows).contiguous()


def _weights_fake(*arguments: Any) -> Tensor:
    *inputs, lse, rows = arguments
    found: Tensor = lse.new_empty(AttentionArgs(*inputs).weights_shape(rows))
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
    if torch.is_grad_enabled() and not AttentionArgs(*inputs).empty:
        gradients = _computed_again(
            lambda given: fallback.forward(AttentionArgs(*given)), inputs, places, (grad_out, grad_lse)
        )
    else:
        gradients = _BACKWARD(*inputs, out, lse, grad_out, grad_lse, wants)
    return _at(places, gradients, len(inputs))


def _backward_of_weights(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
    inputs, _ = _kept(ctx)
    if grad is None:
        return (None,) * len(inputs)
    places = [place for place, needed in enumerate(ctx.needs_input_grad) if needed]
    if AttentionArgs(*inputs[:-2]).empty:
        gradients: Sequence[Tensor] = [torch.zeros_like(inputs[place]) for place in places]
    else:
        gradients = _computed_again(
            lambda given: (fallback.attention_weights(AttentionArgs(*given[:-2]), given[-2], given[-1]),),
            inputs, places, (grad,),
        )  # fmt: skip
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
        return torch.autograd.grad(results, given, grads, create_graph=create_graph, materialize_grads=True)


def _at(places: Sequence[int], gradients: Sequence[Tensor], count: int) -> tuple[Tensor | None, ...]:
    """The gradients at their places among `count` inputs, None at the others."""
    found: list[Tensor | None] = [None] * count
    for place, gradient in zip(places, gradients, strict=True):
        found[place] = gradient
    return tuple(found)


_FORWARD = Operator("minitrans::attention_forward", _forward, f"({_SCHEMA}) -> (Tensor, Tensor)")
_BACKWARD = Operator(
    "minitrans::attention_backward",
    _backward,
    f"({_SCHEMA}, Tensor out, Tensor lse, Tensor grad_out, Tensor? grad_lse, bool[] wants) -> Tensor[]",
)
_WEIGHTS = Operator("minitrans::attention_weights", _weights, f"({_SCHEMA}, Tensor lse, Tensor? rows) -> Tensor")
for _operator, _fake in ((_FORWARD, _forward_fake), (_BACKWARD, _backward_fake), (_WEIGHTS, _weights_fake)):
    _operator.register_fake(_fake)
for _operator, _derivative in ((_FORWARD, _backward_of_forward), (_WEIGHTS, _backward_of_weights)):
    _operator.register_autograd(_derivative, setup_context=_keep)
