"""Dropout, looked at from outside: with the identity as value, the output is the dropped probabilities themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from minitrans.attention.rules import AttentionResult
from minitrans.errors import NotSupportedError
from minitrans.testing.cases import Case, Inputs, Sizes, padding
from minitrans.testing.subject import Call, Subject, compare, expect, outcome, seeded

P = 0.3


def dropout_cases(width: int = 16) -> tuple[Case, ...]:
    """As many tokens as the head is wide, so that the identity fits."""
    sizes = Sizes(queries=width, keys=width, width=width)
    return (
        Case("dropout", sizes),
        Case("dropout, ALiBi", sizes, bias="ALiBi"),
        Case("dropout, grouped heads", replace(sizes, heads=6)),
        Case("dropout, padding", sizes, padding),
        Case("dropout, packed", replace(sizes, lengths=(width // 2, 0, width - width // 2))),
    )


def dropout_against_oracle(subject: Subject, case: Case) -> None:
    """Dropout must act on probabilities, at its rate, reproducibly, and the gradient must know what was dropped.

    Without `finish`, which may do to the output what it does not do to the probabilities.
    """
    call, inputs = subject.draw(case)
    call = replace(call, finishes=False)
    reason = call.why_not(inputs, dropout_p=P)
    if reason is not None:
        raise NotSupportedError(reason)
    weights = call.oracle(subject.dtype)(inputs, need_weights=True).weights  # (B, H, T, S)
    assert weights is not None
    factor, wide = what_was_dropped(call, inputs, weights), call.oracle()

    def known(inputs: Inputs, **changes: Any) -> AttentionResult:
        """The oracle with z given: (z · softmax) V."""
        result = wide(inputs, need_weights=True)
        assert result.weights is not None
        return AttentionResult(over_values(result.weights * factor.double(), inputs), logsumexp=result.logsumexp)

    def once(inputs: Inputs, **changes: Any) -> AttentionResult:
        with seeded(1, subject.device):
            return call(inputs, dropout_p=P)

    found, through = outcome(once, inputs, call.parameters)
    expected, _ = outcome(known, inputs.to(torch.float64), wide.parameters, through=through)
    try:
        compare(found, expected, lambda name: subject.tolerance)
    except AssertionError as error:
        raise AssertionError(f"with the probabilities dropped that this seed drops: {error}") from None


def over_values(weights: Tensor, inputs: Inputs) -> Tensor:
    """(B, H, T, K) or (N, H, K): the sums of values that probabilities (B, H, T, S) make."""
    packed = inputs.rules.layout is not None
    value = inputs.value.transpose(0, 1)[None] if packed else inputs.value  # (B, G, S, K)
    output = weights @ value.repeat_interleave(weights.shape[1] // value.shape[1], dim=1)
    return output[0].transpose(0, 1) if packed else output


def what_was_dropped(call: Call, inputs: Inputs, weights: Tensor) -> Tensor:
    """z (B, H, T, S) of seed 1: 0 where a probability was dropped, else 1 / (1 - p).

    Args:
        call: the attention.
        inputs: with as many keys as the heads are wide.
        weights: (B, H, T, S) probabilities before dropout.
    """
    value, dtype, packed = inputs.value, inputs.value.dtype, inputs.rules.layout is not None
    identity = torch.eye(value.shape[-1], dtype=dtype, device=value.device)
    revealing = inputs.having(value=(identity[:, None] if packed else identity).expand(value.shape))

    def output(seed: int) -> Tensor:
        with seeded(seed, value.device):
            return call(revealing, dropout_p=P).output

    found = output(1)
    expect(torch.equal(found, output(1)), "the same seed gave another result")
    expect(not torch.equal(found, output(2)), "another seed gave the same result: dropout does nothing")
    if packed:
        found = found.transpose(0, 1)[None]  # (N, H, N) -> (1, H, N, N)
    seen = weights.abs() > 1e-12
    ratio = torch.where(seen, found / weights.masked_fill(~seen, 1.0), 0.0)
    factor = (ratio > 0.5 / (1 - P)).to(dtype) / (1 - P)
    holds = torch.allclose(ratio, factor, atol=1e-3) and not bool((found.abs() * (1 - P) > 1e-12)[~seen].any())
    expect(holds, "dropout must act on probabilities: each must become 0 or itself / (1 - dropout_p)")
    rate = (factor[seen] == 0).double().mean().item()
    five_sigma = 5 * (P * (1 - P) / int(seen.sum())) ** 0.5
    expect(abs(rate - P) <= five_sigma, f"a share of {rate:.3f} was dropped, expected {P} +- {five_sigma:.3f}")
    return factor
