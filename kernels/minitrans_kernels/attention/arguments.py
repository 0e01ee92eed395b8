"""What a call may be given: checked once, before anything is launched, and brought into one form, `AttentionArgs`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypedDict

import torch
from torch import Tensor
from torch.nn.functional import pad

from minitrans_kernels.attention.distance_bias import RelativeBias, distance_bias
from minitrans_kernels.dropout import seed_tensor
from minitrans_kernels.runtime import runs_on_triton

_DTYPES: Final = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_NARROWEST, _WIDEST = 16, 256
_SEEDS = 2**62


class BlockLayout(NamedTuple):
    """A block-sparse pattern: query block a may attend to key block b where `allowed[..., h, a, b]`.

    Attributes:
        allowed: (H|1, ceil(T / size), ceil(S / size)) or (B|1, H|1, ...) bool; in a packed batch by position within the
            sequence, B of them.
        size: tokens per block.
    """

    allowed: Tensor
    size: int

    @classmethod
    def covering(cls, mask: Tensor, size: int = 64) -> BlockLayout:
        """The blocks in which a (..., T, S) bool mask allows any pair: beside a bias of -inf, what no tile need visit."""
        queries, keys = (-(-length // size) for length in mask.shape[-2:])
        whole = pad(mask, (0, keys * size - mask.shape[-1], 0, queries * size - mask.shape[-2]))
        return cls(whole.reshape(*mask.shape[:-2], queries, size, keys, size).any(-1).any(-2), size)


class Options(TypedDict, total=False):
    """What the attention functions take by name; `attention` says what each is."""

    causal: bool
    window: tuple[int | None, int | None] | None
    global_tokens: Tensor | None
    block_layout: tuple[Tensor, int] | None
    bias: Tensor | None
    relative_bias: tuple[Tensor, bool, int] | None
    alibi_slopes: Tensor | None
    scale: float | None
    softcap: float | None
    dropout_p: float
    dropout_seed: int | Tensor | None


@dataclass(frozen=True, eq=False)
class AttentionArgs:
    """A checked call. Query i of T stands at position i + S - T; a distance is key position minus query position.

    Attributes:
        query: (B, H, T, K), or packed (N, H, K).
        key: (B, G, S, K), or packed (M, G, K); G divides H.
        value: as key.
        max_seqlen_q: T, or at least the longest query sequence of a packed batch.
        max_seqlen_k: S, or at least the longest key sequence.
        scale: factor of query times key.
        cu_seqlens_q: (B + 1) int32, packed only: sequence b is tokens cu_seqlens_q[b] .. cu_seqlens_q[b + 1] - 1.
        cu_seqlens_k: likewise for keys.
        key_padding: (B, S) bool, True = may be attended to; None in a packed batch.
        global_tokens: (B, S) bool, or packed (M).
        blocks: (B|1, H|1, ceil(T / block_size), ceil(S / block_size)) bool.
        block_size: tokens a block; 0 without blocks.
        bias: (B|1, H|1, T, S), in a packed batch indexed by position within the sequence.
        distance_bias: (H, T + S - 1) float32, added where the distance is d at index d + S - 1; T, S as max_seqlen.
        causal: whether a query sees no key to its right.
        left: keys a query sees to its left; None = all.
        right: to its right.
        softcap: c of c * tanh(x / c); None = none.
        dropout_p: probability with which a probability is dropped.
        dropout_seed: (1) int64 on the device of the query; None without dropout.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    max_seqlen_q: int
    max_seqlen_k: int
    scale: float
    cu_seqlens_q: Tensor | None = None
    cu_seqlens_k: Tensor | None = None
    key_padding: Tensor | None = None
    global_tokens: Tensor | None = None
    blocks: Tensor | None = None
    block_size: int = 0
    bias: Tensor | None = None
    distance_bias: Tensor | None = None
    causal: bool = False
    left: int | None = None
    right: int | None = None
    softcap: float | None = None
    dropout_p: float = 0.0
    dropout_seed: Tensor | None = None

    @property
    def packed(self) -> bool:
        """Whether sequences lie end to end."""
        return self.cu_seqlens_q is not None

    @property
    def empty(self) -> bool:
        """Whether there is no query or no key, so that every result is a constant."""
        return self.query.numel() == 0 or self.key.numel() == 0

    @property
    def batch(self) -> int:
        """B."""
        return self.query.shape[0] if self.cu_seqlens_q is None else self.cu_seqlens_q.shape[0] - 1

    @property
    def heads(self) -> int:
        """H."""
        return self.query.shape[1]

    @property
    def key_heads(self) -> int:
        """G."""
        return self.key.shape[1]

    @property
    def width(self) -> int:
        """K."""
        return self.query.shape[-1]

    @property
    def differentiable(self) -> tuple[Tensor | None, ...]:
        """What has a gradient, in the order of `DIFFERENTIABLE`."""
        return self.query, self.key, self.value, self.bias, self.distance_bias

    def weights_shape(self, rows: Tensor | None) -> tuple[int, ...]:
        """(B, H, R, S), or packed (H, R, M): of the probabilities of query rows (R) or (B, R), None = all."""
        if self.packed:
            return self.heads, self.query.shape[0] if rows is None else rows.shape[0], self.key.shape[0]
        return self.batch, self.heads, self.max_seqlen_q if rows is None else rows.shape[-1], self.max_seqlen_k


