"""What every client's tests use: a tiny checkpoint with its vocabulary, a few texts, and the reference on the same files."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.cli.conftest import byte_level, tiny  # noqa: F401 (fixtures)

os.environ["ACCELERATE_USE_CPU"] = "true"

TEXTS = [
    "the cat sat on the mat .",
    "paris",
    "the night train was late , the old city is in france .",
    "who was born in london ? ada lovelace",
    "a good film",
    "a bad film and a bad night",
    "the dog sat in the old train",
    "snow",
]
LABELS = [0, 2, 1, 2, 0, 1, 1, 0]


@pytest.fixture
def both(tiny: Callable[..., str]) -> Callable[..., tuple[Any, Any]]:  # noqa: F811
    """both("ForSequenceClassification", num_labels=3): our BERT and the reference's, without dropout, from the same folder."""
    transformers = pytest.importorskip("transformers")
    import minitrans

    def make(head: str, **changes: Any) -> tuple[Any, Any]:
        off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        name = f"Bert{head}-for-clients-{'-'.join(map(str, changes.values()))}"
        folder = tiny(f"Bert{head}", name, **{**off, **changes})
        ours = getattr(minitrans, f"Bert{head}").from_pretrained(folder)
        theirs = getattr(transformers, f"Bert{head}").from_pretrained(folder, attn_implementation="eager")
        return ours, theirs

    return make


@pytest.fixture
def tokenizer(tiny: Callable[..., str]) -> Any:  # noqa: F811
    """Ours, of that vocabulary."""
    import minitrans

    return minitrans.AutoTokenizer.from_pretrained(tiny("BertModel"))


@pytest.fixture
def batch(tokenizer: Any) -> dict[str, torch.Tensor]:
    """The texts, padded."""
    return dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))
