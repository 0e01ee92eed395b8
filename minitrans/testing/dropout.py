"""Dropout, looked at from outside: with the identity as value, the output is the dropped probabilities themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from minitrans.attention.contract import AttentionResult
from minitrans.attention.mask import AttentionMask
from minitrans.testing.cases import Case, Draw, Inputs, Sizes, draw_inputs
from minitrans.testing.subject import Call, Log, Subject, compare, expect_refusal, lacking, oracle, outcome, run

_P = 0.3
_LENGTH = 16  # tokens and head width, so that the identity fits
_SIZES = Sizes(queries=_LENGTH, keys=_LENGTH, width=_LENGTH)


def _padding(sizes: Sizes, draw: Draw) -> AttentionMask:
    return AttentionMask(key_padding=draw(sizes.batch, sizes.keys))


_CASES = (
    Case("dropout", _SIZES),
    Case("dropout, padding", _SIZES, _padding),
    Case("dropout, ALiBi", _SIZES, bias="ALiBi"),
    Case("dropout, grouped heads", replace(_SIZES, heads=6)),
    Case("dropout, packed", replace(_SIZES, lengths=(7, 0, 9))),
)


def check_dropout(subject: Subject, device: torch.device, dtype: torch.dtype, log: Log) -> None:
    """Dropout must act on probabilities, at its rate, reproducibly, and the gradient must know what was dropped."""
    for case in _CASES:
        inputs = draw_inputs(case, device, dtype)
        missing = lacking(subject, inputs, dropout_p=_P)
        if missing:
            expect_refusal(subject, inputs, missing, f"{subject.name}, {case.name}", dropout_p=_P)
            log.refused.append(f"{subject.name}, {case.name}")
            continue
        _check(subject, inputs, dtype, f"{subject.name}, {case.name}")
        log.passed.append(f"{subject.name}, {case.name}")


def _check(subject: Subject, inputs: Inputs, dtype: torch.dtype, where: str) -> None:
    identity = torch.eye(_LENGTH, dtype=dtype, device=inputs.value.device)
    if inputs.layout is not None:
        identity = identity[:, None]
    revealing = replace(inputs, value=identity.expand(inputs.value.shape))
    dropped = run(_seeded(subject, 1), revealing).output
    if not torch.equal(dropped, run(_seeded(subject, 1), revealing).output):
        raise AssertionError(f"{where}: the same seed gave another result")
    if torch.equal(dropped, run(_seeded(subject, 2), revealing).output):
        raise AssertionError(f"{where}: another seed gave the same result")
    if inputs.layout is not None:
        dropped = dropped.transpose(0, 1)[None]  # (N, H, N) -> (1, H, N, N)

    weights = run(oracle(subject), inputs, need_weights=True).weights  # (B, H, T, S)
    assert weights is not None
    seen = weights > 0
    ratio = torch.where(seen, dropped / weights.masked_fill(~seen, 1.0), 0.0)
    factor = (ratio > 0.5 / (1 - _P)).to(dtype) / (1 - _P)  # z: 0 or 1 / (1 - p)
    if not torch.allclose(ratio, factor, atol=1e-3) or bool((dropped != 0)[~seen].any()):
        raise AssertionError(
            f"{where}: dropout must act on probabilities: each must become 0 or itself / (1 - dropout_p)"
        )
    rate = (factor[seen] == 0).double().mean().item()
    five_sigma = 5 * (_P * (1 - _P) / int(seen.sum())) ** 0.5
    if abs(rate - _P) > five_sigma:
        raise AssertionError(f"{where}: a share of {rate:.3f} was dropped, expected {_P} +- {five_sigma:.3f}")

    gradient = "gradient" in subject.supports
    found, through = outcome(_seeded(subject, 1), inputs, gradient=gradient)
    expected, _ = outcome(_dropped(subject, factor), inputs.to(torch.float64), gradient=gradient, through=through)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    compare(found, expected, f"{where}, with the probabilities dropped that this seed drops", lambda name: tolerance)


def _seeded(subject: Subject, seed: int) -> Call:
    """The subject with dropout, under a seed, leaving the global random numbers as they were."""

    def call(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> AttentionResult:
        options["dropout_p"] = _P
        with torch.random.fork_rng([query.device] if query.device.type == "cuda" else []):
            torch.manual_seed(seed)
            return subject.call(query, key, value, **options)

    return call


def _dropped(subject: Subject, factor: Tensor) -> Call:
    """The oracle with z given: (z · softmax) V; factor (B, H, T, S)."""

    def call(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> AttentionResult:
        options["need_weights"] = True
        result = oracle(subject)(query, key, value, **options)
        assert result.weights is not None
        packed = options["layout"] is not None
        values = value.transpose(0, 1)[None] if packed else value  # (B, G, S, K)
        values = values.repeat_interleave(factor.shape[1] // values.shape[1], dim=1)
        output = (result.weights * factor.to(query.dtype)) @ values
        return AttentionResult(output[0].transpose(0, 1) if packed else output, logsumexp=result.logsumexp)

    return call