DIFFERENTIABLE: Final = ("query", "key", "value", "bias", "distance_bias")


def padded(q: Tensor, k: Tensor, v: Tensor | None, key_padding: Tensor | None, options: Options) -> AttentionArgs:
    """Of q (B, H, T, K), k and v (B, G, S, K); v None = not needed.

    Raises:
        ValueError, TypeError: where something does not fit.
    """
    _check_tokens(q, k, v, "(B, H, T, K)", "(B, G, S, K)")
    batch, keys = k.shape[0], k.shape[2]
    for name, flags in (("key_padding", key_padding), ("global_tokens", options.get("global_tokens"))):
        if flags is not None:
            _check(name, flags, q, (torch.bool,), "(B, S)", B=batch, S=keys)
    return _args(q, k, v, options, batch, q.shape[2], keys, key_padding=key_padding)


def packed(
    q: Tensor, k: Tensor, v: Tensor | None, cu_seqlens: tuple[Tensor, Tensor], max_seqlen: tuple[int, int], options: Options
) -> AttentionArgs:  # fmt: skip
    """Of q (N, H, K), k and v (M, G, K), with cu_seqlens and max_seqlen of queries and of keys; v None = not needed.

    Raises:
        ValueError, TypeError: where something does not fit.
    """
    _check_tokens(q, k, v, "(N, H, K)", "(M, G, K)")
    for side, starts, longest, tokens in zip("qk", cu_seqlens, max_seqlen, (q, k), strict=True):
        _check(f"cu_seqlens_{side}", starts, q, (torch.int32,), "(B + 1)")
        if not _is_int(longest) or longest < (1 if tokens.shape[0] else 0):
            raise ValueError(
                f"max_seqlen_{side} must be an int, the longest length or more, got {longest!r} for {tokens.shape[0]} tokens"
            )
    sizes = cu_seqlens[0].shape[0], cu_seqlens[1].shape[0]
    if sizes[0] != sizes[1] or sizes[0] < 1:
        raise ValueError(
            f"cu_seqlens_q and cu_seqlens_k must have the same length, at least 1, got {sizes[0]} and {sizes[1]}"
        )
    flags = options.get("global_tokens")
    if flags is not None:
        _check("global_tokens", flags, q, (torch.bool,), "(M)", M=k.shape[0])
    starts_q, starts_k = (starts.contiguous() for starts in cu_seqlens)
    return _args(q, k, v, options, sizes[0] - 1, *max_seqlen, cu_seqlens_q=starts_q, cu_seqlens_k=starts_k)


def check_weights(args: AttentionArgs, lse: Tensor, rows: Tensor | None) -> None:
    """Checks what the functions of weights take besides. Rows out of range are found on the CPU only, when they run.

    Raises:
        ValueError, TypeError: where something does not fit.
    """
    q, letters = args.query, "(N, H)" if args.packed else "(B, H, T)"
    sizes = dict(zip(letters[1:-1].split(", "), q.shape, strict=False))
    _check("lse, as the attention returned it,", lse, q, (_wide(q),), letters, **sizes)
    if rows is not None and not args.packed and isinstance(rows, Tensor) and rows.dim() == 2:
        _check("rows", rows, q, (torch.int64,), "(B, R)", B=args.batch)
    elif rows is not None:
        _check("rows", rows, q, (torch.int64,), "(R)")


