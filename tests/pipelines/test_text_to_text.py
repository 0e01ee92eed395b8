"""The three tasks of pairs: what `generate` writes, decoded, in the shapes that scripts know."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import minitrans

TEXTS = ["the cat sat on", "Ada", "a city in france , paris and london"]
NAMES = {"text2text-generation": "generated", "translation": "translation", "summarization": "summary"}


@pytest.fixture(scope="module")
def parts(byte_level) -> tuple[Any, Any]:
    tokenizer = minitrans.RobertaTokenizer.from_pretrained(byte_level("RobertaForMaskedLM"))
    config = minitrans.BartConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=20, decoder_ffn_dim=20, max_position_embeddings=40, init_std=0.5,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return minitrans.BartForConditionalGeneration(config).double().eval(), tokenizer


@pytest.mark.parametrize("task", NAMES)
def test_it_is_what_generate_writes(parts: tuple[Any, Any], task: str):
    model, tokenizer = parts
    pipe = minitrans.pipeline(task, model, tokenizer, max_new_tokens=7, prefix="in ")
    key = f"{NAMES[task]}_text"
    expected = []
    for text in TEXTS:
        ids = tokenizer(f"in {text}", return_tensors="pt")["input_ids"]
        expected.append(
            {key: tokenizer.decode(model.generate(ids, max_new_tokens=7)[0].tolist(), skip_special_tokens=True)}
        )
    assert any(each[key] for each in expected)
    assert pipe(TEXTS) == expected  # padding changes nothing
    assert pipe(TEXTS[0]) == expected[:1]
    several = pipe(TEXTS, num_beams=3, num_return_sequences=2)
    assert [len(each) for each in several] == [2, 2, 2]
    assert list(pipe(TEXTS[1], return_tensors=True)[0]) == [f"{NAMES[task]}_token_ids"]


def test_a_text_too_long_is_refused_or_cut(parts: tuple[Any, Any]):
    pipe = minitrans.pipeline("translation", *parts, max_new_tokens=3)
    with pytest.raises(ValueError, match="expected at most 40 tokens"):
        pipe("the cat " * 50)
    assert len(pipe("the cat " * 50, truncation=True)) == 1
