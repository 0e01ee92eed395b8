"""Sequences sharing rows: every token has one cell, sequences stay apart, rows are filled well."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minitrans.cpu.rows import Rectangle, lay_out

RUNS = st.lists(st.tuples(st.integers(0, 300) | st.integers(1, 20), st.sampled_from((1, 1, 2, 7, 23))), max_size=20)


def tokens_of(part: Rectangle, keys: bool = False) -> torch.Tensor:
    """(rows, length) or (rows, reach): the cells of a rectangle that its queries, or its keys, are."""
    row = torch.arange(part.rows)[:, None] * part.length
    return part.start + row + torch.arange(part.reach if keys else part.length) - keys * part.before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(max_examples=60, deadline=None)
@given(RUNS)
def test_every_token_has_one_place_and_sees_its_own_sequence(dtype: torch.dtype, runs: list[tuple[int, int]]):
    lengths = [length for length, count in runs for _ in range(count)]
    total = sum(lengths)
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths, dtype=torch.int64))
    rows = lay_out(lengths, dtype)
    owners = [(part, sequence) for part in rows.in_place]
    outputs = [tokens_of(part).flatten() for part in rows.in_place]
    if rows.token_of_cell is None:
        assert rows.shared == ()
        assert rows.place_of_token is None
        placed = torch.cat([torch.empty(0, dtype=torch.int64), *outputs])
        assert torch.equal(placed, torch.arange(total))
    else:
        assert rows.place_of_token is not None
        staying = sum(map(len, outputs))
        outputs += [rows.token_of_cell[tokens_of(part)].flatten() for part in rows.shared]
        placed = torch.cat(outputs)
        assert torch.equal(placed[rows.place_of_token], torch.arange(total))
        owner_of_cell = torch.full((len(rows.token_of_cell),), -1)
        cell_of_token = rows.place_of_token - staying
        here = cell_of_token >= 0
        owner_of_cell[cell_of_token[here]] = sequence[here]
        owners += [(part, owner_of_cell) for part in rows.shared]
        assert torch.equal(
            torch.cat([tokens_of(part).flatten() for part in rows.shared]), torch.arange(len(placed) - staying)
        )
    for part, owner in owners:
        queries, keys = tokens_of(part), tokens_of(part, keys=True)
        assert keys.min() >= 0  # beyond the end it would raise
        same = owner[queries][:, :, None] == owner[keys][:, None, :]
        # free cells see each other, but not those of the next row
        same &= (owner[queries] >= 0)[:, :, None] | (torch.arange(part.reach) < part.length)
        expected = torch.zeros(same.shape, dtype=dtype).masked_fill(~same, -torch.inf)
        mask = torch.zeros(()) if part.mask is None else part.mask[:, 0]
        assert torch.equal(mask.to(dtype).expand(same.shape), expected)


@pytest.mark.parametrize(
    ("lengths", "most"),
    [
        ([13] * 64, 1.0),
        ([13, 14] * 32, 1.25),
        ([20, 7] * 32, 1.25),
        (list(range(6, 31)) * 3, 1.25),
        ([512] + [10, 9] * 31, 1.1),
        ([7], 1.0),
    ],
)
def test_few_cells_are_free(lengths: list[int], most: float):
    rows = lay_out(lengths, torch.bfloat16)
    cells = sum(part.rows * part.length for part in rows.in_place + rows.shared)
    assert cells <= most * sum(lengths)


def shapes(lengths: list[int], dtype: torch.dtype = torch.float32) -> list[tuple[int, int, int]]:
    rows = lay_out(lengths, dtype)
    assert rows.token_of_cell is None
    return [(part.rows, part.length, part.reach) for part in rows.in_place]


def test_neighbours_of_equal_length_stay_where_they_lie():
    assert shapes([64] * 5) == [(5, 64, 64)]
    assert lay_out([64] * 5, torch.float32).in_place[0].mask is None
    # keys fill registers; rows reach over the ones after them, or before where those would be missing
    assert shapes([9] * 64) == [(32, 9, 16), (32, 9, 16)]
    assert [part.before for part in lay_out([9] * 64, torch.float32).in_place] == [0, 7]
    assert shapes([9] * 40 + [16] * 24) == [(40, 9, 16), (24, 16, 16)]
    assert shapes([16] * 40 + [9] * 24) == [(40, 16, 16), (24, 9, 16)]
    assert shapes([9]) == [(1, 9, 9)]
    # as many sequences a row as its registers hold
    assert shapes([9] * 64, torch.bfloat16) == [(21, 27, 32), (1, 9, 9)]
    assert shapes([5] * 31) == [(10, 15, 16), (1, 5, 5)]


def test_short_sequences_of_many_lengths_share_rows():
    rows = lay_out([9, 7] * 20, torch.float32)
    assert rows.in_place == ()
    assert [(part.rows, part.length, part.reach) for part in rows.shared] == [(20, 16, 16)]


def test_long_sequences_have_rows_of_their_own_length_where_they_stand():
    lengths = [300, 300, 97, 301, 0, 300]
    assert shapes(lengths) == [(2, 300, 304), (1, 97, 112), (1, 301, 304), (1, 300, 304)]
    many = [192, 193, 191, 20, 19] + [20, 19, 21] * 30
    assert [part.length for part in lay_out(many, torch.bfloat16).in_place] == [193]


def test_a_long_sequence_does_not_lengthen_the_rows_of_the_short_ones():
    rows = lay_out([512] + [10, 11] * 31, torch.float32)
    assert [part.length for part in rows.in_place] == [512]
    assert all(part.length <= 96 for part in rows.shared)
