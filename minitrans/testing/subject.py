"""What is under test, whatever form it was given in, and what one call of it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from minitrans.attention.bias import AttentionBias
from minitrans.attention.contract import AttentionResult, supported_options, used_options
from minitrans.attention.dispatch import attend
from minitrans.attention.eager import EagerAttention
from minitrans.attention.mask import AttentionMask
from minitrans.attention.registry import BACKENDS, VariantSpec, is_pattern, load_backend, resolve_variant
from minitrans.errors import NotSupportedError
from minitrans.testing.cases import Inputs

Call = Callable[..., AttentionResult]
Restrict = Callable[[AttentionMask, AttentionBias | None], tuple[AttentionMask, AttentionBias | None]]


@dataclass(frozen=True)
class Subject:
    """One attention under test.

    Attributes:
        name: for messages.
        call: `attend` with this attention chosen.
        supports: what it supports on the device of the test.
        exact: it computes softmax attention.
        restrict: of a pattern; of others, nothing changes.
    """

    name: str
    call: Call
    supports: frozenset[str]
    exact: bool
    restrict: Restrict = lambda mask, bias: (mask, bias)


@dataclass
class Log:
    """The checks that were run."""

    passed: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def subjects(attention: VariantSpec, device: torch.device) -> list[Subject]:
    """A backend by its name, a mechanism, or a pattern on each of the backends."""
    if isinstance(attention, str) and attention in BACKENDS:
        backend = load_backend(attention)
        return [
            Subject(
                attention, partial(attend, backend=attention), supported_options(backend, device) | {"weights"}, True
            )
        ]
    variant = resolve_variant(attention)
    if not is_pattern(variant):
        exact = bool(getattr(variant, "exact", False))
        return [Subject(variant.name, partial(attend, attention=variant), supported_options(variant, device), exact)]
    return [
        Subject(
            f"{variant.name} on {name}",
            partial(attend, attention=variant, backend=name),
            supported_options(load_backend(name), device) | {"weights"},
            True,
            variant.restrict,
        )
        for name in BACKENDS
    ]


def oracle(subject: Subject) -> Call:
    """`eager`, to be called as `attend` is, on the mask and bias of the subject's pattern."""

    def call(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> AttentionResult:
        options["mask"], options["bias"] = subject.restrict(options["mask"], options["bias"])
        if options["scale"] is None:
            options["scale"] = query.shape[-1] ** -0.5
        return EagerAttention()(query, key, value, **options)

    return call


def lacking(subject: Subject, inputs: Inputs, dropout_p: float = 0.0) -> set[str]:
    """The options that the call would use and the subject does not support."""
    mask, bias = subject.restrict(inputs.mask, inputs.attention_bias())
    query, key, value = inputs.query, inputs.key, inputs.value
    used = used_options(query, key, value, mask=mask, bias=bias, layout=inputs.layout, dropout_p=dropout_p)
    return used - subject.supports


def run(call: Call, inputs: Inputs, *, dropout_p: float = 0.0, need_weights: bool = False) -> AttentionResult:
    """The call on the tensors of `inputs`."""
    return call(
        inputs.query,
        inputs.key,
        inputs.value,
        mask=inputs.mask,
        bias=inputs.attention_bias(),
        layout=inputs.layout,
        scale=inputs.scale,
        dropout_p=dropout_p,
        need_weights=need_weights,
    )


def expect_refusal(subject: Subject, inputs: Inputs, options: set[str], where: str, dropout_p: float = 0.0) -> None:
    """AssertionError unless the call raises a NotSupportedError that names one of `options` and who supports it."""
    try:
        run(subject.call, inputs, dropout_p=dropout_p, need_weights="weights" in options)
    except NotSupportedError as error:
        message = str(error)
        if not any(option in message for option in options) or "supported by: " not in message:
            raise AssertionError(
                f"{where}: the refusal must name {sorted(options)} and a supporter: {message}"
            ) from error
    else:
        raise AssertionError(f"{where}: {sorted(options)} is not in `supports`, yet the call was not refused")


def outcome(
    call: Call, inputs: Inputs, *, gradient: bool, need_weights: bool = False, through: frozenset[str] | None = None
) -> tuple[dict[str, Tensor], frozenset[str]]:
    """Everything a call gives, gradients included.

    Args:
        call: as `attend`.
        inputs: the tensors; made to require gradients, or not.
        gradient: take gradients.
        need_weights: ask for the probabilities.
        through: of "logsumexp" and "weights", what besides the output the loss is made of; None = all that can be.

    Returns:
        Tensors by name, and what the loss was made of.
    """
    leaves = inputs.leaves()
    for leaf in leaves.values():
        leaf.requires_grad_(gradient)
    result = run(call, inputs, need_weights=need_weights)
    found = {"output": result.output}
    further = {
        "logsumexp": (result.logsumexp, inputs.logsumexp_gradient),
        "weights": (result.weights, inputs.weights_gradient),
    }
    loss = (result.output * inputs.output_gradient).sum()
    loss = loss + 0.0 * sum(leaf.sum() for leaf in leaves.values())  # a graph even where nothing was computed
    used = set()
    for name, (tensor, tensor_gradient) in further.items():
        if tensor is None:
            continue
        found[name] = tensor
        if gradient and tensor.requires_grad and (through is None or name in through):
            loss = loss + (tensor.masked_fill(tensor == -torch.inf, 0.0) * tensor_gradient).sum()
            used.add(name)
    if gradient:
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        found |= {f"gradient of the {name}": part for name, part in zip(leaves, gradients, strict=True)}
    return {name: tensor.detach() for name, tensor in found.items()}, frozenset(used)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest expected number; infinite where NaN or an infinity is out of place."""
    if found.shape != expected.shape:
        raise AssertionError(f"has shape {tuple(found.shape)}, expected {tuple(expected.shape)}")
    found, expected = found.to(torch.float64), expected.to(torch.float64)
    finite = expected.isfinite()
    if not torch.equal(found[~finite], expected[~finite]) or not bool(found[finite].isfinite().all()):
        return float("inf")
    if not bool(finite.any()):
        return 0.0
    difference = (found[finite] - expected[finite]).abs().max().item()
    largest = expected[finite].abs().max().item()
    return difference / largest if largest > 0 else difference


def compare(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str, allowed: Callable[[str], float]
) -> None:
    """AssertionError naming the first tensor of `found` that is further from `expected` than `allowed` for its name."""
    for name, tensor in found.items():
        try:
            error = relative_error(tensor, expected[name])
        except AssertionError as shape:
            raise AssertionError(f"{where}: {name} {shape}") from None
        if not error <= allowed(name):
            raise AssertionError(f"{where}: {name} is off by {error:.1e}, allowed {allowed(name):.1e} (relative)")
