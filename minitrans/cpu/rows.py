"""Rows of a rectangle for the sequences of a packed batch, so that few calls compute its attention.

A call of torch's fused attention costs most per sequence and head when sequences are short, its softmax is slow where the keys do
not fill vector registers, and a batch of many different lengths would need a call for each of them. So a row reaches over as many
keys as fill its registers, holds as many sequences as fit, and a mask keeps apart what is not one sequence.

Neighbours of equal length are rows as they lie in the batch, and a row reaches over tokens of the next or the one before. Where
lengths change too often for that, short sequences are gathered into rows that they fill well; the few free cells are computed
along and dropped.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from minitrans.attention.bias import RelativeBuckets

_SHORT = 96  # rows up to this long may hold any sequence; longer ones are for sequences of more than half their length
_LONG = 6  # registers of scores; a longer sequence is attended where it lies
# costs in scores of one query and one key (measured)
_CELL = 64  # of a cell, beside its scores
_MOVE = 32  # of bringing a token to its cell and back
_CALL = 4000


@dataclass(frozen=True)
class Rectangle:
    """Rows of equal length that one call attends over.

    Attributes:
        start: the first cell.
        rows: how many.
        length: cells a row, its queries.
        reach: its keys: these cells and neighbouring ones of the rows beside it.
        before: how many of the keys come before the row's own cells.
        mask: (rows, 1, length, reach), or what spreads to it, added to the scores; None where a row's keys are one sequence.
        blind: (rows, 1, length, 1), where a cell may see nothing, so that its output is 0; None where each sees some.
    """

    start: int
    rows: int
    length: int
    reach: int
    before: int
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


class Run(NamedTuple):
    """Neighbours of equal length in a packed batch: the first token, tokens of each, how many sequences."""

    start: int
    length: int
    sequences: int


def lay_out(lengths: Sequence[int], dtype: torch.dtype) -> Rows:
    """Rows for sequences of these lengths.

    Args:
        lengths: of the sequences; empty ones are left out.
        dtype: of the masks.
    """
    step = 64 // dtype.itemsize  # one vector register of scores
    runs, end = _runs(lengths)
    short = [run for run in runs if run.length <= _LONG * step]
    if not short or _cost_in_place(short, step) <= _least_cost_shared(short, step):
        return Rows(tuple(_in_place(runs, end, step, dtype)))
    in_place = tuple(_in_place([run for run in runs if run.length > _LONG * step], end, step, dtype))
    tokens, shared = _shared(short, step, dtype)

    staying = [torch.arange(part.start, part.start + part.rows * part.length) for part in in_place]
    token_of_place = torch.cat([*staying, tokens])
    real = token_of_place >= 0
    place_of_token = torch.empty(end, dtype=torch.int64)
    place_of_token[token_of_place[real]] = real.nonzero().squeeze(1)
    beyond = torch.zeros(max(part.reach - part.length for part in shared), dtype=torch.int64)
    return Rows(in_place, shared, torch.cat([tokens, beyond]).clamp_min_(0), place_of_token)


def with_distances(rows: Rows, bias: RelativeBuckets) -> Rows:
    """The rows, their masks with scores of distances (Raffel et al. 2020), which are those between cells of a row."""
    furthest = max((part.reach for part in rows.in_place + rows.shared), default=0)
    scores = bias.table[bias.buckets(torch.arange(-furthest, furthest + 1))].T.contiguous()  # (H, distances)

    def with_scores(part: Rectangle) -> Rectangle:
        keys, queries = torch.arange(part.reach) - part.before, torch.arange(part.length)
        of_cells = scores[:, keys - queries[:, None] + furthest][None]  # (1, H, length, reach)
        return replace(part, mask=of_cells if part.mask is None else of_cells + part.mask)

    in_place, shared = (tuple(map(with_scores, parts)) for parts in (rows.in_place, rows.shared))
    return replace(rows, in_place=in_place, shared=shared)


def _runs(lengths: Sequence[int]) -> tuple[list[Run], int]:
    """The runs of a batch, and how many tokens it has."""
    runs = []
    start = 0
    for length, equal in groupby(lengths):
        count = len(list(equal))
        if length:
            runs.append(Run(start, length, count))
        start += length * count
    return runs, start


def _cost_in_place(runs: Sequence[Run], step: int) -> int:
    return sum(_CALL + run.sequences * run.length * (_CELL + _round_up(run.length, step)) for run in runs)


def _least_cost_shared(runs: Sequence[Run], step: int) -> int:
    """What sharing would cost if no cell stayed free and one call did it all."""
    longest = max(run.length for run in runs)
    return _CALL + sum(run.sequences * run.length for run in runs) * (_CELL + _MOVE + _round_up(longest, step))


def _in_place(runs: Sequence[Run], end: int, step: int, dtype: torch.dtype) -> Iterator[Rectangle]:
    """The rectangles of runs in a batch of `end` tokens, none of which reaches out of it."""
    for start, length, sequences in runs:
        reach = _round_up(length, step)
        share = reach // length  # sequences a row
        row = share * length
        rows, beyond = sequences // share, reach - row
        if start + rows * row + beyond <= end:
            ahead, behind = rows, 0
        elif start >= beyond:
            ahead, behind = 0, rows
        else:
            ahead, behind = (rows // 2, rows - rows // 2) if rows > 1 else (0, 0)
        if ahead:
            yield Rectangle(start, ahead, row, reach, 0, _apart(length, share, reach, 0, dtype))
        if behind:
            yield Rectangle(
                start + ahead * row, behind, row, reach, beyond, _apart(length, share, reach, beyond, dtype)
            )
        left = sequences - (ahead + behind) * share
        if left:
            first, rest = start + (ahead + behind) * row, left * length
            yield Rectangle(first, 1, rest, rest, 0, _apart(length, left, rest, 0, dtype))


def _apart(length: int, share: int, reach: int, before: int, dtype: torch.dtype) -> Tensor | None:
    """The mask (1, 1, share · length, reach) of rows of so many sequences of equal length; (1, 1, 1, reach) for one a row."""
    if length == reach:
        return None
    if share == 1:
        mask = torch.full((1, 1, 1, reach), -torch.inf, dtype=dtype)
        mask[..., before : before + length] = 0
        return mask
    sequence = (torch.arange(reach) - before) // length
    queries = sequence[before : before + share * length]
    mask = torch.zeros(len(queries), reach, dtype=dtype).masked_fill_(queries[:, None] != sequence, -torch.inf)
    return mask[None, None]


def _shared(runs: Sequence[Run], step: int, dtype: torch.dtype) -> tuple[Tensor, tuple[Rectangle, ...]]:
    """The tokens of the cells of shared rows, -1 in free ones, and the rectangles of these rows."""
    firsts: dict[int, list[int]] = {}
    for start, length, count in runs:
        firsts.setdefault(length, []).extend(range(start, start + count * length, length))
    counts = {length: len(starts) for length, starts in firsts.items()}
    tokens: list[Tensor] = []
    shared: list[Rectangle] = []
    cell = 0
    while counts:
        length = _row_length(counts, step)
        reach = _round_up(length, step)
        rows = _fill(counts, length)
        spans = torch.tensor([[firsts[each].pop(), each] for row in rows for each in row])
        tokens_here, mask = _cells(spans, torch.tensor([len(row) for row in rows]), length, reach, dtype)
        tokens.append(tokens_here)
        shared.append(Rectangle(cell, len(rows), length, reach, 0, mask))
        cell += len(tokens_here)
    return torch.cat(tokens), tuple(shared)


def _round_up(length: int, step: int) -> int:
    return -(-length // step) * step


def _cells(spans: Tensor, sizes: Tensor, length: int, reach: int, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """The tokens of the cells of a rectangle, -1 in free ones, and its mask.

    Args:
        spans: (sequences, 2) first token and length of each, row by row.
        sizes: (rows) how many sequences each row holds.
        length: cells a row.
        reach: keys a row.
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
    if len(lengths) == len(sizes) and len(cells) == len(tokens) and reach == length:
        return tokens, None
    owner = torch.full((len(tokens),), -1, dtype=torch.int32)
    owner[cells] = sequence.int()
    queries = owner.view(len(sizes), length)
    keys = torch.nn.functional.pad(queries, (0, reach - length), value=-2)
    apart = queries[:, None, :, None] != keys[:, None, None, :]  # free cells see each other: no row is without a key
    return tokens, torch.zeros(apart.shape, dtype=dtype).masked_fill_(apart, -torch.inf)


def _row_length(counts: dict[int, int], step: int) -> int:
    """The length of the next rectangle's rows: room for the longest sequence, and filled well at little cost."""
    longest = max(counts)
    tokens = sum(length * count for length, count in counts.items())
    first = _round_up(longest, step)
    best, best_cost = longest, float("inf")
    for length in (longest, *range(first, max(first, _SHORT) + 1, step)):
        cost_of_cell = _CELL + _round_up(length, step)
        if cost_of_cell >= best_cost:
            break  # no better even without a free cell
        filled = _fill(dict(counts), length)
        placed = sum(map(sum, filled))
        cost = len(filled) * length * cost_of_cell / placed
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
