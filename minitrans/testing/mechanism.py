"""What every attention keeps, also one that computes something else than softmax attention and has no oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask
from minitrans.testing.cases import CASES, Case, Inputs, Sizes, draw_inputs
from minitrans.testing.subject import Log, Subject, expect_refusal, lacking, outcome, relative_error, run

_SIZES = Sizes(batch=3, heads=4, groups=4, queries=8, keys=8)


def check_mechanism(subject: Subject, device: torch.device, log: Log) -> None:
    """Runs the checks of this file; where random numbers are used they are seeded alike."""
    dtype = torch.float64 if "float64" in subject.supports else torch.float32
    for name, (needs, check) in _CHECKS.items():
        if needs <= subject.supports:
            check(subject, draw_inputs(Case(name, _SIZES), device, dtype), f"{subject.name}, {name}")
            log.passed.append(f"{subject.name}, {name}")
    for case in CASES:
        inputs, where = draw_inputs(case, device, dtype), f"{subject.name}, {case.name}"
        missing = lacking(subject, inputs)
        if missing:
            expect_refusal(subject, inputs, missing, where)
            log.refused.append(where)
        else:
            _finite(subject, inputs, where)
            log.passed.append(where)


def _output(subject: Subject, inputs: Inputs) -> Tensor:
    with torch.random.fork_rng([inputs.query.device] if inputs.query.device.type == "cuda" else []):
        torch.manual_seed(0)
        return run(subject.call, inputs).output


def _same(found: Tensor, expected: Tensor, where: str, what: str) -> None:
    error = relative_error(found, expected)
    if not error <= (1e-10 if found.dtype == torch.float64 else 1e-5):
        raise AssertionError(f"{where}: {what} (off by {error:.1e})")


def _finite(subject: Subject, inputs: Inputs, where: str) -> None:
    found, _ = outcome(subject.call, inputs, gradient="gradient" in subject.supports)
    if found["output"].shape != inputs.query.shape or found["output"].dtype != inputs.query.dtype:
        raise AssertionError(f"{where}: the output must have the shape and dtype of the query")
    for name, tensor in found.items():
        if name != "logsumexp" and not bool(tensor.isfinite().all()):
            raise AssertionError(f"{where}: {name} holds NaN or infinities")


def _deterministic(subject: Subject, inputs: Inputs, where: str) -> None:
    _same(_output(subject, inputs), _output(subject, inputs), where, "the same call gave another result")


def _samples_apart(subject: Subject, inputs: Inputs, where: str) -> None:
    order = torch.tensor([2, 0, 1], device=inputs.query.device)
    turned = replace(inputs, query=inputs.query[order], key=inputs.key[order], value=inputs.value[order])
    _same(_output(subject, turned), _output(subject, inputs)[order], where, "another order of the samples changed them")


def _padding_unseen(subject: Subject, inputs: Inputs, where: str) -> None:
    real = torch.ones(inputs.query.shape[0], inputs.query.shape[2], dtype=torch.bool, device=inputs.query.device)
    real[0, 5:], real[1, 7:] = False, False
    inputs = replace(inputs, mask=AttentionMask(key_padding=real))
    noise = (~real)[:, None, :, None] * 7.0
    other = replace(inputs, query=inputs.query + noise, key=inputs.key + noise, value=inputs.value - noise)
    keep = real[:, None, :, None]
    _same(
        _output(subject, other).masked_fill(~keep, 0.0),
        _output(subject, inputs).masked_fill(~keep, 0.0),
        where,
        "what stands at padding changed real tokens",
    )


def _nothing_to_see(subject: Subject, inputs: Inputs, where: str) -> None:
    real = torch.ones(inputs.query.shape[0], inputs.query.shape[2], dtype=torch.bool, device=inputs.query.device)
    real[1] = False
    inputs = replace(inputs, mask=AttentionMask(key_padding=real))
    found, _ = outcome(subject.call, inputs, gradient="gradient" in subject.supports)
    for name, tensor in found.items():
        if name in {"logsumexp", "weights"}:
            continue
        if not bool(tensor.isfinite().all()) or bool((tensor[1] != 0).any()):
            raise AssertionError(f"{where}: {name} must be finite, and zero for a sample of padding only")


def _packed_as_separate(subject: Subject, inputs: Inputs, where: str) -> None:
    batch, heads, length, width = inputs.query.shape
    packed = replace(
        inputs,
        layout=PackedLayout.from_lengths([length] * batch, inputs.query.device),
        query=inputs.query.transpose(1, 2).reshape(batch * length, heads, width),
        key=inputs.key.transpose(1, 2).reshape(batch * length, heads, width),
        value=inputs.value.transpose(1, 2).reshape(batch * length, heads, width),
    )
    expected = _output(subject, inputs).transpose(1, 2).reshape(batch * length, heads, width)
    _same(_output(subject, packed), expected, where, "a packed batch differs from its sequences run by themselves")


def _weights_given(subject: Subject, inputs: Inputs, where: str) -> None:
    weights = run(subject.call, inputs, need_weights=True).weights
    if weights is None or weights.shape != (*inputs.query.shape[:3], inputs.key.shape[2]):
        raise AssertionError(f"{where}: `supports` promises weights, (B, H, T, S) were not returned")


# name -> (the options it needs, the check)
_CHECKS: dict[str, tuple[frozenset[str], Callable[[Subject, Inputs, str], None]]] = {
    "same call, same result": (frozenset(), _deterministic),
    "samples do not see each other": (frozenset(), _samples_apart),
    "padding is not seen": (frozenset({"key_padding"}), _padding_unseen),
    "a sample of padding only gives zeros": (frozenset({"key_padding"}), _nothing_to_see),
    "weights": (frozenset({"weights"}), _weights_given),
    "packed equals separate": (frozenset({"packed"}), _packed_as_separate),
}
