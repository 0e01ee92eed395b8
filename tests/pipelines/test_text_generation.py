"""`pipeline("text-generation")` against the reference's, and its own rules."""

from __future__ import annotations

import pytest

import minitrans
from tests.pipelines.conftest import their_tokenizer

TEXTS = ["the cat sat on", "Ada", "a city in france , paris and london"]


@pytest.fixture(scope="session")
def writer(byte_level) -> str:
    return byte_level("RobertaForCausalLM", is_decoder=True)


def test_as_the_reference(tiny):
    transformers = pytest.importorskip("transformers")
    folder = tiny("BertLMHeadModel", is_decoder=True)
    tokenizer = their_tokenizer(folder)
    model = transformers.BertLMHeadModel.from_pretrained(folder).double().eval()
    theirs = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")
    ours = minitrans.pipeline("text-generation", folder, dtype="float64")
    for options in ({}, {"num_beams": 3, "num_return_sequences": 2}, {"prefix": "in the "}):
        options = {"max_new_tokens": 6, "do_sample": False, "return_tensors": True, **options}
        assert [ours(text, **options) for text in TEXTS] == [theirs(text, **options) for text in TEXTS]
    assert ours(TEXTS, max_new_tokens=6) == [ours(text, max_new_tokens=6) for text in TEXTS]  # padding changes nothing
    found, expected = (
        pipe("the cat", max_new_tokens=6, do_sample=False)[0]["generated_text"] for pipe in (ours, theirs)
    )
    assert found.removeprefix("the cat").strip() == expected.removeprefix("the cat")  # where it forgets a space
    assert found.startswith("the cat ")


def test_a_list_is_a_list_of_lists_and_a_seed_is_of_each_text(writer: str):
    pipe = minitrans.pipeline("text-generation", writer, do_sample=True, seed=3, num_return_sequences=2)
    found = pipe(TEXTS, max_new_tokens=8, batch_size=2)
    assert [len(each) for each in found] == [2, 2, 2]
    assert found[1] == pipe(TEXTS[1], max_new_tokens=8)
    assert all(one["generated_text"].startswith(text) for text, each in zip(TEXTS, found, strict=True) for one in each)
    ids = pipe(TEXTS[0], max_new_tokens=3, return_tensors=True)[0]["generated_token_ids"]
    assert ids[:-3] == pipe.tokenizer(TEXTS[0])["input_ids"]


def test_it_ends_at_a_string(writer: str):
    pipe = minitrans.pipeline("text-generation", writer, max_new_tokens=15, return_full_text=False)
    whole = pipe(TEXTS[0])[0]["generated_text"]
    stop = whole[len(whole) // 2 : len(whole) // 2 + 2]
    ended = pipe(TEXTS[0], stop_strings=stop)[0]["generated_text"]
    assert whole.startswith(ended)
    assert stop in ended
    assert len(ended) <= whole.index(stop) + len(stop) + 8


def test_a_text_too_long_is_refused(writer: str):
    pipe = minitrans.pipeline("text-generation", writer)
    with pytest.raises(ValueError, match="expected at most 34 tokens"):
        pipe("the cat " * 40)
    with pytest.raises(ValueError, match="ask for at most max_new_tokens="):
        pipe("the cat", max_new_tokens=40)
