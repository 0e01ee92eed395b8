"""The cases of `check_attention`, as data: sizes, mask, bias, layout."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from minitrans.attention.bias import ALiBi, AttentionBias, DenseBias, RelativeBuckets, RelativePositions
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask, BlockLayout, MaskRule
from minitrans.attention.rules import AttentionRules

_P = 17  # positions of the relative tables


@dataclass(frozen=True)
class Sizes:
    """B, H, G, T, S, K, all different where that can be; or the lengths of a packed batch. D = H·K where none is given."""

    batch: int = 2
    heads: int = 3
    groups: int = 3
    queries: int = 6
    keys: int = 6
    width: int = 16
    lengths: tuple[int, ...] | None = None
    features: int | None = None

    @property
    def samples(self) -> int:
        """The batch size of masks: 1 for a packed batch."""
        return 1 if self.lengths is not None else self.batch

    @property
    def sequences(self) -> int:
        """How many there are."""
        return self.batch if self.lengths is None else len(self.lengths)

    @property
    def model_width(self) -> int:
        """D."""
        return self.heads * self.width if self.features is None else self.features


@dataclass(frozen=True)
class Fixed:
    """What of the sizes the attention under test is made for; None = it takes any."""

    heads: int | None = None
    kv_heads: int | None = None
    head_width: int | None = None
    features: int | None = None

    def of(self, sizes: Sizes) -> Sizes:
        """The sizes with what is fixed; heads are shared by as many queries as before, where that divides."""
        heads = sizes.heads if self.heads is None else self.heads
        share = next((n for n in range(2, heads + 1) if heads % n == 0), 1) if sizes.groups < sizes.heads else 1
        groups = (sizes.groups if self.heads is None else heads // share) if self.kv_heads is None else self.kv_heads
        width = sizes.width if self.head_width is None else self.head_width
        return replace(sizes, heads=heads, groups=groups, width=width, features=self.features)


Draw = Callable[..., Tensor]  # (*shape) -> a random bool tensor, mostly True
MaskOf = Callable[[Sizes, Draw], AttentionMask]


def nothing(sizes: Sizes, draw: Draw) -> AttentionMask:
    """Forbidden."""
    return AttentionMask()


@dataclass(frozen=True)
class Case:
    """One call that every attention which supports it must compute right.

    Attributes:
        name: for messages.
        sizes: of its tensors.
        mask: what may attend to what.
        bias: a name of `BIASES`.
        scale: see `AttentionRules`.
        softcap: see `AttentionRules`.
        strided: keys lie in memory in another order than they are numbered.
        low_precision: also run below float64.
        core: one of the few that are run on every backend; together they have each kind of mask, bias, lengths and heads.
    """

    name: str
    sizes: Sizes
    mask: MaskOf = nothing
    bias: str | None = None
    scale: float | None = None
    softcap: float | None = None
    strided: bool = False
    low_precision: bool = False
    core: bool = False


@dataclass(frozen=True, eq=False)
class Inputs:
    """The tensors of a case.

    Attributes:
        leaves: query, key, value, x (what the queries were projected from) and the parameter of the bias, if there is one.
        rules: of the call, but for the bias.
        bias: makes it from its parameter.
        gradients: those that come back to output, logsumexp and weights.
    """

    leaves: dict[str, Tensor]
    rules: AttentionRules
    bias: Callable[[Tensor], AttentionBias] | None
    gradients: dict[str, Tensor]

    def to(self, dtype: torch.dtype) -> Inputs:
        """The same numbers in another dtype, as new leaves."""
        leaves, gradients = (
            {name: tensor.detach().to(dtype).clone() for name, tensor in tensors.items()}
            for tensors in (self.leaves, self.gradients)
        )
        return replace(self, leaves=leaves, gradients=gradients)

    def having(self, **leaves: Tensor) -> Inputs:
        """The same with other leaves."""
        return replace(self, leaves=self.leaves | leaves)

    def ruled(self, **rules: object) -> Inputs:
        """The same under other rules; `bias` is fixed then."""
        return replace(self, rules=replace(self.rules, **rules))  # type: ignore[arg-type]

    @property
    def query(self) -> Tensor:
        """(B, H, T, K) or (N, H, K)."""
        return self.leaves["query"]

    @property
    def key(self) -> Tensor:
        """(B, G, S, K) or (N, G, K)."""
        return self.leaves["key"]

    @property
    def value(self) -> Tensor:
        """As the key."""
        return self.leaves["value"]

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """(B, H, T, S), of a packed batch (1, H, N, N)."""
        tokens, heads, *_ = self.query.shape
        packed = self.rules.layout is not None
        return (1, heads, tokens, tokens) if packed else (*self.query.shape[:3], self.key.shape[2])

    def allowed(self, mask: AttentionMask) -> Tensor:
        """(B, H, T, S): what a mask allows."""
        everything = torch.ones((), dtype=torch.bool, device=self.query.device)
        dense = mask.to_dense(*self.sizes[2:], self.query.device, self.rules.layout)
        return (everything if dense is None else dense).expand(self.sizes)

    def all_rules(self) -> AttentionRules:
        """The rules, with x, and with the bias made of its parameter."""
        rules = replace(self.rules, x=self.leaves.get("x"))
        return rules if self.bias is None else replace(rules, bias=self.bias(self.leaves["bias parameter"]))


# name -> (shape of the parameter, the bias made of it)
BIASES: dict[str, tuple[Callable[[Sizes], tuple[int, ...]], Callable[[Tensor], AttentionBias]]] = {
    "dense": (lambda s: (s.samples, s.heads, s.queries, s.keys), DenseBias),
    "dense, one for all samples": (lambda s: (1, s.heads, s.queries, s.keys), DenseBias),
    "dense, one for all heads": (lambda s: (s.samples, 1, s.queries, s.keys), DenseBias),
    "ALiBi": (lambda s: (s.heads,), ALiBi),
    "buckets": (lambda s: (8, s.heads), lambda table: RelativeBuckets(table, max_distance=11)),
    "causal buckets": (
        lambda s: (8, s.heads),
        lambda table: RelativeBuckets(table, bidirectional=False, max_distance=11),
    ),
    "relative_key": (lambda s: (2 * _P - 1, s.width), RelativePositions),
    "relative_key_query": (lambda s: (2 * _P - 1, s.width), lambda table: RelativePositions(table, with_key=True)),
}


def padding(sizes: Sizes, draw: Draw) -> AttentionMask:
    """Every sample has a real token."""
    real = draw(sizes.batch, sizes.keys)
    real[:, 0] = True
    return AttentionMask(key_padding=real)


def nothing_real(sizes: Sizes, draw: Draw) -> AttentionMask:
    """The first sample is padding only."""
    real = draw(sizes.batch, sizes.keys)
    real[0] = False
    return AttentionMask(key_padding=real)


def _blocks(sizes: Sizes, draw: Draw, heads: int = 1, size: int = 2) -> AttentionMask:
    return AttentionMask(blocks=BlockLayout(draw(heads, -(-sizes.queries // size), -(-sizes.keys // size)), size))


def _rule_of_each(sizes: Sizes, draw: Draw) -> AttentionMask:
    """It tells samples and heads apart and looks into a table."""
    table = draw(sizes.sequences, sizes.heads, max(sizes.queries, sizes.keys))
    return AttentionMask(rule=MaskRule(lambda b, h, i, j: table[b, h, (i - j).abs()], sizes.sequences, sizes.heads))


def _everything(sizes: Sizes, draw: Draw) -> AttentionMask:
    return AttentionMask(
        key_padding=draw(sizes.batch, sizes.keys),
        causal=True,
        window=(3, 1),
        global_tokens=~draw(sizes.batch, sizes.keys),
        blocks=_blocks(sizes, draw, sizes.heads).blocks,
        rule=_RULE,
        dense=draw(sizes.batch, 1, sizes.queries, sizes.keys),
    )


def _fixed(**parts: Any) -> MaskOf:
    return lambda sizes, draw: AttentionMask(**parts)


def _global(window: tuple[int, int] | None, causal: bool = False) -> MaskOf:
    return lambda s, draw: AttentionMask(window=window, causal=causal, global_tokens=~draw(s.samples, s.keys))


_RULE = MaskRule(lambda b, h, i, j: (i + 2 * j) % 3 != 1)
# one of each kind, for all heads the same
MASKS: dict[str, MaskOf] = {
    "key padding": padding,
    "causal": _fixed(causal=True),
    "causal, key padding": lambda s, draw: replace(padding(s, draw), causal=True),
    "window": _fixed(window=(2, 1)),
    "window and global tokens": _global((2, 1)),
    "blocks": _blocks,
    "rule": _fixed(rule=_RULE),
    "dense": lambda s, draw: AttentionMask(dense=draw(s.batch, 1, s.queries, s.keys)),
}
_CAUSAL = MASKS["causal"]

_SELF = Sizes()
_CROSS = Sizes(queries=5, keys=7)
_LONG = Sizes(queries=7, keys=5)
_ODD = Sizes(batch=3, heads=2, groups=2, queries=9, keys=13, width=5)
_GROUPED = Sizes(heads=6, queries=5, keys=7)
_PACKED = Sizes(queries=14, keys=14, lengths=(4, 0, 1, 5, 4))
_PACKED_GROUPED = replace(_PACKED, heads=6)

CASES = (
    Case("plain", _SELF, low_precision=True, core=True),
    Case("T < S", _CROSS),
    Case("T > S", _LONG),
    Case("T = 1, causal", Sizes(queries=1, keys=5), _CAUSAL, core=True),
    Case("one token", Sizes(batch=1, queries=1, keys=1)),
    Case("odd sizes", _ODD, low_precision=True, core=True),
    Case("scale 1", _SELF, scale=1.0),
    Case("large scores", _ODD, scale=20.0),
    Case("softcap", _SELF, scale=1.0, softcap=1.5, low_precision=True),
    Case("strided inputs", _CROSS, strided=True),
    Case("padding", _SELF, padding, low_precision=True, core=True),
    Case("padding, T < S", _CROSS, padding),
    Case("a sample of padding only", _SELF, nothing_real, low_precision=True, core=True),
    Case("causal", _SELF, _CAUSAL, low_precision=True),
    Case("causal, T < S", _CROSS, _CAUSAL),
    Case("causal, T > S: the first queries see nothing", _LONG, _CAUSAL),
    Case("window", _SELF, _fixed(window=(2, 2)), low_precision=True),
    Case("asymmetric window, T < S", _CROSS, _fixed(window=(3, 1))),
    Case("asymmetric window, T > S", _LONG, _fixed(window=(0, 2))),
    Case("one-sided window", _SELF, _fixed(window=(None, 1))),
    Case("window and global tokens", _SELF, MASKS["window and global tokens"]),
    Case("window and global tokens, T > S", _LONG, _global((1, 0), causal=True), core=True),
    Case("global tokens, nothing to lift", _SELF, _global(None)),
    Case("blocks", _SELF, _blocks),
    Case("blocks for each head, T < S", _CROSS, lambda s, draw: _blocks(s, draw, s.heads, 3)),
    Case("rule", _SELF, MASKS["rule"], low_precision=True),
    Case("rule for each sample and head, T < S", _CROSS, _rule_of_each),
    Case("dense mask", _CROSS, lambda s, draw: AttentionMask(dense=draw(s.batch, s.heads, s.queries, s.keys))),
    Case("dense mask for each head", _SELF, lambda s, draw: AttentionMask(dense=draw(1, s.heads, s.queries, s.keys))),
    *(Case(f"bias: {name}", _SELF, bias=name, low_precision=name in {"dense", "relative_key"}) for name in BIASES),
    *(Case(f"bias: {name}, T < S, padding", _CROSS, padding, bias=name, core=name == "dense") for name in ("dense", "buckets")),
    *(Case(f"bias: {name}, T > S, causal", _LONG, _CAUSAL, bias=name) for name in ("ALiBi", "relative_key")),
    Case("grouped heads", _GROUPED, low_precision=True),
    Case("grouped heads, causal", replace(_GROUPED, queries=7), _CAUSAL),
    Case("grouped heads, padding, relative_key_query", _GROUPED, padding, bias="relative_key_query", core=True),
    Case("softcap, T > S, causal, bias: dense", _LONG, _CAUSAL, bias="dense", softcap=0.7, core=True),
    Case("rule, T > S, causal, bias: buckets", _LONG, _fixed(rule=_RULE, causal=True), bias="buckets", core=True),
    Case("every mask at once", _CROSS, _everything, bias="ALiBi", scale=1.0, core=True),
    Case("softcap, grouped heads, padding", _GROUPED, padding, softcap=0.7),
    Case("packed", _PACKED, low_precision=True, core=True),
    Case("packed, equal lengths", replace(_PACKED, lengths=(7, 7))),
    Case("packed, empty sequences only", Sizes(queries=0, keys=0, lengths=(0, 0))),
    Case("packed, causal", _PACKED, _CAUSAL),
    Case("packed, softcap", _PACKED, softcap=0.7),
    Case("packed, window and global tokens", _PACKED, MASKS["window and global tokens"], core=True),
    Case("packed, rule", _PACKED, MASKS["rule"]),
    Case("packed, rule for each sequence and head", _PACKED, _rule_of_each, core=True),
    *(Case(f"packed, bias: {name}", _PACKED, bias=name) for name in ("dense", "ALiBi", "buckets")),
    Case("packed, grouped heads, relative_key_query", _PACKED_GROUPED, _CAUSAL, bias="relative_key_query", core=True),
)  # fmt: skip


def draw_inputs(
    case: Case, device: torch.device, dtype: torch.dtype = torch.float64, *, fixed: Fixed | None = None
) -> Inputs:
    """Random inputs of a case, the same ones every time."""
    sizes = case.sizes if fixed is None else fixed.of(case.sizes)
    generator = torch.Generator().manual_seed(zlib.crc32(case.name.encode()))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)

    def mostly_true(*shape: int) -> Tensor:
        return (torch.rand(shape, generator=generator) > 0.35).to(device)

    def tensor(heads: int, length: int) -> Tensor:
        if sizes.lengths is not None:
            return normal(length, heads, sizes.width)
        if case.strided:
            return normal(sizes.batch, sizes.width, length, heads).permute(0, 3, 2, 1)
        return normal(sizes.batch, heads, length, sizes.width)

    batch = () if sizes.lengths is not None else (sizes.batch,)
    rows = (*batch, sizes.queries, sizes.heads) if sizes.lengths is not None else (*batch, sizes.heads, sizes.queries)
    leaves = {
        "query": tensor(sizes.heads, sizes.queries),
        "key": tensor(sizes.groups, sizes.keys),
        "value": tensor(sizes.groups, sizes.keys),
        "x": normal(*batch, sizes.queries, sizes.model_width),
    }
    mask = case.mask(sizes, mostly_true)
    bias = None
    if case.bias is not None:
        shape, bias = BIASES[case.bias]
        leaves["bias parameter"] = normal(*shape(sizes))
    gradients = {
        "output": normal(*rows, sizes.width),
        "logsumexp": normal(*rows),
        "weights": normal(sizes.samples, sizes.heads, sizes.queries, sizes.keys),
    }
    layout = None if sizes.lengths is None else PackedLayout.from_lengths(sizes.lengths, device)
    return Inputs(leaves, AttentionRules(mask, None, layout, case.scale, case.softcap), bias, gradients)
