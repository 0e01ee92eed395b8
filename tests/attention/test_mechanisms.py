"""`check_attention` on variants: right ones, ones with a fault, and things that are no attention at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, elu

from minitrans.attention import (
    ALiBi,
    AttentionBias,
    AttentionMask,
    AttentionResult,
    AttentionRules,
    CallSizes,
    Context,
    DenseBias,
    LayerSizes,
    MaskRule,
    SummedBias,
    Variant,
    attend,
)
from minitrans.attention.mask import NO_MASK
from minitrans.attention.packed import by_sequence
from minitrans.attention.variants.sigmoid import Sigmoid
from minitrans.attention.variants.sink import Sink
from minitrans.attention.variants.sliding_window import SlidingWindow
from minitrans.attention.variants.talking_heads import TalkingHeads
from minitrans.errors import NotSupportedError
from minitrans.layers import multi_head_attention
from minitrans.layers.multi_head_attention import MultiHeadAttention
from minitrans.testing import check_attention, subject

Bias = AttentionBias | None
FLOAT64 = (torch.float64,)


class Average(Variant):
    """Every query gets the mean of the values it may see."""

    name = "average"

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__(sizes)
        if sizes.kv_heads != sizes.heads:
            raise ValueError("average has as many key heads as query heads")

    def compute(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        if rules.layout is not None:
            value = value.transpose(0, 1)[None]
        queries, keys = (query.shape[0],) * 2 if rules.layout is not None else (query.shape[2], key.shape[2])
        allowed = rules.mask.to_dense(queries, keys, query.device, rules.layout)
        weights = torch.ones(1, 1, queries, keys).to(value) if allowed is None else allowed.to(value)
        weights = weights.expand(value.shape[0], 1, queries, keys)
        output = (weights / weights.sum(-1, keepdim=True).clamp(min=1)) @ value + 0 * query.sum()
        return AttentionResult(output[0].transpose(0, 1) if rules.layout is not None else output)

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        mask = rules.mask
        lacking = {
            "windows": mask.window is not None, "blocks": mask.blocks is not None, "rules": mask.rule is not None,
            "dense masks": mask.dense is not None, "a bias": rules.bias is not None, "softcap": rules.softcap is not None,
            "dropout": rules.dropout_p > 0, "probabilities": rules.need_weights, "the logsumexp": rules.need_logsumexp,
        }  # fmt: skip
        return next((name for name, asked in lacking.items() if asked), None)


class Unmasked(Average):
    def compute(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        return super().compute(query, key, value, replace(rules, mask=NO_MASK))


class DividesByZero(Average):
    def compute(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        output = super().compute(query, key, value, rules).output
        padding = rules.mask.key_padding
        if padding is None:
            return AttentionResult(output)
        return AttentionResult(output / padding.any(1)[:, None, None, None].to(output))


class MixesSamples(Average):
    def compute(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        output = super().compute(query, key, value, rules).output
        return AttentionResult(output + value[:1].mean())


class MixesSequences(Average):
    def compute(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        output = super().compute(query, key, value, rules).output
        return AttentionResult(output + value.mean() if rules.layout is not None else output)


class PromisesWeights(Average):
    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        return super().supports(replace(rules, need_weights=False), query)


class Forgets(Average):
    calls = 0

    def compute(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        self.calls += 1
        return AttentionResult(super().compute(query, key, value, rules).output + self.calls)


def test_a_right_one_passes_and_refuses_the_rest() -> None:
    report = check_attention(Average)
    assert "average, packed, plain" in report.passed
    assert (
        "average, grouped heads: average has as many key heads as query heads (built for H=4, G=2, K=8)"
        in report.refused
    )
    assert "average, dropout: does not support dropout" in report.refused


@pytest.mark.parametrize(
    ("faulty", "message"),
    [
        (Unmasked, "key padding, T = S: what is forbidden changes nothing"),
        (DividesByZero, "a sample of padding only: output holds NaN or infinities"),
        (MixesSamples, "samples do not see each other: another order of the samples changed them"),
        (MixesSequences, "packed, plain: a packed batch differs from its sequences"),
        (PromisesWeights, "probabilities: the probabilities were asked for"),
        (Forgets, "plain: the same call gave another result"),
    ],
)
def test_fault_of_an_average_is_found(faulty: type[Average], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_attention(faulty, dtypes=FLOAT64)


# ---- right ones, of kinds that are not in the box: no false alarm


class Gate(Variant):
    """The output of a head times a gate made of x (Qiu et al. 2025); its weights are drawn at random."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__(sizes)
        self.gate = nn.Linear(sizes.width, sizes.heads)

    def finish(self, result: AttentionResult, x: Tensor, context: Context) -> AttentionResult:
        gate = torch.sigmoid(self.gate(x))
        gate = gate[..., None] if context.layout is not None else gate.transpose(1, 2)[..., None]
        return replace(result, output=result.output * gate)


