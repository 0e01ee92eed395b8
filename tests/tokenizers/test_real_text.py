"""Ids, offsets and overflow equal the reference's on real text with the real vocabularies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minitrans.tokenizers import auto as ours
from minitrans.tokenizers.auto import AutoTokenizer

CASES = [
    ("BertTokenizer", "bert-base-uncased", {}),
    ("BertTokenizer", "bert-base-cased", {"do_lower_case": False}),
    ("RobertaTokenizer", "roberta-base", {}),
    ("XLMRobertaTokenizer", "xlm-roberta-base", {}),
]
FULL = {"return_offsets_mapping": True, "return_special_tokens_mask": True}


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case[1])
def pair(request: pytest.FixtureRequest, shared_data: Path) -> tuple[Any, Any]:
    transformers = pytest.importorskip("transformers")
    name, folder, options = request.param
    path = shared_data / "tokenizers" / folder
    return (
        getattr(ours, name).from_pretrained(path, **options),
        getattr(transformers, name).from_pretrained(path, **options),
    )


def _same(mine: Any, theirs: Any) -> None:
    assert list(mine) == list(theirs)
    for key in mine:
        assert mine[key] == theirs[key], key


def test_sst2(pair: tuple[Any, Any], shared_data: Path) -> None:
    lines = (shared_data / "sst2" / "dev.tsv").read_text(encoding="utf-8").splitlines()[1:501]
    sentences = [line.split("\t")[0] for line in lines]
    mine, theirs = pair
    found = mine(sentences, padding=True, truncation=True, max_length=64, **FULL)
    _same(found, theirs(sentences, padding=True, truncation=True, max_length=64, **FULL))
    assert mine.batch_decode(found.input_ids, True) == theirs.batch_decode(found.input_ids, True)


@pytest.mark.parametrize("language", ["en", "de"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_xquad_windows(pair: tuple[Any, Any], shared_data: Path, language: str, side: str) -> None:
    articles = json.loads((shared_data / "xquad" / f"xquad.{language}.json").read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]][::4]
    questions = [paragraph["qas"][0]["question"] for paragraph in paragraphs]
    contexts = [paragraph["context"] for paragraph in paragraphs]
    mine, theirs = pair
    options = {
        "truncation": "only_second",
        "max_length": 128,
        "stride": 32,
        "padding": "max_length",
        "padding_side": side,
        "return_overflowing_tokens": True,
        **FULL,
    }
    found, wanted = mine(questions, contexts, **options), theirs(questions, contexts, **options)
    _same(found, wanted)
    assert len(found["input_ids"]) > len(contexts)
    for row in range(len(found["input_ids"])):
        assert found.sequence_ids(row) == wanted.sequence_ids(row)
        assert found.word_ids(row) == wanted.word_ids(row)


def test_odd_texts(pair: tuple[Any, Any], odd: list[str]) -> None:
    mine, theirs = pair
    texts = [text for text in odd if "<mask>" not in text]
    _same(mine(texts, texts[::-1], padding=True, **FULL), theirs(texts, texts[::-1], padding=True, **FULL))


def test_xlm_roberta_equals_sentencepiece(shared_data: Path) -> None:
    """The unigram model that we build and sentencepiece itself cut real text into the same pieces."""
    import sentencepiece

    folder = shared_data / "tokenizers" / "xlm-roberta-base"
    processor = sentencepiece.SentencePieceProcessor(str(folder / "sentencepiece.bpe.model"))
    mine = ours.XLMRobertaTokenizer.from_pretrained(folder)
    for language in ("en", "de"):
        articles = json.loads((shared_data / "xquad" / f"xquad.{language}.json").read_text(encoding="utf-8"))["data"]
        for article in articles[:12]:
            text = article["paragraphs"][0]["context"]
            assert mine.encode(text, add_special_tokens=False) == [i + 1 if i else 3 for i in processor.encode(text)]


def test_known_ids(shared_data: Path) -> None:
    folder = shared_data / "tokenizers"
    roberta = ours.RobertaTokenizer.from_pretrained(folder / "roberta-base")
    assert roberta("Hello world").input_ids == [0, 31414, 232, 2]
    assert roberta("Hello <mask>").input_ids == [0, 31414, 50264, 2]
    xlmr = ours.XLMRobertaTokenizer.from_pretrained(folder / "xlm-roberta-base")
    assert xlmr("Hello World!").input_ids == [0, 35378, 6661, 38, 2]
    bert = AutoTokenizer.from_pretrained(folder / "bert-base-uncased")
    assert bert("Hello world").input_ids == [101, 7592, 2088, 102]


def test_minilm(minilm: Path, odd: list[str]) -> None:
    """A real tokenizer.json, with padding and truncation to 128 baked in, which a call must not obey."""
    transformers = pytest.importorskip("transformers")
    mine, theirs = AutoTokenizer.from_pretrained(minilm), transformers.AutoTokenizer.from_pretrained(minilm)
    assert type(mine) is ours.BertTokenizer
    assert mine.model_max_length == theirs.model_max_length == 512
    _same(mine(odd, **FULL), theirs(odd, **FULL))
    assert len(mine("a b").input_ids) == 4
