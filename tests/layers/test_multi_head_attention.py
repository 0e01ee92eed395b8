"""Multi-head attention against a loop over rows and heads that knows nothing of the code under test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from minitrans.attention.bias import ALiBi, DenseBias
from minitrans.attention.context import Context
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask
from minitrans.attention.rules import AttentionResult, AttentionRules
from minitrans.attention.variant import LayerSizes, Variant
from minitrans.attention.variants.rotary import Rotary
from minitrans.attention.variants.sink import Sink
from minitrans.attention.variants.sliding_window import SlidingWindow
from minitrans.errors import NotSupportedError
from minitrans.layers.cache import CrossCache, GrowingCache
from minitrans.layers.multi_head_attention import CrossAttention, MultiHeadAttention
from minitrans.layers.position_bias import DistanceEmbedding

Error = Callable[[Tensor, Tensor], float]
Randomized = Callable[[nn.Module], nn.Module]

# pairwise different: B=2, T=3, S=5, H=6 (G=3 or 1), K=8, D=48; P=9
B, T, S, H, K, D, P = 2, 3, 5, 6, 8, 48, 9
NO_MASK, CAUSAL = AttentionMask(), AttentionMask(causal=True)


def naive(
    module: MultiHeadAttention,
    x: Tensor,
    source: Tensor,
    allowed: Tensor | None = None,
    scores_to_add: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Output (B, T, D) and probabilities (B, H, T, S), entry by entry."""
    heads, groups, width = module.num_heads, module.num_kv_heads, module.head_width
    scale = width**-0.5 if module.scale is None else module.scale
    batch, length, keys = x.shape[0], x.shape[1], source.shape[1]
    rows, probabilities = [], []
    for b in range(batch):
        for i in range(length):
            query = module.query.weight @ x[b, i] + module.query.bias
            joined = []
            for h in range(heads):
                part = slice(h * width, (h + 1) * width)
                kv = h // (heads // groups)
                kv_part = slice(kv * width, (kv + 1) * width)
                scores, values = [], []
                for j in range(keys):
                    key = (module.key.weight @ source[b, j] + module.key.bias)[kv_part]
                    values.append((module.value.weight @ source[b, j] + module.value.bias)[kv_part])
                    score = query[part] @ key
                    if module.distance_embedding is not None:  # M8: E[l - r + P - 1], also scaled
                        vector = module.distance_embedding.weight[i + keys - length - j + P - 1]
                        score = score + query[part] @ vector
                        if module.distance_embedding.with_key:
                            score = score + key @ vector
                    score = score * scale
                    if scores_to_add is not None:
                        score = score + scores_to_add[b % len(scores_to_add), h % scores_to_add.shape[1], i, j]
                    sees = allowed is None or bool(allowed[b, i, j])
                    scores.append(score.exp() if sees else score * 0)
                total = torch.stack(scores).sum()
                weights = torch.stack(scores) / torch.where(total == 0, 1.0, total)
                probabilities.append(weights)
                joined.append(weights @ torch.stack(values))
            rows.append(module.output.weight @ torch.cat(joined) + module.output.bias)
    shaped = torch.stack(probabilities).view(batch, length, heads, keys).transpose(1, 2)
    return torch.stack(rows).view(batch, length, -1), shaped


