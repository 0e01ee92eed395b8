"""A text and its scores are the same alone and in any batch, for every search, with padding on any side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.generation.conftest import FAMILIES
from tests.generation.test_pairs import CLASSES as PAIRS
from tests.generation.test_pairs import SEARCHES, models

PAD = 1
LENGTHS = [2, 6, 4]


def same_alone_and_together(model: Any, call: dict[str, Any], side: str, beams: int) -> None:
    real = torch.randint(3, 23, (3, 6), generator=torch.Generator().manual_seed(5))
    ids, mask = torch.full((3, 8), PAD), torch.zeros(3, 8, dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        start = {"left": 8 - length, "right": 0, "both": (8 - length) // 2}[side]
        ids[row, start : start + length], mask[row, start : start + length] = real[row, :length], 1
    seeds = {"seed": [7, 8, 9]} if "do_sample" in call else {}
    together = model.generate(ids, attention_mask=mask, **call, **seeds)
    for row, length in enumerate(LENGTHS):
        one = {"seed": 7 + row} if seeds else {}
        alone = model.generate(real[row : row + 1, :length], **call, **one)
        begin = (1, 1) if hasattr(model, "pair") else (length, 8)  # a pair's texts begin with the start token
        new, got = alone.sequences[0, begin[0] :].tolist(), together.sequences[row, begin[1] :].tolist()
        count = len(new)
        assert got[:count] == new
        assert set(got[count:]) <= {PAD}
        for mine, theirs in zip(together.scores, alone.scores, strict=False):
            rows = mine[row * beams : (row + 1) * beams]
            if rows[0].count_nonzero() and rows.shape == theirs.shape:  # of beams that are not done
                torch.testing.assert_close(rows, theirs, rtol=1e-12, atol=1e-12)
        if beams > 1:
            score = together.sequences_scores[row]
            torch.testing.assert_close(score, alone.sequences_scores[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("side", ["left", "right", "both"])
@pytest.mark.parametrize("search", SEARCHES)
def test_rows_are_themselves(pair: Callable[..., Any], search: str, side: str):
    call = {"max_new_tokens": 7, "return_dict_in_generate": True, "output_scores": True, "pad_token_id": PAD}
    call |= {"eos_token_id": [3, 4], **{name: value for name, value in SEARCHES[search].items() if name != "seed"}}
    for family in FAMILIES:
        same_alone_and_together(pair(family, 4).ours, call, side, call.get("num_beams", 1))
    for family in PAIRS:
        same_alone_and_together(models(family, 3)[1], call, side, call.get("num_beams", 1))
