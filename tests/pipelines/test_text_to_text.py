"""The three tasks of pairs: what `generate` writes, decoded, in the shapes that scripts know."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import minitrans
from minitrans.tokenizers.auto import MBart50Tokenizer
from tests.tokenizers.conftest import learnt

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


SIZES: dict[str, Any] = {
    "d_model": 12, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 32, "init_std": 0.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(byte_level) -> str:
    """A tiny BART with the files of a byte-level tokenizer."""
    place = Path(byte_level("RobertaModel"))
    rows = len(minitrans.AutoTokenizer.from_pretrained(place))
    torch.manual_seed(1)
    config: Any = minitrans.BartConfig(vocab_size=rows, **SIZES)
    told = {"summarization": {"prefix": "in the ", "num_beams": 2}, "translation_en_to_de": {"prefix": "Ada "}}
    config.task_specific_params = told
    minitrans.BartForConditionalGeneration(config).save_pretrained(place)
    return str(place)


def by_hand(folder: str, text: str, **settings: Any) -> str:
    tokenizer = minitrans.AutoTokenizer.from_pretrained(folder)
    model: Any = minitrans.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype="float64")
    written = model.generate(**tokenizer(text, return_tensors="pt"), **settings)
    return tokenizer.decode(written[0].tolist(), skip_special_tokens=True)


def test_the_settings_of_a_task(folder: str):
    summary = minitrans.pipeline("summarization", folder, dtype="float64", max_new_tokens=5)
    assert summary(TEXTS[0]) == [{"summary_text": by_hand(folder, f"in the {TEXTS[0]}", max_new_tokens=5, num_beams=2)}]
    plain = by_hand(folder, TEXTS[0], max_new_tokens=5)
    assert summary(TEXTS[0], num_beams=1, prefix="") == [{"summary_text": plain}]
    german = minitrans.pipeline("translation_en_to_de", folder, dtype="float64", max_new_tokens=5)
    assert german(TEXTS[0]) == [{"translation_text": by_hand(folder, f"Ada {TEXTS[0]}", max_new_tokens=5)}]
    with pytest.raises(ValueError, match="direction: expected translation_en_to_de, got translation_en_to_fr"):
        minitrans.pipeline("translation_en_to_fr", folder)("a")
    with pytest.raises(ValueError, match="BartTokenizer has no languages: leave src_lang and tgt_lang out"):
        german(TEXTS[0], tgt_lang="de_DE")


def test_the_languages_of_a_call_are_of_this_call(tmp_path: Path):
    """Of a call and of a copy: the tokenizer, and other users of it, keep theirs."""
    learnt(tmp_path, "sentencepiece.bpe.model")
    tokenizer: Any = MBart50Tokenizer.from_pretrained(tmp_path)
    torch.manual_seed(2)
    model = minitrans.MBartForConditionalGeneration(minitrans.MBartConfig(vocab_size=len(tokenizer), **SIZES)).double()
    pipe = minitrans.pipeline("translation", model.eval(), tokenizer, max_new_tokens=5)
    other, plain = copy.copy(tokenizer), pipe("the cat")
    other.src_lang, other.tgt_lang = "de_DE", "fr_XX"
    for given in ("the cat", ["the cat", "a mat"], iter(["the cat"])):
        found = pipe(given, src_lang="de_DE", tgt_lang="fr_XX", return_tensors=True)
        first = next(iter(found))
        ids = (first[0] if isinstance(first, list) else first)["translation_token_ids"]
        expected = model.generate(
            **other("the cat", return_tensors="pt"),
            max_new_tokens=5,
            forced_bos_token_id=other.lang_code_to_id["fr_XX"],
        )
        assert ids[: expected.shape[1]] == expected[0].tolist()
    assert (tokenizer.src_lang, tokenizer.tgt_lang) == ("en_XX", None)
    assert pipe("the cat") == plain
    assert tokenizer("the cat")["input_ids"][0] == tokenizer.lang_code_to_id["en_XX"]
    for wrong in ({"src_lang": "de"}, {"tgt_lang": "de_De"}):
        with pytest.raises(ValueError, match="_lang='de.*the nearest of the 52 languages is 'de_DE'"):
            pipe("the cat", **wrong)


def test_on_the_command_line(folder: str, run):
    pipe = minitrans.pipeline("summarization", folder, max_new_tokens=4)
    shown = run("summarize", *TEXTS, "-m", folder, "-n", 4, "--json")
    rows = [json.loads(line) for line in shown.out.splitlines()]
    expected = [one["summary_text"] for one in pipe(TEXTS)]
    assert rows == [{"number": number, "text": text} for number, text in enumerate(expected, start=1)]
    german = run("translate", TEXTS[0], "-m", folder, "-n", 4, "--direction", "en_to_de", "--json")
    assert json.loads(german.out)["text"] == by_hand(folder, f"Ada {TEXTS[0]}", max_new_tokens=4)
    run("translate", TEXTS[0], "-m", folder, "--to", "de_DE").refused("BartTokenizer has no languages")
    run("translate", TEXTS[0], "-m", folder, "--direction", "en_fr").refused("expected translation_en_to_de")
    several = ("summarize", TEXTS[0], "the cat " * 40, "-m", folder, "-n", 2)
    run(*several).refused("text 2 of 2: expected at most 32 tokens", "--truncate")
    cut = run(*several, "--truncate")
    assert (cut.code, cut.out.count("\n")) == (0, 2)
    assert cut.err == "minitrans: note: cut to 32 tokens: 1 of 2 texts\n"
