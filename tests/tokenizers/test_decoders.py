"""Tokenizers of decoders: byte-level BPE with any published pattern of words, BPE of sentencepiece with bytes for the rest."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from minitrans.errors import CheckpointError
from minitrans.tokenizers import auto as ours
from minitrans.tokenizers.auto import AutoTokenizer

transformers = pytest.importorskip("transformers")
LANGUAGES = ("en", "de", "fr", "cs")


def lines(shared_data: Path, language: str, most: int) -> list[str]:
    with gzip.open(shared_data / "multi30k" / f"test_2016_flickr.{language}.gz", "rt", encoding="utf-8") as file:
        return [line.rstrip("\n") for line in file][:most]


@pytest.fixture(scope="module")
def sp_folder(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    """A BPE model as LLaMA's, of four languages."""
    folder, model = tmp_path_factory.mktemp("bpe"), io.BytesIO()
    text = [line for language in LANGUAGES for line in lines(shared_data, language, 400)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=model, vocab_size=900, model_type="bpe", byte_fallback=True, minloglevel=2,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, num_threads=1,
        allow_whitespace_only_pieces=True,
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return folder


def check_equal(mine: Any, theirs: Any, texts: list[str]) -> None:
    for given in ({}, {"add_special_tokens": False}):
        found, expected = mine(texts, **given), theirs(texts, **given)
        assert found["input_ids"] == expected["input_ids"]
        assert found["attention_mask"] == expected["attention_mask"]
    pairs = mine(texts[:9], texts[1:10])["input_ids"]
    assert pairs == theirs(texts[:9], texts[1:10])["input_ids"]
    ids = found["input_ids"]
    assert mine.batch_decode(ids) == theirs.batch_decode(ids)


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "Qwen2Tokenizer"])
@pytest.mark.parametrize("options", [{}, {"add_prefix_space": True}])
def test_byte_level_in_many_languages(name: str, options: dict[str, Any], shared_data: Path, odd: list[str]) -> None:
    folder = shared_data / "tokenizers" / "gpt2"
    mine, theirs = (getattr(module, name).from_pretrained(folder, **options) for module in (ours, transformers))
    texts = [line for language in LANGUAGES for line in lines(shared_data, language, 250)]
    check_equal(mine, theirs, [*texts, *odd, "It's 12345 o'clock\n\n  Ünïcode  中文 かな ελληνικά", " x", "x "])
    if name == "GPT2Tokenizer" and not options:
        assert mine("Hello world")["input_ids"] == [15496, 995]


def test_the_ends_that_a_file_asks_for(shared_data: Path, tmp_path: Path) -> None:
    """With tokenizer.json and without: GPT-2 may begin its texts, and end them."""
    folder = shared_data / "tokenizers" / "gpt2"
    end = 50256
    for options, expected in (
        ({"add_bos_token": True}, [end, 15496, 995]),
        ({"add_eos_token": True}, [15496, 995, end]),
        ({"add_bos_token": True, "add_eos_token": True}, [end, 15496, 995, end]),
        ({}, [15496, 995]),
    ):
        made = ours.GPT2Tokenizer.from_pretrained(folder, **options)
        assert made("Hello world")["input_ids"] == expected
        made.save_pretrained(tmp_path / "saved")
        config = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
        (tmp_path / "saved" / "tokenizer_config.json").write_text(json.dumps({**config, **options}))
        for again in (
            AutoTokenizer.from_pretrained(tmp_path / "saved"),
            transformers.AutoTokenizer.from_pretrained(tmp_path / "saved"),
        ):
            assert again("Hello world")["input_ids"] == expected, type(again)


