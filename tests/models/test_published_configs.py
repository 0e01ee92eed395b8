"""Configuration files as people have them: the reference's numbers, and what nothing reads is kept."""

from __future__ import annotations

import dataclasses
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import minitrans
from minitrans.checkpoints.verification import with_exact_buffers
from minitrans.errors import CheckpointError
from minitrans.families import bodies
from minitrans.models.auto import config_class
from minitrans.models.config_fields import CHANGES_NUMBERS, NOT_KEPT, WELL_KNOWN
from minitrans.models.config_file import interpret_config
from tests.models.conftest import UNDEFINED_AT_PADDING
from tests.models.published_configs import ODD, PUBLISHED
from tests.tiny import exactly

BERT = {**PUBLISHED["BERT, uncased, both heads"], "architectures": ["BertForSequenceClassification"]}


def write(folder: Path, stored: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({key: value for key, value in stored.items() if value is not ...}))
    return folder


def batch(class_name: str) -> dict[str, Tensor]:
    """Two rows of which one is padded; multiple choice has two texts a row."""
    generator = torch.Generator().manual_seed(1)
    ids, mask = torch.randint(7, 41, (2, 9), generator=generator), torch.ones(2, 9, dtype=torch.long)
    mask[1, 6:] = 0
    ids[mask == 0] = 1
    shape = (1, 2, 9) if class_name.endswith("MultipleChoice") else (2, 9)
    return {"input_ids": ids.view(shape), "attention_mask": mask.view(shape)}


def numbers(model: Any, given: dict[str, Tensor]) -> list[Tensor]:
    """What a model gives, without what means nothing."""
    with torch.no_grad(), exactly(type(model)):
        parts = [part for part in model.eval()(**given).values() if isinstance(part, Tensor)]
    real = given["attention_mask"].bool()
    undefined = model.config.model_type in UNDEFINED_AT_PADDING
    return [part[real] if undefined and part.shape[:2] == real.shape else part for part in parts]