def check_values(args: AttentionArgs) -> None:
    """Raises ValueError where boundaries that can be read without waiting for a device do not fit the tokens."""
    for side, starts, tokens, longest in (
        ("q", args.cu_seqlens_q, args.query, args.max_seqlen_q),
        ("k", args.cu_seqlens_k, args.key, args.max_seqlen_k),
    ):
        if starts is None or starts.device.type != "cpu":
            continue
        ends, lengths = starts.tolist(), starts.diff().tolist()
        if ends[0] != 0 or ends[-1] != len(tokens) or min(lengths, default=0) < 0:
            raise ValueError(
                f"cu_seqlens_{side} must begin with 0, never fall, and end with {len(tokens)} tokens, got {ends}"
            )
        if max(lengths, default=0) > longest:
            raise ValueError(f"max_seqlen_{side} must be at least {max(lengths)}, the longest length, got {longest}")


def check_rows(rows: Tensor, count: int) -> None:
    """Raises ValueError where rows that can be read without waiting for a device are not 0 .. count - 1."""
    if rows.device.type == "cpu" and rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < count:
        raise ValueError(f"rows must be in 0..{count - 1}, got {rows.tolist()}")


def sequences_of(tokens: Tensor, cu_seqlens: Tensor) -> Tensor:
    """The number of the sequence that each token belongs to; below 0 before the first sequence, B and above after the last.

    Args:
        tokens: indices of packed tokens, any shape, int64.
        cu_seqlens: (B + 1) int32.
    """
    return torch.searchsorted(cu_seqlens.to(tokens.dtype), tokens.contiguous(), right=True) - 1


def _args(
    q: Tensor, k: Tensor, v: Tensor | None, options: Options, batch: int, queries: int, keys: int, **layout: Tensor | None
) -> AttentionArgs:  # fmt: skip
    unknown = options.keys() - Options.__annotations__.keys()
    if unknown:
        raise TypeError(f"unexpected keyword argument {min(unknown)!r}, expected {', '.join(Options.__annotations__)}")
    heads, causal = q.shape[1], options.get("causal", False)
    if not isinstance(causal, bool):
        raise TypeError(f"causal must be a bool, got {type(causal).__name__}")
    left, right = _window(options.get("window"))
    blocks, block_size = _blocks(options.get("block_layout"), batch, heads, queries, keys, q)
    bias, slopes = options.get("bias"), options.get("alibi_slopes")
    if bias is not None:
        hint = "; a bool mask is no bias: use key_padding or -inf"
        _check("bias", bias, q, (q.dtype, torch.float32), "(B|1, H|1, T, S)", hint, B=batch, H=heads, T=queries, S=keys)
    relative_bias = _relative_bias(options.get("relative_bias"), heads, q)
    if slopes is not None:
        _check("alibi_slopes", slopes, q, _DTYPES, "(H)", H=heads)
    scale, softcap = options.get("scale"), options.get("softcap")
    softcap = None if softcap is None else _number("softcap", softcap)
    if softcap is not None and softcap <= 0:
        raise ValueError(f"softcap must be above 0, got {softcap}; None is no softcap")
    dropout_p, dropout_seed = _dropout(options.get("dropout_p", 0.0), options.get("dropout_seed"), q)
    return AttentionArgs(
        q, k, k.detach() if v is None else v, queries, keys,
        q.shape[-1] ** -0.5 if scale is None else _number("scale", scale),
        global_tokens=options.get("global_tokens"), blocks=blocks, block_size=block_size, bias=bias,
        distance_bias=distance_bias(queries, keys, relative_bias, slopes, _wide(q)),
        causal=causal, left=left, right=right, softcap=softcap, dropout_p=dropout_p, dropout_seed=dropout_seed, **layout,
    )  # fmt: skip


def _wide(q: Tensor) -> torch.dtype:
    return torch.promote_types(q.dtype, torch.float32)


