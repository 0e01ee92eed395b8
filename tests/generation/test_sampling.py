"""Greedy search and sampling on tiny random models: token for token the reference's, and the same in any batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.generation.conftest import FAMILIES

PAD = 1
MANY = settings(deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])  # a failing call is small as it is
BASE = {"pad_token_id": PAD, "max_new_tokens": 8}
# each is drawn or left out
OPTIONS: dict[str, list[Any]] = {
    "temperature": [0.7, 1.6],
    "top_k": [0, 4],
    "top_p": [0.7],
    "min_p": [0.05],
    "typical_p": [0.8],
    "epsilon_cutoff": [0.03],
    "eta_cutoff": [0.05],
    "repetition_penalty": [1.3, 0.8],
    "no_repeat_ngram_size": [1, 2],
    "min_new_tokens": [3],
    "min_length": [4],
    "suppress_tokens": [[5, 6]],
    "begin_suppress_tokens": [[7, 8]],
    "bad_words_ids": [[[9], [10, 11]]],
    "sequence_bias": [[[[4], -2.0], [[5, 6], 3.0]]],
    "forced_eos_token_id": [2],
    "exponential_decay_length_penalty": [(1, 1.5)],
    "renormalize_logits": [True],
    "guidance_scale": [1.7],
    "encoder_repetition_penalty": [1.5],
    "encoder_no_repeat_ngram_size": [2],
}


@st.composite
def calls(draw: Any) -> dict[str, Any]:
    chosen = draw(st.lists(st.sampled_from(sorted(OPTIONS)), unique=True, max_size=5))
    call = {
        **BASE,
        **{name: draw(st.sampled_from(OPTIONS[name])) for name in chosen},
        "eos_token_id": draw(st.sampled_from([None, 2, [3, 4, 5, 6]])),
        "max_new_tokens": draw(st.integers(3, 12)),
    }
    if call["eos_token_id"] is None:
        call.pop("exponential_decay_length_penalty", None)  # the reference fails
    return call


def prompts(seed: int, rows: int, length: int) -> Tensor:
    return torch.randint(2, 23, (rows, length), generator=torch.Generator().manual_seed(seed))


def padded(ids: Tensor, lengths: list[int], side: str) -> tuple[Tensor, Tensor]:
    """The first `lengths` tokens of each row, with padding on a side, or on both."""
    width = ids.shape[1]
    padding, mask = torch.full_like(ids, PAD), torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        start = {"left": width - length, "right": 0, "both": (width - length) // 2}[side]
        padding[row, start : start + length], mask[row, start : start + length] = ids[row, :length], 1
    return padding, mask


def compare(pair: Any, ids: Tensor, call: dict[str, Any], seed: int, mask: Tensor | None = None) -> None:
    expects = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    torch.default_generator.manual_seed(seed)
    expected = pair.of_reference(ids, mask, **call, **expects)
    torch.default_generator.manual_seed(seed)
    got = pair.ours.generate(ids, attention_mask=mask, **call, **expects)
    assert got.sequences.tolist() == expected.sequences.tolist()
    count = call.get("num_return_sequences", 1)
    alive = torch.ones(len(ids) * count, dtype=torch.bool)
    ends = torch.tensor([call["eos_token_id"]] if isinstance(call["eos_token_id"], int) else call["eos_token_id"] or [])
    for step, (mine, theirs) in enumerate(zip(got.scores, expected.scores, strict=True)):
        finite = theirs[alive].isfinite()
        assert torch.equal(finite, mine[alive].isfinite())
        torch.testing.assert_close(mine[alive][finite], theirs[alive][finite].double(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(got.logits[step][alive], expected.logits[step][alive].double(), rtol=1e-5, atol=1e-5)
        assert (mine[~alive, PAD] == 0).all()
        alive &= ~torch.isin(got.sequences[:, ids.shape[1] + step], ends)


def any_call(pair: Callable[..., Any], data: Any, models: int) -> None:
    call = data.draw(calls())
    family, seed = data.draw(st.sampled_from(FAMILIES)), data.draw(st.integers(0, models))
    if data.draw(st.booleans()):
        call["do_sample"] = True
        call["num_return_sequences"] = data.draw(st.integers(1, 3))
        call.pop("guidance_scale", None)  # the reference draws in float64 then, from other random numbers
    compare(pair(family, seed), prompts(seed, data.draw(st.integers(1, 3)), data.draw(st.integers(1, 6))), call, seed)


@settings(MANY, max_examples=40)
@given(data=st.data())
def test_tokens_are_the_references(pair: Callable[..., Any], data: Any):
    any_call(pair, data, 8)


@pytest.mark.slow
@settings(MANY, max_examples=400)
@given(data=st.data())
def test_tokens_are_the_references_on_many_models(pair: Callable[..., Any], data: Any):
    any_call(pair, data, 200)


@pytest.mark.parametrize("family", ["bert", "gpt2", "roberta"])  # of the others the reference makes NaN in float64
@pytest.mark.parametrize("sampled", [False, True])
def test_left_padding_is_the_references_too(pair: Callable[..., Any], family: str, sampled: bool):
    ids, mask = padded(prompts(3, 3, 6), [2, 6, 4], "left")
    compare(pair(family), ids, {**BASE, "eos_token_id": 3, "do_sample": sampled, "repetition_penalty": 1.2}, 5, mask)


@settings(MANY, max_examples=25)
@given(data=st.data())
def test_a_text_is_the_same_in_any_batch(pair: Callable[..., Any], data: Any):
    call, seed = data.draw(calls()), data.draw(st.integers(0, 8))
    side, sampled = data.draw(st.sampled_from(["left", "right", "both"])), data.draw(st.booleans())
    model = pair(data.draw(st.sampled_from(FAMILIES)), seed).ours
    if sampled:
        call |= {"do_sample": True, "num_return_sequences": data.draw(st.integers(1, 2))}
    if data.draw(st.booleans()):
        call |= {"max_length": 13, "max_new_tokens": None}
    call |= {"return_dict_in_generate": True, "output_scores": True}
    lengths, seeds = data.draw(st.lists(st.integers(1, 6), min_size=2, max_size=4)), [11, 12, 13, 14]
    real = prompts(seed, len(lengths), 6)
    ids, mask = padded(real, lengths, side)
    width = call.get("num_return_sequences", 1)
    together = model.generate(ids, attention_mask=mask, **call, **({"seed": seeds[: len(lengths)]} if sampled else {}))
    for row, length in enumerate(lengths):
        alone = model.generate(real[row : row + 1, :length], **call, **({"seed": seeds[row]} if sampled else {}))
        for copy in range(width):
            new = alone.sequences[copy, length:].tolist()
            got = together.sequences[row * width + copy]
            assert got[6 : 6 + len(new)].tolist() == new
            assert set(got[6 + len(new) :].tolist()) <= {PAD}
            assert [token for token in got[:6].tolist() if token != PAD] == real[row, :length].tolist()
            for step in range(len(alone.scores)):
                mine, theirs = together.scores[step][row * width + copy], alone.scores[step][copy]
                if not torch.equal(
                    theirs.nan_to_num(neginf=-1.0).unique(), torch.tensor([-1.0, 0.0], dtype=torch.float64)
                ):
                    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_changes_nothing(pair: Callable[..., Any], family: str, sampled: bool):
    model = pair(family, 2).ours
    ids, mask = padded(prompts(3, 3, 6), [2, 6, 4], "left")
    call = {
        **BASE,
        "eos_token_id": [3, 4],
        "attention_mask": mask,
        "do_sample": sampled,
        "return_dict_in_generate": True,
    }
    call |= {"output_scores": True} | ({"seed": 5, "num_return_sequences": 2} if sampled else {})
    growing = model.generate(ids, **call)
    for other in ({"use_cache": False}, {"cache_implementation": "static"}):
        again = model.generate(ids, **call, **other)
        assert again.sequences.tolist() == growing.sequences.tolist()
        for one, two in zip(again.scores, growing.scores, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def test_a_cache_can_be_gone_on_with(pair: Callable[..., Any]):
    model, ids = pair("bert").ours, prompts(0, 1, 4)
    first = model.generate(ids, max_new_tokens=4, eos_token_id=None, return_dict_in_generate=True)
    assert first.past_key_values.get_seq_length() == 7
    given = {"past_key_values": first.past_key_values, "attention_mask": torch.ones_like(first.sequences)}
    second = model.generate(first.sequences, **given, max_new_tokens=4, eos_token_id=None)
    assert second.tolist() == model.generate(ids, max_new_tokens=8, eos_token_id=None).tolist()
    with pytest.raises(ValueError, match="past_key_values holds 7 tokens, of prompts of 4: give the whole text"):
        model.generate(ids, past_key_values=first.past_key_values)


def test_a_seed_gives_the_same_text_and_another_another(pair: Callable[..., Any]):
    model, ids = pair("bert").ours, prompts(0, 2, 4)
    call = {"max_new_tokens": 12, "eos_token_id": None, "do_sample": True}
    one, two, three = (model.generate(ids, **call, seed=seed).tolist() for seed in (1, 1, 2))
    assert one == two != three
    generators = [torch.Generator().manual_seed(4) for _ in range(2)]
    assert len({str(model.generate(ids, **call, generator=each).tolist()) for each in generators}) == 1
    with pytest.raises(ValueError, match="give seed, a generator for each prompt, or generator"):
        model.generate(ids, **call, seed=1, generator=generators[0])
    with pytest.raises(ValueError, match="one for each of the 2 prompts, got 3"):
        model.generate(ids, **call, seed=[1, 2, 3])


def test_tokens_are_drawn_from_the_distribution(pair: Callable[..., Any]):
    """A chi-square of 4,000 draws of one token, with a generator of the batch and one of the prompt."""
    model, ids = pair("bert").ours, prompts(0, 1, 4)
    call = {"max_new_tokens": 1, "eos_token_id": None, "do_sample": True, "top_k": 5, "num_return_sequences": 4000}
    exact = model(ids).logits[0, -1].double()
    best = exact.topk(5)
    for source in ({"seed": 3}, {"generator": torch.Generator().manual_seed(3)}):
        counts = torch.bincount(model.generate(ids, **call, **source)[:, -1], minlength=23)
        expected = best.values.softmax(-1) * 4000
        assert counts.sum() == counts[best.indices].sum()
        assert ((counts[best.indices] - expected) ** 2 / expected).sum() < 18.5  # 4 degrees of freedom: p = 0.001


def test_token_types_and_memory_go_along(pair: Callable[..., Any]):
    model = pair("bert", 1, add_cross_attention=True).ours
    memory = torch.randn(2, 5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    memory_mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    ids, types = prompts(0, 2, 4), torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]])
    beside = {"encoder_hidden_states": memory, "encoder_attention_mask": memory_mask}
    written = model.generate(ids, token_type_ids=types, **beside, max_new_tokens=5, eos_token_id=None)
    types = torch.cat([types, torch.ones(2, 5, dtype=torch.long)], dim=1)
    assert torch.equal(model(written, token_type_ids=types, **beside).logits[:, 3:-1].argmax(-1), written[:, 4:])
