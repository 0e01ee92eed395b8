"""Tiny checkpoints with heads, of a WordPiece and of a byte-level family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import minitrans
from tests.cli.conftest import PLAIN, tiny  # noqa: F401 (a fixture)

NAMES = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC", 5: "NOUN", 6: "X-Y"}


@pytest.fixture(scope="session")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """byte_level("RobertaForMaskedLM"): a tiny RoBERTa, its vocabulary learnt from a few words."""
    from tokenizers import ByteLevelBPETokenizer

    root = tmp_path_factory.mktemp("byte-level")
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    backend = ByteLevelBPETokenizer()
    backend.train_from_iterator([f"{PLAIN} Ada Lovelace's naïve London."] * 3, 400, 2, False, specials)

    def make(class_name: str, **changes: object) -> str:
        folder = root / class_name
        if not folder.exists():
            cls = getattr(minitrans, class_name)
            with torch.random.fork_rng():
                torch.manual_seed(1)
                model = cls(
                    cls.config_class(
                        vocab_size=backend.get_vocab_size(), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=20, max_position_embeddings=36, initializer_range=0.5, pad_token_id=1, **changes,
                    )
                )  # fmt: skip
            model.save_pretrained(folder)
            backend.save_model(str(folder))
        return str(folder)

    return make


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