@pytest.mark.parametrize(
    "options", [{}, {"add_eos_token": True}, {"add_bos_token": False}, {"add_prefix_space": False}]
)
def test_llama_from_its_model_file(options: dict[str, Any], sp_folder: Path, shared_data: Path, odd: list[str]) -> None:
    mine = ours.LlamaTokenizer.from_pretrained(sp_folder, **options)
    texts = [line for language in LANGUAGES for line in lines(shared_data, language, 150)]
    texts += [*(text for text in odd if text.strip()), "  two  spaces ", "中文 かな", "12345"]
    judge = sentencepiece.SentencePieceProcessor(model_file=str(sp_folder / "tokenizer.model"))
    if options.get("add_prefix_space", True):
        for text in texts:
            if not {"\x00", "<"} & set(text) and text[0] != " ":  # before a space the reference puts no other
                found = mine(text, add_special_tokens=False)["input_ids"]
                assert found == judge.EncodeAsIds(text), text
    theirs = transformers.LlamaTokenizer.from_pretrained(sp_folder, **{"add_bos_token": True, **options})
    check_equal(mine, theirs, texts)


def test_llama_goes_and_comes_back(sp_folder: Path, tmp_path: Path) -> None:
    mine = ours.LlamaTokenizer.from_pretrained(sp_folder)
    mine.save_pretrained(tmp_path)
    text = "A man in a blue shirt 中文"
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert type(again) is ours.LlamaTokenizer
    ids = mine(text)["input_ids"]
    assert again(text)["input_ids"] == ids
    assert ids[0] == mine.bos_token_id
    assert again.decode(ids, skip_special_tokens=True) == text
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert theirs(text)["input_ids"] == ids


def test_a_model_of_the_other_kind(sp_folder: Path, sentencepiece_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "sentencepiece.bpe.model").write_bytes((sp_folder / "tokenizer.model").read_bytes())
    with pytest.raises(CheckpointError, match=r"model_type: expected 1 \(unigram\), found 2"):
        ours.XLMRobertaTokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes((sentencepiece_folder / "sentencepiece.bpe.model").read_bytes())
    with pytest.raises(CheckpointError, match=r"model_type: expected 2 \(BPE\), found 1"):
        ours.LlamaTokenizer.from_pretrained(tmp_path)


def test_gemma_from_its_model_file(tmp_path: Path, shared_data: Path, odd: list[str]) -> None:
    """Its layout: padding, end, beginning, unknown and a mask come first; no space stands before a text."""
    model, texts = io.BytesIO(), [line for language in LANGUAGES for line in lines(shared_data, language, 300)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, vocab_size=800, model_type="bpe", byte_fallback=True, minloglevel=2,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, num_threads=1, pad_id=0, eos_id=1,
        bos_id=2, unk_id=3, eos_piece="<eos>", bos_piece="<bos>", user_defined_symbols=["<mask>"], add_dummy_prefix=False,
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    texts += [*(text for text in odd if text.strip()), "  two  spaces ", "中文 かな", "12345", "a <mask> b<eos>"]
    mine = ours.GemmaTokenizer.from_pretrained(tmp_path)
    check_equal(mine, transformers.GemmaTokenizer.from_pretrained(tmp_path, add_bos_token=True), texts)
    assert mine("a")["input_ids"][0] == mine.bos_token_id == 2
    assert mine.padding_side == ours.LlamaTokenizer.spec.padding_side == "left"
    mine.save_pretrained(tmp_path / "saved")
    for kind in (AutoTokenizer, transformers.AutoTokenizer):
        again = kind.from_pretrained(tmp_path / "saved")
        assert again(texts)["input_ids"] == mine(texts)["input_ids"], kind


@pytest.mark.parametrize(("name", "folder"), [("T5Tokenizer", "t5-small"), ("BartTokenizer", "roberta-base")])
def test_pairs_in_many_languages(name: str, folder: str, shared_data: Path, odd: list[str]) -> None:
    """With the published vocabularies."""
    mine, theirs = (
        getattr(module, name).from_pretrained(shared_data / "tokenizers" / folder) for module in (ours, transformers)
    )
    texts = [line for language in LANGUAGES for line in lines(shared_data, language, 250)]
    check_equal(mine, theirs, [*texts, *(text for text in odd if "<mask>" not in text), "Ünïcode  中文 かな ελληνικά"])
