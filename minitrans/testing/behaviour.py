"""What every attention keeps, also one that computes something else than softmax attention and has no oracle.

Each check runs an attention twice, on inputs or under rules that must give the same, or must not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from minitrans.attention.bias import DenseBias
from minitrans.attention.mask import AttentionMask, MaskRule
from minitrans.attention.rules import AttentionResult
from minitrans.errors import NotSupportedError
from minitrans.testing.cases import BIASES, MASKS, Case, Draw, Inputs, MaskOf, Sizes, nothing, nothing_real
from minitrans.testing.dropout import P, dropout_cases, over_values, what_was_dropped
from minitrans.testing.subject import Call, Log, Subject, compare, expect, outcome, relative_error, seeded, untouched

SELF = Sizes(heads=4, groups=4, width=8)
_CROSS = replace(SELF, queries=5, keys=7)
_LONG = replace(SELF, queries=7, keys=5)
_LENGTHS = (3, 0, 5, 1)
_PACKED = replace(SELF, queries=9, keys=9, lengths=_LENGTHS)
_GARBAGE = 1e4  # so large that a score made of it wins against the -1e4 that some write into forbidden places
_NO_BIAS = -1e9  # a bias by which others write a mask

Check = Callable[[Subject], None]
Run = Callable[..., AttentionResult]  # (inputs, **changes of the rules)


def run_behaviour(subject: Subject, dtypes: Sequence[torch.dtype], log: Log) -> None:
    """Runs the checks of this file; of a variant that computes nothing itself, those that its hooks can break."""
    mechanism = subject.build(SELF).mechanism
    low = {
        f"{str(dtype).removeprefix('torch.')}": (partial(_low_precision, dtype=dtype), False)
        for dtype in dtypes
        if dtype != subject.dtype
    }
    for name, (check, of_hooks) in (CHECKS | low).items():
        if mechanism or of_hooks:
            log.run(f"{subject.name}, {name}", check, subject)


def draw(
    subject: Subject, name: str, sizes: Sizes = SELF, mask: MaskOf = nothing, **options: Any
) -> tuple[Call, Inputs]:
    """The attention and inputs for it."""
    return subject.draw(Case(name, sizes, mask, **options))


def _same_outcome(subject: Subject, call: Call, found: Run, expected: Run, inputs: Inputs, what: str) -> None:
    """AssertionError unless both give the same, gradients included."""
    ours, theirs = (outcome(each, inputs, call.parameters)[0] for each in (found, expected))
    try:
        compare({name: ours[name] for name in ours if name in theirs}, theirs, lambda _: subject.tolerance)
    except AssertionError as error:
        raise AssertionError(f"{what}: {error}") from None


def _expect_change(found: Tensor, plain: Tensor, what: str) -> None:
    expect(relative_error(found, plain) > 1e-6, what)


def _plain(subject: Subject) -> None:
    """A call gives the same each time, changes nothing, and has the shape and type of the queries."""
    call, inputs = draw(subject, "plain")
    with untouched(inputs):
        found = call(inputs).output
    given, made = (f"{tuple(tensor.shape)} {tensor.dtype}" for tensor in (inputs.query, found))
    expect(given == made, f"the output must be {given}, as the query is, got {made}")
    subject.same(call(inputs).output, found, "the same call gave another result")
    strided = inputs.having(key=inputs.key.transpose(1, 2).contiguous().transpose(1, 2))
    subject.same(call(strided).output, found, "keys that lie in memory in another order gave another result")


def _values_matter(subject: Subject) -> None:
    call, inputs = draw(subject, "values")
    others = inputs.having(value=draw(subject, "other values")[1].value)
    _expect_change(call(others).output, call(inputs).output, "other values gave the same result")


def _samples_apart(subject: Subject, mask: MaskOf) -> None:
    """Samples in another order are the same samples."""
    call, inputs = draw(subject, "samples", replace(SELF, batch=3), mask)
    order = torch.tensor([2, 0, 1], device=inputs.query.device)
    real = inputs.rules.mask.key_padding
    turned = inputs.having(**{name: tensor[order] for name, tensor in inputs.leaves.items()})
    turned = turned.ruled(mask=AttentionMask(key_padding=None if real is None else real[order]))
    subject.same(call(turned).output, call(inputs).output[order], "another order of the samples changed them")


def _forbidden(subject: Subject, mask: MaskOf, sizes: Sizes) -> None:
    """Garbage in a key and its value does not reach the queries that may not see it, and no gradient comes back."""
    call, inputs = draw(subject, "forbidden", sizes, mask)
    allowed = inputs.allowed(inputs.rules.mask).any(dim=1)  # (B, T, S)
    plain = call(inputs).output
    generator = torch.Generator().manual_seed(3)
    for j in range(inputs.key.shape[2]):
        hidden = ~allowed[:, None, :, j, None]  # (B, 1, T, 1)
        key, value = inputs.key.clone(), inputs.value.clone()
        for tensor in (key, value):
            tensor[:, :, j] = _GARBAGE * torch.randn(tensor[:, :, j].shape, generator=generator).to(tensor)
        other = replace(inputs.having(key=key, value=value), gradients={"output": inputs.gradients["output"] * hidden})
        found, _ = outcome(call, other, {}, through=frozenset())
        subject.same(
            found["output"].where(hidden, 0.0), plain.where(hidden, 0.0),
            "the content of a key changed queries that may not attend to it",
        )  # fmt: skip
        for name in ("key", "value"):
            part = found[f"gradient of the {name}"][:, :, j]
            expect(bool((part == 0).all()), f"a {name} got a gradient from queries that may not attend to it")


def _bias_as_mask(subject: Subject, mask: MaskOf, sizes: Sizes) -> None:
    """Where a query sees anything at all, -1e9 on its score hides a key as a mask does; and nothing lifts a mask."""
    call, inputs = draw(subject, "bias as mask", sizes, mask)
    allowed = inputs.allowed(inputs.rules.mask)
    rules = call.restricted(inputs.all_rules(), inputs.query, inputs.key)
    open_rules = replace(inputs.all_rules(), mask=_without(inputs.rules.mask))
    unmasked = call.restricted(open_rules, inputs.query, inputs.key).mask
    if not torch.equal(inputs.allowed(unmasked) & allowed, inputs.allowed(rules.mask)):
        raise NotSupportedError("a bias for a mask: what the pattern allows depends on where a text ends")
    sees = inputs.allowed(rules.mask).any(dim=-1, keepdim=True)  # (B, H, T, 1)
    inputs = replace(inputs, gradients={"output": inputs.gradients["output"] * sees})
    zero = torch.zeros(allowed.shape, dtype=subject.dtype, device=allowed.device)
    hiding, lifting = DenseBias(zero.masked_fill(~allowed, _NO_BIAS)), DenseBias(zero.masked_fill(~allowed, _GARBAGE))

    def run(inputs: Inputs, **changes: Any) -> AttentionResult:
        output = call(inputs, **changes).output
        return AttentionResult(output.where(sees, 0.0))

    hidden = partial(run, mask=_without(inputs.rules.mask), bias=hiding)
    _same_outcome(subject, call, hidden, run, inputs, "a bias of -1e9 differs from a mask")
    _same_outcome(subject, call, partial(run, bias=lifting), run, inputs, "a bias lifted a mask")


def _dense_form(subject: Subject, mask: MaskOf, sizes: Sizes) -> None:
    call, inputs = draw(subject, "dense form", sizes, mask)
    dense = replace(_without(inputs.rules.mask), dense=inputs.allowed(inputs.rules.mask))
    _same_outcome(subject, call, call, partial(call, mask=dense), inputs, "a mask differs from its dense form")


def _without(mask: AttentionMask) -> AttentionMask:
    """Nothing forbidden; the global tokens stay, which lift what a variant forbids."""
    return AttentionMask(global_tokens=mask.global_tokens)


def _heads_have_masks(subject: Subject) -> None:
    """Whatever the heads say to each other, a mask for each is not the first for all."""

    def mask(sizes: Sizes, draw: Draw) -> AttentionMask:
        h = torch.arange(sizes.heads)[:, None, None]
        return AttentionMask(dense=((torch.arange(sizes.keys) + h) % 2 == 0).expand(1, -1, sizes.queries, -1))

    call, inputs = draw(subject, "masks of heads", SELF, mask)
    dense = inputs.rules.mask.dense
    if dense is None or dense.shape[1] == 1:
        raise NotSupportedError("one head has one mask")
    dense = dense.to(inputs.query.device)
    first = AttentionMask(dense=dense[:, :1])
    found, of_first = call(inputs, mask=AttentionMask(dense=dense)).output, call(inputs, mask=first).output
    _expect_change(found, of_first, "the mask of the first head was taken for all")


def _empty_rows(subject: Subject, sizes: Sizes, mask: MaskOf) -> None:
    """A query with nothing to attend to gives zeros, and gets no gradient; nothing becomes NaN."""
    call, inputs = draw(subject, "empty rows", sizes, mask)
    rules = call.restricted(inputs.all_rules(), inputs.query, inputs.key)
    empty = ~inputs.allowed(rules.mask).any(dim=(1, 3))  # (B, T)
    for finishes in (True, False):
        found, _ = outcome(replace(call, finishes=finishes), inputs, call.parameters)
        for name, tensor in found.items():
            expect(name == "logsumexp" or bool(tensor.isfinite().all()), f"{name} holds NaN or infinities")
    for name in ("output", "gradient of the query"):
        part = found[name].transpose(1, 2)[empty]
        expect(bool((part == 0).all()), f"{name} must be zero for a query with nothing to attend to")


def _in_a_batch(subject: Subject, kind: str, mask: MaskOf, bias: str | None) -> None:
    """A packed batch is its sequences, each run by itself; and so is a padded one."""
    call, inputs = draw(subject, "packed", _PACKED, mask, bias=bias)
    every = range(len(_LENGTHS))

    def batch(inputs: Inputs, **changes: Any) -> AttentionResult:
        return AttentionResult(call(inputs).output if kind == "packed" else _as_rows(call, inputs, every))

    def alone(inputs: Inputs, **changes: Any) -> AttentionResult:
        return AttentionResult(torch.cat([_as_rows(call, inputs, [number]) for number in every if _LENGTHS[number]]))

    _same_outcome(subject, call, batch, alone, inputs, f"a {kind} batch differs from its sequences run alone")


def _as_rows(call: Call, inputs: Inputs, numbers: Sequence[int]) -> Tensor:
    """(N, H, K): these sequences of packed inputs, run as rows of a batch, with key padding where their lengths differ."""
    rules = inputs.all_rules()
    assert rules.layout is not None
    begins, ends = (each[list(numbers), None] for each in (rules.layout.cu_seqlens[:-1], rules.layout.cu_seqlens[1:]))
    places = begins + torch.arange(int((ends - begins).max()), device=begins.device)  # (B, T)
    real = places < ends
    places = places.clamp(max=len(inputs.query) - 1)  # beyond the end: what other sequences hold
    mask, bias, rule = rules.mask, rules.bias, rules.mask.rule
    if not bool(real.all()):
        mask = replace(mask, key_padding=real)
    if mask.global_tokens is not None:
        mask = replace(mask, global_tokens=mask.global_tokens[0][places] & real)
    if rule is not None:
        which = torch.tensor(list(numbers), device=begins.device)
        mask = replace(
            mask, rule=replace(rule, allows=lambda b, h, i, j: rule.allows(which[b], h, i, j), batch=len(which))
        )
    if isinstance(bias, DenseBias):
        bias = DenseBias(bias.values[0][:, places[:, :, None], places[:, None, :]].transpose(0, 1))
    leaves = {name: inputs.leaves[name][places].transpose(1, 2) for name in ("query", "key", "value")}
    leaves["x"] = inputs.leaves["x"][places]
    batch = Inputs(leaves, replace(rules, mask=mask, bias=bias, layout=None), None, {})
    return call(batch).output.transpose(1, 2)[real]


def _scale(subject: Subject) -> None:
    """It multiplies the scores."""
    call, inputs = draw(subject, "scale", scale=0.3)
    doubled = inputs.having(query=2 * inputs.query)
    found = call(inputs, scale=0.6).output
    subject.same(found, call(doubled).output, "a scale twice as large differs from queries twice as large")
    default = call(inputs, scale=inputs.query.shape[-1] ** -0.5).output
    subject.same(call(inputs, scale=None).output, default, "the scale must be K ** -0.5 where none is given")
    _, others = draw(subject, "another scale")
    others = inputs.having(query=others.query, key=others.key)
    zero = call(inputs, scale=0.0).output
    subject.same(call(others, scale=0.0).output, zero, "with scale 0 queries and keys must not matter")


def _softcap(subject: Subject) -> None:
    """c · tanh(score / c): a small c changes the result, a huge one does not."""
    call, inputs = draw(subject, "softcap", softcap=0.2)
    if any(variant.softcap is not None for variant in call.variants):
        raise NotSupportedError("it has a softcap of its own")
    plain = call(inputs, softcap=None).output
    _expect_change(call(inputs).output, plain, "a softcap changed nothing")
    subject.same(call(inputs, softcap=1e7).output, plain, "a softcap far above all scores changed the result")


def _bias(subject: Subject) -> None:
    call, inputs = draw(subject, "bias", bias="dense")
    _expect_change(call(inputs).output, call(inputs, bias=None).output, "a bias changed nothing")


def _bias_of_scores(subject: Subject) -> None:
    """Half the scores, added to the other half as a bias, are the scores: a bias weighs as much as they do."""
    call, inputs = draw(subject, "scores", scale=0.4)
    if call.parameters or any(variant.softcap is not None for variant in call.variants):
        raise NotSupportedError("its parameters, or its softcap, may come between the scores and the bias")
    half = 0.2 * inputs.query @ inputs.key.repeat_interleave(inputs.query.shape[1] // inputs.key.shape[1], 1).mT
    found = call(inputs, scale=0.2, bias=DenseBias(half)).output
    subject.same(found, call(inputs).output, "half the scores given as a bias differ from the scores")


def _dense_bias(subject: Subject, name: str) -> None:
    call, inputs = draw(subject, f"dense form of a bias: {name}", bias=name)

    def dense(inputs: Inputs, **changes: Any) -> AttentionResult:
        rules = inputs.all_rules()
        assert rules.bias is not None
        scores = rules.bias.to_dense(inputs.query, inputs.key, rules.scale_for(inputs.query))
        return call(inputs, bias=DenseBias(scores.expand(inputs.sizes)))

    _same_outcome(subject, call, call, dense, inputs, "a bias differs from its dense form")


def _gradients(subject: Subject, mask: MaskOf = nothing, bias: str | None = None, dropout_p: float = 0.0) -> None:
    """Of every tensor that goes in, and of the parameters, against differences."""
    call, inputs = draw(subject, "gradients", mask=mask, bias=bias)

    def run(inputs: Inputs, **changes: Any) -> AttentionResult:
        with seeded(1, inputs.query.device):
            return AttentionResult(call(inputs, dropout_p=dropout_p).output)

    against_differences(run, inputs, call.parameters)


def against_differences(
    run: Callable[[Inputs], AttentionResult], inputs: Inputs, parameters: dict[str, Tensor]
) -> None:
    """The gradient of every leaf along a random direction against a central difference."""
    found, _ = outcome(run, inputs, parameters)
    wide = inputs.query.dtype == torch.float64
    step, tolerance = (1e-5, 1e-6) if wide else (1e-2, 2e-2)  # truncation grows with step², rounding with eps / step
    generator = torch.Generator().manual_seed(7)

    @torch.no_grad()
    def loss() -> float:
        return float((run(inputs).output * inputs.gradients["output"]).double().sum())

    for name, leaf in {**inputs.leaves, **parameters}.items():
        direction = torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(leaf)
        before = leaf.detach().clone()
        leaf.data.add_(step * direction)
        above = loss()
        leaf.data.copy_(before - step * direction)
        slope = (above - loss()) / (2 * step)
        leaf.data.copy_(before)
        given = float((found[f"gradient of the {name}"] * direction).double().sum())
        expect(
            abs(given - slope) <= tolerance * max(1.0, abs(slope)),
            f"the gradient of the {name} is wrong: {given:.6g} along a direction, a difference says {slope:.6g}",
        )


def _dropout(subject: Subject) -> None:
    """It changes the result, by the seed, and keeps its mean; what was dropped is seen where the probabilities are given."""
    case = dropout_cases(subject.fixed.of(SELF).width)[0]
    call, inputs = draw(subject, case.name, case.sizes)
    call = replace(call, finishes=False)
    plain, copies, seeds = call(inputs).output[:1], 64, 16
    many = inputs.having(
        **{name: tensor[:1].expand(copies, *tensor.shape[1:]).contiguous() for name, tensor in inputs.leaves.items()}
    )
    outputs = []
    for seed in range(seeds):
        with seeded(seed, inputs.query.device):
            outputs.append(call(many, dropout_p=P).output.double())
    with seeded(0, inputs.query.device):
        expect(torch.equal(call(many, dropout_p=P).output.double(), outputs[0]), "the same seed gave another result")
    expect(not torch.equal(outputs[0], outputs[1]), "dropout changed nothing from seed to seed")
    drawn = torch.cat(outputs)  # (copies · seeds, H, T, K)
    # the error of a mean of n draws; six of them are exceeded once in 1e8 draws
    bound = 6 * drawn.std(dim=0) / len(drawn) ** 0.5 + subject.tolerance * plain.abs().max()
    off = (drawn.mean(dim=0) - plain[0]).abs()
    expect(
        bool((off <= bound).all()),
        f"dropout moved the mean by {off.max():.2g}, {(off / bound).max():.2g} times the bound",
    )
    if call.why_not(inputs, need_weights=True) is None:
        weights = call(inputs, need_weights=True).weights
        assert weights is not None
        factor = what_was_dropped(call, inputs, weights)
        with seeded(1, subject.device):
            found = call(inputs, dropout_p=P).output
        what = "dropout must act on probabilities, before they meet the values"
        subject.same(found, over_values(weights * factor, inputs), what)


def _weights(subject: Subject, sizes: Sizes) -> None:
    """Those that made the output."""
    call, inputs = draw(subject, "weights", sizes)
    result = replace(call, finishes=False)(inputs, need_weights=True)
    weights = result.weights
    if weights is None or weights.shape != inputs.sizes:
        given = None if weights is None else tuple(weights.shape)
        raise AssertionError(f"the probabilities were asked for: {inputs.sizes}, got {given}")
    subject.same(over_values(weights, inputs), result.output, "probabilities times values are not the output")


def _grouped(subject: Subject) -> None:
    """Key heads that serve several query heads are as if repeated."""
    call, inputs = draw(subject, "grouped heads", replace(SELF, groups=2))
    group = inputs.query.shape[1] // inputs.key.shape[1]
    if group == 1:
        raise NotSupportedError("as many key heads as query heads were asked for")
    whole = replace(subject, fixed=replace(subject.fixed, kv_heads=inputs.query.shape[1])).build(SELF)
    if [each.shape for each in whole.parameters.values()] != [each.shape for each in call.parameters.values()]:
        raise NotSupportedError("its parameters depend on G: nothing to compare with")
    key, value = (tensor.repeat_interleave(group, dim=1) for tensor in (inputs.key, inputs.value))
    repeated = whole(inputs.having(key=key, value=value)).output
    subject.same(call(inputs).output, repeated, "grouped heads differ from repeated ones")


def _low_precision(subject: Subject, dtype: torch.dtype) -> None:
    call, inputs = draw(replace(subject, dtype=dtype), "low precision")
    found = call(inputs).output
    expect(found.dtype == dtype, f"the output is {found.dtype}")
    error = relative_error(found, subject.build(SELF)(inputs.to(subject.dtype)).output)
    # how errors grow inside is not known: a hundred roundings are granted, and in the narrow types thirty
    allowed = (100 if dtype == torch.float32 else 30) * torch.finfo(dtype).eps
    expect(error <= allowed, f"the output is off by {error:.1e}, allowed {allowed:.1e} (relative)")


def _narrows(subject: Subject) -> None:
    """`restrict` allows no pair that the given mask forbids."""
    several = (SELF, _CROSS, _LONG, replace(SELF, queries=1), replace(SELF, batch=1, queries=1, keys=1))
    cases = [(name, sizes, MASKS[name]) for sizes in several for name in MASKS]
    in_packed = ("causal", "window", "window and global tokens", "rule")
    for name, sizes, mask in [*cases, *((f"packed, {name}", _PACKED, MASKS[name]) for name in in_packed)]:
        call, inputs = draw(subject, "narrows", sizes, mask)
        rules = call.restricted(inputs.all_rules(), inputs.query, inputs.key)
        rules.mask.check(inputs.query.shape, inputs.key.shape)
        widened = inputs.allowed(rules.mask) & ~inputs.allowed(inputs.rules.mask)
        expect(not bool(widened.any()), f"`restrict` allows pairs that the mask forbids ({name}): it may only narrow")


# what sequences may have in a batch: a mask and a bias
_BATCHES: dict[str, tuple[MaskOf, str | None]] = {
    "plain": (nothing, None),
    "bias: dense": (nothing, "dense"),
    "causal, bias: ALiBi": (MASKS["causal"], "ALiBi"),
    "window and global tokens": (MASKS["window and global tokens"], None),
    "rule of each": (
        lambda sizes, draw: AttentionMask(rule=MaskRule(lambda b, h, i, j: (i + j + b) % 3 != 0, len(_LENGTHS))), None,
    ),
}  # fmt: skip
_ON_MASKS: dict[str, Callable[..., None]] = {
    "what is forbidden changes nothing": _forbidden,
    "a bias of -1e9 is a mask": _bias_as_mask,
    "a mask is its dense form": _dense_form,
}
# name -> (the check, whether hooks around softmax attention can break it)
CHECKS: dict[str, tuple[Check, bool]] = {
    "plain": (_plain, True),
    "restrict narrows": (_narrows, True),
    "values matter": (_values_matter, True),
    "samples do not see each other": (partial(_samples_apart, mask=nothing), True),
    "a bias": (_bias, True),
    **{
        f"{name}, {lengths}: {rule}": (partial(on_mask, mask=mask, sizes=sizes), on_mask is not _dense_form)
        for rule, on_mask in _ON_MASKS.items()
        for name, mask in MASKS.items()
        for sizes, lengths in ((SELF, "T = S"), (_CROSS, "T < S"))
    },
    "a mask for each head": (_heads_have_masks, False),
    "padded samples do not see each other": (partial(_samples_apart, mask=MASKS["key padding"]), True),
    "a sample of padding only": (partial(_empty_rows, sizes=SELF, mask=nothing_real), True),
    "causal, T > S: the first queries see nothing": (partial(_empty_rows, sizes=_LONG, mask=MASKS["causal"]), True),
    "the scale": (_scale, False),
    "scores as a bias": (_bias_of_scores, False),
    "the softcap": (_softcap, False),
    "gradients": (_gradients, True),
    "gradients, a sample of padding only": (partial(_gradients, mask=nothing_real), True),
    "gradients, causal, bias: dense": (partial(_gradients, mask=MASKS["causal"], bias="dense"), True),
    "gradients under dropout": (partial(_gradients, dropout_p=P), False),
    "probabilities": (partial(_weights, sizes=SELF), False),
    "probabilities, packed": (partial(_weights, sizes=_PACKED), False),
    "grouped heads": (_grouped, False),
    "dropout": (_dropout, False),
    **{
        f"{kind}, {name}": (partial(_in_a_batch, kind=kind, mask=mask, bias=bias), True)
        for kind in ("packed", "padded")
        for name, (mask, bias) in _BATCHES.items()
    },
    **{f"bias: {name}: a bias is its dense form": (partial(_dense_bias, name=name), False) for name in BIASES},
}
