"""config.json: every key means something, is ignored for a reason, or is refused."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from minitrans.attention.variant import Variant
from minitrans.errors import CheckpointError
from minitrans.families import FAMILIES, bodies
from minitrans.models.auto import AutoConfig, config_class
from minitrans.models.bert import BertConfig, BertModel
from minitrans.models.config_fields import CHANGES_NUMBERS, NOT_KEPT, WELL_KNOWN
from minitrans.models.config_file import interpret_config, write_config
from minitrans.models.hostile import model_type_of
from minitrans.models.loading import family_of, load_model
from minitrans.models.roberta import RobertaModel
from tests.tiny import fitted
from tests.weights_convert.conftest import reference

__all__ = ["reference"]

HERE = Path("folder/config.json")
BERT: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": 40,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 33,
    "type_vocab_size": 2,
}
SMALL = {"num_hidden_layers": 1, "vocab_size": 40, "hidden_size": 24, "num_attention_heads": 3}


def interpret(**changes: Any) -> Any:
    return understood({**BERT, **changes})


def understood(stored: dict[str, Any]) -> Any:
    return interpret_config(stored, HERE, config_class(model_type_of(stored, HERE)))


def test_every_family_of_models_has_a_table() -> None:
    assert all(family_of(model_type).prefix for model_type in FAMILIES)


def test_no_key_has_two_meanings() -> None:
    fields = {field for model_type in FAMILIES for field in config_class(model_type).__dataclass_fields__}
    assert fields & set(NOT_KEPT) == {"name_or_path"}  # told by whoever loads
    assert fields & set(WELL_KNOWN) == {
        "use_cache",
        "sep_token_id",
        "decoder_start_token_id",
        "forced_eos_token_id",
    }  # of the families that have no cache, or no such token
    assert fields & set(CHANGES_NUMBERS) == {
        "is_decoder", "is_encoder_decoder", "add_cross_attention", "position_embedding_type", "rope_parameters", "rope_scaling", "rope_theta",
        "rotary_emb_base", "rotary_emb_fraction",
    }  # fmt: skip
    assert not WELL_KNOWN & {*NOT_KEPT, *CHANGES_NUMBERS}


@pytest.mark.parametrize("model_type", bodies())
def test_the_reference_s_own_config_is_understood(model_type: str) -> None:
    theirs = transformers.AutoConfig.for_model(model_type, num_labels=3)
    stored = understood(json.loads(theirs.to_json_string(use_diff=False)))
    ours = stored.config.to_dict()
    shared = {
        key: value for key, value in theirs.to_dict().items() if key in ours and key not in ("id2label", "label2id")
    }
    assert {key: ours[key] for key in shared} == shared
    assert ours["num_labels"] == 3
    assert ours["id2label"] == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}


@pytest.mark.parametrize("model_type", bodies())
def test_whatever_the_reference_s_models_read_is_a_field_or_changes_no_number(model_type: str) -> None:
    theirs = type(
        transformers.AutoModel.from_config(transformers.AutoConfig.for_model(model_type, **fitted(model_type, SMALL)))
    )
    source = inspect.getsource(inspect.getmodule(theirs))
    read = set(re.findall(r"\bconfig\.(\w+)", source)) | set(re.findall(r'config, "(\w+)"', source))
    ours = config_class(model_type)
    known = (
        {item.name for item in dataclasses.fields(ours)}
        | ours.aliases.keys()
        | CHANGES_NUMBERS.keys()
        | ours.changes_numbers.keys()
        | WELL_KNOWN
    )
    # The second decides whether odd widths are an error; the third changes a shape, which the tensors would not have.
    assert read - known <= {"_attn_implementation", "embedding_size", "summary_proj_to_labels"}
    assert len(read & known) > 10


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hidden_size", 0, "hidden_size must be at least 1, got 0"),
        ("hidden_size", -24, "hidden_size must be at least 1"),
        ("hidden_size", "24", "hidden_size must be int, got '24'"),
        ("hidden_size", 24.0, "hidden_size must be int"),
        ("hidden_size", True, "hidden_size must be int, got True"),
        ("hidden_size", None, "hidden_size: expected a value (the file does not say how large the model is)"),
        ("hidden_size", [24], "hidden_size must be int"),
        ("hidden_size", 10**12, "hidden_size: expected at most 1000000"),
        ("num_hidden_layers", 10**9, "num_hidden_layers: expected at most 1000"),
        ("hidden_size", 25, "a multiple of num_attention_heads=3"),
        ("layer_norm_eps", float("nan"), "layer_norm_eps must be in (0, 1], got nan"),
        ("layer_norm_eps", -1e-12, "layer_norm_eps must be"),
        ("hidden_dropout_prob", 1.5, "hidden_dropout_prob must be in [0, 1), got 1.5"),
        ("hidden_act", "gleu", "unknown activation 'gleu'"),
        ("hidden_act", ["gelu"], "hidden_act must be str"),
        ("position_embedding_type", "rotary", "position_embedding_type must be one of"),
        ("pad_token_id", 40, "pad_token_id must be in [0, vocab_size=40)"),
        ("pad_token_id", -2, "pad_token_id must be in [0, vocab_size=40), or -1 for none"),
        ("problem_type", "guess", "problem_type must be one of"),
        ("is_encoder_decoder", True, "is_encoder_decoder: expected False"),
        ("is_encoder_decoder", 0, "is_encoder_decoder: expected False"),
        ("quantization_config", {"bits": 4}, "quantization_config: expected None: quantised weights cannot be read"),
        ("add_cross_attention", True, "add_cross_attention must be False unless is_decoder"),
        ("model_type", "gpt17", "model_type: expected one of bert"),
        ("model_type", "../bert", "model_type: expected one of bert"),
        ("model_type", 7, "model_type: expected one of bert"),
        ("model_type", ["bert"], "model_type: expected one of bert"),
        ("dtype", "float13", "dtype: expected one of float16"),
        ("torch_dtype", 16, "torch_dtype: expected one of float16"),
        ("architectures", {"0": "BertModel"}, "architectures: expected a list of class names"),
        ("id2label", {"a": "x"}, 'id2label: expected a name for each id: an object whose keys are numbers, from "0" up'),
        ("id2label", {"0": ["x"]}, "id2label: expected a name for each id, found [['x']]"),
        ("label2id", {"x": [0]}, "label2id: expected a whole number, found [0]"),
        ("label2id", {"x": 0.5}, "label2id: expected a whole number, found 0.5"),
        ("label2id", 7, "label2id: expected an id for each label"),
        ("num_labels", 1.5, "num_labels: expected a whole number"),
        ("pruned_heads", {"0": 1}, "pruned_heads: expected lists of heads"),
        ("pruned_heads", {"0": [7]}, "pruned_heads must be"),
        ("rotary_\x1b[31m", 1, r"rotary_\x1b[31m: expected a name of at most 100 printable characters"),
        ("to_dict", 1, "to_dict: expected another name: this one is taken by the code"),
        ("attention", {"name": "nothing"}, "nothing"),
    ],
)  # fmt: skip
def test_wrong_values_are_named_with_what_is_accepted(key: str, value: Any, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        interpret(**{key: value})
    assert message in str(caught.value)
    assert str(caught.value).startswith("folder/config.json: ")


@pytest.mark.parametrize("key", [key for key in BERT if key not in ("model_type", "type_vocab_size")])
def test_sizes_have_no_defaults(key: str) -> None:
    with pytest.raises(CheckpointError, match=f"{key}: expected a value .*, found none"):
        understood({name: value for name, value in BERT.items() if name != key})


def test_code_and_kernel_keys_are_ignored_never_followed() -> None:
    hostile = {
        "auto_map": {"AutoModel": "evil.Model"},
        "trust_remote_code": True,
        "_attn_implementation_internal": "evil/kernel",
        "attn_implementation": "evil/kernel",
        "_name_or_path": "/etc/passwd",
    }
    stored = interpret(**hostile)
    assert stored.config == interpret().config
    assert set(stored.ignored) == set(hostile)
    assert "never followed" in stored.ignored["auto_map"]


def test_a_silent_roberta_file_means_what_the_reference_takes_it_for() -> None:
    # R3: our class has the published eps as its default, the reference's class another one.
    stored = understood({**BERT, "model_type": "roberta"})
    assert stored.config.layer_norm_eps == transformers.RobertaConfig().layer_norm_eps == 1e-12


@pytest.mark.parametrize("content", ["", "[]", "null", "{}", "nonsense", "[" * 10**5, '{"a":1,"a":2}', "\xff", '{"vocab_size": 1' + "0" * 10**5 + "}"])  # fmt: skip
def test_a_file_that_is_no_config_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        AutoConfig.from_pretrained(tmp_path)


def write(folder: Path, **changes: Any) -> Path:
    (folder / "config.json").write_text(json.dumps({**BERT, **changes}))
    return folder


def test_overrides_of_fine_tuning_scripts(tmp_path: Path) -> None:
    names = {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}}
    folder = write(tmp_path, **names, num_labels=2)
    assert AutoConfig.from_pretrained(folder).id2label == {0: "no", 1: "yes"}
    assert AutoConfig.from_pretrained(folder, **{"num_labels": 2}).id2label == {0: "no", 1: "yes"}
    three = AutoConfig.from_pretrained(
        folder, **{"num_labels": 3, "hidden_dropout_prob": 0.2, "problem_type": "regression"}
    )
    assert three.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert (three.num_labels, three.hidden_dropout_prob, three.problem_type) == (3, 0.2, "regression")
    named = AutoConfig.from_pretrained(folder, **{"id2label": {0: "a", 1: "b", 2: "c"}})
    assert named.num_labels == 3
    assert named.label2id == {"a": 0, "b": 1, "c": 2}
    with pytest.raises(TypeError, match="num_label'"):
        AutoConfig.from_pretrained(folder, **{"num_label": 3})


def test_the_wrong_family_is_refused_and_an_unnamed_one_is_taken_at_its_class(reference: Callable[..., Any]) -> None:
    source = reference("BertModel")
    with pytest.raises(CheckpointError, match="model_type: expected roberta for this class"):
        load_model(RobertaModel, source.folder)
    del source.config["model_type"]
    assert isinstance(load_model(BertModel, source.write().folder)[0], BertModel)
    with pytest.raises(CheckpointError, match="model_type: expected one of"):
        AutoConfig.from_pretrained(source.folder)


def test_what_is_written_is_read_back_by_both(tmp_path: Path) -> None:
    config = BertConfig(
        **{key: value for key, value in BERT.items() if key != "model_type"},
        id2label={0: "a", 1: "b", 2: "c"},
        num_labels=3,
        attention={"name": "sliding_window", "window": 4},
        position_embedding_type="relative_key",
        pruned_heads={1: (0, 2)},
        problem_type="multi_label_classification",
        classifier_dropout=0.25,
    )
    write_config(config, tmp_path, ["BertForSequenceClassification"], torch.bfloat16)
    assert AutoConfig.from_pretrained(tmp_path) == config
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert theirs.architectures == ["BertForSequenceClassification"]
    assert theirs.dtype == torch.bfloat16
    assert theirs.id2label == {0: "a", 1: "b", 2: "c"}
    assert theirs.classifier_dropout == 0.25


def test_full_attention_is_not_mentioned(tmp_path: Path) -> None:
    write_config(BertConfig(), tmp_path, ["BertModel"])
    stored = json.loads((tmp_path / "config.json").read_text())
    assert "attention" not in stored
    assert "id2label" not in stored
    assert stored["model_type"] == "bert"


def test_an_attention_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    class Mine(Variant):
        """Of this test alone."""

    with pytest.raises(
        ValueError, match=r"Mine'> cannot be written into a configuration file: save with a named variant"
    ):
        write_config(BertConfig(attention=Mine), tmp_path, ["BertModel"])
    assert not list(tmp_path.iterdir())


def test_a_file_cannot_name_code_to_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "run"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for spec in ("evil:Evil", {"name": "evil:Evil"}, ["rotary", {"name": "evil:Evil"}], {"layers": {"0": "evil:Evil"}}):
        with pytest.raises(
            CheckpointError, match=r"attention: expected a name that minitrans knows .*attention= yourself"
        ):
            interpret(attention=spec)
    assert not marker.exists()
