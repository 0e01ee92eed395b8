"""Assisted decoding writes what plain search writes, in batches too, and reads several tokens at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from minitrans.generation.drafting import PromptLookup
from minitrans.generation.settings import settings_of
from minitrans.generation.text import Text
from tests.generation.conftest import FAMILIES, one_layer

PAD = 1
MANY = settings(deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])


def batch(seed: int, lengths: list[int]) -> tuple[Tensor, Tensor]:
    mask = torch.stack([torch.arange(6) >= 6 - length for length in lengths])
    ids = torch.randint(2, 23, mask.shape, generator=torch.Generator().manual_seed(seed))
    return ids.masked_fill(~mask, PAD), mask.long()


@st.composite
def cases(draw: Any, models: int) -> dict[str, Any]:
    """A call, as one draw: hypothesis pays for each that a test makes itself."""
    return {
        "family": draw(st.sampled_from(FAMILIES)),
        "seed": draw(st.integers(0, models)),
        "lengths": draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)),
        "ends": draw(st.sampled_from([None, [3, 4]])),
        "count": draw(st.integers(1, 12)),
        "more": draw(
            st.sampled_from([{}, {"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2}, {"forced_eos_token_id": 5}])
        ),
        "sampled": draw(st.sampled_from([{}, {}, {"do_sample": True, "top_p": 0.9}, {"do_sample": True, "seed": 4}])),
        "draft": draw(st.sampled_from(["another", "itself", "careful", "lookup"])),
        "guesses": draw(st.integers(1, 5)),
    }


def compare(model_of: Callable[..., Any], case: dict[str, Any]) -> None:
    model, seed = model_of(case["family"], case["seed"]), case["seed"]
    ids, mask = batch(seed, case["lengths"])
    call = {
        "attention_mask": mask, "pad_token_id": PAD, "eos_token_id": case["ends"], "max_new_tokens": case["count"],
        "return_dict_in_generate": True, "output_scores": True, **case["more"], **case["sampled"],
    }  # fmt: skip
    draft: dict[str, Any] = {
        "another": {"assistant_confidence_threshold": 0.0},
        "itself": {"assistant_model": model, "num_assistant_tokens": case["guesses"]},
        "careful": {"assistant_model": model, "num_assistant_tokens_schedule": "heuristic", "num_assistant_tokens": 2},
        "lookup": {"prompt_lookup_num_tokens": 4, "max_matching_ngram_size": 1 + case["guesses"] // 2},
    }[case["draft"]]
    if case["draft"] == "another":
        draft |= {"assistant_model": model_of(case["family"], seed + 1)}
    torch.default_generator.manual_seed(seed)
    plain = model.generate(ids, **call)
    torch.default_generator.manual_seed(seed)
    got = model.generate(ids, **call, **draft)
    assert got.sequences.tolist() == plain.sequences.tolist()
    for mine, theirs in zip(got.scores, plain.scores, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


@settings(MANY, max_examples=50)
@given(case=cases(4))
def test_a_draft_changes_nothing(pair: Callable[..., Any], case: dict[str, Any]):
    compare(lambda family, seed: pair(family, seed).ours, case)


@pytest.mark.slow
@settings(MANY, max_examples=1000)
@given(case=cases(500))
def test_a_draft_changes_nothing_on_many_models(case: dict[str, Any]):
    """Models of one layer, without a reference beside them: what a draft moves about is the same in every layer."""
    compare(one_layer, case)


@pytest.mark.parametrize("sampled", [False, True])
def test_what_is_right_is_read_at_once(pair: Callable[..., Any], sampled: bool, monkeypatch: pytest.MonkeyPatch):
    """A model that drafts for itself is always right: six tokens a call, sampled ones too, of texts of any length."""
    model, (ids, mask) = pair("bert", 1).ours, batch(3, [2, 6, 4])
    sizes: list[int] = []
    step = type(model).step

    def counted(self: Any, tokens: Tensor, **options: Any) -> Any:
        sizes.append(tokens.shape[1])
        return step(self, tokens, **options)

    monkeypatch.setattr(type(model), "step", counted)
    call = {
        "attention_mask": mask,
        "eos_token_id": None,
        "max_new_tokens": 18,
        "num_assistant_tokens": 5,
        "assistant_model": model,
    }
    model.generate(
        ids, **call, assistant_confidence_threshold=0.0, **({"do_sample": True, "seed": 1} if sampled else {})
    )
    assert [size for size in sizes if size > 2] == [
        6,
        11,
        6,
        6,
    ]  # the draft reads the prompt, then five guesses are checked
    assert len(sizes) == 3 + 15


def test_a_lookup_finds_what_stood_there():
    lookup = PromptLookup(
        settings_of({"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 2}), [[9, 8, 7, 6], []]
    )
    ids = torch.tensor([[PAD, PAD, 4, 5, 9, 8], [2, 3, 7, 2, 3, 3]])
    text = Text(ids, torch.tensor([2, 0]), torch.tensor([4, 4]), torch.tensor([9, 9]), torch.tensor([0, 1]))
    guesses, counts = lookup.draft(text, torch.tensor([9, 9]), lambda text, scores: scores)
    assert (guesses.tolist(), counts.tolist()) == (
        [[7, 6, 0], [7, 2, 3]],
        [2, 3],
    )  # "9 8" in the source; of "3 3" only "3"
    assert lookup.draft(text, torch.tensor([1, 0]), lambda text, scores: scores)[1].tolist() == [1, 0]


def test_a_draft_of_another_kind_is_refused(pair: Callable[..., Any]):
    model, ids = pair("bert").ours, torch.tensor([[5, 6]])
    with pytest.raises(ValueError, match="same vocabulary of 23, got 29"):
        model.generate(ids, assistant_model=pair("bert", vocab_size=29).ours)
    with pytest.raises(ValueError, match="same vocabulary of 23, got int"):
        model.generate(ids, assistant_model=3)
    with pytest.raises(ValueError, match="give assistant_model or prompt_lookup_num_tokens"):
        model.generate(ids, assistant_model=model, prompt_lookup_num_tokens=3)
    for clash in ({"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}):
        with pytest.raises(ValueError, match="a draft goes with greedy search and sampling of one text a prompt"):
            model.generate(ids, assistant_model=model, **clash)
    with pytest.raises(ValueError, match="a draft needs a growing cache"):
        model.generate(ids, assistant_model=model, cache_implementation="static")
