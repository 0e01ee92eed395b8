"""What real checkpoints look like: old names, wrappers, other heads, fresh heads, faults."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from minitrans.attention.context import Context
from minitrans.attention.rules import AttentionResult
from minitrans.attention.variant import LayerSizes, Variant
from minitrans.errors import CheckpointError
from minitrans.models.auto import class_by_name
from minitrans.models.loading import family_of, load_model
from minitrans.models.saving import save_model
from weights_convert.names import bare_name, bare_names
from weights_convert.report import ConversionReport
from weights_convert.translate import file_tensors

Make = Callable[..., Any]
IDS = torch.tensor([[3, 4, 5, 6, 7]])


def load(class_name: str, folder: Path, **options: Any) -> Any:
    return load_model(class_by_name(class_name), folder, **options)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        out = model(input_ids=IDS)
    return out.logits if hasattr(out, "logits") else out.last_hidden_state


def reference_logits(class_name: str, folder: Path) -> torch.Tensor:
    return logits(getattr(transformers, class_name).from_pretrained(folder, attn_implementation="eager"))


@pytest.mark.parametrize(
    ("key", "bare"),
    [
        ("encoder.layer.0.x", "encoder.layer.0.x"),
        ("bert.encoder.x", "encoder.x"),
        ("module.model.bert.bert.encoder.x", "encoder.x"),
        ("_orig_mod.bert.encoder.x", "encoder.x"),
        ("model.cls.predictions.bias", "cls.predictions.bias"),
        ("roberta.encoder.x", "roberta.encoder.x"),
        ("embeddings.LayerNorm.gamma", "embeddings.LayerNorm.weight"),
        ("bert.embeddings.LayerNorm.beta", "embeddings.LayerNorm.bias"),
        ("LayerNorm.gamma", "LayerNorm.weight"),
        ("myLayerNorm.gamma", "myLayerNorm.gamma"),
        ("adapter.gamma", "adapter.gamma"),
        ("LayerNorm.gamma_scale", "LayerNorm.gamma_scale"),
        ("bert", "bert"),
        (".bert.x", ".bert.x"),
        ("", ""),
    ],
)
def test_bare_names(key: str, bare: str) -> None:
    assert bare_name(key, {"bert", "model", "module", "_orig_mod"}) == bare


def test_two_keys_for_one_tensor_are_a_fault() -> None:
    _, faults = bare_names(["bert.x", "x", "y.LayerNorm.gamma", "y.LayerNorm.weight", "z"], ("bert",))
    assert len(faults) == 2
    assert "bert.x: expected one key for this tensor, found also x" in faults[0]
    assert "y.LayerNorm.gamma" in faults[1]


@pytest.mark.parametrize(
    "wrapper", ["", "bert.", "model.", "module.", "model.bert.", "bert.bert.", "module.bert.", "module.model."]
)
def test_every_wrapper_loads(wrapper: str, reference: Make) -> None:
    source = reference("BertModel")
    expected = reference_logits("BertModel", source.folder)
    source.rename(lambda key: wrapper + key)
    model, report = load("BertModel", source.folder)
    assert not report.warnings
    torch.testing.assert_close(logits(model), expected)


@pytest.mark.parametrize("wrapper", ["module.", "model.", "module.model.", "_orig_mod."])
def test_a_wrapped_head_loads(wrapper: str, reference: Make) -> None:
    source = reference("RobertaForSequenceClassification", num_labels=3)
    expected = reference_logits("RobertaForSequenceClassification", source.folder)
    source.rename(lambda key: wrapper + key)
    model, report = load("RobertaForSequenceClassification", source.folder)
    assert not report.warnings
    torch.testing.assert_close(logits(model), expected)


def test_wrapped_and_bare_together_are_refused(reference: Make) -> None:
    source = reference("BertModel")
    source.tensors["bert.pooler.dense.bias"] = source.tensors["pooler.dense.bias"] + 1
    with pytest.raises(CheckpointError, match=r"expected one key for this tensor, found also"):
        load("BertModel", source.write().folder)


def test_legacy_layer_norm_names(reference: Make) -> None:
    source = reference("BertForMaskedLM")
    expected = reference_logits("BertForMaskedLM", source.folder)

    def old(key: str) -> str:
        return key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    source.rename(old)
    assert any(key.endswith("LayerNorm.gamma") for key in source.tensors)
    model, report = load("BertForMaskedLM", source.folder)
    assert not report.warnings
    torch.testing.assert_close(logits(model), expected)


def test_buffers_and_other_heads_are_dropped_with_a_reason(reference: Make) -> None:
    source = reference("BertForPreTraining")
    source.tensors["bert.embeddings.position_ids"] = torch.arange(33)[None]
    source.tensors["bert.embeddings.token_type_ids"] = torch.zeros(1, 33, dtype=torch.long)
    source.write()
    _, report = load("BertForMaskedLM", source.folder)
    assert not report.warnings
    assert set(report.dropped) == {
        "bert.embeddings.position_ids",
        "bert.embeddings.token_type_ids",
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "cls.seq_relationship.weight",
        "cls.seq_relationship.bias",
    }
    assert "no pooler" in report.dropped["bert.pooler.dense.bias"]
    _, report = load("BertModel", source.folder)
    assert "head of another task" in report.dropped["cls.predictions.bias"]
    assert not report.fresh


def test_unknown_tensors_and_layers_beyond_the_last_are_named_not_used(
    reference: Make, caplog: pytest.LogCaptureFixture
) -> None:
    source = reference("BertModel")
    source.tensors["encoder.layer.2.output.dense.bias"] = torch.zeros(24)
    source.tensors["evil\x1b[31m\n"] = torch.zeros(1)
    with caplog.at_level(logging.WARNING, "minitrans"):
        _, report = load("BertModel", source.write().folder)
    assert set(report.unknown) == {"encoder.layer.2.output.dense.bias", "evil\x1b[31m\n"}
    assert len(caplog.records) == 1
    assert r"evil\x1b[31m\n" in caplog.text
    assert "\x1b" not in report.summary()


@pytest.mark.parametrize(
    ("source_class", "target_class", "fresh"),
    [
        ("BertModel", "BertForSequenceClassification", {"classifier.weight", "classifier.bias"}),
        ("BertModel", "BertForQuestionAnswering", {"qa_outputs.weight", "qa_outputs.bias"}),
        ("BertModel", "BertForNextSentencePrediction", {"seq_relationship.weight", "seq_relationship.bias"}),
        ("BertForMaskedLM", "BertModel", {"pooler.dense.weight", "pooler.dense.bias"}),
        (
            "RobertaForMaskedLM",
            "RobertaForSequenceClassification",
            {f"classifier.{name}.{part}" for name in ("dense", "out_proj") for part in ("weight", "bias")},
        ),
        (
            "BertModel",
            "BertForMaskedLM",
            {
                f"lm_head.{n}"
                for n in ("dense.weight", "dense.bias", "LayerNorm.weight", "LayerNorm.bias", "decoder.bias")
            },
        ),
    ],
)
def test_a_head_that_is_not_there_is_fresh_and_named(
    source_class: str, target_class: str, fresh: set[str], reference: Make, caplog: pytest.LogCaptureFixture
) -> None:
    source = reference(source_class)
    torch.manual_seed(0)
    with caplog.at_level(logging.WARNING, "minitrans"):
        model, report = load(target_class, source.folder)
    assert set(report.fresh) == fresh
    assert len(caplog.records) == 1
    assert all(name in caplog.text for name in fresh)
    state = model.state_dict()
    for name in fresh:
        assert state[name].isfinite().all()
        expected_std = 0.02 if name.endswith("weight") and "LayerNorm" not in name else 0.0
        assert abs(float(state[name].std(unbiased=False)) - expected_std) < 0.008, name
    assert not model.training


def test_a_whole_checkpoint_leaves_the_global_random_state_alone(reference: Make) -> None:
    source = reference("BertModel")
    before = torch.get_rng_state()
    load("BertModel", source.folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_all_faults_come_in_one_error(reference: Make) -> None:
    source = reference("BertForSequenceClassification", num_labels=3)
    del source.tensors["bert.encoder.layer.1.output.dense.bias"]
    del source.tensors["classifier.bias"]
    source.tensors["bert.pooler.dense.weight"] = torch.zeros(24, 25)
    source.tensors["bert.embeddings.LayerNorm.weight"] = torch.ones(24, dtype=torch.int64)
    source.tensors["bert.embeddings.LayerNorm.gamma"] = torch.ones(24)
    source.tensors["bert.encoder.layer.0.attention.self.distance_embedding.weight"] = torch.ones(65, 8)
    with pytest.raises(CheckpointError) as caught:
        load("BertForSequenceClassification", source.write().folder)
    lines = str(caught.value).splitlines()
    assert "6 faults" in lines[0]
    assert len(lines) == 7
    text = str(caught.value)
    assert "bert.encoder.layer.1.feed_forward.down.bias: expected a tensor encoder.layer.1.output.dense.bias" in text
    assert "classifier.bias: expected a tensor classifier.bias in the checkpoint, beside the rest of classifier" in text
    assert "expected shape [24, 24] for bert.pooler.dense.weight, found [24, 25]" in text
    assert "expected floating-point weights, found int64" in text
    assert "found also bert.embeddings.LayerNorm" in text
    assert "relative_key_query" in text


def test_num_labels_that_do_not_fit_say_what_to_do(reference: Make) -> None:
    source = reference("RobertaForSequenceClassification", num_labels=3)
    advice = r"expected shape \[5, 24\].*found \[3, 24\]; pass num_labels=3 .*ignore_mismatched_sizes=True"
    with pytest.raises(CheckpointError, match=advice):
        load("RobertaForSequenceClassification", source.folder, overrides={"num_labels": 5})
    model, report = load(
        "RobertaForSequenceClassification", source.folder, overrides={"num_labels": 5}, ignore_mismatched_sizes=True
    )
    assert report.fresh == ["classifier.out_proj.weight", "classifier.out_proj.bias"]
    assert model.classifier.out_proj.weight.shape == (5, 24)
    assert torch.equal(model.classifier.dense.weight, source.tensors["classifier.dense.weight"])
    with pytest.raises(CheckpointError, match="vocab|word_embeddings"):
        load(
            "RobertaForSequenceClassification",
            source.folder,
            overrides={"vocab_size": 40},
            ignore_mismatched_sizes=True,
        )


def test_relative_positions_load_and_come_back(reference: Make, tmp_path: Path) -> None:
    source = reference("BertModel", num_hidden_layers=1)
    table = torch.randn(65, 8)
    source.tensors["encoder.layer.0.attention.self.distance_embedding.weight"] = table
    source.config["position_embedding_type"] = "relative_key"
    model, report = load("BertModel", source.write().folder)
    assert not report.warnings
    assert torch.equal(model.encoder.layer[0].attention.distance_embedding.weight, table)
    save_model(model, tmp_path / "again")
    again, _ = load("BertModel", tmp_path / "again")
    assert torch.equal(logits(again), logits(model))


def test_pruned_heads_load_and_come_back(reference: Make, tmp_path: Path) -> None:
    for class_name in ("BertModel", "BertForMaskedLM"):
        model, _ = load(class_name, reference(class_name, folder=class_name).folder)
        model.prune_heads({0: [1], 1: [0, 2]})
        save_model(model, tmp_path / "pruned")
        again, report = load(class_name, tmp_path / "pruned")
        assert not report.warnings
        assert torch.equal(logits(again), logits(model))


def test_parameters_own_their_memory(reference: Make) -> None:
    source = reference("BertForMaskedLM")
    model, _ = load("BertForMaskedLM", source.folder)
    before = logits(model)
    path = source.folder / "model.safetensors"
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
    assert torch.equal(logits(model), before)
    for parameter in model.parameters():
        assert parameter.untyped_storage().nbytes() == parameter.numel() * parameter.element_size()
        assert parameter.requires_grad
        assert parameter.is_leaf


def test_nan_is_named_not_refused(reference: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = reference("BertModel")
    source.tensors["pooler.dense.bias"][3] = float("nan")
    source.tensors["embeddings.LayerNorm.bias"][0] = float("-inf")
    with caplog.at_level(logging.WARNING, "minitrans"):
        model, report = load("BertModel", source.write().folder)
    assert "pooler.dense.bias: holds NaN or infinite values" in caplog.text
    assert len(report.warnings) == 2
    save_model(model, tmp_path / "again")
    assert (tmp_path / "again" / "config.json").exists()
    state = load("BertModel", tmp_path / "again")[0].state_dict()
    assert state["pooler.dense.bias"].numpy().tobytes() == source.tensors["pooler.dense.bias"].numpy().tobytes()


def test_the_report_has_a_row_for_every_parameter(reference: Make) -> None:
    source = reference("BertForMaskedLM")
    model, report = load("BertForMaskedLM", source.folder)
    assert [row.target for row in report.rows] == list(model.state_dict())
    rows = {row.target: row for row in report.rows}
    decoder = rows["lm_head.decoder.weight"]
    assert decoder.sources == ("bert.embeddings.word_embeddings.weight",)
    assert decoder.tied_to == "bert.embeddings.word_embeddings.weight"
    assert rows["lm_head.decoder.bias"].sources == ("cls.predictions.bias",)
    assert report.to_dict()["rows"][0]["file"] == "model.safetensors"
    assert "lm_head.dense.bias [24] float32 <- model.safetensors: cls.predictions.transform.dense.bias (Rename)" in str(
        report
    )


def test_options_reach_the_model(reference: Make) -> None:
    folder = reference("BertModel").folder
    model, _ = load("BertModel", folder, attention={"name": "sliding_window", "window": 2}, backend="eager")
    assert model.config.attention == {"name": "sliding_window", "window": 2}
    assert model.encoder.layer[0].attention.backend == "eager"
    assert load("BertModel", folder, padding="remove")[0].padding == "remove"
    with pytest.raises(ValueError, match="padding must be one of"):
        load("BertModel", folder, padding="drop")
    with pytest.raises(TypeError, match="hidden_dropuot"):
        load("BertModel", folder, overrides={"hidden_dropuot": 0.2})


def test_a_body_without_its_pooler(reference: Make) -> None:
    folder = reference("BertModel").folder
    model, report = load("BertModel", folder, add_pooling_layer=False)
    assert model.pooler is None
    assert {name for name in report.dropped if "pooler" in name} == {"pooler.dense.weight", "pooler.dense.bias"}
    assert not report.fresh
    torch.testing.assert_close(logits(model), reference_logits("BertModel", folder))
    with pytest.raises(TypeError, match="add_pooling_layer"):
        load("BertForMaskedLM", folder, add_pooling_layer=False)


@pytest.mark.parametrize("dtype", [None, torch.float64])
@pytest.mark.parametrize("pickled", [False, True])
def test_a_model_loaded_in_inference_mode_is_an_ordinary_one(
    dtype: torch.dtype | None, pickled: bool, reference: Callable[..., Any]
) -> None:
    """Fresh parameters, tied ones and those of the file alike; the mode is the caller's, and does not end with the call."""
    source = reference("BertForMaskedLM")
    if pickled:
        source.write_bin()
    expected = class_by_name("BertForMaskedLM").from_pretrained(source.folder, dtype=dtype)
    for name in ("BertForMaskedLM", "BertForTokenClassification"):
        with torch.inference_mode():
            model = class_by_name(name).from_pretrained(source.folder, dtype=dtype)
            assert torch.is_inference_mode_enabled()
        assert not any(parameter.is_inference() for parameter in model.parameters())
        assert all(parameter.requires_grad and parameter.dtype == (dtype or torch.float32) for parameter in model.parameters())  # fmt: skip
        weights = dict(expected.bert.named_parameters())
        assert all(torch.equal(parameter, weights[name]) for name, parameter in model.bert.named_parameters())
        before = model.bert.embeddings.word_embeddings.weight.clone()
        model(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[0, 1, 1]])).loss.backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
        assert not torch.equal(model.bert.embeddings.word_embeddings.weight, before)


