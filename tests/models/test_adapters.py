"""Adapters that the reference's peft made on the reference's models: they work on ours, or are refused with what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import minitrans
from minitrans.errors import CheckpointError

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
transformers.logging.disable_progress_bar()
IDS = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 10, 11, 12]])
SIZES: Any = {
    "vocab_size": 41, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20,
    "max_position_embeddings": 33,
}  # fmt: skip
# class -> modules that carry one name here and there
COMMON = {
    "BertForSequenceClassification": ["query", "value"],
    "RobertaForSequenceClassification": ["query", "key", "value"],
    "AlbertForSequenceClassification": ["query", "value"],
    "ElectraForSequenceClassification": ["query", "value", "classifier.dense"],
}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        scores: torch.Tensor = model(IDS).logits
    return scores


def adapted(class_name: str, folder: Path, **settings: Any) -> torch.Tensor:
    """Writes a base model and an adapter with random values; returns what the reference makes of the two."""
    torch.manual_seed(1)
    cls = getattr(transformers, class_name)
    base = cls(cls.config_class(**SIZES)).eval()
    base.save_pretrained(folder / "base")
    wrapped = peft.get_peft_model(
        base, peft.LoraConfig(task_type="SEQ_CLS", r=4, init_lora_weights=False, **settings)
    ).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "modules_to_save" in name:
                parameter.add_(1)
    wrapped.save_pretrained(folder / "adapter")
    return logits(wrapped)


@pytest.mark.parametrize("class_name", COMMON)
def test_an_adapter_of_the_reference_acts_on_our_model(
    class_name: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
):
    expected = adapted(class_name, tmp_path, target_modules=COMMON[class_name])
    base = getattr(minitrans, class_name).from_pretrained(tmp_path / "base")
    before = logits(base)
    wrapped = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(wrapped), expected)
    assert (expected - before).abs().max() > 1e-3
    assert not [each for each in recwarn if "missing" in str(each.message)]
    merged = wrapped.merge_and_unload()
    torch.testing.assert_close(logits(merged), expected)
    merged.save_pretrained(tmp_path / "merged")
    again = getattr(transformers, class_name).from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(logits(again), expected)


@pytest.mark.parametrize("modules", [["dense"], "all-linear", ["query", "output.dense"]])
def test_an_adapter_on_modules_that_have_other_names_here_is_refused(modules: Any, tmp_path: Path):
    adapted("BertForSequenceClassification", tmp_path, target_modules=modules)
    base = minitrans.BertForSequenceClassification.from_pretrained(tmp_path / "base")
    told = r"(?s)made for a module of the reference; nothing was put into .*as it is here.*and \d+ more.*target_modules.*merge_and_unload"
    with pytest.raises(RuntimeError, match=told):
        peft.PeftModel.from_pretrained(base, tmp_path / "adapter")


def test_the_state_dict_of_a_whole_adapted_model(tmp_path: Path):
    """Base, adapter and head in one, as torch.save takes it from the reference's wrapped model."""
    settings: Any = {"task_type": "SEQ_CLS", "r": 4, "target_modules": ["query", "value"], "init_lora_weights": False}
    theirs = transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES)).eval()
    wrapped = peft.get_peft_model(theirs, peft.LoraConfig(**settings)).eval()
    ours = peft.get_peft_model(
        minitrans.BertForSequenceClassification(minitrans.BertConfig(**SIZES)), peft.LoraConfig(**settings)
    ).eval()
    assert not ours.load_state_dict(wrapped.state_dict()).unexpected_keys
    torch.testing.assert_close(logits(ours), logits(wrapped))


def test_our_own_adapters_go_there_and_back(tmp_path: Path):
    base = minitrans.BertForSequenceClassification(minitrans.BertConfig(**SIZES)).eval()
    base.save_pretrained(tmp_path / "base")
    wrapped = peft.get_peft_model(
        base, peft.LoraConfig(r=4, target_modules=["attention.output", "feed_forward.up"], init_lora_weights=False)
    ).eval()
    wrapped.save_pretrained(tmp_path / "adapter")
    again = minitrans.BertForSequenceClassification.from_pretrained(tmp_path / "base")
    assert torch.equal(logits(peft.PeftModel.from_pretrained(again, tmp_path / "adapter").eval()), logits(wrapped))


def test_a_second_adapter_of_the_reference_is_refused_where_it_could_be_either(tmp_path: Path):
    adapted("BertForSequenceClassification", tmp_path, target_modules=["query"])
    base = minitrans.BertForSequenceClassification.from_pretrained(tmp_path / "base")
    wrapped = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    with pytest.raises(RuntimeError, match=r"(?s)several adapters were put into .*merge_and_unload"):
        wrapped.load_adapter(tmp_path / "adapter", adapter_name="second")


@pytest.mark.parametrize("name", ["AutoModel", "AutoModelForSequenceClassification", "AutoConfig", "BertModel"])
@pytest.mark.parametrize("whole", [False, True])
def test_an_adapter_s_folder_is_no_model(name: str, whole: bool, tmp_path: Path):
    adapted("BertForSequenceClassification", tmp_path, target_modules=["query"])
    if whole:  # even beside a whole model: what the reference would make of both is not what we would
        shutil.copytree(tmp_path / "base", tmp_path / "adapter", dirs_exist_ok=True)
    told = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    told["base_model_name_or_path"] = "owner/base"
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(told))
    with pytest.raises(
        CheckpointError, match=r"a peft adapter for owner/base: load that and wrap it .*merge_and_unload"
    ):
        getattr(minitrans, name).from_pretrained(tmp_path / "adapter")
    if name == "BertModel":
        with pytest.raises(CheckpointError, match="a peft adapter for owner/base"):
            minitrans.BertModel.from_pretrained(tmp_path / "adapter", config=minitrans.BertConfig(**SIZES))
