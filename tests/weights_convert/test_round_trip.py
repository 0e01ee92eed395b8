"""Reference -> ours -> reference: every class of every family, byte for byte, and the same numbers in between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from minitrans.checkpoints.verification import verify
from minitrans.families import FAMILIES, bodies
from minitrans.models.auto import class_by_name
from minitrans.models.loading import load_model
from minitrans.models.saving import save_model

DEBERTA = {
    "relative_attention": True, "pos_att_type": "p2c|c2p", "position_buckets": 6, "share_att_key": True,
    "norm_rel_ebd": "layer_norm", "embedding_size": 24,
}  # fmt: skip
CLASSES = [name for model_type in bodies() for name in FAMILIES[model_type].class_names[1:]]


@pytest.mark.parametrize("class_name", CLASSES)
def test_every_class_goes_and_comes_back_unchanged(
    class_name: str, reference: Callable[..., Any], tmp_path: Path
) -> None:
    source = reference(class_name)
    model, report = load_model(class_by_name(class_name), source.folder)
    assert not report.warnings
    assert not report.dropped
    assert not report.notes

    save_model(model, tmp_path / "ours")

    assert_same_file(tmp_path / "ours", source.tensors)
    back, info = getattr(transformers, class_name).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    assert back.config.architectures == [class_name]
    result = verify(tmp_path / "ours")
    assert result.equal, result.summary()
    kinds = {c.kind for c in result.comparisons}
    assert kinds == {"forward", "gradient"}
    assert len(result.comparisons) > len(source.tensors)


@pytest.mark.parametrize(
    ("class_name", "changes"),
    [
        ("BertForMaskedLM", {"tie_word_embeddings": False}),
        ("RobertaForMaskedLM", {"tie_word_embeddings": False}),
        ("BertForPreTraining", {"tie_word_embeddings": False, "type_vocab_size": 3, "hidden_act": "relu"}),
        ("BertLMHeadModel", {"is_decoder": True, "add_cross_attention": True}),
        ("CamembertForCausalLM", {"is_decoder": True, "add_cross_attention": True}),
        ("BertForSequenceClassification", {"num_labels": 5, "problem_type": "multi_label_classification"}),
        ("RobertaForSequenceClassification", {"num_labels": 1}),
        (
            "XLMRobertaForTokenClassification",
            {"id2label": {0: "O", 1: "B", 2: "I"}, "label2id": {"O": 0, "B": 1, "I": 2}},
        ),
        ("DistilBertForMaskedLM", {"tie_word_embeddings": False, "sinusoidal_pos_embds": True, "activation": "relu"}),
        (
            "DistilBertForSequenceClassification",
            {"num_labels": 5, "seq_classif_dropout": 0.3, "problem_type": "regression"},
        ),
        ("ElectraForMaskedLM", {"embedding_size": 12, "tie_word_embeddings": False}),
        ("ElectraForCausalLM", {"embedding_size": 24, "add_cross_attention": True}),
        ("ElectraForMultipleChoice", {"summary_use_proj": False, "summary_last_dropout": 0.3}),
        ("AlbertForPreTraining", {"num_hidden_layers": 5, "num_hidden_groups": 3, "inner_group_num": 2}),
        ("AlbertForMaskedLM", {"embedding_size": 24, "tie_word_embeddings": False, "classifier_dropout_prob": 0.4}),
        ("MPNetForMaskedLM", {"relative_attention_num_buckets": 40, "pad_token_id": 5, "tie_word_embeddings": False}),
        ("BigBirdForPreTraining", {"tie_word_embeddings": False, "rescale_embeddings": True, "block_size": 1}),
        ("BigBirdForQuestionAnswering", {"attention_type": "original_full", "sep_token_id": 5, "num_random_blocks": 1}),
        (
            "NystromformerForMaskedLM",
            {"conv_kernel_size": 7, "num_landmarks": 8, "segment_means_seq_len": 8, "tie_word_embeddings": False},
        ),
        ("LongformerForMaskedLM", {"attention_window": 4, "tie_word_embeddings": False, "type_vocab_size": 1}),
        ("LongformerForQuestionAnswering", {"attention_window": [4, 8], "sep_token_id": 7}),
        ("DebertaV2ForMaskedLM", {**DEBERTA, "legacy": False}),
        ("DebertaV2ForMaskedLM", {**DEBERTA, "embedding_size": 12, "tie_word_embeddings": False}),
        ("DebertaV2Model", {**DEBERTA, "share_att_key": False, "pos_att_type": ["c2p", "p2c"], "conv_kernel_size": 5}),
        ("DebertaV2ForMultipleChoice", {**DEBERTA, "cls_dropout": 0.3, "position_biased_input": False}),
        ("RobertaPreLayerNormForCausalLM", {"is_decoder": True, "add_cross_attention": True}),
        ("GPT2LMHeadModel", {"add_cross_attention": True, "n_inner": 20, "scale_attn_by_inverse_layer_idx": True}),
        ("GPT2LMHeadModel", {"tie_word_embeddings": False, "activation_function": "relu", "use_cache": False}),
        ("GPT2DoubleHeadsModel", {"summary_activation": "tanh", "summary_first_dropout": 0.0, "pad_token_id": 3}),
        ("BertModel", {"layer_norm_eps": 1e-3, "pad_token_id": 5, "classifier_dropout": 0.3, "dtype": "float16"}),
    ],
)
def test_odd_configurations_round_trip(
    class_name: str, changes: dict[str, Any], reference: Callable[..., Any], tmp_path: Path
) -> None:
    source = reference(class_name, **changes)
    model, _ = load_model(class_by_name(class_name), source.folder)
    save_model(model, tmp_path / "ours")

    tensors = load_file(tmp_path / "ours" / "model.safetensors")
    assert set(tensors) == set(source.tensors)
    back, info = getattr(transformers, class_name).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    first = transformers.AutoConfig.from_pretrained(source.folder).to_dict()
    again = back.config.to_dict()
    ignored = {"transformers_version", "_name_or_path"}
    assert {k: v for k, v in first.items() if k not in ignored} == {k: v for k, v in again.items() if k not in ignored}
    result = verify(tmp_path / "ours")
    assert result.equal, result.summary()


def test_a_real_checkpoint_comes_back_byte_for_byte(minilm: Path, tmp_path: Path) -> None:
    model, report = load_model(class_by_name("BertModel"), minilm)
    assert report.dropped == {"embeddings.position_ids": "a buffer that counts positions; they are computed (B8)"}
    assert not report.warnings

    save_model(model, tmp_path, max_shard_size="30MB")

    stored = load_file(minilm / "model.safetensors")
    del stored["embeddings.position_ids"]
    back, info = transformers.BertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    state = back.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in stored.items())
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) == 3


def assert_same_file(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    tensors = load_file(folder / "model.safetensors")
    assert set(tensors) == set(expected)
    for key, tensor in expected.items():
        assert tensors[key].dtype == tensor.dtype
        assert tensors[key].shape == tensor.shape, key
        assert tensors[key].numpy().tobytes() == tensor.numpy().tobytes(), key
