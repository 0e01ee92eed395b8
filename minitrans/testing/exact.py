"""Softmax attention compared with the oracle `eager`, forward and gradients, and the oracle with loops over single pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch

from minitrans.attention.rules import AttentionResult
from minitrans.errors import NotSupportedError
from minitrans.testing.cases import CASES, Case, Fixed, Inputs, draw_inputs
from minitrans.testing.dropout import dropout_against_oracle, dropout_cases
from minitrans.testing.naive import naive_attention
from minitrans.testing.subject import Call, Log, Subject, compare, expect, outcome, relative_error, untouched


def run_exact(subject: Subject, dtypes: Sequence[torch.dtype], log: Log) -> None:
    """All cases in all types where a backend is under test, some of them where it stands behind a variant."""
    behind = subject.spec is not None
    cases = [case for case in CASES if case.core or not behind]
    low = [case for case in cases if case.low_precision]
    for number, dtype in enumerate(dtypes):
        some = low[number % 3 :: 3] if behind else low  # each type with others of the cases
        for case in cases if dtype == subject.dtype else some:
            where = f"{subject.name}, {case.name}, {str(dtype).removeprefix('torch.')}"
            log.run(where, against_oracle, replace(subject, dtype=dtype), case)
    if subject.dtype not in dtypes:
        return
    for case in low[::2] if behind else low:
        log.run(f"{subject.name}, {case.name}, weights", partial(against_oracle, need_weights=True), subject, case)
    for name in ("logsumexp", "query") if behind else ("logsumexp", "query", "key", "value", "bias parameter"):
        where = name if name == "logsumexp" else f"gradient of the {name}"
        log.run(f"{subject.name}, {where}", _given_or_refused, subject, name)
    for case in dropout_cases(subject.fixed.of(CASES[0].sizes).width)[3 if behind else 0 :]:
        log.run(f"{subject.name}, {case.name}", dropout_against_oracle, subject, case)


def against_oracle(subject: Subject, case: Case, *, need_weights: bool = False) -> None:
    """Output, gradients, and the logsumexp, or the probabilities on request."""
    call, inputs = _drawn(subject, case)
    if subject.backend == "eager" and subject.spec is None:
        _oracle_against_loops(case, subject.device, subject.fixed)
    need_logsumexp = not need_weights and call.why_not(inputs, need_logsumexp=True) is None
    given: dict[str, Any] = {"gradient": call.trains(inputs), "need_weights": need_weights}
    with untouched(inputs):
        found, through = outcome(call, inputs, call.parameters, **given, need_logsumexp=need_logsumexp)
    expect(found["output"].dtype == subject.dtype, f"the output is {found['output'].dtype}")
    expect("logsumexp" in found or not need_logsumexp, "the logsumexp was asked for, none was returned")
    expect("weights" in found or not need_weights, "the probabilities were asked for, none were returned")
    oracle = call.oracle()
    expected, _ = outcome(oracle, inputs.to(torch.float64), oracle.parameters, **given, through=through)
    if subject.dtype in (torch.float64, torch.float32):
        compare(found, expected, lambda name: subject.tolerance)
        return
    oracle = call.oracle(subject.dtype)
    plain, _ = outcome(oracle, inputs, oracle.parameters, **given, through=through)

    def allowed(name: str) -> float:
        # the error of the plainest computation in this type decides; one rounding is always granted
        factor = 3 if name.startswith("gradient") else 2
        return factor * relative_error(plain[name], expected[name]) + torch.finfo(subject.dtype).eps

    compare(found, expected, allowed)


def _drawn(subject: Subject, case: Case) -> tuple[Call, Inputs]:
    """The attention for a case, and the inputs. Raises NotSupportedError where it says that it cannot do this."""
    call, inputs = subject.draw(case)
    _refused(call, inputs, call.why_not(inputs))
    return call, inputs


def _refused(call: Call, inputs: Inputs, reason: str | None, **changes: object) -> None:
    """NotSupportedError where `supports` gave a reason and the call is refused with it; AssertionError where it is not."""
    if reason is None:
        return
    try:
        call(inputs, **changes)
    except NotSupportedError as error:
        expect(reason in str(error), f"the refusal must name {reason!r}: {error}")
        raise NotSupportedError(reason) from None
    expect(False, f"`supports` says that it cannot do {reason}, yet the call was not refused")


def _given_or_refused(subject: Subject, name: str) -> None:
    """Where gradients are not supported each tensor that asks for one is refused, and so is the logsumexp."""
    call, inputs = _drawn(subject, next(case for case in CASES if case.bias == "ALiBi"))
    if name == "logsumexp":
        _refused(call, inputs, call.why_not(inputs, need_logsumexp=True), need_logsumexp=True)
    elif not call.trains(inputs):
        inputs.leaves[name].requires_grad_()
        _refused(call, inputs, "gradient")


@cache
def _oracle_against_loops(case: Case, device: torch.device, fixed: Fixed) -> None:
    """Once per case and process."""

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
