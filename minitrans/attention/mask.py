"""What may attend to what. `AttentionMask.to_dense` is the one definition of its meaning; True = may attend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch._C import _is_tracing
from torch._C._functorch import is_functorch_wrapped_tensor as is_mapped
from torch._subclasses.fake_tensor import FakeTensor
from torch.compiler import is_compiling
from torch.nn.functional import pad

from minitrans.attention.layout import PackedLayout
from minitrans.attention.recording import being_traced

_ALL = slice(None)


def has_values(x: Tensor) -> bool:
    """Whether there are numbers to look at: not while x is recorded, mapped over by `torch.func`, or nothing but a shape."""
    return not (is_compiling() or _is_tracing() or x.is_meta or isinstance(x, FakeTensor) or is_mapped(x))


@dataclass(frozen=True, eq=False)
class BlockLayout:
    """A block-sparse pattern: query block a may attend to key block b where `allowed[h, a, b]`.

    Attributes:
        allowed: (H|1, ceil(T / size), ceil(S / size)) bool.
        size: tokens per block.
    """

    allowed: Tensor
    size: int

    def __post_init__(self) -> None:
        _require_bool("BlockLayout.allowed", self.allowed, 3)
        if self.size < 1:
            raise ValueError(f"BlockLayout.size must be at least 1, got {self.size}")


@dataclass(frozen=True, eq=False)
class MaskRule:
    """A pattern as a function: `allows(b, h, i, j)` says whether query i may attend to key j.

    It gets int64 tensors that broadcast against each other and returns bools; i and j are positions among the keys (query
    i of T stands at i + S - T), in a packed batch positions in their sequence, of which b is the number.

    Attributes:
        allows: the function.
        batch: how many samples it tells apart; 1 = it does not look at b.
        heads: how many heads it tells apart; 1 = it does not look at h.
    """

    allows: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    batch: int = 1
    heads: int = 1


@dataclass(frozen=True, eq=False)
class AttentionMask:
    """The conjunction of its parts; a part left at its default forbids nothing.

    With T queries and S keys, query i stands at position i + S - T, so that the last query meets the last key (a
    decoder with a key/value cache). Global tokens attend to, and are attended from, everywhere: they lift `window` and
    `blocks`, never the other parts.

    Attributes:
        key_padding: (B, S) bool, the keys that are real tokens.
        causal: a query sees no key to its right.
        window: (left, right), the distances a query sees to each side; None = unbounded.
        global_tokens: (B, S) bool; in a packed batch (1, N).
        blocks: a block-sparse pattern.
        rule: a pattern given as a function of positions.
        dense: (B|1, H|1, T, S) bool, anything else.
    """

    key_padding: Tensor | None = None
    causal: bool = False
    window: tuple[int | None, int | None] | None = None
    global_tokens: Tensor | None = None
    blocks: BlockLayout | None = None
    rule: MaskRule | None = None
    dense: Tensor | None = None

    def __post_init__(self) -> None:
        _require_bool("key_padding", self.key_padding, 2)
        _require_bool("global_tokens", self.global_tokens, 2)
        _require_bool("dense", self.dense, 4)
        if self.window is not None and any(side is not None and side < 0 for side in self.window):
            raise ValueError(f"window must hold two distances of at least 0 (or None), got {self.window}")

    def to_dense(
        self,
        query_length: int,
        key_length: int,
        device: torch.device,
        layout: PackedLayout | None = None,
        *,
        rows: slice = _ALL,
        columns: slice = _ALL,
    ) -> Tensor | None:
        """The mask as one bool tensor (B|1, H|1, T|1, S), or None where everything may attend to everything.

        For a packed batch (`layout` given, T = S = N) no token sees another sequence. `rows` and `columns` choose a
        rectangle of it, for implementations that never hold all T·S pairs.
        """
        allowed: Tensor | None = None
        causal = self.causal and (
            query_length > 1 or being_traced()
        )  # a single query is the last one: it sees every key
        if self.window is not None or causal:
            ahead = distance(query_length, key_length, device, rows, columns)  # (T, S)
        if self.window is not None:
            allowed = _inside(self.window, ahead)
        if self.blocks is not None:
            allowed = _both(allowed, _blocks(self.blocks, query_length, key_length, rows, columns))
        if allowed is not None and self.global_tokens is not None:
            key_is_global = self.global_tokens[:, None, None, columns]  # (B, 1, 1, S)
            query_is_global = global_queries(self.global_tokens, query_length)[:, None, rows, None]  # (B, 1, T, 1)
            allowed = allowed | key_is_global | query_is_global
        if causal:
            allowed = _both(allowed, _inside((None, 0), ahead))
        if self.rule is not None:
            allowed = _both(allowed, _ruled(self.rule, query_length, key_length, device, layout, rows, columns))
        if self.dense is not None:
            allowed = _both(allowed, self.dense[:, :, rows, columns])
        if self.key_padding is not None:
            allowed = _both(allowed, self.key_padding[:, None, None, columns])
        if layout is not None:
            allowed = _both(allowed, layout.same_sequence()[:, :, rows, columns])
        return allowed

    @property
    def only_causal(self) -> bool:
        """Whether `causal` is all there is, which fused kernels have a switch for."""
        parts = (self.key_padding, self.window, self.global_tokens, self.blocks, self.rule, self.dense)
        return self.causal and all(part is None for part in parts)

    def narrowed(self, rule: MaskRule) -> AttentionMask:
        """This mask and the rule: both must allow a pair."""
        if self.rule is None:
            return replace(self, rule=rule)
        first = self.rule
        both = MaskRule(
            lambda b, h, i, j: first.allows(b, h, i, j) & rule.allows(b, h, i, j),
            max(first.batch, rule.batch),
            max(first.heads, rule.heads),
        )
        return replace(self, rule=both)

    @property
    def fits_packed(self) -> bool:
        """Whether it says nothing that a packed batch, which has no padding and no grid, cannot have."""
        return self.key_padding is None and self.dense is None and self.blocks is None

    def check(self, query: torch.Size, key: torch.Size) -> None:
        """Raises ValueError where a part does not fit queries (B, H, T, K) and keys (B, G, S, K), or (N, H, K), (N, G, K)."""
        batch, query_length, key_length = (1, query[0], key[0]) if len(query) == 3 else (query[0], query[2], key[2])
        for name, part in (("key_padding", self.key_padding), ("global_tokens", self.global_tokens)):
            if part is not None and part.shape != (batch, key_length):
                raise ValueError(f"{name} must be (B, S) = ({batch}, {key_length}), got {tuple(part.shape)}")
        expected = (batch, query[1], query_length, key_length)
        if self.dense is not None and not fits(self.dense, expected):
            raise ValueError(f"dense must be (B|1, H|1, T, S) of {expected}, got {tuple(self.dense.shape)}")
        if self.blocks is not None:
            size = self.blocks.size
            grid = (-(-query_length // size), -(-key_length // size))
            if self.blocks.allowed.shape[0] not in (1, query[1]) or self.blocks.allowed.shape[1:] != grid:
                sizes = f"T={query_length}, S={key_length}, size={size}, got {tuple(self.blocks.allowed.shape)}"
                raise ValueError(f"blocks.allowed must be (H|1, {grid[0]}, {grid[1]}) for {sizes}")


def fits(scores: Tensor, sizes: tuple[int, int, int, int]) -> bool:
    """Whether a tensor is (B|1, H|1, T, S)."""
    return scores.shape[0] in (1, sizes[0]) and scores.shape[1] in (1, sizes[1]) and scores.shape[2:] == sizes[2:]


def distance(
    query_length: int, key_length: int, device: torch.device, rows: slice = _ALL, columns: slice = _ALL
) -> Tensor:
    """(T, S) int64: key position minus query position, where query i stands at i + S - T; or a rectangle of it."""
    queries = torch.arange(key_length - query_length, key_length, device=device)[rows]
    return torch.arange(key_length, device=device)[None, columns] - queries[:, None]


def global_queries(global_tokens: Tensor, query_length: int) -> Tensor:
    """(B, T) bool: which queries are global tokens, from the (B, S) tokens; a query before the first key is none."""
    before = max(query_length - global_tokens.shape[1], 0)
    tokens = pad(global_tokens, (before, 0), value=False)
    return tokens[:, tokens.shape[1] - query_length :]


def _inside(window: tuple[int | None, int | None], ahead: Tensor) -> Tensor:
    allowed = torch.ones_like(ahead, dtype=torch.bool)
    left, right = window
    if left is not None:
        allowed = allowed & (ahead >= -left)  # not in place: ONNX has no such operator
    if right is not None:
        allowed = allowed & (ahead <= right)
    return allowed[None, None]


def _blocks(blocks: BlockLayout, query_length: int, key_length: int, rows: slice, columns: slice) -> Tensor:
    device = blocks.allowed.device
    query_block = torch.arange(query_length, device=device)[rows] // blocks.size
    key_block = torch.arange(key_length, device=device)[columns] // blocks.size
    return blocks.allowed[None, :, query_block[:, None], key_block[None, :]]


def _ruled(
    rule: MaskRule,
    query_length: int,
    key_length: int,
    device: torch.device,
    layout: PackedLayout | None,
    rows: slice,
    columns: slice,
) -> Tensor:
    """(B|1, H|1, T, S): what the rule allows."""
    if layout is None:
        b = torch.arange(rule.batch, device=device)[:, None, None, None]
        i = torch.arange(key_length - query_length, key_length, device=device)[rows, None]
        j = torch.arange(key_length, device=device)[columns]
    else:
        places = layout.positions()
        b, i, j = layout.sequence_of_token()[rows, None], places[rows, None], places[columns]
    h = torch.arange(rule.heads, device=device)[:, None, None]
    everywhere = torch.ones(1, 1, i.shape[0], j.shape[0], dtype=torch.bool, device=device)
    return rule.allows(b, h, i, j) & everywhere


def _both(one: Tensor | None, other: Tensor) -> Tensor:
    return other if one is None else one & other


def _require_bool(name: str, tensor: Tensor | None, dimensions: int) -> None:
    if tensor is not None and tensor.dtype != torch.bool:
        hint = "write mask.bool() for a 0/1 mask, and pass additive scores as a bias"
        raise TypeError(f"{name} must be a bool tensor where True = may attend, got {tensor.dtype}; {hint}")
    if tensor is not None and tensor.dim() != dimensions:
        raise ValueError(f"{name} must have {dimensions} dimensions, got shape {tuple(tensor.shape)}")


NO_MASK = AttentionMask()  # forbids nothing
