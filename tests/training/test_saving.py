"""`transformers.Trainer` saves our models as checkpoints that both libraries open, and resumes from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import minitrans
from minitrans import BertConfig, BertForMaskedLM, BertForSequenceClassification
from minitrans.training.saving import SavesPretrained

pytest.importorskip("accelerate")
transformers.logging.disable_progress_bar()
SIZES: Any = {
    "vocab_size": 41, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20,
    "max_position_embeddings": 33,
}  # fmt: skip
IDS = torch.tensor([[3, 4, 5, 6, 7]])


class Saver:
    """What a tokenizer does when it is saved."""

    def save_pretrained(self, folder: Path) -> None:
        (Path(folder) / "tokenizer_config.json").write_text("{}")


class WholeTrainer(SavesPretrained, transformers.Trainer):
    pass


def trainer(cls: Any, model: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    args = transformers.TrainingArguments(output_dir=str(folder), report_to=[], use_cpu=True, disable_tqdm=True)
    return cls(model, args, processing_class=Saver(), data_collator=list)


def test_a_trainer_that_saves_pretrained_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = BertForMaskedLM(BertConfig(**SIZES)).eval()
    trainer(WholeTrainer, model, tmp_path, monkeypatch).save_model(str(tmp_path / "x"))
    names = {path.name for path in (tmp_path / "x").iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer_config.json", "training_args.bin"}
    ours = minitrans.AutoModelForMaskedLM.from_pretrained(tmp_path / "x")
    theirs, info = transformers.BertForMaskedLM.from_pretrained(tmp_path / "x", output_loading_info=True)
    assert not any(info.values())
    with torch.no_grad():
        assert torch.equal(ours(IDS).logits, model(IDS).logits)
        torch.testing.assert_close(theirs.eval()(IDS).logits, model(IDS).logits)
    # what it resumes from has the reference's names now
    other = BertForMaskedLM(BertConfig(**SIZES)).eval()
    trainer(WholeTrainer, other, tmp_path, monkeypatch)._load_from_checkpoint(str(tmp_path / "x"))
    assert all(torch.equal(one, two) for one, two in zip(other.parameters(), model.parameters(), strict=True))


def test_what_a_plain_trainer_leaves_is_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = BertForSequenceClassification(BertConfig(**SIZES)).eval()
    trainer(transformers.Trainer, model, tmp_path, monkeypatch).save_model(str(tmp_path / "x"))
    assert not (tmp_path / "x" / "config.json").exists()
    again = BertForSequenceClassification.from_pretrained(tmp_path / "x", config=model.config)
    assert all(torch.equal(one, two) for one, two in zip(again.parameters(), model.parameters(), strict=True))


def test_another_process_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    saver = trainer(WholeTrainer, BertForMaskedLM(BertConfig(**SIZES)), tmp_path, monkeypatch)
    monkeypatch.setattr(transformers.TrainingArguments, "should_save", False)
    saver._save(str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()
