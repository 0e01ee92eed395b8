"""`check_attention` must find what is wrong: each attention here has one fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import dropout

from minitrans.attention import AttentionMask, AttentionResult, AttentionRules, DenseBias, LayerSizes, Variant
from minitrans.attention.backend_selection import wants_gradient
from minitrans.attention.eager import EagerAttention
from minitrans.testing import check_attention

eager = EagerAttention()
Call = Callable[[Tensor, Tensor, Tensor, AttentionRules], AttentionResult]

# name -> whether a call needs it
OPTIONS: dict[str, Callable[[AttentionRules, Tensor], bool]] = {
    "key_padding": lambda rules, query: rules.mask.key_padding is not None,
    "causal": lambda rules, query: rules.mask.causal,
    "window": lambda rules, query: rules.mask.window is not None,
    "global_tokens": lambda rules, query: rules.mask.global_tokens is not None,
    "blocks": lambda rules, query: rules.mask.blocks is not None,
    "rule": lambda rules, query: rules.mask.rule is not None,
    "dense mask": lambda rules, query: rules.mask.dense is not None,
    "bias": lambda rules, query: rules.bias is not None,
    "packed": lambda rules, query: rules.layout is not None,
    "softcap": lambda rules, query: rules.softcap is not None,
    "dropout": lambda rules, query: rules.dropout_p > 0,
    "low precision": lambda rules, query: query.element_size() < 4,
    "logsumexp": lambda rules, query: rules.need_logsumexp,
    "gradient": lambda rules, query: torch.is_grad_enabled() and wants_gradient(rules, query),
    "float64": lambda rules, query: query.element_size() == 8,
}


class Faulty:
    """A backend with a fault, that claims to support all but `lacking`."""

    name = "faulty"

    def __init__(self, call: Call, lacking: str | None = None) -> None:
        self.call = call
        self.lacking = lacking

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        return self.lacking if self.lacking is not None and OPTIONS[self.lacking](rules, query) else None

    def remark(self, query: Tensor) -> str | None:
        return None

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        if self.lacking == "gradient" and any(t.requires_grad for t in (key, value)):
            from minitrans.errors import NotSupportedError

            raise NotSupportedError("gradient")
        return self.call(query, key, value, rules)


def wrong_scale(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    return eager(q, k, v, replace(rules, scale=rules.scale_for(q) * 1.001))


def own_scale(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    return eager(q, k, v, replace(rules, scale=None))


def no_softcap(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    return eager(q, k, v, replace(rules, softcap=None))


def softcap_after_the_bias(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    if rules.softcap is None or rules.bias is None or rules.layout is not None:
        return eager(q, k, v, rules)
    scores = rules.scale_for(q) * q @ k.transpose(-2, -1) + rules.bias.to_dense(q, k, rules.scale_for(q))
    scores = rules.softcap * torch.tanh(scores / rules.softcap)
    return eager(q, k, v, replace(rules, softcap=None, bias=DenseBias(scores), scale=0.0))


def mask_ignored(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    return eager(q, k, v, replace(rules, mask=AttentionMask()))


def padding_ignored(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    return eager(q, k, v, replace(rules, mask=replace(rules.mask, key_padding=None)))


def window_turned_around(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    window = None if rules.mask.window is None else rules.mask.window[::-1]
    return eager(q, k, v, replace(rules, mask=replace(rules.mask, window=window)))


def global_tokens_ignored(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    return eager(q, k, v, replace(rules, mask=replace(rules.mask, global_tokens=None)))


def rule_ignored(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    return eager(q, k, v, replace(rules, mask=replace(rules.mask, rule=None)))


def rule_of_the_first_head(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    rule = rules.mask.rule
    if rule is not None:
        rule = replace(rule, allows=lambda b, h, i, j, of=rule.allows: of(b, 0 * h, i, j))
    return eager(q, k, v, replace(rules, mask=replace(rules.mask, rule=rule)))


def causal_from_the_first_key(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    mask = rules.mask
    if mask.causal and rules.layout is None and 1 < q.shape[2] != k.shape[2]:
        lower = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()[None, None]
        dense = lower if mask.dense is None else lower & mask.dense
        mask = replace(mask, causal=False, dense=dense)
    return eager(q, k, v, replace(rules, mask=mask))


def sequences_mixed(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    if rules.layout is None:
        return eager(q, k, v, rules)
    one = eager(*(t.transpose(0, 1)[None] for t in (q, k, v)), replace(rules, layout=None))
    assert one.logsumexp is not None
    return AttentionResult(one.output[0].transpose(0, 1), one.weights, one.logsumexp[0].transpose(0, 1))


def heads_grouped_the_other_way(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    repeats = [1] * k.dim()
    repeats[1] = q.shape[1] // k.shape[1]
    return eager(q, k.repeat(repeats), v.repeat(repeats), rules)


def bias_without_gradient(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    if rules.bias is not None and rules.layout is None:
        rules = replace(rules, bias=DenseBias(rules.bias.to_dense(q, k, rules.scale_for(q)).detach()))
    return eager(q, k, v, rules)


def key_without_gradient(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    return eager(q, k.detach(), v, rules)


def empty_rows_nan(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    result = eager(q, k, v, rules)
    assert result.logsumexp is not None
    output = torch.where((result.logsumexp == -torch.inf)[..., None], torch.nan, result.output)
    return replace(result, output=output)


def empty_rows_averaged(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    result = eager(q, k, v, rules)
    assert result.logsumexp is not None
    return replace(result, output=torch.where((result.logsumexp == -torch.inf)[..., None], 0.1, result.output))


def logsumexp_in_base_two(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    result = eager(q, k, v, rules)
    assert result.logsumexp is not None
    return replace(result, logsumexp=result.logsumexp / 0.6931)


def logsumexp_missing(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    return replace(eager(q, k, v, rules), logsumexp=None)


def weights_wrong(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    result = eager(q, k, v, rules)
    return result if result.weights is None else replace(result, weights=result.weights * 1.001)


def input_changed(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    result = eager(q, k, v, rules)
    q.data.mul_(2)
    return result


def random_numbers_used(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    torch.rand(1)
    return eager(q, k, v, rules)


def strides_ignored(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    return eager(q, torch.as_strided(k, k.shape, torch.empty(k.shape).stride()), v, rules)


def output_in_float64(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    result = eager(q, k, v, rules)
    return replace(result, output=result.output.double())


def careless_in_float32(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    result = eager(q, k, v, rules)
    return replace(result, output=result.output * (1 + 3e-5)) if q.dtype == torch.float32 else result


def careless_in_bfloat16(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    result = eager(q, k, v, rules)
    return replace(result, output=result.output * 1.05) if q.dtype == torch.bfloat16 else result


def dropout_on_output(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    result = eager(q, k, v, replace(rules, dropout_p=0.0))
    return replace(result, output=dropout(result.output, rules.dropout_p))


def dropout_not_made_up_for(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    result = eager(q, k, v, rules)
    return replace(result, output=result.output * (1 - rules.dropout_p))


def dropout_at_another_rate(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    p = rules.dropout_p
    result = eager(q, k, v, replace(rules, dropout_p=p / 2))
    return replace(result, output=result.output * (1 - p / 2) / (1 - p))


def dropout_ignored(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    return eager(q, k, v, replace(rules, dropout_p=0.0))


def dropout_unknown_to_the_gradient(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    right = eager(q, k, v, rules)
    plain = eager(q, k, v, replace(rules, dropout_p=0.0))
    return replace(right, output=plain.output + (right.output - plain.output).detach())


FAULTS: dict[Call, str] = {
    wrong_scale: "faulty, plain, float64: output is off",
    own_scale: "scale 1, float64: output is off",
    no_softcap: "softcap, float64: output is off",
    softcap_after_the_bias: "softcap, T > S, causal, bias: dense, float64: output is off",
    mask_ignored: "padding, float64: output is off",
    padding_ignored: "padding, float64: output is off",
    window_turned_around: "asymmetric window, T < S, float64: output is off",
    global_tokens_ignored: "window and global tokens, float64: output is off",
    rule_ignored: "rule, float64: output is off",
    rule_of_the_first_head: "rule for each sample and head, T < S, float64: output is off",
    causal_from_the_first_key: "causal, T < S, float64: output is off",
    sequences_mixed: "packed, float64: output is off",
    heads_grouped_the_other_way: "grouped heads, float64: output is off",
    bias_without_gradient: "bias: dense, float64: gradient of the bias parameter is off",
    key_without_gradient: "plain, float64: gradient of the key is off",
    empty_rows_nan: "a sample of padding only, float64: output is off by inf",
    empty_rows_averaged: "a sample of padding only, float64: output is off",
    logsumexp_in_base_two: "plain, float64: logsumexp is off",
    logsumexp_missing: "plain, float64: the logsumexp was asked for, none was returned",
    weights_wrong: "plain, weights: weights is off",
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


class OwnKernel(Variant):
    """A variant that computes softmax attention itself and says so."""

    name = "own_kernel"
    exact = True
    call: Call = staticmethod(eager)  # type: ignore[assignment]

    def __init__(self, sizes: LayerSizes, call: Call = eager) -> None:
        super().__init__(sizes)
        self.call = call

    def compute(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        return self.call(query, key, value, rules)

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        return None


def weights_missing(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
    return replace(eager(q, k, v, rules), weights=None)


def test_a_variant_that_says_it_is_exact_is_compared_with_the_oracle() -> None:
    report = check_attention(OwnKernel, dtypes=(torch.float64,))
    assert "own_kernel, plain, float64" in report.passed
    with pytest.raises(AssertionError, match="own_kernel, plain, float64: output is off"):
        check_attention(lambda sizes: OwnKernel(sizes, wrong_scale))
    with pytest.raises(AssertionError, match="own_kernel, plain, weights: the probabilities were asked for"):
        check_attention(lambda sizes: OwnKernel(sizes, weights_missing), dtypes=(torch.float64,))


@pytest.mark.parametrize("option", sorted(OPTIONS.keys() - {"gradient", "float64"}))
def test_what_is_not_supported_is_refused_and_the_rest_still_runs(option: str) -> None:
    report = check_attention(Faulty(eager, option))
    whole = check_attention(Faulty(eager))
    assert report.refused
    assert all(line.endswith(f": {option}") for line in report.refused)
    assert len(report.passed) + len(report.refused) >= len(whole.passed) - 10


@pytest.mark.parametrize("option", ["gradient", "float64"])
def test_forward_only_and_float32_only(option: str) -> None:
    report = check_attention(Faulty(eager, option))
    assert any(option in name for name in report.refused)
    with pytest.raises(AssertionError, match="plain, float.*: output is off"):
        check_attention(Faulty(wrong_scale, option))


def test_a_backend_that_refuses_everything_has_not_passed() -> None:
    class Never(Faulty):
        def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
            return "anything today"

    with pytest.raises(AssertionError, match="even the plainest call is refused: .*anything today"):
        check_attention(Never(eager))


def test_supports_must_answer_in_words() -> None:
    class YesAndNo(Faulty):
        def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
            return False  # type: ignore[return-value]

    with pytest.raises(TypeError, match="`supports` must return what it cannot do, a str, or None, it returned False"):
        check_attention(YesAndNo(eager))
