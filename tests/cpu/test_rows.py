"""Sequences sharing rows: every token has one cell, sequences stay apart, rows are filled well."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minitrans.cpu.rows import lay_out

LENGTHS = st.lists(st.integers(0, 300), max_size=40)


@settings(max_examples=60, deadline=None)
@given(LENGTHS)
def test_every_token_has_one_place_and_sees_its_own_sequence(lengths: list[int]):
    rows = lay_out(lengths, torch.float32)
    total = sum(lengths)
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths, dtype=torch.int64))
    staying = [torch.arange(part.start, part.start + part.rows * part.length) for part in rows.in_place]
    for part, tokens in zip(rows.in_place, staying, strict=True):
        owner = sequence[tokens].view(part.rows, part.length)
        assert bool((owner == owner[:, :1]).all())
        assert [lengths[int(n)] for n in owner[:, 0]] == [part.length] * part.rows
        assert part.mask is None
    if rows.token_of_cell is None:
        assert rows.shared == ()
        assert rows.place_of_token is None
        assert sum(map(len, staying)) == total
        return
    assert rows.place_of_token is not None
    placed = torch.cat([*staying, rows.token_of_cell])
    assert torch.equal(placed[rows.place_of_token], torch.arange(total))
    cell_of_token = rows.place_of_token - sum(map(len, staying))
    seen = 0
    for part in rows.shared:
        assert part.start == seen
        cells = range(part.start, part.start + part.rows * part.length)
        seen = cells.stop
        owner = torch.full((part.rows * part.length,), -1)
        here = (cell_of_token >= cells.start) & (cell_of_token < cells.stop)
        owner[cell_of_token[here] - cells.start] = sequence[here]
        owner = owner.view(part.rows, part.length)
        apart = owner[:, :, None] != owner[:, None, :]
        mask = torch.zeros(apart.shape) if part.mask is None else part.mask[:, 0]
        assert torch.equal(mask == -torch.inf, apart)
        assert bool((mask[~apart] == 0).all())
    assert seen == len(rows.token_of_cell)


@pytest.mark.parametrize(
    ("lengths", "most"),
    [([13] * 64, 1.25), ([20] * 64, 1.25), (list(range(6, 31)) * 3, 1.25), ([512] + [10] * 63, 1.1), ([7], 1.0)],
)
def test_few_cells_are_free(lengths: list[int], most: float):
    rows = lay_out(lengths, torch.bfloat16)
    cells = sum(part.rows * part.length for part in rows.in_place + rows.shared)
    assert cells <= most * sum(lengths)


def test_rows_of_one_sequence_each_need_no_mask_and_no_moving():
    rows = lay_out([64] * 5, torch.float32)
    assert rows.token_of_cell is None
    assert rows.in_place[0].rows == 5
    assert lay_out([65] * 5, torch.float32).token_of_cell is not None


def test_long_sequences_have_rows_of_their_own_length_where_they_stand():
    rows = lay_out([300, 300, 97, 301, 0, 300], torch.float32)
    assert rows.token_of_cell is None
    assert [(part.rows, part.length) for part in rows.in_place] == [(2, 300), (1, 97), (1, 301), (1, 300)]
    assert [part.length for part in lay_out([192, 193, 191, 20], torch.bfloat16).in_place] == [193]


def test_a_long_sequence_does_not_lengthen_the_rows_of_the_short_ones():
    rows = lay_out([512] + [10] * 63, torch.float32)
    assert [part.length for part in rows.in_place] == [512]
    assert all(part.length <= 96 for part in rows.shared)