class Shifted(Variant):
    """A variant with a buffer, which is saved, and another, which is not."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__(sizes)
        self.register_buffer("shift", torch.arange(sizes.heads, dtype=torch.float32))
        self.register_buffer("order", torch.arange(sizes.heads), persistent=False)

    def finish(self, result: AttentionResult, x: torch.Tensor, context: Context) -> AttentionResult:
        return replace(result, output=result.output[:, self.order] + self.shift[:, None, None])


def test_buffers_of_a_variant_are_where_its_parameters_are_and_go_there_and_back(
    reference: Callable[..., Any], tmp_path: Path
) -> None:
    cls, folder = class_by_name("BertModel"), reference("BertModel").folder
    model = cls.from_pretrained(folder, attention=Shifted, dtype=torch.float64)
    name = "encoder.layer.1.attention.variants.0.shift"
    assert name in model.load_report.fresh
    assert model.get_buffer(name).dtype == torch.float64
    assert model.get_buffer(name).tolist() == [0.0, 1.0, 2.0]
    assert model(torch.tensor([[1, 2, 3]])).last_hidden_state.isfinite().all()
    model.get_buffer(name).mul_(3.0)
    tensors = file_tensors(model.state_dict(), family_of("bert"), model.config, ConversionReport())
    assert tensors[name].values.tolist() == [0.0, 3.0, 6.0]
    saved = load_file(folder / "model.safetensors")
    save_file({**saved, name: tensors[name].values.float().clone()}, folder / "model.safetensors")
    again = cls.from_pretrained(folder, attention=Shifted)
    assert again.get_buffer(name).tolist() == [0.0, 3.0, 6.0]
    assert name not in again.load_report.fresh


def test_a_wrong_option_is_the_file_s_fault_or_the_caller_s(reference: Callable[..., Any]) -> None:
    """What only building the layers shows."""
    odd, source = {"name": "sliding_window", "window": 3}, reference("BertModel")
    with pytest.raises(ValueError, match="window must be an even number") as asked:
        class_by_name("BertModel").from_pretrained(source.folder, attention=odd)
    assert not isinstance(asked.value, CheckpointError)
    source.config["attention"] = odd
    with pytest.raises(CheckpointError, match=r"config\.json: attention: window must be an even number"):
        class_by_name("BertModel").from_pretrained(source.write().folder)
    albert = reference("AlbertForPreTraining", folder="albert")
    albert.config["attention"] = odd
    with pytest.raises(ValueError, match="num_labels must be 2, got 3"):
        class_by_name("AlbertForPreTraining").from_pretrained(albert.write().folder, num_labels=3)