def build(
    width: int, heads: int, *, cross: bool = False, relative: int = 0, with_key: bool = False, **options: Any
) -> Any:
    """A module with a table of relative positions for `relative` tokens."""
    if relative:
        options["distance_embedding"] = DistanceEmbedding(relative, width // heads, with_key=with_key)
    return (CrossAttention if cross else MultiHeadAttention)(width, heads, **options)


def make(randomized: Randomized, **options: Any) -> MultiHeadAttention:
    module = randomized(build(D, H, **options))
    assert isinstance(module, MultiHeadAttention)
    for parameter in module.parameters():
        parameter.data *= 0.4  # probabilities neither flat nor one-hot
    return module


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two heads a key": {"num_kv_heads": 3},
    "all heads one key": {"num_kv_heads": 1},
    "scale 1": {"scale": 1.0},
    "wide heads": {"head_width": 5},
    "relative_key": {"relative": P},
    "relative_key_query": {"relative": P, "with_key": True},
}
MASKS: dict[str, tuple[Callable[[int], AttentionMask], Callable[[int], Tensor | None]]] = {
    "no mask": (lambda keys: NO_MASK, lambda keys: None),
    "causal": (
        lambda keys: CAUSAL,
        lambda keys: torch.ones(B, T, keys).tril(keys - T).bool(),
    ),
    "padding, one row empty": (
        lambda keys: AttentionMask(key_padding=torch.arange(keys) < torch.tensor([[2], [0]])),
        lambda keys: (torch.arange(keys) < torch.tensor([[2], [0]]))[:, None].expand(B, T, keys),
    ),
}


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("cross", [False, True], ids=["self", "cross"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_loop(kind: str, mask: str, cross: bool, backend: str, randomized: Randomized, error: Error) -> None:
    module = make(randomized, cross=cross, backend=backend, **KINDS[kind])
    x, memory = random(B, T, D), random(B, S, D)
    source = memory if cross else x
    make_mask, make_allowed = MASKS[mask]
    of_source = make_mask(source.shape[1])
    context = Context(memory=memory, memory_mask=of_source) if cross else Context(mask=of_source)
    got = module(x, replace(context, need_weights=True))
    expected, weights = naive(module, x, source, make_allowed(source.shape[1]))
    assert error(got.output, expected) <= 1e-12
    assert error(got.weights, weights) <= 1e-12

    leaves = [x, *module.parameters()] + ([memory] if cross else [])
    upstream = torch.randn_like(expected)
    gradients = torch.autograd.grad(got.output, leaves, upstream, allow_unused=True)
    wanted = torch.autograd.grad(expected, leaves, upstream, allow_unused=True)
    largest = max(gradient.abs().max() for gradient in wanted if gradient is not None)
    for one, other in zip(gradients, wanted, strict=True):
        assert one is not None
        assert other is not None
        assert (one - other).abs().max() <= 1e-12 * largest


@pytest.mark.parametrize("kind", ["plain", "relative_key", "relative_key_query"])
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_a_bias_is_added_besides_relative_positions(
    kind: str, backend: str, randomized: Randomized, error: Error
) -> None:
    module = make(randomized, backend=backend, **KINDS[kind])
    x, scores = random(B, T, D), random(B, 1, T, T)
    got = module(x, Context(mask=CAUSAL, bias=DenseBias(scores), need_weights=True))
    expected, weights = naive(module, x, x, torch.ones(B, T, T).tril().bool(), scores)
    assert error(got.output, expected) <= 1e-12
    assert error(got.weights, weights) <= 1e-12
    upstream = torch.randn_like(expected)
    leaves = [scores, module.query.weight]
    for one, other in zip(
        torch.autograd.grad(got.output, leaves, upstream), torch.autograd.grad(expected, leaves, upstream), strict=True
    ):
        assert error(one, other) <= 1e-11


def test_packed_equals_one_by_one(randomized: Randomized, error: Error) -> None:
    layout = PackedLayout.from_lengths([3, 1, 5])
    for options in KINDS.values():
        module = make(randomized, **options)
        x = random(9, D)
        for bias in (None, ALiBi(ALiBi.default_slopes(H))):
            got = module(x, Context(mask=CAUSAL, bias=bias, layout=layout)).output
            parts = x.split_with_sizes([3, 1, 5])
            alone = torch.cat([module(part[None], Context(mask=CAUSAL, bias=bias)).output[0] for part in parts])
            assert error(got, alone) <= 1e-12


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", KINDS)
def test_cache_step_by_step_equals_all_at_once(kind: str, backend: str, randomized: Randomized, error: Error) -> None:
    module = make(randomized, backend=backend, **KINDS[kind])
    x = random(B, 7, D)
    whole = module(x, Context(mask=CAUSAL))
    for cuts in ([1] * 7, [3, 1, 2, 1], [4, 3]):
        cache = GrowingCache()
        steps = [module(part, Context(mask=CAUSAL), cache).output for part in x.split_with_sizes(cuts, dim=1)]
        assert error(torch.cat(steps, dim=1), whole.output) <= 1e-12
        assert cache.length == 7
        assert cache.key is not None
        assert cache.value is not None
        keys = module.key(x).unflatten(-1, (module.num_kv_heads, -1)).transpose(1, 2)
        values = module.value(x).unflatten(-1, (module.num_kv_heads, -1)).transpose(1, 2)
        assert error(cache.key, keys) <= 1e-13
        assert error(cache.value, values) <= 1e-13
    assert cache.key.shape == (B, module.num_kv_heads, 7, module.head_width)


def test_cache_of_a_memory_serves_instead_of_it(randomized: Randomized, error: Error) -> None:
    module = make(randomized, cross=True)
    x, memory, cache = random(B, T, D), random(B, S, D), CrossCache()
    first = module(x, Context(memory=memory), cache)
    kept = cache.key
    again = module(x, Context(memory=torch.full_like(memory, torch.nan)), cache)
    assert error(again.output, first.output) <= 1e-15
    assert cache.key is kept


def test_gradcheck(randomized: Randomized) -> None:
    for options in ({}, {"num_kv_heads": 1}, {"relative": 3, "with_key": True}):
        module = randomized(build(4, 2, backend="eager", **options))  # type: ignore[arg-type]
        names = [name for name, _ in module.named_parameters()]
        mask = AttentionMask(causal=True, key_padding=torch.tensor([[False, True, True]]))

        def attend(x: Tensor, *parameters: Tensor) -> Tensor:
            weights = dict(zip(names, parameters, strict=True))  # noqa: B023
            output: Tensor = functional_call(module, weights, (x, Context(mask=mask))).output  # noqa: B023
            return output

        assert torch.autograd.gradcheck(attend, (random(1, 3, 4), *module.parameters()))


def test_head_mask_multiplies_probabilities(randomized: Randomized, error: Error) -> None:
    module = make(randomized)
    x, factors = random(B, T, D), torch.tensor([0.0, 1.0, 0.5, 2.0, 1.0, 0.0], dtype=torch.float64, requires_grad=True)
    got = module(x, Context(mask=NO_MASK, head_mask=factors, need_weights=True))
    plain = module(x, Context(mask=NO_MASK, need_weights=True))
    weights = plain.weights * factors[:, None, None]
    values = module.value(x).view(B, T, H, K).transpose(1, 2)
    expected = module.output((weights @ values).transpose(1, 2).reshape(B, T, D))
    assert error(got.weights, weights) <= 1e-14
    assert error(got.output, expected) <= 1e-13
    (one,) = torch.autograd.grad(got.output.square().sum(), factors)
    (other,) = torch.autograd.grad(expected.square().sum(), factors)
    assert error(one, other) <= 1e-12
    packed = module(x.flatten(0, 1), Context(mask=NO_MASK, layout=PackedLayout.from_lengths([T, T]), head_mask=factors))
    assert error(packed.output.view(B, T, D), got.output) <= 1e-12


@pytest.mark.parametrize("kind", ["plain", "wide heads", "relative_key_query"])
def test_pruning_equals_zeroing(kind: str, randomized: Randomized, error: Error) -> None:
    module = make(randomized, **KINDS[kind])
    width = module.head_width
    x = random(B, T, D)
    factors = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    zeroed = module(x, Context(mask=CAUSAL, head_mask=factors, need_weights=True))
    module.prune_heads([3, 1, 4, 1])
    pruned = module(x, Context(mask=CAUSAL, need_weights=True))
    assert error(pruned.output, zeroed.output) <= 1e-13
    assert error(pruned.weights, zeroed.weights[:, [0, 2, 5]]) <= 1e-13
    assert (module.num_heads, module.num_kv_heads, module.head_width) == (3, 3, width)
    assert module.query.weight.shape == (3 * width, D) == (module.query.out_features, module.query.in_features)
    assert module.output.weight.shape == (D, 3 * width) == (module.output.out_features, module.output.in_features)
    assert module.key.bias.shape == (3 * width,)
    module.prune_heads([])
    assert module.num_heads == 3


def test_pruning_keeps_what_is_frozen_frozen(randomized: Randomized) -> None:
    module = make(randomized)
    module.query.weight.requires_grad_(False)
    module.key.bias.requires_grad_(False)
    module.prune_heads([0])
    trains = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert trains == {"query.bias", "key.weight", "value.weight", "value.bias", "output.weight", "output.bias"}


def test_dropout_acts_on_probabilities_in_training_only(randomized: Randomized, error: Error) -> None:
    module = make(randomized, dropout=0.5, backend="eager")
    x = random(B, T, D)
    silent = make(randomized)
    silent.load_state_dict(module.state_dict())
    dropped = module(x, Context(mask=NO_MASK, need_weights=True))
    plain = silent(x, Context(mask=NO_MASK, need_weights=True))
    assert error(dropped.weights, plain.weights) <= 1e-14  # what is returned is what it was before dropout
    assert error(dropped.output, plain.output) > 1e-2
    assert error(module.eval()(x, Context(mask=NO_MASK)).output, plain.output) <= 1e-14


def test_swapping_the_variant_keeps_the_weights(randomized: Randomized, error: Error) -> None:
    module = make(randomized)
    x = random(B, S, D)
    near = module.forward(x, Context(mask=AttentionMask(window=(1, 1)))).output
    module.set_attention({"name": "sliding_window", "window": 2}, "eager")
    assert error(module(x, Context(mask=NO_MASK)).output, near) <= 1e-13


SIZES = LayerSizes(D, H, H, K)


class Halves(Variant):
    """Half the square of what the heads return: it shows in which order hooks run."""

    name = "halves"
    whole_texts = True

    def finish(self, result: AttentionResult, x: Tensor, context: Context) -> AttentionResult:
        return replace(result, output=result.output.square() / 2)


class Sum(Variant):
    """A mechanism: values, summed."""

    name = "sum"

    def compute(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        return AttentionResult(value.sum(dim=2, keepdim=True).expand_as(query))


def test_own_variants_equal_the_same_swapped_in_and_stay_under_a_swap(randomized: Randomized, error: Error) -> None:
    """What belongs to the architecture runs first, whatever is swapped in, out or in again."""
    own = [Rotary(SIZES, base=100.0), Sink(SIZES, initial=0.5), Halves(SIZES)]
    module, plain = make(randomized, own=own), make(randomized)
    assert list(module.state_dict()) == ["query.weight", "query.bias", "key.weight", "key.bias", "value.weight",
        "value.bias", "output.weight", "output.bias", "own.1.logit"]  # fmt: skip
    plain.load_state_dict({name: tensor for name, tensor in module.state_dict().items() if "own" not in name})
    x, context = random(B, S, D), Context(positions=torch.arange(S).expand(B, S), need_weights=True)
    for spec in ("full", {"name": "sliding_window", "window": 2}, {"name": "softcap", "cap": 0.2}, "full"):
        module.set_attention(spec)
        plain.set_attention([*own, spec])
        got, expected = module(x, context), plain(x, context)
        assert error(got.output, expected.output) <= 1e-14
        assert error(got.weights, expected.weights) <= 1e-14
        names = [variant.name for variant in module.all_variants]
        assert names[:3] == ["rotary", "sink", "halves"]
        assert len(names) == (3 if spec == "full" else 4)
    plain.set_attention("full")
    assert error(module(x, context).output, plain(x, context).output) > 1e-2


def test_of_own_and_swapped_mechanisms_the_swapped_one_computes(randomized: Randomized, error: Error) -> None:
    module, plain = make(randomized, own=[Sum(SIZES)]), make(randomized)
    plain.load_state_dict(module.state_dict())
    x = random(B, S, D)
    summed = module(x, Context()).output
    for spec in ("linear", "full"):
        module.set_attention(spec)
        plain.set_attention([] if spec == "full" else spec)
        same = error(module(x, Context()).output, plain(x, Context()).output) <= 1e-14
        assert same == (spec == "linear")
    assert error(module(x, Context()).output, summed) <= 1e-14


def test_own_variants_count_where_something_cannot_be_done(randomized: Randomized) -> None:
    full, window = make(randomized), make(randomized, own=[SlidingWindow(SIZES, window=2)])
    summed = make(randomized, own=[Sum(SIZES)])
    assert (full.why_not_static(), full.why_not_packed()) == (None, None)
    assert window.why_not_static() == "an attention that restricts by position"
    assert window.why_not_packed() is None
    assert summed.why_not_packed() == "packed batches"
    summed.set_attention("linear")  # which takes them
    assert summed.why_not_packed() is None
    summed.set_attention("full")
    for swap in (lambda: summed.set_attention("full", "eager"), lambda: summed.set_backend("sdpa")):
        with pytest.raises(NotSupportedError, match="attention 'sum' is a mechanism of its own: it has no backend"):
            swap()
    with pytest.raises(ValueError, match="a variant with parameters of its own"):
        make(randomized, own=[Sink(SIZES)]).prune_heads([0])
    with pytest.raises(NotSupportedError, match="attention 'halves' looks at whole texts"):
        make(randomized, own=[Halves(SIZES)])(random(B, S, D), Context(), GrowingCache())


def test_parameter_names_are_public() -> None:
    linears = [f"{name}.{kind}" for name in ("query", "key", "value", "output") for kind in ("weight", "bias")]
    assert list(MultiHeadAttention(8, 2).state_dict()) == linears
    assert list(MultiHeadAttention(8, 2, bias=False).state_dict()) == linears[::2]
    relative = build(8, 2, relative=5)
    assert list(relative.state_dict()) == [*linears, "distance_embedding.weight"]
    assert relative.state_dict()["distance_embedding.weight"].shape == (9, 4)


ERRORS: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: MultiHeadAttention(10, 3), ValueError, "width 10 is not a multiple of the number of heads 3"),
    (lambda: MultiHeadAttention(12, 6, num_kv_heads=4), ValueError, "6 heads cannot share 4 key/value heads evenly"),
    (
        lambda: MultiHeadAttention(12, 6).set_attention("ful"),
        ValueError,
        "unknown attention variant 'ful'; the nearest is 'full'",
    ),
    (lambda: MultiHeadAttention(12, 6, backend="cuda"), ValueError, "unknown attention backend 'cuda'; known: auto"),
    (lambda: MultiHeadAttention(12, 6).prune_heads([6]), ValueError, r"must be some, not all, of 0\.\.5, got \[6\]"),
    (lambda: MultiHeadAttention(12, 6).prune_heads([-1]), ValueError, r"got \[-1\]"),
    (lambda: MultiHeadAttention(12, 2).prune_heads([0, 1]), ValueError, "some, not all"),
    (lambda: MultiHeadAttention(12, 6, num_kv_heads=2).prune_heads([0]), ValueError, "share keys and values"),
    (
        lambda: build(12, 6, relative=3)(torch.zeros(1, 4, 12), Context()),
        ValueError,
        "relative positions reach 3 tokens, got 4",
    ),
]


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS, ids=[case[2][:40] for case in ERRORS])
def test_errors(call: Callable[[], object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()
