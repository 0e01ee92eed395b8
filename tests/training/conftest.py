"""A small vocabulary, as BERT cuts words with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from minitrans.tokenizers.auto import AutoTokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "on",
    "mat",
    "ran",
    "far",
    "away",
    ".",
    ",",
    "?",
    "who",
    "where",
    "what",
    "is",
    "not",
    "it",
    "we",
    "un",
    "##break",
    "##able",
    "##s",
    "good",
    "bad",
    "b",
    "c",
    "d",
    "e",
]


@pytest.fixture(scope="session")
def wordpiece(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Special tokens 0 .. 4: padding, unknown, first, separator, mask."""
    folder: Path = tmp_path_factory.mktemp("wordpiece")
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "model_max_length": 64}')
    return AutoTokenizer.from_pretrained(str(folder))
