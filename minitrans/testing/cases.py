"""The cases of `check_attention`, as data: sizes, mask, bias, layout."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from minitrans.attention.bias import ALiBi, AttentionBias, DenseBias, RelativeBuckets, RelativePositions
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask, BlockLayout

_P = 17  # positions of the relative tables


@dataclass(frozen=True)
class Sizes:
    """B, H, G, T, S, K, all different where that can be; or the lengths of a packed batch."""

    batch: int = 2
    heads: int = 3
    groups: int = 3
    queries: int = 6
    keys: int = 6
    width: int = 16
    lengths: tuple[int, ...] | None = None

    @property
    def samples(self) -> int:
        """The batch size of masks: 1 for a packed batch."""
        return 1 if self.lengths is not None else self.batch


Draw = Callable[..., Tensor]  # (*shape) -> a random bool tensor, mostly True
MaskOf = Callable[[Sizes, Draw], AttentionMask]


@dataclass(frozen=True)
class Case:
    """One call that every attention supporting its options must compute right."""

    name: str
    sizes: Sizes
    mask: MaskOf = lambda sizes, draw: AttentionMask()
    bias: str | None = None
    scale: float | None = None
    strided: bool = False
    low_precision: bool = False  # also run below float64


@dataclass(frozen=True, eq=False)
class Inputs:
    """The tensors of a case."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: AttentionMask
    parameter: Tensor | None  # of the bias
    bias: Callable[[Tensor], AttentionBias] | None
    layout: PackedLayout | None
    scale: float | None
    output_gradient: Tensor
    logsumexp_gradient: Tensor
    weights_gradient: Tensor

    def to(self, dtype: torch.dtype) -> Inputs:
        """The same numbers in another dtype, as new leaves."""
        changed: dict[str, Any] = {
            field.name: value.detach().to(dtype).clone()
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **changed)

    def leaves(self) -> dict[str, Tensor]:
        """The tensors that have gradients."""
        leaves = {"query": self.query, "key": self.key, "value": self.value}
        return leaves if self.parameter is None else leaves | {"bias parameter": self.parameter}

    def attention_bias(self) -> AttentionBias | None:
        """The bias, made of the parameter."""
        return None if self.parameter is None or self.bias is None else self.bias(self.parameter)


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


def _padding(sizes: Sizes, draw: Draw) -> AttentionMask:
    real = draw(sizes.batch, sizes.keys)
    real[:, 0] = True
    return AttentionMask(key_padding=real)


def _nothing_real(sizes: Sizes, draw: Draw) -> AttentionMask:
    real = draw(sizes.batch, sizes.keys)
    real[0] = False
    return AttentionMask(key_padding=real)


