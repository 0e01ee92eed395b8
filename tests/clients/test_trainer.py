"""`transformers.Trainer` with our model, our tokenizer and the collators of the reference: as with its own model, to the loss.

How it saves our models with their configuration is in `tests/training/test_saving.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import minitrans
from tests.clients.conftest import LABELS, TEXTS

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

Both = Callable[..., tuple[Any, Any]]


def examples(tokenizer: Any) -> list[dict[str, Any]]:
    """Of different lengths, as lists, with the fields that a tokenizer's output has and a label."""
    return [{**tokenizer(text), "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]


def trainer(model: Any, tokenizer: Any, folder: Path, collator: Any = None, data: Any = None, **arguments: Any) -> Any:
    options: dict[str, Any] = {
        "per_device_train_batch_size": 2, "max_steps": 6, "logging_steps": 1, "learning_rate": 1e-2, "report_to": "none",
        "use_cpu": True, "disable_tqdm": True, "seed": 3, "save_strategy": "no", "dataloader_pin_memory": False,
    }  # fmt: skip
    data = data or examples(tokenizer)
    return transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(output_dir=str(folder), **{**options, **arguments}),
        train_dataset=data,
        eval_dataset=data,
        processing_class=tokenizer,
        data_collator=collator or transformers.DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda seen: {"accuracy": float(np.mean(seen.predictions.argmax(-1) == seen.label_ids))},
    )


def losses(run: Any) -> list[float]:
    run.train()
    return [entry["loss"] for entry in run.state.log_history if "loss" in entry]


def test_trains_as_the_reference_does(both: Both, tokenizer: Any, tmp_path: Path) -> None:
    ours, theirs = both("ForSequenceClassification", num_labels=3)
    runs = [trainer(model, tokenizer, tmp_path) for model in (ours, theirs)]
    mine, expected = (losses(run) for run in runs)
    assert len(mine) == 6
    assert mine[-1] < mine[0]
    assert mine == pytest.approx(expected, rel=1e-4)
    mine, expected = (run.evaluate() for run in runs)
    assert mine["eval_loss"] == pytest.approx(expected["eval_loss"], rel=1e-4)
    assert mine["eval_accuracy"] == expected["eval_accuracy"]
    mine, expected = (run.predict(examples(tokenizer)) for run in runs)
    np.testing.assert_allclose(mine.predictions, expected.predictions, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
def test_gradient_checkpointing_changes_no_number(both: Both, tokenizer: Any, tmp_path: Path) -> None:
    expected = losses(trainer(both("ForSequenceClassification", num_labels=3)[0], tokenizer, tmp_path))
    model = both("ForSequenceClassification", num_labels=3)[0]
    assert losses(trainer(model, tokenizer, tmp_path, gradient_checkpointing=True)) == expected


@pytest.mark.parametrize("rows", [4, 2, 1])
def test_accumulated_gradients_weigh_every_token_alike(both: Both, tokenizer: Any, tmp_path: Path, rows: int) -> None:
    """A mean over each small batch would weigh the tokens of batches with few labels more."""
    data = examples(tokenizer)
    for number, row in enumerate(data):
        del row["label"]
        row["labels"] = [token if place % (number + 2) == 1 else -100 for place, token in enumerate(row["input_ids"])]
    collator = transformers.DataCollatorForTokenClassification(tokenizer)  # it pads labels by -100
    results = []
    for options in ({"per_device_train_batch_size": 8}, {"per_device_train_batch_size": rows}):
        model, _ = both("ForMaskedLM")
        accumulated = 8 // options["per_device_train_batch_size"]
        run = trainer(
            model, tokenizer, tmp_path, collator, data, max_steps=3, gradient_accumulation_steps=accumulated, **options
        )
        results.append((losses(run), model.lm_head.decoder.weight))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-4)
    torch.testing.assert_close(results[1][1], results[0][1], rtol=0, atol=1e-3)


def test_save_and_load(both: Both, tokenizer: Any, tmp_path: Path) -> None:
    """What `save_model` leaves is our state dict and the tokenizer's files; with the configuration it is a model again."""
    model, _ = both("ForSequenceClassification", num_labels=3)
    run = trainer(model, tokenizer, tmp_path / "run")
    run.train()
    run.save_model(str(tmp_path / "saved"))
    again = minitrans.BertForSequenceClassification.from_pretrained(tmp_path / "saved", config=model.config)
    texts = minitrans.AutoTokenizer.from_pretrained(tmp_path / "saved")(TEXTS, padding=True, return_tensors="pt")
    model.eval()
    with torch.no_grad():
        assert torch.equal(again(**texts).logits, model(**texts).logits)


def test_resume(both: Both, tokenizer: Any, tmp_path: Path) -> None:
    model, _ = both("ForSequenceClassification", num_labels=3)
    options = {"save_strategy": "steps", "save_steps": 3}
    whole = trainer(model, tokenizer, tmp_path, **options)
    expected = losses(whole)
    fresh, _ = both("ForSequenceClassification", num_labels=3)
    resumed = trainer(fresh, tokenizer, tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert [entry["loss"] for entry in resumed.state.log_history if "loss" in entry] == expected
    for name, value in model.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name]), name
    state = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())
    assert state["global_step"] == 6
