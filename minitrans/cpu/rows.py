"""Several short sequences in one row of a rectangle: a packed batch laid out so that one call computes its attention.

A call of torch's fused attention costs most per sequence and head when sequences are short, and a batch of many different lengths
would need a call for each of them. Here sequences share rows of equal length, a mask keeps them apart, and the few free cells at
the ends of rows are computed along and dropped. Long sequences stay alone: for them the scores cost more than the call.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

_SHORT = 96  # rows up to this long may hold any sequence; longer ones are for sequences of more than half their length
_BASE = 64  # what a cell costs beside its scores: as much as this many more cells in the row (measured, as the next)
_LONG = 6  # registers of scores; a longer sequence has its own row, of just its length (measured)
_ODD = 64  # cells that a row seems longer by when the vectors of the softmax do not divide it


@dataclass(frozen=True)
class Rectangle:
    """Rows of equal length that one call attends over.

    Attributes:
        start: the first cell.
        rows: how many.
        length: cells a row.
        mask: (rows, 1, length, length), or what spreads to it, added to the scores; None where each row is one sequence.
        blind: (rows, 1, length, 1), where a cell may see nothing, so that its output is 0; None where each sees some.
    """

    start: int
    rows: int
    length: int
    mask: Tensor | None
    blind: Tensor | None = None


@dataclass(frozen=True)
class Rows:
    """Where the tokens of a packed batch go for their attention.

    Attributes:
        in_place: rows of sequences as they lie in the batch; `start` counts its tokens.
        shared: rows of cells; `start` counts those.
        token_of_cell: (C) the token in each cell, any token in a free one.
        place_of_token: (N) where each token comes out when the rows in place and then the shared ones are laid end to end; None
            where it stays where it is.
    """

    in_place: tuple[Rectangle, ...]
    shared: tuple[Rectangle, ...] = ()
    token_of_cell: Tensor | None = None
    place_of_token: Tensor | None = None


def lay_out(lengths: Sequence[int], dtype: torch.dtype) -> Rows:
    """Rows for sequences of these lengths.

    Args:
        lengths: of the sequences; empty ones are left out.
        dtype: of the masks.
    """
    step = 64 // dtype.itemsize  # one vector register of scores
    uniform = len(set(lengths)) == 1 and lengths[0] % step == 0
    limit = 0 if uniform else _LONG * step
    starts = torch.tensor([0, *lengths]).cumsum(0).tolist()
    in_place = []
    first = 0
    for length, equal in groupby(lengths):  # neighbours of equal length
        count = len(list(equal))
        if length > limit:
            in_place.append(Rectangle(starts[first], count, length, None))
        first += count

    members: dict[int, list[int]] = {}
    for number, length in enumerate(lengths):
        if 0 < length <= limit:
            members.setdefault(length, []).append(number)
    if not members:
        return Rows(tuple(in_place))
    counts = {length: len(numbers) for length, numbers in members.items()}
    tokens: list[Tensor] = []
    shared: list[Rectangle] = []
    cell = 0
    while counts:
        length = _row_length(counts, step)
        rows = [[members[each].pop() for each in row] for row in _fill(counts, length)]
        spans = torch.tensor([[starts[n], lengths[n]] for row in rows for n in row])
        tokens_here, mask = _cells(spans, torch.tensor([len(row) for row in rows]), length, dtype)
        tokens.append(tokens_here)
        shared.append(Rectangle(cell, len(rows), length, mask))
        cell += len(tokens_here)
    token_of_cell = torch.cat(tokens)
    staying = [torch.arange(part.start, part.start + part.rows * part.length) for part in in_place]
    token_of_place = torch.cat([*staying, token_of_cell])
    real = token_of_place >= 0
    place_of_token = torch.empty(starts[-1], dtype=torch.int64)
    place_of_token[token_of_place[real]] = real.nonzero().squeeze(1)
    return Rows(tuple(in_place), tuple(shared), token_of_cell.clamp_min(0), place_of_token)


def _cells(spans: Tensor, sizes: Tensor, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """The tokens of the cells of a rectangle, -1 in free ones, and its mask.

    Args:
        spans: (sequences, 2) first token and length of each, row by row.
        sizes: (rows) how many sequences each row holds.
        length: cells a row.
        dtype: of the mask.
    """
    firsts, lengths = spans.unbind(1)
    row = torch.repeat_interleave(torch.arange(len(sizes)), sizes)  # (sequences)
    ends = lengths.cumsum(0)
    before = ends - lengths
    row_start = before[sizes.cumsum(0) - sizes]  # (rows) tokens in the rows above
    begin = row * length + before - row_start[row]  # (sequences) first cell
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), lengths)  # (tokens)
    offset = torch.arange(len(sequence)) - before[sequence]
    cells = begin[sequence] + offset
    tokens = torch.full((len(sizes) * length,), -1)
    tokens[cells] = firsts[sequence] + offset
    if len(lengths) == len(sizes) and len(cells) == len(tokens):
        return tokens, None
    owner = torch.full((len(tokens),), -1, dtype=torch.int32)
    owner[cells] = sequence.int()
    owner = owner.view(len(sizes), length)
    apart = owner[:, None, :, None] != owner[:, None, None, :]  # free cells see each other: no row is without a key
    return tokens, torch.zeros(apart.shape, dtype=dtype).masked_fill_(apart, -torch.inf)


def _row_length(counts: dict[int, int], step: int) -> int:
    """The length of the next rectangle's rows: room for the longest sequence, and filled well at little cost."""
    longest = max(counts)
    tokens = sum(length * count for length, count in counts.items())
    first = -(-longest // step) * step
    best, best_cost = longest, float("inf")
    for length in (longest, *range(first, max(first, _SHORT) + 1, step)):
        if length > longest and _BASE + length >= best_cost:
            break  # no better even without a free cell
        filled = _fill(dict(counts), length)
        placed = sum(map(sum, filled))
        odd = _ODD if length % step else 0
        cost = len(filled) * length * (_BASE + length + odd) / placed
        if cost < best_cost:
            best, best_cost = length, cost
        if placed == tokens and len(filled) == 1:
            break
    return best


def _fill(counts: dict[int, int], length: int) -> list[list[int]]:
    """Rows as lists of the lengths they hold: each takes the longest sequence left, then what fits best beside it.

    Long rows stop when the longest sequence left is at most half as long: shorter rows are for those.

    Args:
        counts: how many sequences of each length there are; those placed are taken out.
        length: cells a row.
    """
    left = sorted(counts)
    rows: list[list[int]] = []
    while left and (length <= _SHORT or 2 * left[-1] > length):
        row: list[int] = []
        room = length
        while at := bisect_right(left, room):
            chosen = left[at - 1]
            row.append(chosen)
            room -= chosen
            counts[chosen] -= 1
            if not counts[chosen]:
                del counts[chosen], left[at - 1]
        rows.append(row)
    return rows
