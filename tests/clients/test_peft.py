"""peft: LoRA found by its own defaults, trained, saved, loaded and merged; prompt tuning.

Adapters that were made for the reference are in `tests/models/test_adapters.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import minitrans
from tests.clients.conftest import LABELS

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
Both = Callable[..., tuple[Any, Any]]


def lora(**options: Any) -> Any:
    return peft.LoraConfig(task_type="SEQ_CLS", r=3, lora_alpha=5, lora_dropout=0.0, **options)


def trained(model: Any, config: Any, batch: Any, steps: int = 4) -> tuple[Any, list[float]]:
    """The model with an adapter, and its losses while the adapter was trained."""
    torch.manual_seed(1)
    wrapped = peft.get_peft_model(model, config)
    optimizer = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=3e-2)
    wrapped.train()
    losses = []
    for _ in range(steps):
        loss = wrapped(**batch, labels=torch.tensor(LABELS)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return wrapped.eval(), losses


def test_lora_is_injected_trained_and_merged(both: Both, batch: Any, tmp_path: Path) -> None:
    results = []
    for model in both("ForSequenceClassification", num_labels=3):
        body = copy.deepcopy(model.double().bert.state_dict())
        wrapped, losses = trained(model, lora(), batch)
        with torch.no_grad():
            logits = wrapped(**batch).logits
        kept = {
            name.replace(".base_layer", ""): value for name, value in wrapped.base_model.model.bert.state_dict().items()
        }
        assert all(torch.equal(value, kept[name]) for name, value in body.items()), "the weights below moved"
        results.append((wrapped, losses, logits))
    (wrapped, losses, logits), (_, expected, expected_logits) = results
    found = [name for name, module in wrapped.named_modules() if isinstance(module, peft.tuners.lora.Linear)]
    assert len(found) == 4  # query and value of two blocks
    assert losses == pytest.approx(expected, rel=1e-9)
    assert losses[-1] < losses[0]
    torch.testing.assert_close(logits, expected_logits, rtol=0, atol=1e-9)

    merged = wrapped.merge_and_unload()
    assert isinstance(merged, minitrans.BertForSequenceClassification)
    merged.save_pretrained(tmp_path)
    for library in (minitrans, transformers):
        again = library.BertForSequenceClassification.from_pretrained(tmp_path)
        with torch.no_grad():
            torch.testing.assert_close(merged(**batch).logits, logits, rtol=0, atol=1e-12)
            torch.testing.assert_close(again(**batch).logits, logits, rtol=0, atol=1e-9)


def test_an_adapter_is_saved_and_loaded(both: Both, batch: Any, tmp_path: Path) -> None:
    model, _ = both("ForSequenceClassification", num_labels=3)
    plain = copy.deepcopy(model)
    wrapped, _ = trained(model, lora(), batch)
    wrapped.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(plain, tmp_path).eval()
    with torch.no_grad():
        expected = wrapped(**batch).logits
        assert torch.equal(again(**batch).logits, expected)
        with again.disable_adapter():
            assert not torch.equal(again(**batch).logits, expected)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("Bert", {}), ("Roberta", {}), ("XLMRoberta", {}), ("Electra", {}),
        ("DistilBert", {"target_modules": ["query", "value"]}), ("Albert", {"target_modules": ["query", "value"]}),
        ("Camembert", {"target_modules": ["query", "value"]}), ("MPNet", {"target_modules": ["query", "value"]}),
        ("RobertaPreLayerNorm", {"target_modules": "all-linear"}),
        ("FNet", {"target_modules": "all-linear"}),
        ("Longformer", {"target_modules": ["up", "down"]}),  # in the last layer the head looks at a global token alone
        *((name, {"target_modules": ["query", "value"]}) for name in (
            "DebertaV2", "BigBird", "Nystromformer", "ModernBert", "NomicBert", "RoFormer",
        )),
    ],
)  # fmt: skip
def test_every_family(tiny: Callable[..., str], family: str, options: Any) -> None:
    """By default where peft knows the names of the family's layers and they are ours too."""
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2} if family == "ModernBert" else {}
    folder = tiny(f"{family}Model", **special)
    model = getattr(minitrans, f"{family}ForSequenceClassification").from_pretrained(folder)
    ids = torch.randint(5, 40, (2, 6))
    with torch.no_grad():
        expected = model(ids).logits
    wrapped = peft.get_peft_model(model, lora(**options))
    with torch.no_grad():
        torch.testing.assert_close(wrapped(input_ids=ids).logits, expected)  # B is 0 at first
    wrapped(input_ids=ids, labels=torch.tensor([0, 1])).loss.backward()
    gradients = [p.grad for name, p in wrapped.named_parameters() if "lora_B" in name]
    assert gradients
    assert all(gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PromptEncoderConfig"])
def test_prompt_tuning(both: Both, batch: Any, kind: str) -> None:
    results = []
    for model in both("ForSequenceClassification", num_labels=3):
        config = getattr(peft, kind)(task_type="SEQ_CLS", num_virtual_tokens=3)
        results.append(trained(model, config, batch)[1])
    assert results[0] == pytest.approx(results[1], rel=1e-4)
    assert results[0][-1] < results[0][0]
