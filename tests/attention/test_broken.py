"""`check_attention` must find what is wrong: each attention here has one fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from minitrans.attention.contract import OPTIONS
from torch import Tensor
from torch.nn.functional import dropout

from minitrans.attention import AttentionMask, AttentionResult, DenseBias
from minitrans.attention.eager import EagerAttention
from minitrans.testing import check_attention

eager = EagerAttention()
Call = Callable[..., AttentionResult]


class Faulty:
    """An attention with a fault, which claims to be exact."""

    name = "faulty"
    exact = True

    def __init__(self, call: Call, supports: frozenset[str] = OPTIONS) -> None:
        self.call = call
        self.supports = supports

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> AttentionResult:
        return self.call(query, key, value, **options)


def wrong_scale(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> AttentionResult:
    return eager(q, k, v, **options | {"scale": options["scale"] * 1.001})


def own_scale(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> AttentionResult:
    return eager(q, k, v, **options | {"scale": q.shape[-1] ** -0.5})


def mask_ignored(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> AttentionResult:
    return eager(q, k, v, **options | {"mask": AttentionMask()})


def padding_ignored(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> AttentionResult:
    return eager(q, k, v, **options | {"mask": replace(options["mask"], key_padding=None)})


def window_turned_around(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> AttentionResult:
    mask = options["mask"]
    window = None if mask.window is None else mask.window[::-1]
    return eager(q, k, v, **options | {"mask": replace(mask, window=window)})


def global_tokens_ignored(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> AttentionResult:
    return eager(q, k, v, **options | {"mask": replace(options["mask"], global_tokens=None)})


def causal_from_the_first_key(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> AttentionResult:
    mask = options["mask"]
    if mask.causal and options["layout"] is None and 1 < q.shape[2] != k.shape[2]:
        lower = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()[None, None]
        dense = lower if mask.dense is None else lower & mask.dense
        mask = replace(mask, causal=False, dense=dense)
    return eager(q, k, v, **options | {"mask": mask})


def sequences_mixed(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> AttentionResult:
    if options["layout"] is None:
        return eager(q, k, v, **options)
    one = eager(*(t.transpose(0, 1)[None] for t in (q, k, v)), **options | {"layout": None})
    assert one.logsumexp is not None
    return AttentionResult(one.output[0].transpose(0, 1), one.weights, one.logsumexp[0].transpose(0, 1))


def heads_grouped_the_other_way(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> AttentionResult:
    axis = 1
    group = q.shape[axis] // k.shape[axis]
    repeats = [1] * k.dim()
    repeats[axis] = group
    return eager(q, k.repeat(repeats), v.repeat(repeats), **options)


def bias_without_gradient(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> AttentionResult:
    bias = options["bias"]
    if bias is not None and options["layout"] is None:
        options["bias"] = DenseBias(bias.to_dense(q, k, options["scale"]).detach())
    return eager(q, k, v, **options)


def key_without_gradient(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> AttentionResult:
    return eager(q, k.detach(), v, **options)


def empty_rows_nan(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> AttentionResult:
    result = eager(q, k, v, **options)
    assert result.logsumexp is not None
    output = torch.where((result.logsumexp == -torch.inf)[..., None], torch.nan, result.output)
    return replace(result, output=output)


def empty_rows_averaged(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> AttentionResult:
    result = eager(q, k, v, **options)
    assert result.logsumexp is not None
    return replace(result, output=torch.where((result.logsumexp == -torch.inf)[..., None], 0.1, result.output))


def logsumexp_in_base_two(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> AttentionResult:
    result = eager(q, k, v, **options)
    assert result.logsumexp is not None
    return replace(result, logsumexp=result.logsumexp / 0.6931)


def logsumexp_missing(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> AttentionResult:
    return replace(eager(q, k, v, **options), logsumexp=None)


def weights_missing(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> AttentionResult:
    return replace(eager(q, k, v, **options), weights=None)


def input_changed(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> AttentionResult:
    result = eager(q, k, v, **options)
    q.data.mul_(2)
    return result


def random_numbers_used(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> AttentionResult:
    torch.rand(1)
    return eager(q, k, v, **options)


def strides_ignored(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> AttentionResult:
    return eager(q, torch.as_strided(k, k.shape, torch.empty(k.shape).stride()), v, **options)


def output_in_float64(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> AttentionResult:
    result = eager(q, k, v, **options)
    return replace(result, output=result.output.double())


def careless_in_float32(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> AttentionResult:
    result = eager(q, k, v, **options)
    return replace(result, output=result.output * (1 + 3e-5)) if q.dtype == torch.float32 else result


def careless_in_bfloat16(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> AttentionResult:
    result = eager(q, k, v, **options)
    return replace(result, output=result.output * 1.05) if q.dtype == torch.bfloat16 else result


def dropout_on_output(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> AttentionResult:
    result = eager(q, k, v, **options | {"dropout_p": 0.0})
    return replace(result, output=dropout(result.output, options["dropout_p"]))


def dropout_not_made_up_for(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> AttentionResult:
    result = eager(q, k, v, **options)
    return replace(result, output=result.output * (1 - options["dropout_p"]))


def dropout_at_another_rate(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> AttentionResult:
    p = options["dropout_p"]
    result = eager(q, k, v, **options | {"dropout_p": p / 2})
    return replace(result, output=result.output * (1 - p / 2) / (1 - p))


def dropout_ignored(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> AttentionResult:
    return eager(q, k, v, **options | {"dropout_p": 0.0})


def dropout_unknown_to_the_gradient(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> AttentionResult:
    right = eager(q, k, v, **options)
    plain = eager(q, k, v, **options | {"dropout_p": 0.0})
    return replace(right, output=plain.output + (right.output - plain.output).detach())


FAULTS: dict[Call, str] = {
    wrong_scale: "plain, float64: output is off",
    own_scale: "scale 1, float64: output is off",
    mask_ignored: "padding, float64: output is off",
    padding_ignored: "padding, float64: output is off",
    window_turned_around: "asymmetric window, T < S, float64: output is off",
    global_tokens_ignored: "window and global tokens, float64: output is off",
    causal_from_the_first_key: "causal, T < S, float64: output is off",
    sequences_mixed: "packed, float64: output is off",
    heads_grouped_the_other_way: "grouped heads, float64: output is off",
    bias_without_gradient: "bias: dense, float64: gradient of the bias parameter is off",
    key_without_gradient: "plain, float64: gradient of the key is off",
    empty_rows_nan: "a sample of padding only, float64: output is off by inf",
    empty_rows_averaged: "a sample of padding only, float64: output is off",
    logsumexp_in_base_two: "plain, float64: logsumexp is off",
    logsumexp_missing: "plain, float64: `supports` promises a logsumexp",
    weights_missing: "plain, weights: the probabilities were asked for",
    input_changed: "plain, float64: the call changed its input query",
    random_numbers_used: "plain, float64: the call drew from the global random numbers",
    strides_ignored: "strided inputs, float64: output is off",
    output_in_float64: "plain, float32: the output is torch.float64",
    careless_in_float32: "plain, float32: output is off",
    careless_in_bfloat16: "plain, bfloat16: output is off",
    dropout_on_output: "with the probabilities dropped that this seed drops: output",
    dropout_not_made_up_for: "dropout: dropout must act on probabilities",
    dropout_at_another_rate: "dropout: a share of 0.1.. was dropped",
    dropout_ignored: "dropout: another seed gave the same result",
    dropout_unknown_to_the_gradient: "with the probabilities dropped that this seed drops: gradient",
}


@pytest.mark.parametrize(("call", "message"), FAULTS.items(), ids=[call.__name__ for call in FAULTS])
def test_fault_is_found(call: Call, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_attention(Faulty(call))


def test_without_a_fault_it_passes() -> None:
    report = check_attention(Faulty(eager))
    assert report.refused == ()


def test_a_word_that_is_no_option_is_found() -> None:
    with pytest.raises(AssertionError, match=r"unknown words: \['bias_gradient'\]"):
        check_attention(Faulty(eager, OPTIONS | {"bias_gradient"}))


@pytest.mark.parametrize("option", sorted(OPTIONS - {"logsumexp", "gradient", "float64"}))
def test_what_is_not_supported_is_refused_and_the_rest_still_runs(option: str) -> None:
    report = check_attention(Faulty(eager, OPTIONS - {option}))
    assert report.refused
    assert len(report.passed) + len(report.refused) >= len(check_attention(Faulty(eager)).passed) - 10


@pytest.mark.parametrize("option", ["gradient", "float64"])
def test_forward_only_and_float32_only(option: str) -> None:
    report = check_attention(Faulty(eager, OPTIONS - {option}))
    assert any(option in name for name in report.refused)
    with pytest.raises(AssertionError, match="plain, float.*: output is off"):
        check_attention(Faulty(wrong_scale, OPTIONS - {option}))
