"""A real trained model, in its own float32: every search writes what the reference's does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import minitrans

PROMPT = [403, 407, 261, 378]


@pytest.mark.parametrize(
    "call",
    [
        {"max_new_tokens": 200},
        {"max_new_tokens": 60, "num_beams": 4, "num_return_sequences": 2},
        {"max_new_tokens": 60, "do_sample": True, "top_p": 0.9, "temperature": 0.8},
        {"max_new_tokens": 60, "no_repeat_ngram_size": 3, "repetition_penalty": 1.1},
    ],
)
def test_a_story_is_the_references(shared_data: Path, call: dict[str, Any]):
    folder = shared_data / "stories260K" / "hf"
    if not folder.is_dir():
        pytest.skip("stories260K is absent")
    ours = minitrans.AutoModelForCausalLM.from_pretrained(folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    for ids in (torch.tensor([[1]]), torch.tensor([[1, *PROMPT], [1, *PROMPT[::-1]]])):
        torch.default_generator.manual_seed(0)
        expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **call)
        torch.default_generator.manual_seed(0)
        assert (
            ours.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **call).tolist()
            == expected.tolist()
        )
    if "num_beams" not in call:
        assert (
            ours.generate(ids, seed=1, **call).tolist()
            == ours.generate(ids, seed=1, prompt_lookup_num_tokens=5, **call).tolist()
        )