def _check(
    name: str, tensor: Tensor, q: Tensor, dtypes: tuple[torch.dtype, ...], letters: str, *hint: str, **sizes: int
) -> None:
    """A tensor on the device of q. `letters` is a shape as "(B|1, S)", of which `sizes` says what is known."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if tensor.device != q.device:
        raise ValueError(f"{name} is on {tensor.device}, q is on {q.device}; they must be on one device")
    if tensor.dtype not in dtypes:
        advice = "; write mask.bool() for a 0/1 mask" if torch.bool in dtypes else "".join(hint)
        raise TypeError(f"{name} must be {' or '.join(str(one) for one in dtypes)}, got {tensor.dtype}{advice}")
    shape = letters[1:-1].split(", ")
    fits = tensor.dim() == len(shape) and all(
        size == sizes.get(letter[0], size) or (size == 1 and letter.endswith("|1"))
        for letter, size in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        known = " with " + ", ".join(f"{letter}={size}" for letter, size in sizes.items()) if sizes else ""
        raise ValueError(f"{name} must be {letters}{known}, got shape {tuple(tensor.shape)}")


def _check_tokens(q: Tensor, k: Tensor, v: Tensor | None, queries: str, keys: str) -> None:
    _check("q", q, q, _DTYPES, queries)
    width = q.shape[-1]
    if not _NARROWEST <= width <= _WIDEST:
        raise ValueError(f"the head width of q must be in {_NARROWEST}..{_WIDEST}, got {width}")
    sizes = {"K": width} if q.dim() == 3 else {"B": q.shape[0], "K": width}
    _check("k", k, q, (q.dtype,), keys, **sizes)
    if k.shape[1] == 0 or q.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise ValueError(f"the heads of k must divide those of q, got {k.shape[1]} and {q.shape[1]}")
    if v is not None:
        _check("v", v, q, (q.dtype,), keys, **dict(zip(keys[1:-1].split(", "), k.shape, strict=True)))
    if q.dtype == torch.float64 and runs_on_triton(q):
        raise TypeError(
            f"q is float64 on {q.device}, where Triton kernels compute float32, bfloat16 or float16; "
            f"convert it, or move it to the CPU, where the PyTorch path computes float64"
        )


def _relative_bias(given: tuple[Tensor, bool, int] | None, heads: int, q: Tensor) -> RelativeBias | None:
    if given is None:
        return None
    if not isinstance(given, Sequence) or not 1 <= len(given) <= 3:
        raise TypeError(
            f"relative_bias must be RelativeBias(table, bidirectional, max_distance), got {type(given).__name__}"
        )
    relative = RelativeBias(*given)
    _check("relative_bias.table", relative.table, q, _DTYPES, "(buckets, H)", H=heads)
    buckets, sides = relative.table.shape[0], 2 if relative.bidirectional else 1
    if buckets < 2 * sides or buckets % sides:
        raise ValueError(
            f"relative_bias.table must have {'an even number of at least 4' if sides == 2 else 'at least 2'} buckets, "
            f"got {buckets}"
        )
    exact = buckets // sides // 2
    if relative.max_distance <= exact:
        raise ValueError(
            f"relative_bias.max_distance must be above {exact}, the distances that have a bucket each, "
            f"got {relative.max_distance}"
        )
    return relative


def _window(window: tuple[int | None, int | None] | None) -> tuple[int | None, int | None]:
    if window is None:
        return None, None
    sides = tuple(window) if isinstance(window, Sequence) else ()
    if len(sides) != 2 or not all(side is None or _is_int(side) for side in sides):
        raise TypeError(f"window must be (left, right), two ints or None for unbounded, got {window!r}")
    if any(side is not None and side < 0 for side in sides):
        raise ValueError(f"window must hold distances of at least 0, got {window!r}")
    return sides[0], sides[1]


def _blocks(
    layout: tuple[Tensor, int] | None, batch: int, heads: int, queries: int, keys: int, q: Tensor
) -> tuple[Tensor | None, int]:
    if layout is None:
        return None, 0
    if not isinstance(layout, Sequence) or len(layout) != 2 or not _is_int(layout[1]):
        raise TypeError(f"block_layout must be BlockLayout(allowed, size), got {type(layout).__name__}")
    allowed, size = layout
    if size < 1:
        raise ValueError(f"block_layout.size must be at least 1, got {size}")
    sizes = {"B": batch, "H": heads, "T": -(-queries // size), "S": -(-keys // size)}
    if isinstance(allowed, Tensor) and allowed.dim() == 3:
        allowed = allowed[None]
    _check("block_layout.allowed", allowed, q, (torch.bool,), "(B|1, H|1, T / size, S / size)", **sizes)
    return allowed, size


def _dropout(p: float, seed: int | Tensor | None, q: Tensor) -> tuple[float, Tensor | None]:
    p = _number("dropout_p", p)
    if not 0.0 <= p < 1.0:
        raise ValueError(f"dropout_p must be in [0, 1), got {p}")
    if p == 0.0:
        return p, None
    if seed is None:
        return p, torch.randint(_SEEDS, (1,), dtype=torch.int64, device=q.device)
    if isinstance(seed, Tensor) and seed.device != q.device:
        raise ValueError(f"dropout_seed is on {seed.device}, q is on {q.device}; they must be on one device")
    return p, seed_tensor(seed, q.device)


def _number(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not -math.inf < value < math.inf:  # in words that a compiler can follow for a number it does not know
        raise ValueError(f"{name} must be finite, got {value}")
    return float(value)


def _is_int(value: Any) -> bool:
    return isinstance(value, int | torch.SymInt) and not isinstance(value, bool)
