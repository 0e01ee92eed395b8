"""Attention of a packed batch in the rows that `rows.lay_out` gives it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from minitrans.cpu.rows import Rectangle, Rows


def attend_in_rows(projected: Tensor, rows: Rows, scale: float | None = None) -> Tensor:
    """Each token attends to its own sequence.

    Args:
        projected: (N, 3, H, K) queries, keys and values, contiguous.
        rows: of the batch.
        scale: of the scores; None = K to the power of -1/2.

    Returns:
        (N, H·K).
    """
    outputs = [_of_rectangle(projected, each, scale) for each in rows.in_place]
    if rows.token_of_cell is not None:
        cells = projected.index_select(0, rows.token_of_cell)
        outputs += [_of_rectangle(cells, each, scale) for each in rows.shared]
    attended = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return attended if rows.place_of_token is None else attended.index_select(0, rows.place_of_token)


def _of_rectangle(cells: Tensor, each: Rectangle, scale: float | None) -> Tensor:
    """(C, 3, H, K) -> (rows · length, H·K)."""
    heads, width = cells.shape[2:]
    step = cells.stride(0)

    def rows_of(which: int, length: int, before: int) -> Tensor:
        """(rows, H, length, K); rows overlap where they are longer than the distance between them."""
        first = cells.storage_offset() + (each.start - before) * step + which * heads * width
        return cells.as_strided((each.rows, heads, length, width), (each.length * step, width, step, 1), first)

    q, k, v = rows_of(0, each.length, 0), rows_of(1, each.reach, each.before), rows_of(2, each.reach, each.before)
    found = scaled_dot_product_attention(q, k, v, attn_mask=each.mask, scale=scale)
    if each.blind is not None:
        found = found.masked_fill(each.blind, 0.0)
    return found.transpose(1, 2).reshape(-1, heads * width)
