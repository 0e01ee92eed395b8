"""Softmax attention compared with the oracle `eager`, forward and gradients, and the oracle with loops over single pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import cache

import torch
from torch import Tensor

from minitrans.attention.rules import AttentionResult
from minitrans.errors import NotSupportedError
from minitrans.testing.cases import CASES, Case, Fixed, Inputs, draw_inputs
from minitrans.testing.dropout import check_dropout, dropout_cases
from minitrans.testing.naive import naive_attention
from minitrans.testing.subject import Call, Log, Subject, compare, expect, outcome, random_state, relative_error

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}  # relative to the float64 result


def check_exact(subject: Subject, dtypes: Sequence[torch.dtype], log: Log) -> None:
    """All cases in all types where a backend is under test, some of them where it stands behind a variant."""
    widest, behind = subject.widest, subject.spec is not None
    cases = [case for case in CASES if case.core or not behind]
    low = [case for case in cases if case.low_precision]
    for number, dtype in enumerate(dtypes):
        some = low[number % 3 :: 3] if behind else low  # each type with others of the cases
        for case in cases if dtype == widest else some:
            where = f"{subject.name}, {case.name}, {str(dtype).removeprefix('torch.')}"
            log.run(where, _check_case, subject, case, dtype)
    if widest not in dtypes:
        return
    for case in low[::2] if behind else low:
        log.run(f"{subject.name}, {case.name}, weights", _check_weights, subject, case, widest)
    log.run(f"{subject.name}, logsumexp", _check_logsumexp, subject, widest)
    for name in ("query",) if behind else ("query", "key", "value", "bias parameter"):
        log.run(f"{subject.name}, gradient of the {name}", _check_gradient_refusal, subject, name, widest)
    for case in dropout_cases(subject.fixed.of(CASES[0].sizes).width)[3 if behind else 0 :]:
        log.run(f"{subject.name}, {case.name}", check_dropout, subject, case, widest)


def drawn(subject: Subject, case: Case, dtype: torch.dtype) -> tuple[Call, Inputs]:
    """The attention for a case, and the inputs. Raises NotSupportedError where it says that it cannot do this."""
    call = subject.build(subject.fixed.of(case.sizes), dtype)
    inputs = draw_inputs(case, subject.device, dtype, fixed=subject.fixed)
    reason = call.why_not(inputs)
    if reason is not None:
        expect_refusal(call, inputs, reason)
        raise NotSupportedError(reason)
    return call, inputs


def expect_refusal(call: Call, inputs: Inputs, reason: str, **changes: object) -> None:
    """AssertionError unless the call is refused with this reason."""
    try:
        call(inputs, **changes)
    except NotSupportedError as error:
        expect(reason in str(error), f"the refusal must name {reason!r}: {error}")
    else:
        expect(False, f"`supports` says that it cannot do {reason}, yet the call was not refused")


def has_gradient(call: Call, inputs: Inputs) -> bool:
    """Whether it says that it can be trained through."""
    inputs.query.requires_grad_()
    reason = call.why_not(inputs)
    inputs.query.requires_grad_(False)
    return reason is None


def _check_case(subject: Subject, case: Case, dtype: torch.dtype) -> None:
    call, inputs = drawn(subject, case, dtype)
    if subject.backend == "eager" and subject.spec is None:
        _check_oracle(case, subject.device, subject.fixed)
    before, state = _snapshot(inputs), random_state(subject.device)
    gradient, logsumexp = has_gradient(call, inputs), call.why_not(inputs, need_logsumexp=True) is None
    found, through = outcome(call, inputs, call.parameters, gradient=gradient, need_logsumexp=logsumexp)
    for name, tensor in _snapshot(inputs).items():
        expect(torch.equal(tensor, before[name]), f"the call changed its input {name}")
    same = all(torch.equal(*pair) for pair in zip(random_state(subject.device), state, strict=True))
    expect(same, "the call drew from the global random numbers without dropout")
    expect(found["output"].dtype == dtype, f"the output is {found['output'].dtype}")
    expect(not logsumexp or "logsumexp" in found, "the logsumexp was asked for, none was returned")
    oracle = call.oracle()
    expected, _ = outcome(oracle, inputs.to(torch.float64), oracle.parameters, gradient=gradient, through=through)
    if dtype in TOLERANCE:
        compare(found, expected, lambda name: TOLERANCE[dtype])
        return
    oracle = call.oracle(dtype)
    plain, _ = outcome(oracle, inputs, oracle.parameters, gradient=gradient, through=through)

    def allowed(name: str) -> float:
        # the error of the plainest computation in this type decides; one rounding is always granted
        factor = 3 if name.startswith("gradient") else 2
        return factor * relative_error(plain[name], expected[name]) + torch.finfo(dtype).eps

    compare(found, expected, allowed)


def _check_weights(subject: Subject, case: Case, dtype: torch.dtype) -> None:
    """The probabilities on request, with gradients."""
    call, inputs = drawn(subject, case, dtype)
    gradient = has_gradient(call, inputs)
    found, through = outcome(call, inputs, call.parameters, gradient=gradient, need_weights=True)
    expect("weights" in found, "the probabilities were asked for, none were returned")
    oracle, wide = call.oracle(), inputs.to(torch.float64)
    expected, _ = outcome(oracle, wide, oracle.parameters, gradient=gradient, through=through, need_weights=True)
    compare(found, expected, lambda name: TOLERANCE[dtype])


def _check_logsumexp(subject: Subject, dtype: torch.dtype) -> None:
    """It is given where it is asked for, or refused."""
    call, inputs = drawn(subject, CASES[0], dtype)
    reason = call.why_not(inputs, need_logsumexp=True)
    if reason is not None:
        expect_refusal(call, inputs, reason, need_logsumexp=True)
        raise NotSupportedError(reason)
    expect(call(inputs, need_logsumexp=True).logsumexp is not None, "it was asked for, none was returned")


def _check_gradient_refusal(subject: Subject, name: str, dtype: torch.dtype) -> None:
    """Where gradients are not supported, each tensor that asks for one is refused."""
    call, inputs = drawn(subject, next(case for case in CASES if case.bias == "ALiBi"), dtype)
    if has_gradient(call, inputs):
        return
    inputs.leaves[name].requires_grad_()
    expect_refusal(call, inputs, "gradient")
    raise NotSupportedError("gradient")


@cache
def _check_oracle(case: Case, device: torch.device, fixed: Fixed) -> None:
    """The oracle against the loops, once per case and process."""

    def loops(inputs: Inputs, **changes: object) -> AttentionResult:
        rules = inputs.all_rules()
        output, logsumexp, weights = naive_attention(
            inputs.query, inputs.key, inputs.value, mask=rules.mask, bias=rules.bias, layout=rules.layout,
            scale=inputs.query.shape[-1] ** -0.5 if rules.scale is None else rules.scale, softcap=rules.softcap,
        )  # fmt: skip
        return AttentionResult(output, weights, logsumexp)

    inputs = draw_inputs(case, device, fixed=fixed)
    eager = Subject("eager", device, fixed, True, backend="eager").build(case.sizes)
    found, through = outcome(eager, inputs, {}, need_weights=True)
    expected, _ = outcome(loops, inputs, {}, through=through)
    try:
        compare(found, expected, lambda name: 1e-10)
    except AssertionError as error:
        raise AssertionError(f"the oracle differs from loops over pairs: {error}") from None


def _snapshot(inputs: Inputs) -> dict[str, Tensor]:
    tensors = dict(inputs.leaves)
    mask, layout = inputs.rules.mask, inputs.rules.layout
    for field in fields(mask):
        part = getattr(mask, field.name)
        if isinstance(part, Tensor):
            tensors[f"mask.{field.name}"] = part
    if mask.blocks is not None:
        tensors["mask.blocks.allowed"] = mask.blocks.allowed
    if layout is not None:
        tensors["layout.cu_seqlens"] = layout.cu_seqlens
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
