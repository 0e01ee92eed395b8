"""Beams for texts that must hold words: the best of all texts that hold them, enumerated; and the same in any batch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from minitrans.generation.forced import progress

MANY = settings(deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])


def holds(text: tuple[int, ...], word: list[Any]) -> bool:
    forms = [word] if isinstance(word[0], int) else word
    return any(text[start : start + len(form)] == tuple(form) for form in forms for start in range(len(text)))


@settings(MANY, max_examples=20)
@given(
    seed=st.integers(0, 10**6),
    words=st.sampled_from([[[1]], [[1, 2]], [[1], [2]], [[2, 2]], [[[1, 2], [2, 1]]], [[1, 2], [[1, 1], [2]]]]),
)
def test_with_beams_enough_it_finds_the_best_of_all_texts_with_the_words(table: Any, seed: int, words: list[Any]):
    model, length = table(3, seed), 3
    best = {}
    for text in product(range(3), repeat=length):
        text = text[: text.index(0) + 1] if 0 in text else text  # 0 ends it
        logs = (model.scores((9, *text[:place])).log_softmax(0)[token] for place, token in enumerate(text))
        if all(holds(text, word) for word in words):
            best[text] = float(sum(logs)) / len(text)
    ranked = sorted(best, key=lambda text: -best[text])
    found = model.search(
        torch.tensor([[9]]), num_beams=27, num_return_sequences=min(2, len(ranked)), max_new_tokens=length, eos_token_id=0,
        force_words_ids=words, early_stopping="never",
    )  # fmt: skip
    assert [tuple(each) for each in found.tokens] == ranked[:2]
    torch.testing.assert_close(
        found.sequences_scores, torch.tensor([best[each] for each in ranked[:2]], dtype=torch.float64)
    )


@pytest.mark.parametrize("words", [[[5, 6]], [[7], [8, 9, 10]], [[[5, 6], [7, 8]], [12]]])
def test_few_beams_hold_the_words_in_any_batch(pair: Callable[..., Any], words: list[Any]):
    model = pair("gpt2", 1).ours
    call = {
        "force_words_ids": words, "num_beams": 5, "num_return_sequences": 2, "max_new_tokens": 9, "eos_token_id": 2,
        "return_dict_in_generate": True,
    }  # fmt: skip
    texts = [[4, 5], [6], [9, 8, 7, 3]]
    ids = torch.tensor([[1] * (4 - len(text)) + text for text in texts])
    together = model.generate(ids, attention_mask=(ids != 1).long(), **call)
    for row in together.sequences[:, 4:].tolist():
        new = tuple(token for token in row[: row.index(2)] if token != 1) if 2 in row else tuple(row)
        assert all(holds(new, word) for word in words)
    for number, text in enumerate(texts):
        alone = model.generate(torch.tensor([text]), **call)
        for copy in range(2):
            new = alone.sequences[copy, len(text) :].tolist()
            assert together.sequences[number * 2 + copy, 4 : 4 + len(new)].tolist() == new
        score = together.sequences_scores[number * 2 : number * 2 + 2]
        torch.testing.assert_close(score, alone.sequences_scores, rtol=1e-12, atol=1e-12)


def test_how_far_a_text_has_come():
    words = [[[5, 6, 5, 7]], [[8], [9, 9]]]
    assert progress(words, []) == (0, False, [5, 8, 9])
    assert progress(words, [5, 6]) == (2, False, [5, 5, 8, 9])
    assert progress(words, [5, 6, 5, 6]) == (2, False, [5, 5, 8, 9])  # the last two begin it anew
    assert progress(words, [9]) == (1, False, [5, 8, 9, 9])
    assert progress(words, [8, 5, 6, 5, 7]) == (6, True, [])


def test_words_that_do_not_fit(table: Any):
    with pytest.raises(ValueError, match="prompt 0: num_return_sequences=1, but only 0 texts can be written"):
        table(5, 0).search(torch.tensor([[4]]), num_beams=3, max_new_tokens=2, force_words_ids=[[1, 2, 3]])
