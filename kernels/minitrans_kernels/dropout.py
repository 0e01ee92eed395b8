"""Dropout whose bits are a function of (seed, stream, row, column), so that any implementation can drop the same elements.

A row key and a column key of 32 bits each are drawn with SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable
pseudorandom number generators"), one per row and one per column. An element mixes the exclusive or of its two keys with
two multiplications and one shift, the multipliers being those of Wellons' `triple32` search (github.com/skeeto/
hash-prospector), and is dropped where the result, an unsigned 32-bit number, is below `threshold(p)`. An attention
matrix of T·S elements costs T + S long hashes and T·S short ones, where a counter-based generator such as Philox
(Salmon et al. 2011) would cost about ten rounds an element.

Nothing here depends on the lengths: the mask of a sequence is the same alone, padded, and in a packed batch.
`dropout_kernel` holds the same functions for Triton.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

_LOW: Final = 0xFFFF_FFFF
# the two multipliers of an element, as the signed numbers of least size: no product below overflows 64 bits
_FIRST: Final = 0x21F0_AAAD
_SECOND: Final = 0xD35A_2D97 - (1 << 32)
# SplitMix64: its increment and its multipliers, as signed 64-bit numbers
_INCREMENT: Final = 0x9E37_79B9_7F4A_7C15 - (1 << 64)
_MIX_FIRST: Final = 0xBF58_476D_1CE4_E5B9 - (1 << 64)
_MIX_SECOND: Final = 0x94D0_49BB_1331_11EB - (1 << 64)


def dropout_mask(
    shape: tuple[int, ...], p: float, seed: int | Tensor, *, device: torch.device | str | None = None
) -> Tensor:
    """The mask that the kernels apply, bool, True = kept.

    Args:
        shape: (B, H, T, S), where batch b and head h are stream b·H + h; or (rows, columns), which is stream 0.
        p: probability with which an element is dropped, in [0, 1).
        seed: a number of 64 bits, or an int64 tensor of one element.
        device: where the mask is built, by default where the seed is.

    Raises:
        ValueError: where the shape has neither two nor four sizes, p is outside [0, 1), or the seed has another size.
        TypeError: where the seed is neither an int nor an int64 tensor.
    """
    if len(shape) not in (2, 4):
        raise ValueError(f"shape must be (B, H, T, S) or (rows, columns), got {tuple(shape)}")
    bound = threshold(p)
    seed = seed_tensor(seed, device)
    rows = torch.arange(shape[-2], device=seed.device)
    columns = torch.arange(shape[-1], device=seed.device)
    streams = torch.arange(shape[0] * shape[1] if len(shape) == 4 else 1, device=seed.device)[:, None]  # (B·H, 1)
    kept = keep(row_keys(seed, streams, rows)[..., None], column_keys(seed, streams, columns)[..., None, :], bound)
    return kept.view(shape)


def seed_tensor(seed: int | Tensor, device: torch.device | str | None = None) -> Tensor:
    """The seed as the (1) int64 tensor that kernels load, on `device` or, where that is None, where it is.

    Raises:
        ValueError: where an int does not fit 64 bits, signed or not, or a tensor holds more or less than one number.
        TypeError: where the seed is neither an int nor an int64 tensor.
    """
    if isinstance(seed, Tensor):
        if seed.dtype != torch.int64:
            raise TypeError(f"the dropout seed must be an int or an int64 tensor, got a tensor of {seed.dtype}")
        if seed.numel() != 1:
            raise ValueError(f"the dropout seed must be one number, got a tensor of shape {tuple(seed.shape)}")
        return seed.reshape(1).to(seed.device if device is None else device)
    if isinstance(seed, bool) or not isinstance(seed, (int, torch.SymInt)):
        raise TypeError(f"the dropout seed must be an int or an int64 tensor, got {type(seed).__name__}")
    if not -(1 << 63) <= seed < (1 << 63):
        raise ValueError(f"the dropout seed must lie in [-2**63, 2**63), got {seed}")
    return torch.full((1,), seed, dtype=torch.int64, device=device)


def threshold(p: float) -> int:
    """The unsigned 32-bit number below which an element is dropped: p·2³² rounded, at most 2³² - 1.

    The probability that results is within 2⁻³² of p; below 2⁻³³ nothing is ever dropped.

    Raises:
        ValueError: where p is outside [0, 1).
    """
    if not 0.0 <= p < 1.0:
        raise ValueError(f"the dropout probability must lie in [0, 1), got {p}")
    return min(round(p * (1 << 32)), _LOW)


def row_keys(seed: Tensor, stream: Tensor, index: Tensor) -> Tensor:
    """The 32-bit keys, as int64, of rows `index` of `stream` (both int64, broadcast against each other)."""
    return _keys(seed, 2 * stream, index)


def column_keys(seed: Tensor, stream: Tensor, index: Tensor) -> Tensor:
    """The 32-bit keys, as int64, of columns `index` of `stream` (both int64, broadcast against each other)."""
    return _keys(seed, 2 * stream + 1, index)


def keep(row_key: Tensor, column_key: Tensor, bound: int) -> Tensor:
    """Whether the elements with these keys (broadcast against each other) are kept, `bound` being a `threshold`."""
    mixed = row_key ^ column_key
    mixed.mul_(_FIRST).bitwise_and_(_LOW)
    mixed.bitwise_xor_(mixed >> 15)
    return mixed.mul_(_SECOND).bitwise_and_(_LOW) >= bound


def _keys(seed: Tensor, sequence: Tensor, index: Tensor) -> Tensor:
    """The upper half of number `index` of the SplitMix64 sequence that starts at number `sequence` of the seed's."""
    start = _mix(seed + (sequence + 1) * _INCREMENT)
    return _shift(_mix(start + (index + 1) * _INCREMENT), 32)


def _mix(state: Tensor) -> Tensor:
    """SplitMix64's finaliser; products wrap modulo 2⁶⁴."""
    state = (state ^ _shift(state, 30)) * _MIX_FIRST
    state = (state ^ _shift(state, 27)) * _MIX_SECOND
    return state ^ _shift(state, 31)


def _shift(state: Tensor, count: int) -> Tensor:
    """A logical shift to the right: `>>` on int64 repeats the sign."""
    return (state >> count) & ((1 << (64 - count)) - 1)
