"""The functions of `dropout` for Triton kernels: bit for bit the same."""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def row_keys(seed, stream, index):
    """The uint32 keys of rows `index` (a tile of int) of `stream` (a scalar int); `seed` is a scalar int64."""
    return _keys(seed, tl.cast(stream, tl.uint64) * 2 + 1, index)


@triton.jit
def column_keys(seed, stream, index):
    """The uint32 keys of columns `index` (a tile of int) of `stream` (a scalar int); `seed` is a scalar int64."""
    return _keys(seed, tl.cast(stream, tl.uint64) * 2 + 2, index)


@triton.jit
def keep(row_key, column_key, threshold):
    """Whether the elements with these keys (broadcast against each other) are kept; `threshold` is that of `dropout`."""
    mixed = (row_key ^ column_key) * tl.full((), 0x21F0AAAD, tl.uint32)
    mixed = (mixed ^ (mixed >> 15)) * tl.full((), 0xD35A2D97, tl.uint32)
    return mixed >= tl.cast(threshold, tl.uint32)


@triton.jit
def _keys(seed, sequence, index):
    increment = tl.full((), 0x9E3779B97F4A7C15, tl.uint64)
    start = _mix(tl.cast(seed, tl.uint64) + sequence * increment)
    return (_mix(start + (tl.cast(index, tl.uint64) + 1) * increment) >> 32).to(tl.uint32)


@triton.jit
def _mix(state):
    state = (state ^ (state >> 30)) * tl.full((), 0xBF58476D1CE4E5B9, tl.uint64)
    state = (state ^ (state >> 27)) * tl.full((), 0x94D049BB133111EB, tl.uint64)
    return state ^ (state >> 31)