def _blocks(sizes: Sizes, draw: Draw, heads: int, size: int = 2) -> BlockLayout:
    return BlockLayout(draw(heads, -(-sizes.queries // size), -(-sizes.keys // size)), size)


def _everything(sizes: Sizes, draw: Draw) -> AttentionMask:
    return AttentionMask(
        key_padding=draw(sizes.batch, sizes.keys),
        causal=True,
        window=(3, 1),
        global_tokens=~draw(sizes.batch, sizes.keys),
        blocks=_blocks(sizes, draw, sizes.heads),
        dense=draw(sizes.batch, 1, sizes.queries, sizes.keys),
    )


def _fixed(mask: AttentionMask) -> MaskOf:
    return lambda sizes, draw: mask


def _global(mask: AttentionMask) -> MaskOf:
    return lambda sizes, draw: replace(mask, global_tokens=~draw(sizes.samples, sizes.keys))


_SELF = Sizes()
_CROSS = Sizes(queries=5, keys=7)
_LONG = Sizes(queries=7, keys=5)
_ODD = Sizes(batch=3, heads=2, groups=2, queries=9, keys=13, width=5)
_GROUPED = Sizes(heads=6, queries=5, keys=7)
_PACKED = Sizes(queries=14, keys=14, lengths=(4, 0, 1, 5, 4))
_PACKED_GROUPED = replace(_PACKED, heads=6)
_CAUSAL = AttentionMask(causal=True)

CASES = (
    Case("plain", _SELF, low_precision=True),
    Case("T < S", _CROSS),
    Case("T > S", _LONG),
    Case("T = 1, causal", Sizes(queries=1, keys=5), _fixed(_CAUSAL)),
    Case("one token", Sizes(batch=1, queries=1, keys=1)),
    Case("odd sizes", _ODD, low_precision=True),
    Case("scale 1", _SELF, scale=1.0),
    Case("large scores", _ODD, scale=20.0),
    Case("strided inputs", _CROSS, strided=True),
    Case("padding", _SELF, _padding, low_precision=True),
    Case("padding, T < S", _CROSS, _padding),
    Case("a sample of padding only", _SELF, _nothing_real, low_precision=True),
    Case("causal", _SELF, _fixed(_CAUSAL), low_precision=True),
    Case("causal, T < S", _CROSS, _fixed(_CAUSAL)),
    Case("causal, T > S: the first queries see nothing", _LONG, _fixed(_CAUSAL)),
    Case("window", _SELF, _fixed(AttentionMask(window=(2, 2))), low_precision=True),
    Case("asymmetric window, T < S", _CROSS, _fixed(AttentionMask(window=(3, 1)))),
    Case("asymmetric window, T > S", _LONG, _fixed(AttentionMask(window=(0, 2)))),
    Case("one-sided window", _SELF, _fixed(AttentionMask(window=(None, 1)))),
    Case("window and global tokens", _SELF, _global(AttentionMask(window=(1, 1)))),
    Case("window and global tokens, T > S", _LONG, _global(AttentionMask(window=(1, 0), causal=True))),
    Case("global tokens, nothing to lift", _SELF, _global(AttentionMask())),
    Case("blocks", _SELF, lambda s, draw: AttentionMask(blocks=_blocks(s, draw, 1))),
    Case("blocks for each head, T < S", _CROSS, lambda s, draw: AttentionMask(blocks=_blocks(s, draw, s.heads, 3))),
    Case("dense mask", _CROSS, lambda s, draw: AttentionMask(dense=draw(s.batch, s.heads, s.queries, s.keys))),
    Case("dense mask for each head", _SELF, lambda s, draw: AttentionMask(dense=draw(1, s.heads, s.queries, s.keys))),
    Case("every mask at once", _CROSS, _everything),
    *(Case(f"bias: {name}", _SELF, bias=name, low_precision=name in {"dense", "relative_key"}) for name in BIASES),
    *(Case(f"bias: {name}, T < S, padding", _CROSS, _padding, bias=name) for name in ("dense", "buckets")),
    *(Case(f"bias: {name}, T > S, causal", _LONG, _fixed(_CAUSAL), bias=name) for name in ("ALiBi", "relative_key")),
    Case("grouped heads", _GROUPED, low_precision=True),
    Case("grouped heads, causal", replace(_GROUPED, queries=7), _fixed(_CAUSAL)),
    Case("grouped heads, padding, relative_key_query", _GROUPED, _padding, bias="relative_key_query"),
    Case("packed", _PACKED, low_precision=True),
    Case("packed, equal lengths", replace(_PACKED, lengths=(7, 7))),
    Case("packed, empty sequences only", Sizes(queries=0, keys=0, lengths=(0, 0))),
    Case("packed, causal", _PACKED, _fixed(_CAUSAL)),
    Case("packed, window and global tokens", _PACKED, _global(AttentionMask(window=(1, 2)))),
    *(Case(f"packed, bias: {name}", _PACKED, bias=name) for name in ("dense", "ALiBi", "buckets")),
    Case("packed, grouped heads, relative_key_query", _PACKED_GROUPED, _fixed(_CAUSAL), bias="relative_key_query"),
)


def draw_inputs(case: Case, device: torch.device, dtype: torch.dtype = torch.float64) -> Inputs:
    """Random inputs of a case, the same ones every time."""
    sizes = case.sizes
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

    shape_and_bias = None if case.bias is None else BIASES[case.bias]
    output_shape = (sizes.batch, sizes.heads, sizes.queries) if sizes.lengths is None else (sizes.queries, sizes.heads)
    return Inputs(
        query=tensor(sizes.heads, sizes.queries),
        key=tensor(sizes.groups, sizes.keys),
        value=tensor(sizes.groups, sizes.keys),
        mask=case.mask(sizes, mostly_true),
        parameter=None if shape_and_bias is None else normal(*shape_and_bias[0](sizes)),
        bias=None if shape_and_bias is None else shape_and_bias[1],
        layout=None if sizes.lengths is None else PackedLayout.from_lengths(sizes.lengths, device),
        scale=case.scale,
        output_gradient=normal(*output_shape, sizes.width),
        logsumexp_gradient=normal(*output_shape),
        weights_gradient=normal(sizes.samples, sizes.heads, sizes.queries, sizes.keys),
    )