class LearnedSlopes(Variant):
    """ALiBi with slopes that are learned, added to the bias there is."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__(sizes)
        self.slopes = nn.Parameter(ALiBi.default_slopes(sizes.heads))

    def restrict(self, mask: AttentionMask, bias: Bias, sizes: CallSizes) -> tuple[AttentionMask, Bias]:
        own = ALiBi(self.slopes)
        return mask, own if bias is None else SummedBias(bias, own)


class Linear(Variant):
    """elu + 1 as feature map (Katharopoulos et al. 2020): it knows key padding alone, and says so."""

    def compute(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        return by_sequence(self.rectangle, query, key, value, rules)

    def rectangle(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        group = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        query, key = elu(query) + 1, elu(key) + 1
        if rules.mask.key_padding is not None:
            key = key * rules.mask.key_padding[:, None, :, None]
        sums = query @ key.sum(-2)[..., None]
        return AttentionResult(query @ (key.transpose(-2, -1) @ value) / sums.clamp(min=1e-6))

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        mask = rules.mask
        if mask.causal or any(part is not None for part in (mask.window, mask.blocks, mask.rule, mask.dense)):
            return "masks but key padding"
        others = rules.bias is not None or rules.scale is not None or rules.softcap is not None or rules.dropout_p > 0
        return "more than key padding" if others or rules.need_weights or rules.need_logsumexp else None


class Relu(Sigmoid):
    """ReLU in the place of softmax, over the number of keys (Wortsman et al. 2023)."""

    def weights(self, scores: Tensor, allowed: Tensor) -> Tensor:
        return torch.relu(scores) / allowed.sum(-1, keepdim=True).clamp(min=1)


@pytest.mark.parametrize("variant", [Gate, LearnedSlopes, Linear, Relu])
def test_right_ones_pass(variant: type[Variant], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "BACKENDS", ["eager", "sdpa", "online_softmax", "triton"])
    state = torch.get_rng_state()
    report = check_attention(variant)
    assert len(report.passed) > 20
    assert torch.equal(torch.get_rng_state(), state)


# ---- faults in a mechanism that keeps every rule


class OfSigmoid(Sigmoid):
    """Sigmoid attention whose rules or tensors are changed before it sees them."""

    def change(
        self, q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules
    ) -> tuple[Tensor, Tensor, Tensor, AttentionRules]:
        return q, k, v, rules

    def compute(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        return super().compute(*self.change(query, key, value, rules))


def without(**parts: Any) -> Callable[..., Any]:
    return lambda self, q, k, v, rules: (q, k, v, replace(rules, mask=replace(rules.mask, **parts)))


def ruled(**changes: Any) -> Callable[..., Any]:
    return lambda self, q, k, v, rules: (q, k, v, replace(rules, **changes))


def wrong_scale(self: Any, q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> Any:
    return q, k, v, replace(rules, scale=rules.scale_for(q) ** 2)


def rule_of_the_first_sample(self: Any, q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> Any:
    rule = rules.mask.rule
    if rule is not None:
        rule = replace(rule, allows=lambda b, h, i, j: rules.mask.rule.allows(0 * b, h, i, j))  # type: ignore[union-attr]
    return q, k, v, replace(rules, mask=replace(rules.mask, rule=rule))


def padding_at_the_end(self: Any, q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> Any:
    """Takes the number of real tokens for what is real."""
    real = rules.mask.key_padding
    if real is not None:
        real = torch.arange(real.shape[1]) < real.sum(1, keepdim=True)
    return q, k, v, replace(rules, mask=replace(rules.mask, key_padding=real))


def heads_the_other_way(self: Any, q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> Any:
    repeats = [1, q.shape[1] // k.shape[1], *[1] * (k.dim() - 2)]
    return q, k.repeat(repeats), v.repeat(repeats), rules


def input_changed(self: Any, q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> Any:
    k.data.mul_(1.5)
    return q, k, v, rules


def random_numbers(self: Any, q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> Any:
    torch.rand(1)
    return q, k, v, rules


def masked_by_a_small_number(self: Any, q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> Any:
    """-1e4 for what is forbidden, as some write it: a score of 1e5 wins against it."""
    allowed = None if rules.layout is not None else rules.mask.to_dense(q.shape[2], k.shape[2], q.device)
    if allowed is None or not allowed.any(-1).all():
        return q, k, v, rules
    bias = torch.zeros(1, 1, q.shape[2], k.shape[2], dtype=q.dtype).masked_fill(~allowed, -1e4)
    if rules.bias is not None:
        bias = bias + rules.bias.to_dense(q, k, rules.scale_for(q))
    return q, k, v, replace(rules, mask=NO_MASK, bias=DenseBias(bias))


def bias_detached(self: Any, q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> Any:
    bias = rules.bias
    if bias is not None and rules.layout is None:
        bias = DenseBias(bias.to_dense(q, k, rules.scale_for(q)).detach())
    return q, k, v, replace(rules, bias=bias)


def bias_clamped(self: Any, q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> Any:
    bias = rules.bias
    if isinstance(bias, DenseBias):
        bias = DenseBias(bias.values.clamp(min=-5.0))
    return q, k, v, replace(rules, bias=bias)


def bias_halved(self: Any, q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> Any:
    bias = rules.bias
    if bias is not None and rules.layout is None:
        bias = DenseBias(bias.to_dense(q, k, rules.scale_for(q)) / 2)
    return q, k, v, replace(rules, bias=bias)


def slopes_doubled(self: Any, q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> Any:
    bias = ALiBi(2 * rules.bias.slopes) if isinstance(rules.bias, ALiBi) else rules.bias
    return q, k, v, replace(rules, bias=bias)


def mask_of_the_first_head(self: Any, q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> Any:
    dense = rules.mask.dense
    return q, k, v, replace(rules, mask=replace(rules.mask, dense=None if dense is None else dense[:, :1]))


PLANTED: dict[str, tuple[Callable[..., Any], str]] = {
    # the five of a first trial
    "ignores window, causal and dense": (
        without(window=None, causal=False, dense=None, global_tokens=None), "causal, T = S: what is forbidden changes nothing"
    ),
    "ignores window": (without(window=None), "window, T = S: what is forbidden changes nothing"),
    "ignores causal": (without(causal=False), "causal, T = S: what is forbidden changes nothing"),
    "ignores dense": (without(dense=None), "dense form|dense, T = S: what is forbidden"),
    "ignores bias": (ruled(bias=None), "a bias: a bias changed nothing"),
    "ignores scale": (ruled(scale=None), "the scale: a scale twice as large"),
    "ignores dropout": (ruled(dropout_p=0.0), "dropout: dropout changed nothing"),
    "no gradient to q": (lambda self, q, k, v, rules: (q.detach(), k, v, rules), "gradients: the gradient of the query is wrong"),
    # and more of the kind
    "no gradient to k": (lambda self, q, k, v, rules: (q, k.detach(), v, rules), "gradients: the gradient of the key is wrong"),
    "no gradient to the bias": (bias_detached, "gradients, causal, bias: dense: the gradient of the bias parameter"),
    "ignores key padding": (without(key_padding=None), "key padding, T = S: what is forbidden changes nothing"),
    "ignores global tokens": (without(global_tokens=None), "window and global tokens, T = S: .*differs from (a mask|its dense form)"),
    "ignores blocks": (without(blocks=None), "blocks, T = S: what is forbidden"),
    "ignores the rule": (without(rule=None), "rule, T = S: what is forbidden changes nothing"),
    "the rule of the first sample": (rule_of_the_first_sample, "rule of each: a (packed|padded) batch differs"),
    "padding at the end": (padding_at_the_end, "key padding, T = S: what is forbidden changes nothing"),
    "the scale squared": (wrong_scale, "the scale: "),
    "ignores softcap": (ruled(softcap=None), "the softcap: a softcap changed nothing"),
    "one softcap": (lambda self, q, k, v, rules: (q, k, v, replace(rules, softcap=rules.softcap and 1.0)), "far above all scores"),
    "grouped the other way": (heads_the_other_way, "grouped heads: grouped heads differ"),
    "changes its input": (input_changed, "plain: the call changed its input key"),
    "random numbers": (random_numbers, "plain: the call drew from the global random numbers"),
    "half the dropout": (
        lambda self, q, k, v, rules: (q, k, v, replace(rules, dropout_p=rules.dropout_p / 2)), "dropout: .*(share of|itself)"
    ),
    "ignores the values": (
        lambda self, q, k, v, rules: (q, k, torch.ones_like(v), rules), "values matter: other values gave the same result"
    ),
    "a bias no lower than -5": (bias_clamped, "a bias of -1e9 is a mask: a bias of -1e9 differs from a mask"),
    "half the bias": (bias_halved, "scores as a bias: half the scores given as a bias differ from the scores"),
    "ALiBi twice": (slopes_doubled, "bias: ALiBi: a bias is its dense form: a bias differs"),
    "the mask of the first head": (mask_of_the_first_head, "a mask for each head: the mask of the first head was taken for all"),
    "a mask of -1e4": (masked_by_a_small_number, "a bias lifted a mask"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_planted_in_a_mechanism(name: str) -> None:
    change, message = PLANTED[name]
    planted = type("Planted", (OfSigmoid,), {"change": change})
    with pytest.raises(AssertionError, match=message):
        check_attention(planted, dtypes=FLOAT64)


class DropsOutput(Sigmoid):
    def compute(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        result = super().compute(query, key, value, replace(rules, dropout_p=0.0))
        return replace(result, output=dropout(result.output, rules.dropout_p))


class ShrinksWithDropout(Sigmoid):
    def compute(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        result = super().compute(query, key, value, rules)
        return replace(result, output=result.output * (1 - rules.dropout_p))


class OtherWeights(Sigmoid):
    def compute(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        result = super().compute(query, key, value, rules)
        return result if result.weights is None else replace(result, weights=result.weights.softmax(-1))


class NarrowWindow(Sigmoid):
    """A window one key too narrow; without a bias to compare it with."""

    def rectangle(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        if rules.mask.window == (2, 1):
            rules = replace(rules, mask=replace(rules.mask, window=(1, 1)))
        return super().rectangle(query, key, value, rules)

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        return "a bias" if rules.bias is not None else super().supports(rules, query)


class CountsPadding(Sigmoid):
    """n is the length of the padded row: the same sentence is another one in another batch."""

    def weights(self, scores: Tensor, allowed: Tensor) -> Tensor:
        return torch.sigmoid(scores - torch.tensor(float(scores.shape[-1])).log())


class ForgetsAParameter(TalkingHeads):
    def compute(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        trains = self.weights_mix.requires_grad
        self.weights_mix.requires_grad_(False)
        result = super().compute(query, key, value, rules)
        self.weights_mix.requires_grad_(trains)
        return result


class DoubleInside(Sigmoid):
    def compute(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        result = super().compute(query, key, value, rules)
        return replace(result, output=result.output.double())


@pytest.mark.parametrize(
    ("faulty", "message"),
    [
        (DropsOutput, "dropout: dropout must act on probabilities"),
        (ShrinksWithDropout, "dropout: dropout moved the mean by"),
        (OtherWeights, "probabilities: probabilities times values are not the output"),
        (NarrowWindow, "window, T = S: a mask is its dense form: a mask differs from its dense form"),
        (CountsPadding, "padded, plain: a padded batch differs from its sequences run alone"),
        (ForgetsAParameter, "gradients: the gradient of the parameter weights_mix is wrong"),
        (DoubleInside, "float32: the output is torch.float64"),
    ],
)
def test_fault_of_a_mechanism_is_found(faulty: type[Variant], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_attention(faulty)


# ---- faults in the other hooks


class DropsPadding(Variant):
    name = "drops_padding"

    def restrict(self, mask: AttentionMask, bias: Bias, sizes: CallSizes) -> tuple[AttentionMask, Bias]:
        return replace(mask, key_padding=None), bias


class ReplacesWindow(SlidingWindow):
    def restrict(self, mask: AttentionMask, bias: Bias, sizes: CallSizes) -> tuple[AttentionMask, Bias]:
        return replace(mask, window=(2, 2)), bias


class ReplacesRule(Variant):
    def restrict(self, mask: AttentionMask, bias: Bias, sizes: CallSizes) -> tuple[AttentionMask, Bias]:
        return replace(mask, rule=MaskRule(lambda b, h, i, j: (i - j).abs() < 3)), bias


class FromTheFirstKey(Variant):
    """Forgets that query i of T stands at i + S - T."""

    def restrict(self, mask: AttentionMask, bias: Bias, sizes: CallSizes) -> tuple[AttentionMask, Bias]:
        if sizes.layout is not None:
            raise NotSupportedError("packed batches")
        near = (torch.arange(sizes.queries)[:, None] - torch.arange(sizes.keys)).abs() < 2
        dense = near[None, None]
        return replace(mask, dense=dense if mask.dense is None else dense & mask.dense), bias


class DropsBias(Variant):
    def restrict(self, mask: AttentionMask, bias: Bias, sizes: CallSizes) -> tuple[AttentionMask, Bias]:
        return mask, None


class PlaceInTheBatch(Variant):
    """Takes the place in a packed batch for the place in the text. (Rotary may: distances are the same.)"""

    def project(self, query: Tensor, key: Tensor, value: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        assert context.positions is not None
        if context.layout is not None:
            return query * (1 + 0.1 * torch.arange(len(query)))[:, None, None], key, value
        return query * (1 + 0.1 * context.positions)[:, None, :, None], key, value


class MixesTokens(Variant):
    """The sum of all values is added to each: padding, and the future, are looked at."""

    def project(self, query: Tensor, key: Tensor, value: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        if context.layout is not None:
            raise NotSupportedError("packed batches")
        return query, key, value + value.sum(-2, keepdim=True)


class NoGradient(Variant):
    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__(sizes)
        self.factor = nn.Parameter(torch.ones(sizes.head_width))

    def project(self, query: Tensor, key: Tensor, value: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        return query * self.factor.detach(), key, value


class Widens(Variant):
    def project(self, query: Tensor, key: Tensor, value: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        return query.double() if query.dtype == torch.float32 else query, key, value


class PackedSink(Sink):
    """Its logits meet the wrong axis of a packed batch."""

    def finish(self, result: AttentionResult, x: Tensor, context: Context) -> AttentionResult:
        if context.layout is None:
            return super().finish(result, x, context)
        assert result.logsumexp is not None
        assert self.logit is not None
        left = torch.sigmoid(result.logsumexp - self.logit.mean())
        return replace(result, output=result.output * left[..., None])


class MeanGate(Variant):
    """The gate of a token is made of all tokens."""

    def finish(self, result: AttentionResult, x: Tensor, context: Context) -> AttentionResult:
        return replace(result, output=result.output * torch.sigmoid(x.mean()))


@pytest.mark.parametrize(
    ("faulty", "message"),
    [
        (
            DropsPadding,
            r"restrict narrows: `restrict` allows pairs that the mask forbids \(key padding\): it may only narrow",
        ),
        (lambda sizes: ReplacesWindow(sizes, window=4), r"allows pairs that the mask forbids \(window"),
        (ReplacesRule, r"allows pairs that the mask forbids \(rule\)"),
        (FromTheFirstKey, "in a block, token by token: token by token, with a cache, differs from the whole"),
        (DropsBias, "a bias changed nothing"),
        (PlaceInTheBatch, "in a block, packed: a packed batch differs from its sequences"),
        (MixesTokens, "in a block, .*: what a token holds changed tokens that may not attend to it"),
        (NoGradient, "in a block, gradients: the gradient of the parameter factor is wrong"),
        (Widens, "in a block, float32: .*float64"),
        (PackedSink, "packed, plain: a packed batch differs"),
        (MeanGate, "samples|packed|differs"),
    ],
)
def test_fault_of_another_hook_is_found(faulty: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "BACKENDS", ["eager"])  # the others run the same hooks
    with pytest.raises(AssertionError, match=message):
        check_attention(faulty, dtypes=(torch.float64, torch.float32))


def test_a_block_that_treats_backends_differently_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(*tensors: Any, backend: str) -> AttentionResult:
        result = attend(*tensors, backend=backend)
        return result if backend == "eager" else replace(result, output=result.output * 1.01)

    monkeypatch.setattr(subject, "BACKENDS", ["eager", "sdpa"])
    monkeypatch.setattr(multi_head_attention, "attend", other)
    with pytest.raises(
        AssertionError, match="rotary on sdpa, in a block, against eager: output differs from that on eager"
    ):
        check_attention("rotary", dtypes=FLOAT64)


def test_a_pattern_that_a_backend_cannot_run_is_found() -> None:
    """`flex` looks at positions one by one; a rule that asks for values cannot be traced."""

    class Peeks(Variant):
        def restrict(self, mask: AttentionMask, bias: Bias, sizes: CallSizes) -> tuple[AttentionMask, Bias]:
            return mask.narrowed(MaskRule(lambda b, h, i, j: (i - j).abs() <= max(i.max().item(), 1))), bias

    with pytest.raises(AssertionError, match="Peeks on flex, plain, float64: "):
        check_attention(Peeks, dtypes=FLOAT64)


# ---- sizes


class FourHeads(Variant):
    """Made for four heads, and says nothing."""

    name = "four_heads"

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__(sizes)
        self.mix = nn.Parameter(torch.eye(4))

    def compute(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        result = Sigmoid(self.sizes).compute(query, key, value, rules)
        spec = "gh,ngk->nhk" if rules.layout is not None else "gh,bgtk->bhtk"
        return replace(result, output=torch.einsum(spec, self.mix, result.output))

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        return "probabilities" if rules.need_weights else None


def test_a_fixed_number_of_heads_and_a_width() -> None:
    report = check_attention(FourHeads, heads=4, dtypes=FLOAT64)
    assert "four_heads, grouped heads" in report.passed
    report = check_attention(FourHeads, heads=4, kv_heads=2, head_width=6, dtypes=FLOAT64)
    assert "four_heads, grouped heads" in report.passed
    with pytest.raises(
        AssertionError, match="four_heads, .*: RuntimeError: .*heads=, kv_heads= and head_width= choose"
    ):
        check_attention(FourHeads, heads=3, dtypes=FLOAT64)


def test_an_object_is_checked_in_its_own_sizes() -> None:
    variant = TalkingHeads(LayerSizes(24, 6, 3, 8))
    before = variant.scores_mix.clone()
    assert check_attention(variant, dtypes=FLOAT64).passed
    assert torch.equal(variant.scores_mix, before)


def test_sizes_that_a_variant_refuses_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "BACKENDS", ["eager"])
    report = check_attention("rotary", dtypes=FLOAT64)
    assert [line for line in report.refused if "odd sizes" in line] == [
        "rotary on eager, odd sizes, float64: rotary attention turns pairs: the head width must be even, got 5 "
        "(built for H=2, G=2, K=5)"
    ]
    message = r"must be even, got 7 \(built for H=3, G=3, K=7\); heads=, kv_heads= and head_width= choose other sizes"
    with pytest.raises(ValueError, match=message):
        check_attention("rotary", head_width=7)


# ---- what is no attention


class NoVariant:
    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q


class NoHooks(Variant):
    def forward(self, x: Tensor) -> Tensor:
        return x


class OldSignature(Variant):
    def restrict(self, mask: AttentionMask, bias: Bias) -> tuple[AttentionMask, Bias]:  # type: ignore[override]
        return mask, bias


class NoSuper(Variant):
    def __init__(self, sizes: LayerSizes) -> None:
        nn.Module.__init__(self)


class ReturnsTensor(Variant):
    def compute(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        return query  # type: ignore[return-value]


class ReturnsMask(Variant):
    def restrict(self, mask: AttentionMask, bias: Bias, sizes: CallSizes) -> tuple[AttentionMask, Bias]:
        return mask  # type: ignore[return-value]


class FinishesWithTensor(Variant):
    def finish(self, result: AttentionResult, x: Tensor, context: Context) -> AttentionResult:
        return result.output  # type: ignore[return-value]


class ProjectsOne(Variant):
    def project(self, query: Tensor, key: Tensor, value: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        return query  # type: ignore[return-value]


A_VARIANT = r"an attention is a minitrans.Variant: a class .*compute\(query, key, value, rules\) -> AttentionResult"


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (lambda q, k, v: q, "attention must be a name, .*a minitrans.Variant"),
        (7, "attention must be a name"),
        (NoVariant, "attention must be a name"),
        (NoVariant(), "attention must be a name"),
        (lambda sizes: NoVariant(), "attention must be a name"),
        (
            NoHooks,
            "NoHooks has none of the hooks project, restrict, compute, finish, it has `forward`, which nobody calls",
        ),
        (OldSignature, r"OldSignature.restrict must take \(mask, bias, sizes\): too many positional arguments"),
        (NoSuper, r"NoSuper does not call super\(\).__init__\(sizes\)"),
        (ReturnsTensor, "compute must return AttentionResult, it returned Tensor"),
        (ReturnsMask, r"ReturnsMask.restrict must return \(mask, bias\), it returned AttentionMask"),
        (FinishesWithTensor, "FinishesWithTensor.finish must return AttentionResult, it returned Tensor"),
        (ProjectsOne, r"ProjectsOne.project must return \(query, key, value\), it returned Tensor"),
    ],
)
def test_what_is_no_attention_is_told_what_one_has(thing: Any, message: str) -> None:
    with pytest.raises(TypeError, match=rf"(?s){message}.*{A_VARIANT}"):
        check_attention(thing, dtypes=FLOAT64)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("fall", ValueError, "unknown attention variant 'fall'; the nearest is 'full'"),
        ({"name": "sliding_window"}, TypeError, "missing a required argument: 'window'; its options: window$"),
        ({"name": "sliding_window", "window": 3}, ValueError, "window must be an even number of at least 2, got 3"),
    ],
)
def test_wrong_names_and_options_say_so(spec: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_attention(spec)


# ---- how blocks treat a mechanism


def test_refusal_names_what_it_cannot_do() -> None:
    module = MultiHeadAttention(12, 3, dropout=0.1)
    module.set_attention(Average)
    x = torch.randn(2, 5, 12)
    with pytest.raises(NotSupportedError, match="'average' does not support dropout"):
        module.train()(x, Context())
    with pytest.raises(NotSupportedError, match="'average' does not support probabilities"):
        module.eval()(x, Context(need_weights=True))


def test_a_mechanism_has_no_backend() -> None:
    module = MultiHeadAttention(12, 3)
    with pytest.raises(NotSupportedError, match="a mechanism of its own: it has no backend 'sdpa'; use 'auto'"):
        module.set_attention(Average, backend="sdpa")
