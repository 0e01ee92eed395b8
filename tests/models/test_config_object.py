"""A configuration as scripts use it: assigned and checked, one for a body and its head, read and written as the reference does."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import minitrans
from minitrans import AutoConfig, BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel
from minitrans.attention.variant import Variant
from minitrans.errors import CheckpointError
from minitrans.families import bodies, families_with
from minitrans.models.auto import config_class, model_class
from tests.tiny import fitted

TINY: dict[str, Any] = {
    "vocab_size": 23, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 8,
    "max_position_embeddings": 17,
}  # fmt: skip
IDS = torch.tensor([[5, 6, 7, 8]])


def tiny(model_type: str = "bert", **fields: Any) -> Any:
    cls = config_class(model_type)
    groups = {"num_key_value_heads": 3} if hasattr(cls, "num_key_value_heads") else {}
    given = fitted(model_type, {**TINY, **groups, **fields})
    return cls(**{cls.own_names.get(name, name): value for name, value in given.items()})


def classifier(model_type: str = "bert", **fields: Any) -> Any:
    return model_class("AutoModelForSequenceClassification", model_type)(tiny(model_type, **fields)).eval()


# What says how a model is used: a value, and one that is refused at once with these words
STEERED: list[tuple[str, Any, Any, str]] = [
    ("use_cache", False, "no", "use_cache must be bool"),
    ("output_attentions", True, 1, "output_attentions must be bool"),
    ("output_hidden_states", True, None, "output_hidden_states must be bool"),
    ("return_dict", False, "x", "return_dict must be bool"),
    ("problem_type", "regression", "guess", "problem_type must be one of"),
    ("id2label", {0: "no", 1: "yes"}, {0: "no"}, "the head has a row a label"),
    ("label2id", {"no": 0, "yes": 1}, None, ""),
    ("num_labels", 2, 3, r"from_pretrained\(\.\.\., num_labels=3, ignore_mismatched_sizes=True\)"),
    ("pad_token_id", 3, 23, "pad_token_id must be in"),
    ("bos_token_id", 99, "x", "bos_token_id must be int"),
    ("eos_token_id", [1, 2], "x", "eos_token_id must be int"),
    ("sep_token_id", 4, None, ""),
    ("name_or_path", "someone/model", 3, "name_or_path must be str"),
    ("architectures", ["BertModel"], [1], "architectures must be names"),
    ("initializer_range", 0.5, -1.0, "initializer_range must be"),
    ("dtype", "float16", "float13", "dtype must be one of"),
    ("my_own_note", [1, {"a": None}], None, ""),
    ("chunk_size_feed_forward", 4, None, ""),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "wrong", "words"), STEERED, ids=[row[0] for row in STEERED])
def test_what_steers_a_model_can_be_assigned_and_is_checked_at_once(
    name: str, value: Any, wrong: Any, words: str
) -> None:
    model = classifier()
    before = model.config.to_dict()
    if words:
        with pytest.raises((ValueError, TypeError), match=words):
            setattr(model.config, name, wrong)
        assert model.config.to_dict() == before
    setattr(model.config, name, value)
    assert getattr(model.config, name) == (torch.float16 if name == "dtype" else value)
    assert getattr(model.bert.config, name) == getattr(model.config, name)
    assert {key for key, old in before.items() if model.config.to_dict()[key] != old} <= {
        name,
        "label2id",
        "_name_or_path",
    }


@pytest.mark.parametrize("model_type", bodies())
def test_what_the_modules_were_built_from_refuses_with_what_to_do(model_type: str) -> None:
    model = classifier(model_type)
    config, before = model.config, model.config.to_dict()
    fields = {item.name for item in dataclasses.fields(config)} - type(config).steering
    assert {"vocab_size", "num_labels", "attention", "tie_word_embeddings"} < fields
    assert ("pad_token_id" in fields) == (
        model_type in ("roberta", "xlm-roberta", "camembert", "roberta-prelayernorm", "longformer")
    )
    for name in fields:
        setattr(config, name, getattr(config, name))  # what it says already
        other = {"attention": "rotary", "pruned_heads": {0: (1,)}}.get(name, 7)
        with pytest.raises(ValueError, match=rf"^{name}: the model was built with .*(call model\.|load again)"):
            setattr(config, name, other)
    for name in ("hidden_size", "num_hidden_layers"):  # by BERT's name too
        with pytest.raises(ValueError, match="load again"):
            setattr(config, name, 48)
    assert config.to_dict() == before


@pytest.mark.parametrize("model_type", bodies())
def test_what_a_trainer_does(model_type: str) -> None:
    """It switches the cache off, sets ids from its tokenizer, and writes the configuration into its log."""
    model = classifier(model_type)
    model.config.use_cache = False
    model.config.pad_token_id = model.config.pad_token_id
    model.config.eos_token_id, model.config.bos_token_id = 3, None
    logged = json.loads(model.config.to_json_string())
    assert (logged["model_type"], logged["eos_token_id"]) == (model_type, 3)
    assert model.config.use_cache is False
    assert model.config.to_dict()["use_cache"] is False
    assert model(IDS).logits.shape == (1, 2)


@pytest.mark.parametrize("model_type", bodies())
def test_outputs_are_as_the_configuration_asks(model_type: str) -> None:
    model = classifier(model_type)
    model.config.update({"return_dict": False, "output_hidden_states": True})
    logits, hidden = model(IDS)
    assert (logits.shape, len(hidden)) == ((1, 2), 3)
    assert torch.equal(model(IDS, return_dict=True).logits, logits)
    assert len(model.base_model(IDS, use_cache=False)) == 2 + (model.base_model.pooler is not None)


def test_keys_that_change_numbers_cannot_be_hung_on_a_configuration() -> None:
    for name in ("rope_theta", "quantization_config", "is_encoder_decoder"):
        with pytest.raises(ValueError, match=f"{name} must be"):
            setattr(tiny(), name, True)
    with pytest.raises(ValueError, match="is_decoder must be False: this family has no decoder"):
        tiny("distilbert").is_decoder = True
    with pytest.raises(ValueError, match="model_type is fixed by the class BertConfig"):
        tiny().model_type = "roberta"
    with pytest.raises(ValueError, match="to_dict is fixed by the class"):
        tiny().to_dict = 1


def test_a_configuration_that_no_model_has_can_be_assigned_whole() -> None:
    config = tiny("distilbert")
    config.hidden_size = 24  # by BERT's name
    config.n_layers = 5
    config.num_labels = 3
    assert (config.dim, config.num_hidden_layers, config.id2label[2]) == (24, 5, "LABEL_2")
    config.id2label = {0: "a", 1: "b"}
    assert (config.num_labels, config.label2id) == (2, {"a": 0, "b": 1})
    with pytest.raises(ValueError, match="dim must be a multiple|hidden_size must be a multiple"):
        config.dim = 25
    assert config.dim == 24
    before = config.to_dict()
    with pytest.raises(ValueError, match="vocab_size must be at least 1"):
        config.update({"dim": 12, "note": 1, "vocab_size": 0})
    assert config.to_dict() == before


def test_a_model_has_its_configuration_and_a_second_model_a_copy() -> None:
    config = tiny()
    first, second = BertModel(config), BertModel(config)
    assert first.config is config
    assert second.config is not config
    assert second.config == config
    config.output_hidden_states = True
    assert first(IDS).hidden_states is not None
    assert second(IDS).hidden_states is None
    larger = config.updated(hidden_size=24)
    larger.hidden_size = 36  # a copy belongs to no model
    assert BertModel(larger).config.hidden_size == 36
    assert config.copy() == config
    assert not copy.deepcopy(config).is_built


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_model_keeps_one_configuration(again: Any) -> None:
    model = again(classifier(num_labels=3))
    assert model.config is model.bert.config
    with pytest.raises(ValueError, match="built with 3"):
        model.config.num_labels = 2
    model.config.use_cache = False
    assert model.bert.config.use_cache is False


def test_labels_are_nothing_to_a_model_without_a_row_for_each() -> None:
    model = BertForMaskedLM(tiny())
    model.config.id2label = {0: "a", 1: "b", 2: "c"}
    assert (model.bert.config.num_labels, model.config.label2id) == (3, {"a": 0, "b": 1, "c": 2})


def test_what_a_body_does_under_its_head_is_one_truth(tmp_path: Path) -> None:
    model = classifier(num_labels=3)
    model.bert.resize_token_embeddings(29)
    model.prune_heads({1: [0]})
    model.bert.set_attention({"name": "sliding_window", "window": 2})
    assert model.config is model.bert.config
    assert (model.config.vocab_size, model.config.pruned_heads) == (29, {1: (0,)})
    model.save_pretrained(tmp_path)
    again = BertForSequenceClassification.from_pretrained(tmp_path)
    assert again.config == model.config
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    assert again.config.name_or_path == str(tmp_path)
    assert again.config.dtype == torch.float32
    assert again.config.architectures == ["BertForSequenceClassification"]


# -- the reference's interface -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", bodies())
def test_both_read_what_the_other_writes(model_type: str, tmp_path: Path) -> None:
    ours = tiny(model_type, num_labels=3, id2label={0: "a", 1: "b", 2: "c"})
    ours.update(
        {"problem_type": "regression", "task_note": [1, 2], "architectures": ["Some"], "torch_dtype": "float16"}
    )
    if model_type == "deberta-v2":  # text and list mean the same, the reference writes a list
        ours.update({"pos_att_type": ["p2c", "c2p"]})
    cls, their_class = type(ours), type(transformers.AutoConfig.for_model(model_type))
    if hasattr(ours, "rope"):  # of these the reference writes what it works out, where the file was silent
        told = their_class.from_dict(json.loads(ours.to_json_string())).to_dict()
        ours.update(
            {
                key: told[key]
                for key in ("head_dim", "rope_parameters", "layer_types", "sliding_window")
                if key in told and key in ours.to_dict()
            }
        )
    theirs = their_class.from_dict(json.loads(ours.to_json_string()))
    shared = {key: value for key, value in theirs.to_dict().items() if key in ours.to_dict()} | {"_name_or_path": ""}
    assert {key: ours.to_dict()[key] for key in shared} == shared
    assert shared.keys() >= {
        "model_type",
        "id2label",
        "problem_type",
        "task_note",
        "architectures",
        "dtype",
        "vocab_size",
    }
    for written in (
        theirs.to_dict(),
        theirs.to_diff_dict(),
        json.loads(theirs.to_json_string()),
        ours.to_dict(),
        ours.to_diff_dict(),
    ):
        again = cls.from_dict(written)
        assert again == ours.updated(extra=again.extra)
        assert again.extra["task_note"] == [1, 2]
        assert (again.architectures, again.dtype) == (["Some"], torch.float16)

    ours.save_pretrained(tmp_path / "folder")
    ours.to_json_file(tmp_path / "one.json")
    for read in (
        cls.from_pretrained(tmp_path / "folder"),
        cls.from_json_file(tmp_path / "one.json"),
        AutoConfig.from_pretrained(tmp_path / "folder"),
        AutoConfig.from_pretrained(tmp_path / "folder" / "config.json"),
        pickle.loads(pickle.dumps(ours)),
        copy.deepcopy(ours),
    ):
        assert read == ours
        assert type(read) is cls
    assert their_class.from_pretrained(tmp_path / "folder").task_note == [1, 2]
    assert cls.from_pretrained(tmp_path / "folder").name_or_path == str(tmp_path / "folder")


@pytest.mark.parametrize("model_type", bodies())
def test_names_that_scripts_read_in_any_family(model_type: str) -> None:
    config = tiny(model_type)
    theirs = transformers.AutoConfig.for_model(model_type)
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings"):
        assert getattr(config, name) == TINY[name] or (model_type, name) == ("fnet", "num_attention_heads")
    for name in (
        "is_encoder_decoder", "return_dict", "use_return_dict", "tie_word_embeddings", "torch_dtype", "dtype", "architectures",
        "name_or_path", "_name_or_path", "problem_type", "num_labels", "output_attentions", "output_hidden_states",
        "chunk_size_feed_forward",
    ):  # fmt: skip
        assert getattr(config, name) == getattr(theirs, name), name
    assert config.get("hidden_size") == 12
    assert config.get("nothing", 3) == 3
    with pytest.raises(AttributeError, match="has no field 'nothing'"):
        _ = config.nothing
    assert config.to_dict()["model_type"] == model_type
    assert model_class("AutoModel", model_type).config_class is type(config)


@pytest.mark.parametrize("model_type", families_with("Model"))
def test_it_is_made_of_all_that_to_dict_gives(model_type: str) -> None:
    cls = config_class(model_type)
    config = cls()
    config.my_own_note = [1]
    assert cls(**config.to_dict()) == config
    with pytest.raises(CheckpointError, match="model_type: expected"):
        cls(**{**config.to_dict(), "model_type": "gpt2" if model_type == "bert" else "bert"})
    if hasattr(transformers, cls.__name__):
        cls(**getattr(transformers, cls.__name__)().to_dict())
    names = inspect.signature(cls).parameters
    assert names.keys() == {item.name for item in dataclasses.fields(cls)}


def test_options_of_auto_config(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path)
    config, unused = AutoConfig.from_pretrained(tmp_path, return_unused_kwargs=True, num_labels=3, foo=False)
    assert (config.num_labels, unused) == (3, {"foo": False})
    scripts = {"num_labels": 2, "finetuning_task": "sst2", "use_cache": False, "is_decoder": False}
    assert AutoConfig.from_pretrained(tmp_path, **scripts).finetuning_task == "sst2"
    assert tiny("distilbert").updated(**scripts).extra == {key: scripts[key] for key in list(scripts)[1:]}
    with pytest.raises(ValueError, match="is_decoder must be False: this family has no decoder"):
        tiny("distilbert").updated(is_decoder=True)
    with pytest.raises(TypeError, match="BertConfig has no field 'foo'; the nearest is '"):
        AutoConfig.from_pretrained(tmp_path, foo=False)
    with pytest.raises(ValueError, match="model_type: expected roberta for this class"):
        minitrans.RobertaConfig.from_pretrained(tmp_path)
    tiny(num_labels=5).save_pretrained(tmp_path / "below")
    assert (
        AutoConfig.from_pretrained(
            pretrained_model_name_or_path=tmp_path, subfolder="below", cache_dir=tmp_path, token=False
        ).num_labels
        == 5
    )
    assert BertConfig.from_pretrained(tmp_path, subfolder="below", force_download=True, revision="main").num_labels == 5
    words = {
        "trust_remote_code": False,
        "attn_implementation": "eager",
        "torch_dtype": "bfloat16",
        "resume_download": True,
    }
    assert AutoConfig.from_pretrained(tmp_path, **words) == tiny()
    assert AutoConfig.from_pretrained(tmp_path, **words).dtype == torch.bfloat16
    assert AutoConfig.from_pretrained(tmp_path, dtype="auto").dtype is None
    with pytest.raises(ValueError, match="load the model as it is, then quantise it"):
        AutoConfig.from_pretrained(tmp_path, quantization_config={"load_in_8bit": True})
    assert AutoConfig.for_model("bert", **TINY) == tiny()


def test_a_variant_of_one_s_own_is_named_in_a_log_and_refused_by_a_file(tmp_path: Path) -> None:
    class Mine(Variant):
        """Of this test alone."""

    config = tiny(attention=Mine)
    assert "Mine" in json.loads(config.to_json_string())["attention"]
    with pytest.raises(ValueError, match="cannot be written into a configuration file"):
        config.save_pretrained(tmp_path / "folder")


def test_from_dict_is_not_a_way_to_run_code() -> None:
    with pytest.raises(ValueError, match=r"attention: expected a name that minitrans knows .*attention= yourself"):
        BertConfig.from_dict({**TINY, "attention": "os:system"})
    hostile = {"auto_map": {"AutoConfig": "evil.Evil"}, "_attn_implementation_internal": "evil/kernel"}
    assert BertConfig.from_dict({**TINY, **hostile}).to_dict().keys().isdisjoint(hostile)
