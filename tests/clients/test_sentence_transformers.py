"""sentence-transformers: our body inside its `Transformer` module, its losses and its trainer on top."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import minitrans
from tests.clients.conftest import TEXTS

sentence_transformers = pytest.importorskip("sentence_transformers")
losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
datasets = pytest.importorskip("datasets")

PAIRS = {
    "anchor": ["the cat sat on the mat .", "who was born in london ?", "a good film", "the night train"],
    "positive": ["a cat was on a mat", "ada lovelace", "the film was good", "the train was late"],
}


@pytest.fixture
def encoders(tiny: Callable[..., str]) -> tuple[Any, Any]:
    """One with our body, one as it is, of the same files."""
    folder = tiny("BertModel", "Bert-for-sentences", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    made = []
    for ours in (True, False):
        words = modules.Transformer(folder)
        pooling = modules.Pooling(words.get_embedding_dimension())
        made.append(sentence_transformers.SentenceTransformer(modules=[words, pooling], device="cpu"))
        if ours:
            made[0][0].model = minitrans.AutoModel.from_pretrained(folder)
    return made[0], made[1]


def test_encode(encoders: tuple[Any, Any]) -> None:
    vectors, expected = (encoder.encode(TEXTS, show_progress_bar=False, batch_size=3) for encoder in encoders)
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-5)
    tokens, expected = (encoder.encode(TEXTS, output_value="token_embeddings") for encoder in encoders)
    for mine, theirs in zip(tokens, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


def test_fit_and_save(encoders: tuple[Any, Any], tmp_path: Path) -> None:
    """Trained with a loss of theirs it goes the same way, and what it saves they load, and so does our Encoder."""
    histories = []
    for number, encoder in enumerate(encoders):
        run = sentence_transformers.SentenceTransformerTrainer(
            model=encoder,
            args=sentence_transformers.SentenceTransformerTrainingArguments(
                output_dir=str(tmp_path / f"run-{number}"), max_steps=4, per_device_train_batch_size=2, logging_steps=1,
                learning_rate=1e-2, report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no", seed=1,
                dataloader_pin_memory=False,
            ),
            train_dataset=datasets.Dataset.from_dict(PAIRS),
            loss=losses.MultipleNegativesRankingLoss(encoder),
        )  # fmt: skip
        run.train()
        histories.append([entry["loss"] for entry in run.state.log_history if "loss" in entry])
    assert len(histories[0]) == 4
    assert histories[0] == pytest.approx(histories[1], rel=1e-3)
    vectors, expected = (encoder.encode(TEXTS) for encoder in encoders)
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-3)

    encoders[0].save(str(tmp_path / "saved"))
    again = sentence_transformers.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(again.encode(TEXTS), vectors, rtol=0, atol=1e-5)
    made = minitrans.Encoder(tmp_path / "saved").encode(TEXTS, normalize=False)
    np.testing.assert_allclose(np.asarray(made), vectors, rtol=0, atol=1e-5)