def reference(folder: Path, class_name: str, stored: dict[str, Any]) -> Any:
    """The reference's model of this configuration with random weights, which are written into the folder."""
    torch.manual_seed(0)
    cls = getattr(transformers, class_name)
    config = cls.config_class.from_pretrained(write(folder, stored))
    with exactly(cls):
        model = cls(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    return model


def check_equal(folder: Path, class_name: str, theirs: Any, **options: Any) -> Any:
    ours = getattr(minitrans, class_name).from_pretrained(folder, dtype=torch.float64, **options)
    assert not ours.load_report.fresh
    given = batch(class_name)
    found, expected = numbers(ours, given), numbers(theirs, given)
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    return ours


@pytest.mark.parametrize("stored", PUBLISHED.values(), ids=PUBLISHED)
def test_published(stored: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (class_name,) = stored["architectures"]
    theirs = reference(tmp_path / "their", class_name, stored)
    folder = write(tmp_path / "their", stored)  # as published, not as the reference would write it again
    with caplog.at_level(logging.WARNING, "minitrans"):
        ours = check_equal(folder, class_name, theirs)
    unread = set(ours.config.extra) - CHANGES_NUMBERS.keys()
    told = [record.getMessage() for record in caplog.records if record.name == "minitrans"]
    assert len(told) == bool(unread - WELL_KNOWN), told
    assert all(key in told[0] for key in sorted(unread - WELL_KNOWN)[:4])

    ours.save_pretrained(tmp_path / "ours")
    again = json.loads((tmp_path / "ours" / "config.json").read_text())
    kept = {key for key in stored if key not in NOT_KEPT and not key.startswith("_")}
    assert not [key for key in again if key in NOT_KEPT or key.startswith("_")]
    written = {**again, "torch_dtype": stored.get("torch_dtype"), "dtype": stored.get("dtype")}
    silent = {
        "global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0, "summary_type": "last",
        "position_embedding_type": "absolute", "problem_type": None, "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    }  # fmt: skip
    aliases = ours.config_class.aliases
    assert {key: written.get(aliases.get(key, key), silent.get(key)) for key in kept} == {
        key: stored[key] for key in kept
    }
    check_equal(tmp_path / "ours", class_name, theirs)
    back = getattr(transformers, class_name).from_pretrained(tmp_path / "ours", dtype=torch.float64)
    for one, other in zip(
        numbers(with_exact_buffers(back, ours), batch(class_name)), numbers(theirs, batch(class_name)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("changes", "meaning", "repaired"), [row[1:] for row in ODD], ids=[row[0] for row in ODD])
def test_odd(changes: dict[str, Any], meaning: dict[str, Any], repaired: dict[str, Any], tmp_path: Path) -> None:
    class_name = "BertForSequenceClassification"
    theirs = reference(tmp_path / "their", class_name, {**BERT, **changes, **repaired})
    folder = write(tmp_path / "their", {**BERT, **changes})
    ours = check_equal(folder, class_name, theirs)
    if "torch_dtype" not in meaning:
        assert {key: getattr(ours.config, key) for key in meaning} == meaning
    ours.save_pretrained(tmp_path / "ours")
    assert check_equal(tmp_path / "ours", class_name, theirs).config == ours.config


@pytest.mark.parametrize("pad", [-1, 0, 5])
@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra", "distilbert"])
def test_the_padding_id_means_the_reference_s_gradients(model_type: str, pad: int, tmp_path: Path) -> None:
    """-1 is the last row to an embedding table, and shifts the positions of a RoBERTa."""
    name = {"bert": "BertModel", "roberta": "RobertaModel", "electra": "ElectraModel", "distilbert": "DistilBertModel"}[
        model_type
    ]
    stored = next(each for each in PUBLISHED.values() if each["model_type"] == model_type)
    theirs = reference(
        tmp_path, name, {**stored, "pad_token_id": pad, "hidden_dropout_prob": 0.0, "architectures": [name]}
    )
    ours = check_equal(
        tmp_path, name, theirs, **({"add_pooling_layer": True} if name in ("BertModel", "RobertaModel") else {})
    )
    ids = torch.tensor([[7, 5, 40, 0, 8]])
    gradients = []
    for model in (ours, theirs):
        model.eval().zero_grad()
        model(input_ids=ids)[0].square().sum().backward()
        gradients.append(model.get_input_embeddings().weight.grad)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-10)


UNREAD = [key for stored in PUBLISHED.values() for key in stored if key in ("adapters", "peft_type", "label_smoothing")]


@pytest.mark.parametrize("key", UNREAD)
def test_strict(key: str, tmp_path: Path) -> None:
    stored = next(each for each in PUBLISHED.values() if key in each)
    (class_name,) = stored["architectures"]
    reference(tmp_path, class_name, stored)
    write(tmp_path, stored)
    for load in (
        getattr(minitrans, class_name).from_pretrained,
        minitrans.AutoModel.from_pretrained,
        minitrans.AutoConfig.from_pretrained,
    ):
        with pytest.raises(CheckpointError, match=rf"expected keys that are read; .*{key}"):
            load(tmp_path, strict_config=True)
        load(tmp_path, strict_config=False)


def test_an_auto_class_tells_it_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    minitrans.BertModel(minitrans.BertConfig.from_dict(BERT)).save_pretrained(tmp_path)
    write(tmp_path, {**BERT, "peft_type": "LORA", "r": 8})
    with caplog.at_level(logging.WARNING, "minitrans"):
        model = minitrans.AutoModel.from_pretrained(tmp_path)
    assert len([record for record in caplog.records if "peft_type, r" in record.getMessage()]) == 1
    assert [line for line in model.load_report.warnings if "peft_type, r" in line] == model.load_report.config
    caplog.clear()
    with caplog.at_level(logging.WARNING, "minitrans"):
        minitrans.AutoConfig.from_pretrained(tmp_path)
    assert len(caplog.records) == 1


REFUSED: list[tuple[str, str, Any, str]] = [
    ("bert", "rope_theta", 10000.0, "leave it out"),
    ("bert", "rope_scaling", {"type": "linear", "factor": 2}, "leave it out"),
    ("bert", "position_embedding_type", "alibi", "must be one of"),
    ("mpnet", "position_embedding_type", "relative_key", "leave it out"),
    ("distilbert", "is_decoder", True, "another family"),
    ("albert", "add_cross_attention", True, "another family"),
    ("bert", "is_encoder_decoder", True, "use minitrans.models.transformer"),
    ("bert", "cross_attention_hidden_size", 48, "project it"),
    ("bert", "feed_forward_type", "geglu", "of another model"),
    ("bert", "per_layer_config", {"0": {}}, "make them alike"),
    ("roberta-prelayernorm", "tie_last_hidden_states", False, "leave it out"),
    ("big_bird", "attention_type", "sparse", "one of block_sparse, original_full"),
    ("big_bird", "use_bias", False, "queries, keys and values have one"),
    ("nystromformer", "inv_coeff_init_option", True, "cannot run another beginning"),
    ("nystromformer", "segment_means_seq_len", 65, "a multiple of num_landmarks=64"),
    ("nystromformer", "conv_kernel_size", 4, "a text keeps its length"),
    ("longformer", "attention_window", [4, 5], "half of it is seen to each side"),
    ("longformer", "attention_window", [4], "or one a layer"),
    ("longformer", "pad_token_id", None, "a number, from which positions are counted"),
    ("deberta-v2", "z_steps", 2, "the reference takes none either"),
    ("deberta-v2", "pos_att_type", "p2p", "both with a | between"),
    ("deberta-v2", "attention_head_size", 4, "no other width of heads"),
    ("deberta-v2", "pooler_hidden_size", 12, "which the pooler reads"),
    ("deberta-v2", "conv_kernel_size", 2, "a text keeps its length"),
    ("bert", "quantization_config", {"bits": 4}, "use the checkpoint they were made from"),
    ("bert", "hidden_size", None, "does not say how large"),
    ("bert", "num_labels", 1.5, "a whole number"),
    ("bert", "id2label", {"a": "0"}, 'from "0" up'),
    ("bert", "label2id", {"a": "zero"}, "a whole number"),
    ("bert", "label2id", 3, 'such as {"yes": 0}'),
    ("bert", "architectures", 3, 'such as ["BertModel"]'),
    ("bert", "pruned_heads", {"0": 1}, 'such as {"0": [1, 2]}'),
    ("bert", "pad_token_id", 41, "in [0, vocab_size=41), or -1 for none"),
    ("roberta", "pad_token_id", None, "a number, from which positions are counted"),
    ("bert", "attention", "evil:Evil", "pass attention= yourself"),
    ("electra", "summary_type", "attn", "one of first, last, mean, cls_index"),
    ("bert", "to_dict", 1, "leave it out"),
    ("bert", "__class__", "x", "leave it out"),
    ("bert", "k" * 101, 1, "leave it out"),
    ("bert", "dtype", "int8", "one of float16"),
    ("bert", "model_type", "longtransformer", "one of bert"),
    ("distilbert", "hidden_size", 48, "leave one of them out"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("family", "key", "value", "what_to_do"), REFUSED, ids=[f"{row[0]} {row[1][:40]}" for row in REFUSED]
)
def test_every_refusal_says_what_to_do(family: str, key: str, value: Any, what_to_do: str, tmp_path: Path) -> None:
    stored = next(each for each in PUBLISHED.values() if each["model_type"] == family)
    write(tmp_path, {**stored, key: value})
    with pytest.raises(CheckpointError) as caught:
        minitrans.AutoConfig.from_pretrained(tmp_path)
    assert what_to_do in str(caught.value)
    assert key[:40] in str(caught.value)


@pytest.mark.parametrize("kind", ["first", "last", "mean", "cls_index"])
def test_what_stands_for_a_text_of_multiple_choice(kind: str, tmp_path: Path) -> None:
    stored = {**PUBLISHED["ELECTRA, discriminator"], "summary_type": kind, "summary_first_dropout": 0.25}
    theirs = reference(tmp_path, "ElectraForMultipleChoice", stored)
    ours = check_equal(write(tmp_path, stored), "ElectraForMultipleChoice", theirs)
    assert ours.first_dropout.p == theirs.sequence_summary.first_dropout.p == 0.25


VALUES: list[Any] = [
    0, 1, -1, 10**12, 10**400, 0.5, float("nan"), float("inf"), True, None, "", "x", "3", "a" * 5000, [], [1], ["a"], [[1]], [None],
    {}, {"0": "a"}, {"1": "b", "0": "c"}, {"a": 0}, {"0": None}, {"0": [0]}, {"0": [1, 2]}, {"9": [0]}, {"name": "rotary"},
    {"layers": ["full"]}, {"-1": "x"}, {"00": "x", "0": "y"}, "\x1b[31m",
]  # fmt: skip


@pytest.mark.parametrize("model_type", bodies())
def test_any_value_at_any_key_is_read_or_refused_in_a_line(model_type: str) -> None:
    """And what is read can be copied, written, read again and assigned to itself."""
    cls = config_class(model_type)
    stored = next(each for each in PUBLISHED.values() if each["model_type"] == model_type)
    fields = {item.name for item in dataclasses.fields(cls)}
    read = 0
    for key in fields | {
        *stored,
        *NOT_KEPT,
        *CHANGES_NUMBERS,
        "torch_dtype",
        "__deepcopy__",
        "_built",
        "own_names",
        "foo",
    }:
        for value in VALUES if key != "model_type" else ():
            try:
                config = interpret_config({**stored, key: value}, Path("config.json"), cls).config
            except CheckpointError as error:
                assert str(error).isprintable()
                assert len(str(error)) < 900
                continue
            read += 1
            again = cls.from_dict(json.loads(pickle.loads(pickle.dumps(config)).copy().to_json_string()))
            assert again == config or "nan" in repr(config)
            again.update(config.to_dict())
    assert read > len(VALUES) * 5


def test_a_contradiction_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {**BERT, "num_labels": 2, "id2label": {"0": "a", "1": "b", "2": "c"}})
    with pytest.raises(
        CheckpointError, match=r"num_labels: expected 3, as many as id2label names \(or leave num_labels out\)"
    ):
        minitrans.AutoConfig.from_pretrained(tmp_path)
    write(tmp_path, {**BERT, "num_labels": 1, "problem_type": "single_label_classification"})
    with pytest.raises(CheckpointError, match=r"'regression' with one label \(or set num_labels=2\)"):
        minitrans.AutoConfig.from_pretrained(tmp_path)


def test_a_distilbert_file_by_bert_s_names(tmp_path: Path) -> None:
    """The three names that the reference takes for a DistilBERT's own."""
    stored = dict(PUBLISHED["DistilBERT"])
    renamed = {"hidden_size": stored.pop("dim"), "num_hidden_layers": stored.pop("n_layers")}
    renamed["num_attention_heads"] = stored.pop("n_heads")
    theirs = reference(tmp_path, "DistilBertForMaskedLM", {**stored, **renamed, "intermediate_size": 99})
    write(tmp_path, {**stored, **renamed, "intermediate_size": 99})
    ours = check_equal(tmp_path, "DistilBertForMaskedLM", theirs)
    assert (ours.config.dim, ours.config.hidden_dim) == (24, 20)
