"""What every attention keeps, also one that computes something else than softmax attention and has no oracle.

Each check runs an attention twice, on inputs or under rules that must give the same, or must not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from minitrans.attention.bias import DenseBias
from minitrans.attention.mask import AttentionMask, BlockLayout, MaskRule
from minitrans.attention.rules import AttentionResult, AttentionRules
from minitrans.errors import NotSupportedError
from minitrans.testing.cases import BIASES, Case, Draw, Inputs, MaskOf, Sizes, draw_inputs, padding
from minitrans.testing.dropout import P, dropout_cases, what_was_dropped
from minitrans.testing.subject import Call, Log, Subject, compare, expect, outcome, random_state, relative_error, seeded

SELF = Sizes(heads=4, groups=4, width=8)
_CROSS = replace(SELF, queries=5, keys=7)
_LONG = replace(SELF, queries=7, keys=5)
_LENGTHS = (3, 0, 5, 1)
_PACKED = replace(SELF, queries=9, keys=9, lengths=_LENGTHS)
_GARBAGE = 1e4  # so large that a score made of it wins against the -1e4 that some write into forbidden places
_NO_BIAS = -1e9  # a bias by which others write a mask


def nothing(sizes: Sizes, draw: Draw) -> AttentionMask:
    """Forbidden."""
    return AttentionMask()


def _padded_and_causal(sizes: Sizes, draw: Draw) -> AttentionMask:
    return replace(padding(sizes, draw), causal=True)


# one of each kind; for all heads the same, because heads may talk
MASKS: dict[str, MaskOf] = {
    "key padding": padding,
    "causal": lambda s, draw: AttentionMask(causal=True),
    "causal, key padding": _padded_and_causal,
    "window": lambda s, draw: AttentionMask(window=(2, 1)),
    "window and global tokens": lambda s, draw: AttentionMask(window=(2, 1), global_tokens=~draw(s.samples, s.keys)),
    "blocks": lambda s, draw: AttentionMask(blocks=BlockLayout(draw(1, -(-s.queries // 2), -(-s.keys // 2)), 2)),
    "rule": lambda s, draw: AttentionMask(rule=MaskRule(lambda b, h, i, j: (i + 2 * j) % 3 != 1)),
    "dense": lambda s, draw: AttentionMask(dense=draw(s.batch, 1, s.queries, s.keys)),
}


@dataclass(frozen=True)
class Bench:
    """Where a subject is tried: in one type."""

    subject: Subject
    dtype: torch.dtype

    @property
    def tolerance(self) -> float:
        """Of what must be the same."""
        return 1e-10 if self.dtype == torch.float64 else 1e-5

    def draw(self, name: str, sizes: Sizes = SELF, mask: MaskOf = nothing, **options: Any) -> tuple[Call, Inputs]:
        """The attention and inputs for it."""
        case = Case(name, sizes, mask, **options)
        call = self.subject.build(self.subject.fixed.of(sizes), self.dtype)
        return call, draw_inputs(case, self.subject.device, self.dtype, fixed=self.subject.fixed)

    def same(self, found: Tensor, expected: Tensor, what: str) -> None:
        """AssertionError unless they are equal but for rounding."""
        error = relative_error(found, expected)
        expect(error <= self.tolerance, f"{what} (off by {error:.1e})")

    def same_outcome(
        self,
        call: Call,
        pair: tuple[Callable[..., AttentionResult], Callable[..., AttentionResult]],
        inputs: Inputs,
        what: str,
    ) -> None:
        """AssertionError unless both give the same, gradients included."""
        found, expected = (outcome(each, inputs, call.parameters)[0] for each in pair)
        try:
            compare(
                {name: tensor for name, tensor in found.items() if name in expected}, expected, lambda _: self.tolerance
            )
        except AssertionError as error:
            raise AssertionError(f"{what}: {error}") from None


def check_behaviour(subject: Subject, dtypes: Sequence[torch.dtype], log: Log) -> None:
    """Runs the checks of this file; of a variant that computes nothing itself, those that its hooks can break."""
    bench = Bench(subject, subject.widest)
    mechanism = subject.build(subject.fixed.of(SELF)).mechanism

    def run(checks: Mapping[str, tuple[Callable[[Bench], None], bool]]) -> None:
        for name, (check, for_all) in checks.items():
            if mechanism or for_all:
                log.run(f"{subject.name}, {name}", check, bench)

    run(_FIRST)
    for rule, on_mask in _ON_MASKS.items():
        for name, mask in MASKS.items() if mechanism or on_mask is not _dense_form else ():
            for sizes, lengths in ((SELF, "T = S"), (_CROSS, "T < S")):
                log.run(f"{subject.name}, {name}, {lengths}: {rule}", on_mask, bench, mask, sizes)
    run(_CHECKS)
    for kind in ("packed", "padded"):
        for name, (mask, bias) in _IN_A_BATCH.items():
            log.run(f"{subject.name}, {kind}, {name}", _packed, bench, kind, mask, bias)
    for name in BIASES if mechanism else ():
        log.run(f"{subject.name}, bias: {name}: a bias is its dense form", _dense_bias, bench, name)
    for dtype in dtypes if mechanism else ():
        if dtype != bench.dtype:
            log.run(f"{subject.name}, {str(dtype).removeprefix('torch.')}", _low_precision, bench, dtype)


def _plain(bench: Bench) -> None:
    """A call gives the same each time, changes nothing, and has the shape and type of the queries."""
    call, inputs = bench.draw("plain")
    before, state = {name: tensor.clone() for name, tensor in inputs.leaves.items()}, random_state(inputs.query.device)
    found = call(inputs).output
    shape, dtype = tuple(inputs.query.shape), inputs.query.dtype
    expect(
        found.shape == shape and found.dtype == dtype,
        f"the output must be {shape} {dtype}, as the query is, got {tuple(found.shape)} {found.dtype}",
    )
    for name, tensor in inputs.leaves.items():
        expect(torch.equal(tensor, before[name]), f"the call changed its input {name}")
    expect(
        all(map(torch.equal, state, random_state(inputs.query.device))),
        "the call drew from the global random numbers without dropout",
    )
    bench.same(call(inputs).output, found, "the same call gave another result")
    strided = inputs.having(key=inputs.key.transpose(1, 2).contiguous().transpose(1, 2))
    bench.same(call(strided).output, found, "keys that lie in memory in another order gave another result")


def _values_matter(bench: Bench) -> None:
    call, inputs = bench.draw("values")
    other = call(inputs.having(value=bench.draw("other values")[1].value)).output
    expect(relative_error(other, call(inputs).output) > 1e-6, "other values gave the same result")


def _samples_apart(bench: Bench, mask: MaskOf) -> None:
    """Samples in another order are the same samples."""
    call, inputs = bench.draw("samples", replace(SELF, batch=3), mask)
    order = torch.tensor([2, 0, 1], device=inputs.query.device)
    real = inputs.rules.mask.key_padding
    turned = inputs.having(**{name: tensor[order] for name, tensor in inputs.leaves.items()})
    turned = turned.ruled(mask=AttentionMask(key_padding=None if real is None else real[order]))
    bench.same(call(turned).output, call(inputs).output[order], "another order of the samples changed them")


def _forbidden(bench: Bench, mask: MaskOf, sizes: Sizes) -> None:
    """Garbage in a key and its value does not reach the queries that may not see it, and no gradient comes back."""
    call, inputs = bench.draw("forbidden", sizes, mask)
    allowed = _dense(inputs.rules.mask, inputs).any(dim=1)  # (B, T, S)
    plain = call(inputs).output
    generator = torch.Generator().manual_seed(3)
    for j in range(inputs.key.shape[2]):
        hidden = ~allowed[:, None, :, j, None]  # (B, 1, T, 1)
        key, value = inputs.key.clone(), inputs.value.clone()
        for tensor in (key, value):
            tensor[:, :, j] = _GARBAGE * torch.randn(tensor[:, :, j].shape, generator=generator).to(tensor)
        other = replace(inputs.having(key=key, value=value), gradients={"output": inputs.gradients["output"] * hidden})
        found, _ = outcome(call, other, {}, through=frozenset())
        bench.same(
            found["output"].where(hidden, 0.0), plain.where(hidden, 0.0),
            "the content of a key changed queries that may not attend to it",
        )  # fmt: skip
        for name in ("key", "value"):
            part = found[f"gradient of the {name}"][:, :, j]
            expect(bool((part == 0).all()), f"a {name} got a gradient from queries that may not attend to it")


def _bias_as_mask(bench: Bench, mask: MaskOf, sizes: Sizes) -> None:
    """Where a query sees anything at all, -1e9 on its score hides a key as a mask does; and nothing lifts a mask."""
    call, inputs = bench.draw("bias as mask", sizes, mask)
    allowed = _dense(inputs.rules.mask, inputs)
    rules = call.restricted(inputs.rules, inputs.query, inputs.key)
    sees = _dense(rules.mask, inputs).any(dim=-1, keepdim=True)  # (B, H, T, 1)
    inputs = replace(inputs, gradients={"output": inputs.gradients["output"] * sees})
    zero = torch.zeros(allowed.shape, dtype=bench.dtype, device=allowed.device)
    hiding, lifting = DenseBias(zero.masked_fill(~allowed, _NO_BIAS)), DenseBias(zero.masked_fill(~allowed, _GARBAGE))

    def run(inputs: Inputs, **changes: Any) -> AttentionResult:
        output = call(inputs, **changes).output
        return AttentionResult(output.where(sees, 0.0))

    hidden = partial(run, mask=_without(inputs.rules.mask), bias=hiding)
    bench.same_outcome(call, (hidden, run), inputs, "a bias of -1e9 differs from a mask")
    bench.same_outcome(call, (partial(run, bias=lifting), run), inputs, "a bias lifted a mask")


def _dense_form(bench: Bench, mask: MaskOf, sizes: Sizes) -> None:
    call, inputs = bench.draw("dense form", sizes, mask)
    dense = replace(_without(inputs.rules.mask), dense=_dense(inputs.rules.mask, inputs))
    bench.same_outcome(call, (call, partial(call, mask=dense)), inputs, "a mask differs from its dense form")


def _without(mask: AttentionMask) -> AttentionMask:
    """Nothing forbidden; the global tokens stay, which lift what a variant forbids."""
    return AttentionMask(global_tokens=mask.global_tokens)


def _heads_have_masks(bench: Bench) -> None:
    """Whatever the heads say to each other, a mask for each is not the first for all."""

    def mask(sizes: Sizes, draw: Draw) -> AttentionMask:
        h = torch.arange(sizes.heads)[:, None, None]
        return AttentionMask(dense=((torch.arange(sizes.keys) + h) % 2 == 0).expand(1, -1, sizes.queries, -1))

    call, inputs = bench.draw("masks of heads", SELF, mask)
    dense = inputs.rules.mask.dense
    if dense is None or dense.shape[1] == 1:
        raise NotSupportedError("one head has one mask")
    dense = dense.to(inputs.query.device)
    first = AttentionMask(dense=dense[:, :1])
    error = relative_error(call(inputs, mask=AttentionMask(dense=dense)).output, call(inputs, mask=first).output)
    expect(error > 1e-6, "the mask of the first head was taken for all")


def _nothing_real(sizes: Sizes, draw: Draw) -> AttentionMask:
    """Of the second sample."""
    real = draw(sizes.batch, sizes.keys)
    real[1] = False
    return AttentionMask(key_padding=real)


def _empty_rows(bench: Bench, sizes: Sizes, mask: MaskOf) -> None:
    """A query with nothing to attend to gives zeros, and gets no gradient; nothing becomes NaN."""
    call, inputs = bench.draw("empty rows", sizes, mask)
    rules = call.restricted(inputs.rules, inputs.query, inputs.key)
    empty = ~_dense(rules.mask, inputs).any(dim=(1, 3))  # (B, T)
    for finishes in (True, False):
        found, _ = outcome(replace(call, finishes=finishes), inputs, call.parameters)
        for name, tensor in found.items():
            expect(name == "logsumexp" or bool(tensor.isfinite().all()), f"{name} holds NaN or infinities")
    for name in ("output", "gradient of the query"):
        part = found[name].transpose(1, 2)[empty]
        expect(bool((part == 0).all()), f"{name} must be zero for a query with nothing to attend to")


def _packed(bench: Bench, kind: str, mask: MaskOf, bias: str | None) -> None:
    """A packed batch is its sequences, each run by itself; and so is a padded one."""
    call, inputs = bench.draw("packed", _PACKED, mask, bias=bias)
    run = partial(_output, call) if kind == "packed" else partial(padded, call)
    alone = partial(separately, call)
    bench.same_outcome(call, (run, alone), inputs, f"a {kind} batch differs from its sequences run alone")


# what sequences may have in a batch: a mask and a bias
_IN_A_BATCH: dict[str, tuple[MaskOf, str | None]] = {
    "plain": (nothing, None),
    "bias: dense": (nothing, "dense"),
    "causal, bias: ALiBi": (MASKS["causal"], "ALiBi"),
    "window and global tokens": (MASKS["window and global tokens"], None),
    "rule of each": (
        lambda sizes, draw: AttentionMask(rule=MaskRule(lambda b, h, i, j: (i + j + b) % 3 != 0, len(_LENGTHS))), None,
    ),
}  # fmt: skip


def _output(call: Call, inputs: Inputs) -> AttentionResult:
    return AttentionResult(call(inputs).output)


def separately(call: Callable[[Inputs], AttentionResult], inputs: Inputs) -> AttentionResult:
    """The sequences of packed inputs, each in a call of its own."""
    rules = inputs.all_rules()
    assert rules.layout is not None
    outputs, start = [], 0
    for number, length in enumerate(rules.layout.lengths()):
        span = slice(start, start + length)
        start += length
        if length:
            leaves = {
                name: inputs.leaves[name][span].transpose(0, 1)[None] for name in ("query", "key", "value")
            }  # (1, H|G, n, K)
            leaves["x"] = inputs.leaves["x"][None, span]
            one = Inputs(leaves, _alone(rules, number, span), None, {})
            outputs.append(call(one).output[0].transpose(0, 1))
    return AttentionResult(torch.cat(outputs))


def _alone(rules: AttentionRules, number: int, span: slice) -> AttentionRules:
    mask, bias, rule = rules.mask, rules.bias, rules.mask.rule
    if mask.global_tokens is not None:
        mask = replace(mask, global_tokens=mask.global_tokens[:, span])
    if rule is not None:
        mask = replace(mask, rule=MaskRule(lambda b, h, i, j: rule.allows(b + number, h, i, j)))
    if isinstance(bias, DenseBias):
        bias = DenseBias(bias.values[:, :, span, span])
    return replace(rules, mask=mask, bias=bias, layout=None)


def padded(call: Callable[[Inputs], AttentionResult], inputs: Inputs) -> AttentionResult:
    """The sequences of packed inputs as the rows of a batch with key padding."""
    rules = inputs.all_rules()
    layout = rules.layout
    assert layout is not None
    places = layout.cu_seqlens[:-1, None] + torch.arange(layout.max_seqlen, device=layout.cu_seqlens.device)  # (B, T)
    real = places < layout.cu_seqlens[1:, None]
    places = places.clamp(max=inputs.query.shape[0] - 1)  # beyond the end: what other sequences hold
    leaves = {name: inputs.leaves[name][places].transpose(1, 2) for name in ("query", "key", "value")}
    leaves["x"] = inputs.leaves["x"][places]
    mask, bias = replace(rules.mask, key_padding=real), rules.bias
    if mask.global_tokens is not None:
        mask = replace(mask, global_tokens=mask.global_tokens[0][places] & real)
    if isinstance(bias, DenseBias):
        bias = DenseBias(bias.values[0][:, places[:, :, None], places[:, None, :]].transpose(0, 1))
    batch = Inputs(leaves, replace(rules, mask=mask, bias=bias, layout=None), None, {})
    return AttentionResult(call(batch).output.transpose(1, 2)[real])


def _scale(bench: Bench) -> None:
    """It multiplies the scores."""
    call, inputs = bench.draw("scale", scale=0.3)
    doubled = inputs.having(query=2 * inputs.query)
    bench.same(
        call(inputs, scale=0.6).output,
        call(doubled).output,
        "a scale twice as large differs from queries twice as large",
    )
    default = call(inputs, scale=inputs.query.shape[-1] ** -0.5).output
    bench.same(call(inputs, scale=None).output, default, "the scale must be K ** -0.5 where none is given")
    _, others = bench.draw("another scale")
    others = inputs.having(query=others.query, key=others.key)
    bench.same(
        call(others, scale=0.0).output, call(inputs, scale=0.0).output, "with scale 0 queries and keys must not matter"
    )


def _softcap(bench: Bench) -> None:
    """c · tanh(score / c): a small c changes the result, a huge one does not."""
    call, inputs = bench.draw("softcap", softcap=0.2)
    if any(variant.softcap is not None for variant in call.variants):
        raise NotSupportedError("it has a softcap of its own")
    plain = call(inputs, softcap=None).output
    expect(relative_error(call(inputs).output, plain) > 1e-6, "a softcap changed nothing")
    bench.same(call(inputs, softcap=1e7).output, plain, "a softcap far above all scores changed the result")


def _bias(bench: Bench) -> None:
    call, inputs = bench.draw("bias", bias="dense")
    expect(relative_error(call(inputs).output, call(inputs, bias=None).output) > 1e-6, "a bias changed nothing")


def _dense_bias(bench: Bench, name: str) -> None:
    call, inputs = bench.draw(f"dense form of a bias: {name}", bias=name)
    batch, heads, queries, keys = *inputs.query.shape[:3], inputs.key.shape[2]

    def dense(inputs: Inputs, **changes: Any) -> AttentionResult:
        rules = inputs.all_rules()
        assert rules.bias is not None
        scores = rules.bias.to_dense(inputs.query, inputs.key, rules.scale_for(inputs.query))
        return call(inputs, bias=DenseBias(scores.expand(batch, heads, queries, keys)))

    bench.same_outcome(call, (call, dense), inputs, "a bias differs from its dense form")


def _gradients(bench: Bench, mask: MaskOf = nothing, bias: str | None = None, dropout_p: float = 0.0) -> None:
    """Of every tensor that goes in, and of the parameters, against differences."""
    call, inputs = bench.draw("gradients", mask=mask, bias=bias)

    def run(inputs: Inputs, **changes: Any) -> AttentionResult:
        with seeded(1, inputs.query.device):
            return AttentionResult(call(inputs, dropout_p=dropout_p).output)

    check_differences(run, inputs, call.parameters)


def check_differences(run: Callable[[Inputs], AttentionResult], inputs: Inputs, parameters: dict[str, Tensor]) -> None:
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


def _dropout(bench: Bench) -> None:
    """It changes the result, by the seed, and keeps its mean; what was dropped is seen where the probabilities are given."""
    case = dropout_cases(bench.subject.fixed.of(SELF).width)[0]
    call, inputs = bench.draw(case.name, case.sizes)
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
    bound = 6 * drawn.std(dim=0) / len(drawn) ** 0.5 + bench.tolerance * plain.abs().max()
    off = (drawn.mean(dim=0) - plain[0]).abs()
    expect(
        bool((off <= bound).all()),
        f"dropout moved the mean by {off.max():.2g}, {(off / bound).max():.2g} times the bound",
    )
    if call.why_not(inputs, need_weights=True) is None:
        weights = call(inputs, need_weights=True).weights
        assert weights is not None
        factor = what_was_dropped(call, inputs, weights)
        value = inputs.value.repeat_interleave(weights.shape[1] // inputs.value.shape[1], dim=1)
        with seeded(1, value.device):
            found = call(inputs, dropout_p=P).output
        bench.same(found, (weights * factor) @ value, "dropout must act on probabilities, before they meet the values")


def _weights(bench: Bench, sizes: Sizes) -> None:
    """Those that made the output."""
    call, inputs = bench.draw("weights", sizes)
    result = replace(call, finishes=False)(inputs, need_weights=True)
    packed = sizes.lengths is not None
    query, value = (t.transpose(0, 1)[None] if packed else t for t in (inputs.query, inputs.value))
    shape = (*query.shape[:3], value.shape[2])
    weights = result.weights
    if weights is None or weights.shape != shape:
        given = "none" if weights is None else str(tuple(weights.shape))
        raise AssertionError(f"the probabilities were asked for: {shape}, got {given}")
    made = weights @ value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    bench.same(
        made[0].transpose(0, 1) if packed else made, result.output, "probabilities times values are not the output"
    )


def _grouped(bench: Bench) -> None:
    """Key heads that serve several query heads are as if repeated."""
    sizes = replace(SELF, groups=2)
    call, inputs = bench.draw("grouped heads", sizes)
    group = inputs.query.shape[1] // inputs.key.shape[1]
    if group == 1:
        raise NotSupportedError("as many key heads as query heads were asked for")
    fixed = replace(bench.subject.fixed, kv_heads=inputs.query.shape[1])
    whole = replace(bench.subject, fixed=fixed).build(fixed.of(sizes), bench.dtype)
    for ours, theirs in zip(whole.parameters.values(), call.parameters.values(), strict=True):
        if ours.shape != theirs.shape:
            raise NotSupportedError("its parameters depend on G: nothing to compare with")

    def repeated(inputs: Inputs, **changes: Any) -> AttentionResult:
        key, value = (tensor.repeat_interleave(group, dim=1) for tensor in (inputs.key, inputs.value))
        return whole(inputs.having(key=key, value=value))

    bench.same(call(inputs).output, repeated(inputs).output, "grouped heads differ from repeated ones")


def _low_precision(bench: Bench, dtype: torch.dtype) -> None:
    low = replace(bench, dtype=dtype)
    call, inputs = low.draw("low precision")
    found = call(inputs).output
    expect(found.dtype == dtype, f"the output is {found.dtype}")
    wide = bench.subject.build(bench.subject.fixed.of(SELF), bench.dtype)
    error = relative_error(found, wide(inputs.to(bench.dtype)).output)
    # how errors grow inside is not known: a hundred roundings are granted, and in the narrow types thirty
    allowed = (100 if dtype == torch.float32 else 30) * torch.finfo(dtype).eps
    expect(error <= allowed, f"the output is off by {error:.1e}, allowed {allowed:.1e} (relative)")


def _narrows(bench: Bench) -> None:
    """`restrict` allows no pair that the given mask forbids."""
    for sizes in (SELF, _CROSS, _LONG, replace(SELF, queries=1), replace(SELF, batch=1, queries=1, keys=1)):
        for name, mask in MASKS.items():
            call, inputs = bench.draw("narrows", sizes, mask)
            _expect_narrower(call, inputs, name)
    for name in ("causal", "window", "window and global tokens", "rule"):
        call, inputs = bench.draw("narrows", _PACKED, MASKS[name])
        _expect_narrower(call, inputs, f"packed, {name}")


def _expect_narrower(call: Call, inputs: Inputs, name: str) -> None:
    rules = call.restricted(inputs.rules, inputs.query, inputs.key)
    rules.mask.check(inputs.query.shape, inputs.key.shape)
    widened = _dense(rules.mask, inputs) & ~_dense(inputs.rules.mask, inputs)
    expect(not bool(widened.any()), f"`restrict` allows pairs that the mask forbids ({name}): it may only narrow")


def _dense(mask: AttentionMask, inputs: Inputs) -> Tensor:
    """(B, H, T, S), or (1, H, N, N): what the mask allows."""
    query, key, layout = inputs.query, inputs.key, inputs.rules.layout
    if layout is None:
        batch, heads, queries, keys = *query.shape[:3], key.shape[2]
    else:
        batch, heads, queries, keys = 1, query.shape[1], query.shape[0], key.shape[0]
    dense = mask.to_dense(queries, keys, query.device, layout)
    return (torch.ones((), dtype=torch.bool, device=query.device) if dense is None else dense).expand(
        batch, heads, queries, keys
    )


# name -> (the check, whether hooks around softmax attention can break it)
_FIRST: dict[str, tuple[Callable[[Bench], None], bool]] = {
    "plain": (_plain, True),
    "restrict narrows": (_narrows, True),
    "values matter": (_values_matter, True),
    "samples do not see each other": (partial(_samples_apart, mask=nothing), True),
    "a bias": (_bias, True),
}
_ON_MASKS: dict[str, Callable[[Bench, MaskOf, Sizes], None]] = {
    "what is forbidden changes nothing": _forbidden,
    "a bias of -1e9 is a mask": _bias_as_mask,
    "a mask is its dense form": _dense_form,
}
_CHECKS: dict[str, tuple[Callable[[Bench], None], bool]] = {
    "a mask for each head": (_heads_have_masks, False),
    "padded samples do not see each other": (partial(_samples_apart, mask=MASKS["key padding"]), True),
    "a sample of padding only": (partial(_empty_rows, sizes=SELF, mask=_nothing_real), True),
    "causal, T > S: the first queries see nothing": (partial(_empty_rows, sizes=_LONG, mask=MASKS["causal"]), True),
    "the scale": (_scale, False),
    "the softcap": (_softcap, False),
    "gradients": (_gradients, True),
    "gradients, a sample of padding only": (partial(_gradients, mask=_nothing_real), True),
    "gradients, causal, bias: dense": (partial(_gradients, mask=MASKS["causal"], bias="dense"), True),
    "gradients under dropout": (partial(_gradients, dropout_p=P), False),
    "probabilities": (partial(_weights, sizes=SELF), False),
    "probabilities, packed": (partial(_weights, sizes=_PACKED), False),
    "grouped heads": (_grouped, False),
    "dropout": (_dropout, False),
}
