"""Tiny checkpoints with heads, of a WordPiece and of a byte-level family."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import byte_level, run, tiny  # noqa: F401 (fixtures)

NAMES = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC", 5: "NOUN", 6: "X-Y"}


def their_tokenizer(folder: str):
    """The reference's tokenizer for a tiny folder."""
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    place = Path(folder)
    if (place / "vocab.txt").exists():
        return transformers.BertTokenizerFast(str(place / "vocab.txt"), model_max_length=32)
    mask = transformers.AddedToken("<mask>", lstrip=True)  # as every checkpoint of the family has it
    files = (str(place / "vocab.json"), str(place / "merges.txt"))
    return transformers.RobertaTokenizerFast(*files, model_max_length=34, mask_token=mask)
