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


def trainer(cls: Any, model: Any, folder: Path) -> Any:
    args = transformers.TrainingArguments(output_dir=str(folder), report_to=[], use_cpu=True, disable_tqdm=True)
    return cls(model, args, processing_class=Saver(), data_collator=list)


def test_a_trainer_that_saves_pretrained_models(tmp_path: Path):
    model = BertForMaskedLM(BertConfig(**SIZES)).eval()
    trainer(WholeTrainer, model, tmp_path).save_model(str(tmp_path / "x"))
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
    trainer(WholeTrainer, other, tmp_path)._load_from_checkpoint(str(tmp_path / "x"))
    assert all(torch.equal(one, two) for one, two in zip(other.parameters(), model.parameters(), strict=True))


def test_what_a_plain_trainer_leaves_is_readable(tmp_path: Path):
    model = BertForSequenceClassification(BertConfig(**SIZES)).eval()
    trainer(transformers.Trainer, model, tmp_path).save_model(str(tmp_path / "x"))
    assert not (tmp_path / "x" / "config.json").exists()
    again = BertForSequenceClassification.from_pretrained(tmp_path / "x", config=model.config)
    assert all(torch.equal(one, two) for one, two in zip(again.parameters(), model.parameters(), strict=True))


def test_another_process_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    saver = trainer(WholeTrainer, BertForMaskedLM(BertConfig(**SIZES)), tmp_path)
    monkeypatch.setattr(transformers.TrainingArguments, "should_save", False)
    saver._save(str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()


class Texts(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Sixteen texts, every token to be told."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = torch.arange(5) + index
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def test_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(tmp_path: Path):
    """A tied model, which a plain trainer cannot save at all."""

    def run(folder: Path, steps: int, **options: Any) -> Any:
        torch.manual_seed(0)
        args = transformers.TrainingArguments(
            output_dir=str(folder), max_steps=steps, save_steps=2, report_to=[], use_cpu=True, disable_tqdm=True,
            per_device_train_batch_size=4, lr_scheduler_type="constant", seed=3,
        )  # fmt: skip
        run = WholeTrainer(BertForMaskedLM(BertConfig(**SIZES)), args, train_dataset=Texts(), processing_class=Saver())
        run.train(**options)
        return run.model

    whole = run(tmp_path / "whole", 4)
    run(tmp_path / "first", 2)
    rest = run(tmp_path / "rest", 4, resume_from_checkpoint=str(tmp_path / "first" / "checkpoint-2"))
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(rest.state_dict()[name], tensor, msg=name)
    theirs = transformers.BertForMaskedLM.from_pretrained(tmp_path / "rest" / "checkpoint-4").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS).logits, rest.eval()(IDS).logits)
    broken = BertForMaskedLM(BertConfig(**SIZES))
    plain = transformers.Trainer(
        broken, transformers.TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True)
    )
    with pytest.raises(RuntimeError, match="share memory"):
        plain.save_model(str(tmp_path / "plain"))
