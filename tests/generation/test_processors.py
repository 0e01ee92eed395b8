"""Each processor of scores, against the reference's class on random scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.generation import logits_process as reference

from minitrans.generation.processing import ROWS, Wanted, in_turn, processors
from minitrans.generation.settings import settings_of
from minitrans.generation.text import Text

VOCABULARY = 11
SOURCE = torch.tensor([[4, 5, 6, 7], [8, 9, 4, 5], [2, 2, 3, 3]])
MOST = 9
PROMPT = 3

# settings -> the reference's processor of the same
CASES: dict[str, tuple[dict[str, Any], Callable[[], Any]]] = {
    "temperature": ({"temperature": 0.7}, lambda: reference.TemperatureLogitsWarper(0.7)),
    "top_k": ({"top_k": 3}, lambda: reference.TopKLogitsWarper(3)),
    "top_k beams": ({"top_k": 1, "num_beams": 2, "eos_token_id": [2, 3]}, lambda: reference.TopKLogitsWarper(1, min_tokens_to_keep=3)),
    "top_p": ({"top_p": 0.6}, lambda: reference.TopPLogitsWarper(0.6)),
    "top_p beams": ({"top_p": 0.1, "num_beams": 2}, lambda: reference.TopPLogitsWarper(0.1, min_tokens_to_keep=2)),
    "min_p": ({"min_p": 0.3}, lambda: reference.MinPLogitsWarper(0.3)),
    "min_p beams": ({"min_p": 0.99, "num_beams": 2}, lambda: reference.MinPLogitsWarper(0.99, min_tokens_to_keep=2)),
    "top_h": ({"top_h": 0.5}, lambda: reference.TopHLogitsWarper(0.5)),
    "typical_p": ({"typical_p": 0.5}, lambda: reference.TypicalLogitsWarper(0.5)),
    "typical_p beams": ({"typical_p": 0.1, "num_beams": 2}, lambda: reference.TypicalLogitsWarper(0.1, min_tokens_to_keep=2)),
    "epsilon_cutoff": ({"epsilon_cutoff": 0.08}, lambda: reference.EpsilonLogitsWarper(0.08)),
    "eta_cutoff": ({"eta_cutoff": 0.1}, lambda: reference.EtaLogitsWarper(0.1)),
    "repetition_penalty": ({"repetition_penalty": 1.4}, lambda: reference.RepetitionPenaltyLogitsProcessor(1.4)),
    "encoder_repetition_penalty": (
        {"encoder_repetition_penalty": 1.4}, lambda: reference.EncoderRepetitionPenaltyLogitsProcessor(1.4, SOURCE)),
    "no_repeat_ngram_size": ({"no_repeat_ngram_size": 2}, lambda: reference.NoRepeatNGramLogitsProcessor(2)),
    "no_repeat_ngram_size one": ({"no_repeat_ngram_size": 1}, lambda: reference.NoRepeatNGramLogitsProcessor(1)),
    "no_repeat_ngram_size long": ({"no_repeat_ngram_size": 9}, lambda: reference.NoRepeatNGramLogitsProcessor(9)),
    "encoder_no_repeat_ngram_size": (
        {"encoder_no_repeat_ngram_size": 2}, lambda: reference.EncoderNoRepeatNGramLogitsProcessor(2, SOURCE)),
    "bad_words_ids": (
        {"bad_words_ids": [[4], [5, 6], [2]], "eos_token_id": 2},
        lambda: reference.NoBadWordsLogitsProcessor([[4], [5, 6], [2]], torch.tensor([2]))),
    "sequence_bias": (
        {"sequence_bias": {(4,): -3.0, (5, 6): 2.0, (7, 8, 9): 4.0}},
        lambda: reference.SequenceBiasLogitsProcessor([[[4], -3.0], [[5, 6], 2.0], [[7, 8, 9], 4.0]])),
    "min_length": ({"min_length": 6, "eos_token_id": [2, 3]}, lambda: reference.MinLengthLogitsProcessor(6, [2, 3])),
    "min_new_tokens": ({"min_new_tokens": 2, "eos_token_id": 2}, lambda: reference.MinNewTokensLengthLogitsProcessor(PROMPT, 2, 2)),
    "forced_bos_token_id": ({"forced_bos_token_id": 5}, lambda: reference.ForcedBOSTokenLogitsProcessor(5)),
    "forced_eos_token_id": ({"forced_eos_token_id": [5, 6]}, lambda: reference.ForcedEOSTokenLogitsProcessor(PROMPT + MOST, [5, 6])),
    "remove_invalid_values": ({"remove_invalid_values": True}, lambda: reference.InfNanRemoveLogitsProcessor()),
    "exponential_decay_length_penalty": (
        {"exponential_decay_length_penalty": (2, 1.3), "eos_token_id": [2, 3]},
        lambda: reference.ExponentialDecayLengthPenalty((2, 1.3), [2, 3], PROMPT)),
    "suppress_tokens": ({"suppress_tokens": [4, 5]}, lambda: reference.SuppressTokensLogitsProcessor([4, 5])),
    "begin_suppress_tokens": ({"begin_suppress_tokens": [4, 5]}, lambda: reference.SuppressTokensAtBeginLogitsProcessor([4, 5], PROMPT)),
    "renormalize_logits": ({"renormalize_logits": True}, lambda: reference.LogitNormalization()),
}  # fmt: skip
SAMPLED = {"temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"}
OURS = {"guidance_scale", "frequency_penalty", "presence_penalty", "prefix_allowed_tokens_fn", "logits_processor"}


def text(ids: Tensor, padding: int = 0, prompt: int = PROMPT) -> Text:
    """(N, T) as texts behind columns of padding that hold tokens too, which must not count."""
    ids = torch.cat([ids.flip(1)[:, :1].expand(-1, padding), ids], dim=1)
    first = torch.full((len(ids),), padding)
    return Text(ids, first, first + prompt, torch.full_like(first, MOST), torch.arange(len(ids)))


def process(fields: dict[str, Any], **besides: Any) -> Any:
    fields = {"top_k": 0, **fields}
    wanted = Wanted(
        settings_of({"do_sample": True, **fields}), SOURCE, torch.ones_like(SOURCE, dtype=torch.bool), **besides
    )
    return in_turn(each for _, each in processors(wanted))


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), length=st.integers(PROMPT, PROMPT + MOST - 1), padding=st.integers(0, 3))
def test_as_the_reference(case: str, seed: int, length: int, padding: int):
    torch.manual_seed(seed)
    fields, make = CASES[case]
    ids = torch.randint(2, VOCABULARY, (3, length))
    if seed % 2:
        ids[:, -1] = SOURCE[:, 1]
    scores = torch.randn(3, VOCABULARY, dtype=torch.float64) * 3
    if case == "remove_invalid_values":
        scores[0, 1], scores[1, 2], scores[2, 3] = torch.nan, torch.inf, -torch.inf
    before = scores.clone()
    torch.testing.assert_close(
        process(fields)(text(ids, padding), scores), make()(ids, scores.clone()), rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(scores, before, rtol=0, atol=0, equal_nan=True)


def test_every_processor_has_a_case_here():
    assert {name.split()[0] for name in CASES} | OURS == {row.name for row in ROWS}


def test_the_order_is_the_references():
    """All at once, in one call."""
    fields = {
        "sequence_bias": {(4,): -3.0}, "encoder_repetition_penalty": 1.2, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2,
        "suppress_tokens": [4], "temperature": 0.7, "top_k": 8, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.9, "epsilon_cutoff": 0.01,
        "eta_cutoff": 0.01, "renormalize_logits": True,
    }  # fmt: skip
    both = reference.LogitsProcessorList([
        reference.SequenceBiasLogitsProcessor([[[4], -3.0]]), reference.EncoderRepetitionPenaltyLogitsProcessor(1.2, SOURCE),
        reference.RepetitionPenaltyLogitsProcessor(1.3), reference.NoRepeatNGramLogitsProcessor(2),
        reference.SuppressTokensLogitsProcessor([4]), reference.TemperatureLogitsWarper(0.7), reference.TopKLogitsWarper(8),
        reference.TopPLogitsWarper(0.9), reference.MinPLogitsWarper(0.01), reference.TypicalLogitsWarper(0.9),
        reference.EpsilonLogitsWarper(0.01), reference.EtaLogitsWarper(0.01), reference.LogitNormalization(),
    ])  # fmt: skip
    torch.manual_seed(0)
    ids, scores = torch.randint(2, VOCABULARY, (3, 6)), torch.randn(3, VOCABULARY, dtype=torch.float64)
    torch.testing.assert_close(process(fields)(text(ids), scores), both(ids, scores), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("penalty", ["frequency_penalty", "presence_penalty"])
def test_penalties_of_what_has_been_written(penalty: str):
    ids = torch.tensor([[4, 4, 4, 5, 5, 6]])
    scores = torch.zeros(1, VOCABULARY, dtype=torch.float64)
    moved = process({penalty: 0.5})(text(ids), scores)[0]
    times = {5: 2, 6: 1} if penalty == "frequency_penalty" else {5: 1, 6: 1}
    assert moved.tolist() == [-0.5 * times.get(token, 0) for token in range(VOCABULARY)]


def test_the_first_token_may_be_forced_then_others_are_suppressed_after_it():
    fields = {"begin_suppress_tokens": [4], "forced_bos_token_id": 5}
    scores = torch.zeros(1, VOCABULARY, dtype=torch.float64)
    first = process(fields)(text(torch.tensor([[3]]), prompt=1), scores)[0]
    second = process(fields)(text(torch.tensor([[3, 5]]), prompt=1), scores)[0]
    assert first.argmax() == 5
    assert first.isfinite().sum() == 1
    assert second.isneginf().nonzero().flatten().tolist() == [4]


def test_only_allowed_tokens():
    def allowed(prompt: int, ids: Tensor) -> list[int]:
        assert ids.tolist() == [[4, 5, 6], [7, 8, 9], [2, 3, 4]][prompt]
        return [prompt, 7]

    scores = torch.zeros(3, VOCABULARY, dtype=torch.float64)
    scores[1, [1, 7]] = -torch.inf
    masked = process({}, allowed=allowed)(text(torch.tensor([[4, 5, 6], [7, 8, 9], [2, 3, 4]]), 2), scores)
    assert [row.isfinite().nonzero().flatten().tolist() for row in masked] == [[0, 7], [1, 7], [2, 7]]
    with pytest.raises(ValueError, match="must list one token at least .* for prompt 0 it gave"):
        process({}, allowed=lambda prompt, ids: [])(text(torch.tensor([[4, 5, 6]])), scores[:1])
