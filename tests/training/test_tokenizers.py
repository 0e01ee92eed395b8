"""A vocabulary learnt here opens here and in the reference, with the same ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from minitrans import AutoTokenizer
from minitrans.training.tokenizers import KINDS, train_tokenizer

TEXTS = ["The tall man walks along the river.", "Zwei Männer gehen über die Straße!", "A man, a river; a street."] * 5
SAID = {"wordpiece": "BertTokenizer", "byte-bpe": "RobertaTokenizer", "sentencepiece": "T5Tokenizer"}


@pytest.mark.parametrize("kind", KINDS)
def test_both_libraries_open_it(kind: str, tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    size = {"byte-bpe": 300, "sentencepiece": 38}.get(kind, 60)
    learnt = train_tokenizer(iter(TEXTS), tmp_path, kind=kind, vocab_size=size)
    mine, theirs = AutoTokenizer.from_pretrained(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert type(mine).__name__ == type(theirs).__name__ == SAID[kind]
    assert len(mine) == len(theirs) == (size + 100 if kind == "sentencepiece" else size)
    texts = [*TEXTS[:3], "a man over the Männer", ""]
    ids = [tokenizer(texts)["input_ids"] for tokenizer in (learnt, mine, theirs)]
    assert ids[0] == ids[1] == ids[2]
    assert len(set(ids[0][0])) > 5
    if kind != "wordpiece":  # which forgets where spaces were
        assert mine.decode(ids[0][1], skip_special_tokens=True) == TEXTS[1]


def test_lower_case(tmp_path: Path):
    for kind, size in (("wordpiece", 60), ("sentencepiece", 30)):
        tokenizer = train_tokenizer(TEXTS, tmp_path / kind, kind=kind, vocab_size=size, lower_case=True)
        assert tokenizer("THE TALL MAN")["input_ids"] == tokenizer("the tall man")["input_ids"]
    with pytest.raises(ValueError, match="byte-bpe keeps every byte"):
        train_tokenizer(TEXTS, tmp_path / "bytes", kind="byte-bpe", lower_case=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "bpe"}, "kind: expected one of wordpiece, byte-bpe, sentencepiece, got 'bpe'"),
        ({"kind": "byte-bpe", "vocab_size": 200}, "at least 261, got 200"),
        ({"kind": "sentencepiece", "vocab_size": 5000}, "Vocabulary size too high"),
        ({"vocab_size": 7}, r"wordpiece has every character and five special tokens, at least \d\d, got 7"),
        ({"texts": []}, "expected at least one text to learn from, found none"),
    ],
)
def test_impossible_wishes(given: dict[str, object], message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        train_tokenizer(**{"texts": TEXTS, "out": tmp_path / "words", **given})  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
