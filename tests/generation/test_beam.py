"""Beam search: the reference's texts and scores, all texts enumerated, a naive diverse search, and the same in any batch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.generation.conftest import FAMILIES

PAD = 1
MANY = settings(deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
OPTIONS: dict[str, list[Any]] = {
    "repetition_penalty": [1.3],
    "no_repeat_ngram_size": [2],
    "min_new_tokens": [3],
    "suppress_tokens": [[5, 6]],
    "sequence_bias": [[[[4], -2.0], [[5, 6], 3.0]]],
    "forced_eos_token_id": [2],
    "renormalize_logits": [True],
    "temperature": [0.7],
    "top_k": [9],
    "top_p": [0.9],
}


def prompts(seed: int, rows: int, length: int) -> Tensor:
    return torch.randint(2, 23, (rows, length), generator=torch.Generator().manual_seed(seed))


@st.composite
def calls(draw: Any, sampled: bool) -> dict[str, Any]:
    chosen = draw(st.lists(st.sampled_from(sorted(OPTIONS)), unique=True, max_size=3))
    beams = draw(st.integers(2, 4))
    return {
        **{name: draw(st.sampled_from(OPTIONS[name])) for name in chosen},
        "pad_token_id": PAD,
        "eos_token_id": draw(st.sampled_from([None, 2, [3, 4, 5, 6]])),
        "max_new_tokens": draw(st.integers(3, 9)),
        "num_beams": beams,
        "num_return_sequences": draw(st.integers(1, beams)),
        "early_stopping": draw(st.sampled_from([True, False, "never"])),
        "length_penalty": draw(st.sampled_from([1.0, 0.0, 2.0, -1.0, 0.6])),
        "do_sample": sampled,
        "return_dict_in_generate": True,
        "output_scores": True,
    }


def trimmed(rows: Tensor, prompt: int) -> list[list[int]]:
    """New tokens without padding: the reference fills up with another token in places."""
    return [row[prompt:] for row in rows.tolist()]


def compare(pair: Callable[..., Any], data: Any, models: int) -> None:
    sampled = data.draw(st.booleans())
    call, seed = data.draw(calls(sampled)), data.draw(st.integers(0, models))
    models = pair(data.draw(st.sampled_from(FAMILIES)), seed)
    rows = 1 if sampled else data.draw(st.integers(1, 3))  # one prompt that is done ends the drawing for it here
    ids = prompts(seed, rows, data.draw(st.integers(1, 5)))
    torch.default_generator.manual_seed(seed)
    expected = models.of_reference(ids, **call)
    torch.default_generator.manual_seed(seed)
    got = models.ours.generate(ids, **call)
    assert trimmed(got.sequences, ids.shape[1]) == trimmed(expected.sequences, ids.shape[1])
    torch.testing.assert_close(got.sequences_scores, expected.sequences_scores.double(), rtol=1e-5, atol=1e-5)
    if rows == 1:
        assert got.beam_indices.tolist() == expected.beam_indices.tolist()
        for mine, theirs in zip(got.scores, expected.scores, strict=True):
            finite = theirs[0].isfinite()
            torch.testing.assert_close(mine[0][finite], theirs[0][finite].double(), rtol=1e-5, atol=1e-5)


@settings(MANY, max_examples=30)
@given(data=st.data())
def test_texts_and_scores_are_the_references(pair: Callable[..., Any], data: Any):
    compare(pair, data, 8)


@pytest.mark.slow
@settings(MANY, max_examples=300)
@given(data=st.data())
def test_texts_and_scores_are_the_references_on_many_models(pair: Callable[..., Any], data: Any):
    compare(pair, data, 200)


@settings(MANY, max_examples=20)
@given(data=st.data())
def test_a_text_is_the_same_in_any_batch(pair: Callable[..., Any], data: Any):
    call, seed = data.draw(calls(data.draw(st.booleans()))), data.draw(st.integers(0, 8))
    model = pair(data.draw(st.sampled_from(FAMILIES)), seed).ours
    if not call["do_sample"] and data.draw(st.booleans()):
        call |= {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.5}
    if data.draw(st.booleans()):
        call |= {"max_length": 12, "max_new_tokens": None}
    side = data.draw(st.sampled_from(["left", "right"]))
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=2, max_size=3))
    real, seeds, width = prompts(seed, len(lengths), 5), [11, 12, 13], call["num_return_sequences"]
    mask = torch.stack(
        [torch.arange(5) < length if side == "right" else torch.arange(5) >= 5 - length for length in lengths]
    )
    ids = torch.full_like(real, PAD)
    for row, length in enumerate(lengths):
        ids[row, mask[row]] = real[row, :length]
    random = {"seed": seeds[: len(lengths)]} if call["do_sample"] else {}
    together = model.generate(ids, attention_mask=mask.long(), **call, **random)
    for row, length in enumerate(lengths):
        alone = model.generate(real[row : row + 1, :length], **call, **({"seed": seeds[row]} if random else {}))
        for copy in range(width):
            new, got = alone.sequences[copy, length:].tolist(), together.sequences[row * width + copy, 5:].tolist()
            assert got[: len(new)] == new
            assert set(got[len(new) :]) <= {PAD}
            score = together.sequences_scores[row * width + copy]
            torch.testing.assert_close(score, alone.sequences_scores[copy], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_cache_changes_nothing(pair: Callable[..., Any], groups: int):
    model, ids = pair("bert", 3).ours, prompts(2, 3, 4)
    call = {
        "num_beams": 4,
        "num_return_sequences": 4,
        "eos_token_id": [3, 4, 5],
        "max_new_tokens": 9,
        "return_dict_in_generate": True,
    }
    call |= {"num_beam_groups": groups, "diversity_penalty": 0.8} if groups > 1 else {}
    growing = model.generate(ids, **call)
    for other in ({"use_cache": False}, {"cache_implementation": "static"}):
        again = model.generate(ids, **call, **other)
        assert again.sequences.tolist() == growing.sequences.tolist()
        torch.testing.assert_close(again.sequences_scores, growing.sequences_scores, rtol=1e-12, atol=1e-12)


@settings(MANY, max_examples=15)
@given(
    seed=st.integers(0, 10**6), vocabulary=st.integers(2, 4), length=st.integers(1, 3), penalty=st.sampled_from([0.0, 1.0, 2.0, -0.5])
)  # fmt: skip
def test_with_beams_enough_it_finds_the_best_of_all_texts(
    table: Any, seed: int, vocabulary: int, length: int, penalty: float
):
    model = table(vocabulary, seed)
    count = vocabulary**length
    best = {}
    for text in product(range(vocabulary), repeat=length):
        text = text[: text.index(0) + 1] if 0 in text else text  # 0 ends it
        logs = (model.scores((9, *text[:place])).log_softmax(0)[token] for place, token in enumerate(text))
        best[text] = float(sum(logs)) / len(text) ** penalty
    ranked = sorted(best, key=lambda text: -best[text])
    want = min(3, len(ranked))
    found = model.search(
        torch.tensor([[9]]), num_beams=count, num_return_sequences=want, max_new_tokens=length, eos_token_id=0, length_penalty=penalty,
        early_stopping="never",
    )  # fmt: skip
    assert [tuple(each) for each in found.tokens] == ranked[:want]
    torch.testing.assert_close(
        found.sequences_scores, torch.tensor([best[each] for each in ranked[:want]], dtype=torch.float64)
    )


def naive_groups(
    model: Any, start: int, beams: int, groups: int, penalty: float, length: int, power: float
) -> list[tuple[float, tuple[int, ...]]]:
    """Diverse beam search with lists, one text at a time; token 0 ends a text."""
    width = beams // groups
    running = [[(0.0, ())] for _ in range(groups)]
    finished: list[list[tuple[float, tuple[int, ...]]]] = [[] for _ in range(groups)]
    for step in range(1, length + 1):
        taken: list[int] = []
        for group in range(groups):
            if not running[group]:
                continue
            found = []
            for score, text in running[group]:
                logs = model.scores((start, *text)).log_softmax(0).tolist()
                found += [
                    (score + log - penalty * taken.count(token), (*text, token)) for token, log in enumerate(logs)
                ]
            found.sort(key=lambda each: -each[0])
            found = found[: 2 * width]
            for place, (score, text) in enumerate(found):
                if place < width and (text[-1] == 0 or step == length):
                    finished[group].append((score / step**power, text))
            finished[group] = sorted(finished[group], key=lambda each: -each[0])[:width]
            going = [each for each in found if each[1][-1] != 0 and step < length][:width]
            full = len(finished[group]) == width
            if not going or (full and going[0][0] / step**power <= finished[group][-1][0]):
                running[group] = []
            else:
                running[group] = going
                taken += [text[-1] for _, text in going]
    return sorted((each for group in finished for each in group), key=lambda each: -each[0])


@settings(MANY, max_examples=25)
@given(
    seed=st.integers(0, 10**6), groups=st.sampled_from([2, 3]), width=st.integers(1, 2), penalty=st.sampled_from([0.3, 1.0, 4.0]),
    power=st.sampled_from([0.0, 1.0]),
)  # fmt: skip
def test_groups_are_a_naive_diverse_search(
    table: Any, seed: int, groups: int, width: int, penalty: float, power: float
):
    model, beams = table(7, seed), groups * width
    expected = [naive_groups(model, start, beams, groups, penalty, 5, power) for start in (8, 9)]
    found = model.search(
        torch.tensor([[8], [9]]), num_beams=beams, num_beam_groups=groups, diversity_penalty=penalty, max_new_tokens=5, eos_token_id=0,
        num_return_sequences=beams, length_penalty=power,
    )  # fmt: skip
    assert [tuple(each) for each in found.tokens] == [text for each in expected for _, text in each]
    scores = torch.tensor([score for each in expected for score, _ in each], dtype=torch.float64)
    torch.testing.assert_close(found.sequences_scores, scores, rtol=1e-12, atol=1e-12)


def test_scores_are_those_of_the_path(pair: Callable[..., Any]):
    """The steps' scores along `beam_indices` add up to the score of the text; no step reads more than a token of each beam."""
    model, ids = pair("bert", 5).ours, prompts(2, 2, 4)
    out = model.generate(
        ids, num_beams=3, num_return_sequences=2, max_new_tokens=6, eos_token_id=None, return_dict_in_generate=True, output_scores=True,
        length_penalty=1.0,
    )  # fmt: skip
    moved = model.compute_transition_scores(out.sequences, out.scores, out.beam_indices)
    torch.testing.assert_close(moved.sum(1) / 6, out.sequences_scores, rtol=1e-12, atol=1e-12)


def test_never_goes_on_where_a_longer_text_may_be_better(table: Any):
    """Each stop keeps what the earlier one found, so that the best score never falls; and some texts are found by one only."""
    gains = []
    for seed in range(30):
        call = {"num_beams": 2, "max_new_tokens": 7, "eos_token_id": 0, "length_penalty": 1.5}
        soon, later, last = (
            float(table(4, seed).search(torch.tensor([[9]]), early_stopping=stop, **call).sequences_scores[0])
            for stop in (True, False, "never")
        )
        assert soon <= later <= last
        gains.append((later > soon, last > later))
    assert all(any(column) for column in zip(*gains, strict=True))


def test_a_prompt_with_too_few_texts_says_so(table: Any):
    with pytest.raises(ValueError, match="prompt 0: num_return_sequences=3, but only 2 texts can be written"):
        table(2, 0).search(torch.tensor([[9]]), num_beams=3, num_return_sequences=3, max_new_tokens=1)
