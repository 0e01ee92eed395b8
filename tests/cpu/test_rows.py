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
def test_every_token_has_one_cell_and_sees_its_own_sequence(lengths: list[int]):
    rows = lay_out(lengths, 384, torch.float32)
    total = sum(lengths)
    assert torch.equal(rows.token_of_cell[rows.cell_of_token], torch.arange(total))
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths, dtype=torch.int64))
    seen = 0
    for part in rows.rectangles:
        assert part.start == seen
        cells = range(part.start, part.start + part.rows * part.length)
        seen = cells.stop
        owner = torch.full((part.rows * part.length,), -1)
        here = (rows.cell_of_token >= cells.start) & (rows.cell_of_token < cells.stop)
        owner[rows.cell_of_token[here] - cells.start] = sequence[here]
        owner = owner.view(part.rows, part.length)
        apart = owner[:, :, None] != owner[:, None, :]
        mask = torch.zeros(apart.shape) if part.mask is None else part.mask[:, 0]
        assert torch.equal(mask == -torch.inf, apart)
        assert bool((mask[~apart] == 0).all())
    assert seen == len(rows.token_of_cell)


@pytest.mark.parametrize(
    ("lengths", "most"),
    [([13] * 64, 1.06), ([20] * 64, 1.11), (list(range(6, 31)) * 3, 1.1), ([512] + [10] * 63, 1.06), ([7], 1.0)],
)
def test_few_cells_are_free(lengths: list[int], most: float):
    cells = len(lay_out(lengths, 384, torch.bfloat16).token_of_cell)
    assert cells <= most * sum(lengths)


def test_a_long_sequence_does_not_lengthen_the_rows_of_the_short_ones():
    rectangles = lay_out([512] + [10] * 63, 384, torch.float32).rectangles
    assert rectangles[0].length == 512
    assert all(part.length <= 96 for part in rectangles[1:])
