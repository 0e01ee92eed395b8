"""The contract test that ships with the library: is this attention right in everything it says it supports?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import torch
from torch import Tensor

from minitrans.attention.contract import OPTIONS, AttentionResult
from minitrans.attention.registry import VariantSpec
from minitrans.testing.cases import CASES, Case, Inputs, draw_inputs
from minitrans.testing.dropout import check_dropout
from minitrans.testing.mechanism import check_mechanism
from minitrans.testing.naive import naive_attention
from minitrans.testing.subject import (
    Log,
    Subject,
    compare,
    expect_refusal,
    lacking,
    oracle,
    outcome,
    relative_error,
    subjects,
)

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}  # relative to the float64 result


@dataclass(frozen=True)
class AttentionReport:
    """What `check_attention` ran.

    Attributes:
        passed: the checks that were run and held.
        refused: the checks whose options are not supported, and which were refused with a clear error.
    """

    passed: tuple[str, ...]
    refused: tuple[str, ...]

    def __str__(self) -> str:
        return f"{len(self.passed)} checks passed, {len(self.refused)} refused as not supported"


def check_attention(
    attention: VariantSpec,
    *,
    device: torch.device | str = "cpu",
    dtypes: Sequence[torch.dtype] = DTYPES,
) -> AttentionReport:
    """Checks an attention against what it promises.

    A backend, or an object with `exact = True`, is compared with the oracle `eager`, forward and gradients, over masks,
    biases, packed batches, dropout, empty rows, grouped heads and dtypes; the oracle itself with loops over single
    pairs. A pattern is compared in the same way, on every backend. Another mechanism has no right answer to be compared
    with: it must keep what every attention keeps (`testing.mechanism`). What is not in `supports` must be refused.

    Args:
        attention: a name of `BACKENDS` or `VARIANTS`, a mapping with a name and options, or an object.
        device: where to run.
        dtypes: the types to run, of float64, float32, bfloat16, float16.

    Raises:
        AssertionError: naming the check that failed, what was compared and how far it was off.
    """
    device = torch.device(device)
    log = Log()
    for subject in subjects(attention, device):
        unknown = subject.supports - OPTIONS
        if unknown:
            raise AssertionError(f"{subject.name}: `supports` holds unknown words: {sorted(unknown)}")
        if subject.exact:
            _check_exact(subject, device, dtypes, log)
        else:
            check_mechanism(subject, device, log)
    return AttentionReport(tuple(log.passed), tuple(log.refused))


def _check_exact(subject: Subject, device: torch.device, dtypes: Sequence[torch.dtype], log: Log) -> None:
    widest = torch.float64 if "float64" in subject.supports else torch.float32
    for dtype in dtypes:
        for case in CASES:
            if dtype == widest or case.low_precision:
                _check_case(subject, case, device, dtype, log)
    if widest in dtypes:
        _check_weights(subject, device, widest, log)
        _check_gradient_refusal(subject, device, widest, log)
        check_dropout(subject, device, widest, log)


def _check_case(subject: Subject, case: Case, device: torch.device, dtype: torch.dtype, log: Log) -> None:
    where = f"{subject.name}, {case.name}, {str(dtype).removeprefix('torch.')}"
    inputs = draw_inputs(case, device, dtype)
    missing = lacking(subject, inputs)
    if missing:
        expect_refusal(subject, inputs, missing, where)
        log.refused.append(where)
        return
    _check_oracle(case, device)
    before, random_state = _snapshot(inputs), _random_state(device)
    gradient = "gradient" in subject.supports
    found, through = outcome(subject.call, inputs, gradient=gradient)
    for name, tensor in _snapshot(inputs).items():
        if not torch.equal(tensor, before[name]):
            raise AssertionError(f"{where}: the call changed its input {name}")
    if not all(torch.equal(*pair) for pair in zip(_random_state(device), random_state, strict=True)):
        raise AssertionError(f"{where}: the call drew from the global random numbers without dropout")
    if found["output"].dtype != dtype:
        raise AssertionError(f"{where}: the output is {found['output'].dtype}")
    if "logsumexp" in subject.supports and "logsumexp" not in found:
        raise AssertionError(f"{where}: `supports` promises a logsumexp, none was returned")
    expected, _ = outcome(oracle(subject), inputs.to(torch.float64), gradient=gradient, through=through)
    if dtype in _TOLERANCE:
        compare(found, expected, where, lambda name: _TOLERANCE[dtype])
    else:
        plain, _ = outcome(oracle(subject), inputs, gradient=gradient, through=through)

        def allowed(name: str) -> float:
            # the error of the plainest computation in this type decides; one rounding is always granted
            factor = 3 if name.startswith("gradient") else 2
            return factor * relative_error(plain[name], expected[name]) + torch.finfo(dtype).eps

        compare(found, expected, where, allowed)
    log.passed.append(where)


def _check_weights(subject: Subject, device: torch.device, dtype: torch.dtype, log: Log) -> None:
    """The probabilities on request, with gradients, on some of the cases."""
    for case in CASES:
        where = f"{subject.name}, {case.name}, weights"
        inputs = draw_inputs(case, device, dtype)
        if not case.low_precision or lacking(subject, inputs):
            continue
        if "weights" not in subject.supports:
            expect_refusal(subject, inputs, {"weights"}, where)
            log.refused.append(where)
            return
        gradient = "gradient" in subject.supports
        found, through = outcome(subject.call, inputs, gradient=gradient, need_weights=True)
        if "weights" not in found:
            raise AssertionError(f"{where}: the probabilities were asked for, none were returned")
        wide = inputs.to(torch.float64)
        expected, _ = outcome(oracle(subject), wide, gradient=gradient, need_weights=True, through=through)
        compare(found, expected, where, lambda name: _TOLERANCE[dtype])
        log.passed.append(where)


def _check_gradient_refusal(subject: Subject, device: torch.device, dtype: torch.dtype, log: Log) -> None:
    """Where gradients are not supported, each tensor that asks for one is refused."""
    if "gradient" in subject.supports:
        return
    case = next(case for case in CASES if case.bias == "ALiBi")
    for name in draw_inputs(case, device, dtype).leaves():
        where = f"{subject.name}, gradient of the {name}"
        inputs = draw_inputs(case, device, dtype)
        inputs.leaves()[name].requires_grad_()
        expect_refusal(subject, inputs, {"gradient"}, where)
        log.refused.append(where)


@cache
def _check_oracle(case: Case, device: torch.device) -> None:
    """The oracle against the loops, once per case and process."""

    def loops(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> AttentionResult:
        del options["dropout_p"], options["need_weights"]
        options["scale"] = query.shape[-1] ** -0.5 if options["scale"] is None else options["scale"]
        output, logsumexp, weights = naive_attention(query, key, value, **options)
        return AttentionResult(output, weights, logsumexp)

    eager = oracle(Subject("eager", loops, OPTIONS, exact=True))
    inputs = draw_inputs(case, device)
    found, through = outcome(eager, inputs, gradient=True, need_weights=True)
    expected, _ = outcome(loops, inputs, gradient=True, through=through)
    compare(found, expected, f"the oracle itself, {case.name}", lambda name: 1e-10)


def _snapshot(inputs: Inputs) -> dict[str, Tensor]:
    tensors = inputs.leaves()
    for field in fields(inputs.mask):
        part = getattr(inputs.mask, field.name)
        if isinstance(part, Tensor):
            tensors[f"mask.{field.name}"] = part
    if inputs.mask.blocks is not None:
        tensors["mask.blocks.allowed"] = inputs.mask.blocks.allowed
    if inputs.layout is not None:
        tensors["layout.cu_seqlens"] = inputs.layout.cu_seqlens
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _random_state(device: torch.device) -> list[Tensor]:
    state = [torch.get_rng_state()]
    return [*state, torch.cuda.get_rng_state(device)] if device.type == "cuda" else state
