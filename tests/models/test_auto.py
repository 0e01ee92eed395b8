"""The Auto classes choose what the reference's choose."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

import minitrans
from minitrans.families import FAMILIES, HEADS, auto_name, bodies
from minitrans.models.auto import config_class, model_class

HAS_NONE = {"AutoModelForNextSentencePrediction", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM"}
DECODER_HAS_NONE = {
    "AutoModelForNextSentencePrediction", "AutoModelForMaskedLM", "AutoModelForMultipleChoice",
    "AutoModelForQuestionAnswering", "AutoModelForSeq2SeqLM",
}  # fmt: skip
NOMIC_HAS_NONE = {"AutoModelForQuestionAnswering", "AutoModelForMultipleChoice"}


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("name", [auto_name(head) for head in HEADS])
def test_the_class_is_the_reference_s(name: str, model_type: str):
    config = type(transformers.AutoConfig.for_model(model_type))
    theirs = getattr(transformers, name)._model_mapping.get(config, None)
    theirs = theirs[0] if isinstance(theirs, tuple) else theirs
    if theirs is None and name == "AutoModelForPreTraining":  # more than the reference has
        head = "ForCausalLM" if getattr(config_class(model_type), "is_decoder", False) else "ForMaskedLM"
        head = head if model_type in bodies() else "ForSeq2SeqLM"
        assert model_class(name, model_type).__name__ == FAMILIES[model_type].class_name(head)
        return
    has_none = DECODER_HAS_NONE if getattr(config_class(model_type), "is_decoder", False) else HAS_NONE
    if model_type not in bodies():  # one name for what fills gaps and what writes
        lacking = set(HEADS) - {*FAMILIES[model_type].heads, "ForPreTraining"}
        has_none = {auto_name(head) for head in lacking}
    if theirs is None or (model_type not in bodies() and name in has_none):
        assert name in has_none or (model_type == "nomic_bert" and name in NOMIC_HAS_NONE)
        with pytest.raises(ValueError, match=f"{name}: {model_type!r} has no such head; families that do: "):
            model_class(name, model_type)
    else:
        assert model_class(name, model_type).__name__ == theirs.__name__


@pytest.mark.parametrize("model_type", ["roberta", "distilbert", "mpnet"])
def test_pre_training_loads_the_masked_language_model(model_type: str, tmp_path: Path):
    config_class = getattr(minitrans, f"{FAMILIES[model_type].prefix}Config")
    sizes = {"dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 8} if model_type == "distilbert" else {
        "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
    }  # fmt: skip
    model = minitrans.AutoModelForPreTraining.from_config(config_class(vocab_size=11, **sizes))
    model.save_pretrained(tmp_path)
    again = minitrans.AutoModelForPreTraining.from_pretrained(tmp_path)
    assert type(again).__name__ == f"{FAMILIES[model_type].prefix}ForMaskedLM"
    assert not again.load_report.fresh


def test_a_family_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As the reference's documentation registers one: known to every Auto class, with its parent's weights."""

    class OwnConfig(minitrans.BertConfig):
        model_type = "own-bert"

    class Own(minitrans.BertModel):
        config_class = OwnConfig

    class Unlike(minitrans.BertModel):
        pass

    monkeypatch.setattr("minitrans.models.auto._REGISTERED", {})
    monkeypatch.setitem(FAMILIES, "own-bert", None)  # taken back with the rest
    del FAMILIES["own-bert"]
    register = minitrans.AutoConfig.register
    for wrong, words in ((("bert", OwnConfig), "not 'bert'"), (("bert", minitrans.BertConfig), "is known")):
        with pytest.raises(ValueError, match=words):
            register(*wrong)
    register("own-bert", OwnConfig)
    minitrans.AutoModel.register(OwnConfig, Own)
    for config, model in ((OwnConfig, Own), (OwnConfig, Unlike), (minitrans.BertConfig, minitrans.BertModel)):
        with pytest.raises(ValueError, match="AutoModel has a model|Unlike has BertConfig"):
            minitrans.AutoModel.register(config, model)
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 8}
    model = Own(OwnConfig(vocab_size=9, max_position_embeddings=8, **sizes))
    model.save_pretrained(tmp_path)
    for made in (minitrans.AutoModel.from_pretrained(tmp_path), minitrans.AutoModel.from_config(model.config)):
        assert type(made) is Own
    assert type(minitrans.AutoConfig.from_pretrained(tmp_path)) is OwnConfig
    assert minitrans.AutoModel.from_pretrained(tmp_path).state_dict().keys() == model.state_dict().keys()
    with pytest.raises(ValueError, match="'own-bert' has no such head"):
        minitrans.AutoModelForMaskedLM.from_config(model.config)
