"""What the launches of this folder share: tile sizes, how many programs to start, and the sum of their partial results."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
import triton
from torch import Tensor

from minitrans_kernels.layers.row_kernels import sum_partials_kernel

# elements of a tile for 4 warps: each tensor held at once takes 32 registers a thread forward; a backward holds more tensors
FORWARD_TILE = 4096
BACKWARD_TILE = 2048
# columns of a tile that need not hold whole rows: wide enough that 4 warps load whole cache lines
COLUMNS = 1024
# registers a thread of a kernel that holds several tiles may take: sixteen warps then share a processor, as 4, 2 or 1 programs.
# Left to itself ptxas chooses a number of its own to fit more of them, at times a few too small, and spills
REGISTERS = 128


def sum_partials(partials: Tensor, *totals: Tensor) -> None:
    """Sum float32 partials (len(totals), P, D) over P into each total (D), always in the same order."""
    kinds, count, width = partials.shape
    grid, tile = (triton.cdiv(width, 32), kinds), {"BLOCK_P": 64, "BLOCK_D": 32}
    sum_partials_kernel[grid](partials, totals[0], totals[-1], count, width, **tile, num_warps=4)


def on(device: torch.device) -> AbstractContextManager[object]:
    """The context to launch in."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def row_tile(width: int, elements: int) -> dict[str, int]:
    """BLOCK_ROWS, BLOCK_D and num_warps of a tile that holds whole rows of this width."""
    columns = max(16, triton.next_power_of_2(width))
    rows = max(1, min(64, elements // columns))
    return {"BLOCK_ROWS": rows, "BLOCK_D": columns, "num_warps": max(4, 4 * columns // elements)}


def register_limit(warps: int) -> int:
    """As REGISTERS, for a backward that holds so much that a program of more than 4 warps takes all it can have."""
    return REGISTERS if warps == 4 else min(255, 65536 // (32 * warps))


def program_count(device: torch.device, tiles: int) -> int:
    """How many programs share the tiles of a backward: a few a processor, so that their partial sums stay small."""
    return min(tiles, 4 * _processors(device))


def contiguous_rows(tensor: Tensor) -> Tensor:
    """The tensor (N, D) itself where its rows are dense, at whatever stride, else a copy."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


@cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
